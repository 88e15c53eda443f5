//! The command line of `cairn-bench`.

use std::ffi::OsString;
use std::path::PathBuf;

use cairn_bench::contender::Contender;
use cairn_bench::engine::{Poll, Tracker};
use cairn_bench::pattern::Pattern;
use clap::{Args, Parser, Subcommand};

use crate::whole;

/// Times checkpoint cycles of Cairn and of user-level engines, side by side on this machine.
///
/// The engine `cairn` runs in a VM, all others natively; with --linux-guest all run in one Linux guest. Every engine's
/// restored bytes are verified before its figures count. Exit code: 0; 1 if an engine failed, restored wrong bytes, or
/// none could be measured; 2 if the options make no sense.
#[derive(Parser)]
#[command(version, bin_name = "cairn bench", args_conflicts_with_subcommands = true, max_term_width = 100)]
pub(crate) struct Command {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    #[command(flatten)]
    pub(crate) run: Run,
}

#[derive(Subcommand)]
pub(crate) enum Role {
    /// Carry out a driver's orders from standard input.
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        engine: Contender,
    },
    /// Measure in this guest, and write the figures to its console.
    #[command(hide = true)]
    Guest {
        #[command(flatten)]
        what: What,
    },
    /// Measure checkpoints of whole programs: what they cost a program that runs, how soon it is back, and whether it
    /// is the same then. About two minutes.
    Whole(whole::Options),
    /// Be the program that `whole` measures.
    #[command(hide = true)]
    Program(whole::Program),
}

#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) what: What,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a page with tables and plots to this file, which needs nothing beside it.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Measure nothing: show the figures that --json recorded in this file.
    #[arg(
        long,
        value_name = "RECORD",
        conflicts_with_all = ["json", "quick", "engines", "patterns", "region_mib", "seconds", "poll", "linux_guest"]
    )]
    pub(crate) from: Option<PathBuf>,
    /// When the VM's host takes requests without an exit.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Poll::Auto, conflicts_with = "linux_guest")]
    pub(crate) poll: Poll,
    /// How the VM's host finds what was written.
    #[arg(long, value_name = "TRACKER", value_enum, default_value_t = Tracker::Auto, conflicts_with = "linux_guest")]
    pub(crate) tracker: Tracker,
    /// The `cairn` command that runs the VM [default: the one beside this program].
    #[arg(long, value_name = "PATH")]
    pub(crate) cairn: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) guest: Guest,
}

/// What is measured, how long, and with which engines.
#[derive(Args)]
pub(crate) struct What {
    /// The cells that tell most, in less than a minute.
    #[arg(long, conflicts_with_all = ["patterns", "region_mib", "seconds"])]
    pub(crate) quick: bool,
    /// Only these engines, of cairn, cairn-hinted, cairn-async, full-copy, mprotect, fork, uffd-wp and user-compare
    /// [default: all].
    #[arg(
        long,
        value_name = "ENGINE,...",
        value_delimiter = ',',
        default_values_t = Contender::ALL,
        hide_default_value = true
    )]
    pub(crate) engines: Vec<Contender>,
    /// Only these patterns, of hot, runs, random, sweep, zipf, append, phase, dense, idle and reset [default: all].
    #[arg(
        long,
        value_name = "PATTERN,...",
        value_delimiter = ',',
        default_values_t = Pattern::ALL,
        hide_default_value = true
    )]
    pub(crate) patterns: Vec<Pattern>,
    /// Regions of these sizes [default: 64,1024].
    #[arg(
        long,
        value_name = "MIB,...",
        value_delimiter = ',',
        default_values_t = [64, 1024],
        hide_default_value = true
    )]
    pub(crate) region_mib: Vec<u32>,
    /// Seconds for the cycles of each engine in each cell.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    pub(crate) seconds: f64,
}

