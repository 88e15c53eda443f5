//! Whole machines: from a configuration to a program's end.

pub mod app;
mod bare;
pub mod calls;
pub mod control;
mod copier;
pub mod end;
pub mod engine_probe;
pub mod helpers;
pub mod host_costs;
pub mod linux;
pub mod name;
pub mod poll_policy;
pub mod poller;
pub mod probe;
mod random;
pub mod run_loop;
pub mod sandbox;
mod script;
pub mod sessions;
pub mod state;
pub mod status;
pub mod storing;
mod sysfs;
pub mod tracking;
pub mod unit;
pub mod whole;
