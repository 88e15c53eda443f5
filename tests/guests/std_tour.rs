//! Guest program: what an ordinary single-threaded program uses of Rust's std. It prints nothing that depends
//! on when or where it runs, so that the output is the same natively. Argument: a directory with input files.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

fn main() -> io::Result<()> {
    let directory = std::env::args().nth(1).expect("a directory");
    memory();
    environment();
    time();
    files(Path::new(&directory))?;
    scratch()?;
    pipes()?;
    input()?;
    limits();
    Ok(())
}

fn memory() {
    let mut blocks: Vec<Vec<u8>> = (0..200_u8).map(|index| vec![index; 1 << (index % 21)]).collect();
    blocks.retain(|block| block.len() % 3 != 1);
    for block in &mut blocks {
        block.resize(block.len() * 2 + 7, 1);
        block.shrink_to_fit();
    }
    let sum: u64 = blocks.iter().flatten().map(|byte| u64::from(*byte)).sum();
    let map: HashMap<u64, u64> = (0..100_000).map(|key| (key, key * key)).collect();
    println!("memory {sum} {} {}", map.len(), map[&777]);
    println!("deep {}", depth(20_000));
}

fn depth(left: u64) -> u64 {
    let pad = std::hint::black_box([left; 8]);
    if left == 0 { 0 } else { depth(left - 1) + pad[3] % 2 }
}

fn environment() {
    println!("args {}", std::env::args().count());
    println!("home {:?}", std::env::var("HOME"));

    println!("parallel {}", std::thread::available_parallelism().is_ok());
    println!("exe {}", std::env::current_exe().is_ok_and(|path| path.ends_with("guest-std-tour")));
}

fn time() {
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(3));
    println!("slept {}", Duration::from_millis(3) <= start.elapsed());
    println!("clock {}", SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000) < SystemTime::now());
    println!("timeout {:?}", {
        let (_sender, receiver) = std::sync::mpsc::channel::<()>();
        receiver.recv_timeout(Duration::from_millis(2))
    });
}

fn files(directory: &Path) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    println!("entries {names:?}");
    for name in &names {
        let path = directory.join(name);
        let metadata = fs::symlink_metadata(&path)?;
        println!("{name:?} {} {:?} {:?}", metadata.len(), metadata.file_type(), metadata.permissions());
        if metadata.is_file() {
            let mut file = BufReader::new(File::open(&path)?);
            let mut line = String::new();
            file.read_line(&mut line)?;
            let end = file.seek(SeekFrom::End(0))?;
            println!("first {line:?} end {end}");
        }
    }
    println!("absent {:?}", File::open(directory.join("absent")).map(drop).map_err(|error| error.kind()));
    println!(
        "read-only {:?}",
        File::create(directory.join("new")).is_err() || fs::remove_file(directory.join("new")).is_ok()
    );
    Ok(())
}

fn scratch() -> io::Result<()> {
    let base = std::env::temp_dir().join(format!("cairn-std-tour-{}", std::process::id()));
    fs::create_dir_all(base.join("a/b"))?;
    fs::write(base.join("a/file"), b"one\ntwo\n")?;
    let mut file = OpenOptions::new().append(true).read(true).open(base.join("a/file"))?;
    file.write_all(b"three\n")?;
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    file.set_len(5)?;
    file.sync_all()?;
    println!("scratch {text:?} {}", file.metadata()?.len());
    fs::rename(base.join("a/file"), base.join("a/b/moved"))?;
    fs::copy(base.join("a/b/moved"), base.join("copy"))?;
    std::os::unix::fs::symlink("a/b/moved", base.join("link"))?;
    fs::hard_link(base.join("copy"), base.join("hard"))?;
    println!("link {:?} {:?}", fs::read_link(base.join("link"))?, fs::read(base.join("link"))?);
    println!("canonical {}", fs::canonicalize(base.join("link"))?.ends_with("a/b/moved"));
    println!("again {:?}", fs::create_dir(base.join("a")).map_err(|error| error.kind()));
    println!("full {:?}", fs::remove_dir(base.join("a")).map_err(|error| error.kind()));
    fs::remove_dir_all(&base)?;
    println!("gone {}", !base.exists());
    Ok(())
}

fn pipes() -> io::Result<()> {
    let (mut reader, mut writer) = io::pipe()?;
    let mut poll = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, of which the length is given.
    let before = unsafe { libc::poll(&raw mut poll, 1, 0) };
    writer.write_all(b"through a pipe")?;
    // SAFETY: as above.
    let after = unsafe { libc::poll(&raw mut poll, 1, 1000) };
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    println!("pipe {before} {after} {text:?}");
    Ok(())
}

fn input() -> io::Result<()> {
    let mut lines = 0;
    let mut bytes = 0;
    for line in io::stdin().lock().lines() {
        lines += 1;
        bytes += line?.len();
    }
    println!("stdin {lines} {bytes}");
    eprintln!("to stderr");
    Ok(())
}

fn limits() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a struct of the right type.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) };
    println!("limits {answer} {}", 1 << 20 <= limit.rlim_cur);
    let mut random = [0_u8; 32];
    // SAFETY: a buffer and its length.
    let got = unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) };
    println!("random {got} {}", random != [0; 32]);
    // SAFETY: isatty takes any number.
    println!("terminal {}", unsafe { libc::isatty(0) });
}
