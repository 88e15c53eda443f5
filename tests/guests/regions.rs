//! Guest program: regions under what a program may do with its memory beside plain stores.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::File;
use std::io::Read;

use cairn_guest::{EngineKind, Error, RegionMode, Session};
use cairn_tests::pages::PAGE;

const MIB: usize = 1 << 20;

fn main() -> Result<(), Error> {
    match std::env::args().nth(1).as_deref() {
        Some("large") => large_dirty_sets()?,
        Some("little history") => little_history()?,
        _ => everything()?,
    }
    println!("all held");
    Ok(())
}

fn everything() -> Result<(), Error> {
    written_by_system_calls()?;
    discarded()?;
    adopted()?;
    many_and_large()?;
    beside_ordinary_memory()?;
    unmapped_under_the_session()?;
    more_hints_than_a_table_holds()?;
    unmapped_with_hints()
}

fn open() -> Result<Session, Error> {
    let session = Session::open()?;
    assert_eq!(session.engine(), EngineKind::Cairn);
    Ok(session)
}

/// The dirty log doesn't see what the VMM writes for a system call; it must be found all the same, in cold pages
/// and in pages that became hot by such writes alone.
fn written_by_system_calls() -> Result<(), Error> {
    let mut session = open()?;
    let region = session.region::<u8>("read into", 64 * PAGE)?;
    let mut random = File::open("/dev/urandom").expect("/dev/urandom");
    let mut versions = Vec::new();
    for round in 0..7 {
        random
            .read_exact(&mut session.slice_mut(&region)[PAGE * round..PAGE * (round + 3) + 100])
            .expect("random bytes");
        let id = session.checkpoint()?;
        versions.push((id, session.slice(&region).to_vec()));
    }
    for (id, bytes) in versions.iter().rev() {
        random.read_exact(&mut session.slice_mut(&region)[20 * PAGE..30 * PAGE]).expect("random bytes");
        session.rollback(*id)?;
        assert!(session.slice(&region) == bytes, "checkpoint {id}");
    }
    Ok(())
}

fn discarded() -> Result<(), Error> {
    let mut session = open()?;
    let region = session.region::<u8>("discarded", 16 * PAGE)?;
    session.slice_mut(&region).fill(7);
    let full = session.checkpoint()?;
    let start = session.slice_mut(&region)[4 * PAGE..].as_mut_ptr();
    // SAFETY: the pages are the region's, to which no reference is held; they read as zeros afterwards.
    assert_eq!(unsafe { libc::madvise(start.cast(), 4 * PAGE, libc::MADV_DONTNEED) }, 0);
    assert_eq!(session.slice(&region)[5 * PAGE], 0);
    let holed = session.checkpoint()?;
    session.rollback(full)?;
    assert!(session.slice(&region).iter().all(|byte| *byte == 7));
    session.rollback(holed)?;
    let zeros = session.slice(&region).iter().filter(|byte| **byte == 0).count();
    assert_eq!(zeros, 4 * PAGE);
    Ok(())
}

fn adopted() -> Result<(), Error> {
    let mut session = open()?;
    let layout = Layout::from_size_align(32 * PAGE, PAGE).expect("a layout");
    // SAFETY: a layout of nonzero size.
    let pointer = unsafe { alloc_zeroed(layout) };
    // SAFETY: fresh memory of that layout, initialised with zeros.
    let memory = unsafe { std::slice::from_raw_parts_mut(pointer, 32 * PAGE) };
    memory[5] = 5;
    // SAFETY: the memory outlives the region, and is only used through the session until that is dropped.
    let region = unsafe { session.adopt("heap", memory)? };
    let id = session.checkpoint()?;
    session.slice_mut(&region).fill(9);
    session.rollback(id)?;
    assert_eq!((session.slice(&region)[5], session.slice(&region)[6]), (5, 0));
    session.drop_region(region)?;
    // SAFETY: allocated above with this layout, and no longer a region.
    unsafe { dealloc(pointer, layout) };
    Ok(())
}

