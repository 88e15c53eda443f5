//! I/O ports: which device answers at which.

use std::sync::Arc;

use crate::devices::pci_bus::{self, PciBus};
use crate::devices::power::{self, PowerEvent};
use crate::devices::serial::{self, SerialConsole};

/// First port and interrupt of the console, and of the port on which the first program reports.
pub const SERIALS: [(u16, u32); 2] = [(serial::PORT, serial::IRQ), (0x2f8, 3)];
/// The keyboard controller's command port, and its command to reset the machine: a kernel's last resort.
const KEYBOARD: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;

/// All devices at ports. Where none is, reads give ones and writes are dropped, as on a PC.
#[derive(Debug)]
pub struct Ports {
    /// In the order of [`SERIALS`].
    pub serials: [Arc<SerialConsole>; 2],
    /// The configuration ports' owner.
    pub pci: Arc<PciBus>,
}

impl Ports {
    /// Reads `data`, one access, from `port`.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        if let Some((serial, register)) = self.serial(port) {
            serial.port_read(register, data);
        } else if pci_bus::PORTS.contains(&port) {
            self.pci.port_read(port, data);
        } else if power::is_power_port(port) {
            power::port_read(data);
        } else {
            data.fill(0xff);
        }
    }

    /// Writes `data`, one access, to `port`.
    #[must_use]
    pub fn write(&self, port: u16, data: &[u8]) -> Option<PowerEvent> {
        if let Some((serial, register)) = self.serial(port) {
            serial.port_write(register, data);
        } else if pci_bus::PORTS.contains(&port) {
            self.pci.port_write(port, data);
        } else if power::is_power_port(port) {
            return power::port_write(port, data);
        } else if port == KEYBOARD && data == [KEYBOARD_RESET] {
            return Some(PowerEvent::Reset);
        }
        None
    }

    fn serial(&self, port: u16) -> Option<(&SerialConsole, u16)> {
        let places = SERIALS.iter().zip(&self.serials);
        places
            .filter_map(|((first, _), serial)| Some((&**serial, port.checked_sub(*first)?)))
            .find(|(_, register)| *register < serial::PORTS)
    }
}
