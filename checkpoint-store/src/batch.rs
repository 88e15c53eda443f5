//! A batch: what one checkpoint adds to its parent, gathered while the program stands still.

use std::collections::HashSet;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use cairn_abi::CheckpointId;
use thiserror::Error;

use crate::object::{MAX_OBJECT_PAGES, NameError, Object, ObjectIndex, ObjectName};
use crate::section::MAX_SECTION_BYTES;
use crate::{CHUNK_SIZE, PAGE_SIZE};

/// Objects that a checkpoint may have: bounds the names that a reader keeps.
pub(crate) const MAX_OBJECTS: usize = 1 << 20;
/// Sections that a checkpoint may have.
pub(crate) const MAX_SECTIONS: usize = 1 << 16;
/// Bytes of one piece of the buffer. Pieces never move, so that growing costs no copy.
const SLAB: usize = 1 << 20;

/// Why something can't be part of a batch.
#[derive(Clone, PartialEq, Eq, Error, Debug)]
pub enum BatchError {
    /// The object wasn't named in this batch.
    #[error("object number {0} is not of this batch")]
    NoSuchObject(u32),
    /// Two objects of one name.
    #[error("two objects are named '{0}'")]
    SameName(ObjectName),
    /// Two sections of one name.
    #[error("two sections are named '{0}'")]
    SameSection(String),
    /// Pages that the object hasn't got.
    #[error("pages {first}..{end} of '{object}', which has {pages}")]
    Outside {
        /// The object's name.
        object: ObjectName,
        /// First page.
        first: u64,
        /// Page behind the last.
        end: u64,
        /// The object's pages.
        pages: u64,
    },
    /// A page named twice.
    #[error("page {page} of '{object}' is named twice")]
    Twice {
        /// The object's name.
        object: ObjectName,
        /// The page.
        page: u64,
    },
    /// Chunks whose bytes are not as many as the mask says.
    #[error("{bytes} bytes for {chunks} chunks")]
    Chunks {
        /// Bytes given.
        bytes: usize,
        /// Chunks in the mask.
        chunks: u32,
    },
    /// Chunks in a checkpoint that has no parent to take the others from.
    #[error("page {page} of '{object}' is given in part, but the checkpoint has no parent")]
    PartWithoutParent {
        /// The object's name.
        object: ObjectName,
        /// The page.
        page: u64,
    },
    /// A section's name.
    #[error("a section's name: {0}")]
    Name(#[from] NameError),
    /// More objects, sections, pages or bytes than a checkpoint may have.
    #[error("more {0} than a checkpoint may have")]
    TooMany(&'static str),
    /// The id is 0, or not above the store's newest.
    #[error("its id must be above {0}, the newest of the store")]
    Order(u64),
    /// The id is above 2^63.
    #[error("its id is above 2^63")]
    Id,
    /// The parent is not in the store.
    #[error("its parent {0} is not in the store")]
    Parent(u64),
}

/// What a page or a span of pages is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// Zeros.
    Zero {
        /// Pages.
        count: u64,
    },
    /// All bytes of one page.
    Page(Place),
    /// Some chunks.
    Chunks {
        /// Which.
        mask: u64,
        /// Their bytes.
        place: Place,
    },
}

/// Bytes in the batch's buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    slab: u32,
    at: u32,
}

/// One thing that a batch says of an object's pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) object: u32,
    pub(crate) page: u64,
    pub(crate) content: Content,
}

