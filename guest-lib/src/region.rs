//! Handles of regions, and the regions of a session.

use std::any::type_name;
use std::marker::PhantomData;
use std::slice::GetDisjointMutError;

use cairn_abi::{RegionId, RegionName};
use zerocopy::FromBytes;

use crate::element::Element;
use crate::error::Error;
use crate::hints::Check;
use crate::memory::Block;
use crate::shape::element_tag;

/// A handle of `len` elements that belong to a session.
///
/// It isn't `Clone`: [`Session::drop_region`](crate::Session::drop_region) takes it, so no handle
/// names memory that is gone. A handle that is just dropped leaves its region to the session.
///
/// ```compile_fail,E0599
/// # fn main() -> Result<(), cairn_guest::Error> {
/// let mut session = cairn_guest::Session::open()?;
/// let table = session.region::<u64>("table", 16)?;
/// let twin = table.clone();
/// # Ok(())
/// # }
/// ```
///
/// ```
/// # fn main() -> Result<(), cairn_guest::Error> {
/// let mut session = cairn_guest::Session::open()?;
/// let table = session.region::<u64>("table", 16)?;
/// let twin = &table;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Region<T> {
    session: u64,
    slot: usize,
    len: usize,
    element: PhantomData<fn() -> T>,
}

impl<T> Region<T> {
    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Always false: a region has at least one element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A region of this session.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: RegionId,
    pub(crate) name: RegionName,
    pub(crate) block: Block,
    /// If hints are checked.
    pub(crate) check: Option<Check>,
    /// What its type is called.
    pub(crate) element: &'static str,
    /// The type as the store knows it.
    pub(crate) tag: u64,
    /// Whether addresses in it mean something.
    pub(crate) is_arena: bool,
}

/// What is in a region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents {
    pub(crate) element: &'static str,
    pub(crate) tag: u64,
    pub(crate) is_arena: bool,
}

impl Contents {
    /// Elements of this type.
    pub(crate) fn of<T>() -> Self {
        Self { element: type_name::<T>(), tag: element_tag::<T>(), is_arena: false }
    }
}

/// The regions of one session, in the order of their slots.
#[derive(Debug)]
pub struct Regions {
    session: u64,
    slots: Vec<Option<Entry>>,
}

impl Regions {
    pub(crate) fn new(session: u64) -> Self {
        Self { session, slots: Vec::new() }
    }

    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// Takes `entry` in and gives the handle of its first `len` elements.
    pub(crate) fn insert<T: Element>(&mut self, entry: Entry, len: usize) -> Region<T> {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(entry);
        Region { session: self.session, slot, len, element: PhantomData }
    }

    #[track_caller]
    pub(crate) fn get<T>(&self, region: &Region<T>) -> &Entry {
        let slot = self.slot(region);
        self.slots[slot].as_ref().unwrap_or_else(|| unreachable!("a handle outlived its region"))
    }

    #[track_caller]
    pub(crate) fn get_mut<T>(&mut self, region: &Region<T>) -> &mut Entry {
        let slot = self.slot(region);
        self.slots[slot].as_mut().unwrap_or_else(|| unreachable!("a handle outlived its region"))
    }

    /// Refuses if a region whose hints are checked was written elsewhere.
    pub(crate) fn check_hints(&self) -> Result<(), Error> {
        for entry in self.iter() {
            let missed = entry.check.as_ref().and_then(|check| check.missed(&entry.block));
            if let Some(offset) = missed {
                return Err(Error::NotHinted { region: entry.name.to_string(), offset });
            }
        }
        Ok(())
    }

    /// After a checkpoint or a rollback: what regions hold is what they may hold.
    pub(crate) fn renew_checks(&mut self) {
        for Entry { block, check, .. } in self.iter_mut() {
            if let Some(check) = check {
                check.renew(block);
            }
        }
    }

    /// Gives the region back with its memory, of which no slice is left: they borrow the session.
    pub(crate) fn remove<T>(&mut self, region: &Region<T>) -> Option<Entry> {
        let slot = self.slot(region);
        self.slots[slot].take()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.slots.iter_mut().flatten()
    }

