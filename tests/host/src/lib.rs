//! What tests ask the host for without the code that they test, and how they tell what they leave out on it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// Environment variable that names a file to which [`skipped`] appends a line. libtest shows nothing of what a test that
/// passes prints.
pub const SKIPS: &str = "CAIRN_SKIPS";

/// `UFFDIO_API` of linux/userfaultfd.h.
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `USERFAULTFD_IOC_NEW` there, which makes a userfaultfd from the device.
const IOC_NEW: libc::c_ulong = 0xaa00;
/// `UFFD_API` there.
const UFFD_API: u64 = 0xaa;
/// `UFFD_FEATURE_PAGEFAULT_FLAG_WP` and `UFFD_FEATURE_WP_UNPOPULATED` there: writers of pages wait, also of those that
/// aren't there.
const PROTECTS: u64 = 1 | 1 << 13;
/// `UFFD_FEATURE_WP_ASYNC` there: nobody waits, and the kernel notes who wrote.
const NOTES_WRITES: u64 = 1 << 15;
/// `UFFD_USER_MODE_ONLY` there.
const USER_MODE_ONLY: libc::c_int = 1;

/// Tells that the running test, or a part of it, is left out on this host, and why.
///
/// # Panics
/// When the file that is to tell it can't be written: what is left out must not stay unknown.
pub fn skipped(reason: &str) {
    let program = std::env::current_exe().unwrap_or_default();
    let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Cargo adds a hash to the target's name.
    let target = program.rsplit_once('-').map_or(program.as_str(), |(target, _)| target);
    let thread = std::thread::current();
    let line = format!("{target} {}: {}\n", thread.name().unwrap_or("?"), reason.trim());
    eprint!("skipped: {line}");
    if let Some(path) = std::env::var_os(SKIPS) {
        let file = OpenOptions::new().append(true).create(true).open(path);
        // One write, so that lines of tests that run at once stay whole.
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the file of skipped tests takes a line");
    }
}

/// Whether a program or file of the host is there; if not, it's told as [`skipped`].
#[must_use]
pub fn is_there(path: &str) -> bool {
    let there = Path::new(path).exists();
    if !there {
        skipped(&format!("there is no {path}"));
    }
    there
}

/// Whether this process may hold off writers of pages by userfaultfd, and the kernel among them (Linux 6.4).
#[must_use]
pub fn holds_writers() -> bool {
    privileged().is_ok_and(|fd| has(&fd, PROTECTS))
}

/// Whether this process may bring missing pages by userfaultfd, also to the kernel.
#[must_use]
pub fn serves_missing_pages() -> bool {
    privileged().is_ok_and(|fd| has(&fd, 0))
}

/// Whether the kernel notes by userfaultfd what this process writes (Linux 6.7).
#[must_use]
pub fn notes_writes() -> bool {
    userfaultfd(USER_MODE_ONLY).is_ok_and(|fd| has(&fd, PROTECTS | NOTES_WRITES))
}

/// Whether the CPU's time stamp counter runs at one rate always, and the kernel offers it as a clock.
#[must_use]
pub fn counter_is_a_clock() -> bool {
    let about = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let offered = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/available_clocksource");
    about.split_whitespace().any(|flag| flag == "nonstop_tsc")
        && offered.is_ok_and(|offered| offered.split_whitespace().any(|name| name == "tsc"))
}

/// The first two numbers of the kernel's release.
///
/// # Panics
/// Where /proc doesn't tell them.
#[must_use]
pub fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux tells its release");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    numbers.next().zip(numbers.next()).expect("a release begins with two numbers")
}

/// A userfaultfd for faults of the kernel too: by the right to it, or by the device.
fn privileged() -> io::Result<OwnedFd> {
    userfaultfd(0).or_else(|_| {
        let device = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd")?;
        // SAFETY: the argument is the new descriptor's flags, not a pointer.
        own(i64::from(unsafe { libc::ioctl(device.as_raw_fd(), IOC_NEW, libc::O_CLOEXEC) }))
    })
}

fn userfaultfd(flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call takes an integer and makes a descriptor.
    own(unsafe { libc::syscall(libc::SYS_userfaultfd, flags | libc::O_CLOEXEC) })
}

fn own(result: i64) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the kernel has just made it, for this caller.
        Ok(fd) if 0 <= fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the kernel gives a new userfaultfd these features.
fn has(fd: &OwnedFd, features: u64) -> bool {
    // `struct uffdio_api`: the API, features, and a place for what it can do.
    let mut api = [UFFD_API, features, 0];
    // SAFETY: the kernel reads and writes the three words, which live through the call.
    unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variable is of the whole process: a process of its own has it.
    #[test]
    #[ignore = "skips itself; run by another"]
    fn skips_itself() {
        skipped("on purpose\n");
        assert!(!is_there("/no/such/program"));
    }

    #[test]
    fn what_is_skipped_is_told() {
        let file = std::env::temp_dir().join(format!("cairn-skips-{}", std::process::id()));
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["tests::skips_itself", "--exact", "--ignored"]).env(SKIPS, &file);
        assert!(again.output().unwrap().status.success());
        let told = fs::read_to_string(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(
            told,
            "cairn_test_host tests::skips_itself: on purpose\n\
             cairn_test_host tests::skips_itself: there is no /no/such/program\n"
        );
    }

    #[test]
    fn what_the_host_has_is_what_its_kernel_is_old_enough_for() {
        for (has, since) in [(holds_writers(), (6, 4)), (notes_writes(), (6, 7))] {
            assert!(!has || since <= kernel(), "before Linux {since:?}");
        }
        assert!(serves_missing_pages() || !holds_writers());
    }
}
