//! The device at rest, as plain values: to be kept with the program that has the session, and to be brought back.
//!
//! The device is at rest between two requests: one that is posted and not served yet is the ring's. Values that come
//! back are claims, and are checked as a program's are.

use cairn_abi::request::OFFERED_FEATURES;
use cairn_abi::{Envelope, FEATURE_DURABLE, REQUEST_SIZE, RegionId, RegionName, SessionKey, Span};
use serde::{Deserialize, Serialize};

use super::device::CheckpointDevice;
use super::effect::Again;
use super::hints::HintTable;
use super::regions::{RegionSpan, Regions};
use super::session::{AddressSpace, Limits, Open, Session, State};
use crate::virtio::state::StateError;

/// The device, but for its registers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceState {
    /// Its session.
    pub session: SessionState,
    /// The queue's position, if there is a queue.
    pub position: Option<u16>,
    /// The rings can't be used until the driver resets the device.
    pub broken: bool,
    /// The position at which a poll found a request that only a notification may serve.
    pub left_at: Option<u16>,
    /// Interrupts that the driver hasn't read.
    pub interrupts: u8,
}

/// The session, but for its regions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SessionState {
    /// There is none.
    Closed,
    /// There is none, but the engine may hold what the last one left.
    Ended,
    /// There is one.
    Open(OpenState),
}

/// An open session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpenState {
    /// Its key.
    pub key: [u8; 16],
    /// The features that were agreed.
    pub features: u64,
    /// Where the program's hints are.
    pub hint_table: Option<u64>,
    /// The request that was answered with Again, as it is to come again, and whether the engine has begun with it.
    pub unfinished: Option<(Vec<u8>, bool)>,
    /// The newest cursor.
    pub last_cursor: u32,
}

/// A region of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiveRegion {
    /// Its id.
    pub id: RegionId,
    /// Its name.
    pub name: RegionName,
    /// Where it is.
    pub span: Span,
}

impl CheckpointDevice {
    /// The device as values.
    #[must_use]
    pub fn state(&self) -> DeviceState {
        DeviceState {
            session: self.session.state(),
            position: self.queue.as_ref().map(|queue| queue.position()),
            broken: self.broken,
            left_at: self.left_at,
            interrupts: self.interrupts,
        }
    }

    /// Gives a device whose registers are back these values, and its session these regions. It is the session of
    /// `address_space`.
    ///
    /// # Errors
    /// [`StateError`]; the device is of no use then.
    pub fn bring_back(
        &mut self,
        state: &DeviceState,
        address_space: AddressSpace,
        regions: &[LiveRegion],
    ) -> Result<(), StateError> {
        match (&mut self.queue, state.position) {
            (Some(queue), Some(position)) => queue.go_on_at(position),
            (None, Some(_)) => return Err(StateError("queue's position")),
            // Also where a driver said at once that it works and that it failed.
            (queue, None) => *queue = None,
        }
        self.session.bring_back(&state.session, address_space, regions)?;
        (self.broken, self.left_at, self.interrupts) = (state.broken, state.left_at, state.interrupts);
        Ok(())
    }
}

impl Session {
    /// The session as values, but for its regions.
    fn state(&self) -> SessionState {
        match &self.state {
            State::Closed => SessionState::Closed,
            State::Ended => SessionState::Ended,
            State::Open(open) => SessionState::Open(open.state()),
        }
    }

    /// The regions.
    pub fn regions(&self) -> impl Iterator<Item = (RegionId, RegionName, RegionSpan)> + '_ {
        let open = if let State::Open(open) = &self.state { Some(open) } else { None };
        open.into_iter().flat_map(|open| open.regions.iter())
    }

    fn bring_back(
        &mut self,
        state: &SessionState,
        address_space: AddressSpace,
        regions: &[LiveRegion],
    ) -> Result<(), StateError> {
        self.state = match state {
            SessionState::Closed | SessionState::Ended if !regions.is_empty() => {
                return Err(StateError("list of regions"));
            }
            SessionState::Closed => State::Closed,
            SessionState::Ended => State::Ended,
            SessionState::Open(open) => {
                State::Open(Open::from_state(open, address_space, regions, &self.limits)?)
            }
        };
        Ok(())
    }
}

impl Open {
    fn state(&self) -> OpenState {
        let unfinished = self.unfinished.map(|(cursor, request, again)| {
            let mut bytes = [0; REQUEST_SIZE];
            Envelope { key: self.key, cursor, request }.encode(&mut bytes);
            (bytes.to_vec(), again == Again::Yes)
        });
        OpenState {
            key: self.key.0,
            features: self.features,
            hint_table: self.hint_table.map(HintTable::address),
            unfinished,
            last_cursor: self.last_cursor,
        }
    }

    fn from_state(
        state: &OpenState,
        address_space: AddressSpace,
        claims: &[LiveRegion],
        limits: &Limits,
    ) -> Result<Self, StateError> {
        // Where asynchronous checkpoints can't be here, they are taken at once; but nothing stands for a store.
        if state.features & !OFFERED_FEATURES != 0 || state.features & FEATURE_DURABLE & !limits.features != 0
        {
            return Err(StateError("set of the session's features"));
        }
        let mut regions = Regions::default();
        for LiveRegion { id, name, span } in claims {
            let admitted = regions.admit(*span, name, limits).map_err(|_| StateError("list of regions"))?;
            if regions.contains(*id) {
                return Err(StateError("list of regions"));
            }
            regions.insert(*id, *name, admitted);
        }
        let hint_table = state.hint_table.map(|at| HintTable::from_claim(at).ok_or(StateError("hint table")));
        let unfinished = state.unfinished.as_ref().map(|(bytes, begun)| {
            let Envelope { cursor, request, .. } =
                Envelope::decode(bytes).map_err(|_| StateError("unfinished request"))?;
            Ok((cursor, request, if *begun { Again::Yes } else { Again::No }))
        });
        Ok(Self {
            address_space,
            key: SessionKey(state.key),
            features: state.features,
            regions,
            hint_table: hint_table.transpose()?,
            unfinished: unfinished.transpose()?,
            last_cursor: state.last_cursor,
        })
    }
}
