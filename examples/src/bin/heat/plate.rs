//! The plate: two grids in regions, of which each step reads one and writes the other.

use cairn_guest::{Error, Region, Session};

/// Temperature of the hot edge; all else begins at 0.
const HOT: f64 = 100.0;

/// Handles of the plate's regions.
#[derive(Debug)]
pub(crate) struct Plate {
    /// Cells along an edge.
    size: usize,
    /// The grid that even numbers of steps leave the result in.
    even: Region<f64>,
    /// The grid of odd numbers of steps.
    odd: Region<f64>,
    /// One element: steps done. In a region, so that a rollback takes it back together with the grids.
    done: Region<u64>,
}

impl Plate {
    /// A cold plate of `size` x `size` cells whose first row is hot.
    pub(crate) fn new(session: &mut Session, size: usize) -> Result<Self, Error> {
        let cells = size.saturating_mul(size);
        let plate = Self {
            size,
            even: session.region("even steps", cells)?,
            odd: session.region("odd steps", cells)?,
            done: session.region("steps done", 1)?,
        };
        let (even, odd) = session.slices_mut((&plate.even, &plate.odd));
        even[..size].fill(HOT);
        odd[..size].fill(HOT);
        Ok(plate)
    }

    pub(crate) fn steps_done(&self, session: &Session) -> u64 {
        session.slice(&self.done)[0]
    }

    /// Computes one step and returns the largest change of a cell.
    pub(crate) fn step(&self, session: &mut Session) -> f64 {
        let (even, odd, done) = session.slices_mut((&self.even, &self.odd, &self.done));
        let (from, to) = if done[0].is_multiple_of(2) { (even, odd) } else { (odd, even) };
        done[0] += 1;
        relax(from, to, self.size)
    }

    /// Whether every cell is a finite number.
    pub(crate) fn is_sound(&self, session: &Session) -> bool {
        self.cells(session).iter().all(|cell| cell.is_finite())
    }

    /// Puts a NaN into the middle, from where each step spreads it.
    pub(crate) fn spoil(&self, session: &mut Session) {
        let grid = if self.steps_done(session).is_multiple_of(2) { &self.even } else { &self.odd };
        session.slice_mut(grid)[self.size / 2 * self.size + self.size / 2] = f64::NAN;
    }

    /// A hash of all cells' bits.
    pub(crate) fn checksum(&self, session: &Session) -> usize {
        cairn_examples::hash(self.cells(session).iter().flat_map(|cell| cell.to_bits().to_le_bytes()))
    }

    /// The grid that the last step wrote.
    fn cells<'s>(&self, session: &'s Session) -> &'s [f64] {
        session.slice(if self.steps_done(session).is_multiple_of(2) { &self.even } else { &self.odd })
    }
}

/// Sets each inner cell of `to` to the mean of its four neighbours in `from`; returns the largest change.
fn relax(from: &[f64], to: &mut [f64], size: usize) -> f64 {
    let mut largest: f64 = 0.0;
    for row in 1..size - 1 {
        for at in row * size + 1..(row + 1) * size - 1 {
            let mean = 0.25 * (from[at - size] + from[at + size] + from[at - 1] + from[at + 1]);
            largest = largest.max((mean - from[at]).abs());
            to[at] = mean;
        }
    }
    largest
}

#[cfg(test)]
mod tests {
    use cairn_guest::EngineKind;

    use super::*;

    #[test]
    fn one_inner_cell_becomes_the_mean_of_its_neighbours() {
        let from = [100.0, 100.0, 100.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let mut to = from;
        assert_eq!(relax(&from, &mut to, 3).to_bits(), 25.0_f64.to_bits());
        assert_eq!(to[4].to_bits(), 25.0_f64.to_bits());
    }

    #[test]
    fn a_rollback_restores_grids_and_step() {
        let mut session = Session::open_with(EngineKind::FullCopy).unwrap();
        let plate = Plate::new(&mut session, 16).unwrap();
        plate.step(&mut session);
        let kept = (plate.steps_done(&session), plate.checksum(&session));
        let checkpoint = session.checkpoint().unwrap();
        plate.step(&mut session);
        plate.spoil(&mut session);
        assert!(!plate.is_sound(&session));
        session.rollback(checkpoint).unwrap();
        assert!(plate.is_sound(&session));
        assert_eq!((plate.steps_done(&session), plate.checksum(&session)), kept);
    }

    #[test]
    fn a_plate_that_is_too_big_is_an_error() {
        let mut session = Session::open_with(EngineKind::FullCopy).unwrap();
        assert!(Plate::new(&mut session, usize::MAX).is_err());
    }
}
