//! An app guest from its configuration to its end.

mod error;

use std::ffi::CString;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, thread};

use cairn_abi::{CheckpointId, FEATURE_ASYNC, FEATURE_DURABLE, FEATURE_HINT};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

use crate::checkpoint::{Freezer, Keeper, KeeperConfig, TrackerParts};
use crate::devices::bus::Bus;
use crate::devices::checkpoint::device::IDENTITY;
use crate::devices::checkpoint::{AddressSpace as SpaceId, CheckpointDevice, Limits};
use crate::guest::app::clock::VDSO;
use crate::guest::app::cpu::Cpu;
use crate::guest::app::elf::{Image, Loaded};
use crate::guest::app::facts::StartFacts;
pub use error::{DeviceError, RunError};

pub use crate::guest::app::files::Grant;
use crate::guest::app::files::{
    Descriptors, Files, GuestPath, Layout, PublishError, SharedPci, WholeCheckpoints, resume,
};
use crate::guest::app::mapping::SpaceError;
use crate::guest::app::process::Process;
use crate::guest::app::space::AddressSpace;
use crate::guest::app::stack::{MAX_ARGUMENTS, Start};
use crate::kvm::slots::SlotMap;
use crate::kvm::system::System;
use crate::machine::bare::Bare;
use crate::machine::calls::SharedCalls;
use crate::machine::copier::{self, Copier};
use crate::machine::end::Ended;
use crate::machine::helpers;
use crate::machine::host_costs::HostFigures;
use crate::machine::poll_policy::{PollMode, PollPolicy};
use crate::machine::run_loop::RunLoop;
use crate::machine::sandbox::{self, SandboxError};
use crate::machine::status::About;
use crate::machine::storing::{self, StoreConfig};
use crate::machine::sysfs::UnitSysfs;
use crate::machine::tracking::{TrackerMode, Tracking};
use crate::machine::unit::{REGISTERS, SharedUnit, Unit, UnitRegions, UnitRegisters};
use crate::machine::whole::{self, Bringer, Comeback, Door, SavedConfig, Whole, WholeConfig, stdout};
use crate::machine::{auxiliary, control, poller, random, script};
use crate::memory::layout::STACK_TOP;
use crate::store::{Owner, SAVER_PATIENCE, Saver, Sink};
use crate::virtio::PciFunction;

/// The smallest memory that a guest can be given: its stack, and a little more.
pub const LEAST_MEMORY: u64 = 16 << 20;
/// The memory that a guest has unless told otherwise. It costs the host what the program touches.
pub const DEFAULT_MEMORY: u64 = 8 << 30;
/// Checkpoints that a session retains unless told otherwise.
pub const DEFAULT_HISTORY: usize = 8;
/// Regions that a session may have at once. Bounds the memslots and tables of one program.
pub(super) const MAX_REGIONS: u32 = 64;
/// Files in the program's private directories may take the memory's size divided by this, beside it: as
/// much as Linux gives a tmpfs.
const PRIVATE_FILES: u64 = 2;

/// What to run, and with what.
#[derive(Clone, Debug)]
pub struct AppConfig {
    /// The program on the host.
    pub program: PathBuf,
    /// argv, the program's name included.
    pub arguments: Vec<CString>,
    /// `NAME=value`.
    pub environment: Vec<CString>,
    /// Bytes of private memory.
    pub memory: u64,
    /// Directories that the program sees beside the system's and the working directory.
    pub grants: Vec<Grant>,
    /// The working directory, which the program sees read-only.
    pub directory: PathBuf,
    /// Whether what the program changes in writable grants stays in memory at first, and what becomes of it.
    pub overlay: Option<Overlay>,
    /// When a host thread polls for requests, and for system calls where they can be posted.
    pub poll: PollMode,
    /// Checkpoints that are retained.
    pub history: NonZeroUsize,
    /// How its writes are found.
    pub tracker: TrackerMode,
    /// Entries of the dirty ring, where that is used.
    pub ring_entries: Option<u32>,
    /// Bytes that they may have together, beside the newest's own copy; by default as many as `memory`.
    pub history_memory: Option<u64>,
    /// Threads that work on a large checkpoint; by default [as many as are of use](helpers::start).
    pub threads: Option<NonZeroUsize>,
    /// Whether checkpoints of the whole program go there.
    pub whole: Option<WholeConfig>,
    /// Where checkpoints go that shall survive.
    pub store: Option<StoreConfig>,
    /// The file that standard output goes to, and goes back with the program. Without it, standard output is this
    /// process's.
    pub stdout: Option<PathBuf>,
}

