//! A snapshot: one checkpoint, to read page by page.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use cairn_abi::CheckpointId;

use crate::format::index::{MASK_BYTES, Source};
use crate::format::len64;
use crate::format::record::Kind;
use crate::layer::Layer;
use crate::object::{Object, ObjectIndex};
use crate::{CHUNK_SIZE, PAGE_SIZE, StoreError};

/// Unpacked blocks that are kept: 4 MiB.
const CACHED_BLOCKS: usize = 32;

/// One checkpoint, to read. It keeps its files open, so that compaction can't take them away.
#[derive(Debug)]
pub struct Snapshot {
    layers: Vec<Layer>,
    objects: Vec<Object>,
    /// For each object, where its pages are, newest layer first.
    places: Vec<Vec<Place>>,
    cache: Mutex<Cache>,
}

/// An object in one of the layers.
#[derive(Clone, Copy, Debug)]
struct Place {
    layer: usize,
    object: usize,
    /// Pages that it has there and in all newer layers: what is beyond was zero at some time since.
    pages: u64,
}

#[derive(Debug, Default)]
struct Cache {
    blocks: HashMap<(usize, u32), Arc<Vec<u8>>>,
    order: VecDeque<(usize, u32)>,
}

/// What some layers say of consecutive pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) pages: Range<u64>,
    /// They are zero.
    pub(crate) zero: bool,
    /// Chunks that these layers don't name are zero, whatever is below.
    pub(crate) bottomless: bool,
}

/// What is known of a page after some layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    /// The chunks that are found.
    pub(crate) chunks: u64,
}