/// What a batch says of an object's pages, to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change<'a> {
    /// From the first page so many are zero.
    Zero(u64, u64),
    /// The page's new content.
    Page(u64, &'a [u8; PAGE_SIZE]),
    /// Some chunks of the page are new: which, and their bytes.
    Chunks(u64, u64, &'a [u8]),
}

/// What one checkpoint adds. Appending copies into buffers that are kept for the next batch; nothing is hashed,
/// compressed or sorted before [`crate::Writer::commit`].
#[derive(Debug)]
pub struct Batch {
    id: CheckpointId,
    parent: Option<CheckpointId>,
    time_ms: u64,
    objects: Vec<Object>,
    entries: Vec<Entry>,
    sections: Vec<(ObjectName, Vec<u8>)>,
    /// Slabs of [`SLAB`] bytes of capacity; those behind `slab` are empty.
    slabs: Vec<Vec<u8>>,
    slab: usize,
    bytes: usize,
}

impl Batch {
    /// Begins checkpoint `id`. Without a parent it is complete in itself, and pages that it doesn't name are zero;
    /// with one they are as in the parent's object of the same name, and zero if that has no such page.
    #[must_use]
    pub fn new(id: CheckpointId, parent: Option<CheckpointId>) -> Self {
        Self {
            id,
            parent,
            time_ms: now_ms(),
            objects: Vec::new(),
            entries: Vec::new(),
            sections: Vec::new(),
            slabs: Vec::new(),
            slab: 0,
            bytes: 0,
        }
    }

    /// Begins another checkpoint in the same buffers.
    pub fn reset(&mut self, id: CheckpointId, parent: Option<CheckpointId>) {
        self.id = id;
        self.parent = parent;
        self.time_ms = now_ms();
        self.objects.clear();
        self.entries.clear();
        self.sections.clear();
        self.slabs.iter_mut().for_each(Vec::clear);
        self.slab = 0;
        self.bytes = 0;
    }

    /// The checkpoint's id.
    #[must_use]
    pub fn id(&self) -> CheckpointId {
        self.id
    }

    /// What it is a change to.
    #[must_use]
    pub fn parent(&self) -> Option<CheckpointId> {
        self.parent
    }

    /// Names an object. All objects of the checkpoint are named in each batch, changed or not: what isn't named
    /// isn't there.
    ///
    /// # Errors
    /// More than [`MAX_OBJECT_PAGES`] pages, or too many objects. That names differ is checked at the commit.
    pub fn object(&mut self, object: Object) -> Result<ObjectIndex, BatchError> {
        if MAX_OBJECTS <= self.objects.len() {
            return Err(BatchError::TooMany("objects"));
        }
        if MAX_OBJECT_PAGES < object.pages {
            return Err(BatchError::TooMany("pages in an object"));
        }
        let index = u32::try_from(self.objects.len()).map_err(|_| BatchError::TooMany("objects"))?;
        self.objects.push(object);
        Ok(ObjectIndex(index))
    }

    /// The page's new content.
    ///
    /// # Errors
    /// No such object or page.
    pub fn page(
        &mut self,
        object: ObjectIndex,
        page: u64,
        bytes: &[u8; PAGE_SIZE],
    ) -> Result<(), BatchError> {
        self.check(object, page, 1)?;
        let place = self.keep(bytes)?;
        self.entries.push(Entry { object: object.0, page, content: Content::Page(place) });
        Ok(())
    }

    /// These pages are zero now.
    ///
    /// # Errors
    /// No such object or pages.
    pub fn zero(&mut self, object: ObjectIndex, pages: Range<u64>) -> Result<(), BatchError> {
        let count = pages.end.saturating_sub(pages.start);
        self.check(object, pages.start, count)?;
        if count != 0 {
            self.entries.push(Entry {
                object: object.0,
                page: pages.start,
                content: Content::Zero { count },
            });
        }
        Ok(())
    }

    /// Some chunks of a page, the others being as in the parent: bit i of `mask` is chunk i, and `bytes` are the
    /// chunks in order.
    ///
    /// # Errors
    /// No such object or page, no parent, or not 64 bytes for each bit of the mask.
    pub fn chunks(
        &mut self,
        object: ObjectIndex,
        page: u64,
        mask: u64,
        bytes: &[u8],
    ) -> Result<(), BatchError> {
        self.check(object, page, 1)?;
        if bytes.len() != mask.count_ones() as usize * CHUNK_SIZE {
            return Err(BatchError::Chunks { bytes: bytes.len(), chunks: mask.count_ones() });
        }
        if self.parent.is_none() {
            let object = self.objects[object.place()].name.clone();
            return Err(BatchError::PartWithoutParent { object, page });
        }
        if mask == 0 {
            return Ok(());
        }
        let place = self.keep(bytes)?;
        let content = if mask == u64::MAX { Content::Page(place) } else { Content::Chunks { mask, place } };
        self.entries.push(Entry { object: object.0, page, content });
        Ok(())
    }

    /// Adds a small named value of this checkpoint alone: nothing is taken from the parent.
    ///
    /// # Errors
    /// A name that is no name, or more than [`MAX_SECTION_BYTES`].
    pub fn section(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), BatchError> {
        if MAX_SECTION_BYTES < bytes.len() {
            return Err(BatchError::TooMany("bytes in a section"));
        }
        if MAX_SECTIONS <= self.sections.len() {
            return Err(BatchError::TooMany("sections"));
        }
        let name = ObjectName::new(name)?;
        if self.sections.iter().any(|(other, _)| *other == name) {
            return Err(BatchError::SameSection(name.as_str().to_owned()));
        }
        self.bytes += bytes.len();
        self.sections.push((name, bytes));
        Ok(())
    }

    /// Bytes of content gathered: pages, chunks and sections.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn check(&self, object: ObjectIndex, page: u64, count: u64) -> Result<(), BatchError> {
        let known = self.objects.get(object.place()).ok_or(BatchError::NoSuchObject(object.0))?;
        match page.checked_add(count) {
            Some(end) if end <= known.pages => Ok(()),
            end => Err(BatchError::Outside {
                object: known.name.clone(),
                first: page,
                end: end.unwrap_or(u64::MAX),
                pages: known.pages,
            }),
        }
    }

    /// Copies `bytes`, at most a page, into the buffer.
    fn keep(&mut self, bytes: &[u8]) -> Result<Place, BatchError> {
        if self.slabs.get(self.slab).is_some_and(|slab| SLAB - slab.len() < bytes.len()) {
            self.slab += 1;
        }
        if self.slab == self.slabs.len() {
            self.slabs.push(Vec::with_capacity(SLAB));
        }
        let slab = &mut self.slabs[self.slab];
        let too_many = |_| BatchError::TooMany("bytes");
        let place = Place {
            slab: u32::try_from(self.slab).map_err(too_many)?,
            at: u32::try_from(slab.len()).map_err(too_many)?,
        };
        slab.extend_from_slice(bytes);
        self.bytes += bytes.len();
        Ok(place)
    }

    /// The bytes kept at `place`.
    pub(crate) fn kept(&self, place: Place, len: usize) -> &[u8] {
        &self.slabs[place.slab as usize][place.at as usize..][..len]
    }

    /// The page kept at `place`.
    pub(crate) fn kept_page(&self, place: Place) -> &[u8; PAGE_SIZE] {
        self.slabs[place.slab as usize][place.at as usize..].first_chunk().expect("a page was kept here")
    }

    pub(crate) fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The objects that were named, in that order.
    #[must_use]
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// The sections' names and bytes, in the order in which they were added.
    pub fn named_sections(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.sections.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// What it says of pages, each with its object's place in [`objects`](Self::objects), in the order in which it was
    /// said.
    pub fn changes(&self) -> impl Iterator<Item = (usize, Change<'_>)> {
        self.entries.iter().map(|entry| {
            let change = match entry.content {
                Content::Zero { count } => Change::Zero(entry.page, count),
                Content::Page(place) => Change::Page(entry.page, self.kept_page(place)),
                Content::Chunks { mask, place } => {
                    let len = mask.count_ones() as usize * CHUNK_SIZE;
                    Change::Chunks(entry.page, mask, self.kept(place, len))
                }
            };
            (entry.object as usize, change)
        })
    }

    pub(crate) fn sections(&self) -> &[(ObjectName, Vec<u8>)] {
        &self.sections
    }

    /// The entries in the order of objects and pages, each page once.
    pub(crate) fn sorted(&self) -> Result<Vec<Entry>, BatchError> {
        let mut names = HashSet::with_capacity(self.objects.len());
        if let Some(object) = self.objects.iter().find(|object| !names.insert(&object.name)) {
            return Err(BatchError::SameName(object.name.clone()));
        }
        let mut entries = self.entries.clone();
        if !entries.is_sorted_by_key(|entry| (entry.object, entry.page)) {
            entries.sort_unstable_by_key(|entry| (entry.object, entry.page));
        }
        for pair in entries.windows(2) {
            let count = if let Content::Zero { count } = pair[0].content { count } else { 1 };
            if pair[0].object == pair[1].object && pair[1].page < pair[0].page + count {
                let object = self.objects[pair[0].object as usize].name.clone();
                return Err(BatchError::Twice { object, page: pair[1].page });
            }
        }
        Ok(entries)
    }
}

/// Milliseconds since 1970: a label, nothing is decided by it.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
