//! An engine as values, to be kept elsewhere and to be built again: regions, versions and their bytes.
//!
//! What an image says is a claim when it comes back: it is checked as a whole before it counts, and what it says wrong
//! is an [`ImageError`]. It can say another history than there was, which is nobody's harm but the program's.

use cairn_abi::{CheckpointId, RegionId, RegionMode, RegionName};

use super::ticket::MAX_FAILED;
use super::{Counters, Engine};
use crate::delta::Delta;
use crate::versions::{MOST, VersionsImage};
use crate::{EngineError, LiveMemory, PAGE_SIZE, PageSet, Tracker};

/// A region, but for its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegionImage {
    /// Its id.
    pub id: RegionId,
    /// Its name.
    pub name: RegionName,
    /// Who says what is written in it.
    pub mode: RegionMode,
    /// Pages in which live memory may differ from the mirror, as a [`PageSet`] has them; in a hinted region, those
    /// that are hinted.
    pub written: Vec<u64>,
}

/// An engine, but for the bytes of mirrors and deltas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineImage {
    /// The regions, ascending by id.
    pub regions: Vec<RegionImage>,
    /// The newest region's id ever given.
    pub last_region: u32,
    /// The versions.
    pub versions: VersionsImage,
    /// Asynchronous checkpoints that failed for want of memory, the newest of them.
    pub failed: Vec<CheckpointId>,
    /// Rollbacks; pages compared, changed and protected.
    pub counters: [u64; 4],
}

