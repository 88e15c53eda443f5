//! The cases about checkpoints and their ids.

use cairn_abi::CheckpointId;

use super::{Case, Finding, ensure, ensure_refused};
use crate::error::Error;
use crate::memory::PAGE;
use crate::session::Session;

pub(super) const ALL: &[Case] = &[
    ("a rollback restores a word", restores_a_word),
    ("a rollback can be repeated", rollback_repeats),
    ("checkpoints are reached in any order", any_order),
    ("a branch leaves the other branch alone", branches),
    ("ids are never reused", ids_are_new),
    ("a released checkpoint is gone, the others stay", release),
    ("the oldest is evicted, and no other", eviction),
    ("releasing makes room", release_makes_room),
    ("an id that was never given is refused", unknown_ids),
    ("a checkpoint without writes equals the one before", nothing_written),
    ("a session without regions has checkpoints", no_regions),
    ("pages written at every epoch are restored", hot_pages),
    ("a page that turns zero again is restored", back_to_zero),
    ("figures count what was done", figures),
    ("a rollback that is refused changes nothing", refused_rollback),
];

fn restores_a_word(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u64>("table", 1 << 16)?;
    ensure(session.slice(&table).iter().all(|word| *word == 0), "a new region is not zeros")?;
    session.slice_mut(&table)[7] = 42;
    let id = session.checkpoint()?;
    session.slice_mut(&table)[7] = 0;
    session.slice_mut(&table)[60_000] = 1;
    session.rollback(id)?;
    ensure(session.slice(&table)[7] == 42, "the word is not back")?;
    ensure(session.slice(&table)[60_000] == 0, "a later write stayed")
}

fn rollback_repeats(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u32>("table", 5000)?;
    session.slice_mut(&table).fill(1);
    let id = session.checkpoint()?;
    for round in 2..6 {
        session.slice_mut(&table)[..round * 900].fill(9);
        session.rollback(id)?;
        ensure(session.slice(&table).iter().all(|word| *word == 1), format_args!("wrong in round {round}"))?;
        session.rollback(id)?;
        ensure(session.slice(&table).iter().all(|word| *word == 1), format_args!("twice, round {round}"))?;
    }
    Ok(())
}

fn any_order(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u8>("table", 3 * PAGE)?;
    let ids = fills(session, &table, 1..=5)?;
    for index in [0, 4, 2, 2, 3, 1, 4, 0] {
        session.rollback(ids[index])?;
        let expected = index + 1;
        let holds = session.slice(&table).iter().all(|byte| usize::from(*byte) == expected);
        ensure(holds, format_args!("not the content of checkpoint {expected}"))?;
    }
    Ok(())
}

fn branches(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u8>("table", 2 * PAGE)?;
    let ids = fills(session, &table, 1..=2)?;
    session.rollback(ids[0])?;
    session.slice_mut(&table)[PAGE] = 3;
    let branch = session.checkpoint()?;
    session.rollback(ids[1])?;
    ensure(session.slice(&table).iter().all(|byte| *byte == 2), "the older branch changed")?;
    session.rollback(branch)?;
    ensure(session.slice(&table)[0] == 1 && session.slice(&table)[PAGE] == 3, "the branch is wrong")?;
    let parent = session.checkpoint_figures(branch)?.parent;
    ensure(parent == Some(ids[0]), format_args!("its parent is {parent:?}, not {:?}", ids[0]))?;
    ensure(session.checkpoint_figures(ids[0])?.parent.is_none(), "the first checkpoint has a parent")
}

fn ids_are_new(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u8>("table", PAGE)?;
    let mut newest = CheckpointId(0);
    for round in 0..20 {
        session.slice_mut(&table)[0] = round;
        let id = session.checkpoint()?;
        ensure(id > newest, format_args!("{id} came after {newest}"))?;
        newest = id;
        if round % 3 == 0 {
            session.release(id)?;
        } else if round % 3 == 1 {
            session.rollback(id)?;
        }
    }
    Ok(())
}

