//! A driver whose ring, buffers and hint table are in the region that is frozen: to answer the request that froze them,
//! the device itself has to write there.

use cairn_abi::{
    FEATURE_ASYNC, FEATURE_HINT, PROTOCOL_VERSION, RegionMode, RegionName, ReplyBody, Request, SessionKey,
    Span, Status,
};
use cairn_guest::Error;
use cairn_tests::driver::Driver;
use cairn_tests::pages::{PAGE, Pages};
use cairn_tests::registers::Registers;

/// Where the region is; nothing else is near.
const ADDRESS: u64 = 0x3_0000_0000;
/// Pages before the ring's.
const PAGES: usize = 4096;
/// The hint table's first page.
const TABLE: usize = PAGES - 16;
/// Words that are checked of each page.
const STEP: usize = PAGE / 4;

pub(crate) fn in_the_region() -> Result<bool, Error> {
    let registers = Registers::claim().expect("the checkpoint device");
    let pages = Pages::anonymous_at(ADDRESS, PAGES).expect("memory");
    let mut driver = Driver::at(ADDRESS + pages.len() as u64, 0).expect("a ring behind it");
    driver.bring_up(&registers);
    let features = FEATURE_HINT | FEATURE_ASYNC;
    let hello = Request::Hello { version: PROTOCOL_VERSION, features };
    let ReplyBody::Hello(hello) = driver.ask(&registers, SessionKey([0; 16]), hello).expect("a session").body
    else {
        panic!("no session")
    };
    let mut ask = |request| {
        let reply = driver.insist(&registers, hello.key, request).expect("an answer");
        assert_eq!(reply.status, Status::Ok, "{request:?}");
        reply.body
    };
    let span = Span { address: ADDRESS, len: (pages.len() + PAGE) as u64 };
    let name = RegionName::new(b"with the ring").expect("a name");
    ask(Request::Register { span, name, mode: RegionMode::Tracked, tag: 0 });
    ask(Request::Hints { table: ADDRESS + (TABLE * PAGE) as u64 });
    fill(&pages, 1);
    ask(Request::Checkpoint);
    fill(&pages, 2);
    let ticket = if hello.features & FEATURE_ASYNC == 0 {
        ask(Request::Checkpoint)
    } else {
        ask(Request::CheckpointAsync)
    };
    let (checkpoint, met) = match ticket {
        ReplyBody::Ticket(ticket) => (ticket.id, !ticket.done),
        ReplyBody::Checkpoint(id) => (id, false),
        other => panic!("{other:?} isn't an answer"),
    };
    // Frozen or not, the reply has reached the ring, and the next request was read from it.
    ask(Request::Query { checkpoint: None });
    fill(&pages, 3);
    if met {
        ask(Request::Ticket { checkpoint, wait: true });
    }
    // This takes the ring back as well: the answer is the last thing that it is good for.
    driver.ask(&registers, hello.key, Request::Rollback { checkpoint });
    let held =
        (0..TABLE).all(|page| (0..PAGE).step_by(STEP).all(|at| word(&pages, page, at) == value(page, 2)));
    assert!(held, "the checkpoint of the region with the ring");
    registers.reset();
    Ok(met)
}

/// Writes a part of each page but those of the hint table, which stays empty.
fn fill(pages: &Pages, version: u64) {
    for page in 0..TABLE {
        for at in (0..PAGE).step_by(STEP) {
            pages.put(page * PAGE + at, value(page, version));
        }
    }
}

fn word(pages: &Pages, page: usize, at: usize) -> u64 {
    pages.get(page * PAGE + at)
}

fn value(page: usize, version: u64) -> u64 {
    (page as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version
}
