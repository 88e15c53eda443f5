//! `cairn boot`: a stock Linux kernel in a virtual machine.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use cairn_vmm::machine::linux;
use cairn_vmm::machine::linux::config::{
    DiskConfig, LinuxConfig, MOST_CPUS, MOST_DISKS, MOST_SESSIONS, ProgramConfig,
};
use cairn_vmm::machine::linux::end::{LinuxEnd, LinuxEnded};
use cairn_vmm::machine::linux::report::Report;
use cairn_vmm::machine::name::GuestName;
use cairn_vmm::machine::sessions::DEFAULT_HISTORY;
use cairn_vmm::tell;
use clap::Args;

use crate::exit;
use crate::size::Size;
use crate::store_options::StoreOptions;

/// Memory that a guest has unless told otherwise.
const DEFAULT_MEMORY: Size = Size(1 << 30);
/// The kernel's command line unless told otherwise: the console is the terminal, and a panic ends the guest.
const DEFAULT_COMMAND_LINE: &str = "console=ttyS0 panic=-1";
/// What is added to it where a program runs: its output isn't to drown in the kernel's messages.
const QUIET: &str = "quiet";

/// What the help says after the options.
const MORE_HELP: &str = "\
The console is the terminal. Ctrl-A x ends the guest; Ctrl-A twice is Ctrl-A for the guest.

Exit status:
  0        the guest switched itself off, or Ctrl-A x was typed
  With --program, that of the program, or
  126      the guest can't run the program
  128 + N  signal N killed the program
  And with every guest
  1        something else went wrong, and stderr says what
  2        the command line makes no sense
  121      the store is damaged
  122      the guest reset itself (a reboot, or a panic), or switched itself off without a word about its program
  123      KVM can't go on with the guest
  124      the memory is too small for the kernel and its initial file system
  125      no KVM that can run a kernel, or the guest couldn't be confined
  126      the kernel can't be booted
  127      there is no such kernel
  128 + N  signal N ended cairn

Examples:
  cairn boot --kernel vmlinuz --initrd initrd.img --disk debian.qcow2 --append 'console=ttyS0 root=/dev/vda1'
  cairn boot --kernel vmlinuz --modules modules --memory 512M --program ./static-program its arguments";

/// Options of `cairn boot`.
#[derive(Args, Debug)]
#[command(max_term_width = 100, after_help = MORE_HELP)]
pub(crate) struct Boot {
    /// The kernel: a distribution's vmlinuz, unmodified.
    #[arg(long, value_name = "VMLINUZ")]
    kernel: PathBuf,
    /// Its initial file system.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line [default: "console=ttyS0 panic=-1", with --program also "quiet"].
    #[arg(long, value_name = "ARGS")]
    append: Option<String>,
    /// A disk: a raw or qcow2 image. The guest finds them as /dev/vda, /dev/vdb, ... With ro it can't write.
    #[arg(long, value_name = "FILE[:ro]")]
    disk: Vec<OsString>,
    /// The guest's memory. It costs the host what the guest touches.
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_MEMORY)]
    memory: Size,
    /// Virtual CPUs.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(MOST_CPUS)))]
    cpus: u8,
    /// Checkpoint devices: so many programs of the guest can have a session at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=i64::from(MOST_SESSIONS)))]
    sessions: u8,
    /// Checkpoints that a session can roll back to.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_HISTORY, value_parser = crate::run::history)]
    history: usize,
    /// How the pages that programs wrote are found: auto and bitmap are the same here, KVM's dirty bitmap.
    #[arg(long, value_name = "TRACKER", default_value = "auto", value_parser = tracker)]
    tracker: OnlyBitmap,
    /// Memory for the checkpoints of a session that can be rolled back to, beside a copy of the newest: when they need more, the
    /// oldest go. A checkpoint that needs more alone fails, and none goes [default: as much as --memory].
    #[arg(long, value_name = "SIZE")]
    history_memory: Option<Size>,
    /// Threads that work on a large checkpoint or rollback; they sleep otherwise [default: one for each core, at
    /// most 8].
    #[arg(long, value_name = "N", value_parser = crate::run::threads)]
    threads: Option<NonZeroUsize>,
    /// What `cairn ps` calls the guest [default: the program's own name, or the kernel's].
    #[arg(long, value_name = "NAME")]
    name: Option<GuestName>,
    #[command(flatten)]
    store: StoreOptions,
    /// Kernel modules to load before the program runs: all that are in this directory.
    #[arg(long, value_name = "DIR", requires = "program")]
    modules: Option<PathBuf>,
    /// Run this static ELF with the arguments behind it, in a guest of nothing but the kernel, and then end.
    #[arg(long, value_name = "ELF [ARG]", num_args = 1.., allow_hyphen_values = true)]
    program: Vec<OsString>,
}

