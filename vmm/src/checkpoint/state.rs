//! What a keeper has, as plain values and bytes: to be kept with the program whose regions they are, and back.

use std::error::Error;
use std::ops::Range;

use cairn_abi::{CheckpointId, RegionId, RegionMode, RegionName, Span};
use cairn_engine::{
    ChangeSink, EngineError, EngineImage, GatherPlace, ImageError, PAGE_SIZE, RegionImage, VersionImage,
    VersionsImage,
};
use serde::{Deserialize, Serialize};

use super::{Keeper, Keeping};
use crate::devices::checkpoint::{LiveRegion, RegionSpan};
use crate::kvm::slots::SlotError;
use crate::memory::view::View;

/// A keeper, but for the bytes of mirrors and of the history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeeperState {
    regions: Vec<RegionState>,
    last_region: u32,
    /// The newest id; ids that no checkpoint has; the newest id that was evicted; the one that was imported.
    ids: [u64; 4],
    /// Ids that were left out.
    left_out: Vec<(u64, u64)>,
    /// Ids and names.
    sets: Vec<Vec<(u32, Vec<u8>)>>,
    versions: Vec<VersionState>,
    failed: Vec<u64>,
    counters: [u64; 4],
}

/// A region.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct RegionState {
    id: u32,
    name: Vec<u8>,
    mode: u32,
    address: u64,
    len: u64,
    written: Vec<u64>,
}

/// A version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct VersionState {
    id: u64,
    parent: Option<u64>,
    set: u64,
    pages_changed: u64,
    next: Option<u64>,
    named: bool,
    delta_bytes: u64,
}

/// Bytes of mirrors and of the history, gathered while the program stands still: those that changed since they were
/// gathered last and were kept.
#[derive(Debug, Default)]
pub struct SessionBytes {
    /// Each region's mirror: how many pages it has.
    pub mirrors: Vec<(RegionId, u64)>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    /// What versions differ by.
    pub deltas: Vec<(CheckpointId, Vec<u8>)>,
}

#[derive(Debug)]
struct Entry {
    mirror: usize,
    page: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Zeros(u64),
    Page,
    Chunks(u64),
}

