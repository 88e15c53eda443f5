//! The program's page tables, which the VMM owns.
//!
//! An entry for address `a` is absent or points at guest-physical `a`; what changes is only the rights
//! and whether 2 MiB are one entry. Three rules keep a KVM that shadows these tables right, although
//! it doesn't see the VMM write them (it does see the host mapping change, which drops what it derived
//! from an entry):
//! - a page directory's entry that names a table names that table forever;
//! - an entry that becomes narrower is changed before the host mapping is;
//! - where a large entry gives way to a table, [`PageTables::take_stale`] says so, and the owner makes
//!   KVM forget its derived tables.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::host::mapping::Reservation;
use crate::memory::layout::{LARGE_PAGE, PAGE, WINDOW_SIZE, round_down};
use crate::memory::rights::Rights;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Accessed and dirty, set from the start so that no walk has to.
const USED: u64 = 1 << 5 | 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES: u64 = 512;
const GIB: u64 = 1 << 30;

/// Guest-physical address of the system span.
pub const SYSTEM_BASE: u64 = WINDOW_SIZE;
/// Guest-virtual address at which the system span's first pages are seen: above the window.
pub const SYSTEM_VIRTUAL: u64 = 512 * GIB;
/// The part of the system span that has guest-virtual addresses: stubs, descriptors, stack.
pub const SYSTEM_PAGES: Range<u64> = 0x1_0000..0x2_0000;
/// Offset of the first page table made on demand.
const POOL: u64 = LARGE_PAGE;
/// Bytes of the system span: room for the tables of a window that is full of small pages.
pub const SYSTEM_SIZE: u64 = POOL + (WINDOW_SIZE / LARGE_PAGE + WINDOW_SIZE / GIB) * PAGE;

const TOP: u64 = 0;
const LOW_POINTERS: u64 = PAGE;
const SYSTEM_POINTERS: u64 = 2 * PAGE;
const SYSTEM_DIRECTORY: u64 = 3 * PAGE;
const SYSTEM_TABLE: u64 = 4 * PAGE;

/// The page tables of one program, in the system span.
#[derive(Debug)]
pub struct PageTables {
    system: Arc<Reservation>,
    next: u64,
    /// Chunks (2 MiB) that were one entry since KVM last forgot.
    were_large: HashSet<u64>,
    stale: bool,
}

impl PageTables {
    /// Tables with nothing in the window, in `system`, a zeroed reservation of [`SYSTEM_SIZE`].
    /// Of the system pages, those in `user` are the program's to use, with these rights.
    #[must_use]
    pub fn new(system: Arc<Reservation>, user: &[(u64, Rights)]) -> Self {
        let tables = Self { system, next: POOL, were_large: HashSet::new(), stale: false };
        tables.set(TOP, 0, link(LOW_POINTERS));
        tables.set(TOP, 1, link(SYSTEM_POINTERS));
        tables.set(SYSTEM_POINTERS, 0, link(SYSTEM_DIRECTORY));
        tables.set(SYSTEM_DIRECTORY, 0, link(SYSTEM_TABLE));
        let mut page = SYSTEM_PAGES.start;
        while page < SYSTEM_PAGES.end {
            let shared = user.iter().find(|(start, _)| *start == page);
            let flags = shared.map_or(PRESENT | USED | WRITE, |(_, rights)| flags(*rights));
            tables.set(SYSTEM_TABLE, page / PAGE, (SYSTEM_BASE + page) | flags);
            page += PAGE;
        }
        tables
    }

    /// Guest-physical address of the top table: CR3.
    #[must_use]
    pub fn root(&self) -> u64 {
        SYSTEM_BASE + TOP
    }

