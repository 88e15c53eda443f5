//! Drives the checkpoint device with arbitrary register accesses, rings and requests.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../vmm/tests/checkpoint_device/support/mod.rs"]
#[allow(dead_code, reason = "the device's other tests use more of it")]
mod support;

fuzz_target!(|bytes: &[u8]| support::exercise::exercise(bytes));
