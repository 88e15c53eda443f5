//! Names of things on the wire, each a type of its own.

use core::fmt;

/// Names a checkpoint within its session. Never reused; 0 is not an id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CheckpointId(pub u64);

/// Names a region within its session. Never reused; 0 is not an id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RegionId(pub u32);

/// The 128-bit random key that every request of a session but HELLO carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionKey(pub [u8; 16]);

/// Bytes that a region's name may have, UTF-8.
pub const MAX_NAME_LEN: usize = 63;

/// A region's name: 1 to [`MAX_NAME_LEN`] bytes of UTF-8 without control characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegionName {
    len: u8,
    bytes: [u8; MAX_NAME_LEN],
}

/// A span of the program's virtual memory: a claim until somebody checked it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first byte's virtual address in the program that asks.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// Why a name is not a region's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameError {
    /// No bytes at all.
    Empty,
    /// More than [`MAX_NAME_LEN`] bytes; holds how many.
    TooLong(usize),
    /// Not UTF-8, or with a control character.
    NotText,
}

impl RegionName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`NameError`], by the rule of the type.
    pub fn new(name: &[u8]) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_NAME_LEN {
            return Err(NameError::TooLong(name.len()));
        }
        let text = core::str::from_utf8(name).map_err(|_| NameError::NotText)?;
        if text.chars().any(char::is_control) {
            return Err(NameError::NotText);
        }
        let mut bytes = [0; MAX_NAME_LEN];
        bytes[..name.len()].copy_from_slice(name);
        #[expect(clippy::cast_possible_truncation, reason = "MAX_NAME_LEN fits a byte")]
        Ok(Self { len: name.len() as u8, bytes })
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Debug for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A key is a secret: it doesn't print.
impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a region's name is empty"),
            Self::TooLong(len) => write!(f, "a region's name has {len} bytes, at most {MAX_NAME_LEN} are allowed"),
            Self::NotText => f.write_str("a region's name is not UTF-8 text without control characters"),
        }
    }
}

impl core::error::Error for NameError {}
