//! The retained versions: a tree that is always rooted where the mirror is.

use std::collections::{TryReserveError, VecDeque};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::sync::Arc;

use cairn_abi::{CheckpointId, RegionId, RegionName};

use crate::delta::Delta;

mod image;

pub(crate) use image::MOST;
pub use image::{VersionImage, VersionsImage};

/// A region as a checkpoint knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    pub(crate) id: RegionId,
    pub(crate) name: RegionName,
}

/// The regions of a checkpoint, ascending by id. Shared by the versions between which nothing was registered or dropped.
pub(crate) type RegionSet = Arc<[Member]>;

/// The retained versions, by Baker's rerooting: the root's bytes are the mirror, and every other version has a
/// delta that says where it differs from the next one toward the root.
///
/// ```text
///      1 ──> 2 ──> 4 (root, the mirror)       reroot(3):     1 ──> 2 <── 4
///            ^                                                     │
///      3 ────┘                                                     └──> 3 (root)
/// ```
///
/// To reroot is to walk from the root to the wanted version and swap each edge's bytes with the mirror.
#[derive(Debug)]
pub(crate) struct Versions {
    nodes: Vec<Option<Node>>,
    /// Retained ids, ascending, with their nodes.
    named: VecDeque<(CheckpointId, usize)>,
    root: Option<usize>,
    /// The newest id ever given; 0 before the first.
    last: u64,
    /// Ids that were given to checkpoints that then failed, or left out.
    unused: u64,
    /// Ids that were left out: they never were a checkpoint's here. As many spans as there were jumps, which are few: a
    /// session jumps where it begins, recovers, and gets a store that others had before.
    left_out: Vec<RangeInclusive<u64>>,
    /// The one that was taken elsewhere, and is one here although its id was left out; 0 if there is none.
    imported: CheckpointId,
    /// The newest id that was evicted; 0 if none was.
    evicted: CheckpointId,
    history: NonZeroUsize,
    /// The buffers of a dropped delta, for the next: with a full history no checkpoint allocates.
    spare: Delta,
    /// Edges of a path, from a version to the root. Kept so that rerooting allocates nothing.
    path: Vec<usize>,
}

/// A version.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: CheckpointId,
    /// The version that memory derived from when it was taken.
    pub(crate) parent: Option<CheckpointId>,
    pub(crate) set: RegionSet,
    pub(crate) pages_changed: u64,
    /// Where it differs from `next`; empty in the root.
    delta: Delta,
    next: Option<usize>,
    /// Versions whose `next` it is.
    children: usize,
    /// Whether a program can ask for it. If not, it is here for its children's sake.
    named: bool,
    /// Who else has `delta`.
    kept: Kept,
}

/// Whether whoever keeps the engine elsewhere has a version's delta as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Kept {
    /// No: it changed since.
    #[default]
    No,
    /// It was told.
    Handed,
    /// Yes.
    Yes,
}

/// What became of an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lookup {
    /// Retained, in this node.
    Retained(usize),
    /// More than the history were taken after it.
    Evicted,
    /// Never given here, or released.
    Unknown,
}

impl Versions {
    pub(crate) fn new(history: NonZeroUsize) -> Self {
        Self {
            nodes: Vec::new(),
            named: VecDeque::new(),
            root: None,
            last: 0,
            unused: 0,
            left_out: Vec::new(),
            imported: CheckpointId(0),
            evicted: CheckpointId(0),
            history,
            spare: Delta::default(),
            path: Vec::new(),
        }
    }

    /// The version that the mirror and, but for what was written since, live memory are.
    pub(crate) fn root(&self) -> Option<&Node> {
        self.root.and_then(|root| self.nodes[root].as_ref())
    }

    /// How many can be asked for.
    pub(crate) fn retained(&self) -> usize {
        self.named.len()
    }

    /// The oldest id that can be asked for, or 0.
    pub(crate) fn oldest(&self) -> CheckpointId {
        self.named.front().map_or(CheckpointId(0), |&(id, _)| id)
    }

    /// Checkpoints ever taken.
    pub(crate) fn taken(&self) -> u64 {
        self.last - self.unused
    }

    /// The id that the next [`commit`](Self::commit) gives, or the next [`fail`](Self::fail) uses up.
    pub(crate) fn next_id(&self) -> CheckpointId {
        CheckpointId(self.last + 1)
    }

    /// The newest id ever given, also to a checkpoint that failed; 0 before the first.
    pub(crate) fn last_id(&self) -> CheckpointId {
        CheckpointId(self.last)
    }

    /// Uses an id up for a checkpoint that was announced and failed.
    pub(crate) fn fail(&mut self) {
        self.last += 1;
        self.unused += 1;
    }

    /// Leaves ids out, up to this one.
    pub(crate) fn skip_to(&mut self, id: CheckpointId) {
        if self.last < id.0 {
            self.left_out.push(self.last + 1..=id.0);
            self.unused += id.0 - self.last;
            self.last = id.0;
        }
    }

