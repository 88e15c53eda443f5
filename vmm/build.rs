//! Compiles what the monitor puts into guests: the init of a Linux guest (`init/`), for the initramfs that
//! `cairn boot --program` makes, and the vDSO of an app guest (`vdso/`).

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The sources, from the package's directory.
const INIT: &str = "init";
const VDSO: &str = "vdso";

fn main() {
    println!("cargo::rerun-if-changed={INIT}");
    println!("cargo::rerun-if-changed={VDSO}");
    println!("cargo::rerun-if-changed=build.rs");
    let directory = PathBuf::from(variable("OUT_DIR"));
    init(&directory.join("cairn-init"));
    vdso(&directory.join("vdso.o"), &directory.join("vdso.so"));
}

fn init(output: &Path) {
    let mut compiler = compiler(INIT, "bin");
    compiler
        .args(["-C", "opt-level=s", "-C", "overflow-checks=on"])
        .args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static"])
        // Neither start files nor a library: the init has its own `_start`.
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib", "-C", "link-arg=-static"])
        .args(["-C", "link-arg=-Wl,--build-id=none", "-C", "link-arg=-Wl,-z,noexecstack"])
        .arg("-o")
        .arg(output);
    // What cargo was told to link with, if it was told.
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = OsString::from("linker=");
        option.push(linker);
        compiler.arg("-C").arg(option);
    }
    run(&mut compiler, "the init of Linux guests");
}

/// rustc makes the object, and the linker that rustc would call the shared object: symbols with versions, as C
/// libraries look for them, aren't among what rustc gives a library.
fn vdso(object: &Path, output: &Path) {
    let mut compiler = compiler(VDSO, "lib");
    compiler
        .args(["-C", "opt-level=2", "-C", "overflow-checks=off", "-C", "relocation-model=pic"])
        .args(["-C", "force-unwind-tables=no", "--emit=obj", "-o"])
        .arg(object);
    run(&mut compiler, "the vDSO of app guests");
    let mut linker = Command::new(env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into()));
    linker
        .args([
            "-shared",
            "-nostartfiles",
            "-nostdlib",
            "-Wl,-soname,linux-vdso.so.1",
            "-Wl,--hash-style=both",
        ])
        .args(["-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096", "-Wl,-z,norelro"])
        .args(["-Wl,--no-undefined", "-Wl,-Bsymbolic", "-Wl,-s"])
        .arg(format!("-Wl,-T,{VDSO}/layout.lds"))
        .arg(format!("-Wl,--version-script={VDSO}/symbols.map"));
    for name in ["clock_gettime", "gettimeofday", "time", "clock_getres", "getcpu"] {
        linker.arg(format!("-Wl,--defsym={name}=__vdso_{name}"));
    }
    run(linker.arg(object).arg("-o").arg(output), "the vDSO of app guests");
}

/// cargo's rustc for `source`/main.rs: the same bytes in every profile and every directory, as they are a part of each
/// guest, not of the program around them.
fn compiler(source: &str, kind: &str) -> Command {
    let mut compiler = Command::new(variable("RUSTC"));
    compiler
        .arg(Path::new(source).join("main.rs"))
        .arg(format!("--crate-name=cairn_{source}"))
        .args(["--crate-type", kind, "--edition", "2024", "--target", &variable("TARGET")])
        .args(["-C", "debuginfo=0", "-C", "strip=symbols", "-C", "codegen-units=1", "-C", "panic=abort"])
        .arg(format!("-Cmetadata=cairn-{source}"))
        .arg(format!("--remap-path-prefix={}=cairn-vmm", variable("CARGO_MANIFEST_DIR")))
        // Not all warnings: a later compiler has others, and would refuse what this one takes.
        .args(["-D", "dead_code", "-D", "unused_must_use", "-D", "unsafe_op_in_unsafe_fn"]);
    compiler
}

fn run(command: &mut Command, what: &str) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
    assert!(status.success(), "{what}: {command:?}: {status}");
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}, which cargo sets: {error}"))
}
