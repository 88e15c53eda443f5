//! Other processes of a scenario, which talk with it line by line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::process;

/// What this program is started with to play a role.
pub(crate) const FLAG: &str = "--role";

/// What a partner says instead of an answer when it fails.
const TROUBLE: &str = "trouble: ";

/// What a process of its own does: by name, with arguments, talking.
pub(crate) type Role = (&'static str, fn(&[String], &mut Talk) -> Result<()>);

/// One end of a conversation.
#[derive(Debug)]
pub(crate) struct Talk {
    input: BufReader<File>,
    output: File,
}

impl Talk {
    fn new(input: impl Into<OwnedFd>, output: impl Into<OwnedFd>) -> Self {
        Self { input: BufReader::new(File::from(input.into())), output: File::from(output.into()) }
    }

    /// The next line, or None at the end.
    pub(crate) fn hear(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        let bytes = self.input.read_line(&mut line).context("listening")?;
        Ok((bytes > 0).then(|| line.trim_end().to_owned()))
    }

    /// Says a line.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.output, "{line}").context("speaking")
    }

    /// Says a line and goes on with the next one.
    pub(crate) fn say_and_wait(&mut self, line: &str) -> Result<()> {
        self.say(line)?;
        self.hear().map(drop)
    }
}

/// Plays a role in this process, until it's done or its parent is gone.
pub(crate) fn play(mut all: impl Iterator<Item = &'static Role>, args: &[String]) -> ExitCode {
    process::die_with_parent();
    let [name, args @ ..] = args else { return ExitCode::from(2) };
    let Some((_, role)) = all.find(|(known, _)| known == name) else { return ExitCode::from(2) };
    let (Ok(input), Ok(output)) = (own_copy(&io::stdin()), own_copy(&io::stdout())) else {
        return ExitCode::FAILURE;
    };
    conclude(role, args, Talk::new(input, output))
}

fn own_copy(of: &impl std::os::fd::AsFd) -> io::Result<OwnedFd> {
    of.as_fd().try_clone_to_owned()
}

fn conclude<A: ?Sized>(role: impl FnOnce(&A, &mut Talk) -> Result<()>, args: &A, mut talk: Talk) -> ExitCode {
    let Err(error) = role(args, &mut talk) else { return ExitCode::SUCCESS };
    // If nobody listens any more, the exit code says it.
    let _ = talk.say(&format!("{TROUBLE}{error:#}"));
    ExitCode::FAILURE
}

/// Another process. It's killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Partner {
    name: String,
    pid: libc::pid_t,
    talk: Option<Talk>,
}

impl Partner {
    /// Starts this program in a role.
    pub(crate) fn start(role: &str, args: &[String]) -> Result<Self> {
        Self::spawn(role, Command::new(process::ITSELF).args([FLAG, role]).args(args))
    }

    /// As [`start`](Self::start), as an ordinary user with this number, of a group of the same number.
    pub(crate) fn start_as(user: u32, role: &str, args: &[String]) -> Result<Self> {
        Self::spawn(role, Command::new(process::ITSELF).args([FLAG, role]).args(args).uid(user).gid(user))
    }

    fn spawn(role: &str, command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("starting {role}"))?;
        let (input, output) = (child.stdout.take(), child.stdin.take());
        let (Some(input), Some(output)) = (input, output) else { bail!("no pipes to {role}") };
        let pid = libc::pid_t::try_from(child.id())?;
        Ok(Self { name: role.to_owned(), pid, talk: Some(Talk::new(input, output)) })
    }

    /// Goes on with `body` in a forked child: a copy of this process, with all that it has mapped and open.
    pub(crate) fn fork(name: &str, body: impl FnOnce(&mut Talk) -> Result<()>) -> Result<Self> {
        let (child_input, output) = io::pipe()?;
        let (input, child_output) = io::pipe()?;
        // SAFETY: this process has one thread, so that nothing in the child's copy is half done or locked.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).with_context(|| format!("forking {name}")),
            0 => {
                drop((input, output));
                process::die_with_parent();
                let body = |_: &(), talk: &mut Talk| body(talk);
                let code = conclude(body, &(), Talk::new(child_input, child_output));
                // SAFETY: ends the child without running what is the parent's to run.
                unsafe { libc::_exit(i32::from(code != ExitCode::SUCCESS)) }
            }
            pid => Ok(Self { name: name.to_owned(), pid, talk: Some(Talk::new(input, output)) }),
        }
    }

    /// The next line that it says.
    pub(crate) fn hear(&mut self) -> Result<String> {
        let talk = self.talk.as_mut().context("a partner that ended")?;
        let line = talk.hear()?.ok_or_else(|| anyhow!("{} ended without a word", self.name))?;
        match line.strip_prefix(TROUBLE) {
            Some(trouble) => bail!("{}: {trouble}", self.name),
            None => Ok(line),
        }
    }

    /// Checks that the next line that it says is this one.
    pub(crate) fn expect(&mut self, line: &str) -> Result<()> {
        let said = self.hear()?;
        ensure!(said == line, "{} says {said:?} instead of {line:?}", self.name);
        Ok(())
    }

    /// Says a line to it.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        self.talk.as_mut().context("a partner that ended")?.say(line)
    }

    /// Says a line to it and returns its answer.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        self.say(line)?;
        self.hear()
    }

    /// Waits until it ends, and checks that it ends well.
    pub(crate) fn finish(self) -> Result<()> {
        let mut partner = ManuallyDrop::new(self);
        let last = partner.talk.take().map(|Talk { mut input, output }| {
            drop(output);
            let mut rest = String::new();
            io::Read::read_to_string(&mut input, &mut rest).map(|_| rest)
        });
        let status = process::wait(partner.pid)?;
        let rest = last.transpose()?.unwrap_or_default();
        ensure!(status == 0, "{} ended with wait status {status:#x} {}", partner.name, rest.trim());
        Ok(())
    }

    /// Kills it, as `kill -9` does, and waits until it's gone.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        process::kill(self.pid);
        // It's a child, so there is nothing that could go wrong.
        let _ = process::wait(self.pid);
    }
}
