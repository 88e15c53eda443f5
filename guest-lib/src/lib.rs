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
//!
//! A *region* is memory of the program that a *session* watches. A *checkpoint* is a committed version
//! of all regions of the session, all or nothing; its id is never used again. Rolling back keeps newer
//! checkpoints. The newest [`Session::history`] checkpoints are retained, one more evicts the oldest.
//! The set of regions belongs to a checkpoint: it can be rolled back to while exactly its regions exist.
//!
//! # Arenas
//!
//! A region of plain elements is right for tables and grids. For what grows and shrinks, an [`arena`] is a
//! region with an allocator in it, and collections that live there: [`arena::Map`], [`arena::Vector`] and
//! [`arena::Text`]. The program says what the root is, and reaches it in [`Session::with`] to change it and
//! in [`Session::read`] to look at it:
//!
//! ```
//! use cairn_guest::arena::{Full, Map, Text, Vector};
//!
//! cairn_guest::region_data! {
//!     struct Library<'r> {
//!         shelves: Map<'r, Text<'r>, Vector<'r, u32>>,
//!     }
//! }
//!
//! # fn main() -> Result<(), cairn_guest::Error> {
//! let mut session = cairn_guest::Session::open()?;
//! let library = session
//!     .arena::<Library>("library", 1 << 20, |heap| Ok(Library { shelves: heap.map() }))?;
//! session.with(&library, |root| {
//!     let heap = root.shelves.heap();
//!     root.shelves.insert(heap.text("poems")?, heap.copy_of(&[1798, 1855])?)?;
//!     Ok::<_, Full>(())
//! })?;
//! let id = session.checkpoint()?;
//! session.with(&library, |root| root.shelves.clear());
//! session.rollback(id)?;
//! assert!(session.read(&library, |root| root.shelves.contains_key("poems")));
//! # Ok(())
//! # }
//! ```
//!
//! A rollback takes all of it back, the allocator's state too, and safe code can't hold on to anything
//! across it: [`arena`] says how, and what happens when one is full.
//!
//! # Checkpoints on disk
//!
//! Under `cairn run --store DIR` (and `cairn boot --store DIR`) a checkpoint can outlive the program:
//! [`Session::checkpoint_durable`] returns when it is on disk, and [`Session::recover`] in the next run fills
//! the regions with it, after a crash of whatever it was. [`Level`] says what a checkpoint is to survive;
//! [`Session::checkpoint_durable_async`] lets the program run on while the disk is at work. One session of a
//! guest at a time can have the store.
//!
//! # The whole program
//!
//! A session has what the program registers. [`fork_point`] has everything: it takes a checkpoint of the whole
//! program, which `cairn restore` brings back in another process, and tells on which side of it the program goes on.
//! It needs no session.
//!
//! # Engines
//!
//! [`Session::open`] takes the hypervisor's checkpoint device when the machine has one, else
//! `user-compare`; the environment variable `CAIRN_ENGINE` names another, and [`Session::engine`] says
//! which it is. All keep the same [`contract`].
//!
//! | engine | learns of writes by | keeps | when to use it |
//! |---|---|---|---|
//! | `cairn` | the hypervisor's dirty log, and comparing pages that are always written | mirror and deltas, outside the guest | whenever the device is there: a crash of program or kernel can't reach the checkpoints |
//! | `user-compare` | as `uffd-wp`, else as `mprotect`; pages that are written at every epoch stay writable and are compared | mirror and deltas, in the process | without the device |
//! | `uffd-wp` | userfaultfd: the kernel lifts the protection at the write and PAGEMAP_SCAN tells where (Linux 6.7) | mirror and deltas, in the process | when written pages are rarely the same ones |
//! | `mprotect` | SIGSEGV at the first write to a page | mirror and deltas, in the process | on kernels before 6.7 |
//! | `fork` | the kernel copies a page at its first write | a child process per checkpoint | huge regions of which little changes and to which rollbacks are rare |
//! | `full-copy` | not at all | a copy of every region per checkpoint | small or densely written regions, and as a yardstick |
//!
//! What is not alike:
//! - `mprotect` (and `user-compare` on top of it): a system call that writes into a region, such as `read`,
//!   fails with EFAULT where the page is protected. Read into other memory and copy. The SIGSEGV handler
//!   is installed once and passes all other faults on to the handler that was there before; a handler
//!   that the program installs later must pass them back.
//! - `fork`: a program that replaces itself with `exec` without ending its session leaves the children
//!   behind until its process ends.
//! - [`Session::checkpoint_figures`] of `full-copy` and `fork` count changed pages when asked, against the
//!   parent while that is retained and else against zeros.
//!
//! A forked child of the program has a copy of the regions and no session: every call but the slices
//! answers [`Error::OtherProcess`] there, or the device's refusal.
//!
//! # Hints
//!
//! A program that knows what it writes can say so: [`Session::hint`] costs a few nanoseconds where catching a
//! write costs microseconds. In a region of [`RegionMode::Hinted`] only hinted pages are looked at, which is
//! fastest where writes are scattered and seldom hit the same page twice; [`RegionMode::Checked`] finds the hint
//! that is missing. `fork` and `full-copy` keep everything anyhow and ignore hints.
//!
//! # Unsafe code
//!
//! It is in `memory` (the bytes of regions), `session` (handing adopted memory on), `arena::data` (what may
//! live in an arena), `arena::memory`, `arena::vector` and `arena::handle` (its bytes), `engines::device`,
//! `engines::tracked` and `engines::mprotect` (promises about the memory that they hand on),
//! `engines::sys` (the kernel's interfaces) and `contract::pages`.

pub mod arena;
pub mod contract;
mod element;
mod engines;
mod error;
mod fork_point;
mod hints;
mod kind;
mod memory;
mod options;
mod region;
mod session;
mod shape;
mod ticket;

pub use cairn_abi::reply::{CheckpointFigures, SessionFigures, StoreFigures};
pub use cairn_abi::{CheckpointId, Level};
pub use element::Element;
pub use error::{Error, Stored};
pub use fork_point::{ForkPoint, fork_point};
pub use hints::RegionMode;
pub use kind::{ENGINE_VARIABLE, EngineKind, UnknownEngine};
pub use options::{DEFAULT_HISTORY, MAX_HISTORY, Options};
pub use region::{Region, RegionTuple};
pub use session::Session;
#[doc(hidden)]
pub use shape::Shape;
pub use ticket::Ticket;
pub use zerocopy;
