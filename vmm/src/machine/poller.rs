//! The thread that takes requests and system calls without an exit.

use std::thread;

use crate::kvm::system::System;
use crate::machine::calls::SharedCalls;
use crate::machine::poll_policy::PollMode;
use crate::machine::unit::{Look, SharedUnit};

/// Looks at the queue and at the call page between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 64;

/// Polls until the machine stops; sleeps while there is nothing to poll.
pub fn run(unit: &SharedUnit, calls: &SharedCalls) {
    while unit.sleep(|| calls.polls()) {
        stint(unit, calls);
    }
}

fn stint(unit: &SharedUnit, calls: &SharedCalls) {
    // The first look is one at the clock: it also tells the program that it's being polled for.
    let mut looks = LOOKS_PER_CLOCK - 1;
    while !unit.stopped() {
        looks = looks.wrapping_add(1);
        let check_time = looks.is_multiple_of(LOOKS_PER_CLOCK);
        match (calls.look(check_time), unit.look(check_time)) {
            (Look::Over, Look::Over) => return,
            (Look::Served, _) | (_, Look::Served) => {}
            // Without a core of its own it would take the vCPU's, and wait for what that can't post meanwhile.
            _ if check_time => thread::yield_now(),
            _ => std::hint::spin_loop(),
        }
    }
}

/// Whether a thread that polls has a core besides the vCPU's.
#[must_use]
pub fn has_spare_core() -> bool {
    thread::available_parallelism().is_ok_and(|cores| 1 < cores.get())
}

/// How requests are taken: never while the vCPU runs, where a checkpoint could then miss writes.
#[must_use]
pub fn mode_for_requests(wanted: PollMode) -> PollMode {
    if !System::logs_in_buffer() {
        return wanted;
    }
    if wanted == PollMode::Always {
        tracing::warn!(
            "requests are not polled for: this CPU keeps the dirty log in a buffer (PML) that KVM reads when \
             the program stops, or /sys/module doesn't tell; load kvm_intel or kvm_amd with pml=0 to have them polled"
        );
    }
    PollMode::Never
}
