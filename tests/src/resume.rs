//! Programs that know nothing of checkpoints, killed with `kill -9` again and again and brought back: what the
//! tests of that share.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use cairn_test_host::is_there;

use crate::place::Place;
use crate::random::Random;
use crate::{Printed, run};

/// How often a program is begun to be killed at least once.
pub const ATTEMPTS: u32 = 10;
/// What `cairn -v` says of each checkpoint.
const TAKEN: &str = "a checkpoint of the program";

/// Commands that tell of each checkpoint.
impl Place {
    /// [`Place::run`] with standard output in the file.
    ///
    /// # Panics
    /// Where the directory's name is no text.
    #[must_use]
    pub fn run_telling(&self, every: &str, options: &[&str]) -> Command {
        let output = self.output_file();
        self.run(every, &[&["-v", "--stdout", output.to_str().unwrap()], options].concat())
    }

    /// [`Place::restore`].
    #[must_use]
    pub fn restore_telling(&self, options: &[&str]) -> Command {
        self.restore(&[&["-v"], options].concat())
    }
}

/// Starts it; what it tells on standard error.
///
/// # Panics
/// Where it can't be started.
pub fn start(command: &mut Command) -> (Child, BufReader<ChildStderr>) {
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let told = BufReader::new(child.stderr.take().unwrap());
    (child, told)
}

/// Reads what is told until a checkpoint was taken; its id, or None at the program's end.
///
/// # Panics
/// Where that is no text.
pub fn wait_for_checkpoint(told: &mut BufReader<ChildStderr>, all: &mut String) -> Option<u64> {
    loop {
        let before = all.len();
        if told.read_line(all).unwrap() == 0 {
            return None;
        }
        if let Some((_, rest)) = all[before..].split_once(TAKEN) {
            let id = rest.split_whitespace().find_map(|word| word.strip_prefix("id="));
            return Some(id.unwrap().parse().unwrap());
        }
    }
}

/// What is done to a program.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// Between two checkpoints.
    pub every: &'a str,
    /// How often it's killed, if it runs for so long.
    pub kills: u32,
    /// Each time this long after a checkpoint at most, milliseconds.
    pub within: u64,
    /// Further options of `cairn run`.
    pub options: &'a [&'a str],
}

impl Trial<'_> {
    /// Without further options.
    #[must_use]
    pub const fn new(every: &str, kills: u32, within: u64) -> Trial<'_> {
        Trial { every, kills, within, options: &[] }
    }
}

/// Runs a program under `--every`, kills it at random moments, and brings it back each time. What it printed, how it
/// ended, and how often it was killed.
///
/// # Panics
/// Where the host fails.
pub fn kill_and_restore(place: &Place, trial: &Trial<'_>, program: &[&str]) -> (Printed, u32) {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let mut random = Random(u64::from(seed) << 8 | 1);
    let mut all = format!("seed {seed}\n");
    let (mut child, mut told) = start(place.run_telling(trial.every, trial.options).args(program));
    let mut killed = 0;
    while killed < trial.kills && wait_for_checkpoint(&mut told, &mut all).is_some() {
        // Any moment will do: between checkpoints, in the midst of one, before the memory is all there.
        std::thread::sleep(Duration::from_millis(random.below(trial.within)));
        child.kill().unwrap();
        if child.wait().unwrap().code().is_some() {
            break;
        }
        killed += 1;
        (child, told) = start(&mut place.restore_telling(&[]));
    }
    while wait_for_checkpoint(&mut told, &mut all).is_some() {}
    let status = child.wait().unwrap().code();
    (Printed { status, out: fs::read(place.output_file()).unwrap(), err: all.into_bytes() }, killed)
}

/// Checks that a program prints natively and through kills the same.
///
/// # Panics
/// When it doesn't.
pub fn goes_on(program: &[&str], trial: &Trial<'_>) {
    let native = Printed::from(run(Command::new(program[0]).args(&program[1..]), b"").unwrap());
    assert_eq!(native.status, Some(0), "{native:?}");
    // Where the machine is busy with others, a program may have ended before its first checkpoint is told.
    for _ in 0..ATTEMPTS {
        if 0 < goes_on_at(&Place::new(), &native, program, trial) {
            return;
        }
    }
    panic!("{program:?} ended before it was killed, always");
}

/// One attempt, beside what was printed natively; how often it was killed.
///
/// # Panics
/// When it doesn't print the same.
pub fn goes_on_at(place: &Place, native: &Printed, program: &[&str], trial: &Trial<'_>) -> u32 {
    let (printed, killed) = kill_and_restore(place, trial, program);
    let told = String::from_utf8_lossy(&printed.err).into_owned();
    let same = printed.status == Some(0) && printed.out == native.out;
    assert!(same, "{program:?}, killed {killed} times: {}\n{told}", native.difference(&printed));
    killed
}
