//! An app guest from its configuration, with a program that starts or one that comes back.

use std::sync::{Arc, Mutex};

use cairn_abi::{FEATURE_ASYNC, FEATURE_DURABLE, FEATURE_HINT};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

use super::load::{load, start_facts};
use super::machine::Machine;
use super::{AppConfig, DeviceError, RunError};
use crate::checkpoint::{Keeper, KeeperConfig, TrackerParts};
use crate::devices::bus::Bus;
use crate::devices::checkpoint::device::IDENTITY;
use crate::devices::checkpoint::{AddressSpace as SpaceId, CheckpointDevice, Limits};
use crate::guest::app::cpu::Cpu;
use crate::guest::app::files::{Descriptors, Files, Layout, Left, SharedPci, WholeCheckpoints, resume};
use crate::guest::app::process::Process;
use crate::host::signal::survive_long_files;
use crate::kvm::system::System;
use crate::machine::bare::Bare;
use crate::machine::calls::SharedCalls;
use crate::machine::host_costs::HostFigures;
use crate::machine::poll_policy::PollPolicy;
use crate::machine::sessions::MAX_REGIONS;
use crate::machine::sysfs::UnitSysfs;
use crate::machine::tracking::{TrackerMode, Tracking};
use crate::machine::unit::{REGISTERS, SharedUnit, Unit, UnitRegions, UnitRegisters};
use crate::machine::whole::{self, Comeback, stdout};
use crate::machine::{copier, helpers, poller, random, storing};
use crate::store::{Owner, SAVER_PATIENCE, Saver, Sink};
use crate::virtio::PciFunction;

/// Files in the program's private directories may take the memory's size divided by this, beside it: as
/// much as Linux gives a tmpfs.
const PRIVATE_FILES: u64 = 2;

impl Machine {
    /// A machine whose program starts, or comes back from `comeback`. In a process that had one before, the store stays
    /// `store`, and standard output is left as it is.
    pub(super) fn build(
        kvm: &System,
        config: &AppConfig,
        comeback: Option<&Comeback>,
        store: Option<Arc<Sink>>,
    ) -> Result<Self, RunError> {
        // KVM has no ring for memory without a session.
        let tracker = if config.whole.is_some() { TrackerMode::Bitmap } else { config.tracker };
        let tracking = Tracking::choose(kvm, tracker, config.ring_entries, &HostFigures::or_usual(kvm))?;
        tracing::info!(?tracking.log, ?tracking.scanning, "how writes are found");
        let Bare { vm, slots, system, mut space, root } = Bare::build(kvm, config.memory, tracking.log)?;
        let memory = Arc::clone(space.memory());
        let mut bringer = None;
        let entry = match comeback {
            Some(comeback) => {
                let start = comeback.map(&mut space)?;
                bringer = comeback.bring()?;
                start
            }
            None => load(&mut space, config)?,
        };
        let mut cpu = Cpu::new(kvm, &vm, system, space.tables_mut(), entry)?;
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
        let store = match store {
            Some(store) => Some(store),
            None => open_store(config, comeback)?,
        };
        let unit = Arc::new(SharedUnit::new(unit(config, parts, SpaceId(root), store.as_ref())?));
        let mut bus = Bus::default();
        bus.insert(REGISTERS, UnitRegisters(Arc::clone(&unit))).map_err(DeviceError::Bus)?;
        space.set_region_owner(Box::new(UnitRegions(Arc::clone(&unit))));
        if let Some(comeback) = comeback {
            comeback.session(&unit, config.whole.is_some())?;
        }
        let orders = config.whole.as_ref().map(|_| whole::orders());
        let asker = orders.as_ref().map(|(asker, _)| asker.clone());
        let function: SharedPci = Arc::new(Mutex::new(UnitSysfs(Arc::clone(&unit))));
        let files = files(config, vec![function], whole::for_program(asker, comeback.is_some()))?;
        let process = match comeback {
            Some(comeback) => comeback.process(space, files, &mut cpu)?,
            None => {
                let name = config.program.file_name().map(|name| name.to_string_lossy().into_owned());
                Process::new(space, files, cpu.clock(), start_facts(config), &name.unwrap_or_default())
            }
        };
        let policy = PollPolicy::new(config.poll, poller::has_spare_core());
        let calls = SharedCalls::new(process, cpu.call_page(), policy, Arc::clone(&unit));
        Ok(Self { slots, cpu, calls: Arc::new(calls), unit, bus, freezer, store, bringer, orders })
    }
}

