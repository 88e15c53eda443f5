//! The session and the process around it: other faults, threads, children, order of drops, large memory.

mod common;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use cairn_guest::arena::Vector;
use cairn_guest::{EngineKind, Error, Options, Session, region_data};

use common::works;

region_data! {
    struct List<'r> {
        numbers: Vector<'r, u64>,
    }
}

/// Ends this process as a program that faults: with the SIGSEGV handler of a session installed.
#[test]
#[ignore = "dies; run by others in a process of its own"]
fn dies_of_a_foreign_fault() {
    let mut session = Session::open_with(EngineKind::Mprotect).unwrap();
    let table = session.region::<u64>("table", 1024).unwrap();
    session.checkpoint().unwrap();
    session.slice_mut(&table)[0] = 1;
    // SAFETY: writes to a mapping that allows no access, which must kill this process.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        page.cast::<u8>().write_volatile(1);
    }
}

/// As above, by signals that a process sends. Two, because Rust's handler takes the first for a fault that
/// will come again.
#[test]
#[ignore = "dies; run by others in a process of its own"]
fn dies_of_a_sent_signal() {
    let mut session = Session::open_with(EngineKind::Mprotect).unwrap();
    let _table = session.region::<u64>("table", 1024).unwrap();
    session.checkpoint().unwrap();
    for _ in 0..2 {
        // SAFETY: raises a signal in this process, which must kill it.
        unsafe { libc::raise(libc::SIGSEGV) };
    }
}

/// As above, by a stack overflow, which Rust's own handler reports.
#[test]
#[ignore = "dies; run by others in a process of its own"]
fn dies_of_a_stack_overflow() {
    fn deeper(depth: u64) -> u64 {
        let space = std::hint::black_box([depth; 512]);
        if depth == u64::MAX { 0 } else { deeper(depth + 1) + space[7] }
    }
    let mut session = Session::open_with(EngineKind::Mprotect).unwrap();
    let _table = session.region::<u64>("table", 1024).unwrap();
    session.checkpoint().unwrap();
    deeper(0);
}

