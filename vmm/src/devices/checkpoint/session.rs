//! The decisions of the device: which requests are obeyed, and what is answered.
//!
//! Pure: no memory, no engine, no clock.

use cairn_abi::reply::{Ask, Hello, Missing, Ticket};
use cairn_abi::request::{FEATURE_HINT, OFFERED_FEATURES};
use cairn_abi::{
    Envelope, FEATURE_ASYNC, FEATURE_DURABLE, Hint, PROTOCOL_VERSION, RegionId, RegionMode, RegionName,
    Reply, ReplyBody, Request, SessionKey, Span, Status,
};

use super::effect::{Again, Effect, Failure, Outcome};
use super::hints::{HintFault, HintTable};
use super::regions::Regions;

/// The oldest protocol version that is still spoken.
pub const OLDEST_VERSION: u32 = 1;

/// Names an address space: the page-table root of a program, without PCID and without KPTI's bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AddressSpace(pub u64);

/// Who makes a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The address space that runs.
    pub address_space: AddressSpace,
    /// Whether the program stands at a notification of its own, and doesn't run on while it's polled.
    pub notified: bool,
}

/// What a session may use. HELLO tells the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Regions at once. Bounds the device's and the engine's lists.
    pub max_regions: u32,
    /// Bytes of all regions together. Bounds the mirror.
    pub max_bytes: u64,
    /// Checkpoints that are retained. Bounds the history.
    pub history: u32,
    /// Features of HELLO that this device has; those that the contract doesn't know are ignored.
    pub features: u64,
}

/// One program's connection, or the lack of one; [the module above](super) draws its states.
#[derive(Debug)]
pub struct Session {
    pub(super) limits: Limits,
    pub(super) state: State,
}

/// What comes next for a request.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// Answer it.
    Reply(Reply),
    /// Do this, then [`complete`](Session::complete) it.
    Act(Pending),
    /// Read the program's hint table and do what [`hint`](Session::hint) makes of each hint, then go on with
    /// [`hinted`](Session::hinted).
    ReadHints(Hinted),
    /// Leave it, and all behind it, for the program's notification. Nothing has changed.
    Leave,
}

/// An effect on its way, and what it's for.
#[derive(Debug)]
#[must_use]
pub struct Pending {
    effect: Effect,
    then: Then,
}

/// A request that waits until the program's hints are read.
#[derive(Debug)]
#[must_use]
pub struct Hinted {
    table: HintTable,
    request: Request,
    /// What is to be done then; nothing for a request that is about hints alone.
    effect: Option<Effect>,
}

impl Hinted {
    /// Where they are.
    #[must_use]
    pub fn table(&self) -> HintTable {
        self.table
    }
}

#[derive(Debug)]
pub(super) enum State {
    /// No session, and the engine holds nothing.
    Closed,
    /// No session, but the engine may hold what the last one left.
    Ended,
    /// A session.
    Open(Open),
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) address_space: AddressSpace,
    pub(super) key: SessionKey,
    pub(super) features: u64,
    pub(super) regions: Regions,
    pub(super) hint_table: Option<HintTable>,
    /// The request that was answered with Again, until another one comes.
    /// With its cursor, and whether the engine has begun with it.
    pub(super) unfinished: Option<(u32, Request, Again)>,
    pub(super) last_cursor: u32,
}

/// What a program says of a region beside where it is.
#[derive(Clone, Copy, Debug)]
struct Described {
    name: RegionName,
    mode: RegionMode,
    tag: u64,
}

/// What an effect's end leads to.
#[derive(Debug)]
enum Then {
    /// This reply, if the effect was done.
    Reply(Reply),
    /// A session.
    Open { address_space: AddressSpace, hello: Hello },
    /// The request's own reply.
    Answer(Request),
    /// Making the span a region.
    Register(Request, Described),
}

impl Pending {
    /// What is to be done.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }
}

