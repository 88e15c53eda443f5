//! The checkpoint device as a program sees it: through registers and rings, good and bad.

mod chains;
mod hints;
mod polling;
mod registers;
mod rest;
mod rings;
mod sessions;
mod support;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_a_guest_does_a_good_program_is_served_afterwards(
        bytes in proptest::collection::vec(any::<u8>(), 0..1500),
    ) {
        support::exercise::exercise(&bytes);
    }
}
