//! Swap in compressed memory: no disk is needed.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use cairn_tests::pages::PAGE;

use crate::scenario::not_here;

const SETTINGS: &str = "/sys/block/zram0";
const DEVICE: &str = "/dev/zram0";
/// Bytes of swap: pages that hold one word over and over, as the scenarios' do, take no memory in it.
const SIZE: u64 = 1 << 30;

/// Turns swap on, unless there is some.
pub(crate) fn turn_on() -> Result<()> {
    let swaps = fs::read_to_string("/proc/swaps").map_err(|_| not_here("the kernel has no swap"))?;
    if swaps.lines().count() > 1 {
        return Ok(());
    }
    if !Path::new(SETTINGS).exists() {
        return Err(not_here("there is no swap, and no zram to make it: load zsmalloc and zram"));
    }
    let size = format!("{SETTINGS}/disksize");
    fs::write(&size, SIZE.to_string())
        .map_err(|error| not_here(format_args!("zram can't be set up, is its compressor loaded? {error}")))?;
    let device = OpenOptions::new().write(true).open(DEVICE).with_context(|| format!("opening {DEVICE}"))?;
    device.write_all_at(&header(SIZE / PAGE as u64), 0).with_context(|| format!("writing to {DEVICE}"))?;
    drop(device);
    // SAFETY: a path that ends with 0, which the kernel reads.
    match unsafe { libc::swapon(c"/dev/zram0".as_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("swapping to {DEVICE}")),
    }
}

/// `union swap_header` of Linux, as mkswap writes it: version 1, no bad pages.
fn header(pages: u64) -> [u8; PAGE] {
    const VERSION: usize = 1024;
    const LAST_PAGE: usize = 1028;
    const MAGIC: &[u8; 10] = b"SWAPSPACE2";
    let last = u32::try_from(pages.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut header = [0; PAGE];
    header[VERSION..VERSION + 4].copy_from_slice(&1_u32.to_le_bytes());
    header[LAST_PAGE..LAST_PAGE + 4].copy_from_slice(&last.to_le_bytes());
    header[PAGE - MAGIC.len()..].copy_from_slice(MAGIC);
    header
}
