//! `cairn run`: one program in a virtual machine.

use std::ffi::{CString, OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use cairn_vmm::kvm::dirty_ring::{FEWEST_ENTRIES, MOST_ENTRIES};
use cairn_vmm::machine::app::{self, AppConfig, DEFAULT_MEMORY, Grant, LEAST_MEMORY, Overlay, RunError};
use cairn_vmm::machine::end::{End, Ended};
use cairn_vmm::machine::helpers::MOST_THREADS;
use cairn_vmm::machine::name::GuestName;
use cairn_vmm::machine::poll_policy::PollMode;
use cairn_vmm::machine::sessions::DEFAULT_HISTORY;
use cairn_vmm::machine::state::UserState;
use cairn_vmm::machine::tracking::TrackerMode;
use cairn_vmm::tell;
use clap::{Args, ValueEnum};
use nix::sys::signal::Signal;

use crate::size::Size;
use crate::state;
use crate::store_options::StoreOptions;
use crate::whole::WholeArgs;

/// Checkpoints that `--history` accepts at most. Bounds the search for the oldest.
const MOST_HISTORY: usize = 1 << 16;
/// Variables that a program gets without being asked for.
const INHERITED: [&str; 7] = ["PATH", "HOME", "USER", "TERM", "LANG", "TZ", "CAIRN_ENGINE"];

/// What the help says after the options.
const MORE_HELP: &str = "\
Exit status:
  That of the program, or
  1        something else went wrong, a directory or value that was given among it; stderr says what
  2        the command line makes no sense
  121      the store is damaged
  123      KVM can't go on with the program, or the host refused something while it ran
  124      its memory is too small
  125      no usable KVM, or the program couldn't be confined
  126      the program can't be run
  127      there is no such program
  128 + N  signal N killed the program

Examples:
  cairn run --dir .:rw sqlite3 test.db
  cairn run --dir .:rw --overlay -- sed -i s/teh/the/ a.txt      try it, and leave everything as it is
  cairn run --dir .:rw --overlay=commit -- sed -i s/teh/the/ *   change all files or, if it fails, none
  cairn run --store ck --every 2s --name job -- python3 long.py
  cairn checkpoint job                                           one more checkpoint of it, now
  cairn rollback job 7                                           back to one, and on from there";

/// Options of `cairn run`.
#[derive(Args, Debug)]
#[command(max_term_width = 100, after_help = MORE_HELP)]
pub(crate) struct Run {
    /// Private memory of the program. It costs the host what the program touches.
    #[arg(long, value_name = "SIZE", default_value_t = Size(DEFAULT_MEMORY))]
    memory: Size,
    /// Set a variable in the program's environment. It has PATH, HOME, USER, TERM, LANG, LC_*, TZ and CAIRN_ENGINE of yours.
    #[arg(long, value_name = "K=V")]
    env: Vec<OsString>,
    /// Let the program see a directory of the host, and with rw change it. The working directory and the system's
    /// directories are visible anyhow, read-only.
    #[arg(long, value_name = "HOST[:GUEST][:rw]")]
    dir: Vec<OsString>,
    /// Keep what the program changes in directories with rw in memory, so that they stay as they are while it runs.
    /// At its end the changes are forgotten (discard, also without =...) or, if it ended with status 0, applied (commit).
    #[arg(long, value_enum, value_name = "END", num_args = 0..=1, require_equals = true, default_missing_value = "discard")]
    overlay: Option<OverlayEnd>,
    /// When a host thread takes requests and system calls without an exit.
    #[arg(long, value_enum, default_value_t = Poll::Auto)]
    poll: Poll,
    /// Checkpoints that can be rolled back to.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_HISTORY, value_parser = history)]
    history: usize,
    /// How the pages that the program wrote are found.
    #[arg(long, value_enum, default_value_t = Tracker::Auto)]
    tracker: Tracker,
    /// Entries of the dirty ring, a power of two, where that is used [default: as many as KVM allows].
    #[arg(long, value_name = "N", value_parser = ring_entries)]
    ring_entries: Option<u32>,
    /// Memory for the checkpoints that can be rolled back to, beside a copy of the newest: when they need more, the
    /// oldest go. A checkpoint that needs more alone fails, and none goes [default: as much as --memory].
    #[arg(long, value_name = "SIZE")]
    history_memory: Option<Size>,
    /// Threads that work on a large checkpoint or rollback; they sleep otherwise [default: one for each core, at
    /// most 8].
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<NonZeroUsize>,
    /// What `cairn ps`, `checkpoint` and `rollback` call it [default: the program's own name].
    #[arg(long, value_name = "NAME")]
    name: Option<GuestName>,
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    whole: WholeArgs,
    /// The program, looked up in PATH if it has no slash, and its arguments.
    // One value, so that all behind the program is the program's, also what looks like an option of ours.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum Poll {
    /// While they come and a core is spare.
    Auto,
    /// All the time.
    Always,
    /// Never: each is an exit.
    Never,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum OverlayEnd {
    /// Forget the changes.
    Discard,
    /// Apply them to the directories if the program ends with status 0; else forget them.
    Commit,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum Tracker {
    /// Whatever costs least here; `cairn doctor` says what and why. Small and densely written regions aren't tracked.
    Auto,
    /// KVM's dirty bitmap, of which single pages can be left writable.
    Bitmap,
    /// KVM's dirty ring: no system call where nothing was written, but all pages are protected at once.
    Ring,
    /// None: every page is compared at every checkpoint.
    Scan,
}

impl From<Tracker> for TrackerMode {
    fn from(tracker: Tracker) -> Self {
        match tracker {
            Tracker::Auto => Self::Auto,
            Tracker::Bitmap => Self::Bitmap,
            Tracker::Ring => Self::Ring,
            Tracker::Scan => Self::Scan,
        }
    }
}

impl From<Poll> for PollMode {
    fn from(poll: Poll) -> Self {
        match poll {
            Poll::Auto => Self::Auto,
            Poll::Always => Self::Always,
            Poll::Never => Self::Never,
        }
    }
}

impl Run {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let config = self.config()?;
        Ok(told(&app::run(&config)?))
    }

    fn config(self) -> Result<AppConfig> {
        let is_writable = |text: &OsString| text.as_bytes().ends_with(b":rw");
        if self.overlay.is_some() && !self.dir.iter().any(is_writable) {
            bail!("--overlay is about directories with rw, and there is none: add --dir HOST:rw");
        }
        if self.memory.0 < LEAST_MEMORY {
            let memory = self.memory.0;
            return Err(RunError::LessThanLeast { memory }.into());
        }
        let program = find(self.program.first().context("a program is required")?)?;
        let arguments = self.program.iter().map(|argument| c_string(argument)).collect::<Result<_>>()?;
        let state = if self.whole.is_asked() {
            state::with_key()
        } else {
            UserState { directory: state::directory(), key: None }
        };
        Ok(AppConfig {
            name: self.name.unwrap_or_else(|| GuestName::of_program(&program)),
            program,
            arguments,
            environment: environment(&self.env)?,
            memory: self.memory.0,
            grants: self.dir.iter().map(|text| grant(text)).collect::<Result<_>>()?,
            directory: std::env::current_dir().context("the working directory can't be told")?,
            overlay: match (self.overlay, self.whole.is_asked()) {
                (Some(end), ..) => Some(overlay(end, state.directory.as_deref())?),
                // What it writes into directories has to go back with it.
                (None, true) if self.dir.iter().any(is_writable) => {
                    Some(overlay(OverlayEnd::Commit, state.directory.as_deref())?)
                }
                (None, ..) => None,
            },
            state,
            poll: self.poll.into(),
            tracker: self.tracker.into(),
            ring_entries: self.ring_entries,
            history: NonZeroUsize::new(self.history).context("--history must be at least 1")?,
            history_memory: self.history_memory.map(|size| size.0),
            threads: self.threads,
            whole: self.whole.config(),
            stdout: self.whole.stdout()?,
            store: self.store.config()?,
        })
    }
}

/// Tells a person what should be known of a program's end; the exit status.
pub(crate) fn told(ended: &Ended) -> ExitCode {
    let Ended { end, refused } = ended;
    match end {
        End::Faulted(fault) => tell!("cairn: {fault}"),
        // A reader that has seen enough is no news.
        End::Killed(Signal::SIGPIPE) | End::Exited(_) => {}
        End::Killed(signal) => tell!("cairn: the program was killed by {signal}"),
    }
    if *end != End::Exited(0) && !refused.is_empty() {
        tell!(
            "cairn: the program made system calls that cairn doesn't have, perhaps that's why: {}",
            refused.join(", ")
        );
    }
    ExitCode::from(end.status())
}

/// What becomes of overlays, and where the record of changes is kept while they are applied.
fn overlay(end: OverlayEnd, directory: Option<&Path>) -> Result<Overlay> {
    Ok(Overlay { commit: matches!(end, OverlayEnd::Commit), records: state::records(directory)? })
}

/// The program's path: as it is if it has a slash, else the first of its name in PATH.
fn find(program: &OsStr) -> Result<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Ok(program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file());
    match found {
        Some(file) => Ok(file),
        None => {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "no such program in PATH");
            Err(RunError::Open { program: program.to_string_lossy().into_owned(), source }.into())
        }
    }
}

