//! A running guest's socket: tells the same user what its sessions have done, and takes requests to checkpoint the whole
//! program and to roll it back.
//!
//! Whoever connects sends one line, a [`Request`], and gets one answer and the end of the connection; who sends nothing
//! and closes its side gets the [`status`](super::status). Each connection has a thread, so that a status never waits
//! for a rollback. The socket lies in a directory of the user's own (mode 0700), and is of mode 0600 itself.

mod asking;
mod clients;
mod request;

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fs, io, process};

use cairn_abi::CheckpointId;

pub use asking::{ask, sockets};
use clients::Clients;
pub use request::{BadRequest, Request, read_answer};

/// What the sockets' names end in; before it is the process id.
pub const SUFFIX: &str = ".sock";
/// How long nobody is connected after that has failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A guest that can be asked, on any thread and on several at once.
pub trait Guest: Send + Sync + 'static {
    /// What it says of itself.
    fn status(&self) -> String;

    /// Has a checkpoint of the whole program taken, and answers its id when the store has it.
    ///
    /// # Errors
    /// Why there is none, for a person.
    fn checkpoint(&self) -> Result<CheckpointId, String>;

    /// Has the program go on from a checkpoint; answers what was done when it runs again.
    ///
    /// # Errors
    /// Why it doesn't, for a person. The program runs on as it was then, or has ended.
    fn rollback(&self, to: CheckpointId) -> Result<String, String>;
}

/// The socket, until it's dropped. What is asked then must be answered soon.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    clients: Arc<Clients>,
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

/// Answers for `guest` until the value is dropped. A guest runs without that, too.
pub fn start(guest: Arc<dyn Guest>) -> Option<Control> {
    match Control::start_below(&directory(), guest) {
        Ok(control) => Some(control),
        Err(error) => {
            tracing::info!(%error, "nobody can ask this guest anything");
            None
        }
    }
}

impl Control {
    /// Fails without a directory that is the user's alone, a socket, or a thread.
    fn start_below(directory: &Path, guest: Arc<dyn Guest>) -> io::Result<Self> {
        own(directory)?;
        let path = directory.join(format!("{}{SUFFIX}", process::id()));
        // A process of this number that was killed may have left it.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let (stop, clients) = (Arc::new(AtomicBool::new(false)), Arc::new(Clients::default()));
        let (stopped, connected) = (Arc::clone(&stop), Arc::clone(&clients));
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept(&listener, &stopped, &connected, &guest))?;
        Ok(Self { path, stop, clients, thread: Some(thread) })
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
        self.clients.end();
    }
}

fn accept(listener: &UnixListener, stop: &AtomicBool, clients: &Arc<Clients>, guest: &Arc<dyn Guest>) {
    for client in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        match client {
            Ok(client) => clients.serve(client, guest),
            // Out of descriptors, perhaps: trying again at once would keep a core busy.
            Err(error) => {
                tracing::debug!(%error, "who asks can't be connected");
                thread::sleep(ACCEPT_AGAIN);
            }
        }
    }
}

/// Makes the directory, or finds that it's this user's own.
fn own(directory: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    check_own(directory)
}

