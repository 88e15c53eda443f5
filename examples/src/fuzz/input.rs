//! The input that all others are made of.

use std::fmt::Write;

use crate::fuzz::parser::MAX_LINES;

/// A well-formed text of as many settings as the parser reads.
#[must_use]
pub fn first_input() -> Vec<u8> {
    let mut text = String::new();
    for line in 0..MAX_LINES {
        let value = match line % 4 {
            0 => format!("[{line}, [{}, 7], 2]", line * 3),
            1 => format!("[[[{line}]], 1]"),
            _ => (line * 977).to_string(),
        };
        let operator = if line % 5 == 3 { "+=" } else { "=" };
        let end = if line + 1 < MAX_LINES { "\n" } else { "" };
        // Writing to a String can't fail.
        let _ = write!(text, "setting_{line:02} {operator} {value}{end}");
    }
    text.into_bytes()
}
