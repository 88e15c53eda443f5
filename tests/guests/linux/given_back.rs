//! Pages that the program gives back to the kernel: discarded, or free to be taken.

use anyhow::{Context, Result, ensure};
use cairn_guest::{Region, Session};
use cairn_tests::pages::PAGE;

use crate::scenario::{Outcome, Scenario, not_here};
use crate::support;
use crate::support::memory::{self, Advice};

pub(crate) const ALL: &[Scenario] = &[
    Scenario { name: "discarded", seconds: 30, run: discarded },
    Scenario { name: "free-and-taken", seconds: 30, run: free_and_taken },
    Scenario { name: "free-and-not-yet-taken", seconds: 30, run: free_and_not_yet_taken },
];

/// Pages of the region. The second half is given back.
const PAGES: usize = 128;
const HALF: usize = PAGES / 2 * PAGE;
const OLD: u8 = 7;

fn filled() -> Result<(Session, Region<u8>)> {
    let mut session = support::session()?;
    let region = session.region::<u8>("given back", PAGES * PAGE)?;
    session.slice_mut(&region).fill(OLD);
    Ok((session, region))
}

/// Discarded pages are zeros, a checkpoint of them is one of zeros, and a rollback brings back what they held.
fn discarded() -> Outcome {
    let (mut session, region) = filled()?;
    let full = session.checkpoint()?;
    memory::discard(&mut session.slice_mut(&region)[HALF..]).context("discarding pages")?;
    let holed = session.checkpoint()?;
    ensure!(session.slice(&region)[HALF..].iter().all(|byte| *byte == 0), "discarded pages aren't zeros");
    for _ in 0..3 {
        session.rollback(full)?;
        ensure!(session.slice(&region).iter().all(|byte| *byte == OLD), "a rollback doesn't bring them back");
        memory::discard(&mut session.slice_mut(&region)[..HALF]).context("discarding pages")?;
        session.rollback(holed)?;
        let slice = session.slice(&region);
        ensure!(slice[..HALF].iter().all(|byte| *byte == OLD), "the first half isn't back");
        ensure!(slice[HALF..].iter().all(|byte| *byte == 0), "the second half isn't zeros again");
    }
    Ok(format!("{} pages", PAGES / 2))
}

/// Gives the second half back and has the kernel take it. Pages that it took.
fn free(session: &mut Session, region: &Region<u8>) -> Result<usize> {
    memory::free(&mut session.slice_mut(region)[HALF..])
        .map_err(|error| not_here(format_args!("the kernel doesn't take free pages: {error}")))?;
    take(session, region)
}

/// Has the kernel take what it may, now. Pages of the second half that are zeros then.
fn take(session: &mut Session, region: &Region<u8>) -> Result<usize> {
    let slice = &mut session.slice_mut(region)[HALF..];
    let address = slice.as_mut_ptr().expose_provenance();
    memory::advise(address, slice.len(), Advice::PageOut).context("asking the kernel to take pages")?;
    Ok(session.slice(region)[HALF..].iter().step_by(PAGE).filter(|byte| **byte == 0).count())
}

/// What a page was when a checkpoint was taken is what it is after a rollback, and the kernel takes it no more: the
/// rollback wrote it.
fn free_and_taken() -> Outcome {
    let (mut session, region) = filled()?;
    let full = session.checkpoint()?;
    let taken = free(&mut session, &region)?;
    ensure!(taken > 0, "the kernel took no page, so that nothing was tried");
    let zeros: Vec<bool> = pages(&session, &region).map(|page| page[0] == 0).collect();
    let holed = session.checkpoint()?;
    for _ in 0..3 {
        session.rollback(full)?;
        take(&mut session, &region)?;
        ensure!(
            session.slice(&region).iter().all(|byte| *byte == OLD),
            "the kernel took pages that a rollback had written"
        );
        session.rollback(holed)?;
        take(&mut session, &region)?;
        for (index, (page, was_zero)) in pages(&session, &region).zip(&zeros).enumerate() {
            let alike = page.iter().all(|byte| *byte == page[0]);
            ensure!(alike && [0, OLD].contains(&page[0]), "page {index} is a mixture");
            ensure!(!was_zero || page[0] == 0, "page {index} was zeros at the checkpoint and isn't now");
        }
        memory::free(&mut session.slice_mut(&region)[HALF..]).context("freeing pages")?;
    }
    Ok(format!("{taken} of {} pages taken", PAGES / 2))
}

/// Pages that still hold what they did must not be taken after a rollback, either: they are the checkpoint's.
fn free_and_not_yet_taken() -> Outcome {
    let (mut session, region) = filled()?;
    let full = session.checkpoint()?;
    memory::free(&mut session.slice_mut(&region)[HALF..])
        .map_err(|error| not_here(format_args!("the kernel doesn't take free pages: {error}")))?;
    session.rollback(full)?;
    let taken = take(&mut session, &region)?;
    ensure!(taken == 0, "after the rollback the kernel took {taken} pages: they were left clean");
    Ok(format!("{} pages stay", PAGES / 2))
}

fn pages<'a>(session: &'a Session, region: &Region<u8>) -> impl Iterator<Item = &'a [u8]> {
    session.slice(region).chunks(PAGE)
}
