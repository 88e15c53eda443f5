//! Rings in ordinary memory, filled with nonsense that is close to sense.

use cairn_abi::REQUEST_SIZE;

use crate::random::Random;
use crate::registers::Registers;

/// Descriptors of the ring.
const SIZE: u16 = 16;
// Where the parts are, in words.
const AVAILABLE: usize = 0x1000 / 8;
const BUFFERS: usize = 0x4000 / 8;
const WORDS: usize = 4096;

/// The rings.
#[derive(Debug)]
pub struct Nonsense {
    memory: Vec<u64>,
}

impl Nonsense {
    /// With buffers of random bytes.
    #[must_use]
    pub fn new(random: &mut Random) -> Self {
        let mut memory = vec![0; WORDS];
        for word in memory.iter_mut().skip(BUFFERS) {
            *word = random.bits();
        }
        Self { memory }
    }

    /// Brings the device up with these rings, or with some that are at one of `places` instead, offers chains
    /// of which some are there too, and rings the doorbell now and then.
    #[expect(clippy::cast_possible_truncation, reason = "all are below the ring's or the memory's size")]
    pub fn offer(&mut self, registers: &Registers, random: &mut Random, places: &[u64]) {
        let base = self.memory.as_ptr() as u64;
        let wild = |random: &mut Random, honest: u64| match random.below(6) {
            0 => random.bits(),
            1 => random.of(places),
            2 => random.of(places) + random.below(0x1000),
            3 => u64::MAX - random.below(64),
            _ => honest,
        };
        let addresses = [wild(random, base), wild(random, base + 0x1000), wild(random, base + 0x2000)];
        registers.bring_up(SIZE, addresses);
        for index in 0..usize::from(SIZE) {
            let request = base + 0x4000 + random.below(0x3000);
            self.memory[index * 2] = wild(random, request);
            let len = if random.below(3) == 0 {
                random.bits() & 0xffff_ffff
            } else {
                REQUEST_SIZE as u64 * (1 + random.below(4))
            };
            let (flags, next) = (random.below(8), random.below(20));
            self.memory[index * 2 + 1] = len | flags << 32 | next << 48;
        }
        self.memory[AVAILABLE] =
            (1 + random.below(40)) << 16 | random.below(20) << 32 | random.below(20) << 48;
        self.memory[AVAILABLE + 1] = random.bits() & 0x001f_001f_001f_001f;
        // A request that decodes, now and then: kind in the first bytes.
        self.memory[BUFFERS + random.below(64) as usize] = random.below(9);
        std::hint::black_box(&mut self.memory);
        for _ in 0..random.below(3) {
            registers.notify();
        }
    }
}
