//! Devices of a guest, and the bus that leads an access to one.
//!
//! Nothing here names the checkpoint engine, a guest or KVM: a device answers register accesses and turns
//! requests into effects for its caller to act on.

pub mod bus;
pub mod checkpoint;
