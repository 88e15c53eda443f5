//! Checkpoints that survive the program.

use cairn_abi::reply::{StoreFigures, StoredRegion};
use cairn_abi::{CheckpointId, Level, RegionName};

use super::Session;
use crate::engines::{Durable, Started};
use crate::error::{Error, Stored};
use crate::kind::EngineKind;
use crate::memory::Block;
use crate::region::Entry;
use crate::ticket::Ticket;

impl Session {
    /// Takes a checkpoint and returns when it is on disk, at the level of
    /// [`Options::durable_level`](crate::Options::durable_level): whatever happens to the program then, to
    /// its hypervisor or to the machine, [`Session::recover`] in the next run brings it back.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), cairn_guest::Error> {
    /// let mut session = cairn_guest::Session::open()?;
    /// let done = session.region::<u64>("done", 1)?;
    /// session.recover()?;
    /// while session.slice(&done)[0] < 1_000 {
    ///     session.slice_mut(&done)[0] += 1;
    ///     session.checkpoint_durable()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - [`Error::NoStore`]: there is nowhere to put it. Nothing was done.
    /// - [`Error::NotStored`]: the store failed. The checkpoint can be rolled back to, and what was stored
    ///   before is as it was. The next one that is stored has all that this one had.
    /// - As for [`Session::checkpoint`].
    pub fn checkpoint_durable(&mut self) -> Result<CheckpointId, Error> {
        self.checkpoint_durable_at(self.durable_level)
    }

    /// As [`Session::checkpoint_durable`], and says what the checkpoint is to survive.
    ///
    /// # Errors
    /// As for [`Session::checkpoint_durable`].
    pub fn checkpoint_durable_at(&mut self, level: Level) -> Result<CheckpointId, Error> {
        let ticket = self.checkpoint_durable_async(level)?;
        self.wait(ticket)
    }

    /// Takes a checkpoint and returns while it is on its way to the disk: the ticket says when it is there. If
    /// the disk is slower than the program this waits until an earlier one is.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), cairn_guest::Error> {
    /// use cairn_guest::Level;
    /// let mut session = cairn_guest::Session::open()?;
    /// let table = session.region::<u64>("table", 16)?;
    /// let ticket = session.checkpoint_durable_async(Level::Synced)?;
    /// session.slice_mut(&table)[0] = 1;
    /// let id = session.wait(ticket)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoStore`], or as for [`Session::checkpoint`]. What the store says, the ticket tells.
    pub fn checkpoint_durable_async(&mut self, level: Level) -> Result<Ticket, Error> {
        self.own()?;
        self.whole()?;
        self.store()?;
        self.regions.check_hints()?;
        let taken = self.store()?.checkpoint(level);
        let id = taken.map_err(|failure| self.explain(failure, None))?;
        self.regions.renew_checks();
        Ok(Ticket::new(self.regions.session(), Started { id, done: false }, Some(level)))
    }

    /// Gives the regions what they had at the newest checkpoint of the store, and answers its id; `None` if
    /// the store has none. It is a checkpoint of this session then.
    ///
    /// Make the regions and arenas before, with the names, sizes and types that they had. An arena needs its
    /// former address too: [`Session::arena`] takes that if nothing else is there. What was written before is
    /// lost, as in a rollback.
    ///
    /// # Errors
    /// - [`Error::NoStore`].
    /// - [`Error::Unfit`]: a region isn't the stored one. Nothing was changed.
    /// - [`Error::ArenaElsewhere`]: an arena's address is taken. Nothing was changed.
    /// - [`Error::RecoverLate`]: the session has taken a checkpoint.
    /// - [`Error::StoreFailed`]: the store can't be read.
    /// - As for [`Session::rollback`].
    pub fn recover(&mut self) -> Result<Option<CheckpointId>, Error> {
        match self.recover_any(None) {
            Err(Error::NoCheckpoint { .. }) => Ok(None),
            recovered => recovered.map(Some),
        }
    }

