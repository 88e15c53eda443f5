//! Rings, buffers and regions where a program has no business.

use anyhow::{Context, Result, ensure};
use cairn_abi::{Envelope, REPLY_SIZE, RegionMode, RegionName, ReplyBody, Request, SessionKey, Span, Status};
use cairn_tests::driver::{Answer, Driver};
use cairn_tests::pages::PAGE;
use cairn_tests::registers::Registers;

use super::bystanders::Bystanders;
use super::places::{Kind, Place, Places};
use crate::scenario::Outcome;
use crate::support;

/// An attacker with a function, and everything that it may point at.
struct Attack {
    registers: Registers,
    driver: Driver,
    bystanders: Bystanders,
    places: Places,
}

impl Attack {
    fn begin() -> Result<Self> {
        support::needs_functions(2)?;
        let registers = Registers::claim()?;
        let bystanders = Bystanders::invite()?;
        let places = Places::new(&registers, &bystanders)?;
        Ok(Self { driver: Driver::new()?, registers, bystanders, places })
    }

    /// A session of the attacker's own: the device is as good as before whatever was done to it.
    fn session(&mut self) -> Result<SessionKey> {
        self.driver.bring_up(&self.registers);
        self.driver.hello(&self.registers).context("the device doesn't open a session any more")
    }

    fn end(mut self, what: &str) -> Outcome {
        self.session()?;
        self.bystanders.check()?;
        Ok(format!("{} places for {what}", self.places.all.len()))
    }
}

/// Each of the three parts of the ring at each place.
pub(crate) fn rings() -> Outcome {
    let mut attack = Attack::begin()?;
    for place in attack.places.all.clone() {
        for part in 0..3 {
            let mut rings = attack.driver.rings();
            rings[part] = place.address;
            attack.driver.bring_up(&attack.registers);
            attack.registers.bring_up(2, rings);
            let answer = attack.driver.hello(&attack.registers);
            ensure!(answer.is_none(), "the device works with part {part} of its ring at {}", place.name);
            attack.bystanders.file().check()?;
        }
    }
    attack.end("rings")
}

/// Requests from each place, and replies to it. A reply of which a part could be written is none, and a request that
/// the program can't read is malformed, whatever is there.
pub(crate) fn buffers() -> Outcome {
    let mut attack = Attack::begin()?;
    for place in attack.places.all.clone() {
        let key = attack.session()?;
        attack.driver.write_request(&Envelope { key, cursor: 0, request: QUERY });
        let [request, reply] = attack.driver.buffers();
        let answer = attack.driver.offer(&attack.registers, [request, place.address]);
        let answered = matches!(answer, Answer::Used(len) if len as usize == REPLY_SIZE);
        ensure!(!answered, "a reply goes to {}", place.name);
        attack.session()?;
        expect_malformed(&mut attack, place.name, place.address)?;
        // One buffer that begins before the place, one that doesn't fit into the honest page.
        let crossing = (reply & !(PAGE as u64 - 1)) + PAGE as u64 - 8;
        attack.driver.offer(&attack.registers, [place.address.wrapping_sub(8), crossing]);
        attack.bystanders.file().check()?;
    }
    let key = attack.session()?;
    let hidden = attack.driver.hidden_request(&Envelope { key, cursor: 0, request: QUERY })?;
    expect_malformed(&mut attack, "a page that holds a request and may not be read", hidden.address())?;
    attack.end("requests and replies")
}

const QUERY: Request = Request::Query { checkpoint: None };

/// Makes the request that is at this address: no answer to it tells what is there.
fn expect_malformed(attack: &mut Attack, name: &str, address: u64) -> Result<()> {
    let [_, reply] = attack.driver.buffers();
    let answer = attack.driver.offer(&attack.registers, [address, reply]);
    if let Answer::Used(len) = answer
        && len as usize == REPLY_SIZE
    {
        let status = attack.driver.reply().map(|reply| reply.status);
        let malformed = [Some(Status::Malformed), Some(Status::Unsupported)].contains(&status);
        ensure!(malformed, "a request from {name} is answered with {status:?}");
    }
    Ok(())
}

/// Regions at each place. What a device can't tell from memory of the program it may take, but nothing is written there.
pub(crate) fn regions() -> Outcome {
    let mut attack = Attack::begin()?;
    let (mut refused, mut version) = (0, 1);
    for place in attack.places.all.clone() {
        for len in [PAGE as u64, 8 * PAGE as u64, 1 << 24, 1 << 46, u64::MAX - 0xfff] {
            let key = attack.session()?;
            let span = Span { address: place.address, len };
            refused += u32::from(!try_region(&mut attack, key, place, span, &mut version)?);
        }
    }
    clocks_agree()?;
    let places = attack.end("regions")?;
    Ok(format!("{places}, {refused} refused"))
}

/// Registers a span, takes a checkpoint, has the file below changed, and rolls back. Whether it was registered.
fn try_region(
    attack: &mut Attack,
    key: SessionKey,
    place: Place,
    span: Span,
    version: &mut u64,
) -> Result<bool> {
    let name = RegionName::new(b"elsewhere")?;
    let mut ask = |request| attack.driver.insist(&attack.registers, key, request);
    let reply = ask(Request::Register { span, name, mode: RegionMode::Tracked, tag: 0 })
        .context("no answer to REGISTER")?;
    let ReplyBody::Region(_) = reply.body else { return Ok(false) };
    ensure!(place.kind != Kind::Never, "{} is a region: {:?}", place.name, reply.status);
    let reply = ask(Request::Checkpoint).context("no answer to CHECKPOINT")?;
    *version = *version % 100 + 1;
    attack.bystanders.file().change(*version)?;
    let mut ask = |request| attack.driver.insist(&attack.registers, key, request);
    if let ReplyBody::Checkpoint(checkpoint) = reply.body {
        ask(Request::Rollback { checkpoint }).context("no answer to ROLLBACK")?;
    }
    let device = place.kind == Kind::Device && reply.status == Status::Ok;
    ensure!(!device, "there is a checkpoint of {}", place.name);
    attack.bystanders.file().check()?;
    Ok(true)
}

/// A rollback of the page that the kernel tells the time by would show here.
fn clocks_agree() -> Result<()> {
    let mut told = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut asked = told;
    // SAFETY: both write a local. The first reads the kernel's page, the second asks the kernel.
    let results = unsafe {
        let first = libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut told);
        (first, libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut asked))
    };
    ensure!(results == (0, 0), "the clock can't be read");
    // The second may have begun in between, and an emulated CPU may have been away for a while.
    let apart = asked.tv_sec - told.tv_sec;
    ensure!((0..5).contains(&apart), "the kernel's page tells a time that is {apart} s off");
    Ok(())
}
