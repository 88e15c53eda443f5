//! What a region knows of a keeper of checkpoints elsewhere.

use super::Region;
use crate::changes::Changes;
use crate::{EngineError, PAGE_SIZE};

/// What of a region isn't kept elsewhere.
#[derive(Debug)]
pub(crate) struct Saving {
    /// What changed since it was gathered last.
    pub(crate) unsaved: Changes,
    /// What was gathered and may not be kept yet.
    pub(crate) handed: Changes,
}

impl Saving {
    /// Of a region of which nothing is kept.
    pub(super) fn new(pages: usize) -> Result<Self, EngineError> {
        let (mut unsaved, handed) = (Changes::none(pages)?, Changes::none(pages)?);
        unsaved.add_all();
        Ok(Self { unsaved, handed })
    }

    pub(super) fn table_bytes(&self) -> usize {
        self.unsaved.table_bytes() + self.handed.table_bytes()
    }
}

impl Region {
    /// Puts a page into the mirror that live memory doesn't have.
    pub(crate) fn import_page(&mut self, page: usize, bytes: &[u8; PAGE_SIZE]) {
        if bytes.iter().any(|&byte| byte != 0) {
            self.mirror.page_mut(page).copy_from_slice(bytes);
        }
        // A page that was imported before may be zeros now.
        else if self.mirror.bytes(page).is_some() {
            self.mirror.page_mut(page).fill(0);
        }
        self.tries.owe(page);
    }
}
