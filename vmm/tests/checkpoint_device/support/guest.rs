//! A guest with a checkpoint device, and a program in it that drives the device by the book.

use cairn_abi::{Envelope, REPLY_SIZE, REQUEST_SIZE, Reply, ReplyBody, Request, SessionKey, Status};
use cairn_abi::{FEATURE_ASYNC, FEATURE_DURABLE, FEATURE_HINT, PAGE_SIZE, RegionMode, RegionName, Span};
use cairn_store::section;
use cairn_vmm::devices::checkpoint::device::{IDENTITY, Served};
use cairn_vmm::devices::checkpoint::{AddressSpace, CheckpointDevice, DeviceState, LiveRegion};
use cairn_vmm::virtio::state::{FunctionState, StateError};
use cairn_vmm::virtio::transport::NOTIFY_OFFSET;
use cairn_vmm::virtio::{Event, PciFunction};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::engine::{Engine, LIMITS};

/// Where the function's BAR is.
pub(crate) const BAR_ADDRESS: u32 = 0xe000_0000;
/// Descriptors in the program's queue.
pub(crate) const QUEUE_SIZE: u16 = 16;
/// Where memory begins; a hole and more memory follow.
pub(crate) const MEMORY: u64 = 0x1_0000;
/// Where memory ends for the first time.
pub(crate) const HOLE: u64 = 0x2_0000;
/// The descriptor table.
pub(crate) const DESCRIPTORS: u64 = MEMORY;
/// The available ring.
pub(crate) const AVAILABLE: u64 = MEMORY + 0x400;
/// The used ring.
pub(crate) const USED: u64 = MEMORY + 0x800;
/// The request.
pub(crate) const REQUEST: u64 = MEMORY + 0x1000;
/// The reply.
pub(crate) const REPLY: u64 = MEMORY + 0x2000;

/// The hint table.
pub(crate) const HINTS: u64 = MEMORY + 0x4000;

/// Bytes of a request.
pub(crate) const REQUEST_LEN: u32 = 128;
/// Bytes of a reply.
pub(crate) const REPLY_LEN: u32 = 272;
const _: () = assert!(REQUEST_LEN as usize == REQUEST_SIZE && REPLY_LEN as usize == REPLY_SIZE);

/// The status bit DEVICE_NEEDS_RESET.
pub(crate) const NEEDS_RESET: u8 = 64;

/// A descriptor's flag: another one follows.
pub(crate) const NEXT: u16 = 1;
/// A descriptor's flag: for the device to write.
pub(crate) const WRITE: u16 = 2;
/// A descriptor's flag: a table of descriptors.
pub(crate) const INDIRECT: u16 = 4;

/// The guest.
#[derive(Debug)]
pub(crate) struct Guest {
    /// The program's memory: rings and buffers are in it.
    pub(crate) memory: GuestMemoryMmap,
    /// The device.
    pub(crate) function: PciFunction<CheckpointDevice>,
    /// What acts on the device's effects.
    pub(crate) engine: Engine,
    /// Whose memory it is.
    pub(crate) address_space: AddressSpace,
    /// The key of the last HELLO.
    pub(crate) key: SessionKey,
    /// Devices that it had before this one.
    births: u64,
}

/// A device between two requests.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct AtRest {
    pub(crate) state: (FunctionState, DeviceState),
    pub(crate) regions: Vec<LiveRegion>,
}

/// A device that nobody drives yet, which gives other keys than those before it.
fn function(births: u64) -> PciFunction<CheckpointDevice> {
    let mut keys = u128::from(births) << 64;
    let fresh_key = move || {
        keys += 1;
        SessionKey(keys.to_le_bytes())
    };
    let device = CheckpointDevice::new(LIMITS, Box::new(fresh_key));
    PciFunction::new(device, IDENTITY, BAR_ADDRESS).unwrap()
}

/// A descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    /// Where the buffer is.
    pub(crate) address: u64,
    /// Its bytes.
    pub(crate) len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub(crate) flags: u16,
    /// The descriptor that follows.
    pub(crate) next: u16,
}

impl Guest {
    /// A guest whose device nobody drives yet.
    pub(crate) fn new() -> Self {
        let ranges = [(GuestAddress(MEMORY), 0x1_0000), (GuestAddress(HOLE + 0x1000), 0x1000)];
        Self {
            memory: GuestMemoryMmap::from_ranges(&ranges).unwrap(),
            function: function(0),
            engine: Engine::default(),
            address_space: AddressSpace(1),
            key: SessionKey([0; 16]),
            births: 0,
        }
    }