impl Snapshot {
    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        let objects: Vec<Object> = match layers.first() {
            Some(newest) => newest.index.objects.iter().map(|object| object.object.clone()).collect(),
            None => Vec::new(),
        };
        let mut places: Vec<Vec<Place>> = objects.iter().map(|_| Vec::new()).collect();
        for (layer, older) in layers.iter().enumerate() {
            let names: HashMap<_, _> =
                older.index.objects.iter().enumerate().map(|(at, o)| (&o.object.name, at)).collect();
            for (object, places) in objects.iter().zip(&mut places) {
                // An object that was not there once begins anew: nothing older is its own.
                if places.len() == layer
                    && let Some(at) = names.get(&object.name)
                {
                    let pages = older.index.objects[*at].object.pages;
                    let pages = places.last().map_or(pages, |newer: &Place| pages.min(newer.pages));
                    places.push(Place { layer, object: *at, pages });
                }
            }
        }
        Self { layers, objects, places, cache: Mutex::default() }
    }

    /// The checkpoint that it is.
    #[must_use]
    pub fn id(&self) -> CheckpointId {
        CheckpointId(self.layers[0].entry.id.get())
    }

    /// Its objects, in the order in which they were named.
    #[must_use]
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// The same, each with what it's named by in reads.
    pub fn indexed(&self) -> impl Iterator<Item = (ObjectIndex, &Object)> {
        (0..).map(ObjectIndex).zip(&self.objects)
    }

    /// The object of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<ObjectIndex> {
        let place = self.objects.iter().position(|object| object.name.as_str() == name)?;
        u32::try_from(place).ok().map(ObjectIndex)
    }

    /// The names of its sections, and their bytes.
    pub fn sections(&self) -> impl Iterator<Item = (&str, u64)> {
        self.layers[0].index.sections.iter().map(|(name, place)| (name.as_str(), u64::from(place.raw.get())))
    }

    /// The section of this name.
    ///
    /// # Errors
    /// Damage, or the host's.
    pub fn section(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let newest = &self.layers[0];
        match newest.index.sections.iter().find(|(own, _)| own.as_str() == name) {
            None => Ok(None),
            Some((_, place)) => newest.unpack(place, Kind::Section).map(Some),
        }
    }

    /// Reads a page. Pages may be read in any order and from several threads.
    ///
    /// # Errors
    /// Damage, or the host's; a page or an object that the checkpoint hasn't got is [`StoreError::NoSuchPage`].
    pub fn read_page(
        &self,
        object: ObjectIndex,
        page: u64,
        out: &mut [u8; PAGE_SIZE],
    ) -> Result<(), StoreError> {
        let known = self.objects.get(object.place()).is_some_and(|object| page < object.pages);
        if !known {
            return Err(StoreError::NoSuchPage { object: object.0, page });
        }
        let found = self.resolve(object, page, self.layers.len(), out)?;
        for chunk in 0..64 {
            if found.chunks & 1 << chunk == 0 {
                out[chunk * CHUNK_SIZE..][..CHUNK_SIZE].fill(0);
            }
        }
        Ok(())
    }

    /// Fills in what the newest `depth` layers say of a page.
    pub(crate) fn resolve(
        &self,
        object: ObjectIndex,
        page: u64,
        depth: usize,
        out: &mut [u8; PAGE_SIZE],
    ) -> Result<Known, StoreError> {
        let mut missing = u64::MAX;
        for place in self.places[object.place()].iter().take(depth) {
            if place.pages <= page {
                break;
            }
            let Some(run) = self.layers[place.layer].find(place.object, page) else { continue };
            match run.source {
                Source::Zero => {
                    fill(out, missing, None);
                    missing = 0;
                }
                Source::Pages { block, offset } => {
                    let offset = u64::from(offset) + (page - run.page) * len64(PAGE_SIZE);
                    let bytes = self.block(place.layer, block)?;
                    let at = usize::try_from(offset).unwrap_or(usize::MAX);
                    fill(out, missing, bytes.get(at..).and_then(|bytes| bytes.first_chunk()));
                    missing = 0;
                }
                Source::Repeat { block, offset } => {
                    let bytes = self.block(place.layer, block)?;
                    fill(out, missing, bytes.get(offset as usize..).and_then(|bytes| bytes.first_chunk()));
                    missing = 0;
                }
                Source::Chunks { block, offset } => {
                    let bytes = self.block(place.layer, block)?;
                    missing = self.patch(place.layer, block, &bytes[offset as usize..], missing, out)?;
                }
            }
            if missing == 0 {
                break;
            }
        }
        Ok(Known { chunks: !missing })
    }

    /// Copies the chunks that are missing and in `bytes`, and answers what is missing then.
    fn patch(
        &self,
        layer: usize,
        block: u32,
        bytes: &[u8],
        missing: u64,
        out: &mut [u8; PAGE_SIZE],
    ) -> Result<u64, StoreError> {
        let parts = bytes.split_first_chunk::<MASK_BYTES>();
        let (mask, chunks) = parts.map_or((0, bytes), |(mask, chunks)| (u64::from_le_bytes(*mask), chunks));
        if mask == 0 || chunks.len() < mask.count_ones() as usize * CHUNK_SIZE {
            let layer = &self.layers[layer];
            let at = layer.entry.at.get() + layer.index.blocks[block as usize].at.get();
            return Err(StoreError::damage(&layer.segment.path, at, "chunks of a page leave their block"));
        }
        let set = (0..64).filter(|chunk| mask & 1 << chunk != 0);
        for (chunk, bytes) in set.zip(chunks.chunks_exact(CHUNK_SIZE)) {
            if missing & 1 << chunk != 0 {
                out[chunk * CHUNK_SIZE..][..CHUNK_SIZE].copy_from_slice(bytes);
            }
        }
        Ok(missing & !mask)
    }

    /// The pages that aren't zero for certain, ascending.
    pub fn present(&self, object: ObjectIndex) -> impl Iterator<Item = Range<u64>> + use<> {
        let pieces = self.pieces(object, self.layers.len(), true);
        joined(pieces.into_iter().filter(|piece| !piece.zero).map(|piece| piece.pages).collect()).into_iter()
    }

    /// What the newest `take` layers say of an object's pages, ascending. What a `complete` checkpoint needn't say
    /// is left out.
    pub(crate) fn pieces(&self, object: ObjectIndex, take: usize, complete: bool) -> Vec<Piece> {
        let (mut pieces, mut covered) = (Vec::new(), Vec::new());
        let Some(places) = self.places.get(object.place()) else { return pieces };
        // Pages from here on were zero at some time in these layers, whatever is below.
        let bottom = if places.len() < take { 0 } else { places[take - 1].pages };
        let mut add = |pages: Range<u64>, zero| {
            let split = bottom.clamp(pages.start, pages.end);
            for (pages, bottomless) in [(pages.start..split, complete), (split..pages.end, true)] {
                if !pages.is_empty() {
                    pieces.push(Piece { pages, zero, bottomless });
                }
            }
        };
        for place in places.iter().take(take) {
            let runs = &self.layers[place.layer].index.objects[place.object].runs;
            let mut own = Vec::with_capacity(runs.len());
            for raw in runs {
                let pages = raw.page()..raw.end().min(place.pages);
                if !pages.is_empty() {
                    let zero = raw.run().source == Source::Zero;
                    uncovered(&covered, pages.clone(), &mut |pages| add(pages, zero));
                    own.push(pages);
                }
            }
            covered.append(&mut own);
            covered = joined(covered);
        }
        let pages = self.objects[object.place()].pages;
        if !complete && bottom < pages {
            uncovered(&covered, bottom..pages, &mut |pages| add(pages, true));
        }
        pieces.sort_unstable_by_key(|piece| piece.pages.start);
        pieces
    }

    /// The checkpoint's own records.
    pub(crate) fn newest_layer(&self) -> &Layer {
        &self.layers[0]
    }

    /// A block of a layer, unpacked.
    fn block(&self, layer: usize, block: u32) -> Result<Arc<Vec<u8>>, StoreError> {
        let lock = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = lock().blocks.get(&(layer, block)) {
            return Ok(Arc::clone(bytes));
        }
        let from = &self.layers[layer];
        let bytes = Arc::new(from.unpack(&from.index.blocks[block as usize], Kind::Block)?);
        let mut cache = lock();
        if cache.blocks.insert((layer, block), Arc::clone(&bytes)).is_none() {
            cache.order.push_back((layer, block));
            if CACHED_BLOCKS < cache.order.len()
                && let Some(oldest) = cache.order.pop_front()
            {
                cache.blocks.remove(&oldest);
            }
        }
        Ok(bytes)
    }
}

