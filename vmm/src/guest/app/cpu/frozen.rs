//! The vCPU as values and back.

use super::{Cpu, FLAG_ALWAYS, STUB_SIZE, SYSCALL_STUB, Stub, USER_FLAGS};
use crate::guest::app::image::{FeaturesError, FrozenCpu, ThawError};
use crate::guest::app::process::Segments;
use crate::kvm::kernel_vcpu::Kick;
use crate::kvm::system::KvmError;
use crate::memory::layout::WINDOW_SIZE;
use crate::memory::page_table::SYSTEM_VIRTUAL;

/// Bytes of a SYSCALL instruction.
const SYSCALL_BYTES: u64 = 2;

impl Cpu {
    /// What ends the vCPU's run from another thread.
    ///
    /// # Errors
    /// [`KvmError::Refused`].
    pub fn kick(&self) -> Result<Kick, KvmError> {
        self.vcpu.kick()
    }

    /// Has the program make the system call `number` again that it has just made.
    ///
    /// # Errors
    /// [`KvmError`] when KVM refuses the state.
    pub fn make_again(&mut self, number: u64, segments: Segments) -> Result<(), KvmError> {
        self.answer(number, segments)?;
        let mut regs = self.vcpu.regs();
        if self.stub == Stub::Privileged {
            // The stub's SYSRET goes to what is in rcx.
            regs.rcx = regs.rcx.wrapping_sub(SYSCALL_BYTES);
        } else {
            regs.rip = regs.rip.wrapping_sub(SYSCALL_BYTES);
        }
        self.vcpu.set_regs(&regs);
        Ok(())
    }

    /// The program's registers after a run that was interrupted. None when what comes next isn't an instruction of the
    /// program's but one of ours, or KVM has still something to deliver: a little later it's otherwise.
    ///
    /// # Errors
    /// [`KvmError`] when KVM doesn't tell.
    pub fn freeze(&self) -> Result<Option<FrozenCpu>, KvmError> {
        let mut regs = self.vcpu.regs();
        let stub = SYSTEM_VIRTUAL + SYSCALL_STUB;
        if self.stub == Stub::Privileged && (stub..stub + STUB_SIZE).contains(&regs.rip) {
            // Before the stub's first instruction the call isn't made, after it it is answered.
            let made = regs.rip != stub;
            regs.rip = if made { regs.rcx } else { regs.rcx.wrapping_sub(SYSCALL_BYTES) };
            regs.rflags = regs.r11;
        }
        if WINDOW_SIZE <= regs.rip || !self.vcpu.is_between_instructions()? {
            return Ok(None);
        }
        regs.rflags = regs.rflags & USER_FLAGS | FLAG_ALWAYS;
        let sregs = self.vcpu.sregs()?;
        Ok(Some(FrozenCpu {
            general: FrozenCpu::pack(&regs),
            bases: [sregs.fs.base, sregs.gs.base],
            selectors: [sregs.ds, sregs.es, sregs.fs, sregs.gs].map(|segment| segment.selector),
            vectors: self.vcpu.vectors()?.to_vec(),
            components: self.components,
            features: self.features.clone(),
        }))
    }

    /// Gives a vCPU that hasn't run the program yet these registers.
    ///
    /// # Errors
    /// [`ThawError`]: what this CPU lacks, or what makes no sense.
    pub fn thaw(&mut self, frozen: &FrozenCpu) -> Result<(), ThawError> {
        self.features.check(&frozen.features)?;
        self.thaw_components(frozen)?;
        let mut sregs = self.vcpu.sregs()?;
        frozen.set_segments(&mut sregs)?;
        self.vcpu.set_sregs(&sregs)?;
        let [fs, gs] = frozen.bases;
        self.segments = Segments { fs, gs };
        self.vcpu.set_vectors(frozen.vector_words()?)?;
        let mut regs = frozen.registers();
        if WINDOW_SIZE <= regs.rip {
            return Err(ThawError::Impossible("instruction pointer"));
        }
        regs.rflags = regs.rflags & USER_FLAGS | FLAG_ALWAYS;
        self.vcpu.set_regs(&regs);
        Ok(())
    }

    /// The program may use the vector state that it could use before, no more: it has made room for so much.
    fn thaw_components(&mut self, frozen: &FrozenCpu) -> Result<(), ThawError> {
        match (self.components, frozen.components) {
            (None, None) => {}
            (Some(here), Some(before)) if before & !here == 0 => self.vcpu.set_components(before)?,
            (here, before) => {
                let name = |components: Option<u64>| {
                    components.map_or("no XSAVE".to_owned(), |bits| format!("{bits:#x}"))
                };
                let text = format!("vector state {} (here: {})", name(before), name(here));
                return Err(FeaturesError::Missing(text).into());
            }
        }
        self.components = frozen.components;
        Ok(())
    }
}
