//! What ends a region whose pages are frozen.

use std::mem::ManuallyDrop;

use cairn_guest::{Error, Region, Session};
use cairn_tests::pages::{PAGE, Pages};

use crate::scene::{BYTES, PAGES, Scene, fill, place};

/// What takes pages of a mapping away.
type Taking = fn(&Pages);

/// Pages at the end of the region that go: the copying begins at its start.
const LOST: usize = 100;
/// Where they begin, in bytes.
const AT: usize = (PAGES - LOST) * PAGE;
const DATA: i32 = libc::PROT_READ | libc::PROT_WRITE;

pub(crate) fn unmapped() -> Result<bool, Error> {
    // SAFETY: the region's memory, to which no reference is held. The region isn't used any more.
    lost(|memory| assert_eq!(unsafe { libc::munmap(place(memory, AT).cast(), LOST * PAGE) }, 0))
}

pub(crate) fn mapped_over() -> Result<bool, Error> {
    lost(|memory| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let at = place(memory, AT);
        // SAFETY: as for `unmapped`.
        assert_eq!(unsafe { libc::mmap(at.cast(), LOST * PAGE, DATA, flags, -1, 0) }, at.cast());
        assert_eq!(memory.get::<u64>(AT), 0);
        memory.put(AT, 1_u64);
    })
}

pub(crate) fn read_only() -> Result<bool, Error> {
    lost(|memory| protect(memory, libc::PROT_READ))
}

/// The monitor takes all rights away for a moment, from itself as well.
pub(crate) fn not_executable() -> Result<bool, Error> {
    lost(|memory| {
        protect(memory, DATA | libc::PROT_EXEC);
        protect(memory, DATA);
        memory.put(AT, 1_u64);
    })
}

pub(crate) fn moved() -> Result<bool, Error> {
    lost(|memory| {
        let to = Pages::anonymous(LOST).expect("memory");
        let (flags, bytes) = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, LOST * PAGE);
        // SAFETY: as for `unmapped`; what is at `to` has no reference either.
        let moved = unsafe { libc::mremap(place(memory, AT).cast(), bytes, bytes, flags, place(&to, 0)) };
        assert_eq!(moved, place(&to, 0).cast());
        let mut expected = vec![0; BYTES];
        fill(&mut expected, 2);
        let same = expected[AT..].iter().zip(0..).all(|(byte, at)| to.get::<u8>(at) == *byte);
        assert!(same, "pages that were moved while they were frozen");
        to.fill(5);
    })
}

/// A region loses pages while they are frozen, and another one doesn't.
fn lost(take: Taking) -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let kept = second_region(&mut scene.session)?;
    let (ticket, met) = scene.begin()?;
    let Scene { mut session, memory, region, .. } = scene;
    // What is somebody else's by now isn't unmapped.
    let memory = ManuallyDrop::new(memory);
    take(&memory);
    let both = session.wait(ticket)?;
    assert!(session.rollback(both).is_err(), "its regions are no longer today's");
    assert!(session.drop_region(region).is_err(), "it is gone already");
    goes_on(&mut session, &kept)?;
    // SAFETY: the part that nobody took.
    assert_eq!(unsafe { libc::munmap(place(&memory, 0).cast(), AT) }, 0);
    Ok(met)
}

pub(crate) fn dropped() -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let kept = second_region(&mut scene.session)?;
    let (ticket, met) = scene.begin()?;
    let Scene { mut session, region, frozen, memory, .. } = scene;
    session.drop_region(region)?;
    was_given_back(&memory, &frozen);
    session.wait(ticket)?;
    goes_on(&mut session, &kept)?;
    Ok(met)
}

/// The session ends, and the next one finds nothing of it.
pub(crate) fn session_dropped() -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let (_ticket, met) = scene.begin()?;
    let Scene { session, frozen, memory, .. } = scene;
    drop(session);
    was_given_back(&memory, &frozen);
    let mut scene = Scene::new()?;
    let (ticket, _) = scene.begin()?;
    scene.holds(ticket)?;
    Ok(met)
}

fn protect(memory: &Pages, rights: i32) {
    // SAFETY: rights of memory to which no reference is held.
    assert_eq!(unsafe { libc::mprotect(place(memory, AT).cast(), LOST * PAGE, rights) }, 0);
}

/// Memory is the program's again, and what it was.
fn was_given_back(memory: &Pages, frozen: &[u8]) {
    let words = frozen.chunks_exact(8).zip(0..);
    let same = words.into_iter().all(|(word, at)| memory.get::<u64>(at * 8).to_le_bytes() == *word);
    assert!(same, "memory that isn't a region any more");
    memory.fill(8);
}

fn second_region(session: &mut Session) -> Result<Region<u8>, Error> {
    let kept = session.region::<u8>("kept", BYTES / 4)?;
    fill(session.slice_mut(&kept), 2);
    Ok(kept)
}

/// What is left holds what it held, and its checkpoints work.
fn goes_on(session: &mut Session, kept: &Region<u8>) -> Result<(), Error> {
    let mut expected = vec![0; BYTES / 4];
    fill(&mut expected, 2);
    assert!(session.slice(kept) == expected, "the region that was kept");
    let id = session.checkpoint()?;
    fill(session.slice_mut(kept), 3);
    session.rollback(id)?;
    assert!(session.slice(kept) == expected, "the region that was kept, rolled back");
    Ok(())
}
