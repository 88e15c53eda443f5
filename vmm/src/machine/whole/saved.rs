//! A whole program's checkpoint in a store: which sections and objects it has.
//!
//! | name | what |
//! |---|---|
//! | section `program` | [`SavedConfig`]: what is needed to build the machine again |
//! | section `cpu` | [`FrozenCpu`] |
//! | section `process` | [`FrozenProcess`] |
//! | section `files` | [`FilesImage`] |
//! | section `session` | [`UnitState`]: the checkpoint device, and the program's own session if it has one |
//! | section `stdout` | [`OutputFile`]: the file of standard output, if there is one |
//! | object `memory` | the program's address space, all of it; what isn't mapped is of no interest |
//! | objects `file:...` | files that the program has in memory |
//! | objects `session:...` | the bytes of the program's own session ([`session`](super::session)) |

use std::collections::HashMap;
use std::ffi::{CString, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_abi::CheckpointId;
use cairn_store::{
    Batch, BatchError, Level, Object, ObjectIndex, ObjectName, Options, PAGE_SIZE, StoreError, section,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::files::object_name;
use super::hot::{self, Change, HotPages};
use super::objects;
use super::output::{OutputError, OutputFile, is_of_turn};
use super::session as program_session;
use super::take::Taken;
use super::trust::Rights;
use crate::guest::app::files::{FilesImage, Grant};
use crate::guest::app::image::{FrozenCpu, FrozenProcess, VERSION};
use crate::machine::app::{AppConfig, Overlay};
use crate::machine::poll_policy::PollMode;
use crate::machine::state::UserState;
use crate::machine::storing::StoreConfig;
use crate::machine::tracking::TrackerMode;
use crate::machine::unit::UnitState;
use crate::machine::whole::WholeConfig;
use crate::memory::layout::{PAGE, WINDOW_SIZE};
use crate::store::signature::{CheckedSnapshot, ReadError};

/// Bytes that a section may have: 30,000 mappings with long paths are a few MiB.
const MAX_SECTION: usize = 32 << 20;
/// The configuration's section.
const PROGRAM: &str = "program";
/// The section of standard output.
const STDOUT: &str = "stdout";
/// The address space's object.
const MEMORY: &str = "memory";
/// Types of objects, as the store keeps them: the address space, and a file.
const MEMORY_TAG: u64 = u64::from_le_bytes(*b"memory\0\0");
const FILE_TAG: u64 = u64::from_le_bytes(*b"file\0\0\0\0");

/// What the machine was built from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedConfig {
    version: u32,
    /// What it's called.
    name: String,
    program: Vec<u8>,
    arguments: Vec<Vec<u8>>,
    environment: Vec<Vec<u8>>,
    memory: u64,
    /// What the program's own sessions were told that they have: checkpoints, and bytes of them.
    history: NonZeroUsize,
    history_memory: Option<u64>,
    poll: PollMode,
    /// Host, guest, writable.
    grants: Vec<(Vec<u8>, Vec<u8>, bool)>,
    directory: Vec<u8>,
    /// Nanoseconds between two checkpoints, if they are taken by time.
    every: Option<u64>,
    /// The file that standard output goes to.
    stdout: Option<Vec<u8>>,
    /// Whether its changes are applied at its end, and where the record of that is.
    overlay: Option<(bool, Vec<u8>)>,
    /// What the store keeps: checkpoints, bytes; and whether each is to be on the disk.
    keep: (Option<u64>, Option<u64>, bool),
}

/// Why a checkpoint can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The store says.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part isn't what was signed.
    #[error(transparent)]
    Changed(ReadError),
    /// What a checkpoint has doesn't fit one.
    #[error("the checkpoint is larger than one can be")]
    Batch(#[from] BatchError),
    /// A part is damaged.
    #[error("the checkpoint's section '{name}' can't be used")]
    Section {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: section::SectionError,
    },
    /// The checkpoint isn't one of a whole program.
    #[error("checkpoint {id} is not one of a whole program: it has no '{name}'")]
    NotWhole {
        /// The checkpoint.
        id: u64,
        /// What is missing.
        name: &'static str,
    },
    /// The checkpoint is one of regions that a program has marked.
    #[error(
        "checkpoint {id} is not one of a whole program: it has regions, which the program recovers when it is run \
         again with the same --store"
    )]
    Regions {
        /// The checkpoint.
        id: u64,
    },
    /// It was made by another version of Cairn.
    #[error("the checkpoint was made by another version of cairn (format {found}, this one knows {VERSION})")]
    Version {
        /// The checkpoint's.
        found: u32,
    },
    /// The file of standard output.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Not a text, or a name that no guest can have.
    #[error("the checkpoint's arguments or its name make no sense")]
    Arguments,
}

