//! Steps from a seed, for histories that are too long to shrink.

use std::collections::BTreeMap;

use super::model::{Change, Model, Step, page};

/// Numbers that scatter, the same in each run (xorshift64*).
#[derive(Debug)]
pub(crate) struct Scatter(pub(crate) u64);

impl Scatter {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}

/// A step to checkpoint `id` on the newest of the model: some pages of two objects.
pub(crate) fn scattered(scatter: &mut Scatter, model: &Model, id: u64) -> Step {
    let parent = model.checkpoints.keys().next_back().copied();
    let mut objects = Vec::new();
    for name in ["memory", "file"] {
        if name == "file" && scatter.below(8) == 0 {
            continue;
        }
        let pages = 24 + scatter.below(4);
        let mut changes = BTreeMap::new();
        for _ in 0..scatter.below(12) {
            let change = match scatter.below(6) {
                0 => Change::Zero,
                1 | 2 if parent.is_some() => Change::Chunks(scatter.next() | 1, 5),
                3 => Change::Page(page(3, 0)),
                _ => Change::Page(page(4, scatter.next())),
            };
            changes.insert(scatter.below(pages), change);
        }
        objects.push((name.to_owned(), pages, changes));
    }
    Step { id, parent, objects, section: id.to_le_bytes().to_vec() }
}
