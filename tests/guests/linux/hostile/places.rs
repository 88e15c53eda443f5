//! Addresses that a program has no business with, or that are no memory.

use anyhow::Result;
use cairn_tests::pages::{PAGE, Pages};
use cairn_tests::registers::Registers;

use super::bystanders::Bystanders;
use crate::support::memory;

/// What may come of such a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The kernel's, or no address: never a region.
    Never,
    /// The program may access it, but it's no memory.
    Device,
    /// Nothing is there, or the program may not read it. A device can't tell it from memory that wasn't touched yet.
    Absent,
    /// The program may read it.
    Readable,
}

/// A place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) address: u64,
    pub(crate) kind: Kind,
}

/// All of them, with the mappings that some of them are.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) all: Vec<Place>,
    _forbidden: Pages,
}

impl Places {
    pub(crate) fn new(registers: &Registers, bystanders: &Bystanders) -> Result<Self> {
        let forbidden = Pages::forbidden(16)?;
        let hole = {
            let gone = Pages::anonymous(16)?;
            gone.address()
        };
        let [shared, private] = bystanders.file().addresses();
        let text = (memory::mapping as fn(&str) -> Result<usize> as usize & !(PAGE - 1)) as u64;
        let mut all: Vec<Place> = NEVER
            .iter()
            .map(|(name, address)| Place { name, address: *address, kind: Kind::Never })
            .collect();
        all.push(Place { name: "the registers", address: registers.address(), kind: Kind::Device });
        for (name, address) in [("a hole", hole), ("PROT_NONE", forbidden.address()), ("page 0", 0)] {
            all.push(Place { name, address, kind: Kind::Absent });
        }
        // Where frames are that a program would like to have, if addresses were taken for physical ones; and the
        // first address that is none with 4 levels of page tables.
        for (name, address) in
            [("frame 1", 0x1000), ("1 MiB", 1 << 20), ("16 MiB", 16 << 20), ("2^47", 1 << 47)]
        {
            all.push(Place { name, address, kind: Kind::Absent });
        }
        for (name, address) in [("a shared file", shared), ("a private file", private), ("text", text)] {
            all.push(Place { name, address, kind: Kind::Readable });
        }
        for name in ["[vvar]", "[vdso]"] {
            if let Ok(address) = memory::mapping(name) {
                all.push(Place { name, address: address as u64, kind: Kind::Readable });
            }
        }
        Ok(Self { all, _forbidden: forbidden })
    }

    /// The addresses alone.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        self.all.iter().map(|place| place.address).collect()
    }
}

/// Linux's map of x86-64 without address randomization (Documentation/arch/x86/x86_64/mm.rst), and what is no address.
const NEVER: &[(&str, u64)] = &[
    ("the kernel's direct map", 0xffff_8880_0010_0000),
    ("the direct map further on", 0xffff_8880_0400_0000),
    ("the kernel's vmalloc area", 0xffff_c900_0000_0000),
    ("the kernel's page structures", 0xffff_ea00_0000_0000),
    ("the CPU entry area", 0xffff_fe00_0000_0000),
    ("the kernel's text", 0xffff_ffff_8100_0000),
    ("the last page", 0xffff_ffff_ffff_f000),
    ("the first kernel address", 0xffff_8000_0000_0000),
    ("an address that no CPU has", 0x0100_0000_0000_0000),
    ("the last page that no CPU has", 0xfeff_ffff_ffff_f000),
    ("the end of the kernel's hole", 0xffff_7fff_ffff_f000),
    ("the kernel's direct map with 5 levels", 0xff11_0000_0010_0000),
    ("no address", 1 << 63),
];
