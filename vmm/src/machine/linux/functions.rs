//! The PCI functions of a Linux guest: checkpoint functions, disks, random bytes.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_abi::{FEATURE_DURABLE, FEATURE_HINT};
use cairn_engine::HostCosts;

use crate::checkpoint::KeeperConfig;
use crate::checkpoint::linux::frames::{FrameLog, SessionIndex};
use crate::checkpoint::linux::{KvmLog, LinuxKeeper};
use crate::devices::bar_window::BarWindow;
use crate::devices::block::{self, image::Image};
use crate::devices::checkpoint::device::IDENTITY;
use crate::devices::checkpoint::{CheckpointDevice, Limits};
use crate::devices::entropy;
use crate::devices::pci_bus::PciBus;
use crate::devices::queue_function::Wiring;
use crate::kvm::ram_slots::RamSlots;
use crate::kvm::vm::Vm;
use crate::machine::linux::config::LinuxConfig;
use crate::machine::linux::error::{BootError, DevicesError};
use crate::machine::linux::function::CheckpointFunction;
use crate::machine::sessions::MAX_REGIONS;
use crate::machine::{helpers, random, sandbox};
use crate::memory::linux_map::PCI_WINDOW;
use crate::store::{Owner, Saver, Sink};
use crate::virtio::PciFunction;
use crate::virtio::interrupts::MsiSink;
use crate::virtio::pci::BAR_SIZE;

/// How many times the guest's memory the regions of a session may be: what doesn't fit is swapped out.
const MOST_SWAPPED: u64 = 4;

/// Interrupts by way of KVM.
#[derive(Debug)]
struct Messages {
    vm: Arc<Vm>,
    noted: AtomicBool,
}

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        // A message that KVM refuses is one that no CPU takes. The guest chose it, so it's told of once.
        if let Err(error) = self.vm.send_message(address, data)
            && !self.noted.swap(true, Ordering::Relaxed)
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "an interrupt to {address:#x} is lost; logged once");
        }
    }
}

/// The guest's checkpoint functions, in the order of the bus.
pub(super) type Sessions = Vec<Arc<CheckpointFunction<KvmLog>>>;

/// The bus with all functions that `config` asks for, in this order: checkpoint functions, disks, random bytes.
pub(super) fn bus(
    vm: &Arc<Vm>,
    slots: &Arc<RamSlots>,
    config: &LinuxConfig,
    costs: HostCosts,
    store: Option<&Arc<Sink>>,
) -> Result<(PciBus, Sessions), BootError> {
    let mut bus = PciBus::default();
    let bound = |address| u32::try_from(address).unwrap_or(u32::MAX);
    let mut bars = BarWindow::new(bound(PCI_WINDOW.start)..bound(PCI_WINDOW.end));
    let sessions = add_sessions(&mut bus, &mut bars, slots, config, costs, store)?;
    let messages = Arc::new(Messages { vm: Arc::clone(vm), noted: AtomicBool::new(false) });
    let confine = || sandbox::confine_device().map_err(io::Error::other);
    let wiring = Wiring { ram: Arc::clone(slots.ram()), interrupts: messages, confine };
    for disk in &config.disks {
        let image = Image::open(&disk.image, disk.read_only)?;
        let function = block::function(image, wiring.clone(), &mut bars).map_err(DevicesError::Queue)?;
        bus.add(Arc::new(function)).map_err(DevicesError::Bus)?;
    }
    let entropy = entropy::function(wiring, &mut bars).map_err(DevicesError::Entropy)?;
    bus.add(Arc::new(entropy)).map_err(DevicesError::Bus)?;
    Ok((bus, sessions))
}

fn add_sessions(
    bus: &mut PciBus,
    bars: &mut BarWindow,
    slots: &Arc<RamSlots>,
    config: &LinuxConfig,
    costs: HostCosts,
    store: Option<&Arc<Sink>>,
) -> Result<Sessions, DevicesError> {
    let ram = slots.ram();
    let frames = Arc::new(Mutex::new(FrameLog::new(KvmLog(Arc::clone(slots)), Arc::clone(ram))));
    let history = u32::try_from(config.history.get()).unwrap_or(u32::MAX);
    // What a session can make its host keep stays in proportion to what the guest was given.
    let max_bytes = config.memory.saturating_mul(MOST_SWAPPED);
    let features = FEATURE_HINT | if store.is_some() { FEATURE_DURABLE } else { 0 };
    let limits = Limits { max_regions: MAX_REGIONS, max_bytes, history, features };
    let keeping = KeeperConfig {
        history: config.history,
        max_region_bytes: max_bytes,
        max_history_bytes: config.history_memory.unwrap_or(config.memory),
        costs,
        stores: store.is_some(),
    };
    let mut sessions = Sessions::new();
    // Sessions take turns: a checkpoint stops the guest's CPUs.
    let pool = if config.sessions == 0 { None } else { helpers::start(config.threads)? };
    for index in 0..config.sessions {
        let keys = random::keys().map_err(DevicesError::Keys)?;
        let device = CheckpointDevice::new(limits, keys);
        let function = PciFunction::new(device, IDENTITY, bars.take(BAR_SIZE)?)?;
        let keeper = LinuxKeeper::new(Arc::clone(&frames), SessionIndex(index), keeping, pool.clone());
        // Waiting inside an exit would keep the guest's kernel from running.
        let saver = Saver::new(store.cloned(), Owner(index.into()), Duration::ZERO);
        let function = Arc::new(CheckpointFunction::new(Arc::clone(ram), function, keeper, saver));
        sessions.push(Arc::clone(&function));
        bus.add(function)?;
    }
    Ok(sessions)
}
