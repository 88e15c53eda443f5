//! A program's start: its image, its interpreter and its stack.

use std::ffi::CString;
use std::fs::File;

use super::{AppConfig, RunError, open_program};
use crate::guest::app::clock::VDSO;
use crate::guest::app::elf::{Image, Loaded};
use crate::guest::app::facts::StartFacts;
use crate::guest::app::files::GuestPath;
use crate::guest::app::mapping::SpaceError;
use crate::guest::app::space::AddressSpace;
use crate::guest::app::stack::{MAX_ARGUMENTS, Start};
use crate::machine::{auxiliary, random};
use crate::memory::layout::STACK_TOP;

/// What /proc/self tells of the start.
pub(super) fn start_facts(config: &AppConfig) -> StartFacts {
    let path = config.program.canonicalize().unwrap_or_else(|_| config.program.clone());
    let texts = |texts: &[CString]| texts.iter().flat_map(|text| text.as_bytes_with_nul()).copied().collect();
    let executable = GuestPath::from_clean(path.as_os_str().as_encoded_bytes());
    StartFacts::new(executable, texts(&config.arguments), texts(&config.environment))
}

/// Loads the program and its interpreter, and writes the stack. Answers the first instruction and the
/// stack pointer.
pub(super) fn load(space: &mut AddressSpace, config: &AppConfig) -> Result<(u64, u64), RunError> {
    let path = config.program.to_string_lossy().into_owned();
    let file = open_program(&config.program)?;
    let image = Image::read(&path, file)?;
    let too_small = |source| RunError::Memory { memory: config.memory, source };
    space.map_stack().map_err(too_small)?;
    let program = image.load(space, false)?;
    let interpreter = match image.interpreter() {
        Some(name) => Some(load_interpreter(space, &path, name)?),
        None => None,
    };
    space.start_heap(program.end);
    let vdso = space.map_vdso(VDSO).map_err(too_small)?;
    let stack = write_stack(space, config, &auxiliary::vector(&program, interpreter.as_ref(), vdso))?;
    Ok((interpreter.unwrap_or(program).entry, stack))
}

fn load_interpreter(space: &mut AddressSpace, program: &str, name: &str) -> Result<Loaded, RunError> {
    let file = File::open(name).map_err(|source| RunError::Interpreter {
        program: program.to_owned(),
        interpreter: name.to_owned(),
        source,
    })?;
    Ok(Image::read(name, file)?.load(space, true)?)
}

fn write_stack(space: &AddressSpace, config: &AppConfig, auxiliary: &[(u64, u64)]) -> Result<u64, RunError> {
    let texts = config.arguments.iter().chain(&config.environment);
    let bytes: usize = texts.map(|text| text.as_bytes_with_nul().len() + 8).sum();
    if MAX_ARGUMENTS < bytes {
        return Err(RunError::Arguments { bytes });
    }
    let host = |what| move |source| RunError::Host { what, source };
    let random = random::bits().map_err(host("random bytes"))?;
    let path = config.arguments.first().cloned().unwrap_or_default();
    let start = Start {
        arguments: &config.arguments,
        environment: &config.environment,
        path: &path,
        random,
        auxiliary,
    };
    let bytes = start.build(STACK_TOP);
    let pointer = STACK_TOP - bytes.len() as u64;
    let written = space.memory().write_bytes(pointer, &bytes);
    written.map_err(|errno| RunError::Memory { memory: config.memory, source: SpaceError::Host(errno) })?;
    Ok(pointer)
}
