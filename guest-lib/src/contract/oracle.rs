//! A random walk beside a model that keeps every checkpoint as a full copy.

use std::collections::BTreeMap;

use cairn_abi::CheckpointId;

use super::pages::Pages;
use super::random::Random;
use super::{ContractError, Finding, Report, ensure, ensure_refused};
use crate::error::Error;
use crate::hints::RegionMode;
use crate::memory::PAGE;
use crate::region::Region;
use crate::session::Session;

/// Regions that the walk has at once.
const MAX_REGIONS: usize = 6;
/// Pages that a region of the walk may have.
const MAX_PAGES: usize = 48;

/// A region, beside what it should hold.
#[derive(Debug)]
struct Tracked {
    name: String,
    region: Region<u8>,
    mode: RegionMode,
    expected: Vec<u8>,
    /// The program's own memory, if it was adopted. After `region`, which watches it.
    adopted: Option<Pages>,
}

/// The content of all regions, by name: the walk never uses a name twice.
type Content = BTreeMap<String, Vec<u8>>;

/// The model.
#[derive(Debug, Default)]
struct Model {
    tracked: Vec<Tracked>,
    kept: BTreeMap<CheckpointId, Content>,
    /// The parents of all checkpoints that ever were.
    parents: BTreeMap<CheckpointId, Option<CheckpointId>>,
    /// The checkpoint that memory derives from.
    current: Option<CheckpointId>,
    newest: u64,
    names: u64,
}

/// Takes `steps` random steps with `session`.
pub(super) fn walk(
    session: &mut Session,
    seed: u64,
    steps: u32,
    report: &mut Report,
) -> Result<(), ContractError> {
    let mut random = Random::new(seed);
    let mut model = Model::default();
    let mut result = Ok(());
    for step in 0..steps {
        result = model
            .step(session, &mut random, report)
            .map_err(|finding| finding.at(format!("random walk with seed {seed}, step {step}")));
        if result.is_err() {
            break;
        }
    }
    // Regions first: adopted memory must outlive them.
    for tracked in model.tracked {
        let dropped = session.drop_region(tracked.region).map_err(Finding::from);
        let dropped = dropped.map_err(|finding| finding.at(String::from("end of the random walk")));
        result = result.and(dropped);
    }
    result
}

impl Model {
    fn step(
        &mut self,
        session: &mut Session,
        random: &mut Random,
        report: &mut Report,
    ) -> Result<(), Finding> {
        match random.below(100) {
            0..=49 => self.write(session, random),
            50..=66 => self.checkpoint(session, report),
            67..=74 => self.checkpoint_async(session, random, report),
            75..=89 => self.rollback(session, random, report),
            90..=92 => self.release(session, random, report),
            93 => self.list(session),
            94..=97 => self.register(session, random),
            _ => self.drop_region(session, random),
        }
    }

    /// Writes as programs do: a few hot places, a byte anywhere, a run of bytes, zeros.
    fn write(&mut self, session: &mut Session, random: &mut Random) -> Result<(), Finding> {
        if self.tracked.is_empty() {
            return self.register(session, random);
        }
        let index = random.below(self.tracked.len());
        let tracked = &mut self.tracked[index];
        let len = tracked.expected.len();
        let (start, count, byte) = match random.below(5) {
            0 => (random.below(4) * PAGE % len, 8, random.byte()),
            1 => (random.below(len), 1, random.byte()),
            2 => (random.below(len), random.below(3 * PAGE), random.byte()),
            3 => (random.below(len) / PAGE * PAGE, PAGE, 0),
            _ => (random.below(len), 1, 0),
        };
        let range = start..len.min(start + count);
        tracked.expected[range.clone()].fill(byte);
        // A correct hinter, before the write or after it. Where it needn't hint it says what it likes.
        let (must, before) = (tracked.mode != RegionMode::Tracked, random.below(2) == 0);
        if must && before {
            session.hint(&tracked.region, range.clone());
        } else if !must && random.below(4) == 0 {
            let first = random.below(len);
            session.hint(&tracked.region, first..first + random.below(4 * PAGE));
        }
        session.slice_mut(&tracked.region)[range.clone()].fill(byte);
        if must && !before {
            session.hint(&tracked.region, range);
        }
        Ok(())
    }

