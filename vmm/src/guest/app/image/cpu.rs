//! The vCPU between two instructions of the program.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use serde::{Deserialize, Serialize};

use crate::guest::app::image::{Features, ThawError};
use crate::kvm::state::{self, USER_CODE, USER_DATA};
use crate::kvm::vcpu::VECTOR_WORDS;

/// Registers of a program. Which instruction comes next is part of it; none is half done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrozenCpu {
    /// rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8 to r15, rip, rflags.
    pub general: [u64; 18],
    /// The bases of FS and GS.
    pub bases: [u64; 2],
    /// The selectors of DS, ES, FS and GS, which a program may load.
    pub selectors: [u16; 4],
    /// The XSAVE area in the standard format.
    pub vectors: Vec<u32>,
    /// Which vector state the program may use (XCR0); None where there is no XSAVE.
    pub components: Option<u64>,
    /// What the CPU that it ran on can do.
    pub features: Features,
}

impl FrozenCpu {
    /// The general registers in this type's order.
    #[must_use]
    pub fn pack(regs: &kvm_regs) -> [u64; 18] {
        [
            regs.rax,
            regs.rbx,
            regs.rcx,
            regs.rdx,
            regs.rsi,
            regs.rdi,
            regs.rsp,
            regs.rbp,
            regs.r8,
            regs.r9,
            regs.r10,
            regs.r11,
            regs.r12,
            regs.r13,
            regs.r14,
            regs.r15,
            regs.rip,
            regs.rflags,
        ]
    }

    /// The general registers as KVM takes them.
    #[must_use]
    pub fn registers(&self) -> kvm_regs {
        let [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags] =
            self.general;
        kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
    }

    /// The vector registers as KVM takes them.
    ///
    /// # Errors
    /// [`ThawError::Impossible`].
    pub fn vector_words(&self) -> Result<&[u32; VECTOR_WORDS], ThawError> {
        self.vectors.as_slice().try_into().map_err(|_| ThawError::Impossible("vector state"))
    }

    /// Gives `sregs` the program's segments.
    ///
    /// # Errors
    /// [`ThawError::Impossible`] for a selector that no program can load.
    pub fn set_segments(&self, sregs: &mut kvm_sregs) -> Result<(), ThawError> {
        state::return_to_user(sregs);
        let [ds, es, fs, gs] = self.selectors.map(segment);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs) = (ds?, es?, fs?, gs?);
        [sregs.fs.base, sregs.gs.base] = self.bases;
        Ok(())
    }
}

/// The segment of a selector as loading it at CPL 3 leaves it: null, the program's data, or its code.
fn segment(selector: u16) -> Result<kvm_segment, ThawError> {
    let mut sregs = kvm_sregs::default();
    state::return_to_user(&mut sregs);
    match selector {
        0..=3 => Ok(kvm_segment { selector, dpl: 3, unusable: 1, ..Default::default() }),
        USER_DATA => Ok(sregs.ss),
        USER_CODE => Ok(sregs.cs),
        _ => Err(ThawError::Impossible("segment selector")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_that_a_program_can_load_come_back() {
        for selector in [0, 3, USER_DATA, USER_CODE] {
            assert_eq!(segment(selector).unwrap().selector, selector);
        }
        for selector in [state::SYSTEM_CODE, state::TASK, 0x20, 0x28, 0xffff] {
            assert!(segment(selector).is_err(), "{selector:#x}");
        }
    }
}
