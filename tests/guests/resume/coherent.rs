//! Files that the program has mapped and changes by write(2): the mapping shows it.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cairn_tests::random::Random;

use super::{PAGE, say};

/// Pages of the file when it's mapped, and at most.
const PAGES: usize = 24;
const MOST_PAGES: usize = 32;
/// Writes in a round.
const WRITES: u64 = 6;

/// A mapping of all of the file that there may be.
struct Mapped(usize);

impl Mapped {
    fn new(file: &File, rights: i32, kind: i32) -> Option<Self> {
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping where the kernel likes.
        let start = unsafe { libc::mmap(null, MOST_PAGES * PAGE, rights, kind, file.as_raw_fd(), 0) };
        (start != libc::MAP_FAILED).then(|| Self(start.expose_provenance()))
    }

    fn word(&self, page: usize) -> *mut u64 {
        std::ptr::with_exposed_provenance_mut(self.0 + page * PAGE + 8 * (page % 512))
    }

    fn read(&self, page: usize) -> u64 {
        // SAFETY: the page is mapped as long as `self` lives, and the file has it.
        unsafe { self.word(page).read_volatile() }
    }

    fn write(&self, page: usize, value: u64) {
        // SAFETY: as for reading; this is called for a mapping that can be written.
        unsafe { self.word(page).write_volatile(value) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let start = std::ptr::with_exposed_provenance_mut(self.0);
        // SAFETY: this program's own mapping, to which no reference is left.
        unsafe { libc::munmap(start, MOST_PAGES * PAGE) };
    }
}

/// A file, its mappings, and what each page of it has.
struct Subject {
    file: File,
    readable: Mapped,
    writable: Mapped,
    private: Mapped,
    /// A mapping of a file that has no descriptor any more.
    detached: Mapped,
    values: Vec<u64>,
    /// What the private mapping had.
    seen: Vec<u64>,
}

impl Subject {
    fn new(path: &Path) -> Option<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).ok()?;
        file.set_len((PAGES * PAGE) as u64).ok()?;
        let read_only = File::open(path).ok()?;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let detached = Mapped::new(&File::open(path).ok()?, libc::PROT_READ, libc::MAP_SHARED)?;
        if path.starts_with("/tmp") {
            // One without a name.
            std::fs::remove_file(path).ok()?;
        }
        Some(Self {
            readable: Mapped::new(&read_only, libc::PROT_READ, libc::MAP_SHARED)?,
            writable: Mapped::new(&file, rights, libc::MAP_SHARED)?,
            private: Mapped::new(&read_only, libc::PROT_READ, libc::MAP_PRIVATE)?,
            detached,
            values: vec![0; PAGES],
            seen: vec![0; PAGES],
            file,
        })
    }

    /// Stores a larger value by one of the ways there are.
    fn store(&mut self, random: &mut Random, value: u64) -> bool {
        let page = usize::try_from(random.below(self.values.len() as u64 + 1)).unwrap_or(0);
        if page == self.values.len() {
            if page == MOST_PAGES || self.file.set_len(((page + 1) * PAGE) as u64).is_err() {
                return page == MOST_PAGES;
            }
            self.values.push(0);
            self.seen.push(0);
        }
        self.values[page] = value;
        if random.below(3) == 0 {
            self.writable.write(page, value);
            return true;
        }
        self.file.write_all_at(&value.to_le_bytes(), (page * PAGE + 8 * (page % 512)) as u64).is_ok()
    }

    /// What is wrong, if anything is.
    fn check(&mut self) -> Option<String> {
        for (page, value) in self.values.iter().enumerate() {
            let mut read = [0; 8];
            let at = (page * PAGE + 8 * (page % 512)) as u64;
            self.file.read_exact_at(&mut read, at).ok()?;
            let shared = [&self.readable, &self.writable, &self.detached].map(|mapping| mapping.read(page));
            // It may show the file's bytes of any time, but never older ones than it did.
            let private = self.private.read(page);
            if u64::from_le_bytes(read) != *value
                || shared != [*value; 3]
                || !(self.seen[page]..=*value).contains(&private)
            {
                let seen = self.seen[page];
                return Some(format!(
                    "page {page} is {value}, read as {}, mapped as {shared:?}, privately as {private} after {seen}",
                    u64::from_le_bytes(read)
                ));
            }
            self.seen[page] = private;
        }
        None
    }
}

/// Changes the files of these names in all ways, and looks at them in all ways.
pub(crate) fn run(rounds: u64) -> bool {
    let subjects: Option<Vec<Subject>> =
        std::env::args_os().skip(3).map(|path| Subject::new(Path::new(&path))).collect();
    let Some(mut subjects) = subjects else {
        say("the files can't be made or mapped");
        return false;
    };
    let mut random = Random(17);
    for round in 0..rounds {
        for (number, subject) in subjects.iter_mut().enumerate() {
            for write in 0..WRITES {
                if !subject.store(&mut random, round * WRITES + write + 1) {
                    say(&format!("round {round}: file {number} can't be written"));
                    return false;
                }
            }
            if let Some(wrong) = subject.check() {
                say(&format!("round {round}, file {number}: {wrong}"));
                return false;
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(3));
        if round % 10 == 0 {
            let sum: u64 = subjects.iter().flat_map(|subject| &subject.values).sum();
            say(&format!("round {round} {sum}"));
        }
    }
    true
}
