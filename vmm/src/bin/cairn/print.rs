//! What a command was asked for, on standard output.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};
use std::process::exit;

use cairn_vmm::tell;
use nix::sys::signal::Signal;

use crate::exit::OTHER;

/// Prints a line on standard output. If that can't be the process ends: nothing else was asked of it.
macro_rules! say {
    ($($text:tt)*) => { $crate::print::line(::std::format_args!($($text)*)) };
}

/// What [`say!`] does.
pub(crate) fn line(text: Arguments<'_>) {
    let mut out = stdout().lock();
    let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        // Whoever reads has had enough. The status is that of programs that SIGPIPE ends.
        exit(128 + Signal::SIGPIPE as i32);
    }
    tell!("cairn: standard output can't be written: {error}");
    exit(OTHER.into());
}
