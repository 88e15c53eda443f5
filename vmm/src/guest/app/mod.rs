//! The app guest: one ordinary Linux program at CPL 3.

pub mod files;
