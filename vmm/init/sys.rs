//! System calls of the init, and what the compiler expects of a C library. The init's only unsafe file.

use core::arch::{asm, global_asm};
use core::ffi::CStr;

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

pub type Result<T> = core::result::Result<T, Errno>;

/// An open file of this process.
#[derive(Clone, Copy)]
pub struct Fd(pub i32);

/// The file descriptors that every program begins with.
pub const STANDARD: [Fd; 3] = [Fd(0), Fd(1), Fd(2)];

pub const EPERM: Errno = Errno(1);
pub const ENOENT: Errno = Errno(2);
pub const EINTR: Errno = Errno(4);
pub const EIO: Errno = Errno(5);
pub const E2BIG: Errno = Errno(7);
pub const EBUSY: Errno = Errno(16);
pub const EEXIST: Errno = Errno(17);

pub const READ: i32 = 0;
pub const WRITE: i32 = 1;
pub const READ_WRITE: i32 = 2;
/// The file is not to become the controlling terminal.
pub const NO_TERMINAL: i32 = 0o400;
pub const DIRECTORY: i32 = 0o20_0000;
pub const CLOSE_ON_EXEC: i32 = 0o200_0000;

/// The module file is compressed, and the kernel shall decompress it (Linux 5.17).
pub const MODULE_COMPRESSED: i32 = 4;

const SYS_READ: usize = 0;
const SYS_WRITE: usize = 1;
const SYS_OPEN: usize = 2;
const SYS_CLOSE: usize = 3;
const SYS_IOCTL: usize = 16;
const SYS_DUP2: usize = 33;
const SYS_FORK: usize = 57;
const SYS_EXECVE: usize = 59;
const SYS_EXIT: usize = 60;
const SYS_WAIT4: usize = 61;
const SYS_MKDIR: usize = 83;
const SYS_UNLINK: usize = 87;
const SYS_SETSID: usize = 112;
const SYS_SYNC: usize = 162;
const SYS_MOUNT: usize = 165;
const SYS_REBOOT: usize = 169;
const SYS_GETDENTS64: usize = 217;
const SYS_PIPE2: usize = 293;
const SYS_FINIT_MODULE: usize = 313;

const TCSBRK: usize = 0x5409;
const TIOCSCTTY: usize = 0x540e;
const REBOOT_MAGIC: [usize; 2] = [0xfee1_dead, 672_274_793];
const REBOOT_POWER_OFF: usize = 0x4321_fedc;

// The kernel enters with the stack pointer on argc. It's a multiple of 16 there, as `call` wants it.
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "call {main}", "ud2", main = sym crate::start);

/// Makes a system call.
///
/// # Safety
/// The arguments are such that the kernel reads and writes only memory that the caller has for it.
unsafe fn call(number: usize, arguments: [usize; 5]) -> Result<usize> {
    let [first, second, third, fourth, fifth] = arguments;
    let result: isize;
    // SAFETY: SYSCALL changes rcx, r11 and rax beside what the call itself does, which is the caller's
    // promise. Memory may change, and is not declared otherwise.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") first, in("rsi") second,
            in("rdx") third, in("r10") fourth, in("r8") fifth,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    match usize::try_from(result) {
        Ok(value) => Ok(value),
        Err(_) => Err(Errno(i32::try_from(-result).unwrap_or(i32::MAX))),
    }
}

/// Makes a system call whose arguments are numbers only.
fn call_with_numbers(number: usize, arguments: [usize; 3]) -> Result<usize> {
    let [first, second, third] = arguments;
    // SAFETY: private to this file, which calls it only for system calls that get no address.
    unsafe { call(number, [first, second, third, 0, 0]) }
}

/// A file descriptor as the kernel gets it.
fn number(fd: Fd) -> usize {
    fd.0 as usize
}

fn fd(number: usize) -> Fd {
    Fd(number as i32)
}

pub fn open(path: &CStr, flags: i32) -> Result<Fd> {
    // SAFETY: the kernel reads the string to its NUL.
    unsafe { call(SYS_OPEN, [path.as_ptr() as usize, flags as usize, 0, 0, 0]) }.map(fd)
}

pub fn close(file: Fd) {
    // Linux closes it whatever it answers.
    let _ = call_with_numbers(SYS_CLOSE, [number(file), 0, 0]);
}

/// Reads what is there, at most the buffer's length. 0 is the end.
pub fn read(file: Fd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most the buffer's length to the buffer, which is borrowed mutably.
    unsafe { call(SYS_READ, [number(file), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0]) }
}

/// Writes all of it.
pub fn write(file: Fd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the kernel reads at most `bytes.len()` bytes of `bytes`.
        let written =
            match unsafe { call(SYS_WRITE, [number(file), bytes.as_ptr() as usize, bytes.len(), 0, 0]) } {
                Err(EINTR) => 0,
                Ok(0) => return Err(EIO),
                other => other?,
            };
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// Waits until the terminal's device has sent everything (`tcdrain`).
pub fn drain(terminal: Fd) -> Result<()> {
    call_with_numbers(SYS_IOCTL, [number(terminal), TCSBRK, 1]).map(drop)
}

/// Makes the terminal the controlling one of this session.
pub fn take_terminal(terminal: Fd) -> Result<()> {
    call_with_numbers(SYS_IOCTL, [number(terminal), TIOCSCTTY, 0]).map(drop)
}

pub fn duplicate(from: Fd, to: Fd) -> Result<()> {
    call_with_numbers(SYS_DUP2, [number(from), number(to), 0]).map(drop)
}

/// A pipe: the end to read, the end to write. Both are closed by `execute`.
pub fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0_i32; 2];
    // SAFETY: the kernel writes two 32-bit numbers to `ends`.
    unsafe { call(SYS_PIPE2, [ends.as_mut_ptr() as usize, CLOSE_ON_EXEC as usize, 0, 0, 0]) }?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

