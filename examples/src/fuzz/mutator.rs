//! Inputs, made by changing earlier ones that the parser judged in a new way.

use crate::fuzz::{Verdict, first_input};

/// Bytes that an input may have.
const MAX_INPUT: usize = 2048;
/// Changes that make an input of another, at most.
const MAX_CHANGES: u64 = 4;
/// What settings are made of.
const TOKENS: [&[u8]; 8] = [b"[", b"[", b"]", b",", b"=", b"+=", b"_", b"18446744073709551616"];

/// Makes inputs. Two that were made with the same seed and learn the same verdicts make the same inputs.
#[derive(Debug)]
pub struct Mutator {
    /// One input for each kind of verdict, the first one first.
    kept: Vec<Vec<u8>>,
    /// Which verdicts' codes have one.
    seen: [bool; 256],
    input: Vec<u8>,
    random: Random,
}

impl Mutator {
    /// One that begins with [`first_input`].
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { kept: vec![first_input()], seen: [false; 256], input: Vec::new(), random: Random(seed) }
    }

    /// The next input. Its lines are as many as those of the first.
    pub fn next_input(&mut self) -> &[u8] {
        let newest = self.kept.len() - 1;
        // What was judged in a new way last is the most promising.
        let chosen = if self.random.below(2) == 0 { newest } else { self.random.index(self.kept.len()) };
        self.input.clone_from(&self.kept[chosen]);
        for _ in 0..=self.random.below(MAX_CHANGES) {
            self.change();
        }
        &self.input
    }

    /// The input that was made last.
    #[must_use]
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// Keeps the last input if there was none with this verdict.
    pub fn learn(&mut self, verdict: Verdict) {
        let seen = &mut self.seen[usize::from(verdict.code())];
        if !*seen && verdict != Verdict::Crash {
            self.kept.push(self.input.clone());
        }
        *seen = true;
    }

    /// Makes one change within a line.
    fn change(&mut self) {
        let at = self.random.index(self.input.len());
        let byte = self.input[at];
        if byte == b'\n' {
            return;
        }
        match self.random.below(5) {
            0 => {
                let bit = self.random.below(7);
                self.replace(at, byte ^ 1 << bit);
            }
            1 => {
                let printable = b' '..=b'~';
                let letter = printable.clone().nth(self.random.index(printable.count()));
                self.replace(at, letter.unwrap_or(byte));
            }
            2 => {
                let token = TOKENS[self.random.index(TOKENS.len())];
                self.insert(at, token);
            }
            3 => {
                self.input.remove(at);
            }
            _ => {
                let len = 1 + self.random.index(4);
                let piece = self.input[at..].iter().take(len).take_while(|byte| **byte != b'\n');
                let piece: Vec<u8> = piece.copied().collect();
                self.insert(at, &piece);
            }
        }
    }

    fn replace(&mut self, at: usize, byte: u8) {
        if byte != b'\n' {
            self.input[at] = byte;
        }
    }

    fn insert(&mut self, at: usize, bytes: &[u8]) {
        if self.input.len() + bytes.len() <= MAX_INPUT {
            self.input.splice(at..at, bytes.iter().copied());
        }
    }
}

/// A sequence of numbers (`splitmix64`), the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let a = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let b = (a ^ a >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (b ^ b >> 31) % bound
    }

    /// A place in something of `len` elements, which is not 0.
    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(seed: u64, count: usize) -> Vec<Vec<u8>> {
        let mut mutator = Mutator::new(seed);
        let mut inputs = Vec::new();
        for number in 0..count {
            inputs.push(mutator.next_input().to_vec());
            // A new verdict now and then, so that there are inputs to choose from.
            mutator.learn(Verdict::of_code(u8::try_from(number / 50 % 128).unwrap()));
        }
        inputs
    }

    #[test]
    fn a_seed_decides_all_inputs() {
        assert_eq!(inputs(1, 500), inputs(1, 500));
        assert_ne!(inputs(1, 5), inputs(2, 5));
    }

    #[test]
    fn inputs_keep_their_lines_and_stay_small() {
        let lines = |input: &[u8]| input.iter().filter(|byte| **byte == b'\n').count();
        for input in inputs(7, 5000) {
            assert_eq!(lines(&input), lines(&first_input()));
            assert!(input.len() <= MAX_INPUT);
        }
    }
}
