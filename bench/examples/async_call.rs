//! Times the call of `checkpoint_async`, which is all that the program waits for, with the writes after it: run it
//! with CAIRN_ENGINE=fork for what it is to replace, and by `cairn run` for the hypervisor's.
//!
//! Usage: `async_call [MiB [percent dirty [pages in a run [epochs]]]]`. Every checkpoint is rolled back to and compared.

use std::error::Error;
use std::process::ExitCode;

use cairn_bench::PAGE_BYTES as PAGE;
use cairn_bench::clock::{Rate, ticks};
use cairn_guest::{Options, Region, Session};

/// Epochs that aren't counted: by then it is settled which pages stay writable.
const WARM_UP: usize = 3;

/// What one epoch cost, in ticks.
#[derive(Clone, Copy, Default)]
struct Epoch {
    /// The call.
    call: u64,
    /// Writing every dirty page again at once, while they are copied.
    rewrite: u64,
    /// From then until the checkpoint is done.
    rest: u64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("async_call: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let (mib, percent, length, epochs) = (next(1024)?, next(10)?, next(2048)?.max(1), next(9)?.max(1));
    let mut session = Options::new().history(2).open()?;
    let pages = (mib << 20) / PAGE;
    let table = session.region::<u64>("table", pages * PAGE / 8)?;
    session.slice_mut(&table).fill(1);
    session.checkpoint()?;
    let dirty = dirty_pages(pages, pages * percent / 100, length);
    let rate = Rate::measure().ok_or("the time-stamp counter doesn't count")?;
    let mut taken = Vec::new();
    for epoch in 0..WARM_UP + epochs {
        let ticks = take(&mut session, &table, &dirty, epoch as u64 + 2)?;
        if WARM_UP <= epoch {
            taken.push(ticks);
        }
    }
    let us = |of: fn(&Epoch) -> u64| {
        let mut all: Vec<u64> = taken.iter().map(of).collect();
        all.sort_unstable();
        let us = |ticks| rate.ns(ticks) as f64 / 1000.0;
        (us(all[0]), us(all[all.len() / 2]))
    };
    let (call, rewrite, rest) = (us(|epoch| epoch.call), us(|epoch| epoch.rewrite), us(|epoch| epoch.rest));
    println!(
        "{}: {mib} MiB, {} pages dirty in runs of {length}, {epochs} epochs, least and median:\n  \
         call {:.1} {:.1} us ({:.3} {:.3} us a page), rewrite {:.0} {:.0} us, rest {:.0} {:.0} us",
        session.engine(),
        dirty.len(),
        call.0,
        call.1,
        call.0 / dirty.len() as f64,
        call.1 / dirty.len() as f64,
        rewrite.0,
        rewrite.1,
        rest.0,
        rest.1
    );
    Ok(())
}

/// `count` of `pages` pages, in runs of `length` that are spread evenly.
fn dirty_pages(pages: usize, count: usize, length: usize) -> Vec<usize> {
    let runs = count.div_ceil(length).max(1);
    (0..count)
        .map(|index| (index / length) * (pages / runs) + index % length)
        .filter(|page| *page < pages)
        .collect()
}

/// One epoch: writes, the call, writes to the same pages, and the way back.
fn take(
    session: &mut Session,
    table: &Region<u64>,
    dirty: &[usize],
    value: u64,
) -> Result<Epoch, Box<dyn Error>> {
    const WORDS: usize = PAGE / 8;
    let write = |session: &mut Session, value: u64| {
        let words = session.slice_mut(table);
        dirty.iter().for_each(|page| words[page * WORDS + page % WORDS] = value);
    };
    write(session, value);
    let begin = ticks();
    let ticket = session.checkpoint_async()?;
    let called = ticks();
    write(session, value + 1_000_000);
    let written = ticks();
    let id = session.wait(ticket)?;
    let done = ticks();
    session.rollback(id)?;
    let words = session.slice(table);
    if dirty.iter().any(|page| words[page * WORDS + page % WORDS] != value) {
        return Err("the checkpoint isn't what it was at the call".into());
    }
    Ok(Epoch { call: called - begin, rewrite: written - called, rest: done - written })
}