/// Writable directories that change only when the program has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Overlay {
    /// Whether the changes are applied to the directories if the program ends by itself with status 0. Otherwise
    /// they are forgotten.
    pub commit: bool,
    /// A directory of the monitor's own for the record of changes that are being applied. What an earlier run left
    /// there about a granted directory is finished before the program starts.
    pub records: PathBuf,
}

/// Runs a program to its end.
///
/// # Errors
/// [`RunError`]: what is wrong and what to do.
pub fn run(config: &AppConfig) -> Result<Ended, RunError> {
    let kvm = System::open()?;
    let interpreted = script::interpreter(config)?;
    let config = interpreted.as_ref().unwrap_or(config);
    run_machine(Machine::build(&kvm, config, None)?, config, None)
}

fn run_machine(
    machine: Machine,
    config: &AppConfig,
    parent: Option<CheckpointId>,
) -> Result<Ended, RunError> {
    let calls = Arc::clone(&machine.calls);
    let ended = machine.run(config, parent)?;
    if let (Some(overlay), 0) = (&config.overlay, ended.end.status()) {
        publish(&calls, overlay)?;
    }
    Ok(ended)
}

/// A program that is about to be brought back.
#[derive(Debug)]
pub struct Restore(Comeback);

impl Restore {
    /// The checkpoint `at` of a store, or the newest.
    ///
    /// # Errors
    /// [`RunError::NoCheckpoint`], [`RunError::Saved`].
    pub fn open(store: &Path, at: Option<CheckpointId>) -> Result<Self, RunError> {
        Comeback::open(store, at).map(Self)
    }

    /// The file that standard output went to, and how many bytes it had.
    #[must_use]
    pub fn stdout(&self) -> Option<(PathBuf, u64)> {
        self.0.saved.stdout()
    }

    /// How often checkpoints were taken; None where only those were that were asked for.
    #[must_use]
    pub fn every(&self) -> Option<Duration> {
        self.0.saved.config.every()
    }

    /// Its store at `directory`, of which as much is kept as before, or `keep` checkpoints.
    #[must_use]
    pub fn store(&self, directory: PathBuf, keep: Option<NonZeroUsize>) -> StoreConfig {
        self.0.saved.config.store(directory, keep)
    }

    /// Runs the program to its end, with further checkpoints where `further` says. Its standard output goes on in the
    /// file `stdout`, if it was a file.
    ///
    /// # Errors
    /// [`RunError`]: what is wrong and what to do.
    pub fn run(
        self,
        further: Option<(StoreConfig, WholeConfig)>,
        stdout: Option<PathBuf>,
    ) -> Result<Ended, RunError> {
        let Self(comeback) = self;
        let kvm = System::open()?;
        let (store, whole) = further.unzip();
        let config = AppConfig { store, whole, stdout, ..comeback.saved.config.config()? };
        // Output is cut back and changes are applied: not while another process runs the program and does so.
        let changes_files = config.stdout.is_some() || config.overlay.is_some();
        let _alone = (changes_files && config.store.is_none()).then(|| comeback.lock()).transpose()?;
        let machine = Machine::build(&kvm, &config, Some(&comeback))?;
        tracing::info!(id = comeback.id.0, "the program goes on");
        run_machine(machine, &config, Some(comeback.id))
    }
}

/// Applies what a program that has ended changed in its overlays.
fn publish(calls: &SharedCalls, overlay: &Overlay) -> Result<(), PublishError> {
    if overlay.commit {
        let published = calls.with(|process| process.files.publish(&overlay.records))?;
        tracing::info!(?published, "the changes are applied");
    }
    Ok(())
}

