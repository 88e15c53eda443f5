//! Numbers on the command line, and what to write instead of what is none.

use std::num::NonZeroUsize;

/// Reads how many of something: one at least.
pub(crate) fn from_one(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "write a number from 1".to_owned())
}

/// Reads a checkpoint's id.
pub(crate) fn checkpoint(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "write a checkpoint's number, as `cairn store ls` tells".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_told_what_to_write() {
        assert_eq!(from_one("3").map(NonZeroUsize::get), Ok(3));
        for text in ["0", "-1", "", "all", "99999999999999999999"] {
            assert_eq!(from_one(text).unwrap_err(), "write a number from 1", "{text}");
        }
        assert_eq!(checkpoint("0"), Ok(0));
        assert!(checkpoint("newest").unwrap_err().starts_with("write a checkpoint's number"));
    }
}
