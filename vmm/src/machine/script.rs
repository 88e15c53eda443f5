//! Scripts: a program whose first line names its interpreter.

use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use crate::guest::app::script::{MAX_LINE, parse};
use crate::machine::app::{AppConfig, RunError, open_program};

/// The configuration that runs a script's interpreter on it, as execve would; `None` for what isn't a
/// script.
///
/// # Errors
/// [`RunError::Open`].
pub(super) fn interpreter(config: &AppConfig) -> Result<Option<AppConfig>, RunError> {
    let open = |source| RunError::Open { program: config.program.to_string_lossy().into_owned(), source };
    let mut start = Vec::new();
    open_program(&config.program)?.take(MAX_LINE as u64).read_to_end(&mut start).map_err(open)?;
    let Some((interpreter, argument)) = parse(&start) else { return Ok(None) };
    let text = |bytes: &[u8]| CString::new(bytes).ok();
    let mut arguments: Vec<CString> =
        [Some(interpreter), argument, Some(config.program.as_os_str().as_bytes())]
            .into_iter()
            .flatten()
            .filter_map(text)
            .collect();
    arguments.extend(config.arguments.iter().skip(1).cloned());
    Ok(Some(AppConfig { program: OsStr::from_bytes(interpreter).into(), arguments, ..config.clone() }))
}
