//! A checkpoint device on a Linux guest's PCI bus, with the engine behind it: one function, one session.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_abi::reply::SessionFigures;

use crate::checkpoint::linux::LinuxKeeper;
use crate::checkpoint::linux::frames::DirtyLog;
use crate::devices::calling_cpu::{CallingCpu, PauseFigures};
use crate::devices::checkpoint::device::CheckpointDevice;
use crate::devices::checkpoint::{AddressSpace, Outcome};
use crate::devices::pci_bus::PciDevice;
use crate::memory::caller::CallerMemory;
use crate::memory::ram::Ram;
use crate::store::Saver;
use crate::virtio::{Event, PciFunction};

/// The BAR that all registers are in.
const BAR: u8 = 0;

/// The function. A request is served on the thread of the vCPU that stored to the notify register, before
/// that store returns; the other vCPUs are paused meanwhile, as the page tables and the memory that is served
/// by them must not change.
#[derive(Debug)]
pub(super) struct CheckpointFunction<L: DirtyLog> {
    ram: Arc<Ram>,
    state: Mutex<State<L>>,
}

#[derive(Debug)]
struct State<L: DirtyLog> {
    function: PciFunction<CheckpointDevice>,
    keeper: LinuxKeeper<L>,
    saver: Saver,
}

impl<L: DirtyLog> CheckpointFunction<L> {
    /// A function without a driver.
    #[must_use]
    pub(super) fn new(
        ram: Arc<Ram>,
        function: PciFunction<CheckpointDevice>,
        keeper: LinuxKeeper<L>,
        saver: Saver,
    ) -> Self {
        Self { ram, state: Mutex::new(State { function, keeper, saver }) }
    }

    /// The figures of its session, if there is one. `pauses` is what stopping the guest has cost.
    #[must_use]
    pub(super) fn figures(&self, pauses: PauseFigures) -> Option<SessionFigures> {
        let state = self.lock();
        let session = state.function.device().session().address_space();
        session.map(|_| with_pauses(state.keeper.figures(), pauses))
    }

    fn handle(&self, event: Event, cpu: &dyn CallingCpu) {
        match event {
            Event::None | Event::Activated => {}
            Event::Reset => {
                let _paused = cpu.pause_others();
                self.lock().drop_session();
            }
            Event::Notified { .. } => self.notified(cpu),
        }
    }

    fn notified(&self, cpu: &dyn CallingCpu) {
        // Before the lock: who holds it waits for nobody, so that vCPUs can't wait for each other.
        let _paused = cpu.pause_others();
        let Some(paging) = cpu.paging() else { return };
        let memory = CallerMemory::new(&self.ram, paging);
        let State { function, keeper, saver } = &mut *self.lock();
        let space = AddressSpace(paging.identity());
        let mut act = |effect| saver.act(effect, keeper, &mut |keeper, effect| keeper.act(effect, &paging));
        // Each request has a bounded try: many in one exit would add up to a CPU that the kernel takes for stuck.
        function.device_mut().serve_until_long(&memory, space, &mut |effect| match act(effect) {
            Outcome::Session(figures) => Outcome::Session(with_pauses(figures, cpu.pauses())),
            outcome => outcome,
        });
    }

    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The figures with what stopping the guest has cost.
fn with_pauses(figures: SessionFigures, pauses: PauseFigures) -> SessionFigures {
    let PauseFigures { count, longest_ns, total_ns, .. } = pauses;
    SessionFigures { pauses: count, pause_ns: total_ns, longest_pause_ns: longest_ns, ..figures }
}

impl<L: DirtyLog> State<L> {
    /// Forgets what the session before a reset left. That needs no page tables.
    fn drop_session(&mut self) {
        let (keeper, saver) = (&mut self.keeper, &mut self.saver);
        self.function
            .device_mut()
            .settle(&mut |effect| saver.act(effect, keeper, &mut |keeper, _| keeper.drop_all()));
    }
}

impl<L: DirtyLog> PciDevice for CheckpointFunction<L> {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.lock().function.config_read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        // Registers can be written by way of the configuration space too; but who does that is the guest's
        // kernel, and a notification would be for its memory.
        let _ = self.lock().function.config_write(offset, data);
    }

    fn bars(&self) -> Vec<(u8, Range<u64>)> {
        self.lock().function.memory().map(|range| (BAR, range)).into_iter().collect()
    }

    fn bar_read(&self, _bar: u8, offset: u64, data: &mut [u8]) {
        self.lock().function.bar_read(offset, data);
    }

    fn bar_write(&self, _bar: u8, offset: u64, data: &[u8], cpu: &dyn CallingCpu) {
        let event = self.lock().function.bar_write(offset, data);
        self.handle(event, cpu);
    }
}
