//! The example programs, damaged, beside what they print undamaged on another machine.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::scenario::{Outcome, Scenario, not_here};

pub(crate) const ALL: &[Scenario] = &[Scenario { name: "examples", seconds: 90, run: examples }];

/// Where whoever boots this guest puts them: a directory each, with `program`, `arguments` (each followed by a
/// NUL), `input` and `expected`.
const DIRECTORY: &str = "/examples";

fn examples() -> Outcome {
    let listing = fs::read_dir(DIRECTORY).map_err(|_| not_here(format!("there is no {DIRECTORY}")))?;
    let mut names = Vec::new();
    for entry in listing {
        let directory = entry?.path();
        let name = directory.file_name().context("an example without a name")?.to_string_lossy().into_owned();
        run(&directory).with_context(|| name.clone())?;
        names.push(name);
    }
    names.sort();
    ensure!(!names.is_empty(), "{DIRECTORY} is empty");
    Ok(names.join(", "))
}

fn run(directory: &Path) -> Result<()> {
    let read = |name: &str| fs::read(directory.join(name)).context(name.to_owned());
    let arguments = String::from_utf8(read("arguments")?).context("arguments")?;
    let mut child = Command::new(directory.join("program"))
        .args(arguments.split_terminator('\0'))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    // A program that doesn't read may be gone already.
    let _ = stdin.write_all(&read("input")?);
    drop(stdin);
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {complaint}", output.status);
    ensure!(output.stdout == read("expected")?, "it printed something else than elsewhere; {complaint}");
    Ok(())
}
