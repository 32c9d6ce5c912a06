//! What a failed execution says, and a smaller input that fails as well.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

/// How often a smaller input is tried.
const TRIES: usize = 2_000;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs a target; the text of its panic if it fails.
pub(crate) fn outcome(target: &dyn Fn(&[u8]) -> bool, input: &[u8]) -> Result<bool, String> {
    catch_unwind(AssertUnwindSafe(|| target(input))).map_err(|panic| text(&*panic))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let made = || panic.downcast_ref::<String>().cloned();
    literal
        .or_else(made)
        .unwrap_or_else(|| "a panic".to_owned())
}

/// Leaves out as much of a failing input as can be left out, at halves, quarters and so on.
pub(crate) fn smaller(target: &dyn Fn(&[u8]) -> bool, input: &[u8]) -> Vec<u8> {
    quietly();
    QUIET.set(true);
    let mut smallest = input.to_vec();
    let mut tries = 0;
    let mut part = input.len().div_ceil(2);
    while part > 0 && tries < TRIES {
        let mut at = 0;
        let before = smallest.len();
        while at < smallest.len() && tries < TRIES {
            let mut shorter = smallest.clone();
            shorter.drain(at..(at + part).min(smallest.len()));
            tries += 1;
            if outcome(target, &shorter).is_err() {
                smallest = shorter;
            } else {
                at += part;
            }
        }
        if smallest.len() == before || part > 1 {
            part /= 2;
        }
    }
    QUIET.set(false);
    smallest
}

/// Panics while an input is made smaller are not printed; all others are.
fn quietly() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                loud(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_input_becomes_as_small_as_it_can() {
        let target = |input: &[u8]| {
            assert!(!input.windows(2).any(|pair| pair == [7, 8]));
            true
        };
        let input = [vec![1; 300], vec![7, 8], vec![2; 300]].concat();
        assert_eq!(smaller(&target, &input), [7, 8]);
    }
}
