//! How a region comes into a session.

use cairn_abi::RegionName;

use super::Session;
use crate::element::Element;
use crate::engines::Limits;
use crate::error::Error;
use crate::hints::{Check, RegionMode};
use crate::memory::{Block, PAGE};
use crate::region::{Contents, Entry, Region};

impl Session {
    /// A name that no region has.
    pub(super) fn new_name(&self, name: &str) -> Result<RegionName, Error> {
        self.own()?;
        let checked = RegionName::new(name.as_bytes())?;
        if self.regions.iter().any(|entry| entry.name == checked) {
            return Err(Error::NameTaken { name: name.to_owned() });
        }
        Ok(checked)
    }

    /// The bytes of `len` elements, if the session may have that many more.
    pub(super) fn new_bytes<T: Element>(&self, name: &str, len: usize) -> Result<usize, Error> {
        let Limits { regions, bytes: limit, .. } = self.limits();
        if self.regions.iter().count() >= regions {
            return Err(Error::TooManyRegions { name: name.to_owned(), limit: regions });
        }
        let held: usize = self.regions.iter().map(|entry| entry.block.len()).sum();
        len.checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_next_multiple_of(PAGE))
            .filter(|bytes| bytes.checked_add(held).is_some_and(|all| all as u64 <= limit))
            .ok_or_else(|| Error::TooLarge {
                name: name.to_owned(),
                elements: len,
                element_bytes: size_of::<T>(),
                limit,
            })
    }

    /// As [`Session::region`], for an arena whose root is of that type.
    pub(crate) fn arena_region(
        &mut self,
        name: &str,
        bytes: usize,
        element: &'static str,
        tag: u64,
    ) -> Result<Region<u8>, Error> {
        let checked = self.new_name(name)?;
        if bytes == 0 {
            return Err(Error::Empty { name: name.to_owned() });
        }
        let len = self.new_bytes::<u8>(name, bytes)?;
        let block = self.arena_block(&checked, len, tag)?;
        let contents = Contents { element, tag, is_arena: true };
        self.insert(checked, block, bytes, RegionMode::Tracked, contents)
    }

    pub(super) fn insert<T: Element>(
        &mut self,
        name: RegionName,
        block: Block,
        len: usize,
        mode: RegionMode,
        contents: Contents,
    ) -> Result<Region<T>, Error> {
        let Contents { element, tag, is_arena } = contents;
        let check = if mode == RegionMode::Checked { Some(Check::new(&block)?) } else { None };
        let registered = self.backend.register(&name, &block, mode.engine(), tag);
        let id = registered.map_err(|failure| self.explain(failure, None))?;
        Ok(self.regions.insert(Entry { id, name, block, check, element, tag, is_arena }, len))
    }
}
