//! The figures' way out of a guest: one line of its console, with the whole report as JSON.
//!
//! A console carries the kernel's messages, too. The program in the guest turns those down before it writes the line;
//! what is damaged all the same is no JSON, or not that of a whole report, and so is an error and not a figure.

use std::fs;
use std::io::{self, BufRead, Read, Write};

use crate::report::{Report, SCHEMA};

/// What the line with the report begins with.
const MARK: &[u8] = b"cairn-bench: figures ";
/// Bytes that the line may have: bounds what a guest can make us keep. A cell of one engine has some 500.
pub const MAX_REPORT: usize = 8 << 20;
/// Where the kernel is told which of its messages go to the console.
const LOG_LEVEL: &str = "/proc/sys/kernel/printk";
/// Only what precedes a panic.
const SILENT: &str = "1";

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The console can't be read.
    #[error("the guest's console could not be read")]
    Io(#[from] io::Error),
    /// The line is longer than [`MAX_REPORT`].
    #[error("the guest's figures have more than {MAX_REPORT} bytes")]
    TooLong,
    /// The line is no report.
    #[error("the guest's figures were damaged on their way over its console")]
    Damaged(#[source] serde_json::Error),
    /// The guest's program is of another version.
    #[error(
        "the benchmark in the guest writes figures of layout {0}, and this one reads {SCHEMA}: build both from the \
         same sources"
    )]
    Schema(u32),
}

/// Writes the report as a line of its own.
///
/// # Errors
/// The output is gone.
pub fn write(output: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut line = vec![b'\n'];
    line.extend_from_slice(MARK);
    serde_json::to_writer(&mut line, report)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

/// Keeps the kernel's messages off the console from now on, so that none comes into the middle of a line.
///
/// # Errors
/// The program isn't root, or there is no such kernel.
pub fn quiet() -> io::Result<()> {
    fs::write(LOG_LEVEL, SILENT)
}

/// Reads a console to its end: takes the report out, if there is one, and passes all other lines on as they come, to
/// `others`, which gets no control character.
///
/// # Errors
/// [`Unreadable`]. The rest of the console is not read then.
pub fn read(console: &mut impl BufRead, mut others: impl FnMut(&str)) -> Result<Option<Report>, Unreadable> {
    let mut report = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = MAX_REPORT as u64 + 1;
        if console.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(report);
        }
        let text = line.trim_ascii_end();
        match text.strip_prefix(MARK) {
            Some(_) if line.len() > MAX_REPORT => return Err(Unreadable::TooLong),
            Some(json) => report = Some(parse(json)?),
            None if text.is_empty() => {}
            None => others(&printable(text)),
        }
    }
}

fn parse(json: &[u8]) -> Result<Report, Unreadable> {
    let report: Report = serde_json::from_slice(json).map_err(Unreadable::Damaged)?;
    if report.schema == SCHEMA { Ok(report) } else { Err(Unreadable::Schema(report.schema)) }
}

/// A guest's text without what a terminal would obey.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().map(|letter| if letter.is_control() && letter != '\t' { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Poll, Tracker};
    use crate::host::Host;

    fn report() -> Report {
        Report::new(Host::look(1), Poll::Never, Tracker::Auto)
    }

    fn line() -> Vec<u8> {
        let mut line = Vec::new();
        write(&mut line, &report()).unwrap();
        line
    }

    /// What is read of a console, and the other lines.
    fn read_all(mut console: &[u8]) -> (Result<Option<Report>, Unreadable>, Vec<String>) {
        let mut others = Vec::new();
        let report = read(&mut console, |line| others.push(line.to_owned()));
        (report, others)
    }

    #[test]
    fn the_report_is_taken_out_of_all_that_a_console_says() {
        let mut console = b"cairn-init: hello\r\nhot of 64 MiB: fork".to_vec();
        // As a terminal sends it.
        console.extend(String::from_utf8(line()).unwrap().replace('\n', "\r\n").bytes());
        console.extend(b"[    9.1] reboot: \x1b[31mPower down\n\nno end");
        let (read, others) = read_all(&console);
        assert_eq!(read.unwrap(), Some(report()));
        assert_eq!(
            others,
            ["cairn-init: hello", "hot of 64 MiB: fork", "[    9.1] reboot: ?[31mPower down", "no end"]
        );
    }

    #[test]
    fn a_console_without_figures_has_no_report() {
        assert_eq!(read_all(b"").0.unwrap(), None);
        assert_eq!(read_all(b"Kernel panic\n\xff\xfe\n").0.unwrap(), None);
    }

    #[test]
    fn a_report_that_is_cut_off_or_mixed_up_is_an_error() {
        let whole = line();
        for cut in [whole.len() - 3, whole.len() / 2, MARK.len() + 2] {
            assert!(matches!(read_all(&whole[..cut]).0, Err(Unreadable::Damaged(_))), "{cut}");
        }
        let mut mixed = whole.clone();
        let middle = whole.len() / 2;
        mixed.splice(middle..middle, *b"[   12.0] BUG: something\r\n");
        assert!(matches!(read_all(&mixed).0, Err(Unreadable::Damaged(_))));
    }

    #[test]
    fn figures_of_another_layout_are_refused() {
        let mut other = Vec::new();
        write(&mut other, &Report { schema: SCHEMA + 1, ..report() }).unwrap();
        assert!(matches!(read_all(&other).0, Err(Unreadable::Schema(_))));
    }

    #[test]
    fn a_line_is_read_up_to_the_limit_and_no_further() {
        let mut line = line().trim_ascii().to_vec();
        line.resize(MAX_REPORT, b' ');
        assert!(read_all(&line).0.unwrap().is_some());
        line.push(b' ');
        assert!(matches!(read_all(&line).0, Err(Unreadable::TooLong)));
        // A long line that is none comes in pieces.
        assert_eq!(read_all(&vec![b'x'; MAX_REPORT + 2]).1.len(), 2);
    }
}