impl From<ReadError> for SavedError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => Self::Store(error),
            changed @ ReadError::Changed { .. } => Self::Changed(changed),
        }
    }
}

impl SavedConfig {
    /// Of a machine with this configuration.
    pub(crate) fn new(config: &AppConfig, whole: &WholeConfig) -> Self {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let texts = |texts: &[CString]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        let grant = |grant: &Grant| (bytes(&grant.host), bytes(&grant.guest), grant.writable);
        Self {
            version: VERSION,
            name: config.name.to_string(),
            program: bytes(&config.program),
            arguments: texts(&config.arguments),
            environment: texts(&config.environment),
            memory: config.memory,
            history: config.history,
            history_memory: config.history_memory,
            poll: config.poll,
            grants: config.grants.iter().map(grant).collect(),
            directory: bytes(&config.directory),
            every: whole.every.map(|every| u64::try_from(every.as_nanos()).unwrap_or(u64::MAX)),
            stdout: config.stdout.as_deref().map(bytes),
            keep: config.store.as_ref().map_or((None, None, false), |store| {
                let keep = store.options.keep.map(|keep| keep.get() as u64);
                (keep, store.options.keep_bytes, store.level_of_all == Some(Level::Synced))
            }),
            overlay: config.overlay.as_ref().map(|overlay| (overlay.commit, bytes(&overlay.records))),
        }
    }

    /// The machine's configuration; what only concerns how it's run is as by default.
    ///
    /// # Errors
    /// [`SavedError::Arguments`].
    pub fn config(&self) -> Result<AppConfig, SavedError> {
        let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
        let texts = |texts: &[Vec<u8>]| -> Result<Vec<CString>, SavedError> {
            let text = |text: &Vec<u8>| CString::new(text.as_slice()).map_err(|_| SavedError::Arguments);
            texts.iter().map(text).collect()
        };
        let grant = |(host, guest, writable): &(Vec<u8>, Vec<u8>, bool)| Grant {
            host: path(host),
            guest: path(guest),
            writable: *writable,
        };
        Ok(AppConfig {
            name: self.name.parse().map_err(|_| SavedError::Arguments)?,
            program: path(&self.program),
            arguments: texts(&self.arguments)?,
            environment: texts(&self.environment)?,
            memory: self.memory,
            grants: self.grants.iter().map(grant).collect(),
            directory: path(&self.directory),
            poll: self.poll,
            history: self.history,
            tracker: TrackerMode::Auto,
            ring_entries: None,
            history_memory: self.history_memory,
            threads: None,
            overlay: self
                .overlay
                .as_ref()
                .map(|(commit, records)| Overlay { commit: *commit, records: path(records) }),
            store: None,
            state: UserState::default(),
            whole: None,
            stdout: None,
        })
    }

    /// What the program may do on the host.
    pub(crate) fn rights(&self) -> Result<Rights, SavedError> {
        let AppConfig { grants, directory, .. } = self.config()?;
        let stdout = self.stdout.as_ref().map(|bytes| PathBuf::from(OsString::from_vec(bytes.clone())));
        Ok(Rights { grants, directory, stdout })
    }

