//! A `cairn run` or `cairn restore` that is looked at: its lines, and what it logs of its checkpoints.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cairn_bench::cpu;

/// How long a line may be awaited: bounds how long something that hangs holds the run up.
const PATIENCE: Duration = Duration::from_secs(300);
/// What `cairn -v` says of each checkpoint, and when a program that came back has all its memory.
const TAKEN: &str = "a checkpoint of the program";
const ALL_THERE: &str = "all memory is there";

/// A checkpoint, as it was logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Checkpoint {
    pub(super) id: u64,
    /// Pages that it took.
    pub(super) pages: u64,
    /// Bytes that it added to the store.
    pub(super) bytes: u64,
    /// How long the program stood still.
    pub(super) pause_ns: u64,
    /// From its beginning until the store had it.
    pub(super) all_ns: u64,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// The program said a line.
    Line(String),
    /// A checkpoint was taken.
    Taken(Checkpoint),
    /// A program that came back has all its memory.
    AllThere,
}

/// A started process. Dropping it kills it.
pub(super) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    events: Receiver<(Instant, Event)>,
    log: thread::JoinHandle<String>,
    /// When it was started.
    pub(super) begun: Instant,
}

impl Running {
    /// Starts `command`; `output` says whether its standard output is read.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let begun = Instant::now();
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.with_context(|| format!("starting {:?}", command.get_program()))?;
        let (sender, events) = mpsc::channel();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let told = sender.clone();
        thread::spawn(move || {
            // Nobody wants to know any more once sending fails.
            let _ =
                each_line(stdout, |line| told.send((Instant::now(), Event::Line(line.to_owned()))).is_ok());
        });
        let log = thread::spawn(move || {
            let mut other = String::new();
            // What can't be read ends the log.
            let _ = each_line(stderr, |line| {
                match logged(line) {
                    Some(event) => drop(sender.send((Instant::now(), event))),
                    None if !line.contains(" INFO ") => other.push_str(&format!("{line}\n")),
                    None => {}
                }
                true
            });
            other
        });
        Ok(Self { stdin: child.stdin.take(), child, events, log, begun })
    }

    /// Waits for an event that `wanted` wants; when it was, and what it made of it.
    pub(super) fn wait<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> Result<(Instant, T)> {
        self.wait_or_end(|event| wanted(event))?.context("it ended too soon")
    }

    /// As [`wait`](Self::wait); None when it has ended.
    pub(super) fn wait_or_end<T>(
        &mut self,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> Result<Option<(Instant, T)>> {
        loop {
            match self.events.recv_timeout(PATIENCE) {
                Ok((at, event)) => {
                    if let Some(found) = wanted(&event) {
                        return Ok(Some((at, found)));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => bail!("nothing happened for {} s", PATIENCE.as_secs()),
            }
        }
    }

    /// Waits for a line of the program.
    pub(super) fn line(&mut self, line: &str) -> Result<Instant> {
        let (at, ()) = self.wait(|event| (*event == Event::Line(line.to_owned())).then_some(()))?;
        Ok(at)
    }

    /// Waits for so many checkpoints from now on; the last one's.
    pub(super) fn checkpoints(&mut self, count: u32) -> Result<Checkpoint> {
        let mut left = count;
        let (_, last) = self.wait(|event| match event {
            Event::Taken(checkpoint) => {
                left -= 1;
                (left == 0).then_some(*checkpoint)
            }
            _ => None,
        })?;
        Ok(last)
    }

    /// Tells it a line.
    pub(super) fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("it hears nothing")?;
        Ok(writeln!(stdin, "{line}").and_then(|()| stdin.flush())?)
    }

    /// The CPU time of all its threads so far.
    pub(super) fn cpu_ns(&self) -> Result<u64> {
        Ok(cpu::of_process_ns(self.child.id())?)
    }

    /// Kills it, which it may have forestalled by ending; whether it was killed.
    pub(super) fn kill(&mut self) -> Result<bool> {
        self.child.kill()?;
        Ok(self.child.wait()?.code().is_none())
    }

    /// Waits for its end, and fails with what it said unless that is a good one.
    pub(super) fn end(mut self) -> Result<()> {
        drop(self.stdin.take());
        let status = self.child.wait()?;
        let said = std::mem::replace(&mut self.log, thread::spawn(String::new)).join().unwrap_or_default();
        if status.success() { Ok(()) } else { bail!("it ended with {status}: {}", said.trim()) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines until `each` has enough.
fn each_line(from: Option<impl Read>, mut each: impl FnMut(&str) -> bool) -> std::io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? != 0 {
        let text = String::from_utf8_lossy(&line);
        if !each(text.trim_end_matches('\n')) {
            break;
        }
        line.clear();
    }
    Ok(())
}

/// What a line of the log tells.
fn logged(line: &str) -> Option<Event> {
    if line.contains(ALL_THERE) {
        return Some(Event::AllThere);
    }
    let (_, fields) = line.split_once(TAKEN)?;
    let field =
        |name: &str| fields.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let number = |name: &str| field(name)?.parse().ok();
    Some(Event::Taken(Checkpoint {
        id: number("id")?,
        pages: number("pages")?,
        bytes: number("bytes")?,
        pause_ns: nanoseconds(field("pause")?)?,
        all_ns: nanoseconds(field("all")?)?,
    }))
}

/// A time as `Duration`'s Debug writes it.
fn nanoseconds(text: &str) -> Option<u64> {
    let units = [("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let (number, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let time = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()?;
    u64::try_from(time.as_nanos()).ok()
}

/// A directory on the disk in question that is gone with this value.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A new one in `directory`.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let pid = std::process::id();
        let free = (0..1000).map(|number| directory.join(format!("cairn-bench-{pid}-{number}")));
        for path in free {
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("making {}", path.display())),
            }
        }
        bail!("{} is full of directories of this program", directory.display())
    }

    /// A path in it.
    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} is left: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_read_from_the_log() {
        let line = "2026-01-01T00:00:00Z  INFO cairn_vmm: a checkpoint of the program id=7 pages=655 bytes=81920 \
                    pause=1.5ms all=12.25µs";
        let expected = Checkpoint { id: 7, pages: 655, bytes: 81920, pause_ns: 1_500_000, all_ns: 12_250 };
        assert_eq!(logged(line), Some(Event::Taken(expected)));
        assert_eq!(logged("INFO all memory is there after=3ms"), Some(Event::AllThere));
        assert_eq!(logged("a checkpoint of the program id=x"), None);
        assert_eq!(logged("something else"), None);
    }

    #[test]
    fn what_ends_badly_says_why() {
        let mut running =
            Running::start(Command::new("sh").args(["-c", "echo one; echo why >&2; exit 3"])).unwrap();
        running.line("one").unwrap();
        assert!(running.wait_or_end(|_| Some(())).unwrap().is_none());
        let why = running.end().unwrap_err().to_string();
        assert!(why.contains("why") && why.contains('3'), "{why}");
    }
}
