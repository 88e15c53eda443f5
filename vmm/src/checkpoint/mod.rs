//! The checkpoint engine at work on a guest: KVM's dirty log tells it what was written, and the
//! device's effects tell it what to do.

mod bitmap;
mod effects;
mod freeze;
mod keeper;
pub mod linux;

pub use bitmap::BitmapTracker;
pub use freeze::Freezer;
pub use keeper::{Keeper, KeeperConfig};
