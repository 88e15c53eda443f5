//! Which integration test targets the workspace has, and which of them need KVM.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A test target whose name begins so needs a usable /dev/kvm as a whole.
const KVM_TARGET: &str = "kvm_";

/// Names of the integration test targets.
#[derive(Debug, Default)]
pub(crate) struct TestTargets {
    /// Those that need KVM as a whole.
    pub(crate) kvm: BTreeSet<String>,
    /// All others.
    pub(crate) plain: BTreeSet<String>,
}

/// Finds the test targets of all packages directly below `root`.
pub(crate) fn find(root: &Path) -> Result<TestTargets> {
    let mut targets = TestTargets::default();
    for package in entries(root)? {
        let manifest = package.join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        let text =
            fs::read_to_string(&manifest).with_context(|| format!("reading {}", manifest.display()))?;
        let mut names = declared(&text);
        names.extend(discovered(&package)?);
        let (kvm, plain): (BTreeSet<_>, _) = names.into_iter().partition(|name| name.starts_with(KVM_TARGET));
        targets.kvm.extend(kvm);
        targets.plain.extend(plain);
    }
    Ok(targets)
}

/// Names in the `[[test]]` sections of a manifest.
fn declared(manifest: &str) -> Vec<String> {
    let mut in_test = false;
    let mut names = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            in_test = line == "[[test]]";
        } else if in_test && let Some(("name", value)) = line.split_once('=').map(|(k, v)| (k.trim(), v)) {
            names.push(value.trim().trim_matches('"').to_owned());
        }
    }
    names
}

/// Names that cargo gives to the files of a package's `tests` directory.
fn discovered(package: &Path) -> Result<Vec<String>> {
    let directory = package.join("tests");
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for path in entries(&directory)? {
        let is_target = path.extension().is_some_and(|ext| ext == "rs") || path.join("main.rs").is_file();
        if let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
            && is_target
        {
            names.push(stem.to_owned());
        }
    }
    Ok(names)
}

fn entries(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let listing = fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    listing.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    #[test]
    fn only_names_in_test_sections_count() {
        let manifest = "[package]\nname = \"x\"\n[[test]]\nname = \"kvm_run\"\npath = \"a.rs\"\n\
                        [[bin]]\nname=\"b\"\n[[test]]\n  name  =  \"tidy\"\n";
        assert_eq!(declared(manifest), ["kvm_run", "tidy"]);
        assert!(declared("").is_empty());
    }

    #[test]
    fn this_workspace_is_readable_and_split_by_need() {
        let targets = find(&process::workspace_root().unwrap()).unwrap();
        // One that a manifest declares, one that cargo discovers, and one of a directory with a main.rs.
        for name in ["tidy", "wordfreq", "checkpoint_device"] {
            assert!(targets.plain.contains(name), "{name} is not in {:?}", targets.plain);
        }
        assert!(targets.kvm.contains("kvm_command"), "{:?}", targets.kvm);
    }
}
