//! The app guest: one ordinary Linux program at CPL 3, without a kernel. The VMM answers its system
//! calls.

mod auxiliary;
pub mod clock;
pub mod cpu;
pub mod elf;
pub mod facts;
pub mod files;
pub mod image;
pub mod mapping;
pub mod posted;
pub mod process;
pub mod program;
pub mod script;
pub mod signals;
pub mod space;
pub mod stack;
pub mod syscalls;
