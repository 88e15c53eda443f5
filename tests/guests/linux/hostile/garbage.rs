//! Garbage into every register, and rings of nonsense.

use std::time::Instant;

use cairn_tests::nonsense::Nonsense;
use cairn_tests::random::Random;
use cairn_tests::registers::Registers;

use super::bystanders::Bystanders;
use super::places::Places;
use crate::scenario::Outcome;
use crate::support;

const ROUNDS: u64 = 60;
const WRITES: u64 = 40;

pub(crate) fn run() -> Outcome {
    support::needs_functions(2)?;
    let registers = Registers::claim()?;
    let bystanders = Bystanders::invite()?;
    let places = Places::new(&registers, &bystanders)?.addresses();
    let mut random = Random(41);
    let started = Instant::now();
    for _ in 0..ROUNDS {
        registers.scribble(&mut random, WRITES);
        Nonsense::new(&mut random).offer(&registers, &mut random, &places);
    }
    let each = started.elapsed().as_micros() / u128::from(ROUNDS);
    bystanders.check()?;
    Ok(format!("{ROUNDS} rounds of {each} us"))
}
