//! A program that takes checkpoints of itself.

mod moves;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use cairn_abi::fork_point::{PATH, REQUEST};
use cairn_guest::{CheckpointId, Error, ForkPoint, Session, fork_point};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let rounds = arguments.get(2).and_then(|text| text.parse().ok()).unwrap_or(10);
    let done = match arguments.get(1).map(String::as_str) {
        Some("once") => once(),
        Some("often") => often(rounds),
        Some("file") => file(),
        Some("until stored") => until_stored(),
        Some("shared") => shared(),
        Some("session") => session(),
        Some("moves") => moves::run(),
        Some("full") => moves::full(),
        _ => Err(anyhow::anyhow!("no such mode")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).expect("standard output takes a line");
}

/// Waits after the fork point until it's killed; brought back, says what it reads.
fn once() -> Result<()> {
    let secret: Vec<u64> = (0..100_000_u64).map(|at| at * at).collect();
    match fork_point()? {
        ForkPoint::Taken(id) => {
            say(&format!("taken {}", id.0));
            loop {
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
        }
        ForkPoint::Resumed { from } => {
            let input = std::io::read_to_string(std::io::stdin())?;
            let at: usize = input.trim().parse().context(input)?;
            say(&format!("resumed {} {}", from.0, secret[at]));
            Ok(())
        }
    }
}

/// One fork point after the other. It may be killed at any time.
fn often(rounds: u64) -> Result<()> {
    let mut last = CheckpointId(0);
    for round in 0..rounds {
        // Either way the checkpoint is newer than all that this program knew of.
        let id = match fork_point()? {
            ForkPoint::Taken(id) | ForkPoint::Resumed { from: id } => id,
        };
        ensure!(last < id, "round {round}: checkpoint {} after {}", id.0, last.0);
        last = id;
        say(&format!("round {round}"));
    }
    Ok(())
}

fn open(flags: i32) -> Result<File> {
    Ok(OpenOptions::new().read(true).write(true).custom_flags(flags).open(PATH)?)
}

fn refused(result: &std::io::Result<usize>, errno: i32) -> Result<()> {
    let told = result.as_ref().err().and_then(std::io::Error::raw_os_error);
    ensure!(told == Some(errno), "{result:?} is not error {errno}");
    Ok(())
}

fn wait_for(file: &File, timeout: i32) -> bool {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives through the call.
    unsafe { libc::poll(&raw mut poll, 1, timeout) == 1 && poll.revents & libc::POLLIN != 0 }
}

fn read(mut file: &File) -> Result<String> {
    let mut bytes = [0; 2000];
    let count = file.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

/// The file itself, and what isn't to be done with it.
fn file() -> Result<()> {
    let mut file = open(0)?;
    for garbage in [&b"checkpoint"[..], b"CHECKPOINT\n", b"checkpoint\n\n", b"\n", b"\xff", &[0; 5000]] {
        refused(&file.write(garbage), libc::EINVAL)?;
    }
    ensure!(read(&file)?.is_empty() && wait_for(&file, 0), "there is something without a request");
    ensure!(file.write(REQUEST)? == REQUEST.len());
    refused(&file.write(REQUEST), libc::EBUSY)?;
    // Byte by byte, and a second request only when all is read.
    let mut first = [0];
    file.read_exact(&mut first)?;
    refused(&file.write(REQUEST), libc::EBUSY)?;
    let line = format!("{}{}", char::from(first[0]), read(&file)?);
    ensure!(line.starts_with("taken ") && line.ends_with('\n') && read(&file)?.is_empty(), "{line:?}");
    // One that doesn't wait, from the start or from now on, and poll, which does.
    let flags = |file: &File| {
        // SAFETY: no memory is involved.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) }
    };
    let later = open(0)?;
    ensure!(flags(&later) & libc::O_NONBLOCK == 0);
    // SAFETY: as above.
    ensure!(unsafe { libc::fcntl(later.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } == 0);
    for mut impatient in [open(libc::O_NONBLOCK)?, later] {
        ensure!(flags(&impatient) & (libc::O_NONBLOCK | libc::O_ACCMODE) == libc::O_NONBLOCK | libc::O_RDWR);
        ensure!(impatient.write(REQUEST)? == REQUEST.len());
        let told = loop {
            match impatient.read(&mut [0; 100]) {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => ensure!(wait_for(&impatient, -1)),
                other => break other?,
            }
        };
        ensure!("taken 1\n".len() <= told);
    }
    // Requests whose file is closed go on, and are before the next ones.
    for _ in 0..3 {
        ensure!(open(0)?.write(REQUEST)? == REQUEST.len());
    }
    ensure!(matches!(fork_point()?, ForkPoint::Taken(_)));
    let blind = OpenOptions::new().write(true).create(true).truncate(true).open(PATH)?;
    refused(&(&blind).read(&mut first), libc::EBADF)?;
    say("done");
    Ok(())
}

/// Asks until the store has one.
fn until_stored() -> Result<()> {
    loop {
        match fork_point() {
            Ok(ForkPoint::Taken(id)) => {
                say(&format!("taken {}", id.0));
                break;
            }
            Ok(ForkPoint::Resumed { from }) => {
                say(&format!("resumed {}", from.0));
                return Ok(());
            }
            Err(Error::NotTaken { reason }) => say(&format!("failed {reason}")),
            Err(error) => return Err(error.into()),
        }
        // For the one who watches.
        std::io::stdin().read_exact(&mut [0])?;
    }
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

/// Maps standard input, which is a file, shared and writable: no checkpoint as long as that lasts.
fn shared() -> Result<()> {
    const BYTES: usize = 4096;
    let (rights, null) = (libc::PROT_READ | libc::PROT_WRITE, std::ptr::null_mut());
    // SAFETY: a new mapping where the kernel likes.
    let mapping = unsafe { libc::mmap(null, BYTES, rights, libc::MAP_SHARED, 0, 0) };
    ensure!(mapping != libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    for _ in 0..3 {
        match fork_point() {
            Err(Error::NotTaken { reason }) => say(&format!("failed {reason}")),
            other => anyhow::bail!("{other:?}"),
        }
    }
    // SAFETY: the program's own mapping, without references.
    unsafe { libc::munmap(mapping, BYTES) };
    match fork_point()? {
        ForkPoint::Taken(_) => say("taken"),
        ForkPoint::Resumed { .. } => say("resumed"),
    }
    Ok(())
}

/// Has checkpoints of its own, too, and takes each of them on both sides of a fork point.
fn session() -> Result<()> {
    const WORDS: usize = 100_000;
    let mut session = Session::open()?;
    let table = session.region::<u64>("table", WORDS)?;
    let mut ids = Vec::new();
    for step in 1..=3 {
        session.slice_mut(&table).fill(step);
        ids.push((session.checkpoint()?, step));
    }
    session.slice_mut(&table)[7] = 99;
    let side = match fork_point()? {
        ForkPoint::Taken(_) => "taken",
        ForkPoint::Resumed { .. } => "resumed",
    };
    let word = session.slice(&table)[7];
    ensure!(word == 99, "{side}: what was written after the last checkpoint is {word}");
    for (id, step) in ids.into_iter().rev() {
        session.rollback(id)?;
        let other = session.slice(&table).iter().position(|word| *word != step);
        ensure!(other.is_none(), "{side}: checkpoint {} has another word at {other:?}", id.0);
    }
    session.checkpoint()?;
    say(side);
    // For the one who kills it.
    std::io::stdin().read_exact(&mut [0])?;
    say("done");
    Ok(())
}
