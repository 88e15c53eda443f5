//! The regions of a session, as far as the device must know them: to refuse claims that clash.

use cairn_abi::hint::HINT_PAGES;
use cairn_abi::{Hint, PAGE_SIZE, RegionId, RegionName, Span, Status};

use super::session::Limits;

/// Whole pages of a program's memory: not empty, and not around the end of the address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionSpan {
    address: u64,
    len: u64,
}

impl RegionSpan {
    /// Checks a program's claim; `None` if it isn't whole pages, or empty, or wraps. Whether there is memory
    /// is for others to find out.
    #[must_use]
    pub fn from_claim(claim: Span) -> Option<Self> {
        let Span { address, len } = claim;
        claim.is_whole_pages().then_some(Self { address, len })
    }

    /// The first byte's virtual address, a multiple of [`PAGE_SIZE`].
    #[must_use]
    pub fn address(self) -> u64 {
        self.address
    }

    /// Bytes, a multiple of [`PAGE_SIZE`] and not 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a span is never empty")]
    pub fn len(self) -> u64 {
        self.len
    }

    /// The address behind the last byte.
    #[must_use]
    pub fn end(self) -> u64 {
        self.address + self.len
    }

    fn overlaps(self, other: Self) -> bool {
        self.address < other.end() && other.address < self.end()
    }
}

/// The live regions. Never more than [`Limits::max_regions`], so looking at each is cheap.
#[derive(Debug, Default)]
pub(super) struct Regions {
    live: Vec<(RegionId, RegionName, RegionSpan)>,
}

/// Why a claim can't become a region: the reply's status and detail.
pub(super) type Refusal = (Status, u32);

impl Regions {
    /// Checks that a claim can become a region beside those there are.
    pub(super) fn admit(
        &self,
        claim: Span,
        name: &RegionName,
        limits: &Limits,
    ) -> Result<RegionSpan, Refusal> {
        let span = RegionSpan::from_claim(claim).ok_or((Status::BadSpan, 0))?;
        if let Some((id, ..)) = self.live.iter().find(|(.., other)| other.overlaps(span)) {
            return Err((Status::Overlap, id.0));
        }
        if self.live.iter().any(|(_, other, _)| other == name) {
            return Err((Status::BadName, 0));
        }
        let count = u32::try_from(self.live.len()).unwrap_or(u32::MAX);
        let bytes = self.live.iter().try_fold(span.len(), |sum, (.., other)| sum.checked_add(other.len()));
        if count >= limits.max_regions || bytes.is_none_or(|bytes| bytes > limits.max_bytes) {
            return Err((Status::Limit, 0));
        }
        Ok(span)
    }

