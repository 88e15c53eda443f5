//! The registers of MSI-X: which message each interrupt vector sends, and which of them may (PCI 3.0, 6.8.2).
//!
//! ```text
//!   0x000  table: 16 bytes a vector: message address (8), message data (4), vector control (4)
//!   0x800  pending bits, read-only
//!   0x1000 end
//! ```

/// Bytes of the registers, which are in a BAR of their own.
pub const REGISTERS_LEN: u64 = 0x1000;
/// Where the pending bits are.
pub const PENDING_OFFSET: u32 = 0x800;
/// Vectors that a function may have. Bounds the work of one unmasking.
pub const MAX_VECTORS: u16 = 64;

/// Message control: the function sends messages.
pub const ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
pub const FUNCTION_MASK: u16 = 1 << 14;

const ENTRY_WORDS: usize = 4;
const WORD: usize = 4;
/// The word of an entry that is the vector control, and its only bit.
const VECTOR_CONTROL: usize = 3;
const MASKED: u32 = 1;

const _: () = assert!(MAX_VECTORS as usize * ENTRY_WORDS * WORD <= PENDING_OFFSET as usize);
const _: () = assert!(MAX_VECTORS as u32 <= u64::BITS, "the pending bits are one u64");

/// A store that interrupts a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// The registers.
#[derive(Debug)]
pub struct Msix {
    entries: Vec<[u32; ENTRY_WORDS]>,
    pending: u64,
    control: u16,
}

impl Msix {
    /// The registers after a reset, for `vectors` vectors, at most [`MAX_VECTORS`]: all masked.
    #[must_use]
    pub fn new(vectors: u16) -> Self {
        let entry = [0, 0, 0, MASKED];
        Self { entries: vec![entry; usize::from(vectors.min(MAX_VECTORS))], pending: 0, control: 0 }
    }

    /// How many vectors there are.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(MAX_VECTORS)
    }

    /// What to send now for an interrupt by `vector`. A masked one becomes pending; without MSI-X, or without
    /// such a vector, it's lost.
    #[must_use]
    pub fn raise(&mut self, vector: u16) -> Option<Message> {
        let entry = self.entries.get(usize::from(vector))?;
        if self.control & ENABLE == 0 {
            return None;
        }
        if self.control & FUNCTION_MASK != 0 || is_masked(entry) {
            self.pending |= 1 << vector;
            return None;
        }
        Some(message(entry))
    }

    /// Sets message control, and returns what was pending and may be sent now.
    #[must_use]
    pub fn set_control(&mut self, control: u16) -> Vec<Message> {
        self.control = control & (ENABLE | FUNCTION_MASK);
        if self.control & ENABLE == 0 {
            self.pending = 0;
        }
        self.take_sendable()
    }

    /// Reads from `offset`. Where there is no register, bytes read as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..REGISTERS_LEN).zip(data.iter_mut()) {
            *byte = self.byte(at);
        }
    }

    /// Writes whole words of the table; anything else is ignored, as 6.8.2 lets a device do. Returns what was
    /// pending and may be sent now.
    #[must_use]
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Vec<Message> {
        let aligned = matches!(data.len(), 4 | 8) && offset.is_multiple_of(data.len() as u64);
        let Some(first) = usize::try_from(offset).ok().filter(|_| aligned) else { return Vec::new() };
        for (index, bytes) in (first / WORD..).zip(data.as_chunks::<WORD>().0) {
            let (entry, word) = (index / ENTRY_WORDS, index % ENTRY_WORDS);
            if let Some(register) = self.entries.get_mut(entry).and_then(|entry| entry.get_mut(word)) {
                let value = u32::from_le_bytes(*bytes);
                *register = if word == VECTOR_CONTROL { value & MASKED } else { value };
            }
        }
        self.take_sendable()
    }

    fn byte(&self, at: u64) -> u8 {
        let Ok(at) = usize::try_from(at) else { return 0 };
        if let Some(pending) = at.checked_sub(PENDING_OFFSET as usize) {
            return self.pending.to_le_bytes().get(pending).copied().unwrap_or(0);
        }
        let entry = self.entries.get(at / (ENTRY_WORDS * WORD));
        let word = entry.and_then(|entry| entry.get(at / WORD % ENTRY_WORDS)).copied().unwrap_or(0);
        word.to_le_bytes().get(at % WORD).copied().unwrap_or(0)
    }

    fn take_sendable(&mut self) -> Vec<Message> {
        let mut sendable = Vec::new();
        if self.control & (ENABLE | FUNCTION_MASK) != ENABLE {
            return sendable;
        }
        for (vector, entry) in self.entries.iter().enumerate() {
            if self.pending & (1 << vector) != 0 && !is_masked(entry) {
                self.pending &= !(1 << vector);
                sendable.push(message(entry));
            }
        }
        sendable
    }
}