/// Opens the program, or a script, on the host.
pub(super) fn open_program(path: &Path) -> Result<File, RunError> {
    let open = |source| RunError::Open { program: path.to_string_lossy().into_owned(), source };
    let file = File::open(path).map_err(open)?;
    if file.metadata().map_err(open)?.is_dir() {
        return Err(open(io::ErrorKind::IsADirectory.into()));
    }
    Ok(file)
}

/// A guest that is ready to run.
struct Machine {
    slots: Arc<Mutex<SlotMap>>,
    cpu: Cpu,
    calls: Arc<SharedCalls>,
    unit: Arc<SharedUnit>,
    bus: Bus<UnitRegisters>,
    freezer: Option<Arc<Freezer>>,
    about: About,
    /// Brings the memory of a program that was brought back.
    bringer: Option<Bringer>,
    store: Option<Arc<Sink>>,
    /// Whoever wants checkpoints of the whole asks here.
    orders: Option<(whole::Asker, whole::Orders)>,
}

impl Machine {
    fn build(kvm: &System, config: &AppConfig, comeback: Option<&Comeback>) -> Result<Self, RunError> {
        // KVM has no ring for memory without a session.
        let tracker = if config.whole.is_some() { TrackerMode::Bitmap } else { config.tracker };
        let tracking = Tracking::choose(kvm, tracker, config.ring_entries, &HostFigures::or_usual(kvm))?;
        tracing::info!(?tracking.log, ?tracking.scanning, "how writes are found");
        let Bare { vm, slots, system, mut space, root } = Bare::build(kvm, config.memory, tracking.log)?;
        let memory = Arc::clone(space.memory());
        let mut bringer = None;
        let (entry, stack) = match comeback {
            Some(comeback) => {
                let start = comeback.map(&mut space)?;
                bringer = comeback.bring()?;
                start
            }
            None => load(&mut space, config)?,
        };
        let mut cpu = Cpu::new(kvm, &vm, system, space.tables_mut(), entry, stack)?;
        let freezer = copier::freezer();
        let parts = TrackerParts {
            slots: Arc::clone(&slots),
            memory,
            ring: cpu.take_ring().map(|ring| Arc::new(Mutex::new(ring))),
            freezer: freezer.clone(),
            scanning: tracking.scanning,
            costs: tracking.costs,
            log_costs: tracking.log_costs,
        };
        let store = storing::start(config.store.as_ref())?;
        if let Some(path) = &config.stdout {
            // Whoever had the store until now may have been writing there.
            stdout::direct(path, comeback.and_then(|comeback| comeback.saved.stdout()).map(|(_, at)| at))?;
        }
        let unit = Arc::new(SharedUnit::new(unit(config, parts, SpaceId(root), store.clone())?));
        let mut bus = Bus::default();
        bus.insert(REGISTERS, UnitRegisters(Arc::clone(&unit))).map_err(DeviceError::Bus)?;
        space.set_region_owner(Box::new(UnitRegions(Arc::clone(&unit))));
        let orders = config.whole.as_ref().map(|_| whole::orders());
        let asker = orders.as_ref().map(|(asker, _)| asker.clone());
        let files = files(config, &unit, whole::for_program(asker, comeback.is_some()))?;
        let process = match comeback {
            Some(comeback) => comeback.process(space, files, &mut cpu)?,
            None => {
                let name = config.program.file_name().map(|name| name.to_string_lossy().into_owned());
                Process::new(space, files, cpu.clock(), start_facts(config), &name.unwrap_or_default())
            }
        };
        let policy = PollPolicy::new(config.poll, poller::has_spare_core());
        let calls = SharedCalls::new(process, cpu.call_page(), policy, Arc::clone(&unit));
        let about = About::new(&config.program.to_string_lossy(), "app");
        Ok(Self { slots, cpu, calls: Arc::new(calls), unit, bus, freezer, about, store, bringer, orders })
    }

