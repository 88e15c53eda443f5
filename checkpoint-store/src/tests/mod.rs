//! Tests of the store as a whole, against a model.

mod model;
mod random;
