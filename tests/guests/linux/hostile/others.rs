//! Processes that reach for somebody else's session: a forked child with everything that its parent has, and a
//! program that doesn't care for locks.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use cairn_abi::reply::ReplyBody;
use cairn_abi::{CheckpointId, RegionMode, RegionName, Request, SessionKey, Span, Status};
use cairn_tests::driver::Driver;
use cairn_tests::pages::Pages;
use cairn_tests::registers::{self, Registers};

use super::bystanders::Bystanders;
use crate::scenario::Outcome;
use crate::support;
use crate::support::partner::{Partner, Talk};

const PAGES: usize = 32;
const QUERY: Request = Request::Query { checkpoint: None };

/// A session of a driver that keeps nothing to itself.
struct Owner {
    registers: Registers,
    driver: Driver,
    key: SessionKey,
    memory: Pages,
    taken: CheckpointId,
}

impl Owner {
    /// With a region that was 1 when a checkpoint was taken, and is 2.
    fn new() -> Result<Self> {
        let registers = Registers::claim()?;
        let mut driver = Driver::start(&registers)?;
        let key = driver.hello(&registers).context("no session")?;
        let memory = Pages::anonymous(PAGES)?;
        memory.fill(1);
        let mut owner = Self { registers, driver, key, memory, taken: CheckpointId(0) };
        let span = Span { address: owner.memory.address(), len: owner.memory.len() as u64 };
        owner.expect(Request::Register {
            span,
            name: RegionName::new(b"owned")?,
            mode: RegionMode::Tracked,
            tag: 0,
        })?;
        let ReplyBody::Checkpoint(taken) = owner.expect(Request::Checkpoint)? else {
            bail!("CHECKPOINT is answered with something else");
        };
        owner.taken = taken;
        owner.memory.fill(2);
        Ok(owner)
    }

    /// The way back to where the region was 1.
    fn back(&self) -> Request {
        Request::Rollback { checkpoint: self.taken }
    }

    fn ask(&mut self, request: Request) -> Option<Status> {
        self.driver.ask(&self.registers, self.key, request).map(|reply| reply.status)
    }

    fn expect(&mut self, request: Request) -> Result<ReplyBody> {
        let reply = self.driver.insist(&self.registers, self.key, request).context("no answer")?;
        let status = reply.status;
        ensure!(status == Status::Ok, "{request:?} is answered with {status:?}");
        Ok(reply.body)
    }
}

/// A forked child has its parent's registers, rings and key, and another address space.
pub(crate) fn inherited() -> Outcome {
    support::needs_functions(2)?;
    let bystanders = Bystanders::invite()?;
    let mut owner = Owner::new()?;
    let child = Partner::fork("a child", |_| {
        let release = Request::Release { checkpoint: owner.taken };
        for request in [QUERY, owner.back(), Request::Checkpoint, release] {
            let status = owner.ask(request);
            ensure!(
                matches!(status, None | Some(Status::BadKey)),
                "a child's {request:?} is answered with {status:?}"
            );
            ensure!(owner.memory.is_filled(2), "{request:?} changed the child's memory");
        }
        Ok(())
    })?;
    child.finish()?;
    ensure!(owner.memory.is_filled(2), "a child's request changed its parent's memory");
    owner.expect(QUERY).context("after a child's requests")?;
    owner.expect(owner.back()).context("after a child's requests")?;
    ensure!(owner.memory.is_filled(1), "the rollback isn't whole");
    bystanders.check()?;
    Ok(String::from("a child's requests are refused, its parent's served"))
}

/// A program that may open the function can end the session, and that is all.
pub(crate) fn intruder() -> Outcome {
    support::needs_functions(2)?;
    let bystanders = Bystanders::invite()?;
    let function = registers::functions()?.into_iter().next().context("no function")?;
    let mut owner = Owner::new()?;
    let address = owner.memory.address().to_string();
    let taken = owner.taken.to_string();
    let mut intruder = Partner::start("intruder", &[function.display().to_string(), address, taken])?;
    intruder.expect("rang")?;
    owner.expect(QUERY).context("after somebody else rang the doorbell")?;
    intruder.say("go on")?;
    intruder.expect("has a session")?;
    let status = owner.ask(owner.back());
    ensure!(status != Some(Status::Ok), "the session that ended serves a request");
    ensure!(owner.memory.is_filled(2), "the intruder's session changed the owner's memory");
    intruder.say("go on")?;
    intruder.finish()?;
    ensure!(owner.memory.is_filled(2), "the intruder changed the owner's memory");
    bystanders.check()?;
    Ok(String::from("it can end the session, and learns nothing of it"))
}

/// The intruder: FUNCTION, where its victim has a region, and the victim's checkpoint.
pub(crate) fn intrude(args: &[String], talk: &mut Talk) -> Result<()> {
    let [function, address, taken] = args else { bail!("FUNCTION ADDRESS CHECKPOINT are needed") };
    let back = Request::Rollback { checkpoint: CheckpointId(taken.parse()?) };
    let registers = Registers::of(Path::new(function))?;
    registers.notify();
    talk.say_and_wait("rang")?;
    let mut driver = Driver::start(&registers)?;
    let key = driver.hello(&registers).context("no session")?;
    talk.say_and_wait("has a session")?;
    // Where the victim's region is, in its own memory.
    let memory = Pages::anonymous_at(address.parse()?, PAGES)?;
    memory.fill(3);
    let mut ask = |request| driver.ask(&registers, key, request).map(|reply| reply.status);
    let status = ask(back);
    ensure!(status == Some(Status::NoCheckpoint), "a rollback to the victim's checkpoint: {status:?}");
    let span = Span { address: memory.address(), len: memory.len() as u64 };
    let status =
        ask(Request::Register { span, name: RegionName::new(b"owned")?, mode: RegionMode::Tracked, tag: 0 });
    ensure!(status == Some(Status::Ok), "a region: {status:?}");
    let status = ask(back);
    ensure!(status == Some(Status::NoCheckpoint), "a rollback to the victim's checkpoint: {status:?}");
    ensure!(memory.is_filled(3), "the victim's checkpoint came to the intruder");
    Ok(())
}
