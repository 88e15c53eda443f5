//! The programs that the bed gets: built here, by cargo, for there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bed;
use crate::process::{self, cargo};
use crate::targets;

/// The target of programs for guests. Naming it keeps the flags of [`STATIC_FLAGS`] from what cargo itself runs.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// A program for a Linux guest brings everything with it: that guest has no other file.
const STATIC_FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";
/// Packages with programs for guests.
const STATIC_PACKAGES: &[&str] = &["cairn-bench", "cairn-examples", "cairn-tests"];

/// A file here, and its path in the bed.
pub(crate) type Placed = (PathBuf, PathBuf);

/// How programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

impl Profile {
    /// The directory's name below cargo's target directory.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }

    fn option(self) -> Option<&'static str> {
        (self == Self::Release).then_some("--release")
    }
}

/// Builds the workspace's programs and, statically linked, those for guests.
///
/// # Errors
/// One can't be built.
pub(crate) fn build(profile: Profile) -> Result<()> {
    eprintln!("building the programs ({})", profile.name());
    let mut build = cargo(["build", "--quiet", "--bins"])?;
    ensure!(process::succeeds(build.args(profile.option()))?, "the build failed; its output above says why");
    build_static(profile)
}

/// Builds the programs for guests.
///
/// # Errors
/// One can't be built.
pub(crate) fn build_static(profile: Profile) -> Result<()> {
    eprintln!("building the guests' programs, statically linked ({})", profile.name());
    let mut build = cargo(["build", "--quiet", "--bins", "--target", TARGET])?;
    build.args(profile.option()).arg("--target-dir").arg(process::target()?.join("static"));
    build.args(STATIC_PACKAGES.iter().flat_map(|package| ["--package", package]));
    build.env("RUSTFLAGS", STATIC_FLAGS);
    // They are unpacked in a guest's memory at each boot, so their size is time.
    for name in ["CARGO_PROFILE_DEV_STRIP", "CARGO_PROFILE_RELEASE_STRIP"] {
        build.env(name, "debuginfo");
    }
    ensure!(process::succeeds(&mut build)?, "the static build failed; its output above says why");
    Ok(())
}

/// Where [`build_static`] leaves its programs.
///
/// # Errors
/// The workspace can't be found.
pub(crate) fn static_directory(profile: Profile) -> Result<PathBuf> {
    Ok(process::target()?.join("static").join(TARGET).join(profile.name()))
}

/// What is built, with its places in the bed.
///
/// # Errors
/// Nothing is built.
pub(crate) fn placed(profile: Profile) -> Result<Vec<Placed>> {
    let mut placed = executables(&process::built(profile.name())?, Path::new(bed::BUILT))?;
    placed.extend(executables(&static_directory(profile)?, Path::new(bed::STATIC))?);
    Ok(placed)
}

/// The executables directly in `directory`, placed in the bed's directory `there`.
fn executables(directory: &Path, there: &Path) -> Result<Vec<Placed>> {
    let mut found = Vec::new();
    let listing = fs::read_dir(directory)
        .with_context(|| format!("nothing is built: {} can't be read", directory.display()))?;
    for entry in listing {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let is_library = entry.path().extension().is_some_and(|extension| extension == "so");
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 && !is_library {
            found.push((entry.path(), there.join(entry.file_name())));
        }
    }
    Ok(found)
}

/// Builds the test targets that need KVM, with their places in the bed.
///
/// # Errors
/// One can't be built.
pub(crate) fn kvm_tests(profile: Profile) -> Result<Vec<Placed>> {
    let names = targets::find(&process::workspace_root()?)?.kvm;
    eprintln!("building {} test targets ({})", names.len(), profile.name());
    let mut build = cargo(["test", "--no-run", "--quiet", "--message-format", "json"])?;
    build.args(profile.option()).args(names.iter().flat_map(|name| ["--test", name]));
    let messages = process::output(&mut build)?;
    let built = executables_built(&String::from_utf8_lossy(&messages));
    let place = |name: &String| {
        let file = built.get(name).with_context(|| format!("cargo does not say where the test {name} is"))?;
        Ok((file.clone(), Path::new(bed::TESTS).join(name)))
    };
    names.iter().map(place).collect()
}

/// From a target's name to its executable, out of cargo's messages.
fn executables_built(messages: &str) -> BTreeMap<String, PathBuf> {
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, PathBuf::from(message["executable"].as_str()?)))
    };
    messages.lines().filter_map(executable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_an_executable_is() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"lib\"},\"executable\":null}\n\
                        {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"kvm_x\"},\"executable\":\"/t/kvm_x-1\"}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        let built = executables_built(messages);
        assert_eq!(built.into_iter().collect::<Vec<_>>(), [("kvm_x".to_owned(), "/t/kvm_x-1".into())]);
    }
}