/// Why no engine can be built of an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It's none that an engine can have.
    #[error("the image's {0} can't be")]
    Impossible(&'static str),
    /// The engine can't have the regions, or has no memory.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl<T: Tracker> Engine<T> {
    /// The engine as values. An asynchronous checkpoint is finished first. The bytes are told by
    /// [`gather`](Self::gather) and [`gather_history`](Self::gather_history).
    ///
    /// # Errors
    /// The tracker's, or no memory.
    pub fn image(&mut self) -> Result<EngineImage, EngineError> {
        self.abandon();
        let mut regions = Vec::with_capacity(self.regions.len());
        for region in &self.regions {
            let mut written = PageSet::new(region.live.pages())?;
            let mode = if region.hints.rule() { RegionMode::Hinted } else { RegionMode::Tracked };
            match mode {
                RegionMode::Hinted => region.hints.add_to(&mut written),
                RegionMode::Tracked => self.tracker.collect(region.id, &mut written)?,
            }
            written.trim();
            let written = written.words().to_vec();
            regions.push(RegionImage { id: region.id, name: region.name, mode, written });
        }
        let Counters { rollbacks, compared, changed, protected, .. } = self.counters;
        Ok(EngineImage {
            regions,
            last_region: self.last_region,
            versions: self.versions.image(),
            failed: self.started.failed().collect(),
            counters: [rollbacks, compared, changed, protected],
        })
    }

    /// Tells the deltas of the history, each by the id of its version: those that changed since they were told last
    /// and were [kept](Self::saved), or all.
    ///
    /// # Errors
    /// No memory; nothing counts as handed over.
    pub fn gather_history(
        &mut self,
        from_nothing: bool,
        tell: impl FnMut(CheckpointId, Vec<u8>),
    ) -> Result<(), EngineError> {
        self.abandon();
        Ok(self.versions.gather(from_nothing, tell)?)
    }

    /// Registers a region of an image, in an engine that never had one that isn't of the image. Regions ascend.
    ///
    /// # Errors
    /// [`ImageError`]; the region isn't registered.
    pub fn rebuild_region(&mut self, image: &RegionImage, memory: LiveMemory) -> Result<(), ImageError> {
        let RegionImage { id, name, mode, written } = image;
        let mut clean = PageSet::new(memory.pages()).map_err(EngineError::from)?;
        if !self.is_fresh() || id.0 <= self.last_region || clean.words().len() != written.len() {
            return Err(ImageError::Impossible("list of regions"));
        }
        let before = self.last_region;
        self.last_region = id.0 - 1;
        let added = self.register(*name, memory, *mode);
        if let Err(error) = added {
            self.last_region = before;
            return Err(error.into());
        }
        match mode {
            RegionMode::Hinted => {
                for (word, bits) in written.iter().enumerate() {
                    self.hint(*id, word, *bits)?;
                }
            }
            RegionMode::Tracked => {
                clean.fill();
                clean.words_mut().iter_mut().zip(written).for_each(|(clean, written)| *clean &= !written);
                clean.trim();
                // Pages that stay open are compared, and no harm is done.
                if !clean.is_empty()
                    && let Err(error) = self.tracker.protect(*id, &clean)
                {
                    self.unprotected = Some(error);
                }
            }
        }
        Ok(())
    }

    /// Puts a page into a region's mirror. Pages that nobody puts there are zeros.
    ///
    /// # Errors
    /// [`ImageError::Impossible`]: there is no such page, or the history is there already.
    pub fn rebuild_page(
        &mut self,
        region: RegionId,
        page: usize,
        bytes: &[u8; PAGE_SIZE],
    ) -> Result<(), ImageError> {
        let at = self.region_at(region)?;
        if !self.is_fresh() || page >= self.regions[at].live.pages() {
            return Err(ImageError::Impossible("mirror"));
        }
        if bytes.iter().any(|&byte| byte != 0) {
            self.regions[at].mirror.page_mut(page).copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Builds the history, after the regions and their mirrors. `read` is asked for each version's delta, which has so
    /// many bytes. `kept` says that whoever gathers has all of it and builds on it.
    ///
    /// # Errors
    /// [`ImageError`], or what `read` says; the engine is of no use then.
    pub fn rebuild_history<E: From<ImageError>>(
        &mut self,
        image: &EngineImage,
        kept: bool,
        mut read: impl FnMut(CheckpointId, u64) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let impossible = |what| E::from(ImageError::Impossible(what));
        let engine = |error: EngineError| E::from(ImageError::from(error));
        let known =
            self.regions.iter().map(|region| region.id).eq(image.regions.iter().map(|region| region.id));
        let counted = self.last_region <= image.last_region && image.last_region < u32::MAX / 2;
        if !self.is_fresh() || !known || !counted {
            return Err(impossible("list of regions"));
        }
        if image.counters.iter().any(|counter| MOST < *counter) {
            return Err(impossible("set of figures"));
        }
        let root = image.versions.check(self.config.history, image.last_region).map_err(impossible)?;
        let failed = image.failed.iter().all(|id| 0 < id.0 && id.0 <= image.versions.last);
        if MAX_FAILED < image.failed.len() || !failed {
            return Err(impossible("list of failures"));
        }
        // No delta says more than all pages of all regions.
        let pages: u64 = self.regions.iter().map(|region| region.live.pages() as u64).sum();
        let most = pages.saturating_mul(2 * PAGE_SIZE as u64).saturating_add(PAGE_SIZE as u64);
        let mut deltas = Vec::new();
        for version in &image.versions.versions {
            deltas.push(match version.next {
                Some(_) if version.delta_bytes <= most => {
                    let bytes = read(version.id, version.delta_bytes)?;
                    let pages = |id| self.region_at(id).ok().map(|at| self.regions[at].live.pages());
                    let delta = Delta::from_bytes(&bytes, pages).map_err(|error| engine(error.into()))?;
                    delta.ok_or_else(|| impossible("history"))?
                }
                Some(_) => return Err(impossible("history")),
                None => Delta::default(),
            });
        }
        let rebuilt = self.versions.rebuild(&image.versions, (root, kept), &self.set, deltas);
        rebuilt.map_err(|error| engine(error.into()))?;
        let (versions, regions) = (&self.versions, &mut self.regions);
        for region in regions {
            let is_member =
                |root: &crate::versions::Node| root.set.iter().any(|member| member.id == region.id);
            region.in_root = versions.root().is_some_and(is_member);
            if let Some(saving) = region.unsaved.as_mut().filter(|_| kept && region.in_root) {
                saving.unsaved.clear();
            }
        }
        self.last_region = image.last_region;
        image.failed.iter().for_each(|id| self.started.note_failed(*id, EngineError::NoMemory));
        let [rollbacks, compared, changed, protected] = image.counters;
        self.counters = Counters { rollbacks, compared, changed, protected, ..self.counters };
        Ok(())
    }
}
