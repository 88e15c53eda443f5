//! Tests of the disk, by a driver that does what a stock one does.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::block::image::tests::create_qcow2;
use crate::devices::fake_driver::{DATA, Driver, Part};
use crate::devices::pci_bus::PciDevice;
use crate::memory::layout::PAGE;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const FLUSH_FEATURE: u64 = 1 << VIRTIO_BLK_F_FLUSH;

/// Where the tests have header, status, data that the guest writes, data that it reads.
const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const WRITTEN: u64 = DATA + 0x10_0000;
const READ: u64 = DATA + 0x200_0000;
const UNTOUCHED: u8 = 0xee;

fn driver(path: &Path, read_only: bool) -> Driver {
    let image = Image::open(path, read_only).unwrap();
    let mut driver = Driver::new(|wiring, bars| function(image, wiring, bars).unwrap());
    driver.bring_up(FLUSH_FEATURE);
    driver
}

fn raw(directory: &TempDir, len: usize) -> PathBuf {
    let path = directory.path().join("image");
    fs::write(&path, vec![0x11; len]).unwrap();
    path
}

/// Makes a request with these data buffers; returns the status and the bytes written.
fn request(driver: &mut Driver, kind: u32, sector: u64, data: &[Part]) -> (u8, u32) {
    driver.memory().write_obj(kind, GuestAddress(HEADER)).unwrap();
    driver.memory().write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
    driver.memory().write_obj(UNTOUCHED, GuestAddress(STATUS)).unwrap();
    let mut chain = vec![Part::Read(HEADER, 16)];
    chain.extend(data);
    chain.push(Part::Write(STATUS, 1));
    let written = driver.serve(&chain);
    (driver.memory().read_obj(GuestAddress(STATUS)).unwrap(), written)
}

fn bytes(driver: &Driver, address: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    driver.memory().read_slice(&mut data, GuestAddress(address)).unwrap();
    data
}

#[test]
fn what_is_written_is_read_and_is_in_the_image() {
    let directory = TempDir::new().unwrap();
    let qcow2 = directory.path().join("qcow2");
    create_qcow2(&qcow2, 4 << 20, |builder| builder);
    for path in [raw(&directory, 4 << 20), qcow2] {
        let mut driver = driver(&path, false);
        let content: Vec<u8> = (0..3_000_000_u32 / 512 * 512)
            .flat_map(|at| (at / 7).to_le_bytes().into_iter().take(1))
            .collect();
        let len = u32::try_from(content.len()).unwrap();
        driver.memory().write_slice(&content, GuestAddress(WRITTEN)).unwrap();
        let parts = [Part::Read(WRITTEN, 1000), Part::Read(WRITTEN + 1000, len - 1000)];
        assert_eq!(request(&mut driver, OUT, 9, &parts), (0, 1));
        assert_eq!(request(&mut driver, FLUSH, 0, &[]), (0, 1));
        let parts = [Part::Write(READ, 513), Part::Write(READ + 513, len - 513)];
        assert_eq!(request(&mut driver, IN, 9, &parts), (0, len + 1));
        assert!(bytes(&driver, READ, content.len()) == content);
        drop(driver);
        let image = Image::open(&path, true).unwrap();
        let mut found = vec![0; content.len()];
        image.read(9 * 512, &mut found).unwrap();
        assert!(found == content);
    }
}

#[test]
fn what_the_device_writes_to_memory_is_marked() {
    let directory = TempDir::new().unwrap();
    let mut driver = driver(&raw(&directory, 1 << 20), false);
    let chunk = READ / (64 * PAGE) * (64 * PAGE);
    driver.ram.clear_marks(chunk, u64::MAX);
    assert_eq!(request(&mut driver, IN, 0, &[Part::Write(READ + 2 * PAGE, 512)]), (0, 513));
    assert_eq!(driver.ram.marks(chunk) >> ((READ - chunk) / PAGE), 0b100);
}

#[test]
fn the_configuration_says_what_the_disk_is() {
    let directory = TempDir::new().unwrap();
    let path = raw(&directory, 1 << 20);
    for (read_only, expected) in [(false, 0x3000_0246), (true, 0x3000_0266)] {
        let driver = driver(&path, read_only);
        let word = |offset| {
            let mut data = [0; 4];
            driver.device.bar_read(0, offset, &mut data);
            u32::from_le_bytes(data)
        };
        assert_eq!([0, 4, 8, 12, 16, 20].map(|at| word(0x2000 + at)), [2048, 0, 65536, 254, 0, 512]);
        driver.write(0, &[0; 4]);
        assert_eq!(word(4), expected);
    }
}

