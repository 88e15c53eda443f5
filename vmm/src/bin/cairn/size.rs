//! Sizes on the command line, `512M`, `4G`, and for people to read.

use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size(pub(crate) u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match [(1 << 30, 'G'), (1 << 20, 'M'), (1 << 10, 'K')]
            .into_iter()
            .find(|(unit, _)| self.0.is_multiple_of(*unit))
        {
            Some((unit, letter)) if self.0 != 0 => write!(f, "{}{letter}", self.0 / unit),
            _ => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("'{text}' is no size: write a number of bytes, or one with K, M, G or T, such as 512M")
        };
        let (digits, unit) = match text.char_indices().find(|(_, letter)| !letter.is_ascii_digit()) {
            None => (text, 1),
            Some((at, _)) => (&text[..at], unit(&text[at..]).ok_or_else(bad)?),
        };
        let number: u64 = digits.parse().map_err(|_| bad())?;
        number.checked_mul(unit).map(Self).ok_or_else(bad)
    }
}

fn unit(text: &str) -> Option<u64> {
    match text.to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "K" => Some(1 << 10),
        "M" => Some(1 << 20),
        "G" => Some(1 << 30),
        "T" => Some(1 << 40),
        _ => None,
    }
}

/// A number of bytes in a unit that people read.
pub(crate) fn readable(bytes: u64) -> String {
    let tenths = |shift: u32| (u128::from(bytes) * 10) >> shift;
    let with = |shift, unit| format!("{}.{} {unit}", tenths(shift) / 10, tenths(shift) % 10);
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => with(10, "KiB"),
        0x10_0000..0x4000_0000 => with(20, "MiB"),
        _ => with(30, "GiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("4096", 4096), ("64K", 64 << 10), ("512m", 512 << 20), ("4GiB", 4 << 30), ("1TB", 1 << 40)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "M", "4X", "-1", "1.5G", "99999999999T", "4 G"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
