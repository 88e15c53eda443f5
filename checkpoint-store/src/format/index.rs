//! A checkpoint's index: its objects, and where each page is.

use std::collections::HashSet;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::record::Encoding;
use super::{BLOCK_BYTES, MAX_INDEX_BYTES, len32, len64};
use crate::batch::{MAX_OBJECTS, MAX_SECTIONS};
use crate::object::{MAX_OBJECT_PAGES, Object, ObjectName};
use crate::section::MAX_SECTION_BYTES;
use crate::{CHUNK_SIZE, PAGE_SIZE};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
struct Header {
    objects: U32,
    sections: U32,
    blocks: U32,
    names: U32,
    runs: U64,
}

/// Where a block or a section is, and what it must be: what its record's header says, said again under the
/// index's checksum.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub(crate) struct Place {
    /// Where its record begins, from the first of the checkpoint's records.
    pub(crate) at: U64,
    pub(crate) stored: U32,
    pub(crate) raw: U32,
    pub(crate) crc: U32,
    pub(crate) encoding: u8,
    pub(crate) reserved: [u8; 3],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
struct RawObject {
    name_len: U16,
    reserved: [u8; 6],
    tag: U64,
    address: U64,
    pages: U64,
    runs: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
struct RawSection {
    name_len: U16,
    reserved: [u8; 6],
    place: Place,
}

/// What consecutive pages of an object are.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Debug)]
#[repr(C)]
pub(crate) struct RawRun {
    page: U64,
    count: U32,
    block: U32,
    offset: U32,
    kind: u8,
    reserved: [u8; 3],
}

/// Bytes of a chunk mask in a block, before the chunks.
pub(crate) const MASK_BYTES: usize = 8;
const ZERO: u8 = 0;
const PAGES: u8 = 1;
const REPEAT: u8 = 2;
const CHUNKS: u8 = 3;

/// What the pages of a run are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// Zeros.
    Zero,
    /// One page after another in a block.
    Pages { block: u32, offset: u32 },
    /// The same page again and again.
    Repeat { block: u32, offset: u32 },
    /// One page, some chunks of it: a mask and the chunks in a block.
    Chunks { block: u32, offset: u32 },
}

/// What consecutive pages of an object are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) page: u64,
    pub(crate) count: u32,
    pub(crate) source: Source,
}

impl From<Run> for RawRun {
    fn from(run: Run) -> Self {
        let (kind, block, offset) = match run.source {
            Source::Zero => (ZERO, 0, 0),
            Source::Pages { block, offset } => (PAGES, block, offset),
            Source::Repeat { block, offset } => (REPEAT, block, offset),
            Source::Chunks { block, offset } => (CHUNKS, block, offset),
        };
        Self {
            page: run.page.into(),
            count: run.count.into(),
            block: block.into(),
            offset: offset.into(),
            kind,
            reserved: [0; 3],
        }
    }
}

impl RawRun {
    pub(crate) fn page(&self) -> u64 {
        self.page.get()
    }

    /// The page behind the last.
    pub(crate) fn end(&self) -> u64 {
        self.page.get() + u64::from(self.count.get())
    }

    fn checked(&self) -> Option<Run> {
        let (block, offset) = (self.block.get(), self.offset.get());
        let source = match self.kind {
            ZERO => Source::Zero,
            PAGES => Source::Pages { block, offset },
            REPEAT => Source::Repeat { block, offset },
            CHUNKS => Source::Chunks { block, offset },
            _ => return None,
        };
        Some(Run { page: self.page.get(), count: self.count.get(), source })
    }

    /// The run. Only those of a decoded index are asked, whose kinds were checked.
    pub(crate) fn run(&self) -> Run {
        self.checked().unwrap_or(Run { page: self.page(), count: self.count.get(), source: Source::Zero })
    }
}

/// An object and its runs, ascending by page and without overlap.
#[derive(Debug)]
pub(crate) struct IndexObject {
    pub(crate) object: Object,
    pub(crate) runs: Vec<RawRun>,
}

/// A checkpoint's index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) objects: Vec<IndexObject>,
    pub(crate) sections: Vec<(ObjectName, Place)>,
    pub(crate) blocks: Vec<Place>,
}

