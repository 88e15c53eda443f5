//! What tests of the checkpoint device share, and the fuzz target with them.
//!
//! A program that drives the device by the book, an engine that holds it to its promises, and arbitrary use
//! of both.

pub(crate) mod engine;
pub(crate) mod exercise;
pub(crate) mod guest;
