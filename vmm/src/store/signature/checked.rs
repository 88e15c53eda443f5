//! A checkpoint whose signature was looked at, to be read.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use cairn_abi::CheckpointId;
use cairn_store::{Object, ObjectIndex, ObjectName, PAGE_SIZE, Snapshot, StoreError, section};

use super::Key;
use super::form::{
    GROUP, Groups, Keys, MAX_SIGNATURE, Present, SECTION, Shape, Signature, SignedPages, TAGS, Tag, Tags,
    VERSION, place, present, signed, tag_at,
};

/// Bytes that all sections of a checkpoint may have: what a hostile one can make its reader hold.
const MAX_SECTIONS: u64 = 256 << 20;
/// Groups whose tags are kept: 4 MiB.
const CACHED: usize = 1024;

/// A checkpoint to read. One with a valid signature answers with what was signed and nothing else, also if its files
/// are changed while they are read; of any other only the store's checksums say something.
#[derive(Debug)]
pub struct CheckedSnapshot {
    snapshot: Arc<Snapshot>,
    names: HashMap<ObjectName, ObjectIndex>,
    valid: Option<Valid>,
}

/// What a valid signature says.
struct Valid {
    keys: Keys,
    sections: HashMap<String, Vec<u8>>,
    /// By the object's place; None for those with tags.
    objects: Vec<Option<Checked>>,
    cache: Mutex<Cache>,
}

struct Checked {
    lazily: bool,
    groups: BTreeMap<u64, Tag>,
    /// Where its pages' tags are, if they are kept.
    tags: Option<ObjectIndex>,
}

/// An object that is signed.
pub(super) struct SignedObject<'a> {
    pub(super) object: &'a Object,
    pub(super) index: ObjectIndex,
    pub(super) groups: Groups,
    /// Which pages each group has, if the pages come one by one.
    pub(super) present: Vec<Present>,
}

#[derive(Default)]
struct Cache {
    tags: HashMap<(usize, u64), Arc<Tags>>,
    order: VecDeque<(usize, u64)>,
}

/// Why a checkpoint doesn't count as made by the owner of a key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unsigned {
    /// It has no signature.
    #[error(
        "it isn't signed: regions of a session never are, nor checkpoints by a cairn before signatures or without a key"
    )]
    NotAtAll,
    /// There is no key to tell by.
    #[error("without a key of this user's nothing tells who made it")]
    NoKey,
    /// Another key was used.
    #[error("it is signed with another key than this user's")]
    OtherKey,
    /// It was signed, and something is another thing now.
    #[error("it was changed after this user's cairn had made it: {0}")]
    Changed(String),
}

/// Why something of a checkpoint can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store says.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It isn't what was signed.
    #[error("page {page} of '{object}' was changed after this user's cairn had made the checkpoint")]
    Changed {
        /// The object.
        object: String,
        /// The page, or the first of those among which it is.
        page: u64,
    },
}

impl CheckedSnapshot {
    /// One of which nobody's signature is asked for.
    #[must_use]
    pub fn unchecked(snapshot: Arc<Snapshot>) -> Self {
        Self::new(snapshot, None)
    }

    /// One that was signed with `key`; else why it isn't.
    ///
    /// # Errors
    /// The store's.
    pub fn open(snapshot: Arc<Snapshot>, key: &Key) -> Result<Result<Self, Unsigned>, StoreError> {
        let Some(bytes) = snapshot.section(SECTION)? else { return Ok(Err(Unsigned::NotAtAll)) };
        let Ok(signature) = section::decode::<Signature>(&bytes, MAX_SIGNATURE) else {
            return Ok(Err(changed("its signature is none")));
        };
        if signature.version != VERSION || signature.key != key.0.id() {
            return Ok(Err(Unsigned::OtherKey));
        }
        let valid = match check(&snapshot, &key.0, &signature)? {
            Ok(valid) => valid,
            Err(unsigned) => return Ok(Err(unsigned)),
        };
        Ok(Ok(Self::new(snapshot, Some(valid))))
    }

    fn new(snapshot: Arc<Snapshot>, valid: Option<Valid>) -> Self {
        let names = snapshot.indexed().map(|(index, object)| (object.name.clone(), index)).collect();
        Self { snapshot, names, valid }
    }