    /// Whether what was run is the same, with the same files in sight, and standard output in one or not.
    pub(crate) fn is_of_same_program(&self, other: &Self) -> bool {
        let what = |config: &Self| {
            let Self { program, arguments, environment, memory, grants, directory, stdout, .. } =
                config.clone();
            (program, arguments, environment, memory, grants, directory, stdout.is_some())
        };
        what(self) == what(other)
    }

    /// Whether standard output goes to a file.
    pub(super) fn has_stdout(&self) -> bool {
        self.stdout.is_some()
    }

    /// The store at `directory`, of which as much is kept as before, or `keep` checkpoints.
    pub(crate) fn store(&self, directory: PathBuf, keep: Option<NonZeroUsize>) -> StoreConfig {
        let (before, keep_bytes, synced) = self.keep;
        let before = before.and_then(|keep| NonZeroUsize::new(usize::try_from(keep).ok()?));
        StoreConfig {
            directory,
            options: Options { keep: keep.or(before), keep_bytes, ..Options::default() },
            level_of_all: synced.then_some(Level::Synced),
        }
    }

    /// Between two checkpoints; None where only those are taken that are asked for.
    #[must_use]
    pub fn every(&self) -> Option<Duration> {
        self.every.map(Duration::from_nanos)
    }
}

/// The memory's pages of which a batch has a part, as they are.
#[derive(Debug, Default)]
pub(super) struct Parts<'a>(HashMap<u64, &'a [u8; PAGE_SIZE]>);

impl<'a> Parts<'a> {
    /// A page of an object, if it's one of these.
    pub(super) fn page(&self, object: &ObjectName, page: u64) -> Option<&'a [u8; PAGE_SIZE]> {
        self.0.get(&page).copied().filter(|_| object.as_str() == MEMORY)
    }
}

/// Puts what was taken into a batch that was begun: of pages that are `hot`, what differs from the parent's. `output` is
/// what the file of standard output was, if there is one.
///
/// # Errors
/// [`SavedError`]: too much of something.
pub(super) fn write<'a>(
    batch: &mut Batch,
    config: &SavedConfig,
    taken: &'a Taken,
    output: Option<OutputFile>,
    hot: &mut HotPages,
) -> Result<Parts<'a>, SavedError> {
    let is_base = batch.parent().is_none();
    section(batch, PROGRAM, config)?;
    section(batch, "cpu", &taken.cpu)?;
    section(batch, "process", &taken.process)?;
    section(batch, "files", &taken.image)?;
    section(batch, "session", &taken.session)?;
    section(batch, STDOUT, &output)?;
    let memory = objects::add(batch, MEMORY, MEMORY_TAG, WINDOW_SIZE / PAGE)?;
    let mut parts = Parts::default();
    let mut chunks = Vec::with_capacity(PAGE_SIZE);
    for (page, bytes) in taken.pages.iter() {
        // A complete one has all pages, most of which aren't written any more.
        let change = if is_base { Change::Whole } else { hot.change(page, bytes) };
        // A page that is zeros now is told as that: in parts it would be one that isn't, until parts are merged.
        let is_zero = bytes.iter().all(|byte| *byte == 0);
        match change {
            Change::Chunks(0) => {}
            _ if is_zero && is_base => {}
            _ if is_zero => batch.zero(memory, page..page + 1)?,
            Change::Whole => batch.page(memory, page, bytes)?,
            Change::Chunks(mask) => {
                hot::gather(bytes, mask, &mut chunks);
                batch.chunks(memory, page, mask, &chunks)?;
                parts.0.insert(page, bytes);
            }
        }
    }
    if !is_base {
        for run in &taken.changes.zeros {
            hot.blank(run);
            batch.zero(memory, run.clone())?;
        }
    }
    let mut files = Vec::with_capacity(taken.files.files.len());
    for (name, pages) in &taken.files.files {
        files.push(objects::add(batch, &object_name(name), FILE_TAG, *pages)?);
    }
    for (file, page, bytes) in &taken.files.pages {
        if let Some(object) = files.get(*file as usize) {
            batch.page(*object, *page, bytes)?;
        }
    }
    program_session::write(batch, &taken.session, &taken.session_bytes)?;
    Ok(parts)
}

