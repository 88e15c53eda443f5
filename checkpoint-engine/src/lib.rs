//! What a checkpoint *is*: a mirror of the program's regions, deltas that lead to older versions, and the rule that decides which pages to write-protect.
//!
//! The crate knows neither a hypervisor nor a guest. A [`Tracker`] tells it which pages may have been
//! written; whatever can do that (a dirty log, page protection, userfaultfd) can drive it.
//!
//! The way of a checkpoint: [`Tracker::collect`], compare each reported page with the mirror, old bytes into
//! the history and new bytes into the mirror, commit, [`Tracker::protect`] what the [`Rule`] expects to stay
//! clean. The way back: the mirror becomes the wanted version by swapping bytes with the deltas between, and
//! live memory becomes the mirror where either was touched.
//!
//! ```
//! use std::ptr::NonNull;
//! use cairn_abi::{RegionId, RegionName};
//! use cairn_engine::{Config, Engine, LiveMemory, PAGE_SIZE, PageSet, TrackError, Tracker};
//!
//! /// Knows nothing: every page may have been written.
//! struct Blind;
//!
//! impl Tracker for Blind {
//!     fn attach(&mut self, _: RegionId, _: &LiveMemory) -> Result<(), TrackError> {
//!         Ok(())
//!     }
//!     fn detach(&mut self, _: RegionId) {}
//!     fn collect(&mut self, _: RegionId, written: &mut PageSet) -> Result<(), TrackError> {
//!         written.fill();
//!         Ok(())
//!     }
//!     fn protect(&mut self, _: RegionId, _: &PageSet) -> Result<(), TrackError> {
//!         Ok(())
//!     }
//! }
//!
//! #[repr(align(4096))]
//! struct Pages([u8; 4 * PAGE_SIZE]);
//!
//! let memory = NonNull::from(Box::leak(Box::new(Pages([0; 4 * PAGE_SIZE])))).cast::<u8>();
//! let mut engine = Engine::new(Blind, Config::default());
//! // SAFETY: the memory is aligned and leaked, and only raw pointers reach it.
//! let live = unsafe { LiveMemory::new(memory, 4) };
//! engine.add_region(RegionName::new(b"table")?, live)?;
//!
//! // SAFETY: inside the memory, and the engine isn't running.
//! let write = |byte: u8| unsafe { memory.add(5000).write(byte) };
//! write(42);
//! let id = engine.checkpoint()?;
//! write(0);
//! engine.rollback(id)?;
//! // SAFETY: as above.
//! assert_eq!(unsafe { memory.add(5000).read() }, 42);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Modules in reading order.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("cairn-engine compares pages with x86-64 vector instructions and has no other implementation");

mod page_set;

mod places;

mod live;

mod tracker;

mod costs;

mod config;

mod error;

mod access;

mod mirror;

mod delta;

mod changes;

mod versions;

mod predictor;

mod pool;

mod region;

mod pending;

mod asynchronous;

mod engine;

#[cfg(test)]
mod tests;

pub use asynchronous::Copying;
pub use changes::ChangeSink;
pub use config::{Config, MAX_REGION_BYTES, MAX_REGIONS, Rule};
pub use costs::HostCosts;
pub use engine::{Engine, EngineImage, GatherPlace, ImageError, RegionImage, Ticket};
pub use error::{EngineError, SetSide};
pub use live::LiveMemory;
pub use page_set::PageSet;
pub use places::{PagePlaces, Place};
pub use pool::{MAX_HELPERS, Pool};
pub use tracker::{FrozenPages, TrackError, Tracker};
pub use versions::{VersionImage, VersionsImage};

/// Bytes in a page: the unit of tracking.
pub const PAGE_SIZE: usize = 4096;
/// Bytes in a chunk: the unit of comparing and of storing. A cache line, so that 64 of them fill a page and a `u64` says which differ.
pub const CHUNK_SIZE: usize = 64;

const _: () =
    assert!(PAGE_SIZE as u64 == cairn_abi::PAGE_SIZE && PAGE_SIZE / CHUNK_SIZE == u64::BITS as usize);
