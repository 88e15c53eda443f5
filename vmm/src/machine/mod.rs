//! Whole machines: from a configuration to a program's end.

pub mod app;