    /// Whether its signature was found to be valid.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.valid.is_some()
    }

    /// The names of its sections, but for that of its signature.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.snapshot.sections().map(|(name, _)| name).filter(|name| *name != SECTION)
    }

    /// Its objects, but for those of its signature, in the order in which they were named.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.snapshot.objects().iter().filter(|object| !object.name.as_str().starts_with(TAGS))
    }

    /// Which checkpoint it is.
    #[must_use]
    pub fn id(&self) -> CheckpointId {
        self.snapshot.id()
    }

    /// The object of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<ObjectIndex> {
        self.names.get(name).copied()
    }

    /// Whether an object has a page of this number.
    pub(super) fn has(&self, object: ObjectIndex, page: u64) -> bool {
        self.snapshot.objects().get(object.place()).is_some_and(|object| page < object.pages)
    }

    /// The section of this name.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn section(&self, name: &str) -> Result<Option<Vec<u8>>, ReadError> {
        match &self.valid {
            Some(valid) => Ok(valid.sections.get(name).cloned()),
            None => Ok(self.snapshot.section(name)?),
        }
    }

    /// The pages of an object that aren't zero for certain, ascending. With a valid signature all others are.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn present(&self, object: ObjectIndex) -> Result<Vec<Range<u64>>, ReadError> {
        let checked = self.valid.as_ref().map(|valid| (valid, valid.objects.get(object.place())));
        let Some((valid, Some(Some(Checked { lazily: false, groups, .. })))) = checked else {
            return Ok(self.snapshot.present(object).collect());
        };
        let mut runs: Vec<Range<u64>> = Vec::new();
        for group in groups.keys() {
            let tags = self.tags(valid, object, *group)?;
            let present = present(&tags);
            for page in (0..GROUP).filter(|at| present[place(*at) / 8] & 1 << (at % 8) != 0) {
                let page = group * GROUP + page;
                match runs.last_mut() {
                    Some(last) if last.end == page => last.end += 1,
                    _ => runs.push(page..page + 1),
                }
            }
        }
        Ok(runs)
    }

    /// Reads a page.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_page(
        &self,
        object: ObjectIndex,
        page: u64,
        out: &mut [u8; PAGE_SIZE],
    ) -> Result<(), ReadError> {
        self.snapshot.read_page(object, page, out)?;
        let Some(valid) = &self.valid else { return Ok(()) };
        let tags = self.tags(valid, object, page / GROUP)?;
        if valid.keys.page(out) == tag_at(&tags, place(page)) {
            return Ok(());
        }
        Err(self.changed(object, page))
    }

    /// The tags of a group, of an object that is signed.
    pub(super) fn group(&self, object: ObjectIndex, group: u64) -> Result<Arc<Tags>, ReadError> {
        match &self.valid {
            Some(valid) => self.tags(valid, object, group),
            None => Err(self.changed(object, group * GROUP)),
        }
    }

    /// All objects that are signed, with their groups.
    pub(super) fn signed(&self) -> Vec<SignedObject<'_>> {
        let Some(valid) = &self.valid else { return Vec::new() };
        let objects = self.snapshot.indexed().zip(&valid.objects);
        let signed = objects.filter_map(|((index, object), checked)| {
            let checked = checked.as_ref()?;
            let groups: Groups = checked.groups.iter().map(|(group, tag)| (*group, *tag)).collect();
            let runs = self.snapshot.present(index).filter(|_| checked.lazily);
            let present = presence(runs, &groups).unwrap_or_default();
            Some(SignedObject { object, index, groups, present })
        });
        signed.collect()
    }

    fn tags(&self, valid: &Valid, object: ObjectIndex, group: u64) -> Result<Arc<Tags>, ReadError> {
        let key = (object.place(), group);
        let lock = || valid.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tags) = lock().tags.get(&key) {
            return Ok(Arc::clone(tags));
        }
        let changed = || self.changed(object, group * GROUP);
        let checked = valid.objects.get(object.place()).and_then(Option::as_ref).ok_or_else(changed)?;
        let mut tags = [0; PAGE_SIZE];
        if let Some(expected) = checked.groups.get(&group) {
            match checked.tags {
                Some(kept) => self.snapshot.read_page(kept, group, &mut tags)?,
                None => self.make_tags(valid, object, group, &mut tags)?,
            }
            if valid.keys.group(&tags) != *expected {
                return Err(changed());
            }
        }
        let tags = Arc::new(tags);
        let mut cache = lock();
        if cache.tags.insert(key, Arc::clone(&tags)).is_none() {
            cache.order.push_back(key);
            if CACHED < cache.order.len()
                && let Some(oldest) = cache.order.pop_front()
            {
                cache.tags.remove(&oldest);
            }
        }
        Ok(tags)
    }

    /// Makes the tags of a group from its pages.
    fn make_tags(
        &self,
        valid: &Valid,
        object: ObjectIndex,
        group: u64,
        tags: &mut Tags,
    ) -> Result<(), ReadError> {
        let pages = self.snapshot.objects()[object.place()].pages;
        let first = group * GROUP;
        let mut bytes = [0; PAGE_SIZE];
        for page in first..(first + GROUP).min(pages) {
            self.snapshot.read_page(object, page, &mut bytes)?;
            let tag = valid.keys.page(&bytes);
            tags[place(page) * tag.len()..][..tag.len()].copy_from_slice(&tag);
        }
        Ok(())
    }

    fn changed(&self, object: ObjectIndex, page: u64) -> ReadError {
        let name = self.snapshot.objects().get(object.place()).map(|object| object.name.to_string());
        ReadError::Changed { object: name.unwrap_or_default(), page }
    }
}

