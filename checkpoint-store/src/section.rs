//! Sections: small values that serde knows, as bytes and back.
//!
//! The only file that names bincode, so that it can be replaced. Integers are of fixed size and little-endian.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Bytes that a section may have, and so what a damaged one can make a reader allocate for its raw form.
pub const MAX_SECTION_BYTES: usize = 64 << 20;

/// Why bytes are no section, or a value can't be one.
#[derive(Error, Debug)]
pub enum SectionError {
    /// More bytes than the caller allows.
    #[error("a section of {len} bytes, but at most {limit} are allowed")]
    TooLarge {
        /// Bytes.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The bytes are no value of the wanted type.
    #[error("not a section of this kind: {0}")]
    Decode(String),
    /// Bytes are left over behind the value.
    #[error("{0} bytes are left over behind the section's value")]
    LeftOver(usize),
    /// The value has no form in bytes.
    #[error("the value can't be written as a section: {0}")]
    Encode(String),
}

/// `value` as the bytes of a section.
///
/// # Errors
/// A value that serde can't write (a sequence without a length), or more than [`MAX_SECTION_BYTES`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, SectionError> {
    let bytes = bincode::serde::encode_to_vec(value, bincode::config::legacy())
        .map_err(|error| SectionError::Encode(error.to_string()))?;
    if MAX_SECTION_BYTES < bytes.len() {
        return Err(SectionError::TooLarge { len: bytes.len(), limit: MAX_SECTION_BYTES });
    }
    Ok(bytes)
}

/// The value that `bytes` are, if they are at most `limit` and no byte is left over. What it allocates for
/// collections is bounded too, by [`MAX_SECTION_BYTES`].
///
/// # Errors
/// [`SectionError`], but never a panic: the bytes may be anybody's.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, SectionError> {
    if limit.min(MAX_SECTION_BYTES) < bytes.len() {
        return Err(SectionError::TooLarge { len: bytes.len(), limit: limit.min(MAX_SECTION_BYTES) });
    }
    let config = bincode::config::legacy().with_limit::<MAX_SECTION_BYTES>();
    let (value, used) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|error| SectionError::Decode(error.to_string()))?;
    if used != bytes.len() {
        return Err(SectionError::LeftOver(bytes.len() - used));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_nothing_else_does() {
        let value = (7_u64, "name".to_owned(), vec![Some(1_u16), None]);
        let bytes = encode(&value).unwrap();
        assert_eq!(decode::<(u64, String, Vec<Option<u16>>)>(&bytes, 1 << 20).unwrap(), value);
        assert!(matches!(decode::<(u64, String)>(&bytes, 1 << 20), Err(SectionError::LeftOver(_))));
        assert!(matches!(decode::<u64>(&bytes, 4), Err(SectionError::TooLarge { .. })));
        assert!(matches!(decode::<u64>(&bytes[..4], 64), Err(SectionError::Decode(_))));
        // A vector that claims 2^60 elements.
        assert!(decode::<Vec<u64>>(&(1_u64 << 60).to_le_bytes(), 64).is_err());
    }
}
