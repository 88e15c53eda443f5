//! A running guest's socket: tells the same user's `cairn stats` what its sessions have done.
//!
//! The socket takes nothing in: whoever connects gets one [`status`](super::status) and the end of the
//! connection. It lies in a directory of the user's own (mode 0700), and is of mode 0600 itself.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fs, process};

/// How long a client may take to read: another one waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// What the sockets' names end in; before it is the process id.
pub const SUFFIX: &str = ".sock";

/// The socket, until it's dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Where the sockets of this user's guests are: below `XDG_RUNTIME_DIR`, else below the temporary directory.
#[must_use]
pub fn directory() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()) {
        Some(directory) => Path::new(&directory).join("cairn"),
        None => std::env::temp_dir().join(format!("cairn-{}", nix::unistd::geteuid())),
    }
}

/// Answers who connects with what `status` says then, until the value is dropped. A guest runs without that, too.
pub fn start(status: impl Fn() -> String + Send + 'static) -> Option<Control> {
    match Control::start(status) {
        Ok(control) => Some(control),
        Err(error) => {
            tracing::info!(%error, "cairn stats can't ask this guest");
            None
        }
    }
}

impl Control {
    /// Answers who connects with what `status` says then.
    ///
    /// # Errors
    /// No directory that is the user's alone, no socket, or no thread.
    pub fn start(status: impl Fn() -> String + Send + 'static) -> io::Result<Self> {
        Self::start_below(&directory(), status)
    }

    fn start_below(directory: &Path, status: impl Fn() -> String + Send + 'static) -> io::Result<Self> {
        own(directory)?;
        let path = directory.join(format!("{}{SUFFIX}", process::id()));
        // A process of this number that was killed may have left it.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || serve(&listener, &stopped, &status))?;
        Ok(Self { path, stop, thread: Some(thread) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Has the thread look at that. If nobody can connect, nobody can wait for it either.
        let woken = UnixStream::connect(&self.path).is_ok();
        // Whoever finds it afterwards finds a guest that has ended.
        let _ = fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &UnixListener, stop: &AtomicBool, status: &impl Fn() -> String) {
    for client in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        // Clients that go away are their own affair.
        let _ = client.and_then(|mut client| {
            client.set_write_timeout(Some(PATIENCE))?;
            client.write_all(status().as_bytes())
        });
    }
}

/// Makes the directory, or finds that it's this user's own: in a directory for all, somebody else may have made it.
fn own(directory: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let found = fs::symlink_metadata(directory)?;
    let mine = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw();
    if mine && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let path = directory.display();
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{path} is not this user's alone (mode 0700)"),
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn ask(path: &Path) -> String {
        let mut text = String::new();
        UnixStream::connect(path).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn who_connects_is_told_until_the_guest_ends() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("cairn");
        let control = Control::start_below(&below, || "guest app\n".to_owned()).unwrap();
        let path = control.path.clone();
        assert_eq!([ask(&path), ask(&path)], ["guest app\n", "guest app\n"]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&below).unwrap().mode() & 0o777, 0o700);
        // A client that says nothing and reads nothing holds nobody up for long.
        let _idle = UnixStream::connect(&path).unwrap();
        drop(control);
        assert!(!path.exists());
        // What a killed process left is no obstacle.
        fs::write(&path, "").unwrap();
        Control::start_below(&below, String::new).unwrap();
    }

    #[test]
    fn a_directory_of_others_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Control::start_below(directory.path(), String::new).is_err());
        let link = directory.path().join("link");
        let target = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(target.path(), &link).unwrap();
        assert!(Control::start_below(&link, String::new).is_err());
    }
}
