//! For whoever keeps checkpoints elsewhere: what changed since the last one there, and the way back from there.

use cairn_abi::{CheckpointId, RegionId};

use super::{Engine, Region};
use crate::changes::{self, ChangeSink};
use crate::{EngineError, PAGE_SIZE, Tracker};

/// How far a gathering has come: a new one begins with the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GatherPlace {
    /// The region that is being told of, and its next page.
    at: Option<(RegionId, usize)>,
}

impl<T: Tracker> Engine<T> {
    /// Tells `sink` what the newest version has that those didn't have which were gathered before: the version
    /// that memory derives from, which after a checkpoint is that. With `from_nothing`, all that it has but zeros.
    ///
    /// Returns whether that is all: one call tells of `pages` pages with content at most, which aren't 0. The next one
    /// goes on at `place`, with the same sink, as long as no other call changes the version or what is known of it:
    /// else the gathering must begin anew.
    ///
    /// What was gathered counts as *handed over* in the end. Who took it says what became of it:
    /// [`saved`](Self::saved) or [`not_saved`](Self::not_saved). Until then it may be told more than is needed
    /// after a failure, but never less.
    ///
    /// It needs no version but the newest, so that others may be released and evicted as always. Only engines that
    /// [record changes](crate::Config::records_changes) know less than everything.
    ///
    /// # Errors
    /// The sink's; nothing counts as handed over.
    pub fn gather<S: ChangeSink>(
        &mut self,
        from_nothing: bool,
        place: &mut GatherPlace,
        pages: u64,
        sink: &mut S,
    ) -> Result<bool, S::Error> {
        // The mirrors may be elsewhere, or hold what isn't committed.
        self.abandon();
        let mut budget = pages;
        for region in self.regions.iter().filter(|region| region.in_root) {
            let from = match place.at {
                Some((done, _)) if region.id < done => continue,
                Some((id, page)) if region.id == id => page,
                _ => {
                    sink.region(region.id, region.live.pages())?;
                    0
                }
            };
            let rest = match &region.unsaved {
                Some(saving) if !from_nothing => {
                    saving.unsaved.tell(&region.mirror, from, &mut budget, sink)?
                }
                _ => changes::tell_all(&region.mirror, from, &mut budget, sink)?,
            };
            if let Some(page) = rest {
                place.at = Some((region.id, page));
                return Ok(false);
            }
        }
        for region in &mut self.regions {
            if let Some(saving) = region.unsaved.as_mut().filter(|_| region.in_root) {
                saving.handed.take_from(&mut saving.unsaved);
            }
        }
        Ok(true)
    }

    /// All that was handed over is kept now.
    pub fn saved(&mut self) {
        self.versions.gathered(true);
        for saving in self.regions.iter_mut().filter_map(|region| region.unsaved.as_mut()) {
            saving.handed.clear();
        }
    }

    /// Some of what was handed over isn't kept: all of it counts as changed again.
    pub fn not_saved(&mut self) {
        self.versions.gathered(false);
        for saving in self.regions.iter_mut().filter_map(|region| region.unsaved.as_mut()) {
            saving.unsaved.take_from(&mut saving.handed);
        }
    }

    /// The next checkpoint's id is greater than `id`.
    pub fn skip_ids(&mut self, id: CheckpointId) {
        self.abandon();
        self.versions.skip_to(id);
    }

    /// Whether no checkpoint was ever taken or imported, so that one can be [imported](Self::import_page).
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.versions.taken() == 0 && self.versions.root().is_none()
    }

    /// Takes a page of a checkpoint that was kept elsewhere. Live memory stays as it is. Pages that aren't taken
    /// are zeros in that checkpoint. If [`end_import`](Self::end_import) never follows, nothing was done.
    ///
    /// # Errors
    /// [`EngineError::NoRegion`], [`EngineError::NoImport`].
    pub fn import_page(
        &mut self,
        region: RegionId,
        page: usize,
        bytes: &[u8; PAGE_SIZE],
    ) -> Result<(), EngineError> {
        self.abandon();
        let at = self.region_at(region)?;
        if !self.is_fresh() || page >= self.regions[at].live.pages() {
            return Err(EngineError::NoImport);
        }
        self.regions[at].import_page(page, bytes);
        Ok(())
    }

    /// Makes what was taken checkpoint `id` of today's regions: retained, without a parent, and the version that
    /// memory derives from. Memory itself is made so by [`rollback`](Self::rollback). `saved` says that whoever
    /// gathers has it and builds on it.
    ///
    /// # Errors
    /// [`EngineError::NoImport`], [`EngineError::NoMemory`].
    pub fn end_import(&mut self, id: CheckpointId, saved: bool) -> Result<(), EngineError> {
        self.abandon();
        if !self.is_fresh() || id.0 == 0 {
            return Err(EngineError::NoImport);
        }
        self.versions.reserve()?;
        let pages = self.regions.iter().map(|region| region.mirror.resident_bytes()).sum::<u64>();
        self.versions.import(id, std::sync::Arc::clone(&self.set), pages / PAGE_SIZE as u64);
        for region in &mut self.regions {
            region.in_root = true;
            if let Some(saving) = region.unsaved.as_mut().filter(|_| saved) {
                saving.unsaved.clear();
            }
        }
        Ok(())
    }

    /// Notes where the version that memory is about to derive from, the one in `node`, differs from the root.
    pub(super) fn note_reroot(&mut self, node: usize) {
        if self.config.records_changes {
            for (id, page, mask) in self.versions.touched(node) {
                note(&mut self.regions, id, page, mask);
            }
        }
    }

    /// Notes where a checkpoint differs from the root, whose bytes there are `old`.
    pub(super) fn note_changes(&mut self, old: &crate::delta::Delta) {
        if self.config.records_changes {
            for (id, page, mask) in old.touched() {
                note(&mut self.regions, id, page, mask);
            }
        }
    }
}

fn note(regions: &mut [Region], id: RegionId, page: usize, mask: u64) {
    if let Ok(at) = regions.binary_search_by_key(&id, |region| region.id)
        && let Some(saving) = &mut regions[at].unsaved
    {
        saving.unsaved.add(page, mask);
    }
}
