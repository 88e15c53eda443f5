//! The page in which the program's system calls are posted, so that another thread answers them without
//! an exit; and the stub that posts them.
//!
//! Both sides see one page: the stub at CPL 3 as the program that called it, the VMM as atomics. The
//! program can write to all of it at any time, so that nothing there is believed: a posted call is one
//! that it could make by an exit too, and an answer goes to nobody but itself.
//!
//! ```text
//!             stub                         VMM, with the process locked
//!   idle ───────────> posted ───────────────> taken ────> answered   the stub returns
//!    ^                  │                        └──────> declined   the stub exits
//!    └── the stub gave up and has exited: withdrawn ──┘
//! ```
//!
//! The stub keeps what the system call ABI keeps: all registers but rax, rcx and r11, the flags, and
//! the program's stack with its red zone, of which it uses nothing. It posts only while the VMM says
//! how long it may look for an answer, and gives up after that: a VMM whose thread got no core costs
//! the program a bounded time.

mod handover;
#[cfg(test)]
mod handover_tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::host::mapping::Reservation;
use crate::memory::layout::{PAGE, SYSCALL_GAVE_UP, SYSCALL_PORT};

pub use handover::{Handover, Lock, Word, Words};

/// How often the stub looks for the answer before it gives up. With the pause between two looks that is
/// 30 to 200 us on CPUs of today: several exits' worth, so that only long calls and a VMM without a core
/// reach it.
pub const LOOKS: u64 = 4096;

// Offsets of the words. Those that both sides write are one cache line of 64 bytes.
const STATE: u64 = 0;
/// The call's number, and then its answer.
const NUMBER: u64 = 8;
const ARGUMENTS: u64 = 16;
/// How often to look; 0 when nobody answers. The VMM's to write.
const LOOKS_WORD: u64 = 64;
/// What the stub keeps for itself: the number, the return address, the program's stack pointer.
const KEPT_NUMBER: u64 = 128;
const KEPT_RETURN: u64 = 136;
const KEPT_STACK: u64 = 144;
/// The end of the stub's stack, on which it sets the flags.
const STACK_END: u64 = PAGE;

const IDLE: u64 = 0;
const POSTED: u64 = 1;
const TAKEN: u64 = 2;
const ANSWERED: u64 = 3;
const DECLINED: u64 = 4;

/// The page, in the system span.
#[derive(Clone, Debug)]
pub struct SystemPage {
    system: Arc<Reservation>,
    start: u64,
}

/// The VMM's side of the page.
#[derive(Clone, Debug)]
pub struct CallPage<P = SystemPage> {
    words: P,
}

/// What became of a call whose stub gave up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Posted {
    /// Nobody took it.
    Untouched,
    /// It was answered just now.
    Answered(u64),
    /// It has to be served by an exit, or the program wrote something else there.
    Declined,
}

impl SystemPage {
    /// The page at offset `start` of the system span.
    #[must_use]
    pub fn new(system: Arc<Reservation>, start: u64) -> Self {
        Self { system, start }
    }
}

impl<P: Words> CallPage<P> {
    /// The page with these words.
    #[must_use]
    pub fn new(words: P) -> Self {
        Self { words }
    }

    /// Tells the stub whether somebody answers.
    pub fn offer(&self, offered: bool) {
        self.word(LOOKS_WORD).store(if offered { LOOKS } else { 0 }, Ordering::Release);
    }

    /// Whether a call seems to be posted.
    #[must_use]
    pub fn is_posted(&self) -> bool {
        self.word(STATE).load(Ordering::Relaxed) == POSTED
    }

    /// Takes the posted call: its number and arguments, each read once.
    #[must_use]
    pub fn take(&self) -> Option<(u64, [u64; 6])> {
        if !self.word(STATE).change(POSTED, TAKEN, Ordering::Acquire) {
            return None;
        }
        let read = |offset| self.word(offset).load(Ordering::Relaxed);
        Some((read(NUMBER), std::array::from_fn(|index| read(ARGUMENTS + index as u64 * 8))))
    }

