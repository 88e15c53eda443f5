//! `cairn doctor`: what KVM is here, what it can do, and what things cost on it.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use cairn_vmm::checkpoint::Freezer;
use cairn_vmm::kvm::system::{DEVICE, Kind, KvmError, System};
use cairn_vmm::kvm::vm::WriteLog;
use cairn_vmm::machine::engine_probe;
use cairn_vmm::machine::host_costs::{HostFigures, MeasureError, TrackerFigures};
use cairn_vmm::machine::probe::{self, Costs, ProbeError};
use cairn_vmm::machine::tracking::Comparison;
use clap::Args;
use kvm_ioctls::Cap;

use crate::exit;

/// Options of `cairn doctor`: none. It exits with 125 when guests can't run here.
#[derive(Args, Debug)]
pub(crate) struct Doctor {}

impl Doctor {
    pub(crate) fn run(self) -> Result<ExitCode> {
        print_host();
        let code = match System::open() {
            Ok(system) => {
                print_kvm(&system);
                match probe::measure(&system, WriteLog::Bitmap) {
                    Ok(costs) => {
                        print_costs(&costs);
                        print_tracker(&system)?;
                    }
                    Err(ProbeError::Kvm(error)) => return Ok(fail(&error)),
                    Err(error) => return Err(error.into()),
                }
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        };
        print_engine()?;
        Ok(code)
    }
}

fn print_host() {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    line("kernel", &release.unwrap_or_else(|_| "unknown".to_owned()));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let polling = if 1 < cores { "one is spare for polling" } else { "none is spare, so polling stays off" };
    line("cores", &format!("{cores} ({polling})"));
    let huge = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let advice = if huge.contains("[never]") {
        "never: first touches cost more; \"madvise\" in /sys/kernel/mm/transparent_hugepage/enabled is better"
    } else {
        "on for guest memory"
    };
    line("large pages", advice);
}

fn print_kvm(system: &System) {
    let kind = match System::kind() {
        Kind::Vmx => "Intel VT-x",
        Kind::Svm => "AMD-V",
        Kind::Software => {
            "software (no VT-x or AMD-V here): app guests run at full speed, exits and faults are dear, \
             and no guest kernel can run"
        }
    };
    line(DEVICE, "usable");
    line("kind", kind);
    line("memory slots", &system.capability(Cap::NrMemslots).to_string());
    let buffered = if System::logs_in_buffer() {
        ", by a buffer of the CPU (PML), or /sys/module doesn't tell: requests are never polled for"
    } else {
        ""
    };
    line("dirty log", &format!("bitmap with manual protection{buffered}"));
    let ring = system.capability(Cap::DirtyLogRing);
    let copying = match Freezer::open() {
        Ok(_) => "while the program runs (userfaultfd)".to_owned(),
        Err(error) => format!(
            "at once, as checkpoint() does: no userfaultfd for writes of the kernel ({error}); it needs Linux 6.4 \
             and root, rights on /dev/userfaultfd or vm.unprivileged_userfaultfd=1"
        ),
    };
    line("checkpoint_async", &format!("copies {copying}"));
    line("dirty ring", &if ring == 0 { "no".to_owned() } else { format!("up to {} entries", ring / 16) });
}

fn print_costs(costs: &Costs) {
    let us = |nanoseconds: u64| format!("{:.2} us", nanoseconds as f64 / 1000.0);
    line("exit", &format!("{} (a notification)", us(costs.exit_ns)));
    line("system call", &format!("{} by an exit", us(costs.call_ns)));
    match costs.posted_call_ns {
        Some(posted) => line("polled call", &format!("{} answered by a thread that polls", us(posted))),
        None => line("polled call", "no: each system call is an exit here"),
    }
    let clock = if costs.counts { "read without an exit" } else { "each look is a system call" };
    line("clock", clock);
    line("first touch", &format!("{} a page", us(costs.first_touch_ns)));
}

fn print_tracker(system: &System) -> Result<(), MeasureError> {
    let start = Instant::now();
    let figures = HostFigures::measure(system)?;
    let took = start.elapsed();
    print_log("by bitmap", &figures.bitmap);
    if let Some(ring) = &figures.ring {
        print_log("by ring", ring);
    }
    line("tracker", &Comparison::new(&figures).to_string());
    line(
        "measured in",
        &format!("{:.1} ms (the first guest after the host's start does it)", took.as_secs_f64() * 1e3),
    );
    if let Some(file) = figures.keep() {
        line("kept", &format!("these figures, until the host starts again, in {}", file.display()));
    }
    Ok(())
}

fn print_log(what: &str, log: &TrackerFigures) {
    let us = |nanoseconds: u32| f64::from(nanoseconds) / 1000.0;
    let TrackerFigures { fault_ns, protect_ns, protect_call_ns, collect_ns } = *log;
    let found = format!(
        "write fault {:.2} us, protect {:.2} us a page and {:.2} us a call, read the log {:.2} us",
        us(fault_ns),
        us(protect_ns),
        us(protect_call_ns),
        us(collect_ns)
    );
    line(what, &found);
}

fn print_engine() -> Result<()> {
    let costs = engine_probe::measure()?;
    let us = |nanoseconds: u64| format!("{:.2} us a page", nanoseconds as f64 / 1000.0);
    line("compare", &format!("{} ({})", us(costs.compare_ns), costs.instructions));
    line("compare, a word", &format!("{} in which one word changed", us(costs.word_ns)));
    line("compare, all", &format!("{} that changed as a whole", us(costs.copy_ns)));
    Ok(())
}

fn fail(error: &KvmError) -> ExitCode {
    line(DEVICE, &error.to_string());
    line("instead", "programs that link guest-lib run without cairn, on the best user-level engine");
    ExitCode::from(exit::NO_KVM)
}

fn line(what: &str, found: &str) {
    say!("{what:<16} {found}");
}
