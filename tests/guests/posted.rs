//! Guest program: what a system call leaves as it is, however it's served, and a program that misuses the page in
//! which its calls are posted.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_tests::random::Random;

/// Where the stub posts calls (vmm/src/guest/app/cpu.rs), and the word that says how long it looks for the answer.
const CALL_PAGE: u64 = (512 << 30) + 0x1_5000;
const LOOKS_WORD: usize = 8;
const WORDS: usize = 512;
const POSTED: u64 = 1;
const ANSWERED: u64 = 3;
const DECLINED: u64 = 4;
/// Looks at the page for an answer to a call that the program posted itself, for each look of the stub's.
const LOOKS: u64 = 20;

fn main() {
    for round in 0..2000 {
        registers_survive(round);
    }
    let seed = std::env::args().nth(1).and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    for _ in 0..300 {
        scribble(&mut random);
        post(&mut random);
        exit_by_hand(&mut random);
        registers_survive(random.bits());
    }
    println!("survived");
}

/// Registers before and after a call, in the order of [`exchange`].
#[repr(C)]
#[derive(Default)]
struct Registers {
    number: u64,
    flags: u64,
    /// rbx, rbp, rdi, rsi, rdx, r8, r9, r10, r12, r13, r14, r15.
    kept: [u64; 12],
    answer: u64,
    rcx: u64,
    r11: u64,
    flags_after: u64,
    kept_after: [u64; 12],
    /// The highest and the lowest word below the stack pointer.
    red_zone: [u64; 2],
    returns_to: u64,
    stack_moved: u64,
}

/// Carry, parity, adjust, zero, sign and overflow; the direction.
const ARITHMETIC: u64 = 0x8d5;
const DIRECTION: u64 = 1 << 10;
/// What is always set: bit 1, and interrupts.
const ALWAYS: u64 = 0x202;

fn registers_survive(round: u64) {
    let kept = std::array::from_fn(|index| (round << 8 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let flags =
        ALWAYS | [0, ARITHMETIC, DIRECTION, ARITHMETIC | DIRECTION][usize::try_from(round % 4).unwrap()];
    let number = libc::SYS_getpid as u64;
    let mut registers = Registers { number, flags, kept, ..Registers::default() };
    exchange(&mut registers);
    assert_eq!(registers.answer, u64::from(std::process::id()));
    assert_eq!(registers.kept_after, kept);
    assert_eq!(registers.flags_after, flags, "{:#x}", registers.flags_after);
    assert_eq!((registers.rcx, registers.r11), (registers.returns_to, flags));
    assert_eq!((registers.red_zone, registers.stack_moved), ([kept[0], kept[1]], 0));
}

fn exchange(registers: &mut Registers) {
    // SAFETY: the block is written where `Registers` says; rbx and rbp are put back, and so is the stack.
    unsafe {
        asm!(
            "push rbx", "push rbp", "push rdi",
            "mov rax, [rdi]",
            "push qword ptr [rdi + 8]", "popfq",
            "mov rbx, [rdi + 16]", "mov rbp, [rdi + 24]",
            "mov [rsp - 8], rbx", "mov [rsp - 128], rbp",
            "mov rsi, [rdi + 40]", "mov rdx, [rdi + 48]", "mov r8, [rdi + 56]", "mov r9, [rdi + 64]",
            "mov r10, [rdi + 72]", "mov r12, [rdi + 80]", "mov r13, [rdi + 88]", "mov r14, [rdi + 96]",
            "mov r15, [rdi + 104]", "mov rdi, [rdi + 32]",
            "syscall",
            "2:",
            "xchg rax, [rsp]",
            "mov [rax + 120], rcx", "mov [rax + 128], r11",
            "mov [rax + 144], rbx", "mov [rax + 152], rbp", "mov [rax + 160], rdi", "mov [rax + 168], rsi",
            "mov [rax + 176], rdx", "mov [rax + 184], r8", "mov [rax + 192], r9", "mov [rax + 200], r10",
            "mov [rax + 208], r12", "mov [rax + 216], r13", "mov [rax + 224], r14", "mov [rax + 232], r15",
            "mov rcx, [rsp - 8]", "mov [rax + 240], rcx", "mov rcx, [rsp - 128]", "mov [rax + 248], rcx",
            "pushfq", "pop rcx", "mov [rax + 136], rcx", "cld",
            "lea rcx, [rip + 2b]", "mov [rax + 256], rcx",
            "pop rcx", "mov [rax + 112], rcx",
            "pop rbp", "pop rbx",
            inout("rdi") registers => _,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
}

fn word(index: usize) -> &'static AtomicU64 {
    let address = CALL_PAGE + index as u64 * 8;
    // SAFETY: the monitor has mapped the page there, readable and writable, for as long as the program runs.
    unsafe { &*std::ptr::with_exposed_provenance::<AtomicU64>(usize::try_from(address).unwrap()) }
}

/// Garbage in all words; the time to look stays bounded, as nobody else would end that.
fn scribble(random: &mut Random) {
    for index in (0..WORDS).filter(|index| *index != LOOKS_WORD) {
        word(index).store(random.bits(), Ordering::Relaxed);
    }
    word(0).store(random.below(6), Ordering::Release);
    if random.below(8) == 0 {
        word(LOOKS_WORD).store(random.below(5000), Ordering::Relaxed);
    }
    assert_eq!(std::process::id(), raw(libc::SYS_getpid));
}

/// Posts calls by itself: those that end programs, that wait, that are none, with garbage for arguments.
fn post(random: &mut Random) {
    let numbers = [
        libc::SYS_exit_group,
        libc::SYS_exit,
        libc::SYS_kill,
        libc::SYS_arch_prctl,
        libc::SYS_pause,
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_openat,
        libc::SYS_munmap,
        libc::SYS_getppid,
        libc::SYS_clone,
        libc::SYS_execve,
        libc::SYS_rt_sigreturn,
        libc::SYS_nanosleep,
        libc::SYS_futex,
        9999,
        -1,
    ];
    let number = numbers[usize::try_from(random.below(numbers.len() as u64)).unwrap()];
    word(1).store(number.cast_unsigned(), Ordering::Relaxed);
    for index in 2..8 {
        // Nothing that is mapped, and no descriptor that is open.
        word(index).store(random.bits() | 1 << 40, Ordering::Relaxed);
    }
    word(0).store(POSTED, Ordering::Release);
    let looks = 100 + LOOKS * word(LOOKS_WORD).load(Ordering::Relaxed).min(5000);
    let seen = (0..looks).map(|_| word(0).load(Ordering::Acquire)).find(|state| ANSWERED <= *state);
    if number == libc::SYS_exit_group {
        assert!(seen.is_none() || seen == Some(DECLINED), "{seen:?}");
    }
}

/// Stores to the port for calls that weren't answered, with every state of the page.
fn exit_by_hand(random: &mut Random) {
    word(0).store(random.below(6), Ordering::Release);
    word(1).store(77, Ordering::Relaxed);
    // SAFETY: the store is a system call without arguments, or nothing; the stub's registers are named.
    unsafe {
        asm!(
            "lea rcx, [rip + 2f]", "pushfq", "pop r11",
            "mov byte ptr [0x70003008], al",
            "2:",
            inout("rax") libc::SYS_getpid => _, out("rcx") _, out("r11") _,
        );
    }
}

fn raw(number: i64) -> u32 {
    // SAFETY: a call without arguments.
    u32::try_from(unsafe { libc::syscall(number) }).unwrap()
}
