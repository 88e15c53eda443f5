//! Running other programs: cargo, Debian's tools, and what was built.

use std::ffi::OsStr;
use std::io::{PipeReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Bytes of output that [`follow`] and [`pass_on`] pass on at once.
const CHUNK: usize = 4096;
/// How long a program that has ended may leave nothing to read before all that it wrote counts as read.
const SILENCE: Duration = Duration::from_millis(200);
/// What is said of a program that failed, and whose output is on this terminal.
pub(crate) const SEE_ABOVE: &str = "its output above says what";

/// The workspace's root directory: the parent of this package's.
pub(crate) fn workspace_root() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().map(Path::to_path_buf).context("the xtask package has no parent directory")
}

/// Cargo, as it was called for this run, working in the workspace's root.
pub(crate) fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Command> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(args).current_dir(workspace_root()?);
    Ok(command)
}

/// The directory below which cargo puts what it builds.
pub(crate) fn target() -> Result<PathBuf> {
    let root = workspace_root()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(root.join(target))
}

/// Where cargo puts what it builds with `profile` ("debug" or "release").
pub(crate) fn built(profile: &str) -> Result<PathBuf> {
    Ok(target()?.join(profile))
}

/// Runs `command` with this terminal; true if it ended with success.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    Ok(status.success())
}

/// Runs `command` and takes its standard output; standard error goes to this terminal.
///
/// # Errors
/// It could not be started or did not end with success.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", shown(command), output.status);
    }
    Ok(output.stdout)
}

/// Runs `command` and passes its standard output on as it comes; none if it did not end within `limit` and was ended.
///
/// # Errors
/// It could not be started, or `pass_on` failed; then it was ended.
pub(crate) fn follow(
    command: &mut Command,
    limit: Duration,
    pass_on: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Option<ExitStatus>> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {}", shown(command)))?;
    let passed = pass_until(&mut child, Instant::now() + limit, pass_on);
    if !matches!(passed, Ok(true)) {
        // It may have ended by itself in between; then there is nothing left to do.
        let _ = child.kill();
    }
    let status = child.wait().with_context(|| format!("waiting for {}", shown(command)))?;
    Ok(passed?.then_some(status))
}

/// Runs `command`, whose output goes to the other end of `output`, and passes that on as it comes. The end is the
/// command's own: a process that it left behind may have the output for longer.
///
/// # Errors
/// It could not be started, or `pass` failed; then it was ended.
pub(crate) fn pass_on(
    command: &mut Command,
    output: PipeReader,
    pass: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<ExitStatus> {
    let mut child = command.spawn().with_context(|| format!("cannot start {}", shown(command)))?;
    // The ends that the command still has would keep the pipe open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let receiver = chunks(output);
    loop {
        match receiver.recv_timeout(SILENCE) {
            Ok(chunk) => {
                if let Err(error) = pass(&chunk) {
                    // It may have ended by itself in between; then there is nothing left to do.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(error);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                return child.wait().with_context(|| format!("waiting for {}", shown(command)));
            }
            Err(RecvTimeoutError::Timeout) => {
                let ended = child.try_wait().with_context(|| format!("waiting for {}", shown(command)))?;
                if let Some(status) = ended {
                    return Ok(status);
                }
            }
        }
    }
}

/// What comes from a program, read by a thread until the end.
fn chunks(mut output: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut chunk = [0; CHUNK];
        // An error is an end as well: the program's status says more.
        while let Ok(length @ 1..) = output.read(&mut chunk) {
            if sender.send(chunk[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Passes a child's output on until it closes it (true) or the deadline comes (false).
fn pass_until(
    child: &mut Child,
    deadline: Instant,
    pass_on: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<bool> {
    let receiver = chunks(child.stdout.take().context("the program has no output")?);
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(chunk) => pass_on(&chunk)?,
            Err(RecvTimeoutError::Disconnected) => return Ok(true),
            Err(RecvTimeoutError::Timeout) => return Ok(false),
        }
    }
}

/// The last lines of a log, for a person; what can't be read has none.
pub(crate) fn last_lines(log: &Path, count: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The command as a person would type it: cargo by its name, not by where it is installed.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = match program.file_name() {
        Some(name) if name == "cargo" => name,
        _ => program.as_os_str(),
    };
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_followed_to_its_end_or_the_limit() {
        let mut output = Vec::new();
        let mut follow_for = |script: &str, limit| {
            follow(Command::new("sh").args(["-c", script]), limit, &mut |chunk| {
                output.extend_from_slice(chunk);
                Ok(())
            })
        };
        let long = Duration::from_secs(60);
        assert_eq!(follow_for("echo one; exit 3", long).unwrap().unwrap().code(), Some(3));
        assert_eq!(follow_for("echo two; exec sleep 60", Duration::from_millis(200)).unwrap(), None);
        assert!(output.starts_with(b"one\n"));
        let mut stop = |_: &[u8]| bail!("enough");
        assert!(follow(Command::new("sh").args(["-c", "echo; exec sleep 60"]), long, &mut stop).is_err());
    }

    #[test]
    fn commands_are_shown_as_they_are_typed() {
        assert_eq!(shown(Command::new("/opt/rust/bin/cargo").arg("test")), "cargo test");
        assert_eq!(shown(Command::new("/b/cairn").arg("doctor")), "/b/cairn doctor");
    }
}
