//! A vector in an arena.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use super::memory::GRAIN;
use super::{Full, Heap, RegionData};

/// Elements in one piece of an arena's memory, like std's `Vec`, with all of its slice methods.
///
/// What needs memory returns [`Full`] when the arena has none, and changes nothing then. An element type
/// without size, or one aligned to more than 16 bytes, doesn't compile:
///
/// ```compile_fail,E0080
/// # use cairn_guest::{Session, region_data, arena::Vector};
/// region_data! { struct Nothings<'r> { all: Vector<'r, ()> } }
/// # fn main() -> Result<(), cairn_guest::Error> {
/// let mut session = Session::open()?;
/// let arena = session.arena::<Nothings>("nothings", 4096, |heap| Ok(Nothings { all: heap.vector() }))?;
/// # Ok(())
/// # }
/// ```
///
/// ```
/// # use cairn_guest::{Session, region_data, arena::Vector};
/// region_data! { struct Flags<'r> { all: Vector<'r, bool> } }
/// # fn main() -> Result<(), cairn_guest::Error> {
/// let mut session = Session::open()?;
/// let arena = session.arena::<Flags>("flags", 4096, |heap| Ok(Flags { all: heap.vector() }))?;
/// # Ok(())
/// # }
/// ```
#[repr(C)]
pub struct Vector<'r, T: RegionData> {
    heap: Heap<'r>,
    /// Where its memory is in the arena; means nothing without capacity.
    start: usize,
    len: usize,
    capacity: usize,
    elements: PhantomData<T>,
}

impl<'r, T: RegionData> Vector<'r, T> {
    pub(super) fn new(heap: Heap<'r>) -> Self {
        const {
            assert!(size_of::<T>() > 0, "an element has at least one byte");
            assert!(align_of::<T>() <= GRAIN, "an element is aligned to 16 bytes at most");
        }
        Self { heap, start: 0, len: 0, capacity: 0, elements: PhantomData }
    }