fn many_and_large() -> Result<(), Error> {
    let mut session = open()?;
    let mut regions = Vec::new();
    for index in 0..63 {
        regions.push(session.region::<u64>(&format!("region {index}"), 8 * PAGE)?);
    }
    // Together more than 4 GiB, and longer than an extent of memslots, so that many are cut.
    let large = session.region::<u64>("large", 4096 * MIB / 8)?;
    assert!(session.region::<u8>("one too many", 1).is_err());
    let step = 340 * MIB / 8;
    for (index, region) in regions.iter().enumerate() {
        session.slice_mut(region)[index] = index as u64;
    }
    for index in 0..12 {
        session.slice_mut(&large)[index * step] = index as u64 + 1;
    }
    let id = session.checkpoint()?;
    for region in &regions {
        session.slice_mut(region).fill(1);
    }
    for index in 0..12 {
        session.slice_mut(&large)[index * step] = 0;
    }
    session.rollback(id)?;
    for (index, region) in regions.iter().enumerate() {
        assert_eq!(session.slice(region)[index], index as u64);
    }
    assert!((0..12).all(|index| session.slice(&large)[index * step] == index as u64 + 1));
    Ok(())
}

/// So many pages that the host shares the work: some changed as a whole, some in a word, some became zeros, some are
/// as they were.
fn large_dirty_sets() -> Result<(), Error> {
    let mut session = open()?;
    let region = session.region::<u64>("large", 32 * MIB / 8)?;
    let words = PAGE / 8;
    let mut versions = Vec::new();
    for round in 1..7_u64 {
        for (page, memory) in session.slice_mut(&region).chunks_mut(words).enumerate() {
            match (page as u64 / 100 + round) % 5 {
                0 => memory.fill(round << 32 | page as u64),
                1 => memory.fill(0),
                2 => memory[page % words] ^= round,
                // A store that changes nothing.
                3 => memory[7] = std::hint::black_box(memory[7]),
                _ => {}
            }
        }
        let id = session.checkpoint()?;
        versions.push((id, session.slice(&region).to_vec()));
    }
    for at in [5, 0, 3, 1, 4, 2, 5] {
        session.slice_mut(&region)[at * 1000..][..3_000_000].fill(at as u64);
        session.rollback(versions[at].0)?;
        assert!(session.slice(&region) == versions[at].1, "version {at}");
    }
    Ok(())
}

/// Checkpoints of a mebibyte each where there is memory for three and a half.
fn little_history() -> Result<(), Error> {
    let mut session = open()?;
    let region = session.region::<u64>("full", 8 * MIB / 8)?;
    session.slice_mut(&region).fill(99);
    let mut taken = vec![session.checkpoint()?];
    for round in 0..9 {
        session.slice_mut(&region)[..MIB / 8].fill(round);
        taken.push(session.checkpoint()?);
    }
    // What is more than the memory alone fails, and nothing is lost by it.
    session.slice_mut(&region).fill(7);
    let refused = session.checkpoint();
    assert!(refused.is_err(), "{refused:?}");
    for (at, id) in taken.iter().enumerate() {
        let result = session.rollback(*id);
        if at < 6 {
            assert!(matches!(result, Err(Error::Evicted { .. })), "{at}: {result:?}");
        } else {
            result?;
            assert_eq!([0, MIB / 8].map(|word| session.slice(&region)[word]), [at as u64 - 1, 99]);
        }
    }
    Ok(())
}

/// Cutting memslots around regions must not touch what else is in them.
fn beside_ordinary_memory() -> Result<(), Error> {
    let mut session = open()?;
    let mut blocks: Vec<Vec<u64>> = Vec::new();
    for (round, len) in (0..20_u64).zip((1000..).step_by(1000)) {
        blocks.push(vec![round; 100_000]);
        let region = session.region::<u64>(&format!("round {round}"), len)?;
        session.slice_mut(&region).fill(round);
        let id = session.checkpoint()?;
        session.slice_mut(&region).fill(0);
        session.rollback(id)?;
        assert!(session.slice(&region).iter().all(|word| *word == round));
        for (index, block) in blocks.iter().enumerate() {
            assert!(block.iter().all(|word| *word == index as u64));
        }
        if round % 3 == 0 {
            session.drop_region(region)?;
        }
    }
    Ok(())
}

