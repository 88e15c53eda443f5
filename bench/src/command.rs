//! A command line as text.

use std::ffi::OsString;

/// The words as a shell would be given them. What is no Unicode is shown as it can be.
#[must_use]
pub fn shown(words: impl IntoIterator<Item = OsString>) -> String {
    let words = words.into_iter().map(|word| quoted(&word.to_string_lossy()));
    words.collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./,=+:%@".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        let words = ["target/release/cairn-bench", "--json", "a b", "it's", "", "x=1,2", "$HOME"];
        assert_eq!(
            shown(words.map(OsString::from)),
            r"target/release/cairn-bench --json 'a b' 'it'\''s' '' x=1,2 '$HOME'"
        );
    }
}
