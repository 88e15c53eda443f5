//! A program that prints lines which depend on all that it has done, then waits for the end of its input: so it doesn't end
//! before it's told to, however often it's rolled back.

use std::io::{Read, Write};
use std::time::Duration;

use cairn_tests::random::Random;

/// Words that change now and then.
const WORDS: usize = 1 << 16;
/// Words that change in a round.
const CHANGES: usize = 500;

fn main() -> std::io::Result<()> {
    let rounds: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(100);
    let mut random = Random(11);
    let mut words = vec![0u64; WORDS];
    let mut out = std::io::stdout();
    for round in 0..rounds {
        for _ in 0..CHANGES {
            let at = usize::try_from(random.below(WORDS as u64)).unwrap_or_default();
            words[at] = words[at].wrapping_mul(31).wrapping_add(random.bits());
        }
        let sum = words.iter().fold(round, |sum, word| sum.rotate_left(5) ^ word);
        writeln!(out, "{round} {sum:x}")?;
        out.flush()?;
        std::thread::sleep(Duration::from_millis(3));
    }
    let read = std::io::stdin().read_to_end(&mut Vec::new())?;
    writeln!(out, "read {read}")
}
