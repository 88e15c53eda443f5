//! The page tables of a guest's kernel: from a program's virtual address to a frame, as its CPU would find it.
//!
//! Intel SDM volume 3, 4.5 and 4.6; AMD APM volume 2, 5.3 and 5.4. Only 64-bit paging, of 4 or 5 levels. What
//! is found is what a *program* (CPL 3) may do with the page: user and writable must be set at every level.
//! Tables are guest memory, so an entry is a claim: it is read once, as one word.

use std::sync::atomic::Ordering;

use crate::memory::layout::PAGE;
use crate::memory::ram::Ram;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
/// The page attribute bit of a large page, in the midst of what else is its address.
const LARGE_PAT: u64 = 1 << 12;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits that hold an address in an entry, whatever the CPU's width.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_FIVE_LEVELS: u64 = 1 << 12;
const EFER_LONG_ACTIVE: u64 = 1 << 10;
const EFER_NO_EXECUTE: u64 = 1 << 11;
/// The bit by which Linux tells a process's two tables apart under page-table isolation: set in the one that
/// runs the program (`PTI_USER_PGTABLE_BIT` in arch/x86/include/asm/processor-flags.h and asm/pgtable.h).
const PTI_USER_TABLE: u64 = 1 << 12;

/// Entries of a table.
pub const ENTRIES: u64 = 512;
/// Levels that a walk can have, the lowest being 1.
pub const MAX_LEVELS: usize = 5;

/// A vCPU's registers that say how addresses are translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PagingRegisters {
    /// CR0.
    pub cr0: u64,
    /// CR3: the top table, and a process-context identifier.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

/// How one address space is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    root: u64,
    levels: u8,
    /// Bits that must be clear in an entry.
    reserved: u64,
}

/// What an entry of a table says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing at all: 64 zeros. Linux has never mapped anything here, or has just taken it away.
    Empty,
    /// Something that isn't there now: swapped out, being moved, guarded.
    Absent,
    /// The next table.
    Table(u64, Allowed),
    /// A page, by its first byte's guest-physical address.
    Page(u64, Allowed),
    /// Present, but the CPU would refuse it: a reserved bit is set.
    Broken,
}

/// What a program may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Reach it at all.
    pub user: bool,
    /// Write.
    pub write: bool,
}

/// The entries that lead to a leaf, from the top: their guest-physical addresses. A table's frame is its
/// entry's page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Path {
    entries: [u64; MAX_LEVELS],
    len: u8,
}

/// What a walk found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The entries that were read, the leaf's last.
    pub path: Path,
    /// What the last one says, with the rights of all levels combined.
    pub leaf: Entry,
    /// The level of the last entry: 1 for a page of 4 KiB.
    pub level: u8,
}

impl Paging {
    /// From a vCPU's registers; `address_bits` is the width of its physical addresses (CPUID 8000_0008h).
    /// `None` unless it runs in 64-bit paging, without which no program of ours runs.
    #[must_use]
    pub fn new(registers: &PagingRegisters, address_bits: u8) -> Option<Self> {
        let PagingRegisters { cr0, cr3, cr4, efer } = *registers;
        let long = cr0 & CR0_PAGING != 0 && cr4 & CR4_PAE != 0 && efer & EFER_LONG_ACTIVE != 0;
        let beyond = ADDRESS & !((1_u64 << address_bits.min(52)) - 1);
        let no_execute = if efer & EFER_NO_EXECUTE == 0 { NO_EXECUTE } else { 0 };
        let levels = if cr4 & CR4_FIVE_LEVELS == 0 { 4 } else { 5 };
        // Below bit 12 CR3 has a process-context identifier, or cache bits; bit 63 says "keep the TLB".
        long.then_some(Self { root: cr3 & ADDRESS, levels, reserved: beyond | no_execute })
    }

