//! How a request ended.

use core::fmt;

/// The first field of every response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Nothing is committed yet: do what detail says (an [`Ask`](crate::reply::Ask)) about the spans that the
    /// reply lists, and ask again with its cursor.
    Again = 1,
    /// The request's bytes don't parse: too short, unknown fields set, or the response buffer is too small.
    Malformed = 2,
    /// A request kind or a flag that this device doesn't know or whose feature wasn't agreed on.
    Unsupported = 3,
    /// The two sides share no protocol version.
    Version = 4,
    /// The key isn't the session's, the request comes from another address space, or there is no session. A
    /// wrong key ends the session.
    BadKey = 5,
    /// The span isn't page-aligned, is empty or wraps.
    BadSpan = 6,
    /// The span isn't memory that the program may write.
    NotMapped = 7,
    /// The span overlaps a registered region; detail is that region's id.
    Overlap = 8,
    /// No region has this id.
    NoRegion = 9,
    /// No checkpoint of this session ever had this id, or it was released.
    NoCheckpoint = 10,
    /// The checkpoint was evicted: more than are retained, or can be kept, were taken after it.
    Evicted = 11,
    /// The checkpoint's region set isn't today's; detail is the id of a region that is in one and not in the
    /// other.
    RegionSet = 12,
    /// A limit that HELLO announced (regions, bytes) is reached.
    Limit = 13,
    /// The host could not get memory, or may keep no more for the history; what was committed before stands.
    NoMemory = 14,
    /// The host failed otherwise, its log says how; what was committed before stands.
    Host = 15,
    /// A region's name is empty, too long, not text, or taken.
    BadName = 16,
    /// The store failed; detail is the host's errno, or 0. What was in it before is as it was.
    Store = 17,
    /// Not now: what was asked for before is still under way. Nothing was done; to be asked again.
    Busy = 18,
    /// The stored checkpoint's regions are not today's. Detail is the id of a region that doesn't fit, and the body
    /// is what the store has under its name, if anything; or detail is 0, and the body is one that isn't registered.
    Mismatch = 19,
    /// The session has a checkpoint already: RECOVER comes before the first.
    NotFresh = 20,
}

impl Status {
    /// Every status, in the order of their numbers.
    pub const ALL: [Self; 21] = [
        Self::Ok,
        Self::Again,
        Self::Malformed,
        Self::Unsupported,
        Self::Version,
        Self::BadKey,
        Self::BadSpan,
        Self::NotMapped,
        Self::Overlap,
        Self::NoRegion,
        Self::NoCheckpoint,
        Self::Evicted,
        Self::RegionSet,
        Self::Limit,
        Self::NoMemory,
        Self::Host,
        Self::BadName,
        Self::Store,
        Self::Busy,
        Self::Mismatch,
        Self::NotFresh,
    ];

    /// The status with this number on the wire, if there is one.
    #[must_use]
    pub fn from_u16(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_u16(self) -> u16 {
        self as u16
    }
}

/// What it means, for a person; the detail of the reply isn't in it.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "done",
            Self::Again => "memory must be touched or settled before the request can be served",
            Self::Malformed => "the device could not parse the request",
            Self::Unsupported => "the device doesn't know this request or flag",
            Self::Version => "program and device share no protocol version",
            Self::BadKey => "the request doesn't belong to the device's session, or the session has ended",
            Self::BadSpan => "the memory is not a page-aligned span of whole pages",
            Self::NotMapped => "the memory is not mapped, or the program may not write it",
            Self::Overlap => "the memory overlaps a registered region",
            Self::NoRegion => "no region has this id",
            Self::NoCheckpoint => "no checkpoint has this id",
            Self::Evicted => "the checkpoint was evicted: too many, or too large ones, were taken after it",
            Self::RegionSet => "the checkpoint's regions are not the session's regions of today",
            Self::Limit => "a limit of the device is reached",
            Self::NoMemory => "the host has no memory for it, or it is larger than what may be kept of checkpoints: give it more with --history-memory",
            Self::Host => "the host failed; its log says how",
            Self::BadName => "the region's name is empty, too long, not text, or taken",
            Self::Store => "the store failed; the host's log says how",
            Self::Busy => "the device is at work on what was asked for before",
            Self::Mismatch => "the stored checkpoint's regions are not the session's",
            Self::NotFresh => "the session has a checkpoint already",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_names_its_status_and_no_other_does() {
        for number in 0..=u16::MAX {
            match Status::from_u16(number) {
                Some(status) => assert_eq!(status.to_u16(), number),
                None => assert!(usize::from(number) >= Status::ALL.len()),
            }
        }
    }
}
