//! A program that is killed and brought back while it runs, and must not notice: each mode prints lines that depend on
//! all that it has done, and ends with 1 when something isn't as it left it.

mod coherent;
mod mapped;
mod tree;

use std::arch::asm;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cairn_tests::pages::PAGE;
use cairn_tests::random::Random;

/// Pages that one mapping has at most.
const MOST_PAGES: u64 = 48;
/// Mappings that the walk has at most at once.
const MOST_MAPPINGS: usize = 40;
/// Turns of the loop between two looks at the registers.
const TURNS: u64 = 40_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let rounds: u64 = arguments.get(2).and_then(|text| text.parse().ok()).unwrap_or(10);
    let held = match arguments.get(1).map(String::as_str) {
        Some("registers") => registers(rounds),
        Some("memory") => memory(rounds),
        Some("time") => time(rounds),
        Some("mapped") => mapped::run(rounds),
        Some("coherent") => coherent::run(rounds),
        Some("tree") => tree::run(rounds),
        _ => false,
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).expect("standard output takes a line");
}

/// What the loop starts with, and what is left of it.
#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(C, align(16))]
struct Registers {
    vectors: [[u64; 2]; 16],
    general: [u64; 8],
    stack: [f64; 3],
    vector_control: u32,
    control: u16,
}

/// Keeps values in registers for a long time, and looks at them.
fn registers(rounds: u64) -> bool {
    let mut random = Random(7);
    for round in 0..rounds {
        let before = Registers {
            vectors: std::array::from_fn(|_| [random.bits(), random.bits()]),
            general: std::array::from_fn(|_| random.bits()),
            stack: [1.5, -2.25, 3.0e300],
            // Rounding towards zero, and flushing; rounding up, 53 bits.
            vector_control: 0x1f80 | 0x6000 | 0x8000,
            control: 0x0a7f,
        };
        let mut after = Registers { vectors: [[0; 2]; 16], general: [0; 8], stack: [0.0; 3], ..before };
        // SAFETY: both structures live on; all registers that are changed are named or saved, and the control words
        // are what Rust expects again before anything else runs.
        unsafe { hold(&before, &mut after) };
        if before != after {
            say(&format!("round {round}: {before:x?} became {after:x?}"));
            return false;
        }
        say(&format!("round {round} {:x}", after.general[3]));
    }
    true
}

