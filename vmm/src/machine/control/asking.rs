//! The asking end of a guest's socket.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::request::Request;
use super::{SUFFIX, check_own};

/// Bytes of an answer that are read at most: far more than all sessions of a guest take.
const MOST_BYTES: u64 = 1 << 20;

/// Asks the guest whose socket this is, and waits for each part of its answer no longer than `patience`; without one
/// for as long as the guest lives.
///
/// # Errors
/// `ConnectionRefused` and `NotFound`: there is no such guest any more. What the host says else.
pub fn ask(socket: &Path, request: Request, patience: Option<Duration>) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(patience)?;
    // A guest that refuses doesn't wait for the request, but says why.
    let _ = stream.write_all(format!("{request}\n").as_bytes());
    read_answer(&mut stream).map(|answer| printable(&answer))
}

/// Lines without whatever would act on a terminal.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && letter != '\n' {
            printable.extend(letter.escape_debug());
        } else {
            printable.push(letter);
        }
    }
    printable
}

/// Reads to the end. A guest that answered before it had read everything ends the connection with a reset.
pub(super) fn read_answer(stream: &mut UnixStream) -> io::Result<String> {
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.take(MOST_BYTES).read_to_end(&mut answer) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !answer.is_empty() => {}
        read => {
            read?;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The sockets in a directory, by the process ids of their guests. Some of them may have ended.
///
/// # Errors
/// The directory is there and can't be read, or isn't this user's alone: who can make a socket there answers as a guest.
pub fn sockets(directory: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    match check_own(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        checked => checked?,
    }
    let mut guests = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let pid = name.and_then(|name| name.strip_suffix(SUFFIX)).and_then(|pid| pid.parse().ok());
        guests.extend(pid.map(|pid| (pid, path)));
    }
    guests.sort_unstable();
    Ok(guests)
}
