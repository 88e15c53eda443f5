//! Arenas of a session: how they are made, lent and dropped.

use std::any;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::marker::PhantomData;

use super::memory::{GRAIN, InUse, MAGIC, Memory, VERSION, header};
use super::{ArenaRoot, Full, Heap, RegionData};
use crate::error::Error;
use crate::region::Region;
use crate::session::Session;
use crate::shape::{Shape, tag};

/// A handle of an arena whose root is an `A`. The [module's documentation](super) shows its use.
///
/// Like a [`Region`], it belongs to its session, and one that is just dropped leaves the arena to it.
pub struct Arena<A> {
    /// Its memory, to which nobody else has a handle. [`Session::arena`], which alone makes this, has put
    /// an `A::In` there as the root, in the same call that registered the region: every checkpoint that
    /// has the region has a root in it.
    region: Region<u8>,
    identity: u64,
    root: PhantomData<fn() -> A>,
}

impl<A> Arena<A> {
    /// Bytes that it was made with.
    #[must_use]
    pub fn size(&self) -> usize {
        self.region.len()
    }
}

impl<A> fmt::Debug for Arena<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("region", &self.region).finish_non_exhaustive()
    }
}

impl Session {
    /// Makes an arena of `bytes` bytes, rounded up to 4096, with the root that `root` returns. It is a
    /// region of the session with that name, and can be as large as one.
    ///
    /// # Errors
    /// - [`Error::Full`]: the root doesn't fit, or `root` said so of what it holds.
    /// - [`Error::Torn`].
    /// - As for [`Session::region`].
    ///
    /// No arena is made then, nor if `root` panics.
    pub fn arena<A: ArenaRoot>(
        &mut self,
        name: &str,
        bytes: usize,
        root: impl for<'r> FnOnce(Heap<'r>) -> Result<A::In<'r>, Full>,
    ) -> Result<Arena<A>, Error> {
        const {
            assert!(align_of::<A::In<'static>>() <= GRAIN, "a root is aligned to 16 bytes at most");
        }
        self.whole()?;
        let (element, identity) = (any::type_name::<A>(), identity::<A>());
        let region = self.arena_region(name, bytes, element, tag::<A::In<'static>>(identity))?;
        let unfinished = Unfinished { session: self, region: Some(region) };
        let memory = unfinished.memory();
        memory.initialise(unfinished.len(), size_of::<A::In<'static>>())?;
        write_header::<A>(memory, identity);
        let in_use = InUse::begin(memory);
        let root = root(Heap::new(memory))?;
        // SAFETY: `initialise` left room for it before the first block, and nothing was there before.
        unsafe { memory.write_root(root) };
        drop(in_use);
        Ok(Arena { region: unfinished.finish(), identity, root: PhantomData })
    }

    /// Lends an arena's root, to be read and changed.
    ///
    /// The brand `'r` of what the root holds is another one in each call, so that nothing of it can be
    /// kept. Return what is to be kept, in memory of the program's own.
    ///
    /// # Panics
    /// - If the arena is another session's.
    /// - If a rollback failed halfway ([`Error::Lost`]) and none has succeeded since.
    /// - If the arena's header was overwritten, which no safe code can do.
    #[track_caller]
    pub fn with<A: ArenaRoot, T>(
        &mut self,
        arena: &Arena<A>,
        work: impl for<'r> FnOnce(&mut A::In<'r>) -> T,
    ) -> T {
        let memory = self.memory_of(arena);
        let _in_use = InUse::begin(memory);
        // SAFETY: every arena has a root of this type (see `Arena`), and a rollback restores the bytes of
        // one. The session is borrowed exclusively, so this is the only reference.
        work(unsafe { memory.root_mut() })
    }

    /// Lends an arena's root, to be read. What `work` returns may borrow from the session.
    ///
    /// # Panics
    /// As for [`Session::with`].
    #[track_caller]
    pub fn read<'s, A: ArenaRoot, T>(
        &'s self,
        arena: &Arena<A>,
        work: impl for<'r> FnOnce(&'s A::In<'r>) -> T,
    ) -> T {
        let memory = self.memory_of(arena);
        // SAFETY: as in `with`. The session is borrowed for `'s`, and a shared root writes nothing: RegionData
        // has no interior mutability, and the allocator is only had from what is exclusively borrowed.
        work(unsafe { memory.root() })
    }

    /// Ends an arena: its memory goes back to the system. What it holds isn't dropped one by one.
    ///
    /// # Errors
    /// As for [`Session::drop_region`].
    ///
    /// # Panics
    /// If the arena is another session's.
    #[track_caller]
    pub fn drop_arena<A>(&mut self, arena: Arena<A>) -> Result<(), Error> {
        self.drop_region(arena.region)
    }

    #[track_caller]
    fn memory_of<A: ArenaRoot>(&self, arena: &Arena<A>) -> Memory {
        let block = self.block(&arena.region);
        // SAFETY: a region is whole pages, and stays while the session is borrowed. Nothing else has a
        // handle of this region; the engines read and write it when the session is borrowed exclusively.
        let memory = unsafe { Memory::of(block) };
        let expected = [
            (header::MAGIC, MAGIC),
            (header::VERSION, VERSION),
            (header::IDENTITY, arena.identity),
            (header::ROOT_BYTES, size_of::<A::In<'static>>() as u64),
            (header::BASE, memory.address() as u64),
            (header::LEN, block.len() as u64),
        ];
        for (at, word) in expected {
            let found = memory.word(at);
            assert!(
                found == word,
                "an arena's header was overwritten: {found:#x} at byte {at}, not {word:#x}"
            );
        }
        memory
    }
}

/// A region that is to become an arena; goes with this if it doesn't.
struct Unfinished<'s> {
    session: &'s mut Session,
    region: Option<Region<u8>>,
}

impl Unfinished<'_> {
    fn len(&self) -> usize {
        self.region.as_ref().map_or(0, |region| self.session.block(region).len())
    }

    fn memory(&self) -> Memory {
        let Some(region) = &self.region else { unreachable!("it is taken when this ends") };
        // SAFETY: as in `Session::memory_of`; the session is borrowed for as long as this lives.
        unsafe { Memory::of(self.session.block(region)) }
    }

    fn finish(mut self) -> Region<u8> {
        self.region.take().unwrap_or_else(|| unreachable!("it is taken when this ends"))
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(region) = self.region.take() {
            // If the engine can't let go of it, the session keeps a region that nobody has a handle of.
            let _ = self.session.drop_region(region);
        }
    }
}

/// Writes what doesn't change: all but the allocator's words.
fn write_header<A: ArenaRoot>(memory: Memory, identity: u64) {
    // Each of these has random keys of its own.
    let random = || RandomState::new().build_hasher().finish();
    memory.set_word(header::SEED, random());
    memory.set_word(header::SEED + 8, random());
    memory.set_offset(header::ROOT_BYTES, size_of::<A::In<'static>>());
    memory.set_offset(header::BASE, memory.address());
    memory.set_word(header::IDENTITY, identity);
    memory.set_word(header::VERSION, VERSION);
    memory.set_word(header::MAGIC, MAGIC);
}

/// A hash of the root type and of all that it's made of: for telling a program that an arena is another's.
fn identity<A: ArenaRoot>() -> u64 {
    let mut shape = Shape::default();
    shape.number(VERSION);
    <A::In<'static> as RegionData>::describe(&mut shape);
    shape.hash()
}