    /// Runs the vCPU and the poller, each on a confined thread of its own.
    fn run(self, config: &AppConfig, parent: Option<CheckpointId>) -> Result<Ended, RunError> {
        let Self { slots, cpu, calls, unit, bus, freezer, about, store, bringer: _bringer, orders } = self;
        let whole = match (&config.whole, &store, orders) {
            (Some(wanted), Some(sink), Some(orders)) => {
                let door = Arc::new(Door::new(&cpu)?);
                let parts = whole::Parts {
                    config: SavedConfig::new(config, wanted),
                    sink: Arc::clone(sink),
                    level: config.store.as_ref().and_then(|store| store.level_of_all),
                    door: Arc::clone(&door),
                    calls: Arc::clone(&calls),
                    slots,
                    orders,
                    parent,
                };
                Some((Whole::start(parts)?, door))
            }
            _ => None,
        };
        let (asked, counting) = (Arc::clone(&unit), Arc::clone(&calls));
        let taken = whole.as_ref().map(|(whole, _)| whole.figures());
        let _control = control::start(move || {
            let (counted, figures) = asked.with(|unit| (unit.counted(), unit.figures()));
            let taken = taken.as_deref().into_iter().flat_map(|taken| whole::read(taken).named());
            let counted = counting.counted().into_iter().chain(counted).chain(taken);
            let sessions = figures.map(|figures| (0, figures));
            about.status(counted, sessions, store.as_ref().map(|store| store.figures()))
        });
        let door = whole.as_ref().map(|(_, door)| Arc::clone(door));
        let host = |what| move |source| RunError::Host { what, source };
        // Before those that would wait for it, and longer than they.
        let _copier = freezer.map(Copier::start).transpose()?;
        let (polled, posted) = (Arc::clone(&unit), Arc::clone(&calls));
        let poller =
            thread::Builder::new().name("poller".to_owned()).spawn(move || -> Result<(), SandboxError> {
                sandbox::confine()?;
                poller::run(&polled, &posted);
                Ok(())
            });
        let poller = poller.map_err(host("a thread"))?;
        let served = Arc::clone(&unit);
        let vcpu = thread::Builder::new().name("vcpu".to_owned()).spawn(move || {
            sandbox::confine()?;
            RunLoop::new(cpu, calls, bus, served).with_door(door).run()
        });
        let ended = vcpu.map_err(host("a thread"))?.join();
        unit.stop();
        // A thread that panicked has told so; its end is the program's.
        let polled = poller.join().unwrap_or(Ok(()));
        let ended = ended.unwrap_or_else(|_| {
            Err(RunError::Host {
                what: "to go on",
                source: io::Error::other("the guest's thread has panicked"),
            })
        })?;
        polled?;
        Ok(ended)
    }
}

/// The program's view of files, with the unit's PCI function in its sysfs.
fn files(
    config: &AppConfig,
    unit: &Arc<SharedUnit>,
    checkpoints: Option<Arc<dyn WholeCheckpoints>>,
) -> Result<Files, RunError> {
    raise_descriptor_limit();
    if let Some(overlay) = &config.overlay {
        for grant in config.grants.iter().filter(|grant| grant.writable) {
            if resume(&grant.host, &overlay.records)? {
                tracing::warn!(
                    "the changes of an earlier run in {} were not all applied; now they are",
                    grant.host.display()
                );
            }
        }
    }
    let function: SharedPci = Arc::new(Mutex::new(UnitSysfs(Arc::clone(unit))));
    let layout = Layout {
        grants: config.grants.clone(),
        working_directory: config.directory.clone(),
        private_bytes: config.memory / PRIVATE_FILES,
        functions: vec![function],
        overlay: config.overlay.is_some(),
        checkpoints,
    };
    let (view, directory) = layout.build()?;
    let mut files = Files::new(view, Descriptors::standard(), &directory)
        .map_err(|source| RunError::Directory { directory, source })?;
    // The program's mask is applied where its files are made; the monitor's own would come on top.
    files.set_umask(umask(Mode::empty()).bits());
    Ok(files)
}

/// Lets the monitor have as many descriptors as it may: each file in the program's private directories
/// takes one. Where it can't be raised, those directories are full sooner.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// What /proc/self tells of the start.
fn start_facts(config: &AppConfig) -> StartFacts {
    let path = config.program.canonicalize().unwrap_or_else(|_| config.program.clone());
    let texts = |texts: &[CString]| texts.iter().flat_map(|text| text.as_bytes_with_nul()).copied().collect();
    let executable = GuestPath::from_clean(path.as_os_str().as_encoded_bytes());
    StartFacts::new(executable, texts(&config.arguments), texts(&config.environment))
}

