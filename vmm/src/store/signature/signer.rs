//! Signs checkpoints while they are made.

use std::collections::{BTreeMap, HashMap};
use std::iter;
use std::ops::Range;
use std::sync::Arc;

use cairn_store::{Batch, BatchError, Change, Object, ObjectIndex, ObjectName, PAGE_SIZE, Snapshot, section};

use super::checked::SignedObject;
use super::form::{
    Body, GROUP, Groups, Keys, Present, SECTION, Shape, Signature, SignedPages, TAG, TAGS, Tag, Tags,
    VERSION, place, present, signed, tag_at,
};
use super::{CheckedSnapshot, Key, ReadError, Unsigned};

/// Bytes of the pieces in which tags are changed in a store: a chunk has four.
const CHUNK: usize = 64;
/// What objects with tags are, as the store keeps types.
const TAGS_TAG: u64 = u64::from_le_bytes(*b"tags\0\0\0\0");

/// Signs one checkpoint after the other, each as a change to the one before. It keeps 16 bytes for each page that isn't
/// zero.
#[derive(Debug)]
pub struct Signer {
    key: Key,
    objects: HashMap<ObjectName, Known>,
    /// Has the tags that aren't known here.
    before: Option<Arc<CheckedSnapshot>>,
}

/// An object of the last checkpoint.
#[derive(Debug, Default)]
struct Known {
    pages: u64,
    groups: BTreeMap<u64, Group>,
    /// In the checkpoint before.
    index: Option<ObjectIndex>,
}

/// A group with a page that isn't zero.
#[derive(Debug)]
struct Group {
    tag: Tag,
    present: Present,
    /// None: those of the checkpoint before.
    tags: Option<Box<Tags>>,
}

/// What is known once a batch is committed.
#[derive(Debug)]
pub struct Staged(Vec<StagedObject>);

#[derive(Debug)]
struct StagedObject {
    name: ObjectName,
    pages: u64,
    anew: bool,
    edits: BTreeMap<u64, Group>,
}