impl Boot {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let config = self.config()?;
        let ended = linux::run(&config)?;
        let pauses = ended.pauses;
        tracing::info!(
            "vCPUs were held {} times, {} us in all, {} us the longest",
            pauses.count,
            pauses.total_ns / 1000,
            pauses.longest_ns / 1000
        );
        Ok(ExitCode::from(status(&ended, config.program.is_some())))
    }

    fn config(self) -> Result<LinuxConfig> {
        if MOST_DISKS < self.disk.len() {
            bail!("{} disks are more than the {MOST_DISKS} that a guest can have", self.disk.len());
        }
        let mut program = self.program.into_iter();
        let program = program.next().map(|name| ProgramConfig {
            program: name.into(),
            arguments: program.collect(),
            modules: self.modules,
        });
        let command_line = self.append.unwrap_or_else(|| match program {
            Some(_) => format!("{DEFAULT_COMMAND_LINE} {QUIET}"),
            None => DEFAULT_COMMAND_LINE.to_owned(),
        });
        let of_file =
            || GuestName::of_program(program.as_ref().map_or(&self.kernel, |program| &program.program));
        Ok(LinuxConfig {
            name: self.name.unwrap_or_else(of_file),
            kernel: self.kernel,
            initrd: self.initrd,
            command_line,
            disks: self.disk.iter().map(|text| disk(text)).collect(),
            memory: self.memory.0,
            cpus: self.cpus,
            sessions: self.sessions,
            history: NonZeroUsize::new(self.history).context("--history must be at least 1")?,
            history_memory: self.history_memory.map(|size| size.0),
            threads: self.threads,
            store: self.store.config()?,
            program,
        })
    }
}

/// A Linux guest's pages move under the program, and only the bitmap can follow single frames.
#[derive(Clone, Copy, Debug)]
struct OnlyBitmap;

fn tracker(text: &str) -> Result<OnlyBitmap, String> {
    match text {
        "auto" | "bitmap" => Ok(OnlyBitmap),
        _ => Err("a Linux guest is tracked by KVM's dirty bitmap alone: write bitmap or auto".to_owned()),
    }
}

/// FILE or FILE:ro.
fn disk(text: &OsStr) -> DiskConfig {
    match text.as_bytes().strip_suffix(b":ro") {
        Some(image) => DiskConfig { image: OsStr::from_bytes(image).into(), read_only: true },
        None => DiskConfig { image: text.into(), read_only: false },
    }
}

/// The exit status, after a message where it isn't the program's own.
fn status(ended: &LinuxEnded, had_program: bool) -> u8 {
    match (&ended.end, &ended.report) {
        (LinuxEnd::Signal(signal), _) => signal_status(*signal as i32),
        (LinuxEnd::Quit, _) => 0,
        (_, Some(Report::Exited(status))) => *status,
        (_, Some(Report::Killed(signal))) => {
            tell!("cairn: the program was killed by signal {signal}");
            signal_status(i32::from(*signal))
        }
        (_, Some(Report::Failed(text))) => {
            tell!("cairn: the guest can't run the program: {text}");
            exit::NOT_RUNNABLE
        }
        (LinuxEnd::Off, None) if had_program => {
            tell!("cairn: the guest switched itself off without a word about the program");
            exit::GUEST_RESET
        }
        (LinuxEnd::Off, None) => 0,
        (LinuxEnd::Reset, None) => {
            tell!("cairn: the guest reset itself: a reboot, or a panic, of which its console tells");
            exit::GUEST_RESET
        }
    }
}

fn signal_status(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}