/// Loads the program and its interpreter, and writes the stack. Answers the first instruction and the
/// stack pointer.
fn load(space: &mut AddressSpace, config: &AppConfig) -> Result<(u64, u64), RunError> {
    let path = config.program.to_string_lossy().into_owned();
    let file = open_program(&config.program)?;
    let image = Image::read(&path, file)?;
    let too_small = |source| RunError::Memory { memory: config.memory, source };
    space.map_stack().map_err(too_small)?;
    let program = image.load(space, false)?;
    let interpreter = match image.interpreter() {
        Some(name) => Some(load_interpreter(space, &path, name)?),
        None => None,
    };
    space.start_heap(program.end);
    let vdso = space.map_vdso(VDSO).map_err(too_small)?;
    let stack = write_stack(space, config, &auxiliary::vector(&program, interpreter.as_ref(), vdso))?;
    Ok((interpreter.unwrap_or(program).entry, stack))
}

fn load_interpreter(space: &mut AddressSpace, program: &str, name: &str) -> Result<Loaded, RunError> {
    let file = File::open(name).map_err(|source| RunError::Interpreter {
        program: program.to_owned(),
        interpreter: name.to_owned(),
        source,
    })?;
    Ok(Image::read(name, file)?.load(space, true)?)
}

fn write_stack(space: &AddressSpace, config: &AppConfig, auxiliary: &[(u64, u64)]) -> Result<u64, RunError> {
    let texts = config.arguments.iter().chain(&config.environment);
    let bytes: usize = texts.map(|text| text.as_bytes_with_nul().len() + 8).sum();
    if MAX_ARGUMENTS < bytes {
        return Err(RunError::Arguments { bytes });
    }
    let host = |what| move |source| RunError::Host { what, source };
    let random = random::bits().map_err(host("random bytes"))?;
    let path = config.arguments.first().cloned().unwrap_or_default();
    let start = Start {
        arguments: &config.arguments,
        environment: &config.environment,
        path: &path,
        random,
        auxiliary,
    };
    let bytes = start.build(STACK_TOP);
    let pointer = STACK_TOP - bytes.len() as u64;
    let written = space.memory().write_bytes(pointer, &bytes);
    written.map_err(|errno| RunError::Memory { memory: config.memory, source: SpaceError::Host(errno) })?;
    Ok(pointer)
}

fn unit(
    config: &AppConfig,
    parts: TrackerParts,
    root: SpaceId,
    store: Option<Arc<Sink>>,
) -> Result<Unit, RunError> {
    let history = u32::try_from(config.history.get()).unwrap_or(u32::MAX);
    let optional = |feature, there| if there { feature } else { 0 };
    let features = FEATURE_HINT
        | optional(FEATURE_ASYNC, parts.freezer.is_some())
        | optional(FEATURE_DURABLE, store.is_some());
    let limits = Limits { max_regions: MAX_REGIONS, max_bytes: config.memory, history, features };
    let keys = random::keys().map_err(|source| RunError::Host { what: "random bytes", source })?;
    let device = CheckpointDevice::new(limits, keys);
    let address = u32::try_from(REGISTERS.start).unwrap_or(u32::MAX);
    let function = PciFunction::new(device, IDENTITY, address).map_err(DeviceError::Function)?;
    let keeping = KeeperConfig {
        history: config.history,
        max_region_bytes: config.memory,
        // What a guest can make its host keep stays in proportion to what it was given.
        max_history_bytes: config.history_memory.unwrap_or(config.memory),
        costs: parts.costs,
        stores: store.is_some(),
    };
    let memory = Arc::clone(&parts.memory);
    let keeper = Keeper::new(parts, keeping, helpers::start(config.threads)?);
    let policy = PollPolicy::new(poller::mode_for_requests(config.poll), poller::has_spare_core());
    let saver = Saver::new(store, Owner(0), SAVER_PATIENCE);
    Ok(Unit::new(function, keeper, saver, memory, root, policy))
}
