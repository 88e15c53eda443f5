//! The first line of a script, which names its interpreter.

/// Bytes of the first line that count (Linux: BINPRM_BUF_SIZE).
pub const MAX_LINE: usize = 256;

/// The interpreter and its argument in `#!interpreter argument`; the argument is the rest of the line.
#[must_use]
pub fn parse(start: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
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
