//! Tests of the PCI bus, with functions that only remember.

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::devices::fake_driver::Cpu;
use crate::virtio::config_space::Bar;

/// A function with one BAR that remembers its last write.
#[derive(Debug)]
struct Latch {
    config: Mutex<ConfigSpace>,
    written: Mutex<Option<(u64, Vec<u8>)>>,
    value: u8,
}

const BARS: u32 = 0xe000_0000;

impl Latch {
    fn new(value: u8) -> Arc<Self> {
        let mut config = ConfigSpace::new(Identity { vendor: 0x1af4, ..HOST_BRIDGE });
        let address = BARS + u32::from(value) * 0x1000;
        config.add_bar(Bar { address, len: 0x1000 }).unwrap();
        Arc::new(Self { config: Mutex::new(config), written: Mutex::new(None), value })
    }

    fn take_written(&self) -> Option<(u64, Vec<u8>)> {
        self.written.lock().unwrap().take()
    }
}

impl PciDevice for Latch {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.config.lock().unwrap().read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.config.lock().unwrap().write(offset, data);
    }

    fn bars(&self) -> Vec<(u8, Range<u64>)> {
        self.config.lock().unwrap().bars().collect()
    }

    fn bar_read(&self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(self.value);
    }

    fn bar_write(&self, _bar: u8, offset: u64, data: &[u8], _cpu: &dyn CallingCpu) {
        *self.written.lock().unwrap() = Some((offset, data.to_vec()));
    }
}

fn bus(devices: u8) -> (PciBus, Vec<Arc<Latch>>) {
    let mut bus = PciBus::default();
    let latches: Vec<_> = (1..=devices).map(Latch::new).collect();
    for latch in &latches {
        assert_eq!(bus.add(Arc::clone(latch) as Arc<dyn PciDevice>), Ok(latch.value));
    }
    (bus, latches)
}

fn select(bus: &PciBus, slot: u32, register: u32) {
    bus.port_write(ADDRESS_PORT, &(ENABLE | slot << 11 | register).to_le_bytes());
}

fn config_read(bus: &PciBus, slot: u32, register: u32) -> u32 {
    select(bus, slot, register);
    let mut data = [0; 4];
    bus.port_read(DATA_PORT, &mut data);
    u32::from_le_bytes(data)
}

fn config_write(bus: &PciBus, slot: u32, register: u32, value: u32) {
    select(bus, slot, register);
    bus.port_write(DATA_PORT, &value.to_le_bytes());
}

fn read(bus: &PciBus, address: u64) -> u8 {
    let mut data = [0];
    assert_eq!(bus.mmio_read(address, &mut data), data != [0xff]);
    data[0]
}

#[test]
fn slots_are_found_and_empty_ones_are_not() {
    let (bus, _) = bus(2);
    assert_eq!(config_read(&bus, 0, 0), 0x0008_1b36);
    assert_eq!(config_read(&bus, 0, 8), 0x0600_0000);
    for slot in 1..32 {
        let expected = if slot <= 2 { 0x0008_1af4 } else { u32::MAX };
        assert_eq!(config_read(&bus, slot, 0), expected, "{slot}");
    }
}

#[test]
fn other_functions_buses_and_a_disabled_address_mean_nothing() {
    let (bus, _) = bus(1);
    for address in [1 << 11, ENABLE | 1 << 11 | 1 << 8, ENABLE | 1 << 11 | 1 << 16] {
        bus.port_write(ADDRESS_PORT, &u32::to_le_bytes(address));
        let mut data = [0; 4];
        bus.port_read(DATA_PORT, &mut data);
        assert_eq!(data, [0xff; 4], "{address:#x}");
    }
}

#[test]
fn the_address_is_read_back_and_only_whole() {
    let (bus, _) = bus(1);
    select(&bus, 1, 4);
    bus.port_write(ADDRESS_PORT, &[0]);
    bus.port_write(ADDRESS_PORT + 1, &[0xe]);
    let mut data = [0; 4];
    bus.port_read(ADDRESS_PORT, &mut data);
    assert_eq!(u32::from_le_bytes(data), ENABLE | 1 << 11 | 4);
    bus.port_read(ADDRESS_PORT, &mut data[..2]);
    assert_eq!(data[..2], [0xff; 2]);
}

