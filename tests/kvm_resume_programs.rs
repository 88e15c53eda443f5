//! More programs that are killed and brought back, and comebacks to older checkpoints and with less of the host.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cairn_tests::resume::{Place, Trial, goes_on, is_there, start, wait_for_checkpoint};
use cairn_tests::{Printed, guest, run};

#[test]
fn lua_computes_on() {
    if !is_there("/usr/bin/lua5.4") {
        return;
    }
    let program = "local kept, n, h = {}, 0, 17\n\
        for i = 1, 6000000 do\n\
          h = (h * 6364136223846793005 + i) ~ (h >> 7)\n\
          if i % 500 == 0 then kept[#kept + 1] = string.format('%x', h) end\n\
          if #kept > 2000 then n = n + #table.concat(kept); kept = {} end\n\
          if i % 200000 == 0 then print(i, h, n); io.stdout:flush() end\n\
        end\n\
        print(n, #kept, h)";
    goes_on(
        &["/usr/bin/lua5.4", "-e", program],
        &Trial { every: "50ms", kills: 6, within: 200, options: &[] },
    );
}

#[test]
fn a_shell_goes_on() {
    if !is_there("/bin/dash") {
        return;
    }
    let program = "i=0; text=; while [ $i -lt 400000 ]; do i=$((i + 1)); \
        case $i in *000) text=${text#????????}$i-$((i * 7919 % 104729)); esac; \
        case $i in *0000) echo \"$i ${#text} $text\";; esac; done; echo $text";
    goes_on(&["/bin/dash", "-c", program], &Trial { every: "50ms", kills: 6, within: 200, options: &[] });
}

/// What was printed after a checkpoint is as if it never was, and what follows it is what follows.
#[test]
fn an_older_checkpoint_can_be_gone_on_from() {
    let place = Place::new();
    let program = guest("guest-resume");
    let program = [program.to_str().unwrap(), "memory", "600"];
    let native = Printed::from(run(Command::new(program[0]).args(&program[1..]), b"").unwrap());
    let (mut child, mut told) = start(place.run("50ms", &[]).args(program));
    let mut said = String::new();
    let mut ids = Vec::new();
    while ids.len() < 6 {
        ids.push(wait_for_checkpoint(&mut told, &mut said).expect("it runs for longer"));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..2 {
        let older = ids[1].to_string();
        (child, told) = start(&mut place.restore(&["--at", &older]));
        // Further ones are newer than all that there were, and changes to the older one.
        let first = wait_for_checkpoint(&mut told, &mut said).unwrap_or_else(|| panic!("{said}"));
        assert!(ids.iter().all(|id| *id < first), "{ids:?} and {first}");
        ids.push(first);
        ids.push(wait_for_checkpoint(&mut told, &mut said).unwrap_or_else(|| panic!("{said}")));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    (child, told) = start(&mut place.restore(&[]));
    while wait_for_checkpoint(&mut told, &mut said).is_some() {}
    let status = child.wait().unwrap().code();
    assert_eq!(status, Some(0), "{said}");
    assert!(fs::read(place.output()).unwrap() == native.out, "{said}");
}

/// Without the right to serve faults of the kernel all memory is read first, and checked as well.
#[test]
fn a_host_without_userfaultfd_is_no_obstacle() {
    let tools = ["/usr/bin/unshare", "/usr/bin/setpriv"];
    let allowed = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap_or_default();
    if !tools.iter().all(|tool| is_there(tool)) || allowed.trim() != "0" || !is_root() {
        eprintln!("skipped: only root can take the right away, where users don't have it anyhow");
        return;
    }
    let place = Place::new();
    let program = guest("guest-resume");
    let program = [program.to_str().unwrap(), "memory", "500"];
    let native = Printed::from(run(Command::new(program[0]).args(&program[1..]), b"").unwrap());
    let (mut child, mut told) = start(place.run("50ms", &[]).args(program));
    let mut said = String::new();
    for round in 0..4 {
        assert!(wait_for_checkpoint(&mut told, &mut said).is_some(), "{round}: {said}");
        std::thread::sleep(Duration::from_millis(round * 20));
        child.kill().unwrap();
        child.wait().unwrap();
        (child, told) = start(&mut without_userfaultfd(&place.restore(&[])));
    }
    while wait_for_checkpoint(&mut told, &mut said).is_some() {}
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    assert!(said.contains("all memory is read first"), "{said}");
    assert!(fs::read(place.output()).unwrap() == native.out, "{said}");
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|about| std::os::unix::fs::MetadataExt::uid(&about) == 0)
}

/// The same command in a place where the device is another one, and the process may not trace others.
fn without_userfaultfd(command: &Command) -> Command {
    let mut shell = Command::new("/usr/bin/unshare");
    let script = "[ ! -e /dev/userfaultfd ] || mount --bind /dev/null /dev/userfaultfd; \
                  exec setpriv --bounding-set -sys_ptrace --inh-caps -all \"$@\"";
    shell
        .args(["--mount", "/bin/sh", "-c", script, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    shell.current_dir(command.get_current_dir().unwrap_or(Path::new("/"))).env_remove("RUST_LOG");
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    shell
}
