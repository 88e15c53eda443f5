//! What runs in the machine.

pub mod app;
