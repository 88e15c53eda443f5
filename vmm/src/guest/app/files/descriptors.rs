//! The descriptor table of the guest program.

use std::{
    os::fd::AsFd,
    sync::{Arc, Weak},
};

use nix::{errno::Errno, sys::stat::fstat};

use super::{
    backend::Answer,
    open::{Object, OpenFile, StreamHandle},
    path::GuestPath,
};

/// Most descriptors that a guest can have, whatever limit it sets itself; bounds the monitor's own.
pub const MAX_DESCRIPTORS: usize = 1024;

/// The descriptor table: numbers of the guest and the open files that they mean.
#[derive(Debug)]
pub struct Descriptors {
    slots: Vec<Option<Slot>>,
    limit: usize,
    /// The open files of the monitor's own standard input, output and error, as long as one is open.
    standard: [Weak<OpenFile>; 3],
}

#[derive(Clone, Debug)]
struct Slot {
    file: Arc<OpenFile>,
    close_on_exec: bool,
}

impl Descriptors {
    /// A table without descriptors.
    #[must_use]
    pub fn empty() -> Self {
        Self { slots: Vec::new(), limit: MAX_DESCRIPTORS, standard: [const { Weak::new() }; 3] }
    }

    /// A table with the monitor's own standard input, output and error as 0, 1 and 2.
    ///
    /// One that is closed stays closed. With `streams`, an output that is a file is a pipe to the guest, see
    /// [`Object::Stream`].
    #[must_use]
    pub fn standard(streams: bool) -> Self {
        let mut table = Self::empty();
        let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        for (fd, label) in [(input.as_fd(), "stdin"), (output.as_fd(), "stdout"), (error.as_fd(), "stderr")] {
            let slot = fd.try_clone_to_owned().ok().and_then(|fd| {
                let kind = fstat(&fd).map(|stat| stat.st_mode & libc::S_IFMT);
                let is_stream = streams && label == "stdout" && kind == Ok(libc::S_IFREG);
                let path = match kind {
                    _ if is_stream => GuestPath::label(&format!("pipe:[{label}]")),
                    Ok(libc::S_IFCHR) => GuestPath::from_clean(b"/dev/tty"),
                    Ok(libc::S_IFIFO) => GuestPath::label(&format!("pipe:[{label}]")),
                    _ => GuestPath::label(label),
                };
                // The files behind them were opened for the guest, but only to read or write.
                let object =
                    if is_stream { Object::Stream(StreamHandle::new(fd).ok()?) } else { Object::Host(fd) };
                Some(Slot { file: Arc::new(OpenFile::new(path, false, object)), close_on_exec: false })
            });
            table.slots.push(slot);
        }
        for (stream, slot) in table.standard.iter_mut().zip(&table.slots) {
            *stream = slot.as_ref().map_or_else(Weak::new, |slot| Arc::downgrade(&slot.file));
        }
        table
    }

    /// Sets how many descriptors there can be (`RLIMIT_NOFILE`); more than [`MAX_DESCRIPTORS`] is as many.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = usize::try_from(limit).unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    }

    /// How many descriptors there can be.
    pub(super) fn limit(&self) -> u64 {
        u64::try_from(self.limit).unwrap_or(u64::MAX)
    }

    /// Standard input, output and error as the program got them, whatever numbers they have by now.
    pub(super) fn standard_streams(&self) -> &[Weak<OpenFile>; 3] {
        &self.standard
    }

    /// Every number's open file and `FD_CLOEXEC`.
    pub(super) fn slots(&self) -> impl Iterator<Item = Option<(&Arc<OpenFile>, bool)>> {
        self.slots.iter().map(|slot| slot.as_ref().map(|slot| (&slot.file, slot.close_on_exec)))
    }

    /// Other descriptors in place of all that there are; `EMFILE` when they are too many.
    pub(super) fn replace(&mut self, slots: Vec<Option<(Arc<OpenFile>, bool)>>) -> Answer<()> {
        if MAX_DESCRIPTORS < slots.len() {
            return Err(Errno::EMFILE);
        }
        let slot = |(file, close_on_exec)| Slot { file, close_on_exec };
        self.slots = slots.into_iter().map(|descriptor| descriptor.map(slot)).collect();
        Ok(())
    }

