//! Doorbells while another thread changes the page tables of what they are about.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use cairn_abi::reply::ReplyBody;
use cairn_abi::{RegionMode, RegionName, Request, SessionKey, Span, Status};
use cairn_tests::driver::Driver;
use cairn_tests::pages::{PAGE, Pages};
use cairn_tests::random::Random;
use cairn_tests::registers::Registers;

use super::bystanders::Bystanders;
use crate::scenario::Outcome;
use crate::support;

/// Pages whose mappings change.
const PAGES: u64 = 24;
/// Rounds of doorbells.
const ROUNDS: u64 = 60;

pub(crate) fn run() -> Outcome {
    support::needs_functions(2)?;
    let registers = Registers::claim()?;
    let bystanders = Bystanders::invite()?;
    let area = Pages::forbidden(usize::try_from(PAGES)?)?;
    let (stop, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    let served = thread::scope(|scope| {
        let storm = scope.spawn(|| blow(area.address(), &stop, &changes));
        let served = ring_the_bell(&registers, area.address());
        stop.store(true, Ordering::Relaxed);
        storm.join().ok().context("the storm broke down")??;
        served
    })?;
    bystanders.check()?;
    let changes = changes.load(Ordering::Relaxed);
    ensure!(changes > ROUNDS, "only {changes} changes: nothing was tried");
    Ok(format!("{ROUNDS} rounds, {changes} changes of mappings, {served} requests served"))
}

/// Rings, buffers and regions in the area, in turn. Requests that were served all the same.
fn ring_the_bell(registers: &Registers, area: u64) -> Result<u64> {
    let mut random = Random(51);
    let mut driver = Driver::new()?;
    let mut served = 0;
    for round in 0..ROUNDS {
        let mut somewhere = || area + random.below(PAGES) * PAGE as u64;
        match round % 3 {
            0 => {
                let mut rings = driver.rings();
                rings[usize::try_from(round / 3 % 3)?] = somewhere();
                registers.bring_up(2, rings);
                (0..3).for_each(|_| registers.notify());
            }
            1 => {
                driver.bring_up(registers);
                let [request, reply] = driver.buffers();
                driver.offer(registers, [somewhere(), reply]);
                driver.bring_up(registers);
                driver.offer(registers, [request, somewhere()]);
            }
            _ => {
                driver.bring_up(registers);
                let key = driver.hello(registers).context("the device doesn't open a session any more")?;
                served += in_the_storm(registers, &mut driver, key, area)?;
            }
        }
    }
    Ok(served)
}

fn in_the_storm(registers: &Registers, driver: &mut Driver, key: SessionKey, area: u64) -> Result<u64> {
    let span = Span { address: area, len: PAGES * PAGE as u64 };
    let name = RegionName::new(b"storm")?;
    let mut served = 0;
    let mut ask = |request| {
        let reply = driver.insist(registers, key, request).context("no answer in the storm")?;
        served += u64::from(reply.status == Status::Ok);
        anyhow::Ok(reply.body)
    };
    ask(Request::Register { span, name, mode: RegionMode::Tracked, tag: 0 })?;
    let mut first = None;
    for _ in 0..2 {
        if let ReplyBody::Checkpoint(taken) = ask(Request::Checkpoint)? {
            first.get_or_insert(taken);
        }
        if let Some(checkpoint) = first {
            ask(Request::Rollback { checkpoint })?;
        }
    }
    Ok(served)
}

/// Changes the mappings of one page of the area after the other.
fn blow(area: u64, stop: &AtomicBool, changes: &AtomicU64) -> Result<()> {
    let mut random = Random(52);
    while !stop.load(Ordering::Relaxed) {
        let address = usize::try_from(area + random.below(PAGES) * PAGE as u64)?;
        let at = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let both = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a page of the area, which no reference or access of this program is to: only the device is told
        // its addresses, and this thread writes where it has just mapped.
        unsafe {
            match random.below(6) {
                0 | 1 => {
                    let mapped = libc::mmap(at, PAGE, both, flags, -1, 0);
                    ensure!(mapped == at, "no memory for the storm");
                    at.cast::<u64>().write_volatile(1 << 16);
                }
                // A hole would be filled with something else of this program's.
                2 => {
                    let mapped = libc::mmap(at, PAGE, libc::PROT_NONE, flags, -1, 0);
                    ensure!(mapped == at, "no memory for the storm");
                }
                3 => drop(libc::mprotect(at, PAGE, libc::PROT_READ)),
                4 => drop(libc::madvise(at, PAGE, libc::MADV_DONTNEED)),
                _ => drop(libc::mprotect(at, PAGE, both)),
            }
        }
        changes.fetch_add(1, Ordering::Relaxed);
        if random.below(64) == 0 {
            thread::yield_now();
        }
    }
    Ok(())
}
