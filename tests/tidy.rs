//! House rules that the compiler can't check.

use std::fs;
use std::path::{Path, PathBuf};

/// `vmm`'s modules from lowest to highest: a module may name only those to its left, and itself.
const LAYERS: [&str; 9] =
    ["host", "memory", "kvm", "virtio", "devices", "checkpoint", "store", "guest", "machine"];
/// The only files that may contain the `unsafe` keyword, besides the tests' guest programs.
const UNSAFE_FILES: &[&str] = &[
    "bench/src/clock.rs",
    "bench/src/cpu.rs",
    "checkpoint-engine/examples/compare_cost.rs",
    "checkpoint-engine/src/access.rs",
    "checkpoint-engine/src/access/kernels.rs",
    "checkpoint-engine/src/live.rs",
    "checkpoint-engine/src/mirror.rs",
    "checkpoint-engine/src/places.rs",
    "checkpoint-engine/src/pool.rs",
    "checkpoint-engine/src/tests/memory.rs",
    "checkpoint-engine/tests/no_allocation.rs",
    "examples/src/fuzz/forked.rs",
    "guest-kmod-free-shim/src/client/tests.rs",
    "guest-kmod-free-shim/src/lock.rs",
    "guest-kmod-free-shim/src/mapping.rs",
    "guest-kmod-free-shim/src/origin.rs",
    "guest-kmod-free-shim/src/ring.rs",
    "guest-kmod-free-shim/src/touch.rs",
    "guest-kmod-free-shim/src/transport/tests.rs",
    "guest-lib/src/arena/data.rs",
    "guest-lib/src/arena/handle.rs",
    "guest-lib/src/arena/memory.rs",
    "guest-lib/src/arena/vector.rs",
    "guest-lib/src/contract/pages.rs",
    "guest-lib/src/engines/device.rs",
    "guest-lib/src/engines/mprotect.rs",
    "guest-lib/src/engines/sys/pagemap.rs",
    "guest-lib/src/engines/sys/process.rs",
    "guest-lib/src/engines/sys/sigsegv.rs",
    "guest-lib/src/engines/sys/uffd.rs",
    "guest-lib/src/engines/tracked.rs",
    "guest-lib/src/memory.rs",
    "guest-lib/src/session.rs",
    "guest-lib/tests/process.rs",
    "vmm/init/sys.rs",
    "vmm/src/checkpoint/freeze_tests.rs",
    "vmm/src/checkpoint/keeper.rs",
    "vmm/src/checkpoint/linux/tracked.rs",
    "vmm/src/host/calls.rs",
    "vmm/src/host/mapping.rs",
    "vmm/src/host/signal.rs",
    "vmm/src/host/tsc.rs",
    "vmm/src/host/userfault.rs",
    "vmm/src/kvm/dirty_log.rs",
    "vmm/src/kvm/dirty_ring.rs",
    "vmm/src/kvm/kernel_vcpu.rs",
    "vmm/src/kvm/ram_slots.rs",
    "vmm/src/kvm/slots.rs",
    "vmm/src/kvm/vcpu.rs",
    "vmm/src/kvm/vm.rs",
    "vmm/src/machine/engine_probe.rs",
    "vmm/src/memory/kernel.rs",
    "vmm/src/memory/ram.rs",
    "vmm/src/memory/transfer.rs",
    "vmm/src/memory/view.rs",
    "vmm/vdso/main.rs",
    "xtask/src/bed/emulator.rs",
];
/// Which package may name which others of the workspace.
const DEPENDENCIES: [(&str, &[&str]); 8] = [
    ("checkpoint-abi", &[]),
    ("checkpoint-engine", &["cairn-abi"]),
    ("checkpoint-store", &["cairn-abi"]),
    ("guest-kmod-free-shim", &["cairn-abi"]),
    ("guest-lib", &["cairn-abi", "cairn-engine", "cairn-shim"]),
    ("vmm", &["cairn-abi", "cairn-engine", "cairn-store"]),
    ("examples", &["cairn-guest"]),
    ("bench", &["cairn-guest", "cairn-examples"]),
];
/// Lines that a file may have.
const LONGEST: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every source file of the workspace, by its path from the root.
fn sources() -> Vec<(String, String)> {
    let (root, mut found) = (root(), Vec::new());
    let mut directories: Vec<PathBuf> = DEPENDENCIES.iter().map(|(name, _)| root.join(name)).collect();
    directories.extend([root.join("tests"), root.join("xtask")]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(50 < found.len(), "only {} source files found", found.len());
    found
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

#[test]
fn vmm_modules_only_look_down() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        let Some(inside) = name.strip_prefix("vmm/src/").filter(|inside| !inside.starts_with("bin/")) else {
            continue;
        };
        let own = inside.split(['/', '.']).next().unwrap();
        let own_layer = LAYERS.iter().position(|layer| *layer == own);
        if own_layer.is_none() && own != "lib" {
            problems.push(format!("{name}: not in LAYERS"));
        }
        for (number, line) in text.lines().enumerate() {
            for target in code_of(line).split("crate::").skip(1) {
                let layer = LAYERS.iter().position(|layer| words(target).next() == Some(layer));
                if own_layer < layer && own != "lib" {
                    problems.push(format!(
                        "{name}:{}: {own} must not use {}",
                        number + 1,
                        LAYERS[layer.unwrap()]
                    ));
                }
            }
            if code_of(line).contains("crate::{") {
                problems.push(format!("{name}:{}: name one module of the crate per `use`", number + 1));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn packages_only_look_down() {
    let mut problems = Vec::new();
    for (directory, allowed) in DEPENDENCIES {
        let manifest = fs::read_to_string(root().join(directory).join("Cargo.toml")).unwrap();
        let mut section = "";
        for line in manifest.lines() {
            section = if line.starts_with('[') { line } else { section };
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            // Tests may ask the host.
            let is_for_tests = section == "[dev-dependencies]" && name == "cairn-test-host";
            if name.starts_with("cairn-")
                && section.contains("dependencies")
                && !allowed.contains(&name)
                && !is_for_tests
            {
                problems.push(format!("{directory} must not depend on {name}"));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn unsafe_lives_in_few_files() {
    let mut problems = Vec::new();
    let mut seen = Vec::new();
    for (name, text) in sources() {
        let uses = text.lines().any(|line| words(code_of(line)).any(|word| word == "unsafe"));
        if uses && !name.starts_with("tests/") {
            if !UNSAFE_FILES.contains(&name.as_str()) {
                problems.push(format!("{name}: unsafe, but not in UNSAFE_FILES"));
            }
            seen.push(name);
        }
    }
    problems.extend(
        UNSAFE_FILES
            .iter()
            .filter(|file| !seen.contains(&(**file).to_owned()))
            .map(|file| format!("{file}: listed, but has no unsafe")),
    );
    assert_none(&problems);
}

#[test]
fn files_say_what_they_are_and_stay_small() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        if !text.starts_with("//!") {
            problems.push(format!("{name}: no //! line that says what it is"));
        }
        let lines = text.lines().count();
        if LONGEST < lines {
            problems.push(format!("{name}: {lines} lines, more than {LONGEST}: split it by meaning"));
        }
    }
    assert_none(&problems);
}

/// The manifest turns discovery off, so an undeclared test file would silently never run.
#[test]
fn every_test_and_guest_is_declared() {
    let directory = root().join("tests");
    let manifest = fs::read_to_string(directory.join("Cargo.toml")).unwrap();
    let mut problems = Vec::new();
    for prefix in ["", "guests/"] {
        for entry in fs::read_dir(directory.join(prefix)).unwrap() {
            let name = format!("{prefix}{}", entry.unwrap().file_name().into_string().unwrap());
            if name.ends_with(".rs") && !manifest.contains(&format!("path = \"{name}\"")) {
                problems.push(format!("tests/{name} is not in tests/Cargo.toml"));
            }
        }
    }
    assert_none(&problems);
}