/// What of a mirror's pages is new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MirrorPages<'a> {
    /// So many pages are zeros.
    Zeros(u64),
    /// All of a page.
    Page(&'a [u8; PAGE_SIZE]),
    /// The 64-byte chunks of a page that are in the mask, in order.
    Chunks(u64, &'a [u8]),
}

/// Takes a page of a mirror by its number.
pub type TakePage<'a> = dyn FnMut(u64, &[u8; PAGE_SIZE]) -> Result<(), KeeperStateError> + 'a;

/// Where the bytes come back from.
pub trait SessionSource {
    /// Reads the pages of a region's mirror that aren't zeros.
    ///
    /// # Errors
    /// [`KeeperStateError`], its own or that of `take`.
    fn mirror(&self, region: RegionId, take: &mut TakePage<'_>) -> Result<(), KeeperStateError>;

    /// What version `id` differs by, which has so many bytes.
    ///
    /// # Errors
    /// [`KeeperStateError`].
    fn delta(&self, id: CheckpointId, len: u64) -> Result<Vec<u8>, KeeperStateError>;
}

/// Why a keeper can't be brought back.
#[derive(Debug, thiserror::Error)]
pub enum KeeperStateError {
    /// Values that no keeper has.
    #[error("the session's {0} is none that it can have")]
    Impossible(&'static str),
    /// The engine has no use for them.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A region got no memslot.
    #[error(transparent)]
    Slots(#[from] SlotError),
    /// The bytes can't be read.
    #[error("the session's bytes can't be read")]
    Read(#[source] Box<dyn Error + Send + Sync>),
}

impl SessionBytes {
    /// All that is new in mirrors: which mirror by its place in the list, the first page, and what is there.
    pub fn pages(&self) -> impl Iterator<Item = (usize, u64, MirrorPages<'_>)> {
        let mut bytes = self.bytes.as_slice();
        self.entries.iter().filter_map(move |Entry { mirror, page, content }| {
            let pages = match *content {
                Content::Zeros(count) => MirrorPages::Zeros(count),
                Content::Page => {
                    let (page, rest) = bytes.split_first_chunk()?;
                    bytes = rest;
                    MirrorPages::Page(page)
                }
                Content::Chunks(mask) => {
                    let len = mask.count_ones() as usize * cairn_engine::CHUNK_SIZE;
                    let (chunks, rest) = bytes.split_at_checked(len)?;
                    bytes = rest;
                    MirrorPages::Chunks(mask, chunks)
                }
            };
            Some((*mirror, *page, pages))
        })
    }

    fn add(&mut self, page: usize, content: Content, bytes: &[u8]) -> Result<(), EngineError> {
        self.bytes.try_reserve(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        // A sink is told of a region before its pages.
        let mirror = self.mirrors.len().saturating_sub(1);
        self.entries.push(Entry { mirror, page: page as u64, content });
        Ok(())
    }
}

impl ChangeSink for SessionBytes {
    type Error = EngineError;

    fn region(&mut self, region: RegionId, pages: usize) -> Result<(), EngineError> {
        self.mirrors.push((region, pages as u64));
        Ok(())
    }

    fn zero(&mut self, pages: Range<usize>) -> Result<(), EngineError> {
        self.add(pages.start, Content::Zeros(pages.len() as u64), &[])
    }

    fn page(&mut self, page: usize, bytes: &[u8; PAGE_SIZE]) -> Result<(), EngineError> {
        self.add(page, Content::Page, bytes)
    }

    fn chunks(&mut self, page: usize, mask: u64, bytes: &[u8]) -> Result<(), EngineError> {
        self.add(page, Content::Chunks(mask), bytes)
    }
}

impl KeeperState {
    /// The regions, for the device.
    ///
    /// # Errors
    /// [`KeeperStateError::Impossible`].
    pub fn live_regions(&self) -> Result<Vec<LiveRegion>, KeeperStateError> {
        self.regions.iter().map(RegionState::live).collect()
    }

    /// The versions that differ from another, and how many bytes say by what.
    pub fn deltas(&self) -> impl Iterator<Item = (CheckpointId, u64)> + '_ {
        let deltas = self.versions.iter().filter(|version| version.next.is_some());
        deltas.map(|version| (CheckpointId(version.id), version.delta_bytes))
    }

    fn image(&self) -> Result<EngineImage, KeeperStateError> {
        let set = |set: &Vec<(u32, Vec<u8>)>| {
            let member = |(id, bytes): &(u32, Vec<u8>)| Ok((RegionId(*id), name(bytes)?));
            set.iter().map(member).collect::<Result<Vec<_>, KeeperStateError>>()
        };
        let version = |version: &VersionState| {
            let place = |at: u64| usize::try_from(at).map_err(|_| KeeperStateError::Impossible("history"));
            Ok(VersionImage {
                id: CheckpointId(version.id),
                parent: version.parent.map(CheckpointId),
                set: place(version.set)?,
                pages_changed: version.pages_changed,
                next: version.next.map(place).transpose()?,
                named: version.named,
                delta_bytes: version.delta_bytes,
            })
        };
        let [last, unused, evicted, imported] = self.ids;
        let left_out = self.left_out.clone();
        let sets = self.sets.iter().map(set).collect::<Result<_, KeeperStateError>>()?;
        let versions = self.versions.iter().map(version).collect::<Result<_, KeeperStateError>>()?;
        Ok(EngineImage {
            regions: self.regions.iter().map(RegionState::image).collect::<Result<_, _>>()?,
            last_region: self.last_region,
            versions: VersionsImage { last, unused, left_out, imported, evicted, sets, versions },
            failed: self.failed.iter().copied().map(CheckpointId).collect(),
            counters: self.counters,
        })
    }
}

impl RegionState {
    fn live(&self) -> Result<LiveRegion, KeeperStateError> {
        let span = Span { address: self.address, len: self.len };
        Ok(LiveRegion { id: RegionId(self.id), name: name(&self.name)?, span })
    }

    fn image(&self) -> Result<RegionImage, KeeperStateError> {
        let mode = RegionMode::from_u32(self.mode).ok_or(KeeperStateError::Impossible("list of regions"))?;
        let written = self.written.clone();
        Ok(RegionImage { id: RegionId(self.id), name: name(&self.name)?, mode, written })
    }
}

fn name(bytes: &[u8]) -> Result<RegionName, KeeperStateError> {
    RegionName::new(bytes).map_err(|_| KeeperStateError::Impossible("list of regions"))
}

impl Keeper {
    /// What it has, of a session with these regions; bytes that changed go to `bytes`, or all.
    ///
    /// # Errors
    /// The engine's: what was gathered doesn't count.
    pub fn state(
        &mut self,
        regions: impl Iterator<Item = (RegionId, RegionName, RegionSpan)>,
        from_nothing: bool,
        bytes: &mut SessionBytes,
    ) -> Result<KeeperState, EngineError> {
        let engine = self.engine_mut();
        let EngineImage { regions: images, last_region, versions, failed, counters } = engine.image()?;
        // All at once: the program stands still for it.
        engine.gather(from_nothing, &mut GatherPlace::default(), u64::MAX, bytes)?;
        engine.gather_history(from_nothing, |id, delta| bytes.deltas.push((id, delta)))?;
        let spans: Vec<_> = regions.collect();
        let region = |image: RegionImage| {
            let RegionImage { id, name, mode, written } = image;
            let span = spans.iter().find(|(known, ..)| *known == id).map(|(.., span)| *span);
            let span = span.ok_or(EngineError::NoRegion(id))?;
            let (name, mode) = (name.as_str().as_bytes().to_vec(), mode as u32);
            Ok(RegionState { id: id.0, name, mode, address: span.address(), len: span.len(), written })
        };
        let set = |set: Vec<(RegionId, RegionName)>| {
            set.into_iter().map(|(id, name)| (id.0, name.as_str().as_bytes().to_vec())).collect()
        };
        let version = |version: VersionImage| VersionState {
            id: version.id.0,
            parent: version.parent.map(|id| id.0),
            set: version.set as u64,
            pages_changed: version.pages_changed,
            next: version.next.map(|next| next as u64),
            named: version.named,
            delta_bytes: version.delta_bytes,
        };
        Ok(KeeperState {
            regions: images.into_iter().map(region).collect::<Result<_, EngineError>>()?,
            last_region,
            ids: [versions.last, versions.unused, versions.evicted, versions.imported],
            left_out: versions.left_out,
            sets: versions.sets.into_iter().map(set).collect(),
            versions: versions.versions.into_iter().map(version).collect(),
            failed: failed.into_iter().map(|id| id.0).collect(),
            counters,
        })
    }

    /// What [`state`](Self::state) told is kept now, or it isn't.
    pub fn told(&mut self, kept: bool) {
        if kept { self.engine_mut().saved() } else { self.engine_mut().not_saved() }
    }

    /// Gives a keeper that has nothing what another one had, of a program whose memory is back. The device has admitted
    /// the regions. `kept` says that whoever was told by [`state`](Self::state) builds on it.
    ///
    /// # Errors
    /// [`KeeperStateError`]; the keeper is of no use then.
    pub fn bring_back(
        &mut self,
        state: &KeeperState,
        view: &View<'_>,
        source: &dyn SessionSource,
        kept: bool,
    ) -> Result<(), KeeperStateError> {
        let image = state.image()?;
        for (region, image) in state.regions.iter().zip(&image.regions) {
            let span = Span { address: region.address, len: region.len };
            let span = RegionSpan::from_claim(span).ok_or(KeeperStateError::Impossible("list of regions"))?;
            let memory =
                self.live(span, view).map_err(|_| KeeperStateError::Impossible("list of regions"))?;
            self.slots().isolate(&(span.address()..span.end()))?;
            self.engine_mut().rebuild_region(image, memory)?;
        }
        for region in &image.regions {
            source.mirror(region.id, &mut |page, bytes| {
                let page = usize::try_from(page).map_err(|_| KeeperStateError::Impossible("mirror"))?;
                Ok(self.engine_mut().rebuild_page(region.id, page, bytes)?)
            })?;
        }
        self.engine_mut().rebuild_history(&image, kept, |id, len| source.delta(id, len))
    }
}