    /// As [`Session::recover`], but to a checkpoint that is named.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`]: the store doesn't have it, or no longer. Else as for [`Session::recover`].
    pub fn recover_from(&mut self, id: CheckpointId) -> Result<(), Error> {
        self.recover_any(Some(id)).map(drop)
    }

    /// What the store has done and what it holds.
    ///
    /// # Errors
    /// [`Error::NoStore`], [`Error::OtherProcess`].
    pub fn store_figures(&mut self) -> Result<StoreFigures, Error> {
        self.own()?;
        self.store()?.figures().map_err(|failure| self.explain(failure, None))
    }

    fn recover_any(&mut self, wanted: Option<CheckpointId>) -> Result<CheckpointId, Error> {
        self.own()?;
        self.store()?;
        let arenas = self.regions.iter().filter(|entry| entry.is_arena);
        let arenas: Vec<_> = arenas.map(|entry| (entry.name, entry.block.span(), entry.tag)).collect();
        for (name, span, tag) in arenas {
            let stored = self.store()?.stored(wanted, &name);
            let stored = stored.map_err(|failure| self.explain(failure, wanted))?;
            // Whether it's another one else is said in more words.
            let same = |stored: &StoredRegion| stored.tag == tag && stored.span.len == span.len;
            if let Some(stored) = stored.filter(same).filter(|stored| stored.span != span) {
                let (name, stored, address) = (name.to_string(), stored.span.address, span.address);
                return Err(Error::ArenaElsewhere { name, stored, address });
            }
        }
        let recovered = self.store()?.recover(wanted);
        let id = recovered.map_err(|failure| self.explain(failure, wanted))?;
        self.roll_back(id)?;
        Ok(id)
    }

    /// Memory for an arena: where the store's newest checkpoint has one of this name, size and type, if it
    /// can be had there.
    pub(crate) fn arena_block(&mut self, name: &RegionName, bytes: usize, tag: u64) -> Result<Block, Error> {
        let system = Error::system("getting memory for a region");
        if self.backend.durable().is_none() {
            return Block::map(bytes).map_err(system);
        }
        let stored = self.store()?.stored(None, name);
        let stored = stored.map_err(|failure| self.explain(failure, None))?;
        let fits = |stored: &StoredRegion| stored.tag == tag && stored.span.len == bytes as u64;
        let there = stored.filter(fits).and_then(|stored| usize::try_from(stored.span.address).ok());
        match there.map(|address| Block::map_at(address, bytes)) {
            Some(Ok(block)) => Ok(block),
            // Taken, most likely. It can be an arena elsewhere, but not be recovered.
            Some(Err(_)) | None => Block::map(bytes).map_err(system),
        }
    }

    /// The engine's way to a store.
    pub(super) fn store(&mut self) -> Result<&mut dyn Durable, Error> {
        let device = self.kind == EngineKind::Cairn;
        self.backend.durable().ok_or(Error::NoStore { engine: self.kind, device })
    }

    /// What doesn't fit between the registered regions and a stored checkpoint's, in a person's words.
    pub(super) fn unfit(&self, region: Option<cairn_abi::RegionId>, stored: Option<StoredRegion>) -> Error {
        let entry = region.and_then(|region| self.regions.iter().find(|entry| entry.id == region));
        let name = entry.map(|entry| entry.name).or(stored.map(|stored| stored.name));
        Error::Unfit {
            region: name.map_or_else(|| "?".to_owned(), |name| name.to_string()),
            wanted: entry.map(described),
            stored: stored.map(|stored| Stored {
                bytes: stored.span.len,
                element_bytes: crate::shape::size_in(stored.tag),
                same_type: entry.is_some_and(|entry| entry.tag == stored.tag),
            }),
        }
    }
}

fn described(entry: &Entry) -> String {
    format!(
        "{} bytes of {} ({} bytes each)",
        entry.block.len(),
        entry.element,
        crate::shape::size_in(entry.tag)
    )
}
