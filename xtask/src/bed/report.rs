//! What comes back from the bed over its third serial port: files, and at the end how the job ended.
//!
//! Each record is a line, and after the line of a file its bytes:
//!
//! ```text
//!     begin job           the machine is up
//!     file LENGTH NAME
//!     status NUMBER       the job's exit status, or 128 and the number of the signal that killed it
//!     error TEXT          the job could not be run
//! ```

use std::io::{self, Write};

use anyhow::{Context, Result, bail, ensure};

/// What a whole report says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Names and contents, in the order of their arrival.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// The exit status, or why there was none to be had.
    pub(crate) end: Result<u8, String>,
}

/// # Errors
/// `out` can't be written.
pub(crate) fn write_begin(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"begin job\n")
}

/// # Errors
/// `out` can't be written.
pub(crate) fn write_file(out: &mut dyn Write, name: &str, content: &[u8]) -> io::Result<()> {
    writeln!(out, "file {} {name}", content.len())?;
    out.write_all(content)
}

/// # Errors
/// `out` can't be written.
pub(crate) fn write_end(out: &mut dyn Write, end: &Result<u8, String>) -> io::Result<()> {
    match end {
        Ok(status) => writeln!(out, "status {status}"),
        Err(text) => writeln!(out, "error {}", text.replace('\n', " ")),
    }
}

/// Reads a report; none if it has no end, because the bed ended first.
///
/// # Errors
/// It is none.
pub(crate) fn read(mut bytes: &[u8]) -> Result<Option<Report>> {
    let mut files = Vec::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(&bytes[..end]).context("a report's line is no text")?;
        bytes = &bytes[end + 1..];
        let (kind, rest) = line.split_once(' ').context("a report's line has one word only")?;
        match kind {
            "begin" => {}
            "status" => return Ok(Some(Report { files, end: Ok(rest.parse().context("a status")?) })),
            "error" => return Ok(Some(Report { files, end: Err(rest.to_owned()) })),
            "file" => {
                let (length, name) = rest.split_once(' ').context("a file without a name")?;
                let length: usize = length.parse().context("a file's length")?;
                // Names become paths on the host.
                ensure!(!name.contains('/') && name != "..", "{name:?} is no name for a file");
                let Some((content, after)) = bytes.split_at_checked(length) else { return Ok(None) };
                files.push((name.to_owned(), content.to_vec()));
                bytes = after;
            }
            other => bail!("a report has no {other:?}"),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_journey_and_a_part_of_it_is_none() {
        let mut bytes = Vec::new();
        write_begin(&mut bytes).unwrap();
        write_file(&mut bytes, "empty", b"").unwrap();
        write_file(&mut bytes, "result.json", b"{\n}\n").unwrap();
        write_end(&mut bytes, &Ok(3)).unwrap();
        let files = vec![("empty".to_owned(), vec![]), ("result.json".to_owned(), b"{\n}\n".to_vec())];
        assert_eq!(read(&bytes).unwrap(), Some(Report { files, end: Ok(3) }));
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]).unwrap(), None, "{length}");
        }
        let mut bytes = Vec::new();
        write_end(&mut bytes, &Err("no\nKVM".to_owned())).unwrap();
        assert_eq!(read(&bytes).unwrap().unwrap().end, Err("no KVM".to_owned()));
    }

    #[test]
    fn garbage_is_an_error() {
        for bad in ["word\n", "status x\n", "file 3\n", "file x y\n", "file 0 ../y\n", "other 1\n"] {
            assert!(read(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
