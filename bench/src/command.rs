//! A command line as text.

use std::ffi::OsString;
use std::path::Path;

/// The first word that `cairn bench` hands over; the second is its own path.
const HANDED_OVER: &str = "--cairn";

/// The command that a person types for a run with these words of this program: `cairn bench` where that handed over
/// (it names itself first, by `--cairn`), else the program's name without the directories that lead to it.
#[must_use]
pub fn typed(words: impl IntoIterator<Item = OsString>) -> String {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let name = |path: &OsString| Path::new(path).file_name().map_or_else(|| path.clone(), OsString::from);
    let handed_over = words.get(1).is_some_and(|word| word == HANDED_OVER);
    match words.get(2).map(name) {
        Some(cairn) if handed_over => drop(words.splice(..3, [cairn, "bench".into()])),
        _ => words.iter_mut().take(1).for_each(|program| *program = name(program)),
    }
    shown(words)
}

/// The words as a shell would be given them. What is no Unicode is shown as it can be.
fn shown(words: impl IntoIterator<Item = OsString>) -> String {
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

    #[test]
    fn a_run_is_shown_as_a_person_types_it() {
        let typed = |line: &str| typed(line.split(' ').map(OsString::from));
        assert_eq!(
            typed("/w/release/cairn-bench --cairn /w/release/cairn --quick --json out/x.json"),
            "cairn bench --quick --json out/x.json"
        );
        assert_eq!(typed("/w/cairn-bench --cairn /w/cairn"), "cairn bench");
        assert_eq!(typed("/w/cairn-bench --quick --cairn /w/cairn"), "cairn-bench --quick --cairn /w/cairn");
        assert_eq!(typed("cairn-bench"), "cairn-bench");
        assert_eq!(typed("/w/cairn-bench --cairn"), "cairn-bench --cairn");
        assert_eq!(super::typed([]), "");
    }
}
