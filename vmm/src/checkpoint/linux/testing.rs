//! A guest's kernel and one program of it, for tests: pages that get frames, lose them, and are elsewhere the
//! next time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_abi::Span;

use crate::checkpoint::linux::frames::testing::FakeLog;
use crate::memory::layout::{LARGE_PAGE, PAGE, to_usize};
use crate::memory::ram::Ram;
use crate::memory::walk::Paging;
use crate::memory::walk::testing::{READ_ONLY, Tables, WRITABLE_PAGE};

/// The region's first byte: not at the start of a large page.
pub(crate) const BASE: u64 = 0x7f00_0000_0000 + 500 * PAGE;
/// Where the frames of pages begin. Tables are below.
const FRAMES: u64 = 8 << 20;
/// The page of zeros that all may read.
const ZEROS: u64 = 4 << 20;
/// The top table.
const ROOT: u64 = 1 << 20;
/// An entry of a page that is swapped out.
const SWAPPED: u64 = 0xdead_0000_0000_0000;

/// What the kernel knows of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Page {
    /// Never touched.
    None,
    /// The shared page of zeros.
    Zeros,
    /// In a frame, writable or not.
    In(u64, bool),
    /// In a frame, while the entry is empty: the kernel is at it.
    InHand(u64),
    /// Swapped out.
    Out(Box<[u8]>),
}

/// The guest.
#[derive(Debug)]
pub(crate) struct Guest {
    ram: Arc<Ram>,
    log: FakeLog,
    tables: Tables,
    pages: Vec<Page>,
    free: Vec<u64>,
    /// Which page was given a frame when: the oldest is swapped out first.
    order: Vec<usize>,
    random: u64,
}

impl Guest {
    /// A program with `pages` pages at [`BASE`], of which `frames` can be in memory at once.
    pub(crate) fn new(ram: &Arc<Ram>, log: FakeLog, pages: usize, frames: u64, seed: u64) -> Self {
        Self {
            ram: Arc::clone(ram),
            log,
            tables: Tables::new(Arc::clone(ram), ROOT),
            pages: vec![Page::None; pages],
            free: (0..frames).map(|at| FRAMES + at * PAGE).collect(),
            order: Vec::new(),
            random: seed | 1,
        }
    }

    pub(crate) fn paging(&self) -> Paging {
        self.tables.paging()
    }

    pub(crate) fn span(&self) -> Span {
        Span { address: BASE, len: self.pages.len() as u64 * PAGE }
    }

    /// Where pages are, for a message.
    pub(crate) fn tell(&self, pages: &[usize]) -> String {
        let tell = |page: &usize| match &self.pages[*page] {
            Page::Out(_) => "swapped out".to_owned(),
            other => format!("{other:x?}"),
        };
        pages.iter().map(tell).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn any_page(&mut self) -> usize {
        to_usize(self.below(self.pages.len() as u64))
    }

    /// The program writes one byte.
    pub(crate) fn write(&mut self, page: usize, at: usize, byte: u8) {
        let frame = self.writable(page);
        self.put(frame, at, byte);
        self.log.write(frame);
    }

    /// A device writes one byte of a page that is in memory.
    pub(crate) fn write_by_device(&mut self, page: usize, at: usize, byte: u8) {
        let Page::In(frame, _) = self.pages[page] else { panic!("page {page} isn't in memory") };
        self.put(frame, at, byte);
        self.ram.mark(frame);
    }

    /// What the program would read.
    pub(crate) fn content(&self, page: usize) -> Box<[u8]> {
        match &self.pages[page] {
            Page::None | Page::Zeros => vec![0; 4096].into(),
            Page::In(frame, _) | Page::InHand(frame) => self.bytes(*frame),
            Page::Out(bytes) => bytes.clone(),
        }
    }

    /// The program touches the pages of `span`, to write them or not.
    pub(crate) fn touch(&mut self, span: Span, write: bool) {
        for page in self.pages_of(span) {
            if write {
                let frame = self.writable(page);
                self.log.write(frame);
            } else {
                self.readable(page);
            }
        }
    }

    /// The kernel finishes what it has in hand, for a system call on `span`.
    pub(crate) fn settle(&mut self, span: Span) {
        for page in self.pages_of(span) {
            if let Page::InHand(frame) = self.pages[page] {
                self.map(page, Page::In(frame, true));
            }
        }
    }

    /// The kernel does something to some page, which the program doesn't notice.
    pub(crate) fn disturb(&mut self) {
        let page = self.any_page();
        match (self.below(8), self.pages[page].clone()) {
            (0 | 1, Page::In(frame, _)) => {
                let bytes = self.bytes(frame);
                self.free.push(frame);
                self.order.retain(|other| *other != page);
                self.map(page, Page::Out(bytes));
            }
            (2 | 3, Page::In(frame, writable)) if !self.free.is_empty() => {
                let at = to_usize(self.below(self.free.len() as u64));
                let new = self.free.swap_remove(at);
                self.copy(frame, new);
                self.free.push(frame);
                self.map(page, Page::In(new, writable));
            }
            (4, Page::In(frame, _)) => self.map(page, Page::In(frame, false)),
            (5, Page::In(frame, _)) => self.map(page, Page::InHand(frame)),
            (6, Page::None) => self.map(page, Page::Zeros),
            (7, Page::InHand(frame)) => self.map(page, Page::In(frame, true)),
            _ => {}
        }
    }

    /// The program gives a page back: it's zeros from then on.
    pub(crate) fn drop_page(&mut self, page: usize) {
        if let Page::In(frame, _) | Page::InHand(frame) = self.pages[page] {
            self.free.push(frame);
            self.order.retain(|other| *other != page);
        }
        self.map(page, Page::None);
    }

    /// Fills what a large page has beyond the program's pages, and maps it as one, if its pages are all in
    /// memory. Answers whether it did.
    pub(crate) fn collapse(&mut self, large_frame: u64) -> bool {
        let first = BASE.next_multiple_of(LARGE_PAGE);
        let start = to_usize((first - BASE) / PAGE);
        if self.pages.len() < start + 512 {
            return false;
        }
        for at in 0..512 {
            let bytes = self.content(start + at);
            let frame = large_frame + at as u64 * PAGE;
            for (offset, byte) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
                self.put(frame, offset, *byte);
            }
            self.log.write(frame);
            if let Page::In(old, _) | Page::InHand(old) = self.pages[start + at] {
                self.free.push(old);
            }
            self.order.retain(|other| *other != start + at);
            self.pages[start + at] = Page::In(frame, true);
        }
        let written = self.tables.map_large(first, large_frame, WRITABLE_PAGE);
        self.note(&written);
        true
    }

