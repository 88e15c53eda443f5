//! The thread that takes requests without an exit.

use std::sync::Arc;

use crate::machine::unit::{Look, SharedUnit};

/// Looks at the queue between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 64;

/// Polls until the machine stops; sleeps while there is nothing to poll.
pub fn run(unit: &Arc<SharedUnit>) {
    while unit.sleep() {
        stint(unit);
    }
}

fn stint(unit: &SharedUnit) {
    let mut looks = 0_u32;
    while !unit.stopped() {
        looks = looks.wrapping_add(1);
        match unit.look(looks.is_multiple_of(LOOKS_PER_CLOCK)) {
            Look::Served => {}
            Look::Nothing => std::hint::spin_loop(),
            Look::Over => return,
        }
    }
}
