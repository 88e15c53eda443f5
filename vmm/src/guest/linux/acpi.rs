//! The ACPI tables of a Linux guest: a hardware-reduced platform (ACPI 6.5, 4.1), which has no fixed
//! registers but those for sleep and reset.

use acpi_tables::aml::{
    AddressSpace as Window, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, Path,
    ResourceTemplate,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use crate::memory::linux_map::{FIRMWARE, IO_APIC, LOCAL_APIC, PCI_WINDOW};

/// The makers' names in the tables.
const MAKER: [u8; 6] = *b"CAIRN ";
const MODEL: [u8; 8] = *b"CAIRN VM";
const REVISION: u32 = 1;
/// Bytes of a table's header.
const HEADER: u32 = 36;
/// The DSDT's revision: 64-bit integers.
const DSDT_REVISION: u8 = 6;
/// Tables begin at multiples of this.
const ALIGNMENT: usize = 16;
/// What the FADT says isn't there: VGA (bit 2), a CMOS clock (bit 5). Without bits 0 and 1, neither are
/// devices of the ISA bus that software would have to look for, nor a keyboard controller (ACPI 6.5, table 5.11).
const ABSENT: u16 = 1 << 2 | 1 << 5;

/// Where things are that a kernel learns from the tables.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// vCPUs, numbered from 0 as their APICs are.
    pub cpus: u8,
    /// Port of the sleep control register (ACPI 6.5, 4.8.3.7).
    pub sleep_control: u16,
    /// Port of the sleep status register.
    pub sleep_status: u16,
    /// Port of the reset register, and what to write there.
    pub reset: (u16, u8),
    /// What sleep type turns the machine off.
    pub off: u8,
    /// The serial ports: first port and interrupt of each.
    pub serials: [(u16, u32); 2],
}

/// The tables, for [`FIRMWARE`]; the root pointer is first.
#[must_use]
pub fn tables(platform: &Platform) -> Vec<u8> {
    let mut tables = vec![0; Rsdp::len()];
    let dsdt = append(&mut tables, &dsdt(platform));
    let fadt = append(&mut tables, &fadt(platform, dsdt).finalize());
    let madt = append(&mut tables, &madt(platform));
    let mut root = XSDT::new(MAKER, MODEL, REVISION);
    root.add_entry(fadt);
    root.add_entry(madt);
    let root = append(&mut tables, &root);
    let mut pointer = Vec::new();
    Rsdp::new(MAKER, root).to_aml_bytes(&mut pointer);
    tables[..pointer.len()].copy_from_slice(&pointer);
    tables
}

/// Appends a table and answers its guest-physical address.
fn append(tables: &mut Vec<u8>, table: &dyn Aml) -> u64 {
    tables.resize(tables.len().next_multiple_of(ALIGNMENT), 0);
    let address = FIRMWARE.start + tables.len() as u64;
    table.to_aml_bytes(tables);
    address
}

fn fadt(platform: &Platform, dsdt: u64) -> FADTBuilder {
    let register = |port| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    let mut table = FADTBuilder::new(MAKER, MODEL, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // There are no buttons, which these two say.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    table.iapc_boot_arch = ABSENT.into();
    (table.reset_reg, table.reset_value) = (register(platform.reset.0), platform.reset.1);
    table.sleep_control_reg = register(platform.sleep_control);
    table.sleep_status_reg = register(platform.sleep_status);
    table
}

fn madt(platform: &Platform) -> MADT {
    let mut table = MADT::new(MAKER, MODEL, REVISION, LocalInterruptController::Address(LOCAL_APIC));
    for cpu in 0..platform.cpus {
        table.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(0, IO_APIC, 0));
    table
}

fn dsdt(platform: &Platform) -> Sdt {
    let mut table = Sdt::new(*b"DSDT", HEADER, DSDT_REVISION, MAKER, MODEL, REVISION);
    let mut body = Vec::new();
    host_bridge(&mut body);
    for (index, serial) in (0_u8..).zip(platform.serials) {
        serial_port(&mut body, index, serial);
    }
    // Sleep type for both of the control registers that a full platform has, and two reserved values.
    let off = Package::new(vec![&platform.off, &platform.off, &0_u8, &0_u8]);
    Name::new(Path::new("\\_S5_"), &off).to_aml_bytes(&mut body);
    table.append_slice(&body);
    table
}

/// PCI bus 0 and what its functions may use. The configuration ports are the bridge's own.
fn host_bridge(body: &mut dyn AmlSink) {
    let address = |bound: u64| u32::try_from(bound).unwrap_or(u32::MAX);
    let (start, last) = (address(PCI_WINDOW.start), address(PCI_WINDOW.end - 1));
    let memory = Window::new_memory(AddressSpaceCacheable::NotCacheable, true, start, last, None);
    let bus = Window::new_bus_number(0_u16, 0_u16);
    let ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let resources = ResourceTemplate::new(vec![&bus, &ports, &memory]);
    Device::new(
        Path::new("\\_SB_.PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_UID"), &0_u8),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    )
    .to_aml_bytes(body);
}

/// A 16550.
fn serial_port(body: &mut dyn AmlSink, index: u8, (port, interrupt): (u16, u32)) {
    let ports = IO::new(port, port, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, interrupt);
    let resources = ResourceTemplate::new(vec![&ports, &interrupt]);
    Device::new(
        Path::new(&format!("\\_SB_.COM{}", index + 1)),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &index),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    )
    .to_aml_bytes(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLATFORM: Platform = Platform {
        cpus: 64,
        sleep_control: 0x600,
        sleep_status: 0x601,
        reset: (0x602, 1),
        off: 5,
        serials: [(0x3f8, 4), (0x2f8, 3)],
    };

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// The table at a guest-physical address.
    fn table(tables: &[u8], address: u64) -> &[u8] {
        let start = usize::try_from(address - FIRMWARE.start).unwrap();
        let len = u32::from_le_bytes(tables[start + 4..start + 8].try_into().unwrap());
        &tables[start..start + usize::try_from(len).unwrap()]
    }

    #[test]
    fn every_table_is_reached_and_sums_to_zero() {
        let tables = tables(&PLATFORM);
        assert_eq!(&tables[..8], b"RSD PTR ");
        let root = table(&tables, word(&tables, 24));
        let [fadt, madt] = [36, 44].map(|at| table(&tables, word(root, at)));
        let dsdt = table(&tables, word(fadt, 140));
        for (table, signature) in [(root, b"XSDT"), (fadt, b"FACP"), (madt, b"APIC"), (dsdt, b"DSDT")] {
            assert_eq!(&table[..4], signature);
            assert_eq!(table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "{signature:?}");
        }
        assert_eq!(madt.len(), 44 + 64 * 8 + 12);
    }

    #[test]
    fn the_most_vcpus_fit() {
        let room = usize::try_from(FIRMWARE.end - FIRMWARE.start).unwrap();
        assert!(tables(&Platform { cpus: u8::MAX, ..PLATFORM }).len() < room);
    }
}
