//! Disks for tests: one that remembers what was done to it, and one that fails.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::disk::{Disk, DiskFile, HostDisk};
use crate::state::lock;

/// A thing done to a store's directory. Files are told apart by a number, names come and go.
#[derive(Clone, Debug)]
pub(crate) enum Done {
    Name(String, u64),
    Write(u64, u64, Vec<u8>),
    Truncate(u64, u64),
    Sync(u64),
    Rename(String, String),
    Remove(String),
    SyncDirectory,
    /// Not the disk's: checkpoint was said to be synced.
    Promise(u64),
}

/// What fails next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The write fails with this after so many bytes.
    Write(i32, usize),
    /// The fsync fails, and what was written since the last one is lost: the kernel drops what it can't write.
    Sync(i32),
    /// The fsync of the directory fails.
    SyncDirectory(i32),
    /// Making, renaming or deleting a file.
    Names(i32),
}

/// What tests know of a disk.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) done: Mutex<Vec<Done>>,
    /// Operations to let through before each fault.
    pub(crate) faults: Mutex<VecDeque<(u64, Fault)>>,
    /// A fault of all operations, until it is taken away.
    pub(crate) lasting: Mutex<Option<Fault>>,
    /// What each file held when it was last synced.
    synced: Mutex<BTreeMap<u64, Vec<u8>>>,
    files: AtomicU64,
}

/// The host's disk with a record.
#[derive(Debug)]
pub(crate) struct TestDisk {
    host: HostDisk,
    record: Arc<Record>,
    numbers: Mutex<BTreeMap<String, u64>>,
}

#[derive(Debug)]
struct TestFile {
    inner: Box<dyn DiskFile>,
    path: File,
    number: u64,
    record: Arc<Record>,
}

impl Record {
    fn push(&self, done: Done) {
        lock(&self.done).push(done);
    }

    /// The fault of this operation, if it is one of `kind`.
    fn fault(&self, kind: impl Fn(Fault) -> bool) -> Option<Fault> {
        if let Some(fault) = *lock(&self.lasting) {
            return Some(fault).filter(|fault| kind(*fault));
        }
        let mut faults = lock(&self.faults);
        let (wait, fault) = faults.front_mut()?;
        if !kind(*fault) {
            return None;
        }
        if *wait == 0 {
            let fault = *fault;
            faults.pop_front();
            return Some(fault);
        }
        *wait -= 1;
        None
    }

    fn names(&self) -> io::Result<()> {
        match self.fault(|fault| matches!(fault, Fault::Names(_))) {
            Some(Fault::Names(error)) => Err(io::Error::from_raw_os_error(error)),
            _ => Ok(()),
        }
    }
}

impl TestDisk {
    pub(crate) fn new(directory: &Path) -> (Arc<Self>, Arc<Record>) {
        let record = Arc::new(Record::default());
        let disk =
            Self { host: HostDisk::new(directory), record: Arc::clone(&record), numbers: Mutex::default() };
        (Arc::new(disk), record)
    }

    fn file(&self, name: &str, inner: Box<dyn DiskFile>, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let number = match lock(&self.numbers).get(name) {
            Some(number) => *number,
            None => return Err(io::Error::other("a file that the test doesn't know")),
        };
        let path = File::open(path)?;
        Ok(Box::new(TestFile { inner, path, number, record: Arc::clone(&self.record) }))
    }
}

impl Disk for TestDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.record.names()?;
        let inner = self.host.create(name)?;
        let number = self.record.files.fetch_add(1, Ordering::Relaxed);
        lock(&self.numbers).insert(name.to_owned(), number);
        self.record.push(Done::Name(name.to_owned(), number));
        self.file(name, inner, &self.host.path(name))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.file(name, self.host.open(name)?, &self.host.path(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.record.names()?;
        self.host.rename(from, to)?;
        let mut numbers = lock(&self.numbers);
        if let Some(number) = numbers.remove(from) {
            numbers.insert(to.to_owned(), number);
        }
        self.record.push(Done::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.record.names()?;
        self.host.remove(name)?;
        self.record.push(Done::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let fault = self.record.fault(|fault| matches!(fault, Fault::Sync(_) | Fault::SyncDirectory(_)));
        if let Some(Fault::Sync(error) | Fault::SyncDirectory(error)) = fault {
            return Err(io::Error::from_raw_os_error(error));
        }
        self.record.push(Done::SyncDirectory);
        Ok(())
    }
}

impl DiskFile for TestFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let fault = self.record.fault(|fault| matches!(fault, Fault::Write(..)));
        let written = match fault {
            Some(Fault::Write(_, written)) => written.min(bytes.len()),
            _ => bytes.len(),
        };
        self.inner.write_at(offset, &bytes[..written])?;
        self.record.push(Done::Write(self.number, offset, bytes[..written].to_vec()));
        match fault {
            Some(Fault::Write(error, _)) => Err(io::Error::from_raw_os_error(error)),
            _ => Ok(()),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)?;
        self.record.push(Done::Truncate(self.number, len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        use std::os::unix::fs::FileExt;

        let mut bytes = vec![0; usize::try_from(self.path.metadata()?.len()).unwrap()];
        self.path.read_exact_at(&mut bytes, 0)?;
        if let Some(Fault::Sync(error)) = self.record.fault(|fault| matches!(fault, Fault::Sync(_))) {
            // What the disk has is what was synced before; the rest is zeros from now on.
            let mut old = lock(&self.record.synced).get(&self.number).cloned().unwrap_or_default();
            old.resize(bytes.len(), 0);
            self.inner.write_at(0, &old)?;
            self.record.push(Done::Write(self.number, 0, old));
            return Err(io::Error::from_raw_os_error(error));
        }
        lock(&self.record.synced).insert(self.number, bytes);
        self.record.push(Done::Sync(self.number));
        Ok(())
    }

    fn is_deleted(&self) -> io::Result<bool> {
        self.inner.is_deleted()
    }
}
