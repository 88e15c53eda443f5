//! The example `kv --durable`, killed at random moments: what it has answered with OK is there when it comes back.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};
use cairn_tests::random::Random;
use cairn_tests::{built, cairn_run, kills};

/// Kills of one level, as a rule.
const KILLS: u32 = 8;
/// Commands that are sent at once before a kill, whose answers nobody waits for.
const MOST_AHEAD: u64 = 12;
/// Keys that are in use: few, so that they are set again and deleted.
const KEYS: u64 = 12;

type Content = BTreeMap<String, String>;

/// What the store should hold, command by command.
#[derive(Clone, Debug, Default)]
struct Model {
    /// What the program sees.
    now: Content,
    /// What a comeback would bring: without what an open transaction did.
    durable: Content,
    in_transaction: bool,
}

impl Model {
    /// A command that is right now, and what it answers.
    fn step(&mut self, random: &mut Random) -> (String, &'static str) {
        let key = format!("key{}", random.below(KEYS));
        let (line, answer) = match random.below(10) {
            0 if self.in_transaction => {
                self.now = self.durable.clone();
                self.in_transaction = false;
                ("ROLLBACK".to_owned(), "OK")
            }
            0 | 1 if !self.in_transaction => {
                self.in_transaction = true;
                ("BEGIN".to_owned(), "OK")
            }
            1 | 2 if self.in_transaction => {
                self.in_transaction = false;
                ("COMMIT".to_owned(), "OK")
            }
            3 | 4 => {
                let gone = self.now.remove(&key).is_some();
                (format!("DEL {key}"), if gone { "OK" } else { "NONE" })
            }
            _ => {
                let value =
                    format!("{}{:x}", "v".repeat(usize::try_from(random.below(60)).unwrap()), random.bits());
                let line = format!("SET {key} {value}");
                self.now.insert(key, value);
                (line, "OK")
            }
        };
        if !self.in_transaction {
            self.durable = self.now.clone();
        }
        (line, answer)
    }

    /// After a comeback.
    fn of(durable: Content) -> Self {
        Self { now: durable.clone(), durable, in_transaction: false }
    }
}

/// A `kv` under `cairn run --store`.
struct Running {
    child: Child,
    input: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Running {
    fn start(store: &Path, level: &str) -> Result<Self> {
        let mut command = cairn_run(&["--store", store.to_str().context("a path")?]);
        command.arg(built("cairn-examples", "kv")).args(["--keys", "64", "--room", "64"]);
        command.arg(format!("--durable={level}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let input = child.stdin.take().context("a piped standard input")?;
        let answers = BufReader::new(child.stdout.take().context("a piped standard output")?);
        Ok(Self { child, input, answers })
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "it ended by itself");
        Ok(line.trim_end().to_owned())
    }

    fn list(&mut self) -> Result<Content> {
        self.input.write_all(b"LIST\n")?;
        let mut found = Content::new();
        loop {
            let line = self.answer()?;
            match line.split_once(' ') {
                Some((key, value)) if key != "ERR" => {
                    found.insert(key.to_owned(), value.to_owned());
                }
                _ if line == "OK" => return Ok(found),
                _ => anyhow::bail!("{line}"),
            }
        }
    }

    /// Kills it. The answers that it still gave.
    fn kill(mut self) -> Result<Vec<String>> {
        self.child.kill()?;
        self.child.wait()?;
        let mut rest = String::new();
        self.answers.read_to_string(&mut rest)?;
        // The last one may be cut.
        Ok(rest.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect())
    }
}

fn kill_often(level: &str, kills: u32, seed: u64) -> Result<()> {
    let store = tempfile::tempdir()?;
    let mut random = Random(seed);
    // What may be found: after the commands that were answered, or any of those that were sent after them.
    let mut possible = vec![Content::new()];
    for kill in 0..=kills {
        let mut running = Running::start(store.path(), level)?;
        let found = running.list()?;
        ensure!(possible.contains(&found), "kill {kill}: found {found:?}, expected one of {possible:?}");
        let mut model = Model::of(found);
        for _ in 0..random.below(20) {
            let (line, expected) = model.step(&mut random);
            writeln!(running.input, "{line}")?;
            let answer = running.answer()?;
            ensure!(answer == expected, "kill {kill}: {answer:?} to {line:?}");
        }
        possible = vec![model.durable.clone()];
        let mut sent = String::new();
        let mut expected = Vec::new();
        for _ in 0..random.below(MOST_AHEAD + 1) {
            let (line, answer) = model.step(&mut random);
            sent += &(line + "\n");
            expected.push(answer);
            possible.push(model.durable.clone());
        }
        running.input.write_all(sent.as_bytes())?;
        for _ in 0..random.below(3_000_000) {
            std::hint::spin_loop();
        }
        let answers = running.kill()?;
        ensure!(expected.starts_with(&answers.iter().map(String::as_str).collect::<Vec<_>>()), "{answers:?}");
        possible.drain(..answers.len());
    }
    Ok(())
}

#[test]
fn what_was_answered_survives_kills() {
    for (level, seed) in [("written", 0x0b5e_55ed), ("synced", 0x5eed_ab1e)] {
        kill_often(level, kills(KILLS), seed).with_context(|| level.to_owned()).unwrap();
    }
}
