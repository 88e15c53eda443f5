//! Programs that attack the VMM or the CPU's protection: each ends as it should, and is told why.

use std::os::unix::process::ExitStatusExt;

use cairn_tests::{cairn_run, guest, run};

/// The exit status of `guest-attack ATTACK`, and what stderr says.
fn attack(memory: &str, attack: &str) -> (i32, String) {
    let mut command = cairn_run(&["--memory", memory]);
    let output = run(command.arg(guest("guest-attack")).arg(attack), b"").unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.signal(), None, "{attack}: {err}");
    assert!(!err.contains("panicked") && !err.contains("KVM"), "{attack}: {err}");
    let status = output.status.code().unwrap_or(-1);
    assert_eq!(status == 0, output.stdout == b"survived\n", "{attack}: {err}");
    (status, err)
}

fn ends(attacks: &[&str], signal: i32, says: &str) {
    for name in attacks {
        let (status, err) = attack("64M", name);
        assert_eq!(status, 128 + signal, "{name}: {err}");
        assert!(err.contains(says), "{name}: {err}");
    }
}

#[test]
fn what_belongs_to_a_kernel_is_forbidden() {
    let instructions = ["hlt", "cli", "in", "out", "wrmsr", "rdpmc", "cr3", "swapgs", "sysret"];
    ends(&instructions, libc::SIGSEGV, "broke a protection of the CPU");
    ends(&["ring0", "farjump", "iretq", "noncanonical"], libc::SIGSEGV, "broke a protection of the CPU");
    ends(&["step", "stepcall"], libc::SIGTRAP, "single-stepped");
}

/// Hosts differ in how the CPU says no: by a protection, as an invalid instruction, or as the trap it is.
#[test]
fn interrupts_of_other_systems_end_the_program() {
    for name in ["int80", "int255", "int3", "sysenter", "xsetbv", "stub", "stubsysret", "stubcall"] {
        let (status, err) = attack("64M", name);
        let signals = [libc::SIGSEGV, libc::SIGILL, libc::SIGTRAP];
        assert!(signals.contains(&(status - 128)) && err.contains("killed by"), "{name}: {status} {err}");
    }
}

#[test]
fn the_monitors_addresses_are_out_of_reach() {
    ends(
        &["rsp0", "exceptionport", "stubwrite", "clockwrite"],
        libc::SIGSEGV,
        "wrote to memory that it can't write",
    );
    ends(&["straddle"], libc::SIGSEGV, "address 0x70002ffc");
    ends(&["tables"], libc::SIGSEGV, "read memory that it can't read");
    ends(
        &["executeport", "execute", "runout", "protectself", "callexecute"],
        libc::SIGSEGV,
        "it can't execute",
    );
    ends(&["rspdevice"], libc::SIGILL, "invalid instruction");
}

/// Stores to the port that system calls go by: a system call, nothing, or the program's end.
#[test]
fn the_ports_harm_nobody() {
    for name in ["port", "portwild", "portkernel", "repmovs", "sse", "lock"] {
        let (status, err) = attack("64M", name);
        assert!([0, 128 + libc::SIGSEGV].contains(&status), "{name}: {status} {err}");
    }
}

#[test]
fn what_is_no_attack_works() {
    for name in ["cpuid", "flags", "selfmodify"] {
        assert_eq!(attack("64M", name).0, 0, "{name}");
    }
}

#[test]
fn a_program_exhausts_what_it_was_given_and_no_more() {
    for (memory, name) in [("64M", "history"), ("512M", "manymappings"), ("64M", "manypaths")] {
        let (status, err) = attack(memory, name);
        assert_eq!(status, 0, "{name}: {err}");
    }
}