    /// Answers the call that was taken.
    pub fn answer(&self, value: u64) {
        self.word(NUMBER).store(value, Ordering::Relaxed);
        self.word(STATE).store(ANSWERED, Ordering::Release);
    }

    /// Has the call that was taken made by an exit.
    pub fn decline(&self) {
        self.word(STATE).store(DECLINED, Ordering::Release);
    }

    /// The stub has exited: what became of the call until then. From now on it isn't posted.
    #[must_use]
    pub fn withdraw(&self) -> Posted {
        match self.word(STATE).swap(IDLE, Ordering::Acquire) {
            POSTED => Posted::Untouched,
            ANSWERED => Posted::Answered(self.word(NUMBER).load(Ordering::Relaxed)),
            _ => Posted::Declined,
        }
    }

    fn word(&self, offset: u64) -> &P::Word {
        self.words.word(offset)
    }
}

// Registers by their numbers in instructions (Intel SDM volume 2, table 3-1).
const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RSP: u8 = 4;
const RSI: u8 = 6;
const RDI: u8 = 7;
const R8: u8 = 8;
const R9: u8 = 9;
const R10: u8 = 10;

/// The stub's instructions, for the guest-virtual address `at`, with the page at `page`.
#[must_use]
pub fn stub(at: u64, page: u64) -> Vec<u8> {
    let mut code = Code { bytes: Vec::new(), at, page };
    code.store(RCX, KEPT_RETURN);
    // The trap flag set: a program that single-steps itself is to stop behind its SYSCALL, not in here.
    code.bytes([0x41, 0x0f, 0xba, 0xe3, 0x08]); // bt $8, %r11d
    let stepped = code.jump([0x72]); // jc
    code.load(RCX, LOOKS_WORD);
    let nobody = code.jump([0xe3]); // jrcxz
    code.store(RAX, KEPT_NUMBER);
    code.store(RAX, NUMBER);
    for (register, index) in [RDI, RSI, RDX, R10, R8, R9].into_iter().zip(0..) {
        code.store(register, ARGUMENTS + index * 8);
    }
    code.set_rax(POSTED);
    code.store(RAX, STATE);
    let look = code.here();
    code.bytes([0xf3, 0x90]); // pause
    code.load(RAX, STATE);
    code.bytes([0x83, 0xf8, low_byte(ANSWERED)]); // cmp $ANSWERED, %eax
    let answered = code.jump([0x74]); // je
    code.bytes([0x83, 0xf8, low_byte(DECLINED)]); // cmp $DECLINED, %eax
    let declined = code.jump([0x74]); // je
    code.jump_back(0xe2, look); // loop
    code.land(declined);
    code.load(RAX, KEPT_NUMBER);
    code.load(RCX, KEPT_RETURN);
    code.exit(SYSCALL_GAVE_UP);
    code.land(stepped);
    code.land(nobody);
    code.load(RCX, KEPT_RETURN);
    code.exit(SYSCALL_PORT);
    code.land(answered);
    code.load(RAX, NUMBER);
    // Popping is the way to set all flags as SYSCALL found them, its own and those that comparing
    // changed. Not on the program's stack: it keeps data below the stack pointer.
    code.store(RSP, KEPT_STACK);
    code.load_address(RSP, STACK_END);
    code.bytes([0x41, 0x53, 0x9d]); // push %r11; popfq
    code.load(RSP, KEPT_STACK);
    code.load(RCX, KEPT_RETURN);
    code.bytes([0xff, 0xe1]); // jmp *%rcx
    code.bytes
}

/// Instructions in the making; words of the page are reached relative to the instruction.
struct Code {
    bytes: Vec<u8>,
    at: u64,
    page: u64,
}

/// A jump whose target comes later.
#[derive(Clone, Copy)]
struct Jump(usize);

impl Code {
    fn bytes<const COUNT: usize>(&mut self, bytes: [u8; COUNT]) {
        self.bytes.extend(bytes);
    }

    fn here(&self) -> usize {
        self.bytes.len()
    }