/// A program may unmap what it likes. The region is gone then, and the rest of the session isn't.
fn unmapped_under_the_session() -> Result<(), Error> {
    let mut session = open()?;
    let kept = session.region::<u64>("kept", 1024)?;
    let layout = Layout::from_size_align(16 * PAGE, PAGE).expect("a layout");
    // SAFETY: an anonymous mapping at a place of the kernel's choice.
    let start = unsafe {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(std::ptr::null_mut(), layout.size(), protection, flags, -1, 0)
    };
    assert_ne!(start, libc::MAP_FAILED);
    // SAFETY: the mapping just made; the region is never used after the memory is gone.
    let lost = unsafe { session.adopt("lost", std::slice::from_raw_parts_mut(start.cast(), layout.size()))? };
    session.slice_mut(&kept)[1] = 1;
    let both = session.checkpoint()?;
    // SAFETY: no reference to the memory is held, and `lost` is only handed back below.
    assert_eq!(unsafe { libc::munmap(start, layout.size()) }, 0);
    session.slice_mut(&kept)[1] = 2;
    let after = session.checkpoint()?;
    session.slice_mut(&kept)[1] = 3;
    session.rollback(after)?;
    assert_eq!(session.slice(&kept)[1], 2);
    assert!(session.rollback(both).is_err(), "its regions are no longer today's");
    assert!(session.drop_region(lost).is_err(), "it is gone already");
    Ok(())
}

/// A table holds the hints of 131,008 pages; here are more, of two regions.
fn more_hints_than_a_table_holds() -> Result<(), Error> {
    let mut session = open()?;
    let large = session.region_with::<u8>("large", 600 * MIB, RegionMode::Hinted)?;
    let small = session.region_with::<u8>("small", MIB, RegionMode::Hinted)?;
    let zeros = session.checkpoint()?;
    let mut versions = vec![(zeros, 0)];
    for byte in 1..=3 {
        for at in (0..600 * MIB).step_by(64 * PAGE) {
            let at = at + usize::from(byte) * PAGE;
            session.hint(&large, at..=at);
            session.slice_mut(&large)[at] = byte;
        }
        session.hint(&small, MIB - 1..);
        session.slice_mut(&small)[MIB - 1] = byte;
        versions.push((session.checkpoint()?, byte));
    }
    for (id, byte) in versions.into_iter().rev() {
        session.rollback(id)?;
        assert_eq!(session.slice(&small)[MIB - 1], byte);
        for at in (0..600 * MIB).step_by(64 * PAGE) {
            for page in 1..=3 {
                let expected = if page <= byte { page } else { 0 };
                assert_eq!(session.slice(&large)[at + usize::from(page) * PAGE], expected, "{at:#x} at {id}");
            }
        }
    }
    Ok(())
}

/// Hints of a region that is gone are about nothing.
fn unmapped_with_hints() -> Result<(), Error> {
    let mut session = open()?;
    let kept = session.region_with::<u64>("kept", 1024, RegionMode::Hinted)?;
    // SAFETY: an anonymous mapping at a place of the kernel's choice.
    let start = unsafe {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(std::ptr::null_mut(), 16 * PAGE, protection, flags, -1, 0)
    };
    assert_ne!(start, libc::MAP_FAILED);
    // SAFETY: the mapping just made; the region is never used after the memory is gone.
    let memory = unsafe { std::slice::from_raw_parts_mut(start.cast(), 16 * PAGE) };
    // SAFETY: as above.
    let lost = unsafe { session.adopt_with("lost", memory, RegionMode::Hinted)? };
    session.hint(&lost, ..);
    session.hint(&kept, 600..700);
    session.slice_mut(&kept)[600] = 1;
    // SAFETY: no reference to the memory is held.
    assert_eq!(unsafe { libc::munmap(start, 16 * PAGE) }, 0);
    let id = session.checkpoint()?;
    session.hint(&lost, ..);
    session.hint(&kept, 600..601);
    session.slice_mut(&kept)[600] = 2;
    session.rollback(id)?;
    assert_eq!(session.slice(&kept)[600], 1);
    Ok(())
}