    /// The arena's allocator, for making more to put into it.
    pub fn heap(&mut self) -> Heap<'r> {
        self.heap
    }

    /// Elements that fit without taking more memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The elements.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `len` elements were written from `first` on, which is this vector's own memory, aligned
        // for them; without any, `first` dangles and is aligned. Writers need `&mut self`.
        unsafe { slice::from_raw_parts(self.first(), self.len) }
    }

    /// The elements, to be changed.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`; `&mut self` makes this the only reference.
        unsafe { slice::from_raw_parts_mut(self.first(), self.len) }
    }

    /// Makes room for `more` elements, so that adding them can't fail.
    ///
    /// # Errors
    /// [`Full`].
    pub fn reserve(&mut self, more: usize) -> Result<(), Full> {
        let wanted = self.len.saturating_add(more);
        if wanted <= self.capacity {
            return Ok(());
        }
        // Twice as many, so that a vector that grows one by one moves seldom.
        self.grow(wanted.max(self.capacity.saturating_mul(2))).or_else(|_| self.grow(wanted))
    }

    /// Adds an element at the end.
    ///
    /// # Errors
    /// [`Full`]; the element is dropped.
    pub fn push(&mut self, element: T) -> Result<(), Full> {
        self.reserve(1)?;
        // SAFETY: there is room for an element behind the last, in this vector's own memory.
        unsafe { self.first().add(self.len).write(element) };
        self.len += 1;
        Ok(())
    }

    /// Takes the last element.
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: the element there was written, and is out of the vector now that `len` doesn't count it.
        Some(unsafe { self.first().add(self.len).read() })
    }

    /// Adds an element before the one at `index`, or at the end.
    ///
    /// # Errors
    /// [`Full`]; the element is dropped.
    ///
    /// # Panics
    /// If `index` is beyond the end.
    #[track_caller]
    pub fn insert(&mut self, index: usize, element: T) -> Result<(), Full> {
        assert!(index <= self.len, "no place {index} in a vector of {}", self.len);
        self.push(element)?;
        self[index..].rotate_right(1);
        Ok(())
    }

    /// Takes the element at `index`; those after it move up.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn remove(&mut self, index: usize) -> T {
        self[index..].rotate_left(1);
        self.pop().unwrap_or_else(|| unreachable!("an element was there"))
    }

    /// Takes the element at `index`; the last one takes its place.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn swap_remove(&mut self, index: usize) -> T {
        let last = self.len.saturating_sub(1);
        self.swap(index, last);
        self.pop().unwrap_or_else(|| unreachable!("an element was there"))
    }

    /// Drops all elements from the one at `len` on. The memory stays with the vector.
    pub fn truncate(&mut self, len: usize) {
        // One by one: if a drop panics, the rest is still counted, and the one that did is not.
        while len < self.len {
            drop(self.pop());
        }
    }

    /// Drops all elements. The memory stays with the vector.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Adds copies of elements at the end.
    ///
    /// # Errors
    /// [`Full`]; none is added then.
    pub fn extend_from_slice(&mut self, elements: &[T]) -> Result<(), Full>
    where
        T: Copy,
    {
        self.reserve(elements.len())?;
        // SAFETY: there is room for them behind the last element, in this vector's own memory, where
        // `elements` can't point: `self` is borrowed exclusively.
        unsafe { self.first().add(self.len).copy_from_nonoverlapping(elements.as_ptr(), elements.len()) };
        self.len += elements.len();
        Ok(())
    }

    /// Drops elements from the end, or adds copies of `element` there, until there are `len`.
    ///
    /// # Errors
    /// [`Full`]; none is added then.
    pub fn resize(&mut self, len: usize, element: T) -> Result<(), Full>
    where
        T: Copy,
    {
        self.truncate(len);
        self.reserve(len - self.len)?;
        while self.len < len {
            self.push(element)?;
        }
        Ok(())
    }

    /// The first element's place.
    fn first(&self) -> *mut T {
        if self.capacity == 0 {
            return NonNull::dangling().as_ptr();
        }
        self.heap.memory.pointer(self.start)
    }

    /// Gives it memory for `capacity` elements, more than it has.
    fn grow(&mut self, capacity: usize) -> Result<(), Full> {
        let memory = self.heap.memory;
        let bytes = capacity.saturating_mul(size_of::<T>());
        let extended = if self.capacity == 0 { None } else { memory.extend(self.start, bytes) };
        let usable = match extended {
            Some(usable) => usable,
            None => {
                let (start, usable) = memory.allocate(bytes)?;
                // SAFETY: the elements are this vector's, the new memory is nobody else's yet and has room
                // for them, and blocks don't overlap. The old ones are not used or dropped any more.
                unsafe { memory.pointer::<T>(start).copy_from_nonoverlapping(self.first(), self.len) };
                self.free();
                self.start = start;
                usable
            }
        };
        self.capacity = usable / size_of::<T>();
        Ok(())
    }

    /// Gives its memory back.
    fn free(&mut self) {
        if self.capacity != 0 {
            self.heap.memory.release(self.start);
            self.capacity = 0;
        }
    }
}

impl<T: RegionData> Drop for Vector<'_, T> {
    fn drop(&mut self) {
        self.clear();
        self.free();
    }
}

impl<T: RegionData> Deref for Vector<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T: RegionData> DerefMut for Vector<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.as_mut_slice()
    }
}

impl<T: RegionData> Borrow<[T]> for Vector<'_, T> {
    fn borrow(&self) -> &[T] {
        self
    }
}

impl<T: RegionData + fmt::Debug> fmt::Debug for Vector<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

impl<T: RegionData + PartialEq> PartialEq for Vector<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T: RegionData + Eq> Eq for Vector<'_, T> {}

impl<T: RegionData + PartialOrd> PartialOrd for Vector<'_, T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.as_slice().partial_cmp(other.as_slice())
    }
}

impl<T: RegionData + Ord> Ord for Vector<'_, T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl<T: RegionData + Hash> Hash for Vector<'_, T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl<'v, T: RegionData> IntoIterator for &'v Vector<'_, T> {
    type Item = &'v T;
    type IntoIter = slice::Iter<'v, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'v, T: RegionData> IntoIterator for &'v mut Vector<'_, T> {
    type Item = &'v mut T;
    type IntoIter = slice::IterMut<'v, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}