/// Copies the chunks of `wanted` from `page`, or zeros.
fn fill(out: &mut [u8; PAGE_SIZE], wanted: u64, page: Option<&[u8; PAGE_SIZE]>) {
    if wanted == u64::MAX {
        *out = page.copied().unwrap_or(crate::ZERO_PAGE);
        return;
    }
    let page = page.unwrap_or(&crate::ZERO_PAGE);
    for chunk in (0..64).filter(|chunk| wanted & 1 << chunk != 0) {
        let span = chunk * CHUNK_SIZE..(chunk + 1) * CHUNK_SIZE;
        out[span.clone()].copy_from_slice(&page[span]);
    }
}

/// Tells of what of `range` is not in `covered`, which is ascending and disjoint.
fn uncovered(covered: &[Range<u64>], range: Range<u64>, found: &mut dyn FnMut(Range<u64>)) {
    let mut at = range.start;
    let from = covered.partition_point(|span| span.end <= at);
    for span in &covered[from..] {
        if range.end <= span.start {
            break;
        }
        if at < span.start {
            found(at..span.start);
        }
        at = at.max(span.end);
    }
    if at < range.end {
        found(at..range.end);
    }
}

/// The union of spans, ascending and disjoint.
fn joined(mut spans: Vec<Range<u64>>) -> Vec<Range<u64>> {
    // Stable, because that is quick for a few ascending sequences behind each other.
    spans.sort_by_key(|span| span.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => joined.push(span),
        }
    }
    joined
}
