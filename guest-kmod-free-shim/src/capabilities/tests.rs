//! Capability lists, good and bad.

use super::*;
use crate::fake::config::{CAPS, Capability, config, good, put};

const RESOURCE: &str = "0x00000000fe000000 0x00000000fe003fff 0x0000000000040200\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n";

fn refused(capabilities: &[Capability]) -> LayoutError {
    Layout::from_config(&config(capabilities)).expect_err("a bad list")
}

#[test]
fn the_structures_are_where_the_capabilities_say() {
    assert_eq!(Layout::from_config(&config(&good())), Ok(Layout::FIXED));
    let mut moved = good();
    for (capability, offset) in moved.iter_mut().zip([0x3000, 0x2004, 0x1001, 0x10]) {
        (capability.bar, capability.offset) = (4, offset);
    }
    moved[1].multiplier = 2;
    let layout = Layout::from_config(&config(&moved)).expect("a good list");
    assert_eq!((layout.bar, layout.notify_multiplier), (4, 2));
    let offsets = [layout.common.offset, layout.notify.offset, layout.device.offset];
    assert_eq!(offsets, [0x3000, 0x2004, 0x10]);
}

#[test]
fn a_program_without_rights_takes_the_fixed_places() {
    assert_eq!(Layout::from_config(&config(&good())[..64]), Ok(Layout::FIXED));
    assert_eq!(Layout::from_config(&config(&[])[..64]), Ok(Layout::FIXED), "the list itself can't be seen");
}

#[test]
fn the_first_of_a_kind_counts_and_unknown_ones_are_skipped() {
    let mut list = good();
    list.insert(0, Capability { kind: 5, ..good()[0] });
    list.insert(0, Capability { kind: 1, bar: 6, ..good()[0] });
    list.insert(0, Capability { id: 0x11, ..good()[0] });
    list.push(Capability { offset: 0x100, ..good()[0] });
    assert_eq!(Layout::from_config(&config(&list)), Ok(Layout::FIXED));
}

#[test]
fn a_header_that_is_no_such_devices_is_refused() {
    let refused = |offset, value| {
        let mut bytes = config(&good());
        bytes[offset] = value;
        Layout::from_config(&bytes).expect_err("a bad header")
    };
    assert_eq!(refused(0x0e, 1), LayoutError::HeaderType(1));
    assert_eq!(refused(0x04, 0), LayoutError::DecodeOff);
    assert_eq!(refused(0x06, 0), LayoutError::NoCapabilities);
    let mut bytes = config(&good());
    bytes[0x0e] = 0x80;
    assert!(Layout::from_config(&bytes).is_ok(), "one of several functions");
}

#[test]
fn a_structure_that_is_not_there_is_named() {
    for (index, name) in [(0, COMMON), (1, NOTIFY), (3, DEVICE)] {
        let mut list = good();
        list.remove(index);
        assert_eq!(refused(&list), LayoutError::Missing(name));
    }
}

#[test]
fn places_that_cannot_be_are_refused() {
    let changed = |index: usize, change: fn(&mut Capability)| {
        let mut list = good();
        change(&mut list[index]);
        refused(&list)
    };
    assert_eq!(changed(3, |c| c.bar = 1), LayoutError::Bar { structure: DEVICE, bar: 1 });
    assert_eq!(changed(0, |c| c.len = 55), LayoutError::TooSmall { structure: COMMON, len: 55, need: 56 });
    assert_eq!(changed(1, |c| c.len = 1), LayoutError::TooSmall { structure: NOTIFY, len: 1, need: 2 });
    assert_eq!(changed(3, |c| c.len = 7), LayoutError::TooSmall { structure: DEVICE, len: 7, need: 8 });
    assert_eq!(changed(0, |c| c.offset = 2), LayoutError::Unaligned { structure: COMMON, offset: 2 });
    assert_eq!(changed(1, |c| c.offset = 1), LayoutError::Unaligned { structure: NOTIFY, offset: 1 });
    assert!(matches!(changed(0, |c| c.cap_len = 15), LayoutError::CutOff(_)));
    assert!(matches!(changed(1, |c| c.cap_len = 19), LayoutError::CutOff(_)));
}

#[test]
fn lists_that_loop_or_leave_the_configuration_space_end() {
    let mut bytes = config(&good());
    put(&mut bytes, CAPS + 1, &[0x40]);
    assert_eq!(Layout::from_config(&bytes), Err(LayoutError::Endless));
    put(&mut bytes, CAPS + 1, &[0x20]);
    assert_eq!(Layout::from_config(&bytes), Err(LayoutError::CutOff(0x20)), "inside the header");
    put(&mut bytes, CAPS + 1, &[0xfc]);
    put(&mut bytes, 0xfc, &[VENDOR_SPECIFIC, 0, 16, CFG_DEVICE]);
    assert_eq!(Layout::from_config(&bytes), Err(LayoutError::CutOff(0xfc)), "over the end");
}

/// Whatever the bytes and wherever they end: an answer, and only places that were checked.
#[test]
fn arbitrary_configurations_do_not_panic() {
    let mut seed = 1_u64;
    let mut byte = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.to_le_bytes()[7]
    };
    let template = config(&good());
    for len in 0..=template.len() {
        let _ = Layout::from_config(&template[..len]);
    }
    for _ in 0..20_000 {
        let mut bytes = template.clone();
        for _ in 0..=byte() % 8 {
            let at = usize::from(byte());
            bytes[at] = byte();
        }
        if let Ok(layout) = Layout::from_config(&bytes)
            && let Ok(len) = layout.bar_len(RESOURCE)
        {
            assert!(len == 0x4000 && (layout.common.offset + layout.common.len) as usize <= len);
        }
    }
}

#[test]
fn the_bar_is_memory_that_holds_all_structures() {
    let layout = Layout::FIXED;
    let bar_len = |resource: &str| layout.bar_len(resource);
    assert_eq!(bar_len(RESOURCE), Ok(0x4000));
    assert_eq!(bar_len("0xfe000000 0xfe003003 0x40200\n"), Ok(0x3004), "to the last byte");
    let outside = LayoutError::Outside { structure: NOTIFY, bar_len: 0x3003 };
    assert_eq!(bar_len("0xfe000000 0xfe003002 0x40200\n"), Err(outside));
    let not_memory = Err(LayoutError::NotMemory { bar: 0 });
    for resource in [
        "",
        "\n",
        "0xc000 0xffff 0x40101\n",
        "0x0 0x3fff 0x40200\n",
        "0x0 0x0 0x0\n",
        "0xfe000000 0xfe003fff\n",
        "0xfe000000 0xfe003fff 0x200 0x0\n",
        "fe000000 fe003fff 200\n",
        "0xfe000000 0xfdffffff 0x200\n",
        "0xfe000000 0xfe100000 0x200\n",
        "0x1 0xffffffffffffffff 0x200\n",
        "0x0 0xffffffffffffffff 0x200\n",
        "0xfe000000 0x1ffffffffffffffff 0x200\n",
    ] {
        assert_eq!(bar_len(resource), not_memory, "{resource:?}");
    }
    let second = Layout { bar: 1, ..layout };
    assert_eq!(second.bar_len(RESOURCE), Err(LayoutError::NotMemory { bar: 1 }));
    assert_eq!(second.bar_len("\n0xfe000000 0xfe003fff 0x200\n"), Ok(0x4000));
    let huge = Layout { common: Place { offset: !3, len: u32::MAX }, ..layout };
    assert!(matches!(huge.bar_len(RESOURCE), Err(LayoutError::Outside { .. })));
}
