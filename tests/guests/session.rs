//! A program with checkpoint sessions of its own that is killed and brought back while it runs, and must not notice:
//! random walks beside full copies, which end with 1 when something isn't as it left it. Arguments:
//! `walk SEED ROUNDS STEPS`, `idle MIB NAPS`, or `durable`.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use cairn_guest::{Session, contract};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u32>().ok()).unwrap_or(1);
    let done = match arguments.get(1).map(String::as_str) {
        Some("walk") => walk(u64::from(number(2)), number(3), number(4)),
        Some("idle") => idle(number(2), number(3)),
        Some("durable") => durable(),
        _ => Err("usage: guest-session walk SEED ROUNDS STEPS | idle MIB NAPS | durable".into()),
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

/// A session with a large region and a history, which does nothing for a while; and then all of it is there.
fn idle(mib: u32, naps: u32) -> Result<(), Box<dyn Error>> {
    let mut session = Session::open()?;
    let table = session.region::<u32>("table", (mib as usize) << 18)?;
    let fill = |session: &mut Session, step: u32| {
        for (place, word) in (0_u32..).zip(session.slice_mut(&table)).step_by(700) {
            *word = place.wrapping_mul(step);
        }
    };
    let mut ids = Vec::new();
    for step in 1..5 {
        fill(&mut session, step);
        ids.push((session.checkpoint()?, step));
    }
    fill(&mut session, 9);
    for _ in 0..naps {
        std::thread::sleep(Duration::from_millis(20));
    }
    for (id, step) in ids {
        session.rollback(id)?;
        let mut words = (0_u32..).zip(session.slice(&table)).step_by(700);
        if let Some((place, word)) = words.find(|(place, word)| **word != place.wrapping_mul(step)) {
            return Err(format!("after a rollback to {id} word {place} is {word}").into());
        }
    }
    println!("all is there");
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
