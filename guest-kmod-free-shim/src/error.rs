//! What can go wrong between a program and the device.

use std::fmt;

use cairn_abi::reply::StoredRegion;
use cairn_abi::{RegionId, Span, Status};
use rustix::io::Errno;
use thiserror::Error;

use crate::find::FindError;
use crate::start::StartError;
use crate::transport::CallError;

/// Any failure of a [`Client`](crate::Client).
#[derive(Debug, Error)]
pub enum ShimError {
    /// No device can be used.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The device doesn't come up.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The device doesn't answer as it must. The session is lost.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The device answers that it won't. The session goes on, but for [`Status::BadKey`].
    #[error("{request} failed: {status}{}", Detail(*.status, *.detail))]
    Refused {
        /// What was asked for.
        request: &'static str,
        /// Why not.
        status: Status,
        /// The id or number that the status explains, or 0.
        detail: u32,
    },
    /// The regions of a stored checkpoint aren't those that are registered.
    #[error("the stored checkpoint's regions are not those that are registered")]
    Mismatch {
        /// A registered region that doesn't fit, if it's one of these.
        region: Option<RegionId>,
        /// What the checkpoint has in its place, if anything.
        stored: Option<StoredRegion>,
    },
    /// The answer is that of another request.
    #[error("{request} failed: the device answered something else")]
    WrongAnswer {
        /// What was asked for.
        request: &'static str,
    },
    /// The device asks about memory that the request isn't about.
    #[error("the device asked about {:#x} bytes at {:#x}, which are not in a region", .span.len, .span.address)]
    ForeignMemory {
        /// What it asked for.
        span: Span,
    },
    /// Memory of a region is gone or can't be accessed any more.
    #[error("{:#x} bytes at {:#x} of a region can't be touched: a region's memory must stay mapped, \
             readable and writable until the region ends, and there must be memory for it", .span.len, .span.address)]
    Untouchable {
        /// What the device needs.
        span: Span,
        /// What the kernel says.
        #[source]
        source: Errno,
    },
    /// The device asks for pages without end.
    #[error("the device asked for the same memory again and again")]
    Endless,
}

impl ShimError {
    /// Whether this machine simply has no checkpoint device.
    #[must_use]
    pub fn is_no_device(&self) -> bool {
        matches!(self, Self::Find(FindError::NoDevice { .. }))
    }

    /// The device's own answer, if it was one.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// The region that a status speaks of.
struct Detail(Status, u32);

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Status::Overlap | Status::RegionSet => write!(f, " (region {})", self.1),
            _ => Ok(()),
        }
    }
}
