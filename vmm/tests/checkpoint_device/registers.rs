//! The PCI function and its registers.

use cairn_abi::{Request, pci};
use cairn_vmm::devices::checkpoint::device::{Rest, Served};
use vm_memory::{Bytes, GuestAddress};

use crate::support::guest::{AVAILABLE, BAR_ADDRESS, Guest};

#[test]
fn the_function_is_where_and_what_the_contract_says() {
    let mut guest = Guest::new();
    let mut read = |offset: u16| {
        let mut value = [0; 4];
        guest.function.config_read(offset, &mut value);
        u32::from_le_bytes(value)
    };
    assert_eq!(read(0), u32::from(pci::DEVICE_ID) << 16 | u32::from(pci::VENDOR_ID));
    assert_eq!(read(8), pci::CLASS_CODE << 8 | u32::from(pci::REVISION));
    assert_eq!(read(0x10), BAR_ADDRESS);
    let mut found = Vec::new();
    let mut at = u16::try_from(read(0x34)).unwrap();
    while at != 0 {
        let [id, next, len, kind] = read(at).to_le_bytes();
        assert_eq!((id, len), (9, if kind == 2 || kind == 5 { 20 } else { 16 }));
        found.push((kind, read(at + 8), read(at + 12)));
        at = u16::from(next);
    }
    let expected = [
        (1, pci::COMMON_CFG_OFFSET, pci::COMMON_CFG_SIZE),
        (2, pci::NOTIFY_OFFSET, pci::NOTIFY_SIZE),
        (3, pci::ISR_OFFSET, pci::ISR_SIZE),
        (4, pci::DEVICE_CFG_OFFSET, pci::DEVICE_CFG_SIZE),
        (5, 0, 0),
    ];
    assert_eq!(found, expected);
    let base = u64::from(pci::DEVICE_CFG_OFFSET);
    assert_eq!([0, 4, 8, 12].map(|field| guest.read_u32(base + field)), [1, 1, 0, 0]);
}

#[test]
fn the_interrupt_status_is_cleared_by_reading() {
    let mut guest = Guest::with_session();
    let isr = u64::from(pci::ISR_OFFSET);
    assert_eq!([guest.read_u32(isr), guest.read_u32(isr)], [1, 0]);
    guest.memory.write_obj(u16::MAX, GuestAddress(AVAILABLE + 2)).unwrap();
    guest.notify();
    assert_eq!([guest.read_u32(isr), guest.read_u32(isr)], [2, 0]);
}

#[test]
fn the_window_in_configuration_space_reaches_the_registers() {
    let mut guest = Guest::with_session();
    let window = 0x40 + 16 + 20 + 16 + 16;
    let aim = |guest: &mut Guest, bar: u8, offset: u32, len: u32| {
        guest.handle_config(window + 4, &[bar]);
        guest.handle_config(window + 8, &offset.to_le_bytes());
        guest.handle_config(window + 12, &len.to_le_bytes());
    };
    let read = |guest: &mut Guest| {
        let mut data = [0; 4];
        guest.function.config_read(window + 16, &mut data);
        data
    };
    aim(&mut guest, 0, 20, 1);
    assert_eq!(read(&mut guest), [15, 0, 0, 0]);
    guest.post(&guest.envelope(0, Request::Checkpoint));
    aim(&mut guest, 0, pci::NOTIFY_OFFSET, 2);
    let served = guest.handle_config(window + 16, &[0, 0]);
    assert_eq!(served, Some(Served { requests: 1, rest: Rest::Empty }));
    for (bar, offset, len) in
        [(1, 20, 1), (0, 21, 2), (0, 20, 3), (0, 20, 0), (0, 0x4000, 4), (0, u32::MAX, 1)]
    {
        aim(&mut guest, bar, offset, len);
        guest.handle_config(window + 16, &[0; 4]);
        assert_eq!(guest.status(), 15, "{bar} {offset:#x} {len}");
    }
    aim(&mut guest, 0, 20, 1);
    guest.handle_config(window + 16, &[0]);
    assert_eq!(guest.status(), 0);
}