    /// Makes the mirror's bytes the version `id`, the only one: the root. Room was made by
    /// [`reserve`](Self::reserve).
    pub(crate) fn import(&mut self, id: CheckpointId, set: RegionSet, pages_changed: u64) {
        self.skip_to(id);
        let root = self.insert(Node::new(id, None, set, pages_changed));
        self.imported = id;
        self.named.push_back((id, root));
        self.root = Some(root);
    }

    /// The node of the oldest id that can be asked for and is greater than `id`.
    pub(crate) fn next_named(&self, id: CheckpointId) -> Option<usize> {
        let at = self.named.partition_point(|&(named, _)| named <= id);
        self.named.get(at).map(|&(_, node)| node)
    }

    pub(crate) fn lookup(&self, id: CheckpointId) -> Lookup {
        match self.named.binary_search_by_key(&id, |&(id, _)| id) {
            Ok(at) => Lookup::Retained(self.named[at].1),
            Err(_) if self.is_past(id) => Lookup::Evicted,
            Err(_) => Lookup::Unknown,
        }
    }

    /// Whether an id was ever one of ours, also of a checkpoint that failed.
    pub(crate) fn was_given(&self, id: CheckpointId) -> bool {
        let is_left_out = self.left_out.iter().any(|span| span.contains(&id.0));
        0 < id.0 && id.0 <= self.last && (id == self.imported || !is_left_out)
    }

    /// Whether it was one of ours, and a later one was evicted, or as many as are retained were taken after it: had nobody
    /// released any, it would be gone.
    fn is_past(&self, id: CheckpointId) -> bool {
        let enough_after = || self.history.get() as u64 <= self.taken_after(id);
        self.was_given(id) && (id <= self.evicted || enough_after())
    }

    /// How many of ours have greater ids than `id`, which is at most the last.
    fn taken_after(&self, id: CheckpointId) -> u64 {
        let left_out = self.left_out.iter().map(|span| span.end().saturating_sub(id.0.max(span.start() - 1)));
        self.last - id.0 - left_out.sum::<u64>() + u64::from(id < self.imported)
    }

    /// The version in `node`, which `lookup` found.
    pub(crate) fn node(&self, node: usize) -> &Node {
        self.nodes[node].as_ref().expect("a node that is named or linked to exists")
    }

    /// Bytes that are kept for the version in `node` alone.
    pub(crate) fn node_bytes(&self, node: usize) -> u64 {
        self.node(node).delta.bytes()
    }

