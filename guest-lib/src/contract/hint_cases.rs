//! The cases about hints.

use super::{Case, Finding, ensure, ensure_refused};
use crate::error::Error;
use crate::hints::RegionMode;
use crate::memory::PAGE;
use crate::region::Region;
use crate::session::Session;

pub(super) const ALL: &[Case] = &[
    ("hinted writes are kept and undone", hinted_writes),
    ("a hint holds until a checkpoint or a rollback", hints_are_used_up),
    ("hints of a refused rollback are not lost", refused_rollback),
    ("hints that say nothing, too much or nonsense do no harm", nonsense),
    ("hints change nothing where writes are found anyhow", tracked),
    ("scattered hints over a large region", scattered),
    ("a write without a hint is named", missed),
    ("a rollback over a write without a hint is refused", missed_by_rollback),
];

/// Hints and writes one byte in each of the pages.
fn write(session: &mut Session, table: &Region<u8>, pages: &[usize], byte: u8) {
    for page in pages {
        let place = page * PAGE + 1000;
        session.hint(table, place..=place);
        session.slice_mut(table)[place] = byte;
    }
}

/// Fails unless those bytes are `byte`.
fn holds(session: &Session, table: &Region<u8>, pages: &[usize], byte: u8) -> Result<(), Finding> {
    for page in pages {
        let found = session.slice(table)[page * PAGE + 1000];
        ensure(found == byte, format_args!("page {page} holds {found} instead of {byte}"))?;
    }
    Ok(())
}

fn hinted_writes(session: &mut Session) -> Result<(), Finding> {
    let table = session.region_with::<u8>("table", 300 * PAGE, RegionMode::Hinted)?;
    let zeros = session.checkpoint()?;
    write(session, &table, &[0, 63, 64, 299], 1);
    let ones = session.checkpoint()?;
    write(session, &table, &[63, 128], 2);
    session.rollback(ones)?;
    holds(session, &table, &[0, 63, 64, 299], 1)?;
    holds(session, &table, &[128], 0)?;
    write(session, &table, &[64, 200], 3);
    let threes = session.checkpoint()?;
    for (id, first, second) in [(zeros, 0, 0), (threes, 3, 3), (ones, 1, 0), (threes, 3, 3)] {
        session.rollback(id)?;
        holds(session, &table, &[64], first)?;
        holds(session, &table, &[200], second)?;
    }
    holds(session, &table, &[0, 63, 299], 1)
}

fn hints_are_used_up(session: &mut Session) -> Result<(), Finding> {
    let table = session.region_with::<u8>("table", 8 * PAGE, RegionMode::Checked)?;
    write(session, &table, &[3], 1);
    let id = session.checkpoint()?;
    session.slice_mut(&table)[3 * PAGE] = 9;
    let named = |error: &Error| matches!(error, Error::NotHinted { offset, .. } if *offset == 3 * PAGE);
    ensure_refused(session.checkpoint(), "a checkpoint after a write without a hint", named)?;
    session.hint(&table, 3 * PAGE..3 * PAGE + 1);
    session.rollback(id)?;
    session.slice_mut(&table)[3 * PAGE] = 9;
    ensure_refused(session.checkpoint(), "the same after a rollback", named)
}

fn refused_rollback(session: &mut Session) -> Result<(), Finding> {
    let table = session.region_with::<u8>("table", 8 * PAGE, RegionMode::Hinted)?;
    let id = session.checkpoint()?;
    let gone = session.checkpoint()?;
    session.release(gone)?;
    write(session, &table, &[5], 1);
    ensure_refused(session.rollback(gone), "rollback to a released checkpoint", |_| true)?;
    session.rollback(id)?;
    holds(session, &table, &[5], 0)
}

#[expect(clippy::reversed_empty_ranges, reason = "what a program may get wrong")]
fn nonsense(session: &mut Session) -> Result<(), Finding> {
    let table = session.region_with::<u8>("table", 70 * PAGE - 5, RegionMode::Hinted)?;
    write(session, &table, &[69], 1);
    let id = session.checkpoint()?;
    let len = table.len();
    for range in [0..0, 5..2, len..len + 1, len + 1..usize::MAX, usize::MAX..0, 0..usize::MAX, 7..7 * PAGE] {
        session.hint(&table, range);
    }
    session.hint(&table, ..);
    session.hint(&table, ..=usize::MAX);
    session.hint(&table, usize::MAX..);
    session.slice_mut(&table)[69 * PAGE + 1000] = 2;
    let other = session.region_with::<u8>("other", 1, RegionMode::Hinted)?;
    session.hint(&other, ..);
    session.drop_region(other)?;
    session.checkpoint()?;
    session.rollback(id)?;
    holds(session, &table, &[69], 1)
}

