//! The Debian packages whose programs the tests, the demo and the nested bed run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// A package, and the file of it that shows that it is installed.
pub(crate) type Needed = (&'static str, &'static str);

/// What the tests and the demo run.
pub(crate) const PROGRAMS: &[Needed] = &[
    // The file is one that the package busybox, which isn't static, has not.
    ("busybox-static", "/usr/share/doc/busybox-static"),
    ("coreutils", "/usr/bin/sha256sum"),
    ("gcc", "/usr/bin/cc"),
    ("gzip", "/usr/bin/gzip"),
    ("libc6-dev", "/usr/include/stdlib.h"),
    ("lua5.4", "/usr/bin/lua5.4"),
    ("python3", "/usr/bin/python3"),
    ("sqlite3", "/usr/bin/sqlite3"),
];

/// What the nested bed needs beside [`PROGRAMS`].
pub(crate) const BED: &[Needed] = &[("qemu-system-x86", "/usr/bin/qemu-system-x86_64")];

/// Whether missing packages may be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Installing {
    /// Yes, if this runs as root; otherwise the command is named.
    WhenRoot,
    /// No; the command is named.
    Never,
}

/// Sees to it that every needed package is there: installs what is missing, after saying so, or fails and names
/// the command that would.
pub(crate) fn ensure(needed: &[Needed], installing: Installing) -> Result<()> {
    let missing = missing(needed);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if installing == Installing::Never {
        bail!("packages are missing and --no-install was given: apt-get install {names}");
    }
    if !is_root()? {
        bail!("packages are missing: sudo apt-get install {names}");
    }
    println!("installing the Debian packages that are missing: {names}");
    if !install(&missing)? {
        println!("apt-get could not install them from the package lists of this machine: updating the lists");
        update()?;
        if !install(&missing)? {
            bail!("apt-get install {names} failed; its output above says why");
        }
    }
    Ok(())
}

fn missing(needed: &[Needed]) -> Vec<&'static str> {
    needed.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(name, _)| *name).collect()
}

fn install(names: &[&str]) -> Result<bool> {
    process::succeeds(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(names))
}

/// Updates apt's lists; false if that failed. For root only.
pub(crate) fn update() -> Result<bool> {
    process::succeeds(apt_get().arg("update"))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

pub(crate) fn is_root() -> Result<bool> {
    let user = process::output(Command::new("id").arg("-u")).context("who is running this")?;
    Ok(user.trim_ascii() == b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_whose_file_is_absent_are_missing() {
        let needed = [("there", "/"), ("absent", "/no/such/file"), ("also-there", "/proc")];
        assert_eq!(missing(&needed), ["absent"]);
    }
}
