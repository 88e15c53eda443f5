//! Collections in a region: memory that grows and shrinks, and that rollbacks take back whole.
//!
//! A region of plain elements fits what has a fixed shape. An *arena* is a region with an allocator in it,
//! and a *root* that the program defines: whatever the root holds, a [`Map`] of [`Text`] for example, lies
//! in the region with all of its memory, and so do the allocator's own lists. A rollback puts all bytes
//! back, and with them every collection.
//!
//! ```
//! use cairn_guest::Session;
//! use cairn_guest::arena::{Full, Map, Text};
//! use cairn_guest::region_data;
//!
//! region_data! {
//!     struct Counts<'r> {
//!         words: Map<'r, Text<'r>, u64>,
//!     }
//! }
//!
//! # fn main() -> Result<(), cairn_guest::Error> {
//! let mut session = Session::open()?;
//! let counts = session.arena::<Counts>("counts", 1 << 20, |heap| Ok(Counts { words: heap.map() }))?;
//!
//! let id = session.checkpoint()?;
//! session.with(&counts, |root| {
//!     let heap = root.words.heap();
//!     for word in "the cat the dog".split(' ') {
//!         match root.words.get_mut(word) {
//!             Some(count) => *count += 1,
//!             None => _ = root.words.insert(heap.text(word)?, 1)?,
//!         }
//!     }
//!     Ok::<_, Full>(())
//! })?;
//! assert_eq!(session.read(&counts, |root| root.words.get("the")), Some(&2));
//!
//! session.rollback(id)?;
//! assert_eq!(session.read(&counts, |root| root.words.len()), 0);
//! # Ok(())
//! # }
//! ```
//!
//! # Size
//!
//! An arena has the size that it was made with. When it is full, whatever asked for memory returns
//! [`Full`], and all is as it was before that call: nothing aborts. As with any region, memory is taken
//! when it is first written, so a size on the large side costs little. Memory that is given back is used
//! again, and joined with its neighbours; what is in use doesn't move, so free memory may be in pieces.
//!
//! # Why this is sound
//!
//! A rollback changes bytes under everything in the region. So:
//! - nothing refers into an arena while one runs: what [`Session::with`](crate::Session::with) and
//!   [`Session::read`](crate::Session::read) lend borrows the session, as slices do;
//! - nothing in an arena refers out of it: a root and all that it holds is [`RegionData`], and
//!   [`region_data!`](crate::region_data) checks a struct's fields;
//! - nothing that owns memory of an arena leaves it: collections bear the lifetime `'r`, which is another
//!   one in every call of `with`. Else a rollback would bring back what the program still holds, and two
//!   would own one piece of memory. Nor does anything get into another arena, for the same reason.
//!
//! A handle can't be kept across a rollback:
//!
//! ```compile_fail,E0502
//! # use cairn_guest::{Session, region_data, arena::Text};
//! # region_data! { struct Note<'r> { text: Text<'r> } }
//! # fn main() -> Result<(), cairn_guest::Error> {
//! let mut session = Session::open()?;
//! let note = session.arena::<Note>("note", 4096, |heap| Ok(Note { text: heap.text("dear")? }))?;
//! let id = session.checkpoint()?;
//! let text = session.read(&note, |root| root.text.as_str());
//! session.rollback(id)?;
//! println!("{text}");
//! # Ok(())
//! # }
//! ```
//!
//! ```
//! # use cairn_guest::{Session, region_data, arena::Text};
//! # region_data! { struct Note<'r> { text: Text<'r> } }
//! # fn main() -> Result<(), cairn_guest::Error> {
//! let mut session = Session::open()?;
//! let note = session.arena::<Note>("note", 4096, |heap| Ok(Note { text: heap.text("dear")? }))?;
//! let id = session.checkpoint()?;
//! session.rollback(id)?;
//! let text = session.read(&note, |root| root.text.as_str());
//! println!("{text}");
//! # Ok(())
//! # }
//! ```
//!
//! What owns memory of the arena can't be taken out; a copy in the program's own memory can:
//!
//! ```compile_fail,E0521
//! # use cairn_guest::{Session, region_data, arena::Text};
//! # region_data! { struct Note<'r> { text: Text<'r> } }
//! # fn main() -> Result<(), cairn_guest::Error> {
//! let mut session = Session::open()?;
//! let note = session.arena::<Note>("note", 4096, |heap| Ok(Note { text: heap.text("dear")? }))?;
//! let mut taken = None;
//! session.with(&note, |root| {
//!     let empty = root.text.heap().text("").unwrap();
//!     taken = Some(std::mem::replace(&mut root.text, empty));
//! });
//! # Ok(())
//! # }
//! ```
//!
//! ```
//! # use cairn_guest::{Session, region_data, arena::Text};
//! # region_data! { struct Note<'r> { text: Text<'r> } }
//! # fn main() -> Result<(), cairn_guest::Error> {
//! let mut session = Session::open()?;
//! let note = session.arena::<Note>("note", 4096, |heap| Ok(Note { text: heap.text("dear")? }))?;
//! let mut taken = None;
//! session.with(&note, |root| {
//!     let empty = root.text.heap().text("").unwrap();
//!     taken = Some(std::mem::replace(&mut root.text, empty).to_string());
//! });
//! # Ok(())
//! # }
//! ```
//!
//! What is in one arena can't be put into another; its content can:
//!
//! ```compile_fail,E0521
//! # use cairn_guest::{Session, region_data, arena::{Text, Full}};
//! # region_data! { struct Note<'r> { text: Text<'r> } }
//! # fn main() -> Result<(), cairn_guest::Error> {
//! let (mut home, mut away) = (Session::open()?, Session::open()?);
//! let one = home.arena::<Note>("one", 4096, |heap| Ok(Note { text: heap.text("dear")? }))?;
//! let other = away.arena::<Note>("other", 4096, |heap| Ok(Note { text: heap.text("")? }))?;
//! home.with(&one, |one| away.with(&other, |other| std::mem::swap(one, other)));
//! # Ok(())
//! # }
//! ```
//!
//! ```
//! # use cairn_guest::{EngineKind, Session, region_data, arena::{Text, Full}};
//! # region_data! { struct Note<'r> { text: Text<'r> } }
//! # fn main() -> Result<(), cairn_guest::Error> {
//! # let open = || Session::open_with(EngineKind::FullCopy);
//! let (mut home, mut away) = (open()?, open()?);
//! let one = home.arena::<Note>("one", 4096, |heap| Ok(Note { text: heap.text("dear")? }))?;
//! let other = away.arena::<Note>("other", 4096, |heap| Ok(Note { text: heap.text("")? }))?;
//! home.with(&one, |one| away.with(&other, |other| other.text.push_str(&one.text)))?;
//! # Ok(())
//! # }
//! ```
//!
//! A panic inside `with` leaves the arena as the program's own code left it, in one piece: roll back, or go
//! on. A forked child has a copy of an arena at the same address, as of a region, and can use it. As for
//! every region, on the engine `mprotect` a system call must not write into it directly.
//!
//! # Its first bytes
//!
//! An arena's region begins with a header: magic, version, the root type's name (hashed) and size, the
//! region's address and length, then the allocator's state; the root follows. What the header says of the
//! root and the region is compared with what the program says at each use.

mod allocator;
mod data;
mod handle;
mod heap;
mod map;
mod memory;
mod text;
mod vector;

pub use data::{ArenaRoot, NoDrop, RegionData};
pub use handle::Arena;
pub use heap::{Full, Heap};
pub use map::{Iter, Map};
pub use text::Text;
pub use vector::Vector;
