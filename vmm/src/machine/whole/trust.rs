//! What a store asks for a program, and whether it gets it.
//!
//! A checkpoint that was signed with the user's key asks for what the user once gave. Any other says only what somebody
//! wants: its program gets that if the user says so now.

use std::path::{Path, PathBuf};

use crate::guest::app::files::Grant;
use crate::store::signature::Unsigned;

/// What a checkpoint's program may do on the host.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Rights {
    /// Directories that it sees, or changes.
    pub grants: Vec<Grant>,
    /// The working directory that it was started in, which it sees.
    pub directory: PathBuf,
    /// The file that is cut back and goes on as its standard output.
    pub stdout: Option<PathBuf>,
}

/// What the user agrees to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Consent {
    /// All that the store asks for.
    pub everything: bool,
    /// These directories.
    pub grants: Vec<Grant>,
    /// To see this directory.
    pub directory: PathBuf,
    /// That standard output goes to a file that the user has named.
    pub stdout: bool,
}

/// A checkpoint asks for what nobody has agreed to.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} was not restored, as this user's cairn doesn't vouch for its checkpoint {id}: {why}\nIts program, whatever it \
     is, would{}\nIf that is right, restore it with --trust, or give it the same yourself:{}",
    told(store),
    listed(missing),
    options(missing)
)]
pub struct Untrusted {
    /// The store.
    pub store: PathBuf,
    /// The checkpoint.
    pub id: u64,
    /// Why it isn't known to be the user's.
    pub why: Unsigned,
    /// What was not agreed to.
    pub missing: Rights,
}

impl Rights {
    /// What of it isn't agreed to.
    #[must_use]
    pub fn beyond(&self, consent: &Consent) -> Self {
        if consent.everything {
            return Self::default();
        }
        let gives = |asked: &Grant| {
            let same = |given: &&Grant| given.host == asked.host && given.guest == asked.guest;
            consent.grants.iter().filter(same).any(|given| given.writable || !asked.writable)
        };
        let sees = |directory: &Path| {
            let as_grant = Grant { host: directory.to_owned(), guest: directory.to_owned(), writable: false };
            directory == consent.directory || gives(&as_grant)
        };
        Self {
            grants: self.grants.iter().filter(|asked| !gives(asked)).cloned().collect(),
            directory: if sees(&self.directory) { PathBuf::new() } else { self.directory.clone() },
            stdout: self.stdout.clone().filter(|_| !consent.stdout),
        }
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A path as it's told to a person: whoever wrote the store must not write to the terminal.
fn told(path: &Path) -> String {
    format!("{}", path.to_string_lossy().escape_debug())
}

/// One line for each right.
fn listed(rights: &Rights) -> String {
    let mut text = String::new();
    for Grant { host, guest, writable } in &rights.grants {
        let what = if *writable { "change" } else { "see" };
        let place = if host == guest { String::new() } else { format!(", as {}", told(guest)) };
        text.push_str(&format!("\n  {what} {}{place}", told(host)));
    }
    if rights.directory != Path::new("") {
        text.push_str(&format!("\n  see {}, the directory in which it was started", told(&rights.directory)));
    }
    if let Some(stdout) = &rights.stdout {
        text.push_str(&format!("\n  cut back and write {}", told(stdout)));
    }
    text
}

/// How the same is given on the command line.
fn options(rights: &Rights) -> String {
    let mut text = String::new();
    for Grant { host, guest, writable } in &rights.grants {
        let rw = if *writable { ":rw" } else { "" };
        text.push_str(&format!(" --dir {}:{}{rw}", told(host), told(guest)));
    }
    if rights.directory != Path::new("") {
        text.push_str(&format!(" --dir {}", told(&rights.directory)));
    }
    if let Some(stdout) = &rights.stdout {
        text.push_str(&format!(" --stdout {}", told(stdout)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(host: &str, guest: &str, writable: bool) -> Grant {
        Grant { host: host.into(), guest: guest.into(), writable }
    }

    #[test]
    fn only_what_was_agreed_to_is_given() {
        let asked = Rights {
            grants: vec![grant("/a", "/a", true), grant("/b", "/x", false)],
            directory: "/d".into(),
            stdout: Some("/o".into()),
        };
        assert_eq!(asked.beyond(&Consent::default()), asked);
        assert!(asked.beyond(&Consent { everything: true, ..Consent::default() }).is_empty());
        let all = Consent {
            grants: vec![grant("/a", "/a", true), grant("/b", "/x", true)],
            directory: "/d".into(),
            stdout: true,
            everything: false,
        };
        assert!(asked.beyond(&all).is_empty());
        let less = |change: fn(&mut Consent)| {
            let mut consent = all.clone();
            change(&mut consent);
            asked.beyond(&consent)
        };
        assert_eq!(less(|all| all.grants[0].writable = false).grants, [grant("/a", "/a", true)]);
        assert_eq!(less(|all| all.grants[1].guest = "/b".into()).grants, [grant("/b", "/x", false)]);
        assert_eq!(less(|all| all.grants[1].host = "/".into()).grants, [grant("/b", "/x", false)]);
        assert_eq!(less(|all| all.directory = "/".into()).directory, Path::new("/d"));
        assert_eq!(less(|all| all.stdout = false).stdout.as_deref(), Some(Path::new("/o")));
        // A directory that is granted where it was is seen.
        let granted = less(|all| {
            all.directory = "/".into();
            all.grants.push(grant("/d", "/d", false));
        });
        assert!(granted.is_empty());
    }

    #[test]
    fn a_path_writes_nothing_to_the_terminal() {
        let missing = Rights { grants: vec![grant("/a\x1b[2J\n", "/a", true)], ..Rights::default() };
        let (store, why) = (PathBuf::from("/s\x07"), Unsigned::NotAtAll);
        let text = Untrusted { store, id: 1, why, missing }.to_string();
        assert!(!text.contains('\x1b') && !text.contains('\x07'), "{text:?}");
        assert!(text.contains("change /a\\u{1b}[2J\\n, as /a"), "{text}");
    }
}
