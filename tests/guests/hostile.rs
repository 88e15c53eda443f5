//! Guest program: garbage into every register of the checkpoint device, rings and descriptors that point
//! anywhere, requests that are nonsense; and then an honest session, which must work. Argument: SEED.

#![expect(clippy::cast_possible_truncation, reason = "garbage is as good when it is cut")]

use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use cairn_abi::{REQUEST_SIZE, pci};
use cairn_guest::{EngineKind, Session};
use cairn_tests::random::Random;

const ROUNDS: u64 = 40;
const WRITES: u64 = 60;

// The common configuration (virtio 1.2, 4.1.4.3).
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0c;
const STATUS: usize = 0x14;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_DESC: usize = 0x20;

fn main() {
    let seed = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    let registers = Registers::open();
    for round in 0..ROUNDS {
        registers.scribble(&mut random);
        Rings::new(&mut random).offer(&registers, &mut random);
        if round % 8 == 7 {
            honest_session();
        }
    }
    registers.write::<u8>(STATUS, 0);
    honest_session();
    println!("survived");
}

fn honest_session() {
    let mut session = Session::open().expect("a session after the garbage");
    assert_eq!(session.engine(), EngineKind::Cairn);
    let region = session.region::<u64>("honest", 4096).expect("a region");
    session.slice_mut(&region)[7] = 42;
    let id = session.checkpoint().expect("a checkpoint");
    session.slice_mut(&region)[7] = 0;
    session.rollback(id).expect("a rollback");
    assert_eq!(session.slice(&region)[7], 42);
}

/// The BAR.
struct Registers(*mut u8);

impl Registers {
    fn open() -> Self {
        let ids = |path: &PathBuf, file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
        let device = fs::read_dir("/sys/bus/pci/devices")
            .expect("PCI functions")
            .map(|entry| entry.expect("an entry").path())
            .find(|path| ids(path, "device").trim() == format!("{:#06x}", pci::DEVICE_ID))
            .expect("the checkpoint device");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_SYNC)
            .open(device.join("resource0"));
        let file = file.expect("its registers");
        let (len, protection) = (pci::BAR_SIZE as usize, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(base, libc::MAP_FAILED);
        Self(base.cast())
    }

    fn write<T>(&self, offset: usize, value: T) {
        assert!(offset + size_of::<T>() <= pci::BAR_SIZE as usize);
        // SAFETY: inside the mapping; device registers take any width at any offset.
        unsafe { self.0.add(offset).cast::<T>().write_unaligned(value) }
    }

    fn read<T>(&self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= pci::BAR_SIZE as usize);
        // SAFETY: as for `write`.
        unsafe { self.0.add(offset).cast::<T>().read_unaligned() }
    }

    fn scribble(&self, random: &mut Random) {
        for _ in 0..WRITES {
            let inside = if random.below(2) == 0 { 0x40 } else { u64::from(pci::BAR_SIZE) - 8 };
            let (offset, value) = (random.below(inside) as usize, random.bits());
            match random.below(8) {
                0 => self.write(offset, value as u8),
                1 => self.write(offset, value as u16),
                2 => self.write(offset, value as u32),
                3 => self.write(offset, value),
                4 => drop(self.read::<u8>(offset)),
                5 => drop(self.read::<u16>(offset)),
                6 => drop(self.read::<u32>(offset)),
                _ => drop(self.read::<[u8; 8]>(offset)),
            }
        }
    }

    /// The honest way up to DRIVER_OK, with these ring addresses.
    fn bring_up(&self, size: u16, addresses: [u64; 3]) {
        self.write::<u8>(STATUS, 0);
        self.write::<u8>(STATUS, 3);
        for half in 0..2_u32 {
            self.write(DRIVER_FEATURE_SELECT, half);
            self.write(DRIVER_FEATURE, half);
        }
        self.write::<u8>(STATUS, 11);
        self.write::<u16>(0x16, 0);
        self.write(QUEUE_SIZE, size);
        for (index, address) in addresses.into_iter().enumerate() {
            self.write(QUEUE_DESC + index * 8, address as u32);
            self.write(QUEUE_DESC + index * 8 + 4, (address >> 32) as u32);
        }
        self.write::<u16>(QUEUE_ENABLE, 1);
        self.write::<u8>(STATUS, 15);
    }

    fn notify(&self) {
        self.write::<u16>(pci::NOTIFY_OFFSET as usize, 0);
    }
}

/// Rings in ordinary memory, filled with nonsense that is close to sense.
struct Rings {
    memory: Vec<u64>,
}

impl Rings {
    fn new(random: &mut Random) -> Self {
        let mut memory = vec![0; 4096];
        for word in memory.iter_mut().skip(2048) {
            *word = random.bits();
        }
        Self { memory }
    }

    fn offer(&mut self, registers: &Registers, random: &mut Random) {
        let base = self.memory.as_ptr() as u64;
        let size = 16_u16;
        let wild = |random: &mut Random, honest: u64| match random.below(6) {
            0 => random.bits(),
            1 => main as fn() as usize as u64,
            2 => 0x7400_0000,
            3 => u64::MAX - random.below(64),
            _ => honest,
        };
        let addresses = [wild(random, base), wild(random, base + 0x1000), wild(random, base + 0x2000)];
        registers.bring_up(size, addresses);
        for index in 0..u64::from(size) {
            let slot = (index * 2) as usize;
            let request = base + 0x4000 + random.below(0x3000);
            self.memory[slot] = wild(random, request);
            let len = if random.below(3) == 0 {
                random.bits() & 0xffff_ffff
            } else {
                REQUEST_SIZE as u64 * (1 + random.below(4))
            };
            let (flags, next) = (random.below(8), random.below(20));
            self.memory[slot + 1] = len | flags << 32 | next << 48;
        }
        let available = 0x1000 / 8;
        self.memory[available] =
            (1 + random.below(40)) << 16 | random.below(20) << 32 | random.below(20) << 48;
        self.memory[available + 1] = random.bits() & 0x001f_001f_001f_001f;
        // A request that decodes, now and then: kind in the first bytes.
        let request = 0x4000 / 8 + random.below(64) as usize;
        self.memory[request] = random.below(9);
        std::hint::black_box(&mut self.memory);
        for _ in 0..random.below(3) {
            registers.notify();
        }
    }
}
