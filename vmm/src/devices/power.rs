//! Power-off and reset: the sleep and reset registers of hardware-reduced ACPI (ACPI 6.5, 4.8.3.6 and 4.8.3.7).
//!
//! The registers hold no state. Whoever writes the FADT and the DSDT takes their places from here.

/// The sleep control register, one byte: SLEEP_CONTROL_REG of the FADT.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// The sleep status register, one byte: SLEEP_STATUS_REG of the FADT.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// The reset register, one byte: RESET_REG of the FADT.
pub const RESET_PORT: u16 = 0x602;
/// What resets the machine when it's written to [`RESET_PORT`]: RESET_VALUE of the FADT.
pub const RESET_VALUE: u8 = 1;
/// The sleep type of power-off: the first element of the DSDT's `_S5`.
pub const SLEEP_TYPE_OFF: u8 = 5;

/// SLP_TYPx in the sleep control register.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;
/// SLP_EN in the sleep control register: go to sleep now.
const SLEEP_ENABLE: u8 = 1 << 5;

/// What the guest asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerEvent {
    /// To be switched off.
    Off,
    /// To start again.
    Reset,
}

/// Whether `port` is one of the registers.
#[must_use]
pub fn is_power_port(port: u16) -> bool {
    matches!(port, SLEEP_CONTROL_PORT | SLEEP_STATUS_PORT | RESET_PORT)
}

/// Reads a register: all are zero, nobody ever woke up.
pub fn port_read(data: &mut [u8]) {
    data.fill(0);
}

/// Writes a register. What isn't one byte, or asks for a sleep that isn't offered, is ignored.
#[must_use]
pub fn port_write(port: u16, data: &[u8]) -> Option<PowerEvent> {
    match (port, data) {
        (SLEEP_CONTROL_PORT, &[value]) => {
            let kind = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK;
            (value & SLEEP_ENABLE != 0 && kind == SLEEP_TYPE_OFF).then_some(PowerEvent::Off)
        }
        (RESET_PORT, &[RESET_VALUE]) => Some(PowerEvent::Reset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_requests_do_something() {
        for port in 0..=u16::MAX {
            for value in 0..=u8::MAX {
                let expected = match (port, value & 0x3c) {
                    (SLEEP_CONTROL_PORT, 0x34) => Some(PowerEvent::Off),
                    (RESET_PORT, _) if value == 1 => Some(PowerEvent::Reset),
                    _ => None,
                };
                if is_power_port(port) {
                    assert_eq!(port_write(port, &[value]), expected, "{port:#x} {value:#x}");
                }
            }
            for data in [&[][..], &[0x34, 0], &[1, 0, 0, 0]] {
                assert_eq!(port_write(port, data), None);
            }
        }
    }

    #[test]
    fn nobody_woke_up() {
        let mut data = [0xff; 4];
        port_read(&mut data);
        assert_eq!(data, [0; 4]);
    }
}
