//! Walks over tables made by hand: 4 and 5 levels, all page sizes, rights, reserved bits, identities.

use super::*;
use crate::memory::ram::MIN_BYTES;

const PU: u64 = PRESENT | USER;
const PWU: u64 = PRESENT | WRITABLE | USER;
const BITS: u8 = 40;
const TOP: u64 = 0x10000;
const RIGHTS: Allowed = Allowed { user: true, write: true };

fn ram() -> Ram {
    Ram::new(MIN_BYTES).unwrap()
}

fn registers(cr3: u64, five: bool) -> PagingRegisters {
    let cr4 = CR4_PAE | if five { CR4_FIVE_LEVELS } else { 0 };
    PagingRegisters { cr0: CR0_PAGING | 1, cr3, cr4, efer: EFER_LONG_ACTIVE | EFER_NO_EXECUTE | 0x100 }
}

fn paging(five: bool) -> Paging {
    Paging::new(&registers(TOP, five), BITS).unwrap()
}

/// Fills tables at `TOP`, the page behind it and so on, that lead to `address`: `bits` are those of each level
/// from the top, and the last entry points to `leaf`.
fn lead(ram: &Ram, address: u64, five: bool, bits: &[u64], leaf: u64) {
    let top = if five { 5 } else { 4 };
    for (at, bits_here) in bits.iter().enumerate() {
        let level = top - u8::try_from(at).unwrap();
        let table = TOP + PAGE * at as u64;
        let next = if at + 1 == bits.len() { leaf } else { table + PAGE };
        let place = table + address / Paging::reach(level) % ENTRIES * 8;
        ram.word(place).unwrap().store(next | bits_here, Ordering::Relaxed);
    }
}

fn leaf(ram: &Ram, address: u64, five: bool) -> Entry {
    paging(five).walk(ram, address, 1).unwrap().leaf
}

#[test]
fn pages_of_all_sizes_in_4_and_5_levels() {
    for (five, address) in [(false, 0x7fff_1234_5678), (true, 0x7f_1234_5678_9abc), (true, 0x1000)] {
        let levels = if five { 5 } else { 4 };
        for (size_level, frame) in [(1, 0x5000), (2, 0x20_0000), (3, 0x4000_0000)] {
            let ram = ram();
            let mut bits = vec![PWU; levels - size_level + 1];
            if 1 < size_level {
                *bits.last_mut().unwrap() |= LARGE;
            }
            lead(&ram, address, five, &bits, frame);
            let found = paging(five).walk(&ram, address, 1).unwrap();
            assert_eq!(found.leaf, Entry::Page(frame, RIGHTS), "{five} {size_level}");
            assert_eq!(usize::from(found.level), size_level);
            assert_eq!(found.path.entries().len(), bits.len());
            assert_eq!(found.path.tables().next(), Some(TOP));
        }
    }
}

#[test]
fn a_walk_can_stop_above_the_lowest_table() {
    let ram = ram();
    lead(&ram, 0x40_0000, false, &[PWU; 4], 0x5000);
    let found = paging(false).walk(&ram, 0x40_0000, 2).unwrap();
    assert_eq!((found.leaf, found.level), (Entry::Table(TOP + 3 * PAGE, RIGHTS), 2));
}

#[test]
fn every_level_must_allow_it() {
    for denied in 0..4 {
        let ram = ram();
        let mut bits = [PWU; 4];
        bits[denied] = PU;
        lead(&ram, 0x1000, false, &bits, 0x5000);
        let allowed = Allowed { user: true, write: false };
        assert_eq!(leaf(&ram, 0x1000, false), Entry::Page(0x5000, allowed));
        bits[denied] = PRESENT | WRITABLE;
        lead(&ram, 0x1000, false, &bits, 0x5000);
        let allowed = Allowed { user: false, write: true };
        assert_eq!(leaf(&ram, 0x1000, false), Entry::Page(0x5000, allowed));
    }
}

#[test]
fn what_is_not_there() {
    let ram = ram();
    assert_eq!(leaf(&ram, 0x1000, false), Entry::Empty);
    lead(&ram, 0x1000, false, &[PWU; 4], 0x5000);
    lead(&ram, 0x2000, false, &[PWU, PWU, PWU, WRITABLE | USER], 0x6000);
    assert_eq!(leaf(&ram, 0x2000, false), Entry::Absent);
    assert_eq!(leaf(&ram, 0x3000, false), Entry::Empty);
    assert_eq!(leaf(&ram, 0x40_0000, false), Entry::Empty);
}

