//! Applying an overlay to the host's directory.
//!
//! First everything that is new is written beside the directory's files, into a directory of its own in it, and
//! made durable; then the steps are written down in a record outside of the directory; then they are taken, each
//! a rename, a link or a removal. A file therefore is the old one or the new one at any time and never a part
//! of it. All files together are not: who looks on meanwhile may see some old and some new. A kill before the
//! record is there changes nothing; one after it is made up for by [`resume`], since every step may be taken
//! twice. Only one run at a time publishes in a directory.
//!
//! Nothing is applied where the host changed, removed or made something that the guest has its own of: that is
//! a conflict. The guest's version of all files is then left in that directory, and the host's stay as they are.

pub(super) mod apply;
pub(super) mod claim;
pub(super) mod record;
pub(super) mod stage;

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{
    Files,
    host::{HostTree, Readers},
    memory::MemoryFile,
    path::GuestPath,
    status::Time,
};
use claim::Claim;
pub use claim::{Left, resume};
use record::Record;
use stage::Stage;

/// What is to be done to a directory.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What is written before anything else, by number, and where it will be.
    pub staged: Vec<(u64, Staged, Vec<u8>)>,
    pub steps: Vec<Step>,
    pub conflicts: Vec<Conflict>,
    /// Files with names on the host that the guest didn't use: those keep the old bytes.
    pub parted: Vec<Vec<u8>>,
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.conflicts.is_empty()
    }
}

/// Something new.
#[derive(Debug)]
pub(super) enum Staged {
    File(Arc<MemoryFile>),
    Link { target: Vec<u8>, times: [Time; 2] },
}

/// Something in the staging directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Object {
    /// Written by the guest.
    Staged(u64),
    /// The host's own, on its way from one name to another.
    Moved(u64),
}

/// One step. Paths are below the granted directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    MoveOut {
        from: Vec<u8>,
        id: u64,
    },
    Remove {
        path: Vec<u8>,
        directory: bool,
    },
    MakeDirectory {
        path: Vec<u8>,
        mode: u32,
    },
    /// Puts an object where it belongs, in place of what is there.
    Place {
        object: Object,
        path: Vec<u8>,
    },
    /// Another name, in place of what is there.
    Link {
        from: Vec<u8>,
        to: Vec<u8>,
    },
    Attributes {
        path: Vec<u8>,
        mode: Option<u32>,
        times: Option<[Time; 2]>,
    },
}

/// Where the host and the guest disagree. Paths are below the granted directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Changed or replaced on the host since the guest saw it.
    Changed(Vec<u8>),
    /// Removed on the host.
    Gone(Vec<u8>),
    /// Made on the host and in the guest.
    Appeared(Vec<u8>),
}

/// What publishing did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Files that were written anew.
    pub files: usize,
    /// Steps that were taken.
    pub steps: usize,
    /// What changed, each a line for a person.
    pub changes: Vec<String>,
}

/// Why an overlay wasn't applied, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The host refused something before anything was changed.
    #[error("{} was not changed: {what}", directory.display())]
    Unchanged {
        /// The granted directory.
        directory: PathBuf,
        /// What was tried.
        what: String,
        /// The host's answer.
        #[source]
        source: Errno,
    },
    /// The host has other versions of what the guest changed.
    #[error(
        "{} was not changed: {}; what the program wrote is in {}",
        directory.display(), told(conflicts), kept.display()
    )]
    Conflicts {
        /// The granted directory.
        directory: PathBuf,
        /// All of them.
        conflicts: Vec<Conflict>,
        /// Where the guest's version of its files was put.
        kept: PathBuf,
    },
    /// The host refused a step; the record of what is left to do remains.
    #[error(
        "{} was changed in part, and the next run with --overlay on it goes on from {}: {what}",
        directory.display(), record.display()
    )]
    Halfway {
        /// The granted directory.
        directory: PathBuf,
        /// What was tried.
        what: String,
        /// The record.
        record: PathBuf,
        /// The host's answer.
        #[source]
        source: Errno,
    },
    /// The record can't be written, read or removed.
    #[error("the record of unfinished changes {} can't be used{}", path.display(), advice(source))]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What to do about a record that says what isn't believed.
fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::Other | ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
            "; remove it if you don't want what it says done"
        }
        _ => "",
    }
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, what) = match self {
            Self::Changed(path) => (path, "was changed by somebody else meanwhile"),
            Self::Gone(path) => (path, "was removed by somebody else meanwhile"),
            Self::Appeared(path) => (path, "was made by somebody else, too"),
        };
        write!(f, "{} {what}", String::from_utf8_lossy(path))
    }
}

/// The first conflicts, for a person.
fn told(conflicts: &[Conflict]) -> String {
    const SHOWN: usize = 5;
    let mut text: Vec<String> = conflicts.iter().take(SHOWN).map(Conflict::to_string).collect();
    if SHOWN < conflicts.len() {
        text.push(format!("and {} more", conflicts.len() - SHOWN));
    }
    text.join(", ")
}

impl Files {
    /// Applies every overlay to its directory, one after the other. `records` is a directory of the monitor's
    /// own, in which the record is kept while one is applied.
    ///
    /// # Errors
    /// [`PublishError`], for the first directory that couldn't be changed.
    pub fn publish(&mut self, records: &Path) -> Result<Published, PublishError> {
        let mut sum = Published::default();
        for (_, tree) in self.view.trees() {
            let Some(directory) = tree.host_path() else { continue };
            let unchanged = |what: &str| {
                let (what, directory) = (what.to_owned(), directory.clone());
                move |source| PublishError::Unchanged { directory, what, source }
            };
            let compare = || tree.plan().map_err(unchanged("its overlay can't be compared with it"));
            if compare()?.is_empty() {
                continue;
            }
            let mut claim = Claim::take(records, &directory)?;
            claim.finish(records, &directory)?;
            // What others changed until now counts.
            let plan = compare()?;
            let host = open(&directory).map_err(unchanged("it can't be opened"))?;
            let done = apply_plan(&host, &directory, &plan, (records, &mut claim))?;
            sum.files += done.files;
            sum.steps += done.steps;
            sum.changes.extend(done.changes);
        }
        Ok(sum)
    }
}

/// A granted directory, to change it.
fn open(directory: &Path) -> Result<HostTree, Errno> {
    HostTree::open(directory, GuestPath::root(), Readers::Monitor, true)
}

fn apply_plan(
    host: &HostTree,
    directory: &Path,
    plan: &Plan,
    (records, claim): (&Path, &mut Claim),
) -> Result<Published, PublishError> {
    let name = stage::new_name();
    claim.note(&name)?;
    let stage = Stage::make(host, directory, name)?;
    if let Err(error) = stage.fill(plan) {
        stage.remove();
        return Err(error);
    }
    if !plan.conflicts.is_empty() {
        let kept = stage.keep(plan)?;
        let (directory, conflicts) = (directory.to_owned(), plan.conflicts.clone());
        return Err(PublishError::Conflicts { directory, conflicts, kept });
    }
    let record = Record::new(directory, stage.name(), plan.steps.clone());
    let record = match record.write(records) {
        Ok(record) => record,
        Err(error) => {
            stage.remove();
            return Err(error);
        }
    };
    record.apply(host)?;
    for path in &plan.parted {
        tracing::warn!(
            directory = %directory.display(),
            path = %String::from_utf8_lossy(path),
            "the file had other names on the host, which keep its old bytes"
        );
    }
    let changes = plan.steps.iter().filter_map(|step| stage::done(directory, step)).collect();
    Ok(Published { files: plan.staged.len(), steps: plan.steps.len(), changes })
}
