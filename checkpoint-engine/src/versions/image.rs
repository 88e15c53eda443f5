//! The tree of versions as values, and back.

use std::collections::TryReserveError;
use std::num::NonZeroUsize;
use std::sync::Arc;

use cairn_abi::{CheckpointId, RegionId, RegionName};

use super::{Kept, Member, Node, RegionSet, Versions};
use crate::config::MAX_REGIONS;
use crate::delta::Delta;

/// A version, but for the bytes of its delta.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionImage {
    /// Its id.
    pub id: CheckpointId,
    /// The version that memory derived from when it was taken.
    pub parent: Option<CheckpointId>,
    /// Which of the sets of regions is its.
    pub set: usize,
    /// Pages in which it differed from that.
    pub pages_changed: u64,
    /// Where in the list the version is that its delta leads from; `None` if it is the mirror's, and has no delta.
    pub next: Option<usize>,
    /// Whether it can be asked for.
    pub named: bool,
    /// Bytes that its delta has as an image.
    pub delta_bytes: u64,
}

/// The tree, but for its deltas.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct VersionsImage {
    /// The newest id ever given.
    pub last: u64,
    /// Ids up to that which no checkpoint has.
    pub unused: u64,
    /// Ids that were left out, from the first to the last of each jump.
    pub left_out: Vec<(u64, u64)>,
    /// The id among them that was imported, or 0.
    pub imported: u64,
    /// The newest id that was evicted, or 0.
    pub evicted: u64,
    /// Sets of regions that versions have.
    pub sets: Vec<Vec<(RegionId, RegionName)>>,
    /// The versions.
    pub versions: Vec<VersionImage>,
}

/// What counts up and has come further was never counted: there is room for all that is still to come.
pub(crate) const MOST: u64 = u64::MAX / 2;

/// Jumps of ids that an image may have: bounds what each question for an id looks at.
const MAX_JUMPS: usize = 1 << 12;

/// Why an image is none.
pub(crate) type Flaw = &'static str;

impl VersionsImage {
    /// Checks all that can be told without deltas. Answers the root.
    pub(crate) fn check(&self, history: NonZeroUsize, last_region: u32) -> Result<Option<usize>, Flaw> {
        let versions = &self.versions;
        // One that can't be asked for has two children at least, unless there was no memory to merge it away.
        if history.get().saturating_mul(4).saturating_add(16) < versions.len() {
            return Err("more versions than the history has");
        }
        if history.get() < versions.iter().filter(|version| version.named).count() {
            return Err("more checkpoints than are retained");
        }
        let newest = self.unused.max(self.evicted).max(self.imported);
        if self.last < newest || MOST < self.last || !self.are_left_out() {
            return Err("newest id");
        }
        if versions.len() < self.sets.len() || !self.sets.iter().all(|set| is_set(set, last_region)) {
            return Err("a set of regions");
        }
        for version in versions {
            let derives = version.parent.is_none_or(|parent| 0 < parent.0 && parent < version.id);
            if version.id.0 == 0 || self.last < version.id.0 || !derives || self.sets.len() <= version.set {
                return Err("a version");
            }
        }
        let mut ids: Vec<_> = versions.iter().map(|version| version.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two versions with one id");
        }
        self.root()
    }

    /// Whether the ids that were left out ascend, and none is beyond the newest.
    fn are_left_out(&self) -> bool {
        let mut before = 0;
        self.left_out.len() <= MAX_JUMPS
            && self.left_out.iter().all(|&(first, last)| {
                let next = before < first && first <= last && last <= self.last;
                before = last;
                next
            })
    }

    /// The root, to which all others lead.
    fn root(&self) -> Result<Option<usize>, Flaw> {
        let mut children = vec![Vec::new(); self.versions.len()];
        let mut root = None;
        for (at, version) in self.versions.iter().enumerate() {
            match version.next {
                None if root.is_none() => root = Some(at),
                Some(next) if next < children.len() => children[next].push(at),
                _ => return Err("a version that leads nowhere"),
            }
        }
        let mut reached = 0;
        let mut open: Vec<usize> = root.into_iter().collect();
        while let Some(at) = open.pop() {
            reached += 1;
            open.append(&mut children[at]);
        }
        if reached == self.versions.len() { Ok(root) } else { Err("versions in a circle") }
    }
}

