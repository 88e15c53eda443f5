//! Compiles the init of a Linux guest (`init/`) for the initramfs that `cairn boot --program` makes.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The init's source, from the package's directory.
const SOURCE: &str = "init";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    let output = PathBuf::from(variable("OUT_DIR")).join("cairn-init");
    let mut compiler = Command::new(variable("RUSTC"));
    compiler
        .arg(Path::new(SOURCE).join("main.rs"))
        .args(["--crate-name", "cairn_init", "--crate-type", "bin", "--edition", "2024"])
        .args(["--target", &variable("TARGET")])
        // The same bytes in every profile and every directory: it's a part of each initramfs, not of the
        // program around it.
        .args(["-C", "opt-level=s", "-C", "debuginfo=0", "-C", "strip=symbols", "-C", "codegen-units=1"])
        .args(["-C", "overflow-checks=on", "-C", "metadata=cairn-init"])
        .arg(format!("--remap-path-prefix={}=cairn-vmm", variable("CARGO_MANIFEST_DIR")))
        .args(["-C", "panic=abort", "-C", "relocation-model=static", "-C", "target-feature=+crt-static"])
        // Not all warnings: a later compiler has others, and would refuse what this one takes.
        .args(["-D", "dead_code", "-D", "unused_must_use", "-D", "unsafe_op_in_unsafe_fn"])
        // Neither start files nor a library: the init has its own `_start`.
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib", "-C", "link-arg=-static"])
        .args(["-C", "link-arg=-Wl,--build-id=none", "-C", "link-arg=-Wl,-z,noexecstack"])
        .arg("-o")
        .arg(&output);
    // What cargo was told to link with, if it was told.
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        compiler.arg("-C").arg(option);
    }
    let status = compiler.status().unwrap_or_else(|error| panic!("{compiler:?} can't be started: {error}"));
    assert!(status.success(), "the init of Linux guests ({SOURCE}/main.rs) doesn't compile: {status}");
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}, which cargo sets: {error}"))
}
