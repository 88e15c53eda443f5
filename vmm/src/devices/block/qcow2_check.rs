//! Whether a qcow2 image counts its own parts: what must hold before anything is allocated in it.
//!
//! imago's allocator trusts the refcounts. In an image whose header or tables count as free it would hand them
//! out for the guest's data, and without the first refcount block it looks for that block's place in the block
//! itself until the stack is used up. An image may come from anybody, so this is checked when it's opened for
//! writing. (It is not all of `qemu-img check`: an image that passes may have lost or shared data clusters.)

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of the part of the header that all versions have, and where in it things are; all big-endian.
const HEADER_LEN: usize = 72;
const VERSION: usize = 4;
const CLUSTER_BITS: usize = 20;
const L1_ENTRIES: usize = 36;
const L1_TABLE: usize = 40;
const REFCOUNT_TABLE: usize = 48;
const REFCOUNT_TABLE_CLUSTERS: usize = 56;
/// Where version 3 has the width of a refcount, as a power of two. Version 2 has 16 bits.
const REFCOUNT_ORDER: u64 = 96;
const REFCOUNT_BITS_16: u32 = 4;

/// Sizes of clusters that the format knows, as powers of two.
const CLUSTER_SIZES: std::ops::RangeInclusive<u32> = 9..=21;
/// Bytes of a table that may be read. Bounds what a header can make us keep; it's enough for 64 TiB.
const MAX_TABLE: u64 = 8 << 20;
/// The bits of a table's entry that are an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// An image's tables, as far as they were checked.
struct Tables<'a> {
    file: &'a File,
    len: u64,
    cluster: u64,
    /// Where the refcount blocks are; 0 for none.
    blocks: Vec<u64>,
    /// The block that was read last, and its number.
    block: Option<(usize, Vec<u8>)>,
}

/// Checks that the header, the tables and the refcount blocks are in the file and counted.
///
/// # Errors
/// What reading says; `InvalidData` if the image isn't sound.
pub(super) fn check(file: &File) -> io::Result<()> {
    let mut header = [0; HEADER_LEN];
    file.read_exact_at(&mut header, 0)?;
    let cluster_bits = word(&header, CLUSTER_BITS);
    if !CLUSTER_SIZES.contains(&cluster_bits) {
        return Err(unsound("the size of its clusters"));
    }
    if word(&header, VERSION) >= 3 {
        let mut order = [0; 4];
        file.read_exact_at(&mut order, REFCOUNT_ORDER)?;
        if u32::from_be_bytes(order) != REFCOUNT_BITS_16 {
            return Err(unsound("the width of its refcounts (only 16 bits are known here)"));
        }
    }
    let cluster = 1 << cluster_bits;
    let len = file.metadata()?.len();
    let mut tables = Tables { file, len, cluster, blocks: Vec::new(), block: None };
    let refcount_table = long(&header, REFCOUNT_TABLE);
    let refcount_len = u64::from(word(&header, REFCOUNT_TABLE_CLUSTERS)) * cluster;
    let l1_table = long(&header, L1_TABLE);
    let l1_len = u64::from(word(&header, L1_ENTRIES)) * 8;
    tables.blocks = tables.table(refcount_table, refcount_len)?;
    tables.counted(0, cluster)?;
    tables.counted(refcount_table, refcount_len)?;
    tables.counted(l1_table, l1_len)?;
    let second = tables.table(l1_table, l1_len)?;
    for offset in tables.blocks.clone().into_iter().chain(second).filter(|offset| *offset != 0) {
        tables.counted(offset, cluster)?;
    }
    Ok(())
}

impl Tables<'_> {
    /// The offsets in a table.
    fn table(&self, offset: u64, len: u64) -> io::Result<Vec<u64>> {
        if len > MAX_TABLE || offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(unsound("the place of a table"));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.as_chunks().0.iter().map(|entry| u64::from_be_bytes(*entry) & OFFSET).collect())
    }

    /// Fails if a cluster from `offset` on isn't in the file, isn't a cluster, or counts as free.
    fn counted(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        let Some(end) = end.filter(|_| offset.is_multiple_of(self.cluster)) else {
            return Err(unsound("the place of a table"));
        };
        for index in offset / self.cluster..end.div_ceil(self.cluster) {
            if self.refcount(index)? == 0 {
                return Err(unsound("its refcounts: a table counts as free"));
            }
        }
        Ok(())
    }

    fn refcount(&mut self, index: u64) -> io::Result<u16> {
        let per_block = self.cluster / 2;
        let number = usize::try_from(index / per_block).unwrap_or(usize::MAX);
        if self.block.as_ref().is_none_or(|(read, _)| *read != number) {
            let offset = self.blocks.get(number).copied().filter(|offset| *offset != 0);
            let offset = offset.filter(|offset| offset.is_multiple_of(self.cluster));
            let offset = offset.ok_or_else(|| unsound("its refcounts: a block is missing"))?;
            let mut bytes = vec![0; usize::try_from(self.cluster).unwrap_or(0)];
            self.file.read_exact_at(&mut bytes, offset)?;
            self.block = Some((number, bytes));
        }
        let at = usize::try_from(index % per_block * 2).unwrap_or(usize::MAX);
        let bytes = self.block.as_ref().and_then(|(_, bytes)| bytes.get(at..)?.first_chunk());
        Ok(bytes.map_or(0, |bytes| u16::from_be_bytes(*bytes)))
    }
}

fn unsound(what: &str) -> io::Error {
    let text = format!("the image is not sound: {what}; see what `qemu-img check` says, or open it with :ro");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn word(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    header.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn long(header: &[u8; HEADER_LEN], at: usize) -> u64 {
    header.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
