//! The `cairn` command.

// `say!` and `tell!` are there instead.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod print;

mod bench;
mod boot;
mod control;
mod doctor;
mod exit;
mod guests;
mod number;
mod ps;
mod restore;
mod run;
mod size;
mod state;
mod stats;
mod store;
mod store_options;
mod whole;

use std::process::ExitCode;

use cairn_vmm::host::output::Log;
use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Runs programs in virtual machines and keeps their checkpoints.
#[derive(Parser, Debug)]
#[command(name = "cairn", version, max_term_width = 100)]
struct Cli {
    /// Say more on stderr: -v what happens, -vv every decision, -vvv every system call. RUST_LOG chooses by module.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a program as the only one of a virtual machine.
    Run(Box<run::Run>),
    /// Bring a program back that `cairn run --store DIR --every TIME` ran, from where its last checkpoint was taken.
    Restore(restore::Restore),
    /// Boot a Linux kernel in a virtual machine.
    Boot(Box<boot::Boot>),
    /// Tell what KVM is here, what it can do, and what things cost on it.
    Doctor(doctor::Doctor),
    /// List your running guests.
    Ps(ps::Ps),
    /// Take a checkpoint of a running program that `cairn run --store DIR --every TIME` runs, and print its number.
    Checkpoint(control::Checkpoint),
    /// Have a running program go on from one of its checkpoints, at once and in the same process.
    Rollback(control::Rollback),
    /// Tell what the sessions of your running guests have done, and what they hold.
    Stats(stats::Stats),
    /// Look into a store of checkpoints on disk, check it, and make it smaller.
    Store(store::Store),
    /// Measure checkpoint cycles beside what user level can do.
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbose);
    let done = match cli.command {
        Command::Run(run) => run.run(),
        Command::Restore(restore) => restore.run(),
        Command::Boot(boot) => boot.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Ps(ps) => ps.run(),
        Command::Checkpoint(checkpoint) => checkpoint.run(),
        Command::Rollback(rollback) => rollback.run(),
        Command::Stats(stats) => stats.run(),
        Command::Store(store) => store.run(),
        Command::Bench(bench) => bench.run(),
    };
    done.unwrap_or_else(|error| exit::report(&error))
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Log)
        .log_internal_errors(false)
        .with_ansi(terminal)
        .without_time()
        .with_target(false)
        .init();
}
