//! A program with checkpoint sessions of its own that is killed and brought back while it runs, and must not notice:
//! random walks beside full copies, which end with 1 when something isn't as it left it. Arguments:
//! `walk SEED ROUNDS STEPS`, or `durable`.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use cairn_guest::{Session, contract};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u32>().ok()).unwrap_or(1);
    let done = match arguments.get(1).map(String::as_str) {
        Some("walk") => walk(u64::from(number(2)), number(3), number(4)),
        Some("durable") => durable(),
        _ => Err("usage: guest-session walk SEED ROUNDS STEPS | durable".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}: {:?}", error.source().map(ToString::to_string));
            ExitCode::FAILURE
        }
    }
}

/// Sessions one after the other, each with what the engines promise and each with arenas.
fn walk(seed: u64, rounds: u32, steps: u32) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    for round in 0..rounds {
        let seed = seed + u64::from(round);
        let mut session = Session::open()?;
        if round == 0 {
            eprintln!("the engine is {:?}", session.engine());
        }
        let report = if round % 4 == 3 {
            contract::walk_arenas(&mut session, seed, steps)?
        } else {
            contract::walk(&mut session, seed, steps)?
        };
        writeln!(out, "{report:?}")?;
        out.flush()?;
    }
    Ok(())
}

/// What becomes of a session's own way to a store.
fn durable() -> Result<(), Box<dyn Error>> {
    let mut session = Session::open()?;
    session.region::<u8>("table", 100)?;
    match session.checkpoint_durable() {
        Ok(id) => println!("checkpoint {id} is on disk"),
        Err(error) => println!("{error}"),
    }
    session.checkpoint()?;
    Ok(())
}
