//! Guest program: the engines' contract and the arenas' walk, on the device. Arguments: SEED STEPS.

use std::error::Error;
use std::process::ExitCode;

use cairn_guest::{EngineKind, Session, contract};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut number = || args.next().and_then(|text| text.parse::<u64>().ok());
    let (Some(seed), Some(steps)) = (number(), number().and_then(|steps| u32::try_from(steps).ok())) else {
        eprintln!("usage: guest-contract SEED STEPS");
        return ExitCode::from(2);
    };
    let open = || {
        let session = Session::open()?;
        assert_eq!(session.engine(), EngineKind::Cairn, "the device must be found");
        Ok(session)
    };
    let run = || {
        println!("{:?}", contract::run(open, seed, steps)?);
        let mut session = open()?;
        println!("arenas: {:?}", contract::walk_arenas(&mut session, seed, steps)?);
        Ok::<_, Box<dyn Error>>(())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}: {:?}", error.source().map(ToString::to_string));
            ExitCode::FAILURE
        }
    }
}
