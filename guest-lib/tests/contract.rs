//! Every user-level engine keeps the contract.

mod common;

use cairn_guest::contract::{self, Report};
use cairn_guest::{EngineKind, Error, Options, Session};

/// Steps of each random walk.
const STEPS: u32 = 4000;

fn keeps_contract(kind: EngineKind) {
    if !common::works(&kind) {
        return;
    }
    let open = |history| move || Options::new().engine(kind).history(history).open();
    let report = contract::run(open(8), 1, STEPS).unwrap_or_else(|error| panic!("{kind}: {error:?}"));
    assert!(report.cases > 25 && report.rollbacks > 100 && report.refusals > 100, "{report:?}");
    for (seed, history) in [(2, 1), (3, 3), (4, 40)] {
        let report = walk(open(history), seed).unwrap_or_else(|error| panic!("{kind}, {history}: {error:?}"));
        assert!(report.checkpoints > 500, "{report:?}");
    }
}

fn walk(open: impl Fn() -> Result<Session, Error>, seed: u64) -> Result<Report, Box<dyn std::error::Error>> {
    Ok(contract::walk(&mut open()?, seed, STEPS)?)
}

#[test]
fn full_copy() {
    keeps_contract(EngineKind::FullCopy);
}

#[test]
fn mprotect() {
    keeps_contract(EngineKind::Mprotect);
}

#[test]
fn fork() {
    keeps_contract(EngineKind::Fork);
}

#[test]
fn uffd_wp() {
    keeps_contract(EngineKind::UffdWp);
}

#[test]
fn user_compare() {
    keeps_contract(EngineKind::UserCompare);
}
