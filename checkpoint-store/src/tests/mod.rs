//! Tests of the store as a whole, against a model.

mod compaction;
mod disk;
mod faults;
mod forged;
mod hostile;
mod model;
mod places;
mod power;
mod random;
mod steps;

/// A directory in memory where there is one: thousands of fsyncs of a real disk would say no more.
fn memory_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
