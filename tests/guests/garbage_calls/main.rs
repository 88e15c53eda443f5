//! Guest program: thousands of system calls with garbage for arguments, and memory that is mapped and
//! unmapped at odd places, checked against a model. Arguments: SEED and the number of calls.
//!
//! Left out is only what may rightly end or block the program: exit, signals to itself, sleeping, blocking
//! descriptors.

mod calls;

use std::arch::asm;
use std::hint::black_box;

use cairn_guest::{EngineKind, Error, Session};
use cairn_tests::random::Random;

use crate::calls::{AT_PATH, BY_DESCRIPTOR, BY_PATH, CALLS, NEVER, PATHS};

const PAGE: u64 = 4096;
/// Where buffers are: readable and writable, then a hole.
const ARENA: u64 = 16 << 30;
const ARENA_LEN: u64 = 64 * PAGE;
/// Read-only memory, then a hole.
const CONSTANT: u64 = ARENA + (1 << 30);
/// Where mappings come and go.
const SPARE: u64 = ARENA + (2 << 30);
const SPARE_COUNT: usize = 1100;
const SPARE_PAGES: u64 = SPARE_COUNT as u64;
const NULL_PATHS: u64 = 32;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let (seed, calls) = (arguments.next().unwrap_or(1), arguments.next().unwrap_or(5000));
    let mut garbage =
        Garbage { random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), pages: [None; SPARE_COUNT] };
    garbage.prepare();
    let mut sessions = 0;
    for index in 0..calls {
        if garbage.random.below(4) == 0 {
            garbage.map_something();
        } else {
            garbage.call_something();
        }
        if index % 1024 == 512 {
            sessions += u32::from(honest_session());
        }
    }
    garbage.check_all();
    println!("{sessions} sessions");
    println!("survived");
}

/// A session may be refused (there may be no descriptor left), but must not do anything else. Whether it was one with the
/// device, and took a checkpoint and went back to it.
fn honest_session() -> bool {
    let once = || -> Result<bool, Error> {
        let mut session = Session::open()?;
        let region = session.region::<u64>("garbage", 1024)?;
        session.slice_mut(&region)[7] = 42;
        let id = session.checkpoint()?;
        session.slice_mut(&region)[7] = 0;
        session.rollback(id)?;
        assert_eq!(session.slice(&region)[7], 42);
        Ok(session.engine() == EngineKind::Cairn)
    };
    once().unwrap_or(false)
}

struct Garbage {
    random: Random,
    /// What the first word of each spare page is; none where it's unknown whether the page is there.
    pages: [Option<u64>; SPARE_COUNT],
}

fn call(number: i64, args: [u64; 6]) -> u64 {
    let answer;
    // SAFETY: the arguments lead the kernel only to memory that this program gave up for it: the arena, the
    // spare pages, memory that can't be written, and what isn't there.
    unsafe {
        asm!("syscall", inlateout("rax") number.cast_unsigned() => answer, in("rdi") args[0], in("rsi") args[1],
             in("rdx") args[2], in("r10") args[3], in("r8") args[4], in("r9") args[5],
             lateout("rcx") _, lateout("r11") _);
    }
    answer
}

fn failed(answer: u64) -> bool {
    answer > u64::MAX - 4096
}

