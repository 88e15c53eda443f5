//! What runs inside the nested bed. The bed's first process is this very program (see `main`), so that both sides
//! share one definition of where things are and how results come back.

mod emulator;
pub(crate) mod init;
pub(crate) mod job;
pub(crate) mod report;
pub(crate) mod suite;

/// Path of the program that the kernel starts.
pub(crate) const INIT: &str = "/init";
/// Directory of what the workspace built; the first of PATH.
pub(crate) const BUILT: &str = "/cairn";
/// Directory of the test targets that need KVM.
pub(crate) const TESTS: &str = "/cairn/tests";
/// Directory of the programs for Linux guests, statically linked.
pub(crate) const STATIC: &str = "/cairn/static";
/// Directory of the kernels for guests, one directory for each series.
pub(crate) const KERNELS: &str = "/kernels";
/// Modules that init loads, in the order of their names.
pub(crate) const MODULES: &str = "/bed/modules";
/// What init runs: a [`job::Job`].
pub(crate) const JOB: &str = "/bed/job";
/// Files that the job leaves here come back to the host.
pub(crate) const OUT: &str = "/out";
/// The Linux guests' checkpoints on disk, which end with the bed.
pub(crate) const STORE: &str = "/store";

/// The job's standard input, output and error. (The first port is the kernel's console.)
pub(crate) const TERMINAL_PORT: &str = "/dev/ttyS1";
/// Where the [`report`] leaves the bed.
pub(crate) const REPORT_PORT: &str = "/dev/ttyS2";

/// The CPU of the bed that its job isn't let onto: the first.
///
/// QEMU keeps a CPU's state of virtualization (nested paging on, interrupts let through) in a word, `hflags2`, that only
/// the CPU's own thread changes, and without a lock. But whichever CPU loads floating-point state, which kernels do at
/// most switches of threads, also clears a bit in the *first* CPU's word (`cpu_set_fpus` calls `cpu_clear_ignne`, in
/// target/i386/tcg). One of two changes at the same time is lost. When that is the one by which an exit on the first CPU
/// turns nested paging off, the next instruction, the one behind VMRUN, can't be fetched, and QEMU takes that for an
/// exit of the guest too: it saves the registers of the bed's kernel as the guest's. The guest then resets or stands
/// still at an address of kvm_amd, and the bed's kernel may break as well. QEMU 7.2 and 10.0 are alike in it.
///
/// A QEMU that reports it showed this where an app guest stood still, and [`emulator`] brings it about: a guest on the
/// first CPU that does nothing but exit breaks within seconds while another CPU executes FXRSTOR, and on any other CPU
/// never did. So no guest runs on the first CPU.
pub(crate) const KEPT_CPU: usize = 0;
/// What a kernel says that QEMU broke in another way. Kernels patch their own code while it runs, through a breakpoint. A
/// QEMU before 8.1 may keep a translation from the middle of that (it takes the lock on the page after it has read the
/// code), and another CPU then runs into a breakpoint that is no longer there. Seen in about one start out of twenty.
pub(crate) const BROKEN_PATCH: &str = "Oops: int3: ";
/// How often a machine is started that broke in that way. Nothing else is tried twice.
pub(crate) const TRIES: usize = 3;
