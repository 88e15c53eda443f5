//! What is measured beside each other: engines, and ways to use one.

use std::fmt;
use std::str::FromStr;

use cairn_guest::{EngineKind, RegionMode};
use serde::{Deserialize, Serialize};

/// An engine, and how the benchmark's program uses it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Contender {
    /// The hypervisor's device, which finds out what was written.
    Cairn,
    /// The same in a region whose program says what it writes.
    CairnHinted,
    /// As [`Contender::Cairn`], with checkpoints that are copied while the program goes on.
    CairnAsync,
    /// As [`EngineKind::FullCopy`].
    FullCopy,
    /// As [`EngineKind::Mprotect`].
    Mprotect,
    /// As [`EngineKind::Fork`].
    Fork,
    /// As [`EngineKind::UffdWp`].
    UffdWp,
    /// As [`EngineKind::UserCompare`].
    UserCompare,
}

/// The text that names none of them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name:?} is not an engine of the benchmark; these are {}", Contender::ALL.map(Contender::name).join(", "))]
pub struct Unknown {
    /// What was given.
    pub name: String,
}

impl Contender {
    /// All of them, the device first.
    pub const ALL: [Self; 8] = [
        Self::Cairn,
        Self::CairnHinted,
        Self::CairnAsync,
        Self::FullCopy,
        Self::Mprotect,
        Self::Fork,
        Self::UffdWp,
        Self::UserCompare,
    ];

    /// The name that the command line takes and reports print.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CairnHinted => "cairn-hinted",
            Self::CairnAsync => "cairn-async",
            plain => plain.kind().name(),
        }
    }

    /// The engine.
    #[must_use]
    pub const fn kind(self) -> EngineKind {
        match self {
            Self::Cairn | Self::CairnHinted | Self::CairnAsync => EngineKind::Cairn,
            Self::FullCopy => EngineKind::FullCopy,
            Self::Mprotect => EngineKind::Mprotect,
            Self::Fork => EngineKind::Fork,
            Self::UffdWp => EngineKind::UffdWp,
            Self::UserCompare => EngineKind::UserCompare,
        }
    }

    /// Who says what is written.
    #[must_use]
    pub const fn mode(self) -> RegionMode {
        match self {
            Self::CairnHinted => RegionMode::Hinted,
            _ => RegionMode::Tracked,
        }
    }

    /// Whether its checkpoints are begun, and copied while the program goes on.
    #[must_use]
    pub const fn is_asynchronous(self) -> bool {
        matches!(self, Self::CairnAsync)
    }

    /// Why it has no figures where the state is put back to one checkpoint again and again, if it has none.
    #[must_use]
    pub const fn no_resets(self) -> Option<&'static str> {
        match self {
            Self::CairnHinted => Some("the parser doesn't say what it writes"),
            Self::CairnAsync => Some("the one checkpoint is taken before"),
            _ => None,
        }
    }

    /// Whether it needs the hypervisor's device.
    #[must_use]
    pub fn needs_device(self) -> bool {
        self.kind() == EngineKind::Cairn
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Contender {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Unknown> {
        Self::ALL
            .into_iter()
            .find(|contender| contender.name() == name)
            .ok_or_else(|| Unknown { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back() {
        for contender in Contender::ALL {
            assert_eq!(contender.to_string().parse(), Ok(contender));
        }
        assert!(
            "Cairn"
                .parse::<Contender>()
                .unwrap_err()
                .to_string()
                .contains("cairn-hinted, cairn-async, full-copy")
        );
    }
}