impl Garbage {
    fn prepare(&mut self) {
        let map = |address, len, protection: i32| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let arguments = [address, len, bits(protection), bits(flags), u64::MAX, 0];
            assert_eq!(call(libc::SYS_mmap, arguments), address);
        };
        map(ARENA, ARENA_LEN, libc::PROT_READ | libc::PROT_WRITE);
        map(CONSTANT, 4 * PAGE, libc::PROT_READ);
        for (index, path) in PATHS.iter().enumerate() {
            let at = ARENA + NULL_PATHS * PAGE + index as u64 * 64;
            for (place, byte) in (at..).zip(path.iter()) {
                store(place, *byte);
            }
        }
        let nonblocking = bits(libc::O_NONBLOCK);
        for _ in 0..2 {
            call(libc::SYS_pipe2, [ARENA, nonblocking, 0, 0, 0, 0]);
        }
        call(libc::SYS_eventfd2, [0, nonblocking, 0, 0, 0, 0]);
        call(libc::SYS_epoll_create1, [0; 6]);
        call(libc::SYS_memfd_create, [path(0), 0, 0, 0, 0, 0]);
        for index in 0..PATHS.len() as u64 {
            let flags =
                bits(if index < 4 { libc::O_RDWR | libc::O_CREAT } else { libc::O_RDWR }) | nonblocking;
            if failed(call(libc::SYS_open, [path(index), flags, 0o644, 0, 0, 0])) {
                call(libc::SYS_open, [path(index), nonblocking, 0, 0, 0, 0]);
            }
        }
    }

    fn path(&mut self) -> u64 {
        if self.random.below(8) == 0 { self.address() } else { path(self.random.below(PATHS.len() as u64)) }
    }

    fn address(&mut self) -> u64 {
        let near = self.random.of(&[0, 0, 0, 8, 4088, 4095, 1, 0x100]);
        match self.random.below(16) {
            0..=6 => ARENA + self.random.below(ARENA_LEN / PAGE - NULL_PATHS) * PAGE + near,
            7 => ARENA + ARENA_LEN - self.random.of(&[1, 8, 16, 100, 4096, 0]),
            8 => CONSTANT + self.random.below(5) * PAGE + near,
            9 => main as fn() as usize as u64,
            10 => self.random.of(&[0, 1, 0xffff, 0x1_0000]),
            11 => self.random.of(&[
                0x7000_0000,
                0x7000_3000,
                0x7000_4000,
                0x73ff_fff8,
                0x7400_0000,
                0x7fff_f000,
            ]),
            12 => (64 << 30) - self.random.of(&[0, 1, 8, 4096, 2 << 20]),
            13 => self.random.of(&[512 << 30, (512 << 30) + 0x1_0000, 1 << 47, 0x8000_0000_0000_0000]),
            14 => u64::MAX - self.random.below(5000),
            _ => self.random.bits() | 1 << 40,
        }
    }

    fn len(&mut self) -> u64 {
        match self.random.below(12) {
            0 => 0,
            1 => 1,
            2..=6 => self.random.below(5000),
            7 => self.random.of(&[4096, 8192, 65536, 128, 256, 24, 16]),
            8 => self.random.of(&[1 << 20, 1 << 31, (1 << 31) - 1, 0x7fff_f000, 1 << 32, 1 << 40]),
            9 => u64::MAX - self.random.below(4097),
            10 => self.random.of(&[i64::MAX.cast_unsigned(), 1 << 63, (1 << 63) + 1, u64::from(u32::MAX)]),
            _ => self.random.bits(),
        }
    }

    /// Not the standard streams, except the input.
    fn descriptor(&mut self) -> u64 {
        match self.random.below(12) {
            0 => 0,
            1 => {
                self.random.of(&[u64::MAX, 0xffff_ff9c, bits(libc::AT_FDCWD), 1 << 31, 99_999, 0x1_0000_0003])
            }
            _ => 3 + self.random.below(40),
        }
    }

    fn flags(&mut self) -> u64 {
        match self.random.below(6) {
            0 => 0,
            1 => self.random.bits(),
            2 => self.random.bits() & 0xffff,
            3 => 1 << self.random.below(32),
            4 => 1 << self.random.below(8) | 1 << self.random.below(20),
            _ => self.random.below(16),
        }
    }

    fn any(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.address(),
            1 => self.len(),
            2 => self.descriptor(),
            _ => self.flags(),
        }
    }

    /// Something for the kernel to read: sometimes vectors of buffers, sometimes noise, sometimes zeros.
    fn fill(&mut self, at: u64) {
        let inside = ARENA..ARENA + (ARENA_LEN / PAGE - NULL_PATHS) * PAGE - 512;
        if !inside.contains(&at) {
            return;
        }
        let kind = self.random.below(4);
        for index in 0..32 {
            let value = match kind {
                0 => 0,
                1 if index % 2 == 0 => self.address(),
                1 => self.len(),
                2 => self.random.bits(),
                _ => self.descriptor() | self.flags() << 32,
            };
            store(at + index * 8, value);
        }
    }

    fn call_something(&mut self) {
        let number = if self.random.below(30) == 0 {
            self.random.of(&[self.random.0 % 600, u64::MAX, 1 << 32, 512, 1000]).cast_signed()
        } else {
            CALLS[usize::try_from(self.random.below(CALLS.len() as u64)).unwrap_or(0)]
        };
        let (at, to) = (self.address(), self.address());
        self.fill(at);
        if let Some(args) = self.arguments(number, at, to) {
            call(number, args);
        }
    }

    /// Arguments that are near to sense for this call; none if the call isn't to be made.
    fn arguments(&mut self, number: i64, at: u64, to: u64) -> Option<[u64; 6]> {
        let zeros = CONSTANT;
        let nonblocking = bits(libc::O_NONBLOCK);
        let (fd, other, len, flags) = (self.descriptor(), self.descriptor(), self.len(), self.flags());
        let offset = self.len();
        Some(match number {
            _ if NEVER.contains(&number) => return None,
            libc::SYS_poll => [at, self.random.of(&[0, 1, 5, 64, 1 << 20, len]), 0, 0, 0, 0],
            libc::SYS_ppoll => [at, self.random.of(&[0, 1, 5, 64, 1 << 20, len]), zeros, to, 8, 0],
            libc::SYS_select | libc::SYS_pselect6 => {
                let sets = [at, to, self.address()];
                [self.random.of(&[0, 1, 40, 64, 1024, 1025, len]), sets[0], sets[1], sets[2], zeros, 0]
            }
            libc::SYS_epoll_wait | libc::SYS_epoll_pwait => [fd, to, len, 0, 0, 8],
            libc::SYS_epoll_ctl => [fd, self.random.below(5), other, at, 0, 0],
            libc::SYS_nanosleep => [zeros, to, 0, 0, 0, 0],
            libc::SYS_clock_nanosleep => [self.random.below(14), flags & 1, zeros, to, 0, 0],
            libc::SYS_futex => [at, self.random.of(&[1, 129, flags & !0x7f | 1, 3, 4]), 1, zeros, to, 1],
            libc::SYS_pipe2 => [to, nonblocking | flags & bits(libc::O_CLOEXEC), 0, 0, 0, 0],
            libc::SYS_eventfd2 => [flags, nonblocking | flags & bits(libc::O_CLOEXEC), 0, 0, 0, 0],
            libc::SYS_open => [self.path(), flags | nonblocking, flags, 0, 0, 0],
            libc::SYS_openat => [fd, self.path(), flags | nonblocking, flags, 0, 0],
            libc::SYS_fcntl => {
                let commands = [0, 1, 2, 3, 4, 5, 6, 36, 37, 1024, 1030, 1031, 1032, 1033, 1034, flags];
                let command = self.random.of(&commands);
                if [bits(libc::F_SETLKW), bits(libc::F_OFD_SETLKW)].contains(&(command & 0xffff_ffff)) {
                    return None;
                }
                // Waiting for a lock is right; a descriptor that blocks would end the fun.
                let value = if command == 4 { flags | nonblocking } else { self.any() };
                [fd, command, value, 0, 0, 0]
            }
            libc::SYS_rt_sigaction => {
                [self.random.of(&[0, 1, 9, 19, 64, 65, flags | 1 << 40]), at, to, 8, 0, 0]
            }
            libc::SYS_rt_sigprocmask => [flags, at, to, 8, 0, 0],
            libc::SYS_flock => [fd, flags | bits(libc::LOCK_NB), 0, 0, 0, 0],
            libc::SYS_close | libc::SYS_fchdir => [fd.max(3), flags, 0, 0, 0, 0],
            libc::SYS_close_range if self.random.below(50) == 0 => {
                [3 + self.random.below(40), len, flags, 0, 0, 0]
            }
            libc::SYS_close_range => return None,
            libc::SYS_dup2 | libc::SYS_dup3 => [fd, other.max(3), flags, 0, 0, 0],
            libc::SYS_ioctl => {
                [fd, self.random.of(&[0x5401, 0x5402, 0x5413, 0x541b, 0x5450, 0x5451, flags]), to, 0, 0, 0]
            }
            libc::SYS_arch_prctl => [self.random.of(&[0x1001, 0x1003, 0x1004, flags & !2]), to, 0, 0, 0, 0],
            libc::SYS_prlimit64 => [0, flags, self.random.of(&[0, 0, zeros + 4 * PAGE]), to, 0, 0],
            libc::SYS_prctl => [flags, self.any(), self.any(), self.any(), self.any(), 0],
            libc::SYS_read
            | libc::SYS_write
            | libc::SYS_getdents64
            | libc::SYS_pread64
            | libc::SYS_pwrite64 => [fd, to, len, offset, 0, 0],
            libc::SYS_readv | libc::SYS_writev | libc::SYS_preadv | libc::SYS_pwritev => {
                [fd, at, self.random.of(&[0, 1, 2, 16, 1024, 1025, len]), offset, flags, 0]
            }
            libc::SYS_sendfile => [fd, other, self.random.of(&[0, at]), len & 0xf_ffff, 0, 0],
            libc::SYS_copy_file_range => [fd, self.random.of(&[0, at]), other, 0, len & 0xf_ffff, flags & 1],
            libc::SYS_lseek | libc::SYS_ftruncate => [fd, offset, self.random.below(6), 0, 0, 0],
            libc::SYS_fallocate => [fd, flags, offset, len, 0, 0],
            libc::SYS_getrandom => [to, len, flags, 0, 0, 0],
            libc::SYS_brk => {
                let end = call(libc::SYS_brk, [0; 6]);
                call(libc::SYS_brk, [end.wrapping_add(len & 0xff_ffff), 0, 0, 0, 0, 0]);
                call(libc::SYS_brk, [self.address() | 1 << 62, 0, 0, 0, 0, 0]);
                [end, 0, 0, 0, 0, 0]
            }
            _ if BY_PATH.contains(&number) => [self.path(), self.path(), to, len, flags, 0],
            _ if AT_PATH.contains(&number) => {
                let (first, second) = (self.path(), self.any());
                match number {
                    libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_linkat => {
                        [fd, first, other, self.path(), flags, 0]
                    }
                    libc::SYS_symlinkat => [first, fd, self.path(), 0, 0, 0],
                    libc::SYS_statx => [fd, first, flags, second, to, 0],
                    libc::SYS_newfstatat => [fd, first, to, flags, 0, 0],
                    libc::SYS_readlinkat => [fd, first, to, len, 0, 0],
                    libc::SYS_utimensat => [fd, first, at, flags, 0, 0],
                    libc::SYS_openat2 => [fd, first, at, self.random.of(&[24, 32, 4096, 4097, len]), 0, 0],
                    _ => [fd, first, second, flags, flags, 0],
                }
            }
            _ if BY_DESCRIPTOR.contains(&number) => [fd, to, len, flags, 0, 0],
            _ => [to, at, to, len, flags, self.any()],
        })
    }

    /// mmap and its kin over the spare pages (and over what can't be mapped).
    fn map_something(&mut self) {
        let first = self.random.below(SPARE_PAGES);
        let len = self.random.of(&[1, 1, 2, 3, 8, 100, 512, 600]).min(SPARE_PAGES - first);
        let (at, bytes) = (SPARE + first * PAGE, len * PAGE);
        let wrong = [
            self.random.of(&[
                0x7000_0000,
                0x7000_3000,
                0x7fff_f000,
                0x7400_0000,
                0,
                0xf000,
                512 << 30,
                64 << 30,
            ]),
            u64::MAX - 4095,
            1 << 63,
            at + 1,
        ];
        let protection = self.random.of(&[0, 1, 3, 3, 3, 5, 7]);
        let anonymous = bits(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let fixed = bits(libc::MAP_FIXED);
        match self.random.below(10) {
            0..=2 => {
                let huge = self.random.of(&[0, 0, 1, 1 << 35, 1 << 63, u64::MAX - 4096]);
                if self.random.below(8) == 0 {
                    let wrong = self.random.of(&wrong);
                    let len = if huge == 0 { 2 * PAGE } else { huge };
                    let answer =
                        call(libc::SYS_mmap, [wrong, len.max(1), protection, anonymous | fixed, u64::MAX, 0]);
                    assert!(failed(answer), "mapped at {wrong:#x}: {answer:#x}");
                    return;
                }
                let sharing = if self.random.below(3) == 0 { 0x21 } else { anonymous };
                let populate = self.random.of(&[0, 0, 0, 0x8000]);
                let answer =
                    call(libc::SYS_mmap, [at, bytes, protection, sharing | fixed | populate, u64::MAX, 0]);
                self.changed(first, len, (!failed(answer) && protection & 3 == 3).then_some(0));
            }
            3 => {
                let fd = self.descriptor();
                let flags = self.random.of(&[1, 2, 0])
                    | self.random.of(&[fixed, 0])
                    | self.random.of(&[0, 0, 0x8000]);
                let offset = self.random.of(&[0, PAGE, 1 << 40, 1 << 63, 5, PAGE.wrapping_neg()]);
                let answer = call(libc::SYS_mmap, [at, bytes, protection, flags, fd, offset]);
                self.changed(first, len, None);
                if !failed(answer)
                    && answer >= 0x7800_0000
                    && !(SPARE..SPARE + SPARE_PAGES * PAGE).contains(&answer)
                {
                    call(libc::SYS_munmap, [answer, bytes, 0, 0, 0, 0]);
                }
            }
            4 => {
                let answer = call(libc::SYS_munmap, [at, bytes, 0, 0, 0, 0]);
                assert!(!failed(answer), "munmap: {answer:#x}");
                self.changed(first, len, None);
                let wrong = self.random.of(&wrong);
                if wrong >= 1 << 60 || wrong == at + 1 {
                    assert!(failed(call(libc::SYS_munmap, [wrong, bytes, 0, 0, 0, 0])));
                }
            }
            5 => {
                let answer = call(libc::SYS_mprotect, [at, bytes, protection, 0, 0, 0]);
                if failed(answer) || protection & 3 != 3 {
                    self.forget(first, len);
                }
            }
            6 => {
                let flags = self.random.below(8);
                let to = SPARE + self.random.below(SPARE_PAGES - len) * PAGE;
                let new = self.random.of(&[bytes, bytes, PAGE, 0, 1 << 63, u64::MAX]);
                let to = if self.random.below(10) == 0 { self.random.of(&wrong) } else { to };
                let answer = call(libc::SYS_mremap, [at, bytes, new, flags, to, 0]);
                self.changed(0, SPARE_PAGES, None);
                if !failed(answer) && !(SPARE..SPARE + SPARE_PAGES * PAGE).contains(&answer) {
                    call(libc::SYS_munmap, [answer, new, 0, 0, 0, 0]);
                }
            }
            7 => {
                let advice = self.random.of(&[0, 3, 4, 8, 9, 10, 14, 15, 20, 21, 22, 23, 100, 101, u64::MAX]);
                call(libc::SYS_madvise, [at, bytes, advice, 0, 0, 0]);
                self.forget(first, len);
                call(
                    libc::SYS_madvise,
                    [self.random.of(&wrong), self.len(), 8 + self.random.below(20), 0, 0, 0],
                );
                call(libc::SYS_msync, [at, bytes, self.flags(), 0, 0, 0]);
            }
            8 => {
                let answer = call(libc::SYS_mmap, [0, bytes, 3, anonymous, u64::MAX, 0]);
                if !failed(answer) {
                    assert_eq!(load(answer), 0);
                    store(answer + bytes - 8, 1_u64);
                    call(libc::SYS_munmap, [answer, bytes, 0, 0, 0, 0]);
                }
            }
            _ => self.write_some(),
        }
    }

    fn write_some(&mut self) {
        for _ in 0..16 {
            let (page, value) = (self.random.below(SPARE_PAGES), self.random.bits());
            let known = &mut self.pages[usize::try_from(page).unwrap_or(0)];
            if let Some(expected) = known.replace(value) {
                assert_eq!(load(SPARE + page * PAGE), expected, "page {page}");
                store(SPARE + page * PAGE, value);
            } else {
                *known = None;
            }
        }
    }

    fn changed(&mut self, first: u64, len: u64, to: Option<u64>) {
        for page in first..first + len {
            self.pages[usize::try_from(page).unwrap_or(0)] = to;
        }
    }

    fn forget(&mut self, first: u64, len: u64) {
        self.changed(first, len, None);
    }

    fn check_all(&self) {
        for (page, expected) in (0..).zip(&self.pages) {
            if let Some(expected) = expected {
                assert_eq!(load(SPARE + page * PAGE), *expected, "page {page}");
            }
        }
    }
}

fn path(index: u64) -> u64 {
    ARENA + NULL_PATHS * PAGE + index * 64
}

fn bits(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

fn load(address: u64) -> u64 {
    // SAFETY: the caller names a page that it mapped for reading, 8-byte aligned.
    unsafe {
        black_box(std::ptr::with_exposed_provenance::<u64>(usize::try_from(address).unwrap_or(0)))
            .read_volatile()
    }
}

fn store<T>(address: u64, value: T) {
    let at = std::ptr::with_exposed_provenance_mut::<T>(usize::try_from(address).unwrap_or(0));
    // SAFETY: the caller names memory that it mapped for writing and that nothing else uses.
    unsafe { black_box(at).write_unaligned(value) }
}
