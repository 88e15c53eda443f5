//! Words for people on standard error. Nobody may be listening there, and the disk that it goes to may be full: that
//! must end no guest, as it would with the standard library's macros, which panic.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Prints a line on standard error, or doesn't where that can't be.
#[macro_export]
macro_rules! tell {
    ($($text:tt)*) => { $crate::host::output::tell(::std::format_args!($($text)*)) };
}

/// What [`tell!`](crate::tell) does. The line is written at once, so that those of several processes don't mix.
pub fn tell(text: Arguments<'_>) {
    let _ = Log.write_all(format!("{text}\n").as_bytes());
}

/// Standard error, of which no error is known.
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
