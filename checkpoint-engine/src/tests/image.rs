//! Images that somebody has changed.

use cairn_abi::{CheckpointId, RegionId};
use proptest::prelude::*;

use super::memory::Memory;
use super::model::World;
use super::tracker::FakeTracker;
use crate::{Config, Engine, EngineImage, ImageError, PAGE_SIZE, Rule};

/// What is changed of an image.
#[derive(Clone, Debug)]
enum Change {
    /// A number of the image itself.
    Number(usize, u64),
    /// A version's, by its place.
    Version(usize, usize, u64),
    /// A region's.
    Region(usize, usize, u64),
    /// A set's.
    Set(usize, u64),
    /// A byte of a delta.
    Delta(usize, usize, u8),
    /// A list becomes shorter, or has its last element twice.
    List(usize, bool),
}

fn change() -> impl Strategy<Value = Change> {
    let value = || prop_oneof![0..6_u64, 0..100_u64, Just(u64::MAX), Just(u64::MAX / 2), any::<u64>()];
    let place = || 0..8usize;
    prop_oneof![
        (place(), value()).prop_map(|(field, value)| Change::Number(field, value)),
        (place(), 0..6usize, value()).prop_map(|(at, field, value)| Change::Version(at, field, value)),
        (place(), 0..2usize, value()).prop_map(|(at, field, value)| Change::Region(at, field, value)),
        (place(), value()).prop_map(|(at, value)| Change::Set(at, value)),
        (place(), 0..200usize, any::<u8>()).prop_map(|(at, byte, value)| Change::Delta(at, byte, value)),
        (0..4usize, any::<bool>()).prop_map(|(list, twice)| Change::List(list, twice)),
    ]
}

fn place(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

fn small(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap()
}

fn resize<T: Clone>(list: &mut Vec<T>, twice: bool) {
    match list.last().cloned() {
        Some(last) if twice => list.push(last),
        _ => drop(list.pop()),
    }
}

fn apply(change: &Change, image: &mut EngineImage, deltas: &mut [(CheckpointId, Vec<u8>)]) {
    match *change {
        Change::Number(0, value) => image.last_region = small(value),
        Change::Number(1, value) => image.versions.last = value,
        Change::Number(2, value) => image.versions.unused = value,
        Change::Number(3, value) => image.versions.evicted = value,
        Change::Number(5, value) => image.versions.imported = value,
        Change::Number(6, value) => image.versions.left_out.push((value.min(9), value)),
        Change::Number(4, value) => image.failed.push(CheckpointId(value)),
        Change::Number(at, value) => image.counters[at % 4] = value,
        Change::Version(at, field, value) => {
            let Some(version) = image.versions.versions.get_mut(at) else { return };
            match field {
                0 => version.id = CheckpointId(value),
                1 => version.parent = Some(CheckpointId(value)),
                2 => version.set = place(value),
                3 => version.next = Some(place(value)).filter(|next| *next < usize::MAX),
                4 => version.named = !version.named,
                _ => version.delta_bytes = value,
            }
        }
        Change::Region(at, field, value) => {
            let Some(region) = image.regions.get_mut(at) else { return };
            match field {
                0 => region.id = RegionId(small(value)),
                _ => region.written.iter_mut().for_each(|word| *word |= value),
            }
        }
        Change::Set(at, value) => {
            if let Some(member) = image.versions.sets.get_mut(at).and_then(|set| set.first_mut()) {
                member.0 = RegionId(small(value));
            }
        }
        Change::Delta(at, byte, value) => {
            if let Some(byte) = deltas.get_mut(at).and_then(|(_, bytes)| bytes.get_mut(byte)) {
                *byte = value;
            }
        }
        Change::List(0, twice) => resize(&mut image.versions.versions, twice),
        Change::List(1, twice) => resize(&mut image.versions.sets, twice),
        Change::List(2, twice) => resize(&mut image.regions, twice),
        Change::List(_, twice) => {
            image.regions.iter_mut().for_each(|region| resize(&mut region.written, twice));
        }
    }
}

/// A world with a tree of versions, of two regions and one that was dropped.
fn image() -> (World, EngineImage, Vec<(CheckpointId, Vec<u8>)>) {
    let mut world = World::new(Rule::Model, 5, FakeTracker::default());
    world.skip_ids(CheckpointId(2));
    world.add(20).unwrap();
    world.add(5).unwrap();
    let mut ids = Vec::new();
    for round in 0..7 {
        world.write(round % 2, round * 3000, 7);
        ids.push(world.checkpoint().unwrap());
        if round == 3 {
            world.add(3).unwrap();
            world.remove(1);
        }
        if round == 5 {
            world.rollback(ids[4]).unwrap();
        }
    }
    world.write(0, 9, 9);
    let image = world.engine.image().unwrap();
    let mut deltas = Vec::new();
    world.engine.gather_history(true, |id, delta| deltas.push((id, delta))).unwrap();
    (world, image, deltas)
}

/// Builds an engine of it.
fn build(
    engine: &mut Engine<FakeTracker>,
    memories: &[Memory],
    image: &EngineImage,
    deltas: &[(CheckpointId, Vec<u8>)],
) -> Result<(), ImageError> {
    for (region, memory) in image.regions.iter().zip(memories) {
        engine.rebuild_region(region, memory.live())?;
        for page in 0..memory.pages() {
            engine.rebuild_page(region.id, page, &[1; PAGE_SIZE])?;
        }
    }
    engine.rebuild_history(image, true, |id, _| {
        let delta = deltas.iter().find(|(known, _)| *known == id);
        delta.map(|(_, delta)| delta.clone()).ok_or(ImageError::Impossible("delta"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// It's refused, or it's some engine; whatever that is asked then, it answers.
    #[test]
    fn no_image_is_too_bad(changes in prop::collection::vec(change(), 0..4)) {
        let (world, mut image, mut deltas) = image();
        let memories: Vec<_> = world.regions.iter().map(|(.., memory)| Memory::new(memory.pages())).collect();
        changes.iter().for_each(|change| apply(change, &mut image, &mut deltas));
        let config = Config { history: 5.try_into().unwrap(), records_changes: true, ..Config::default() };
        let mut engine = Engine::new(FakeTracker::default(), config);
        let built = build(&mut engine, &memories, &image, &deltas);
        prop_assert!(!changes.is_empty() || built.is_ok());
        if built.is_ok() {
            let ids: Vec<_> = image.versions.versions.iter().map(|version| version.id).collect();
            for id in ids.into_iter().chain((0..12).map(CheckpointId)) {
                let _ = engine.rollback(id);
            }
            engine.checkpoint().unwrap();
            for round in 0..8 {
                let _ = engine.release(CheckpointId(round));
            }
            let _ = engine.image().unwrap();
            for region in &image.regions {
                engine.remove_region(region.id).unwrap();
                engine.checkpoint().unwrap();
            }
        }
    }
}
