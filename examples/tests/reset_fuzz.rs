//! reset_fuzz: the same bug after the same inputs, whatever puts the state back.

mod common;

use common::{complaint, engines, run};

const RESET_FUZZ: &str = env!("CARGO_BIN_EXE_reset_fuzz");
const SMALL: [&str; 4] = ["--region-mib", "1", "--seed", "4"];

#[test]
fn the_bug_is_found_after_the_same_inputs_by_rollbacks_and_by_forks() {
    let expected = run(RESET_FUZZ, engines()[0], &[&SMALL[..], &["--fork"]].concat(), b"");
    let text = String::from_utf8(expected.stdout.clone()).unwrap();
    assert!(text.starts_with("input 940 crashes the parser, by this line: setting_37 = [[[[[[[[["), "{text}");
    assert!(complaint(&expected).contains("a child process"), "{}", complaint(&expected));
    for engine in engines() {
        let output = run(RESET_FUZZ, engine, &SMALL, b"");
        let told = complaint(&output);
        assert!(output.status.success(), "{engine}: {told}");
        assert!(
            told.contains(&format!("kept by: {engine}")) && told.contains("940 resets in"),
            "{engine}: {told}"
        );
        assert_eq!(String::from_utf8_lossy(&output.stdout), text, "{engine}");
    }
}

#[test]
fn the_state_is_the_prepared_one_before_each_input() {
    for engine in engines() {
        let output = run(RESET_FUZZ, engine, &[&SMALL[..], &["--check", "each"]].concat(), b"");
        assert!(output.status.success(), "{engine}: {}", complaint(&output));
        assert!(output.stdout.starts_with(b"input 940 "), "{engine}");
    }
}

#[test]
fn a_hunt_ends_where_it_is_told_to() {
    let output = run(RESET_FUZZ, engines()[0], &[&SMALL[..], &["--inputs", "939"]].concat(), b"");
    assert!(output.status.success() && output.stdout.starts_with(b"none of 939 inputs crashes"));
    for bad in [["--inputs", "0"], ["--region-mib", "0"], ["--region-mib", "4097"], ["--check", "never"]] {
        assert_eq!(run(RESET_FUZZ, engines()[0], &bad, b"").status.code(), Some(2), "{bad:?}");
    }
}
