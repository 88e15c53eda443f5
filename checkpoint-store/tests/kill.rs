//! kill -9 at any moment: a child commits and compacts, is killed, and what it leaves is compared with what it was
//! about to write.
//!
//! `CAIRN_KILL_ROUNDS=5000 cargo test -p cairn-store --test kill` runs more rounds than the few that a normal run has.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cairn_abi::CheckpointId;
use cairn_store::{
    Batch, CHUNK_SIZE, Level, Object, ObjectName, Options, PAGE_SIZE, Snapshot, Store, Writer,
};

/// Where the child finds its store; set in the child alone.
const CHILD: &str = "CAIRN_KILL_CHILD";
/// Rounds, if another number is wanted.
const ROUNDS: &str = "CAIRN_KILL_ROUNDS";
/// Rounds of a normal run.
const FEW: u64 = 30;
/// Pages of the object.
const PAGES: u64 = 40;
/// Checkpoints that the store keeps.
const KEEP: u64 = 9;

type Pages = BTreeMap<u64, [u8; PAGE_SIZE]>;

/// Numbers that scatter, the same in each run (xorshift64*).
struct Scatter(u64);

impl Scatter {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}

enum Change {
    Page(Box<[u8; PAGE_SIZE]>),
    Chunks(u64, Vec<u8>),
    Zero,
}

/// What checkpoint `id` changes: the same whenever it's asked for.
fn changes(id: u64) -> BTreeMap<u64, Change> {
    let mut scatter = Scatter(id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut changes = BTreeMap::new();
    for _ in 0..=scatter.below(12) {
        let page = scatter.below(PAGES);
        let change = match scatter.below(4) {
            0 => Change::Zero,
            1 if !is_complete(id) => {
                let mask = scatter.next() | 1;
                let len = mask.count_ones() as usize * CHUNK_SIZE;
                Change::Chunks(mask, scatter.next().to_le_bytes().repeat(len / 8))
            }
            _ => {
                let word = scatter.next().to_le_bytes();
                let mut bytes = Box::new([0; PAGE_SIZE]);
                bytes.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&word));
                Change::Page(bytes)
            }
        };
        changes.insert(page, change);
    }
    changes
}

/// One in forty has no parent.
fn is_complete(id: u64) -> bool {
    id % 40 == 1
}

/// The pages of checkpoint `id`.
fn model(id: u64) -> Pages {
    let first = (1..=id).rev().find(|id| is_complete(*id)).unwrap_or(1);
    let mut pages = Pages::new();
    for (page, change) in (first..=id).flat_map(changes) {
        let bytes = pages.entry(page).or_insert([0; PAGE_SIZE]);
        match change {
            Change::Page(all) => *bytes = *all,
            Change::Zero => *bytes = [0; PAGE_SIZE],
            Change::Chunks(mask, new) => {
                let set = (0..64).filter(|chunk| mask & 1 << chunk != 0);
                for (chunk, new) in set.zip(new.chunks_exact(CHUNK_SIZE)) {
                    bytes[chunk * CHUNK_SIZE..][..CHUNK_SIZE].copy_from_slice(new);
                }
            }
        }
    }
    pages
}

fn options() -> Options {
    Options {
        keep: NonZeroUsize::new(usize::try_from(KEEP).unwrap()),
        base_every: NonZeroUsize::new(3).unwrap(),
        segment_bytes: NonZeroU64::new(150_000).unwrap(),
        ..Options::default()
    }
}

fn batch(id: u64) -> Batch {
    let mut batch = Batch::new(CheckpointId(id), (!is_complete(id)).then(|| CheckpointId(id - 1)));
    let name = ObjectName::new("memory").unwrap();
    let object = batch.object(Object { name, tag: 1, address: 0, pages: PAGES }).unwrap();
    for (page, change) in changes(id) {
        match change {
            Change::Page(bytes) => batch.page(object, page, &bytes).unwrap(),
            Change::Chunks(mask, bytes) => batch.chunks(object, page, mask, &bytes).unwrap(),
            Change::Zero => batch.zero(object, page..page + 1).unwrap(),
        }
    }
    batch.section("id", id.to_le_bytes().to_vec()).unwrap();
    batch
}

/// The child: commits until it's killed, and writes a line when a commit has returned. Without a parent that wants
/// it, it does nothing.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let mut writer = Writer::open(Path::new(&directory), options()).unwrap();
    let mut out = std::io::stdout().lock();
    loop {
        let id = writer.newest().map_or(1, |id| id.0 + 1);
        let level = if id.is_multiple_of(3) { Level::Synced } else { Level::Written };
        writer.commit(&batch(id), level).unwrap();
        if id.is_multiple_of(7) {
            writer.compact(&mut |_| true).unwrap();
        }
        writeln!(out, "\ncommitted {id}").unwrap();
        out.flush().unwrap();
    }
}

fn assert_is(snapshot: &Snapshot, id: u64) {
    let pages = model(id);
    let object = snapshot.find("memory").unwrap();
    let mut out = [1; PAGE_SIZE];
    for page in 0..PAGES {
        snapshot.read_page(object, page, &mut out).unwrap();
        let wanted = pages.get(&page).unwrap_or(&[0; PAGE_SIZE]);
        assert!(out == *wanted, "page {page} of checkpoint {id} differs");
    }
    assert_eq!(snapshot.section("id").unwrap().unwrap(), id.to_le_bytes());
}

/// Runs a child, kills it at a moment that `scatter` chooses, and answers the last commit that it told of.
fn killed(store: &Path, scatter: &mut Scatter) -> Option<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
        .env(CHILD, store)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut told = lines.by_ref().filter_map(|line| line.strip_prefix("committed ")?.parse().ok());
    // After some commits, and some turns of an empty loop later.
    let commits = usize::try_from(scatter.below(12)).unwrap();
    let mut last = told.by_ref().take(commits).last();
    for _ in 0..scatter.below(2_000_000) {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "the child ended by itself");
    // What it said before it died.
    last = told.last().or(last);
    last
}

#[test]
fn killed_at_any_moment_nothing_committed_is_lost() {
    let rounds = std::env::var(ROUNDS).map_or(FEW, |rounds| rounds.parse().unwrap());
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let store = directory.path().join("store");
    let mut scatter = Scatter(0x6b69_6c6c);
    let mut newest = 0;
    for round in 0..rounds {
        let told = killed(&store, &mut scatter).unwrap_or(newest);
        let found = match Store::open(&store) {
            Ok(store) => store,
            Err(error) => {
                let unmade = told == 0 && !store.join("MANIFEST").exists();
                assert!(unmade, "round {round}: {error}");
                continue;
            }
        };
        assert_eq!(found.damage(), None, "round {round}");
        let ids: Vec<u64> = found.checkpoints().iter().map(|info| info.id.0).collect();
        newest = ids.last().copied().unwrap_or(0);
        assert!(told <= newest && newest <= told + 1, "round {round}: told {told}, found {newest}");
        let oldest = newest.saturating_sub(KEEP - 1).max(1);
        assert!(ids.iter().copied().eq(oldest..=newest), "round {round}: {ids:?}");
        for id in ids {
            assert_is(&found.snapshot(CheckpointId(id)).unwrap(), id);
        }
    }
    println!("{rounds} rounds, {newest} checkpoints");
}