pub fn mount(what: &CStr, place: &CStr, options: &CStr) -> Result<()> {
    let what = what.as_ptr() as usize;
    // SAFETY: the kernel reads the strings to their NULs; source and type are the same one.
    unsafe { call(SYS_MOUNT, [what, place.as_ptr() as usize, what, 0, options.as_ptr() as usize]) }.map(drop)
}

pub fn make_directory(path: &CStr) -> Result<()> {
    // SAFETY: the kernel reads the string to its NUL.
    unsafe { call(SYS_MKDIR, [path.as_ptr() as usize, 0o755, 0, 0, 0]) }.map(drop)
}

pub fn unlink(path: &CStr) -> Result<()> {
    // SAFETY: the kernel reads the string to its NUL.
    unsafe { call(SYS_UNLINK, [path.as_ptr() as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Reads entries of a directory, as `struct linux_dirent64`. 0 is the end.
pub fn entries(directory: Fd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most the buffer's length to the buffer, which is borrowed mutably.
    unsafe { call(SYS_GETDENTS64, [number(directory), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0]) }
}

pub fn load_module(file: Fd, flags: i32) -> Result<()> {
    // SAFETY: the kernel reads the parameters, an empty string, to their NUL. What the module's code does in
    // the kernel is the user's wish.
    unsafe { call(SYS_FINIT_MODULE, [number(file), c"".as_ptr() as usize, flags as usize, 0, 0]) }.map(drop)
}

/// Makes a process like this one. 0 is the answer in the child.
pub fn fork() -> Result<usize> {
    // No thread is left behind and no lock held, as the init has one thread.
    call_with_numbers(SYS_FORK, [0, 0, 0])
}

pub fn new_session() -> Result<()> {
    call_with_numbers(SYS_SETSID, [0, 0, 0]).map(drop)
}

/// The strings of an argument list, with the null pointer at its end.
pub struct Strings<'a, const N: usize> {
    pointers: [*const u8; N],
    len: usize,
    strings: core::marker::PhantomData<&'a CStr>,
}

impl<'a, const N: usize> Strings<'a, N> {
    pub fn new() -> Self {
        Self { pointers: [core::ptr::null(); N], len: 0, strings: core::marker::PhantomData }
    }

    /// Adds a string. Says whether there was room for it and for the end.
    pub fn push(&mut self, string: &'a CStr) -> bool {
        let room = self.len + 1 < N;
        if let Some(place) = self.pointers.get_mut(self.len).filter(|_| room) {
            *place = string.as_ptr().cast();
            self.len += 1;
        }
        room
    }
}

/// Becomes another program. Returns only if that fails.
pub fn execute<const A: usize, const E: usize>(
    path: &CStr,
    arguments: &Strings<'_, A>,
    environment: &Strings<'_, E>,
) -> Errno {
    let (arguments, environment) = (arguments.pointers.as_ptr(), environment.pointers.as_ptr());
    // SAFETY: the kernel reads the path and the strings of both lists to their NULs, and the lists to their
    // null pointers: `push` leaves the last place as it was, null. The strings are borrowed.
    let answer =
        unsafe { call(SYS_EXECVE, [path.as_ptr() as usize, arguments as usize, environment as usize, 0, 0]) };
    answer.err().unwrap_or(EIO)
}

/// Waits for the end of any child: its id and its status word.
pub fn wait() -> Result<(usize, u32)> {
    let mut status = 0_u32;
    let any = usize::MAX;
    loop {
        // SAFETY: the kernel writes a 32-bit number to `status`.
        match unsafe { call(SYS_WAIT4, [any, &raw mut status as usize, 0, 0, 0]) } {
            Err(EINTR) => {}
            answer => return answer.map(|child| (child, status)),
        }
    }
}

pub fn sync() {
    // It has no error.
    let _ = call_with_numbers(SYS_SYNC, [0, 0, 0]);
}

/// Powers the machine off. Returns only if that fails.
pub fn power_off() -> Errno {
    let [first, second] = REBOOT_MAGIC;
    call_with_numbers(SYS_REBOOT, [first, second, REBOOT_POWER_OFF]).err().unwrap_or(EIO)
}

pub fn exit(code: i32) -> ! {
    loop {
        // It doesn't return.
        let _ = call_with_numbers(SYS_EXIT, [code as usize, 0, 0]);
    }
}

// The compiler makes calls of these from ordinary code. String instructions, as a loop could itself become
// such a call.

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the C function's contract: both places have `len` bytes and don't overlap. The direction flag is
    // clear, as the ABI says.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: the C function's contract, and copying upwards overwrites nothing that is still to be read.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the C function's contract, and `len` isn't 0 here. Copying downwards, from the last byte;
    // the direction flag is cleared again.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") len => _, inout("rdi") to.add(len - 1) => _,
            inout("rsi") from.add(len - 1) => _, options(nostack));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    // SAFETY: the C function's contract: `to` has `len` bytes.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") value as u8,
            options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    for at in 0..len {
        // SAFETY: the C function's contract: both have `len` bytes. Volatile, so that this loop doesn't become
        // a call of itself.
        let (one, other) = unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: `memcmp` has the same contract.
    unsafe { memcmp(left, right, len) }
}

/// Named by the precompiled `core`, though with `panic=abort` nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(1)
}
