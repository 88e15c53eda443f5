//! Files that are mapped while the program runs, of which most pages are touched for the first time much later.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use cairn_tests::random::Random;

use super::{PAGE, say};

/// Mappings that there are at most.
const MOST: usize = 12;
/// Pages of one at most: a checkpoint has all of them.
const MOST_PAGES: usize = 64;
/// Pages of one that are looked at in a round.
const LOOKS: usize = 3;

/// A file's first bytes, mapped privately.
struct Mapped {
    start: usize,
    pages: usize,
}

impl Mapped {
    fn new(file: &File) -> Option<Self> {
        let pages = usize::try_from(file.metadata().ok()?.len()).ok()? / PAGE;
        let pages = pages.min(MOST_PAGES);
        let flags = libc::MAP_PRIVATE;
        // SAFETY: a new mapping where the kernel likes, of a file that nobody changes.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), pages * PAGE, libc::PROT_READ, flags, file.as_raw_fd(), 0)
        };
        (start != libc::MAP_FAILED).then(|| Self { start: start.expose_provenance(), pages })
    }

    fn page(&self, page: usize) -> &[u8] {
        let start = std::ptr::with_exposed_provenance(self.start + page * PAGE);
        // SAFETY: the page is mapped as long as `self` lives, and nobody writes to it.
        unsafe { std::slice::from_raw_parts(start, PAGE) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let start = std::ptr::with_exposed_provenance_mut(self.start);
        // SAFETY: this program's own mapping, to which no reference is left.
        unsafe { libc::munmap(start, self.pages * PAGE) };
    }
}

/// Maps the file that the third argument names again and again, and compares single pages of all mappings with what
/// is read.
pub(crate) fn run(rounds: u64) -> bool {
    let file = std::env::args_os().nth(3).and_then(|path| File::open(path).ok());
    let Some(file) = file else {
        say("the file can't be opened");
        return false;
    };
    let mut random = Random(13);
    let mut all = Vec::new();
    for round in 0..rounds {
        if all.len() == MOST {
            let gone = all.swap_remove(usize::try_from(random.below(MOST as u64)).unwrap_or(0));
            drop(gone);
        }
        let Some(mapped) = Mapped::new(&file) else { return false };
        all.push(mapped);
        std::thread::sleep(std::time::Duration::from_millis(5));
        for (at, mapped) in all.iter().enumerate() {
            for _ in 0..LOOKS {
                let page = usize::try_from(random.below(mapped.pages as u64)).unwrap_or(0);
                let mut read = vec![0; PAGE];
                if file.read_exact_at(&mut read, (page * PAGE) as u64).is_err() || mapped.page(page) != read {
                    say(&format!("round {round}: page {page} of mapping {at} isn't the file's"));
                    return false;
                }
            }
        }
        say(&format!("round {round}"));
    }
    true
}
