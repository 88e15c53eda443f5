//! What synthesized files need to know of the process.

use std::time::Duration;

use super::path::GuestPath;

/// What /proc tells of the guest's process and machine.
pub trait ProcessFacts {
    /// Process number.
    fn id(&self) -> u32;

    /// User and group of the process.
    fn owner(&self) -> (u32, u32);

    /// The program, where the guest sees it.
    fn executable(&self) -> GuestPath;

    /// Its name, which it may have set itself; at most 15 bytes.
    fn name(&self) -> Vec<u8>;

    /// The arguments, each ended by a zero.
    fn arguments(&self) -> Vec<u8>;

    /// The environment at the start, each variable ended by a zero.
    fn environment(&self) -> Vec<u8>;

    /// The mappings in the order of their addresses.
    fn mappings(&self) -> Vec<MappingFacts>;

    /// Memory and time that were used.
    fn usage(&self) -> Usage;

    /// Soft and hard limit of a resource by its `RLIMIT_` number; `u64::MAX` is unlimited.
    fn limit(&self, resource: u32) -> (u64, u64);

    /// The kernel release that uname tells.
    fn release(&self) -> String;

    /// A UUID that stays the same while the machine runs.
    fn boot_id(&self) -> String;
}

/// One line of /proc/self/maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappingFacts {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Can be read.
    pub readable: bool,
    /// Can be written.
    pub writable: bool,
    /// Can be executed.
    pub executable: bool,
    /// `MAP_SHARED`.
    pub shared: bool,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// The file's path, or `[stack]`, `[heap]`, or nothing.
    pub name: Vec<u8>,
}

/// Memory and time that the process used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of address space.
    pub virtual_bytes: u64,
    /// Bytes of memory.
    pub resident_bytes: u64,
    /// Address of the stack's start.
    pub stack_start: u64,
    /// Bytes of memory of the machine.
    pub memory_bytes: u64,
    /// Processor time in the program.
    pub user: Duration,
    /// Processor time in its system calls.
    pub system: Duration,
    /// Time since the machine's start.
    pub up: Duration,
}

/// The facts of no process: for lookups before there is one.
#[derive(Debug)]
pub(super) struct NoProcess;

impl ProcessFacts for NoProcess {
    fn id(&self) -> u32 {
        1
    }

    fn owner(&self) -> (u32, u32) {
        (0, 0)
    }

    fn executable(&self) -> GuestPath {
        GuestPath::root()
    }

    fn name(&self) -> Vec<u8> {
        Vec::new()
    }

    fn arguments(&self) -> Vec<u8> {
        Vec::new()
    }

    fn environment(&self) -> Vec<u8> {
        Vec::new()
    }

    fn mappings(&self) -> Vec<MappingFacts> {
        Vec::new()
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn limit(&self, _resource: u32) -> (u64, u64) {
        (u64::MAX, u64::MAX)
    }

    fn release(&self) -> String {
        String::new()
    }

    fn boot_id(&self) -> String {
        String::new()
    }
}
