//! Random bytes from the host's kernel: a program's start, keys of sessions.

use std::fs::File;
use std::io::{self, Read};

use cairn_abi::SessionKey;

const SOURCE: &str = "/dev/urandom";

/// 128 random bits.
///
/// # Errors
/// The host has none.
pub(super) fn bits() -> io::Result<[u8; 16]> {
    read(&mut File::open(SOURCE)?)
}

/// A source of keys. It's opened once: a key can't fail for want of descriptors.
///
/// # Errors
/// The host has no random bytes.
pub(super) fn keys() -> io::Result<Box<dyn FnMut() -> SessionKey + Send>> {
    let mut file = File::open(SOURCE)?;
    // It never ends and never fails once it's open; no key is better than one that can be guessed.
    Ok(Box::new(move || SessionKey(read(&mut file).expect("random bytes for a session key"))))
}

fn read(source: &mut File) -> io::Result<[u8; 16]> {
    let mut bits = [0; 16];
    source.read_exact(&mut bits)?;
    Ok(bits)
}
