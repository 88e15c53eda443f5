//! A random walk with two arenas, beside std's collections.

use std::collections::BTreeMap;

use cairn_abi::CheckpointId;

use super::random::Random;
use super::{ContractError, Finding, Report, ensure};
use crate::arena::{Arena, Full, Heap, Map, Text, Vector};
use crate::session::Session;

/// Bytes of an arena: so few that it's often full.
const BYTES: usize = 48 << 10;
/// Names that the walk uses.
const NAMES: usize = 150;
/// Elements that one step adds at most.
const MAX_ADDED: usize = 3000;

crate::region_data! {
    /// What an arena of the walk holds: something of everything.
    struct Desk<'r> {
        lists: Map<'r, Text<'r>, Vector<'r, u32>>,
        notes: Vector<'r, Note<'r>>,
        changes: u64,
    }
}

crate::region_data! {
    struct Note<'r> {
        /// Padded: 1 byte before 16.
        place: (u8, u128),
        text: Option<Text<'r>>,
    }
}

/// What it should hold.
#[derive(Clone, Debug, Default)]
struct Model {
    lists: BTreeMap<String, Vec<u32>>,
    notes: Vec<((u8, u128), Option<String>)>,
    changes: u64,
}

struct Walk<'s> {
    session: &'s mut Session,
    arenas: [Arena<Desk<'static>>; 2],
    models: [Model; 2],
    kept: BTreeMap<CheckpointId, [Model; 2]>,
    random: Random,
}

/// Takes `steps` random steps with `session`.
pub(super) fn walk(
    session: &mut Session,
    seed: u64,
    steps: u32,
    report: &mut Report,
) -> Result<(), ContractError> {
    let at = |step: u32| move |finding: Finding| finding.at(format!("arenas with seed {seed}, step {step}"));
    let mut free = 0;
    let mut make = |name| {
        let arena = session.arena::<Desk>(name, BYTES, |heap| {
            free = heap.free();
            Ok(Desk::new(heap))
        });
        arena.map_err(|error| at(0)(error.into()))
    };
    let arenas = [make("left")?, make("right")?];
    let mut walk = Walk {
        session,
        arenas,
        models: Default::default(),
        kept: BTreeMap::new(),
        random: Random::new(seed),
    };
    for step in 0..steps {
        walk.step(report).map_err(at(step))?;
    }
    walk.finish(free).map_err(at(steps))
}

impl Walk<'_> {
    fn step(&mut self, report: &mut Report) -> Result<(), Finding> {
        match self.random.below(20) {
            0..=1 => {
                let id = self.session.checkpoint()?;
                if self.kept.len() as u64 == u64::from(self.session.history()) {
                    self.kept.pop_first();
                }
                self.kept.insert(id, self.models.clone());
                report.checkpoints += 1;
                self.compare()
            }
            2 => {
                let Some((id, models)) = pick(&self.kept, &mut self.random) else { return Ok(()) };
                self.session.rollback(id)?;
                self.models = models.clone();
                report.rollbacks += 1;
                self.compare()
            }
            3 => {
                let Some((id, _)) = pick(&self.kept, &mut self.random) else { return Ok(()) };
                self.session.release(id)?;
                self.kept.remove(&id);
                Ok(())
            }
            _ => {
                let which = self.random.below(2);
                let (arena, model, random) = (&self.arenas[which], &mut self.models[which], &mut self.random);
                let changed = self.session.with(arena, |desk| desk.change(model, random));
                report.refusals += u32::from(changed.is_err());
                Ok(())
            }
        }
    }

    /// Looks at everything in both arenas.
    fn compare(&self) -> Result<(), Finding> {
        for (arena, model) in self.arenas.iter().zip(&self.models) {
            self.session.read(arena, |desk| desk.compare(model))?;
        }
        Ok(())
    }

    /// Compares, and then gives all memory back.
    fn finish(self, free: usize) -> Result<(), Finding> {
        self.compare()?;
        for arena in self.arenas {
            let left = self.session.with(&arena, |desk| {
                let heap = desk.lists.heap();
                *desk = Desk::new(heap);
                heap.free()
            });
            ensure(left == free, format_args!("{left} of {free} bytes came back"))?;
            self.session.drop_arena(arena)?;
        }
        Ok(())
    }
}

impl<'r> Desk<'r> {
    fn new(heap: Heap<'r>) -> Self {
        Self { lists: heap.map(), notes: heap.vector(), changes: 0 }
    }

    /// Changes something, and the model with it unless the arena is full.
    fn change(&mut self, model: &mut Model, random: &mut Random) -> Result<(), Full> {
        let heap = self.lists.heap();
        let name = format!("name {}", random.below(NAMES));
        match random.below(12) {
            0..=2 => {
                let list: Vec<u32> = (0..random.byte() / 4).map(u32::from).collect();
                self.lists.insert(heap.text(&name)?, heap.copy_of(&list)?)?;
                model.lists.insert(name, list);
            }
            3..=5 => {
                let Some(list) = self.lists.get_mut(name.as_str()) else { return Ok(()) };
                let added = vec![u32::from(random.byte()); random.below(MAX_ADDED)];
                list.extend_from_slice(&added)?;
                model.lists.entry(name).or_default().extend(added);
            }
            6..=7 => {
                self.lists.remove(name.as_str());
                model.lists.remove(&name);
            }
            8..=9 => {
                let text = random.below(3).checked_sub(1).map(|_| name);
                let place = (random.byte(), u128::from(random.next()));
                let index = random.below(self.notes.len() + 1);
                let copy = text.as_deref().map(|text| heap.text(text)).transpose()?;
                self.notes.insert(index, Note { place, text: copy })?;
                model.notes.insert(index, (place, text));
            }
            10 if !self.notes.is_empty() => {
                let index = random.below(self.notes.len());
                self.notes.remove(index);
                model.notes.remove(index);
                if let Some(Note { text: Some(text), .. }) = self.notes.first_mut() {
                    text.push('ü')?;
                    model.notes[0].1.get_or_insert_default().push('ü');
                }
            }
            _ => {
                if random.below(40) == 0 {
                    self.lists.clear();
                    model.lists.clear();
                }
                for list in self.lists.values_mut() {
                    list.truncate(100);
                }
                for list in model.lists.values_mut() {
                    list.truncate(100);
                }
            }
        }
        self.changes += 1;
        model.changes += 1;
        Ok(())
    }

    fn compare(&self, model: &Model) -> Result<(), Finding> {
        ensure(self.lists.len() == model.lists.len(), "the map has more or fewer entries")?;
        for (name, list) in &model.lists {
            let found = self.lists.get(name.as_str()).map(Vector::as_slice);
            ensure(found == Some(list), format_args!("{name:?} has another list"))?;
        }
        let mut names: Vec<&str> = self.lists.keys().map(Text::as_str).collect();
        names.sort_unstable();
        ensure(names.iter().eq(model.lists.keys()), "iterating gives other names")?;
        let notes = self.notes.iter().map(|note| (note.place, note.text.as_deref()));
        let expected = model.notes.iter().map(|(place, text)| (*place, text.as_deref()));
        ensure(notes.eq(expected), "the notes differ")?;
        ensure(self.changes == model.changes, "another number of changes")
    }
}

/// A checkpoint at random.
fn pick<'k>(
    kept: &'k BTreeMap<CheckpointId, [Model; 2]>,
    random: &mut Random,
) -> Option<(CheckpointId, &'k [Model; 2])> {
    let index = random.below(kept.len());
    kept.iter().nth(index).map(|(id, models)| (*id, models))
}
