//! Pages by Zipf's law: the second is written half as often as the first, the third a third as often.

use crate::random::XorShift;

/// The first page's weight: large enough for the last of any region's to have one.
const FIRST_WEIGHT: u64 = 1 << 40;
/// Draws of a page that is in the set already, after which the next one is taken that isn't: bounds a draw where nearly
/// all pages are in the set.
const MAX_DRAWS: u32 = 64;

/// Draws sets of pages.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    /// The page of each rank, so that those that come often aren't neighbours.
    pages: Vec<u32>,
    /// The sum of the weights up to each rank, that one included.
    sums: Vec<u64>,
    /// The last set that each rank was in, from 1.
    drawn: Vec<u32>,
    set: u32,
    random: XorShift,
}

impl Zipf {
    /// Draws from `pages` pages, of which there is at least one.
    pub(crate) fn new(pages: u32, seed: u64) -> Self {
        let mut random = XorShift::new(seed);
        let mut order: Vec<u32> = (0..pages).collect();
        for index in 0..pages {
            let other = index + random.below(pages - index);
            order.swap(index as usize, other as usize);
        }
        let mut sum = 0;
        let sums = (1..=u64::from(pages)).map(|rank| {
            sum += FIRST_WEIGHT / rank;
            sum
        });
        let sums = sums.collect();
        Self { drawn: vec![0; order.len()], pages: order, sums, set: 0, random }
    }

    /// Appends a set of `count` pages, at most as many as there are, without repetition.
    pub(crate) fn append_set(&mut self, count: u32, to: &mut Vec<u32>) {
        if self.set == u32::MAX {
            self.drawn.fill(0);
            self.set = 0;
        }
        self.set += 1;
        for _ in 0..count {
            let rank = self.draw();
            self.drawn[rank] = self.set;
            to.push(self.pages[rank]);
        }
    }

    /// A rank that isn't in the set yet.
    fn draw(&mut self) -> usize {
        let total = self.sums.last().copied().unwrap_or(1);
        let mut rank = 0;
        for _ in 0..MAX_DRAWS {
            let point = self.random.below_wide(total);
            rank = self.sums.partition_point(|sum| *sum <= point);
            if self.drawn[rank] != self.set {
                return rank;
            }
        }
        while self.drawn[rank] == self.set {
            rank = (rank + 1) % self.drawn.len();
        }
        rank
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_as_often_as_the_law_says() {
        const SETS: usize = 40_000;
        let mut zipf = Zipf::new(100, 7);
        let mut times = [0_u32; 100];
        let mut set = Vec::new();
        for _ in 0..SETS {
            set.clear();
            zipf.append_set(1, &mut set);
            let rank = zipf.pages.iter().position(|page| *page == set[0]).unwrap();
            times[rank] += 1;
        }
        // The harmonic number of 100 is 5.187: the first comes in 19.3 % of all sets. Four standard deviations are 0.8 %.
        for (rank, percent) in [(0, 19.28), (1, 9.64), (3, 4.82), (9, 1.93)] {
            let got = f64::from(times[rank]) * 100.0 / 40_000.0;
            assert!((got - percent).abs() < 0.8, "rank {rank}: {got} %, not {percent} %");
        }
    }

    #[test]
    fn a_set_of_all_pages_is_drawn_in_bounded_time() {
        let mut set = Vec::new();
        Zipf::new(5000, 1).append_set(5000, &mut set);
        set.sort_unstable();
        assert_eq!(set, (0..5000).collect::<Vec<_>>());
    }
}
