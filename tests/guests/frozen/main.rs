//! Guest program: what a program may do while an asynchronous checkpoint of its memory is in the making. A full copy
//! taken before the call says what the checkpoint must hold. Argument: `beside` where the host must copy beside the
//! program, `at once` where it may not be able to, or the way to end while it copies.

mod lost;
mod rings;
mod scene;
mod writes;

use cairn_guest::Error;

use scene::Scene;

/// Rounds of each story, at most. Whether one comes before the copying is done is up to the host's cores, so it is told
/// and not demanded. That it does is seen to where a test can hold the copier: the monitor's tests of held writers
/// (checkpoint/freeze_tests.rs) take every order of writers, batches and discarding, and the engine's own tests copy some
/// batches, or none, before each of its calls.
const ROUNDS: usize = 12;
/// Rounds that came before the copying was done, and are enough.
const ENOUGH: usize = 2;

/// What a program does meanwhile. Answers whether the checkpoint was still in the making.
type Story = fn() -> Result<bool, Error>;

const STORIES: [(&str, Story); 18] = [
    ("stores", writes::stores),
    ("a file is read", writes::read_from_file),
    ("a pipe is read, into two places", writes::read_from_pipe),
    ("random bytes", writes::random_bytes),
    ("pages are discarded", writes::discarded),
    ("made executable", writes::made_executable),
    ("another checkpoint is begun", writes::begun_again),
    ("a checkpoint is taken", writes::taken_at_once),
    ("nothing is written", writes::left_alone),
    ("rolled back", writes::rolled_back),
    ("the checkpoint before is released", writes::released),
    ("unmapped", lost::unmapped),
    ("moved", lost::moved),
    ("mapped over", lost::mapped_over),
    ("made read-only", lost::read_only),
    ("not executable any more", lost::not_executable),
    ("the region is dropped", lost::dropped),
    ("the session is dropped", lost::session_dropped),
];

fn main() -> Result<(), Error> {
    let beside = match std::env::args().nth(1).as_deref() {
        Some("beside") => true,
        Some("at once") => false,
        way => end(way.unwrap_or_default()),
    };
    for (name, story) in STORIES.iter().chain(&[("the ring is in the region", rings::in_the_region as Story)])
    {
        let (mut met, mut rounds) = (0, 0);
        while rounds < if beside { ROUNDS } else { 1 } && met < ENOUGH {
            met += usize::from(story()?);
            rounds += 1;
        }
        eprintln!("{name}: {met} of {rounds} rounds came before the copying was done");
    }
    println!("all held");
    Ok(())
}

/// Ends while a checkpoint is copied.
fn end(way: &str) -> ! {
    let mut scene = Scene::new().expect("a scene");
    scene.begin().expect("a checkpoint that is begun");
    match way {
        "exit" => std::process::exit(42),
        "abort" => std::process::abort(),
        "fault" => {
            scene.session.slice_mut(&scene.region)[scene::BYTES - 1] = 9;
            // SAFETY: meant to fault: nothing is mapped there.
            println!("{}", unsafe { std::ptr::null::<u8>().wrapping_add(1).read_volatile() });
            unreachable!("nothing is mapped there")
        }
        _ => panic!("no such way to end: {way:?}"),
    }
}
