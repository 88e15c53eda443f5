//! Checkpoints on disk: a program that is killed, over and over, goes on from where it said that it was.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use cairn_tests::random::Random;
use cairn_tests::{Printed, cairn_run, guest, kills, run};

/// Kills of one flow, as a rule.
const KILLS: u32 = 6;
/// Steps that a program which is to be killed would take otherwise: more than it ever comes to.
const ENDLESS: &str = "1000000";

fn command(store: &Path, options: &[&str], arguments: &[&str]) -> Command {
    let mut command = cairn_run(&[&["--store", store.to_str().unwrap()], options].concat());
    command.arg(guest("guest-durable")).args(arguments);
    command
}

/// Runs it to its end, which must be a good one, and returns what it printed.
fn finish(store: &Path, options: &[&str], arguments: &[&str]) -> Result<String> {
    let printed = Printed::from(run(&mut command(store, options, arguments), b"")?);
    ensure!(printed.status == Some(0), "{arguments:?}: {printed:?}");
    Ok(String::from_utf8(printed.out)?)
}

/// "stored 7 at 3" and "recovered 7 at 3": the id and the number of steps.
fn told(line: &str, what: &str) -> Option<(u64, u64)> {
    let (id, steps) = line.strip_prefix(what)?.trim().split_once(" at ")?;
    Some((id.parse().ok()?, steps.split([':', ' ']).next()?.parse().ok()?))
}

#[test]
fn a_program_goes_on_where_it_was() {
    let store = tempfile::tempdir().unwrap();
    for (flow, options) in [
        ("steps", &[][..]),
        ("steps ahead", &["--poll", "never"]),
        ("back and forth", &["--history", "6"]),
        ("plain", &["--durable", "written"]),
        ("steps", &["--tracker", "scan"]),
        ("steps ahead", &["--tracker", "ring"]),
    ] {
        let first = finish(store.path(), options, &[flow, "6"]).unwrap();
        let last = first.lines().filter_map(|line| told(line, "stored")).next_back().unwrap();
        let next = finish(store.path(), options, &[flow, "2"]).unwrap();
        assert_eq!(next.lines().next().and_then(|line| told(line, "recovered")), Some(last), "{flow}");
    }
    let unfit = finish(store.path(), &[], &["unfit"]).unwrap();
    for says in [
        "a region less: the stored checkpoint doesn't fit: the region \"log\" is in the store with 1048576 bytes",
        "a region more: the stored checkpoint doesn't fit: the region \"more\" is 4096 bytes of u8",
        "another size: the stored checkpoint doesn't fit: the region \"table\" is 528384 bytes of u64",
        "another type: the stored checkpoint doesn't fit: the region \"table\" is 524288 bytes of i64 (8 bytes each) \
         here and 524288 bytes of another type (8 bytes each) in the store",
    ] {
        assert!(unfit.contains(says), "no {says:?} in {unfit}");
    }
    finish(store.path(), &[], &["late"]).unwrap();
}

#[test]
fn without_a_store_it_is_said_what_to_start() {
    let printed = run(cairn_run(&[]).arg(guest("guest-durable")).arg("no store"), b"").unwrap();
    let printed = Printed::from(printed);
    let out = String::from_utf8_lossy(&printed.out).into_owned();
    assert!(printed.status == Some(0) && out.contains("cairn run --store DIR"), "{printed:?}");
}

/// A program that runs until it's killed with its monitor.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("a piped standard output")?);
        Ok(Self { child, lines })
    }

    fn line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line)?;
        // The last one of a program that was killed may be cut.
        Ok((read != 0 && line.ends_with('\n')).then(|| line.trim_end().to_owned()))
    }

    /// Kills it, and returns the last steps that it said were stored, in what it printed before it died.
    fn kill(mut self) -> Result<Option<(u64, u64)>> {
        self.child.kill()?;
        let mut last = None;
        while let Some(line) = self.line()? {
            last = told(&line, "stored").or(last);
        }
        self.child.wait()?;
        Ok(last)
    }
}

