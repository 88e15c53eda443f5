//! The examples as a Linux guest gets them: an archive with each program, what it's given, and what it prints on a
//! machine without Cairn, where nothing is damaged.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::nested::cpio::Archive;

/// Where they are in the guest: a directory for each, with `program`, `arguments` (each followed by a NUL), `input`
/// and `expected`.
const DIRECTORY: &str = "/examples";
/// The words that are counted, by their place in the guest.
const TEXT: &str = "/examples/wordfreq/text";

struct Example {
    name: &'static str,
    /// What it's given everywhere.
    arguments: &'static [&'static str],
    /// What damages it or has it look closer, in the guest only.
    damage: &'static [&'static str],
    input: &'static str,
}

const ALL: [Example; 4] = [
    Example {
        name: "wordfreq",
        arguments: &[TEXT],
        damage: &["--corrupt-at", "300", "--every", "20"],
        input: "",
    },
    Example {
        name: "heat",
        arguments: &["--size", "64", "--steps", "60", "--every", "10"],
        damage: &["--nan-at", "35"],
        input: "",
    },
    Example {
        name: "kv",
        arguments: &[],
        damage: &[],
        input: "SET a 1\nBEGIN\nSET a 2\nSET b x y\nBEGIN\nDEL a\nGET a\nROLLBACK\nGET a\nROLLBACK\nGET a\nLIST\n",
    },
    Example {
        name: "reset_fuzz",
        arguments: &["--region-mib", "1", "--seed", "4"],
        damage: &["--check", "each"],
        input: "",
    },
];

/// Writes the archive to `to`. `programs` has the programs, statically linked.
///
/// # Errors
/// A program can't be run here, or the archive not be written.
pub(crate) fn pack(programs: &Path, to: &Path) -> Result<()> {
    let text = write_words(&to.with_extension("text"))?;
    let file = File::create(to).with_context(|| format!("creating {}", to.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    for example in &ALL {
        let directory = Path::new(DIRECTORY).join(example.name);
        let program = programs.join(example.name);
        archive.copy(&program, &directory.join("program"))?;
        let given = example.damage.iter().chain(example.arguments);
        let arguments: Vec<u8> = given.flat_map(|argument| [argument.as_bytes(), &[0]].concat()).collect();
        archive.file(&directory.join("arguments"), &arguments)?;
        archive.file(&directory.join("input"), example.input.as_bytes())?;
        archive.file(&directory.join("expected"), &example.run(&program, &text)?)?;
    }
    archive.file(Path::new(TEXT), words().as_bytes())?;
    archive.finish().with_context(|| format!("writing {}", to.display()))?;
    Ok(())
}

impl Example {
    /// What it prints here, undamaged, on an engine that needs no hypervisor.
    fn run(&self, program: &Path, text: &Path) -> Result<Vec<u8>> {
        let mut command = Command::new(program);
        for argument in self.arguments {
            if *argument == TEXT {
                command.arg(text)
            } else {
                command.arg(argument)
            };
        }
        command.env("CAIRN_ENGINE", "full-copy").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let mut stdin = child.stdin.take().context("a program without standard input")?;
        // A program that doesn't read may be gone already.
        let _ = stdin.write_all(self.input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{} ended with {}", program.display(), output.status);
        Ok(output.stdout)
    }
}

/// The text in a file of this machine.
fn write_words(path: &Path) -> Result<std::path::PathBuf> {
    std::fs::write(path, words()).with_context(|| format!("writing {}", path.display()))?;
    Ok(path.to_owned())
}

/// A thousand lines with words that come more or less often.
fn words() -> String {
    let word = |line: u32, at: u32| format!("word{}", (line * line + 7 * at * line + at) % 311);
    let line = |line| (0..9).map(|at| word(line, at)).collect::<Vec<_>>().join(" ") + "\n";
    (0..1000).map(line).collect()
}
