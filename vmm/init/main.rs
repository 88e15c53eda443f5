//! The first process of a Linux guest that runs one program: `cairn boot --program`.
//!
//! A static program without std, so that it needs nothing but a kernel. It mounts what programs expect,
//! loads the modules of the initramfs, runs the program, reports its end to the monitor and powers off.
#![no_std]
#![no_main]

mod message;
mod modules;
mod program;
mod sys;

use message::{Failure, say};
use program::End;
use sys::{Fd, STANDARD};

/// Where messages and the program's standard streams go.
const CONSOLE: &core::ffi::CStr = c"/dev/console";
/// Where the monitor reads how the program ended: the second serial port.
const REPORT: &core::ffi::CStr = c"/dev/ttyS1";

/// What is mounted where, with which options. In order: some are below others.
const MOUNTS: [(&core::ffi::CStr, &core::ffi::CStr, &core::ffi::CStr); 7] = [
    (c"devtmpfs", c"/dev", c"mode=0755"),
    (c"devpts", c"/dev/pts", c"mode=0620,ptmxmode=0666"),
    (c"tmpfs", c"/dev/shm", c"mode=1777"),
    (c"proc", c"/proc", c""),
    (c"sysfs", c"/sys", c""),
    (c"securityfs", c"/sys/kernel/security", c""),
    (c"tmpfs", c"/tmp", c"mode=1777"),
];

/// The first Rust function, with an aligned stack.
extern "C" fn start() -> ! {
    for (what, place, options) in MOUNTS {
        mount(what, place, options);
    }
    // The kernel opened the initramfs's console, if there was one. devtmpfs has today's.
    if let Err(failure) = open_console() {
        say(&failure);
    }
    modules::load_all();
    let end = program::run();
    if let End::Failed(failure) = &end {
        say(failure);
    }
    // What the program said on the console comes before its end.
    let _ = sys::drain(STANDARD[1]);
    if let Err(failure) = report(&end) {
        say(&failure);
    }
    power_off()
}

/// Mounts a file system. A kernel may be built without one of them, and the program may not need it: that's
/// said, and the start goes on.
fn mount(what: &core::ffi::CStr, place: &core::ffi::CStr, options: &core::ffi::CStr) {
    match sys::make_directory(place) {
        // In sysfs no directory can be made; mounting tells whether it's there.
        Ok(()) | Err(sys::EEXIST) | Err(sys::EPERM) => {}
        Err(errno) => say(&Failure::new("making the directory", place, errno)),
    }
    match sys::mount(what, place, options) {
        // EBUSY: the kernel mounted it itself.
        Ok(()) | Err(sys::EBUSY) => {}
        Err(errno) => say(&Failure::new("mounting", place, errno)),
    }
}

fn open_console() -> Result<(), Failure> {
    let fail = |errno| Failure::new("opening", CONSOLE, errno);
    let console = sys::open(CONSOLE, sys::READ_WRITE | sys::NO_TERMINAL).map_err(fail)?;
    for fd in STANDARD {
        if fd.0 != console.0 {
            sys::duplicate(console, fd).map_err(fail)?;
        }
    }
    if STANDARD.iter().all(|fd| fd.0 != console.0) {
        sys::close(console);
    }
    Ok(())
}

/// Tells the monitor how the program ended, and waits until it has it.
fn report(end: &End) -> Result<(), Failure> {
    let port: Fd = sys::open(REPORT, sys::WRITE | sys::NO_TERMINAL)
        .map_err(|errno| Failure::new("opening the monitor's serial port", REPORT, errno))?;
    let mut line = message::Line::new();
    line.text(b"cairn-init: ");
    match end {
        End::Exited(code) => line.text(b"exited ").number(*code),
        End::Killed(signal) => line.text(b"killed ").number(*signal),
        End::Failed(failure) => failure.write_to(line.text(b"failed ")),
    };
    line.text(b"\n");
    sys::write(port, line.bytes())
        .and_then(|()| sys::drain(port))
        .map_err(|errno| Failure::new("reporting the program's end on", REPORT, errno))
}

fn power_off() -> ! {
    sys::sync();
    let errno = sys::power_off();
    say(&Failure::new("powering off by", c"reboot", errno));
    // The kernel panics at the end of its first process, which ends the machine too if it's told so.
    sys::exit(1)
}

/// A bug of the init. Tells, and ends the machine, as nobody else would.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    let end = End::Failed(Failure::new("panicking in", c"/init", sys::EIO));
    if let End::Failed(failure) = &end {
        say(failure);
    }
    let _ = report(&end);
    power_off()
}
