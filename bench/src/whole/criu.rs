//! CRIU beside Cairn, on the same program and the same disk: how long the program stands still for a checkpoint that
//! changes a little, and how large that is.
//!
//! CRIU runs the program natively and dumps it with `--leave-running`, with all memory or with what changed since the
//! dump before (`--track-mem`). Its figures are its own: the time frozen of its file `stats-dump`, and the bytes of all
//! files of a dump.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cairn_bench::stats::median;
use serde::{Deserialize, Serialize};

use super::Bench;
use super::program::{GO, Mode, Program, READY, WINDOW_ROUNDS, Writes};
use super::running::{Checkpoint, Running, Scratch};
use super::slowdown;

/// Checkpoints of each kind, beside the first.
const EACH: u32 = 5;
/// Windows of the program's writes between two checkpoints: all that it writes is written again.
const WINDOWS: u32 = 3;
/// How long the program may take to fill its memory.
const PATIENCE: Duration = Duration::from_secs(120);
/// The file of a dump that tells its times, and its word (criu/include/magic.h). Another may stand before it: of
/// images in common, or of files of service.
const STATS: &str = "stats-dump";
const STATS_MAGIC: u32 = 0x5709_3306;

/// What was found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Compared {
    pub(super) mib: u32,
    pub(super) percent: u32,
    /// The version of CRIU.
    pub(super) criu: String,
    pub(super) rows: Vec<Row>,
}

/// One kind of checkpoint: medians.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) kind: String,
    pub(super) checkpoints: usize,
    pub(super) pause_ns: u64,
    pub(super) bytes: u64,
    /// From its beginning until it was stored.
    pub(super) until_stored_ns: u64,
}

/// One checkpoint.
#[derive(Clone, Copy, Debug)]
struct One {
    pause_ns: u64,
    bytes: u64,
    until_stored_ns: u64,
}

/// Measures both.
pub(super) fn measure(bench: &Bench) -> Result<Compared> {
    let version =
        Command::new("criu").arg("--version").output().context("there is no criu: apt-get install criu")?;
    let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or("?").to_owned();
    let (mib, percent) = (bench.options.mib, bench.options.percent);
    let hz = bench.rate.hz();
    let program =
        Program { mode: Mode::Calibrate, mib: 1, percent, writes: Writes::Hot, turns: 0, rounds: 0, hz };
    let turns = slowdown::turns_of_a_round(Command::new(&bench.own).args(program.arguments()))?;
    // Without end: it's killed.
    let program = Program { mode: Mode::Work, mib, turns, rounds: u32::MAX, ..program };
    let mut rows = vec![row("cairn, what changed", &by_cairn(bench, &program)?)];
    let (all, changed) = by_criu(bench, &program)?;
    rows.extend([row("CRIU, all memory", &all), row("CRIU, what changed", &changed)]);
    Ok(Compared { mib, percent, criu: version, rows })
}

fn row(kind: &str, all: &[One]) -> Row {
    let of = |field: fn(&One) -> u64| median(all.iter().map(field).collect());
    Row {
        kind: kind.to_owned(),
        checkpoints: all.len(),
        pause_ns: of(|one| one.pause_ns),
        bytes: of(|one| one.bytes),
        until_stored_ns: of(|one| one.until_stored_ns),
    }
}

/// Checkpoints of a program that was followed before.
fn by_cairn(bench: &Bench, program: &Program) -> Result<Vec<One>> {
    let scratch = Scratch::new(&bench.options.disk)?;
    let store = scratch.at("store");
    let every = format!("{}ms", WINDOWS * window_ms());
    let options = ["-v", "--store", &store.to_string_lossy(), "--every", &every];
    let mut running = Running::start(bench.cairn_run(&options).arg(&bench.own).args(program.arguments()))?;
    running.line(READY)?;
    running.checkpoints(2)?;
    running.tell(GO)?;
    // In the first ones after that pages only become hot.
    running.checkpoints(3)?;
    let later = (0..EACH).map(|_| running.checkpoints(1)).collect::<Result<Vec<Checkpoint>>>()?;
    running.kill()?;
    let one = |checkpoint: Checkpoint| One {
        pause_ns: checkpoint.pause_ns,
        bytes: checkpoint.bytes,
        until_stored_ns: checkpoint.all_ns,
    };
    Ok(later.into_iter().map(one).collect())
}

fn window_ms() -> u32 {
    u32::try_from(WINDOW_ROUNDS).unwrap_or(u32::MAX).saturating_mul(super::program::ROUND_MS)
}

/// A native process. Dropping it kills it.
struct Native(Child);

