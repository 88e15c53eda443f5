//! What the last epochs did to pages, 64 pages at a time.

/// Epochs that are remembered.
pub(super) const EPOCHS: usize = 8;
/// Classes of pages that changed in one of the remembered epochs; see [`Classes`].
pub(super) const CLASSES: usize = 12;

/// In which of the last [`EPOCHS`] epochs each of 64 pages changed: a word for each epoch, in a ring. A cache line.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(align(64))]
pub(super) struct History([u64; EPOCHS]);

/// 64 pages by what they did: how long ago they last changed (1, 2, 3 to 4, 5 to 8 epochs) and in how many of the
/// remembered epochs (1, 2 to 3, 4 and more). A page that changed in none is in no class.
///
/// Pages of a class behave alike in most programs, whatever their number, so what a class did is a guess at what
/// each of its pages will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Classes {
    ages: [u64; 4],
    counts: [u64; 3],
}

impl History {
    /// Notes what changed in the epoch that is in slot `head`, over what was there [`EPOCHS`] ago.
    pub(super) fn note(&mut self, head: usize, changed: u64) {
        self.0[head % EPOCHS] = changed;
    }

    /// Whether no page changed in the remembered epochs.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|&epoch| epoch == 0)
    }

    /// The pages' classes after the epoch in slot `head`.
    pub(super) fn classes(&self, head: usize) -> Classes {
        let ago = |epochs: usize| self.0[(head + EPOCHS - epochs) % EPOCHS];
        let younger = [ago(0), ago(0) | ago(1), ago(0) | ago(1) | ago(2) | ago(3)];
        let any = self.0.iter().fold(0, |any, epoch| any | epoch);
        let ages = [younger[0], younger[1] & !younger[0], younger[2] & !younger[1], any & !younger[2]];
        // Counting in three bit planes; what overflows the second stays in the third.
        let (mut ones, mut twos, mut fours) = (0u64, 0u64, 0u64);
        for &epoch in &self.0 {
            let carry = ones & epoch;
            ones ^= epoch;
            fours |= twos & carry;
            twos ^= carry;
        }
        Classes { ages, counts: [ones & !twos & !fours, twos & !fours, fours] }
    }
}

impl Classes {
    /// The pages of each class.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let pairs = self.ages.iter().flat_map(|age| self.counts.iter().map(move |count| age & count));
        pairs.enumerate()
    }

    /// The pages whose class is one of `chosen`, a bit for each class; the lowest is that of class 0.
    pub(super) fn members(&self, chosen: u16) -> u64 {
        self.iter().filter(|(class, _)| chosen >> class & 1 == 1).fold(0, |all, (_, pages)| all | pages)
    }

    /// The pages that are in a class.
    pub(super) fn all(&self) -> u64 {
        self.ages.iter().fold(0, |all, age| all | age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The class of a page by its last epochs, the latest first.
    fn plain_class(epochs: [bool; EPOCHS]) -> Option<usize> {
        let age = match epochs.iter().position(|&changed| changed)? {
            0 => 0,
            1 => 1,
            2 | 3 => 2,
            _ => 3,
        };
        let count = match epochs.iter().filter(|&&changed| changed).count() {
            1 => 0,
            2 | 3 => 1,
            _ => 2,
        };
        Some(age * 3 + count)
    }

    #[test]
    fn every_history_is_in_the_class_of_a_plain_count() {
        for head in 0..EPOCHS {
            for bits in 0..=u8::MAX {
                let epochs: [bool; EPOCHS] = std::array::from_fn(|ago| bits >> ago & 1 == 1);
                let mut history = History::default();
                for (ago, &changed) in epochs.iter().enumerate() {
                    // The page is number 17; its neighbour 18 does the opposite.
                    let word = u64::from(changed) << 17 | u64::from(!changed) << 18;
                    history.note(head + EPOCHS - ago, word);
                }
                let classes = history.classes(head);
                let found: Vec<usize> = classes
                    .iter()
                    .filter(|(_, pages)| pages >> 17 & 1 == 1)
                    .map(|(class, _)| class)
                    .collect();
                assert_eq!(
                    found,
                    plain_class(epochs).into_iter().collect::<Vec<_>>(),
                    "{bits:08b} at {head}"
                );
                assert_eq!(classes.all() >> 17 & 1 == 1, plain_class(epochs).is_some());
                assert_eq!(classes.members(u16::MAX), classes.all());
                assert!(!history.is_empty());
            }
        }
        assert!(History::default().is_empty());
    }
}
