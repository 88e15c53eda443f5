//! Names of things on the wire, each a type of its own.

use core::fmt;

use crate::PAGE_SIZE;

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

impl Span {
    /// Whether it starts and ends on a page boundary, holds at least one page and doesn't wrap.
    #[must_use]
    pub const fn is_whole_pages(&self) -> bool {
        self.address.is_multiple_of(PAGE_SIZE)
            && self.len.is_multiple_of(PAGE_SIZE)
            && self.len != 0
            && self.address.checked_add(self.len).is_some()
    }

    /// Whether every byte of `inner` is a byte of this span. An empty `inner` is in no span.
    #[must_use]
    pub const fn contains(&self, inner: &Self) -> bool {
        let (Some(end), Some(inner_end)) =
            (self.address.checked_add(self.len), inner.address.checked_add(inner.len))
        else {
            return false;
        };
        inner.len != 0 && inner.address >= self.address && inner_end <= end
    }
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

    /// The name as it's sent: how many bytes count, and all of them, zero-padded.
    pub(crate) const fn as_wire(&self) -> (u8, &[u8; MAX_NAME_LEN]) {
        (self.len, &self.bytes)
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
            Self::TooLong(len) => {
                write!(f, "a region's name has {len} bytes, at most {MAX_NAME_LEN} are allowed")
            }
            Self::NotText => f.write_str("a region's name is not UTF-8 text without control characters"),
        }
    }
}

impl core::error::Error for NameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_63_bytes_of_text() {
        assert_eq!(RegionName::new(b""), Err(NameError::Empty));
        assert_eq!(RegionName::new(&[b'a'; 64]), Err(NameError::TooLong(64)));
        assert_eq!(RegionName::new(&[0xff]), Err(NameError::NotText));
        assert_eq!(RegionName::new(b"two\nlines"), Err(NameError::NotText));
        for len in 1..=MAX_NAME_LEN {
            assert!(
                RegionName::new(&[b'a'; MAX_NAME_LEN][..len]).is_ok_and(|name| name.as_str().len() == len)
            );
        }
    }

    #[test]
    fn whole_pages_are_aligned_not_empty_and_do_not_wrap() {
        let span = |address, len| Span { address, len }.is_whole_pages();
        assert!(span(0x1000, 0x1000));
        assert!(span(0, 0x20_0000));
        assert!(!span(0x1001, 0x1000));
        assert!(!span(0x1000, 0xfff));
        assert!(!span(0x1000, 0));
        assert!(!span(u64::MAX - 0xfff, 0x1000));
        assert!(span(u64::MAX - 0x1fff, 0x1000));
    }

    #[test]
    fn a_span_holds_its_parts_and_nothing_else() {
        let outer = Span { address: 0x2000, len: 0x2000 };
        let holds = |address, len| outer.contains(&Span { address, len });
        assert!(holds(0x2000, 0x2000));
        assert!(holds(0x3fff, 1));
        assert!(!holds(0x2000, 0));
        assert!(!holds(0x1fff, 2));
        assert!(!holds(0x3fff, 2));
        assert!(!holds(0x2000, u64::MAX));
        assert!(!holds(u64::MAX, 1));
    }
}
