//! What programs call: typed memory that can be checkpointed and rolled back.
//!
//! ```
//! # fn main() -> Result<(), cairn_guest::Error> {
//! let mut session = cairn_guest::Session::open()?;
//! let table = session.region::<u64>("table", 1 << 20)?;
//! session.slice_mut(&table)[7] = 42;
//! let id = session.checkpoint()?;
//! session.slice_mut(&table)[7] = 0;
//! session.rollback(id)?;
//! assert_eq!(session.slice(&table)[7], 42);
//! # Ok(())
//! # }
//! ```

pub mod contract;
mod element;
mod engines;
mod error;
mod kind;
mod memory;
mod options;
mod region;
mod session;

pub use cairn_abi::CheckpointId;
pub use cairn_abi::reply::{CheckpointFigures, SessionFigures};
pub use element::Element;
pub use error::Error;
pub use kind::{ENGINE_VARIABLE, EngineKind, UnknownEngine};
pub use options::{DEFAULT_HISTORY, MAX_HISTORY, Options};
pub use region::{Region, RegionTuple};
pub use session::Session;
pub use zerocopy;
