//! Checkpoints on disk, for guests that run: what a program wants to survive goes into a [`cairn_store`].
//!
//! ```text
//!   CHECKPOINT, durable        the program stands still                       a thread of its own
//!     engine: checkpoint ──> Saver: gathers what changed ──> Batch ──> Sink ──> Writer::commit ──> disk
//!     <── "not yet"                                                     │
//!   QUERY of durability ──────────────────────────────────────> written, synced, failed
//! ```
//!
//! One batch is being written while the next is gathered and waits; there are never more. What is known here of a
//! version that isn't committed is which chunks it changed, so that a batch that fails costs nothing but that the
//! next one says more.

mod disk;
mod loading;
mod readings;
mod saver;
pub mod signature;
mod sink;

pub use disk::Disk;
pub use saver::{SAVER_PATIENCE, Saver};
pub use sink::{Base, MAX_WAITING, Owner, Sink, SinkError};
