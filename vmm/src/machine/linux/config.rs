//! What a Linux guest is made of.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::machine::name::GuestName;
use crate::machine::storing::StoreConfig;

/// vCPUs that a guest can have. Bounds the threads, and fits an APIC id of 8 bits.
pub const MOST_CPUS: u8 = 64;
/// Checkpoint functions that a guest can have, and so sessions at once.
pub const MOST_SESSIONS: u8 = 16;
/// Disks that a guest can have: the PCI bus has 31 places, for checkpoint functions and the entropy device too.
pub const MOST_DISKS: usize = 8;

/// What to boot, and with what.
#[derive(Clone, Debug)]
pub struct LinuxConfig {
    /// What it's called.
    pub name: GuestName,
    /// The kernel on the host, a bzImage.
    pub kernel: PathBuf,
    /// The initial file system on the host. The one of `program` comes on top.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub command_line: String,
    /// Disks, in the order in which the guest finds them. At most [`MOST_DISKS`].
    pub disks: Vec<DiskConfig>,
    /// Bytes of memory.
    pub memory: u64,
    /// vCPUs, from 1 to [`MOST_CPUS`].
    pub cpus: u8,
    /// Checkpoint functions, at most [`MOST_SESSIONS`].
    pub sessions: u8,
    /// Checkpoints that a session retains.
    pub history: NonZeroUsize,
    /// Bytes that a session's checkpoints may have together, beside the newest's own copy; by default as many as
    /// `memory`.
    pub history_memory: Option<u64>,
    /// Threads that work on a large checkpoint; by default [as many as are of use](crate::machine::helpers::start).
    pub threads: Option<NonZeroUsize>,
    /// Where checkpoints go that shall survive.
    pub store: Option<StoreConfig>,
    /// The program that the guest is for.
    pub program: Option<ProgramConfig>,
}

/// A disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskConfig {
    /// The image on the host: raw or qcow2.
    pub image: PathBuf,
    /// Whether the guest can only read it.
    pub read_only: bool,
}

/// A program that the guest runs before it switches itself off.
#[derive(Clone, Debug)]
pub struct ProgramConfig {
    /// The program on the host: a static ELF.
    pub program: PathBuf,
    /// Its arguments, without its name.
    pub arguments: Vec<OsString>,
    /// A directory of kernel modules to load before.
    pub modules: Option<PathBuf>,
}