/// Kills the monitor at a moment that has nothing to do with what it does, `kills` times.
fn kill_often(flow: &str, options: &[&str], kills: u32, seed: u64) -> Result<()> {
    let store = tempfile::tempdir()?;
    let mut random = Random(seed);
    // The newest that was told of as stored: id and steps.
    let mut newest = (0, 0);
    for kill in 0..kills {
        let mut running = Running::start(command(store.path(), options, &[flow, ENDLESS]))?;
        let first = running.line()?.context("it said nothing")?;
        match told(&first, "recovered") {
            // The program itself has compared every byte with what so many steps make.
            Some(recovered) => ensure!(newest <= recovered, "kill {kill}: {recovered:?} after {newest:?}"),
            None => ensure!(newest == (0, 0) && first == "nothing to recover", "kill {kill}: {first}"),
        }
        // From before its first checkpoint to far behind it, and then somewhere within a step.
        for _ in 0..random.below(12) {
            let line = running.line()?.context("it ended by itself")?;
            newest = told(&line, "stored").with_context(|| format!("kill {kill}: {line}"))?;
        }
        for _ in 0..random.below(200_000) {
            std::hint::spin_loop();
        }
        newest = running.kill()?.unwrap_or(newest);
    }
    let last = finish(store.path(), options, &[flow, "1"])?;
    let recovered = last.lines().next().and_then(|line| told(line, "recovered"));
    ensure!(recovered >= Some(newest) || newest == (0, 0), "{recovered:?} after {newest:?}");
    Ok(())
}

#[test]
fn kills_lose_nothing_that_was_said_to_be_stored() {
    for (at, (flow, options)) in [
        ("steps", &["--keep", "3"][..]),
        ("steps ahead", &[]),
        ("back and forth", &["--poll", "never"]),
        ("plain", &["--durable", "synced"]),
    ]
    .into_iter()
    .enumerate()
    {
        kill_often(flow, options, kills(KILLS), 0x9e37_79b9 + at as u64)
            .with_context(|| flow.to_owned())
            .unwrap();
    }
}

/// A limit on the size of files stands for a full disk: it can be taken away while the program runs.
#[test]
fn a_full_disk_is_told_of_and_the_program_goes_on_when_there_is_room() {
    full_disk().unwrap();
}

fn full_disk() -> Result<()> {
    const LIMIT: libc::rlim_t = 300 << 10;
    let store = tempfile::tempdir()?;
    let mut command = command(store.path(), &[], &["failing", "400"]);
    command.stderr(Stdio::piped());
    // SAFETY: both calls are allowed between fork and exec; they change the child alone.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit { rlim_cur: LIMIT, rlim_max: libc::RLIM_INFINITY };
            match libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let mut running = Running::start(command)?;
    let pid = libc::pid_t::try_from(running.child.id())?;
    let (mut stored, mut failed) = ((0, 0), 0);
    loop {
        let line = running.line()?.context("it ended before its disk was full")?;
        if let Some(newest) = told(&line, "stored") {
            ensure!(failed == 0 || stored < newest);
            stored = newest;
        } else if told(&line, "failed").is_some() {
            ensure!(line.contains("couldn't be stored") && line.contains("File too large"), "{line}");
            failed += 1;
        } else {
            bail!("{line}");
        }
        if failed == 3 {
            break;
        }
    }
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit of a process of ours, from a value that lives through the call.
    let raised = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) };
    ensure!(raised == 0, "{}", std::io::Error::last_os_error());
    let mut after = None;
    for _ in 0..20 {
        let line = running.line()?.context("it ended by itself")?;
        after = told(&line, "stored").or(after);
    }
    let after = after.context("nothing is stored though there is room")?;
    ensure!(stored < after, "{after:?} after {stored:?}");
    let newest = running.kill()?.unwrap_or(after);
    let next = finish(store.path(), &[], &["steps", "1"])?;
    let recovered = next.lines().next().and_then(|line| told(line, "recovered"));
    ensure!(Some(newest) <= recovered, "{recovered:?} after {newest:?}");
    Ok(())
}
