//! What a run measures: cells of pattern, region size and dirty pages.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::PAGES_PER_MIB;
use crate::epochs::Epochs;
use crate::pattern::{Dirty, Pattern};

/// The largest region in MiB. A VM's address space has room for it, its model and the program.
pub const MAX_REGION_MIB: u32 = 16 << 10;
/// The seed of every cell's random sets, so that all engines and all runs write the same pages.
const SEED: u64 = 0x00c0_ffee;
/// Dirty pages per thousand, for the patterns that have a choice.
const DIRTY_PER_MILLE: [u32; 3] = [1, 10, 100];

/// One thing to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Claim")]
pub struct Cell {
    /// Which pages are written.
    pub pattern: Pattern,
    /// MiB of the region, 1 to [`MAX_REGION_MIB`].
    pub region_mib: u32,
    /// Pages that each epoch writes.
    pub dirty_pages: u32,
}

/// Why numbers are no cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotACell {
    /// The region has no bytes or more than [`MAX_REGION_MIB`]; holds its MiB.
    #[error("a region of {0} MiB was asked for: it may have 1 to {MAX_REGION_MIB} MiB")]
    Region(u32),
    /// So many of so many pages can't be dirty.
    #[error("{dirty} dirty pages of {pages} do not fit the pattern")]
    Dirty {
        /// Pages that would be written.
        dirty: u32,
        /// Pages that there are.
        pages: u32,
    },
}

impl Cell {
    /// The cell of so many dirty pages per thousand; `dense`, `idle` and `reset` have their own number.
    ///
    /// # Errors
    /// [`NotACell`]
    pub fn new(pattern: Pattern, region_mib: u32, per_mille: u32) -> Result<Self, NotACell> {
        let pages = region_mib.saturating_mul(PAGES_PER_MIB);
        let dirty_pages = match pattern.dirty() {
            Dirty::All => pages,
            Dirty::Fixed(dirty) => dirty,
            Dirty::Any => u32::try_from(u64::from(pages) * u64::from(per_mille) / 1000).unwrap_or(u32::MAX),
        };
        Self::try_from(Claim { pattern, region_mib, dirty_pages })
    }

    /// Pages of the region.
    #[must_use]
    pub fn pages(self) -> u32 {
        self.region_mib * PAGES_PER_MIB
    }

    /// The page sets of this cell's epochs, the same for every engine.
    #[must_use]
    pub fn epochs(self) -> Epochs {
        Epochs::new(self.pattern, self.pages(), self.dirty_pages, SEED)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} pages of {} MiB", self.pattern, self.dirty_pages, self.region_mib)
    }
}

/// The cells of a short run: those that show where engines differ most. The one whose least number of cycles takes
/// longest comes first, so that the time of the others adapts to what it took.
#[must_use]
pub fn quick() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (pattern, per_mille) in [
        (Pattern::Dense, 0),
        (Pattern::Idle, 0),
        (Pattern::Hot, 1),
        (Pattern::Hot, 10),
        (Pattern::Hot, 100),
        (Pattern::Runs, 100),
        (Pattern::Random, 10),
        (Pattern::Sweep, 10),
        (Pattern::Reset, 0),
    ] {
        cells.extend(Cell::new(pattern, 64, per_mille));
    }
    cells
}

/// The cells of a full run over these patterns and regions.
///
/// # Errors
/// [`NotACell`], if a region's size is none.
pub fn all(patterns: &[Pattern], regions_mib: &[u32]) -> Result<Vec<Cell>, NotACell> {
    let mut cells = Vec::new();
    for &region_mib in regions_mib {
        for &pattern in patterns {
            let shares: &[u32] = match pattern.dirty() {
                Dirty::All | Dirty::Fixed(_) => &[0],
                Dirty::Any => &DIRTY_PER_MILLE,
            };
            for &per_mille in shares {
                let cell = Cell::new(pattern, region_mib, per_mille)?;
                // In a small region the smaller shares round to nothing, which is what `idle` is for.
                if cell.dirty_pages > 0 || pattern == Pattern::Idle {
                    cells.push(cell);
                }
            }
        }
    }
    Ok(cells)
}

