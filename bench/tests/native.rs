//! The whole benchmark on engines that need no hypervisor, and what it makes of one that does.

use std::path::Path;
use std::process::{Command, Output};

use cairn_test_host::skipped;
use serde_json::Value;

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cairn-bench")).args(args).output().unwrap()
}

fn figures(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_small_run_gives_verified_figures_of_every_engine_and_pattern() {
    let directory = tempfile::tempdir().unwrap();
    let (json, html) = (directory.path().join("bench.json"), directory.path().join("bench.html"));
    let run = bench(&[
        "--engines",
        "full-copy,user-compare",
        "--region-mib",
        "1",
        "--seconds",
        "0.02",
        "--json",
        json.to_str().unwrap(),
        "--html",
        html.to_str().unwrap(),
    ]);
    let table = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success(), "{table}{}", String::from_utf8_lossy(&run.stderr));
    let page = std::fs::read_to_string(&html).unwrap();
    for part in [
        "reset 40 pages of 1 MiB",
        "zipf, 1 MiB: CPU time",
        "--engines full-copy,user-compare --region-mib 1",
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    assert!(table.contains("1 MiB, hot") && table.contains("1.00 x"), "{table}");

    let report = figures(&json);
    assert_eq!(report["schema"], 1);
    assert_eq!(report["failed"], Value::Array(vec![]));
    let cells = report["cells"].as_array().unwrap();
    // 0.1 % of a mebibyte is no page: two shares of seven patterns, dense, idle and reset, by two engines.
    assert_eq!(cells.len(), (2 * 7 + 3) * 2, "{table}");
    for cell in cells {
        assert_eq!(cell["verified"], true);
        assert_eq!(cell["region_mib"], 1);
        assert!(cell["cycles"].as_u64().unwrap() >= 16, "{cell}");
        for quantity in ["checkpoint_ns", "cycle_ns", "rollback_ns"] {
            let (p50, p99) = (&cell[quantity]["p50"], &cell[quantity]["p99"]);
            assert!(0 < p50.as_u64().unwrap() && p50.as_u64() <= p99.as_u64(), "{cell}");
        }
        assert!(cell["overhead_ns"]["p50"].is_i64() || cell["overhead_ns"]["p50"].is_u64(), "{cell}");
        assert!(cell["cpu_ns"]["p50"].is_u64() && cell["extra_bytes"].as_u64() > Some(0), "{cell}");
    }
}

#[test]
fn a_recorded_run_is_shown_again() {
    let directory = tempfile::tempdir().unwrap();
    let html = directory.path().join("record.html");
    let record = concat!(env!("CARGO_MANIFEST_DIR"), "/record/software-kvm.json");
    let run = bench(&["--from", record, "--html", html.to_str().unwrap()]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(String::from_utf8(run.stdout).unwrap().contains("1024 MiB, sweep"));
    assert!(std::fs::read_to_string(&html).unwrap().contains("a software KVM"));
    let no_record = bench(&["--from", "/proc/self/status", "--html", html.to_str().unwrap()]);
    let said = String::from_utf8(no_record.stderr).unwrap();
    assert!(no_record.status.code() == Some(2) && said.contains("/proc/self/status is no record"), "{said}");
}

#[test]
fn a_cell_that_no_engine_has_memory_for_is_refused_before_anything_runs() {
    // Five times 16 GiB: on a machine that has as much there is nothing to refuse.
    if cairn_bench::budget::usable_mib() > 5 * 16_384 {
        skipped("this machine has memory enough for any cell");
        return;
    }
    let run = bench(&["--engines", "full-copy", "--patterns", "idle", "--region-mib", "16384"]);
    let said = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(2), "{said}");
    assert!(said.contains("idle 0 pages of 16384 MiB does not fit into memory"), "{said}");
}

#[test]
fn an_engine_that_is_not_available_is_named_with_its_reason() {
    let run = bench(&[
        "--engines",
        "cairn,full-copy,cairn,full-copy",
        "--cairn",
        "/no/such/cairn",
        "--patterns",
        "idle",
        "--region-mib",
        "1,1",
        "--seconds",
        "0.01",
    ]);
    let table = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success());
    assert_eq!(table.matches("0 pages").count(), 1, "{table}");
    assert!(table.contains("cairn: not available: /no/such/cairn can't be started"), "{table}");
    assert!(table.contains("full-copy"), "{table}");
}

#[test]
fn a_worker_that_dies_is_not_available_and_hides_no_reason() {
    // `false` stands for a `cairn` that finds no KVM.
    let run =
        bench(&["--engines", "cairn", "--cairn", "/bin/false", "--patterns", "idle", "--region-mib", "1"]);
    let table = String::from_utf8(run.stdout).unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(table.contains("cairn: not available: the worker ended with exit status: 1"), "{table}");
}

#[test]
fn a_guest_without_its_program_is_refused_and_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let (json, program) = (directory.path().join("x.json"), directory.path().join("cairn-bench"));
    let run = bench(&[
        "--linux-guest",
        "--kernel",
        "/no/such/vmlinuz",
        "--json",
        json.to_str().unwrap(),
        "--guest-program",
        program.to_str().unwrap(),
    ]);
    let said = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(2));
    assert!(said.contains("crt-static") && said.contains(program.to_str().unwrap()), "{said}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for args in [
        &["--quick", "--seconds", "3"][..],
        &["--engines", "magic"],
        &["--patterns", "warm"],
        &["--region-mib", "0"],
        &["--region-mib", "16385"],
        &["--seconds", "0"],
        &["--seconds", "nan"],
        &["--linux-guest"],
        &["--memory", "1G"],
        &["--linux-guest", "--kernel", "/k", "--region-mib", "0"],
        &["--json", "/no/such/directory/x.json"],
    ] {
        let run = bench(args);
        assert_eq!(run.status.code(), Some(2), "{args:?}");
        assert!(!run.stderr.is_empty(), "{args:?}");
    }
}