impl Session {
    /// No session yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Closed }
    }

    /// The address space of the open session.
    #[must_use]
    pub fn address_space(&self) -> Option<AddressSpace> {
        match &self.state {
            State::Open(open) => Some(open.address_space),
            State::Closed | State::Ended => None,
        }
    }

    /// Ends the session, if one is open. What the engine holds for it is [`owed`](Self::owed) from then on.
    pub fn end(&mut self) {
        if let State::Open(_) = self.state {
            self.state = State::Ended;
        }
    }

    /// The drop that is due since a session ended. It needn't wait for the next request, which would come
    /// after it anyway.
    pub fn owed(&self) -> Option<Pending> {
        match self.state {
            State::Ended => Some(drop_all(Then::Reply(Reply::done(ReplyBody::Empty)))),
            State::Closed | State::Open(_) => None,
        }
    }

    /// Takes note that a region ended without a request: its memory is gone.
    pub fn forget_region(&mut self, region: RegionId) {
        if let State::Open(open) = &mut self.state {
            open.regions.remove(region);
        }
    }

    /// Decides what comes next for a request. `fresh_key` is asked for 128 random bits if the request is a
    /// HELLO.
    pub fn accept(
        &mut self,
        caller: Caller,
        envelope: &Envelope,
        fresh_key: &mut dyn FnMut() -> SessionKey,
    ) -> Step {
        let Envelope { key, cursor, request } = *envelope;
        if is_for_notification(&request) && !caller.notified {
            return Step::Leave;
        }
        if let Request::Hello { version, features } = request {
            if cursor != 0 {
                // HELLO is never answered with Again.
                return refuse(Status::Malformed, 0);
            }
            let Some(version) = agreed_version(version) else { return refuse(Status::Version, 0) };
            return self.hello(caller.address_space, version, features, fresh_key());
        }
        let bad_key = Reply::refusal(Status::BadKey, 0);
        match &mut self.state {
            State::Closed => Step::Reply(bad_key),
            State::Open(open) if open.address_space != caller.address_space => Step::Reply(bad_key),
            State::Open(open) if open.key == key => open.accept(cursor, request, &self.limits),
            State::Open(_) | State::Ended if !caller.notified => Step::Leave,
            State::Open(_) | State::Ended => {
                self.state = State::Ended;
                Step::Act(drop_all(Then::Reply(bad_key)))
            }
        }
    }

    /// What is to be done about a hint of the program, if it's about anything.
    #[must_use]
    pub fn hint(&self, hint: Hint) -> Option<Effect> {
        match &self.state {
            State::Open(open) => open.regions.clip(hint).map(Effect::Hint),
            State::Closed | State::Ended => None,
        }
    }

    /// Decides what comes next, now that the hints were read, or couldn't be.
    pub fn hinted(&mut self, Hinted { table, request, effect }: Hinted, read: Result<(), HintFault>) -> Step {
        match (read, &mut self.state) {
            (Ok(()), _) => match effect {
                Some(effect) => act(effect, Then::Answer(request)),
                None => Step::Reply(Reply::done(ReplyBody::Empty)),
            },
            (Err(HintFault::Absent), State::Open(open)) => {
                let missing = Missing::new(&[table.span()]);
                // For the engine the next try is what this one was: it hasn't seen this one.
                let again = match effect {
                    Some(
                        Effect::Checkpoint(again)
                        | Effect::CheckpointDurable(_, again)
                        | Effect::Rollback(_, again),
                    ) => again,
                    _ => Again::No,
                };
                Step::Reply(Reply::again(open.suspend(request, again), Ask::Touch, missing))
            }
            (Err(_), _) => refuse(Status::Malformed, 0),
        }
    }

    /// Decides what comes next, now that an effect has ended.
    pub fn complete(&mut self, pending: Pending, outcome: Outcome) -> Step {
        let Pending { effect, then } = pending;
        if let Outcome::Failed(failure) = outcome {
            return Step::Reply(failure.reply());
        }
        if effect == Effect::DropAll {
            return Step::Reply(self.dropped(&then, outcome));
        }
        let State::Open(open) = &mut self.state else { return misfit(effect, outcome) };
        if let Outcome::Missing { ask, missing } = outcome
            && let Then::Answer(request) | Then::Register(request, _) = then
        {
            return Step::Reply(Reply::again(open.suspend(request, Again::Yes), ask, missing));
        }
        let body = match (effect, outcome) {
            (Effect::PrepareRegion { span }, Outcome::Done) => {
                let Then::Register(request, described) = then else { return misfit(effect, outcome) };
                let Described { name, mode, tag } = described;
                return act(Effect::AddRegion { span, name, mode, tag }, Then::Answer(request));
            }
            (Effect::AddRegion { span, name, .. }, Outcome::Region(id)) => {
                open.regions.insert(id, name, span);
                ReplyBody::Region(id)
            }
            (Effect::RemoveRegion(id), Outcome::Done) => {
                open.regions.remove(id);
                ReplyBody::Empty
            }
            (Effect::Rollback(..) | Effect::Release(_), Outcome::Done) => ReplyBody::Empty,
            (Effect::Checkpoint(_) | Effect::Recover(_), Outcome::Checkpoint(id)) => {
                ReplyBody::Checkpoint(id)
            }
            (Effect::CheckpointDurable(..) | Effect::Durability(..), Outcome::Durability(durability)) => {
                ReplyBody::Durability(durability)
            }
            (Effect::StoreFigures, Outcome::Store(figures)) => ReplyBody::Store(figures),
            (Effect::Stored(..), Outcome::Stored(stored)) => ReplyBody::Stored(stored),
            (Effect::CheckpointAsync | Effect::Ticket(..), Outcome::Ticket { id, done }) => {
                ReplyBody::Ticket(Ticket { id, done })
            }
            (Effect::SessionFigures, Outcome::Session(figures)) => ReplyBody::Session(figures),
            (
                Effect::CheckpointFigures(_) | Effect::NextCheckpointFigures(_),
                Outcome::CheckpointFigures(figures),
            ) => ReplyBody::CheckpointFigures(figures),
            _ => return misfit(effect, outcome),
        };
        Step::Reply(Reply::done(body))
    }

    fn hello(&mut self, address_space: AddressSpace, version: u32, features: u64, key: SessionKey) -> Step {
        let Limits { max_regions, max_bytes, history, features: had } = self.limits;
        let features = features & had & OFFERED_FEATURES;
        let hello = Hello { version, features, key, max_regions, history, max_bytes };
        self.state = State::Ended;
        Step::Act(drop_all(Then::Open { address_space, hello }))
    }

    /// The engine was told to drop everything.
    fn dropped(&mut self, then: &Then, outcome: Outcome) -> Reply {
        if outcome != Outcome::Done {
            tracing::error!(?outcome, "dropping a session can't end so");
            return Failure::Host.reply();
        }
        self.state = State::Closed;
        match *then {
            Then::Reply(reply) => reply,
            Then::Open { address_space, hello } => {
                self.state = State::Open(Open::new(address_space, &hello));
                Reply::done(ReplyBody::Hello(hello))
            }
            Then::Answer(_) | Then::Register(..) => Failure::Host.reply(),
        }
    }
}

