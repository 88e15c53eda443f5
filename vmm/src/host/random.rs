//! Random bytes from the host's kernel.

use std::fs::File;
use std::io::{self, Read};

const SOURCE: &str = "/dev/urandom";

/// A source of random bytes. It's opened once: what it gives can't fail for want of descriptors.
#[derive(Debug)]
pub struct Source(File);

impl Source {
    /// Opens it.
    ///
    /// # Errors
    /// The host has none, or no descriptor for it.
    pub fn open() -> io::Result<Self> {
        File::open(SOURCE).map(Self)
    }

    /// 128 random bits.
    ///
    /// # Errors
    /// None that is known: it never ends, and never fails once it's open.
    pub fn bits(&mut self) -> io::Result<[u8; 16]> {
        let mut bits = [0; 16];
        self.0.read_exact(&mut bits)?;
        Ok(bits)
    }
}
