//! Tests of the world with threads whose guest is a flag: they stay inside until they're kicked.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread;

use super::*;

/// A stay that ends by a kick only.
#[derive(Clone, Default)]
struct Stay(Arc<(Mutex<bool>, Condvar)>);

impl Stay {
    fn until_kicked(&self) {
        let (kicked, changed) = &*self.0;
        drop(changed.wait_while(kicked.lock().unwrap(), |kicked| !*kicked).unwrap());
    }
}

impl Kicker for Stay {
    fn kick(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn forget(&self) {
        *self.0.0.lock().unwrap() = false;
    }
}

fn seat(world: &Arc<World>, index: usize) -> (Seat, Stay) {
    let stay = Stay::default();
    (world.seat(index, Box::new(stay.clone())).unwrap(), stay)
}

#[test]
fn a_pause_brings_out_who_would_stay_for_ever() {
    let world = World::new(3);
    let (pauser, _) = seat(&world, 0);
    let inside = AtomicUsize::new(0);
    thread::scope(|scope| {
        for index in 1..3 {
            let (seat, stay) = seat(&world, index);
            let inside = &inside;
            scope.spawn(move || {
                while let Some(stays) = seat.enter() {
                    inside.fetch_add(1, Ordering::SeqCst);
                    stay.until_kicked();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(stays);
                }
            });
        }
        for _ in 0..1000 {
            let pause = pauser.pause_others();
            assert_eq!(inside.load(Ordering::SeqCst), 0);
            drop(pause);
        }
        world.stop();
    });
    assert_eq!(world.pauses().count, 1000);
    assert!(pauser.enter().is_none());
}

#[test]
fn all_pause_each_other_and_nobody_is_lost() {
    const ROUNDS: u64 = 500;
    let world = World::new(4);
    let (inside, pausing, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for index in 0..4 {
            let (seat, _) = seat(&world, index);
            let (inside, pausing, done) = (&inside, &pausing, &done);
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let stays = seat.enter().unwrap();
                    inside.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(pausing.load(Ordering::SeqCst), 0);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(stays);
                    let outer = seat.pause_others();
                    let inner = seat.pause_others();
                    assert_eq!(pausing.fetch_add(1, Ordering::SeqCst), 0);
                    assert_eq!(inside.load(Ordering::SeqCst), 0);
                    drop(inner);
                    assert_eq!(inside.load(Ordering::SeqCst), 0);
                    pausing.fetch_sub(1, Ordering::SeqCst);
                    drop(outer);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(done.into_inner(), 4 * ROUNDS);
    assert_eq!(world.pauses().count, 4 * ROUNDS);
}

#[test]
fn a_stopped_world_lets_nobody_in_even_after_a_pause() {
    let world = World::new(2);
    let ((pauser, _), (other, _)) = (seat(&world, 0), seat(&world, 1));
    let pause = pauser.pause_others();
    world.stop();
    assert!(other.enter().is_none());
    drop(pause);
    assert!(other.enter().is_none() && pauser.enter().is_none());
}

#[test]
fn a_seat_is_taken_once() {
    let world = World::new(1);
    let _seat = seat(&world, 0);
    assert!(world.seat(0, Box::new(Stay::default())).is_none());
    assert!(world.seat(1, Box::new(Stay::default())).is_none());
}

#[test]
fn pauses_are_measured() {
    let mut figures = PauseFigures::default();
    for length in [5, 9, 2] {
        figures.add(length);
    }
    assert_eq!(figures, PauseFigures { count: 3, last_ns: 2, longest_ns: 9, total_ns: 16 });
}
