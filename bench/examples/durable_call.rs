//! Times a durable checkpoint of a region of which little changes, beside what a program would do without: writing
//! the region to a file and syncing that.
//!
//! Usage: `cairn run --store DIR/store --dir DIR:rw -- durable_call DIR/file [MiB [percent dirty [epochs]]]`, both on
//! the same disk. The file is written in turn with the checkpoints, so that both meet the same disk.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use cairn_bench::clock::{Rate, ticks};
use cairn_guest::{Level, Options};

/// Words of a page.
const PAGE_WORDS: usize = 512;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("durable_call: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("a file to write beside is missing")?;
    let mut numbers = std::env::args().skip(2).map(|argument| argument.parse::<usize>());
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let (mib, percent, epochs) = (next(256)?, next(1)?, next(9)?.max(1));
    let mut session = Options::new().history(2).open()?;
    let pages = (mib << 20) / 4096;
    let table = session.region::<u64>("table", pages * PAGE_WORDS)?;
    for (at, word) in session.slice_mut(&table).iter_mut().enumerate() {
        *word = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    session.checkpoint_durable_at(Level::Synced)?;
    let step = pages / (pages * percent / 100).max(1);
    let rate = Rate::measure().ok_or("the time-stamp counter doesn't count")?;
    let (mut checkpoints, mut files) = (Vec::new(), Vec::new());
    for epoch in 0..epochs {
        for page in (epoch % step..pages).step_by(step) {
            session.slice_mut(&table)[page * PAGE_WORDS + epoch % PAGE_WORDS] ^= epoch as u64 + 1;
        }
        let begun = ticks();
        session.checkpoint_durable_at(Level::Synced)?;
        checkpoints.push(rate.ns(ticks() - begun) as f64 / 1e6);
        let bytes: Vec<u8> = session.slice(&table).iter().flat_map(|word| word.to_le_bytes()).collect();
        let begun = ticks();
        let mut file = File::create(&path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        files.push(rate.ns(ticks() - begun) as f64 / 1e6);
    }
    let median = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (checkpoint, file) = (median(&mut checkpoints), median(&mut files));
    println!("{mib} MiB, {percent} % of the pages dirty, {epochs} epochs, medians");
    println!("durable checkpoint  {checkpoint:.2} ms");
    println!("file and fsync      {file:.2} ms, {:.1} times as long", file / checkpoint);
    Ok(())
}
