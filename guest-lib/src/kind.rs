//! The engines by name.

use std::fmt;
use std::str::FromStr;

/// The environment variable that overrides the choice of [`Session::open`](crate::Session::open).
pub const ENGINE_VARIABLE: &str = "CAIRN_ENGINE";

/// Who keeps the checkpoints. The crate's documentation compares the engines.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EngineKind {
    /// The hypervisor's checkpoint device.
    Cairn,
    /// Copies every region at every checkpoint.
    FullCopy,
    /// Write-protects pages and learns of writes by SIGSEGV.
    Mprotect,
    /// A child process holds each snapshot, copy-on-write.
    Fork,
    /// Userfaultfd write protection that the kernel resolves by itself, collected by PAGEMAP_SCAN.
    UffdWp,
    /// The rule and the mirror of the device's engine, in this process.
    UserCompare,
}

/// The text that is not an engine's name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name:?} is not an engine; the engines are {}", EngineKind::ALL.map(EngineKind::name).join(", "))]
pub struct UnknownEngine {
    /// What was given.
    pub name: String,
}

impl EngineKind {
    /// Every engine, the device first.
    pub const ALL: [Self; 6] =
        [Self::Cairn, Self::FullCopy, Self::Mprotect, Self::Fork, Self::UffdWp, Self::UserCompare];

    /// The engines that need no hypervisor.
    pub const USER_LEVEL: [Self; 5] =
        [Self::FullCopy, Self::Mprotect, Self::Fork, Self::UffdWp, Self::UserCompare];

    /// The name that [`ENGINE_VARIABLE`] takes and reports print.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cairn => "cairn",
            Self::FullCopy => "full-copy",
            Self::Mprotect => "mprotect",
            Self::Fork => "fork",
            Self::UffdWp => "uffd-wp",
            Self::UserCompare => "user-compare",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownEngine { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_engine() {
        for kind in EngineKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_all_names() {
        let error = "Cairn".parse::<EngineKind>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"Cairn\" is not an engine; the engines are cairn, full-copy, mprotect, fork, uffd-wp, user-compare"
        );
        assert!("".parse::<EngineKind>().is_err());
    }
}
