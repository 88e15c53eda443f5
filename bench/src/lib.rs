//! The micro-benchmark: checkpoint cycles of Cairn beside what user level can do on the same machine.
//!
//! A *driver* starts one *worker* process per engine and cell. The worker of the engine `cairn` runs in a VM
//! (`cairn run`), all others run natively; or driver and workers all run in one Linux guest ([`linux_guest`]). The driver lets them work in turns, a batch of cycles at a time, so that
//! noise of the machine hits all engines alike; a worker whose turn it isn't blocks in a read.
//!
//! # What is measured
//!
//! One *cycle* is the writes of an epoch and the checkpoint after them. Whole cycles are timed and quantiles come
//! from them; the checkpoint is timed within. Each page of an epoch's set gets one 8-byte word at an offset that
//! changes with page and epoch ([`pattern::word_of`]), so that no engine can know where to look.
//!
//! - `cycle_ns`, `checkpoint_ns`: as above.
//! - `overhead_ns`: cycle - checkpoint - the median of the same writes to plain memory, in the same worker. A median
//!   only, and it may be slightly negative: it is a difference of two measurements.
//! - `rollback_ns`: one rollback to the newest checkpoint after an epoch's writes, whatever the engine must do to
//!   notice later writes included.
//! - `cpu_ns`: CPU time of all threads of the engine per cycle, the median over batches. In a VM these are the
//!   VMM's threads (the one that runs the program among them), else the worker's and its children's.
//! - `extra_bytes`: what the engine keeps beside the regions (mirror, history, tables), as it says itself.
//!
//! Time is the time-stamp counter, calibrated by the driver: reading the clock in a VM may cost more than what is
//! measured ([`clock`]).
//!
//! A cycle of the pattern `reset` is an input to the parser of the example `reset_fuzz` and the way back to the state
//! before it ([`resets`]).
//!
//! Before anything is timed, each worker fills its region and takes [`worker::WARM_UP_MIN`] to
//! [`worker::WARM_UP_MAX`] epochs, as many as an eighth of its time allows. Before its numbers count, it rolls back
//! to the two newest checkpoints and compares every byte with a model in plain memory.

pub mod cell;
pub mod clock;
pub mod contender;
pub mod cpu;
pub mod epochs;
mod model;
pub mod pattern;
mod random;
pub mod stats;
mod zipf;

pub mod protocol;
pub mod resets;
pub mod work;
pub mod worker;
pub mod workload;

pub mod budget;
pub mod driver;
pub mod engine;
pub mod process;

pub mod command;
pub mod file;
pub mod host;
pub mod html;
pub mod report;
pub mod table;

pub mod linux_guest;

/// Bytes in a page.
pub const PAGE_BYTES: usize = 4096;
/// Pages in a mebibyte.
pub const PAGES_PER_MIB: u32 = 256;
