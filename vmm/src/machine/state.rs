//! The monitor's own directory of a user, and the key in it.

use std::path::PathBuf;

use crate::store::signature::Key;

/// What the monitor keeps for its user from run to run.
#[derive(Clone, Default, Debug)]
pub struct UserState {
    /// Where records of changes are kept while they are applied. None where the user has no place for it.
    pub directory: Option<PathBuf>,
    /// What whole checkpoints are signed with. Without it they aren't.
    pub key: Option<Key>,
}
