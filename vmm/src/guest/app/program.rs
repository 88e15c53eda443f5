//! A program that is about to start in an empty address space.

use std::ffi::CString;

use crate::guest::app::auxiliary;
use crate::guest::app::clock::VDSO;
use crate::guest::app::elf::{Image, LoadError};
use crate::guest::app::mapping::SpaceError;
use crate::guest::app::space::AddressSpace;
use crate::guest::app::stack::{MAX_ARGUMENTS, Start};
use crate::memory::layout::STACK_TOP;

/// A program with all that its start needs.
#[derive(Debug)]
pub struct Program {
    /// Its file.
    pub image: Image,
    /// The dynamic linker that it asks for.
    pub interpreter: Option<Image>,
    /// The path by which it was started.
    pub path: CString,
    /// argv.
    pub arguments: Vec<CString>,
    /// envp, as `NAME=value`.
    pub environment: Vec<CString>,
}

/// Where a program begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its first instruction.
    pub instruction: u64,
    /// The stack pointer.
    pub stack: u64,
}

/// Why a program can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file of it can't be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Memory beside its files.
    #[error("there is no room for its stack")]
    Memory(#[from] SpaceError),
}

impl Program {
    /// Bytes of its arguments and environment, as they are bounded by [`MAX_ARGUMENTS`]: with a pointer for each.
    #[must_use]
    pub fn argument_bytes(&self) -> usize {
        let texts = self.arguments.iter().chain(&self.environment);
        texts.map(|text| text.as_bytes_with_nul().len() + size_of::<u64>()).sum()
    }

    /// Maps its files and writes its stack, with `random` as the program's random bits. Arguments and environment were
    /// checked to be no longer than [`MAX_ARGUMENTS`].
    ///
    /// # Errors
    /// [`StartError`]; the address space is of no use then.
    pub fn load(&self, space: &mut AddressSpace, random: [u8; 16]) -> Result<Entry, StartError> {
        debug_assert!(self.argument_bytes() <= MAX_ARGUMENTS);
        space.map_stack()?;
        let program = self.image.load(space, false)?;
        let interpreter = self.interpreter.as_ref().map(|image| image.load(space, true)).transpose()?;
        space.start_heap(program.end);
        let vdso = space.map_vdso(VDSO)?;
        let start = Start {
            arguments: &self.arguments,
            environment: &self.environment,
            path: &self.path,
            random,
            auxiliary: &auxiliary::vector(&program, interpreter.as_ref(), vdso),
        };
        let bytes = start.build(STACK_TOP);
        let stack = STACK_TOP - bytes.len() as u64;
        space.memory().write_bytes(stack, &bytes).map_err(SpaceError::Host)?;
        Ok(Entry { instruction: interpreter.unwrap_or(program).entry, stack })
    }
}
