//! The span of guest-physical memory in which the functions of a guest get their BARs.

use std::ops::Range;

/// Hands out addresses for BARs, from the bottom up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BarWindow {
    free: Range<u32>,
}

/// The window is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no room for {len:#x} more bytes of PCI registers below {end:#x}: use fewer devices")]
pub struct WindowFull {
    /// Bytes that were wanted.
    pub len: u32,
    /// The end of the window.
    pub end: u32,
}

impl BarWindow {
    /// The window `range`, which must be the one that the guest's firmware tables announce.
    #[must_use]
    pub fn new(range: Range<u32>) -> Self {
        Self { free: range }
    }

    /// An address for a BAR of `len` bytes, a power of two: a multiple of it.
    ///
    /// # Errors
    /// [`WindowFull`].
    pub fn take(&mut self, len: u32) -> Result<u32, WindowFull> {
        let full = WindowFull { len, end: self.free.end };
        let start = self.free.start.checked_next_multiple_of(len).ok_or(full)?;
        let end = start.checked_add(len).filter(|end| *end <= self.free.end).ok_or(full)?;
        self.free.start = end;
        Ok(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_aligned_apart_and_inside() {
        let mut window = BarWindow::new(0xe000_1000..0xe001_0000);
        assert_eq!(window.take(0x1000), Ok(0xe000_1000));
        assert_eq!(window.take(0x4000), Ok(0xe000_4000));
        assert_eq!(window.take(0x8000), Ok(0xe000_8000));
        assert_eq!(window.take(0x10), Err(WindowFull { len: 0x10, end: 0xe001_0000 }));
        assert!(BarWindow::new(0xffff_f000..u32::MAX).take(0x4000).is_err());
        assert!(BarWindow::new(0..u32::MAX).take(0).is_err());
    }
}
