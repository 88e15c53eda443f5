//! The cases about checkpoints that are copied while the program runs.

use super::{Case, Finding, ensure};
use crate::kind::EngineKind;
use crate::memory::PAGE;
use crate::region::Region;
use crate::session::Session;

/// Pages of the region: more than are copied in a moment.
const PAGES: usize = 3000;

pub(super) const ALL: &[Case] = &[
    ("what is written after the call is not in the checkpoint", later_writes),
    ("writes to every page at once", writes_everywhere),
    ("a system call writes into pages that are being copied", system_call_writes),
    ("a ticket that is dropped leaves its checkpoint", dropped_ticket),
    ("tickets are turned in late and out of order", late_tickets),
    ("a rollback while pages are being copied", rollback_during),
    ("a region ends while its pages are being copied", region_ends),
    ("a ticket says when it is done", says_when_done),
    ("a session ends while pages are being copied", session_ends),
];

/// A region of which every page holds `byte`, with a checkpoint before.
fn filled(session: &mut Session, byte: u8) -> Result<Region<u8>, Finding> {
    let table = session.region::<u8>("table", PAGES * PAGE)?;
    session.slice_mut(&table).fill(byte.wrapping_add(1));
    session.checkpoint()?;
    session.slice_mut(&table).fill(byte);
    Ok(table)
}

/// Fails unless all of the region is `byte`.
fn ensure_all(session: &Session, table: &Region<u8>, byte: u8) -> Result<(), Finding> {
    let wrong = session.slice(table).iter().position(|found| *found != byte);
    match wrong {
        None => Ok(()),
        Some(at) => {
            let found = session.slice(table)[at];
            Err(Finding::new(format_args!("byte {at} is {found} instead of {byte}")))
        }
    }
}

fn later_writes(session: &mut Session) -> Result<(), Finding> {
    let table = filled(session, 7)?;
    for round in 0..5 {
        let ticket = session.checkpoint_async()?;
        session.slice_mut(&table)[(PAGES - 1 - round) * PAGE] = 8;
        session.slice_mut(&table)[round * PAGE + 1] = 9;
        let id = session.wait(ticket)?;
        ensure(session.slice(&table)[(PAGES - 1 - round) * PAGE] == 8, "a write is lost")?;
        session.rollback(id)?;
        ensure_all(session, &table, 7)?;
    }
    Ok(())
}

fn writes_everywhere(session: &mut Session) -> Result<(), Finding> {
    let table = filled(session, 1)?;
    let forwards: Vec<usize> = (0..PAGES).collect();
    let backwards: Vec<usize> = (0..PAGES).rev().collect();
    let scattered: Vec<usize> = (0..PAGES).map(|page| page * 1009 % PAGES).collect();
    for order in [forwards, backwards, scattered] {
        session.slice_mut(&table).fill(1);
        let ticket = session.checkpoint_async()?;
        for &page in &order {
            session.slice_mut(&table)[page * PAGE + page % PAGE] = 2;
        }
        let later = session.checkpoint()?;
        let id = session.wait(ticket)?;
        session.rollback(id)?;
        ensure_all(session, &table, 1)?;
        session.rollback(later)?;
        let kept = order.iter().all(|page| session.slice(&table)[page * PAGE + page % PAGE] == 2);
        ensure(kept, "a write between the call and its end is lost")?;
    }
    Ok(())
}

fn system_call_writes(session: &mut Session) -> Result<(), Finding> {
    use std::io::Read;
    let table = filled(session, 3)?;
    let ticket = session.checkpoint_async()?;
    // There the kernel refuses to write into protected pages, which the engine's documentation says.
    let directly = session.engine() != EngineKind::Mprotect;
    let zeros = &mut session.slice_mut(&table)[(PAGES - 20) * PAGE + 5..(PAGES - 10) * PAGE];
    if !directly {
        zeros.fill(0);
    }
    let mut elsewhere = vec![1; zeros.len()];
    let target = if directly { zeros } else { &mut elsewhere[..] };
    let read = std::fs::File::open("/dev/zero").and_then(|mut file| file.read_exact(target));
    read.map_err(|error| Finding::new(format_args!("/dev/zero can't be read: {error}")))?;
    ensure(session.slice(&table)[(PAGES - 15) * PAGE] == 0, "what was read isn't there")?;
    let later = session.checkpoint()?;
    let id = session.wait(ticket)?;
    session.rollback(id)?;
    ensure_all(session, &table, 3)?;
    session.rollback(later)?;
    let count = session.slice(&table).iter().filter(|byte| **byte == 0).count();
    ensure(count == 10 * PAGE - 5, format_args!("{count} bytes were read into the region"))
}

fn dropped_ticket(session: &mut Session) -> Result<(), Finding> {
    let table = filled(session, 5)?;
    let _ = session.checkpoint_async()?;
    session.slice_mut(&table).fill(6);
    let figures = session.figures()?;
    let next = session.checkpoint()?;
    let parent = session.checkpoint_figures(next)?.parent;
    ensure(figures.checkpoints <= next.0, "too many checkpoints")?;
    let Some(parent) = parent else { return Err(Finding::new("nobody made the checkpoint")) };
    session.rollback(parent)?;
    ensure_all(session, &table, 5)
}

fn late_tickets(session: &mut Session) -> Result<(), Finding> {
    let table = filled(session, 0)?;
    let mut tickets = Vec::new();
    for byte in 1..4 {
        session.slice_mut(&table).fill(byte);
        tickets.push((byte, session.checkpoint_async()?));
    }
    session.slice_mut(&table).fill(99);
    while let Some((byte, ticket)) = tickets.pop() {
        let id = session.wait(ticket)?;
        session.rollback(id)?;
        ensure_all(session, &table, byte)?;
    }
    Ok(())
}

fn rollback_during(session: &mut Session) -> Result<(), Finding> {
    let table = filled(session, 4)?;
    let first = session.checkpoint()?;
    session.slice_mut(&table).fill(5);
    let ticket = session.checkpoint_async()?;
    session.slice_mut(&table)[..PAGES * PAGE / 2].fill(6);
    session.rollback(first)?;
    ensure_all(session, &table, 4)?;
    let id = session.wait(ticket)?;
    session.rollback(id)?;
    ensure_all(session, &table, 5)
}

fn region_ends(session: &mut Session) -> Result<(), Finding> {
    let table = filled(session, 2)?;
    let other = session.region::<u8>("other", 40 * PAGE)?;
    session.slice_mut(&other).fill(1);
    let ticket = session.checkpoint_async()?;
    session.drop_region(table)?;
    session.slice_mut(&other).fill(2);
    let id = session.wait(ticket)?;
    ensure(session.rollback(id).is_err(), "a region that ended came back")?;
    ensure(session.slice(&other).iter().all(|byte| *byte == 2), "a refused rollback changed memory")
}

fn says_when_done(session: &mut Session) -> Result<(), Finding> {
    let table = filled(session, 2)?;
    let ticket = session.checkpoint_async()?;
    // The engine says no while it has work, and that ends.
    while !session.is_done(&ticket)? {
        session.slice_mut(&table)[0] = session.slice(&table)[0].wrapping_add(1);
    }
    ensure(session.is_done(&ticket)?, "what was done is undone")?;
    let id = session.wait(ticket)?;
    session.rollback(id)?;
    ensure_all(session, &table, 2)
}

/// What comes after it is the next case, with a session of its own.
fn session_ends(session: &mut Session) -> Result<(), Finding> {
    let table = filled(session, 2)?;
    let _ = session.checkpoint_async()?;
    session.slice_mut(&table)[PAGE] = 1;
    Ok(())
}
