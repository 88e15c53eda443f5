//! What a guest's request to a disk means: the header is a claim until it's checked here (virtio 1.2, 5.2.6).

use std::ops::Range;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

use super::image::SECTOR;

/// Bytes of a request's header: type, reserved, first sector.
pub const HEADER_LEN: usize = 16;
/// Bytes of the disk's name, as GET_ID gives it.
pub const ID_LEN: usize = 20;
/// Bytes that one request may move. Bounds how long a reset waits for it.
pub const MAX_REQUEST: u64 = 16 << 20;

/// What a request asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// To read these bytes of the disk.
    Read(Range<u64>),
    /// To write these bytes of the disk.
    Write(Range<u64>),
    /// To make what was written durable.
    Flush,
    /// The disk's name.
    Id,
}

/// How a request ended, as the guest sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    /// Well.
    Ok = 0,
    /// It failed, or was nonsense.
    Error = 1,
    /// The device doesn't do that.
    Unsupported = 2,
}

const _: () = {
    assert!(Status::Ok as u32 == VIRTIO_BLK_S_OK);
    assert!(Status::Error as u32 == VIRTIO_BLK_S_IOERR);
    assert!(Status::Unsupported as u32 == VIRTIO_BLK_S_UNSUPP);
};

/// The disk that requests are checked against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disk {
    /// Its size.
    pub sectors: u64,
    /// It can't be written.
    pub read_only: bool,
}

/// What is wrong with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// A kind of request that isn't offered.
    #[error("requests of type {0} are not offered")]
    Unsupported(u32),
    /// Not whole sectors.
    #[error("{0} bytes are not whole sectors")]
    Fraction(u64),
    /// More than a request may move.
    #[error("{0} bytes are more than the {MAX_REQUEST} that a request may move")]
    TooLong(u64),
    /// Not on the disk.
    #[error("{len} bytes from sector {sector} on are beyond the end of the disk")]
    BeyondEnd {
        /// The first sector.
        sector: u64,
        /// Bytes.
        len: u64,
    },
    /// The disk's name is longer.
    #[error("{0} bytes have no room for the {ID_LEN} of the disk's name")]
    NoRoom(u64),
    /// A disk that can't be written should be.
    #[error("the disk is read-only")]
    ReadOnly,
}

impl RequestError {
    /// What the guest is told.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Unsupported(_) => Status::Unsupported,
            _ => Status::Error,
        }
    }
}

impl Disk {
    /// The meaning of a request with `header`, `data_in` bytes of room for data and `data_out` bytes of data.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn decode(
        &self,
        header: &[u8; HEADER_LEN],
        data_in: u64,
        data_out: u64,
    ) -> Result<Request, RequestError> {
        let [a, b, c, d, _, _, _, _, sector @ ..] = *header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([a, b, c, d]) {
            VIRTIO_BLK_T_IN => Ok(Request::Read(self.range(sector, data_in)?)),
            VIRTIO_BLK_T_OUT if self.read_only => Err(RequestError::ReadOnly),
            VIRTIO_BLK_T_OUT => Ok(Request::Write(self.range(sector, data_out)?)),
            VIRTIO_BLK_T_FLUSH => Ok(Request::Flush),
            VIRTIO_BLK_T_GET_ID if data_in < ID_LEN as u64 => Err(RequestError::NoRoom(data_in)),
            VIRTIO_BLK_T_GET_ID => Ok(Request::Id),
            other => Err(RequestError::Unsupported(other)),
        }
    }

    fn range(&self, sector: u64, len: u64) -> Result<Range<u64>, RequestError> {
        if !len.is_multiple_of(SECTOR) {
            return Err(RequestError::Fraction(len));
        }
        if len > MAX_REQUEST {
            return Err(RequestError::TooLong(len));
        }
        let beyond = RequestError::BeyondEnd { sector, len };
        let end = sector.checked_add(len / SECTOR).filter(|end| *end <= self.sectors).ok_or(beyond)?;
        let byte = |sector: u64| sector.checked_mul(SECTOR).ok_or(beyond);
        Ok(byte(sector)?..byte(end)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DISK: Disk = Disk { sectors: 100, read_only: false };

    fn header(kind: u32, sector: u64) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        header
    }

    #[test]
    fn every_kind_of_request() {
        assert_eq!(DISK.decode(&header(0, 2), 1024, 0), Ok(Request::Read(1024..2048)));
        assert_eq!(DISK.decode(&header(1, 99), 0, 512), Ok(Request::Write(99 * 512..100 * 512)));
        assert_eq!(DISK.decode(&header(4, 7), 0, 0), Ok(Request::Flush));
        assert_eq!(DISK.decode(&header(8, 7), 20, 0), Ok(Request::Id));
        assert_eq!(DISK.decode(&header(0, 100), 0, 0), Ok(Request::Read(51200..51200)));
        assert_eq!(DISK.decode(&header(8, 7), 19, 0), Err(RequestError::NoRoom(19)));
        let unknown = DISK.decode(&header(11, 0), 0, 16).unwrap_err();
        assert_eq!((unknown, unknown.status()), (RequestError::Unsupported(11), Status::Unsupported));
    }

    #[test]
    fn what_is_not_on_the_disk_is_refused() {
        for (sector, len, expected) in [
            (0, 511, RequestError::Fraction(511)),
            (0, MAX_REQUEST + 512, RequestError::TooLong(MAX_REQUEST + 512)),
            (100, 512, RequestError::BeyondEnd { sector: 100, len: 512 }),
            (99, 1024, RequestError::BeyondEnd { sector: 99, len: 1024 }),
            (u64::MAX, 512, RequestError::BeyondEnd { sector: u64::MAX, len: 512 }),
            (u64::MAX / 512, 1024, RequestError::BeyondEnd { sector: u64::MAX / 512, len: 1024 }),
        ] {
            assert_eq!(DISK.decode(&header(0, sector), len, 0), Err(expected));
            assert_eq!(expected.status(), Status::Error);
        }
        let large = Disk { sectors: MAX_REQUEST, read_only: false };
        assert_eq!(large.decode(&header(0, 0), MAX_REQUEST, 0), Ok(Request::Read(0..MAX_REQUEST)));
        let read_only = Disk { read_only: true, ..DISK };
        assert_eq!(read_only.decode(&header(1, 0), 0, 512), Err(RequestError::ReadOnly));
    }

    proptest! {
        /// Whatever is asked for, only bytes of the disk are touched.
        #[test]
        fn only_the_disk_is_touched(bytes: [u8; HEADER_LEN], kind in 0_u32..2, len: u64, sectors: u64) {
            let mut header = bytes;
            header[..4].copy_from_slice(&kind.to_le_bytes());
            let disk = Disk { sectors: sectors / SECTOR, read_only: false };
            for len in [len, (len % MAX_REQUEST) & !511] {
                if let Ok(Request::Read(range) | Request::Write(range)) = disk.decode(&header, len, len) {
                    prop_assert!(range.end <= sectors && range.end - range.start == len);
                }
            }
        }
    }
}
