//! Mappings of device registers.

use std::ops::Range;

use super::AddressSpace;
use crate::guest::app::mapping::{Content, Mapping, SpaceError};
use crate::memory::layout::{PAGE, PCI_REGISTERS, to_usize};
use crate::memory::rights::Rights;

impl AddressSpace {
    /// Maps the registers at `offset` of the PCI functions' span, where they are: a program can't
    /// choose.
    ///
    /// # Errors
    /// [`SpaceError::Range`] when there are no registers there or the rights include execution.
    pub fn map_device(&mut self, registers: Range<u64>, rights: Rights) -> Result<Range<u64>, SpaceError> {
        let inside = PCI_REGISTERS.start <= registers.start && registers.end <= PCI_REGISTERS.end;
        if !inside || registers.is_empty() || rights.execute {
            return Err(SpaceError::Range);
        }
        for page in registers.clone().step_by(to_usize(PAGE)) {
            self.tables.map_device(page, true);
            let times = self.times_mapped(page).saturating_add(1);
            self.list(page..page + PAGE, Mapping::new(rights, Content::Device { times }));
        }
        Ok(registers)
    }

    /// Each mapping of a page of registers is at the same address, so it goes with the last one.
    pub(super) fn unmap_device(&mut self, range: &Range<u64>) {
        for page in range.clone().step_by(to_usize(PAGE)) {
            match self.mappings.get(&page).cloned() {
                Some(mapping) if 1 < self.times_mapped(page) => {
                    let content = Content::Device { times: self.times_mapped(page) - 1 };
                    self.list(page..page + PAGE, Mapping { content, ..mapping });
                }
                _ => {
                    self.tables.map(&(page..page + PAGE), Rights::NONE, false);
                    self.strike(page..page + PAGE);
                }
            }
        }
    }

    fn times_mapped(&self, page: u64) -> u32 {
        match self.mappings.get(&page) {
            Some(Mapping { content: Content::Device { times }, .. }) => *times,
            _ => 0,
        }
    }
}
