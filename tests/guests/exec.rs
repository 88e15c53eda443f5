//! Guest program: what is left of a program that another takes the place of, and what can't be executed. It prints what
//! it finds, which is to be the same natively.

use std::arch::asm;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::Error;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let rest: u32 = arguments.get(2).and_then(|text| text.parse().ok()).unwrap_or(0);
    match arguments.get(1).map(String::as_str) {
        Some("state") => state(rest),
        Some("chain") => chain(rest),
        Some("errors") => errors(),
        Some("from-memory") => from_memory(),
        Some("session") => session(rest),
        _ => println!("{arguments:?} {:?}", std::env::var("LEFT")),
    }
}

fn texts(texts: &[&str]) -> Vec<CString> {
    texts.iter().map(|text| CString::new(*text).expect("no zero in it")).collect()
}

/// Only comes back with an error.
fn exec(path: &str, arguments: &[&str], environment: &[&str]) -> Error {
    let path = CString::new(path).expect("no zero in it");
    let (arguments, environment) = (texts(arguments), texts(environment));
    let list = |texts: &[CString]| {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    // SAFETY: both lists end with a null pointer and live on, as what they point at does.
    unsafe { libc::execve(path.as_ptr(), list(&arguments).as_ptr(), list(&environment).as_ptr()) };
    Error::last_os_error()
}

/// Tells what it finds, then changes all of it and begins anew.
fn state(rest: u32) {
    println!("left {rest} {:?}", std::env::args().skip(3).collect::<Vec<_>>());
    let disposition = |signal| {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: the structure is filled by the call, or stays zeroed.
        let action = unsafe {
            libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
            action.assume_init()
        };
        match action.sa_sigaction {
            libc::SIG_DFL => "default",
            libc::SIG_IGN => "ignored",
            _ => "handled",
        }
    };
    println!("{} {}", disposition(libc::SIGUSR1), disposition(libc::SIGUSR2));
    // SAFETY: sets of signals that the calls fill.
    unsafe {
        let (mut blocked, mut pending) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigprocmask(libc::SIG_SETMASK, std::ptr::null(), &raw mut blocked);
        libc::sigpending(&raw mut pending);
        let hup = |set| libc::sigismember(set, libc::SIGHUP);
        println!("blocked {} pending {}", hup(&raw const blocked), hup(&raw const pending));
    }
    // SAFETY: asking for flags changes nothing.
    let open = (20..24).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1);
    println!("open {:?}", open.collect::<Vec<_>>());
    println!("name {:?}", fs::read_to_string("/proc/self/comm").map(|text| text.trim().to_owned()));
    println!("directory {:?}", std::env::current_dir().is_ok_and(|path| path.ends_with("below")));
    // SAFETY: the mask is put back at once.
    println!("umask {:o}", unsafe {
        let umask = libc::umask(0);
        libc::umask(umask);
        umask
    });
    println!("control words {:x?}", control_words());
    println!("environment {:?}", std::env::vars().collect::<Vec<_>>());
    if rest == 0 {
        return;
    }
    change_everything();
    let program = if std::env::current_dir().is_ok_and(|path| path.ends_with("below")) {
        "../program"
    } else {
        let _ = fs::create_dir("below");
        std::env::set_current_dir("below").expect("a directory of its own");
        "../program"
    };
    let long = "x".repeat(100_000);
    let left = (rest - 1).to_string();
    println!("{}", exec(program, &["zero", "state", &left, "", "two words"], &["A=1", &long, "B="]));
}

fn change_everything() {
    extern "C" fn handler(_: i32) {}
    let file = fs::File::open("program").or_else(|_| fs::File::open("../program")).expect("it is there");
    // SAFETY: numbers and a handler that does nothing; the pending signal stays blocked.
    unsafe {
        libc::signal(libc::SIGUSR1, handler as *const () as usize);
        libc::signal(libc::SIGUSR2, libc::SIG_IGN);
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGHUP);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::raise(libc::SIGHUP);
        libc::dup2(file.as_raw_fd(), 20);
        libc::dup3(file.as_raw_fd(), 21, libc::O_CLOEXEC);
        libc::prctl(libc::PR_SET_NAME, c"another".as_ptr());
        libc::umask(0o77);
        // Much memory that is to be gone.
        let bytes = 64 << 20;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let start = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if start != libc::MAP_FAILED {
            std::ptr::write_bytes(start.cast::<u8>(), 7, bytes);
        }
        asm!("ldmxcsr [{}]", "fldcw [{}]", in(reg) &0x7f80_u32, in(reg) &0x0a7f_u16);
    }
}