    /// The open file of a descriptor.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, number: i32) -> Answer<Arc<OpenFile>> {
        Ok(Arc::clone(&self.slot(number)?.file))
    }

    /// Whether a descriptor has the flag `FD_CLOEXEC`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close_on_exec(&self, number: i32) -> Answer<bool> {
        Ok(self.slot(number)?.close_on_exec)
    }

    /// Sets or clears `FD_CLOEXEC`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_close_on_exec(&mut self, number: i32, on: bool) -> Answer<()> {
        self.slot_mut(number)?.close_on_exec = on;
        Ok(())
    }

    /// Whether another descriptor fits.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn check_room(&self) -> Answer<()> {
        self.lowest_free(0).map(drop)
    }

    /// Gives an open file the lowest free number.
    ///
    /// # Errors
    /// `EMFILE` when there is none below the limit.
    pub fn insert(&mut self, file: Arc<OpenFile>, close_on_exec: bool) -> Answer<i32> {
        self.insert_from(file, 0, close_on_exec)
    }

    /// Gives an open file the lowest free number that is at least `lowest`: `F_DUPFD`.
    ///
    /// # Errors
    /// `EINVAL` when `lowest` is negative or not below the limit, `EMFILE` when no number is free.
    pub fn duplicate(&mut self, number: i32, lowest: i32, close_on_exec: bool) -> Answer<i32> {
        let file = self.get(number)?;
        let lowest = usize::try_from(lowest).ok().filter(|lowest| *lowest < self.limit);
        self.insert_from(file, lowest.ok_or(Errno::EINVAL)?, close_on_exec)
    }

    /// dup2 and dup3 with different numbers: `target` is closed if it was open.
    ///
    /// # Errors
    /// `EBADF` when `number` isn't open or `target` can't be.
    pub fn duplicate_to(&mut self, number: i32, target: i32, close_on_exec: bool) -> Answer<()> {
        let file = self.get(number)?;
        let index = usize::try_from(target).ok().filter(|index| *index < self.limit).ok_or(Errno::EBADF)?;
        self.put(index, Slot { file, close_on_exec });
        Ok(())
    }

    /// Closes a descriptor; the file is closed with its last one.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close(&mut self, number: i32) -> Answer<()> {
        self.slot(number)?;
        self.for_range(number, number, |slot| *slot = None);
        Ok(())
    }

    /// Closes all descriptors from `first` to `last`.
    pub fn close_range(&mut self, first: i32, last: i32) {
        self.for_range(first, last, |slot| *slot = None);
    }

    /// Sets `FD_CLOEXEC` on all descriptors from `first` to `last`.
    pub fn close_range_on_exec(&mut self, first: i32, last: i32) {
        self.for_range(first, last, |slot| {
            if let Some(slot) = slot {
                slot.close_on_exec = true;
            }
        });
    }

    /// Closes what has `FD_CLOEXEC`.
    pub fn close_for_exec(&mut self) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|slot| slot.close_on_exec) {
                *slot = None;
            }
        }
    }

    /// The numbers that are open, in order.
    pub fn numbers(&self) -> impl Iterator<Item = i32> {
        let open = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some());
        open.filter_map(|(index, _)| i32::try_from(index).ok())
    }

    fn insert_from(&mut self, file: Arc<OpenFile>, lowest: usize, close_on_exec: bool) -> Answer<i32> {
        let index = self.lowest_free(lowest)?;
        self.put(index, Slot { file, close_on_exec });
        i32::try_from(index).map_err(|_| Errno::EMFILE)
    }

    fn lowest_free(&self, lowest: usize) -> Answer<usize> {
        let taken = |index: &usize| self.slots.get(*index).is_some_and(Option::is_some);
        (lowest..self.limit).find(|index| !taken(index)).ok_or(Errno::EMFILE)
    }

    fn put(&mut self, index: usize, slot: Slot) {
        if self.slots.len() <= index {
            self.slots.resize(index + 1, None);
        }
        self.slots[index] = Some(slot);
    }

    fn slot(&self, number: i32) -> Answer<&Slot> {
        let index = usize::try_from(number).map_err(|_| Errno::EBADF)?;
        self.slots.get(index).and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    fn slot_mut(&mut self, number: i32) -> Answer<&mut Slot> {
        let index = usize::try_from(number).map_err(|_| Errno::EBADF)?;
        self.slots.get_mut(index).and_then(Option::as_mut).ok_or(Errno::EBADF)
    }

    fn for_range(&mut self, first: i32, last: i32, mut act: impl FnMut(&mut Option<Slot>)) {
        let first = usize::try_from(first).unwrap_or(0);
        let Ok(last) = usize::try_from(last) else { return };
        for slot in self.slots.iter_mut().take(last.saturating_add(1)).skip(first) {
            act(slot);
        }
    }
}
