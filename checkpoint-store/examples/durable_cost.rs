//! What a durable checkpoint costs beside writing everything: `durable_cost DIR [REGION_MIB] [ROUNDS]`.
//!
//! Each round changes 1 % of the region's pages, commits them to a store with [`Level::Synced`], and writes the whole
//! region to a file with fsync, on the same disk, one after the other. The pages are scattered, from a hot set of a
//! twentieth of the region. At the end the newest checkpoint is read back and compared with the region.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use cairn_abi::CheckpointId;
use cairn_store::{Batch, Level, Object, ObjectName, Options, PAGE_SIZE, Store, Writer};

/// Pages of the hot set: one in so many of the region's.
const HOT: u64 = 20;
/// Pages changed in a round: one in so many of the region's.
const CHANGED: u64 = 100;

type Failure = Box<dyn std::error::Error>;

/// Numbers that scatter, the same in each run (xorshift64*).
struct Scatter(u64);

impl Scatter {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: durable_cost DIR [REGION_MIB] [ROUNDS]")?;
    let mib: u64 = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let rounds: u64 = arguments.next().map_or(Ok(20), |text| text.parse())?;
    let directory = Path::new(&directory);
    let pages = (mib << 20) / PAGE_SIZE as u64;
    let mut scatter = Scatter(1);
    let mut region = filled(pages, &mut scatter);
    let hot: Vec<u64> = (0..pages / HOT).map(|_| scatter.next() % pages).collect();

    let mut writer = Writer::open(&directory.join("store"), Options::default())?;
    let object = Object { name: ObjectName::new("region")?, tag: 0, address: 0, pages };
    let first = writer.newest().map_or(1, |id| id.0 + 1);
    let mut batch = Batch::new(CheckpointId(first), None);
    let index = batch.object(object.clone())?;
    for page in 0..pages {
        batch.page(index, page, page_of(&region, page))?;
    }
    writer.commit(&batch, Level::Synced)?;

    let (mut commits, mut copies, mut bytes) = (Vec::new(), Vec::new(), 0);
    for round in 1..=rounds {
        batch.reset(CheckpointId(first + round), writer.newest());
        let index = batch.object(object.clone())?;
        let mut changed: Vec<u64> = (0..pages / CHANGED)
            .map(|_| hot[usize::try_from(scatter.next()).unwrap_or(0) % hot.len()])
            .collect();
        changed.sort_unstable();
        changed.dedup();
        for page in &changed {
            let start = usize::try_from(*page)? * PAGE_SIZE;
            for word in region[start..start + PAGE_SIZE].chunks_exact_mut(64) {
                word[..8].copy_from_slice(&scatter.next().to_le_bytes());
            }
        }

        let begun = Instant::now();
        for page in changed {
            batch.page(index, page, page_of(&region, page))?;
        }
        bytes += writer.commit(&batch, Level::Synced)?.bytes;
        commits.push(begun.elapsed());

        let begun = Instant::now();
        let mut file = File::create(directory.join("whole"))?;
        file.write_all(&region)?;
        file.sync_all()?;
        copies.push(begun.elapsed());
    }

    let newest = writer.newest().ok_or("nothing was committed")?;
    drop(writer);
    let snapshot = Store::open(&directory.join("store"))?.snapshot(newest)?;
    let index = snapshot.find("region").ok_or("the region is gone")?;
    let mut page = [0; PAGE_SIZE];
    for number in 0..pages {
        snapshot.read_page(index, number, &mut page)?;
        if page != *page_of(&region, number) {
            return Err(format!("page {number} of checkpoint {} differs", newest.0).into());
        }
    }
    let (commit, copy) = (median(&mut commits), median(&mut copies));
    println!("region {mib} MiB, {rounds} rounds, 1 % of the pages changed, medians:");
    println!("store commit, synced  {commit:>12.1?}  {} KiB", bytes / rounds / 1024);
    println!("whole file, fsync     {copy:>12.1?}  {} KiB", mib * 1024);
    println!("ratio                 {:>12.1}", copy.as_secs_f64() / commit.as_secs_f64());
    println!("the newest checkpoint was read back and is the region");
    Ok(())
}

/// Pages that zstd halves about, as those of programs do.
fn filled(pages: u64, scatter: &mut Scatter) -> Vec<u8> {
    let words = pages * (PAGE_SIZE / 8) as u64;
    (0..words)
        .flat_map(|word| if word % 2 == 0 { scatter.next() } else { word & 0xff }.to_le_bytes())
        .collect()
}

fn page_of(region: &[u8], page: u64) -> &[u8; PAGE_SIZE] {
    let start = usize::try_from(page).unwrap_or(usize::MAX) * PAGE_SIZE;
    region[start..].first_chunk().expect("the page is in the region")
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