#[test]
fn the_disk_has_a_name() {
    let directory = TempDir::new().unwrap();
    let mut driver = driver(&raw(&directory, 512), false);
    assert_eq!(request(&mut driver, GET_ID, 0, &[Part::Write(READ, 20)]), (0, 21));
    assert_eq!(bytes(&driver, READ, 20), *b"cairn\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn refused_requests_say_so_and_touch_nothing() {
    let directory = TempDir::new().unwrap();
    let path = raw(&directory, 8192);
    let mut driver = driver(&path, false);
    driver.memory().write_slice(&[UNTOUCHED; 512], GuestAddress(READ)).unwrap();
    let cases: [(u32, u64, &[Part], u8); 8] = [
        (IN, 16, &[Part::Write(READ, 512)], 1),
        (IN, u64::MAX, &[Part::Write(READ, 512)], 1),
        (IN, 0, &[Part::Write(READ, 100)], 1),
        (OUT, 15, &[Part::Read(WRITTEN, 1024)], 1),
        (OUT, 0, &[Part::Read(WRITTEN, 513)], 1),
        (OUT, 0, &[Part::Read(0xd000_0000, 512)], 1),
        (GET_ID, 0, &[Part::Write(READ, 4)], 1),
        (11, 0, &[Part::Read(WRITTEN, 16)], 2),
    ];
    for (kind, sector, parts, status) in cases {
        let (answer, _) = request(&mut driver, kind, sector, parts);
        assert_eq!(answer, status, "{kind} {sector} {parts:?}");
    }
    assert_eq!(bytes(&driver, READ, 512), [UNTOUCHED; 512]);
    assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0x11));
    // Nothing of a part that isn't memory, and what of it is, may be read.
    assert_eq!(request(&mut driver, IN, 0, &[Part::Write(0xd000_0000, 512)]).0, 1);
    assert_eq!(request(&mut driver, IN, 0, &[Part::Write(READ, 512)]), (0, 513));
}

#[test]
fn a_read_only_disk_is_not_written() {
    let directory = TempDir::new().unwrap();
    let path = raw(&directory, 8192);
    let mut driver = driver(&path, true);
    assert_eq!(request(&mut driver, OUT, 0, &[Part::Read(WRITTEN, 512)]), (1, 1));
    assert_eq!(request(&mut driver, FLUSH, 0, &[]), (0, 1));
    assert_eq!(request(&mut driver, IN, 0, &[Part::Write(READ, 512)]), (0, 513));
    assert_eq!(bytes(&driver, READ, 512), [0x11; 512]);
}

#[test]
fn header_and_status_may_be_anywhere_in_the_chain() {
    let directory = TempDir::new().unwrap();
    let mut driver = driver(&raw(&directory, 8192), false);
    driver.memory().write_slice(&[0; 16], GuestAddress(HEADER)).unwrap();
    let header = [Part::Read(HEADER, 4), Part::Read(HEADER + 4, 12)];
    let chain = [header[0], header[1], Part::Write(READ, 513)];
    assert_eq!(driver.serve(&chain), 513);
    assert_eq!(bytes(&driver, READ, 514)[510..], [0x11, 0x11, 0, 0]);
    assert_eq!(driver.serve(&[Part::Read(HEADER, 8), Part::Write(STATUS, 1)]), 1, "half a header");
    assert_eq!(bytes(&driver, STATUS, 1), [1]);
    assert_eq!(driver.serve(&[Part::Read(HEADER, 16)]), 0, "no room for the status");
    assert_eq!(driver.serve(&[Part::Read(HEADER, 16), Part::Write(0xd000_0000, 1)]), 0);
}

#[test]
fn without_flush_every_write_is_durable_and_large_requests_are_bounded() {
    let directory = TempDir::new().unwrap();
    let path = raw(&directory, 20 << 20);
    let mut driver = driver(&path, false);
    driver.bring_up(0);
    assert_eq!(request(&mut driver, OUT, 0, &[Part::Read(WRITTEN, 512)]), (0, 1));
    let limit = u32::try_from(MAX_REQUEST).unwrap();
    assert_eq!(request(&mut driver, IN, 0, &[Part::Write(READ, limit)]), (0, limit + 1));
    assert_eq!(request(&mut driver, IN, 0, &[Part::Write(READ, limit + 512)]).0, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever requests say, each is used, and the disk keeps its size.
    #[test]
    fn any_requests_are_answered(
        requests in proptest::collection::vec(
            (0_u32..16, prop_oneof![0_u64..40, any::<u64>()], any::<u64>(), any::<u32>(), any::<bool>()), 1..20,
        ),
    ) {
        let directory = TempDir::new().unwrap();
        let path = raw(&directory, 16384);
        let mut driver = driver(&path, false);
        for (kind, sector, address, len, write) in requests {
            let address = if address % 2 == 0 { READ } else { address };
            let len = if len % 2 == 0 { len / 2 % 64 * 512 } else { len };
            let part = if write { Part::Write(address, len) } else { Part::Read(address, len) };
            let (status, written) = request(&mut driver, kind, sector, &[part]);
            prop_assert!(status <= 2 || written == 0);
        }
        drop(driver);
        prop_assert_eq!(fs::metadata(&path).unwrap().len(), 16384);
    }
}