fn is_set(set: &[(RegionId, RegionName)], last_region: u32) -> bool {
    let ascends = set.windows(2).all(|pair| pair[0].0 < pair[1].0);
    ascends && set.len() <= MAX_REGIONS && set.iter().all(|(id, _)| 0 < id.0 && id.0 <= last_region)
}

impl Versions {
    /// As values.
    pub(crate) fn image(&self) -> VersionsImage {
        let mut sets: Vec<&RegionSet> = Vec::new();
        let places = self.nodes.iter().scan(0, |next: &mut usize, node| {
            let place = *next;
            *next += usize::from(node.is_some());
            Some(place)
        });
        let places: Vec<usize> = places.collect();
        let versions = self.nodes.iter().flatten().map(|node| {
            // By what is in them: the same regions are one set, also if others came and went between.
            let known = sets.iter().position(|set| **set == node.set);
            let set = known.unwrap_or_else(|| {
                sets.push(&node.set);
                sets.len() - 1
            });
            VersionImage {
                id: node.id,
                parent: node.parent,
                set,
                pages_changed: node.pages_changed,
                next: node.next.map(|next| places[next]),
                named: node.named,
                delta_bytes: node.delta.bytes_len(),
            }
        });
        let versions = versions.collect();
        let members = |set: &&RegionSet| set.iter().map(|member| (member.id, member.name)).collect();
        VersionsImage {
            last: self.last,
            unused: self.unused,
            left_out: self.left_out.iter().map(|span| (*span.start(), *span.end())).collect(),
            imported: self.imported.0,
            evicted: self.evicted.0,
            sets: sets.iter().map(members).collect(),
            versions,
        }
    }

    /// Tells the deltas that whoever is told hasn't got as they are, or all.
    pub(crate) fn gather(
        &mut self,
        all: bool,
        mut tell: impl FnMut(CheckpointId, Vec<u8>),
    ) -> Result<(), TryReserveError> {
        let gathered = |node: &Node| node.next.is_some() && (all || node.kept != Kept::Yes);
        for node in self.nodes.iter().flatten().filter(|node| gathered(node)) {
            tell(node.id, node.delta.to_bytes()?);
        }
        for node in self.nodes.iter_mut().flatten().filter(|node| gathered(node)) {
            node.kept = Kept::Handed;
        }
        Ok(())
    }

    /// What was told is kept now, or it isn't.
    pub(crate) fn gathered(&mut self, kept: bool) {
        for node in self.nodes.iter_mut().flatten().filter(|node| node.kept == Kept::Handed) {
            node.kept = if kept { Kept::Yes } else { Kept::No };
        }
    }

    /// The tree of a checked image. `today` is shared by the versions that have today's regions.
    pub(crate) fn rebuild(
        &mut self,
        image: &VersionsImage,
        (root, kept): (Option<usize>, bool),
        today: &RegionSet,
        deltas: Vec<Delta>,
    ) -> Result<(), TryReserveError> {
        let sets: Vec<RegionSet> = image.sets.iter().map(|set| shared(set, today)).collect();
        self.nodes.try_reserve_exact(image.versions.len())?;
        self.named.try_reserve_exact(image.versions.len())?;
        let kept = if kept { Kept::Yes } else { Kept::No };
        for (version, delta) in image.versions.iter().zip(deltas) {
            let &VersionImage { id, parent, set, pages_changed, next, named, .. } = version;
            let node = Node::new(id, parent, Arc::clone(&sets[set]), pages_changed);
            self.nodes.push(Some(Node { delta, next, named, kept, ..node }));
        }
        for version in &image.versions {
            if let Some(next) = version.next {
                self.node_mut(next).children += 1;
            }
        }
        let mut named: Vec<_> = image.versions.iter().zip(0..).filter(|(version, _)| version.named).collect();
        named.sort_unstable_by_key(|(version, _)| version.id);
        self.named.extend(named.into_iter().map(|(version, at)| (version.id, at)));
        self.root = root;
        (self.last, self.unused) = (image.last, image.unused);
        self.left_out = image.left_out.iter().map(|&(first, last)| first..=last).collect();
        (self.evicted, self.imported) = (CheckpointId(image.evicted), CheckpointId(image.imported));
        Ok(())
    }
}

fn shared(set: &[(RegionId, RegionName)], today: &RegionSet) -> RegionSet {
    let members = set.iter().map(|&(id, name)| Member { id, name });
    if members.clone().eq(today.iter().copied()) { Arc::clone(today) } else { members.collect() }
}