    /// Memory of all deltas.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.nodes.iter().flatten().map(|node| node.delta.resident_bytes()).sum()
    }

    /// Bytes that all deltas hold.
    pub(crate) fn bytes(&self) -> u64 {
        self.nodes.iter().flatten().map(|node| node.delta.bytes()).sum()
    }

    /// Bytes of the tables beside the deltas.
    pub(crate) fn table_bytes(&self) -> u64 {
        let tables = self.nodes.capacity() * size_of::<Option<Node>>()
            + self.named.capacity() * size_of::<(CheckpointId, usize)>()
            + self.path.capacity() * size_of::<usize>();
        tables as u64 + self.spare.resident_bytes()
    }

    /// Makes room for one version more, so that [`commit`](Self::commit) can't fail.
    pub(crate) fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.nodes.try_reserve(1)?;
        self.named.try_reserve(1)?;
        // A path has at most one edge a node, the new one included.
        self.path.clear();
        self.path.try_reserve(self.nodes.len() + 1)
    }

    /// Buffers for a delta.
    pub(crate) fn take_spare(&mut self) -> Delta {
        std::mem::take(&mut self.spare)
    }

    /// Takes the buffers of a delta that isn't needed.
    pub(crate) fn give_spare(&mut self, mut delta: Delta) {
        delta.clear();
        if delta.resident_bytes() > self.spare.resident_bytes() {
            self.spare = delta;
        }
    }

    /// Makes the mirror's bytes a version: the new root. `old` holds the former root's bytes where they differ.
    /// Evicts the oldest as long as there are too many, or all deltas have more than `max_bytes`. Room was made by
    /// [`reserve`](Self::reserve).
    pub(crate) fn commit(
        &mut self,
        mut old: Delta,
        set: RegionSet,
        pages_changed: u64,
        max_bytes: u64,
    ) -> CheckpointId {
        old.trim();
        self.last += 1;
        let id = self.last_id();
        let parent = self.root().map(|root| root.id);
        let children = usize::from(self.root.is_some());
        let new = self.insert(Node { children, ..Node::new(id, parent, set, pages_changed) });
        self.named.push_back((id, new));
        match self.root.replace(new) {
            Some(former) => {
                let node = self.node_mut(former);
                node.set_delta(old);
                node.next = Some(new);
                self.collapse(former);
            }
            None => self.give_spare(old),
        }
        while self.named.len() > 1
            && (self.named.len() > self.history.get() || self.bytes() > max_bytes)
            && let Some((oldest, node)) = self.named.pop_front()
        {
            self.evicted = oldest;
            self.unname(node);
        }
        id
    }

    /// Forgets the version in `node`.
    pub(crate) fn release(&mut self, node: usize) {
        let id = self.node(node).id;
        self.named.retain(|&(named, _)| named != id);
        self.unname(node);
    }

    /// The pages in which the version in `node` and the root may differ, and the chunks of them. A page may be
    /// named several times.
    pub(crate) fn touched(&self, node: usize) -> impl Iterator<Item = (RegionId, usize, u64)> + '_ {
        let path = std::iter::successors(Some(node), |&at| self.node(at).next);
        path.flat_map(|at| self.node(at).delta.touched())
    }

    /// Makes room for [`reroot`](Self::reroot) to the version in `node`.
    pub(crate) fn reserve_reroot(&mut self, node: usize) -> Result<(), TryReserveError> {
        let mut at = Some(node);
        while let Some(node) = at {
            let node = self.node_mut(node);
            let unpacked = node.delta.unpack();
            // Its image is another one then, whatever becomes of the rollback.
            if !matches!(unpacked, Ok(false)) {
                node.kept = Kept::No;
            }
            unpacked?;
            at = node.next;
        }
        Ok(())
    }

    /// Makes the version in `node` the root, and returns the former one, which shall be [settled](Self::settle) or made
    /// the root again. Room was made by [`reserve_reroot`](Self::reserve_reroot). `swap` swaps a delta's bytes with the mirrors', which makes them its bytes.
    pub(crate) fn reroot(&mut self, node: usize, mut swap: impl FnMut(&mut Delta)) -> Option<usize> {
        let former = self.root?;
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        path.extend(std::iter::successors(Some(node), |&at| self.node(at).next).filter(|&at| at != former));
        let mut root = former;
        for &next in path.iter().rev() {
            let new = self.node_mut(next);
            let mut delta = new.set_delta(Delta::default());
            new.next = None;
            new.children += 1;
            swap(&mut delta);
            let old = self.node_mut(root);
            old.set_delta(delta);
            old.next = Some(next);
            old.children -= 1;
            root = next;
        }
        self.path = path;
        self.root = Some(root);
        Some(former)
    }

    /// Drops a former root that nobody needs any more.
    pub(crate) fn settle(&mut self, former: usize) {
        self.collapse(former);
    }

    /// Removes all that the history holds of `region`.
    pub(crate) fn purge(&mut self, region: RegionId) {
        for node in self.nodes.iter_mut().flatten() {
            node.delta.purge(region);
            node.kept = Kept::No;
        }
    }

    fn node_mut(&mut self, node: usize) -> &mut Node {
        self.nodes[node].as_mut().expect("a node that is named or linked to exists")
    }

    fn insert(&mut self, node: Node) -> usize {
        if let Some(free) = self.nodes.iter().position(Option::is_none) {
            self.nodes[free] = Some(node);
            return free;
        }
        self.nodes.push(Some(node));
        self.nodes.len() - 1
    }

    fn unname(&mut self, node: usize) {
        self.node_mut(node).named = false;
        self.collapse(node);
    }

    /// Removes the version in `node` if nobody can ask for it and it has at most one child, and then the next one if that follows.
    fn collapse(&mut self, node: usize) {
        let mut at = Some(node);
        while let Some(node) = at.take() {
            let Node { named: false, next: Some(next), children, .. } = *self.node(node) else { return };
            match children {
                0 => {
                    self.remove(node);
                    self.node_mut(next).children -= 1;
                    at = Some(next);
                }
                1 => self.merge_into_child(node, next),
                _ => {}
            }
        }
    }

    /// Links the only child of `node` to `next` and removes `node`. Without memory for that it stays: it is
    /// merely not needed.
    fn merge_into_child(&mut self, node: usize, next: usize) {
        let is_child = |other: &Option<Node>| other.as_ref().is_some_and(|other| other.next == Some(node));
        let Some(child) = self.nodes.iter().position(is_child) else { return };
        let Ok(merged) = self.node(child).delta.merge(&self.node(node).delta) else { return };
        let child = self.node_mut(child);
        child.next = Some(next);
        let replaced = child.set_delta(merged);
        self.give_spare(replaced);
        self.remove(node);
    }

    fn remove(&mut self, node: usize) {
        if let Some(node) = self.nodes[node].take() {
            self.give_spare(node.delta);
        }
    }
}

impl Node {
    /// A version that can be asked for, and is the root.
    fn new(id: CheckpointId, parent: Option<CheckpointId>, set: RegionSet, pages_changed: u64) -> Self {
        let (delta, kept) = (Delta::default(), Kept::No);
        Self { id, parent, set, pages_changed, delta, next: None, children: 0, named: true, kept }
    }

    /// Gives it another delta; the one that it had.
    fn set_delta(&mut self, delta: Delta) -> Delta {
        self.kept = Kept::No;
        std::mem::replace(&mut self.delta, delta)
    }
}

#[cfg(test)]
mod tests;
