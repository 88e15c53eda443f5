//! The checkpoint device as the program's sysfs shows it.

use std::sync::Arc;

use cairn_abi::pci;

use crate::guest::app::files::{Bar, PciIds, PciSysfs};
use crate::machine::unit::{PCI_ADDRESS, REGISTERS, SharedUnit};

/// Linux's flags of a BAR in memory space with its size as alignment (IORESOURCE_MEM, IORESOURCE_SIZEALIGN).
const MEMORY_RESOURCE: u64 = 0x0004_0200;

/// The checkpoint device's PCI function.
#[derive(Debug)]
pub(super) struct UnitSysfs(pub(super) Arc<SharedUnit>);

impl UnitSysfs {
    fn config<const BYTES: usize>(&self, offset: u16) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        self.0.with(|unit| unit.function_mut().config_read(offset, &mut bytes));
        bytes
    }
}

impl PciSysfs for UnitSysfs {
    fn address(&self) -> String {
        PCI_ADDRESS.to_owned()
    }

    fn ids(&self) -> PciIds {
        let [interface, subclass, class] = self.config(9);
        PciIds {
            vendor: u16::from_le_bytes(self.config(0)),
            device: u16::from_le_bytes(self.config(2)),
            class: u32::from_be_bytes([0, class, subclass, interface]),
            revision: self.config::<1>(8)[0],
            subsystem_vendor: u16::from_le_bytes(self.config(0x2c)),
            subsystem_device: u16::from_le_bytes(self.config(0x2e)),
        }
    }

    fn bars(&self) -> Vec<Bar> {
        let size = REGISTERS.end - REGISTERS.start;
        vec![Bar { index: pci::BAR, address: REGISTERS.start, size, flags: MEMORY_RESOURCE }]
    }

    fn config_read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let Ok(offset) = u16::try_from(offset) else { return 0 };
        self.0.with(|unit| unit.function_mut().config_read(offset, buffer));
        buffer.len()
    }

    fn config_write(&mut self, offset: u64, bytes: &[u8]) {
        let Ok(offset) = u16::try_from(offset) else { return };
        self.0.with(|unit| {
            let event = unit.function_mut().config_write(offset, bytes);
            unit.handle(event);
        });
    }
}
