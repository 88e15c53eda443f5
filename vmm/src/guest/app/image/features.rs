//! What a program may have seen of its CPU, and whether another one can do as much.

use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};

/// Most leaves that a checkpoint may name.
const MAX_LEAVES: usize = 16;

/// The CPUID leaves that tell of instructions: function and subleaf (Intel SDM volume 2, CPUID; AMD64 APM volume
/// 3, appendix E). Those that tell of the machine, such as addresses and caches, are left out.
const LEAVES: [(u32, u32); 6] = [(1, 0), (7, 0), (7, 1), (0xd, 1), (0x8000_0001, 0), (0x8000_0008, 0)];

/// The bits of EAX, EBX, ECX and EDX of each of [`LEAVES`] that stand for instructions of programs. The others are
/// the kernel's business, such as interrupts, debugging and mitigations.
const FEATURE_BITS: [[u32; 4]; 6] = [
    [
        0,
        0,
        !bits(&[2, 3, 4, 5, 6, 7, 8, 10, 11, 14, 15, 16, 17, 18, 21, 24, 27, 31]),
        bits(&[0, 4, 8, 15, 23, 24, 25, 26]),
    ],
    [
        0,
        !bits(&[1, 2, 6, 7, 10, 12, 13, 14, 15, 20, 22, 25]),
        !bits(&[2, 3, 4, 7, 13, 16, 17, 18, 19, 20, 21, 24, 26, 29, 30, 31]),
        bits(&[2, 3, 4, 8, 14, 23]),
    ],
    [bits(&[4, 5, 10, 11, 12, 22, 23]), 0, 0, bits(&[4, 5, 10])],
    [bits(&[0, 1, 2]), 0, 0, 0],
    [0, 0, bits(&[0, 5, 6, 7, 8, 11, 16, 21]), bits(&[11, 22, 27, 29, 30, 31])],
    [0, bits(&[0, 9]), 0, 0],
];

const fn bits(numbers: &[u32]) -> u32 {
    let (mut sum, mut at) = (0, 0);
    while at < numbers.len() {
        sum |= 1 << numbers[at];
        at += 1;
    }
    sum
}

/// Names of the bits that programs depend on most: leaf, subleaf, register, bit.
const NAMES: &[(u32, u32, usize, u32, &str)] = &[
    (1, 0, 2, 0, "SSE3"),
    (1, 0, 2, 1, "PCLMULQDQ"),
    (1, 0, 2, 9, "SSSE3"),
    (1, 0, 2, 12, "FMA"),
    (1, 0, 2, 13, "CMPXCHG16B"),
    (1, 0, 2, 19, "SSE4.1"),
    (1, 0, 2, 20, "SSE4.2"),
    (1, 0, 2, 22, "MOVBE"),
    (1, 0, 2, 23, "POPCNT"),
    (1, 0, 2, 25, "AES"),
    (1, 0, 2, 26, "XSAVE"),
    (1, 0, 2, 28, "AVX"),
    (1, 0, 2, 29, "F16C"),
    (1, 0, 2, 30, "RDRAND"),
    (1, 0, 3, 0, "x87"),
    (1, 0, 3, 4, "TSC"),
    (1, 0, 3, 8, "CMPXCHG8B"),
    (1, 0, 3, 15, "CMOV"),
    (1, 0, 3, 23, "MMX"),
    (1, 0, 3, 24, "FXSR"),
    (1, 0, 3, 25, "SSE"),
    (1, 0, 3, 26, "SSE2"),
    (7, 0, 1, 0, "FSGSBASE"),
    (7, 0, 1, 3, "BMI1"),
    (7, 0, 1, 5, "AVX2"),
    (7, 0, 1, 8, "BMI2"),
    (7, 0, 1, 9, "ERMS"),
    (7, 0, 1, 16, "AVX512F"),
    (7, 0, 1, 17, "AVX512DQ"),
    (7, 0, 1, 18, "RDSEED"),
    (7, 0, 1, 19, "ADX"),
    (7, 0, 1, 28, "AVX512CD"),
    (7, 0, 1, 29, "SHA"),
    (7, 0, 1, 30, "AVX512BW"),
    (7, 0, 1, 31, "AVX512VL"),
    (7, 0, 2, 8, "GFNI"),
    (7, 0, 2, 9, "VAES"),
    (7, 0, 2, 10, "VPCLMULQDQ"),
    (0xd, 1, 0, 0, "XSAVEOPT"),
    (0xd, 1, 0, 1, "XSAVEC"),
    (0x8000_0001, 0, 2, 5, "LZCNT"),
    (0x8000_0001, 0, 3, 11, "SYSCALL"),
    (0x8000_0001, 0, 3, 27, "RDTSCP"),
    (0x8000_0001, 0, 3, 29, "64-bit mode"),
];

