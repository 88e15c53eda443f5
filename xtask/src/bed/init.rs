//! The first process of the bed: prepares the machine, runs the job, reports, and turns the machine off.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context, Result, bail};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use nix::kmod::ModuleInitFlags;
use nix::mount::MsFlags;
use nix::sched;
use nix::sys::reboot::RebootMode;
use nix::sys::termios::{self, BaudRate, OutputFlags, SetArg};
use nix::sys::wait::{WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

use super::job::{Job, Terminal};
use super::report;

/// File systems that programs expect: type and place.
const MOUNTS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
];
/// The job's environment.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("CAIRN_BUILT", super::BUILT),
    ("CAIRN_TEST_KVM", "1"),
    ("HOME", "/root"),
    ("LC_ALL", "C.UTF-8"),
    ("PATH", "/cairn:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("RUST_BACKTRACE", "1"),
    ("TERM", "xterm-256color"),
];
/// Where the job starts.
const HOME: &str = "/root";
/// MODULE_INIT_COMPRESSED_FILE of linux/module.h: the kernel decompresses the module itself.
const COMPRESSED_FILE: u32 = 4;

/// Does everything; the machine is off after it.
pub(crate) fn run() -> ! {
    let end = prepare()
        .and_then(|()| leave_kept_cpu())
        .and_then(|()| hold_kvm())
        .and_then(|_held| job())
        .map_err(|error| format!("{error:#}"));
    if let Err(error) = report(&end) {
        // The console is all that is left to say it.
        eprintln!("bed: the report can't be sent: {error:#}");
    }
    let Err(error) = nix::sys::reboot::reboot(RebootMode::RB_POWER_OFF);
    panic!("the machine can't be turned off: {error}");
}

fn prepare() -> Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place).with_context(|| format!("creating {place}"))?;
        nix::mount::mount(Some(*kind), *place, Some(*kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {place}"))?;
    }
    for directory in ["/run", "/tmp", "/var/tmp", HOME, super::OUT] {
        fs::create_dir_all(directory).with_context(|| format!("creating {directory}"))?;
    }
    nix::unistd::sethostname("bed").context("giving the machine its name")?;
    let mut modules = fs::read_dir(super::MODULES)
        .context("listing the modules")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<PathBuf>>>()?;
    modules.sort();
    modules.iter().try_for_each(|module| load(module))
}

/// Takes this process, and with it all that it starts, off the CPU where no guest may run.
fn leave_kept_cpu() -> Result<()> {
    let leave = || {
        let itself = Pid::from_raw(0);
        let mut cpus = sched::sched_getaffinity(itself)?;
        cpus.unset(super::KEPT_CPU)?;
        sched::sched_setaffinity(itself, &cpus)
    };
    leave().context("the bed has no CPU for guests")
}

/// Machines that stay while the job runs, so that no machine of the job is the first or the last of its kind.
///
/// At the first and the last, KVM switches branches in the running kernel's code, and QEMU may break that: see
/// [`super::BROKEN_PATCH`].
struct Held {
    _vcpus: [VcpuFd; 2],
    _vms: [VmFd; 2],
}

fn hold_kvm() -> Result<Held> {
    let hold = || -> Result<Held, kvm_ioctls::Error> {
        let kvm = Kvm::new()?;
        // Without a local APIC, as in an app guest, and with one that is off, as before a kernel's start.
        let vms = [kvm.create_vm()?, kvm.create_vm()?];
        vms[1].create_irq_chip()?;
        Ok(Held { _vcpus: [vms[0].create_vcpu(0)?, vms[1].create_vcpu(0)?], _vms: vms })
    };
    hold().context("the bed's KVM can't make a machine")
}

fn load(module: &Path) -> Result<()> {
    let compressed = module.extension() == Some(OsStr::new("xz"));
    let flags = if compressed { COMPRESSED_FILE } else { 0 };
    let file = File::open(module).with_context(|| format!("opening {}", module.display()))?;
    nix::kmod::finit_module(&file, c"", ModuleInitFlags::from_bits_retain(flags))
        .with_context(|| format!("loading {}", module.display()))
}

/// Runs the job; its exit status.
fn job() -> Result<u8> {
    let job = Job::decode(&fs::read(super::JOB).context("reading the job")?)?;
    let [program, arguments @ ..] = job.words.as_slice() else { bail!("the job names no program") };
    let port = port(super::TERMINAL_PORT, job.terminal)?;
    report::write_begin(&mut self::port(super::REPORT_PORT, Terminal::Raw)?)
        .context("telling of the start")?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(ENVIRONMENT.iter().copied())
        .current_dir(HOME)
        .stdin(port.try_clone()?)
        .stdout(port.try_clone()?)
        .stderr(port.try_clone()?)
        .spawn()
        .with_context(|| format!("{} can't be run", program.display()))?;
    let status = wait(&child)?;
    // What the port still holds would be lost with the machine. Opened anew: the end of a session of its own, such
    // as a shell's, hangs up what was open.
    let port = self::port(super::TERMINAL_PORT, job.terminal)?;
    termios::tcdrain(&port).context("waiting for the terminal's port")?;
    Ok(shell_status(status))
}

/// Opens a serial port at its highest speed.
fn port(path: &str, terminal: Terminal) -> Result<File> {
    let open = || -> Result<File> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut settings = termios::tcgetattr(&file)?;
        match terminal {
            Terminal::Raw => termios::cfmakeraw(&mut settings),
            // The person's own terminal, at the other end, does that.
            Terminal::Interactive => settings.output_flags.remove(OutputFlags::ONLCR),
        }
        termios::cfsetspeed(&mut settings, BaudRate::B115200)?;
        termios::tcsetattr(&file, SetArg::TCSANOW, &settings)?;
        Ok(file)
    };
    open().with_context(|| format!("opening {path}"))
}

/// Waits for the job, and buries what it leaves behind: orphans are the first process's children.
fn wait(child: &Child) -> Result<ExitStatus> {
    let job = Pid::from_raw(i32::try_from(child.id()).context("the job's number")?);
    loop {
        match nix::sys::wait::waitpid(None, Some(WaitPidFlag::empty())).context("waiting for the job")? {
            WaitStatus::Exited(pid, code) if pid == job => return Ok(ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(pid, signal, _) if pid == job => {
                return Ok(ExitStatus::from_raw(signal as i32));
            }
            _ => {}
        }
    }
}

/// As shells say it.
fn shell_status(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX)
}

fn report(end: &Result<u8, String>) -> Result<()> {
    let mut port = port(super::REPORT_PORT, Terminal::Raw)?;
    if let Ok(listing) = fs::read_dir(super::OUT) {
        for entry in listing {
            let path = entry?.path();
            let name = path.file_name().context("a file without a name")?.to_string_lossy().into_owned();
            let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            report::write_file(&mut port, &name, &content)?;
        }
    }
    report::write_end(&mut port, end)?;
    port.flush()?;
    termios::tcdrain(&port).context("waiting for the report's port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_as_a_shell_says_them() {
        assert_eq!(shell_status(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(shell_status(ExitStatus::from_raw(9)), 128 + 9);
    }
}
