//! Programs that attack: with the device's registers and rings in their hands, by what their addresses point at, and
//! by what they are to a session of somebody else's. After each, nobody else has noticed.

mod addresses;
mod bystanders;
mod garbage;
mod kernel_stores;
mod others;
mod places;
mod storm;

use crate::scenario::Scenario;
use crate::support::partner::Role;

pub(crate) const ALL: &[Scenario] = &[
    Scenario { name: "garbage", seconds: 60, run: garbage::run },
    Scenario { name: "wild-rings", seconds: 40, run: addresses::rings },
    Scenario { name: "wild-buffers", seconds: 40, run: addresses::buffers },
    Scenario { name: "wild-regions", seconds: 40, run: addresses::regions },
    Scenario { name: "table-storm", seconds: 60, run: storm::run },
    Scenario { name: "kernel-stores", seconds: 30, run: kernel_stores::run },
    Scenario { name: "inherited-device", seconds: 30, run: others::inherited },
    Scenario { name: "intruder", seconds: 30, run: others::intruder },
];

pub(crate) const ROLES: &[Role] =
    &[("canary", bystanders::canary), ("honest", bystanders::honest), ("intruder", others::intrude)];
