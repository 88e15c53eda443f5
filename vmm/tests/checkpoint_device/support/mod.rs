//! What tests of the checkpoint device share: a program that drives it, an engine that believes nothing, and
//! arbitrary use of both. The fuzz target takes this file in as well.

pub(crate) mod engine;
pub(crate) mod exercise;
pub(crate) mod guest;
