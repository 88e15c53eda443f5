//! Guest program: a table that changes step by step, each one a durable checkpoint, and goes on where it was.

use std::io::Write;

use anyhow::{Context, Result, bail, ensure};
use cairn_guest::arena::{Full, Map, Vector};
use cairn_guest::{Error, Level, Session, region_data};
use cairn_tests::random::Random;

/// Elements of the table: more pages than one step changes.
const ELEMENTS: usize = 64 << 10;
/// Bytes of the arena.
const ARENA: usize = 1 << 20;
/// The last element says that what was tried out between two steps is in the table, too.
const TRYING: usize = ELEMENTS - 1;
/// Elements that one step changes.
const PER_STEP: usize = 300;

region_data! {
    struct Log<'r> {
        words: Map<'r, u64, Vector<'r, u64>>,
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["steps", count] => steps(count.parse()?, Flow::Waits),
        ["steps ahead", count] => steps(count.parse()?, Flow::Ahead),
        ["back and forth", count] => steps(count.parse()?, Flow::BackAndForth),
        ["plain", count] => steps(count.parse()?, Flow::Plain),
        ["unfit"] => unfit(),
        ["late"] => late(),
        ["no store"] => no_store(),
        ["failing", count] => failing(count.parse()?),
        _ => bail!("what shall be done?"),
    }
}

/// How checkpoints are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Each waits for the disk.
    Waits,
    /// The disk works beside the program.
    Ahead,
    /// With rollbacks and other checkpoints in between.
    BackAndForth,
    /// Not durable by themselves: whoever starts this says that all are.
    Plain,
}

struct Table {
    session: Session,
    /// The first is the number of steps.
    table: cairn_guest::Region<u64>,
    arena: cairn_guest::arena::Arena<Log<'static>>,
}

impl Table {
    fn open() -> Result<Self, Error> {
        let mut session = Session::open()?;
        let table = session.region::<u64>("table", ELEMENTS)?;
        let arena = session.arena::<Log>("log", ARENA, |heap| Ok(Log { words: heap.map() }))?;
        Ok(Self { session, table, arena })
    }

    fn done(&self) -> u64 {
        self.session.slice(&self.table)[0]
    }

    fn step(&mut self) -> Result<(), Full> {
        let done = self.done() + 1;
        change(self.session.slice_mut(&self.table), done);
        self.session.with(&self.arena, |log| {
            let heap = log.words.heap();
            log.words.insert(done % 50, heap.copy_of(&[done, done * done])?)?;
            Ok::<_, Full>(())
        })
    }

    /// Does all steps again, elsewhere, and compares.
    fn check(&self) -> Result<()> {
        let table = self.session.slice(&self.table);
        let mut expected = made_of(self.done());
        if table[TRYING] == 1 {
            try_out(&mut expected);
        }
        let differs = (0..ELEMENTS).find(|&at| table[at] != expected[at]);
        ensure!(differs.is_none(), "element {differs:?} differs after {} steps", self.done());
        self.session.read(&self.arena, |log| {
            ensure!(log.words.len() as u64 == self.done().min(50), "{} words", log.words.len());
            for step in self.done().saturating_sub(49).max(1)..=self.done() {
                let word = log.words.get(&(step % 50)).context("a word is missing")?;
                ensure!(word.as_slice() == [step, step * step], "the word of step {step}");
            }
            Ok(())
        })
    }
}

/// What so many steps make.
fn made_of(steps: u64) -> Vec<u64> {
    let mut table = vec![0; ELEMENTS];
    (1..=steps).for_each(|step| change(&mut table, step));
    table
}

/// What is rolled back again.
fn try_out(table: &mut [u64]) {
    table[100..3000].fill(77);
    table[TRYING] = 1;
}

