//! The stack that a program starts with: arguments, environment, auxiliary vector.
//!
//! System V ABI, AMD64 supplement, figure 3.9.

use std::ffi::CString;

/// Bytes that arguments and environment may have together (Linux: a quarter of the stack's limit).
pub const MAX_ARGUMENTS: usize = 2 << 20;

/// What goes on the stack.
#[derive(Debug)]
pub struct Start<'a> {
    /// argv.
    pub arguments: &'a [CString],
    /// envp, as `NAME=value`.
    pub environment: &'a [CString],
    /// The program's path, for AT_EXECFN.
    pub path: &'a CString,
    /// 16 random bytes, for AT_RANDOM.
    pub random: [u8; 16],
    /// Pairs of the auxiliary vector, but for those that point into the stack and AT_NULL.
    pub auxiliary: &'a [(u64, u64)],
}

const AT_NULL: u64 = 0;
const AT_PLATFORM: u64 = 15;
const AT_RANDOM: u64 = 25;
const AT_EXECFN: u64 = 31;

impl Start<'_> {
    /// The bytes that end at `top` (16-byte aligned); the first is where the stack pointer starts.
    #[must_use]
    pub fn build(&self, top: u64) -> Vec<u8> {
        let mut strings = Strings { bytes: Vec::new(), top };
        // Null-terminated end marker, as Linux leaves one.
        strings.push(&[0; 8]);
        let path = strings.push(self.path.to_bytes_with_nul());
        let environment: Vec<u64> =
            self.environment.iter().map(|text| strings.push(text.to_bytes_with_nul())).collect();
        let arguments: Vec<u64> =
            self.arguments.iter().map(|text| strings.push(text.to_bytes_with_nul())).collect();
        let platform = strings.push(b"x86_64\0");
        let random = strings.push(&self.random);

        let mut words = vec![arguments.len() as u64];
        words.extend(&arguments);
        words.push(0);
        words.extend(&environment);
        words.push(0);
        let pointers = [(AT_RANDOM, random), (AT_EXECFN, path), (AT_PLATFORM, platform), (AT_NULL, 0)];
        for (kind, value) in self.auxiliary.iter().chain(&pointers) {
            words.extend([*kind, *value]);
        }
        strings.below(&words)
    }
}

/// Bytes that grow downwards from `top`; kept in reverse.
struct Strings {
    bytes: Vec<u8>,
    top: u64,
}

impl Strings {
    fn push(&mut self, bytes: &[u8]) -> u64 {
        self.bytes.extend(bytes.iter().rev());
        self.top - self.bytes.len() as u64
    }

    /// All of it, with `words` below, so that the first word is 16-byte aligned.
    fn below(mut self, words: &[u64]) -> Vec<u8> {
        let size = self.bytes.len() + words.len() * 8;
        self.bytes.resize(self.bytes.len() + (16 - size % 16) % 16, 0);
        let mut all: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        all.extend(self.bytes.iter().rev());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: u64 = 0x8000_0000;

    fn text(stack: &[u8], address: u64) -> &str {
        let start = stack.len() - usize::try_from(TOP - address).unwrap();
        let end = start + stack[start..].iter().position(|byte| *byte == 0).unwrap();
        std::str::from_utf8(&stack[start..end]).unwrap()
    }

    #[test]
    fn is_laid_out_as_the_abi_says() {
        let strings =
            |list: &[&str]| list.iter().map(|text| CString::new(*text).unwrap()).collect::<Vec<_>>();
        for extra in 0..4 {
            let arguments = strings(&["prog", "a", "bb", "ccc"][..=extra]);
            let start = Start {
                arguments: &arguments,
                environment: &strings(&["HOME=/", "X=y"]),
                path: &CString::new("/bin/prog").unwrap(),
                random: [9; 16],
                auxiliary: &[(6, 4096)],
            };
            let stack = start.build(TOP);
            assert_eq!((TOP - stack.len() as u64) % 16, 0);
            let word = |index: usize| u64::from_le_bytes(stack[index * 8..index * 8 + 8].try_into().unwrap());
            assert_eq!(word(0), arguments.len() as u64);
            assert_eq!(text(&stack, word(1)), "prog");
            let environment = arguments.len() + 2;
            assert_eq!((word(environment - 1), text(&stack, word(environment + 1))), (0, "X=y"));
            assert_eq!((word(environment + 2), word(environment + 3), word(environment + 4)), (0, 6, 4096));
            assert_eq!(
                (word(environment + 7), text(&stack, word(environment + 8))),
                (AT_EXECFN, "/bin/prog")
            );
        }
    }
}