    fn checkpoint(&mut self, session: &mut Session, report: &mut Report) -> Result<(), Finding> {
        let id = session.checkpoint()?;
        let content = self.content();
        self.keep(session, id, content)?;
        report.checkpoints += 1;
        self.compare(session, "after a checkpoint")
    }

    /// Goes on writing, and perhaps takes another one, before it turns the ticket in.
    fn checkpoint_async(
        &mut self,
        session: &mut Session,
        random: &mut Random,
        report: &mut Report,
    ) -> Result<(), Finding> {
        let ticket = session.checkpoint_async()?;
        let content = self.content();
        for _ in 0..random.below(6) {
            self.write(session, random)?;
        }
        self.compare(session, "during an asynchronous checkpoint")?;
        let after = if random.below(4) == 0 { Some(session.checkpoint()?) } else { None };
        if random.below(2) == 0 {
            session.is_done(&ticket)?;
        }
        let id = session.wait(ticket)?;
        self.keep(session, id, content)?;
        report.checkpoints += 1;
        if let Some(after) = after {
            let content = self.content();
            self.keep(session, after, content)?;
            report.checkpoints += 1;
        }
        self.compare(session, "after an asynchronous checkpoint")
    }

    /// Remembers what a checkpoint holds.
    fn keep(&mut self, session: &Session, id: CheckpointId, content: Content) -> Result<(), Finding> {
        ensure(id.0 > self.newest, format_args!("checkpoint {id} came after {}", self.newest))?;
        self.newest = id.0;
        if self.kept.len() as u64 == u64::from(session.history()) {
            self.kept.pop_first();
        }
        self.kept.insert(id, content);
        self.parents.insert(id, self.current.replace(id));
        Ok(())
    }

    /// What all regions should hold now.
    fn content(&self) -> Content {
        self.tracked.iter().map(|tracked| (tracked.name.clone(), tracked.expected.clone())).collect()
    }

    fn rollback(
        &mut self,
        session: &mut Session,
        random: &mut Random,
        report: &mut Report,
    ) -> Result<(), Finding> {
        let id = self.some_id(random);
        let Some(content) = self.kept.get(&id) else {
            report.refusals += 1;
            return ensure_refused(session.rollback(id), "rollback", self.absent(session, id));
        };
        if !self.has_regions_of(content) {
            report.refusals += 1;
            let names = |error: &Error| self.names_difference(error, content);
            ensure_refused(session.rollback(id), "rollback to another region set", names)?;
            return self.compare(session, "after a refused rollback");
        }
        session.rollback(id)?;
        self.current = Some(id);
        for tracked in &mut self.tracked {
            if let Some(bytes) = content.get(&tracked.name) {
                tracked.expected.clone_from(bytes);
            }
        }
        report.rollbacks += 1;
        self.compare(session, "after a rollback")
    }

    fn release(
        &mut self,
        session: &mut Session,
        random: &mut Random,
        report: &mut Report,
    ) -> Result<(), Finding> {
        let id = self.some_id(random);
        if self.kept.contains_key(&id) {
            session.release(id)?;
            self.kept.remove(&id);
            return Ok(());
        }
        report.refusals += 1;
        ensure_refused(session.release(id), "release", self.absent(session, id))
    }

    /// The list of checkpoints is the model's.
    fn list(&self, session: &mut Session) -> Result<(), Finding> {
        let told: Vec<_> = session.checkpoints()?.iter().map(|one| (one.id, one.parent)).collect();
        let kept = self.kept.keys().map(|id| (*id, self.parents.get(id).copied().flatten()));
        ensure(kept.eq(told.iter().copied()), format_args!("the checkpoints are said to be {told:?}"))
    }

