//! Tags, groups of tags, and the code over all.

use cairn_store::{Object, PAGE_SIZE};
use serde::{Deserialize, Serialize};

/// The section that holds a checkpoint's signature.
pub(super) const SECTION: &str = "signature";
/// What the names of objects with tags begin with.
pub(super) const TAGS: &str = "tags:";
/// Bytes that the section may have: 24 for each group, and there are 65,536 in an address space of 64 GiB.
pub(super) const MAX_SIGNATURE: usize = 32 << 20;
/// Bytes of a tag. What can't be found by trying is twice as long only where the key is known.
pub(super) const TAG: usize = 16;
/// Pages of a group: their tags are one page.
pub(super) const GROUP: u64 = (PAGE_SIZE / TAG) as u64;
/// The form of a signature.
pub(super) const VERSION: u32 = 1;

/// A tag.
pub(super) type Tag = [u8; TAG];
/// The tags of a group.
pub(super) type Tags = [u8; PAGE_SIZE];
/// Which pages of a group aren't zero, a bit each.
pub(super) type Present = [u8; (GROUP / 8) as usize];

/// The groups of an object that have a page that isn't zero: their numbers, ascending, and their tags.
pub(super) type Groups = Vec<(u64, Tag)>;

/// What the section holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Signature {
    pub(super) version: u32,
    /// Says which key, and nothing of it.
    pub(super) key: Tag,
    pub(super) body: Body,
    pub(super) code: [u8; 32],
}

/// What the code is over, beside what the checkpoint's index says.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Body {
    /// The tags of all other sections, by name.
    pub(super) sections: Vec<(String, Tag)>,
    /// All other objects, in the order of their names.
    pub(super) objects: Vec<SignedPages>,
}

/// The pages of an object.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct SignedPages {
    /// Whether they come one by one: then there are no others than the store's index says, and all of these. Else which
    /// there are follows from their tags, and the index may say of more that they are perhaps not zero.
    pub(super) lazily: bool,
    pub(super) groups: Groups,
}

/// One object as the code has it.
pub(super) struct Shape<'a> {
    pub(super) object: &'a Object,
    /// Each group's, in their order; of an object whose pages come one by one.
    pub(super) present: Vec<Present>,
}

/// A key for each purpose, so that no tag can stand for another kind of tag.
#[derive(Clone)]
pub(super) struct Keys {
    id: Tag,
    page: [u8; 32],
    group: [u8; 32],
    section: [u8; 32],
    code: [u8; 32],
}

impl Keys {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let derive =
            |purpose: &str| blake3::derive_key(&format!("cairn 2026-11-21 checkpoint {purpose}"), key);
        Self {
            id: first(&derive("id")),
            page: derive("page"),
            group: derive("group"),
            section: derive("section"),
            code: derive("code"),
        }
    }

    /// Tells keys apart.
    pub(super) fn id(&self) -> Tag {
        self.id
    }

    /// A page's tag.
    pub(super) fn page(&self, bytes: &[u8; PAGE_SIZE]) -> Tag {
        if *bytes == [0; PAGE_SIZE] {
            return [0; TAG];
        }
        first(blake3::keyed_hash(&self.page, bytes).as_bytes())
    }

    /// A group's tag.
    pub(super) fn group(&self, tags: &Tags) -> Tag {
        first(blake3::keyed_hash(&self.group, tags).as_bytes())
    }

    /// A section's tag.
    pub(super) fn section(&self, bytes: &[u8]) -> Tag {
        first(blake3::keyed_hash(&self.section, bytes).as_bytes())
    }

    /// The code over a checkpoint. The result compares in a time that doesn't depend on where it differs.
    pub(super) fn code(&self, id: u64, body: &Body, shapes: &[Shape<'_>]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.code);
        let number = |hasher: &mut blake3::Hasher, number: u64| {
            hasher.update(&number.to_le_bytes());
        };
        let text = |hasher: &mut blake3::Hasher, text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        number(&mut hasher, VERSION.into());
        number(&mut hasher, id);
        number(&mut hasher, body.sections.len() as u64);
        for (name, tag) in &body.sections {
            text(&mut hasher, name);
            hasher.update(tag);
        }
        number(&mut hasher, shapes.len() as u64);
        for (Shape { object, present }, SignedPages { lazily, groups }) in shapes.iter().zip(&body.objects) {
            text(&mut hasher, object.name.as_str());
            let numbers = [u64::from(*lazily), groups.len() as u64];
            for field in [object.tag, object.address, object.pages].into_iter().chain(numbers) {
                number(&mut hasher, field);
            }
            for (group, tag) in groups {
                number(&mut hasher, *group);
                hasher.update(tag);
            }
            for present in present {
                hasher.update(present);
            }
        }
        hasher.finalize()
    }
}

/// The place of a page in its group.
pub(super) fn place(page: u64) -> usize {
    usize::try_from(page % GROUP).unwrap_or(0)
}

/// The tag at a place.
pub(super) fn tag_at(tags: &Tags, place: usize) -> Tag {
    let mut tag = [0; TAG];
    tag.copy_from_slice(&tags[place * TAG..][..TAG]);
    tag
}

/// Which pages these tags are of.
pub(super) fn present(tags: &Tags) -> Present {
    let mut present = Present::default();
    for (place, tag) in tags.chunks_exact(TAG).enumerate() {
        if tag.iter().any(|byte| *byte != 0) {
            present[place / 8] |= 1 << (place % 8);
        }
    }
    present
}

/// The objects that the code is over, in the order of their names.
pub(super) fn signed<'a>(objects: impl Iterator<Item = &'a Object>) -> Vec<(usize, &'a Object)> {
    let mut signed: Vec<_> =
        objects.enumerate().filter(|(_, object)| !object.name.as_str().starts_with(TAGS)).collect();
    signed.sort_unstable_by(|a, b| a.1.name.cmp(&b.1.name));
    signed
}

fn first(hash: &[u8; 32]) -> Tag {
    let mut tag = [0; TAG];
    tag.copy_from_slice(&hash[..TAG]);
    tag
}
