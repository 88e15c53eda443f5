//! Guest program: for each line of its input, so many epochs in which nothing is written, or in which the same pages
//! are (`hot`), with a checkpoint each. Says what the host protected meanwhile.

use std::io::stdin;

use cairn_guest::{Error, Session};

const WORDS_PER_PAGE: usize = 512;
const PAGES: usize = 1024;
/// Pages that are written in an epoch, and a step between them that leaves none beside another.
const HOT: usize = 100;
const STEP: usize = 7;

fn main() -> Result<(), Error> {
    let mut session = Session::open()?;
    let region = session.region::<u64>("quiet", PAGES * WORDS_PER_PAGE)?;
    session.checkpoint()?;
    let mut value = 0;
    for line in stdin().lines() {
        let line = line.expect("a line");
        let (kind, epochs) = line.split_once(' ').expect("a kind and a number");
        let before = session.figures()?;
        for _ in 0..epochs.parse::<u32>().expect("a number") {
            if kind == "hot" {
                value += 1;
                let words = session.slice_mut(&region);
                (0..HOT).for_each(|page| words[page * STEP * WORDS_PER_PAGE] = value);
            }
            session.checkpoint()?;
        }
        let after = session.figures()?;
        println!(
            "changed {} protected {}",
            after.pages_changed - before.pages_changed,
            after.pages_protected - before.pages_protected
        );
    }
    Ok(())
}