#[test]
fn bytes_and_words_of_a_register() {
    let (bus, _) = bus(1);
    select(&bus, 1, 0);
    let mut data = [0; 2];
    bus.port_read(DATA_PORT, &mut data);
    assert_eq!(data, [0xf4, 0x1a]);
    bus.port_read(DATA_PORT + 2, &mut data);
    assert_eq!(data, [8, 0]);
    bus.port_read(DATA_PORT + 3, &mut data);
    assert_eq!(data, [0xff; 2], "across the end of the register");
    bus.port_read(DATA_PORT + 1, &mut data[..1]);
    assert_eq!(data[0], 0x1a);
}

#[test]
fn a_bar_answers_where_the_guest_puts_it() {
    let (bus, latches) = bus(2);
    assert_eq!(read(&bus, 0xe000_1004), 1);
    assert!(bus.mmio_write(0xe000_2ffe, &[7, 8], &Cpu));
    assert_eq!(latches[1].take_written(), Some((0xffe, vec![7, 8])));

    config_write(&bus, 1, 0x10, u32::MAX);
    assert_eq!(config_read(&bus, 1, 0x10), 0xffff_f000);
    config_write(&bus, 1, 0x10, 0xd000_0000);
    assert_eq!(read(&bus, 0xd000_0000), 1);
    assert_eq!(read(&bus, 0xe000_1004), 0xff);

    config_write(&bus, 1, 4, 0);
    assert_eq!(read(&bus, 0xd000_0000), 0xff);
    assert_eq!(read(&bus, 0xe000_2000), 2, "the other one stays");
}

#[test]
fn of_two_at_one_place_the_lower_slot_answers() {
    let (bus, latches) = bus(3);
    config_write(&bus, 3, 0x10, 0xe000_2000);
    assert_eq!(read(&bus, 0xe000_2000), 2);
    config_write(&bus, 1, 0x10, 0xe000_2000);
    assert_eq!(read(&bus, 0xe000_2000), 1);
    assert!(bus.mmio_write(0xe000_2000, &[1], &Cpu));
    assert!(latches[1].take_written().is_none() && latches[2].take_written().is_none());
    config_write(&bus, 1, 4, 0);
    config_write(&bus, 2, 4, 0);
    assert_eq!(read(&bus, 0xe000_2000), 3);
}

#[test]
fn holes_and_accesses_across_an_end_are_nobodys() {
    let (bus, latches) = bus(1);
    for address in [0, 0xe000_0fff, 0xe000_1ffe, 0xe000_2000, u64::MAX - 1, u64::MAX] {
        let mut data = [0; 4];
        assert!(!bus.mmio_read(address, &mut data), "{address:#x}");
        assert_eq!(data, [0xff; 4]);
        assert!(!bus.mmio_write(address, &[0; 4], &Cpu));
    }
    assert!(latches[0].take_written().is_none());
}

#[test]
fn there_is_room_for_31() {
    let (mut bus, _) = bus(31);
    assert_eq!(bus.add(Latch::new(1)), Err(PciBusError::Full));
    assert_eq!(config_read(&bus, 31, 0), 0x0008_1af4);
}

/// Mostly where something is.
fn any_address() -> impl Strategy<Value = u64> {
    prop_oneof![0xe000_0000_u64..0xe000_5000, any::<u64>()]
}

proptest! {
    /// No access panics, and the bridge and the identities stay.
    #[test]
    fn any_access_is_safe(
        accesses in proptest::collection::vec(
            (PORTS.start..PORTS.end, any_address(), any::<u64>(), 0_usize..9, 0..4), 0..200,
        ),
    ) {
        let (bus, _) = bus(3);
        for (port, address, value, len, kind) in accesses {
            let mut data = value.to_le_bytes();
            match kind {
                0 => bus.port_write(port, &data[..len]),
                1 => bus.port_read(port, &mut data[..len]),
                2 => { bus.mmio_read(address, &mut data[..len]); }
                _ => { bus.mmio_write(address, &data[..len], &Cpu); }
            }
            if kind == 0 && port == ADDRESS_PORT {
                select(&bus, u32::from(data[0] % 5), u32::from(data[1]) & 0xfc);
            }
        }
        prop_assert_eq!(config_read(&bus, 0, 0), 0x0008_1b36);
        prop_assert_eq!(config_read(&bus, 3, 0), 0x0008_1af4);
    }
}