    /// What the device is between two requests.
    pub(crate) fn at_rest(&self) -> AtRest {
        let device = self.function.device();
        let regions = device.session().regions().map(|(id, name, span)| LiveRegion {
            id,
            name,
            span: Span { address: span.address(), len: span.len() },
        });
        AtRest { state: (self.function.state(), device.state()), regions: regions.collect() }
    }

    /// Another device goes on with that.
    pub(crate) fn bring_back(&mut self, rest: &AtRest) -> Result<(), StateError> {
        self.births += 1;
        let owner = self.function.device().session().address_space().unwrap_or(self.address_space);
        let mut fresh = function(self.births);
        fresh.bring_back(&rest.state.0)?;
        fresh.device_mut().bring_back(&rest.state.1, owner, &rest.regions)?;
        self.function = fresh;
        Ok(())
    }

    /// The device goes and comes back as it was.
    pub(crate) fn rest(&mut self) {
        let rest = self.at_rest();
        let bytes = section::encode(&rest.state).unwrap();
        let state = section::decode(&bytes, bytes.len()).unwrap();
        self.bring_back(&AtRest { state, regions: rest.regions.clone() }).unwrap();
        assert_eq!(self.at_rest(), rest);
    }

    /// A guest whose device is in use and has a session.
    pub(crate) fn with_session() -> Self {
        let mut guest = Self::new();
        guest.bring_up();
        guest.hello();
        guest
    }

    /// Resets the device and brings it up as virtio 1.2, 3.1.1 says.
    pub(crate) fn bring_up(&mut self) {
        self.bring_up_with(QUEUE_SIZE, [DESCRIPTORS, AVAILABLE, USED]);
        self.memory.write_slice(&[0; 0x1000], GuestAddress(DESCRIPTORS)).unwrap();
    }

    /// Resets the device and brings it up with a queue of this size at these addresses.
    pub(crate) fn bring_up_with(&mut self, size: u16, rings: [u64; 3]) {
        self.write(20, &[0]);
        assert_eq!(self.status(), 0);
        self.write(20, &[1]);
        self.write(20, &[3]);
        let mut features = 0;
        for select in [0_u32, 1] {
            self.write(0, &select.to_le_bytes());
            features |= u64::from(self.read_u32(4)) << (32 * select);
        }
        assert_eq!(features, 1 << 32 | 1 << 33);
        self.write(8, &1_u32.to_le_bytes());
        self.write(12, &1_u32.to_le_bytes());
        self.write(20, &[11]);
        assert_eq!(self.status(), 11);
        self.set_queue(size, rings);
        self.write(20, &[15]);
        assert_eq!(self.status(), 15);
    }

    /// Sets up the request queue.
    pub(crate) fn set_queue(&mut self, size: u16, [descriptors, available, used]: [u64; 3]) {
        self.write(22, &0_u16.to_le_bytes());
        self.write(24, &size.to_le_bytes());
        self.write(32, &descriptors.to_le_bytes());
        self.write(40, &available.to_le_bytes());
        self.write(48, &used.to_le_bytes());
        self.write(28, &1_u16.to_le_bytes());
    }

    /// The device's status.
    pub(crate) fn status(&mut self) -> u8 {
        let mut status = [0];
        self.function.bar_read(20, &mut status);
        status[0]
    }

    /// A 32-bit register.
    pub(crate) fn read_u32(&mut self, offset: u64) -> u32 {
        let mut value = [0; 4];
        self.function.bar_read(offset, &mut value);
        u32::from_le_bytes(value)
    }

