//! The program of a Linux guest: what its kernel, other programs and other users can do around a session, each
//! as a scenario with a line of its own.
//!
//! `linux-scenarios [--engine ENGINE] [NAME...]` runs those whose names begin with one of NAMEs, or all, and
//! exits with 0 if none failed; `--list` lists them. It runs as root and starts itself for every other process
//! that it needs. With a user-level engine it checks the scenarios themselves, on any Linux.

mod disturbed;
mod durable;
mod examples;
mod given_back;
mod hostile;
mod kept;
mod larger;
mod lifecycle;
mod scenario;
mod support;
mod users;

use std::env;
use std::process::ExitCode;

use scenario::Scenario;
use support::partner::Role;

fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    [
        kept::ALL,
        lifecycle::ALL,
        users::ALL,
        hostile::ALL,
        examples::ALL,
        given_back::ALL,
        disturbed::ALL,
        larger::ALL,
        durable::ALL,
    ]
    .into_iter()
    .flatten()
}

/// What this program does when it's started for one of its processes.
fn roles() -> impl Iterator<Item = &'static Role> {
    [disturbed::ROLES, durable::ROLES, lifecycle::ROLES, users::ROLES, hostile::ROLES].into_iter().flatten()
}

fn main() -> ExitCode {
    let mut args: Vec<String> = env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--list") => {
            scenarios().for_each(|scenario| println!("{}", scenario.name));
            ExitCode::SUCCESS
        }
        Some(scenario::FLAG) => scenario::play(scenarios(), &args[1..]),
        Some(support::partner::FLAG) => support::partner::play(roles(), &args[1..]),
        Some("--engine") if args.len() > 1 => {
            let rest = args.split_off(2);
            // SAFETY: this process has one thread.
            unsafe { env::set_var(cairn_guest::ENGINE_VARIABLE, &args[1]) };
            scenario::run_all(scenarios(), &rest)
        }
        _ => scenario::run_all(scenarios(), &args),
    }
}
