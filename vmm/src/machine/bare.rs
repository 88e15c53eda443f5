//! A machine with memory and page tables and nothing in them: what a program, or a measurement, starts from.

use std::io;
use std::sync::{Arc, Mutex};

use crate::guest::app::cpu;
use crate::guest::app::space::AddressSpace;
use crate::host::mapping::Reservation;
use crate::kvm::slots::SlotMap;
use crate::kvm::system::{KvmError, System};
use crate::kvm::vm::{Vm, WriteLog};
use crate::memory::layout::{LARGE_PAGE, to_usize};
use crate::memory::page_table::{PageTables, SYSTEM_BASE, SYSTEM_SIZE};
use crate::memory::program::ProgramMemory;

/// The machine's own memslot: the system span.
const SYSTEM_SLOT: u32 = 0;

/// The pieces.
#[derive(Debug)]
pub(super) struct Bare {
    pub(super) vm: Arc<Vm>,
    pub(super) slots: Arc<Mutex<SlotMap>>,
    /// The span of page tables, descriptors and stubs.
    pub(super) system: Arc<Reservation>,
    pub(super) space: AddressSpace,
    /// Guest-physical address of the top page table.
    pub(super) root: u64,
}

/// Why there is no machine.
#[derive(Debug)]
pub(super) enum BareError {
    /// KVM refused.
    Kvm(KvmError),
    /// The host refused memory for this.
    Memory(&'static str, io::Error),
}

impl From<KvmError> for BareError {
    fn from(error: KvmError) -> Self {
        Self::Kvm(error)
    }
}

impl Bare {
    /// A machine whose program may have `limit` bytes of private memory, and whose writes are told by `log`.
    pub(super) fn build(kvm: &System, limit: u64, log: WriteLog) -> Result<Self, BareError> {
        let refused = |what| move |error| BareError::Memory(what, error);
        let vm = Arc::new(kvm.create_vm(log)?);
        let memory = Arc::new(ProgramMemory::new().map_err(refused("address space for the guest"))?);
        let slots = Arc::new(Mutex::new(SlotMap::new(Arc::clone(&vm), Arc::clone(&memory))));
        let system = Reservation::anonymous(to_usize(SYSTEM_SIZE), to_usize(LARGE_PAGE));
        let system = Arc::new(system.map_err(refused("memory for page tables"))?);
        vm.set_whole_slot(SYSTEM_SLOT, SYSTEM_BASE, &system)?;
        let tables = PageTables::new(Arc::clone(&system), cpu::USER_PAGES);
        let root = tables.root();
        let space = AddressSpace::new(memory, Arc::clone(&slots), tables, limit);
        Ok(Self { vm, slots, system, space, root })
    }
}
