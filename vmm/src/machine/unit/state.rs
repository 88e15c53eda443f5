//! The unit at rest, as plain values.

use cairn_engine::EngineError;
use serde::{Deserialize, Serialize};

use super::Unit;
use crate::checkpoint::{KeeperState, KeeperStateError, SessionBytes, SessionSource};
use crate::devices::checkpoint::DeviceState;
use crate::virtio::state::{FunctionState, StateError};

/// The device, its session, and what the keeper has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnitState {
    function: FunctionState,
    device: DeviceState,
    /// What the driver was last told of polling.
    announced: bool,
    keeper: KeeperState,
}

/// Why a unit can't be brought back.
#[derive(Debug, thiserror::Error)]
pub enum UnitStateError {
    /// The device's values.
    #[error(transparent)]
    Device(#[from] StateError),
    /// The session's.
    #[error(transparent)]
    Keeper(#[from] KeeperStateError),
}

impl UnitState {
    /// What differs between versions: whose it is, and how many bytes.
    pub(crate) fn deltas(&self) -> impl Iterator<Item = (cairn_abi::CheckpointId, u64)> + '_ {
        self.keeper.deltas()
    }
}

impl Unit {
    /// The unit as values, while the program stands still: no request is half done. An asynchronous checkpoint is
    /// finished first. Bytes that changed since they were [kept](Self::told) go to `bytes`, or all.
    ///
    /// # Errors
    /// The engine's.
    pub fn state(&mut self, from_nothing: bool, bytes: &mut SessionBytes) -> Result<UnitState, EngineError> {
        let device = self.function.device();
        let keeper = self.keeper.state(device.session().regions(), from_nothing, bytes)?;
        let (function, device) = (self.function.state(), device.state());
        Ok(UnitState { function, device, announced: self.announced, keeper })
    }

    /// What [`state`](Self::state) told is kept now, or it isn't.
    pub fn told(&mut self, kept: bool) {
        self.keeper.told(kept);
    }

    /// Gives a unit that nobody has used yet what another one had. The program's memory is back. `kept` says that
    /// whoever was told by [`state`](Self::state) builds on it.
    ///
    /// The program isn't told of polling anew: it notifies where nobody polls, after a while.
    ///
    /// # Errors
    /// [`UnitStateError`]; the unit is of no use then.
    pub fn bring_back(
        &mut self,
        state: &UnitState,
        source: &dyn SessionSource,
        kept: bool,
    ) -> Result<(), UnitStateError> {
        let UnitState { function, device, announced, keeper } = state;
        let regions = keeper.live_regions()?;
        self.function.bring_back(function)?;
        self.function.device_mut().bring_back(device, self.address_space, &regions)?;
        self.keeper.bring_back(keeper, &self.memory.view(), source, kept)?;
        self.announced = *announced;
        if device.position.is_some() {
            self.policy.activated();
        }
        Ok(())
    }
}