    /// Gives every page of `range` (page-aligned, in the window) these rights for the program. With
    /// `large`, whole 2 MiB become one entry where no table stands already.
    pub fn map(&mut self, range: &Range<u64>, rights: Rights, large: bool) {
        let flags = flags(rights);
        let mut at = range.start;
        while at < range.end {
            let chunk = round_down(at, LARGE_PAGE);
            let end = (chunk + LARGE_PAGE).min(range.end);
            let whole = at == chunk && end == chunk + LARGE_PAGE;
            let (directory, index) = self.directory(chunk);
            let entry = self.get(directory, index);
            let is_table = entry & (PRESENT | LARGE) == PRESENT;
            if whole && !is_table && (large || flags == 0 || entry & LARGE != 0) {
                self.set_large(directory, index, chunk, flags);
            } else if flags != 0 || entry & PRESENT != 0 {
                let table =
                    if is_table { entry & FRAME } else { self.make_table(directory, index, chunk, entry) };
                self.set_pages(table - SYSTEM_BASE, &(at..end), flags);
            }
            at = end;
        }
    }

    /// A page of device registers at `address`, seen by the program if `user`.
    pub fn map_device(&mut self, address: u64, user: bool) {
        self.map(&(address..address + PAGE), Rights::DATA, false);
        if !user {
            let (directory, index) = self.directory(round_down(address, LARGE_PAGE));
            let table = (self.get(directory, index) & FRAME) - SYSTEM_BASE;
            let page = address / PAGE % ENTRIES;
            self.set(table, page, self.get(table, page) & !USER);
        }
    }

    /// What the tables say the program may do with the page at `address`.
    #[must_use]
    pub fn rights(&self, address: u64) -> Rights {
        let entry = self.leaf(address);
        if entry & (PRESENT | USER) != PRESENT | USER {
            return Rights::NONE;
        }
        Rights { read: true, write: entry & WRITE != 0, execute: entry & NO_EXECUTE == 0 }
    }

    /// Whether, since the last call, a large entry gave way to a table, so that KVM must forget what
    /// it derived from the tables.
    pub fn take_stale(&mut self) -> bool {
        let stale = std::mem::take(&mut self.stale);
        if stale {
            self.were_large.clear();
        }
        stale
    }

    fn leaf(&self, address: u64) -> u64 {
        let pointers = self.get(LOW_POINTERS, address / GIB % ENTRIES);
        if address >= WINDOW_SIZE || pointers & PRESENT == 0 {
            return 0;
        }
        let entry = self.get((pointers & FRAME) - SYSTEM_BASE, address / LARGE_PAGE % ENTRIES);
        if entry & (PRESENT | LARGE) == PRESENT {
            self.get((entry & FRAME) - SYSTEM_BASE, address / PAGE % ENTRIES)
        } else {
            entry
        }
    }

    /// The page directory of `chunk` (an offset in the system span), made if need be, and the index in it.
    fn directory(&mut self, chunk: u64) -> (u64, u64) {
        let index = chunk / GIB;
        let mut entry = self.get(LOW_POINTERS, index);
        if entry & PRESENT == 0 {
            entry = link(self.frame());
            self.set(LOW_POINTERS, index, entry);
        }
        ((entry & FRAME) - SYSTEM_BASE, chunk / LARGE_PAGE % ENTRIES)
    }

    fn set_large(&mut self, directory: u64, index: u64, chunk: u64, flags: u64) {
        let entry = if flags == 0 { 0 } else { chunk | flags | LARGE };
        self.set(directory, index, entry);
        if flags != 0 {
            self.were_large.insert(chunk);
        }
    }

    /// Puts a table in the place of `entry`, which is absent or large, with the same meaning.
    fn make_table(&mut self, directory: u64, index: u64, chunk: u64, entry: u64) -> u64 {
        let table = self.frame();
        if entry & PRESENT != 0 {
            let flags = entry & !(FRAME | LARGE);
            self.set_pages(table, &(chunk..chunk + LARGE_PAGE), flags);
        }
        self.set(directory, index, link(table));
        self.stale |= self.were_large.contains(&chunk);
        SYSTEM_BASE + table
    }

