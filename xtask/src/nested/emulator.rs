//! The QEMU that is the bed's machine.
//!
//! Before 8.1, QEMU's emulation keeps translations of code that was changed meanwhile (it took the lock on a page only
//! after it had read the code; <https://bugs.launchpad.net/bugs/2051965>). Kernels patch their own code while they run,
//! so such a QEMU breaks the bed and the guests in it at times: they oops with int3. Debian 12 has 7.2
//! and in its backports a newer one, which is unpacked beside the kernels and not installed.
//!
//! Both have another fault, which the bed avoids: see [`crate::bed::KEPT_CPU`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::kept;
use crate::packages::{self, Installing};
use crate::process;

/// The first version that keeps no stale translation.
const SOUND: (u32, u32) = (8, 1);
/// The program's name, where it is installed.
const PROGRAM: &str = "qemu-system-x86_64";
/// What is unpacked: the program, and what it loads into a machine.
const PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-system-data"];
/// Where the newer one is.
const SOURCE: &str = "deb http://deb.debian.org/debian bookworm-backports main\n";
/// The machine's firmware, which a package of its own installs here.
const FIRMWARE: &str = "/usr/share/seabios";

/// Which QEMU is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wanted {
    /// One from 8.1 on
    Sound,
    /// The installed one, whatever it is
    Installed,
}

/// A QEMU.
#[derive(Clone, Debug)]
pub(crate) struct Emulator {
    program: PathBuf,
    /// Directories of what it loads into a machine; none where it knows them.
    data: Vec<PathBuf>,
    /// Whether it keeps no stale translations.
    sound: bool,
}

impl Emulator {
    /// The QEMU that is wanted. A sound one is the installed one, else the one unpacked in `directory`, else fetched;
    /// and if that fails the installed one with a warning.
    ///
    /// # Errors
    /// None is installed, and none can be.
    pub(crate) fn get(wanted: Wanted, directory: &Path, installing: Installing) -> Result<Self> {
        packages::ensure(packages::BED, installing)?;
        let installed = Self::installed()?;
        if installed.sound || wanted == Wanted::Installed {
            return Ok(installed);
        }
        let unpacked = directory.join("qemu");
        if let Err(error) = kept::once(&unpacked, fetch) {
            eprintln!(
                "warning: {error:#}\nwarning: the installed QEMU is older than {}.{}: at times it breaks kernels that \
                 run in it",
                SOUND.0, SOUND.1
            );
            return Ok(installed);
        }
        let program = unpacked.join("usr/bin").join(PROGRAM);
        let data = vec![unpacked.join("usr/share/qemu"), PathBuf::from(FIRMWARE)];
        Ok(Self { program, data, sound: true })
    }

    fn installed() -> Result<Self> {
        let said = process::output(Command::new(PROGRAM).arg("--version"))?;
        let said = String::from_utf8_lossy(&said);
        let version = version(&said).with_context(|| format!("QEMU doesn't tell its version: {said}"))?;
        Ok(Self { program: PROGRAM.into(), data: Vec::new(), sound: SOUND <= version })
    }

    /// The program and its first arguments.
    pub(crate) fn command_line(&self) -> Vec<PathBuf> {
        let data = self.data.iter().flat_map(|directory| ["-L".into(), directory.clone()]);
        std::iter::once(self.program.clone()).chain(data).collect()
    }
}

/// Major and minor version from what `--version` prints.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers =
        said.strip_prefix("QEMU emulator version ")?.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Unpacks the newer QEMU into `directory`. Apt works on lists of its own, so that the machine's sources stay as they
/// are; it needs no root.
fn fetch(directory: &Path) -> Result<()> {
    eprintln!("fetching QEMU from Debian's backports (about 12 MB and package lists, once; not installed)");
    let apt = directory.join("apt");
    for name in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(name)).with_context(|| format!("creating {}", apt.display()))?;
    }
    fs::write(apt.join("sources.list"), SOURCE).context("writing apt's source")?;
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]);
        let places = [
            ("Dir::Etc::SourceList", apt.join("sources.list")),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
            ("Dir::State::Lists", apt.join("lists")),
            ("Dir::Cache", apt.join("cache")),
        ];
        for (name, place) in places {
            command.arg("-o").arg(format!("{name}={}", place.display()));
        }
        process::succeeds(command.args(arguments).current_dir(&apt))
    };
    let downloaded = apt_get(&["update"])? && apt_get(&[&["download"], &PACKAGES[..]].concat())?;
    ensure!(downloaded, "Debian's backports can't be had; apt-get's output above says why");
    for entry in fs::read_dir(&apt).context("listing what apt downloaded")? {
        let path = entry.context("listing what apt downloaded")?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let unpacked = process::succeeds(Command::new("dpkg").arg("-x").arg(&path).arg(directory))?;
            ensure!(unpacked, "{} can't be unpacked", path.display());
        }
    }
    fs::remove_dir_all(&apt).with_context(|| format!("removing {}", apt.display()))?;
    let runs = process::succeeds(
        Command::new(directory.join("usr/bin").join(PROGRAM)).args(["-machine", "none", "-version"]),
    )?;
    ensure!(runs, "the QEMU from Debian's backports doesn't start here");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b2)"), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.0.2\n"), Some((10, 0)));
        assert_eq!(version("something else"), None);
        assert!((7, 2) < SOUND && SOUND <= (8, 1) && SOUND <= (10, 0));
    }
}