    pub(super) fn insert(&mut self, id: RegionId, name: RegionName, span: RegionSpan) {
        self.live.push((id, name, span));
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RegionId, RegionName, RegionSpan)> + '_ {
        self.live.iter().copied()
    }

    pub(super) fn contains(&self, id: RegionId) -> bool {
        self.live.iter().any(|(other, ..)| *other == id)
    }

    /// What of a hint is about pages of a region; `None` if nothing is.
    pub(super) fn clip(&self, hint: Hint) -> Option<Hint> {
        let (.., span) = self.live.iter().find(|(id, ..)| *id == hint.region)?;
        let pages = span.len() / PAGE_SIZE;
        let left = pages.checked_sub(u64::from(hint.word) * HINT_PAGES).filter(|left| *left > 0)?;
        let mask = if left < HINT_PAGES { (1 << left) - 1 } else { u64::MAX };
        let bits = hint.bits & mask;
        (bits != 0).then_some(Hint { bits, ..hint })
    }

    pub(super) fn remove(&mut self, id: RegionId) {
        self.live.retain(|(other, ..)| *other != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_regions: 3, max_bytes: 0x10000, history: 8, features: 0 };

    fn name(text: &str) -> RegionName {
        RegionName::new(text.as_bytes()).unwrap()
    }

    fn claim(address: u64, len: u64) -> Span {
        Span { address, len }
    }

    fn two_regions() -> Regions {
        let mut regions = Regions::default();
        for (id, text, address) in [(1, "a", 0x10000), (2, "b", 0x20000)] {
            let span = regions.admit(claim(address, 0x2000), &name(text), &LIMITS).unwrap();
            regions.insert(RegionId(id), name(text), span);
        }
        regions
    }

    #[test]
    fn a_span_is_whole_pages_that_do_not_wrap() {
        let last = u64::MAX - 0xfff;
        for (address, len) in [(1, 0x1000), (0x1000, 0), (0x1000, 1), (last, 0x1000), (0x1000, last)] {
            assert_eq!(RegionSpan::from_claim(claim(address, len)), None, "{address:#x} {len:#x}");
        }
        let top = RegionSpan::from_claim(claim(last - 0x1000, 0x1000)).unwrap();
        assert_eq!((top.address(), top.len(), top.end()), (last - 0x1000, 0x1000, last));
    }

    #[test]
    fn neighbours_are_no_overlap_but_one_shared_page_is() {
        let regions = two_regions();
        for (address, len) in [(0xf000, 0x1000), (0x12000, 0x1000), (0x1e000, 0x2000)] {
            assert!(regions.admit(claim(address, len), &name("c"), &LIMITS).is_ok(), "{address:#x}");
        }
        for (address, len, other) in [(0xf000, 0x2000, 1), (0x11000, 0x1000, 1), (0x21000, 0x8000, 2)] {
            let refusal = regions.admit(claim(address, len), &name("c"), &LIMITS);
            assert_eq!(refusal, Err((Status::Overlap, other)), "{address:#x}");
        }
    }

    #[test]
    fn a_hint_is_clipped_to_its_region() {
        let mut regions = Regions::default();
        let span = regions.admit(claim(0x10000, 0x10000), &name("a"), &LIMITS).unwrap();
        regions.insert(RegionId(1), name("a"), span);
        let clip = |region, word, bits| {
            regions.clip(Hint { region: RegionId(region), word, bits }).map(|hint| hint.bits)
        };
        assert_eq!(clip(1, 0, u64::MAX), Some(0xffff));
        assert_eq!(clip(1, 0, 1 << 15 | 1 << 16), Some(1 << 15));
        for (region, word, bits) in
            [(1, 0, 0), (1, 0, 1 << 16), (1, 1, 1), (1, u32::MAX, 1), (2, 0, 1), (0, 0, 1)]
        {
            assert_eq!(clip(region, word, bits), None, "{region} {word} {bits:#x}");
        }
    }

    #[test]
    fn names_are_taken_until_the_region_ends() {
        let mut regions = two_regions();
        assert_eq!(regions.admit(claim(0, 0x1000), &name("a"), &LIMITS), Err((Status::BadName, 0)));
        regions.remove(RegionId(1));
        assert!(!regions.contains(RegionId(1)) && regions.contains(RegionId(2)));
        assert!(regions.admit(claim(0, 0x1000), &name("a"), &LIMITS).is_ok());
    }

    #[test]
    fn both_limits_hold_exactly() {
        let mut regions = two_regions();
        let rest = LIMITS.max_bytes - 0x4000;
        let full = regions.admit(claim(0x40000, rest), &name("c"), &LIMITS).unwrap();
        assert_eq!(
            regions.admit(claim(0x40000, rest + 0x1000), &name("c"), &LIMITS),
            Err((Status::Limit, 0))
        );
        let huge = u64::MAX - 0x40fff;
        assert_eq!(regions.admit(claim(0x40000, huge), &name("c"), &LIMITS), Err((Status::Limit, 0)));
        regions.insert(RegionId(3), name("c"), full);
        let more = Limits { max_bytes: u64::MAX, ..LIMITS };
        assert_eq!(regions.admit(claim(0, 0x1000), &name("d"), &more), Err((Status::Limit, 0)));
    }
}