/// The control words of SSE and x87, and what is in some registers that calls don't keep.
fn control_words() -> (u32, u16) {
    let (mut vectors, mut stack) = (0_u32, 0_u16);
    // SAFETY: both are stored where there is room for them.
    unsafe { asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &raw mut vectors, in(reg) &raw mut stack) };
    (vectors & 0xffc0, stack)
}

/// Begins anew again and again.
fn chain(rest: u32) {
    let kept = vec![u8::try_from(rest % 251).unwrap_or(0); 1 << 20];
    if rest == 0 || kept.iter().any(|byte| u32::from(*byte) != rest % 251) {
        return println!("{rest} left");
    }
    println!("{}", exec("./program", &["program", "chain", &(rest - 1).to_string()], &[]));
}

/// Leaves a session open, and regions; the next program opens one of its own.
fn session(rest: u32) {
    let mut session = cairn_guest::Session::open().expect("a session");
    let table = session.region::<u64>("table", 100_000).expect("a region");
    assert!(session.slice(&table).iter().all(|word| *word == 0));
    session.slice_mut(&table).fill(rest.into());
    let id = session.checkpoint().expect("a checkpoint");
    session.slice_mut(&table).fill(0);
    session.rollback(id).expect("a rollback");
    assert!(session.slice(&table).iter().all(|word| *word == rest.into()));
    if rest == 0 {
        return println!("{}", session.engine());
    }
    println!("{}", exec("./program", &["program", "session", &(rest - 1).to_string()], &[]));
}

fn errors() {
    let write = |name: &str, bytes: &[u8], mode| {
        fs::write(name, bytes).expect("a directory of its own");
        fs::set_permissions(name, fs::Permissions::from_mode(mode)).expect("its own file");
    };
    write("plain", b"echo no\n", 0o755);
    write("forbidden", b"#!./program\n", 0o644);
    write("round", b"#!./round\n", 0o755);
    write("empty", b"", 0o755);
    write("broken", b"\x7fELF\x02\x01\x01 and no more", 0o755);
    write("lost", b"#!/no/such/interpreter\n", 0o755);
    let _ = std::os::unix::fs::symlink("plain", "link");
    for name in ["none", "plain", "forbidden", "round", "empty", "broken", "lost", ".", "", "plain/x", "link"]
    {
        println!("{name:?} {:?}", exec(name, &[name], &[]).raw_os_error());
    }
    let long = "x".repeat(140_000);
    println!("{:?}", exec("./program", &["program", &long], &[]).raw_os_error());
    let many = vec!["0123456789".repeat(10_000); 40];
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    println!("{:?}", exec("./program", &many, &many).raw_os_error());
    // SAFETY: meant to fail: nothing is there.
    unsafe { libc::execve(c"./program".as_ptr(), std::ptr::without_provenance(8), std::ptr::null()) };
    println!("{:?}", Error::last_os_error().raw_os_error());
    // SAFETY: meant to fail: no such flag.
    unsafe { libc::syscall(libc::SYS_execveat, libc::AT_FDCWD, c"./program".as_ptr(), 0, 0, 0x8000) };
    println!("{:?}", Error::last_os_error().raw_os_error());
    write("script", b"#!./program  two words \nnot read\n", 0o755);
    println!("{}", exec("./script", &["gone", "kept"], &["LEFT=a script's"]));
}

/// Runs a copy of itself that has no name.
fn from_memory() {
    let bytes = fs::read("program").expect("its own file");
    // SAFETY: a name, and no flags: it is open in the next program too.
    let fd = unsafe { libc::memfd_create(c"copy".as_ptr(), 0) };
    // SAFETY: the buffer and its length.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    assert_eq!(usize::try_from(written), Ok(bytes.len()));
    let run = |arguments: &[*const libc::c_char], environment: &[*const libc::c_char]| {
        // SAFETY: both lists end with a null pointer.
        unsafe { libc::fexecve(fd, arguments.as_ptr(), environment.as_ptr()) }
    };
    let left: &CStr = c"LEFT=memory";
    run(&[c"copy".as_ptr(), c"x".as_ptr(), std::ptr::null()], &[left.as_ptr(), std::ptr::null()]);
    println!("{}", Error::last_os_error());
}
