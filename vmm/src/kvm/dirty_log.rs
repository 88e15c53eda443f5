//! The dirty-log requests on a VM, into buffers that are used again (kvm-ioctls allocates, and has no CLEAR).
//!
//! Linux Documentation/virt/kvm/api.rst, 4.8 KVM_GET_DIRTY_LOG and 4.117 KVM_CLEAR_DIRTY_LOG.

use kvm_bindings::{KVMIO, kvm_clear_dirty_log, kvm_dirty_log};
use kvm_ioctls::VmFd;
use vmm_sys_util::errno::{Error, Result};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_ref};

/// The requests' numbers, as include/uapi/linux/kvm.h has them.
mod number {
    use super::{KVMIO, kvm_clear_dirty_log, kvm_dirty_log};
    use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr, ioctl_iowr_nr};

    ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
    ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
    ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);
}

/// Reads the bitmap of `slot`, which has `pages` pages, into `bitmap`. Nothing is protected by it
/// (manual protect is on).
pub(crate) fn get(vm: &VmFd, slot: u32, pages: u64, bitmap: &mut [u64]) -> Result<()> {
    assert!(pages.div_ceil(64) <= bitmap.len() as u64);
    let mut log = kvm_dirty_log { slot, ..Default::default() };
    log.__bindgen_anon_1.dirty_bitmap = bitmap.as_mut_ptr().cast();
    // SAFETY: the kernel writes one bit for each page of the slot, rounded up to 64; the assertion says
    // that there is room, and `SlotMap`, the only caller, passes the slot's own number of pages.
    check(unsafe { ioctl_with_ref(vm, number::KVM_GET_DIRTY_LOG(), &log) })
}

/// Clears and write-protects, in `slot`, the pages whose bits are set in `bitmap`, of `pages` pages
/// from `first` on. `first` is a multiple of 64, and `pages` too unless it reaches the slot's end.
pub(crate) fn clear(vm: &VmFd, slot: u32, first: u64, pages: u32, bitmap: &[u64]) -> Result<()> {
    assert!(u64::from(pages).div_ceil(64) <= bitmap.len() as u64);
    let mut log = kvm_clear_dirty_log { slot, num_pages: pages, first_page: first, ..Default::default() };
    log.__bindgen_anon_1.dirty_bitmap = bitmap.as_ptr().cast_mut().cast();
    // SAFETY: the kernel reads one bit for each of `pages`, rounded up to 64, and the assertion says
    // that they are there; it writes none (`copy_from_user` only).
    check(unsafe { ioctl_with_ref(vm, number::KVM_CLEAR_DIRTY_LOG(), &log) })
}

/// The number of the request that `clear` makes, for a filter of system calls.
#[must_use]
pub fn clear_request() -> u64 {
    number::KVM_CLEAR_DIRTY_LOG()
}

/// Protects the pages of the dirty rings' entries that user space is done with.
pub(crate) fn reset_rings(vm: &VmFd) -> Result<()> {
    loop {
        // SAFETY: the request takes no argument.
        let done = check(unsafe { ioctl(vm, number::KVM_RESET_DIRTY_RINGS()) });
        // A signal ends it where it is, and the next call goes on from there.
        if done.err().is_none_or(|error| error.errno() != libc::EINTR) {
            return done;
        }
    }
}

fn check(result: i32) -> Result<()> {
    if result < 0 { Err(Error::last()) } else { Ok(()) }
}
