//! Objects of a checkpoint of the whole, on their way into a batch.

use cairn_store::{Batch, BatchError, Object, ObjectIndex, ObjectName, PAGE_SIZE};

/// Names an object of so many pages. None has an address of its own.
pub(super) fn add(batch: &mut Batch, name: &str, tag: u64, pages: u64) -> Result<ObjectIndex, BatchError> {
    let name = ObjectName::new(name)?;
    batch.object(Object { name, tag, address: 0, pages })
}

/// Puts bytes into an object, from its first page on; the last page is filled up with zeros.
pub(super) fn put(batch: &mut Batch, object: ObjectIndex, bytes: &[u8]) -> Result<(), BatchError> {
    for (page, bytes) in (0..).zip(bytes.chunks(PAGE_SIZE)) {
        let mut whole = [0; PAGE_SIZE];
        whole[..bytes.len()].copy_from_slice(bytes);
        batch.page(object, page, &whole)?;
    }
    Ok(())
}
