//! Inputs in files. Text is kept as it is (`.json`, `.txt`); bytes are kept as hex digits, with blanks as one likes
//! (`.hex`).

use std::fs;
use std::path::{Path, PathBuf};

/// The inputs to start from: valid ones, and whatever has failed before.
pub(crate) fn committed(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let inputs = all_in(&folder);
    assert!(
        !inputs.is_empty(),
        "there is nothing in {}",
        folder.display()
    );
    inputs
}

/// The inputs that earlier runs found to reach something new.
pub(crate) fn found(target: &str) -> Vec<Vec<u8>> {
    all_in(&workspace_target().join("corpus").join(target))
}

/// Keeps an input for the runs to come. That it cannot be kept is no reason to end this one.
pub(crate) fn keep(folder: &str, target: &str, input: &[u8]) -> PathBuf {
    let folder = workspace_target().join(folder).join(target);
    let is_text = std::str::from_utf8(input).is_ok();
    let extension = if is_text { "txt" } else { "hex" };
    let path = folder.join(format!("{:016x}.{extension}", name(input)));
    let text = if is_text {
        input.to_vec()
    } else {
        hex(input).into_bytes()
    };
    let _ = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, text));
    path
}

/// One file, by its extension.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if path.extension().is_some_and(|extension| extension == "hex") {
        unhex(&bytes).unwrap_or_else(|| panic!("{} is not hex", path.display()))
    } else {
        bytes
    }
}

/// In the order of their names, so that a seed means the same everywhere.
fn all_in(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// The same place for every build, so that what one finds another starts from.
fn workspace_target() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.unwrap_or(Path::new(".")).join("target/fuzz")
}

/// FNV-1a.
fn name(input: &[u8]) -> u64 {
    input.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.iter().filter(|byte| !byte.is_ascii_whitespace());
    let digits: Option<Vec<u32>> = digits
        .map(|digit| char::from(*digit).to_digit(16))
        .collect();
    let pairs = digits?;
    let byte = |pair: &[u32]| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    };
    pairs.chunks(2).map(byte).collect()
}
