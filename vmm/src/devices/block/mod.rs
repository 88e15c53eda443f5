//! The block device: a disk image on the host as a disk of the guest (virtio 1.2, 5.2).
//!
//! [`image`] opens the file and moves its bytes, [`request`] decides what a guest's request means, [`device`]
//! moves bytes between the two.

pub mod device;
pub mod image;
mod qcow2_check;
pub mod request;

pub use device::function;
pub use image::{Image, ImageError};
