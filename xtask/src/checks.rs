//! `cargo xtask test`: every check, all of them run, every failure reported at the end.

use std::process::Command;

use anyhow::Result;

use crate::packages::{self, Installing};
use crate::process::{self, cargo};
use crate::targets::{self, TestTargets};
use crate::{kvm, linux_guest, nested};

/// Tells tests whether they may use /dev/kvm: "1" or "0".
const KVM_SWITCH: &str = "CAIRN_TEST_KVM";
/// A test with this in its path needs KVM, whatever target it lives in.
const KVM_TEST: &str = "::kvm_";

/// Whether the tests in the nested bed are among the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nested {
    /// Yes, on a machine whose own KVM can't run them.
    Run,
    /// No, and neither is what stands for them elsewhere.
    LeaveOut,
}

/// A check and how it ended.
struct Verdict {
    name: &'static str,
    /// What went wrong, if something did.
    problem: Option<String>,
}

/// Runs all checks; true if all passed.
pub(crate) fn run(installing: Installing, nested: Nested) -> Result<bool> {
    let kvm = kvm::probe();
    if let Err(reason) = &kvm {
        let place = if nested == Nested::Run { "run in the nested bed only" } else { "not run" };
        println!("Tests that need KVM will {place}: {reason}");
    }
    let targets = targets::find(&process::workspace_root()?)?;
    let mut verdicts =
        vec![Verdict::of("packages", packages::ensure(packages::PROGRAMS, installing).map(|()| true))];
    let checks: [(&'static str, &[&str]); 3] = [
        ("fmt", &["fmt", "--all", "--check"]),
        ("clippy", &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
        ("build", &["build", "--workspace", "--all-targets"]),
    ];
    for (name, args) in checks {
        verdicts.push(announced(name, cargo(args)?));
    }
    verdicts.push(announced("fmt (init)", init_format()?));
    let mut documentation = cargo(["doc", "--workspace", "--no-deps", "--quiet"])?;
    documentation.env("RUSTDOCFLAGS", "--deny warnings");
    verdicts.push(announced("docs", documentation));
    let mut tests = cargo(["test", "--workspace", "--no-fail-fast"])?;
    let mut doc_tests = cargo(["test", "--workspace", "--doc", "--no-fail-fast"])?;
    select(&mut tests, &targets, kvm.is_ok());
    for command in [&mut tests, &mut doc_tests] {
        command.env(KVM_SWITCH, if kvm.is_ok() { "1" } else { "0" });
    }
    verdicts.push(announced("tests", tests));
    verdicts.push(announced("doc tests", doc_tests));
    if nested == Nested::Run {
        verdicts.push(real_kvm(kvm.is_ok(), installing));
    }

    let passed = report(&verdicts);
    if nested == Nested::LeaveOut {
        println!("the Linux guest's scenarios and the nested bed were left out: --no-nested was given");
    }
    match kvm {
        Ok(()) => println!("no test was left out for want of KVM"),
        Err(_) if nested == Nested::Run => println!("the tests that need KVM ran in the nested bed"),
        Err(reason) => println!("{}: {reason}", left_out(&targets)),
    }
    Ok(passed)
}

/// The check of the guest's init, which no target of cargo's has, because a build script compiles it.
fn init_format() -> Result<Command> {
    let mut command = Command::new("rustfmt");
    command.args(["--check", "--edition", "2024", "vmm/init/main.rs"]);
    command.current_dir(process::workspace_root()?);
    Ok(command)
}

/// What needs a KVM that can run a kernel: on this machine's, if it can, or in the nested bed.
fn real_kvm(kvm: bool, installing: Installing) -> Verdict {
    if kvm && kvm::runs_kernels() {
        println!("\n=== linux: the Linux guest's scenarios on this machine's KVM, about two minutes");
        Verdict::of("linux", linux_guest::run_here(installing))
    } else {
        println!("\n=== nested: cargo xtask nested test, up to 15 minutes (--no-nested leaves it out)");
        Verdict::of("nested", nested::test(installing))
    }
}

/// Restricts `cargo test` to what this machine can run. Doc tests are a run of their own, because cargo takes no
/// selection of targets beside them.
fn select(tests: &mut Command, targets: &TestTargets, kvm: bool) {
    tests.args(["--lib", "--bins"]);
    let whole_targets = if kvm { Some(&targets.kvm) } else { None };
    for name in targets.plain.iter().chain(whole_targets.into_iter().flatten()) {
        tests.args(["--test", name]);
    }
    if !kvm {
        tests.args(["--", "--skip", KVM_TEST]);
    }
}

fn announced(name: &'static str, mut command: Command) -> Verdict {
    println!("\n=== {name}: {}", process::shown(&command));
    Verdict::of(name, process::succeeds(&mut command))
}

impl Verdict {
    fn of(name: &'static str, outcome: Result<bool>) -> Self {
        let problem = match outcome {
            Ok(true) => None,
            Ok(false) => Some("its output above says what".to_owned()),
            Err(error) => Some(format!("{error:#}")),
        };
        Self { name, problem }
    }
}

fn report(verdicts: &[Verdict]) -> bool {
    println!();
    for Verdict { name, problem } in verdicts {
        match problem {
            None => println!("{name:<10} ok"),
            Some(problem) => println!("{name:<10} FAILED: {problem}"),
        }
    }
    verdicts.iter().all(|verdict| verdict.problem.is_none())
}

/// Says how many tests did not run because there is no KVM.
fn left_out(targets: &TestTargets) -> String {
    match count_left_out(targets) {
        Ok(count) => format!("{count} tests did not run, because they need KVM"),
        Err(error) => format!("tests that need KVM did not run, and counting them failed ({error:#})"),
    }
}

fn count_left_out(targets: &TestTargets) -> Result<usize> {
    let mut all = cargo(["test", "--quiet", "--workspace", "--lib", "--bins"])?;
    for name in &targets.plain {
        all.args(["--test", name]);
    }
    let mut count = listed(all.args(["--", "--list"]), |name| name.contains(KVM_TEST))?;
    for target in &targets.kvm {
        let mut whole = cargo(["test", "--quiet", "--workspace", "--test", target, "--", "--list"])?;
        count += listed(&mut whole, |_| true)?;
    }
    Ok(count)
}

/// How many tests of `command`'s `--list` output have a name that counts.
fn listed(command: &mut Command, counts: impl Fn(&str) -> bool) -> Result<usize> {
    let output = process::output(command)?;
    Ok(test_names(&String::from_utf8_lossy(&output)).filter(|name| counts(name)).count())
}

/// The test names in libtest's `--list` output: its lines are "NAME: test", beside a summary.
fn test_names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.strip_suffix(": test"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_output_yields_test_names_only() {
        let list = "engine::tests::kvm_oracle: test\nbenches::fast: benchmark\n\n2 tests, 1 benchmark\n";
        assert_eq!(test_names(list).collect::<Vec<_>>(), ["engine::tests::kvm_oracle"]);
    }

    #[test]
    fn without_kvm_its_targets_and_tests_are_left_out() {
        let targets = TestTargets { kvm: ["kvm_run".to_owned()].into(), plain: ["tidy".to_owned()].into() };
        let mut command = Command::new("cargo");
        select(&mut command, &targets, false);
        assert_eq!(process::shown(&command), "cargo --lib --bins --test tidy -- --skip ::kvm_");
        let mut command = Command::new("cargo");
        select(&mut command, &targets, true);
        assert_eq!(process::shown(&command), "cargo --lib --bins --test tidy --test kvm_run");
    }

    #[test]
    fn one_failure_fails_the_whole() {
        assert!(report(&[Verdict::of("a", Ok(true))]));
        assert!(!report(&[Verdict::of("a", Ok(false)), Verdict::of("b", Ok(true))]));
        assert!(!report(&[Verdict::of("a", Err(anyhow::anyhow!("no cargo")))]));
    }
}