fn changed(what: &str) -> Unsigned {
    Unsigned::Changed(what.to_owned())
}

/// Compares a checkpoint with its signature, all but the pages.
fn check(
    snapshot: &Snapshot,
    keys: &Keys,
    signature: &Signature,
) -> Result<Result<Valid, Unsigned>, StoreError> {
    let body = &signature.body;
    let mut names: Vec<(&str, u64)> = snapshot.sections().filter(|(name, _)| *name != SECTION).collect();
    names.sort_unstable();
    if MAX_SECTIONS < names.iter().map(|(_, bytes)| bytes).sum() {
        return Ok(Err(changed("its sections are larger than any that are signed")));
    }
    if !names.iter().map(|(name, _)| *name).eq(body.sections.iter().map(|(name, _)| name.as_str())) {
        return Ok(Err(changed("it has other sections")));
    }
    let mut sections = HashMap::new();
    for (name, tag) in &body.sections {
        let bytes = snapshot.section(name)?.unwrap_or_default();
        if keys.section(&bytes) != *tag {
            return Ok(Err(Unsigned::Changed(format!("its section '{name}'"))));
        }
        sections.insert(name.clone(), bytes);
    }
    let indices: HashMap<&str, ObjectIndex> =
        snapshot.indexed().map(|(index, object)| (object.name.as_str(), index)).collect();
    let named = signed(snapshot.objects().iter());
    if named.len() != body.objects.len() {
        return Ok(Err(changed("it has other objects")));
    }
    let mut objects: Vec<Option<Checked>> = snapshot.objects().iter().map(|_| None).collect();
    let mut shapes = Vec::with_capacity(named.len());
    for ((at, object), SignedPages { lazily, groups }) in named.iter().zip(&body.objects) {
        let name = object.name.as_str();
        let index = indices.get(name).filter(|_| *lazily);
        let Some(present) = index.map_or(Some(Vec::new()), |at| presence(snapshot.present(*at), groups))
        else {
            return Ok(Err(Unsigned::Changed(format!("'{}' has other pages", object.name))));
        };
        shapes.push(Shape { object, present });
        let tags = indices.get(format!("{TAGS}{name}").as_str());
        // Groups that the tags' object can't have have theirs made.
        let has_all = |tags: &&ObjectIndex| {
            let pages = snapshot.objects()[tags.place()].pages;
            groups.last().is_none_or(|(last, _)| *last < pages)
        };
        let tags = tags.filter(has_all).copied();
        objects[*at] = Some(Checked { lazily: *lazily, groups: groups.iter().copied().collect(), tags });
    }
    if keys.code(snapshot.id().0, body, &shapes) != blake3::Hash::from_bytes(signature.code) {
        return Ok(Err(changed("its signature doesn't fit its number, its objects or their pages")));
    }
    Ok(Ok(Valid { keys: keys.clone(), sections, objects, cache: Mutex::default() }))
}

/// Which pages each of these groups has in an object's runs; `None` unless they are just the groups that have some. Runs
/// can name pages without end, so no more of them are gone through than the groups can have.
fn presence(runs: impl Iterator<Item = Range<u64>>, groups: &Groups) -> Option<Vec<Present>> {
    let mut found: Vec<Present> = Vec::new();
    let mut last = None;
    for page in runs.flatten() {
        let group = page / GROUP;
        if last != Some(group) {
            let (expected, _) = groups.get(found.len())?;
            if *expected != group {
                return None;
            }
            found.push(Present::default());
            last = Some(group);
        }
        found.last_mut()?[place(page) / 8] |= 1 << (page % 8);
    }
    (found.len() == groups.len()).then_some(found)
}

impl std::fmt::Debug for Valid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Valid").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_gone_through_as_far_as_their_groups_are_listed() {
        let listed = |groups: &[u64]| -> Groups { groups.iter().map(|group| (*group, [1; _])).collect() };
        let of = |runs: &[Range<u64>], groups: &[u64]| presence(runs.iter().cloned(), &listed(groups));
        let present = |pages: &[usize]| {
            let mut present = Present::default();
            pages.iter().for_each(|page| present[page / 8] |= 1 << (page % 8));
            present
        };
        assert_eq!(of(&[], &[]), Some(vec![]));
        let expected = vec![present(&[3, 255]), present(&[0]), present(&[7])];
        assert_eq!(of(&[3..4, 255..257, 1031..1032], &[0, 1, 4]), Some(expected));
        for other in [&[0][..], &[0, 1], &[0, 1, 3], &[0, 1, 4, 5], &[1, 4], &[]] {
            assert_eq!(of(&[3..4, 255..257, 1031..1032], other), None, "{other:?}");
        }
        // Years of work, and more than all memory.
        for groups in [&[][..], &[1], &[0, 1], &[0, 2]] {
            assert_eq!(of(&[5..6, 300..u64::MAX], groups), None);
        }
    }
}
