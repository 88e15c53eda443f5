//! Guest program: writes far more pages between two checkpoints than a small dirty ring holds, then very few for a
//! while, then many again, and checks after each rollback that every page is what it was.

use cairn_guest::{Error, Session};

/// Pages of the region: many times the entries of the smallest rings.
const PAGES: usize = 6000;
/// Words of a page.
const WORDS: usize = 512;
const ROUNDS: u64 = 36;
/// The rounds that write few pages: more than it takes to change how a region is tracked.
const SPARSE: std::ops::Range<u64> = 7..31;
/// Pages that are written in every round.
const HOT: usize = 100;

fn main() -> Result<(), Error> {
    let mut session = Session::open()?;
    let region = session.region::<u64>("many", PAGES * WORDS)?;
    let mut model = vec![0; PAGES];
    for round in 1..=ROUNDS {
        write(session.slice_mut(&region), &mut model, round, round);
        let id = session.checkpoint()?;
        let saved = model.clone();
        write(session.slice_mut(&region), &mut model, round, round + 100);
        write(session.slice_mut(&region), &mut model, round, round + 200);
        session.rollback(id)?;
        model = saved;
        let live = session.slice(&region);
        for (page, expected) in model.iter().enumerate() {
            assert_eq!(live[page * WORDS + page % WORDS], *expected, "round {round}, page {page}");
        }
    }
    println!("all held");
    Ok(())
}

/// Writes some of the hot pages in a sparse round, all pages in a dense one before those, and in one after them the hot
/// pages and a part of the others that moves from round to round.
fn write(region: &mut [u64], model: &mut [u64], round: u64, value: u64) {
    let step = if round < SPARSE.start { 1 } else { usize::try_from(value % 5).unwrap_or(0) + 1 };
    let (hot, others) = if SPARSE.contains(&round) { (HOT / 10, HOT) } else { (HOT, PAGES) };
    for page in (0..hot).chain((HOT..others).step_by(step)) {
        region[page * WORDS + page % WORDS] = value;
        model[page] = value;
    }
}
