//! The entropy device: random bytes from the host's kernel (virtio 1.2, 5.4).

use std::fs::File;
use std::io::{self, Read};

use vm_memory::GuestMemoryMmap;

use super::bar_window::BarWindow;
use super::queue_function::{Description, QueueFunction, QueueFunctionError, Wiring};
use super::worker::Server;
use crate::memory::marks::FrameMarks;
use crate::virtio::buffers::Buffers;

/// The host's random bytes. They don't run out.
pub const SOURCE: &str = "/dev/urandom";
/// Bytes that one request gets. Bounds what a guest can make us keep; a driver asks again for more.
pub const MAX_BYTES: usize = 4096;

const DEVICE_TYPE: u16 = 4;
/// PCI class: a device that fits no class.
const CLASS_CODE: u32 = 0xff_00_00;

/// Why there is no entropy device.
#[derive(Debug, thiserror::Error)]
pub enum EntropyError {
    /// There are no random bytes.
    #[error("{SOURCE} can't be opened: the guest would have no random bytes")]
    Source(#[source] io::Error),
    /// There is no function.
    #[error("no entropy device")]
    Function(#[from] QueueFunctionError),
}

/// An entropy device.
///
/// # Errors
/// [`EntropyError`].
pub fn function(wiring: Wiring, bars: &mut BarWindow) -> Result<QueueFunction, EntropyError> {
    let source = File::open(SOURCE).map_err(EntropyError::Source)?;
    let description = Description {
        name: "entropy",
        device_type: DEVICE_TYPE,
        class_code: CLASS_CODE,
        features: 0,
        config: Vec::new(),
    };
    Ok(QueueFunction::new(description, Box::new(Entropy { source }), wiring, bars)?)
}

struct Entropy<R> {
    source: R,
}

impl<R: Read + Send + 'static> Server for Entropy<R> {
    fn serve(&mut self, memory: &GuestMemoryMmap<FrameMarks>, _features: u64, buffers: &Buffers) -> u32 {
        let mut bytes = [0; MAX_BYTES];
        let len = usize::try_from(buffers.writable_len()).map_or(MAX_BYTES, |len| len.min(MAX_BYTES));
        let result = self.source.read_exact(&mut bytes[..len]).map_err(|error| error.to_string());
        match result.and_then(|()| buffers.write(memory, 0, &bytes[..len]).map_err(|error| error.to_string()))
        {
            Ok(()) => u32::try_from(len).unwrap_or(0),
            Err(error) => {
                tracing::debug!(error, "a request for random bytes isn't served");
                0
            }
        }
    }
}

#[cfg(test)]
#[path = "entropy_tests.rs"]
mod tests;
