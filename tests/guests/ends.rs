//! Guest program: the ways to end. Argument: which.

use std::hint::black_box;

fn main() {
    let way = std::env::args().nth(1).unwrap_or_default();
    match way.as_str() {
        "status" => std::process::exit(42),
        "panic" => panic!("on purpose"),
        "abort" => std::process::abort(),
        // SAFETY: meant to fault: the address is never mapped.
        "null" => unsafe { black_box(std::ptr::null_mut::<u8>()).write_volatile(1) },
        // SAFETY: meant to fault: the program's own code can't be written.
        "code" => unsafe { (main as fn() as *mut u8).write_volatile(1) },
        "divide" => divide(),
        // SAFETY: meant to fault: data isn't code.
        "execute" => unsafe {
            let data = Box::leak(Box::new([0xc3_u8; 64]));
            std::mem::transmute::<*mut u8, extern "C" fn()>(data.as_mut_ptr())();
        },
        // SAFETY: an instruction that is defined to be invalid.
        "invalid" => unsafe { std::arch::asm!("ud2") },
        // SAFETY: meant to trap.
        "breakpoint" => unsafe { std::arch::asm!("int3") },
        // SAFETY: meant to fault: programs may not use I/O ports.
        "port" => unsafe { std::arch::asm!("out 0x80, al") },
        // SAFETY: meant to fault: no such code segment.
        "compatibility" => unsafe { std::arch::asm!("push 0x1b", "lea rax, [rip]", "push rax", "retfq") },
        "overflow" => println!("{}", recurse(1)),
        // SAFETY: raise takes any number.
        "sigterm" => unsafe {
            libc::raise(libc::SIGTERM);
        },
        "pipe" => loop {
            // SAFETY: a buffer and its length.
            if unsafe { libc::write(1, [b'x'; 4096].as_ptr().cast(), 4096) } < 0 {
                std::process::exit(1);
            }
        },
        "memory" => {
            let mut kept = Vec::new();
            loop {
                let mut block: Vec<u8> = Vec::new();
                if block.try_reserve_exact(16 << 20).is_err() {
                    println!("refused after {} MiB", kept.len() * 16);
                    return;
                }
                block.resize(16 << 20, 1);
                kept.push(block);
            }
        }
        "fork" => {
            // SAFETY: fork is refused here; natively the child ends at once.
            let child = unsafe { libc::fork() };
            println!(
                "fork {}",
                child < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS)
            );
        }
        "thread" => println!("thread {}", std::thread::Builder::new().spawn(|| ()).is_err()),
        _ => std::process::exit(2),
    }
}

fn divide() {
    // SAFETY: meant to fault: a division by zero.
    unsafe {
        std::arch::asm!("xor edx, edx", "xor eax, eax", "xor ecx, ecx", "div ecx", out("eax") _, out("edx") _, out("ecx") _)
    }
}

fn recurse(depth: u64) -> u64 {
    let pad = black_box([depth; 64]);
    if black_box(false) { 0 } else { recurse(depth + 1) + pad[5] }
}
