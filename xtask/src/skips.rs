//! The file to which tests tell what they leave out on this machine (`cairn_test_host::skipped`).

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Environment variable that names it.
const VARIABLE: &str = "CAIRN_SKIPS";

/// The file.
#[derive(Debug)]
pub(crate) struct Skips(PathBuf);

impl Skips {
    /// An empty one, in a directory that is made if it isn't there.
    ///
    /// # Errors
    /// That can't be made, or what an earlier run left not be removed.
    pub(crate) fn begin(directory: &Path) -> Result<Self> {
        let path = directory.join("skipped-tests");
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(Self(path)),
        }
    }

    /// Has a command's tests tell it there.
    pub(crate) fn tell(&self, command: &mut Command) {
        command.env(VARIABLE, &self.0);
    }

    /// What was told so far, each once.
    ///
    /// # Errors
    /// It can't be read.
    fn told(&self) -> Result<BTreeSet<String>> {
        match fs::read_to_string(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
            read => Ok(read
                .with_context(|| format!("reading {}", self.0.display()))?
                .lines()
                .map(str::to_owned)
                .collect()),
        }
    }

    /// Prints what was told, and how much.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) fn print(&self) -> Result<()> {
        let told = self.told()?;
        for line in &told {
            println!("left out: {line}");
        }
        match told.len() {
            0 => println!("no test left anything out on this machine"),
            count => println!("{count} tests passed without what is listed above"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_none_of_an_earlier_run() {
        let directory = std::env::temp_dir().join(format!("cairn-xtask-skips-{}", std::process::id()));
        for _ in 0..2 {
            let skips = Skips::begin(&directory).unwrap();
            assert_eq!(skips.told().unwrap(), BTreeSet::new());
            fs::write(&skips.0, "kvm_run b: no b\nkvm_run a: no a\nkvm_run b: no b\n").unwrap();
            assert!(skips.told().unwrap().iter().eq(["kvm_run a: no a", "kvm_run b: no b"]));
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
