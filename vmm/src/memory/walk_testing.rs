//! Page tables for tests, made in a guest's memory as its kernel would.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;

/// A leaf that a program may write.
pub(crate) const WRITABLE_PAGE: u64 = PRESENT | WRITABLE | USER;
/// A leaf that it may only read.
pub(crate) const READ_ONLY: u64 = PRESENT | USER;

/// Four levels of tables, allocated upwards from their root.
#[derive(Debug)]
pub(crate) struct Tables {
    ram: Arc<Ram>,
    root: u64,
    next: u64,
}

impl Tables {
    /// An empty root at `root`; further tables follow it.
    pub(crate) fn new(ram: Arc<Ram>, root: u64) -> Self {
        Self { ram, root, next: root + PAGE }
    }

    /// The address space.
    pub(crate) fn paging(&self) -> Paging {
        let registers = PagingRegisters {
            cr0: CR0_PAGING,
            cr3: self.root,
            cr4: CR4_PAE,
            efer: EFER_LONG_ACTIVE | EFER_NO_EXECUTE,
        };
        Paging::new(&registers, 40).unwrap()
    }

    /// Maps the page of 4 KiB at `address` to `frame`.
    pub(crate) fn map(&mut self, address: u64, frame: u64, bits: u64) {
        self.set(address, 1, frame | bits);
    }

    /// Maps 2 MiB. Answers the tables that were written.
    pub(crate) fn map_large(&mut self, address: u64, frame: u64, bits: u64) -> Vec<u64> {
        self.set(address, 2, frame | bits | LARGE)
    }

    /// Writes the entry of `level` for `address`, with tables above it as needed. Answers the tables that were
    /// written.
    pub(crate) fn set(&mut self, address: u64, level: u8, raw: u64) -> Vec<u64> {
        let (mut table, mut written) = (self.root, Vec::new());
        for at in (level + 1..=4).rev() {
            let place = entry(table, address, at);
            let word = self.ram.word(place).unwrap();
            let old = word.load(Ordering::Relaxed);
            if old & PRESENT == 0 || old & LARGE != 0 {
                word.store(self.next | PRESENT | WRITABLE | USER, Ordering::Relaxed);
                written.push(table);
                for at in 0..ENTRIES {
                    // A large page becomes as many small ones.
                    let split = if old & LARGE == 0 { 0 } else { (old & !LARGE) + at * PAGE };
                    self.ram.word(self.next + at * 8).unwrap().store(split, Ordering::Relaxed);
                }
                table = self.next;
                self.next += PAGE;
            } else {
                table = old & ADDRESS;
            }
        }
        self.ram.word(entry(table, address, level)).unwrap().store(raw, Ordering::Relaxed);
        written.push(table);
        written
    }
}

fn entry(table: u64, address: u64, level: u8) -> u64 {
    table + address / Paging::reach(level) % ENTRIES * 8
}
