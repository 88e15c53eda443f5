//! Configuration spaces for tests.

use crate::capabilities::CONFIG_SIZE;

/// Where the first capability is.
pub(crate) const CAPS: usize = 0x40;

/// A vendor-specific capability of virtio.
#[derive(Clone, Copy)]
pub(crate) struct Capability {
    pub(crate) id: u8,
    pub(crate) cap_len: u8,
    pub(crate) kind: u8,
    pub(crate) bar: u8,
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) multiplier: u32,
}

/// The device's own: common configuration, notification, ISR status, device configuration.
pub(crate) fn good() -> Vec<Capability> {
    let capability =
        |kind, cap_len, offset, len| Capability { id: 9, cap_len, kind, bar: 0, offset, len, multiplier: 4 };
    vec![
        capability(1, 16, 0, 56),
        capability(2, 20, 0x3000, 4),
        capability(3, 16, 0x1000, 1),
        capability(4, 16, 0x2000, 16),
    ]
}

/// A configuration space with these capabilities, 20 bytes apart.
pub(crate) fn config(capabilities: &[Capability]) -> Vec<u8> {
    const STRIDE: usize = 20;
    let mut bytes = vec![0; CONFIG_SIZE];
    put(&mut bytes, 0, &[0xf4, 0x1a, 0xf0, 0x10, 0x02, 0, 0x10, 0]);
    let mut link = 0x34;
    for (index, capability) in capabilities.iter().enumerate() {
        let at = CAPS + index * STRIDE;
        put(&mut bytes, link, &[u8::try_from(at).expect("few capabilities")]);
        put(
            &mut bytes,
            at,
            &[capability.id, 0, capability.cap_len, capability.kind, capability.bar, 0, 0, 0],
        );
        put(&mut bytes, at + 8, &capability.offset.to_le_bytes());
        put(&mut bytes, at + 12, &capability.len.to_le_bytes());
        put(&mut bytes, at + 16, &capability.multiplier.to_le_bytes());
        link = at + 1;
    }
    bytes
}

/// Overwrites bytes.
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}
