//! What verifying a large store takes: `verify_cost make DIR [MIB]` makes a store of one complete checkpoint, and
//! `verify_cost verify DIR` reads it and tells the time, the most memory that this took, and how often it told how far
//! it is.

use std::path::Path;
use std::time::Instant;

use cairn_abi::CheckpointId;
use cairn_store::{Batch, Level, Object, ObjectName, Options, PAGE_SIZE, Writer, verify};

/// Pages of one batch: 64 MiB, which bounds the memory that making the store takes.
const BATCH_PAGES: u64 = 16_384;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["make", directory] => make(Path::new(directory), 4096),
        ["make", directory, mib] => make(Path::new(directory), mib.parse()?),
        ["verify", directory] => read(Path::new(directory)),
        _ => Err("usage: verify_cost make DIR [MIB], or verify_cost verify DIR".into()),
    }
}

/// Writes pages that don't compress, some with each checkpoint, and merges all into one.
fn make(directory: &Path, mib: u64) -> Result<(), Failure> {
    let pages = (mib << 20) / PAGE_SIZE as u64;
    let mut writer = Writer::open(directory, Options::default())?;
    let mut batch = Batch::new(CheckpointId(1), None);
    let mut bits = 1_u64;
    for (id, first) in (1..).zip((0..pages).step_by(usize::try_from(BATCH_PAGES)?)) {
        batch.reset(CheckpointId(id), writer.newest());
        let object = Object { name: ObjectName::new("memory")?, tag: 0, address: 0, pages };
        let object = batch.object(object)?;
        for page in first..pages.min(first + BATCH_PAGES) {
            let mut bytes = [0; PAGE_SIZE];
            for word in bytes.chunks_exact_mut(8) {
                // Marsaglia's xorshift64.
                bits ^= bits << 13;
                bits ^= bits >> 7;
                bits ^= bits << 17;
                word.copy_from_slice(&bits.to_le_bytes());
            }
            batch.page(object, page, &bytes)?;
        }
        writer.commit(&batch, Level::Written)?;
    }
    Ok(writer.compact(&mut |_| true)?)
}

fn read(directory: &Path) -> Result<(), Failure> {
    let (begun, mut told) = (Instant::now(), 0_u64);
    let found = verify(directory, &mut |_, _| told += 1)?;
    let took = begun.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    println!("{} of {} checkpoints whole, {} MiB", found.whole, found.kept, found.bytes >> 20);
    println!("{took:.2} s, at most {} of memory, progress told {told} times", most.trim());
    if found.damage.is_empty() { Ok(()) } else { Err("the store is damaged".into()) }
}
