//! Tests of a function with a queue, by a driver that does what a stock one does.

use std::sync::mpsc;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::devices::fake_driver::{CONFIG_MESSAGE, Cpu, DATA, Driver, Part, QUEUE_MESSAGE, RINGS};
use crate::memory::marks::FrameMarks;
use crate::virtio::buffers::Buffers;

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Gives a request back with its bytes turned round.
struct Reverse;

impl Server for Reverse {
    fn serve(&mut self, memory: &GuestMemoryMmap<FrameMarks>, _features: u64, buffers: &Buffers) -> u32 {
        let len = buffers.readable_len().min(buffers.writable_len()).min(4096);
        let mut data = vec![0; usize::try_from(len).unwrap()];
        let done = buffers.read(memory, 0, &mut data).and_then(|()| {
            data.reverse();
            buffers.write(memory, 0, &data)
        });
        done.map_or(0, |()| u32::try_from(len).unwrap())
    }
}

fn description() -> Description {
    Description { name: "test", device_type: 4, class_code: 0xff_00_00, features: 0, config: vec![1, 2, 3] }
}

fn driver(server: impl Server) -> Driver {
    Driver::new(|wiring, bars| QueueFunction::new(description(), Box::new(server), wiring, bars).unwrap())
}

fn reverse(driver: &mut Driver) {
    driver.memory().write_slice(b"abc", GuestAddress(DATA)).unwrap();
    assert_eq!(driver.serve(&[Part::Read(DATA, 3), Part::Write(DATA + 0x100, 8)]), 3);
    assert_eq!(driver.memory().read_obj::<[u8; 4]>(GuestAddress(DATA + 0x100)).unwrap(), *b"cba\0");
}

#[test]
fn the_identity_and_the_capability_are_those_of_a_stock_device() {
    let driver = driver(Reverse);
    let word = |offset| {
        let mut data = [0; 4];
        driver.device.config_read(offset, &mut data);
        u32::from_le_bytes(data)
    };
    assert_eq!([word(0), word(8), word(0x2c)], [0x1044_1af4, 0xff00_0001, 0x0004_1af4]);
    assert_eq!(driver.device.bars(), [(0, 0xe000_0000..0xe000_4000), (1, 0xe000_4000..0xe000_5000)]);
    let msix = driver.msix_capability();
    assert_eq!([word(msix) >> 16, word(msix + 4), word(msix + 8)], [1, 1, 0x801]);
    let mut config = [0xee; 4];
    driver.device.bar_read(0, 0x2000, &mut config);
    assert_eq!(config, [1, 2, 3, 0]);
}

#[test]
fn requests_are_served_and_interrupt_once_each() {
    for features in [0, INDIRECT, EVENT_IDX, EVENT_IDX | INDIRECT] {
        let mut driver = driver(Reverse);
        driver.bring_up(features);
        reverse(&mut driver);
        assert_eq!(driver.messages.take(), [QUEUE_MESSAGE]);
        if features & EVENT_IDX == 0 {
            // The ring wraps and nothing is lost.
            (0..1000).for_each(|_| reverse(&mut driver));
        }
    }
}

#[test]
fn an_interrupt_waits_while_it_is_masked() {
    let mut driver = driver(Reverse);
    driver.bring_up(0);
    driver.device.bar_write(1, 16 + 12, &1_u32.to_le_bytes(), &Cpu);
    driver.post(&[Part::Write(DATA, 8)]);
    driver.notify();
    let mut pending = [0];
    while pending == [0] {
        driver.device.bar_read(1, 0x800, &mut pending);
        std::thread::yield_now();
    }
    assert_eq!((pending, driver.messages.take()), ([2], vec![]));
    driver.device.bar_write(1, 16 + 12, &[0; 4], &Cpu);
    assert_eq!(driver.messages.take(), [QUEUE_MESSAGE]);
    driver.set_control(0xc000);
    driver.post(&[Part::Write(DATA, 8)]);
    driver.notify();
    driver.write(20, &[0]);
    assert_eq!(driver.messages.take(), []);
    driver.set_control(0x8000);
    assert!(driver.messages.take().len() <= 1, "the request may have been served before the reset");
}

#[test]
fn vectors_that_are_not_there_read_back_as_none_and_a_reset_forgets_them() {
    let mut driver = driver(Reverse);
    driver.bring_up(0);
    let vectors = |driver: &Driver| {
        let (mut config, mut queue) = ([0; 2], [0; 2]);
        driver.device.bar_read(0, 16, &mut config);
        driver.device.bar_read(0, 26, &mut queue);
        [u16::from_le_bytes(config), u16::from_le_bytes(queue)]
    };
    assert_eq!(vectors(&driver), [0, 1]);
    driver.write(16, &[2, 0]);
    driver.write(26, &[0xfe, 0xff]);
    assert_eq!(vectors(&driver), [0xffff; 2]);
    driver.write(16, &[1, 0]);
    driver.write(20, &[0]);
    assert_eq!(vectors(&driver), [0xffff; 2]);
    driver.bring_up(0);
    driver.write(22, &[1, 0]);
    driver.write(26, &[0, 0]);
    assert_eq!(vectors(&driver), [0, 0xffff], "there is no queue 1");
}

#[test]
fn rings_that_can_not_be_used_break_the_device_until_a_reset() {
    let mut driver = driver(Reverse);
    driver.bring_up(0);
    driver.set_available(300);
    driver.notify();
    driver.messages.wait_until(|arrived| arrived == [CONFIG_MESSAGE]);
    assert_eq!(driver.status(), 15 | 64);
    driver.bring_up(0);
    assert_eq!(driver.status(), 15);
    reverse(&mut driver);
}

