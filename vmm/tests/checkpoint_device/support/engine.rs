//! An engine that keeps no content, but holds the device to its promises.

use cairn_abi::reply::{
    Ask, CheckpointFigures, Durability, Missing, SessionFigures, StoreFigures, StoredRegion,
};
use cairn_abi::{
    CheckpointId, FEATURE_ASYNC, FEATURE_DURABLE, FEATURE_HINT, Hint, PAGE_SIZE, RegionId, RegionName, Span,
};
use cairn_vmm::devices::checkpoint::{Effect, Failure, Limits, Outcome, RegionSpan};

/// Small, so that tests reach them.
pub(crate) const LIMITS: Limits = Limits {
    max_regions: 4,
    max_bytes: 64 * PAGE_SIZE,
    history: 2,
    features: FEATURE_HINT | FEATURE_ASYNC | FEATURE_DURABLE,
};

/// How the next effect ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Mood {
    /// As it should.
    #[default]
    Well,
    /// Pages are missing, where that can be said.
    Missing,
    /// Not.
    Failing(Failure),
    /// With an outcome that doesn't fit.
    Mad,
}

/// The engine.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    /// Applies to the next effect, then it's well again.
    pub(crate) mood: Mood,
    /// All effects, in order.
    pub(crate) effects: Vec<Effect>,
    regions: Vec<(RegionId, RegionSpan, RegionName)>,
    checkpoints: Vec<CheckpointId>,
    prepared: Option<RegionSpan>,
    /// All hints, in order.
    pub(crate) hints: Vec<Hint>,
    last_region: u32,
    last_checkpoint: u64,
}

impl Engine {
    /// Regions that it holds.
    pub(crate) fn regions(&self) -> usize {
        self.regions.len()
    }

    /// The program unmapped the memory of its first region: it's gone.
    pub(crate) fn lose_region(&mut self) -> Option<RegionId> {
        (!self.regions.is_empty()).then(|| self.regions.remove(0).0)
    }

    /// Does what the device wants, and checks that it may want it.
    pub(crate) fn act(&mut self, effect: Effect) -> Outcome {
        self.effects.push(effect);
        let prepared = self.prepared.take();
        match std::mem::take(&mut self.mood) {
            Mood::Failing(failure) => return Outcome::Failed(failure),
            Mood::Mad => return Outcome::Checkpoint(CheckpointId(0)),
            Mood::Missing if effect != Effect::DropAll => {
                let missing = Missing::new(&[Span { address: 0, len: PAGE_SIZE }]);
                return Outcome::Missing { ask: Ask::Touch, missing };
            }
            Mood::Missing | Mood::Well => {}
        }
        match effect {
            Effect::DropAll => {
                self.regions.clear();
                self.checkpoints.clear();
                Outcome::Done
            }
            Effect::PrepareRegion { span } => {
                self.prepared = Some(span);
                Outcome::Done
            }
            Effect::AddRegion { span, name, .. } => {
                assert_eq!(prepared, Some(span), "a region is prepared before it's added");
                self.add_region(span, name)
            }
            Effect::RemoveRegion(id) => {
                let before = self.regions.len();
                self.regions.retain(|(other, ..)| *other != id);
                assert_eq!(self.regions.len() + 1, before, "only a region that is there is removed");
                Outcome::Done
            }
            Effect::Checkpoint(_) => {
                self.last_checkpoint += 1;
                self.checkpoints.push(CheckpointId(self.last_checkpoint));
                Outcome::Checkpoint(CheckpointId(self.last_checkpoint))
            }
            Effect::CheckpointAsync => {
                self.last_checkpoint += 1;
                self.checkpoints.push(CheckpointId(self.last_checkpoint));
                Outcome::Ticket { id: CheckpointId(self.last_checkpoint), done: false }
            }
            Effect::CheckpointDurable(..) => {
                self.last_checkpoint += 1;
                self.checkpoints.push(CheckpointId(self.last_checkpoint));
                let id = CheckpointId(self.last_checkpoint);
                Outcome::Durability(Durability { id, reached: None })
            }
            Effect::Durability(id, reached) => Outcome::Durability(Durability { id, reached }),
            Effect::StoreFigures => Outcome::Store(StoreFigures::default()),
            Effect::Stored(_, name) => match self.regions.iter().find(|(.., other)| *other == name) {
                Some((_, span, name)) => Outcome::Stored(StoredRegion {
                    checkpoint: CheckpointId(1),
                    name: *name,
                    span: Span { address: span.address(), len: span.len() },
                    tag: 0,
                }),
                None => Outcome::Failed(Failure::NoRegion),
            },
            Effect::Recover(_) if self.last_checkpoint == 0 => {
                self.last_checkpoint = 7;
                self.checkpoints.push(CheckpointId(7));
                Outcome::Checkpoint(CheckpointId(7))
            }
            Effect::Recover(_) => Outcome::Failed(Failure::NotFresh),
            Effect::Ticket(id, wait) if self.checkpoints.contains(&id) => Outcome::Ticket { id, done: wait },
            Effect::Rollback(id, _) if self.checkpoints.contains(&id) => Outcome::Done,
            Effect::Release(id) if self.checkpoints.contains(&id) => {
                self.checkpoints.retain(|other| *other != id);
                Outcome::Done
            }
            Effect::CheckpointFigures(id) if self.checkpoints.contains(&id) => {
                let parent = None;
                Outcome::CheckpointFigures(CheckpointFigures { id, parent, pages_changed: 0, bytes: 0 })
            }
            Effect::Rollback(..) | Effect::Release(_) | Effect::CheckpointFigures(_) | Effect::Ticket(..) => {
                Outcome::Failed(Failure::NoCheckpoint)
            }
            Effect::Hint(hint) => {
                self.assert_hint(hint);
                self.hints.push(hint);
                Outcome::Done
            }
            Effect::NextCheckpointFigures(after) => match self.checkpoints.iter().find(|id| after < **id) {
                Some(id) => self.act(Effect::CheckpointFigures(*id)),
                None => Outcome::Failed(Failure::NoCheckpoint),
            },
            Effect::SessionFigures => {
                let regions = u32::try_from(self.regions.len()).unwrap();
                Outcome::Session(SessionFigures { regions, ..SessionFigures::default() })
            }
        }
    }

    fn assert_hint(&self, hint: Hint) {
        let region = self.regions.iter().find(|(id, ..)| *id == hint.region);
        let (_, span, _) = region.expect("a hint is about a region that is there");
        let last = u64::from(hint.word) * 64 + u64::from(63 - hint.bits.leading_zeros());
        assert!(hint.bits != 0 && last < span.len() / PAGE_SIZE, "a hint is about pages of its region");
    }

    fn add_region(&mut self, span: RegionSpan, name: RegionName) -> Outcome {
        for (_, other, other_name) in &self.regions {
            assert!(span.end() <= other.address() || other.end() <= span.address(), "regions never overlap");
            assert_ne!(name, *other_name, "names are unique");
        }
        self.last_region += 1;
        let id = RegionId(self.last_region);
        self.regions.push((id, span, name));
        let bytes: u64 = self.regions.iter().map(|(_, span, _)| span.len()).sum();
        assert!(bytes <= LIMITS.max_bytes, "the limit of bytes holds");
        assert!(self.regions.len() <= LIMITS.max_regions as usize, "the limit of regions holds");
        Outcome::Region(id)
    }
}
