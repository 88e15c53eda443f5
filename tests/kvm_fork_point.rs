//! Programs that take checkpoints of themselves and are brought back from them.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use cairn_tests::place::Place;
use cairn_tests::random::Random;
use cairn_tests::resume::ATTEMPTS;
use cairn_tests::{Printed, built, cairn_run, guest, run};

/// Kills of a program that asks for one checkpoint after the other.
const KILLS: u32 = 8;
/// How often it asks: several times as often as it's seen to between all kills.
const ROUNDS: u64 = 600;

/// The program of these tests, in a guest.
fn guest_in(place: &Place, every: &str, arguments: &[&str]) -> Command {
    let mut command = place.run(every, &[]);
    command.arg(guest("guest-fork-point")).args(arguments);
    command
}

fn start(command: &mut Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

fn line(lines: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn printed(command: &mut Command, input: &[u8]) -> (String, String) {
    let printed = Printed::from(run(command, input).unwrap());
    assert_eq!(printed.status, Some(0), "{command:?}: {printed:?}");
    (String::from_utf8(printed.out).unwrap(), String::from_utf8_lossy(&printed.err).into_owned())
}

/// What is told of is in the store: the kill comes at once.
#[test]
fn a_program_that_is_killed_after_its_fork_point_resumes_there_as_often_as_one_likes() {
    let place = Place::new();
    let (child, mut lines) = start(&mut guest_in(&place, "never", &["once"]));
    let taken = line(&mut lines);
    kill(child);
    let id: u64 = taken.strip_prefix("taken ").unwrap().parse().unwrap();
    for (options, input, expected) in [
        (&["--no-checkpoints"][..], "7", 49_u64),
        (&["--no-checkpoints"], "99999", 9_999_800_001),
        (&[], "12", 144),
        (&["--no-checkpoints"], "0", 0),
        (&["--every", "10ms"], "100", 10_000),
    ] {
        let at = id.to_string();
        let options: Vec<&str> = options.iter().copied().chain(["--at", &at]).collect();
        let (out, _) = printed(&mut place.restore(&options), input.as_bytes());
        assert_eq!(out, format!("resumed {id} {expected}\n"));
    }
}

/// The number in a line of a program that asks for one checkpoint after the other.
fn round(line: &str) -> Option<u64> {
    line.strip_prefix("round ")?.parse().ok()
}

/// Kills such a program again and again, and lets it come to its end. How often it was killed.
fn kill_between_fork_points(every: &str) -> u32 {
    let place = Place::new();
    let mut random = Random(11);
    let (mut child, mut lines) = start(&mut guest_in(&place, every, &["often", &ROUNDS.to_string()]));
    let (mut seen, mut killed) = (0, 0);
    while killed < KILLS {
        for _ in 0..=random.below(6) {
            if let Some(round) = round(&line(&mut lines)) {
                assert!(round <= seen, "{every}: round {round} after {seen}");
                seen = seen.max(round + 1);
            }
        }
        for _ in 0..random.below(200_000) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        // What it had printed before that counts.
        let rest: Vec<String> = lines.lines().map(Result::unwrap).collect();
        seen = seen.max(rest.iter().filter_map(|line| round(line)).max().map_or(0, |last| last + 1));
        let status = child.wait().unwrap();
        (child, lines) = start(&mut place.restore(&[]));
        if status.success() {
            break;
        }
        killed += 1;
    }
    let rest: Vec<String> = lines.lines().map(Result::unwrap).collect();
    // By time, the newest may have been taken when the last line was printed.
    let nothing_is_left = every != "never" && seen == ROUNDS;
    if !rest.is_empty() || !nothing_is_left {
        let first = rest.first().and_then(|line| round(line)).unwrap_or_else(|| panic!("{every}: {rest:?}"));
        assert!(first <= seen, "{every}: round {first} after {seen}");
        let expected: Vec<String> = (first..ROUNDS).map(|round| format!("round {round}")).collect();
        assert_eq!(rest, expected, "{every}, killed {killed} times");
    }
    assert!(child.wait().unwrap().success());
    killed
}

/// Checkpoints by time fall between the request and its answer too, and the kills between everything.
#[test]
fn fork_points_answer_through_kills_and_beside_checkpoints_by_time() {
    for every in ["never", "10ms"] {
        // On a busy machine it may come to its end before a kill.
        let killed = (0..ATTEMPTS).any(|_| 0 < kill_between_fork_points(every));
        assert!(killed, "{every}: it ended before it was killed, always");
    }
}

#[test]
fn the_file_keeps_its_rules() {
    for every in ["never", "10ms"] {
        let (out, err) = printed(&mut guest_in(&Place::new(), every, &["file"]), b"");
        assert_eq!(out, "done\n", "{err}");
    }
}

#[test]
fn without_checkpoints_of_the_whole_it_is_said_what_to_start() {
    let program = guest("guest-fork-point");
    let place = Place::new();
    let store = place.store();
    let with_store = ["--store", store.to_str().unwrap()];
    for mut command in [Command::new(&program), cairn_run(&[]), cairn_run(&with_store)] {
        if command.get_program() != program.as_os_str() {
            command.arg(&program);
        }
        let printed = Printed::from(run(command.arg("once"), b"").unwrap());
        let out = String::from_utf8_lossy(&printed.out).into_owned();
        let is_told = out.contains("cairn run --store DIR --every never");
        assert!(printed.status == Some(1) && is_told, "{command:?}: {printed:?}");
    }
    // One that was brought back to go on without.
    let (mut child, mut lines) = start(&mut guest_in(&place, "never", &["until stored"]));
    assert_eq!(line(&mut lines), "taken 1");
    child.kill().unwrap();
    child.wait().unwrap();
    let (out, _) = printed(&mut place.restore(&["--no-checkpoints"]), b"");
    assert_eq!(out, "resumed 1\n");
}

/// A limit on the size of files stands for a full disk: it can be taken away while the program runs. What the monitor
/// says goes there as well.
#[test]
fn a_full_disk_is_an_error_and_no_end() {
    const LIMIT: u32 = 64 << 10;
    let place = Place::new();
    let log = File::create(place.path("log")).unwrap();
    log.set_len(LIMIT.into()).unwrap();
    (&log).seek(SeekFrom::End(0)).unwrap();
    let mut command = guest_in(&place, "never", &["until stored"]);
    command.stderr(log);
    // SAFETY: both calls are allowed between fork and exec; they change the child alone.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit { rlim_cur: LIMIT.into(), rlim_max: libc::RLIM_INFINITY };
            match libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let (mut child, mut lines) = start(&mut command);
    let mut input = child.stdin.take().unwrap();
    for _ in 0..3 {
        let line = line(&mut lines);
        assert!(line.starts_with("failed ") && line.contains("store"), "{line}");
        input.write_all(b"x").unwrap();
    }
    assert!(line(&mut lines).starts_with("failed "));
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: the limit of a process of ours, from a value that lives through the call.
    let raised = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(raised, 0);
    input.write_all(b"x").unwrap();
    let taken = line(&mut lines);
    kill(child);
    let id = taken.strip_prefix("taken ").unwrap_or_else(|| panic!("{taken}")).to_owned();
    let (out, _) = printed(&mut place.restore(&["--no-checkpoints"]), b"");
    assert_eq!(out, format!("resumed {id}\n"));
}

#[test]
fn a_shared_writable_mapping_of_the_hosts_file_is_refused_by_name_until_it_is_gone() {
    let place = Place::new();
    let path = place.path("input");
    fs::write(&path, [1; 4096]).unwrap();
    let input = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let output = guest_in(&place, "never", &["shared"]).stdin(input).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = out.lines().collect();
    assert!(output.status.success() && lines.len() == 4 && lines[3] == "taken", "{out}{err}");
    assert!(lines[..3].iter().all(|line| line.contains("shared and writable")), "{out}");
    assert_eq!(err.matches("no checkpoint now").count(), 1, "{err}");
    let (out, _) = printed(&mut place.restore(&["--no-checkpoints"]), b"");
    assert_eq!(out, "resumed\n");
}

/// The example of the documentation: got ready once, started five times with different input.
#[test]
fn a_warm_start_is_made_once_and_used_often() {
    let place = Place::new();
    let program = built("cairn-examples", "warm_start");
    let (out, err) = printed(place.run("never", &[]).arg(&program).args(["--numbers", "300000"]), b"");
    assert!(out.is_empty() && err.contains("ready as checkpoint 1"), "{out}{err}");
    for input in ["12\n97\n", "600851475143\n", "", "299999\n300000\n300001\n", "1\n0\n900000000000037\n"] {
        let (native, _) = printed(Command::new(&program).args(["--numbers", "300000"]), input.as_bytes());
        let (out, err) = printed(&mut place.restore(&["--no-checkpoints"]), input.as_bytes());
        assert_eq!(out, native, "{err}");
        assert!(err.contains("the table is there") && !err.contains("numbers took"), "{err}");
    }
}

/// The program's own checkpoints are there on both sides, and go on beside those of the whole.
#[test]
fn a_session_of_the_programs_own_is_on_both_sides_of_a_fork_point() {
    for every in ["never", "10ms"] {
        let place = Place::new();
        let (child, mut lines) = start(&mut guest_in(&place, every, &["session"]));
        assert_eq!(line(&mut lines), "taken");
        kill(child);
        for _ in 0..3 {
            let (out, err) = printed(&mut place.restore(&["--no-checkpoints"]), b"x");
            // By time, the newest may have been taken when all that was over.
            let after = every != "never" && ["taken\ndone\n", "done\n"].contains(&out.as_str());
            assert!(after || out == "resumed\ndone\n", "{out}{err}");
        }
    }
}

#[test]
fn a_program_with_as_many_mappings_as_it_can_have_comes_back() {
    let place = Place::new();
    let (out, err) = printed(&mut guest_in(&place, "never", &["full"]), b"");
    assert_eq!(out, "taken\n", "{err}");
    let (out, err) = printed(&mut place.restore(&["--no-checkpoints"]), b"");
    assert_eq!(out, "resumed\n", "{err}");
}

/// What was written after the comeback moves too, and not only what came back.
#[test]
fn memory_that_is_not_all_there_yet_moves_whole() {
    let place = Place::new();
    let (out, err) = printed(&mut guest_in(&place, "never", &["moves"]), b"");
    assert_eq!(out, "taken\n", "{err}");
    for _ in 0..3 {
        let (out, err) = printed(&mut place.restore(&["--no-checkpoints"]), b"");
        assert_eq!(out, "resumed\n", "{err}");
    }
}

/// The process stays, and the program in it goes on from its fork point.
#[test]
fn a_rollback_resumes_at_the_fork_point_too() {
    let place = Place::new();
    let mut command = place.run("never", &["--name", "forked"]);
    let (mut child, mut lines) = start(command.arg(guest("guest-fork-point")).arg("once"));
    assert_eq!(line(&mut lines), "taken 1");
    place.rollback("forked", 1);
    child.stdin.take().unwrap().write_all(b"3").unwrap();
    assert_eq!(line(&mut lines), "resumed 1 9");
    assert!(child.wait().unwrap().success());
}
