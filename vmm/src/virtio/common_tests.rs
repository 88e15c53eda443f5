//! Tests of the common configuration.

use proptest::prelude::*;

use super::*;
use crate::virtio::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};

const OFFERED: u64 = VERSION_1 | 1 << 33 | 1 << 5;

fn registers() -> CommonConfig {
    CommonConfig::new(OFFERED, 0, &[64, 16])
}

fn read<const N: usize>(registers: &CommonConfig, offset: u64) -> [u8; N] {
    let mut data = [0; N];
    registers.read(offset, &mut data, false, 0);
    data
}

fn status(registers: &CommonConfig) -> u8 {
    read::<1>(registers, 20)[0]
}

fn accept(registers: &mut CommonConfig, features: u64) {
    for (select, half) in (0_u32..).zip(halves(features)) {
        registers.write(8, &select.to_le_bytes());
        registers.write(12, &half.to_le_bytes());
    }
}

/// Registers at which queues can be set up.
fn agreed() -> CommonConfig {
    let mut registers = registers();
    registers.write(20, &[ACKNOWLEDGE | DRIVER]);
    accept(&mut registers, VERSION_1 | 1 << 5);
    registers.write(20, &[ACKNOWLEDGE | DRIVER | FEATURES_OK]);
    assert_eq!(status(&registers), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    registers
}

#[test]
fn a_driver_sees_what_is_offered_half_by_half() {
    let mut registers = registers();
    let shown = [0_u32, 1, 2, u32::MAX].map(|select| {
        registers.write(0, &select.to_le_bytes());
        u32::from_le_bytes(read(&registers, 4))
    });
    assert_eq!(shown, [1 << 5, 0b11, 0, 0]);
    assert_eq!(read(&registers, 16), [0xff, 0xff, 2, 0, 0, 0]);
}

#[test]
fn features_must_be_offered_and_hold_version_1() {
    for (features, agree) in [
        (VERSION_1, true),
        (OFFERED, true),
        (0, false),
        (1 << 33, false),
        (VERSION_1 | 1 << 6, false),
        (VERSION_1 | 1 << 63, false),
        (u64::MAX, false),
    ] {
        let mut registers = registers();
        registers.write(20, &[ACKNOWLEDGE | DRIVER]);
        accept(&mut registers, features);
        registers.write(20, &[ACKNOWLEDGE | DRIVER | FEATURES_OK]);
        assert_eq!(status(&registers) & FEATURES_OK != 0, agree, "{features:#x}");
        assert_eq!(registers.agreed_features(), if agree { features } else { 0 });
    }
}

#[test]
fn features_from_64_on_are_never_offered() {
    let mut registers = registers();
    registers.write(20, &[ACKNOWLEDGE | DRIVER]);
    registers.write(8, &2_u32.to_le_bytes());
    registers.write(12, &1_u32.to_le_bytes());
    accept(&mut registers, VERSION_1);
    registers.write(20, &[ACKNOWLEDGE | DRIVER | FEATURES_OK]);
    assert_eq!(status(&registers), ACKNOWLEDGE | DRIVER);
}

#[test]
fn a_required_feature_can_not_be_left_out() {
    let mut registers = CommonConfig::new(OFFERED, 1 << 33, &[]);
    registers.write(20, &[ACKNOWLEDGE | DRIVER]);
    for (features, expected) in [(VERSION_1, 3), (VERSION_1 | 1 << 33, 11)] {
        accept(&mut registers, features);
        registers.write(20, &[ACKNOWLEDGE | DRIVER | FEATURES_OK]);
        assert_eq!(status(&registers), expected);
    }
}

#[test]
fn features_are_fixed_once_agreed_and_not_chosen_before_a_driver_is_there() {
    let mut registers = registers();
    accept(&mut registers, OFFERED);
    registers.write(20, &[ACKNOWLEDGE | DRIVER | FEATURES_OK]);
    assert_eq!(status(&registers), ACKNOWLEDGE | DRIVER);
    let mut registers = agreed();
    accept(&mut registers, OFFERED);
    assert_eq!(registers.agreed_features(), VERSION_1 | 1 << 5);
}

#[test]
fn steps_out_of_order_are_ignored() {
    for value in [DRIVER, FEATURES_OK, DRIVER_OK, DRIVER | DRIVER_OK] {
        let mut registers = registers();
        assert_eq!(registers.write(20, &[value]), Change::None);
        assert_eq!(status(&registers), 0);
    }
    let mut registers = registers();
    registers.write(20, &[ACKNOWLEDGE | DRIVER]);
    assert_eq!(registers.write(20, &[ACKNOWLEDGE | DRIVER | DRIVER_OK]), Change::None);
    assert_eq!(status(&registers), ACKNOWLEDGE | DRIVER, "DRIVER_OK without FEATURES_OK");
    registers.write(20, &[ACKNOWLEDGE]);
    assert_eq!(status(&registers), ACKNOWLEDGE | DRIVER, "a bit can't be cleared");
}

#[test]
fn running_begins_once_and_ends_by_failure_or_reset() {
    let mut registers = agreed();
    assert!(!registers.running());
    assert_eq!(registers.write(20, &[15]), Change::Activate);
    assert_eq!(registers.write(20, &[15]), Change::None);
    assert!(registers.running());
    assert_eq!(registers.write(20, &[15 | FAILED]), Change::None);
    assert!(!registers.running());
    assert_eq!(registers.write(20, &[15]), Change::None);
    assert_eq!(status(&registers), 15 | FAILED);
    assert_eq!(registers.write(20, &[0]), Change::Reset);
}

#[test]
fn a_driver_that_fails_as_it_starts_does_not_run() {
    let mut registers = agreed();
    assert_eq!(registers.write(20, &[15 | FAILED]), Change::None);
    assert!(!registers.running());
}

#[test]
fn a_queue_is_set_up_between_features_and_driver_ok_and_then_fixed() {
    let mut registers = agreed();
    let set = |registers: &mut CommonConfig, size: u16, address: u64| {
        registers.write(24, &size.to_le_bytes());
        for offset in [32, 40, 48] {
            registers.write(offset, &address.to_le_bytes());
        }
    };
    registers.write(22, &1_u16.to_le_bytes());
    set(&mut registers, 8, 0x1_0000_2000);
    registers.write(28, &1_u16.to_le_bytes());
    set(&mut registers, 4, 0x3000);
    registers.write(28, &0_u16.to_le_bytes());
    let queues = registers.build_queues();
    let [None, Some(queue)] = &queues[..] else { panic!("{queues:?}") };
    assert_eq!((queue.size(), queue.max_size(), queue.ready()), (8, 16, true));
    assert_eq!([queue.desc_table(), queue.avail_ring(), queue.used_ring()], [0x1_0000_2000; 3]);

    registers.write(20, &[15]);
    registers.write(22, &0_u16.to_le_bytes());
    set(&mut registers, 4, 0x3000);
    registers.write(28, &1_u16.to_le_bytes());
    assert!(registers.build_queues()[0].is_none(), "too late");

    registers.reset();
    assert_eq!(read(&registers, 20), [0; 4]);
    assert!(registers.build_queues().iter().all(Option::is_none));
    assert_eq!(u16::from_le_bytes(read(&registers, 24)), 64);
}

#[test]
fn sizes_and_addresses_that_can_not_be_are_ignored() {
    let mut registers = agreed();
    for size in [0, 3, 63, 65, 128, u16::MAX] {
        registers.write(24, &u16::to_le_bytes(size));
        assert_eq!(u16::from_le_bytes(read(&registers, 24)), 64, "{size}");
    }
    for (offset, align) in [(32, 16), (40, 2), (48, 4)] {
        registers.write(offset, &u64::to_le_bytes(align));
        registers.write(offset, &u32::to_le_bytes(1));
        registers.write(offset, &u64::to_le_bytes(align / 2));
        registers.write(offset + 4, &7_u32.to_le_bytes());
        assert_eq!(u64::from_le_bytes(read(&registers, offset)), 7 << 32 | align, "{offset}");
    }
}

#[test]
fn a_queue_that_is_not_there_reads_as_nothing() {
    let mut registers = agreed();
    registers.write(22, &2_u16.to_le_bytes());
    registers.write(24, &8_u16.to_le_bytes());
    registers.write(28, &1_u16.to_le_bytes());
    assert_eq!(read(&registers, 22), [2, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    registers.write(22, &1_u16.to_le_bytes());
    assert_eq!(read(&registers, 28), [0, 0, 1, 0], "queue 1 is notified at 1");
}

#[test]
fn needs_reset_and_the_generation_are_shown() {
    let mut data = [0; 2];
    agreed().read(20, &mut data, true, 9);
    assert_eq!(data, [11 | NEEDS_RESET, 9]);
}

/// Mostly in the structure.
fn any_offset() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 0_u64..64, 1 => any::<u64>()]
}

proptest! {
    /// Reading any bytes is the same as reading the whole structure and cutting.
    #[test]
    fn reads_of_any_width_agree(offset in 0_u64..80, len in 0_usize..12) {
        let registers = agreed();
        let whole: [u8; COMMON_LEN] = read(&registers, 0);
        let mut part = vec![0; len];
        registers.read(offset, &mut part, false, 0);
        let expected: Vec<u8> = whole.iter().copied().chain(std::iter::repeat(0))
            .skip(usize::try_from(offset).unwrap()).take(len).collect();
        prop_assert_eq!(part, expected);
    }

    /// Whatever is written, a queue that comes out of it is one, and the device runs only with agreed
    /// features.
    #[test]
    fn no_sequence_of_writes_breaks_the_rules(
        writes in proptest::collection::vec((any_offset(), 0_usize..=8, any::<u64>()), 0..200),
    ) {
        let mut registers = registers();
        for (offset, len, value) in writes {
            if registers.write(offset, &value.to_le_bytes()[..len]) == Change::Reset {
                registers.reset();
            }
            prop_assert!(!registers.running() || registers.agreed_features() & VERSION_1 != 0);
            prop_assert_eq!(registers.agreed_features() & !OFFERED, 0);
            for (queue, max) in registers.build_queues().into_iter().zip([64, 16]) {
                prop_assert!(queue.is_none_or(|queue| queue.size() <= max && queue.size().is_power_of_two()));
            }
        }
    }
}
