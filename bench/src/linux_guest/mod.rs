//! The benchmark inside a Linux guest: all engines in one guest, in one run.
//!
//! This program starts `cairn boot` with a statically linked build of itself as the guest's program. That one is
//! driver and workers there; no other engine has a VM of its own then, and `cairn` finds its device in the guest's
//! sysfs. The figures come back over the guest's console ([`console`]), because that needs no driver and no module.

pub mod boot;
pub mod console;