fn is_masked(entry: &[u32; ENTRY_WORDS]) -> bool {
    entry[VECTOR_CONTROL] & MASKED != 0
}

fn message(&[low, high, data, _]: &[u32; ENTRY_WORDS]) -> Message {
    Message { address: u64::from(high) << 32 | u64::from(low), data }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ON: u16 = ENABLE;

    /// Vector 1 sends 0x41 to 0xfee0_0000 and isn't masked.
    fn registers() -> Msix {
        let mut msix = Msix::new(3);
        assert_eq!(msix.write(16, &0xfee0_0000_u64.to_le_bytes()), []);
        assert_eq!(msix.write(24, &0x41_u32.to_le_bytes()), []);
        assert_eq!(msix.write(28, &[0; 4]), []);
        msix
    }

    fn sent() -> Message {
        Message { address: 0xfee0_0000, data: 0x41 }
    }

    #[test]
    fn a_vector_sends_its_message_once_enabled() {
        let mut msix = registers();
        assert_eq!(msix.raise(1), None);
        assert_eq!(msix.set_control(ON), [], "lost, not pending");
        assert_eq!(msix.raise(1), Some(sent()));
        assert_eq!(msix.raise(3), None);
        assert_eq!(msix.raise(0xffff), None);
    }

    #[test]
    fn what_is_masked_is_pending_until_unmasked() {
        let mut msix = registers();
        assert_eq!(msix.set_control(ON | FUNCTION_MASK), []);
        assert_eq!((msix.raise(1), msix.raise(2)), (None, None));
        let mut data = [0xee; 9];
        msix.read(0x800, &mut data);
        assert_eq!(data, [0b110, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(msix.set_control(ON), [sent()]);
        assert_eq!(msix.raise(2), None);
        let expected = Message { address: 0, data: 0 };
        assert_eq!(msix.write(44, &[0; 4]), [expected], "vector 2 is unmasked");
        assert_eq!(msix.set_control(ON), []);
    }

    #[test]
    fn reads_of_any_width_see_the_words() {
        let msix = registers();
        let mut data = [0xee; 16];
        msix.read(16, &mut data);
        assert_eq!(data, [0, 0, 0xe0, 0xfe, 0, 0, 0, 0, 0x41, 0, 0, 0, 0, 0, 0, 0]);
        msix.read(14, &mut data[..4]);
        assert_eq!(data[..4], [0, 0, 0, 0]);
        msix.read(12, &mut data[..2]);
        assert_eq!(data[..2], [1, 0]);
    }

    #[test]
    fn parts_of_words_and_pending_bits_can_not_be_written() {
        let mut msix = registers();
        for (offset, len) in [(16, 1), (16, 2), (18, 4), (20, 8), (0x800, 8), (48, 8), (u64::MAX - 7, 8)] {
            assert_eq!(msix.write(offset, &vec![0xff; len]), []);
        }
        assert_eq!(msix.set_control(ON), []);
        assert_eq!(msix.raise(1), Some(sent()));
    }

    proptest! {
        /// An interrupt is sent exactly once, whatever is masked meanwhile, as long as MSI-X stays on.
        #[test]
        fn nothing_is_lost_or_doubled(steps in proptest::collection::vec(0_u8..5, 0..60)) {
            let mut msix = registers();
            let mut expected = false;
            let _ = msix.set_control(ON);
            for step in steps {
                let out = match step {
                    0 => msix.set_control(ON | FUNCTION_MASK),
                    1 => msix.set_control(ON),
                    2 => msix.write(28, &1_u32.to_le_bytes()),
                    3 => msix.write(28, &0_u32.to_le_bytes()),
                    _ => {
                        expected = true;
                        msix.raise(1).into_iter().collect()
                    }
                };
                prop_assert!(out.len() <= usize::from(expected));
                if !out.is_empty() {
                    expected = false;
                }
            }
            let mut rest = msix.set_control(ON);
            rest.extend(msix.write(28, &0_u32.to_le_bytes()));
            prop_assert_eq!(rest.len(), usize::from(expected));
        }

        /// No access does more than the registers allow.
        #[test]
        fn any_access_is_safe(offset in prop_oneof![0_u64..0x1010, any::<u64>()], len in 0_usize..20, byte: u8) {
            let mut msix = registers();
            msix.read(offset, &mut vec![0; len]);
            prop_assert_eq!(msix.write(offset, &vec![byte; len]), []);
        }
    }
}
