//! Running the one program that the initramfs is for.

use core::ffi::CStr;

use crate::message::{Failure, say};
use crate::sys::{self, Errno, Fd, STANDARD, Strings};

/// Where the builder of the initramfs puts the program's path and arguments, each ended by a NUL.
const ARGUMENTS: &CStr = c"/cairn/arguments";
/// Bytes of that file. The builder has the same bound, less the end of the list.
const ARGUMENTS_MAX: usize = 128 << 10;
/// Arguments, the program's path among them.
const ARGUMENT_COUNT_MAX: usize = 4096;

/// What every program gets.
const ENVIRONMENT: [&CStr; 3] = [
    c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    c"HOME=/root",
    // What a serial terminal is to agetty.
    c"TERM=vt220",
];

/// How the program ended.
pub enum End {
    /// By itself, with a code.
    Exited(u32),
    /// By a signal.
    Killed(u32),
    /// It never began.
    Failed(Failure),
}

/// Runs the program and waits for its end. Orphans, which become children of the first process, are waited
/// for meanwhile, so that none stays a zombie.
pub fn run() -> End {
    let mut buffer = [0; ARGUMENTS_MAX];
    let child = match start(&mut buffer) {
        Ok(child) => child,
        Err(failure) => return End::Failed(failure),
    };
    loop {
        match sys::wait() {
            Ok((ended, status)) if ended == child => break end(status),
            Ok(_) => {}
            Err(errno) => break End::Failed(Failure::new("waiting for the program of", ARGUMENTS, errno)),
        }
    }
}

fn end(status: u32) -> End {
    match status & 0x7f {
        0 => End::Exited(status >> 8 & 0xff),
        signal => End::Killed(signal),
    }
}

/// Starts the program. Returns when it runs, with its process's id.
fn start(buffer: &mut [u8; ARGUMENTS_MAX]) -> Result<usize, Failure> {
    let arguments = read_arguments(buffer)?;
    let path = CStr::from_bytes_until_nul(arguments).unwrap_or(c"");
    let list = list(arguments).ok_or_else(|| Failure::new("reading", ARGUMENTS, sys::E2BIG))?;
    let fail = |errno| Failure::new("starting", path, errno);
    // The console becomes the terminal of our session, so that Ctrl-C reaches the program and a shell has job
    // control. Not of a session of the program's own: at the end of a session's first process the kernel hangs
    // its terminal up, and what the program said last would be lost. A console that is no terminal can't be one;
    // the program runs all the same.
    if let Err(errno) = sys::new_session().and_then(|()| sys::take_terminal(STANDARD[0])) {
        say(&Failure::new("making the terminal of the program of", crate::CONSOLE, errno));
    }
    // A byte of the child's errno comes through it, or its end when the child has become the program.
    let (told, tell) = sys::pipe().map_err(fail)?;
    let child = sys::fork().map_err(fail)?;
    if child == 0 {
        become_program(path, &list, tell);
    }
    sys::close(tell);
    let mut errno = [0];
    let answer = loop {
        match sys::read(told, &mut errno) {
            Err(sys::EINTR) => {}
            answer => break answer,
        }
    };
    sys::close(told);
    match answer {
        Ok(0) => Ok(child),
        Ok(_) => Err(Failure::new("starting", path, Errno(i32::from(errno[0])))),
        Err(errno) => Err(fail(errno)),
    }
}

fn become_program(path: &CStr, arguments: &Strings<'_, { ARGUMENT_COUNT_MAX + 1 }>, tell: Fd) -> ! {
    let mut environment = Strings::<{ ENVIRONMENT.len() + 1 }>::new();
    for variable in ENVIRONMENT {
        environment.push(variable);
    }
    let errno = sys::execute(path, arguments, &environment);
    // Every errno that execve can have is below 256.
    let _ = sys::write(tell, &[u8::try_from(errno.0).unwrap_or(u8::MAX)]);
    sys::exit(127)
}

fn read_arguments(buffer: &mut [u8; ARGUMENTS_MAX]) -> Result<&[u8], Failure> {
    let fail = |errno| Failure::new("reading", ARGUMENTS, errno);
    let file = sys::open(ARGUMENTS, sys::READ | sys::CLOSE_ON_EXEC).map_err(fail)?;
    let mut len = 0;
    loop {
        match sys::read(file, buffer.get_mut(len..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(sys::EINTR) => {}
            Err(errno) => return Err(fail(errno)),
        }
    }
    sys::close(file);
    match buffer.get(..len) {
        Some(bytes) if len < ARGUMENTS_MAX && bytes.ends_with(&[0]) => Ok(bytes),
        _ => Err(fail(sys::E2BIG)),
    }
}

fn list(mut bytes: &[u8]) -> Option<Strings<'_, { ARGUMENT_COUNT_MAX + 1 }>> {
    let mut list = Strings::new();
    while let Ok(argument) = CStr::from_bytes_until_nul(bytes) {
        if !list.push(argument) {
            return None;
        }
        bytes = bytes.get(argument.to_bytes_with_nul().len()..).unwrap_or_default();
    }
    Some(list)
}
