//! What a person calls a running guest.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Bytes of a name at most. Bounds a column of `cairn ps`, and what a status says.
pub const MAX_NAME: usize = 64;
/// What a program is called whose own name has nothing that a name may have.
const NAMELESS: &str = "guest";

/// A guest's name: letters, digits and `._+-`, not only digits, as a number names a process. Several guests may have
/// the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuestName(String);

/// Why a text is no name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than [`MAX_NAME`].
    #[error("a name has 1 to {MAX_NAME} letters")]
    Length,
    /// Something that it may not have.
    #[error("a name has letters, digits and ._+- and begins with none of +-")]
    Letters,
    /// It could be a process.
    #[error("a number names a process, so it can't be a name")]
    Number,
}

impl GuestName {
    /// The name of a guest that was given none: that of its program's file, with `_` for what a name can't have.
    #[must_use]
    pub fn of_program(program: &Path) -> Self {
        let name = program.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let allowed: String =
            name.chars().map(|c| if is_allowed(c) { c } else { '_' }).take(MAX_NAME - 1).collect();
        let prefixed = || format!("_{allowed}").parse();
        allowed.parse().or_else(|_| prefixed()).unwrap_or_else(|_| Self(NAMELESS.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._+-".contains(c)
}

impl FromStr for GuestName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match () {
            () if text.is_empty() || MAX_NAME < text.len() => Err(NameError::Length),
            () if !text.chars().all(is_allowed) || text.starts_with(['+', '-']) => Err(NameError::Letters),
            () if text.bytes().all(|byte| byte.is_ascii_digit()) => Err(NameError::Number),
            () => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for GuestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let longest = "a".repeat(MAX_NAME);
        for good in ["a", "python3.11", "g++", "_7", "7z", &longest] {
            assert_eq!(good.parse::<GuestName>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(MAX_NAME + 1);
        for (bad, error) in [
            ("", NameError::Length),
            (&too_long, NameError::Length),
            ("-a", NameError::Letters),
            ("a b", NameError::Letters),
            ("a\n", NameError::Letters),
            ("../a", NameError::Letters),
            ("ä", NameError::Letters),
            ("2048", NameError::Number),
        ] {
            assert_eq!(bad.parse::<GuestName>(), Err(error), "{bad:?}");
        }
    }

    #[test]
    fn every_program_has_a_name() {
        let long = format!("/bin/{}", "x".repeat(300));
        let cases = [
            ("/usr/bin/sqlite3", "sqlite3"),
            ("/opt/2048", "_2048"),
            ("a b\n", "a_b_"),
            ("-x", "_-x"),
            ("/", "_"),
        ];
        for (program, name) in cases {
            assert_eq!(GuestName::of_program(Path::new(program)).as_str(), name);
        }
        assert_eq!(GuestName::of_program(Path::new(&long)).as_str().len(), MAX_NAME - 1);
        for program in ["/", "ä", "", "..", "7"] {
            let name = GuestName::of_program(Path::new(program));
            assert_eq!(name.as_str().parse(), Ok(name.clone()), "{program:?}");
        }
    }
}