impl Index {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let names = self.objects.iter().map(|object| &object.object.name);
        let names: Vec<u8> = names
            .chain(self.sections.iter().map(|(name, _)| name))
            .flat_map(|name| name.as_str().bytes())
            .collect();
        let header = Header {
            objects: len32(self.objects.len()).into(),
            sections: len32(self.sections.len()).into(),
            blocks: len32(self.blocks.len()).into(),
            names: len32(names.len()).into(),
            runs: self.objects.iter().map(|object| len64(object.runs.len())).sum::<u64>().into(),
        };
        let mut bytes = header.as_bytes().to_vec();
        for IndexObject { object, runs } in &self.objects {
            let raw = RawObject {
                name_len: name_len(&object.name),
                reserved: [0; 6],
                tag: object.tag.into(),
                address: object.address.into(),
                pages: object.pages.into(),
                runs: len64(runs.len()).into(),
            };
            bytes.extend_from_slice(raw.as_bytes());
        }
        for (name, place) in &self.sections {
            let raw = RawSection { name_len: name_len(name), reserved: [0; 6], place: *place };
            bytes.extend_from_slice(raw.as_bytes());
        }
        bytes.extend_from_slice(self.blocks.as_bytes());
        for object in &self.objects {
            bytes.extend_from_slice(object.runs.as_bytes());
        }
        bytes.extend_from_slice(&names);
        bytes
    }

    /// Bytes that [`Index::encode`] makes, at most.
    pub(crate) fn encoded_len(&self) -> usize {
        let runs: usize = self.objects.iter().map(|object| object.runs.len()).sum();
        size_of::<Header>()
            + self.objects.len() * (size_of::<RawObject>() + 255)
            + self.sections.len() * (size_of::<RawSection>() + 255)
            + size_of_val(self.blocks.as_slice())
            + runs * size_of::<RawRun>()
    }

    /// Reads an index whose checkpoint's records before the index have `group` bytes. All that it claims of places
    /// and order is checked here, once.
    pub(crate) fn decode(bytes: &[u8], group: u64) -> Result<Self, &'static str> {
        const SHORT: &str = "the index is shorter or longer than its counts say";
        debug_assert!(bytes.len() <= MAX_INDEX_BYTES);
        let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| SHORT)?;
        let (objects, sections) = (header.objects.get() as usize, header.sections.get() as usize);
        if MAX_OBJECTS < objects || MAX_SECTIONS < sections {
            return Err("the index has more objects or sections than a checkpoint may have");
        }
        let (objects, rest) = <[RawObject]>::ref_from_prefix_with_elems(rest, objects).map_err(|_| SHORT)?;
        let (sections, rest) =
            <[RawSection]>::ref_from_prefix_with_elems(rest, sections).map_err(|_| SHORT)?;
        let blocks = header.blocks.get() as usize;
        let (blocks, rest) = <[Place]>::ref_from_prefix_with_elems(rest, blocks).map_err(|_| SHORT)?;
        let runs = usize::try_from(header.runs.get()).map_err(|_| SHORT)?;
        let (mut runs, mut names) = <[RawRun]>::ref_from_prefix_with_elems(rest, runs).map_err(|_| SHORT)?;
        if names.len() != header.names.get() as usize {
            return Err(SHORT);
        }
        if blocks.iter().any(|block| !block.fits(group, BLOCK_BYTES)) {
            return Err("a block of the index is not within its checkpoint");
        }
        let mut index = Self { blocks: blocks.to_vec(), ..Self::default() };
        let mut seen = HashSet::new();
        for raw in objects {
            let name = take_name(&mut names, raw.name_len)?;
            if !seen.insert(name.clone()) {
                return Err("two objects of one name");
            }
            let pages = raw.pages.get();
            if MAX_OBJECT_PAGES < pages {
                return Err("an object has more pages than the format allows");
            }
            let count = usize::try_from(raw.runs.get()).ok().filter(|count| *count <= runs.len());
            let (own, others) = runs.split_at(count.ok_or(SHORT)?);
            runs = others;
            check_runs(own, pages, blocks)?;
            let object = Object { name, tag: raw.tag.get(), address: raw.address.get(), pages };
            index.objects.push(IndexObject { object, runs: own.to_vec() });
        }
        seen.clear();
        for raw in sections {
            let name = take_name(&mut names, raw.name_len)?;
            if !raw.place.fits(group, MAX_SECTION_BYTES) || !seen.insert(name.clone()) {
                return Err("a section of the index is not within its checkpoint, or named twice");
            }
            index.sections.push((name, raw.place));
        }
        if !runs.is_empty() || !names.is_empty() {
            return Err(SHORT);
        }
        Ok(index)
    }
}

impl Place {
    pub(crate) fn new(at: u64, stored: usize, raw: usize, crc: u32, encoding: Encoding) -> Self {
        Self {
            at: at.into(),
            stored: len32(stored).into(),
            raw: len32(raw).into(),
            crc: crc.into(),
            encoding: encoding.byte(),
            reserved: [0; 3],
        }
    }

    fn fits(&self, group: u64, most: usize) -> bool {
        let end = self.at.get().checked_add(u64::from(self.stored.get()));
        end.is_some_and(|end| end <= group)
            && self.stored.get() as usize <= most
            && self.raw.get() as usize <= most
            && Encoding::from_byte(self.encoding).is_some()
    }
}

fn name_len(name: &ObjectName) -> U16 {
    u16::try_from(name.as_str().len()).expect("a name has at most 255 bytes").into()
}

fn take_name(names: &mut &[u8], len: U16) -> Result<ObjectName, &'static str> {
    let (name, rest) =
        names.split_at_checked(usize::from(len.get())).ok_or("a name lies outside of the index")?;
    *names = rest;
    ObjectName::from_bytes(name).map_err(|_| "a name in the index is no name")
}

fn check_runs(runs: &[RawRun], pages: u64, blocks: &[Place]) -> Result<(), &'static str> {
    let mut next = 0;
    for raw in runs {
        let run = raw.checked().ok_or("a run of unknown kind")?;
        let end = run.page.checked_add(u64::from(run.count)).filter(|end| *end <= pages);
        if run.page < next || run.count == 0 || end.is_none() {
            return Err("runs that are empty, overlap or leave their object");
        }
        next = end.unwrap_or(pages);
        let (block, offset, len) = match run.source {
            Source::Zero => continue,
            Source::Pages { block, offset } => (block, offset, u64::from(run.count) * len64(PAGE_SIZE)),
            Source::Repeat { block, offset } => (block, offset, len64(PAGE_SIZE)),
            Source::Chunks { block, offset } => (block, offset, len64(MASK_BYTES + CHUNK_SIZE)),
        };
        let raw = blocks.get(block as usize).ok_or("a run in a block that isn't there")?.raw.get();
        if u64::from(raw) < u64::from(offset) + len {
            return Err("a run leaves its block");
        }
        if matches!(run.source, Source::Chunks { .. }) && run.count != 1 {
            return Err("chunks of more than one page");
        }
    }
    Ok(())
}
