//! What a program is told when it asks for what can't be.

mod common;

use std::error::Error as _;
use std::panic::{self, AssertUnwindSafe};

use cairn_guest::{ENGINE_VARIABLE, EngineKind, Error, Options, Session};

use common::works;

/// Runs this test binary's test `name` again with another environment, and returns what it printed.
fn again(name: &str, engine: &str) -> String {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--ignored", "--nocapture"])
        .env(ENGINE_VARIABLE, engine)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "run by others with an environment of its own"]
fn says_what_it_opens() {
    match Session::open() {
        Ok(session) => println!("opened {}", session.engine()),
        Err(error) => println!("error {error}"),
    }
}

#[test]
fn the_environment_chooses_the_engine() {
    for kind in EngineKind::USER_LEVEL.into_iter().filter(works) {
        let out = again("says_what_it_opens", kind.name());
        assert!(out.contains(&format!("opened {kind}\n")), "{out}");
    }
    assert!(again("says_what_it_opens", "").contains("opened "));
    let out = again("says_what_it_opens", "memcpy");
    assert!(out.contains("CAIRN_ENGINE is set wrongly: \"memcpy\" is not an engine"), "{out}");
    for kind in EngineKind::ALL {
        assert!(out.contains(kind.name()), "{out}");
    }
}

#[test]
fn without_a_device_the_engine_cairn_says_what_to_do() {
    match Session::open_with(EngineKind::Cairn) {
        Ok(session) => assert_eq!(session.engine(), EngineKind::Cairn),
        Err(error) => assert!(error.to_string().contains("cairn run"), "{error}"),
    }
}

#[test]
fn messages_name_what_they_are_about() -> Result<(), Error> {
    let mut session = Options::new().engine(EngineKind::FullCopy).history(1).open()?;
    let table = session.region::<u8>("table", 1)?;
    let first = session.checkpoint()?;
    session.checkpoint()?;
    let message = session.rollback(first).unwrap_err().to_string();
    assert!(message.contains("checkpoint 1 is gone") && message.contains("retains 1"), "{message}");
    let id = session.checkpoint()?;
    let other = session.region::<u8>("other", 1)?;
    let message = session.rollback(id).unwrap_err().to_string();
    assert_eq!(
        message,
        "can't roll back to checkpoint 3: the region \"other\" was registered after it; drop the region first"
    );
    session.drop_region(other)?;
    session.drop_region(table)?;
    let message = session.rollback(id).unwrap_err().to_string();
    assert_eq!(message, "can't roll back to checkpoint 3: the region \"table\" has been dropped since");
    let long = "x".repeat(64);
    let message = session.region::<u8>(&long, 1).unwrap_err().to_string();
    assert!(message.contains("64 bytes, at most 63"), "{message}");
    let message = session.region::<[u8; 4096]>("all", usize::MAX / 4096).unwrap_err().to_string();
    assert!(message.contains("\"all\"") && message.contains("too large"), "{message}");
    Ok(())
}

#[test]
fn the_region_after_the_last_is_refused() -> Result<(), Error> {
    for kind in EngineKind::USER_LEVEL.into_iter().filter(works) {
        let mut session = Session::open_with(kind)?;
        let mut regions = Vec::new();
        let refused = loop {
            match session.region::<u8>(&format!("{}", regions.len()), 1) {
                Ok(region) => regions.push(region),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(refused, Error::TooManyRegions { limit, .. } if limit == regions.len()),
            "{refused}"
        );
        assert!(regions.len() >= 64);
    }
    Ok(())
}

#[test]
fn all_regions_together_have_a_limit() -> Result<(), Error> {
    let mut session = Session::open_with(EngineKind::FullCopy)?;
    let Err(Error::TooLarge { limit, .. }) = session.region::<u8>("beyond", 1 << 60) else {
        panic!("an exbibyte was given");
    };
    let limit = usize::try_from(limit).unwrap();
    assert!(matches!(session.region::<u8>("beyond", limit + 1), Err(Error::TooLarge { .. })));
    let most = session.region::<u8>("most", limit)?;
    assert!(matches!(session.region::<u8>("more", 1), Err(Error::TooLarge { .. })));
    session.drop_region(most)?;
    session.region::<u8>("more", 1)?;
    Ok(())
}

#[test]
fn handles_and_sessions_are_not_mixed() -> Result<(), Error> {
    let mut one = Session::open_with(EngineKind::FullCopy)?;
    let mut other = Session::open_with(EngineKind::FullCopy)?;
    let mine = one.region::<u8>("mine", 1)?;
    let yours = other.region::<u8>("yours", 1)?;
    let said = |result: std::thread::Result<()>| {
        let payload = result.unwrap_err();
        payload.downcast_ref::<&str>().map(ToString::to_string).unwrap_or_default()
    };
    let foreign = said(panic::catch_unwind(AssertUnwindSafe(|| {
        let _ = one.slice(&yours);
    })));
    assert!(foreign.contains("does not belong to"), "{foreign}");
    let foreign = said(panic::catch_unwind(AssertUnwindSafe(|| {
        let _ = one.slices_mut((&mine, &yours));
    })));
    assert!(foreign.contains("does not belong to"), "{foreign}");
    let twice = said(panic::catch_unwind(AssertUnwindSafe(|| {
        let _ = one.slices_mut((&mine, &mine));
    })));
    assert!(twice.contains("same region twice"), "{twice}");
    assert_eq!(one.slice(&mine), [0]);
    Ok(())
}

#[test]
fn an_error_keeps_its_cause() {
    let error = "x".parse::<EngineKind>().unwrap_err();
    assert!(Error::UnknownEngine(error).source().is_none());
}