fn release(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u8>("table", 2 * PAGE)?;
    let ids = fills(session, &table, 1..=4)?;
    session.release(ids[1])?;
    session.release(ids[3])?;
    for gone in [ids[1], ids[3]] {
        let absent = |error: &Error| matches!(error, Error::NoCheckpoint { id } if *id == gone);
        ensure_refused(session.rollback(gone), "rollback to a released checkpoint", absent)?;
        let absent = |error: &Error| matches!(error, Error::NoCheckpoint { id } if *id == gone);
        ensure_refused(session.release(gone), "a second release", absent)?;
    }
    session.rollback(ids[0])?;
    ensure(session.slice(&table)[PAGE] == 1, "an older checkpoint is wrong")?;
    session.rollback(ids[2])?;
    ensure(session.slice(&table)[PAGE] == 3, "a newer checkpoint is wrong")
}

fn eviction(session: &mut Session) -> Result<(), Finding> {
    let history = session.history();
    let table = session.region::<u32>("table", 3000)?;
    let mut ids = Vec::new();
    for number in 0..history + 3 {
        session.slice_mut(&table).fill(number);
        ids.push((session.checkpoint()?, number));
    }
    let (gone, kept) = ids.split_at(3);
    for (id, _) in gone {
        let evicted =
            |error: &Error| matches!(error, Error::Evicted { history: told, .. } if *told == history);
        ensure_refused(session.rollback(*id), "rollback to an evicted checkpoint", evicted)?;
    }
    for (id, number) in kept {
        session.rollback(*id)?;
        let holds = session.slice(&table).iter().all(|word| word == number);
        ensure(holds, format_args!("checkpoint {id} is wrong"))?;
    }
    Ok(())
}

fn release_makes_room(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u8>("table", PAGE)?;
    session.slice_mut(&table)[0] = 1;
    let first = session.checkpoint()?;
    for _ in 0..3 * session.history() {
        let id = session.checkpoint()?;
        session.release(id)?;
    }
    session.slice_mut(&table)[0] = 2;
    session.rollback(first)?;
    ensure(session.slice(&table)[0] == 1, "the first checkpoint is wrong")
}

fn unknown_ids(session: &mut Session) -> Result<(), Finding> {
    session.region::<u8>("table", PAGE)?;
    let id = session.checkpoint()?;
    for unknown in [CheckpointId(0), CheckpointId(id.0 + 1), CheckpointId(u64::MAX)] {
        let absent = |error: &Error| matches!(error, Error::NoCheckpoint { .. });
        ensure_refused(session.rollback(unknown), "rollback to no checkpoint", absent)?;
        ensure_refused(session.release(unknown), "release of no checkpoint", absent)?;
        ensure_refused(session.checkpoint_figures(unknown), "figures of no checkpoint", absent)?;
    }
    // Where a store has older ones, those were never this session's, however many follow.
    for _ in 0..session.history() {
        session.checkpoint()?;
    }
    for before in [CheckpointId(id.0 - 1), CheckpointId(1.min(id.0 - 1))] {
        let absent = |error: &Error| matches!(error, Error::NoCheckpoint { .. });
        ensure_refused(session.rollback(before), "rollback to what another session took", absent)?;
    }
    let evicted = |error: &Error| matches!(error, Error::Evicted { .. });
    ensure_refused(session.rollback(id), "rollback to the oldest", evicted)
}

fn nothing_written(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u8>("table", 4 * PAGE)?;
    session.slice_mut(&table).fill(5);
    let first = session.checkpoint()?;
    let second = session.checkpoint()?;
    session.slice_mut(&table).fill(6);
    session.rollback(second)?;
    ensure(session.slice(&table).iter().all(|byte| *byte == 5), "the second is wrong")?;
    session.rollback(first)?;
    ensure(session.slice(&table).iter().all(|byte| *byte == 5), "the first is wrong")
}