/// The features of a CPU as a guest sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Features {
    /// Function, subleaf, and the feature bits in EAX, EBX, ECX and EDX.
    leaves: Vec<(u32, u32, [u32; 4])>,
}

/// Why a program can't go on with this CPU.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FeaturesError {
    /// Features that the program has found are not there.
    #[error("this CPU, as KVM shows it to guests, lacks what the program started with: {0}")]
    Missing(String),
    /// Not a list of features.
    #[error("the checkpoint's list of CPU features makes no sense")]
    Nonsense,
}

impl Features {
    /// Of a CPU with these leaves.
    #[must_use]
    pub fn of(entries: &[kvm_cpuid_entry2]) -> Self {
        let leaf = |((function, index), bits): (&(u32, u32), &[u32; 4])| {
            let entry = entries.iter().find(|entry| (entry.function, entry.index) == (*function, *index))?;
            let registers = [entry.eax, entry.ebx, entry.ecx, entry.edx];
            Some((*function, *index, std::array::from_fn(|at| registers[at] & bits[at])))
        };
        Self { leaves: LEAVES.iter().zip(&FEATURE_BITS).filter_map(leaf).collect() }
    }

    /// Checks that a CPU with `self` can go on with what ran with `before`.
    ///
    /// # Errors
    /// [`FeaturesError`], which names what is missing.
    pub fn check(&self, before: &Self) -> Result<(), FeaturesError> {
        if MAX_LEAVES < before.leaves.len() {
            return Err(FeaturesError::Nonsense);
        }
        let mut missing = Vec::new();
        for (function, index, wanted) in &before.leaves {
            let here = self.leaves.iter().find(|leaf| (leaf.0, leaf.1) == (*function, *index));
            let has = here.map_or([0; 4], |leaf| leaf.2);
            for register in 0..4 {
                let lacks = wanted[register] & !has[register];
                let bits = (0..32).filter(|bit| lacks & (1 << bit) != 0);
                missing.extend(bits.map(|bit| name(*function, *index, register, bit)));
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(FeaturesError::Missing(missing.join(", "))) }
    }
}

fn name(function: u32, index: u32, register: usize, bit: u32) -> String {
    let known =
        NAMES.iter().find(|known| (known.0, known.1, known.2, known.3) == (function, index, register, bit));
    match known {
        Some((.., name)) => (*name).to_owned(),
        None => {
            let register = ["EAX", "EBX", "ECX", "EDX"][register];
            format!("CPUID {function:#x}.{index} {register} bit {bit}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(ecx: u32, ebx: u32) -> Features {
        let leaf = |function, ebx, ecx| kvm_cpuid_entry2 { function, ebx, ecx, ..Default::default() };
        Features::of(&[leaf(1, u32::MAX, ecx), leaf(7, ebx, 0)])
    }

    #[test]
    fn what_is_missing_is_named_and_more_is_no_harm() {
        let (plain, rich) = (cpu(1, 0), cpu(1 | 1 << 28 | 1 << 31, 1 << 5 | 1 << 11));
        assert_eq!(rich.check(&plain), Ok(()));
        assert_eq!(rich.check(&rich), Ok(()));
        let missing = plain.check(&rich).unwrap_err();
        assert_eq!(missing, FeaturesError::Missing("AVX, AVX2, CPUID 0x7.0 EBX bit 11".to_owned()));
        let nonsense = Features { leaves: vec![(1, 0, [0; 4]); MAX_LEAVES + 1] };
        assert_eq!(rich.check(&nonsense), Err(FeaturesError::Nonsense));
    }
}
