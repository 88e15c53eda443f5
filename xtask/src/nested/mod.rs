//! `cargo xtask nested`: the bed, a machine with true kvm-amd on any machine. QEMU emulates a CPU with SVM, Debian's
//! stock kernel runs on it, and Cairn runs on that kernel's /dev/kvm.

pub(crate) mod cpio;
mod emulator;
mod image;
mod kept;
pub(crate) mod kernels;
pub(crate) mod programs;
mod qemu;
pub(crate) mod start;
mod userland;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use self::emulator::Wanted;
use self::kernels::{Kernel, Series};
use self::programs::{Placed, Profile};
use self::start::start;
use crate::bed;
use crate::bed::job::{Job, Terminal};
use crate::bed::suite::Part;
use crate::packages::{self, Installing};

/// How long all tests may take: the machine is ended then. On two idle cores they take a third of it.
const TEST_LIMIT: Duration = Duration::from_secs(25 * 60);

/// How the bed is made.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The kernel that the bed itself runs
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Series,
    /// CPUs of the bed, besides the first, which no guest may use (xtask/src/bed/mod.rs)
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Memory of the bed, in MiB; it takes from the host what it uses
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// The QEMU that emulates it
    #[arg(long, value_enum, default_value = "sound")]
    qemu: Wanted,
    /// More parameters for the bed's kernel
    #[arg(long, default_value = "quiet")]
    append: String,
    /// Build and use the programs with optimisation
    #[arg(long)]
    release: bool,
    /// Use the programs as they were last built
    #[arg(long)]
    no_build: bool,
    /// A file to put into /cairn, which is in the bed's PATH; may be repeated
    #[arg(long, value_name = "FILE")]
    add: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Check the emulator, run the Linux guest's scenarios and the app guest's tests: up to 15 minutes
    Test {
        #[command(flatten)]
        options: Options,
        /// What to run [default: all]
        #[arg(value_enum)]
        parts: Vec<Part>,
    },
    /// Run the benchmark inside a Linux guest in the bed; figures land in target/nested/out/bench.json
    Bench {
        #[command(flatten)]
        options: Options,
        /// The kernel of the guest
        #[arg(long, value_enum, default_value = "6.12")]
        guest_kernel: Series,
        /// Seconds after which the bed is ended
        #[arg(long, default_value_t = 3600)]
        timeout: u64,
        /// More options of `cairn bench`
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Run one command in the bed and end with its status
    Run {
        #[command(flatten)]
        options: Options,
        /// Seconds after which the bed is ended
        #[arg(long, default_value_t = 300)]
        timeout: u64,
        /// A file of this machine, or a command of the bed: of /cairn, where the built programs are, or of Debian
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Open a shell in the bed; its end turns the bed off
    Shell {
        #[command(flatten)]
        options: Options,
    },
}

/// Does it; the exit status of what ran in the bed.
///
/// # Errors
/// The bed couldn't be made or started, or ended without a status.
pub(crate) fn run(action: &Action, installing: Installing) -> Result<u8> {
    match action {
        Action::Test { options, parts } => {
            let parts = if parts.is_empty() { Part::ALL.as_slice() } else { parts };
            run_tests(options, parts, installing)
        }
        Action::Bench { options, guest_kernel, timeout, arguments } => {
            let job = Job { terminal: Terminal::Raw, words: bench(*guest_kernel, arguments) };
            start(options, options.programs()?, &job, Duration::from_secs(*timeout), installing)
        }
        Action::Run { options, timeout, command } => {
            let (words, file) = resolve(command);
            let mut programs = options.programs()?;
            programs.extend(file);
            let job = Job { terminal: Terminal::Raw, words };
            start(options, programs, &job, Duration::from_secs(*timeout), installing)
        }
        Action::Shell { options } => {
            let job = Job { terminal: Terminal::Interactive, words: shell() };
            start(options, options.programs()?, &job, Duration::ZERO, installing)
        }
    }
}

/// Runs parts of the tests, those of the app guest in a bed of their own, with its own limit; the status of the first that
/// failed.
fn run_tests(options: &Options, parts: &[Part], installing: Installing) -> Result<u8> {
    packages::ensure(packages::PROGRAMS, installing)?;
    let programs = options.programs()?;
    let (app, kernels): (Vec<_>, Vec<_>) = parts.iter().partition(|part| **part == Part::App);
    let mut status = 0;
    if !kernels.is_empty() {
        status = start(options, programs.clone(), &suite(&kernels), TEST_LIMIT, installing)?;
    }
    if !app.is_empty() {
        let programs = [programs, programs::kvm_tests(options.profile())?].concat();
        let ended = start(options, programs, &suite(&app), TEST_LIMIT, installing)?;
        status = if status == 0 { ended } else { status };
    }
    Ok(status)
}

/// What `nested test` runs, with the bed as it is by default.
///
/// # Errors
/// As of [`run`].
pub(crate) fn test(installing: Installing) -> Result<bool> {
    let options = Options {
        kernel: Series::V6_12,
        cpus: 2,
        memory: 4096,
        qemu: Wanted::Sound,
        append: "quiet".to_owned(),
        release: false,
        no_build: false,
        add: Vec::new(),
    };
    Ok(run(&Action::Test { options, parts: Vec::new() }, installing)? == 0)
}

impl Options {
    fn profile(&self) -> Profile {
        if self.release { Profile::Release } else { Profile::Debug }
    }

    /// The programs that were asked for, built before if that was asked for too.
    fn programs(&self) -> Result<Vec<Placed>> {
        if !self.no_build {
            programs::build(self.profile())?;
        }
        let added = self.add.iter().map(|file| place(file));
        let mut programs = added.collect::<Result<Vec<Placed>>>()?;
        programs.extend(programs::placed(self.profile())?);
        Ok(programs)
    }
}

/// A file of this machine with its place among the programs.
fn place(file: &Path) -> Result<Placed> {
    let name = file.file_name().with_context(|| format!("{} is no file", file.display()))?;
    Ok((file.to_owned(), Path::new(bed::BUILT).join(name)))
}

/// The benchmark in a guest with that kernel. It finds its static build beside itself.
fn bench(guest: Series, arguments: &[OsString]) -> Vec<OsString> {
    let kernel = Kernel::below(Path::new(bed::KERNELS), guest);
    let figures = Path::new(bed::OUT).join("bench.json");
    let mut words = ["cairn", "bench", "--linux-guest", "--kernel"].map(OsString::from).to_vec();
    words.extend([kernel.image.into(), "--json".into(), figures.into()]);
    words.extend_from_slice(arguments);
    words
}

/// The program that runs the tests in the bed is this one.
fn suite(parts: &[Part]) -> Job {
    let words = [bed::INIT, bed::suite::COMMAND].into_iter().chain(parts.iter().map(|part| part.name()));
    Job { terminal: Terminal::Raw, words: words.map(OsString::from).collect() }
}

/// A command that names a file of this machine is that file, put into the bed.
fn resolve(command: &[OsString]) -> (Vec<OsString>, Option<Placed>) {
    let mut words = command.to_vec();
    let mut placed = None;
    if let Some(first) = words.first_mut() {
        let path = Path::new(first.as_os_str());
        if path.components().count() > 1 && path.is_file() {
            placed = place(path).ok();
        }
        if let Some((_, there)) = &placed {
            *first = there.into();
        }
    }
    (words, placed)
}

/// A shell on the bed's terminal, which has no way to learn the size of ours but this.
fn shell() -> Vec<OsString> {
    let size = Command::new("stty").arg("size").stdin(Stdio::inherit()).output();
    let size = size.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let resize = match size.split_whitespace().collect::<Vec<_>>()[..] {
        [rows, columns] => format!("stty rows {rows} cols {columns}; "),
        _ => String::new(),
    };
    let script = format!(
        "{resize}echo 'The bed. Programs: {}, for guests: {}; kernels for guests: {}. exit turns it off.'; exec bash",
        bed::BUILT,
        bed::STATIC,
        bed::KERNELS
    );
    ["setsid", "--ctty", "--wait", "sh", "-c", &script].map(OsString::from).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benchmark_gets_a_kernel_of_the_bed_and_all_other_options() {
        let words = bench(Series::V6_1, &["--quick".into()]);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        assert_eq!(
            words.join(" "),
            "cairn bench --linux-guest --kernel /kernels/6.1/vmlinuz --json /out/bench.json --quick"
        );
    }

    #[test]
    fn a_command_that_is_a_file_here_goes_along() {
        let (words, placed) = resolve(&["/bin/sh".into(), "-c".into()]);
        assert_eq!(words, ["/cairn/sh", "-c"]);
        assert_eq!(placed, Some(("/bin/sh".into(), "/cairn/sh".into())));
        for command in ["cairn", "/no/such/file"] {
            assert_eq!(resolve(&[command.into()]), (vec![command.into()], None));
        }
    }
}
