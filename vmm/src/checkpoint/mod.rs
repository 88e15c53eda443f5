//! The checkpoint engine at work on a guest: KVM's dirty log tells it what was written, and the
//! device's effects tell it what to do.

mod app_tracker;
mod bitmap;
mod effects;
mod freeze;
mod keeper;
mod keeping;
pub mod linux;
mod region_slot;
mod ring;
mod scan;
mod state;

pub use app_tracker::{Scanning, TrackerParts};
pub use freeze::Freezer;
pub use keeper::{Keeper, KeeperConfig};
pub use keeping::Keeping;
pub use scan::LogCosts;
pub use state::{KeeperState, KeeperStateError, MirrorPages, SessionBytes, SessionSource, TakePage};
