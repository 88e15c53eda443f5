//! Those who are connected to a guest's socket: each has a thread, and none holds another up, nor the guest's end.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Guest;
use super::request::{MAX_REQUEST, Request, answer};

/// How long a client may take to send its request, and to make room for the answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the guest's end waits for those who are still being answered.
const LAST_PATIENCE: Duration = Duration::from_secs(2);
/// Clients that are served at once. Bounds the threads.
pub(super) const MAX_CLIENTS: usize = 32;

/// All that are connected.
#[derive(Debug, Default)]
pub(super) struct Clients {
    state: Mutex<State>,
    /// One of them is gone.
    left: Condvar,
}

#[derive(Debug, Default)]
struct State {
    connected: usize,
    /// Those whose request isn't read yet, by a number of theirs.
    reading: Vec<(u64, UnixStream)>,
    next: u64,
    ended: bool,
}

/// A connected client, which counts until it's dropped.
struct Client {
    clients: Arc<Clients>,
    number: u64,
}

impl Clients {
    /// Serves a client on a thread of its own, or tells it that there are too many.
    pub(super) fn serve(self: &Arc<Self>, stream: UnixStream, guest: &Arc<dyn Guest>) {
        let Some(client) = self.admit(&stream) else {
            return refuse(stream, "too many ask at once");
        };
        let guest = Arc::clone(guest);
        let serve = move || {
            let client = client;
            // Clients that go away are their own affair.
            if let Err(error) = client.serve(stream, &*guest) {
                tracing::debug!(%error, "somebody asked and went away");
            }
        };
        if let Err(error) = thread::Builder::new().name("client".to_owned()).spawn(serve) {
            tracing::debug!(%error, "no thread for who asks");
        }
    }

    /// Ends those that have not asked yet, and waits a little for the answers to those that have.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        for (_, stream) in &state.reading {
            // It's gone otherwise.
            let _ = stream.shutdown(Shutdown::Read);
        }
        let some_left = |state: &mut State| state.connected != 0;
        let _state = self
            .left
            .wait_timeout_while(state, LAST_PATIENCE, some_left)
            .unwrap_or_else(PoisonError::into_inner);
    }

    fn admit(self: &Arc<Self>, stream: &UnixStream) -> Option<Client> {
        let reading = stream.try_clone().ok()?;
        let mut state = self.lock();
        if state.connected == MAX_CLIENTS {
            return None;
        }
        state.connected += 1;
        let number = state.next;
        state.next += 1;
        state.reading.push((number, reading));
        Some(Client { clients: Arc::clone(self), number })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn serve(&self, mut stream: UnixStream, guest: &dyn Guest) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = read_request(&mut stream);
        let text = match request {
            _ if self.has_asked() => answer(Err("the guest has ended".to_owned())),
            Ok(Request::Status) => guest.status(),
            Ok(Request::Checkpoint) => answer(guest.checkpoint().map(|id| id.0.to_string())),
            Ok(Request::Rollback(to)) => answer(guest.rollback(to)),
            Err(text) => answer(Err(text)),
        };
        stream.write_all(text.as_bytes())
    }

    /// Notes that it is not to be interrupted any more; answers whether the guest has ended meanwhile.
    fn has_asked(&self) -> bool {
        let mut state = self.clients.lock();
        state.reading.retain(|(number, _)| *number != self.number);
        state.ended
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.has_asked();
        self.clients.lock().connected -= 1;
        self.clients.left.notify_all();
    }
}

fn refuse(mut stream: UnixStream, why: &str) {
    // There is room for a line in a new connection; if not, nobody waits for it.
    let _ =
        stream.set_nonblocking(true).and_then(|()| stream.write_all(answer(Err(why.to_owned())).as_bytes()));
}

/// The request that a client sends within its time.
fn read_request(stream: &mut UnixStream) -> Result<Request, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = [0; MAX_REQUEST];
    let mut len = 0;
    loop {
        if let Some(end) = bytes[..len].iter().position(|byte| *byte == b'\n') {
            return Request::parse(&bytes[..end]).map_err(|error| error.to_string());
        }
        if len == MAX_REQUEST {
            return Err(format!("the request is longer than {MAX_REQUEST} bytes"));
        }
        let late = || format!("no request came within {PATIENCE:?}");
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        match stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut bytes[len..])) {
            Ok(0) if len == 0 => return Ok(Request::Status),
            Ok(0) => return Request::parse(&bytes[..len]).map_err(|error| error.to_string()),
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error.to_string()),
        }
    }
}
