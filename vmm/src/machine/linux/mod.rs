//! A Linux guest from its configuration to its end.

pub mod config;
pub mod end;
pub mod error;
mod front;
pub mod function;
mod functions;
mod input;
mod output;
mod outside;
pub mod ports;
mod probe;
pub mod report;
mod terminal;
mod vcpu;
pub mod world;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::devices::power::{self, PowerEvent};
use crate::devices::serial::SerialConsole;
use crate::guest::linux::acpi::Platform;
use crate::guest::linux::loader::{self, Boot, LoadError};
use crate::guest::linux::{cpu, firmware, initramfs};
use crate::host::signal;
use crate::kvm::ram_slots::{RamSlots, SLOT_BYTES};
use crate::kvm::system::System;
use crate::kvm::vm::Vm;
use crate::machine::control;
use crate::machine::host_costs::HostFigures;
use crate::machine::linux::config::LinuxConfig;
use crate::machine::linux::end::{LinuxEnd, LinuxEnded};
use crate::machine::linux::error::BootError;
use crate::machine::linux::front::Front;
use crate::machine::linux::functions::Sessions;
use crate::machine::linux::output::Output;
use crate::machine::linux::outside::{Ending, HeldSignals, Outside};
use crate::machine::linux::ports::{Ports, SERIALS};
use crate::machine::linux::report::Reports;
use crate::machine::linux::vcpu::{VcpuEnd, VcpuThread};
use crate::machine::linux::world::World;
use crate::machine::status::About;
use crate::machine::storing;
use crate::memory::ram::Ram;
use crate::store::Sink;

/// Boots a guest and runs it to its end.
///
/// # Errors
/// [`BootError`]: what is wrong and what to do.
pub fn run(config: &LinuxConfig) -> Result<LinuxEnded, BootError> {
    let kvm = System::open()?;
    if !probe::can_run_kernels(&kvm)? {
        return Err(BootError::Software);
    }
    let host = |what| move |errno: nix::errno::Errno| BootError::Host { what, source: errno.into() };
    signal::prepare().map_err(host("a signal for vCPUs"))?;
    signal::survive_long_files().map_err(host("a signal"))?;
    // Before there is any other thread, which would take them.
    let held = HeldSignals::hold().map_err(host("to hold signals back"))?;
    Machine::build(&kvm, config)?.run(&held)
}

/// A guest that is ready to run.
struct Machine {
    vcpus: Vec<VcpuThread>,
    world: Arc<World>,
    ports: Arc<Ports>,
    reports: Reports,
    sessions: Sessions,
    about: About,
    store: Option<Arc<Sink>>,
}

impl Machine {
    fn build(kvm: &System, config: &LinuxConfig) -> Result<Self, BootError> {
        let memory = |source| BootError::Host { what: "memory for the guest", source };
        let ram = Arc::new(Ram::new(config.memory).map_err(memory)?);
        let entry = load(&ram, config)?;
        let vm = Arc::new(kvm.create_kernel_vm()?);
        let slots = Arc::new(RamSlots::new(&vm, &ram, SLOT_BYTES)?);
        let figures = HostFigures::or_usual(kvm);
        let (costs, _) = figures.costs(&figures.bitmap);
        let store = storing::start(config.store.as_ref())?;
        let (bus, sessions) = functions::bus(&vm, &slots, config, costs, store.as_ref())?;
        let pci = Arc::new(bus);
        let reports = Reports::default();
        let ports = Arc::new(Ports { serials: serials(&vm, &reports).map(Arc::new), pci });
        let supported = kvm.supported_cpuid()?;
        let mut vcpus = Vec::new();
        for index in 0..config.cpus {
            let features = cpu::features(&supported, index, config.cpus)?;
            let vcpu = vm.create_kernel_vcpu(index.into(), &features)?;
            cpu::prepare(&vcpu)?;
            if index == 0 {
                cpu::enter(&vcpu, entry)?;
            }
            let address_bits = cpu::address_bits(&features);
            vcpus.push(VcpuThread::new(index.into(), vcpu, address_bits, Arc::clone(&ports)));
        }
        let program = config.program.as_ref().map_or(&config.kernel, |program| &program.program);
        let about = About::new(config.name.clone(), program, "linux").with_store(config.store.as_ref());
        Ok(Self { world: World::new(config.cpus.into()), vcpus, ports, reports, sessions, about, store })
    }

