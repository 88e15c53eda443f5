//! The parser: settings, one a line, into a table. It has a bug.
//!
//! A line is `NAME = VALUE` or `NAME += VALUE`; a value is a number or a list of values, `[1, [2, 3]]`. A malformed line
//! is remembered in the same table, under its own text, so that it's complained about once.
//!
//! The state is whole pages of words. The first is the parser's workspace, each other one a bucket of the table: a line
//! writes into one of them. The table is loaded with entries before the first input.

use crate::fuzz::{PAGE_WORDS, Verdict};

/// Pages that an input of [`MAX_LINES`] lines writes, if no two of them meet in a bucket: the workspace and a bucket
/// for each.
pub const PAGES_TOUCHED: u32 = 40;
/// Lines that are read; what comes after them isn't.
pub const MAX_LINES: usize = PAGES_TOUCHED as usize - 1;
/// Letters that a name may have.
const MAX_NAME: usize = 32;
/// Lists within lists that a value may have.
const MAX_DEPTH: usize = 8;

/// Words of the workspace: how deep lists were nested, malformed lines, lines, the sums of open lists, and the bucket
/// of each line.
const DEEPEST: usize = 0;
const ERRORS: usize = 1;
const LINES: usize = 2;
const SUMS: usize = 8;
const BUCKETS: usize = 16;

/// Entries of a bucket: pairs of a key, 0 where there is none, and a value.
const ENTRIES: usize = PAGE_WORDS / 2;
/// Entries that each bucket is loaded with.
const LOADED: u64 = 16;

/// The line isn't as lines are.
struct Malformed;

/// Loads the table into `state`, at least two pages.
pub fn prepare(state: &mut [u64]) {
    for (page, words) in state.chunks_exact_mut(PAGE_WORDS).enumerate() {
        prepare_page(page, words);
    }
}

/// Puts back what the last [`parse`] wrote, by what it says in the workspace that it wrote: what a program can do by
/// itself that knows all its writes.
pub fn undo(state: &mut [u64]) {
    for line in 0..MAX_LINES {
        let page = usize::try_from(state[BUCKETS + line]).unwrap_or(0);
        if page != 0 {
            prepare_page(page, &mut state[page * PAGE_WORDS..][..PAGE_WORDS]);
        }
    }
    prepare_page(0, &mut state[..PAGE_WORDS]);
}

fn prepare_page(page: usize, words: &mut [u64]) {
    words.fill(0);
    if page == 0 {
        return;
    }
    for entry in 0..LOADED {
        let key = mixed(page as u64 * LOADED + entry);
        // A bucket has room for many more than it is loaded with.
        let _ = enter(words, key, |value| *value = key >> 7);
    }
}

/// Reads `input` into the prepared `state`, and says what it found.
///
/// # Panics
/// There is an input with which it does.
pub fn parse(state: &mut [u64], input: &[u8]) -> Verdict {
    let (workspace, table) = state.split_at_mut(PAGE_WORDS);
    let buckets = table.len() / PAGE_WORDS;
    for (number, line) in input.split(|byte| *byte == b'\n').take(MAX_LINES).enumerate() {
        workspace[LINES] += 1;
        let setting = Setting::parse(workspace, line);
        let name = if let Ok(setting) = &setting { setting.name } else { line };
        let key = mixed(crate::hash(name.iter().copied()) as u64);
        let bucket = usize::try_from(key % buckets as u64).unwrap_or(0);
        workspace[BUCKETS + number] = bucket as u64 + 1;
        let words = &mut table[bucket * PAGE_WORDS..][..PAGE_WORDS];
        let entered = setting.and_then(|setting| enter(words, key, |value| setting.apply(value)));
        if entered.is_err() {
            workspace[ERRORS] += 1;
            // In a full bucket the line is complained about again, which does no harm.
            let _ = enter(words, key, |value| *value += 1);
        }
    }
    let small = |word: u64| u8::try_from(word).unwrap_or(u8::MAX);
    let errors = small(workspace[ERRORS]).min(Verdict::MAX_ERRORS);
    Verdict::Read { depth: small(workspace[DEEPEST]), errors }
}

/// A line's meaning.
struct Setting<'l> {
    name: &'l [u8],
    adds: bool,
    value: u64,
}

impl<'l> Setting<'l> {
    fn parse(workspace: &mut [u64], line: &'l [u8]) -> Result<Self, Malformed> {
        let mut rest = Rest(line);
        let name = rest.name()?;
        rest.skip_spaces();
        let adds = rest.take(b'+');
        if !rest.take(b'=') {
            return Err(Malformed);
        }
        let value = rest.value(workspace)?;
        rest.skip_spaces();
        if rest.0.is_empty() { Ok(Self { name, adds, value }) } else { Err(Malformed) }
    }

    fn apply(&self, value: &mut u64) {
        *value = if self.adds { value.wrapping_add(self.value) } else { self.value };
    }
}

/// What is left of a line.
struct Rest<'l>(&'l [u8]);

impl<'l> Rest<'l> {
    fn take(&mut self, byte: u8) -> bool {
        let found = self.0.strip_prefix(&[byte]);
        self.0 = found.unwrap_or(self.0);
        found.is_some()
    }