fn status_of(name: &str) -> (ExitStatus, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--ignored", "--nocapture"]).stdin(Stdio::null());
    // SAFETY: setrlimit is async-signal-safe. No core files of programs that die on purpose.
    unsafe {
        command.pre_exec(|| {
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            Ok(())
        });
    }
    let output = command.output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn faults_elsewhere_kill_as_ever() {
    let (status, _) = status_of("dies_of_a_foreign_fault");
    assert_eq!(status.signal(), Some(libc::SIGSEGV));
    let (status, _) = status_of("dies_of_a_sent_signal");
    assert_eq!(status.signal(), Some(libc::SIGSEGV));
    let (status, message) = status_of("dies_of_a_stack_overflow");
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    assert!(message.contains("overflowed its stack"), "{message}");
}

#[test]
fn a_session_moves_between_threads_and_several_write() -> Result<(), Error> {
    for kind in EngineKind::USER_LEVEL.into_iter().filter(works) {
        let mut session = Session::open_with(kind)?;
        let table = session.region::<u32>("table", 1 << 20)?;
        session.slice_mut(&table).fill(1);
        let id = session.checkpoint()?;
        thread::scope(|scope| {
            for part in session.slice_mut(&table).chunks_mut(1 << 18) {
                scope.spawn(move || part.fill(2));
            }
        });
        let second = session.checkpoint()?;
        let (mut session, table) =
            thread::spawn(move || session.rollback(id).map(|()| (session, table))).join().unwrap()?;
        assert!(session.slice(&table).iter().all(|word| *word == 1), "{kind}");
        session.rollback(second)?;
        assert!(session.slice(&table).iter().all(|word| *word == 2), "{kind}");
    }
    Ok(())
}

#[test]
fn sessions_side_by_side_do_not_disturb_each_other() {
    let works_here: Vec<_> = EngineKind::USER_LEVEL.into_iter().filter(works).collect();
    thread::scope(|scope| {
        for kind in works_here.iter().copied().cycle().take(10) {
            scope.spawn(move || {
                cairn_guest::contract::walk(&mut Session::open_with(kind).unwrap(), 11, 400)
                    .unwrap_or_else(|error| panic!("{kind}: {error:?}"));
            });
        }
    });
}

#[test]
fn a_child_of_the_program_has_no_session() -> Result<(), Error> {
    for kind in EngineKind::USER_LEVEL.into_iter().filter(works) {
        let mut session = Session::open_with(kind)?;
        let table = session.region::<u32>("table", 5000)?;
        session.slice_mut(&table).fill(1);
        let list = session.arena::<List>("list", 1 << 16, |heap| Ok(List { numbers: heap.vector() }))?;
        let id = session.checkpoint()?;
        // SAFETY: the child uses memory and system calls only, and ends without unwinding.
        let child = unsafe { libc::fork() };
        if child == 0 {
            session.slice_mut(&table).fill(7);
            let added = session.with(&list, |root| root.numbers.resize(5000, 7));
            let refused = added.is_ok()
                && session.read(&list, |root| root.numbers.iter().sum::<u64>()) == 35_000
                && matches!(session.checkpoint(), Err(Error::OtherProcess))
                && matches!(session.rollback(id), Err(Error::OtherProcess))
                && matches!(session.release(id), Err(Error::OtherProcess))
                && session.slice(&table).iter().all(|word| *word == 7);
            drop(session);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(if refused { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: waits for the child above.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "{kind}");
        assert!(session.read(&list, |root| root.numbers.is_empty()), "{kind}");
        session.slice_mut(&table)[..2000].fill(2);
        let second = session.checkpoint()?;
        session.slice_mut(&table).fill(3);
        session.rollback(id)?;
        assert!(session.slice(&table).iter().all(|word| *word == 1), "{kind}");
        session.rollback(second)?;
        assert!(session.slice(&table)[..2000].iter().all(|word| *word == 2), "{kind}");
    }
    Ok(())
}

#[test]
fn a_program_that_waits_for_children_sees_none_of_ours() -> Result<(), Error> {
    let mut session = Session::open_with(EngineKind::Fork)?;
    let table = session.region::<u32>("table", 100)?;
    let id = session.checkpoint()?;
    let output = Command::new("true").status().unwrap();
    assert!(output.success());
    session.slice_mut(&table)[0] = 1;
    session.rollback(id)?;
    assert_eq!(session.slice(&table)[0], 0);
    Ok(())
}

/// Children of this process, which has no others than those that hold snapshots.
fn snapshots() -> Vec<libc::pid_t> {
    let me = std::process::id().to_string();
    let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let (pid, rest) = stat.split_once(' ')?;
        let parent = rest.rsplit_once(") ")?.1.split(' ').nth(1)?;
        (parent == me).then(|| pid.parse().ok())?
    });
    children.collect()
}

/// Alone in its process, because it kills children.
#[test]
#[ignore = "kills the children of its process; run by others in a process of its own"]
fn a_killed_child_is_a_lost_checkpoint() {
    let mut session = Options::new().engine(EngineKind::Fork).history(3).open().unwrap();
    let table = session.region::<u32>("table", 100).unwrap();
    let id = session.checkpoint().unwrap();
    for child in snapshots() {
        // SAFETY: kills a child of this process, and waits until it is dead but not until it is reaped.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOWAIT | libc::__WALL;
            libc::waitid(libc::P_PID, child.unsigned_abs(), &raw mut info, flags);
        }
    }
    session.slice_mut(&table)[0] = 1;
    assert!(matches!(session.rollback(id), Err(Error::Lost { .. })));
    assert_eq!(session.slice(&table)[0], 1);
    let second = session.checkpoint().unwrap();
    session.slice_mut(&table)[0] = 2;
    session.rollback(second).unwrap();
    assert_eq!(session.slice(&table)[0], 1);
    session.release(id).unwrap();
}

#[test]
fn a_checkpoint_can_be_lost_and_the_session_goes_on() {
    let (status, message) = status_of("a_killed_child_is_a_lost_checkpoint");
    assert!(status.success(), "{message}");
}

/// Alone in its process, because it counts children.
#[test]
#[ignore = "counts the children of its process; run by others in a process of its own"]
fn children_end_with_their_checkpoints() {
    let mut session = Options::new().engine(EngineKind::Fork).history(3).open().unwrap();
    let _table = session.region::<u32>("table", 100).unwrap();
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(session.checkpoint().unwrap());
    }
    // Evicted ones may be on their way out; all others are there.
    assert!(snapshots().len() >= 3);
    session.release(ids[9]).unwrap();
    drop(session);
    assert_eq!(snapshots(), []);
}

#[test]
fn no_snapshot_outlives_its_session() {
    let (status, message) = status_of("children_end_with_their_checkpoints");
    assert!(status.success(), "{message}");
}