impl Open {
    fn new(address_space: AddressSpace, hello: &Hello) -> Self {
        let (key, features) = (hello.key, hello.features);
        let regions = Regions::default();
        Self { address_space, key, features, regions, hint_table: None, unfinished: None, last_cursor: 0 }
    }

    /// Decides about a request that has the session's key and comes from its address space.
    fn accept(&mut self, cursor: u32, request: Request, limits: &Limits) -> Step {
        let again = match self.unfinished.take() {
            _ if cursor == 0 => Again::No,
            Some((known, asked, again)) if (known, asked) == (cursor, request) => again,
            _ => return refuse(Status::Malformed, 0),
        };
        let effect = match request {
            Request::CheckpointAsync | Request::Ticket { .. } if self.features & FEATURE_ASYNC == 0 => {
                return refuse(Status::Unsupported, 0);
            }
            Request::CheckpointDurable { .. }
            | Request::Durability { .. }
            | Request::Store
            | Request::Recover { .. }
            | Request::Stored { .. }
                if !self.is_durable() =>
            {
                return refuse(Status::Unsupported, 0);
            }
            Request::CheckpointDurable { level } => {
                return self.hinted(request, Effect::CheckpointDurable(level, again));
            }
            Request::Durability { checkpoint, wait } => Effect::Durability(checkpoint, wait),
            Request::Store => Effect::StoreFigures,
            Request::Recover { checkpoint } => Effect::Recover(checkpoint),
            Request::Stored { checkpoint, name } => Effect::Stored(checkpoint, name),
            Request::CheckpointAsync => return self.hinted(request, Effect::CheckpointAsync),
            Request::Ticket { checkpoint, wait } => Effect::Ticket(checkpoint, wait),
            Request::Register { span, name, mode, tag } => {
                return self.register(request, span, Described { name, mode, tag }, limits);
            }
            Request::Unregister { region } if !self.regions.contains(region) => {
                return refuse(Status::NoRegion, 0);
            }
            Request::Unregister { region } => Effect::RemoveRegion(region),
            Request::Hints { table } => return self.hints(request, table),
            Request::Checkpoint => return self.hinted(request, Effect::Checkpoint(again)),
            Request::Rollback { checkpoint } => {
                return self.hinted(request, Effect::Rollback(checkpoint, again));
            }
            Request::Release { checkpoint } => Effect::Release(checkpoint),
            Request::Query { checkpoint: None } => Effect::SessionFigures,
            Request::Query { checkpoint: Some(checkpoint) } => Effect::CheckpointFigures(checkpoint),
            Request::QueryNext { after } => Effect::NextCheckpointFigures(after),
            Request::Hello { .. } => return refuse(Status::Malformed, 0),
        };
        act(effect, Then::Answer(request))
    }