#[test]
fn a_broken_chain_is_given_back_empty() {
    let mut driver = driver(Reverse);
    driver.bring_up(0);
    assert_eq!(driver.serve(&[Part::Write(DATA, 8), Part::Read(DATA, 8)]), 0);
    assert_eq!(driver.serve(&[Part::Read(DATA, 0)]), 0);
    assert_eq!(driver.serve(&[Part::Read(0xd000_0000, 8), Part::Write(DATA, 8)]), 0);
    reverse(&mut driver);
}

/// Does what a server must not do.
struct Panics;

impl Server for Panics {
    fn serve(&mut self, _: &GuestMemoryMmap<FrameMarks>, _: u64, _: &Buffers) -> u32 {
        panic!("on purpose")
    }
}

#[test]
fn a_server_that_panics_costs_the_device_and_nothing_else() {
    let mut driver = driver(Panics);
    driver.bring_up(0);
    driver.post(&[Part::Write(DATA, 8)]);
    driver.notify();
    driver.messages.wait_until(|arrived| arrived == [CONFIG_MESSAGE]);
    assert_eq!(driver.status(), 15 | 64);
    driver.write(20, &[0]);
    assert_eq!(driver.status(), 0, "a driver that resets sees that it's done");
    driver.bring_up(0);
    assert_eq!(driver.status(), 15 | 64, "and that it can't be used");
    driver.notify();
}

/// Says when it serves, and goes on when it's told to.
struct Slow {
    serving: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
    finished: Arc<Mutex<u32>>,
}

impl Server for Slow {
    fn serve(&mut self, _: &GuestMemoryMmap<FrameMarks>, _: u64, _: &Buffers) -> u32 {
        self.serving.send(()).unwrap();
        self.go_on.recv().unwrap();
        *self.finished.lock().unwrap() += 1;
        0
    }
}

#[test]
fn a_reset_waits_for_the_request_in_flight_and_drops_the_others() {
    let ((serving, is_serving), (tell, go_on)) = (mpsc::channel(), mpsc::channel());
    let finished = Arc::new(Mutex::new(0));
    let mut driver = driver(Slow { serving, go_on, finished: Arc::clone(&finished) });
    driver.bring_up(0);
    for _ in 0..3 {
        driver.post(&[Part::Write(DATA, 8)]);
    }
    driver.notify();
    is_serving.recv().unwrap();
    std::thread::scope(|scope| {
        let device = Arc::clone(&driver.device);
        let reset = scope.spawn(move || device.bar_write(0, 20, &[0], &Cpu));
        // The vCPU that resets holds the registers: once it has them, nobody else does.
        while driver.device.function.try_lock().is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(*finished.lock().unwrap(), 0);
        tell.send(()).unwrap();
        reset.join().unwrap();
    });
    assert_eq!((*finished.lock().unwrap(), driver.used()), (1, 1));
    assert_eq!(driver.status(), 0);
}

/// An access to a function.
#[derive(Clone, Debug)]
enum Access {
    Config(u16, u64, usize, bool),
    Bar(u8, u64, u64, usize, bool),
}

fn any_access() -> impl Strategy<Value = Access> {
    let bar_offset = prop_oneof![0_u64..64, 0_u64..0x4010, any::<u64>()];
    prop_oneof![
        (0_u16..300, any::<u64>(), 0_usize..9, any::<bool>())
            .prop_map(|(offset, value, len, write)| Access::Config(offset, value, len, write)),
        (0_u8..3, bar_offset, any::<u64>(), 0_usize..9, any::<bool>())
            .prop_map(|(bar, offset, value, len, write)| Access::Bar(bar, offset, value, len, write)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is done to its registers, a driver can bring the device up afterwards.
    #[test]
    fn any_accesses_leave_a_device_that_can_be_brought_up(
        accesses in proptest::collection::vec(any_access(), 0..200),
    ) {
        let mut driver = driver(Reverse);
        driver.bring_up(0);
        for access in accesses {
            match access {
                Access::Config(offset, value, len, true) => {
                    driver.device.config_write(offset, &value.to_le_bytes()[..len]);
                }
                Access::Config(offset, _, len, false) => driver.device.config_read(offset, &mut vec![0; len]),
                Access::Bar(bar, offset, value, len, true) => {
                    driver.device.bar_write(bar, offset, &value.to_le_bytes()[..len], &Cpu);
                }
                Access::Bar(bar, offset, _, len, false) => {
                    driver.device.bar_read(bar, offset, &mut vec![0; len]);
                }
            }
            let _ = driver.device.bars();
        }
        driver.bring_up(0);
        reverse(&mut driver);
    }

    /// Whatever is in the rings, the thread survives and a reset helps.
    #[test]
    fn garbage_in_the_rings_is_survived(
        bytes in proptest::collection::vec(any::<u8>(), 0x2a00),
        ahead in prop_oneof![0_u16..=256, any::<u16>()],
        features in prop_oneof![Just(0), Just(EVENT_IDX | INDIRECT)],
    ) {
        let mut driver = driver(Reverse);
        driver.bring_up(features);
        driver.memory().write_slice(&bytes, GuestAddress(RINGS)).unwrap();
        driver.set_available(ahead);
        driver.notify();
        // Bytes change under the thread's feet.
        driver.memory().write_slice(&bytes[7..], GuestAddress(RINGS)).unwrap();
        driver.bring_up(features);
        reverse(&mut driver);
    }
}
