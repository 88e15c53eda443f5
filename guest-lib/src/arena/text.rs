//! A string in an arena.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use super::{Full, Heap, Vector};

/// UTF-8 text in an arena's memory, like std's `String`, with all methods of `str`.
///
/// What needs memory returns [`Full`] when the arena has none, and changes nothing then.
#[repr(transparent)]
pub struct Text<'r> {
    bytes: Vector<'r, u8>,
}

impl<'r> Text<'r> {
    pub(super) fn new(heap: Heap<'r>) -> Self {
        Self { bytes: Vector::new(heap) }
    }

    /// The arena's allocator, for making more to put into it.
    pub fn heap(&mut self) -> Heap<'r> {
        self.bytes.heap()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Checked each time, which is quick, so that nothing unsafe depends on this file.
        match str::from_utf8(&self.bytes) {
            Ok(text) => text,
            Err(_) => unreachable!("only text is added, and removed at the bounds of characters"),
        }
    }

    /// Adds text at the end.
    ///
    /// # Errors
    /// [`Full`].
    pub fn push_str(&mut self, text: &str) -> Result<(), Full> {
        self.bytes.extend_from_slice(text.as_bytes())
    }

    /// Adds a character at the end.
    ///
    /// # Errors
    /// [`Full`].
    pub fn push(&mut self, character: char) -> Result<(), Full> {
        self.push_str(character.encode_utf8(&mut [0; 4]))
    }

    /// Removes all text from byte `len` on; nothing if there is less.
    ///
    /// # Panics
    /// If a character lies across that place.
    #[track_caller]
    pub fn truncate(&mut self, len: usize) {
        assert!(self.len() <= len || self.is_char_boundary(len), "byte {len} is inside a character");
        self.bytes.truncate(len);
    }

    /// Removes all text. The memory stays with it.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        self
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Text<'_> {}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        *self.bytes == *other.as_bytes()
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text<'_> {
    /// By bytes, which is the order of `str`.
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl Hash for Text<'_> {
    /// As `str` does it, so that a map of texts can be asked for a `str`.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}
