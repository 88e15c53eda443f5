//! A region larger than the guest's memory.

use anyhow::{Context, Result, ensure};
use cairn_guest::{Region, Session};
use cairn_tests::pages::PAGE;

use crate::scenario::{Outcome, Scenario, not_here};
use crate::support::{self, knobs, swap};

pub(crate) const ALL: &[Scenario] = &[Scenario { name: "larger-than-memory", seconds: 120, run: larger }];

/// Guests with more memory than this take too long.
const MOST_MEMORY: u64 = 200 << 20;
const WORDS: usize = PAGE / 8;

fn larger() -> Outcome {
    let memory = knobs::memory("MemTotal")?;
    if memory > MOST_MEMORY {
        let mib = memory >> 20;
        return Err(not_here(format_args!("this machine has {mib} MiB of memory: give it 160M")));
    }
    swap::turn_on()?;
    let pages = usize::try_from(memory)? / PAGE * 17 / 16;
    let before = knobs::events(&["pswpin"])?;
    let mut session = support::session()?;
    let region = session.region::<u64>("larger", pages * WORDS)?;
    for page in 0..pages {
        fill(&mut session, &region, page, 1);
    }
    let first = session.checkpoint().context("a checkpoint")?;
    // Every fiftieth, so that few of them are in memory when they are written, or rolled back.
    for page in (0..pages).step_by(50) {
        fill(&mut session, &region, page, 2);
    }
    session.rollback(first).context("a rollback")?;
    check(&session, &region, pages)?;
    let swapped = knobs::events(&["pswpin"])? - before;
    ensure!(swapped > 0, "nothing was swapped");
    let (region, memory) = ((pages * PAGE) >> 20, memory >> 20);
    Ok(format!("{region} MiB in a machine of {memory} MiB, {swapped} pages swapped in"))
}

/// One word over and over, which compressed swap keeps in no memory at all.
fn word(page: usize, version: u64) -> u64 {
    (page as u64) << 8 | version
}

fn fill(session: &mut Session, region: &Region<u64>, page: usize, version: u64) {
    session.slice_mut(region)[page * WORDS..(page + 1) * WORDS].fill(word(page, version));
}

fn check(session: &Session, region: &Region<u64>, pages: usize) -> Result<()> {
    for (page, found) in session.slice(region).chunks(WORDS).enumerate().take(pages) {
        let expected = word(page, 1);
        ensure!(
            found.iter().all(|word| *word == expected),
            "page {page} holds {:#x} instead of {expected:#x}",
            found[0]
        );
    }
    Ok(())
}