fn tracked(session: &mut Session) -> Result<(), Finding> {
    let table = session.region::<u8>("table", 100 * PAGE)?;
    let mut last = None;
    for round in 1..=9 {
        // Some of what is written is hinted, and some of what is hinted isn't written.
        session.hint(&table, 0..usize::from(round) * 7 * PAGE);
        for page in [usize::from(round), 50, 90] {
            session.slice_mut(&table)[page * PAGE + 1000] = round;
        }
        let id = session.checkpoint()?;
        if let Some(before) = last.replace(id) {
            session.hint(&table, 80 * PAGE..);
            session.slice_mut(&table)[50 * PAGE + 1000] = 77;
            session.rollback(before)?;
            holds(session, &table, &[50, 90], round - 1)?;
            session.rollback(id)?;
            holds(session, &table, &[usize::from(round), 50, 90], round)?;
        }
    }
    Ok(())
}

fn scattered(session: &mut Session) -> Result<(), Finding> {
    const PAGES: usize = 64 * 100 + 7;
    let table = session.region_with::<u8>("table", PAGES * PAGE, RegionMode::Hinted)?;
    let zeros = session.checkpoint()?;
    let few: Vec<_> = (0..PAGES).step_by(37).collect();
    write(session, &table, &few, 1);
    session.hint(&table, ..PAGES / 2 * PAGE);
    for word in (0..PAGES).step_by(64) {
        session.hint(&table, word * PAGE..word * PAGE + 1);
    }
    let ones = session.checkpoint()?;
    write(session, &table, &few, 2);
    session.rollback(ones)?;
    holds(session, &table, &few, 1)?;
    session.rollback(zeros)?;
    holds(session, &table, &few, 0)
}

fn missed(session: &mut Session) -> Result<(), Finding> {
    let other = session.region_with::<u8>("other", 100 * PAGE, RegionMode::Checked)?;
    let table = session.region_with::<u64>("table", 100 * PAGE / 8, RegionMode::Checked)?;
    write(session, &other, &[1, 2, 3], 1);
    for page in [80, 70, 90] {
        session.slice_mut(&table)[page * PAGE / 8 + 3] = 1;
    }
    session.hint(&table, 71 * PAGE / 8..90 * PAGE / 8);
    let named = |at: usize| {
        move |error: &Error| {
            let text = error.to_string();
            let names = text.contains("\"table\"") && text.contains(&format!("{:#x}", at * PAGE));
            names && matches!(error, Error::NotHinted { offset, .. } if *offset == at * PAGE)
        }
    };
    ensure_refused(session.checkpoint(), "a checkpoint with two pages not hinted", named(70))?;
    session.hint(&table, 70 * PAGE / 8..=70 * PAGE / 8);
    ensure_refused(session.checkpoint(), "a checkpoint with one page not hinted", named(90))?;
    ensure(session.figures()?.checkpoints == 0, "a checkpoint was taken nevertheless")?;
    session.hint(&table, 90 * PAGE / 8..);
    let id = session.checkpoint()?;
    session.hint(&table, ..);
    session.slice_mut(&table).fill(7);
    session.rollback(id)?;
    ensure(session.slice(&table)[90 * PAGE / 8 + 3] == 1, "the last page is wrong")
}

fn missed_by_rollback(session: &mut Session) -> Result<(), Finding> {
    let table = session.region_with::<u8>("table", 4 * PAGE, RegionMode::Checked)?;
    write(session, &table, &[0, 2], 1);
    let id = session.checkpoint()?;
    write(session, &table, &[0], 5);
    session.slice_mut(&table)[2 * PAGE + 1000] = 5;
    let named = |error: &Error| matches!(error, Error::NotHinted { region, offset } if region == "table" && *offset == 2 * PAGE);
    ensure_refused(session.rollback(id), "a rollback", named)?;
    holds(session, &table, &[0, 2], 5)?;
    session.hint(&table, 2 * PAGE..3 * PAGE);
    session.rollback(id)?;
    holds(session, &table, &[0, 2], 1)
}
