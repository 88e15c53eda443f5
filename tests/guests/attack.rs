//! Guest program: one attack on the VMM or on the CPU's protection. Argument: which.

use std::arch::asm;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::os::fd::AsRawFd;

use cairn_guest::{Error, Session};
use cairn_tests::pages::PAGE;

const SYSCALL_PORT: usize = 0x7000_3000;
const EXCEPTION_PORT: usize = 0x7000_4000;
const STUB: usize = (512 << 30) + 0x1_0000;
/// Where calls are posted, and the clock's page (vmm/src/guest/app/cpu.rs, vmm/vdso/page.rs).
const CALL_PAGE: usize = STUB + 0x5000;
const CLOCK_PAGE: usize = STUB + 0x6000;
const CODE: usize = 0x4000_0000;

fn main() {
    let attack = std::env::args().nth(1).unwrap_or_default();
    let done = cpu(&attack) || memory(&attack) || history(&attack);
    println!("{}", if done { "survived" } else { "no such attack" });
}

/// Instructions that belong to a kernel, and states that are no program's. True if there is such an attack.
fn cpu(attack: &str) -> bool {
    // SAFETY: nothing is safe here, on purpose: at worst the program is killed, which is what is tested.
    unsafe {
        match attack {
            "hlt" => asm!("hlt"),
            "cli" => asm!("cli"),
            "in" => asm!("in al, dx", out("al") _, in("dx") 0x60_u16),
            "out" => asm!("out dx, al", in("al") 0_u8, in("dx") 0x80_u16),
            "int80" => asm!("int 0x80", inout("rax") 1_u64 => _),
            "int3" => asm!("int3"),
            "int255" => asm!("int 255"),
            "sysenter" => asm!("sysenter"),
            "wrmsr" => asm!("wrmsr", in("ecx") 0xc000_0082_u32, in("eax") 0, in("edx") 0),
            "rdpmc" => asm!("rdpmc", in("ecx") 0, out("eax") _, out("edx") _),
            "xsetbv" => asm!("xsetbv", in("ecx") 0, in("eax") 7, in("edx") 0),
            "cr3" => asm!("mov cr3, {}", in(reg) 0_u64),
            "swapgs" => asm!("swapgs"),
            "sysret" => asm!("sysretq"),
            "ring0" => asm!("mov ss, {0:x}", in(reg) 0x10_u32),
            "farjump" => asm!("push 0x08", "lea rax, [rip + 2f]", "push rax", "retfq", "2:", out("rax") _),
            "iretq" => asm!("push 0x10", "push rsp", "push 0x3202", "push 0x08", "push 0", "iretq"),
            "step" => asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop"),
            "rsp0" => asm!("xor esp, esp", "push rax"),
            "rspdevice" => asm!("mov rsp, {}", "ud2", in(reg) SYSCALL_PORT + 8),
            "noncanonical" => asm!("mov {0}, [{0}]", inout(reg) 1_u64 << 62 => _),
            "cpuid" => drop(std::arch::x86_64::__cpuid(0)),
            "flags" => {
                // Nested task, alignment check and direction, across a system call.
                asm!("pushfq", "or qword ptr [rsp], 0x44400", "popfq", "mov eax, 39", "syscall", "pushfq",
                     "and qword ptr [rsp], ~0x44700", "popfq", out("rax") _, out("rcx") _, out("r11") _);
            }
            "stepcall" => {
                asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "mov eax, 39", "syscall", "nop",
                     out("rax") _, out("rcx") _, out("r11") _);
            }
            _ => return false,
        }
    }
    true
}

