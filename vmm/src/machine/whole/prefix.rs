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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Prefix {
    /// How many they are.
    pub(super) length: u64,
    /// Their CRC-32 (IEEE).
    sum: u32,
}

impl Prefix {
    /// The first `length` bytes of `file`, which begins with this prefix.
    ///
    /// # Errors
    /// The file is shorter, or can't be read.
    pub(super) fn extended(mut self, file: &File, length: u64) -> io::Result<Self> {
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
        let mut hasher = crc32fast::Hasher::new_with_initial(self.sum);
        hasher.update(bytes);
        Self { length: self.length + bytes.len() as u64, sum: hasher.finalize() }
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
        assert_eq!((whole.length, whole.sum), (bytes.len() as u64, crc32fast::hash(&bytes)));
        for first in [0, 1, PIECE, PIECE + 1, bytes.len()] {
            let read = Prefix::default().extended(&file, first as u64).unwrap();
            assert_eq!(read.extended(&file, whole.length).unwrap(), whole, "{first}");
            assert_eq!(read.followed_by(&bytes[first..]), whole, "{first}");
        }
        assert!(Prefix::default().extended(&file, whole.length + 1).is_err());
        file.write_all_at(b"x", PIECE as u64).unwrap();
        assert_ne!(Prefix::default().extended(&file, whole.length).unwrap(), whole);
    }
}