/// Opens the store, if there is to be one, and directs standard output to its file, which stays as it is for now.
fn open_store(config: &AppConfig, comeback: Option<&Comeback>) -> Result<Option<Arc<Sink>>, RunError> {
    let store = storing::start(config.store.as_ref())?;
    if let Some(path) = &config.stdout {
        // After the store is ours: whoever had it until now may have been writing there.
        stdout::direct(path, comeback.and_then(|comeback| comeback.output.as_ref()))?;
    }
    Ok(store)
}

/// The program's view of files, with these PCI functions in its sysfs, and who takes checkpoints of it when it asks.
/// What an earlier run left undone in its directories is done first.
///
/// # Errors
/// [`RunError`].
pub(super) fn files(
    config: &AppConfig,
    functions: Vec<SharedPci>,
    checkpoints: Option<Arc<dyn WholeCheckpoints>>,
) -> Result<Files, RunError> {
    prepare_limits()?;
    if let Some(overlay) = &config.overlay {
        for grant in config.grants.iter().filter(|grant| grant.writable) {
            let directory = grant.host.display();
            let unfinished = |source| RunError::Unfinished { directory: grant.host.clone(), source };
            match resume(&grant.host, &overlay.records).map_err(unfinished)? {
                Left::Nothing => {}
                Left::Remains => {
                    tracing::info!("what a killed run had begun to write in {directory} is removed")
                }
                Left::Changes => {
                    tracing::warn!(
                        "the changes of an earlier run in {directory} were not all applied; now they are"
                    );
                }
            }
        }
    }
    let store = config.store.as_ref().map(|store| &store.directory);
    let layout = Layout {
        grants: config.grants.clone(),
        working_directory: config.directory.clone(),
        private_bytes: config.memory / PRIVATE_FILES,
        functions,
        overlay: config.overlay.is_some(),
        checkpoints,
        hidden: config.state.directory.iter().chain(store).cloned().collect(),
    };
    let (view, directory) = layout.build()?;
    let mut files = Files::new(view, Descriptors::standard(config.stdout.is_some()), &directory)
        .map_err(|source| RunError::Directory { directory, source })?;
    // The program's mask is applied where its files are made; the monitor's own would come on top.
    files.set_umask(umask(Mode::empty()).bits());
    Ok(files)
}

/// Lets the monitor have as many descriptors as it may: each file in the program's private directories takes one. Where
/// it can't be raised, those directories are full sooner. The limit of a file's length stays, and a longer one is an
/// error, of the program's and of the store's.
fn prepare_limits() -> Result<(), RunError> {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    survive_long_files().map_err(|source| RunError::Host { what: "a signal", source: source.into() })
}

fn unit(
    config: &AppConfig,
    parts: TrackerParts,
    root: SpaceId,
    store: Option<&Arc<Sink>>,
) -> Result<Unit, RunError> {
    // A store has one owner. With checkpoints of the whole program, sessions have none.
    let sessions_store = store.cloned().filter(|_| config.whole.is_none());
    let history = u32::try_from(config.history.get()).unwrap_or(u32::MAX);
    let optional = |feature, there| if there { feature } else { 0 };
    let features = FEATURE_HINT
        | optional(FEATURE_ASYNC, parts.freezer.is_some())
        | optional(FEATURE_DURABLE, sessions_store.is_some());
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
        // The session's, or the session as a part of the whole.
        stores: store.is_some(),
    };
    let memory = Arc::clone(&parts.memory);
    let keeper = Keeper::new(parts, keeping, helpers::start(config.threads)?);
    let policy = PollPolicy::new(poller::mode_for_requests(config.poll), poller::has_spare_core());
    let saver = Saver::new(sessions_store, Owner(0), SAVER_PATIENCE);
    Ok(Unit::new(function, keeper, saver, memory, root, policy))
}
