//! The disk as a virtio device: moves bytes between a guest's buffers and the image.

use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
};
use vm_memory::GuestMemoryMmap;

use super::image::{Image, SECTOR};
use super::request::{Disk, HEADER_LEN, ID_LEN, MAX_REQUEST, Request, Status};
use crate::devices::bar_window::BarWindow;
use crate::devices::queue_function::{Description, QUEUE_SIZE, QueueFunction, QueueFunctionError, Wiring};
use crate::devices::worker::Server;
use crate::memory::marks::FrameMarks;
use crate::virtio::buffers::Buffers;

type Memory = GuestMemoryMmap<FrameMarks>;

const DEVICE_TYPE: u16 = 2;
/// PCI class: a mass storage controller of no defined kind.
const CLASS_CODE: u32 = 0x01_80_00;

/// Data buffers of one request: header and status need a descriptor each.
const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes of one of them.
const SEGMENT_LEN: u32 = 64 << 10;
const _: () = assert!(SEGMENTS as u64 * SEGMENT_LEN as u64 <= MAX_REQUEST, "what is offered is served");

/// Bytes that are moved at once. Bounds what a request makes us keep.
const CHUNK: usize = 256 << 10;
/// Bytes of the configuration, up to and with what writeback, discard and the like would have.
const CONFIG_LEN: usize = 60;

/// A disk from `image`.
///
/// # Errors
/// [`QueueFunctionError`].
pub fn function(
    image: Image,
    wiring: Wiring,
    bars: &mut BarWindow,
) -> Result<QueueFunction, QueueFunctionError> {
    let description = Description {
        name: "disk",
        device_type: DEVICE_TYPE,
        class_code: CLASS_CODE,
        features: features(&image),
        config: config(&image),
    };
    QueueFunction::new(description, Box::new(Block::new(image)), wiring, bars)
}

fn features(image: &Image) -> u64 {
    let read_only = if image.is_read_only() { 1 << VIRTIO_BLK_F_RO } else { 0 };
    let always = [VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH];
    always.iter().fold(read_only, |features, bit| features | 1 << bit)
}

/// `struct virtio_blk_config` (virtio 1.2, 5.2.4). What belongs to features that aren't offered is zero.
fn config(image: &Image) -> Vec<u8> {
    let mut config = Vec::with_capacity(CONFIG_LEN);
    config.extend(image.sectors().to_le_bytes());
    config.extend(SEGMENT_LEN.to_le_bytes());
    config.extend(SEGMENTS.to_le_bytes());
    // Cylinders, heads and sectors: no geometry.
    config.extend([0; 4]);
    config.extend(u32::try_from(SECTOR).unwrap_or(0).to_le_bytes());
    config.resize(CONFIG_LEN, 0);
    config
}

/// The disk and room for a piece of a request.
struct Block {
    image: Image,
    disk: Disk,
    chunk: Vec<u8>,
    noted: bool,
}

/// How a request ended, and how many bytes of data the guest got.
struct Served {
    status: Status,
    data: u64,
}

impl Block {
    fn new(image: Image) -> Self {
        let disk = Disk { sectors: image.sectors(), read_only: image.is_read_only() };
        Self { image, disk, chunk: vec![0; CHUNK], noted: false }
    }

    fn answer(&mut self, memory: &Memory, features: u64, buffers: &Buffers, data_in: u64) -> Served {
        let mut header = [0; HEADER_LEN];
        if let Err(error) = buffers.read(memory, 0, &mut header) {
            tracing::debug!(%error, "a disk request has no header");
            return Served { status: Status::Error, data: 0 };
        }
        let data_out = buffers.readable_len() - HEADER_LEN as u64;
        let request = match self.disk.decode(&header, data_in, data_out) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(%error, "a disk request is refused");
                return Served { status: error.status(), data: 0 };
            }
        };
        match self.act(memory, features, buffers, &request) {
            Ok(data) => Served { status: Status::Ok, data },
            Err(error) => {
                self.note_failure(&request, &error);
                Served { status: Status::Error, data: 0 }
            }
        }
    }

    /// Does what is asked, and returns how many bytes of data the guest got.
    fn act(
        &mut self,
        memory: &Memory,
        features: u64,
        buffers: &Buffers,
        request: &Request,
    ) -> io::Result<u64> {
        match request {
            Request::Read(range) => {
                for (at, len) in chunks(range.end - range.start) {
                    let data = &mut self.chunk[..len];
                    self.image.read(range.start + at, data)?;
                    buffers.write(memory, at, data).map_err(io::Error::other)?;
                }
                Ok(range.end - range.start)
            }
            Request::Write(range) => {
                for (at, len) in chunks(range.end - range.start) {
                    let data = &mut self.chunk[..len];
                    buffers.read(memory, HEADER_LEN as u64 + at, data).map_err(io::Error::other)?;
                    self.image.write(range.start + at, data)?;
                }
                // A driver that can't flush takes what was written for durable (5.2.6.2).
                if features & (1 << VIRTIO_BLK_F_FLUSH) == 0 {
                    self.image.sync()?;
                }
                Ok(0)
            }
            Request::Flush => {
                self.image.sync()?;
                Ok(0)
            }
            Request::Id => {
                let mut id = [0; ID_LEN];
                id[..5].copy_from_slice(b"cairn");
                buffers.write(memory, 0, &id).map_err(io::Error::other)?;
                Ok(ID_LEN as u64)
            }
        }
    }

    /// Logs the first: a guest that wants to fill the log can't.
    fn note_failure(&mut self, request: &Request, error: &io::Error) {
        if !std::mem::replace(&mut self.noted, true) {
            tracing::warn!(%error, ?request, "a disk request failed; logged once");
        }
    }
}

impl Server for Block {
    fn serve(&mut self, memory: &Memory, features: u64, buffers: &Buffers) -> u32 {
        // The last byte that the device may write is the status, whatever buffer it's in (5.2.6.4).
        let Some(data_in) = buffers.writable_len().checked_sub(1) else {
            tracing::debug!("a disk request has no room for its status");
            return 0;
        };
        let Served { status, data } = self.answer(memory, features, buffers, data_in);
        if let Err(error) = buffers.write(memory, data_in, &[status as u8]) {
            tracing::debug!(%error, "a disk request's status can't be written");
            return 0;
        }
        // Only what is written from the first byte on counts.
        let written = if data == data_in { data + 1 } else { data };
        u32::try_from(written).unwrap_or(0)
    }
}

/// `len` bytes in pieces: where each begins, and its bytes.
fn chunks(len: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..len)
        .step_by(CHUNK)
        .map(move |at| (at, usize::try_from(len - at).map_or(CHUNK, |left| left.min(CHUNK))))
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
