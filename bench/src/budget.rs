//! How much time and memory a run may take.

use std::fs;
use std::time::{Duration, Instant};

use crate::contender::Contender;

use crate::cell::Cell;

/// Batches that each engine gets in a cell, in turns with the others.
pub const ROUNDS: u32 = 8;
/// Cycles that are timed in each batch, however long they take.
pub const MIN_BATCH: u32 = 2;
/// The time of a `--quick` run that is planned with; the rest of a minute is for what can't be planned.
pub const QUICK: Duration = Duration::from_secs(40);
/// Of the time of a cell, one part in so many is for cycles; the others are for start, warm-up, rollbacks, checks.
const CYCLES_SHARE: u32 = 3;
/// The least and the most time for the cycles of one engine in one cell of a run with a deadline.
const SLICE: (Duration, Duration) = (Duration::from_millis(40), Duration::from_secs(2));
/// Bytes that a worker takes beside its memory of regions.
const PROCESS_MIB: u64 = 64;
/// Of the memory that is available, so many percent may be used.
const MEMORY_PERCENT: u64 = 90;

/// How long cycles are timed.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// The same for every engine and cell.
    Fixed(Duration),
    /// What is left until then, spread over what is left to do.
    Until(Instant),
}

impl Pace {
    /// Time for the cycles of one of `engines` in one of `cells` that are left, this one included.
    #[must_use]
    pub fn slice(self, cells: usize, engines: usize) -> Duration {
        match self {
            Self::Fixed(time) => time,
            Self::Until(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let parts = u32::try_from(cells.saturating_mul(engines)).unwrap_or(u32::MAX);
                (left / parts.max(1) / CYCLES_SHARE).clamp(SLICE.0, SLICE.1)
            }
        }
    }
}

/// Cycles for a batch of `time`, if one takes `cycle_ns`.
#[must_use]
pub fn batch(time: Duration, cycle_ns: u64, dirty: u32) -> u32 {
    let fitting = time.as_nanos() / u128::from(cycle_ns.max(1));
    let most = crate::protocol::MAX_BATCH.min(crate::protocol::MAX_PLANNED_PAGES / dirty.max(1)).max(1);
    u32::try_from(fitting).unwrap_or(u32::MAX).max(MIN_BATCH).min(most)
}

/// MiB that a worker and its engine take at most, with a region of `region_mib` of which one epoch writes
/// `dirty_mib`: the region, its mirror or copies, the history, and at the end the model.
#[must_use]
pub fn needed_mib(engine: Contender, region_mib: u32, dirty_mib: u32) -> u64 {
    let (region, dirty) = (u64::from(region_mib), u64::from(dirty_mib));
    let kept = match engine {
        // Two retained copies, and the one that is being made.
        Contender::FullCopy => 3 * region,
        // Two children that share all but what was written since.
        Contender::Fork => 2 * dirty,
        Contender::Cairn
        | Contender::CairnHinted
        | Contender::CairnAsync
        | Contender::Mprotect
        | Contender::UffdWp
        | Contender::UserCompare => region + 2 * dirty,
    };
    region + kept + PROCESS_MIB
}

/// MiB that a run may use: the most of what is available now, or no limit where the system doesn't say.
#[must_use]
pub fn usable_mib() -> u64 {
    available_mib().map_or(u64::MAX, |mib| mib / 100 * MEMORY_PERCENT)
}

/// A cell that no engine has memory for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{cell} does not fit into memory: the engine that is content with least needs {needed_mib} MiB for it, and \
     {usable_mib} MiB can be used; leave it out by smaller regions (--region-mib) or other patterns (--patterns)"
)]
pub struct NoRoom {
    /// Which.
    pub cell: Cell,
    /// MiB that the engine with the smallest need needs, with the model that its memory is compared with.
    pub needed_mib: u64,
    /// MiB that there are.
    pub usable_mib: u64,
}

/// Says which engines will be left out of how many cells for want of memory, with the MiB that they would need at most.
///
/// # Errors
/// [`NoRoom`]: a cell has no engine left.
pub fn too_large(
    cells: &[Cell],
    engines: &[Contender],
    usable_mib: u64,
) -> Result<Vec<(Contender, usize, u64)>, NoRoom> {
    let alone = |engine, cell: Cell| {
        let dirty_mib = cell.dirty_pages.div_ceil(crate::PAGES_PER_MIB);
        needed_mib(engine, cell.region_mib, dirty_mib).saturating_add(u64::from(cell.region_mib))
    };
    for &cell in cells {
        let least = engines.iter().map(|engine| alone(*engine, cell)).min();
        if let Some(needed_mib) = least.filter(|needed| *needed > usable_mib) {
            return Err(NoRoom { cell, needed_mib, usable_mib });
        }
    }
    let left_out = engines.iter().map(|&engine| {
        let needs = cells.iter().map(|cell| alone(engine, *cell)).filter(|needed| *needed > usable_mib);
        (engine, needs.clone().count(), needs.max().unwrap_or(0))
    });
    Ok(left_out.filter(|(_, cells, _)| *cells > 0).collect())
}