impl Drop for Native {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Dumps with all memory, and such that have what changed.
fn by_criu(bench: &Bench, program: &Program) -> Result<(Vec<One>, Vec<One>)> {
    let scratch = Scratch::new(&bench.options.disk)?;
    let output = scratch.at("out");
    // A session of its own, and no pipe: CRIU dumps nothing that is shared with others.
    let mut command = Command::new("setsid");
    command.arg(&bench.own).args(program.arguments()).stdin(Stdio::null());
    command.stdout(File::create(&output)?).stderr(File::create(scratch.at("err"))?);
    let native = Native(command.spawn().context("starting setsid")?);
    let begun = Instant::now();
    while !fs::read_to_string(&output)?.contains(READY) {
        ensure!(begun.elapsed() < PATIENCE, "the program doesn't get ready");
        thread::sleep(Duration::from_millis(20));
    }
    let pid = native.0.id();
    let pause = || thread::sleep(Duration::from_millis(u64::from(WINDOWS * window_ms())));
    let mut all = Vec::new();
    for number in 0..EACH {
        pause();
        all.push(dump(pid, &scratch.at(&format!("all-{number}")), &[])?);
    }
    let mut changed = Vec::new();
    for number in 0..=EACH {
        pause();
        let parent = format!("../changed-{}", number.wrapping_sub(1));
        let options = ["--track-mem", "--prev-images-dir", &parent];
        let options = if number == 0 { &options[..1] } else { &options[..] };
        changed.push(dump(pid, &scratch.at(&format!("changed-{number}")), options)?);
    }
    // The first of these has all memory.
    changed.remove(0);
    Ok((all, changed))
}

/// Dumps the process into a new directory.
fn dump(pid: u32, directory: &Path, options: &[&str]) -> Result<One> {
    fs::create_dir(directory)?;
    let begun = Instant::now();
    let mut command = Command::new("criu");
    command.args(["dump", "--leave-running", "--log-file", "dump.log", "--tree", &pid.to_string()]);
    let output =
        command.arg("--images-dir").arg(directory).args(options).output().context("starting criu")?;
    let until_stored_ns = u64::try_from(begun.elapsed().as_nanos())?;
    if !output.status.success() {
        let log = fs::read_to_string(directory.join("dump.log")).unwrap_or_default();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
        bail!(
            "criu dump ended with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            errors.join("\n")
        );
    }
    let stats = fs::read(directory.join(STATS))?;
    let frozen = frozen_us(&stats).with_context(|| format!("{STATS} makes no sense: {stats:02x?}"))?;
    let pause_ns = frozen * 1000;
    Ok(One { pause_ns, bytes: size(directory)?, until_stored_ns })
}

/// Bytes of the images in a directory: not the log, nor the link to the dump before.
fn size(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let path: PathBuf = entry?.path();
        if path.extension().is_some_and(|extension| extension == "img") {
            bytes += path.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// The microseconds that the process was frozen: field 2 of field 1 of the one message of the file (images/stats.proto).
fn frozen_us(file: &[u8]) -> Option<u64> {
    let word = |at: usize| Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?));
    let magic = [0, 4].into_iter().find(|at| word(*at) == Some(STATS_MAGIC))?;
    let message = file.get(magic + 8..)?.get(..word(magic + 4)? as usize)?;
    match field(message, 1)? {
        Field::Bytes(dump) => match field(dump, 2)? {
            Field::Number(frozen) => Some(frozen),
            Field::Bytes(_) => None,
        },
        Field::Number(_) => None,
    }
}

/// A field of a message of protocol buffers.
enum Field<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

/// The field of this number.
fn field(mut message: &[u8], wanted: u64) -> Option<Field<'_>> {
    loop {
        let key = varint(&mut message)?;
        let found = match key & 7 {
            0 => Field::Number(varint(&mut message)?),
            2 => {
                let len = usize::try_from(varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(len)?;
                message = rest;
                Field::Bytes(bytes)
            }
            // The file has no others.
            _ => return None,
        };
        if key >> 3 == wanted {
            return Some(found);
        }
    }
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frozen_time_is_read() {
        let mut file = vec![0x40, 0x59, 0x10, 0x55];
        file.extend(STATS_MAGIC.to_le_bytes());
        // Field 1, 5 bytes: field 1 is 3, field 2 is 300.
        file.extend(7_u32.to_le_bytes());
        file.extend([0x0a, 5, 0x08, 3, 0x10, 0xac, 2]);
        assert_eq!(frozen_us(&file[4..]), Some(300));
        assert_eq!(frozen_us(&file), Some(300));
        // Of CRIU 3.17.1.
        let real = [
            0x40, 0x59, 0x10, 0x55, 0x06, 0x33, 0x09, 0x57, 0x29, 0, 0, 0, 0x0a, 0x27, 0x08, 0xe3, 0x2e,
            0x10, 0xd5, 0x8e, 0x28, 0x18, 0xa7, 0xfb, 0x15, 0x20, 0xe1, 0x95, 0x0b, 0x28, 0xbb, 0xe6, 0x01,
            0x30, 0, 0x38, 0xd5, 0x80, 0x01, 0x40, 0, 0x48, 0, 0x50, 8, 0x58, 8, 0x60, 0, 0x68, 0, 0x70, 0,
        ];
        assert_eq!(frozen_us(&real), Some(657_237));
        for len in 0..file.len() {
            assert_eq!(frozen_us(&file[..len]), None);
        }
    }
}
