//! Programs of several users.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cairn_tests::registers;

use crate::lifecycle::refusal;
use crate::scenario::{Outcome, Scenario};
use crate::support::partner::{Partner, Role, Talk};
use crate::support::{self, walk::Walk};

pub(crate) const ALL: &[Scenario] = &[
    Scenario { name: "no-permission", seconds: 20, run: no_permission },
    Scenario { name: "two-programs", seconds: 60, run: two_programs },
];

pub(crate) const ROLES: &[Role] = &[("refused", refused), ("walker", walker)];

/// An ordinary user.
const USER: u32 = 1000;
/// Steps of each program, and pages of its region.
const STEPS: u32 = 60;
const PAGES: usize = 300;

fn no_permission() -> Outcome {
    support::needs_functions(1)?;
    let mut user = Partner::start_as(USER, "refused", &[])?;
    let said = user.hear()?;
    user.finish()?;
    ensure!(said.contains("no permission to open") && said.contains("udev"), "the user is told {said:?}");
    Ok(String::from("told so, and what to do"))
}

fn refused(_: &[String], talk: &mut Talk) -> Result<()> {
    talk.say(&refusal()?.replace('\n', " "))
}

/// Two programs at once, each on a function of its own, one of them an ordinary user's: neither sees the other.
fn two_programs() -> Outcome {
    support::needs_functions(2)?;
    let functions = registers::functions()?;
    // As the udev rule does that the README gives.
    let second = registers::resource(&functions[1]);
    let _rule = Allowed::everybody(&second)?;
    let mut walk = Walk::start(support::session()?, PAGES, 21)?;
    let mut user = Partner::start_as(USER, "walker", &[])?;
    user.expect("ready")?;
    user.say("go")?;
    for _ in 0..STEPS {
        walk.step()?;
    }
    walk.finish()?;
    let theirs = user.hear()?;
    user.finish()?;
    Ok(format!("{} rollbacks of root's, {theirs} of user {USER}'s", walk.counts.rollbacks))
}

fn walker(_: &[String], talk: &mut Talk) -> Result<()> {
    let mut walk = Walk::start(support::session()?, PAGES, 22)?;
    talk.say_and_wait("ready")?;
    for _ in 0..STEPS {
        walk.step()?;
    }
    walk.finish()?;
    talk.say(&walk.counts.rollbacks.to_string())
}

/// A file that everybody may read and write while this lives.
struct Allowed<'a> {
    file: &'a Path,
    before: Permissions,
}

impl<'a> Allowed<'a> {
    fn everybody(file: &'a Path) -> Result<Self> {
        let before = fs::metadata(file).with_context(|| format!("{}", file.display()))?.permissions();
        fs::set_permissions(file, Permissions::from_mode(0o666)).context("giving a function to everybody")?;
        Ok(Self { file, before })
    }
}

impl Drop for Allowed<'_> {
    fn drop(&mut self) {
        // If it fails, the scenarios that come after say it.
        let _ = fs::set_permissions(self.file, self.before.clone());
    }
}