/// Splits engines into groups that fit into `available_mib` together with one model, in their order. An engine that
/// does not even fit alone is left out, with the MiB that it needs.
#[must_use]
pub fn groups(
    needs: &[(Contender, u64)],
    model_mib: u64,
    available_mib: u64,
) -> (Vec<Vec<Contender>>, Vec<(Contender, u64)>) {
    let (mut groups, mut too_large): (Vec<Vec<Contender>>, _) = (Vec::new(), Vec::new());
    let mut used = u64::MAX;
    for &(engine, need) in needs {
        let alone = need.saturating_add(model_mib);
        if alone > available_mib {
            too_large.push((engine, alone));
            continue;
        }
        match groups.last_mut() {
            Some(group) if used.saturating_add(need) <= available_mib => {
                group.push(engine);
                used += need;
            }
            _ => {
                groups.push(vec![engine]);
                used = alone;
            }
        }
    }
    (groups, too_large)
}

/// MiB that can be had without pushing others out: MemAvailable of proc_meminfo(5). None if the system doesn't say.
#[must_use]
pub fn available_mib() -> Option<u64> {
    meminfo_mib(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")
}

/// A field of /proc/meminfo, whose unit is KiB, in MiB.
pub(crate) fn meminfo_mib(meminfo: &str, field: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Contender::{Cairn, Fork, FullCopy};

    #[test]
    fn engines_that_fit_share_a_group_and_others_get_their_own() {
        let needs = [(Cairn, 4), (FullCopy, 5), (Fork, 3)];
        assert_eq!(groups(&needs, 1, 13), (vec![vec![Cairn, FullCopy, Fork]], vec![]));
        assert_eq!(groups(&needs, 1, 12), (vec![vec![Cairn, FullCopy], vec![Fork]], vec![]));
        assert_eq!(groups(&needs, 1, 5), (vec![vec![Cairn], vec![Fork]], vec![(FullCopy, 6)]));
        assert_eq!(groups(&needs, 1, 3).1.len(), 3);
    }

    #[test]
    fn a_batch_has_as_many_cycles_as_fit_within_its_limits() {
        let second = Duration::from_secs(1);
        assert_eq!(batch(second, 1_000_000, 163), 1000);
        assert_eq!(batch(second, 10_000_000_000, 163), MIN_BATCH);
        assert_eq!(batch(second, 0, 0), crate::protocol::MAX_BATCH);
        assert_eq!(batch(second, 1, 1 << 20), 4);
        assert_eq!(batch(second, 1, u32::MAX), 1);
    }

    #[test]
    fn the_time_that_is_left_is_spread_within_limits() {
        assert_eq!(Pace::Fixed(Duration::from_secs(3)).slice(5, 6), Duration::from_secs(3));
        assert_eq!(Pace::Until(Instant::now()).slice(1, 1), SLICE.0);
        let far = Instant::now() + Duration::from_secs(3600);
        assert_eq!(Pace::Until(far).slice(1, 1), SLICE.1);
        assert_eq!(Pace::Until(far).slice(0, 0), SLICE.1);
    }

    #[test]
    fn what_does_not_fit_is_known_before() {
        use crate::pattern::Pattern;
        let cells = [64, 1024].map(|mib| Cell::new(Pattern::Hot, mib, 10).unwrap());
        let engines = [Contender::Fork, Contender::FullCopy];
        assert_eq!(too_large(&cells, &engines, u64::MAX), Ok(vec![]));
        // Four regions and the model of a full copy don't fit, a fork's do.
        assert_eq!(too_large(&cells, &engines, 3000), Ok(vec![(Contender::FullCopy, 1, 5 * 1024 + 64)]));
        let refused = too_large(&cells, &engines, 2000).unwrap_err();
        assert_eq!((refused.cell, refused.needed_mib), (cells[1], 2 * 1024 + 2 * 11 + 64));
        assert!(refused.to_string().starts_with("hot 2621 pages of 1024 MiB does not fit"), "{refused}");
        assert!(too_large(&cells, &engines[1..], 3000).is_err());
    }

    #[test]
    fn fields_of_meminfo() {
        let text = "MemTotal:       24104852 kB\nMemAvailable:   20971520 kB\nHugePages_Total:       0\n";
        assert_eq!(meminfo_mib(text, "MemAvailable"), Some(20 << 10));
        assert_eq!(meminfo_mib(text, "Mem"), None);
        assert_eq!(meminfo_mib(text, "HugePages_Total"), None);
        assert!(available_mib().is_some());
    }
}
