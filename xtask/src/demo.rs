//! `cargo xtask demo`: Cairn at work on this machine, every step announced in one line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::kvm;
use crate::packages::{self, Installing};
use crate::process::{self, cargo};

/// Real text that is on every Debian machine (package base-files, which is essential).
const TEXTS: &str = "/usr/share/common-licenses";
/// The pipeline that `wordfreq --help` names as its own meaning.
const REFERENCE: &str = "tr -cs '[:alnum:]' '\\n' | grep . | sort | uniq -c";
/// Words that the demo prints of the result.
const TOP: usize = 5;

/// Where the examples run.
enum Place {
    /// In a VM of the `cairn` at this path.
    Vm(PathBuf),
    /// As processes of this machine, on the best user-level engine.
    Native,
}

/// Runs the demo; true if every step did what it should.
pub(crate) fn run(installing: Installing) -> Result<bool> {
    let kvm = kvm::probe();
    if let Err(reason) = &kvm {
        println!("What is missing: {reason}.");
        println!(
            "What that costs: the snapshots live in the program's own process and die with it, and every tracked \
             write costs the program a fault or a copy. The examples run natively on the best user-level engine."
        );
    }
    packages::ensure(packages::PROGRAMS, installing)?;

    step("builds everything with optimisation (cargo build --release)");
    ensure!(
        process::succeeds(&mut cargo(["build", "--release"])?)?,
        "the build failed; its output above says why"
    );
    let release = process::built("release")?;
    let place = match kvm {
        Ok(()) => Place::Vm(release.join("cairn")),
        Err(_) => Place::Native,
    };

    if let Place::Vm(cairn) = &place {
        step("asks the machine what its KVM can do and what it costs (cairn doctor)");
        ensure!(
            process::succeeds(Command::new(cairn).arg("doctor"))?,
            "cairn doctor found something missing"
        );
    }
    word_frequencies(&place, &release)?;
    bench(&place, &release)?;
    step("done: the program damaged its memory, rolled back and still had the right result");
    Ok(true)
}

fn step(what: &str) {
    println!("\n=> {what}");
}

/// Counts words of real text while the table of counts is damaged half way, and compares with coreutils.
fn word_frequencies(place: &Place, release: &Path) -> Result<()> {
    let text = gather_text(&process::built("demo")?)?;
    let lines = fs::read(&text)?.split(|byte| *byte == b'\n').count();
    let damaged_line = lines / 2;
    step(&format!(
        "counts the words of {lines} lines of licence texts, with a checkpoint every 1000 lines, and damages the \
         table at line {damaged_line} (wordfreq --corrupt-at {damaged_line})"
    ));
    let mut command = place.command(&release.join("wordfreq"), &text)?;
    command.arg(&text).arg("--corrupt-at").arg(damaged_line.to_string());
    println!("   {}", process::shown(&command));
    let counted = process::output(&mut command)?;

    step(&format!("counts them again with coreutils and compares ({REFERENCE})"));
    let mut shell = Command::new("sh");
    shell.env("LC_ALL", "C").arg("-c").arg(REFERENCE).stdin(fs::File::open(&text)?);
    let expected = process::output(&mut shell)?;
    if counted != expected {
        bail!("wordfreq's result is not that of {REFERENCE}");
    }
    println!(
        "   identical: {} different words, the most frequent are",
        expected.split(|b| *b == b'\n').count() - 1
    );
    for line in most_frequent(&String::from_utf8_lossy(&counted)) {
        println!("   {line}");
    }
    Ok(())
}

fn bench(place: &Place, release: &Path) -> Result<()> {
    step("times checkpoint cycles of every engine side by side (the quick benchmark)");
    let mut command = match place {
        Place::Vm(cairn) => {
            let mut command = Command::new(cairn);
            command.arg("bench");
            command
        }
        Place::Native => Command::new(release.join("cairn-bench")),
    };
    ensure!(process::succeeds(command.arg("--quick"))?, "the benchmark failed; its output above says why");
    Ok(())
}

impl Place {
    /// The start of a command line that runs `program` here and lets it read `file`.
    fn command(&self, program: &Path, file: &Path) -> Result<Command> {
        let Self::Vm(cairn) = self else { return Ok(Command::new(program)) };
        let directory = file.parent().context("the text has no directory")?;
        let mut command = Command::new(cairn);
        command.arg("run").arg("--dir").arg(directory).arg("--").arg(program);
        Ok(command)
    }
}

/// Writes all texts into one file in `directory` and returns its path.
fn gather_text(directory: &Path) -> Result<PathBuf> {
    let listing = fs::read_dir(TEXTS).with_context(|| format!("no texts to count in {TEXTS}"))?;
    let mut sources: Vec<_> = listing.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    sources.sort();
    let mut all = Vec::new();
    for source in &sources {
        all.extend(fs::read(source).with_context(|| format!("reading {}", source.display()))?);
        all.push(b'\n');
    }
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let text = directory.join("licences.txt");
    fs::write(&text, all).with_context(|| format!("writing {}", text.display()))?;
    Ok(text)
}

/// The lines with the highest counts, highest first.
fn most_frequent(counted: &str) -> Vec<&str> {
    let mut lines: Vec<_> = counted.lines().collect();
    // `uniq -c` pads counts to one width, so that their text sorts as they do.
    lines.sort_unstable_by(|a, b| b.cmp(a));
    lines.truncate(TOP);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_come_first() {
        let counted = "      3 a\n     12 b\n      1 c\n    100 d\n      4 e\n      5 f\n";
        assert_eq!(most_frequent(counted), ["    100 d", "     12 b", "      5 f", "      4 e", "      3 a"]);
        assert!(most_frequent("").is_empty());
    }

    #[test]
    fn the_gathered_text_has_all_sources() {
        let directory = std::env::temp_dir().join(format!("cairn-demo-test-{}", std::process::id()));
        let text = fs::read(gather_text(&directory).unwrap()).unwrap();
        let gpl = fs::read(Path::new(TEXTS).join("GPL-3")).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert!(text.windows(gpl.len()).any(|window| window == gpl));
    }
}
