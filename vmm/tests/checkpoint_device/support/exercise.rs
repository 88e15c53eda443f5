//! Arbitrary use of the device, made from bytes.
//!
//! Whatever a guest does, the device must not panic, must keep its promises to the engine, and must serve a
//! well-behaved program afterwards.

use cairn_abi::hint::encode_header;
use cairn_abi::{
    CheckpointId, Envelope, Hint, Level, REQUEST_SIZE, RegionId, RegionMode, RegionName, ReplyBody, Request,
    SessionKey, Span, Status,
};
use cairn_vmm::devices::checkpoint::{AddressSpace, Failure};
use cairn_vmm::virtio::transport::BAR_LEN;
use vm_memory::{Bytes, GuestAddress};

use super::engine::{LIMITS, Mood};
use super::guest::{
    AVAILABLE, DESCRIPTORS, Descriptor, Guest, HINTS, HOLE, MEMORY, QUEUE_SIZE, REPLY, REQUEST, USED,
};

/// Does what `bytes` say, then tells the story of a good program.
pub(crate) fn exercise(bytes: &[u8]) {
    let mut script = Script { bytes };
    let mut guest = Guest::new();
    guest.address_space = AddressSpace(7);
    if !script.u8().is_multiple_of(4) {
        guest.bring_up();
        guest.hello();
    }
    while !script.bytes.is_empty() {
        step(&mut guest, &mut script);
        // A log of effects isn't needed here and would grow.
        guest.engine.effects.clear();
        guest.engine.hints.clear();
    }
    a_good_program_is_served(&mut guest);
}

/// Reset, bring-up, HELLO, REGISTER, CHECKPOINT, ROLLBACK.
pub(crate) fn a_good_program_is_served(guest: &mut Guest) {
    guest.engine.mood = Mood::Well;
    guest.bring_up();
    assert_eq!(guest.engine.regions(), 0, "a reset ends the session and its regions");
    guest.hello();
    let name = RegionName::new(b"table").unwrap();
    let (span, mode) = (Span { address: 0x4000_0000, len: 0x2000 }, RegionMode::Tracked);
    let register = Request::Register { span, name, mode, tag: 0 };
    let reply = guest.ask(register);
    assert!(matches!((reply.status, reply.body), (Status::Ok, ReplyBody::Region(_))), "{reply:?}");
    let reply = guest.ask(Request::Checkpoint);
    let ReplyBody::Checkpoint(checkpoint) = reply.body else { panic!("{reply:?}") };
    assert_eq!(guest.ask(Request::Rollback { checkpoint }).status, Status::Ok);
    assert_eq!(guest.engine.regions(), 1);
}

/// Bytes, read as whatever is needed; zeros when they are used up.
struct Script<'a> {
    bytes: &'a [u8],
}

impl Script<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (now, later) = self.bytes.split_at(N.min(self.bytes.len()));
        self.bytes = later;
        let mut out = [0; N];
        out[..now.len()].copy_from_slice(now);
        out
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// One of `choices`.
    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.u8()) % choices.len()]
    }

    /// An offset in or a little beyond the BAR; often a register that means something.
    fn bar_offset(&mut self) -> u64 {
        let common: Vec<u64> = (0..56).chain([0x1000, 0x2000, 0x2004, 0x3000]).collect();
        if self.u8().is_multiple_of(4) { u64::from(self.u16()) % (BAR_LEN + 64) } else { self.pick(&common) }
    }

    /// An address that means something, or nearly so, or nothing.
    fn address(&mut self) -> u64 {
        let base = self.pick(&[
            MEMORY,
            DESCRIPTORS,
            AVAILABLE,
            USED,
            REQUEST,
            REPLY,
            HOLE - 16,
            HOLE,
            HOLE + 0x1000,
            0,
            u64::MAX - 15,
        ]);
        match self.u8() % 4 {
            0 => base,
            1 => base.wrapping_add(u64::from(self.u8())),
            2 => base.wrapping_sub(u64::from(self.u8())),
            _ => self.u64(),
        }
    }

    fn request(&mut self) -> Request {
        let checkpoint = CheckpointId(u64::from(self.u8() % 8));
        match self.u8() % 17 {
            0 => Request::Hello { version: u32::from(self.u8() % 3), features: self.u64() },
            1..=4 => {
                let (page, pages) = (u64::from(self.u8() % 48), u64::from(self.u8() % 32));
                let skew = if self.u8().is_multiple_of(8) { self.u64() } else { 0 };
                let span = Span { address: (page << 12).wrapping_add(skew), len: pages << 12 };
                let name = RegionName::new(self.pick(&["a", "b", "c", "d", "e", "f"]).as_bytes()).unwrap();
                let mode = self.pick(&[RegionMode::Tracked, RegionMode::Hinted]);
                Request::Register { span, name, mode, tag: u64::from(self.u8() % 2) }
            }
            5 => Request::Unregister { region: RegionId(u32::from(self.u8() % 8)) },
            6 if self.u8().is_multiple_of(2) => Request::CheckpointAsync,
            6 => Request::Checkpoint,
            12 => Request::Ticket { checkpoint, wait: self.u8().is_multiple_of(2) },
            14 => Request::CheckpointDurable { level: self.pick(&[Level::Written, Level::Synced]) },
            15 if self.u8().is_multiple_of(2) => Request::Durability {
                checkpoint,
                wait: self.pick(&[None, Some(Level::Written), Some(Level::Synced)]),
            },
            15 => Request::Store,
            16 => {
                let checkpoint = Some(checkpoint).filter(|id| 0 < id.0);
                let name = RegionName::new(self.pick(&["a", "b"]).as_bytes()).unwrap();
                self.pick(&[Request::Recover { checkpoint }, Request::Stored { checkpoint, name }])
            }
            7 => Request::Rollback { checkpoint },
            8 => Request::Release { checkpoint },
            9 => Request::QueryNext { after: checkpoint },
            10 | 11 => Request::Hints { table: self.pick(&[HINTS, HINTS, HOLE - 32, HOLE]) },
            _ => Request::Query { checkpoint: (checkpoint.0 > 0).then_some(checkpoint) },
        }
    }
}

