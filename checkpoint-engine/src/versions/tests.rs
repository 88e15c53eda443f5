//! The tree's shape after any sequence of commits, releases and reroots.

use proptest::prelude::*;

use super::*;

fn versions(history: usize) -> Versions {
    Versions::new(NonZeroUsize::new(history).unwrap())
}

fn commit(versions: &mut Versions) -> CheckpointId {
    versions.reserve().unwrap();
    versions.commit(Delta::default(), Arc::new([]), 0, u64::MAX)
}

fn commit_many(versions: &mut Versions, count: usize) {
    for _ in 0..count {
        commit(versions);
    }
}

fn node_of(versions: &Versions, id: u64) -> usize {
    match versions.lookup(CheckpointId(id)) {
        Lookup::Retained(node) => node,
        other => panic!("{id} is {other:?}"),
    }
}

/// Children are counted, every version leads to the root, and nothing is kept without need.
fn assert_sound(versions: &Versions) {
    let nodes = || versions.nodes.iter().enumerate().filter_map(|(at, node)| Some((at, node.as_ref()?)));
    for (at, node) in nodes() {
        assert_eq!(nodes().filter(|(_, other)| other.next == Some(at)).count(), node.children);
        assert_eq!(node.next.is_none(), versions.root == Some(at));
        let steps = std::iter::successors(Some(at), |&at| versions.node(at).next);
        assert_eq!(steps.take(nodes().count()).last(), versions.root);
        assert!(node.named || node.next.is_none() || node.children > 1, "{} is kept for nothing", node.id);
    }
    assert_eq!(nodes().filter(|(_, node)| node.named).count(), versions.named.len());
    assert!(versions.named.iter().all(|&(id, at)| versions.node(at).id == id && versions.node(at).named));
}

proptest! {
    #[test]
    fn the_tree_stays_sound(steps in prop::collection::vec((0..4u8, 0..8usize), 1..80), history in 1..6usize) {
        let mut versions = versions(history);
        for (step, which) in steps {
            let named = versions.named.get(which).copied();
            match (step, named) {
                (0 | 1, _) => commit_many(&mut versions, 1),
                (2, Some((_, node))) => versions.release(node),
                (_, Some((id, node))) => {
                    versions.reserve_reroot(node).unwrap();
                    let former = versions.reroot(node, |_| {}).unwrap();
                    versions.settle(former);
                    prop_assert_eq!(versions.root().unwrap().id, id);
                }
                _ => {}
            }
            assert_sound(&versions);
            prop_assert!(versions.retained() <= history);
        }
    }
}

#[test]
fn an_id_is_retained_then_evicted() {
    let mut versions = versions(2);
    assert_eq!(versions.lookup(CheckpointId(1)), Lookup::Unknown);
    assert_eq!(versions.oldest(), CheckpointId(0));
    (1..=3).for_each(|id| assert_eq!(commit(&mut versions), CheckpointId(id)));
    assert_eq!(versions.lookup(CheckpointId(0)), Lookup::Unknown);
    assert_eq!(versions.lookup(CheckpointId(1)), Lookup::Evicted);
    assert_eq!(versions.oldest(), CheckpointId(2));
    let node = node_of(&versions, 3);
    versions.release(node);
    assert_eq!(versions.lookup(CheckpointId(3)), Lookup::Unknown);
    assert_eq!(versions.lookup(CheckpointId(4)), Lookup::Unknown);
}

#[test]
fn a_released_ancestor_stays_while_two_versions_need_it() {
    let mut versions = versions(8);
    commit(&mut versions);
    commit(&mut versions);
    let base = node_of(&versions, 2);
    for _ in 0..2 {
        let former = versions.reroot(base, |_| {}).unwrap();
        versions.settle(former);
        commit(&mut versions);
    }
    let nodes = |versions: &Versions| versions.nodes.iter().flatten().count();
    versions.release(base);
    // 1, 3 and 4 all meet in it.
    assert_eq!(nodes(&versions), 4);
    let first = node_of(&versions, 1);
    versions.release(first);
    assert_eq!(nodes(&versions), 2);
    assert_sound(&versions);
}

#[test]
fn a_full_history_allocates_no_nodes() {
    let mut versions = versions(3);
    commit_many(&mut versions, 10);
    let capacity = versions.nodes.capacity();
    commit_many(&mut versions, 1000);
    assert_eq!((versions.nodes.len(), versions.nodes.capacity()), (4, capacity));
}