/// Why a batch can't be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The checkpoint before can't be opened.
    #[error("the checkpoint before, of which a page is given in part, can't be opened")]
    Parent,
    /// The checkpoint before isn't what was signed.
    #[error("the checkpoint before can't be relied on")]
    Changed(#[source] Unsigned),
    /// A page of the checkpoint before.
    #[error("the checkpoint before can't be read")]
    Before(#[from] ReadError),
    /// The checkpoint before, which has a valid signature, isn't the one that this one is a change to.
    #[error("the checkpoint before is another one than was made here: page {page} of '{object}' differs")]
    Other {
        /// The object.
        object: String,
        /// The page.
        page: u64,
    },
    /// More than a checkpoint can have.
    #[error("the signature doesn't fit")]
    Batch(#[from] BatchError),
    /// As before.
    #[error("the signature doesn't fit")]
    Section(#[from] section::SectionError),
}

/// The checkpoint before, which is opened when a page of it is needed.
enum Parent<F> {
    Closed(F),
    Open(Box<CheckedSnapshot>),
    Lost,
}

impl<F: FnOnce() -> Option<Arc<Snapshot>>> Parent<F> {
    /// A page of it, zeros if it hasn't that.
    fn page(&mut self, key: &Key, name: &ObjectName, page: u64) -> Result<[u8; PAGE_SIZE], SignError> {
        if let Self::Closed(_) = self
            && let Self::Closed(open) = std::mem::replace(self, Self::Lost)
        {
            let snapshot = open().ok_or(SignError::Parent)?;
            let checked = CheckedSnapshot::open(snapshot, key).map_err(ReadError::from)?;
            *self = Self::Open(Box::new(checked.map_err(SignError::Changed)?));
        }
        let Self::Open(parent) = self else { return Err(SignError::Parent) };
        let mut bytes = [0; PAGE_SIZE];
        if let Some(index) = parent.find(name.as_str()).filter(|index| parent.has(*index, page)) {
            parent.read_page(index, page, &mut bytes)?;
        }
        Ok(bytes)
    }
}

/// An object while its batch is gone through.
struct Work<'a> {
    known: Option<&'a Known>,
    before: Option<&'a CheckedSnapshot>,
    pages: u64,
    edits: BTreeMap<u64, Edit>,
}

struct Edit {
    tags: Box<Tags>,
    /// The chunks of it that are new.
    chunks: u64,
}

impl Signer {
    /// Begins with a checkpoint that has no parent.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self { key, objects: HashMap::new(), before: None }
    }

    /// Goes on from a checkpoint with a valid signature.
    #[must_use]
    pub fn after(key: Key, before: Arc<CheckedSnapshot>) -> Self {
        let known = |SignedObject { object, index, groups, present }: SignedObject<'_>| {
            // Of one whose pages aren't listed it is known that there are some.
            let present = present.into_iter().chain(iter::repeat([u8::MAX; _]));
            let group = |((number, tag), present)| (number, Group { tag, present, tags: None });
            let groups = groups.into_iter().zip(present).map(group).collect();
            (object.name.clone(), Known { pages: object.pages, groups, index: Some(index) })
        };
        let objects = before.signed().into_iter().map(known).collect();
        Self { key, objects, before: Some(before) }
    }

    /// What it signs with.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Adds its signature to a batch whose parent is the last one that was [accepted](Self::accept), and the tags of
    /// the objects that are `read_lazily`. Of pages that the batch has in part, `whole` has those that are at hand;
    /// for others `parent` opens the parent, which takes much longer to read.
    ///
    /// # Errors
    /// [`SignError`]; the batch is of no use then.
    pub fn stage<'a>(
        &self,
        batch: &mut Batch,
        read_lazily: impl Fn(&Object) -> bool,
        whole: impl Fn(&ObjectName, u64) -> Option<&'a [u8; PAGE_SIZE]>,
        parent: impl FnOnce() -> Option<Arc<Snapshot>>,
    ) -> Result<Staged, SignError> {
        let mut works: Vec<Work<'_>> =
            batch.objects().iter().map(|object| self.work(batch, object)).collect::<Result<_, _>>()?;
        let keys = &self.key.0;
        let mut parent = Parent::Closed(parent);
        for (at, change) in batch.changes() {
            match change {
                Change::Zero(first, count) => works[at].zero(first..first + count)?,
                Change::Page(page, bytes) => works[at].set(page, keys.page(bytes))?,
                Change::Chunks(page, mask, chunks) => {
                    let name = &batch.objects()[at].name;
                    if let Some(bytes) = whole(name, page) {
                        works[at].set(page, keys.page(bytes))?;
                        continue;
                    }
                    let mut bytes = parent.page(&self.key, name, page)?;
                    // Of the same number there may be others with a valid signature: another program's, or those of
                    // another run of this one.
                    if keys.page(&bytes) != works[at].tag(page)? {
                        return Err(SignError::Other { object: name.to_string(), page });
                    }
                    let set = (0..PAGE_SIZE / CHUNK).filter(|chunk| mask & 1 << chunk != 0);
                    for (chunk, new) in set.zip(chunks.chunks_exact(CHUNK)) {
                        bytes[chunk * CHUNK..][..CHUNK].copy_from_slice(new);
                    }
                    works[at].set(page, keys.page(&bytes))?;
                }
            }
        }
        let mut body = Body::default();
        let sections = batch.named_sections().map(|(name, bytes)| (name.to_owned(), keys.section(bytes)));
        body.sections = sections.collect();
        body.sections.sort_unstable();
        let objects: Vec<Object> = batch.objects().to_vec();
        let mut shapes = Vec::with_capacity(objects.len());
        let mut staged = Vec::with_capacity(objects.len());
        let mut works: Vec<Option<Work<'_>>> = works.into_iter().map(Some).collect();
        for (at, object) in signed(objects.iter()) {
            let Some(work) = works[at].take() else { continue };
            let lazily = read_lazily(object);
            if lazily {
                work.keep(batch, object)?;
            }
            let (anew, known, pages) = (work.known.is_none(), work.known, work.pages);
            let edits = work.finish(keys);
            let (groups, present) = listed(known, pages, &edits);
            body.objects.push(SignedPages { lazily, groups });
            shapes.push(Shape { object, present: if lazily { present } else { Vec::new() } });
            staged.push(StagedObject { name: object.name.clone(), pages, anew, edits });
        }
        let code = *keys.code(batch.id().0, &body, &shapes).as_bytes();
        let signature = Signature { version: VERSION, key: keys.id(), body, code };
        batch.section(SECTION, section::encode(&signature)?)?;
        Ok(Staged(staged))
    }

    /// The batch that was staged is committed, and the next one is a change to it.
    pub fn accept(&mut self, staged: Staged) {
        let mut before = std::mem::take(&mut self.objects);
        for StagedObject { name, pages, anew, edits } in staged.0 {
            let mut known = before.remove(&name).filter(|_| !anew).unwrap_or_default();
            if pages < known.pages {
                known.groups.split_off(&pages.div_ceil(GROUP));
            }
            known.pages = pages;
            for (group, edit) in edits {
                if edit.present == Present::default() {
                    known.groups.remove(&group);
                } else {
                    known.groups.insert(group, edit);
                }
            }
            self.objects.insert(name, known);
        }
    }

    fn work<'a>(&'a self, batch: &Batch, object: &Object) -> Result<Work<'a>, SignError> {
        let known = batch.parent().and_then(|_| self.objects.get(&object.name));
        let pages = object.pages;
        let mut work = Work { known, before: self.before.as_deref(), pages, edits: BTreeMap::new() };
        if let Some(known) = known.filter(|known| pages < known.pages) {
            // What is behind the end is gone, and zero if the object grows again.
            work.zero(pages..known.pages.min(pages.next_multiple_of(GROUP)))?;
        }
        Ok(work)
    }
}

