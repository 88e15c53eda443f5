//! A program's start, by the files of the host that its configuration names.

use std::ffi::CString;
use std::path::Path;

use super::{AppConfig, RunError, open_file, open_program};
use crate::guest::app::elf::Image;
use crate::guest::app::facts::StartFacts;
use crate::guest::app::files::GuestPath;
use crate::guest::app::program::{Entry, Program, StartError};
use crate::guest::app::space::AddressSpace;
use crate::guest::app::stack::MAX_ARGUMENTS;
use crate::host::random::Source;

/// What /proc/self tells of the start.
pub(super) fn start_facts(config: &AppConfig) -> StartFacts {
    let path = config.program.canonicalize().unwrap_or_else(|_| config.program.clone());
    let executable = GuestPath::from_clean(path.as_os_str().as_encoded_bytes());
    StartFacts::new(executable, &config.arguments, &config.environment)
}

/// Loads the program and its interpreter, and writes the stack.
pub(super) fn load(space: &mut AddressSpace, config: &AppConfig) -> Result<Entry, RunError> {
    let program = program(config)?;
    let random = Source::open().and_then(|mut source| source.bits());
    let random = random.map_err(|source| RunError::Host { what: "random bytes", source })?;
    program.load(space, random).map_err(|error| match error {
        StartError::Load(error) => RunError::Load(error),
        StartError::Memory(source) => RunError::Memory { memory: config.memory, source },
    })
}

fn program(config: &AppConfig) -> Result<Program, RunError> {
    let path = config.program.to_string_lossy().into_owned();
    let image = Image::read(&path, open_program(&config.program)?)?;
    let interpreter = image.interpreter().map(|name| interpreter(&path, name)).transpose()?;
    let program = Program {
        image,
        interpreter,
        path: config.arguments.first().cloned().unwrap_or_else(CString::default),
        arguments: config.arguments.clone(),
        environment: config.environment.clone(),
    };
    let bytes = program.argument_bytes();
    if MAX_ARGUMENTS < bytes { Err(RunError::Arguments { bytes }) } else { Ok(program) }
}

fn interpreter(program: &str, name: &str) -> Result<Image, RunError> {
    let file = open_file(Path::new(name)).map_err(|source| RunError::Interpreter {
        program: program.to_owned(),
        interpreter: name.to_owned(),
        source,
    })?;
    Ok(Image::read(name, file)?)
}
