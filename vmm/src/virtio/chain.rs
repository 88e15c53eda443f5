//! A descriptor chain as the guest left it in memory, and what of it can be used (virtio 1.2, 2.7.5).
//!
//! Each descriptor is read once: a guest that changes it meanwhile changes nothing. `virtio_queue`'s own
//! iterator isn't used because it ends at the first nonsense without saying so.
//!
//! Two kinds of devices read chains: one that takes small requests copies them at once ([`Table::walk`]), one
//! that moves data finds the buffers first ([`Table::buffers`](super::buffers)).

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, Permissions};

/// Descriptors that a chain may have. Bounds the work for one request; a loop is longer than any bound.
pub const MAX_CHAIN: usize = 8;
/// Bytes of a descriptor.
pub(super) const DESCRIPTOR_LEN: u64 = 16;

/// What is wrong with a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChainError {
    /// A descriptor names one that isn't in the table.
    #[error("descriptor {index} is outside the table of {size}")]
    OutOfTable {
        /// The descriptor.
        index: u16,
        /// Descriptors in the table.
        size: u16,
    },
    /// The table isn't memory there.
    #[error("descriptor {index} is not in memory")]
    Table {
        /// The descriptor.
        index: u16,
    },
    /// A table of descriptors inside a descriptor, where none may be: the driver and the device didn't agree on
    /// VIRTIO_F_INDIRECT_DESC, or it's not the chain's only one (2.7.5.3.1).
    #[error("descriptor {index} refers to a table of its own, where none may be")]
    Indirect {
        /// The descriptor.
        index: u16,
    },
    /// Such a table isn't whole descriptors, or too many.
    #[error("descriptor {index} refers to a table of {len} bytes, which isn't one")]
    IndirectTable {
        /// The descriptor.
        index: u16,
        /// Bytes of the table.
        len: u32,
    },
    /// A buffer without bytes.
    #[error("descriptor {index} has no bytes")]
    Empty {
        /// The descriptor.
        index: u16,
    },
    /// A buffer to read behind one to write (2.7.4.2).
    #[error("descriptor {index} is to be read but follows one to be written")]
    Order {
        /// The descriptor.
        index: u16,
    },
    /// A loop, or just too many.
    #[error("the chain has more than {limit} descriptors")]
    TooLong {
        /// Descriptors that it may have.
        limit: usize,
    },
    /// More bytes to read than any request has.
    #[error("the request has more than {limit} bytes")]
    RequestTooLong {
        /// Bytes that a request may have.
        limit: usize,
    },
    /// The buffer isn't memory that may be read.
    #[error("{len} bytes of the request at {address:#x} are not memory")]
    Unreadable {
        /// Where the buffer is.
        address: u64,
        /// Its bytes.
        len: u32,
    },
}

/// Where the table of descriptors is.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its address.
    pub address: GuestAddress,
    /// Its descriptors.
    pub size: u16,
}

/// The buffers of a chain that the device may write: a claim until [`holds`](Self::holds) has checked it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplySpace {
    parts: [(GuestAddress, u32); MAX_CHAIN],
    count: usize,
}

impl Table {
    /// Walks the chain from `head`: copies what is to be read into `request` and finds where to write.
    ///
    /// Returns the bytes of the request. Whatever happens, `reply` is what was found to write until then, so
    /// that an error can be answered.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn walk<M: GuestMemory>(
        self,
        memory: &M,
        head: u16,
        request: &mut [u8],
        reply: &mut ReplySpace,
    ) -> Result<usize, ChainError> {
        let mut index = head;
        let mut filled = Ok(0);
        for _ in 0..MAX_CHAIN {
            let descriptor = self.descriptor(memory, index)?;
            if descriptor.refers_to_indirect_table() {
                return Err(ChainError::Indirect { index });
            }
            if descriptor.is_write_only() && descriptor.len() > 0 {
                reply.push(descriptor.addr(), descriptor.len());
            }
            // After a fault in one buffer the walk goes on: the room for the reply that says so may be behind
            // it.
            filled = filled.and_then(|filled| {
                if descriptor.len() == 0 {
                    Err(ChainError::Empty { index })
                } else if descriptor.is_write_only() {
                    Ok(filled)
                } else if reply.count > 0 {
                    Err(ChainError::Order { index })
                } else {
                    read_part(memory, descriptor, request, filled)
                }
            });
            if !descriptor.has_next() {
                return filled;
            }
            index = descriptor.next();
        }
        Err(ChainError::TooLong { limit: MAX_CHAIN })
    }

    /// Reads one descriptor.
    ///
    /// # Errors
    /// [`ChainError::OutOfTable`], [`ChainError::Table`].
    pub(super) fn descriptor<M: GuestMemory>(self, memory: &M, index: u16) -> Result<Descriptor, ChainError> {
        if index >= self.size {
            return Err(ChainError::OutOfTable { index, size: self.size });
        }
        self.address
            .checked_add(u64::from(index) * DESCRIPTOR_LEN)
            .and_then(|address| memory.read_obj(address).ok())
            .ok_or(ChainError::Table { index })
    }
}

impl ReplySpace {
    /// Whether `len` bytes can be written here.
    #[must_use]
    pub fn holds<M: GuestMemory>(&self, memory: &M, len: usize) -> bool {
        let mut left = len;
        let writable = self.pieces(len).all(|(address, piece)| {
            left -= piece;
            memory.check_range(address, piece, Permissions::Write)
        });
        writable && left == 0
    }

    /// Writes `bytes` and returns how many, or `None` if they don't fit or the space isn't memory any more.
    #[must_use]
    pub fn write<M: GuestMemory>(&self, memory: &M, bytes: &[u8]) -> Option<u32> {
        let mut rest = bytes;
        for (address, piece) in self.pieces(bytes.len()) {
            let (now, later) = rest.split_at_checked(piece)?;
            memory.write_slice(now, address).ok()?;
            rest = later;
        }
        if rest.is_empty() { u32::try_from(bytes.len()).ok() } else { None }
    }

    fn push(&mut self, address: GuestAddress, len: u32) {
        if let Some(part) = self.parts.get_mut(self.count) {
            *part = (address, len);
            self.count += 1;
        }
    }

    /// The first `len` bytes, buffer by buffer.
    fn pieces(&self, len: usize) -> impl Iterator<Item = (GuestAddress, usize)> {
        let mut left = len;
        self.parts[..self.count].iter().map_while(move |&(address, part)| {
            let piece = usize::try_from(part).unwrap_or(usize::MAX).min(left);
            left -= piece;
            (piece > 0).then_some((address, piece))
        })
    }
}

/// Copies the buffer of `descriptor` behind the `filled` bytes of `request`; returns how many there are then.
fn read_part<M: GuestMemory>(
    memory: &M,
    descriptor: Descriptor,
    request: &mut [u8],
    filled: usize,
) -> Result<usize, ChainError> {
    let limit = request.len();
    let too_long = ChainError::RequestTooLong { limit };
    let len = usize::try_from(descriptor.len()).map_err(|_| too_long)?;
    let end = filled.checked_add(len).ok_or(too_long)?;
    let part = request.get_mut(filled..end).ok_or(too_long)?;
    memory.read_slice(part, descriptor.addr()).map_err(|_| ChainError::Unreadable {
        address: descriptor.addr().raw_value(),
        len: descriptor.len(),
    })?;
    Ok(end)
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
