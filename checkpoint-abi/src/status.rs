//! How a request ended.

/// The first field of every response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Nothing is committed yet: touch the spans that the reply lists and ask again with its cursor.
    Again = 1,
    /// The request's bytes don't parse: too short, unknown fields set, or the response buffer is too small.
    Malformed = 2,
    /// A request kind or a flag that this device doesn't know or whose feature wasn't agreed on.
    Unsupported = 3,
    /// The two sides share no protocol version.
    Version = 4,
    /// The key isn't the session's, or there is no session. A wrong key ends the session.
    BadKey = 5,
    /// The span isn't page-aligned, is empty or wraps.
    BadSpan = 6,
    /// The span isn't memory that the program may write.
    NotMapped = 7,
    /// The span overlaps a registered region; detail is that region's id.
    Overlap = 8,
    /// No region has this id.
    NoRegion = 9,
    /// No checkpoint ever had this id, or it was released.
    NoCheckpoint = 10,
    /// The checkpoint was evicted: more than the retained number were taken after it.
    Evicted = 11,
    /// The checkpoint's region set isn't today's; detail is the id of a region that is in one and not in the other.
    RegionSet = 12,
    /// A limit that HELLO announced (regions, bytes) is reached.
    Limit = 13,
    /// The host could not get memory; what was committed before stands.
    NoMemory = 14,
    /// The host failed otherwise, its log says how; what was committed before stands.
    Host = 15,
    /// A region's name is empty, too long, not text, or taken.
    BadName = 16,
}
