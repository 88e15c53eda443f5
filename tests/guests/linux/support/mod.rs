//! What the scenarios share.

pub(crate) mod frames;
pub(crate) mod knobs;
pub(crate) mod memory;
pub(crate) mod partner;
pub(crate) mod process;
pub(crate) mod swap;
pub(crate) mod walk;

use std::env;

use anyhow::{Context, Result, ensure};
use cairn_guest::{ENGINE_VARIABLE, EngineKind, Options, Session};

use crate::scenario::not_here;

/// Checkpoints that a scenario's sessions retain, if they have a say.
const HISTORY: u32 = 8;

/// A session on the device, unless the environment names a user-level engine.
pub(crate) fn session() -> Result<Session> {
    let session = Options::new().history(HISTORY).open().context("opening a session")?;
    let chosen = env::var_os(ENGINE_VARIABLE).is_some_and(|name| !name.is_empty());
    ensure!(chosen || session.engine() == EngineKind::Cairn, "this machine has no checkpoint device");
    Ok(session)
}

/// For scenarios that are about the device.
pub(crate) fn needs_device() -> Result<()> {
    match env::var(ENGINE_VARIABLE) {
        Ok(name) if !name.is_empty() && name != EngineKind::Cairn.name() => {
            Err(not_here(format_args!("it is about the device, and the engine is {name}")))
        }
        _ => Ok(()),
    }
}

/// For scenarios with several sessions at once.
pub(crate) fn needs_functions(count: usize) -> Result<()> {
    needs_device()?;
    let there = cairn_tests::registers::functions().context("looking for checkpoint devices")?.len();
    match there < count {
        true => Err(not_here(format_args!("it needs {count} checkpoint devices, and {there} are here"))),
        false => Ok(()),
    }
}
