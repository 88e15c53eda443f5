//! What a store must be: every checkpoint's pages, kept whole in memory.

use std::collections::BTreeMap;

use cairn_abi::CheckpointId;

use crate::{Batch, CHUNK_SIZE, Object, ObjectName, PAGE_SIZE, Snapshot, Store};

pub(crate) type Page = [u8; PAGE_SIZE];

/// What is done to one page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Page(Box<Page>),
    Zero,
    Chunks(u64, u8),
}

/// One checkpoint's contents; a page that isn't there is zero.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Contents {
    pub(crate) objects: BTreeMap<String, (u64, BTreeMap<u64, Box<Page>>)>,
    pub(crate) section: Vec<u8>,
}

/// All checkpoints.
#[derive(Clone, Default, Debug)]
pub(crate) struct Model {
    pub(crate) checkpoints: BTreeMap<u64, Contents>,
}

pub(crate) fn page(byte: u8, seed: u64) -> Box<Page> {
    let mut page = Box::new([byte; PAGE_SIZE]);
    page[..8].copy_from_slice(&seed.to_le_bytes());
    page
}

/// The objects and changes of one checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) id: u64,
    pub(crate) parent: Option<u64>,
    pub(crate) objects: Vec<(String, u64, BTreeMap<u64, Change>)>,
    pub(crate) section: Vec<u8>,
}

impl Step {
    /// The step as a batch.
    pub(crate) fn batch(&self) -> Batch {
        let mut batch = Batch::new(CheckpointId(self.id), self.parent.map(CheckpointId));
        for (name, pages, changes) in &self.objects {
            let name = ObjectName::new(name).unwrap();
            let object = batch.object(Object { name, tag: 7, address: 0x1000, pages: *pages }).unwrap();
            for (page, change) in changes.iter().rev() {
                match change {
                    Change::Page(bytes) => batch.page(object, *page, bytes).unwrap(),
                    Change::Zero => batch.zero(object, *page..page + 1).unwrap(),
                    Change::Chunks(mask, byte) => {
                        let bytes = vec![*byte; mask.count_ones() as usize * CHUNK_SIZE];
                        batch.chunks(object, *page, *mask, &bytes).unwrap();
                    }
                }
            }
        }
        batch.section("state", self.section.clone()).unwrap();
        batch
    }

    /// The step as the model has it.
    pub(crate) fn apply(&self, model: &mut Model) {
        let old = self.parent.map(|parent| model.checkpoints[&parent].clone()).unwrap_or_default();
        let mut new = Contents { section: self.section.clone(), ..Contents::default() };
        for (name, pages, changes) in &self.objects {
            let mut held = old.objects.get(name).map(|(_, held)| held.clone()).unwrap_or_default();
            held.retain(|page, _| page < pages);
            for (page, change) in changes {
                let mut bytes = held.remove(page).unwrap_or_else(|| Box::new([0; PAGE_SIZE]));
                match change {
                    Change::Page(all) => bytes = all.clone(),
                    Change::Zero => *bytes = [0; PAGE_SIZE],
                    Change::Chunks(mask, byte) => {
                        for chunk in (0..64).filter(|chunk| mask & 1 << chunk != 0) {
                            bytes[chunk * CHUNK_SIZE..][..CHUNK_SIZE].fill(*byte);
                        }
                    }
                }
                if *bytes != [0; PAGE_SIZE] {
                    held.insert(*page, bytes);
                }
            }
            new.objects.insert(name.clone(), (*pages, held));
        }
        model.checkpoints.insert(self.id, new);
    }
}

impl Contents {
    /// Compares with a snapshot, byte by byte, and answers the first difference.
    pub(crate) fn compare(&self, snapshot: &Snapshot) -> Result<(), String> {
        let say = |error: crate::StoreError| error.to_string();
        if snapshot.objects().len() != self.objects.len() {
            return Err(format!("{} objects, not {}", snapshot.objects().len(), self.objects.len()));
        }
        for (name, (pages, held)) in &self.objects {
            let object = snapshot.find(name).ok_or_else(|| format!("no object {name}"))?;
            if snapshot.objects()[object.place()].pages != *pages {
                return Err(format!("{name} has another number of pages"));
            }
            let present: Vec<_> = snapshot.present(object).collect();
            let mut out = [1; PAGE_SIZE];
            for page in 0..*pages {
                snapshot.read_page(object, page, &mut out).map_err(say)?;
                let wanted = held.get(&page).map_or(&[0; PAGE_SIZE], |page| &**page);
                if out != *wanted {
                    return Err(format!("page {page} of {name} differs"));
                }
                if out != [0; PAGE_SIZE] && !present.iter().any(|span| span.contains(&page)) {
                    return Err(format!("page {page} of {name} isn't zero and isn't present"));
                }
            }
        }
        let section = snapshot.section("state").map_err(say)?;
        if section.as_ref() == Some(&self.section) { Ok(()) } else { Err("section differs".to_owned()) }
    }
}

impl Model {
    /// Asserts that the store holds the checkpoints of the model from `oldest` on, and no others.
    pub(crate) fn assert_same(&self, store: &Store, oldest: u64) {
        let ids: Vec<u64> = store.checkpoints().iter().map(|info| info.id.0).collect();
        let wanted: Vec<u64> = self.checkpoints.range(oldest..).map(|(id, _)| *id).collect();
        assert_eq!(ids, wanted);
        for (id, contents) in self.checkpoints.range(oldest..) {
            let snapshot = store.snapshot(CheckpointId(*id)).unwrap();
            contents.compare(&snapshot).unwrap_or_else(|difference| panic!("checkpoint {id}: {difference}"));
        }
    }
}