fn no_regions(session: &mut Session) -> Result<(), Finding> {
    let id = session.checkpoint()?;
    session.rollback(id)?;
    session.release(id)?;
    Ok(())
}

/// Pages that are written at every epoch and pages that are not go different ways in some engines.
fn hot_pages(session: &mut Session) -> Result<(), Finding> {
    const EPOCHS: u8 = 40;
    let table = session.region::<u8>("table", 64 * PAGE)?;
    let mut last = None;
    for epoch in 1..=EPOCHS {
        let slice = session.slice_mut(&table);
        for page in [0, 1, 2, 31, 63] {
            slice[page * PAGE + 77] = epoch;
        }
        slice[(usize::from(epoch) % 64) * PAGE + 4095] = epoch;
        if epoch % 8 == 0 {
            slice[5 * PAGE] = epoch;
        }
        last = Some((
            session.checkpoint()?,
            session.slice(&table).to_vec(),
            last.map(|(id, copy, _)| (id, copy)),
        ));
    }
    let Some((newest, copy, Some((before, copy_before)))) = last else { return Ok(()) };
    session.slice_mut(&table).fill(0xee);
    for (id, expected) in [(newest, &copy), (before, &copy_before), (newest, &copy)] {
        session.rollback(id)?;
        ensure(session.slice(&table) == expected, format_args!("checkpoint {id} is wrong"))?;
    }
    Ok(())
}

fn back_to_zero(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u8>("table", 3 * PAGE)?;
    let zeros = session.checkpoint()?;
    session.slice_mut(&table).fill(7);
    let sevens = session.checkpoint()?;
    session.slice_mut(&table)[PAGE..].fill(0);
    let mixed = session.checkpoint()?;
    for (id, first, second) in [(sevens, 7, 7), (zeros, 0, 0), (mixed, 7, 0), (zeros, 0, 0), (sevens, 7, 7)] {
        session.rollback(id)?;
        let slice = session.slice(&table);
        ensure(slice[..PAGE].iter().all(|byte| *byte == first), format_args!("first page at {id}"))?;
        ensure(slice[PAGE..].iter().all(|byte| *byte == second), format_args!("second page at {id}"))?;
    }
    Ok(())
}

fn figures(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u8>("table", 8 * PAGE)?;
    let other = session.region::<u8>("other", PAGE)?;
    let ids = fills(session, &table, 1..=3)?;
    session.rollback(ids[1])?;
    session.rollback(ids[0])?;
    session.release(ids[2])?;
    session.drop_region(other)?;
    let figures = session.figures()?;
    ensure(
        (figures.regions, figures.retained, figures.current, figures.checkpoints, figures.rollbacks)
            == (1, 2, ids[0].0, 3, 2),
        format_args!("{figures:?} after 3 checkpoints, 2 rollbacks, 1 release and 1 dropped region"),
    )?;
    let one = session.checkpoint_figures(ids[1])?;
    ensure((one.id, one.parent) == (ids[1], Some(ids[0])), format_args!("{one:?} of the second"))
}

fn refused_rollback(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u8>("table", 4 * PAGE)?;
    let ids = fills(session, &table, 1..=2)?;
    session.release(ids[0])?;
    session.slice_mut(&table)[2 * PAGE] = 9;
    ensure_refused(session.rollback(ids[0]), "rollback to a released checkpoint", |_| true)?;
    let slice = session.slice(&table);
    ensure(slice[0] == 2 && slice[2 * PAGE] == 9, "memory changed")?;
    session.rollback(ids[1])?;
    ensure(session.slice(&table)[2 * PAGE] == 2, "the write before it was lost sight of")
}

/// A checkpoint for each number, with the whole table filled with it.
fn fills(
    session: &mut Session,
    table: &crate::Region<u8>,
    numbers: impl Iterator<Item = u8>,
) -> Result<Vec<CheckpointId>, Finding> {
    let mut ids = Vec::new();
    for number in numbers {
        session.slice_mut(table).fill(number);
        ids.push(session.checkpoint()?);
    }
    Ok(ids)
}