    /// Writes a register, and does what the VMM has to do then.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Option<Served> {
        let event = self.function.bar_write(offset, data);
        self.handle(event)
    }

    /// Writes configuration space, and does what the VMM has to do then.
    pub(crate) fn handle_config(&mut self, offset: u16, data: &[u8]) -> Option<Served> {
        let event = self.function.config_write(offset, data);
        self.handle(event)
    }

    /// Does what the VMM has to do after a write to a register.
    pub(crate) fn handle(&mut self, event: Event) -> Option<Served> {
        let engine = &mut self.engine;
        let mut host = |effect| engine.act(effect);
        let device = self.function.device_mut();
        match event {
            Event::None | Event::Activated => None,
            Event::Reset => {
                device.settle(&mut host);
                None
            }
            Event::Notified { .. } => Some(device.serve(&self.memory, self.address_space, &mut host)),
        }
    }

    /// Notifies a device that serves one long request at a time.
    pub(crate) fn notify_until_long(&mut self) -> Served {
        let engine = &mut self.engine;
        let mut host = |effect| engine.act(effect);
        self.function.device_mut().serve_until_long(&self.memory, self.address_space, &mut host)
    }

    /// Polls once.
    pub(crate) fn poll(&mut self) -> Served {
        let engine = &mut self.engine;
        self.function.device_mut().poll(&self.memory, self.address_space, &mut |effect| engine.act(effect))
    }

    /// Notifies the device.
    pub(crate) fn notify(&mut self) -> Option<Served> {
        self.write(NOTIFY_OFFSET, &0_u16.to_le_bytes())
    }

    /// Writes a descriptor.
    pub(crate) fn describe(&self, index: u16, descriptor: Descriptor) {
        let Descriptor { address, len, flags, next } = descriptor;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        let address = DESCRIPTORS + u64::from(index) * 16;
        self.memory.write_slice(&bytes, GuestAddress(address)).unwrap();
    }

    /// Makes the chain from `head` available.
    pub(crate) fn make_available(&self, head: u16) {
        let position: u16 = self.memory.read_obj(GuestAddress(AVAILABLE + 2)).unwrap();
        let entry = AVAILABLE + 4 + u64::from(position % QUEUE_SIZE) * 2;
        self.memory.write_obj(head, GuestAddress(entry)).unwrap();
        self.memory.write_obj(position.wrapping_add(1), GuestAddress(AVAILABLE + 2)).unwrap();
    }

    /// Makes a request available in the usual two descriptors.
    pub(crate) fn post(&self, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(REQUEST)).unwrap();
        self.memory.write_slice(&[0; REPLY_SIZE], GuestAddress(REPLY)).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        self.describe(0, Descriptor { address: REQUEST, len, flags: NEXT, next: 1 });
        let len = u32::try_from(REPLY_SIZE).unwrap();
        self.describe(1, Descriptor { address: REPLY, len, flags: WRITE, next: 0 });
        self.make_available(0);
    }

    /// A request of the session.
    pub(crate) fn envelope(&self, cursor: u32, request: Request) -> [u8; REQUEST_SIZE] {
        let mut bytes = [0; REQUEST_SIZE];
        Envelope { key: self.key, cursor, request }.encode(&mut bytes);
        bytes
    }

    /// How many chains were used, and how much was written into the last.
    pub(crate) fn used(&self) -> (u16, u32) {
        let position: u16 = self.memory.read_obj(GuestAddress(USED + 2)).unwrap();
        let entry = USED + 4 + u64::from(position.wrapping_sub(1) % QUEUE_SIZE) * 8;
        (position, self.memory.read_obj(GuestAddress(entry + 4)).unwrap())
    }

    /// What stands where replies go.
    pub(crate) fn reply(&self) -> Reply {
        let mut bytes = [0; REPLY_SIZE];
        self.memory.read_slice(&mut bytes, GuestAddress(REPLY)).unwrap();
        Reply::decode(&bytes).unwrap()
    }

    /// Posts bytes as a request, notifies, and returns the reply.
    pub(crate) fn ask_bytes(&mut self, bytes: &[u8]) -> Reply {
        let (before, _) = self.used();
        self.post(bytes);
        self.notify();
        assert_eq!(self.used(), (before.wrapping_add(1), u32::try_from(REPLY_SIZE).unwrap()));
        self.reply()
    }

    /// Makes a request of the session and returns the reply.
    pub(crate) fn ask(&mut self, request: Request) -> Reply {
        self.ask_bytes(&self.envelope(0, request))
    }

    /// Opens a session.
    pub(crate) fn hello(&mut self) {
        let reply = self.ask(Request::Hello { version: 1, features: u64::MAX });
        assert_eq!(reply.status, Status::Ok);
        let ReplyBody::Hello(hello) = reply.body else { panic!("{reply:?}") };
        assert_eq!((hello.version, hello.features), (1, FEATURE_HINT | FEATURE_ASYNC | FEATURE_DURABLE));
        self.key = hello.key;
    }
}

/// A request for a region of `pages` pages.
pub(crate) fn register(address: u64, pages: u64, name: &str) -> Request {
    let name = RegionName::new(name.as_bytes()).unwrap();
    let (span, mode) = (Span { address, len: pages * PAGE_SIZE }, RegionMode::Tracked);
    Request::Register { span, name, mode, tag: 7 }
}
