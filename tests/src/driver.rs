//! A driver that can be told to misbehave: rings and buffers anywhere, requests of anyone.

use std::io;

use cairn_abi::{
    Envelope, FEATURE_HINT, PROTOCOL_VERSION, REPLY_SIZE, REQUEST_SIZE, Reply, ReplyBody, Request, SessionKey,
};

use crate::pages::{self, Pages};
use crate::registers::{NEEDS_RESET, Registers};

/// Descriptors: a request and a reply.
const SIZE: u16 = 2;
// Where things are in the page.
const DESCRIPTORS: usize = 0;
const AVAILABLE: usize = 0x100;
const USED: usize = 0x200;
const REQUEST: usize = 0x400;
const REPLY: usize = 0x800;
/// Notifications of a request before it counts as not answered: the kernel may take the ring's page away again.
const NOTIFICATIONS: u32 = 20;
/// How often a request is made again whose pages are missing.
const TRIES: u32 = 12;

/// A ring in a page of its own, with its buffers in the same page.
#[derive(Debug)]
pub struct Driver {
    page: Pages,
    offered: u16,
}

/// What became of a chain.
#[derive(Debug)]
pub enum Answer {
    /// The device wrote so many bytes and put the chain into the used ring.
    Used(u32),
    /// It needs a reset.
    NeedsReset,
    /// Nothing happened.
    None,
}

impl Driver {
    /// Rings that no device knows yet.
    ///
    /// # Errors
    /// No memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self { page: Pages::anonymous(1)?, offered: 0 })
    }

    /// Rings at this address, to go on where another driver with its rings there had offered so many chains.
    ///
    /// # Errors
    /// No memory, or something is there.
    pub fn at(address: u64, offered: u16) -> io::Result<Self> {
        let driver = Self { page: Pages::anonymous_at(address, 1)?, offered };
        driver.page.put(AVAILABLE + 2, offered);
        driver.page.put(USED + 2, offered);
        Ok(driver)
    }

    /// Rings and a device that knows them.
    ///
    /// # Errors
    /// No memory.
    pub fn start(registers: &Registers) -> io::Result<Self> {
        let mut driver = Self::new()?;
        driver.bring_up(registers);
        Ok(driver)
    }

    /// Brings the device up with these rings.
    pub fn bring_up(&mut self, registers: &Registers) {
        self.offered = 0;
        self.page.fill(0);
        registers.bring_up(SIZE, self.rings());
    }

    /// The addresses of descriptors, available and used ring.
    #[must_use]
    pub fn rings(&self) -> [u64; 3] {
        let base = self.page.address();
        [base + DESCRIPTORS as u64, base + AVAILABLE as u64, base + USED as u64]
    }

    /// Chains offered.
    #[must_use]
    pub fn offered(&self) -> u16 {
        self.offered
    }

    /// Where the honest buffers are: of requests and of replies.
    #[must_use]
    pub fn buffers(&self) -> [u64; 2] {
        [self.page.address() + REQUEST as u64, self.page.address() + REPLY as u64]
    }

    /// Makes a request as this driver's page has it. None if the device doesn't answer.
    pub fn ask(&mut self, registers: &Registers, key: SessionKey, request: Request) -> Option<Reply> {
        self.ask_with(registers, &Envelope { key, cursor: 0, request })
    }

    /// As [`ask`](Self::ask), with a cursor.
    pub fn ask_with(&mut self, registers: &Registers, envelope: &Envelope) -> Option<Reply> {
        self.write_request(envelope);
        match self.offer(registers, self.buffers()) {
            Answer::Used(len) if len as usize == REPLY_SIZE => self.reply(),
            _ => None,
        }
    }

    /// As [`ask`](Self::ask), and again with the reply's cursor as long as the device asks for pages, a bounded
    /// number of times. They are touched as far as the kernel lets this program: no fault ends it.
    pub fn insist(&mut self, registers: &Registers, key: SessionKey, request: Request) -> Option<Reply> {
        let mut reply = self.ask(registers, key, request)?;
        for _ in 0..TRIES {
            let ReplyBody::Missing(missing) = &reply.body else { break };
            missing.spans().iter().for_each(pages::touch);
            reply = self.ask_with(registers, &Envelope { key, cursor: reply.cursor, request })?;
        }
        Some(reply)
    }

    /// Opens a session; its key.
    pub fn hello(&mut self, registers: &Registers) -> Option<SessionKey> {
        let request = Request::Hello { version: PROTOCOL_VERSION, features: FEATURE_HINT };
        match self.ask(registers, SessionKey([0; 16]), request)?.body {
            ReplyBody::Hello(hello) => Some(hello.key),
            _ => None,
        }
    }

    /// Puts a request where honest ones are.
    pub fn write_request(&self, envelope: &Envelope) {
        write(&self.page, REQUEST, envelope);
    }

    /// A request at the beginning of a page that nobody may access any more.
    ///
    /// # Errors
    /// No memory.
    pub fn hidden_request(&self, envelope: &Envelope) -> io::Result<Pages> {
        let page = Pages::anonymous(1)?;
        write(&page, 0, envelope);
        page.forbid()?;
        Ok(page)
    }

    /// The reply that is where honest ones are, if it is one.
    #[must_use]
    pub fn reply(&self) -> Option<Reply> {
        let mut bytes = [0; REPLY_SIZE];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = self.page.get(REPLY + index);
        }
        Reply::decode(&bytes).ok()
    }

    /// Offers a chain with its two buffers at these addresses.
    pub fn offer(&mut self, registers: &Registers, buffers: [u64; 2]) -> Answer {
        let used = self.prepare(buffers);
        for _ in 0..NOTIFICATIONS {
            registers.notify();
            if self.is_past(used) {
                let element = USED + 4 + usize::from(used % SIZE) * 8;
                return Answer::Used(self.page.get(element + 4));
            }
            if registers.status() & NEEDS_RESET != 0 {
                return Answer::NeedsReset;
            }
            // The kernel may be moving the page, or have left it to be copied: a store waits for it.
            self.page.put(AVAILABLE + 2, self.offered);
        }
        Answer::None
    }

    /// Whether the used index isn't this one any more.
    #[must_use]
    pub fn is_past(&self, used: u16) -> bool {
        self.page.get::<u16>(USED + 2) != used
    }

    /// Makes such a chain available without ringing; the used index before it.
    pub fn prepare(&mut self, [request, reply]: [u64; 2]) -> u16 {
        const NEXT: u64 = 1 << 32;
        const WRITE: u64 = 2 << 32;
        self.page.put(DESCRIPTORS, request);
        self.page.put(DESCRIPTORS + 8, REQUEST_SIZE as u64 | NEXT | 1 << 48);
        self.page.put(DESCRIPTORS + 16, reply);
        self.page.put(DESCRIPTORS + 24, REPLY_SIZE as u64 | WRITE);
        let used = self.page.get(USED + 2);
        self.page.put(AVAILABLE + 4 + usize::from(self.offered % SIZE) * 2, 0_u16);
        self.offered = self.offered.wrapping_add(1);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.page.put(AVAILABLE + 2, self.offered);
        used
    }
}

fn write(page: &Pages, offset: usize, envelope: &Envelope) {
    let mut bytes = [0; REQUEST_SIZE];
    envelope.encode(&mut bytes);
    for (index, byte) in bytes.into_iter().enumerate() {
        page.put(offset + index, byte);
    }
}
