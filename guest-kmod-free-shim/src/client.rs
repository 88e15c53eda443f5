//! A session with the device: typed requests, typed results.

mod durable;

use std::ops::Range;
use std::path::Path;

use cairn_abi::reply::{Ask, CheckpointFigures, Hello, SessionFigures, Ticket};
use cairn_abi::request::{FEATURE_HINT, OFFERED_FEATURES};
use cairn_abi::{
    CheckpointId, Envelope, FEATURE_ASYNC, PAGE_SIZE, PROTOCOL_VERSION, RegionId, RegionMode, RegionName,
    Reply, ReplyBody, Request, SessionKey, Span, Status,
};

use crate::error::ShimError;
use crate::find::{Function, PCI_DEVICES};
use crate::hints::{HintTable, Hints};
use crate::touch::{Part, RegionMemory, Touch};
use crate::transport::Transport;

/// How often, on average, the device may ask for a page of the memory that a request is about. More than
/// once, as the guest's kernel may take a page away again; bounded, as a device must not keep a program for
/// ever.
const TOUCHES_PER_PAGE: u64 = 16;
/// Touches beside these: for a few pages the average says little.
const EXTRA_TOUCHES: u64 = 64;

/// A session. Dropping it resets the device, which ends the session and drops what was kept for it.
#[derive(Debug)]
pub struct Client {
    transport: Transport,
    hello: Hello,
    regions: Vec<(RegionId, RegionMemory)>,
    hints: Hints,
    /// From the first hint on. Behind the transport, whose end makes the device forget it.
    table: Option<HintTable>,
}

impl Client {
    /// Opens a session with the first free device of this machine.
    ///
    /// # Errors
    /// [`ShimError`]; [`ShimError::is_no_device`] says whether there is none at all.
    pub fn open() -> Result<Self, ShimError> {
        Self::open_below(Path::new(PCI_DEVICES))
    }

