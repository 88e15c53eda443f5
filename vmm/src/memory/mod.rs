//! The guest's memory: where things are, and the only ways to its bytes.

pub mod kernel;
pub mod layout;
pub mod page_table;
pub mod program;
pub mod rights;
pub mod transfer;
pub mod view;
pub mod written;