/// Addresses that are the VMM's business. True if there is such an attack.
fn memory(attack: &str) -> bool {
    // SAFETY: as for `cpu`.
    unsafe {
        match attack {
            // getpid by a plain store: an answer, or the end.
            "port" => {
                asm!("lea rcx, [rip + 2f]", "mov r11d, 0x202", "mov [{0}], al", "2:", in(reg) SYSCALL_PORT,
                           inout("rax") 39_u64 => _, out("rcx") _, out("r11") _)
            }
            "portwild" => asm!("mov [{0}], al", in(reg) SYSCALL_PORT, inout("rax") u64::MAX => _,
                               in("rcx") 0xdead_beef_u64 << 20, in("r11") u64::MAX),
            "portkernel" => asm!("mov [{0}], al", in(reg) SYSCALL_PORT, inout("rax") 39_u64 => _,
                                 in("rcx") STUB, in("r11") u64::MAX),
            "exceptionport" => asm!("mov byte ptr [{0}], 14", in(reg) EXCEPTION_PORT),
            "stub" => asm!("jmp {0}", in(reg) STUB, in("rax") 39_u64, in("rcx") 0_u64, in("r11") u64::MAX),
            "stubsysret" => asm!("jmp {0}", in(reg) STUB + 7, in("rcx") 1_u64 << 63, in("r11") u64::MAX),
            "stubcall" => asm!("jmp {0}", in(reg) STUB + 16, in("rax") 39_u64),
            "stubwrite" => asm!("mov byte ptr [{0}], 0", in(reg) STUB),
            "clockwrite" => asm!("mov byte ptr [{0}], 0", in(reg) CLOCK_PAGE),
            "callexecute" => asm!("jmp {0}", in(reg) CALL_PAGE),
            "tables" => asm!("mov rax, [{0}]", in(reg) 64_u64 << 30, out("rax") _),
            "executeport" => asm!("jmp {0}", in(reg) SYSCALL_PORT),
            "repmovs" => asm!("cld", "rep movsb", inout("rsi") main as fn() as usize => _,
                              inout("rdi") SYSCALL_PORT => _, inout("rcx") 64_u64 => _),
            "sse" => asm!("movups [{0}], xmm0", in(reg) SYSCALL_PORT + 16),
            "lock" => asm!("lock xadd [{0}], rax", in(reg) SYSCALL_PORT, inout("rax") 0_u64 => _),
            "straddle" => asm!("mov [{0}], rax", in(reg) SYSCALL_PORT - 4, in("rax") 0_u64),
            "execute" => asm!("jmp {0}", in(reg) map(3)),
            "runout" => {
                let code = map(7);
                std::ptr::with_exposed_provenance_mut::<u8>(code).write_bytes(0x90, PAGE);
                asm!("jmp {0}", in(reg) code);
            }
            "selfmodify" => {
                let code = std::ptr::with_exposed_provenance_mut::<u8>(map(7));
                for value in 0..200_u8 {
                    code.copy_from([0xb0, value, 0xc3].as_ptr(), 3);
                    let function = std::mem::transmute::<*mut u8, extern "C" fn() -> u8>(code);
                    assert_eq!(black_box(function)(), value);
                }
            }
            "protectself" => {
                let page = main as fn() as usize & !(PAGE - 1);
                libc::mprotect(std::ptr::with_exposed_provenance_mut(page), PAGE, libc::PROT_READ);
                black_box(main as fn())();
            }
            "manymappings" => many_mappings(),
            "manypaths" => many_paths(),
            _ => return false,
        }
    }
    true
}

fn map(protection: i32) -> usize {
    let at = std::ptr::with_exposed_provenance_mut(CODE);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: nothing of the program is there.
    let got = unsafe { libc::mmap(at, PAGE, protection, flags, -1, 0) };
    assert_eq!(got.addr(), CODE);
    CODE
}

