//! Guest program: the engines' contract, on the device. Arguments: SEED STEPS.

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
    match contract::run(open, seed, steps) {
        Ok(report) => {
            println!("{report:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
            ExitCode::FAILURE
        }
    }
}
