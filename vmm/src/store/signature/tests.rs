//! What was signed is read, and nothing else: against a model, through compaction, and with everything forged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use cairn_abi::CheckpointId;
use cairn_store::{Batch, Level, Object, ObjectName, Options, PAGE_SIZE, Snapshot, Store, Writer};

use super::*;

const NAMES: [&str; 3] = ["memory", "file:1", "file:2"];

fn key(directory: &Path) -> Key {
    Key::of(directory).unwrap()
}

fn page(byte: u64) -> [u8; PAGE_SIZE] {
    [u8::try_from(byte % 251).unwrap(); PAGE_SIZE]
}

fn object(name: &str, pages: u64) -> Object {
    Object { name: ObjectName::new(name).unwrap(), tag: 1, address: 0, pages }
}

fn lazily(object: &Object) -> bool {
    object.name.as_str() == "memory"
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// The pages of an object, zeros left out.
type Pages = BTreeMap<u64, u64>;

fn snapshot(store: &Path, id: u64) -> Arc<Snapshot> {
    Arc::new(Store::open(store).unwrap().snapshot(CheckpointId(id)).unwrap())
}

fn check(checked: &CheckedSnapshot, model: &[(u64, Pages)], id: u64) {
    let mut bytes = [0; PAGE_SIZE];
    assert_eq!(checked.section("about").unwrap().unwrap(), id.to_le_bytes());
    for (name, (pages, content)) in NAMES.iter().zip(model) {
        let Some(index) = checked.find(name) else {
            assert_eq!(*pages, 0, "{name}");
            continue;
        };
        for at in 0..*pages {
            checked.read_page(index, at, &mut bytes).unwrap();
            // Of pages that are changed in part the store's own tests know what they are.
            assert!(
                *name == "file:2" || bytes == page(content.get(&at).copied().unwrap_or(0)),
                "{name} {at} of {id}"
            );
            let is_present = checked.present(index).unwrap().iter().any(|run| run.contains(&at));
            assert!(is_present || bytes == [0; PAGE_SIZE], "{name} {at} of {id}");
        }
    }
}

/// Random changes, commits that fail, objects that shrink, go and come, restarts from what is in the store, compaction.
#[test]
fn what_was_signed_is_read() {
    for seed in 0..6 {
        let place = tempfile::tempdir().unwrap();
        let (store, state) = (place.path().join("store"), place.path().join("state"));
        let mut random = Rng(seed);
        let options = Options { base_every: 3.try_into().unwrap(), ..Options::default() };
        let mut writer = Writer::open(&store, options).unwrap();
        let mut signer = Signer::new(key(&state));
        let mut model: Vec<(u64, Pages)> = NAMES.iter().map(|_| (0, Pages::new())).collect();
        let mut parent = None;
        for id in 1..40 {
            let mut next = model.clone();
            let mut batch = Batch::new(CheckpointId(id), parent);
            if parent.is_none() {
                next.iter_mut().for_each(|(_, pages)| pages.clear());
            }
            for (at, (pages, content)) in next.iter_mut().enumerate() {
                *pages = if at == 0 { 2000 } else { random.below(4) * random.below(400) };
                content.split_off(pages);
                if *pages == 0 {
                    // The next one of the name begins anew.
                    continue;
                }
                let index = batch.object(object(NAMES[at], *pages)).unwrap();
                if random.below(3) == 0 && parent.is_some() {
                    let first = random.below(*pages);
                    let end = (first + random.below(600)).min(*pages);
                    batch.zero(index, first..end).unwrap();
                    content.retain(|page, _| !(first..end).contains(page));
                    continue;
                }
                let places: BTreeSet<u64> = (0..random.below(20)).map(|_| random.below(*pages)).collect();
                for place in places {
                    let byte = random.below(20);
                    if NAMES[at] == "file:2" && parent.is_some() && random.below(2) == 0 {
                        let mask = 0x0f0f << random.below(40);
                        batch.chunks(index, place, mask, &page(byte)[..8 * 64]).unwrap();
                        continue;
                    }
                    batch.page(index, place, &page(byte)).unwrap();
                    content.insert(place, byte);
                }
            }
            batch.section("about", id.to_le_bytes().to_vec()).unwrap();
            let before = parent.map(|CheckpointId(id)| snapshot(&store, id));
            let staged = signer.stage(&mut batch, lazily, |_, _| None, || before).unwrap();
            if random.below(5) == 0 {
                // Not committed, and forgotten.
                continue;
            }
            writer.commit(&batch, Level::Written).unwrap();
            signer.accept(staged);
            (model, parent) = (next, Some(CheckpointId(id)));
            let checked = CheckedSnapshot::open(snapshot(&store, id), &key(&state)).unwrap().unwrap();
            check(&checked, &model, id);
            match random.below(8) {
                0 => signer = Signer::after(key(&state), Arc::new(checked)),
                1 => writer.compact(&mut |_| true).unwrap(),
                2 => parent = None,
                _ => {}
            }
        }
        writer.compact(&mut |_| true).unwrap();
        let newest = writer.newest().unwrap();
        let checked = CheckedSnapshot::open(snapshot(&store, newest.0), &key(&state)).unwrap().unwrap();
        check(&checked, &model, newest.0);
    }
}

/// What somebody who can write the store makes of a checkpoint.
#[derive(Clone)]
struct Forged {
    id: u64,
    sections: Vec<(String, Vec<u8>)>,
    objects: Vec<(Object, BTreeMap<u64, [u8; PAGE_SIZE]>)>,
}

impl Forged {
    fn of(snapshot: &Snapshot) -> Self {
        let sections = snapshot.sections().map(|(name, _)| name.to_owned());
        let sections =
            sections.map(|name| (name.clone(), snapshot.section(&name).unwrap().unwrap())).collect();
        let mut objects = Vec::new();
        for object in snapshot.objects() {
            let index = snapshot.find(object.name.as_str()).unwrap();
            let mut pages = BTreeMap::new();
            for page in snapshot.present(index).flatten() {
                let mut bytes = [0; PAGE_SIZE];
                snapshot.read_page(index, page, &mut bytes).unwrap();
                pages.insert(page, bytes);
            }
            objects.push((object.clone(), pages));
        }
        Self { id: snapshot.id().0, sections, objects }
    }

    /// Whether everything of it is read as what was signed with `key`.
    fn is_believed(&self, key: &Key) -> bool {
        let place = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(place.path(), Options::default()).unwrap();
        let mut batch = Batch::new(CheckpointId(self.id), None);
        for (object, pages) in &self.objects {
            let index = batch.object(object.clone()).unwrap();
            pages.iter().for_each(|(page, bytes)| batch.page(index, *page, bytes).unwrap());
        }
        self.sections.iter().for_each(|(name, bytes)| batch.section(name, bytes.clone()).unwrap());
        writer.commit(&batch, Level::Written).unwrap();
        let Ok(checked) = CheckedSnapshot::open(snapshot(place.path(), self.id), key).unwrap() else {
            return false;
        };
        let mut bytes = [0; PAGE_SIZE];
        self.objects.iter().filter(|(object, _)| !object.name.as_str().starts_with("tags:")).all(
            |(object, _)| {
                let index = checked.find(object.name.as_str()).unwrap();
                (0..object.pages).all(|page| checked.read_page(index, page, &mut bytes).is_ok())
            },
        )
    }

    fn pages(&mut self, name: &str) -> &mut BTreeMap<u64, [u8; PAGE_SIZE]> {
        &mut self.object(name).1
    }

    fn object(&mut self, name: &str) -> &mut (Object, BTreeMap<u64, [u8; PAGE_SIZE]>) {
        self.objects.iter_mut().find(|(object, _)| object.name.as_str() == name).unwrap()
    }

    fn section(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.sections.iter_mut().find(|(own, _)| own == name).unwrap().1
    }
}

/// A checkpoint and its predecessor, with the same key.
fn signed_pair(state: &Path) -> [Forged; 2] {
    let place = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(place.path(), Options::default()).unwrap();
    let mut signer = Signer::new(key(state));
    let mut made = Vec::new();
    for id in 1..3_u64 {
        let mut batch = Batch::new(CheckpointId(id), (1 < id).then(|| CheckpointId(id - 1)));
        let memory = batch.object(object("memory", 1000)).unwrap();
        let file = batch.object(object("file:1", 10)).unwrap();
        [3, 4, 400].iter().for_each(|at| batch.page(memory, *at, &page(at + id)).unwrap());
        batch.page(file, 2, &page(7 + id)).unwrap();
        batch.section("about", vec![1, 2, 3]).unwrap();
        batch.section("other", vec![4]).unwrap();
        let staged = signer.stage(&mut batch, lazily, |_, _| None, || None).unwrap();
        writer.commit(&batch, Level::Written).unwrap();
        signer.accept(staged);
        made.push(Forged::of(&snapshot(place.path(), id)));
    }
    made.try_into().ok().unwrap()
}

#[test]
fn nothing_else_is_believed() {
    type Change = (&'static str, fn(&mut Forged, &Forged));
    let changes: &[Change] = &[
        ("a byte of a section", |new, _| new.section("about")[1] ^= 1),
        ("a section swapped for another", |new, _| *new.section("about") = vec![4]),
        ("a section more", |new, _| new.sections.push(("more".to_owned(), vec![]))),
        ("a section less", |new, _| new.sections.retain(|(name, _)| name != "other")),
        ("another section's name", |new, _| new.sections[0].0 = "abouu".to_owned()),
        ("a byte of memory", |new, _| new.pages("memory").get_mut(&400).unwrap()[4000] ^= 1),
        ("a page more", |new, _| new.pages("memory").extend([(5, page(9))])),
        ("a page in a group without any", |new, _| new.pages("memory").extend([(800, page(9))])),
        ("a page less", |new, _| new.pages("memory").retain(|page, _| *page != 3)),
        ("a group less", |new, _| new.pages("memory").retain(|page, _| *page != 400)),
        ("pages swapped", |new, _| {
            let (third, fourth) = (new.pages("memory")[&3], new.pages("memory")[&4]);
            new.pages("memory").extend([(3, fourth), (4, third)]);
        }),
        ("a page of the checkpoint before", |new, old| {
            let before = old.clone().pages("memory")[&4];
            new.pages("memory").insert(4, before);
        }),
        ("memory and tags of the checkpoint before", |new, old| {
            let mut old = old.clone();
            *new.object("memory") = old.object("memory").clone();
            *new.object("tags:memory") = old.object("tags:memory").clone();
        }),
        ("the signature of the checkpoint before", |new, old| {
            *new.section("signature") = old.clone().section("signature").clone();
        }),
        ("a byte of a file", |new, _| new.pages("file:1").get_mut(&2).unwrap()[0] ^= 1),
        ("a file less", |new, _| new.objects.retain(|(object, _)| object.name.as_str() != "file:1")),
        ("a file more", |new, _| new.objects.push((object("file:9", 1), BTreeMap::new()))),
        ("another file's name", |new, _| new.object("file:1").0.name = ObjectName::new("file:2").unwrap()),
        ("a longer file", |new, _| new.object("file:1").0.pages += 1),
        ("another type", |new, _| new.object("memory").0.tag += 1),
        ("another address", |new, _| new.object("memory").0.address += 4096),
        ("another number", |new, _| new.id += 1),
        ("tags that are wrong", |new, _| new.pages("tags:memory").get_mut(&0).unwrap()[50] ^= 1),
        ("no signature", |new, _| new.sections.retain(|(name, _)| name != "signature")),
    ];
    let state = tempfile::tempdir().unwrap();
    let key = key(state.path());
    let [old, new] = signed_pair(state.path());
    assert!(old.is_believed(&key) && new.is_believed(&key));
    for (what, change) in changes {
        let mut forged = new.clone();
        change(&mut forged, &old);
        assert!(!forged.is_believed(&key), "{what} was believed");
    }
    // Tags are only a help: without them they are made.
    let mut without = new.clone();
    without.objects.retain(|(object, _)| object.name.as_str() != "tags:memory");
    assert!(without.is_believed(&key));
    let other = tempfile::tempdir().unwrap();
    assert!(!new.is_believed(&Key::of(other.path()).unwrap()));
}

/// Every byte, and every length, of the signature itself.
#[test]
fn a_signature_with_any_byte_changed_is_none() {
    let state = tempfile::tempdir().unwrap();
    let key = key(state.path());
    let [_, new] = signed_pair(state.path());
    let length = new.clone().section("signature").len();
    for at in 0..length {
        let mut forged = new.clone();
        forged.section("signature")[at] ^= 0x81;
        assert!(!forged.is_believed(&key), "byte {at}");
        let mut shorter = new.clone();
        shorter.section("signature").truncate(at);
        assert!(!shorter.is_believed(&key), "{at} bytes");
    }
}

/// Two programs of one user have checkpoints of the same numbers, all with valid signatures: none is completed from the
/// other's.
#[test]
fn a_page_in_part_is_completed_from_what_was_signed_here_only() {
    let state = tempfile::tempdir().unwrap();
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let begun = [(0, 5), (1, 6)].map(|(at, byte)| {
        let mut writer = Writer::open(places[at].path(), Options::default()).unwrap();
        let mut signer = Signer::new(key(state.path()));
        let mut batch = Batch::new(CheckpointId(1), None);
        let memory = batch.object(object("memory", 1000)).unwrap();
        batch.page(memory, 3, &page(byte)).unwrap();
        batch.page(memory, 4, &page(9)).unwrap();
        let staged = signer.stage(&mut batch, lazily, |_, _| None, || None).unwrap();
        writer.commit(&batch, Level::Written).unwrap();
        signer.accept(staged);
        (snapshot(places[at].path(), 1), signer)
    });
    let [(own, signer), (other, _)] = begun;
    let checked = CheckedSnapshot::open(Arc::clone(&own), &key(state.path())).unwrap().unwrap();
    let again = Signer::after(key(state.path()), Arc::new(checked));
    for signer in [signer, again] {
        let stage = |pages: &[u64], parent: &Arc<Snapshot>| {
            let mut batch = Batch::new(CheckpointId(2), Some(CheckpointId(1)));
            let memory = batch.object(object("memory", 1000)).unwrap();
            pages.iter().for_each(|at| batch.chunks(memory, *at, 1, &[7; 64]).unwrap());
            signer.stage(&mut batch, lazily, |_, _| None, || Some(Arc::clone(parent)))
        };
        assert!(stage(&[3, 4, 5], &own).is_ok());
        for pages in [&[3][..], &[4, 3], &[5, 3]] {
            let refused = stage(pages, &other);
            assert!(matches!(&refused, Err(SignError::Other { object, page: 3 }) if object == "memory"));
        }
        assert!(stage(&[4], &other).is_ok(), "the page is the same");
        // The page that is at hand is what the parent's becomes.
        let signature = |whole: Option<&[u8; PAGE_SIZE]>, parent: Option<&Arc<Snapshot>>| {
            let mut batch = Batch::new(CheckpointId(2), Some(CheckpointId(1)));
            let memory = batch.object(object("memory", 1000)).unwrap();
            batch.chunks(memory, 3, 1, &[7; 64]).unwrap();
            signer.stage(&mut batch, lazily, |_, _| whole, || parent.cloned()).unwrap();
            batch.named_sections().map(|(_, bytes)| bytes.to_vec()).collect::<Vec<_>>()
        };
        let mut patched = page(5);
        patched[..64].fill(7);
        assert_eq!(signature(Some(&patched), None), signature(None, Some(&own)));
    }
}
