//! What a Linux guest has instead of firmware: tables, and a few instructions where a PC's reset begins.

use crate::guest::linux::acpi::{self, Platform};
use crate::memory::layout::to_usize;
use crate::memory::linux_map::FIRMWARE;

/// Where real mode starts after a reset, as seen below 1 MiB: ffff:0000.
///
/// Linux jumps here to reboot a hardware-reduced platform without EFI, because it takes EFI for the only way
/// that such a platform has (`efi_reboot_required` in arch/x86/platform/efi/quirks.c) and this for the next.
const RESET_VECTOR: u64 = 0xf_fff0;

/// All of [`FIRMWARE`]; the ACPI root pointer is first.
#[must_use]
pub fn image(platform: &Platform) -> Vec<u8> {
    let mut image = acpi::tables(platform);
    let stub = reset_stub(platform.reset);
    let start = to_usize(RESET_VECTOR - FIRMWARE.start);
    debug_assert!(image.len() <= start);
    image.resize(start, 0);
    image.extend(stub);
    image
}

/// Writes the reset register, in 16-bit code: mov dx, port; mov al, value; out dx, al; hlt.
fn reset_stub((port, value): (u16, u8)) -> [u8; 7] {
    let [low, high] = port.to_le_bytes();
    [0xba, low, high, 0xb0, value, 0xee, 0xf4]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_vector_is_in_the_last_paragraph() {
        let platform = Platform {
            cpus: u8::MAX,
            sleep_control: 0x600,
            sleep_status: 0x601,
            reset: (0x602, 1),
            off: 5,
            serials: [(0x3f8, 4), (0x2f8, 3)],
        };
        let image = image(&platform);
        assert_eq!(&image[..8], b"RSD PTR ");
        assert_eq!(image[0x1_fff0..], [0xba, 0x02, 0x06, 0xb0, 1, 0xee, 0xf4]);
        assert!(image.len() <= to_usize(FIRMWARE.end - FIRMWARE.start));
    }
}