/// The guest of --linux-guest.
#[derive(Args)]
#[command(next_help_heading = "In a Linux guest")]
pub(crate) struct Guest {
    /// Boot one Linux guest and run all engines in it. Requests are exits there: nothing polls.
    #[arg(long, requires = "kernel")]
    pub(crate) linux_guest: bool,
    /// Its kernel: a distribution's vmlinuz, unmodified.
    #[arg(long, value_name = "VMLINUZ", requires = "linux_guest")]
    pub(crate) kernel: Option<PathBuf>,
    /// Kernel modules to load before: all that are in this directory. The benchmark itself needs none.
    #[arg(long, value_name = "DIR", requires = "linux_guest")]
    pub(crate) modules: Option<PathBuf>,
    /// Its memory. What doesn't fit into it is not measured, and the table says so.
    #[arg(long, value_name = "SIZE", default_value = "2G", requires = "linux_guest")]
    pub(crate) memory: String,
    /// Its CPUs.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "linux_guest")]
    pub(crate) cpus: u8,
    /// The program that runs there: cairn-bench, linked statically [default: static/cairn-bench beside this
    /// program].
    #[arg(long, value_name = "ELF", requires = "linux_guest")]
    pub(crate) guest_program: Option<PathBuf>,
}

impl What {
    /// The options that mean the same to the program in a guest.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["--engines".to_owned(), list(&self.engines)];
        if self.quick {
            arguments.push("--quick".to_owned());
        } else {
            arguments.extend(["--patterns".to_owned(), list(&self.patterns)]);
            arguments.extend(["--region-mib".to_owned(), list(&self.region_mib)]);
            arguments.extend(["--seconds".to_owned(), self.seconds.to_string()]);
        }
        arguments.into_iter().map(OsString::from).collect()
    }
}

fn list<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

fn seconds(text: &str) -> Result<f64, String> {
    const RANGE: std::ops::RangeInclusive<f64> = 0.01..=600.0;
    let seconds = text.parse().map_err(|_| "not a number".to_owned())?;
    if RANGE.contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("not in {} to {}", RANGE.start(), RANGE.end()))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &str) -> Result<Command, clap::Error> {
        Command::try_parse_from(["cairn-bench"].into_iter().chain(words.split_whitespace()))
    }

    #[test]
    fn the_help_is_of_the_command_that_was_typed_and_names_what_can_be_chosen() {
        let help = Command::command().render_help().to_string();
        let words: Vec<&str> = help.split([' ', ',', '\n']).collect();
        assert!(help.contains("Usage: cairn bench"), "{help}");
        assert!(Contender::ALL.iter().all(|engine| words.contains(&engine.to_string().as_str())), "{help}");
        assert!(Pattern::ALL.iter().all(|pattern| words.contains(&pattern.to_string().as_str())), "{help}");
    }

    #[test]
    fn a_guests_options_are_those_of_a_guest() {
        let run = parse("--linux-guest --kernel /k --engines cairn,fork").unwrap().run;
        assert!(run.guest.linux_guest && run.guest.modules.is_none());
        assert_eq!((run.guest.memory.as_str(), run.guest.cpus), ("2G", 1));
        assert!(!parse("").unwrap().run.guest.linux_guest);
        // As `cairn bench` hands its arguments on.
        assert!(parse("--cairn /c --from r.json").is_ok() && parse("--from r.json --html r.html").is_ok());
        for bad in [
            "--linux-guest",
            "--kernel /k",
            "--memory 4G",
            "--cpus 2",
            "--modules /m",
            "--guest-program /p",
            "--linux-guest --kernel /k --poll never",
            "--linux-guest --kernel /k --quick --seconds 1",
            "--from r.json --quick",
            "--from r.json --json s.json",
            "--from r.json --engines cairn",
            "--from r.json --linux-guest --kernel /k",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_guests_program_measures_what_was_asked_for() {
        for words in ["--quick --engines cairn", "--patterns hot,idle --region-mib 64,1 --seconds 0.5", ""] {
            let what = parse(words).unwrap().run.what;
            let passed = what.arguments().into_iter().map(|word| word.into_string().unwrap());
            let passed: Vec<_> =
                ["cairn-bench".to_owned(), "guest".to_owned()].into_iter().chain(passed).collect();
            let Some(Role::Guest { what: got }) = Command::try_parse_from(passed).unwrap().role else {
                panic!("not the role of a guest's program")
            };
            assert_eq!((got.quick, &got.engines, &got.patterns), (what.quick, &what.engines, &what.patterns));
            assert_eq!((&got.region_mib, got.seconds), (&what.region_mib, what.seconds));
        }
    }
}
