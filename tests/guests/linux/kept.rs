//! The engines' contract, and what a fork leaves of a session.

use anyhow::{Context, Result, ensure};
use cairn_guest::{Session, contract};
use cairn_tests::pages::PAGE;

use crate::scenario::{Outcome, Scenario};
use crate::support::partner::Partner;
use crate::support::{self, walk::Walk};

pub(crate) const ALL: &[Scenario] = &[
    Scenario { name: "contract", seconds: 60, run: contract },
    Scenario { name: "fork", seconds: 40, run: fork },
];

/// Steps of the contract's random walk.
const STEPS: u32 = 400;
/// Pages of the region that a child shares.
const SHARED_PAGES: usize = 256;
/// Steps of the parent while the child lives.
const PARENT_STEPS: usize = 30;

fn contract() -> Outcome {
    let open = || -> Result<Session, cairn_guest::Error> {
        // The first session says in words why there is none; the others are as that one.
        cairn_guest::Session::open()
    };
    drop(support::session()?);
    let report = contract::run(open, 1, STEPS).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        anyhow::anyhow!("{error} {}", source.unwrap_or_default())
    })?;
    Ok(format!(
        "{} cases, {} steps, {} checkpoints, {} rollbacks, {} refusals",
        report.cases, report.steps, report.checkpoints, report.rollbacks, report.refusals
    ))
}

/// The parent checkpoints and rolls back while a child shares its pages copy-on-write; the child keeps its own
/// view and can do nothing with the session.
fn fork() -> Outcome {
    let mut walk = Walk::start(support::session()?, SHARED_PAGES, 7)?;
    for _ in 0..4 {
        walk.step()?;
    }
    let (address, len) = walk.span();
    let before = checksum(address, len);
    let session = &mut walk.session;
    let mut child = Partner::fork("the child", |talk| {
        let refused =
            session.checkpoint().err().context("a child took a checkpoint of its parent's session")?;
        talk.say_and_wait(&format!("{:#}", anyhow::Error::from(refused)))?;
        ensure!(checksum(address, len) == before, "the parent's session changed the child's memory");
        for page in 0..len / PAGE {
            poke(address + page * PAGE, 0x5a);
        }
        talk.say_and_wait("whole")?;
        ensure!(
            (0..len / PAGE).all(|page| peek(address + page * PAGE) == 0x5a),
            "the child's writes are gone"
        );
        Ok(())
    })?;
    let refusal = child.hear()?;
    ensure!(refusal.contains("child"), "the child is told {refusal:?}");
    for _ in 0..PARENT_STEPS {
        walk.step()?;
    }
    child.say("look")?;
    child.expect("whole")?;
    for _ in 0..PARENT_STEPS {
        walk.step()?;
    }
    child.finish()?;
    walk.finish()?;
    let counts = walk.counts;
    Ok(format!("{} steps beside a child, {} pages copied or moved", counts.steps, counts.moves.moved))
}

fn checksum(address: usize, len: usize) -> u64 {
    (address..address + len).fold(0xcbf2_9ce4_8422_2325, |sum: u64, at| {
        (sum ^ u64::from(peek(at))).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn peek(address: usize) -> u8 {
    // SAFETY: a byte of the region, which stays mapped; volatile, as the child's copy has no other user.
    unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() }
}

fn poke(address: usize, byte: u8) {
    // SAFETY: as for `peek`; in the child, where no reference to the region is used.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(byte) }
}
