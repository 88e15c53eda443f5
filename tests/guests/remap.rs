//! Guest program: which ranges are one mapping to mremap, and what is where afterwards. It prints the same natively, on a
//! kernel that counts memory which was never written as it was before when it is made read-only again (6.5).

use std::io;
use std::ptr;

use cairn_tests::pages::PAGE;

/// Pages of a scene's mapping, with nothing behind.
const PAGES: usize = 8;
/// Pages before it, of another kind.
const BEFORE: usize = 4;
/// Pages that are free behind it.
const BEHIND: usize = 32;

const NONE: i32 = libc::PROT_NONE;
const READ: i32 = libc::PROT_READ;
const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Memory, by its pages.
struct Scene {
    start: *mut u8,
}

impl Scene {
    fn new(rights: i32) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let all = map(ptr::null_mut(), BEFORE + PAGES + BEHIND, NONE, flags);
        map(all, BEFORE, READ, libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
        let start = map(all.wrapping_add(BEFORE * PAGE), PAGES, rights, flags | libc::MAP_FIXED);
        let scene = Self { start };
        scene.unmap(PAGES, BEHIND);
        scene
    }

    /// One whose pages hold their numbers.
    fn filled() -> Self {
        let scene = Self::new(WRITE);
        for page in 0..PAGES {
            // SAFETY: the page was just mapped, to be written, and nobody else knows of it.
            unsafe { scene.page(page).cast::<u64>().write_volatile(100 + page as u64) };
        }
        scene
    }

    fn page(&self, page: usize) -> *mut u8 {
        self.start.wrapping_add(page * PAGE)
    }

    fn protect(self, page: usize, pages: usize, rights: i32) -> Self {
        // SAFETY: memory to which there is no reference.
        assert_eq!(unsafe { libc::mprotect(self.page(page).cast(), pages * PAGE, rights) }, 0);
        self
    }

    fn unmap(&self, page: usize, pages: usize) {
        // SAFETY: memory to which there is no reference.
        assert_eq!(unsafe { libc::munmap(self.page(page).cast(), pages * PAGE) }, 0);
    }

    fn without(self, page: usize) -> Self {
        self.unmap(page, 1);
        self
    }

    /// Makes `from` pages `to` pages, there or, if `to_place`, elsewhere.
    fn remap(self, what: &str, from: usize, to: usize, to_place: bool) -> Self {
        let flags = libc::MREMAP_MAYMOVE | if to_place { libc::MREMAP_FIXED } else { 0 };
        let place = map(ptr::null_mut(), PAGES + BEHIND, NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: neither memory has a reference.
        let moved = unsafe { libc::mremap(self.start.cast(), from * PAGE, to * PAGE, flags, place) };
        if moved == libc::MAP_FAILED {
            println!("{what}: {}", io::Error::last_os_error());
            return self;
        }
        let scene = Self { start: moved.cast() };
        let pages: Vec<String> = (0..to.max(from)).map(|page| scene.holds(page)).collect();
        println!("{what}: {}", pages.join(" "));
        scene
    }

    /// What a page holds; changes its rights to find out.
    fn holds(&self, page: usize) -> String {
        let at = self.page(page);
        // SAFETY: memory to which there is no reference, or none at all.
        if unsafe { libc::mprotect(at.cast(), PAGE, READ) } != 0 {
            return "-".to_owned();
        }
        // SAFETY: it can be read now.
        unsafe { at.cast::<u64>().read_volatile() }.to_string()
    }
}

fn map(at: *mut u8, pages: usize, rights: i32, flags: i32) -> *mut u8 {
    // SAFETY: a new mapping, or one over memory of this program's to which there is no reference.
    let start = unsafe { libc::mmap(at.cast(), pages * PAGE, rights, flags, -1, 0) };
    assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    start.cast()
}

fn main() {
    let lent = |rights| Scene::new(rights).protect(2, 2, WRITE).protect(2, 2, rights);
    for (name, rights) in [("nothing", NONE), ("read-only", READ)] {
        lent(rights).remap(
            &format!("{name}, a part was writable and never written: longer"),
            PAGES,
            12,
            false,
        );
        lent(rights).remap(&format!("{name}, a part was writable and never written: moved"), PAGES, 8, true);
        lent(rights).remap(
            &format!("{name}, a part was writable and never written: shorter"),
            PAGES,
            3,
            true,
        );
    }
    let narrowed = || Scene::filled().protect(2, 2, READ);
    narrowed().protect(2, 2, WRITE).remap("narrowed and back: longer", PAGES, 12, false);
    narrowed().protect(2, 2, WRITE).remap("narrowed and back: moved", PAGES, 9, true);
    narrowed().remap("two kinds: longer", PAGES, 12, false);
    narrowed().remap("two kinds: the same", PAGES, PAGES, false);
    narrowed().remap("two kinds: shorter", PAGES, 3, false);
    narrowed().remap("two kinds: the first kind's pages elsewhere", PAGES, 2, true);
    narrowed().remap("two kinds: both kinds' pages elsewhere", PAGES, 3, true);
    Scene::filled().without(4).remap("with a gap: longer", PAGES, 12, false);
    Scene::filled().without(4).remap("with a gap: the same", PAGES, PAGES, false);
    Scene::filled().without(4).remap("with a gap: shorter", PAGES, 6, false);
    Scene::filled().without(4).remap("with a gap: what is before it elsewhere", PAGES, 4, true);
    Scene::filled().remap("beyond the end: shorter", PAGES + 4, 3, false);
    Scene::filled().remap("beyond the end: longer", PAGES + 4, PAGES + 6, false);
    Scene::filled().without(0).remap("without a beginning", PAGES, 3, false);
    // What it grows by was never writable.
    let read_only = Scene::filled().protect(0, PAGES, READ);
    read_only.remap("read-only: longer", PAGES, 10, false).remap("read-only: longer again", 10, 12, false);
}
