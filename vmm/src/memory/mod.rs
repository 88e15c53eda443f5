//! The guest's memory: where things are, and the only ways to its bytes.

pub mod caller;
pub mod kernel;
pub mod layout;
pub mod linux_map;
pub mod marks;
pub mod page_table;
pub mod program;
pub mod ram;
pub mod rights;
pub mod transfer;
pub mod view;
pub mod walk;
pub mod written;