    fn set_pages(&self, table: u64, range: &Range<u64>, flags: u64) {
        let mut at = range.start;
        while at < range.end {
            self.set(table, at / PAGE % ENTRIES, if flags == 0 { 0 } else { at | flags });
            at += PAGE;
        }
    }

    fn frame(&mut self) -> u64 {
        // One table a chunk and one directory a gibibyte at most: SYSTEM_SIZE has room for all.
        let frame = self.next;
        self.next += PAGE;
        frame
    }

    fn get(&self, table: u64, index: u64) -> u64 {
        self.system.word(table + index * 8).load(Ordering::Relaxed)
    }

    fn set(&self, table: u64, index: u64, entry: u64) {
        self.system.word(table + index * 8).store(entry, Ordering::Release);
    }
}

fn link(table: u64) -> u64 {
    (SYSTEM_BASE + table) | PRESENT | WRITE | USER | USED
}

fn flags(rights: Rights) -> u64 {
    if rights.is_none() {
        return 0;
    }
    let write = if rights.write { WRITE } else { 0 };
    let no_execute = if rights.execute { 0 } else { NO_EXECUTE };
    PRESENT | USER | USED | write | no_execute
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::to_usize;
    use proptest::prelude::*;

    const BASE: u64 = 4 << 30;

    fn tables() -> PageTables {
        let system = Reservation::anonymous(usize::try_from(SYSTEM_SIZE).unwrap(), 1 << 21).unwrap();
        PageTables::new(Arc::new(system), &[(SYSTEM_PAGES.start, Rights::DATA)])
    }

    fn rights(bits: u8) -> Rights {
        Rights { read: bits != 0, write: bits & 2 != 0, execute: bits & 4 != 0 }
    }

    #[test]
    fn a_split_says_so_once() {
        let mut tables = tables();
        tables.map(&(BASE..BASE + 2 * LARGE_PAGE), Rights::DATA, true);
        assert!(!tables.take_stale());
        tables.map(&(BASE + PAGE..BASE + 2 * PAGE), Rights::NONE, false);
        assert!(tables.take_stale());
        assert!(!tables.take_stale());
        assert_eq!(tables.rights(BASE), Rights::DATA);
        assert_eq!(tables.rights(BASE + PAGE), Rights::NONE);
    }

    #[test]
    fn small_pages_after_a_large_one_went_are_stale_too() {
        let mut tables = tables();
        tables.map(&(BASE..BASE + LARGE_PAGE), Rights::DATA, true);
        tables.map(&(BASE..BASE + LARGE_PAGE), Rights::NONE, false);
        assert!(!tables.take_stale());
        tables.map(&(BASE..BASE + PAGE), Rights::DATA, false);
        assert!(tables.take_stale());
    }

    #[test]
    fn the_ports_are_apart() {
        let mut tables = tables();
        tables.map_device(0x7000_3000, true);
        tables.map_device(0x7000_4000, false);
        assert_eq!(tables.rights(0x7000_3000), Rights::DATA);
        assert_eq!(tables.rights(0x7000_4000), Rights::NONE);
        assert_eq!(tables.rights(WINDOW_SIZE + 4096), Rights::NONE);
    }

    proptest! {
        #[test]
        fn rights_are_those_of_the_last_change(changes in prop::collection::vec((0u64..1600, 1u64..1600, 0u8..8, any::<bool>()), 1..40)) {
            let mut tables = tables();
            let mut model = vec![Rights::NONE; 3200];
            for (start, count, bits, large) in changes {
                tables.map(&(BASE + start * PAGE..BASE + (start + count) * PAGE), rights(bits), large);
                model[to_usize(start)..to_usize(start + count)].fill(rights(bits));
            }
            for (page, expected) in model.iter().enumerate() {
                prop_assert_eq!(tables.rights(BASE + page as u64 * PAGE), *expected, "page {}", page);
            }
        }
    }
}
