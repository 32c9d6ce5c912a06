//! Changes of ABI encodings, word by word: offsets that lead elsewhere, lengths that lie, dirty padding.

use crate::Chance;

const WORD: usize = 32;

pub(crate) fn mutate(input: &mut Vec<u8>, prefix: usize, chance: &mut Chance) {
    let words = input.len().saturating_sub(prefix) / WORD;
    if words == 0 {
        input.resize(input.len() + WORD, 0);
        return;
    }
    let place = |index: usize| prefix + index * WORD..prefix + (index + 1) * WORD;
    let (one, two) = (chance.below(words), chance.below(words));
    let copy = input[place(two)].to_vec();
    match chance.below(8) {
        0..=2 => {
            let word = number(&input[place(one)], words, chance);
            input[place(one)].copy_from_slice(&word);
        }
        3 => {
            let at = place(one).start;
            input.splice(at..at, copy);
        }
        4 => drop(input.drain(place(one))),
        5 => {
            let moved = input[place(one)].to_vec();
            input[place(one)].copy_from_slice(&copy);
            input[place(two)].copy_from_slice(&moved);
        }
        6 => input[place(one)].copy_from_slice(&copy),
        _ => input[place(one).start + chance.below(WORD)] ^= 1 << chance.below(8),
    }
}

/// A number that is the end of some range, or close to the one that was there.
fn number(old: &[u8], words: usize, chance: &mut Chance) -> [u8; WORD] {
    let mut word = [0; WORD];
    match chance.below(6) {
        0 => word[WORD - 1] = *chance.pick(&[0, 1, 2, 27, 28, 65]),
        1 => {
            // Somewhere in the encoding, mostly where a word starts.
            let target = chance.below(words + 2) * WORD + usize::from(chance.one_in(8));
            let low = u64::try_from(target).unwrap_or_default().to_be_bytes();
            word[WORD - 8..].copy_from_slice(&low);
        }
        2 => word = [0xff; WORD],
        3 => word[chance.below(WORD)] = 1 << chance.below(8),
        4 => {
            let short = chance.below(12) + 20;
            word[WORD - short..].fill(0xff);
        }
        _ => {
            word.copy_from_slice(old);
            let step = *chance.pick(&[1_i16, -1, 32, -32]);
            let low = i16::from_be_bytes([old[WORD - 2], old[WORD - 1]]).wrapping_add(step);
            word[WORD - 2..].copy_from_slice(&low.to_be_bytes());
        }
    }
    word
}
