//! sqlite3 and python3 under `--every 200ms`, killed at random and brought back: they end with the bytes with which they
//! end natively.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::Bench;
use super::running::{Event, Running, Scratch};

/// Between two checkpoints.
const EVERY: &str = "200ms";
/// A program is killed up to this long after a checkpoint: past the next one, sometimes.
const WITHIN: Duration = Duration::from_millis(300);
/// Rows of the file that sqlite3 imports.
const ROWS: u64 = 100_000;
/// Queries with which sqlite3 goes on until it has lasted long enough to be killed so often.
const QUERIES: u64 = 160;
/// Turns of python3's loop: about ten seconds.
const TURNS: u64 = 32_000_000;
/// Tools' names, and where Debian has them.
const SQLITE: &str = "/usr/bin/sqlite3";
const PYTHON: &str = "/usr/bin/python3";
/// The database, in its directory.
const DATABASE: &str = "test.db";

/// What came of one program.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Killed {
    pub(super) program: String,
    pub(super) seed: u64,
    pub(super) wanted: u32,
    /// How often it was killed: fewer times if it ended before.
    pub(super) killed: u32,
    /// Its output and its files are what they are natively.
    pub(super) is_same: bool,
    pub(super) native_ns: u64,
    /// With all that was done twice.
    pub(super) took_ns: u64,
}

/// What is run.
struct Victim {
    name: &'static str,
    program: &'static str,
    arguments: Vec<String>,
    /// A file that it reads: its name and its text.
    input: Option<(&'static str, String)>,
    /// A file that it leaves.
    result: Option<&'static str>,
}

/// Kills all that are installed.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Killed>> {
    let mut all = Vec::new();
    for victim in [sqlite(), python()] {
        if Path::new(victim.program).exists() {
            eprintln!("kills, {}", victim.name);
            all.push(kill_and_restore(bench, &victim).context(victim.name)?);
        } else {
            eprintln!("kills, {}: there is no {}", victim.name, victim.program);
        }
    }
    Ok(all)
}

fn sqlite() -> Victim {
    let mut rows = String::from("id,name,amount\n");
    for row in 0..ROWS {
        // Writing to a String can't fail.
        let _ = writeln!(
            rows,
            "{row},name {:x},{}",
            row.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            row * 7919 % 10_007
        );
    }
    let mut arguments = vec![DATABASE.to_owned(), ".import --csv rows.csv t".to_owned()];
    arguments.push("CREATE INDEX of_names ON t(name); CREATE INDEX of_amounts ON t(amount);".to_owned());
    for query in 0..QUERIES {
        arguments.push(format!(
            "UPDATE t SET amount = amount + {query} WHERE id % 97 = {query} % 97; \
             SELECT count(*), sum(x.amount), max(x.name), min(length(x.name || x.amount)) FROM t x \
             WHERE x.amount % 13 = {query} % 13 OR x.name LIKE '%{query:x}%';"
        ));
    }
    arguments.push("SELECT * FROM t WHERE id % 997 = 0 ORDER BY name;".to_owned());
    Victim {
        name: "sqlite3, 100,000 rows",
        program: SQLITE,
        arguments,
        input: Some(("rows.csv", rows)),
        result: Some(DATABASE),
    }
}

fn python() -> Victim {
    let script = format!(
        "import hashlib\nh = b'seed'; kept = {{}}\nfor i in range({TURNS}):\n h = hashlib.sha256(h).digest()\n \
         if i % 1000 == 0: kept[h[:8]] = h.hex()\n if i % 100000 == 0: print(i, len(kept), h.hex(), flush=True)\n\
         print(hashlib.sha256(''.join(kept.values()).encode()).hexdigest())\n"
    );
    let arguments = vec!["-S".to_owned(), "-c".to_owned(), script];
    Victim { name: "python3, 10 s", program: PYTHON, arguments, input: None, result: None }
}

impl Victim {
    /// Its directory, made with what it reads.
    fn prepare(&self, scratch: &Scratch) -> Result<()> {
        fs::create_dir(scratch.at("work"))?;
        if let Some((name, text)) = &self.input {
            fs::write(scratch.at("work").join(name), text)?;
        }
        Ok(())
    }

    /// What it wrote and what it left.
    fn outcome(&self, scratch: &Scratch) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
        let left = self.result.map(|name| fs::read(scratch.at("work").join(name))).transpose()?;
        Ok((fs::read(scratch.at("out"))?, left))
    }

    /// Runs it natively.
    fn natively(&self, scratch: &Scratch) -> Result<()> {
        self.prepare(scratch)?;
        let mut command = Command::new(self.program);
        command.args(&self.arguments).current_dir(scratch.at("work")).stdin(Stdio::null());
        let status = command.stdout(fs::File::create(scratch.at("out"))?).status()?;
        ensure!(status.success(), "natively it ended with {status}");
        Ok(())
    }
}

fn kill_and_restore(bench: &Bench, victim: &Victim) -> Result<Killed> {
    let native = Scratch::new(&bench.options.disk)?;
    let begun = Instant::now();
    victim.natively(&native)?;
    let native_ns = nanoseconds(begun.elapsed());
    let scratch = Scratch::new(&bench.options.disk)?;
    victim.prepare(&scratch)?;
    let seed = bench.options.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::from(now.subsec_micros())
    });
    let mut moments = Moments(seed << 1 | 1);
    let (store, work) = (scratch.at("store"), scratch.at("work"));
    let grant = format!("{}:rw", work.display());
    let output = scratch.at("out");
    let options = [
        "-v",
        "--store",
        &store.to_string_lossy(),
        "--every",
        EVERY,
        "--stdout",
        &output.to_string_lossy(),
        "--dir",
        &grant,
    ];
    let begun = Instant::now();
    let mut first = bench.cairn_run(&options);
    first.arg(victim.program).args(&victim.arguments).current_dir(&work);
    let mut running = Running::start(&mut first)?;
    let mut killed = 0;
    while killed < bench.options.kills && took_one(&mut running)? {
        thread::sleep(moments.next(WITHIN));
        if !running.kill()? {
            break;
        }
        killed += 1;
        let mut command = Command::new(&bench.cairn);
        command.args(["restore", "-v"]).arg(&store).env_remove("RUST_LOG");
        running = Running::start(&mut command)?;
    }
    while took_one(&mut running)? {}
    running.end()?;
    Ok(Killed {
        program: victim.name.to_owned(),
        seed,
        wanted: bench.options.kills,
        killed,
        is_same: victim.outcome(&scratch)? == victim.outcome(&native)?,
        native_ns,
        took_ns: nanoseconds(begun.elapsed()),
    })
}

/// Waits for a checkpoint; false when it has ended.
fn took_one(running: &mut Running) -> Result<bool> {
    let taken = running.wait_or_end(|event| matches!(event, Event::Taken(_)).then_some(()))?;
    Ok(taken.is_some())
}

/// Moments that look random (Marsaglia's xorshift64).
struct Moments(u64);

impl Moments {
    fn next(&mut self, within: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        within.mul_f64((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
