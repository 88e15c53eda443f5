//! The engine against a model that keeps full copies, over a tracker that checks how it is used.

mod asynchronous;
mod elsewhere;
mod failures;
mod guest;
mod image;
pub(crate) mod memory;
mod model;
mod oracle;
mod saving;
mod stories;
mod tracker;
