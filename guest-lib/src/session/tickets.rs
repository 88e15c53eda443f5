//! Checkpoints that are copied while the program runs.

use cairn_abi::CheckpointId;

use super::Session;
use crate::error::Error;
use crate::ticket::Ticket;

impl Session {
    /// Begins a checkpoint of what all regions hold now, and returns before it is copied, where the
    /// engine can copy beside the program: what is written afterwards isn't in it. The next call that
    /// needs it finishes it first, and it is made also if the ticket is dropped.
    ///
    /// ```
    /// # fn main() -> Result<(), cairn_guest::Error> {
    /// let mut session = cairn_guest::Session::open()?;
    /// let table = session.region::<u64>("table", 16)?;
    /// let ticket = session.checkpoint_async()?;
    /// session.slice_mut(&table)[0] = 1;
    /// let id = session.wait(ticket)?;
    /// session.rollback(id)?;
    /// assert_eq!(session.slice(&table)[0], 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Session::checkpoint`]. What fails later, the ticket tells.
    pub fn checkpoint_async(&mut self) -> Result<Ticket, Error> {
        if let Some(level) = self.level_of_all {
            return self.checkpoint_durable_async(level);
        }
        self.own()?;
        self.whole()?;
        self.regions.check_hints()?;
        let begun =
            self.backend.checkpoint_async(&self.regions).map_err(|failure| self.explain(failure, None))?;
        self.regions.renew_checks();
        Ok(Ticket::new(self.regions.session(), begun, None))
    }

    /// Whether the ticket's checkpoint is done. Asks the engine if it wasn't yet.
    ///
    /// # Errors
    /// [`Error::OtherProcess`], or what [`Session::wait`] says of a checkpoint that failed.
    ///
    /// # Panics
    /// If the ticket is another session's.
    #[track_caller]
    pub fn is_done(&mut self, ticket: &Ticket) -> Result<bool, Error> {
        self.ask_about(ticket, false)
    }

    /// The ticket's checkpoint, once it is done.
    ///
    /// # Errors
    /// [`Error::OtherProcess`], [`Error::NotStored`] if it was for the store, or [`Error::Device`] when memory
    /// was short: earlier checkpoints stand.
    ///
    /// # Panics
    /// If the ticket is another session's.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is turned in")]
    pub fn wait(&mut self, ticket: Ticket) -> Result<CheckpointId, Error> {
        self.ask_about(&ticket, true)?;
        Ok(ticket.of(self.regions.session()))
    }

    #[track_caller]
    fn ask_about(&mut self, ticket: &Ticket, wait: bool) -> Result<bool, Error> {
        let id = ticket.of(self.regions.session());
        self.own()?;
        if ticket.is_done() {
            return Ok(true);
        }
        let done = match ticket.level() {
            Some(level) => self.store()?.is_durable(id, level, wait),
            None => self.backend.is_done(id, wait),
        };
        done.map_err(|failure| self.explain(failure, Some(id)))
    }
}