    pub(crate) fn slice<T: Element>(&self, region: &Region<T>) -> &[T] {
        elements(self.get(region).block.bytes(), region.len)
    }

    pub(crate) fn slice_mut<T: Element>(&mut self, region: &Region<T>) -> &mut [T] {
        let slot = self.slot(region);
        let entry = self.slots[slot].as_mut();
        elements_mut(entry.map(|entry| entry.block.bytes_mut()), region.len)
    }

    /// # Panics
    /// If the handle is another session's: a mistake in the program that no run can get right.
    #[track_caller]
    fn slot<T>(&self, region: &Region<T>) -> usize {
        assert!(
            region.session == self.session,
            "a region was used with a session that it does not belong to: every session has its own regions"
        );
        region.slot
    }

    /// The memory of several regions at once.
    ///
    /// # Panics
    /// If a region is named twice: that would be two exclusive references to the same memory.
    #[track_caller]
    fn disjoint<const N: usize>(&mut self, slots: [usize; N]) -> [Option<&mut [u8]>; N] {
        match self.slots.get_disjoint_mut(slots) {
            Ok(entries) => entries.map(|entry| entry.as_mut().map(|entry| entry.block.bytes_mut())),
            Err(GetDisjointMutError::OverlappingIndices) => {
                panic!("slices_mut was given the same region twice: each may be named once")
            }
            Err(GetDisjointMutError::IndexOutOfBounds) => unreachable!("a handle outlived its region"),
        }
    }
}

/// Tuples of two to eight references to regions, for [`Session::slices_mut`](crate::Session::slices_mut).
///
/// Nobody else can implement it: the type that `split` takes has no name outside this crate.
pub trait RegionTuple {
    /// The tuple of slices.
    type Slices<'s>;

    #[doc(hidden)]
    #[track_caller]
    fn split(self, regions: &mut Regions) -> Self::Slices<'_>;
}

macro_rules! region_tuple {
    ($($element:ident $region:ident $memory:ident),+) => {
        impl<$($element: Element),+> RegionTuple for ($(&Region<$element>,)+) {
            type Slices<'s> = ($(&'s mut [$element],)+);

            #[track_caller]
            fn split(self, regions: &mut Regions) -> Self::Slices<'_> {
                let ($($region,)+) = self;
                let [$($memory),+] = regions.disjoint([$(regions.slot($region)),+]);
                ($(elements_mut($memory, $region.len),)+)
            }
        }
    };
}

region_tuple!(A a a_bytes, B b b_bytes);
region_tuple!(A a a_bytes, B b b_bytes, C c c_bytes);
region_tuple!(A a a_bytes, B b b_bytes, C c c_bytes, D d d_bytes);
region_tuple!(A a a_bytes, B b b_bytes, C c c_bytes, D d d_bytes, E e e_bytes);
region_tuple!(A a a_bytes, B b b_bytes, C c c_bytes, D d d_bytes, E e e_bytes, F f f_bytes);
region_tuple!(A a a_bytes, B b b_bytes, C c c_bytes, D d d_bytes, E e e_bytes, F f f_bytes, G g g_bytes);
region_tuple!(A a a_bytes, B b b_bytes, C c c_bytes, D d d_bytes, E e e_bytes, F f f_bytes, G g g_bytes, H h h_bytes);

/// The first `len` elements of a region's bytes.
fn elements<T: Element>(bytes: &[u8], len: usize) -> &[T] {
    match <[T]>::ref_from_prefix_with_elems(bytes, len) {
        Ok((elements, _)) => elements,
        Err(_) => unreachable!("a region is page-aligned and holds its elements"),
    }
}

/// Like [`elements`], to be written. No region there means that a handle outlived it.
fn elements_mut<T: Element>(bytes: Option<&mut [u8]>, len: usize) -> &mut [T] {
    match bytes.map(|bytes| <[T]>::mut_from_prefix_with_elems(bytes, len)) {
        Some(Ok((elements, _))) => elements,
        Some(Err(_)) => unreachable!("a region is page-aligned and holds its elements"),
        None => unreachable!("a handle outlived its region"),
    }
}
