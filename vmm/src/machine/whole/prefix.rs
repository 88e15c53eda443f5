//! What a file has at its beginning, by its checksum: whether somebody else has written there is seen before a program
//! goes on in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// The first bytes of a file. The checksum is for accidents, not for attackers: whoever can write the file can write
/// anything behind them, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Prefix {
    /// How many they are.
    pub(super) length: u64,
    /// Their CRC-32 (IEEE); None when they aren't there any more.
    sum: Option<u32>,
}

impl Default for Prefix {
    fn default() -> Self {
        Self { length: 0, sum: Some(0) }
    }
}

impl Prefix {
    /// So many bytes that aren't there any more: no file has them.
    pub(super) fn lost(length: u64) -> Self {
        Self { length, sum: None }
    }

    /// The first `length` bytes of `file`, which begins with this prefix.
    ///
    /// # Errors
    /// The file is shorter, or can't be read.
    pub(super) fn extended(mut self, file: &File, length: u64) -> io::Result<Self> {
        if self.sum.is_none() {
            return Ok(Self::lost(length));
        }
        let mut buffer = [0; PIECE];
        while self.length < length {
            let most = usize::try_from(length - self.length).unwrap_or(PIECE).min(PIECE);
            file.read_exact_at(&mut buffer[..most], self.length)?;
            self = self.followed_by(&buffer[..most]);
        }
        Ok(self)
    }

    /// This prefix and `bytes` behind it.
    pub(super) fn followed_by(self, bytes: &[u8]) -> Self {
        let sum = self.sum.map(|sum| {
            let mut hasher = crc32fast::Hasher::new_with_initial(sum);
            hasher.update(bytes);
            hasher.finalize()
        });
        Self { length: self.length + bytes.len() as u64, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_the_same_however_it_was_read() {
        let bytes: Vec<u8> = (0..251).cycle().take(3 * PIECE + 17).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let whole = Prefix::default().followed_by(&bytes);
        assert_eq!((whole.length, whole.sum), (bytes.len() as u64, Some(crc32fast::hash(&bytes))));
        for first in [0, 1, PIECE, PIECE + 1, bytes.len()] {
            let read = Prefix::default().extended(&file, first as u64).unwrap();
            assert_eq!(read.extended(&file, whole.length).unwrap(), whole, "{first}");
            assert_eq!(read.followed_by(&bytes[first..]), whole, "{first}");
        }
        assert!(Prefix::default().extended(&file, whole.length + 1).is_err());
        let lost = Prefix::lost(5).extended(&file, whole.length).unwrap();
        assert!(lost == Prefix::lost(whole.length) && lost != whole);
        file.write_all_at(b"x", PIECE as u64).unwrap();
        assert_ne!(Prefix::default().extended(&file, whole.length).unwrap(), whole);
    }
}
