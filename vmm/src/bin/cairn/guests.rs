//! Running guests, found by their sockets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cairn_vmm::machine::control::{self, Request};
use cairn_vmm::tell;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// How long a guest may take to tell its status: longer than any request of its program keeps it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A guest that has told its status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Guest {
    pub(crate) pid: u32,
    socket: PathBuf,
    pub(crate) status: String,
}

impl Guest {
    /// What its status says of itself by this name, sessions and store left aside.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.status
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(of, _)| *of == name)
            .map(|(_, value)| value)
    }

    /// The same, if it's a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    pub(crate) fn name(&self) -> &str {
        self.get("name").unwrap_or("?")
    }

    /// Asks it, and waits until it has answered.
    pub(crate) fn ask(&self, request: Request) -> Result<String> {
        let answer = control::ask(&self.socket, request, None);
        let answer = answer.with_context(|| format!("the guest of process {} doesn't answer", self.pid))?;
        control::read_answer(&answer).map(str::to_owned).map_err(|why| anyhow::anyhow!("{why}"))
    }
}

/// This user's guests that answer, by their process ids; of those that should and don't a person is told.
pub(crate) fn running() -> Result<Vec<Guest>> {
    let directory = control::directory();
    let sockets = control::sockets(&directory).context("it can't be told which guests are running")?;
    let mut guests = Vec::new();
    for (pid, socket) in sockets {
        match control::ask(&socket, Request::Status, Some(PATIENCE)) {
            // It ended before it could.
            Ok(status) if status.is_empty() => {}
            Ok(status) => match control::read_answer(&status) {
                Err(why) if status.starts_with("error ") => {
                    tell!("cairn: the guest of process {pid} says: {why}");
                }
                _ => guests.push(Guest { pid, socket, status }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It was killed and left its socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => tidy(pid, &socket),
            Err(error) => tell!("cairn: the guest of process {pid} doesn't answer: {error}"),
        }
    }
    Ok(guests)
}

/// The one guest that a person means by a name or a process id.
pub(crate) fn find(name: &str) -> Result<Guest> {
    choose(running()?, name)
}

fn choose(guests: Vec<Guest>, name: &str) -> Result<Guest> {
    let is_meant = |guest: &Guest| guest.name() == name || name.parse() == Ok(guest.pid);
    let mut meant: Vec<Guest> = guests.into_iter().filter(is_meant).collect();
    match (meant.pop(), meant.is_empty()) {
        (Some(guest), true) => Ok(guest),
        (None, _) => bail!("no guest of yours is called {name:?}; cairn ps lists those that are running"),
        (Some(last), false) => {
            let pids: Vec<String> = meant.iter().chain([&last]).map(|guest| guest.pid.to_string()).collect();
            bail!("{} guests are called {name:?}: name one by its process, {}", pids.len(), pids.join(" or "))
        }
    }
}

/// Removes the socket of a process that isn't there any more.
fn tidy(pid: u32, socket: &Path) {
    let process = i32::try_from(pid).map(Pid::from_raw);
    if process.is_ok_and(|process| kill(process, None) == Err(Errno::ESRCH)) {
        // Somebody else may have done it just now.
        let _ = fs::remove_file(socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(pid: u32, name: &str) -> Guest {
        let status = format!("name {name}\nkind app\nsession 0\n  up_ns 7\nup_ns 5\n");
        Guest { pid, socket: PathBuf::new(), status }
    }

    #[test]
    fn a_status_is_read_by_names() {
        let guest = guest(7, "a");
        assert_eq!((guest.name(), guest.get("kind"), guest.number("up_ns")), ("a", Some("app"), Some(5)));
        assert_eq!((guest.get("none"), guest.number("kind")), (None, None));
    }

    #[test]
    fn a_name_or_a_process_means_one_guest() {
        let guests = || vec![guest(7, "a"), guest(8, "b"), guest(9, "a")];
        assert_eq!(choose(guests(), "b").unwrap().pid, 8);
        assert_eq!(choose(guests(), "9").unwrap().pid, 9);
        let several = choose(guests(), "a").unwrap_err().to_string();
        assert!(several.contains("7 or 9"), "{several}");
        assert!(choose(guests(), "c").unwrap_err().to_string().contains("cairn ps"));
        assert!(choose(Vec::new(), "7").is_err());
    }
}
