//! A guest's kernel: fewer frames than its programs have pages, so it swaps.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_abi::RegionId;

use crate::tests::memory::Memory;
use crate::{PAGE_SIZE, PageSet};

/// Where a page is. Frame 0 is the page of zeros that all may share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    Frame { frame: usize, writable: bool },
    Swapped(Vec<u8>),
}

/// Never written.
const ZEROS: Slot = Slot::Frame { frame: 0, writable: false };

/// A region's page table, and what a tracker would know of it.
pub(super) struct Table {
    pub(super) slots: Vec<Slot>,
    /// Open pages: written, or in another place than before.
    pub(super) open: PageSet,
}

/// The kernel and its memory; shared by the program and the tracker.
#[derive(Clone)]
pub(super) struct Guest(Rc<RefCell<Kernel>>);

pub(super) struct Kernel {
    pub(super) memory: Memory,
    free: Vec<usize>,
    pub(super) tables: BTreeMap<RegionId, Table>,
    random: u64,
}

impl Guest {
    /// A guest with so many frames.
    pub(super) fn new(frames: usize) -> Self {
        let (memory, tables) = (Memory::new(frames + 1), BTreeMap::new());
        Self(Rc::new(RefCell::new(Kernel { memory, free: (1..=frames).collect(), tables, random: 1 })))
    }

    pub(super) fn kernel(&self) -> std::cell::RefMut<'_, Kernel> {
        self.0.borrow_mut()
    }
}

impl Kernel {
    /// Maps a region of zeros.
    pub(super) fn map(&mut self, region: RegionId, pages: usize) {
        let mut open = PageSet::new(pages).unwrap();
        open.fill();
        self.tables.insert(region, Table { slots: vec![ZEROS; pages], open });
    }

    pub(super) fn unmap(&mut self, region: RegionId) {
        for slot in self.tables.remove(&region).unwrap().slots {
            self.release(&slot);
        }
    }

    pub(super) fn read(&self, region: RegionId) -> Vec<u8> {
        self.tables[&region].slots.iter().flat_map(|slot| self.bytes(slot)).collect()
    }

    fn bytes(&self, slot: &Slot) -> Vec<u8> {
        match slot {
            Slot::Frame { frame, .. } => self.memory.read_page(*frame),
            Slot::Swapped(bytes) => bytes.clone(),
        }
    }

    /// The program reads the page: it comes back from swap.
    pub(super) fn touch(&mut self, region: RegionId, page: usize) {
        if matches!(self.slot(region, page), Slot::Swapped(_)) {
            self.copy_to_new_frame(region, page, false);
        }
    }

    /// The program writes to the page what is there: it gets a frame of its own.
    pub(super) fn touch_to_write(&mut self, region: RegionId, page: usize) {
        if !matches!(self.slot(region, page), Slot::Frame { writable: true, .. }) {
            self.copy_to_new_frame(region, page, true);
        }
        self.open(region, page);
    }

    pub(super) fn write(&mut self, region: RegionId, offset: usize, byte: u8) {
        let page = offset / PAGE_SIZE;
        self.touch_to_write(region, page);
        if let Slot::Frame { frame, .. } = self.slot(region, page) {
            self.memory.write(frame * PAGE_SIZE + offset % PAGE_SIZE, byte);
        }
    }

    /// Takes the page out of memory.
    pub(super) fn swap_out(&mut self, region: RegionId, page: usize) {
        let slot = self.slot(region, page);
        let bytes = self.bytes(&slot);
        self.release(&slot);
        self.set(region, page, Slot::Swapped(bytes));
    }

    /// Compaction: the page goes to another frame.
    pub(super) fn migrate(&mut self, region: RegionId, page: usize) {
        if let Slot::Frame { writable, .. } = self.slot(region, page) {
            self.copy_to_new_frame(region, page, writable);
        }
    }

    /// A fork or a merge of equal pages: the page may not be written where it is. One of zeros is that of all.
    pub(super) fn share(&mut self, region: RegionId, page: usize) {
        let Slot::Frame { frame, .. } = self.slot(region, page) else { return };
        if self.memory.read_page(frame).iter().all(|byte| *byte == 0) {
            self.release(&Slot::Frame { frame, writable: false });
            self.set(region, page, ZEROS);
            self.open(region, page);
        } else {
            self.set(region, page, Slot::Frame { frame, writable: false });
        }
    }

    pub(super) fn next_random(&mut self, below: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).unwrap() % below
    }

    pub(super) fn slot(&self, region: RegionId, page: usize) -> Slot {
        self.tables[&region].slots[page].clone()
    }

    fn set(&mut self, region: RegionId, page: usize, slot: Slot) {
        self.tables.get_mut(&region).unwrap().slots[page] = slot;
    }

    fn open(&mut self, region: RegionId, page: usize) {
        self.tables.get_mut(&region).unwrap().open.insert(page);
    }

    fn copy_to_new_frame(&mut self, region: RegionId, page: usize, writable: bool) {
        let from = self.slot(region, page);
        let bytes = self.bytes(&from);
        let frame = self.frame_but_not_of((region, page));
        self.memory.write_page(frame, &bytes);
        self.release(&from);
        self.set(region, page, Slot::Frame { frame, writable });
        self.open(region, page);
    }

    /// A free frame. If there is none, some page loses its own, though not `page`.
    fn frame_but_not_of(&mut self, page: (RegionId, usize)) -> usize {
        while self.free.is_empty() {
            let holds_frame = |slot: &Slot| matches!(slot, Slot::Frame { frame: 1.., .. });
            let pages = self.tables.iter().flat_map(|(id, table)| {
                table.slots.iter().enumerate().filter(|(_, slot)| holds_frame(slot)).map(|(at, _)| (*id, at))
            });
            let victims: Vec<_> = pages.filter(|victim| *victim != page).collect();
            let (region, at) = victims[self.next_random(victims.len())];
            self.swap_out(region, at);
        }
        // Not the frame that was freed last, so that pages come back elsewhere.
        let at = self.next_random(self.free.len());
        self.free.swap_remove(at)
    }

    fn release(&mut self, slot: &Slot) {
        if let Slot::Frame { frame: frame @ 1.., .. } = slot {
            // What was there isn't there any more for whoever kept a pointer.
            self.memory.write_page(*frame, &[0xee; PAGE_SIZE]);
            self.free.push(*frame);
        }
    }
}
