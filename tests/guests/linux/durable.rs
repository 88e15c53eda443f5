//! Checkpoints on the host's disk: of this boot, and of the one before.

use anyhow::{Context, Result, ensure};
use cairn_guest::{Error, Level, Region, Session};
use cairn_tests::pages::PAGE;

use crate::scenario::{Outcome, Scenario, not_here};
use crate::support;
use crate::support::partner::{Partner, Role, Talk};

pub(crate) const ALL: &[Scenario] = &[Scenario { name: "durable", seconds: 90, run: durable }];

pub(crate) const ROLES: &[Role] = &[("keeper", keeper), ("heir", heir)];

/// Words of the region: more pages than one step writes.
const WORDS: usize = 600 * PAGE / 8;
/// Words that a step writes.
const PER_STEP: u64 = 40;
/// Steps before the program is killed, and keepers of which each goes on where the last one was.
const STEPS: u64 = 6;
const KEEPERS: u32 = 3;

/// A program that counts its steps.
struct Kept {
    session: Session,
    words: Region<u64>,
}

impl Kept {
    fn open() -> Result<Self> {
        let mut session = support::session()?;
        let words = session.region::<u64>("kept", WORDS)?;
        Ok(Self { session, words })
    }

    fn steps(&self) -> u64 {
        self.session.slice(&self.words)[0]
    }

    fn step(&mut self) {
        let step = self.steps() + 1;
        write(self.session.slice_mut(&self.words), step);
    }

    /// What so many steps make is there, and nothing else.
    fn check(&self) -> Result<()> {
        let mut expected = vec![0; WORDS];
        (1..=self.steps()).for_each(|step| write(&mut expected, step));
        ensure!(self.session.slice(&self.words) == expected, "not what {} steps make", self.steps());
        Ok(())
    }
}

fn write(words: &mut [u64], step: u64) {
    words[0] = step;
    for at in 0..PER_STEP {
        let place = step.wrapping_mul(7919).wrapping_add(at * at * 131) % (WORDS as u64 - 1);
        words[1 + usize::try_from(place).unwrap_or(0)] = step;
    }
}

/// Programs that are killed while they put checkpoints on the disk; each goes on where the last one was.
fn durable() -> Outcome {
    support::needs_functions(1)?;
    let mut kept = Kept::open()?;
    let before = match kept.session.recover() {
        Err(Error::NoStore { .. }) => return Err(not_here("it needs a guest with --store")),
        recovered => recovered?,
    };
    kept.check()?;
    let began_at = kept.steps();
    kept.step();
    let mut newest = kept.session.checkpoint_durable_at(Level::Synced)?;
    ensure!(before < Some(newest), "{newest} after {before:?}");
    let late = kept.session.recover();
    ensure!(matches!(late, Err(Error::RecoverLate)), "recovering after a checkpoint: {late:?}");
    drop(kept);
    for _ in 0..KEEPERS {
        let mut keeper = Partner::start("keeper", &[])?;
        for _ in 0..STEPS {
            let id = keeper.hear()?.parse().context("an id")?;
            ensure!(newest.0 < id, "{id} after {newest}");
            newest.0 = id;
        }
        keeper.kill();
        Partner::start("heir", &[newest.to_string()])?.finish()?;
    }
    Ok(format!("from step {began_at} on, {KEEPERS} programs killed, checkpoint {newest} and later ones kept"))
}

/// Makes steps until it's killed, and tells of those that are on disk.
fn keeper(_: &[String], talk: &mut Talk) -> Result<()> {
    let mut kept = Kept::open()?;
    kept.session.recover()?.context("nothing to recover")?;
    kept.check()?;
    loop {
        kept.step();
        let ticket = kept.session.checkpoint_durable_async(Level::Written)?;
        kept.step();
        let id = kept.session.wait(ticket)?;
        talk.say(&id.to_string())?;
    }
}

/// Finds what a killed keeper told of, or what came after.
fn heir(args: &[String], _: &mut Talk) -> Result<()> {
    let told: u64 = args.first().context("an id")?.parse()?;
    let mut kept = Kept::open()?;
    let id = kept.session.recover()?.context("nothing to recover")?;
    ensure!(told <= id.0, "{id} after {told}");
    kept.check()
}
