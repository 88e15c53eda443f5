//! Files read line by line as if they were one, with a position to come back to.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use cairn_guest::region_data;

region_data! {
    /// Where a line begins. It lives in an arena, so that a rollback takes it back together with the counts.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Position {
        /// Lines before this one.
        pub(crate) line: u64,
        /// Bytes before it in its file.
        offset: u64,
        /// Which file it begins in.
        file: usize,
    }
}

/// The texts.
pub(crate) struct Input {
    paths: Vec<PathBuf>,
    reader: BufReader<File>,
    position: Position,
}

impl Input {
    /// Opens the first text, and checks that each can be read again from any place.
    pub(crate) fn open(paths: Vec<PathBuf>) -> Result<Self> {
        for path in &paths {
            let kind = std::fs::metadata(path).with_context(|| format!("{}", path.display()))?;
            if !kind.is_file() {
                bail!("{} is not a regular file: its lines could not be read again", path.display());
            }
        }
        let reader = reader_at(&paths, Position::default())?;
        Ok(Self { paths, reader, position: Position::default() })
    }

    /// Where the next line begins.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Goes on from `position`.
    pub(crate) fn seek(&mut self, position: Position) -> Result<()> {
        self.reader = reader_at(&self.paths, position)?;
        self.position = position;
        Ok(())
    }

    /// Reads the next line into `line`, its end included; false if there is none. A file that does not end with a
    /// newline goes on in the next, as with `cat`.
    pub(crate) fn read_line(&mut self, line: &mut Vec<u8>) -> Result<bool> {
        line.clear();
        loop {
            let read = self
                .reader
                .read_until(b'\n', line)
                .with_context(|| format!("reading {}", self.paths[self.position.file].display()))?;
            self.position.offset += u64::try_from(read)?;
            if line.ends_with(b"\n") {
                break;
            }
            if self.position.file + 1 == self.paths.len() {
                break;
            }
            self.seek(Position { file: self.position.file + 1, offset: 0, ..self.position })?;
        }
        self.position.line += u64::from(!line.is_empty());
        Ok(!line.is_empty())
    }
}

fn reader_at(paths: &[PathBuf], position: Position) -> Result<BufReader<File>> {
    ensure!(position.file < paths.len(), "there is no file number {}", position.file);
    let path = &paths[position.file];
    let mut file = File::open(path).with_context(|| format!("{}", path.display()))?;
    file.seek(SeekFrom::Start(position.offset)).with_context(|| format!("seeking in {}", path.display()))?;
    Ok(BufReader::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &mut Input) -> Vec<String> {
        let (mut all, mut line) = (Vec::new(), Vec::new());
        while input.read_line(&mut line).unwrap() {
            all.push(String::from_utf8(line.clone()).unwrap());
        }
        all
    }

    fn texts(contents: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let directory = tempfile::tempdir().unwrap();
        let write = |(index, text): (usize, &&str)| {
            let path = directory.path().join(index.to_string());
            std::fs::write(&path, text).unwrap();
            path
        };
        let paths = contents.iter().enumerate().map(write).collect();
        (directory, paths)
    }

    #[test]
    fn files_are_one_text() {
        let (_kept, paths) = texts(&["a\nb", "c\n", "", "d"]);
        assert_eq!(lines(&mut Input::open(paths).unwrap()), ["a\n", "bc\n", "d"]);
    }

    #[test]
    fn every_position_leads_back_to_its_line() {
        let (_kept, paths) = texts(&["a\nb", "c\n\n", "d"]);
        let mut input = Input::open(paths).unwrap();
        let (mut places, mut line) = (vec![input.position()], Vec::new());
        while input.read_line(&mut line).unwrap() {
            places.push(input.position());
        }
        let expected = ["a\n", "bc\n", "\n", "d"];
        for (index, place) in places.into_iter().enumerate() {
            input.seek(place).unwrap();
            assert_eq!(input.position().line, index as u64);
            assert_eq!(lines(&mut input), expected[index..]);
        }
    }

    #[test]
    fn what_cannot_be_read_again_is_refused() {
        assert!(Input::open(vec!["/dev/null".into()]).is_err());
        assert!(Input::open(vec!["/no/such/file".into()]).is_err());
        let (_kept, paths) = texts(&["a"]);
        let beyond = Position { file: 1, ..Position::default() };
        assert!(Input::open(paths).unwrap().seek(beyond).is_err());
    }
}
