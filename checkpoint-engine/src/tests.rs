//! The engine against a model that keeps full copies, over a tracker that checks how it is used.

mod asynchronous;
mod failures;
mod guest;
pub(crate) mod memory;
mod model;
mod oracle;
mod stories;
mod tracker;
