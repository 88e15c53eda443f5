//! The program's hint table: where it claims to have one, and what is in it.

use cairn_abi::hint::{HINT_SIZE, HINT_TABLE_SIZE, decode_header};
use cairn_abi::{Hint, Span};
use vm_memory::{Bytes, GuestAddress, GuestMemory};

/// Hints that are copied at once. A page of them; each copy is judged, not the table.
const HINTS_AT_ONCE: usize = 256;

/// Where a program has its hint table: aligned, and not around the end of the address space. Whether there is
/// memory shows when it's read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HintTable(u64);

/// Why hints couldn't be read. Those before the fault count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HintFault {
    /// A part of the table isn't in memory now.
    Absent,
    /// It claims to hold more than it can.
    Count,
}

impl HintTable {
    /// Checks a program's claim.
    #[must_use]
    pub fn from_claim(address: u64) -> Option<Self> {
        let ends = address.checked_add(HINT_TABLE_SIZE as u64).is_some();
        (ends && address.is_multiple_of(HINT_SIZE as u64)).then_some(Self(address))
    }

    /// Where it begins.
    #[must_use]
    pub fn address(self) -> u64 {
        self.0
    }

    /// All of it.
    #[must_use]
    pub fn span(self) -> Span {
        Span { address: self.0, len: HINT_TABLE_SIZE as u64 }
    }

    /// Reads it, each hint once, and hands them to `take`.
    ///
    /// # Errors
    /// [`HintFault`].
    pub fn read<M: GuestMemory>(self, memory: &M, mut take: impl FnMut(Hint)) -> Result<(), HintFault> {
        let mut header = [0; HINT_SIZE];
        memory.read_slice(&mut header, GuestAddress(self.0)).map_err(|_| HintFault::Absent)?;
        let mut left = decode_header(&header).ok_or(HintFault::Count)?;
        let mut buffer = [0; HINTS_AT_ONCE * HINT_SIZE];
        let mut address = self.0 + HINT_SIZE as u64;
        while left > 0 {
            let now = left.min(HINTS_AT_ONCE);
            let bytes = &mut buffer[..now * HINT_SIZE];
            memory.read_slice(bytes, GuestAddress(address)).map_err(|_| HintFault::Absent)?;
            let (hints, _) = bytes.as_chunks::<HINT_SIZE>();
            hints.iter().map(Hint::decode).for_each(&mut take);
            address += bytes.len() as u64;
            left -= now;
        }
        Ok(())
    }
}