    /// Opens a session with the first free device below `root`, a directory like [`PCI_DEVICES`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_below(root: &Path) -> Result<Self, ShimError> {
        Self::hello(Transport::start(Function::first_free(root)?)?)
    }

    /// What HELLO agreed on: features, and the device's limits.
    #[must_use]
    pub fn limits(&self) -> &Hello {
        &self.hello
    }

    /// Makes `memory` a region. The checkpoints from now on hold it. `tag` is the type of what is in it, for the store:
    /// without one it isn't sent.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others.
    pub fn register(
        &mut self,
        memory: RegionMemory,
        name: RegionName,
        mode: RegionMode,
        tag: u64,
    ) -> Result<RegionId, ShimError> {
        let tag = if self.has_store() { tag } else { 0 };
        let request = Request::Register { span: memory.span(), name, mode, tag };
        let reply = self.ask(request, Some(&memory))?;
        let ReplyBody::Region(id) = reply.body else { return Err(unexpected(request)) };
        self.regions.push((id, memory));
        Ok(id)
    }

    /// Ends a region. Checkpoints that hold it can't be rolled back to any more.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others; the region stays one then.
    pub fn unregister(&mut self, region: RegionId) -> Result<(), ShimError> {
        self.ask_for_nothing(Request::Unregister { region })?;
        self.regions.retain(|(id, _)| *id != region);
        self.hints.forget(region);
        Ok(())
    }

    /// Says that the program writes `pages` of `region` before the next checkpoint or rollback that is done. Costs
    /// no request: hints go with those. Pages that the region doesn't have are left out, as is all where the
    /// device takes no hints.
    pub fn hint(&mut self, region: RegionId, pages: Range<u64>) {
        if self.hello.features & FEATURE_HINT == 0 {
            return;
        }
        if let Some((_, memory)) = self.regions.iter().find(|(id, _)| *id == region) {
            self.hints.add(region, memory.span().len / PAGE_SIZE, pages);
        }
    }

    /// Takes a checkpoint of all regions.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others; earlier checkpoints stand.
    pub fn checkpoint(&mut self) -> Result<CheckpointId, ShimError> {
        match self.ask_with_hints(Request::Checkpoint)?.body {
            ReplyBody::Checkpoint(id) => Ok(id),
            _ => Err(unexpected(Request::Checkpoint)),
        }
    }

    /// Begins a checkpoint of all regions, which is copied while the program runs. Where the device can't do that,
    /// it's done when this returns.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others; earlier checkpoints stand.
    pub fn checkpoint_async(&mut self) -> Result<Ticket, ShimError> {
        if self.hello.features & FEATURE_ASYNC == 0 {
            return self.checkpoint().map(|id| Ticket { id, done: true });
        }
        match self.ask_with_hints(Request::CheckpointAsync)?.body {
            ReplyBody::Ticket(ticket) => Ok(ticket),
            _ => Err(unexpected(Request::CheckpointAsync)),
        }
    }

    /// Whether a checkpoint that was [begun](Self::checkpoint_async), and wasn't done then, is done; if `wait`, when
    /// it is.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others: there is no such checkpoint, as it failed; earlier ones stand.
    pub fn is_done(&mut self, checkpoint: CheckpointId, wait: bool) -> Result<bool, ShimError> {
        let request = Request::Ticket { checkpoint, wait };
        match self.ask(request, None)?.body {
            ReplyBody::Ticket(ticket) if ticket.id == checkpoint && (ticket.done || !wait) => Ok(ticket.done),
            _ => Err(unexpected(request)),
        }
    }

    /// Gives all regions the content of a checkpoint.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others; checkpoints stand.
    pub fn rollback(&mut self, checkpoint: CheckpointId) -> Result<(), ShimError> {
        match self.ask_with_hints(Request::Rollback { checkpoint })?.body {
            ReplyBody::Empty => Ok(()),
            _ => Err(unexpected(Request::Rollback { checkpoint })),
        }
    }

    /// Gives up a checkpoint.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others.
    pub fn release(&mut self, checkpoint: CheckpointId) -> Result<(), ShimError> {
        self.ask_for_nothing(Request::Release { checkpoint })
    }

    /// Figures of the session.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others.
    pub fn query(&mut self) -> Result<SessionFigures, ShimError> {
        let request = Request::Query { checkpoint: None };
        match self.ask(request, None)?.body {
            ReplyBody::Session(figures) => Ok(figures),
            _ => Err(unexpected(request)),
        }
    }

    /// Figures of one checkpoint.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others.
    pub fn query_checkpoint(&mut self, checkpoint: CheckpointId) -> Result<CheckpointFigures, ShimError> {
        let request = Request::Query { checkpoint: Some(checkpoint) };
        match self.ask(request, None)?.body {
            ReplyBody::CheckpointFigures(figures) if figures.id == checkpoint => Ok(figures),
            _ => Err(unexpected(request)),
        }
    }

    /// Figures of the oldest retained checkpoint that is newer than `after`, if there is one: from 0 on, the way
    /// through all of them.
    ///
    /// # Errors
    /// [`ShimError::Refused`] among others.
    pub fn query_next(&mut self, after: CheckpointId) -> Result<Option<CheckpointFigures>, ShimError> {
        let request = Request::QueryNext { after };
        match self.ask(request, None) {
            Ok(Reply { body: ReplyBody::CheckpointFigures(figures), .. }) if after < figures.id => {
                Ok(Some(figures))
            }
            Ok(_) => Err(unexpected(request)),
            Err(error) if error.status() == Some(Status::NoCheckpoint) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a session on a device that is up.
    pub(crate) fn hello(mut transport: Transport) -> Result<Self, ShimError> {
        let request = Request::Hello { version: PROTOCOL_VERSION, features: OFFERED_FEATURES };
        let no_key = SessionKey([0; 16]);
        let reply = transport.call(&Envelope { key: no_key, cursor: 0, request })?;
        if reply.status != Status::Ok {
            return Err(refused(request, &reply));
        }
        match reply.body {
            ReplyBody::Hello(hello)
                if hello.version == PROTOCOL_VERSION && hello.features & !OFFERED_FEATURES == 0 =>
            {
                Ok(Self { transport, hello, regions: Vec::new(), hints: Hints::default(), table: None })
            }
            _ => Err(unexpected(request)),
        }
    }

    fn ask_for_nothing(&mut self, request: Request) -> Result<(), ShimError> {
        match self.ask(request, None)?.body {
            ReplyBody::Empty => Ok(()),
            _ => Err(unexpected(request)),
        }
    }

    /// Makes a request before which the device reads the hint table.
    fn ask_with_hints(&mut self, request: Request) -> Result<Reply, ShimError> {
        if !self.hints.any() {
            return self.ask(request, None);
        }
        self.put_hints()?;
        let reply = self.ask(request, None);
        // It has read them, whatever it answers.
        if let Some(table) = &self.table {
            table.clear();
        }
        reply
    }

    /// Puts hints into the table. The device is told where that is when it's new, and whenever it's full.
    fn put_hints(&mut self) -> Result<(), ShimError> {
        let mut told = self.table.is_some();
        let table = self.table.get_or_insert_with(HintTable::new).span().address;
        loop {
            if let Some(table) = &self.table {
                self.hints.fill(table);
            }
            if told && !self.hints.any() {
                return Ok(());
            }
            self.ask_for_nothing(Request::Hints { table })?;
            told = true;
        }
    }

    /// Makes a request, again and again while the device asks something about pages of the regions (or of
    /// `new`, which is about to be one).
    fn ask(&mut self, request: Request, new: Option<&RegionMemory>) -> Result<Reply, ShimError> {
        let how = if matches!(request, Request::Rollback { .. }) { Touch::Write } else { Touch::Read };
        let mut budget = self.touch_budget(new);
        let mut cursor = 0;
        loop {
            let reply = self.transport.call(&Envelope { key: self.hello.key, cursor, request })?;
            match (reply.status, reply.ask(), &reply.body) {
                (Status::Ok, ..) => return Ok(reply),
                (Status::Again, Some(ask), ReplyBody::Missing(missing)) => {
                    for &span in missing.spans() {
                        if let Some(table) = self.table.as_ref().filter(|table| table.span() == span) {
                            table.touch();
                            continue;
                        }
                        let part = self.part(new, span).ok_or(ShimError::ForeignMemory { span })?;
                        match ask {
                            Ask::Touch => {
                                budget = budget.checked_sub(part.pages()).ok_or(ShimError::Endless)?;
                                part.touch(how).map_err(|source| ShimError::Untouchable { span, source })?;
                            }
                            Ask::Settle => part.settle(),
                        }
                    }
                    // A round must cost something, or there could be rounds for ever.
                    budget = budget.checked_sub(1).ok_or(ShimError::Endless)?;
                    cursor = reply.cursor;
                }
                (Status::Again, ..) => return Err(unexpected(request)),
                _ => return Err(refused(request, &reply)),
            }
        }
    }

    /// The memory that `span` is, if the request is about it.
    fn part<'a>(&'a self, new: Option<&'a RegionMemory>, span: Span) -> Option<Part<'a>> {
        match new {
            Some(memory) => memory.part(span),
            None => self.regions.iter().find_map(|(_, memory)| memory.part(span)),
        }
    }

    /// Pages that may be touched for one request, a round counting as one page.
    fn touch_budget(&self, new: Option<&RegionMemory>) -> u64 {
        let pages = |memory: &RegionMemory| memory.span().len / PAGE_SIZE;
        let pages = match new {
            Some(memory) => pages(memory),
            None => self.regions.iter().map(|(_, memory)| pages(memory)).fold(0, u64::saturating_add),
        };
        pages.saturating_mul(TOUCHES_PER_PAGE).saturating_add(EXTRA_TOUCHES)
    }
}

fn refused(request: Request, reply: &Reply) -> ShimError {
    if reply.status == Status::Mismatch {
        let region = Some(RegionId(reply.detail)).filter(|region| region.0 != 0);
        let stored = if let ReplyBody::Stored(stored) = reply.body { Some(stored) } else { None };
        return ShimError::Mismatch { region, stored };
    }
    ShimError::Refused { request: name(request), status: reply.status, detail: reply.detail }
}

fn unexpected(request: Request) -> ShimError {
    ShimError::WrongAnswer { request: name(request) }
}

/// What a request is called before a person.
fn name(request: Request) -> &'static str {
    match request {
        Request::Hello { .. } => "opening the session",
        Request::Register { .. } => "registering the region",
        Request::Unregister { .. } => "ending the region",
        Request::Checkpoint
        | Request::CheckpointAsync
        | Request::CheckpointDurable { .. }
        | Request::Durability { .. }
        | Request::Ticket { .. } => "the checkpoint",
        Request::Rollback { .. } => "the rollback",
        Request::Release { .. } => "releasing the checkpoint",
        Request::Query { .. } | Request::QueryNext { .. } | Request::Store | Request::Stored { .. } => {
            "the query"
        }
        Request::Recover { .. } => "recovering the checkpoint",
        Request::Hints { .. } => "telling the hints",
    }
}

#[cfg(test)]
mod tests;
