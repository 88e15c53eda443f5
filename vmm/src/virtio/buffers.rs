//! The buffers of a chain, for a device that moves data between them and elsewhere.

use vm_memory::{Address, Bytes, GuestAddress, GuestMemory};

use super::chain::{ChainError, DESCRIPTOR_LEN, Table};

/// Buffers that a chain may have. Bounds the work for one request; a loop is longer than any bound.
pub const MAX_BUFFERS: usize = 1024;

/// What a driver put into one chain: claims until bytes are moved.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
}

#[derive(Clone, Copy, Debug)]
struct Buffer {
    address: GuestAddress,
    len: u32,
}

/// Bytes that can't be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BufferError {
    /// The buffers have fewer.
    #[error("the buffers have no {len} bytes from byte {offset} on")]
    TooShort {
        /// The first byte.
        offset: u64,
        /// Bytes.
        len: usize,
    },
    /// A buffer isn't memory.
    #[error("{len} bytes of a buffer at {address:#x} are not memory")]
    Memory {
        /// Where the buffer is.
        address: u64,
        /// Bytes of it.
        len: usize,
    },
}

impl Table {
    /// Finds the buffers of the chain that begins at `head`, through an indirect table if `indirect` says that
    /// the driver may use one. Each descriptor is read once.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn buffers<M: GuestMemory>(
        self,
        memory: &M,
        head: u16,
        indirect: bool,
    ) -> Result<Buffers, ChainError> {
        let (mut table, mut index, mut may_be_indirect) = (self, head, indirect);
        let mut found = Buffers::default();
        while found.count() < MAX_BUFFERS {
            let descriptor = table.descriptor(memory, index)?;
            if descriptor.refers_to_indirect_table() {
                if !may_be_indirect || descriptor.has_next() {
                    return Err(ChainError::Indirect { index });
                }
                table = indirect_table(index, descriptor.addr(), descriptor.len())?;
                (index, may_be_indirect) = (0, false);
                continue;
            }
            let buffer = Buffer { address: descriptor.addr(), len: descriptor.len() };
            match (descriptor.len(), descriptor.is_write_only()) {
                (0, _) => return Err(ChainError::Empty { index }),
                (_, true) => found.writable.push(buffer),
                (_, false) if found.writable.is_empty() => found.readable.push(buffer),
                (_, false) => return Err(ChainError::Order { index }),
            }
            if !descriptor.has_next() {
                return Ok(found);
            }
            index = descriptor.next();
        }
        Err(ChainError::TooLong { limit: MAX_BUFFERS })
    }
}

impl Buffers {
    /// Bytes that the device may read.
    #[must_use]
    pub fn readable_len(&self) -> u64 {
        total(&self.readable)
    }

    /// Bytes that the device may write.
    #[must_use]
    pub fn writable_len(&self) -> u64 {
        total(&self.writable)
    }

    /// Reads the readable bytes from `offset` on into all of `data`.
    ///
    /// # Errors
    /// [`BufferError`]; `data` is then anything.
    pub fn read<M: GuestMemory>(&self, memory: &M, offset: u64, data: &mut [u8]) -> Result<(), BufferError> {
        let len = data.len();
        let mut rest = data;
        for (address, piece) in pieces(&self.readable, offset, len) {
            let (now, later) = rest.split_at_mut(piece);
            let fault = BufferError::Memory { address: address.raw_value(), len: piece };
            memory.read_slice(now, address).map_err(|_| fault)?;
            rest = later;
        }
        if rest.is_empty() { Ok(()) } else { Err(BufferError::TooShort { offset, len }) }
    }

    /// Writes all of `data` to the writable bytes from `offset` on.
    ///
    /// # Errors
    /// [`BufferError`]; a part may have been written.
    pub fn write<M: GuestMemory>(&self, memory: &M, offset: u64, data: &[u8]) -> Result<(), BufferError> {
        let mut rest = data;
        for (address, piece) in pieces(&self.writable, offset, data.len()) {
            let (now, later) = rest.split_at(piece);
            let fault = BufferError::Memory { address: address.raw_value(), len: piece };
            memory.write_slice(now, address).map_err(|_| fault)?;
            rest = later;
        }
        if rest.is_empty() { Ok(()) } else { Err(BufferError::TooShort { offset, len: data.len() }) }
    }

    fn count(&self) -> usize {
        self.readable.len() + self.writable.len()
    }
}

fn indirect_table(index: u16, address: GuestAddress, len: u32) -> Result<Table, ChainError> {
    let size = u64::from(len) / DESCRIPTOR_LEN;
    let whole = u64::from(len).is_multiple_of(DESCRIPTOR_LEN);
    match u16::try_from(size) {
        Ok(size) if whole && size > 0 => Ok(Table { address, size }),
        _ => Err(ChainError::IndirectTable { index, len }),
    }
}

fn total(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.len)).sum()
}

/// `len` bytes of `buffers` from `offset` on, or as many as there are, buffer by buffer.
fn pieces(buffers: &[Buffer], offset: u64, len: usize) -> impl Iterator<Item = (GuestAddress, usize)> {
    let (mut skip, mut left) = (offset, len);
    buffers.iter().filter_map(move |buffer| {
        let skipped = skip.min(u64::from(buffer.len));
        skip -= skipped;
        let room = usize::try_from(u64::from(buffer.len) - skipped).unwrap_or(usize::MAX);
        let piece = room.min(left);
        left -= piece;
        // An address beyond the last one isn't memory either.
        let address = buffer.address.checked_add(skipped).unwrap_or(GuestAddress(u64::MAX));
        (piece > 0).then_some((address, piece))
    })
}

#[cfg(test)]
#[path = "buffers_tests.rs"]
mod tests;
