//! Changes of bytes without regard to their form.

use crate::Chance;

/// Bytes that ends of ranges are made of.
const EDGES: [u8; 8] = [0, 1, 0x1f, 0x20, 0x7f, 0x80, 0xfe, 0xff];
/// The longest run that is put in.
const LONGEST_RUN: usize = 64;

pub(crate) fn mutate(input: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let at = chance.below(input.len());
    match chance.below(9) {
        0..=2 if !input.is_empty() => match chance.below(4) {
            0 => input[at] ^= 1 << chance.below(8),
            1 => input[at] = *chance.pick(&EDGES),
            2 => input[at] = input[at].wrapping_add(1),
            _ => input[at] = chance.byte(),
        },
        3 => input.insert(at, chance.byte()),
        4 if !input.is_empty() => drop(input.remove(at)),
        5 => drop(input.drain(chance.part(input.len()))),
        6 => {
            let run = vec![*chance.pick(&EDGES); chance.below(LONGEST_RUN)];
            input.splice(at..at, run);
        }
        7 => {
            let part = input[chance.part(input.len())].to_vec();
            let at = chance.below(input.len() + 1);
            input.splice(at..at, part);
        }
        _ => {
            let part = other[chance.part(other.len())].to_vec();
            let place = chance.part(input.len());
            input.splice(place, part);
        }
    }
}