/// Every second page, until it's refused; what is there still works, and can go.
fn many_mappings() {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let page = |index: usize| std::ptr::with_exposed_provenance_mut::<u8>((20 << 30) + index * 2 * PAGE);
    // SAFETY: nothing of the program is there.
    let mapped = |index| unsafe {
        libc::mmap(page(index).cast(), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
            != libc::MAP_FAILED
    };
    let count = (0..100_000).take_while(|index| mapped(*index)).count();
    assert!((20_000..70_000).contains(&count), "{count} mappings");
    for index in 0..count {
        // SAFETY: it was mapped above.
        unsafe { page(index).write_volatile(1) };
    }
    for index in 0..count {
        // SAFETY: nothing refers to it.
        assert_eq!(unsafe { libc::munmap(page(index).cast(), PAGE) }, 0);
    }
}

/// Mappings of a file with a long path, until they are refused, and then lists of them: the monitor's memory, which
/// nobody charges the program for.
fn many_paths() {
    const MOST_PATHS: usize = 16 << 20;
    const MOST_TEXTS: usize = 64 << 20;
    // Nothing more can be mapped later.
    let mut text = String::with_capacity(MOST_PATHS + MOST_PATHS / 4);
    let directory = std::path::Path::new("/tmp").join(["x".repeat(250).as_str(); 16].join("/"));
    std::fs::create_dir_all(&directory).expect("directories");
    let path = directory.join("file");
    let file = File::create_new(&path).expect("a file");
    let length = path.as_os_str().len();
    let pages = 2 * MOST_PATHS / length;
    let at = |page: usize| std::ptr::with_exposed_provenance_mut::<libc::c_void>((20 << 30) + page * PAGE);
    let map = |page, pages| {
        let (length, flags) = (pages * PAGE, libc::MAP_PRIVATE | libc::MAP_FIXED);
        // SAFETY: nothing of the program is there.
        let got = unsafe { libc::mmap(at(page), length, libc::PROT_NONE, flags, file.as_raw_fd(), 0) };
        got != libc::MAP_FAILED
    };
    // One that is cut in more and more pieces.
    assert!(map(0, 2 * pages));
    // SAFETY: nothing refers to what was mapped above.
    let cut = |page| unsafe { libc::mprotect(at(page), PAGE, libc::PROT_READ) == 0 };
    let pieces = 1 + 2 * (0..pages).take_while(|page| cut(2 * page + 1)).count();
    // SAFETY: as above.
    assert_eq!(unsafe { libc::munmap(at(0), 2 * pages * PAGE) }, 0);
    // And one after the other.
    let count = (0..pages).take_while(|page| map(2 * page, 1)).count();
    for found in [pieces, count] {
        assert!((MOST_PATHS - PAGE..MOST_PATHS + 4 * PAGE).contains(&(found * length)), "{found} paths");
    }
    let maps = || File::open("/proc/self/maps").map_err(|error| error.raw_os_error());
    let open = [(); 4].map(|()| maps());
    assert!(open[..3].iter().all(Result::is_ok) && MOST_TEXTS < 4 * count * length, "{open:?}");
    assert_eq!(open[3].as_ref().err(), Some(&Some(libc::ENOMEM)));
    drop(open);
    maps().expect("what is closed makes room").read_to_string(&mut text).expect("a text");
    assert_eq!(text.lines().filter(|line| line.ends_with("/file")).count(), count);
}

/// More checkpoint data than the guest has memory: the oldest make room, and those that stay hold.
fn history(attack: &str) -> bool {
    if attack != "history" {
        return false;
    }
    const BYTES: usize = 8 << 20;
    /// What the host keeps for a guest of 64 MiB.
    const CEILING: u64 = 64 << 20;
    let mut session = Session::open().expect("a session");
    let region = session.region::<u64>("history", BYTES / 8).expect("a region");
    let mut kept = Vec::new();
    for round in 1..60_u64 {
        for (index, word) in session.slice_mut(&region).iter_mut().enumerate() {
            *word = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7).wrapping_mul(round);
        }
        let id = session.checkpoint().expect("a checkpoint");
        kept.push((id, session.slice(&region)[1234]));
        let retained = session.checkpoints().expect("the checkpoints");
        let bytes: u64 = retained.iter().map(|checkpoint| checkpoint.bytes).sum();
        assert!(bytes <= CEILING, "{bytes} bytes are kept");
    }
    assert!(matches!(session.rollback(kept[0].0), Err(Error::Evicted { .. })), "nothing bounds the history");
    for (id, word) in kept.into_iter().rev().take(5) {
        session.rollback(id).expect("an earlier checkpoint");
        assert_eq!(session.slice(&region)[1234], word);
    }
    true
}