    fn run(self, held: &HeldSignals) -> Result<LinuxEnded, BootError> {
        // The ports lead to all devices, which end here and not on a vCPU's thread: that one can't close disks.
        let Self { vcpus, world, ports, reports, sessions, about, store } = self;
        let front = Front { about, sessions, world: Arc::clone(&world), store };
        let _control = control::start(Arc::new(front), false);
        let ending = Ending::new(&world);
        let outside = Outside::open(held, &ending, &ports.serials[0])
            .map_err(|source| BootError::Host { what: "the console", source })?;
        let end = run_vcpus(vcpus, &world);
        drop(outside);
        let end = end?.or(ending.reason()).unwrap_or(LinuxEnd::Off);
        Ok(LinuxEnded { end, report: reports.first(), pauses: world.pauses() })
    }
}

/// Runs each vCPU on a thread of its own, until the machine ends. Answers what ended it from within.
fn run_vcpus(vcpus: Vec<VcpuThread>, world: &Arc<World>) -> Result<Option<LinuxEnd>, BootError> {
    let mut threads = Vec::new();
    let mut refused = None;
    for (index, vcpu) in vcpus.into_iter().enumerate() {
        let of_thread = Arc::clone(world);
        let thread = thread::Builder::new().name(format!("vcpu{index}"));
        match thread.spawn(move || vcpu.run(&of_thread)) {
            Ok(thread) => threads.push(thread),
            Err(source) => {
                world.stop();
                refused = Some(BootError::Host { what: "a thread", source });
                break;
            }
        }
    }
    let ends: Vec<_> = threads.into_iter().map(thread::JoinHandle::join).collect();
    let mut ended = None;
    for end in ends {
        let panicked = |_| BootError::Broken("a vCPU's thread has panicked");
        match end.map_err(panicked)?? {
            VcpuEnd::Stopped => {}
            VcpuEnd::Power(PowerEvent::Off) => ended = Some(LinuxEnd::Off),
            VcpuEnd::Power(PowerEvent::Reset) => ended = Some(LinuxEnd::Reset),
            VcpuEnd::Failed { index, instruction, failure } => {
                return Err(BootError::Stuck { index, instruction, failure });
            }
        }
    }
    refused.map_or(Ok(ended), Err)
}

/// Fills the guest's memory with all that it boots from, and answers the kernel's first instruction.
fn load(ram: &Ram, config: &LinuxConfig) -> Result<u64, BootError> {
    let initrd = initrd(config)?;
    let firmware = firmware::image(&Platform {
        cpus: config.cpus,
        sleep_control: power::SLEEP_CONTROL_PORT,
        sleep_status: power::SLEEP_STATUS_PORT,
        reset: (power::RESET_PORT, power::RESET_VALUE),
        off: power::SLEEP_TYPE_OFF,
        serials: SERIALS,
    });
    if !cpu::write_tables(ram) {
        return Err(LoadError::Tables { what: "the first page tables" }.into());
    }
    let boot = Boot {
        kernel: &config.kernel,
        initrd: (!initrd.is_empty()).then_some(&*initrd),
        command_line: &config.command_line,
        firmware: &firmware,
    };
    Ok(loader::load(ram, &boot)?)
}

/// The initial file systems, one after the other, as the kernel takes them: what comes later wins.
fn initrd(config: &LinuxConfig) -> Result<Vec<u8>, BootError> {
    let mut initrd = match &config.initrd {
        Some(path) => read("the initial file system", path, config.memory)?,
        None => Vec::new(),
    };
    if let Some(of) = &config.program {
        // The kernel looks for the next archive at a multiple of 4 bytes.
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(initramfs::build(&of.program, &of.arguments, of.modules.as_deref())?);
    }
    Ok(initrd)
}

/// Reads a file of at most `most` bytes and one more, so that what has more is found too big for the guest.
fn read(what: &'static str, path: &Path, most: u64) -> Result<Vec<u8>, BootError> {
    let fail = |source| BootError::File { what, path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// The console, and the port on which the init reports.
fn serials(vm: &Arc<Vm>, reports: &Reports) -> [SerialConsole; 2] {
    let [console, report] = SERIALS.map(|(_, input)| -> Box<dyn Fn() + Send> {
        let vm = Arc::clone(vm);
        Box::new(move || {
            if let Err(error) = vm.pulse(input) {
                tracing::warn!(error = &error as &dyn std::error::Error, "a serial port's interrupt is lost");
            }
        })
    });
    [
        SerialConsole::new(console, Box::new(Output::default())),
        SerialConsole::new(report, Box::new(reports.writer())),
    ]
}
