//! Random histories against the model.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};

use proptest::prelude::*;

use super::memory_directory;
use super::model::{Change, Model, Step, page};
use crate::{Level, Options, Store, Writer};

/// Something that happens to a store.
#[derive(Clone, Debug)]
enum Event {
    /// A commit; where the parent is, as a fraction of the checkpoints there are, 0 for none.
    Commit {
        parent: u8,
        objects: Vec<(u8, u64, BTreeMap<u64, Change>)>,
        section: Vec<u8>,
        level: Level,
    },
    Reopen(Limits),
    Compact,
}

/// What is kept.
type Limits = (Option<usize>, usize, u64);

fn options((keep, every, segment): Limits) -> Options {
    Options {
        keep: keep.and_then(NonZeroUsize::new),
        keep_bytes: None,
        base_every: NonZeroUsize::new(every).unwrap(),
        segment_bytes: NonZeroU64::new(segment).unwrap(),
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        // Few different pages, so that they repeat.
        (any::<u8>(), 0_u64..3).prop_map(|(byte, seed)| Change::Page(page(byte & 3, seed))),
        any::<u64>().prop_map(|seed| Change::Page(page(9, seed))),
        Just(Change::Zero),
        (any::<u64>(), any::<u8>()).prop_map(|(mask, byte)| Change::Chunks(mask | 1, byte)),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    (prop::option::of(1_usize..12), 1_usize..6, 1_u64..200_000)
}

fn event() -> impl Strategy<Value = Event> {
    let pages = 1_u64..80;
    let object = (0_u8..3, pages, prop::collection::btree_map(0_u64..80, change(), 0..40));
    let objects = prop::collection::vec(object, 0..3);
    let section = prop::collection::vec(any::<u8>(), 0..64);
    let level = prop_oneof![Just(Level::Written), Just(Level::Synced)];
    prop_oneof![
        8 => (any::<u8>(), objects, section, level)
            .prop_map(|(parent, objects, section, level)| Event::Commit { parent, objects, section, level }),
        1 => limits().prop_map(Event::Reopen),
        1 => Just(Event::Compact),
    ]
}

/// Makes the event's commit one that the store must take.
fn step(
    model: &Model,
    id: u64,
    parent: u8,
    objects: &[(u8, u64, BTreeMap<u64, Change>)],
    section: &[u8],
) -> Step {
    let known: Vec<u64> = model.checkpoints.keys().copied().collect();
    // Mostly the newest, at times an older one, at times none.
    let parent = match parent {
        0..16 => None,
        16..64 => known.get(usize::from(parent) * known.len() / 64).copied(),
        _ => known.last().copied(),
    };
    let mut named: BTreeMap<String, (u64, BTreeMap<u64, Change>)> = BTreeMap::new();
    for (name, pages, changes) in objects {
        let mut changes = changes.clone();
        changes.retain(|page, change| {
            page < pages && (parent.is_some() || !matches!(change, Change::Chunks(..)))
        });
        named.insert(format!("object {name}"), (*pages, changes));
    }
    let objects = named.into_iter().map(|(name, (pages, changes))| (name, pages, changes)).collect();
    Step { id, parent, objects, section: section.to_vec() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_read_back(limits in limits(), events in prop::collection::vec(event(), 1..40)) {
        let directory = memory_directory();
        let mut model = Model::default();
        let mut keep = limits.0;
        let mut writer = Writer::open(directory.path(), options(limits)).unwrap();
        let mut id = 0;
        for event in events {
            match event {
                Event::Commit { parent, objects, section, level } => {
                    id += 1 + u64::from(parent % 3);
                    let step = step(&model, id, parent, &objects, &section);
                    writer.commit(&step.batch(), level).unwrap();
                    step.apply(&mut model);
                    prop_assert_eq!(writer.newest().map(|id| id.0), Some(id));
                }
                Event::Reopen(limits) => {
                    drop(writer);
                    keep = limits.0;
                    writer = Writer::open(directory.path(), options(limits)).unwrap();
                }
                Event::Compact => writer.compact(&mut |_| true).unwrap(),
            }
            // What isn't kept is gone for good.
            while keep.is_some_and(|keep| keep < model.checkpoints.len()) {
                model.checkpoints.pop_first();
            }
            model.assert_same(&writer.reader().unwrap(), 0);
        }
        drop(writer);
        model.assert_same(&Store::open(directory.path()).unwrap(), 0);
    }
}
