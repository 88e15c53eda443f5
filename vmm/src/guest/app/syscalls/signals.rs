//! Signals: dispositions, masks, and sending them to oneself.

use nix::errno::Errno;
use syscalls::Sysno;

use crate::guest::app::process::{PID, Process};
use crate::guest::app::signals::{Action, AltStack, Effect, LAST};
use crate::guest::app::syscalls::time::{self, Time};
use crate::guest::app::syscalls::{Answer, Arguments, Flow};

/// Bytes of a signal set: what the kernel's interface calls sigsetsize.
const SET_SIZE: u64 = 8;
/// The smallest alternative stack that Linux takes.
const MINSIGSTKSZ: u64 = 2048;
/// Bytes of `siginfo_t`.
const INFORMATION_BYTES: usize = 128;
/// Signals that no mask holds back.
const UNBLOCKABLE: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);

pub(super) fn set_action(process: &mut Process, &[number, new, old, size, ..]: &Arguments) -> Answer {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let current = process.signals.action(number).ok_or(Errno::EINVAL)?;
    if new != 0 {
        let action: Action = process.memory().read(new)?;
        if !process.signals.set_action(number, action) {
            return Err(Errno::EINVAL);
        }
    }
    if old != 0 {
        process.memory().write(old, &current)?;
    }
    Ok(0)
}

pub(super) fn set_mask(process: &mut Process, args: &Arguments) -> Flow {
    match change_mask(process, args) {
        Ok(()) => match process.signals.take_unblocked() {
            Some(number) => effect(process.signals.effect(number), number),
            None => Flow::Answer(Ok(0)),
        },
        Err(errno) => Flow::Answer(Err(errno)),
    }
}

fn change_mask(process: &mut Process, &[how, new, old, size, ..]: &Arguments) -> Result<(), Errno> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let before = process.signals.blocked;
    if new != 0 {
        let set: u64 = process.memory().read(new)?;
        let mask = match i32::try_from(how).map_err(|_| Errno::EINVAL)? {
            libc::SIG_BLOCK => before | set,
            libc::SIG_UNBLOCK => before & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        };
        process.signals.blocked = mask & !UNBLOCKABLE;
    }
    if old != 0 {
        process.memory().write(old, &before)?;
    }
    Ok(())
}

pub(super) fn pending(process: &mut Process, &[set, size, ..]: &Arguments) -> Answer {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    process.memory().write(set, &process.signals.pending)?;
    Ok(0)
}

/// rt_sigsuspend: a signal that waits already ends the program or is ignored; no other will come.
pub(super) fn suspend(process: &mut Process, &[set, size, ..]: &Arguments) -> Flow {
    if size != SET_SIZE {
        return Flow::Answer(Err(Errno::EINVAL));
    }
    let mask: u64 = match process.memory().read(set) {
        Ok(mask) => mask,
        Err(errno) => return Flow::Answer(Err(errno)),
    };
    let before = std::mem::replace(&mut process.signals.blocked, mask & !UNBLOCKABLE);
    while let Some(number) = process.signals.take_unblocked() {
        match effect(process.signals.effect(number), number) {
            Flow::Answer(Ok(_)) => {}
            ends => {
                process.signals.blocked = before;
                return ends;
            }
        }
    }
    process.signals.blocked = before;
    Flow::Answer(wait_for_signal(process))
}

/// Takes a signal of the set that waits; if none does, none will come, and the time passes.
pub(super) fn timed_wait(process: &mut Process, &[set, to, timeout, size, ..]: &Arguments) -> Answer {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let set: u64 = process.memory().read(set)?;
    if let Some(number) = process.signals.take_pending(set & !UNBLOCKABLE) {
        if to != 0 {
            process.memory().write_bytes(to, &information(number))?;
        }
        return Ok(number);
    }
    if timeout == 0 {
        return wait_for_signal(process);
    }
    let span: Time = process.memory().read(timeout)?;
    time::sleep(process, span.duration()?)?;
    Err(Errno::EAGAIN)
}

pub(super) fn pause(process: &mut Process) -> Answer {
    wait_for_signal(process)
}

/// The program's only hope is a signal, and nobody sends it one: it waits until cairn is ended.
fn wait_for_signal(process: &mut Process) -> Answer {
    time::wait_for_ever(process, "a signal that nobody can send")
}

/// `siginfo_t` of a signal that the program sent itself: number, error, code (SI_USER), a gap, then the
/// sender's process and user.
fn information(number: u64) -> [u8; INFORMATION_BYTES] {
    let mut bytes = [0; INFORMATION_BYTES];
    let user = u64::from(nix::unistd::geteuid().as_raw());
    for (offset, field) in [(0, number), (16, PID), (20, user)] {
        bytes[offset..offset + 4].copy_from_slice(&field.to_le_bytes()[..4]);
    }
    bytes
}

pub(super) fn alt_stack(process: &mut Process, &[new, old, ..]: &Arguments) -> Answer {
    let current = process.signals.alt_stack;
    if new != 0 {
        let stack: AltStack = process.memory().read(new)?;
        let disable = stack.flags & libc::SS_DISABLE.cast_unsigned() != 0;
        if !disable && stack.size < MINSIGSTKSZ {
            return Err(Errno::ENOMEM);
        }
        process.signals.alt_stack = stack;
    }
    if old != 0 {
        process.memory().write(old, &current)?;
    }
    Ok(0)
}

/// kill, tkill and tgkill: there is only the program itself to send to.
pub(super) fn send(process: &mut Process, call: Sysno, args: &Arguments) -> Flow {
    let (to_self, number) = match call {
        Sysno::tgkill => (args[0] == PID && args[1] == PID, args[2]),
        Sysno::tkill => (args[0] == PID, args[1]),
        // kill takes 0 and -pid for the process group, -1 for everybody.
        _ => ([0, PID, PID.wrapping_neg(), u64::MAX].contains(&extend(args[0])), args[1]),
    };
    if LAST < number {
        return Flow::Answer(Err(Errno::EINVAL));
    }
    if !to_self {
        return Flow::Answer(Err(Errno::ESRCH));
    }
    if number == 0 {
        return Flow::Answer(Ok(0));
    }
    effect(process.signals.send(number), number)
}

fn effect(effect: Effect, number: u64) -> Flow {
    match effect {
        Effect::Kills(signal) => Flow::Killed(signal),
        Effect::Ignored | Effect::Pending => Flow::Answer(Ok(0)),
        Effect::Handler => {
            tracing::warn!(
                signal = number,
                "the program has a handler for this signal, and handlers don't run yet"
            );
            Flow::Answer(Err(Errno::ENOSYS))
        }
    }
}

/// pid_t is 32 bits wide, whatever the upper half of the register holds.
fn extend(pid: u64) -> u64 {
    i64::from((pid & 0xffff_ffff) as u32 as i32).cast_unsigned()
}
