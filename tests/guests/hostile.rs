//! Guest program: garbage into every register of the checkpoint device, rings and descriptors that point
//! anywhere, requests that are nonsense, hints of anything; and then an honest session, which must work. Argument: SEED.

use cairn_abi::{RegionMode, RegionName, ReplyBody, Request, Span, Status};
use cairn_guest::{EngineKind, Session};
use cairn_tests::driver::Driver;
use cairn_tests::nonsense::Nonsense;
use cairn_tests::pages::Pages;
use cairn_tests::random::Random;
use cairn_tests::registers::Registers;

const ROUNDS: u64 = 40;
const WRITES: u64 = 60;
/// Tables of hints in one session.
const TABLES: u64 = 20;
/// A place of the monitor's.
const MONITOR: u64 = 0x7400_0000;

fn main() {
    let seed = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    let registers = Registers::claim().expect("the checkpoint device");
    let places = [main as fn() as usize as u64, MONITOR];
    for round in 0..ROUNDS {
        registers.scribble(&mut random, WRITES);
        Nonsense::new(&mut random).offer(&registers, &mut random, &places);
        if round % 8 == 7 {
            garbage_hints(&registers, &mut random, &places);
            honest_session();
        }
    }
    registers.reset();
    honest_session();
    println!("survived");
}

/// A session whose hint table is anywhere and holds anything. What is written and hinted must come back.
fn garbage_hints(registers: &Registers, random: &mut Random, places: &[u64]) {
    let mut driver = Driver::start(registers).expect("a ring");
    let key = driver.hello(registers).expect("a session");
    let (region, table) = (Pages::anonymous(200).expect("memory"), Pages::anonymous(9).expect("memory"));
    let span = Span { address: region.address(), len: region.len() as u64 };
    let name = RegionName::new(b"hinted").expect("a name");
    let register = Request::Register { span, name, mode: RegionMode::Hinted, tag: 0 };
    assert_eq!(driver.insist(registers, key, register).expect("an answer").status, Status::Ok);
    let honest = table.address();
    for _ in 0..TABLES {
        let wild = match random.below(4) {
            0 => random.bits(),
            1 => random.of(places) & !15,
            2 => u64::MAX - random.below(0x9000),
            _ => honest + random.below(0x9000) / 16 * 16,
        };
        for word in 0..table.len() / 8 {
            table.put(word * 8, random.bits() & random.bits());
        }
        // A region that is there, and a count that is just right, now and then.
        table.put(0, random.of(&[0, 1, 100, 2047, 2048]));
        table.put(16, 1_u64);
        for request in [Request::Hints { table: wild }, Request::Checkpoint] {
            driver.insist(registers, key, request).expect("an answer");
        }
        table.put(0, 1_u32);
        table.put(16, 1_u32);
        table.put(20, 3_u32);
        table.put(24, 1_u64 << 7);
        let expect = |driver: &mut Driver, request| {
            let reply = driver.insist(registers, key, request).expect("an answer");
            assert_eq!(reply.status, Status::Ok, "{request:?}");
            reply.body
        };
        let byte = random.bits();
        region.put(199 * 4096, byte);
        expect(&mut driver, Request::Hints { table: honest });
        let ReplyBody::Checkpoint(checkpoint) = expect(&mut driver, Request::Checkpoint) else {
            panic!("a checkpoint without an id")
        };
        region.put(199 * 4096, !byte);
        expect(&mut driver, Request::Rollback { checkpoint });
        assert_eq!(region.get::<u64>(199 * 4096), byte);
    }
    registers.reset();
}

fn honest_session() {
    let mut session = Session::open().expect("a session after the garbage");
    assert_eq!(session.engine(), EngineKind::Cairn);
    let region = session.region::<u64>("honest", 4096).expect("a region");
    session.slice_mut(&region)[7] = 42;
    let id = session.checkpoint().expect("a checkpoint");
    session.slice_mut(&region)[7] = 0;
    session.rollback(id).expect("a rollback");
    assert_eq!(session.slice(&region)[7], 42);
}