/// Whether a directory is this user's own: in one for all, somebody else may have made it.
fn check_own(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    let mine = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw();
    if mine && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let path = directory.display();
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{path} is not this user's alone (mode 0700): remove it"),
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// A guest whose checkpoints last until it is told that it ends.
    #[derive(Default)]
    struct Slow {
        ended: Mutex<bool>,
        changed: Condvar,
    }

    impl Slow {
        fn end(&self) {
            *self.ended.lock().unwrap() = true;
            self.changed.notify_all();
        }
    }

    impl Guest for Slow {
        fn status(&self) -> String {
            "guest app\n".to_owned()
        }

        fn checkpoint(&self) -> Result<CheckpointId, String> {
            let ended = self.ended.lock().unwrap();
            let _ended = self.changed.wait_while(ended, |ended| !*ended).unwrap();
            Err("the program has ended".to_owned())
        }

        fn rollback(&self, to: CheckpointId) -> Result<String, String> {
            Ok(format!("rolled back to {}", to.0))
        }
    }

    struct Place {
        _directory: tempfile::TempDir,
        below: PathBuf,
        control: Control,
        guest: Arc<Slow>,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let below = directory.path().join("cairn");
            let guest = Arc::new(Slow::default());
            let asked: Arc<dyn Guest> = Arc::<Slow>::clone(&guest);
            let control = Control::start_below(&below, asked).unwrap();
            Self { _directory: directory, below, control, guest }
        }

        fn connect(&self) -> UnixStream {
            UnixStream::connect(&self.control.path).unwrap()
        }

        /// Sends bytes and closes that side; the answer.
        fn ask(&self, bytes: &[u8]) -> String {
            let mut stream = self.connect();
            // A request that is too long is answered before its end.
            let _ = stream.write_all(bytes);
            read(&mut stream)
        }
    }

    fn read(stream: &mut UnixStream) -> String {
        asking::read_answer(stream).unwrap()
    }

    #[test]
    fn who_asks_is_answered_until_the_guest_ends() {
        let place = Place::new();
        let path = place.control.path.clone();
        for request in [&b""[..], b"status\n", b"status"] {
            assert_eq!(place.ask(request), "guest app\n");
        }
        assert_eq!(place.ask(b"rollback 7\nand more"), "done rolled back to 7\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&place.below).unwrap().mode() & 0o777, 0o700);
        // A client that says nothing and reads nothing holds nobody up, the end neither.
        let mut idle = place.connect();
        let Place { _directory, below, control, .. } = place;
        drop(control);
        assert!(!path.exists());
        assert!(read_answer(&read(&mut idle)).is_err());
        // What a killed process left is no obstacle.
        fs::write(&path, "").unwrap();
        Control::start_below(&below, Arc::new(Slow::default())).unwrap();
    }

    #[test]
    fn garbage_is_answered_with_what_can_be_asked() {
        let place = Place::new();
        for garbage in [&b"\n"[..], b"\0\0\0\n", b"GET / HTTP/1.1\r\n", b"rollback all\n", &[0xff; 200]] {
            let answer = place.ask(garbage);
            assert!(read_answer(&answer).is_err(), "{answer}");
            assert_eq!(answer.lines().count(), 1, "{answer}");
        }
        assert!(place.ask(b"stop\n").contains("status, checkpoint, rollback ID"));
        assert!(place.ask(&[b'a'; 4096]).contains("longer than"));
    }

    #[test]
    fn a_long_request_holds_nobody_up() {
        let place = Place::new();
        let mut long = place.connect();
        long.write_all(b"checkpoint\n").unwrap();
        assert_eq!(place.ask(b"status\n"), "guest app\n");
        assert_eq!(place.ask(b"rollback 1\n"), "done rolled back to 1\n");
        place.guest.end();
        assert_eq!(read_answer(&read(&mut long)), Err("the program has ended"));
    }

    #[test]
    fn too_many_are_refused_and_the_others_served() {
        let place = Place::new();
        let mut waiting: Vec<UnixStream> = (0..clients::MAX_CLIENTS).map(|_| place.connect()).collect();
        for stream in &mut waiting {
            stream.write_all(b"checkpoint\n").unwrap();
        }
        assert!(place.ask(b"status\n").contains("at once"));
        place.guest.end();
        for stream in &mut waiting {
            assert_eq!(read_answer(&read(stream)), Err("the program has ended"));
        }
    }

    #[test]
    fn a_directory_of_others_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let start = |place: &Path| Control::start_below(place, Arc::new(Slow::default()));
        assert!(start(directory.path()).is_err());
        let link = directory.path().join("link");
        let target = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(target.path(), &link).unwrap();
        assert!(start(&link).is_err());
    }

    /// What others have put there is not asked, let alone believed.
    #[test]
    fn nobody_asks_in_a_directory_of_others() {
        let place = Place::new();
        assert_eq!(sockets(&place.below).unwrap().len(), 1);
        let link = place.below.with_extension("link");
        std::os::unix::fs::symlink(&place.below, &link).unwrap();
        assert!(sockets(&link).unwrap_err().to_string().contains("alone"));
        for mode in [0o701, 0o710, 0o777] {
            fs::set_permissions(&place.below, fs::Permissions::from_mode(mode)).unwrap();
            assert!(sockets(&place.below).unwrap_err().to_string().contains("remove it"), "{mode:o}");
        }
        if nix::unistd::geteuid().is_root() {
            fs::set_permissions(&place.below, fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&place.below, Some(65_534), None).unwrap();
            assert!(sockets(&place.below).unwrap_err().to_string().contains("alone"));
        }
        assert!(sockets(&place.below.with_extension("none")).unwrap().is_empty());
    }

    #[test]
    fn an_answer_writes_nothing_to_the_terminal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all("name \x1b[31ma\nkind \u{9b}0m\r\u{e4}\n".as_bytes()).unwrap();
            });
            let answer = ask(&path, Request::Status, None).unwrap();
            assert_eq!(answer, "name \\u{1b}[31ma\nkind \\u{9b}0m\\r\u{e4}\n");
        });
    }
}
