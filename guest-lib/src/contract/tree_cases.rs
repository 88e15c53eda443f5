//! The cases about the tree of checkpoints, as a search uses it.

use cairn_abi::CheckpointId;

use super::{Case, Finding, ensure};
use crate::memory::PAGE;
use crate::region::Region;
use crate::session::Session;

pub(super) const ALL: &[Case] = &[
    ("the checkpoints are listed with their parents", listed),
    ("a search goes back to siblings", queens),
    ("a tree is walked and felled in any order", any_order),
];

/// Ids and parents, as the session lists them.
fn tree(session: &mut Session) -> Result<Vec<(CheckpointId, Option<CheckpointId>)>, Finding> {
    let listed = session.checkpoints()?;
    for one in &listed {
        let alone = session.checkpoint_figures(one.id)?;
        // What a process holds is measured, and differs from one time to the next.
        let same = (alone.id, alone.parent, alone.pages_changed) == (one.id, one.parent, one.pages_changed);
        ensure(same, format_args!("{one:?} in the list, {alone:?} alone"))?;
    }
    Ok(listed.iter().map(|one| (one.id, one.parent)).collect())
}

fn listed(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u8>("table", 3 * PAGE)?;
    ensure(tree(session)?.is_empty(), "there are checkpoints before the first")?;
    session.slice_mut(&table)[0] = 1;
    let root = session.checkpoint()?;
    session.slice_mut(&table)[PAGE] = 1;
    let left = session.checkpoint()?;
    session.rollback(root)?;
    session.slice_mut(&table)[2 * PAGE] = 1;
    let right = session.checkpoint()?;
    let below = session.checkpoint()?;
    let expected = [(root, None), (left, Some(root)), (right, Some(root)), (below, Some(right))];
    let found = tree(session)?;
    ensure(found == expected, format_args!("{found:?} instead of {expected:?}"))?;
    // A parent that is released is a parent still.
    session.release(right)?;
    session.release(root)?;
    let found = tree(session)?;
    ensure(found == [(left, Some(root)), (below, Some(right))], format_args!("{found:?} of two"))?;
    let mut newest = below;
    for _ in 0..session.history() {
        newest = session.checkpoint()?;
    }
    let found = tree(session)?;
    let all_new =
        found.len() as u64 == u64::from(session.history()) && found.iter().all(|(id, _)| *id > below);
    ensure(all_new && found.last().map(|last| last.0) == Some(newest), format_args!("{found:?} are left"))
}

/// Rows of the board, a page each: a checkpoint for every row is what a session retains at least.
const QUEENS: usize = super::MIN_HISTORY as usize;

/// Places a queen in each row from `row` on; returns how many ways there are. Memory is as it was.
fn place(session: &mut Session, board: &Region<u8>, row: usize) -> Result<u32, Finding> {
    let queen = |board: &[u8], row: usize| usize::from(board[row * PAGE]);
    if row == QUEENS {
        return Ok(1);
    }
    let mut ways = 0;
    let node = session.checkpoint()?;
    for column in 1..=QUEENS {
        let slice = session.slice(board);
        let safe = (0..row).all(|other| {
            let taken = queen(slice, other);
            taken != column && taken.abs_diff(column) != row - other
        });
        if !safe {
            continue;
        }
        // All of the page: whoever doesn't come back from here leaves traces.
        let queen = u8::try_from(column).unwrap_or(0);
        session.slice_mut(board)[row * PAGE..(row + 1) * PAGE].fill(queen);
        ways += place(session, board, row + 1)?;
        session.rollback(node)?;
        let left = session.slice(board)[row * PAGE..].iter().position(|byte| *byte != 0);
        ensure(left.is_none(), format_args!("byte {left:?} below row {row} is left of another try"))?;
    }
    session.release(node)?;
    Ok(ways)
}

fn queens(session: &mut Session) -> Result<(), Finding> {
    let board = session.region::<u8>("board", QUEENS * PAGE)?;
    let ways = place(session, &board, 0)?;
    ensure(ways == 10, format_args!("{ways} ways to place {QUEENS} queens, there are 10"))?;
    ensure(tree(session)?.is_empty(), "checkpoints are left")
}

fn any_order(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u8>("table", 6 * PAGE)?;
    // For every order in which four checkpoints of a tree can be released.
    for order in 0..24_usize {
        let mut kept = Vec::new();
        for (index, parent) in [None, Some(0), Some(0), Some(1)].into_iter().enumerate() {
            if let Some(parent) = parent {
                let (id, _): &(CheckpointId, Vec<u8>) = &kept[parent];
                session.rollback(*id)?;
            }
            let byte = u8::try_from(order * 4 + index + 1).unwrap_or(0);
            session.slice_mut(&table)[index * PAGE..(index + 2) * PAGE].fill(byte);
            kept.push((session.checkpoint()?, session.slice(&table).to_vec()));
        }
        let mut choice = order;
        while !kept.is_empty() {
            for (id, bytes) in kept.iter().rev() {
                session.rollback(*id)?;
                ensure(session.slice(&table) == bytes, format_args!("checkpoint {id} in order {order}"))?;
            }
            let (id, _) = kept.remove(choice % kept.len());
            choice /= kept.len() + 1;
            session.release(id)?;
            let found = tree(session)?;
            let expected = kept.iter().map(|(id, _)| *id);
            ensure(expected.eq(found.iter().map(|(id, _)| *id)), format_args!("{found:?} are listed"))?;
        }
    }
    Ok(())
}