/// A cell as it comes over the wire, before it is checked.
#[derive(Deserialize)]
struct Claim {
    pattern: Pattern,
    region_mib: u32,
    dirty_pages: u32,
}

impl TryFrom<Claim> for Cell {
    type Error = NotACell;

    fn try_from(claim: Claim) -> Result<Self, NotACell> {
        let Claim { pattern, region_mib, dirty_pages } = claim;
        if !(1..=MAX_REGION_MIB).contains(&region_mib) {
            return Err(NotACell::Region(region_mib));
        }
        let pages = region_mib * PAGES_PER_MIB;
        let fits = match pattern.dirty() {
            Dirty::All => dirty_pages == pages,
            Dirty::Fixed(dirty) => dirty_pages == dirty,
            Dirty::Any => dirty_pages <= pages,
        };
        if !fits {
            return Err(NotACell::Dirty { dirty: dirty_pages, pages });
        }
        Ok(Self { pattern, region_mib, dirty_pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_64_mib_and_1_gib() {
        let dirty = |mib, per_mille| Cell::new(Pattern::Hot, mib, per_mille).unwrap().dirty_pages;
        assert_eq!([dirty(64, 1), dirty(64, 10), dirty(64, 100)], [16, 163, 1638]);
        assert_eq!([dirty(1024, 1), dirty(1024, 10), dirty(1024, 100)], [262, 2621, 26_214]);
    }

    #[test]
    fn a_quick_run_has_what_figures_are_asked_for() {
        use Pattern::{Dense, Hot, Idle, Random, Reset, Runs, Sweep};
        let patterns: Vec<_> = quick().into_iter().map(|cell| cell.pattern).collect();
        assert_eq!(patterns, [Dense, Idle, Hot, Hot, Hot, Runs, Random, Sweep, Reset]);
    }

    #[test]
    fn a_full_run_has_all_combinations_once() {
        let cells = all(&Pattern::ALL, &[64, 1024]).unwrap();
        assert_eq!(cells.len(), 2 * (7 * 3 + 3));
        assert!(cells.iter().enumerate().all(|(at, cell)| !cells[..at].contains(cell)));
    }

    #[test]
    fn sizes_are_checked_at_their_limits() {
        assert!(Cell::new(Pattern::Hot, MAX_REGION_MIB, 1000).is_ok());
        assert_eq!(Cell::new(Pattern::Hot, MAX_REGION_MIB + 1, 10), Err(NotACell::Region(16_385)));
        assert_eq!(Cell::new(Pattern::Hot, 0, 10), Err(NotACell::Region(0)));
        assert_eq!(
            Cell::new(Pattern::Hot, 1, 1001),
            Ok(Cell { pattern: Pattern::Hot, region_mib: 1, dirty_pages: 256 })
        );
        assert!(matches!(Cell::new(Pattern::Hot, 1, 2000), Err(NotACell::Dirty { dirty: 512, pages: 256 })));
    }

    #[test]
    fn a_cell_from_the_wire_is_checked() {
        let parse = |text: &str| serde_json::from_str::<Cell>(text);
        let cell = Cell::new(Pattern::Sweep, 64, 10).unwrap();
        assert_eq!(parse(&serde_json::to_string(&cell).unwrap()).unwrap(), cell);
        for bad in [
            r#"{"pattern":"hot","region_mib":64,"dirty_pages":16385}"#,
            r#"{"pattern":"dense","region_mib":64,"dirty_pages":1}"#,
            r#"{"pattern":"idle","region_mib":64,"dirty_pages":1}"#,
            r#"{"pattern":"reset","region_mib":64,"dirty_pages":41}"#,
            r#"{"pattern":"warm","region_mib":64,"dirty_pages":1}"#,
            r#"{"pattern":"hot","region_mib":4294967295,"dirty_pages":1}"#,
            r#"{"pattern":"hot","region_mib":64}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
