//! What a type is, as a number that a store can compare: the same in every run of a program.

use std::any;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// Collects what there is to know of a type, and of those that it's made of.
#[derive(Default, Debug)]
#[doc(hidden)]
pub struct Shape {
    hasher: SipHasher13,
    seen: Vec<&'static str>,
}

impl Shape {
    /// Adds the name, size and alignment of `T`. Answers whether it's new: what a type that was added before is made
    /// of was added, too, so that types may hold themselves.
    pub fn add<T>(&mut self) -> bool {
        let name = any::type_name::<T>();
        self.text(name);
        self.hasher.write_usize(size_of::<T>());
        self.hasher.write_usize(align_of::<T>());
        let new = !self.seen.contains(&name);
        if new {
            self.seen.push(name);
        }
        new
    }

    /// Adds a text: names of fields.
    pub fn text(&mut self, text: &str) {
        self.hasher.write_usize(text.len());
        self.hasher.write(text.as_bytes());
    }

    /// Adds a number.
    pub(crate) fn number(&mut self, number: u64) {
        self.hasher.write_u64(number);
    }

    /// The number.
    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}

/// The tag of a region of such elements, whose hash is `hash`: size below, so that a person can be told of it, and
/// hash above.
pub(crate) fn tag<T>(hash: u64) -> u64 {
    let size = u32::try_from(size_of::<T>()).unwrap_or(u32::MAX);
    hash & !u64::from(u32::MAX) | u64::from(size)
}

/// The tag of a region of elements that have no shape but their own.
pub(crate) fn element_tag<T>() -> u64 {
    let mut shape = Shape::default();
    shape.add::<T>();
    tag::<T>(shape.hash())
}

/// The size of an element in a tag.
pub(crate) fn size_in(tag: u64) -> u64 {
    tag & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_tells_types_apart_and_has_their_size() {
        assert_eq!(element_tag::<u64>(), element_tag::<u64>());
        assert_ne!(element_tag::<u64>(), element_tag::<i64>());
        assert_eq!(size_in(element_tag::<[u16; 5]>()), 10);
    }
}