/// What step `step` changes.
fn change(table: &mut [u64], step: u64) {
    table[0] = step;
    let mut random = Random(step.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut below = |end: usize| usize::try_from(random.below(end as u64)).unwrap_or(0);
    // A window that moves, so that pages are hot, cold and hot again; and now and then a page of zeros.
    let start = below(ELEMENTS - PER_STEP * 8);
    for _ in 0..PER_STEP {
        table[1 + start + below(PER_STEP * 4)] = below(5) as u64 * step;
    }
    if step.is_multiple_of(7) {
        let page = 1 + below(ELEMENTS / 512 - 2);
        table[page * 512..][..512].fill(0);
    }
}

fn steps(count: u64, flow: Flow) -> Result<()> {
    let mut table = Table::open()?;
    match table.session.recover()? {
        Some(id) => println!("recovered {id} at {}", table.done()),
        None => println!("nothing to recover"),
    }
    table.check()?;
    // It was killed while it tried something out.
    let steps = made_of(table.done());
    table.session.slice_mut(&table.table).copy_from_slice(&steps);
    let mut tickets = std::collections::VecDeque::new();
    for _ in 0..count {
        table.step()?;
        match flow {
            Flow::Waits => {
                let level = if table.done().is_multiple_of(3) { Level::Synced } else { Level::Written };
                tell(table.session.checkpoint_durable_at(level)?, table.done());
            }
            Flow::Plain => tell(table.session.checkpoint()?, table.done()),
            Flow::BackAndForth => back_and_forth(&mut table)?,
            Flow::Ahead => {
                tickets.push_back((table.session.checkpoint_durable_async(Level::Written)?, table.done()));
                while let Some((ticket, _)) = tickets.front()
                    && (table.session.is_done(ticket)? || tickets.len() > 3)
                    && let Some((ticket, done)) = tickets.pop_front()
                {
                    tell(table.session.wait(ticket)?, done);
                }
            }
        }
    }
    for (ticket, done) in tickets {
        tell(table.session.wait(ticket)?, done);
    }
    table.check()?;
    println!("all held");
    Ok(())
}

/// A durable checkpoint among others: some are taken before, and rolled back to.
fn back_and_forth(table: &mut Table) -> Result<()> {
    let first = table.session.checkpoint()?;
    try_out(table.session.slice_mut(&table.table));
    let second = table.session.checkpoint()?;
    if table.done().is_multiple_of(2) {
        table.session.checkpoint_durable_at(Level::Written)?;
    }
    table.session.rollback(first)?;
    if table.done().is_multiple_of(3) {
        table.session.slice_mut(&table.table)[9000..9900].fill(78);
        table.session.checkpoint()?;
        table.session.rollback(second)?;
        table.session.rollback(first)?;
    }
    table.session.release(second)?;
    tell(table.session.checkpoint_durable_at(Level::Written)?, table.done());
    Ok(())
}

/// Says that so many steps are on disk. Whoever reads it may kill us for it.
fn tell(id: cairn_guest::CheckpointId, done: u64) {
    println!("stored {id} at {done}");
    let _ = std::io::stdout().flush();
}

/// Regions that aren't those of the store.
fn unfit() -> Result<()> {
    type Make = fn(&mut Session) -> Result<(), Error>;
    let right = |session: &mut Session| session.region::<u64>("table", ELEMENTS).map(drop);
    let arena = |session: &mut Session| {
        session.arena::<Log>("log", ARENA, |heap| Ok(Log { words: heap.map() })).map(drop)
    };
    let cases: [(&str, Vec<Make>); 6] = [
        ("a region less", vec![right]),
        ("a region more", vec![right, arena, |session| session.region::<u8>("more", 1).map(drop)]),
        ("another size", vec![arena, |session| session.region::<u64>("table", ELEMENTS + 512).map(drop)]),
        ("another type", vec![arena, |session| session.region::<i64>("table", ELEMENTS).map(drop)]),
        ("another element", vec![arena, |session| session.region::<u32>("table", 2 * ELEMENTS).map(drop)]),
        ("no arena", vec![right, |session| session.region::<u8>("log", ARENA).map(drop)]),
    ];
    for (case, makes) in cases {
        let mut session = Session::open()?;
        for make in makes {
            make(&mut session)?;
        }
        match session.recover() {
            Err(error @ Error::Unfit { .. }) => println!("{case}: {error}"),
            other => bail!("{case}: {other:?}"),
        }
    }
    let mut table = Table::open()?;
    table.session.slice_mut(&table.table)[5] = 5;
    ensure!(table.session.recover()?.is_some());
    table.check()
}

/// RECOVER after a checkpoint, and ids that go on.
fn late() -> Result<()> {
    let newest = {
        let mut table = Table::open()?;
        table.session.recover()?.context("nothing to recover")?
    };
    let mut table = Table::open()?;
    let id = table.session.checkpoint()?;
    ensure!(newest < id, "{id} isn't newer than {newest}");
    ensure!(matches!(table.session.recover(), Err(Error::RecoverLate)));
    let unknown = cairn_guest::CheckpointId(id.0 + 1000);
    drop(table);
    let mut table = Table::open()?;
    ensure!(matches!(table.session.recover_from(unknown), Err(Error::NoCheckpoint { .. })));
    table.session.recover_from(newest)?;
    table.check()
}

fn no_store() -> Result<()> {
    let mut session = Session::open()?;
    session.region::<u64>("table", ELEMENTS)?;
    for error in [session.recover().map(drop), session.checkpoint_durable().map(drop)] {
        println!("{}", error.err().context("there is no store")?);
    }
    session.checkpoint()?;
    Ok(())
}

/// Steps whose checkpoint may not be stored.
fn failing(count: u64) -> Result<()> {
    let mut table = Table::open()?;
    table.session.recover()?;
    for _ in 0..count {
        table.step()?;
        match table.session.checkpoint_durable() {
            Ok(id) => tell(id, table.done()),
            Err(error @ Error::NotStored { id, .. }) => {
                println!("failed {id} at {}: {:#}", table.done(), anyhow::Error::new(error));
                table.session.rollback(id)?;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Err(error) => return Err(error.into()),
        }
        table.check()?;
    }
    Ok(())
}
