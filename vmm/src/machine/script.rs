//! Scripts: a program whose first line names its interpreter.

use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use crate::machine::app::{AppConfig, RunError, open_program};

/// Bytes of the first line that count (Linux: BINPRM_BUF_SIZE).
const MAX_LINE: u64 = 256;

/// The configuration that runs a script's interpreter on it, as execve would; `None` for what isn't a
/// script.
///
/// # Errors
/// [`RunError::Open`].
pub(super) fn interpreter(config: &AppConfig) -> Result<Option<AppConfig>, RunError> {
    let open = |source| RunError::Open { program: config.program.to_string_lossy().into_owned(), source };
    let mut start = Vec::new();
    open_program(&config.program)?.take(MAX_LINE).read_to_end(&mut start).map_err(open)?;
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

/// The interpreter and its argument in `#!interpreter argument`; the argument is the rest of the line.
fn parse(start: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let mut parts = line.splitn(2, u8::is_ascii_whitespace);
    let interpreter = parts.next().filter(|name| !name.is_empty())?;
    Some((interpreter, parts.next().map(<[u8]>::trim_ascii).filter(|rest| !rest.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines() {
        assert_eq!(parse(b"#!/bin/lua\nprint(1)"), Some((&b"/bin/lua"[..], None)));
        assert_eq!(parse(b"#! /usr/bin/env  lua -x \n"), Some((&b"/usr/bin/env"[..], Some(&b"lua -x"[..]))));
        for none in [&b""[..], b"#!", b"#!  \n/bin/x", b"\x7fELF", b"# !/bin/lua"] {
            assert_eq!(parse(none), None, "{none:?}");
        }
    }
}
