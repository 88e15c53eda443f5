//! More programs that are killed and brought back, and comebacks to older checkpoints and with less of the host.

use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::process::{Child, ChildStderr, Command};
use std::time::Duration;

use cairn_test_host::skipped;
use cairn_tests::place::Place;
use cairn_tests::resume::{ATTEMPTS, Trial, goes_on, is_there, start, wait_for_checkpoint};
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

/// A program that goes on for a while, and what it prints natively.
fn memory(rounds: &str) -> ([String; 3], Printed) {
    let program = [guest("guest-resume").to_str().unwrap(), "memory", rounds].map(str::to_owned);
    let native = Printed::from(run(Command::new(&program[0]).args(&program[1..]), b"").unwrap());
    assert_eq!(native.status, Some(0), "{native:?}");
    (program, native)
}

/// Waits for a program's end, which must be that of a native one.
fn ends_as_natively(
    place: &Place,
    mut child: Child,
    mut told: BufReader<ChildStderr>,
    native: &Printed,
    said: &mut String,
) {
    while wait_for_checkpoint(&mut told, said).is_some() {}
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    assert!(fs::read(place.output_file()).unwrap() == native.out, "{said}");
}

/// The next checkpoints of a program that is killed then; none if it ended before.
fn checkpoints_until_killed(
    child: &mut Child,
    told: &mut BufReader<ChildStderr>,
    count: usize,
) -> Option<Vec<u64>> {
    let mut said = String::new();
    let ids: Option<Vec<u64>> = (0..count).map(|_| wait_for_checkpoint(told, &mut said)).collect();
    if ids.is_some() {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    assert!(ids.is_some() || status.success(), "{said}");
    ids
}

/// Goes on from an older checkpoint, twice; false if the program ended too soon for that.
fn goes_on_from_an_older_one(program: &[String], native: &Printed) -> bool {
    let place = Place::new();
    let (mut child, mut told) = start(place.run_telling("50ms", &[]).args(program));
    let Some(mut ids) = checkpoints_until_killed(&mut child, &mut told, 6) else { return false };
    for _ in 0..2 {
        let older = ids[1].to_string();
        (child, told) = start(&mut place.restore_telling(&["--at", &older]));
        // Further ones are newer than all that there were, and changes to the older one.
        let Some(newer) = checkpoints_until_killed(&mut child, &mut told, 2) else { return false };
        assert!(ids.iter().all(|id| *id < newer[0]), "{ids:?} and {newer:?}");
        ids.extend(newer);
    }
    (child, told) = start(&mut place.restore_telling(&[]));
    ends_as_natively(&place, child, told, native, &mut String::new());
    true
}

/// What was printed after a checkpoint is as if it never was, and what follows it is what follows.
#[test]
fn an_older_checkpoint_can_be_gone_on_from() {
    let (program, native) = memory("600");
    // A fast machine, and one that is busy with others, may come to the program's end before.
    assert!((0..ATTEMPTS).any(|_| goes_on_from_an_older_one(&program, &native)), "it ended too soon, always");
}

/// Without the right to serve faults of the kernel all memory is read first, and checked as well.
#[test]
fn a_host_without_userfaultfd_is_no_obstacle() {
    let allowed = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap_or_default();
    let taken_away = without_userfaultfd(&Command::new("/bin/true")).output();
    if allowed.trim() != "0" || !taken_away.is_ok_and(|output| output.status.success()) {
        skipped("the right to userfaultfd can't be taken away from a process here");
        return;
    }
    let (program, native) = memory("500");
    let mut killed = 0;
    for _ in 0..ATTEMPTS {
        // A fast machine, and one that is busy with others, may come to the program's end before.
        killed += comes_back_without_userfaultfd(&program, &native);
        if 4 <= killed {
            return;
        }
    }
    panic!("killed {killed} times in {ATTEMPTS} attempts");
}

/// Kills the program and brings it back, four times if it doesn't end before; how often.
fn comes_back_without_userfaultfd(program: &[String], native: &Printed) -> u64 {
    let place = Place::new();
    let (mut child, mut told) = start(place.run_telling("50ms", &[]).args(program));
    let mut said = String::new();
    let mut killed = 0;
    while killed < 4 && wait_for_checkpoint(&mut told, &mut said).is_some() {
        std::thread::sleep(Duration::from_millis(killed * 20));
        child.kill().unwrap();
        if child.wait().unwrap().code().is_some() {
            break;
        }
        killed += 1;
        (child, told) = start(&mut without_userfaultfd(&place.restore_telling(&[])));
    }
    ends_as_natively(&place, child, told, native, &mut said);
    assert!(killed == 0 || said.contains("all memory is read first"), "{said}");
    killed
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
