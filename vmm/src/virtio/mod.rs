//! Virtio without devices: what a device is, its registers, its place on PCI, its queues.
//!
//! Read in this order: [`status`] draws how a driver brings a device up, [`device`] is what a device
//! implements, [`common`] and [`transport`] are the registers in its memory BAR, [`interrupts`] and [`msix`] are
//! how it calls its driver, [`pci`] is the function that holds the BARs, [`state`] is what all of that is at rest, [`chain`], [`buffers`] and
//! [`queue`] are the rings in guest memory.
//!
//! Registers and rings are apart: nothing below [`transport`] and [`pci`] touches guest memory, so every
//! register access can be tested as a plain function call. The address space that rings live in is whatever
//! [`GuestMemory`](vm_memory::GuestMemory) the caller hands to the queue.

pub mod buffers;
pub mod chain;
pub mod common;
pub mod config_space;
pub mod device;
pub mod interrupts;
pub mod msix;
pub mod pci;
pub mod queue;
pub mod state;
pub mod status;
pub mod transport;

pub use device::VirtioDevice;
pub use pci::PciFunction;
pub use queue::RequestQueue;
pub use transport::{Event, Transport};
