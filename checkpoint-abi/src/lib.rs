//! The contract between a program in a guest and the checkpoint device of its hypervisor.
#![no_std]
#![forbid(unsafe_code)]

pub mod ids;
pub mod pci;
pub mod reply;
pub mod request;
pub mod status;

pub use ids::{CheckpointId, RegionId, RegionName, SessionKey, Span};
pub use reply::{Reply, ReplyBody};
pub use request::{Envelope, Request};
pub use status::Status;

/// Bytes in a page: the unit of registration and of tracking.
pub const PAGE_SIZE: u64 = 4096;
/// The version of this contract, apart from any crate's version. HELLO agrees on it.
pub const PROTOCOL_VERSION: u32 = 1;
