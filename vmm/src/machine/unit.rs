//! The checkpoint device with the engine behind it, shared by the thread that runs the vCPU and the
//! one that polls.

mod state;

pub use state::{UnitState, UnitStateError};

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cairn_abi::pci;
use cairn_abi::reply::SessionFigures;

use crate::checkpoint::Keeper;
use crate::devices::bus::MmioDevice;
use crate::devices::checkpoint::device::{CheckpointDevice, Rest, Served};
use crate::devices::checkpoint::{AddressSpace, Effect, Outcome};
use crate::guest::app::space::RegionOwner;
use crate::kvm::system::KvmError;
use crate::machine::poll_policy::PollPolicy;
use crate::memory::layout::PCI_REGISTERS;
use crate::memory::program::ProgramMemory;
use crate::memory::view::View;
use crate::store::Saver;
use crate::virtio::{Event, PciFunction};

/// Where the device's registers are.
pub const REGISTERS: Range<u64> = PCI_REGISTERS.start..PCI_REGISTERS.start + pci::BAR_SIZE as u64;
/// Its place on the PCI bus.
pub const PCI_ADDRESS: &str = "0000:00:01.0";

/// The device, the engine, and whether somebody polls.
#[derive(Debug)]
pub struct Unit {
    function: PciFunction<CheckpointDevice>,
    keeper: Keeper,
    saver: Saver,
    memory: Arc<ProgramMemory>,
    address_space: AddressSpace,
    policy: PollPolicy,
    /// What the driver was last told.
    announced: bool,
    /// How often the driver has notified, which is an exit each time.
    notifications: u64,
    /// Requests that were found without one.
    polled: u64,
}

/// A [`Unit`] behind its lock. The poller takes the lock over and over; who wants it else says so
/// first, and the poller steps back: the lock itself is not fair.
#[derive(Debug)]
pub struct SharedUnit {
    unit: Mutex<Unit>,
    wanted: AtomicU32,
    stop: AtomicBool,
    wake: Condvar,
}

/// What a look at the queue found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Requests were served.
    Served,
    /// There was nothing to do.
    Nothing,
    /// Polling is over.
    Over,
}

impl Unit {
    /// A device without a driver. `address_space` is the program's page-table root.
    #[must_use]
    pub fn new(
        function: PciFunction<CheckpointDevice>,
        keeper: Keeper,
        saver: Saver,
        memory: Arc<ProgramMemory>,
        address_space: AddressSpace,
        policy: PollPolicy,
    ) -> Self {
        Self {
            function,
            keeper,
            saver,
            memory,
            address_space,
            policy,
            announced: false,
            notifications: 0,
            polled: 0,
        }
    }

    /// The PCI function.
    pub fn function_mut(&mut self) -> &mut PciFunction<CheckpointDevice> {
        &mut self.function
    }

    /// Reads from `offset` of the registers.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.function.bar_read(offset, data);
    }

    /// Writes to `offset` of the registers. At a notification the queue is served before this returns.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let event = self.function.bar_write(offset, data);
        self.handle(event);
    }

    /// Does what a write to a register asked for.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::None => {}
            Event::Activated => self.policy.activated(),
            Event::Reset => {
                self.policy.reset();
                self.announced = false;
                let memory = Arc::clone(&self.memory);
                let view = memory.view();
                let (keeper, saver) = (&mut self.keeper, &mut self.saver);
                self.function.device_mut().settle(&mut |effect| act(keeper, saver, effect, &view));
            }
            Event::Notified { .. } => self.notified(),
        }
        if !self.policy.polls() {
            self.announce(false);
        }
    }

    /// Ends the regions that share memory with `range`.
    pub fn vacate(&mut self, range: &Range<u64>) {
        for region in self.keeper.vacate(range) {
            self.function.device_mut().forget_region(region);
            self.saver.forget_region(region);
        }
    }

    /// Takes what a checkpoint in the making still has to read.
    pub fn read_all(&mut self) {
        self.keeper.finish();
    }

    /// Makes room in the log of what the program writes.
    ///
    /// # Errors
    /// [`KvmError::Refused`]: the vCPU can't go on.
    pub fn empty_log(&mut self) -> Result<(), KvmError> {
        self.keeper.empty_log()
    }

    /// The figures of the session, if there is one.
    #[must_use]
    pub fn figures(&self) -> Option<SessionFigures> {
        let session = self.function.device().session().address_space();
        session.map(|_| self.keeper.figures())
    }

    /// Notifications, and requests that were served without one, by the names that a status has for them.
    #[must_use]
    pub fn counted(&self) -> [(&'static str, u64); 2] {
        [("notifications", self.notifications), ("requests_without_exit", self.polled)]
    }

    fn notified(&mut self) {
        self.notifications += 1;
        let memory = Arc::clone(&self.memory);
        let view = memory.view();
        let mut pollable = false;
        let (keeper, saver) = (&mut self.keeper, &mut self.saver);
        self.function.device_mut().serve(&view, self.address_space, &mut |effect| {
            pollable |= is_pollable(effect);
            act(keeper, saver, effect, &view)
        });
        self.policy.notified(Instant::now(), self.announced && pollable);
    }

    /// Tells the driver whether somebody polls. What it made available in between is served at once.
    fn announce(&mut self, polling: bool) {
        if self.announced == polling {
            return;
        }
        self.announced = polling;
        let memory = Arc::clone(&self.memory);
        let is_waiting = self.function.device_mut().announce_polling(&memory.view(), polling);
        if is_waiting {
            self.poll();
        }
    }

    /// Serves what is in the queue without a notification.
    fn poll(&mut self) -> Served {
        let memory = Arc::clone(&self.memory);
        let view = memory.view();
        let (keeper, saver) = (&mut self.keeper, &mut self.saver);
        let device = self.function.device_mut();
        let served = device.poll(&view, self.address_space, &mut |effect| act(keeper, saver, effect, &view));
        self.polled += u64::from(served.requests);
        served
    }

    /// What the poller does over and over. The driver is told that it polls by the poller itself, so that
    /// nobody waits for a thread that is still waking up.
    fn look(&mut self, check_time: bool) -> Look {
        if !self.policy.polls() {
            return Look::Over;
        }
        self.announce(true);
        let served = self.poll();
        if matches!(served.rest, Rest::Unusable | Rest::OutOfReach) {
            self.policy.reset();
        } else if 0 < served.requests {
            self.policy.served(Instant::now());
            return Look::Served;
        } else if check_time {
            self.policy.found_nothing(Instant::now());
        }
        if self.policy.polls() {
            return Look::Nothing;
        }
        self.announce(false);
        Look::Over
    }
}

