//! The checkpoint device: takes requests for checkpoints from programs and says what is to be done.
//!
//! It takes no checkpoint itself. [`session`] decides: it turns a request into an [`Effect`] for the engine,
//! and the engine's [`Outcome`] into the reply. [`regions`] turns a program's claims about its memory into
//! checked spans. [`device`] moves bytes between the queue and the session. [`state`] is the device at rest. The contract with programs, in
//! the words of a device specification, is the documentation of [`cairn_abi`].
//!
//! A session's states:
//!
//! ```text
//!                HELLO, after the engine dropped all
//!    Closed ---------------------------------------------> Open ---+
//!      ^                                                   |  ^    | requests with the
//!      | the engine                 wrong key, HELLO,      |  |    | session's key from its
//!      | dropped all                device reset           |  +----+ address space
//!      |                                                   v
//!      +-------------------------------------------------- Ended
//! ```
//!
//! *Ended* means that the engine may still hold regions of a session that is over. The only way out is that
//! the engine drops them: whatever the next request is, that comes first, so nothing can forget it, neither a
//! failed drop nor a device reset between two requests.

pub mod device;
pub mod effect;
mod hints;
pub mod regions;
pub mod session;
pub mod state;

pub use device::CheckpointDevice;
pub use effect::{Again, Effect, Failure, Outcome};
pub use hints::{HintFault, HintTable};
pub use regions::RegionSpan;
pub use session::{AddressSpace, Caller, Limits, Session};
pub use state::{DeviceState, LiveRegion, OpenState, SessionState};
