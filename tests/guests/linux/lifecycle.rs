//! How sessions end, and who comes after.

use anyhow::{Context, Result, bail, ensure};
use cairn_abi::{RegionMode, RegionName, Request, SessionKey, Span, Status};
use cairn_guest::{CheckpointId, Error, Session};
use cairn_tests::driver::Driver;
use cairn_tests::pages::{PAGE, Pages};
use cairn_tests::registers::{self, Registers};

use crate::scenario::{Outcome, Scenario, not_here};
use crate::support::partner::{Partner, Role, Talk};
use crate::support::{self, process};

pub(crate) const ALL: &[Scenario] = &[
    Scenario { name: "killed", seconds: 60, run: killed },
    Scenario { name: "same-root", seconds: 60, run: same_root },
    Scenario { name: "all-taken", seconds: 30, run: all_taken },
];

pub(crate) const ROLES: &[Role] = &[("victim", victim), ("successor", successor)];

/// Programs that are killed one after the other: more than there are functions.
const VICTIMS: u32 = 8;
/// Pages of their regions.
const PAGES: usize = 64;
const SECRET: u64 = 0x5ec2_e75e_c2e7;

/// A program that is killed says no goodbye. Its function is free all the same, and whoever gets it begins anew.
fn killed() -> Outcome {
    support::needs_functions(1)?;
    for _ in 0..VICTIMS {
        let mut victim = Partner::start("victim", &[])?;
        victim.expect("ready")?;
        victim.kill();
        Partner::start("successor", &[])?.finish()?;
    }
    Ok(format!("{VICTIMS} killed, each with a successor"))
}

fn victim(_: &[String], talk: &mut Talk) -> Result<()> {
    let mut session = support::session()?;
    let region = session.region::<u64>("secret", PAGES * PAGE / 8)?;
    session.slice_mut(&region).fill(SECRET);
    session.checkpoint()?;
    session.checkpoint()?;
    talk.say_and_wait("ready")
}

fn successor(_: &[String], _: &mut Talk) -> Result<()> {
    let mut session = support::session()?;
    let figures = session.figures()?;
    ensure!(
        (figures.regions, figures.retained, figures.checkpoints, figures.mirror_bytes) == (0, 0, 0, 0),
        "a new session begins with {figures:?}"
    );
    for id in 1..=3 {
        match session.rollback(CheckpointId(id)) {
            Err(Error::NoCheckpoint { .. }) => {}
            other => bail!("rolling back to a predecessor's checkpoint {id}: {other:?}"),
        }
    }
    let region = session.region::<u64>("secret", PAGES * PAGE / 8)?;
    ensure!(session.slice(&region).iter().all(|word| *word == 0), "a new region isn't zeros");
    let id = session.checkpoint()?;
    session.slice_mut(&region).fill(1);
    session.rollback(id)?;
    ensure!(session.slice(&region).iter().all(|word| *word == 0), "a rollback brings something else");
    Ok(())
}

/// Where the predecessor has its ring and its region, and so the successor.
const RING: u64 = 0x5000_0000_0000;
const REGION: u64 = 0x5000_0010_0000;
/// Predecessors, and successors of each, until one has the page-table root of its predecessor.
const PREDECESSORS: u32 = 15;
const SUCCESSORS: u32 = 3;

/// What a predecessor tells: its key, and how many requests it made.
struct Told {
    key: SessionKey,
    offered: u16,
}

/// A successor with the page-table root of a killed program, and the same memory layout, goes on where that was,
/// but doesn't know its key: one guess ends the session.
fn same_root() -> Outcome {
    support::needs_functions(1)?;
    process::stay_on_one_cpu()?;
    for tried in 1..=PREDECESSORS {
        let mut predecessor = Partner::fork("a predecessor", be_predecessor)?;
        let told = Told::parse(&predecessor.hear()?)?;
        predecessor.kill();
        for _ in 0..SUCCESSORS {
            let mut successor = Partner::fork("a successor", |talk| be_successor(&told, talk))?;
            let said = successor.hear()?;
            successor.finish()?;
            match said.as_str() {
                "another root" => {}
                "the same root" => {
                    return Ok(format!("with predecessor {tried}: one guess ended the session"));
                }
                other => bail!("a successor says {other:?}"),
            }
        }
    }
    Err(not_here(format_args!("no successor of {PREDECESSORS} programs got the same page-table root")))
}

impl Told {
    fn parse(text: &str) -> Result<Self> {
        let (key, offered) = text.split_once(' ').context("a key and a number")?;
        let key = u128::from_str_radix(key, 16)?.to_be_bytes();
        Ok(Self { key: SessionKey(key), offered: offered.parse()? })
    }
}

fn be_predecessor(talk: &mut Talk) -> Result<()> {
    let registers = Registers::claim()?;
    let mut driver = Driver::at(RING, 0)?;
    driver.bring_up(&registers);
    let key = driver.hello(&registers).context("no session")?;
    let memory = Pages::anonymous_at(REGION, PAGES)?;
    memory.fill(SECRET);
    let span = Span { address: memory.address(), len: memory.len() as u64 };
    let name = RegionName::new(b"secret")?;
    for request in [Request::Register { span, name, mode: RegionMode::Tracked, tag: 0 }, Request::Checkpoint]
    {
        let status = driver.ask(&registers, key, request).map(|reply| reply.status);
        ensure!(status == Some(Status::Ok), "{request:?}: {status:?}");
    }
    talk.say_and_wait(&format!("{:032x} {}", u128::from_be_bytes(key.0), driver.offered()))
}

fn be_successor(told: &Told, talk: &mut Talk) -> Result<()> {
    let registers = Registers::claim()?;
    let mut driver = Driver::at(RING, told.offered)?;
    let memory = Pages::anonymous_at(REGION, PAGES)?;
    memory.fill(1);
    let mut ask = |key, request| driver.ask(&registers, key, request).map(|reply| reply.status);
    let query = Request::Query { checkpoint: None };
    // Only the scenario knows the key. It tells whether the root is the same.
    if ask(told.key, query) != Some(Status::Ok) {
        return talk.say("another root");
    }
    let mut wrong = told.key;
    wrong.0[15] ^= 1;
    let back = Request::Rollback { checkpoint: CheckpointId(1) };
    for (what, key) in [("a wrong key", wrong), ("the right key after a wrong one", told.key)] {
        let status = ask(key, back);
        ensure!(status == Some(Status::BadKey), "{what} is answered with {status:?}");
    }
    ensure!(memory.is_filled(1), "the predecessor's checkpoint was written to the successor's memory");
    talk.say("the same root")
}

/// One more session than there are functions is refused in words, until one ends.
fn all_taken() -> Outcome {
    support::needs_functions(1)?;
    let count = registers::functions()?.len();
    let mut sessions: Vec<Session> = (0..count).map(|_| support::session()).collect::<Result<_>>()?;
    let refused = refusal()?;
    ensure!(
        refused.contains(&format!("all {count} checkpoint devices of this machine are taken")),
        "the error is {refused:?}"
    );
    drop(sessions.pop());
    sessions.push(support::session().context("after one of them ended")?);
    Ok(format!("{count} sessions and no more"))
}

/// What a program is told that can't have a session.
pub(crate) fn refusal() -> Result<String> {
    match Session::open() {
        Ok(_) => bail!("a session was given where there should be none"),
        Err(error) => Ok(format!("{:#}", anyhow::Error::from(error))),
    }
}
