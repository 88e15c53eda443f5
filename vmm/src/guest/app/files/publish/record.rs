//! What is left to do, written down.
//!
//! How far it came is the name of a file in the staging directory, changed by a rename after each step: a file
//! system that keeps the order of its renames keeps that of steps and progress, also when the power fails. So
//! at most one step is taken twice.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use nix::{errno::Errno, sys::stat::stat, unistd::syncfs};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        backend::{Backend, OpenRequest, Removal, Renaming},
        host::HostTree,
        path::Inside,
    },
    PublishError, Step, apply, stage,
};
use crate::host::private;

/// Version of the record's format.
const VERSION: u32 = 1;

/// How a record's file ends.
const KIND: &str = "json";

/// Longest record that is read.
const RECORD_BYTES: u64 = 1 << 30;

/// What is left to do in a directory.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::guest::app::files) struct Record {
    version: u32,
    directory: Vec<u8>,
    stage: String,
    steps: Vec<Step>,
}

/// A record in its file.
pub(in crate::guest::app::files) struct Written {
    record: Record,
    file: PathBuf,
    directory: PathBuf,
}

impl Record {
    pub(in crate::guest::app::files) fn new(directory: &Path, stage: &str, steps: Vec<Step>) -> Self {
        let directory = directory.as_os_str().as_bytes().to_vec();
        Self { version: VERSION, directory, stage: stage.to_owned(), steps }
    }

    /// Makes the record durable. From now on the steps will be taken.
    pub(in crate::guest::app::files) fn write(self, records: &Path) -> Result<Written, PublishError> {
        let directory = PathBuf::from(std::ffi::OsString::from_vec(self.directory.clone()));
        let host = super::open(&directory).map_err(|source| PublishError::Unchanged {
            directory: directory.clone(),
            what: "it can't be opened".to_owned(),
            source,
        })?;
        let marker = marker(&self.stage, 0);
        let made = host.open_file(
            Inside::new(&marker),
            &OpenRequest::new(libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o600),
        );
        let synced = made.and_then(|_| sync(&host));
        synced.map_err(|source| PublishError::Unchanged {
            directory: directory.clone(),
            what: "the new files can't be made durable".to_owned(),
            source,
        })?;
        let file = place(records, &directory, KIND)?;
        let failed = |source| PublishError::Record { path: file.clone(), source };
        save(records, &file, &self).map_err(failed)?;
        Ok(Written { record: self, file, directory })
    }

    /// The record of a directory, if there is one.
    pub(super) fn read(records: &Path, directory: &Path) -> Result<Option<Written>, PublishError> {
        let file = place(records, directory, KIND)?;
        let failed = |source| PublishError::Record { path: file.clone(), source };
        let Some(opened) = private::open(&file).map_err(failed)? else { return Ok(None) };
        // What is recorded is done to the directory: not what anybody has written.
        private::check(&opened).and_then(|alone| alone.map_err(io::Error::other)).map_err(failed)?;
        let mut bytes = Vec::new();
        opened.take(RECORD_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        let record: Self = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        if record.version != VERSION || !stage::is_name(&record.stage) {
            return Err(failed(io::Error::other("it is of another version of Cairn, or damaged")));
        }
        Ok(Some(Written { record, file, directory: directory.to_owned() }))
    }
}

impl Written {
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Takes all steps that weren't taken yet, and removes the record.
    pub(in crate::guest::app::files) fn apply(&self, host: &HostTree) -> Result<(), PublishError> {
        let failed = |what: String| {
            let (directory, record) = (self.directory.clone(), self.file.clone());
            move |source| PublishError::Halfway { directory, what, record, source }
        };
        let name = &self.record.stage;
        let count = self.record.steps.len();
        let exists = |done: usize| apply::exists(host, &marker(name, done));
        let mut done = None;
        for step in 0..=count {
            if exists(step).map_err(failed("it can't be seen how far it came".to_owned()))? {
                done = Some(step);
                break;
            }
        }
        if let Some(done) = done {
            for (number, step) in self.record.steps.iter().enumerate().skip(done) {
                apply::take(host, name, step).map_err(failed(stage::told(step)))?;
                let (from, to) = (marker(name, number), marker(name, number + 1));
                host.rename(Inside::new(&from), Inside::new(&to), Renaming::default())
                    .map_err(failed("the progress can't be noted".to_owned()))?;
            }
            sync(host).map_err(failed("the changes can't be made durable".to_owned()))?;
            host.remove(Inside::new(&marker(name, count)), Removal::File)
                .map_err(failed("the progress can't be noted".to_owned()))?;
        }
        // Without a mark all was done but this.
        stage::remove(host, name)
            .map_err(failed("the directory for new files can't be removed".to_owned()))?;
        fs::remove_file(&self.file).map_err(|source| PublishError::Record { path: self.file.clone(), source })
    }
}

/// The directory's file of a kind beside the others: one for each directory, whatever its path.
pub(super) fn place(records: &Path, directory: &Path, kind: &str) -> Result<PathBuf, PublishError> {
    let stat = stat(directory).map_err(|source| PublishError::Unchanged {
        directory: directory.to_owned(),
        what: "it can't be looked at".to_owned(),
        source,
    })?;
    Ok(records.join(format!("publish-{:x}-{:x}.{kind}", stat.st_dev, stat.st_ino)))
}

/// A directory in which steps of the record `file` are to be taken.
pub(super) fn open(directory: &Path, file: &Path) -> Result<HostTree, PublishError> {
    super::open(directory).map_err(|source| PublishError::Halfway {
        directory: directory.to_owned(),
        what: "it can't be opened".to_owned(),
        record: file.to_owned(),
        source,
    })
}

fn save(records: &Path, file: &Path, record: &Record) -> io::Result<()> {
    let new = file.with_extension("new");
    // One that a kill left behind there was never a record.
    if let Err(error) = fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut out = private::create(&new, true)?;
    out.write_all(&serde_json::to_vec(record)?)?;
    out.sync_all()?;
    fs::rename(&new, file)?;
    File::open(records)?.sync_all()
}

fn marker(stage: &str, done: usize) -> Vec<u8> {
    format!("{stage}/done-{done}").into_bytes()
}

/// Makes everything in the directory's file system durable.
fn sync(host: &HostTree) -> Result<(), Errno> {
    syncfs(host.reopened()?)
}