    fn load(&mut self, register: u8, word: u64) {
        self.relative(0x8b, register, word);
    }

    fn store(&mut self, register: u8, word: u64) {
        self.relative(0x89, register, word);
    }

    fn load_address(&mut self, register: u8, word: u64) {
        self.relative(0x8d, register, word);
    }

    /// An instruction on a 64-bit register and a word of the page.
    fn relative(&mut self, operation: u8, register: u8, word: u64) {
        let wide_and_high = 0x48 | (register >> 3) << 2;
        self.bytes([wide_and_high, operation, (register & 7) << 3 | 0b101]);
        let next = self.at + self.here() as u64 + 4;
        let distance = (self.page + word).wrapping_sub(next).cast_signed();
        self.bytes.extend(i32::try_from(distance).expect("the page is near its stub").to_le_bytes());
    }

    fn set_rax(&mut self, value: u64) {
        self.bytes([0xb8]);
        self.bytes.extend(u32::try_from(value).expect("a state").to_le_bytes());
    }

    /// Stores to `port`, after which the VMM sets where to go on.
    fn exit(&mut self, port: u64) {
        self.bytes([0x88, 0x04, 0x25]); // mov %al, port
        self.bytes.extend(u32::try_from(port).expect("the ports are below 4 GiB").to_le_bytes());
    }

    fn jump(&mut self, operation: [u8; 1]) -> Jump {
        self.bytes(operation);
        self.bytes.push(0);
        Jump(self.here())
    }

    fn jump_back(&mut self, operation: u8, target: usize) {
        let distance = self.here() + 2 - target;
        self.bytes([operation, low_byte(distance as u64).wrapping_neg()]);
    }

    fn land(&mut self, jump: Jump) {
        let Jump(from) = jump;
        self.bytes[from - 1] = low_byte((self.here() - from) as u64);
    }
}

/// A distance of a short jump, or a state, which are that small.
fn low_byte(value: u64) -> u8 {
    i8::try_from(value).expect("a short distance").cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::to_usize;

    fn page() -> CallPage {
        let bytes = to_usize(PAGE);
        CallPage::new(SystemPage::new(Arc::new(Reservation::anonymous(bytes, bytes).unwrap()), 0))
    }

    fn post(page: &CallPage, call: u64) {
        page.word(NUMBER).store(call, Ordering::Relaxed);
        for index in 0..6 {
            page.word(ARGUMENTS + index * 8).store(call + 1 + index, Ordering::Relaxed);
        }
        page.word(STATE).store(POSTED, Ordering::Release);
    }

    #[test]
    fn a_call_is_taken_once_and_answered() {
        let page = page();
        assert_eq!(page.take(), None);
        post(&page, 30);
        assert!(page.is_posted());
        assert_eq!(page.take(), Some((30, [31, 32, 33, 34, 35, 36])));
        assert_eq!(page.take(), None);
        page.answer(7);
        assert_eq!(page.withdraw(), Posted::Answered(7));
        assert_eq!(page.withdraw(), Posted::Declined);
    }

    #[test]
    fn a_call_that_was_withdrawn_is_nobodys() {
        let page = page();
        post(&page, 30);
        assert_eq!(page.withdraw(), Posted::Untouched);
        assert!(!page.is_posted() && page.take().is_none());
        post(&page, 31);
        let _ = page.take();
        page.decline();
        assert_eq!(page.withdraw(), Posted::Declined);
    }

    #[test]
    fn any_state_that_the_program_writes_is_declined() {
        let page = page();
        for state in [TAKEN, DECLINED, 5, u64::MAX] {
            page.word(STATE).store(state, Ordering::Relaxed);
            assert_eq!(page.take(), None);
            assert_eq!(page.withdraw(), Posted::Declined, "{state}");
        }
    }

    #[test]
    fn the_stub_fits_and_its_jumps_land_on_instructions() {
        let code = stub(0x10_0000, 0x10_5000);
        assert!(code.len() < 512, "{}", code.len());
        assert_eq!(code[code.len() - 2..], [0xff, 0xe1]);
    }
}
