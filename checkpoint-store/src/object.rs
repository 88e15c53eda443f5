//! Objects: what a checkpoint is made of.

use std::fmt;

use thiserror::Error;

/// Bytes that a name may have.
pub(crate) const MAX_NAME_LEN: usize = 255;
/// Pages that an object may have: 4 PiB, so that byte counts of any object fit 64 bits with room to add.
pub const MAX_OBJECT_PAGES: u64 = 1 << 40;

/// An object's name: 1 to 255 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectName(Box<str>);

/// Why a name is not an object's name.
#[derive(Clone, Copy, PartialEq, Eq, Error, Debug)]
pub enum NameError {
    /// No bytes, or more than 255; holds how many.
    #[error("a name has 1 to 255 bytes, not {0}")]
    Length(usize),
    /// A control character in it.
    #[error("a name has no control characters")]
    Control,
    /// Not UTF-8.
    #[error("a name is UTF-8")]
    NotText,
}

impl ObjectName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`NameError`], by the rule of the type.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() || MAX_NAME_LEN < name.len() {
            return Err(NameError::Length(name.len()));
        }
        if name.chars().any(char::is_control) {
            return Err(NameError::Control);
        }
        Ok(Self(name.into()))
    }

    pub(crate) fn from_bytes(name: &[u8]) -> Result<Self, NameError> {
        Self::new(std::str::from_utf8(name).map_err(|_| NameError::NotText)?)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ObjectName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An array of pages with a name: a region, a program's memory, a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// What ties it to the object of the same name in the parent.
    pub name: ObjectName,
    /// The application's type; the store only keeps it.
    pub tag: u64,
    /// Where it was in memory, in bytes; the store only keeps it.
    pub address: u64,
    /// Pages, up to [`MAX_OBJECT_PAGES`].
    pub pages: u64,
}

/// Names an object within one batch or one snapshot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectIndex(pub(crate) u32);

impl ObjectIndex {
    /// The place of the object in [`crate::Snapshot::objects`].
    #[must_use]
    pub fn place(self) -> usize {
        self.0 as usize
    }
}
