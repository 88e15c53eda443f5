//! Doorbells that the kernel rings: its loads and stores where a program's own could have been.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use cairn_abi::{Envelope, Request, SessionKey, Status, pci};
use cairn_tests::driver::Driver;
use cairn_tests::registers::Registers;

use super::bystanders::Bystanders;
use crate::scenario::Outcome;
use crate::support;
use crate::support::partner::{Partner, Talk};

const QUERY: Request = Request::Query { checkpoint: None };

pub(crate) fn run() -> Outcome {
    support::needs_functions(2)?;
    let registers = Registers::claim()?;
    let bystanders = Bystanders::invite()?;
    let mut driver = Driver::start(&registers)?;
    let doorbell = registers.address() + u64::from(pci::NOTIFY_OFFSET);
    let key = driver.hello(&registers).context("no session")?;
    by_read(doorbell, &[0, 0])?;
    expect_session(&registers, &mut driver, key, "after read(2) rang the doorbell")?;
    by_another_process(&registers, &mut driver, key, doorbell)?;
    by_proc_mem(std::process::id(), doorbell);
    expect_session(&registers, &mut driver, key, "after /proc/self/mem rang the doorbell")?;
    // Into registers, from them, and over them all. What becomes of the session is the attacker's business.
    by_read(registers.address(), &[0xff; 64])?;
    by_write(registers.address(), 256)?;
    by_read(doorbell - 256, &[0; 512])?;
    driver.bring_up(&registers);
    driver.hello(&registers).context("the device doesn't open a session any more")?;
    bystanders.check()?;
    Ok(String::from("by read, write, /proc/self/mem and another process"))
}

fn expect_session(registers: &Registers, driver: &mut Driver, key: SessionKey, when: &str) -> Result<()> {
    let status = driver.ask(registers, key, QUERY).map(|reply| reply.status);
    ensure!(status == Some(Status::Ok), "{when} the session answers {status:?}");
    Ok(())
}

/// Another process has the kernel store to this one's registers: with its own page tables, so that nothing is served.
fn by_another_process(
    registers: &Registers,
    driver: &mut Driver,
    key: SessionKey,
    doorbell: u64,
) -> Result<()> {
    let this = std::process::id();
    driver.write_request(&Envelope { key, cursor: 0, request: QUERY });
    let used = driver.prepare(driver.buffers());
    let ring = |_: &mut Talk| {
        by_proc_mem(this, doorbell);
        Ok(())
    };
    Partner::fork("a child that writes to its parent's registers", ring)?.finish()?;
    ensure!(!driver.is_past(used), "a request was served at another process's doorbell");
    // A store to the ring, which the fork left to be copied: before that the device can't write it.
    driver.write_request(&Envelope { key, cursor: 0, request: QUERY });
    registers.notify();
    ensure!(driver.is_past(used), "after another process rang the doorbell nothing is served");
    expect_session(registers, driver, key, "after another process rang the doorbell")
}

/// `read(2)` into the registers: the kernel stores.
fn by_read(address: u64, bytes: &[u8]) -> Result<()> {
    let (input, mut output) = io::pipe()?;
    io::Write::write_all(&mut output, bytes)?;
    let at = std::ptr::with_exposed_provenance_mut(usize::try_from(address)?);
    // SAFETY: device registers, which no reference is to; the kernel checks the addresses.
    let read = unsafe { libc::read(input.as_raw_fd(), at, bytes.len()) };
    ensure!(read > 0, "read(2) into the registers: {}", io::Error::last_os_error());
    Ok(())
}

/// `write(2)` from the registers: the kernel loads.
fn by_write(address: u64, len: usize) -> Result<()> {
    let (_input, output) = io::pipe()?;
    let at = std::ptr::with_exposed_provenance(usize::try_from(address)?);
    // SAFETY: as for `by_read`; a pipe takes that many bytes.
    let written = unsafe { libc::write(output.as_raw_fd(), at, len) };
    ensure!(written > 0, "write(2) from the registers: {}", io::Error::last_os_error());
    Ok(())
}

/// A 16-bit store of 0 by /proc/PID/mem. A kernel that refuses it is as good.
fn by_proc_mem(pid: u32, address: u64) {
    if let Ok(memory) = OpenOptions::new().write(true).open(format!("/proc/{pid}/mem")) {
        let _ = memory.write_all_at(&[0, 0], address);
    }
}