    fn register(&mut self, session: &mut Session, random: &mut Random) -> Result<(), Finding> {
        if self.tracked.len() == MAX_REGIONS {
            return Ok(());
        }
        self.names += 1;
        let name = format!("region {}", self.names);
        let pages = 1 + random.below(MAX_PAGES);
        let mode = match random.below(4) {
            0 => RegionMode::Hinted,
            1 => RegionMode::Checked,
            _ => RegionMode::Tracked,
        };
        if random.below(4) == 0 {
            let byte = random.byte();
            let mut memory = Pages::filled(pages, byte)?;
            let region = memory.adopt(session, &name, mode)?;
            let expected = vec![byte; pages * PAGE];
            self.tracked.push(Tracked { name, region, mode, expected, adopted: Some(memory) });
        } else {
            let len = pages * PAGE - random.below(PAGE);
            let region = session.region_with(&name, len, mode)?;
            self.tracked.push(Tracked { name, region, mode, expected: vec![0; len], adopted: None });
        }
        Ok(())
    }

    fn drop_region(&mut self, session: &mut Session, random: &mut Random) -> Result<(), Finding> {
        if self.tracked.is_empty() {
            return Ok(());
        }
        let index = random.below(self.tracked.len());
        let Tracked { name, region, expected, adopted, .. } = self.tracked.swap_remove(index);
        session.drop_region(region)?;
        if let Some(mut memory) = adopted {
            ensure(memory.bytes() == expected, format_args!("{name} changed when it was dropped"))?;
            memory.bytes_mut().fill(0);
        }
        Ok(())
    }

    /// Mostly a recent id, now and then one that never was or that is long gone.
    fn some_id(&self, random: &mut Random) -> CheckpointId {
        if random.below(8) == 0 || self.kept.is_empty() {
            return CheckpointId(random.below(usize::try_from(self.newest).unwrap_or(0) + 3) as u64);
        }
        let index = random.below(self.kept.len());
        self.kept.keys().nth(index).copied().unwrap_or(CheckpointId(0))
    }

    /// The only right reason to refuse an id that isn't kept: it is evicted if it was a checkpoint of this session, and
    /// as many were taken after it as are retained, released or not.
    fn absent(&self, session: &Session, id: CheckpointId) -> impl Fn(&Error) -> bool + use<> {
        let taken_after = self.parents.keys().filter(|other| id < **other).count() as u64;
        let evicted = self.parents.contains_key(&id) && taken_after >= u64::from(session.history());
        move |error| match error {
            Error::Evicted { .. } => evicted,
            Error::NoCheckpoint { .. } => !evicted,
            _ => false,
        }
    }

    /// Whether the error names a region that is in one of the two sets, and says in which.
    fn names_difference(&self, error: &Error, content: &Content) -> bool {
        let Error::RegionSet { region, registered, .. } = error else { return false };
        let today = self.tracked.iter().any(|tracked| tracked.name == *region);
        today != content.contains_key(region) && today == *registered
    }

    fn has_regions_of(&self, content: &Content) -> bool {
        self.tracked.len() == content.len()
            && self.tracked.iter().all(|tracked| content.contains_key(&tracked.name))
    }

    fn compare(&self, session: &Session, when: &str) -> Result<(), Finding> {
        for tracked in &self.tracked {
            let found = session.slice(&tracked.region);
            if found == tracked.expected {
                continue;
            }
            if let Some(place) = (0..found.len()).find(|place| found[*place] != tracked.expected[*place]) {
                return Err(Finding::new(format_args!(
                    "{when}, byte {place} of {} is {:#x} instead of {:#x}",
                    tracked.name, found[place], tracked.expected[place]
                )));
            }
        }
        Ok(())
    }
}
