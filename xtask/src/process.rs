//! Running other programs: cargo, Debian's tools, and what was built.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's root directory: the parent of this package's.
pub(crate) fn workspace_root() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().map(Path::to_path_buf).context("the xtask package has no parent directory")
}

/// Cargo, as it was called for this run, working in the workspace's root.
pub(crate) fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Command> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(args).current_dir(workspace_root()?);
    Ok(command)
}

/// Where cargo puts what it builds with `profile` ("debug" or "release").
pub(crate) fn built(profile: &str) -> Result<PathBuf> {
    let root = workspace_root()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(root.join(target).join(profile))
}

/// Runs `command` with this terminal; true if it ended with success.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    Ok(status.success())
}

/// Runs `command` and takes its standard output; standard error goes to this terminal.
///
/// # Errors
/// It could not be started or did not end with success.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", shown(command), output.status);
    }
    Ok(output.stdout)
}

/// The command as a person would type it: cargo by its name, not by where it is installed.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = match program.file_name() {
        Some(name) if name == "cargo" => name,
        _ => program.as_os_str(),
    };
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_they_are_typed() {
        assert_eq!(shown(Command::new("/opt/rust/bin/cargo").arg("test")), "cargo test");
        assert_eq!(shown(Command::new("/b/cairn").arg("doctor")), "/b/cairn doctor");
    }
}