    /// The top table's guest-physical address.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.root
    }

    /// What names the address space: the same for both tables that Linux gives a process under page-table
    /// isolation. Without isolation two processes can have neighbouring tables, and then one name; what tells
    /// them apart then is the session's key.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.root & !PTI_USER_TABLE
    }

    /// The first address behind what a program can have: Linux keeps the upper half for itself.
    #[must_use]
    pub fn user_end(&self) -> u64 {
        1 << (9 * u32::from(self.levels) + 11)
    }

    /// Bytes that an entry of `level` covers.
    #[must_use]
    pub fn reach(level: u8) -> u64 {
        PAGE << (9 * u32::from(level - 1))
    }

    /// Walks to `address`, stopping above `lowest` if it's greater than 1. `None` if the address isn't a
    /// program's, or a table isn't memory.
    #[must_use]
    pub fn walk(&self, ram: &Ram, address: u64, lowest: u8) -> Option<Found> {
        if self.user_end() <= address {
            return None;
        }
        let mut path = Path::default();
        let mut table = self.root;
        let mut rights = Allowed { user: true, write: true };
        for level in (lowest..=self.levels).rev() {
            let index = address / Self::reach(level) % ENTRIES;
            let place = table + index * 8;
            path.push(place);
            let leaf = self.decode(ram.word(place)?.load(Ordering::Relaxed), level).within(rights);
            match leaf {
                Entry::Table(next, allowed) if lowest < level => (table, rights) = (next, allowed),
                leaf => return Some(Found { path, leaf, level }),
            }
        }
        None
    }

    /// What `raw`, an entry of `level`, says by itself.
    #[must_use]
    pub fn decode(&self, raw: u64, level: u8) -> Entry {
        if raw == 0 {
            return Entry::Empty;
        }
        if raw & PRESENT == 0 {
            return Entry::Absent;
        }
        let allowed = Allowed { user: raw & USER != 0, write: raw & WRITABLE != 0 };
        let page = level == 1 || (raw & LARGE != 0 && level <= 3);
        let inside = if level == 1 { 0 } else { ADDRESS & (Self::reach(level) - 1) & !LARGE_PAT };
        let large_too_high = raw & LARGE != 0 && 3 < level;
        if raw & self.reserved != 0 || large_too_high || (page && raw & inside != 0) {
            return Entry::Broken;
        }
        if page {
            let address = if level == 1 { raw & ADDRESS } else { raw & ADDRESS & !LARGE_PAT };
            Entry::Page(address, allowed)
        } else {
            Entry::Table(raw & ADDRESS, allowed)
        }
    }
}

impl Entry {
    /// The same with no more rights than `rights`.
    #[must_use]
    pub fn within(self, rights: Allowed) -> Self {
        let both = |own: Allowed| Allowed { user: own.user && rights.user, write: own.write && rights.write };
        match self {
            Self::Table(address, own) => Self::Table(address, both(own)),
            Self::Page(address, own) => Self::Page(address, both(own)),
            Self::Empty | Self::Absent | Self::Broken => self,
        }
    }
}

impl Path {
    fn push(&mut self, entry: u64) {
        if let Some(slot) = self.entries.get_mut(usize::from(self.len)) {
            *slot = entry;
            self.len += 1;
        }
    }

    /// The entries' guest-physical addresses, from the top.
    #[must_use]
    pub fn entries(&self) -> &[u64] {
        &self.entries[..usize::from(self.len)]
    }

    /// The tables' frames, from the top.
    pub fn tables(self) -> impl Iterator<Item = u64> {
        let len = usize::from(self.len);
        self.entries.into_iter().take(len).map(|entry| entry & !(PAGE - 1))
    }
}

/// Sets the bits that a CPU sets when a program writes the page at the end of `path`: accessed on the way, and
/// accessed and dirty in the leaf. A kernel may drop a page whose dirty bit is clear. Answers the tables that
/// this changed; the caller marks them, as KVM's log doesn't see the VMM's stores.
///
/// No vCPU may run: the entries are those that the path was found by.
pub fn set_written(ram: &Ram, path: &Path) -> impl Iterator<Item = u64> {
    let last = path.entries().len();
    path.entries().iter().enumerate().filter_map(move |(at, entry)| {
        let bits = if at + 1 == last { ACCESSED | DIRTY } else { ACCESSED };
        let before = ram.word(*entry)?.fetch_or(bits, Ordering::Relaxed);
        (before & bits != bits).then_some(entry & !(PAGE - 1))
    })
}

#[cfg(test)]
#[path = "walk_testing.rs"]
pub(crate) mod testing;

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
