//! Guest program: garbage into every register of the checkpoint device, rings and descriptors that point
//! anywhere, requests that are nonsense; and then an honest session, which must work. Argument: SEED.

use cairn_guest::{EngineKind, Session};
use cairn_tests::nonsense::Nonsense;
use cairn_tests::random::Random;
use cairn_tests::registers::Registers;

const ROUNDS: u64 = 40;
const WRITES: u64 = 60;
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
            honest_session();
        }
    }
    registers.reset();
    honest_session();
    println!("survived");
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