fn environment(extra: &[OsString]) -> Result<Vec<CString>> {
    let inherits =
        |name: &OsStr| INHERITED.iter().any(|known| name == *known) || name.as_bytes().starts_with(b"LC_");
    let mut variables: Vec<(OsString, OsString)> =
        std::env::vars_os().filter(|(name, _)| inherits(name)).collect();
    for text in extra {
        let Some(at) = text.as_bytes().iter().position(|byte| *byte == b'=') else {
            bail!("--env {}: write NAME=VALUE", text.display());
        };
        let (name, value) = text.as_bytes().split_at(at);
        let name = OsStr::from_bytes(name).to_owned();
        variables.retain(|(known, _)| *known != name);
        variables.push((name, OsStr::from_bytes(&value[1..]).to_owned()));
    }
    let join = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        c_string(&name)
    };
    variables.into_iter().map(join).collect()
}

/// HOST, HOST:GUEST, HOST:rw or HOST:GUEST:rw.
pub(crate) fn grant(text: &OsStr) -> Result<Grant> {
    let mut parts: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b':').collect();
    let writable = match parts.last() {
        Some(&b"rw") => parts.pop().is_some(),
        Some(&b"ro") => parts.pop().is_none(),
        _ => false,
    };
    let (host, guest) = match parts[..] {
        [host] => (host, host),
        [host, guest] => (host, guest),
        _ => bail!("--dir {}: write HOST, HOST:GUEST, HOST:rw or HOST:GUEST:rw", text.display()),
    };
    let host = Path::new(OsStr::from_bytes(host));
    let canonical =
        host.canonicalize().with_context(|| format!("--dir {}: no such directory", host.display()))?;
    if !canonical.is_dir() {
        bail!("--dir {}: not a directory", host.display());
    }
    let guest = Path::new(OsStr::from_bytes(guest));
    let guest = if parts.len() == 1 { canonical.clone() } else { guest.to_path_buf() };
    if !guest.is_absolute() {
        bail!("--dir {}: the place in the guest must begin with a slash", text.display());
    }
    Ok(Grant { host: canonical, guest, writable })
}

pub(crate) fn history(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=MOST_HISTORY).contains(&count) => Ok(count),
        _ => Err(format!("write a number from 1 to {MOST_HISTORY}")),
    }
}

fn ring_entries(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(count) if count.is_power_of_two() && (FEWEST_ENTRIES..=MOST_ENTRIES).contains(&count) => Ok(count),
        _ => Err(format!("write a power of two from {FEWEST_ENTRIES} to {MOST_ENTRIES}")),
    }
}

pub(crate) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse::<NonZeroUsize>().ok().filter(|count| count.get() <= MOST_THREADS);
    count.ok_or_else(|| format!("write a number from 1 to {MOST_THREADS}"))
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes()).with_context(|| format!("{} has a zero byte", text.display()))
}
