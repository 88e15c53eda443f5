//! A worker process as the driver holds it.

use std::io::{self, BufReader, Read};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::protocol::{self, Answer, Order, Unread};

/// How long an answer may take: bounds how long a worker that hangs holds the run up.
const PATIENCE: Duration = Duration::from_secs(180);
/// Bytes of a worker's standard error that are kept for a message.
const MAX_COMPLAINT: u64 = 16 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The worker ended; holds its last line on standard error, if it wrote any, and how it ended.
    #[error("{0}")]
    Ended(String),
    /// The worker hangs.
    #[error("no answer in {} s", PATIENCE.as_secs())]
    Silent,
    /// The worker's line is no answer.
    #[error("the worker talks nonsense")]
    Nonsense(#[from] Unread),
    /// The worker can't do what it was told, or did something else; holds its sentence about it.
    #[error("{0}")]
    Refused(String),
}

/// A started worker. Dropping it kills it.
#[derive(Debug)]
pub struct WorkerProcess {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<Result<Answer, Unread>>,
    complaint: Option<JoinHandle<String>>,
}

impl WorkerProcess {
    /// Starts `command` with its standard streams as pipes.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (sender, answers) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            thread::spawn(move || {
                let mut output = BufReader::new(output);
                // After a line that is no message nothing can be read: the next one's beginning is unknown.
                while let Some(answer) = protocol::read(&mut output).transpose() {
                    let last = answer.is_err();
                    if sender.send(answer).is_err() || last {
                        break;
                    }
                }
            });
        }
        let complaint = child.stderr.take().map(|stderr| thread::spawn(move || read_complaint(stderr)));
        Ok(Self { orders: child.stdin.take(), child, answers, complaint })
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends an order and waits for its answer.
    ///
    /// # Errors
    /// [`NoAnswer`]; an answer that the worker failed is one, too.
    pub fn order(&mut self, order: &Order) -> Result<Answer, NoAnswer> {
        let sent = match &mut self.orders {
            Some(orders) => protocol::write(orders, order),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        match sent {
            Ok(()) => self.answer(),
            Err(_) => Err(NoAnswer::Ended(self.last_words())),
        }
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// As for [`WorkerProcess::order`].
    pub fn answer(&mut self) -> Result<Answer, NoAnswer> {
        match self.answers.recv_timeout(PATIENCE) {
            Ok(Ok(Answer::Failed { why })) => Err(NoAnswer::Refused(why)),
            Ok(answer) => Ok(answer?),
            Err(RecvTimeoutError::Timeout) => Err(NoAnswer::Silent),
            Err(RecvTimeoutError::Disconnected) => Err(NoAnswer::Ended(self.last_words())),
        }
    }

    /// How a worker that is gone ended, and the last line of what it wrote to standard error.
    fn last_words(&mut self) -> String {
        self.orders = None;
        let ended = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let complaint = self.complaint.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        match complaint.lines().rfind(|line| !line.trim().is_empty()) {
            Some(line) => format!("{} ({ended})", line.trim()),
            None => format!("the worker ended with {ended}"),
        }
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        self.orders = None;
        // Both fail only if the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, and keeps the beginning.
fn read_complaint(mut stderr: impl Read) -> String {
    let mut kept = Vec::new();
    // An error ends the text early, which is all that can be done about it.
    let _ = stderr.by_ref().take(MAX_COMPLAINT).read_to_end(&mut kept);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> WorkerProcess {
        WorkerProcess::start(Command::new("sh").arg("-c").arg(script)).unwrap()
    }

    #[test]
    fn an_order_is_answered() {
        let mut worker = shell(r#"read order; echo '{"answer":"planned"}'"#);
        assert_eq!(worker.order(&Order::Run).unwrap(), Answer::Planned);
    }

    #[test]
    fn a_worker_that_ends_says_why() {
        let mut worker = shell("echo one >&2; echo no such device >&2; exit 3");
        let why = worker.answer().unwrap_err().to_string();
        assert!(why.contains("no such device") && why.contains('3'), "{why}");
        assert!(worker.order(&Order::Run).is_err());
    }

    #[test]
    fn nonsense_and_refusals_are_errors() {
        let nonsense = shell("echo hello").answer().unwrap_err();
        assert!(protocol::chain(&nonsense).contains("hello"));
        let refusal = shell(r#"echo '{"answer":"failed","why":"no memory"}'"#).answer().unwrap_err();
        assert_eq!(refusal.to_string(), "no memory");
    }

    #[test]
    fn more_complaint_than_is_kept_does_not_block_the_worker() {
        let mut worker = shell(r#"head -c 1000000 /dev/zero >&2; echo '{"answer":"ready"}'"#);
        assert_eq!(worker.answer().unwrap(), Answer::Ready);
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert!(WorkerProcess::start(&mut Command::new("/no/such/worker")).is_err());
    }
}