fn step(guest: &mut Guest, script: &mut Script<'_>) {
    match script.u8() % 32 {
        0 => {
            let (offset, len) = (script.bar_offset(), usize::from(script.u8() % 10));
            guest.function.bar_read(offset, &mut vec![0; len]);
        }
        1 | 2 => {
            let (offset, len) = (script.bar_offset(), script.pick(&[1, 2, 4, 8, 3, 0]));
            let data = script.take::<8>();
            guest.write(offset, &data[..len]);
        }
        3 => {
            let (offset, len) = (script.u16(), usize::from(script.u8() % 10));
            guest.function.config_read(offset % 300, &mut vec![0; len]);
        }
        4 => {
            let (offset, len) = (script.u16(), script.pick(&[1, 2, 4, 8, 3, 0]));
            let data = script.take::<8>();
            guest.handle_config(offset % 300, &data[..len]);
        }
        5 => {
            let (at, data) = (script.u16() % 0x1000, script.take::<16>());
            guest.memory.write_slice(&data, GuestAddress(DESCRIPTORS + u64::from(at))).unwrap();
        }
        6 => {
            let index = u16::from(script.u8()) % QUEUE_SIZE;
            let (address, len) =
                (script.address(), script.pick(&[0, 1, 16, 128, 272, 400, 0x1000, u32::MAX]));
            let (flags, next) = (u16::from(script.u8() % 8), u16::from(script.u8() % 20));
            guest.describe(index, Descriptor { address, len, flags, next });
        }
        7 => guest.make_available(u16::from(script.u8() % 20)),
        8 => drop(guest.notify()),
        9 => drop(guest.poll()),
        10 => guest.bring_up(),
        11 => {
            let addresses = [script.address(), script.address(), script.address()];
            guest.set_queue(script.pick(&[1, 2, 16, 64, 128, 0, 3]), addresses);
        }
        12 => {
            let polling = script.u8().is_multiple_of(2);
            guest.function.device_mut().announce_polling(&guest.memory, polling);
        }
        13 => guest.engine.mood = mood(script),
        14 => {
            if let Some(region) = guest.engine.lose_region() {
                guest.function.device_mut().forget_region(region);
            }
        }
        15 => scribble_hints(guest, script),
        16 => guest.rest(),
        _ => well_formed_request(guest, script),
    }
}

/// Hints of any kind, in a table that says of its length what it likes.
fn scribble_hints(guest: &Guest, script: &mut Script<'_>) {
    let count = script.pick(&[0, 1, 3, 257, 2047, 2048, u32::MAX]);
    guest.memory.write_slice(&encode_header(count), GuestAddress(HINTS)).unwrap();
    for slot in 1..4 {
        let (region, word) = (RegionId(u32::from(script.u8() % 8)), script.pick(&[0, 0, 1, 2, u32::MAX]));
        let hint = Hint { region, word, bits: script.u64() };
        guest.memory.write_slice(&hint.encode(), GuestAddress(HINTS + slot * 16)).unwrap();
    }
}

fn mood(script: &mut Script<'_>) -> Mood {
    let failure = script.pick(&[
        Failure::NotMapped,
        Failure::NoRegion,
        Failure::Evicted,
        Failure::RegionSet(RegionId(1)),
        Failure::NoMemory,
        Failure::Host,
    ]);
    script.pick(&[Mood::Missing, Mood::Failing(failure), Mood::Mad])
}

/// A request that decodes; mostly from the right program with the right key, by notification or by polling.
fn well_formed_request(guest: &mut Guest, script: &mut Script<'_>) {
    let request = script.request();
    let (mut key, mut cursor) = (guest.key, 0);
    guest.address_space = AddressSpace(7);
    match script.u8() % 16 {
        0 => key = SessionKey([script.u8(); 16]),
        1 => guest.address_space = AddressSpace(8),
        2 | 3 => cursor = u32::from(script.u8() % 4),
        _ => {}
    }
    let mut bytes = [0; REQUEST_SIZE];
    Envelope { key, cursor, request }.encode(&mut bytes);
    guest.post(&bytes);
    let way = script.u8();
    if way.is_multiple_of(4) {
        guest.poll();
    }
    if !way.is_multiple_of(8) {
        guest.notify();
    }
    if matches!(request, Request::Hello { .. }) {
        adopt_key(guest);
    }
    assert!(guest.engine.regions() <= LIMITS.max_regions as usize);
}

/// If a HELLO was answered, its key is the program's from now on.
fn adopt_key(guest: &mut Guest) {
    let mut bytes = [0; cairn_abi::REPLY_SIZE];
    guest.memory.read_slice(&mut bytes, GuestAddress(REPLY)).unwrap();
    if let Ok(reply) = cairn_abi::Reply::decode(&bytes)
        && let ReplyBody::Hello(hello) = reply.body
    {
        guest.key = hello.key;
    }
}
