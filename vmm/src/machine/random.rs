//! Keys of sessions.

use std::io;

use cairn_abi::SessionKey;

use crate::host::random::Source;

/// A source of keys.
///
/// # Errors
/// The host has no random bytes.
pub(super) fn keys() -> io::Result<Box<dyn FnMut() -> SessionKey + Send>> {
    let mut source = Source::open()?;
    // No key is better than one that can be guessed.
    Ok(Box::new(move || SessionKey(source.bits().expect("random bytes for a session key"))))
}
