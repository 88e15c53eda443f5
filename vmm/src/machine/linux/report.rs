//! What the first program of a guest says of the one that it ran: lines on the second serial port.
//!
//! ```text
//!   cairn-init: exited N
//!   cairn-init: killed SIGNAL
//!   cairn-init: failed TEXT
//! ```

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// What each line of the protocol begins with.
const PREFIX: &str = "cairn-init: ";
/// Bytes of a line that are looked at. Bounds what a guest that ends no line can make us keep.
const MAX_LINE: usize = 1024;

/// How the program ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// It exited with this status.
    Exited(u8),
    /// The signal with this number killed it.
    Killed(u8),
    /// It could not be run.
    Failed(String),
}

/// The first report of a guest, which stands.
#[derive(Clone, Debug, Default)]
pub struct Reports(Arc<Mutex<Option<Report>>>);

impl Reports {
    /// The report, if there is one by now.
    #[must_use]
    pub fn first(&self) -> Option<Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the serial port's output goes.
    #[must_use]
    pub fn writer(&self) -> ReportWriter {
        ReportWriter { reports: self.clone(), line: Vec::new() }
    }
}

/// Takes the serial port's output apart.
#[derive(Debug)]
pub struct ReportWriter {
    reports: Reports,
    line: Vec<u8>,
}

impl Write for ReportWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.line.len() < MAX_LINE => self.line.push(*byte),
                _ => {}
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ReportWriter {
    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        if let Some(report) = parse(line.trim_end()) {
            let mut first = self.reports.0.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(report);
        }
        self.line.clear();
    }
}

fn parse(line: &str) -> Option<Report> {
    let (what, rest) = line.strip_prefix(PREFIX)?.split_once(' ')?;
    match what {
        "exited" => rest.parse().ok().map(Report::Exited),
        "killed" => rest.parse().ok().filter(|signal| (1..=64).contains(signal)).map(Report::Killed),
        "failed" => Some(Report::Failed(printable(rest))),
        _ => None,
    }
}

/// A guest's text without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(output: &str) -> Option<Report> {
        let reports = Reports::default();
        let mut writer = reports.writer();
        for byte in output.bytes() {
            writer.write_all(&[byte]).unwrap();
        }
        reports.first()
    }

    #[test]
    fn the_first_report_stands() {
        assert_eq!(
            report("noise\r\ncairn-init: exited 3\r\ncairn-init: exited 0\n"),
            Some(Report::Exited(3))
        );
        assert_eq!(report("cairn-init: killed 11\n"), Some(Report::Killed(11)));
        let failed = Report::Failed("no /bin/x: ENOENT?".to_owned());
        assert_eq!(report("cairn-init: failed no /bin/x: ENOENT\u{1b}\n"), Some(failed));
    }

    #[test]
    fn what_is_no_report_is_none() {
        for output in [
            "cairn-init: exited 3",
            "cairn-init: exited 256\n",
            "cairn-init: exited -1\n",
            "cairn-init: killed 0\n",
            "cairn-init: killed 65\n",
            "cairn-init: exited\n",
            " cairn-init: exited 0\n",
            "\n\u{0}\n",
        ] {
            assert_eq!(report(output), None, "{output:?}");
        }
        assert_eq!(
            report(&format!("{}\ncairn-init: exited 1\n", "x".repeat(MAX_LINE * 3))),
            Some(Report::Exited(1))
        );
    }
}
