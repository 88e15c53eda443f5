//! Tests of the guest's files.
