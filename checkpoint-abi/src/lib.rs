//! The contract between a program in a guest and the checkpoint device of its hypervisor: the device's
//! specification, and the types and bytes that both sides share.
//!
//! # Checkpoint device
//!
//! The checkpoint device keeps versions of a program's memory outside the guest. The *driver* is a library in
//! the program, not a part of the guest's kernel. The words MUST, SHOULD and MAY are those of the virtio
//! standard, version 1.2, which holds wherever this page says nothing else.
//!
//! A **session** is one program's connection to the device, bound to its address space and to a random key. A
//! **region** is a page-aligned span of the program's memory that it registers. A **checkpoint** is a
//! committed version of all regions of the session.
//!
//! ## Discovery
//!
//! The device is a PCI function with the identity of [`pci`]. Its structures are found by the vendor-specific
//! capabilities of virtio 1.2, 4.1.4: common configuration, notification, ISR status, device configuration.
//! There is no MSI-X capability and the device sends no interrupt.
//!
//! - One function serves one session. A guest has as many functions as it can have sessions at once.
//! - The device MUST come with its BAR assigned and memory decoding on: a driver without rights can do
//!   neither.
//! - The device MUST have its structures where [`pci`] says, and capabilities that say so. The driver SHOULD
//!   follow the capabilities. Linux shows a program without rights only the first 64 bytes of the
//!   configuration space, which end before them: such a driver MAY take the places from [`pci`].
//! - The driver MUST hold an exclusive record lock (`fcntl(F_SETLK)`) on the whole `resource0` file of the
//!   function in sysfs for as long as it uses the function, and MUST take another function if it can't get
//!   it. (A `flock` would be shared with forked children.)
//!
//! ## Virtqueues
//!
//! | index | queue | |
//! |---|---|---|
//! | 0 | requests | a split ring of at most [`pci::QUEUE_MAX_SIZE`] descriptors |
//!
//! ## Feature bits
//!
//! | bit | feature | |
//! |---|---|---|
//! | 32 | `VIRTIO_F_VERSION_1` | the device MUST offer it, the driver MUST accept it |
//! | 33 | `VIRTIO_F_ACCESS_PLATFORM` | the device MAY offer it, as its addresses aren't physical ones; the driver SHOULD then accept it, and nothing changes if it doesn't |
//!
//! No device-specific bit is defined. What is optional belongs to the session and is agreed on in HELLO:
//!
//! | bit | HELLO feature | request flag | |
//! |---|---|---|---|
//! | 0 | [`FEATURE_HINT`] | | HINTS, and the mode *hinted* in REGISTER |
//! | 1 | [`FEATURE_DURABLE`] | [`FLAG_DURABLE`] | there is a store: durable CHECKPOINTs, RECOVER, STORED, the tag in REGISTER, QUERY of durability and of the store |
//! | 2 | [`FEATURE_ASYNC`] | [`FLAG_ASYNC`] | CHECKPOINT can be answered before it is done |
//!
//! A device MUST agree only to features that it offers and the driver asked for. It MUST answer
//! [`Status::Unsupported`] to a request with a flag that it doesn't know, and to a request, flag or mode whose
//! feature wasn't agreed on. A flag that a request of another kind has is one that it doesn't know.
//!
//! ## Device configuration layout
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | newest protocol version that the device speaks |
//! | 4 | 4 | oldest protocol version that the device speaks |
//! | 8 | 8 | reserved, zero |
//!
//! The fields are read-only and never change. The driver SHOULD give up before DRIVER_OK if it speaks no
//! version in that range.
//!
//! ## Device initialization
//!
//! The driver MUST follow virtio 1.2, 3.1.1: reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK (and read it
//! back), the request queue, DRIVER_OK; and FAILED if it gives up. Resetting the device ends the session.
//!
//! ## Addresses
//!
//! **Every address that the driver gives to the device is a virtual address of the driver's own program**:
//! those of the rings in the common configuration, of the buffers in descriptors, of regions in requests. No
//! physical address is told to the program or taken from it.
//!
//! - The device MUST translate them with the page tables that are in force where the request was made, and
//!   MUST treat memory as absent that the program itself, at its own privilege, couldn't read (or write,
//!   where the device writes).
//! - The device MUST NOT write memory of the program other than used ring, reply buffers and, in ROLLBACK,
//!   regions; and only between a notification and the end of its store, or while it polls.
//! - Ring and buffers MUST be private anonymous memory of the program that is present and writable at every
//!   notification. While the device can't reach all of the rings it MUST leave the queue as it is: a driver
//!   that finds its request unused after a notification SHOULD touch them and notify again, as the guest's
//!   kernel may have been moving them just then. The driver SHOULD keep rings and buffers in one page, so that
//!   they come and go together.
//! - Nothing needs to be pinned and the guest's kernel may move pages.
//!
//! ## Device operation
//!
//! ### A request
//!
//! The driver puts a descriptor chain in the available ring: device-readable descriptors of exactly
//! [`REQUEST_SIZE`] bytes together (an encoded [`Envelope`], see [`request`]), then device-writable ones of
//! at least [`REPLY_SIZE`] bytes together (for an encoded [`Reply`], see [`reply`]).
//!
//! - The device MUST write the whole reply before it puts the chain into the used ring, with length
//!   [`REPLY_SIZE`]. If the writable part is too small it MUST use the chain with length 0 and MUST NOT do
//!   what was asked.
//! - The device MUST copy the request once and judge the copy; it MUST answer bytes that don't decode with
//!   [`DecodeError::status`], and MUST NOT let anything in the request or the rings harm another session.
//! - The driver SHOULD have at most one request outstanding. The device serves requests in order.
//! - A request is all or nothing: whatever the status but [`Status::Ok`], ids, regions, checkpoints and
//!   memory are as before it, except where this page says otherwise (a wrong key; ROLLBACK).
//!
//! ### Notification
//!
//! The driver notifies by a 16-bit store of the queue's index to the queue's notification address. The device
//! serves what is available before that store returns, on the CPU that stored: when it returns, the reply is
//! there.
//!
//! - The device MUST serve at least the first request. In a guest with a kernel, which doesn't get that CPU back
//!   meanwhile, it MAY leave what is behind a request with much to do: a driver with more than one request
//!   outstanding MUST notify again while one of them is unused.
//!
//! ### Polling
//!
//! The device MAY poll the available ring instead. It says so by VIRTQ_USED_F_NO_NOTIFY in the used ring's
//! flags.
//!
//! - While the flag is set, the driver SHOULD spin on the used ring for a bounded time before it notifies. It
//!   MUST notify then, flag or not: a poller may have gone to sleep.
//! - HELLO, REGISTER and UNREGISTER are served at a notification only, as they change whom the device serves
//!   or the guest's memory layout; so are durable CHECKPOINTs, RECOVER, STORED and a QUERY of durability that
//!   names a level, as they may wait for the disk. The driver MUST notify for them at once, and a polling device
//!   MUST leave them, and what follows them, in the ring. It MAY leave any other request there too.
//! - A device MUST accept a notification while it polls, and MUST serve each request once.
//! - A device MUST NOT poll where it can't know which address space is running.
//!
//! ### Resumable requests
//!
//! The device doesn't fault the program's memory in. When it needs pages that are absent (or, for ROLLBACK,
//! not writable), it answers [`Status::Again`] with up to [`reply::MAX_MISSING`] spans and a cursor. The
//! reply's detail says what is to be done about the spans:
//!
//! | detail | ask | what the driver does |
//! |---|---|---|
//! | 0 | [`Touch`](reply::Ask::Touch) | reads a byte of every page, and for ROLLBACK writes it back |
//! | 1 | [`Settle`](reply::Ask::Settle) | makes one system call over each span that takes the kernel's locks of the memory map and of the page tables (`mincore`), and ignores what it answers |
//!
//! A page that the guest's kernel is just moving looks as if it had never been there. The system call ends
//! after the kernel's move; what is absent then was never touched, or was given up. So the device asks to
//! settle where it would otherwise have to have a whole region touched to learn that nothing is there.
//!
//! - The device MUST NOT commit anything before it answers with another status.
//! - The driver MUST do what is asked about every listed span. Then it makes the same request again with the
//!   reply's cursor. It MUST refuse a detail that isn't in the table.
//! - The driver MUST refuse spans that aren't in memory that the request is about (its regions; in REGISTER,
//!   the span itself; the hint table where it's read): a device has no business elsewhere.
//! - The cursor means something to the device only. The device MUST accept 0, which begins anew, and the
//!   cursor of its last reply if the request is the same. It MUST answer any other with
//!   [`Status::Malformed`]: a request in between ends what was unfinished.
//! - A driver SHOULD bound the number of rounds, and of pages that it touches. Spans to settle MAY be whole
//!   regions in every round.
//! - A page of a region that was never touched counts as zeros where the device can know that; it needs no
//!   touch.
//!
//! ### HELLO
//!
//! Opens a session and ends the one before it on this function. The driver sends the newest version that it
//! speaks and the features it wants; the device answers the version and features of the session (version: the
//! smaller of the two sides' newest, or [`Status::Version`] if one side doesn't speak it), the session's key,
//! and its limits: regions at once, bytes of all regions together, checkpoints that are retained.
//!
//! The key MUST be 128 bits from a cryptographic random source. Every later request carries it.
//!
//! - To a request with another key the device MUST answer [`Status::BadKey`], end the session and drop what
//!   it keeps for it: who guesses gets one guess.
//! - A notification from another address space than HELLO's, a forked child's, the device MUST ignore: its
//!   copy of the queue is not the session's. What ends a session whose program is gone is a reset.
//! - To a request without a session the device MUST answer [`Status::BadKey`].
//!
//! ### REGISTER and UNREGISTER
//!
//! REGISTER makes a span a region. The span MUST be whole pages of private anonymous memory that the program
//! may read and write ([`Status::BadSpan`], [`Status::NotMapped`]), MUST NOT overlap a region
//! ([`Status::Overlap`], detail is the region), and its name MUST be free ([`Status::BadName`]). Limits:
//! [`Status::Limit`]. The program keeps the span mapped, readable and writable until UNREGISTER.
//!
//! Registering takes no checkpoint: the region is in those that are taken from now on.
//!
//! UNREGISTER ends a region. Its id is never used again, so that checkpoints with it can't be rolled back to;
//! they stay until they are released or evicted.
//!
//! ### CHECKPOINT
//!
//! Commits the content of all regions as a new checkpoint, whose parent is the checkpoint that memory derives
//! from: the one taken or rolled back to last. Ids start at 1, rise, and are never reused in a session. If
//! more than the announced number would be retained, or more bytes than the host keeps, the oldest ids are
//! evicted. If it fails, no id is used up and the checkpoints before it stand.
//!
//! With [`FLAG_ASYNC`] the device MAY answer before it is done: with a *ticket*, which is the id that the
//! checkpoint will have, and whether it has it yet. What the program writes after the answer isn't in the
//! checkpoint, whenever it is done. Meanwhile a write to a page that isn't kept yet takes longer. Every request
//! but a QUERY of a ticket finishes the checkpoint first, if it depends on it. A checkpoint that fails after the
//! answer does use up its id; it is not retained and what was written counts as written still. While
//! [`FEATURE_ASYNC`] isn't agreed on, the driver makes a plain CHECKPOINT instead.
//!
//! ### ROLLBACK
//!
//! Gives every region the content of a checkpoint.
//!
//! - The set of regions belongs to the checkpoint. If today's set isn't the same, the answer is
//!   [`Status::RegionSet`], detail is a region that is in one and not in the other, and memory is as it was.
//! - Newer checkpoints stay, and can be rolled back to, until they are released or evicted.
//! - An id of this session's that as many of its checkpoints were taken after as the host retains, or that made room
//!   for newer ones, is [`Status::Evicted`], also if it was released. Any other that isn't retained is
//!   [`Status::NoCheckpoint`]: it was released, or never was one of this session's. Those that the session left out
//!   never were, nor those of sessions before it, although they are in the store; one that came back by RECOVER is.
//! - A rollback that ends with [`Status::Host`] may have written a part of the regions; every checkpoint
//!   stands, and a rollback that succeeds repairs it.
//!
//! ### RELEASE
//!
//! Gives up a checkpoint, also the one that memory derives from. Its children stay and keep its id as parent.
//!
//! ### QUERY
//!
//! Reads figures of the session or of one checkpoint, or what became of a ticket. It changes nothing. With subject 2
//! the checkpoint is the oldest retained one whose id is greater than that given, and [`Status::NoCheckpoint`] if
//! there is none: who begins with 0 and goes on with each answer's id meets every retained checkpoint once.
//!
//! The answer about a ticket is whether its checkpoint is done (subject 4: the device finishes it first), or why
//! it failed: [`Status::NoMemory`]. One that was done and then released or evicted is done.
//! [`Status::NoCheckpoint`] if the id was never a ticket's or a checkpoint's. Needs [`FEATURE_ASYNC`].
//!
//! ### HINTS
//!
//! With [`FEATURE_HINT`] the program can say what it writes. It does so in a [hint table](hint) in its memory;
//! HINTS says where that is, from then on and instead of any table before. The device reads the table in HINTS,
//! and before it does anything else in every CHECKPOINT and ROLLBACK that follows, their repetitions included.
//!
//! - The address MUST be a multiple of [`hint::HINT_SIZE`] and the table MUST NOT wrap ([`Status::BadSpan`]). It
//!   needs to be there when it's read only; a page of it that's absent then is asked for
//!   ([`Again`](Status::Again)). It SHOULD NOT be in a region.
//! - A table with more than [`hint::MAX_HINTS`] hints is refused ([`Status::Malformed`]), and so is the request.
//! - The device MUST ignore bits of pages beyond the region's end, and hints whose region isn't one. Hints may
//!   come in any order and name a page more than once.
//! - Hints of several requests add up, until a CHECKPOINT or a ROLLBACK is done: then all that were given are
//!   used up. The driver sets the count to zero when the device has read a table, and MUST NOT change the table
//!   while a request is outstanding. A driver with more hints than a table holds makes a HINTS request for each
//!   table but the last.
//!
//! In a region that was registered in mode *hinted*, the device looks at hinted pages alone, and all of the
//! region counts as hinted until the first CHECKPOINT that has it. What the program writes to other pages is in
//! no checkpoint, or is, and rollbacks leave it alone, or don't: the driver promises that there is none. In a
//! *tracked* region a hint says that the page is written often: the device MAY leave it unwatched and compare it.
//!
//! ### The store
//!
//! With [`FEATURE_DURABLE`] there is a *store* of checkpoints on the host's disk. It belongs to one session at a
//! time: the first that makes a CHECKPOINT with [`FLAG_DURABLE`] or a RECOVER, until it ends. To another one's the
//! answer is [`Status::Store`] with EBUSY. Ids in a store rise too: the device MUST leave out ids that are not
//! greater than the store's newest.
//!
//! CHECKPOINT with [`FLAG_DURABLE`] commits a checkpoint as without, and hands it to the store. The answer doesn't
//! wait for the disk: it says what is reached, mostly nothing yet, and the driver asks by a QUERY of durability.
//!
//! - [`Status::Busy`]: there are as many on their way to the disk as the device has room for. No checkpoint was
//!   taken; the driver asks again. The device MAY wait for a while for room, or for the level that a QUERY names,
//!   before it answers, but not where that keeps a kernel from running: so a driver SHOULD sleep between its tries,
//!   longer each time.
//! - If the store fails, the QUERY is answered with [`Status::Store`], detail is the host's errno. The checkpoint
//!   is retained in memory like any other, and what was in the store is as it was. The next one that the store
//!   takes has all that this one had.
//! - The level that is reached is that of the checkpoint or of a newer one.
//!   [`Status::NoCheckpoint`] if neither was handed to the store.
//! - If *level of all* isn't 0, whoever started the guest wants every checkpoint to be durable, and the driver
//!   SHOULD make every CHECKPOINT with that level and wait for it.
//!
//! RECOVER makes a checkpoint of the store one of the session: retained, with the id that it has, without a parent,
//! and memory derives from it. No byte of the program's memory is changed: the driver makes a ROLLBACK then.
//! Before, the program registers the regions that the checkpoint has: of each, name, length and tag MUST be the
//! same, and there MUST be no other ([`Status::Mismatch`]). That a region is where it was the device doesn't ask:
//! who needs that asks by STORED where it was.
//!
//! - The session MUST NOT have had a checkpoint ([`Status::NotFresh`]).
//! - [`Status::NoCheckpoint`]: the store has no such checkpoint, or none at all.
//! - [`Status::Busy`]: it's being read. The driver makes the same request again at once.
//!
//! STORED says what a checkpoint of the store has under a region's name; [`Status::NoRegion`] if it has none.
//!
//! ## Versions
//!
//! [`PROTOCOL_VERSION`] counts this contract, apart from any package's version. Within a version, sizes and
//! offsets are fixed; reserved bytes, flags and feature bits can get a meaning by a feature, and kinds and
//! statuses can be added by a feature. Everything else needs a new version.
#![no_std]
#![forbid(unsafe_code)]

pub mod fork_point;
pub mod hint;
pub mod ids;
pub mod pci;
pub mod reply;
pub mod request;
pub mod status;
mod wire;

pub use hint::Hint;
pub use ids::{CheckpointId, NameError, RegionId, RegionName, SessionKey, Span};
pub use reply::{REPLY_SIZE, Reply, ReplyBody};
pub use request::{Envelope, Level, REQUEST_SIZE, RegionMode, Request};
pub use request::{FEATURE_ASYNC, FEATURE_DURABLE, FEATURE_HINT, FLAG_ASYNC, FLAG_DURABLE};
pub use status::Status;
pub use wire::DecodeError;

/// Bytes in a page: the unit of registration and of tracking.
pub const PAGE_SIZE: u64 = 4096;
/// The version of this contract, apart from any crate's version. HELLO agrees on it.
pub const PROTOCOL_VERSION: u32 = 1;