    fn pages_of(&self, span: Span) -> std::ops::Range<usize> {
        let first = to_usize((span.address - BASE) / PAGE);
        let last = first + to_usize(span.len / PAGE);
        assert!(last <= self.pages.len(), "asked for {span:?}");
        first..last
    }

    fn readable(&mut self, page: usize) {
        match self.pages[page].clone() {
            Page::None => self.map(page, Page::Zeros),
            Page::InHand(frame) => self.map(page, Page::In(frame, true)),
            Page::Out(bytes) => {
                let frame = self.frame_for(page);
                self.fill(frame, &bytes);
                let writable = self.below(2) == 0;
                self.map(page, Page::In(frame, writable));
            }
            Page::Zeros | Page::In(..) => {}
        }
    }

    fn writable(&mut self, page: usize) -> u64 {
        match self.pages[page].clone() {
            Page::In(frame, true) => frame,
            Page::InHand(frame) => {
                self.map(page, Page::In(frame, true));
                frame
            }
            // The page's own: a write makes it writable where it is, or gives it a copy.
            Page::In(frame, false) if self.below(2) == 0 || self.free.is_empty() => {
                self.map(page, Page::In(frame, true));
                frame
            }
            _ => {
                let bytes = self.content(page);
                let frame = self.frame_for(page);
                self.fill(frame, &bytes);
                if let Page::In(old, _) = self.pages[page] {
                    self.free.push(old);
                }
                self.map(page, Page::In(frame, true));
                frame
            }
        }
    }

    /// A frame, if need be another page's.
    fn frame_for(&mut self, page: usize) -> u64 {
        self.order.retain(|other| *other != page);
        let frame = match self.free.pop() {
            Some(frame) => frame,
            None => {
                let victim = self.order.remove(0);
                let (Page::In(frame, _) | Page::InHand(frame)) = self.pages[victim] else {
                    panic!("page {victim} has no frame")
                };
                let bytes = self.bytes(frame);
                self.map(victim, Page::Out(bytes));
                frame
            }
        };
        self.order.push(page);
        frame
    }

    fn map(&mut self, page: usize, to: Page) {
        let raw = match &to {
            Page::None | Page::InHand(_) => 0,
            Page::Zeros => ZEROS | READ_ONLY,
            Page::In(frame, true) => frame | WRITABLE_PAGE,
            Page::In(frame, false) => frame | READ_ONLY,
            Page::Out(_) => SWAPPED,
        };
        self.pages[page] = to;
        let written = self.tables.set(BASE + page as u64 * PAGE, 1, raw);
        self.note(&written);
    }

    fn note(&self, tables: &[u64]) {
        for table in tables {
            self.log.write(*table);
        }
    }

    fn copy(&self, from: u64, to: u64) {
        self.fill(to, &self.bytes(from));
    }

    /// The kernel, a CPU like others, writes a frame.
    fn fill(&self, frame: u64, bytes: &[u8]) {
        for (at, word) in bytes.chunks_exact(8).enumerate() {
            let word = u64::from_le_bytes(word.try_into().unwrap());
            self.ram.word(frame + at as u64 * 8).unwrap().store(word, Ordering::Relaxed);
        }
        self.log.write(frame);
    }

    fn bytes(&self, frame: u64) -> Box<[u8]> {
        let word = |at: u64| self.ram.word(frame + at * 8).unwrap().load(Ordering::Relaxed).to_le_bytes();
        (0..PAGE / 8).flat_map(word).collect()
    }

    fn put(&self, frame: u64, at: usize, byte: u8) {
        let place = frame + (at as u64 & !7);
        let word = self.ram.word(place).unwrap();
        let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
        bytes[at % 8] = byte;
        word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
    }
}
