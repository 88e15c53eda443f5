//! Scattered memory: a guest whose kernel moves pages, shares them and takes them away.

mod frames;
mod model;
mod oracle;
mod stories;
mod tracker;
