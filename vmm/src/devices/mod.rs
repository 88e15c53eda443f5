//! Devices of a guest, and the bus that leads an access to one.
//!
//! [`bus`] is that of an app guest, whose functions stay where they are. A Linux guest has [`pci_bus`], which
//! its kernel can rearrange; on it are checkpoint functions and those of [`queue_function`], which are made for
//! the drivers of a stock kernel: [`block`] and [`entropy`].
//!
//! Nothing here names the checkpoint engine, a guest or KVM: a device answers register accesses and turns
//! requests into effects for its caller to act on.

pub mod bar_window;
pub mod block;
pub mod bus;
pub mod calling_cpu;
pub mod checkpoint;
pub mod entropy;
#[cfg(test)]
mod fake_driver;
pub mod pci_bus;
pub mod power;
pub mod queue_function;
pub mod serial;
pub mod worker;
