//! The monitor's own directory of a user, `$XDG_STATE_HOME/cairn` or `~/.local/state/cairn`.

use std::error::Error;
use std::path::{Path, PathBuf};

use cairn_vmm::machine::state::UserState;
use cairn_vmm::store::signature::{Key, KeyError};
use cairn_vmm::tell;
use nix::unistd::{User, geteuid};

/// Where it is. None for a user without a home directory, by the environment and by the list of users.
pub(crate) fn directory() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || variable("HOME").or_else(|| Some(User::from_uid(geteuid()).ok()??.dir));
    let state = variable("XDG_STATE_HOME").or_else(|| Some(home()?.join(".local/state")))?;
    Some(state.join("cairn"))
}

/// The directory, with the key that checkpoints are signed with; it's made at the first time. What keeps it from being
/// there is told once.
pub(crate) fn with_key() -> UserState {
    let directory = directory();
    let key = match directory.as_deref().map(Key::of) {
        Some(Ok(key)) => Some(key),
        Some(Err(error)) => {
            tell(&error);
            None
        }
        None => {
            tell!("cairn: {NO_HOME}: checkpoints are not signed, and restoring them takes --trust");
            None
        }
    };
    UserState { directory, key }
}

/// The key if there is one, for who only looks.
pub(crate) fn key() -> Option<Key> {
    let key = Key::read(&directory()?);
    key.unwrap_or_else(|error| {
        tell(&error);
        None
    })
}

/// Said where a directory is needed and there is none.
pub(crate) const NO_HOME: &str = "neither XDG_STATE_HOME nor HOME names a directory to keep things in";

fn tell(error: &KeyError) {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    tell!("cairn: {error}{cause}; until then checkpoints are not signed, and restoring them takes --trust");
}

/// The directory for records, which some things can't be done without.
pub(crate) fn records(directory: Option<&Path>) -> anyhow::Result<PathBuf> {
    let why = || anyhow::anyhow!("{NO_HOME}, such as the record of changes while they are applied");
    directory.map(Path::to_owned).ok_or_else(why)
}
