//! Which files of this machine's Debian the bed gets: those of some packages and of what they depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

/// What the tests and a person at a shell use. One that is not installed here is not there either.
const PACKAGES: &[&str] = &[
    "base-files",
    "bash",
    "busybox-static",
    "coreutils",
    "criu",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "libc-bin",
    "libgcc-s1",
    "lua5.4",
    "mawk",
    "mount",
    "perl-base",
    "procps",
    "python3",
    "sed",
    "sqlite3",
    "strace",
    "util-linux",
];
/// Files and links that no package lists, because a package's installation makes them.
const MADE: &[&str] =
    &["/etc/alternatives/awk", "/etc/group", "/etc/nsswitch.conf", "/etc/passwd", "/usr/bin/awk"];
/// What only people read, and nobody reads it in the bed.
const LEFT_OUT: &[&str] = &[
    "/usr/share/bug/",
    "/usr/share/doc/",
    "/usr/share/info/",
    "/usr/share/lintian/",
    "/usr/share/locale/",
    "/usr/share/man/",
];

/// Paths of the files, directories and links, and of the links that make /bin and its like part of /usr.
///
/// # Errors
/// This is no Debian.
pub(crate) fn paths() -> Result<Vec<PathBuf>> {
    let query = "-f=${Package}\t${db:Status-Status}\t${Pre-Depends}, ${Depends}\t${Provides}\n";
    let known = process::output(Command::new("dpkg-query").args(["-W", query]))
        .context("the bed is made of this machine's Debian packages")?;
    let installed = Installed::parse(&String::from_utf8_lossy(&known));
    let packages = installed.with_dependencies(PACKAGES);
    ensure!(packages.contains("coreutils"), "this machine's dpkg knows no installed coreutils");
    let listed = process::output(Command::new("dpkg-query").arg("-L").args(&packages))?;
    let mut paths: Vec<PathBuf> = ["/bin", "/lib", "/lib64", "/sbin"].map(PathBuf::from).into();
    for line in String::from_utf8_lossy(&listed).lines().chain(MADE.iter().copied()) {
        if !LEFT_OUT.iter().any(|left_out| line.starts_with(left_out)) {
            paths.extend(real(Path::new(line)));
        }
    }
    Ok(paths)
}

/// Where a listed path is: packages still say /bin/sh, and /bin is a link to /usr/bin. None if it isn't there, as
/// with what a package lists beside its files ("diverted by ...").
fn real(listed: &Path) -> Option<PathBuf> {
    let parent = listed.parent()?.canonicalize().ok()?;
    let path = parent.join(listed.file_name()?);
    path.symlink_metadata().ok().map(|_| path)
}

/// The installed packages: the names that each goes by, and what each needs.
#[derive(Debug, Default)]
struct Installed {
    /// From a name, its own or one that it provides, to the package.
    named: BTreeMap<String, String>,
    /// From a package to the names in its dependencies, alternatives included.
    needs: BTreeMap<String, Vec<String>>,
}

impl Installed {
    /// Reads lines of name, state, dependencies and provided names, with tabs between.
    fn parse(known: &str) -> Self {
        let mut installed = Self::default();
        for line in known.lines() {
            let mut fields = line.split('\t');
            let mut field = || fields.next().unwrap_or_default();
            let (package, state, needs, provides) = (field(), field(), field(), field());
            if state != "installed" {
                continue;
            }
            for name in names(provides).into_iter().chain([package.to_owned()]) {
                installed.named.insert(name, package.to_owned());
            }
            installed.needs.insert(package.to_owned(), names(needs));
        }
        installed
    }

    /// The packages of these names that are installed, and all that they need.
    fn with_dependencies(&self, wanted: &[&str]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        while let Some(name) = names.pop() {
            let Some(package) = self.named.get(&name) else { continue };
            if found.insert(package.clone()) {
                names.extend(self.needs.get(package).into_iter().flatten().cloned());
            }
        }
        found
    }
}

/// The names in a list such as "libc6 (>= 2.36), awk | mawk:any".
fn names(list: &str) -> Vec<String> {
    list.split([',', '|'])
        .filter_map(|item| item.split_whitespace().next())
        .map(|name| name.split(':').next().unwrap_or(name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_followed_through_provided_names() {
        let installed = Installed::parse(
            "a\tinstalled\tb (>= 1), gone | virtual:any\t\n\
             b\tinstalled\ta\t\n\
             c\tinstalled\t, d\tvirtual (= 2), other\n\
             d\tconfig-files\t\t\n\
             e\tinstalled\t\t\n",
        );
        let found = installed.with_dependencies(&["a", "never-installed"]);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