    fn register(&self, request: Request, claim: Span, described: Described, limits: &Limits) -> Step {
        let Described { name, mode, tag } = &described;
        let hinted = *mode == RegionMode::Hinted && !self.takes_hints();
        if hinted || (*tag != 0 && !self.is_durable()) {
            return refuse(Status::Unsupported, 0);
        }
        match self.regions.admit(claim, name, limits) {
            Ok(span) => act(Effect::PrepareRegion { span }, Then::Register(request, described)),
            Err((status, detail)) => refuse(status, detail),
        }
    }

    fn is_durable(&self) -> bool {
        self.features & FEATURE_DURABLE != 0
    }

    fn takes_hints(&self) -> bool {
        self.features & FEATURE_HINT != 0
    }

    /// The program says where its hints are.
    fn hints(&mut self, request: Request, table: u64) -> Step {
        if !self.takes_hints() {
            return refuse(Status::Unsupported, 0);
        }
        let Some(table) = HintTable::from_claim(table) else { return refuse(Status::BadSpan, 0) };
        self.hint_table = Some(table);
        Step::ReadHints(Hinted { table, request, effect: None })
    }

    /// The effect, after the hints if there is a table of them.
    fn hinted(&self, request: Request, effect: Effect) -> Step {
        match self.hint_table {
            Some(table) => Step::ReadHints(Hinted { table, request, effect: Some(effect) }),
            None => act(effect, Then::Answer(request)),
        }
    }

    /// Remembers a request to be made again and returns the cursor that it must come with: never 0.
    fn suspend(&mut self, request: Request, again: Again) -> u32 {
        self.last_cursor = self.last_cursor.wrapping_add(1).max(1);
        self.unfinished = Some((self.last_cursor, request, again));
        self.last_cursor
    }
}

/// Whether a polling device leaves it in the ring: it changes whom the device serves, or the guest's memory
/// layout, or may wait for the disk.
fn is_for_notification(request: &Request) -> bool {
    match request {
        Request::Hello { .. }
        | Request::Register { .. }
        | Request::Unregister { .. }
        | Request::CheckpointDurable { .. }
        | Request::Durability { wait: Some(_), .. }
        | Request::Recover { .. }
        | Request::Stored { .. } => true,
        Request::Checkpoint
        | Request::CheckpointAsync
        | Request::Rollback { .. }
        | Request::Release { .. }
        | Request::Query { .. }
        | Request::QueryNext { .. }
        | Request::Ticket { .. }
        | Request::Durability { wait: None, .. }
        | Request::Store
        | Request::Hints { .. } => false,
    }
}

/// The version that both sides speak, if the program's newest is `newest`.
fn agreed_version(newest: u32) -> Option<u32> {
    let version = newest.min(PROTOCOL_VERSION);
    (version >= OLDEST_VERSION).then_some(version)
}

fn drop_all(then: Then) -> Pending {
    Pending { effect: Effect::DropAll, then }
}

fn act(effect: Effect, then: Then) -> Step {
    Step::Act(Pending { effect, then })
}

fn refuse(status: Status, detail: u32) -> Step {
    Step::Reply(Reply::refusal(status, detail))
}

/// An outcome that isn't one of the effect's is a fault of the host, not of the program.
fn misfit(effect: Effect, outcome: Outcome) -> Step {
    tracing::error!(?effect, ?outcome, "an effect can't end so");
    Step::Reply(Failure::Host.reply())
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
