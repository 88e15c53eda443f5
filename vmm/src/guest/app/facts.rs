//! What /proc tells of the program.

use std::ffi::CString;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::guest::app::files::{GuestPath, MappingFacts, ProcessFacts, Usage, random_uuid};
use crate::guest::app::image::FrozenStart;
use crate::guest::app::mapping::{Content, FileBytes, Mapping};
use crate::guest::app::process::PID;
use crate::guest::app::space::AddressSpace;
use crate::guest::app::syscalls::limit;
use crate::memory::layout::STACK_TOP;

/// What the program was started with.
#[derive(Debug)]
pub struct StartFacts {
    executable: GuestPath,
    arguments: Vec<u8>,
    environment: Vec<u8>,
    release: String,
    boot_id: String,
    started: Instant,
    /// For how long it had run before, in another process of the host.
    before: Duration,
}

/// What /proc tells of the program at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub(super) space: &'a AddressSpace,
    pub(super) limits: &'a [(u64, [u64; 2])],
    pub(super) start: &'a StartFacts,
    pub(super) name: &'a [u8; 16],
}

impl StartFacts {
    /// A program at `executable` in the guest.
    #[must_use]
    pub fn new(executable: GuestPath, arguments: &[CString], environment: &[CString]) -> Self {
        let texts =
            |texts: &[CString]| texts.iter().flat_map(|text| text.as_bytes_with_nul()).copied().collect();
        let (arguments, environment) = (texts(arguments), texts(environment));
        let release = nix::sys::utsname::uname().map(|host| host.release().to_string_lossy().into_owned());
        Self {
            executable,
            arguments,
            environment,
            release: release.unwrap_or_default(),
            boot_id: random_uuid(),
            started: Instant::now(),
            before: Duration::ZERO,
        }
    }

    /// This program, in the process that `before` started.
    #[must_use]
    pub fn of_the_same_process(self, before: &Self) -> Self {
        let (started, boot_id, ran) = (before.started, before.boot_id.clone(), before.before);
        Self { started, boot_id, before: ran, ..self }
    }

    /// As values.
    #[must_use]
    pub fn freeze(&self) -> FrozenStart {
        FrozenStart {
            executable: self.executable.as_bytes().to_vec(),
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            release: self.release.clone(),
            boot_id: self.boot_id.clone(),
            up: u64::try_from(self.up().as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// From values.
    #[must_use]
    pub fn thaw(frozen: &FrozenStart) -> Self {
        Self {
            executable: GuestPath::from_clean(&frozen.executable),
            arguments: frozen.arguments.clone(),
            environment: frozen.environment.clone(),
            release: frozen.release.clone(),
            boot_id: frozen.boot_id.clone(),
            started: Instant::now(),
            before: Duration::from_nanos(frozen.up),
        }
    }

    fn up(&self) -> Duration {
        self.before.saturating_add(self.started.elapsed())
    }
}

impl ProcessFacts for Facts<'_> {
    fn id(&self) -> u32 {
        u32::try_from(PID).unwrap_or(u32::MAX)
    }

    fn owner(&self) -> (u32, u32) {
        (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
    }

    fn executable(&self) -> GuestPath {
        self.start.executable.clone()
    }

    fn name(&self) -> Vec<u8> {
        self.name.iter().copied().take_while(|byte| *byte != 0).collect()
    }

    fn arguments(&self) -> Vec<u8> {
        self.start.arguments.clone()
    }

    fn environment(&self) -> Vec<u8> {
        self.start.environment.clone()
    }

    fn mappings(&self) -> Vec<MappingFacts> {
        let facts = |(range, mapping): (&std::ops::Range<u64>, &Mapping)| {
            let (shared, offset, name) = match &mapping.content {
                Content::Anonymous => (false, 0, ""),
                Content::Shared => (true, 0, ""),
                Content::Heap => (false, 0, "[heap]"),
                Content::Stack => (false, 0, "[stack]"),
                Content::Vdso => (false, 0, "[vdso]"),
                Content::Device { .. } => (true, 0, "[device]"),
                Content::File { path, delta, bytes, .. } => {
                    (*bytes == FileBytes::Shared, delta.wrapping_add(range.start), &**path)
                }
            };
            MappingFacts {
                start: range.start,
                end: range.end,
                readable: mapping.rights.read,
                writable: mapping.rights.write,
                executable: mapping.rights.execute,
                shared,
                offset,
                name: name.as_bytes().to_vec(),
            }
        };
        self.space.mappings().map(facts).collect()
    }

    fn usage(&self) -> Usage {
        let size = |range: &std::ops::Range<u64>| range.end - range.start;
        let user = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
        Usage {
            virtual_bytes: self.space.mappings().map(|(range, _)| size(range)).sum(),
            resident_bytes: self.space.charged(),
            stack_start: STACK_TOP,
            memory_bytes: self.space.limit(),
            user: user.unwrap_or_default(),
            system: Duration::ZERO,
            up: self.start.up(),
        }
    }

    fn limit(&self, resource: u32) -> (u64, u64) {
        match limit(self.limits, u64::from(resource)) {
            Ok([soft, hard]) => (soft, hard),
            Err(_) => (u64::MAX, u64::MAX),
        }
    }

    fn release(&self) -> String {
        self.start.release.clone()
    }

    fn boot_id(&self) -> String {
        self.start.boot_id.clone()
    }
}
