//! What changes frozen pages and leaves the region what it is.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use cairn_guest::Error;
use cairn_tests::pages::PAGE;

use crate::scene::{BYTES, PAGES, Scene, fill};

/// Pages that a story changes.
const SOME: usize = 300;
/// The first of them: the copying begins at the region's start.
const FIRST: usize = PAGES - SOME;

/// Stores to pages at the end, in the middle and at the start, and to all that comes before the first.
pub(crate) fn stores() -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let (ticket, met) = scene.begin()?;
    let bytes = scene.session.slice_mut(&scene.region);
    for page in (0..PAGES).rev().step_by(777).chain([0, 1, PAGES / 2]).chain(FIRST..PAGES) {
        for memory in [&mut *bytes, &mut scene.live] {
            memory[page * PAGE + page % PAGE] ^= 0x55;
        }
    }
    scene.holds(ticket)?;
    Ok(met)
}

/// The host's kernel writes to frozen pages.
pub(crate) fn read_from_file() -> Result<bool, Error> {
    let path = std::env::temp_dir().join("frozen");
    let mut scene = Scene::new()?;
    fill(&mut scene.live[FIRST * PAGE..], 7);
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
    file.write_all(&scene.live[FIRST * PAGE..]).expect("room for the file");
    file.rewind().expect("the start");
    let (ticket, met) = scene.begin()?;
    file.read_exact(&mut scene.session.slice_mut(&scene.region)[FIRST * PAGE..]).expect("what was written");
    scene.holds(ticket)?;
    std::fs::remove_file(path).expect("the file");
    Ok(met)
}

/// What a pipe holds goes to two frozen pages with one call.
pub(crate) fn read_from_pipe() -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let mut ends = [0; 2];
    // SAFETY: an array of two descriptors, which become somebody's.
    let (read, write) = unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    let message = [0xab_u8; 3000];
    File::from(write).write_all(&message).expect("room in the pipe");
    let (ticket, met) = scene.begin()?;
    let [one, other] = [PAGES - 1, PAGES / 2].map(|page| page * PAGE + 100);
    let spans = [one, other].map(|at| libc::iovec { iov_base: scene.at(at).cast(), iov_len: 1500 });
    // SAFETY: two spans of the region, to which no reference is held.
    let got = unsafe { libc::readv(read.as_raw_fd(), spans.as_ptr(), 2) };
    assert_eq!(got, 3000);
    for at in [one, other] {
        scene.live[at..at + 1500].copy_from_slice(&message[..1500]);
    }
    scene.holds(ticket)?;
    Ok(met)
}

/// The monitor itself writes to frozen pages.
pub(crate) fn random_bytes() -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let (ticket, met) = scene.begin()?;
    let at = FIRST * PAGE + 17;
    // SAFETY: a part of the region, to which no reference is held.
    let got = unsafe { libc::getrandom(scene.at(at).cast(), SOME * PAGE / 2, 0) };
    let got = usize::try_from(got).expect("random bytes");
    assert_ne!(got, 0);
    scene.live[at..at + got].copy_from_slice(&scene.session.slice(&scene.region)[at..at + got]);
    scene.holds(ticket)?;
    Ok(met)
}

/// Frozen pages become zeros before they were copied.
pub(crate) fn discarded() -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let (ticket, met) = scene.begin()?;
    // SAFETY: the pages are the region's, to which no reference is held; they read as zeros afterwards.
    assert_eq!(unsafe { libc::madvise(scene.at(FIRST * PAGE).cast(), SOME * PAGE, libc::MADV_DONTNEED) }, 0);
    scene.live[FIRST * PAGE..].fill(0);
    scene.holds(ticket)?;
    Ok(met)
}

/// More rights for frozen pages change nothing about them.
pub(crate) fn made_executable() -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let (ticket, met) = scene.begin()?;
    let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // SAFETY: rights of memory to which no reference is held.
    assert_eq!(unsafe { libc::mprotect(scene.at(0).cast(), BYTES, rights) }, 0);
    scene.session.slice_mut(&scene.region)[BYTES - 1] = 77;
    scene.live[BYTES - 1] = 77;
    scene.holds(ticket)?;
    Ok(met)
}

pub(crate) fn begun_again() -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let (first, met) = scene.begin()?;
    fill(&mut scene.session.slice_mut(&scene.region)[FIRST * PAGE..], 3);
    let second = scene.session.checkpoint_async()?;
    assert!(scene.session.is_done(&first)?, "one is in the making at a time");
    let mut expected = scene.frozen.clone();
    fill(&mut expected[FIRST * PAGE..], 3);
    fill(scene.session.slice_mut(&scene.region), 4);
    fill(&mut scene.live, 4);
    let second = scene.session.wait(second)?;
    scene.session.rollback(second)?;
    assert!(scene.session.slice(&scene.region) == expected, "the second one");
    scene.live = expected;
    scene.holds(first)?;
    Ok(met)
}

pub(crate) fn taken_at_once() -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let (ticket, met) = scene.begin()?;
    fill(scene.session.slice_mut(&scene.region), 3);
    fill(&mut scene.live, 3);
    let id = scene.session.checkpoint()?;
    fill(scene.session.slice_mut(&scene.region), 4);
    scene.session.rollback(id)?;
    scene.holds(ticket)?;
    Ok(met)
}

/// What was copied beside the program and not written since is protected: the next checkpoint doesn't look at it.
pub(crate) fn left_alone() -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let (ticket, met) = scene.begin()?;
    let session = &mut scene.session;
    let id = session.wait(ticket)?;
    let before = session.figures()?.pages_compared;
    let after = session.checkpoint()?;
    let compared = session.figures()?.pages_compared - before;
    assert!(!met || compared == 0, "{compared} pages were compared again");
    for id in [id, after] {
        session.rollback(id)?;
        assert!(session.slice(&scene.region) == scene.frozen, "checkpoint {id}");
    }
    Ok(met)
}

pub(crate) fn rolled_back() -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let (ticket, met) = scene.begin()?;
    scene.session.rollback(scene.before)?;
    fill(&mut scene.live, 1);
    scene.holds(ticket)?;
    Ok(met)
}

/// What the checkpoint in the making changed is towards one that nobody needs any more.
pub(crate) fn released() -> Result<bool, Error> {
    let mut scene = Scene::new()?;
    let (ticket, met) = scene.begin()?;
    scene.session.release(scene.before)?;
    fill(scene.session.slice_mut(&scene.region), 3);
    let id = scene.session.wait(ticket)?;
    scene.session.rollback(id)?;
    assert!(scene.session.slice(&scene.region) == scene.frozen);
    assert!(scene.session.rollback(scene.before).is_err(), "it was released");
    Ok(met)
}
