//! Which engines work here.

use cairn_guest::{EngineKind, Error, Session};
use cairn_test_host::{notes_writes, skipped};

/// Whether a user-level engine works here. One that the host hasn't got what it needs for is told as left out; none
/// else may be.
pub(crate) fn works(kind: &EngineKind) -> bool {
    match Session::open_with(*kind) {
        Ok(_) => true,
        Err(error @ Error::Unavailable { .. }) => {
            assert!(*kind == EngineKind::UffdWp && !notes_writes(), "{kind}: {error}");
            skipped(&format!("{kind} doesn't work here: {error}"));
            false
        }
        Err(error) => panic!("{kind}: {error}"),
    }
}
