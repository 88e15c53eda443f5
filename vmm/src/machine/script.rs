//! Scripts: a program whose first line names its interpreter.

use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::guest::app::files::Follow;
use crate::guest::app::process::Process;
use crate::guest::app::script::{MAX_LINE, parse};
use crate::machine::app::{AppConfig, RunError, open_file, open_program};

/// R_OK of access(2).
const READ_ACCESS: u32 = 4;

/// The configuration that runs a script's interpreter on it, as execve would; `None` for what isn't a
/// script.
///
/// # Errors
/// [`RunError::Open`], [`RunError::NoInterpreter`].
pub(super) fn interpreter(config: &AppConfig) -> Result<Option<AppConfig>, RunError> {
    let open = |source| RunError::Open { program: config.program.to_string_lossy().into_owned(), source };
    let mut start = Vec::new();
    open_program(&config.program)?.take(MAX_LINE as u64).read_to_end(&mut start).map_err(open)?;
    let Some((interpreter, argument)) = parse(&start) else { return Ok(None) };
    let program = Path::new(OsStr::from_bytes(interpreter));
    if let Err(error) = open_file(program)
        && error.kind() == io::ErrorKind::NotFound
    {
        return Err(RunError::NoInterpreter { script: config.program.clone(), interpreter: program.into() });
    }
    let text = |bytes: &[u8]| CString::new(bytes).ok();
    let mut arguments: Vec<CString> =
        [Some(interpreter), argument, Some(config.program.as_os_str().as_bytes())]
            .into_iter()
            .flatten()
            .filter_map(text)
            .collect();
    arguments.extend(config.arguments.iter().skip(1).cloned());
    Ok(Some(AppConfig { program: program.into(), arguments, ..config.clone() }))
}

/// Whether the interpreter, which has become `process`, can read its script: it opens that itself, where it is.
///
/// # Errors
/// [`RunError::HiddenScript`].
pub(super) fn check_seen(process: &Process, script: &Path) -> Result<(), RunError> {
    let facts = process.facts();
    let files = &process.files;
    let readable = |path: &Path| {
        let at = files.at(libc::AT_FDCWD, path.as_os_str().as_bytes())?;
        files.view().access(&files.caller(&facts), &at, Follow::Yes, READ_ACCESS)
    };
    if readable(script).is_ok() {
        return Ok(());
    }
    let absolute = std::path::absolute(script).unwrap_or_else(|_| script.into());
    // Where it's a link that the program sees, what that leads to is missing.
    let linked = absolute.parent().is_some_and(|directory| readable(directory).is_ok());
    let file = if linked { script.canonicalize().unwrap_or(absolute) } else { absolute };
    let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
    Err(RunError::HiddenScript { script: script.to_owned(), directory })
}
