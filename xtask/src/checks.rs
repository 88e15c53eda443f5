//! `cargo xtask test`: every check, all of them run, every failure reported at the end.

use std::fmt::Display;
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::bed::suite;

use crate::packages::{self, Installing};
use crate::process::{self, cargo};
use crate::skips::Skips;
use crate::targets::{self, TestTargets};
use crate::{kvm, linux_guest, nested, outcome};

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
    took: Duration,
}

/// The check of what needs a KVM that can run a kernel, by where it runs.
const LINUX: &str = "linux";
const NESTED: &str = "nested";

/// Runs all checks; true if all passed.
pub(crate) fn run(installing: Installing, nested: Nested) -> Result<bool> {
    let kvm = kvm::probe();
    if let Err(reason) = &kvm {
        let place = if nested == Nested::Run { "run in the nested bed only" } else { "not run" };
        println!("Tests that need KVM will {place}: {reason}");
    }
    let targets = targets::find(&process::workspace_root()?)?;
    let mut verdicts =
        vec![Verdict::of("packages", || packages::ensure(packages::PROGRAMS, installing).map(|()| None))];
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
    let skips = Skips::begin(&process::target()?)?;
    for (name, command) in [("tests", &mut tests), ("doc tests", &mut doc_tests)] {
        command.env(KVM_SWITCH, if kvm.is_ok() { "1" } else { "0" });
        skips.tell(command);
        announce(name, command);
        verdicts.push(Verdict::of(name, || outcome::of_tests(command, &mut io::stdout())));
    }
    if nested == Nested::Run {
        verdicts.push(real_kvm(kvm.is_ok(), installing));
    }

    println!();
    skips.print()?;
    if nested == Nested::LeaveOut {
        println!("the Linux guest's scenarios and the nested bed were left out: --no-nested was given");
    }
    println!("{}", for_want_of_kvm(kvm, nested, &verdicts, &targets));
    Ok(report(&verdicts))
}

/// Says where the tests that need KVM ran.
fn for_want_of_kvm(
    kvm: Result<(), impl Display>,
    nested: Nested,
    verdicts: &[Verdict],
    targets: &TestTargets,
) -> String {
    let Err(reason) = kvm else { return "no test was left out for want of KVM".to_owned() };
    let passed = |name| verdicts.iter().any(|verdict| verdict.name == name && verdict.problem.is_none());
    match nested {
        Nested::Run if passed(NESTED) => {
            format!("the tests that need KVM ran in the nested bed, but for {}", suite::left_out())
        }
        Nested::Run => "the tests that need KVM did not all run: the nested bed failed".to_owned(),
        Nested::LeaveOut => format!("{}: {reason}", left_out(targets)),
    }
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
        Verdict::of(LINUX, || linux_guest::run_here(installing).map(problem))
    } else {
        println!("\n=== nested: cargo xtask nested test, up to 15 minutes (--no-nested leaves it out)");
        Verdict::of(NESTED, || nested::test(installing).map(problem))
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
    announce(name, &command);
    Verdict::of(name, || process::succeeds(&mut command).map(problem))
}

fn announce(name: &str, command: &Command) {
    println!("\n=== {name}: {}", process::shown(command));
}

/// What is said of a check that passed or didn't.
fn problem(passed: bool) -> Option<String> {
    (!passed).then(|| process::SEE_ABOVE.to_owned())
}

impl Verdict {
    /// Does a check that answers what went wrong, if something did.
    fn of(name: &'static str, check: impl FnOnce() -> Result<Option<String>>) -> Self {
        let started = Instant::now();
        let problem = check().unwrap_or_else(|error| Some(format!("{error:#}")));
        Self { name, problem, took: started.elapsed() }
    }

    /// By its name, with what went wrong if that is more than that something did.
    fn failure(&self) -> Option<String> {
        self.problem.as_deref().map(|problem| match problem {
            process::SEE_ABOVE => self.name.to_owned(),
            problem => format!("{} ({problem})", self.name),
        })
    }
}

/// Prints how each check ended, and last what failed; true if nothing did.
fn report(verdicts: &[Verdict]) -> bool {
    println!();
    for Verdict { name, problem, took } in verdicts {
        let ended = problem.as_ref().map_or("ok".to_owned(), |problem| format!("FAILED: {problem}"));
        println!("{name:<11}{:>5} s  {ended}", took.as_secs());
    }
    let failures: Vec<String> = verdicts.iter().filter_map(Verdict::failure).collect();
    if !failures.is_empty() {
        println!("FAILED: {}", failures.join(", "));
    }
    failures.is_empty()
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
    fn one_failure_fails_the_whole_and_is_named() {
        let passed = || Verdict::of("a", || Ok(None));
        let failed = Verdict::of("b", || Ok(problem(false)));
        assert_eq!(failed.failure().as_deref(), Some("b"));
        assert!(report(&[passed()]));
        assert!(!report(&[failed, passed()]));
        let failed = Verdict::of("tests", || Ok(Some("kvm_run: a".to_owned())));
        assert_eq!(failed.failure().as_deref(), Some("tests (kvm_run: a)"));
        assert!(!report(&[failed]));
        assert!(!report(&[Verdict::of("a", || anyhow::bail!("no cargo"))]));
    }

    #[test]
    fn the_bed_is_said_to_have_run_only_if_it_did() {
        let want = |problem: Option<&str>| {
            let verdict = Verdict::of(NESTED, || Ok(problem.map(str::to_owned)));
            for_want_of_kvm(Err("no /dev/kvm"), Nested::Run, &[verdict], &TestTargets::default())
        };
        assert!(want(None).contains("ran in the nested bed, but for"));
        assert!(want(Some("no network")).contains("did not all run"));
    }
}
