//! Tests of the transport, with a device that only remembers.

use proptest::prelude::*;
use virtio_queue::Queue;

use super::*;
use crate::virtio::device::ActivateError;

#[derive(Debug, Default)]
struct Recorder {
    active: bool,
    resets: u32,
    broken: bool,
    interrupts: u8,
    config: [u8; 8],
}

impl VirtioDevice for Recorder {
    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8, 8]
    }

    fn activate(&mut self, _features: u64, queues: Vec<Option<Queue>>) -> Result<(), ActivateError> {
        if queues[0].is_none() {
            return Err(ActivateError::QueueMissing(0));
        }
        self.active = true;
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self { resets: self.resets + 1, ..Self::default() };
    }

    fn needs_reset(&self) -> bool {
        self.broken
    }

    fn take_interrupts(&mut self) -> u8 {
        std::mem::take(&mut self.interrupts)
    }

    fn config_len(&self) -> u32 {
        8
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (to, from) in data.iter_mut().zip(self.config.iter().skip(usize::try_from(offset).unwrap())) {
            *to = *from;
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (to, from) in self.config.iter_mut().skip(usize::try_from(offset).unwrap()).zip(data) {
            *to = *from;
        }
    }

    fn config_generation(&self) -> u8 {
        5
    }
}

fn read_u8(transport: &mut Transport<Recorder>, offset: u64) -> u8 {
    let mut data = [0xee];
    transport.read(offset, &mut data);
    data[0]
}

fn bring_up(transport: &mut Transport<Recorder>, enable: bool) -> Event {
    for (offset, value) in [(20, 1_u32), (20, 3), (8, 1), (12, 1), (20, 11)] {
        let bytes = value.to_le_bytes();
        let len = if offset == 20 { 1 } else { 4 };
        assert_eq!(transport.write(offset, &bytes[..len]), Event::None);
    }
    if enable {
        assert_eq!(transport.write(28, &[1, 0]), Event::None);
    }
    transport.write(20, &[15])
}

#[test]
fn a_device_is_activated_notified_and_reset() {
    let mut transport = Transport::new(Recorder::default());
    assert_eq!(transport.write(NOTIFY_OFFSET, &[0, 0]), Event::None, "not before it works");
    assert_eq!(bring_up(&mut transport, true), Event::Activated);
    assert!(transport.device().active);
    for (at, event) in [
        (0, Event::Notified { queue: 0 }),
        (4, Event::Notified { queue: 1 }),
        (8, Event::None),
        (1, Event::None),
        (2, Event::None),
        (NOTIFY_LEN - 4, Event::None),
    ] {
        assert_eq!(transport.write(NOTIFY_OFFSET + at, &[9, 9]), event, "{at}");
    }
    assert_eq!(transport.write(20, &[0]), Event::Reset);
    assert_eq!((transport.device().active, transport.device().resets), (false, 1));
    assert_eq!(transport.write(NOTIFY_OFFSET, &[0, 0]), Event::None);
}

#[test]
fn a_device_that_can_not_work_needs_a_reset() {
    let mut transport = Transport::new(Recorder::default());
    assert_eq!(bring_up(&mut transport, false), Event::None);
    assert_eq!(read_u8(&mut transport, 20), 15 | 64);
    assert_eq!(transport.write(NOTIFY_OFFSET, &[0, 0]), Event::None);
    assert_eq!(transport.write(20, &[0]), Event::Reset);
    assert_eq!(bring_up(&mut transport, true), Event::Activated);
    transport.device_mut().broken = true;
    assert_eq!(read_u8(&mut transport, 20), 15 | 64);
    assert_eq!(transport.write(NOTIFY_OFFSET, &[0, 0]), Event::None);
}

#[test]
fn each_structure_is_at_its_place() {
    let mut transport = Transport::new(Recorder::default());
    transport.device_mut().interrupts = 3;
    assert_eq!(read_u8(&mut transport, ISR_OFFSET + 1), 0);
    assert_eq!(read_u8(&mut transport, ISR_OFFSET), 3);
    assert_eq!(read_u8(&mut transport, ISR_OFFSET), 0);
    assert_eq!(transport.write(DEVICE_OFFSET + 6, &[1, 2, 3]), Event::None);
    let mut data = [0xee; 4];
    transport.read(DEVICE_OFFSET + 6, &mut data);
    assert_eq!(data, [1, 2, 0, 0]);
    assert_eq!(read_u8(&mut transport, 21), 5);
}

#[test]
fn accesses_across_structures_or_the_end_mean_nothing() {
    let mut transport = Transport::new(Recorder::default());
    transport.device_mut().interrupts = 3;
    for offset in [ISR_OFFSET - 1, BAR_LEN - 1, BAR_LEN, BAR_LEN + ISR_OFFSET, u64::MAX - 8, u64::MAX] {
        let mut data = [0xee; 2];
        transport.read(offset, &mut data);
        assert_eq!(data, [0; 2], "{offset:#x}");
        assert_eq!(transport.write(offset, &[0; 2]), Event::None);
    }
    assert_eq!(transport.device().interrupts, 3);
    transport.read(ISR_OFFSET, &mut []);
    assert_eq!(transport.write(20, &[]), Event::None);
}

/// Often in the BAR.
fn any_offset() -> impl Strategy<Value = u64> {
    prop_oneof![0..BAR_LEN + 16, any::<u64>()]
}

proptest! {
    /// Nothing that a guest writes keeps it from bringing the device up afterwards.
    #[test]
    fn any_writes_leave_a_device_that_can_be_brought_up(
        accesses in proptest::collection::vec((any_offset(), 0_usize..=8, any::<u64>()), 0..100),
    ) {
        let mut transport = Transport::new(Recorder::default());
        for (offset, len, value) in accesses {
            transport.read(offset, &mut vec![0; len]);
            let _ = transport.write(offset, &value.to_le_bytes()[..len]);
        }
        prop_assert_eq!(transport.write(20, &[0]), Event::Reset);
        prop_assert_eq!(bring_up(&mut transport, true), Event::Activated);
    }
}
