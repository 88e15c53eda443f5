//! What runs inside the nested bed. The bed's first process is this very program (see `main`), so that both sides
//! share one definition of where things are and how results come back.

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

/// The job's standard input, output and error. (The first port is the kernel's console.)
pub(crate) const TERMINAL_PORT: &str = "/dev/ttyS1";
/// Where the [`report`] leaves the bed.
pub(crate) const REPORT_PORT: &str = "/dev/ttyS2";

/// What a kernel says that QEMU broke. Kernels patch their own code while it runs, through a breakpoint. A QEMU before
/// 8.1 may keep a translation from the middle of that (it takes the lock on the page after it has read the code), and
/// another CPU then runs into a breakpoint that is no longer there. Seen in about one start out of twenty.
pub(crate) const BROKEN_PATCH: &str = "Oops: int3: ";
/// How often a machine is started that QEMU breaks.
///
/// There is another way in which it does, seen with 7.2 and 10.0: where an event that KVM injects at VMRUN meets a page
/// that KVM has just taken or write-protected, the guest is left with the instruction pointer of the host's VMRUN. KVM's
/// trace then shows `kvm_entry` again and again at one address of the module kvm_amd, and no exit; or the guest resets.
/// No CPU does that. So a guest that resets or stands still, and whose tests found nothing, is started again.
pub(crate) const TRIES: usize = 3;