#[test]
fn reserved_bits_break_an_entry() {
    let paging = paging(false);
    let beyond = 1 << 41;
    for (raw, level) in [
        (0x5000 | PWU | beyond, 1),
        (0x5000 | PWU | beyond, 4),
        (PWU | LARGE, 4),
        (PWU | LARGE, 5),
        (PWU | LARGE | 0x2000, 2),
        (PWU | LARGE | 0x20_0000, 3),
    ] {
        assert_eq!(paging.decode(raw, level), Entry::Broken, "{raw:#x} {level}");
    }
    // The attribute bit of a large page isn't part of its address; bit 7 of a small one is no size.
    assert_eq!(paging.decode(PWU | LARGE | LARGE_PAT | 0x20_0000, 2), Entry::Page(0x20_0000, RIGHTS));
    assert_eq!(paging.decode(PWU | LARGE | 0x5000, 1), Entry::Page(0x5000, RIGHTS));
    // Not to execute is a right only where the CPU knows it.
    assert_eq!(paging.decode(PWU | NO_EXECUTE | 0x5000, 1), Entry::Page(0x5000, RIGHTS));
    let old = PagingRegisters { efer: EFER_LONG_ACTIVE, ..registers(TOP, false) };
    let old = Paging::new(&old, BITS).unwrap();
    assert_eq!(old.decode(PWU | NO_EXECUTE | 0x5000, 1), Entry::Broken);
}

#[test]
fn tables_outside_of_memory_and_addresses_of_the_kernel_lead_nowhere() {
    let ram = ram();
    lead(&ram, 0x1000, false, &[PWU], 1 << 35);
    assert_eq!(paging(false).walk(&ram, 0x1000, 1), None);
    for address in [1 << 47, 0xffff_8880_0000_0000, u64::MAX, 0x0000_8000_0000_1000] {
        assert_eq!(paging(false).walk(&ram, address, 1), None, "{address:#x}");
    }
    assert_eq!(paging(true).walk(&self::ram(), 1 << 47, 1).unwrap().leaf, Entry::Empty);
    assert_eq!(paging(true).walk(&ram, 1 << 56, 1), None);
}

#[test]
fn identifiers_and_isolation_do_not_change_who_it_is() {
    let plain = Paging::new(&registers(TOP, false), BITS).unwrap();
    for cr3 in [TOP | 0x7ff, TOP | 1 << 63, TOP | 0x1000 | 5] {
        let other = Paging::new(&registers(cr3, false), BITS).unwrap();
        assert_eq!(other.identity(), plain.identity(), "{cr3:#x}");
    }
    // The program's own table is the one that is walked.
    assert_eq!(Paging::new(&registers(TOP | 0x1000, false), BITS).unwrap().root(), TOP | 0x1000);
    assert_ne!(Paging::new(&registers(TOP + 2 * PAGE, false), BITS).unwrap().identity(), plain.identity());
}

#[test]
fn other_modes_are_none_of_ours() {
    let good = registers(TOP, false);
    for bad in [
        PagingRegisters { cr0: 1, ..good },
        PagingRegisters { cr4: 0, ..good },
        PagingRegisters { efer: EFER_NO_EXECUTE, ..good },
    ] {
        assert_eq!(Paging::new(&bad, BITS), None);
    }
}

#[test]
fn a_store_sets_the_bits_of_one() {
    let ram = ram();
    lead(&ram, 0x1000, false, &[PWU, PWU | ACCESSED, PWU, PWU | ACCESSED], 0x5000);
    let found = paging(false).walk(&ram, 0x1000, 1).unwrap();
    let changed: Vec<_> = set_written(&ram, &found.path).collect();
    assert_eq!(changed, [TOP, TOP + 2 * PAGE, TOP + 3 * PAGE]);
    assert_eq!(set_written(&ram, &found.path).count(), 0);
    let raw = |entry: &u64| ram.word(*entry).unwrap().load(Ordering::Relaxed);
    let bits: Vec<_> = found.path.entries().iter().map(|entry| raw(entry) & (ACCESSED | DIRTY)).collect();
    assert_eq!(bits, [ACCESSED, ACCESSED, ACCESSED, ACCESSED | DIRTY]);
    assert_eq!(paging(false).walk(&ram, 0x1000, 1).unwrap().leaf, found.leaf);
}

/// Tables full of noise: no walk panics, none leads outside of what it was given.
#[test]
fn noise_is_survived() {
    let ram = ram();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for place in (TOP..TOP + 64 * PAGE).step_by(8) {
        let near = TOP + next() % 64 * PAGE;
        let raw = if next() % 4 == 0 { next() } else { near | (next() % 0x1000) };
        ram.word(place).unwrap().store(raw, Ordering::Relaxed);
    }
    for step in 0..20_000_u64 {
        let five = step % 2 == 0;
        let address = next() % paging(five).user_end();
        if let Some(found) = paging(five).walk(&ram, address, 1) {
            assert!(found.path.entries().iter().all(|entry| ram.word(*entry).is_some()));
            assert!(!matches!(found.leaf, Entry::Table(..)));
        }
    }
}
