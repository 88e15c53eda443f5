//! Commands as they are typed.

/// One line, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command<'l> {
    Set {
        key: &'l [u8],
        value: &'l [u8],
    },
    Get {
        key: &'l [u8],
    },
    Del {
        key: &'l [u8],
    },
    List,
    Begin,
    Commit,
    Rollback,
    Stats,
    Quit,
    /// A line without a word.
    Nothing,
}

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotACommand {
    /// The first word is none of ours; holds it.
    #[error("no such command: {0:?}; there are SET GET DEL LIST BEGIN COMMIT ROLLBACK STATS QUIT")]
    Unknown(String),
    /// The command takes something that isn't there: how it is written.
    #[error("usage: {0}")]
    Usage(&'static str),
}

impl<'l> Command<'l> {
    /// Reads a line, whose end may be there or not.
    pub(crate) fn parse(line: &'l [u8]) -> Result<Self, NotACommand> {
        let line = line.trim_ascii();
        let (word, rest) = split_word(line);
        match word.to_ascii_uppercase().as_slice() {
            b"" => Ok(Self::Nothing),
            b"SET" => match split_word(rest) {
                (b"", _) | (_, b"") => Err(NotACommand::Usage("SET KEY VALUE")),
                (key, value) => Ok(Self::Set { key, value }),
            },
            b"GET" => Ok(Self::Get { key: only_key(rest, "GET KEY")? }),
            b"DEL" => Ok(Self::Del { key: only_key(rest, "DEL KEY")? }),
            b"LIST" => alone(Self::List, rest, "LIST"),
            b"BEGIN" => alone(Self::Begin, rest, "BEGIN"),
            b"COMMIT" => alone(Self::Commit, rest, "COMMIT"),
            b"ROLLBACK" => alone(Self::Rollback, rest, "ROLLBACK"),
            b"STATS" => alone(Self::Stats, rest, "STATS"),
            b"QUIT" => alone(Self::Quit, rest, "QUIT"),
            _ => Err(NotACommand::Unknown(String::from_utf8_lossy(word).into_owned())),
        }
    }
}

/// The first word, and what follows the white space after it.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_ascii_start())
}

fn only_key<'l>(rest: &'l [u8], usage: &'static str) -> Result<&'l [u8], NotACommand> {
    match split_word(rest) {
        (b"", _) => Err(NotACommand::Usage(usage)),
        (key, b"") => Ok(key),
        _ => Err(NotACommand::Usage(usage)),
    }
}

fn alone<'l>(command: Command<'l>, rest: &[u8], usage: &'static str) -> Result<Command<'l>, NotACommand> {
    if rest.is_empty() { Ok(command) } else { Err(NotACommand::Usage(usage)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_rest_of_the_line() {
        let set = Command::Set { key: b"k", value: b"two  words" };
        assert_eq!(Command::parse(b"  set k   two  words \r\n"), Ok(set));
        assert_eq!(Command::parse(b"GET \xff\n"), Ok(Command::Get { key: b"\xff" }));
        assert_eq!(Command::parse(b"\n"), Ok(Command::Nothing));
        assert_eq!(Command::parse(b"Quit"), Ok(Command::Quit));
    }

    #[test]
    fn a_line_that_is_no_command_says_how_it_would_be_one() {
        for (line, usage) in [
            ("SET", "SET KEY VALUE"),
            ("SET k", "SET KEY VALUE"),
            ("GET", "GET KEY"),
            ("DEL a b", "DEL KEY"),
            ("LIST x", "LIST"),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Err(NotACommand::Usage(usage)), "{line}");
        }
        let unknown = Command::parse(b"PUT \xff").unwrap_err();
        assert!(unknown.to_string().contains("\"PUT\""));
    }
}
