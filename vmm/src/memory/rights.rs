//! What a program may do with a page.

use nix::sys::mman::ProtFlags;

/// Rights on a page. On x86 whatever may be written or executed may be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl Rights {
    /// Loads and stores.
    pub const DATA: Self = Self { read: true, write: true, execute: false };
    /// None at all.
    pub const NONE: Self = Self { read: false, write: false, execute: false };

    /// From mmap's and mprotect's `prot` argument; None when it has bits that aren't rights.
    #[must_use]
    pub fn from_prot(prot: u64) -> Option<Self> {
        let bits = ProtFlags::from_bits(i32::try_from(prot).ok()?)?;
        // PROT_GROWSDOWN and the like are no rights of this model.
        if !(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC).contains(bits) {
            return None;
        }
        let has = |flag| bits.contains(flag);
        let (write, execute) = (has(ProtFlags::PROT_WRITE), has(ProtFlags::PROT_EXEC));
        Some(Self { read: has(ProtFlags::PROT_READ) || write || execute, write, execute })
    }

    /// Whether nothing is allowed.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Whether all that `other` allows is allowed.
    #[must_use]
    pub fn includes(self, other: Self) -> bool {
        (self.read || !other.read) && (self.write || !other.write) && (self.execute || !other.execute)
    }

    /// The rights that the VMM's own mapping has: never execution, which is the guest's alone.
    #[must_use]
    pub fn host(self) -> ProtFlags {
        let mut flags = ProtFlags::PROT_NONE;
        flags.set(ProtFlags::PROT_READ, self.read);
        flags.set(ProtFlags::PROT_WRITE, self.write);
        flags
    }
}

impl std::fmt::Display for Rights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letter = |yes, letter| if yes { letter } else { '-' };
        write!(f, "{}{}{}", letter(self.read, 'r'), letter(self.write, 'w'), letter(self.execute, 'x'))
    }
}