impl Work<'_> {
    /// A group to change.
    fn edit(&mut self, group: u64) -> Result<&mut Edit, ReadError> {
        if !self.edits.contains_key(&group) {
            let mut tags = Box::new([0; PAGE_SIZE]);
            let known = self.known.and_then(|known| Some((known, known.groups.get(&group)?)));
            match known {
                Some((_, Group { tags: Some(known), .. })) => tags = known.clone(),
                Some((Known { index: Some(index), .. }, _)) => {
                    if let Some(before) = self.before {
                        *tags = *before.group(*index, group)?;
                    }
                }
                _ => {}
            }
            self.edits.insert(group, Edit { tags, chunks: 0 });
        }
        Ok(self.edits.entry(group).or_insert_with(|| Edit { tags: Box::new([0; PAGE_SIZE]), chunks: 0 }))
    }

    /// The tag that a page has so far.
    fn tag(&mut self, page: u64) -> Result<Tag, ReadError> {
        Ok(tag_at(&self.edit(page / GROUP)?.tags, place(page)))
    }

    fn set(&mut self, page: u64, tag: Tag) -> Result<(), ReadError> {
        let edit = self.edit(page / GROUP)?;
        edit.tags[place(page) * TAG..][..TAG].copy_from_slice(&tag);
        edit.chunks |= 1 << (place(page) * TAG / CHUNK);
        Ok(())
    }

    fn zero(&mut self, pages: Range<u64>) -> Result<(), ReadError> {
        if pages.is_empty() {
            return Ok(());
        }
        let groups = pages.start / GROUP..pages.end.div_ceil(GROUP);
        let known = self.known.iter().flat_map(|known| known.groups.range(groups.clone()));
        let known: Vec<u64> = known.map(|(group, _)| *group).collect();
        let edited: Vec<u64> = self.edits.range(groups).map(|(group, _)| *group).collect();
        for group in known.into_iter().chain(edited) {
            let own = (group * GROUP).max(pages.start)..((group + 1) * GROUP).min(pages.end);
            for page in own {
                self.set(page, [0; TAG])?;
            }
        }
        Ok(())
    }

    /// Puts the tags that changed into a batch.
    fn keep(&self, batch: &mut Batch, object: &Object) -> Result<(), BatchError> {
        let name = ObjectName::new(&format!("{TAGS}{}", object.name))?;
        let pages = self.pages.div_ceil(GROUP);
        let kept = batch.object(Object { name, tag: TAGS_TAG, address: 0, pages })?;
        for (group, edit) in self.edits.range(..pages) {
            if batch.parent().is_none() {
                batch.page(kept, *group, &edit.tags)?;
                continue;
            }
            let changed = (0..PAGE_SIZE / CHUNK).filter(|chunk| edit.chunks & 1 << chunk != 0);
            let bytes: Vec<u8> =
                changed.flat_map(|chunk| &edit.tags[chunk * CHUNK..][..CHUNK]).copied().collect();
            batch.chunks(kept, *group, edit.chunks, &bytes)?;
        }
        Ok(())
    }

    fn finish(self, keys: &Keys) -> BTreeMap<u64, Group> {
        let group = |(number, Edit { tags, .. }): (u64, Edit)| {
            (number, Group { tag: keys.group(&tags), present: present(&tags), tags: Some(tags) })
        };
        self.edits.into_iter().map(group).collect()
    }
}

/// All groups of an object of so many pages, with what changed.
fn listed(known: Option<&Known>, pages: u64, edits: &BTreeMap<u64, Group>) -> (Groups, Vec<Present>) {
    let end = pages.div_ceil(GROUP);
    let old = known.into_iter().flat_map(|known| known.groups.range(..end));
    let mut all: BTreeMap<u64, &Group> = old.map(|(number, group)| (*number, group)).collect();
    all.extend(edits.iter().map(|(number, group)| (*number, group)));
    all.retain(|_, group| group.present != Present::default());
    all.into_iter().map(|(number, group)| ((number, group.tag), group.present)).unzip()
}