    fn skip_spaces(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'l [u8] {
        let len = self.0.iter().take_while(|byte| belongs(**byte)).count();
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn name(&mut self) -> Result<&'l [u8], Malformed> {
        let name = self.take_while(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if (1..=MAX_NAME).contains(&name.len()) { Ok(name) } else { Err(Malformed) }
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        if digits.is_empty() {
            return Err(Malformed);
        }
        let digit = |byte: &u8| u64::from(byte - b'0');
        Ok(digits.iter().fold(0_u64, |number, byte| number.wrapping_mul(10).wrapping_add(digit(byte))))
    }

    fn value(&mut self, workspace: &mut [u64]) -> Result<u64, Malformed> {
        let mut depth = 0;
        loop {
            self.skip_spaces();
            if self.take(b'[') {
                // The bug: this lets a list more through than there are sums.
                if depth > MAX_DEPTH {
                    return Err(Malformed);
                }
                workspace[SUMS..SUMS + MAX_DEPTH][depth] = 0;
                depth += 1;
                workspace[DEEPEST] = workspace[DEEPEST].max(depth as u64);
                continue;
            }
            let mut value = self.number()?;
            loop {
                if depth == 0 {
                    return Ok(value);
                }
                let sum = &mut workspace[SUMS + depth - 1];
                *sum = sum.wrapping_mul(31).wrapping_add(value);
                self.skip_spaces();
                if self.take(b',') {
                    break;
                }
                if !self.take(b']') {
                    return Err(Malformed);
                }
                value = *sum;
                depth -= 1;
            }
        }
    }
}

/// Changes the value under `key` in a bucket, which is 0 if the key is new.
fn enter(bucket: &mut [u64], key: u64, change: impl FnOnce(&mut u64)) -> Result<(), Malformed> {
    let first = usize::try_from(key >> 40).unwrap_or(0);
    for step in 0..ENTRIES {
        let at = (first + step) % ENTRIES * 2;
        if bucket[at] == 0 || bucket[at] == key {
            bucket[at] = key;
            change(&mut bucket[at + 1]);
            return Ok(());
        }
    }
    Err(Malformed)
}

/// Spreads a number over 64 bits, never to 0 (the finalizer of `splitmix64`).
fn mixed(number: u64) -> u64 {
    let a = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ a >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (b ^ b >> 31).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fuzz::{first_input, judge};

    /// A prepared state of so many pages.
    fn state(pages: usize) -> Vec<u64> {
        let mut state = vec![0; pages * PAGE_WORDS];
        prepare(&mut state);
        state
    }

    fn verdict(text: &str) -> Verdict {
        judge(&mut state(64), text.as_bytes())
    }

    #[test]
    fn settings_are_read_and_malformed_lines_counted() {
        for (text, depth, errors) in [
            ("a = 1", 0, 0),
            ("a=1\nb += 2\na += 3", 0, 0),
            ("list = [1, [2,3] , [[4]]]", 3, 0),
            ("deep = [[[[[[[[1]]]]]]]]", 8, 0),
            ("a", 0, 1),
            ("A = 1\n= 2\na + 3\na = \na = x\na = 1 2", 0, 6),
            ("a = [1", 1, 1),
            ("a = []\na = [1,]\na = 1]", 1, 3),
            ("a_name_of_thirty_three_letters_is_ = 1", 0, 1),
        ] {
            assert_eq!(verdict(text), Verdict::Read { depth, errors }, "{text}");
        }
    }

    #[test]
    fn a_ninth_list_is_the_bug() {
        assert_eq!(verdict("deep = [[[[[[[[[1]]]]]]]]]"), Verdict::Crash);
    }

    #[test]
    fn a_setting_has_the_value_of_its_last_line() {
        let mut state = state(2);
        parse(&mut state, b"a = 5\na += 7\nb = 3\nb = [1, 2]");
        let value = |name: &str| {
            let key = mixed(crate::hash(name.bytes()) as u64);
            let at = state[PAGE_WORDS..].iter().step_by(2).position(|word| *word == key).unwrap();
            state[PAGE_WORDS + 2 * at + 1]
        };
        assert_eq!((value("a"), value("b")), (12, 33));
    }

    #[test]
    fn the_first_input_writes_its_pages_and_undo_puts_them_back() {
        let prepared = state(16 << 10);
        let mut written = prepared.clone();
        assert_eq!(judge(&mut written, &first_input()), Verdict::Read { depth: 3, errors: 0 });
        let page_of = |at: usize| at / PAGE_WORDS;
        let pages: BTreeSet<_> =
            (0..written.len()).filter(|at| written[*at] != prepared[*at]).map(page_of).collect();
        assert_eq!(pages.len(), PAGES_TOUCHED as usize);
        undo(&mut written);
        assert!(written == prepared);
    }

    #[test]
    fn a_full_bucket_is_no_harm() {
        let mut state = state(2);
        for round in 0..20 {
            let text: String = (0..MAX_LINES).map(|line| format!("name_{round}_{line} = 1\n")).collect();
            parse(&mut state, text.as_bytes());
        }
        assert!(matches!(parse(&mut state, b"one_more = 1"), Verdict::Read { errors, .. } if errors > 0));
    }
}
