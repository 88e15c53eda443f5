//! Tests of the entropy device.

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::fake_driver::{DATA, Driver, Part};

fn driver() -> Driver {
    let mut driver = Driver::new(|wiring, bars| function(wiring, bars).unwrap());
    driver.bring_up(0);
    driver
}

fn bytes(driver: &Driver, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    driver.memory().read_slice(&mut data, GuestAddress(DATA)).unwrap();
    data
}

#[test]
fn a_request_gets_random_bytes() {
    let mut driver = driver();
    assert_eq!(driver.serve(&[Part::Write(DATA, 64)]), 64);
    let first = bytes(&driver, 64);
    assert_eq!(driver.serve(&[Part::Write(DATA, 64)]), 64);
    assert_ne!(first, bytes(&driver, 64));
    assert_ne!(first, [0; 64]);
}

#[test]
fn a_request_gets_a_bounded_number() {
    let mut driver = driver();
    let len = u32::try_from(MAX_BYTES).unwrap();
    assert_eq!(driver.serve(&[Part::Write(DATA, len)]), len);
    assert_eq!(driver.serve(&[Part::Write(DATA, 10), Part::Write(DATA, len)]), len);
    assert_eq!(driver.serve(&[Part::Write(DATA, 0x100_0000)]), len);
}

#[test]
fn what_can_not_be_written_gets_nothing() {
    let mut driver = driver();
    assert_eq!(driver.serve(&[Part::Read(DATA, 64)]), 0);
    assert_eq!(driver.serve(&[Part::Write(0xd000_0000, 64)]), 0);
    assert_eq!(driver.serve(&[Part::Write(u64::MAX - 4, 64)]), 0);
    assert_eq!(driver.serve(&[Part::Write(DATA, 1)]), 1);
}