/// Loads, turns, and stores.
///
/// # Safety
/// None but that the arguments are valid, which references are.
unsafe fn hold(before: &Registers, after: &mut Registers) {
    // SAFETY: as the caller says; the offsets are those of `Registers` (repr(C)): vectors at 0, general at 256, the
    // stack at 320, the control words at 344 and 348. The x87 stack is empty before and after.
    unsafe {
        asm!(
            "sub rsp, 16",
            "stmxcsr [rsp]",
            "fnstcw [rsp + 8]",
            "ldmxcsr [rdi + 344]",
            "fldcw [rdi + 348]",
            "fld qword ptr [rdi + 320]",
            "fld qword ptr [rdi + 328]",
            "fld qword ptr [rdi + 336]",
            "movaps xmm0, [rdi]", "movaps xmm1, [rdi + 16]", "movaps xmm2, [rdi + 32]", "movaps xmm3, [rdi + 48]",
            "movaps xmm4, [rdi + 64]", "movaps xmm5, [rdi + 80]", "movaps xmm6, [rdi + 96]", "movaps xmm7, [rdi + 112]",
            "movaps xmm8, [rdi + 128]", "movaps xmm9, [rdi + 144]", "movaps xmm10, [rdi + 160]",
            "movaps xmm11, [rdi + 176]", "movaps xmm12, [rdi + 192]", "movaps xmm13, [rdi + 208]",
            "movaps xmm14, [rdi + 224]", "movaps xmm15, [rdi + 240]",
            "mov r8, [rdi + 256]", "mov r9, [rdi + 264]", "mov r10, [rdi + 272]", "mov r11, [rdi + 280]",
            "mov r12, [rdi + 288]", "mov r13, [rdi + 296]", "mov r14, [rdi + 304]", "mov r15, [rdi + 312]",
            "2:",
            "dec rcx",
            "jnz 2b",
            "mov [rsi + 256], r8", "mov [rsi + 264], r9", "mov [rsi + 272], r10", "mov [rsi + 280], r11",
            "mov [rsi + 288], r12", "mov [rsi + 296], r13", "mov [rsi + 304], r14", "mov [rsi + 312], r15",
            "movaps [rsi], xmm0", "movaps [rsi + 16], xmm1", "movaps [rsi + 32], xmm2", "movaps [rsi + 48], xmm3",
            "movaps [rsi + 64], xmm4", "movaps [rsi + 80], xmm5", "movaps [rsi + 96], xmm6", "movaps [rsi + 112], xmm7",
            "movaps [rsi + 128], xmm8", "movaps [rsi + 144], xmm9", "movaps [rsi + 160], xmm10",
            "movaps [rsi + 176], xmm11", "movaps [rsi + 192], xmm12", "movaps [rsi + 208], xmm13",
            "movaps [rsi + 224], xmm14", "movaps [rsi + 240], xmm15",
            "fstp qword ptr [rsi + 336]",
            "fstp qword ptr [rsi + 328]",
            "fstp qword ptr [rsi + 320]",
            "stmxcsr [rsi + 344]",
            "fnstcw [rsi + 348]",
            "ldmxcsr [rsp]",
            "fldcw [rsp + 8]",
            "add rsp, 16",
            in("rdi") std::ptr::from_ref(before),
            in("rsi") std::ptr::from_mut(after),
            inout("rcx") TURNS => _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
}

/// A mapping and what its pages hold: the number in every word, 0 for zeros.
struct Mapping {
    start: usize,
    rights: i32,
    pages: Vec<u64>,
}

impl Mapping {
    fn bytes(&self) -> usize {
        self.pages.len() * PAGE
    }

    fn word(&self, page: usize, word: usize) -> *mut u64 {
        std::ptr::with_exposed_provenance_mut(self.start + page * PAGE + word * 8)
    }

    fn fill(&mut self, page: usize, value: u64) {
        for word in 0..PAGE / 8 {
            // SAFETY: the page is mapped, and writable when this is called.
            unsafe { self.word(page, word).write_volatile(value) };
        }
        self.pages[page] = value;
    }

    fn holds(&self) -> bool {
        self.pages.iter().enumerate().all(|(page, value)| {
            // SAFETY: the pages are mapped, and readable when this is called.
            (0..PAGE / 8).all(|word| unsafe { self.word(page, word).read_volatile() } == *value)
        })
    }

    fn protect(&mut self, rights: i32) -> bool {
        self.rights = rights;
        // SAFETY: a mapping of this program's, of which only these functions know.
        unsafe { libc::mprotect(self.word(0, 0).cast(), self.bytes(), rights) == 0 }
    }
}

const READ: i32 = libc::PROT_READ;
const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// A random walk through mappings, each of whose pages is known.
fn memory(rounds: u64) -> bool {
    let mut random = Random(11);
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut sum = 0_u64;
    for round in 0..rounds {
        for _ in 0..200 {
            let Some(step) = step(&mut random, &mut mappings) else {
                say(&format!("round {round}: memory is not what it was"));
                return false;
            };
            sum = sum.rotate_left(5) ^ step;
        }
        let pages: usize = mappings.iter().map(|mapping| mapping.pages.len()).sum();
        say(&format!("round {round} {} mappings {pages} pages {sum:x}", mappings.len()));
    }
    true
}

/// One step; a number that says what it did, or None when the memory isn't what it should be.
fn step(random: &mut Random, mappings: &mut Vec<Mapping>) -> Option<u64> {
    let choice = random.bits() % 8;
    if mappings.is_empty() || choice == 0 && mappings.len() < MOST_MAPPINGS {
        let count = usize::try_from(1 + random.bits() % MOST_PAGES).ok()?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping where the kernel likes.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), count * PAGE, WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        mappings.push(Mapping { start: start.expose_provenance(), rights: WRITE, pages: vec![0; count] });
        return Some(count as u64);
    }
    let at = usize::try_from(random.bits()).ok()? % mappings.len();
    let mapping = &mut mappings[at];
    let page = usize::try_from(random.bits()).ok()? % mapping.pages.len();
    match choice {
        1 => {
            let gone = mappings.swap_remove(at);
            // SAFETY: as for mprotect; nobody uses it any more.
            (unsafe { libc::munmap(gone.word(0, 0).cast(), gone.bytes()) } == 0).then_some(1)
        }
        2 => {
            let rights = [READ, WRITE, libc::PROT_NONE][usize::try_from(random.bits() % 3).ok()?];
            mapping.protect(rights).then_some(2)
        }
        3 => {
            // SAFETY: the page is this program's, and what it holds is of no interest any more.
            let dropped = unsafe { libc::madvise(mapping.word(page, 0).cast(), PAGE, libc::MADV_DONTNEED) };
            mapping.pages[page] = 0;
            (dropped == 0).then_some(3)
        }
        4 => {
            let count = mapping.pages.len() * 2 % (usize::try_from(MOST_PAGES).ok()? + 1);
            let count = count.max(1);
            // Of one kind, so that it's one mapping for the kernel too.
            if !mapping.protect(WRITE) {
                return None;
            }
            // SAFETY: the mapping is this program's, and its new place is taken over.
            let moved = unsafe {
                libc::mremap(mapping.word(0, 0).cast(), mapping.bytes(), count * PAGE, libc::MREMAP_MAYMOVE)
            };
            mapping.start = moved.expose_provenance();
            mapping.pages.resize(count, 0);
            (moved != libc::MAP_FAILED).then_some(4)
        }
        5 | 6 => {
            let value = random.bits();
            if mapping.rights != WRITE && !mapping.protect(WRITE) {
                return None;
            }
            mapping.fill(page, value);
            Some(value)
        }
        _ => {
            if mapping.rights == libc::PROT_NONE && !mapping.protect(READ) {
                return None;
            }
            mapping.holds().then_some(7)
        }
    }
}

/// Sleeps and looks at the clock, which never goes back and never jumps ahead by the time in which nobody ran it.
fn time(rounds: u64) -> bool {
    const NAP: Duration = Duration::from_millis(150);
    let mut last = Instant::now();
    for round in 0..rounds {
        std::thread::sleep(NAP);
        let now = Instant::now();
        let passed = now.saturating_duration_since(last);
        if passed < NAP || now < last {
            say(&format!("round {round}: only {passed:?} have passed"));
            return false;
        }
        last = now;
        say(&format!("round {round}"));
    }
    true
}