/// Does an effect: what is about the store here, all else in the keeper.
fn act(keeper: &mut Keeper, saver: &mut Saver, effect: Effect, view: &View<'_>) -> Outcome {
    saver.act(effect, keeper, &mut |keeper, effect| keeper.act(effect, view))
}

/// Whether the effect is one of a request that polling serves.
fn is_pollable(effect: Effect) -> bool {
    match effect {
        Effect::Checkpoint(_)
        | Effect::CheckpointAsync
        | Effect::Ticket(..)
        | Effect::Rollback(..)
        | Effect::Release(_)
        | Effect::Hint(_)
        | Effect::SessionFigures
        | Effect::CheckpointFigures(_)
        | Effect::NextCheckpointFigures(_)
        | Effect::Durability(_, None)
        | Effect::StoreFigures => true,
        Effect::DropAll
        | Effect::PrepareRegion { .. }
        | Effect::AddRegion { .. }
        | Effect::RemoveRegion(_)
        | Effect::CheckpointDurable(..)
        | Effect::Durability(_, Some(_))
        | Effect::Recover(_)
        | Effect::Stored(..) => false,
    }
}

impl SharedUnit {
    /// Behind a lock from now on.
    #[must_use]
    pub fn new(unit: Unit) -> Self {
        let (wanted, stop) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { unit: Mutex::new(unit), wanted, stop, wake: Condvar::new() }
    }

    /// Uses the unit; the poller steps back meanwhile, and is woken if there is something to poll.
    pub fn with<R>(&self, use_it: impl FnOnce(&mut Unit) -> R) -> R {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        let mut unit = self.lock();
        self.wanted.fetch_sub(1, Ordering::Relaxed);
        let result = use_it(&mut unit);
        if unit.policy.polls() {
            self.wake.notify_one();
        }
        result
    }

    /// Ends the poller.
    pub fn stop(&self) {
        // Under the lock, so that a poller that is about to sleep can't miss it.
        let _unit = self.lock();
        self.stop.store(true, Ordering::Relaxed);
        self.wake.notify_all();
    }

    /// Looks at the queue for the poller; with `check_time`, also at the clock.
    pub fn look(&self, check_time: bool) -> Look {
        if self.wanted.load(Ordering::Relaxed) != 0 {
            return Look::Nothing;
        }
        self.lock().look(check_time)
    }

    /// Wakes the poller, as there is something else to poll.
    pub fn wake(&self) {
        // Under the lock, so that a poller that is about to sleep can't miss it.
        let _unit = self.lock();
        self.wake.notify_one();
    }

    /// Sleeps until there is something to poll here, or elsewhere as `others` says; false when the machine
    /// stops.
    pub fn sleep(&self, others: impl Fn() -> bool) -> bool {
        let mut unit = self.lock();
        loop {
            if self.stopped() {
                return false;
            }
            if unit.policy.polls() || others() {
                return true;
            }
            unit = self.wake.wait(unit).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the machine stops.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Unit> {
        self.unit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The unit's regions, for the program's address space.
#[derive(Clone, Debug)]
pub struct UnitRegions(pub Arc<SharedUnit>);

impl RegionOwner for UnitRegions {
    fn vacate(&self, range: &Range<u64>) {
        self.0.with(|unit| unit.vacate(range));
    }

    fn read_all(&self, _: &Range<u64>) {
        self.0.with(Unit::read_all);
    }
}

/// The unit's place on the bus.
#[derive(Clone, Debug)]
pub struct UnitRegisters(pub Arc<SharedUnit>);

impl MmioDevice for UnitRegisters {
    type Event = ();

    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.0.with(|unit| unit.read(offset, data));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.with(|unit| unit.write(offset, data));
    }
}
