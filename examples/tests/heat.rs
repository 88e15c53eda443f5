//! heat: the same result with and without a fault, on every engine.

mod common;

use common::{complaint, engines, run};

const HEAT: &str = env!("CARGO_BIN_EXE_heat");
const RUN: [&str; 6] = ["--size", "64", "--steps", "130", "--every", "20"];

#[test]
fn a_fault_changes_nothing_of_the_result() {
    let mut results = Vec::new();
    for engine in engines() {
        let whole = run(HEAT, engine, &RUN, b"");
        assert!(whole.status.success(), "{engine}: {}", complaint(&whole));
        results.push(whole.stdout);
        // At a checkpoint's own step, just after one, in the middle, and in the last step.
        for step in ["20", "21", "70", "130"] {
            let args = [&RUN[..], &["--nan-at", step]].concat();
            let output = run(HEAT, engine, &args, b"");
            let told = complaint(&output);
            assert!(
                output.status.success() && told.contains("rolling back, going on after step"),
                "{engine}: {told}"
            );
            results.push(output.stdout);
        }
    }
    assert!(results[0].starts_with(b"steps 130 residual "));
    assert!(results.iter().all(|result| *result == results[0]));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (bad, code) in [
        (&["--size", "2"][..], 2),
        (&["--size", "16001"], 2),
        (&["--every", "0"], 2),
        (&["--steps", "5", "--nan-at", "6"], 1),
        (&["--nan-at", "0"], 1),
    ] {
        let output = run(HEAT, engines()[0], bad, b"");
        assert_eq!(output.status.code(), Some(code), "{bad:?}: {}", complaint(&output));
    }
}