/// Whether an object's pages are read when somebody touches them.
pub(super) fn comes_lazily(object: &Object) -> bool {
    object.name.as_str() == MEMORY
}

/// Puts what `snapshot` has into a batch that was begun on top of it, of a machine with this configuration, whose standard
/// output goes on in `file`.
///
/// # Errors
/// [`SavedError`].
pub(super) fn repeat(
    batch: &mut Batch,
    config: &SavedConfig,
    snapshot: &CheckedSnapshot,
    file: Option<OutputFile>,
) -> Result<(), SavedError> {
    section(batch, PROGRAM, config)?;
    section(batch, STDOUT, &file)?;
    let is_new = |name: &str| [PROGRAM, STDOUT].contains(&name) || is_of_turn(name);
    for name in snapshot.sections().filter(|name| !is_new(name)) {
        batch.section(name, snapshot.section(name)?.unwrap_or_default())?;
    }
    for object in snapshot.objects().filter(|object| !is_of_turn(object.name.as_str())) {
        batch.object(object.clone())?;
    }
    Ok(())
}

fn section<T: Serialize>(batch: &mut Batch, name: &'static str, value: &T) -> Result<(), SavedError> {
    let bytes = section::encode(value).map_err(|source| SavedError::Section { name, source })?;
    Ok(batch.section(name, bytes)?)
}

/// A whole program's checkpoint, checked as far as can be without a machine.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) config: SavedConfig,
    pub(crate) cpu: FrozenCpu,
    pub(crate) process: FrozenProcess,
    pub(crate) files: FilesImage,
    pub(crate) session: UnitState,
    pub(crate) memory: ObjectIndex,
    /// The file of standard output, if there was one.
    pub(super) output: Option<OutputFile>,
}

impl Saved {
    /// The checkpoint of `snapshot`.
    ///
    /// # Errors
    /// [`SavedError`].
    pub(crate) fn read(id: CheckpointId, snapshot: &CheckedSnapshot) -> Result<Self, SavedError> {
        // Whole programs have sections, and regions have none.
        if snapshot.sections().next().is_none() && snapshot.objects().next().is_some() {
            return Err(SavedError::Regions { id: id.0 });
        }
        let config: SavedConfig = read(id, snapshot, PROGRAM)?;
        if config.version != VERSION {
            return Err(SavedError::Version { found: config.version });
        }
        let missing = SavedError::NotWhole { id: id.0, name: MEMORY };
        Ok(Self {
            config,
            cpu: read(id, snapshot, "cpu")?,
            process: read(id, snapshot, "process")?,
            files: read(id, snapshot, "files")?,
            session: read(id, snapshot, "session")?,
            output: read(id, snapshot, STDOUT)?,
            memory: snapshot.find(MEMORY).ok_or(missing)?,
        })
    }
}

impl Saved {
    /// The file that standard output went to, and how many bytes it had.
    pub(crate) fn stdout(&self) -> Option<(PathBuf, u64)> {
        let bytes = self.config.stdout.as_ref()?;
        Some((PathBuf::from(OsString::from_vec(bytes.clone())), self.output?.prefix.length))
    }
}

/// The file of standard output when a checkpoint was taken, if there was one.
///
/// # Errors
/// [`SavedError`].
pub(super) fn output_file(snapshot: &CheckedSnapshot) -> Result<Option<OutputFile>, SavedError> {
    read(snapshot.id(), snapshot, STDOUT)
}

fn read<T: DeserializeOwned>(
    id: CheckpointId,
    snapshot: &CheckedSnapshot,
    name: &'static str,
) -> Result<T, SavedError> {
    let bytes = snapshot.section(name)?.ok_or(SavedError::NotWhole { id: id.0, name })?;
    section::decode(&bytes, MAX_SECTION).map_err(|source| SavedError::Section { name, source })
}
