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
/// Guests also reset or stand still at times, with 7.2 and with 10.0. Of those that stood still KVM's trace showed
/// `kvm_entry` again and again at one address, and no exit, which nothing outside of the kernel can bring about. In one
/// the address looked like one of the bed's own module kvm_amd, as if an event injected at VMRUN had left the guest with
/// the host's instruction pointer. That is a guess, and of the resets nothing is known but that they happen beside it. So
/// such a guest, if its tests found nothing, is started again, and the output says so.
pub(crate) const TRIES: usize = 3;