#[test]
fn sessions_and_handles_are_dropped_in_any_order() -> Result<(), Error> {
    for kind in EngineKind::USER_LEVEL.into_iter().filter(works) {
        let mut session = Session::open_with(kind)?;
        let first = session.region::<u32>("first", 5000)?;
        let second = session.region::<u32>("second", 5000)?;
        let id = session.checkpoint()?;
        session.slice_mut(&second)[1] = 1;
        session.drop_region(first)?;
        let again = session.region::<u32>("first", 700)?;
        session.checkpoint()?;
        assert!(session.rollback(id).is_err());
        drop(session);
        assert_eq!((second.len(), again.len()), (5000, 700), "handles outlive the session");
    }
    Ok(())
}

#[test]
fn four_gibibytes_of_sparse_memory() -> Result<(), Error> {
    const LEN: usize = 1 << 30;
    for kind in EngineKind::USER_LEVEL.into_iter().filter(works) {
        let mut session = Options::new().engine(kind).history(2).open()?;
        let mut regions = Vec::new();
        for number in 0..4 {
            regions.push(session.region::<u8>(&format!("region {number}"), LEN)?);
        }
        let places = |number: usize| [0, 4097 * (number + 1), LEN / 2 + number, LEN - 1];
        let fill = |session: &mut Session, byte: u8| {
            for (number, region) in regions.iter().enumerate() {
                places(number).into_iter().for_each(|place| session.slice_mut(region)[place] = byte);
            }
        };
        fill(&mut session, 1);
        let id = session.checkpoint()?;
        fill(&mut session, 2);
        session.checkpoint()?;
        session.slice_mut(&regions[3])[LEN / 4] = 3;
        session.rollback(id)?;
        for (number, region) in regions.iter().enumerate() {
            let slice = session.slice(region);
            assert!(places(number).into_iter().all(|place| slice[place] == 1), "{kind}, region {number}");
        }
        assert_eq!(session.slice(&regions[3])[LEN / 4], 0, "{kind}");
        let figures = session.figures()?;
        let held = figures.mirror_bytes + figures.history_bytes;
        assert!(held < 256 << 20, "{kind} holds {held} bytes for 16 pages");
    }
    Ok(())
}

/// Alone in its process, because no thread can start there while all mappings are taken.
#[test]
#[ignore = "takes all mappings of its process; run by others in a process of its own"]
fn every_other_page_of_a_large_region() -> Result<(), Error> {
    const PAGES: usize = 80_000;
    for kind in EngineKind::USER_LEVEL.into_iter().filter(works) {
        let mut session = Options::new().engine(kind).history(2).open()?;
        let region = session.region::<u8>("comb", PAGES * 4096)?;
        let id = session.checkpoint()?;
        for epoch in 1..=2 {
            // More isolated pages than the kernel allows mappings (vm.max_map_count / 2).
            for page in (0..PAGES).step_by(2) {
                session.slice_mut(&region)[page * 4096] = epoch;
            }
            session.checkpoint()?;
        }
        session.slice_mut(&region)[4096] = 1;
        let newest = session.checkpoint()?;
        session.slice_mut(&region)[8192] = 9;
        session.rollback(newest)?;
        let slice = session.slice(&region);
        assert!((0..PAGES).step_by(2).all(|page| slice[page * 4096] == 2) && slice[4096] == 1, "{kind}");
        assert!(session.rollback(id).is_err());
    }
    Ok(())
}

#[test]
fn more_isolated_pages_than_the_kernel_allows_mappings() {
    let (status, message) = status_of("every_other_page_of_a_large_region");
    assert!(status.success(), "{message}");
}

/// Alone in its process, because children of other sessions share its memory too.
#[test]
#[ignore = "counts the memory of its process; run by others in a process of its own"]
fn costs_of_snapshots() -> Result<(), Error> {
    const PAGES: usize = 4096;
    let mut session = Options::new().engine(EngineKind::Fork).history(4).open()?;
    let region = session.region::<u8>("region", PAGES * 4096)?;
    session.slice_mut(&region).fill(1);
    let mut ids = Vec::new();
    for epoch in 2..=4 {
        ids.push(session.checkpoint()?);
        for page in (0..PAGES).step_by(4) {
            session.slice_mut(&region)[page * 4096] = epoch;
        }
    }
    let figures = session.figures()?;
    // Three epochs of 1024 pages, and what else the test process writes.
    let written = 3 * (PAGES as u64 / 4) * 4096;
    assert!(figures.history_bytes > written / 2 && figures.history_bytes < 3 * written, "{figures:?}");
    assert!(figures.table_bytes > 0, "{figures:?}");
    assert_eq!(session.checkpoint_figures(ids[1])?.pages_changed, PAGES as u64 / 4);
    Ok(())
}

#[test]
fn snapshots_of_a_fork_cost_what_was_written() {
    let (status, message) = status_of("costs_of_snapshots");
    assert!(status.success(), "{message}");
}
