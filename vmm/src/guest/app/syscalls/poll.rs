//! Waiting for descriptors: poll, select, epoll.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll as host_ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::guest::app::files::{MAX_DESCRIPTORS, Object, OpenFile};
use crate::guest::app::process::Process;
use crate::guest::app::syscalls::time::Time;
use crate::guest::app::syscalls::{Answer, Arguments, int};

/// Most events that one epoll_wait gives; bounds what the monitor allocates.
const MAX_EVENTS: usize = 4096;
/// Bytes of select's sets (FD_SETSIZE bits).
const SET_WORDS: usize = 1024 / 64;

/// `struct pollfd`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Poll {
    number: i32,
    events: i16,
    found: i16,
}

/// `struct epoll_event` on x86-64, where it is packed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
struct Event {
    events: u32,
    data: u64,
}

pub(super) fn poll(process: &mut Process, &[list, count, timeout, ..]: &Arguments) -> Answer {
    let timeout = u64::try_from(int(timeout)).ok().map(Duration::from_millis);
    poll_list(process, list, count, timeout)
}

/// The signal mask is not applied: no handler could run meanwhile.
pub(super) fn ppoll(process: &mut Process, &[list, count, timeout, ..]: &Arguments) -> Answer {
    let timeout = read_timeout(process, timeout)?;
    poll_list(process, list, count, timeout)
}

fn poll_list(process: &mut Process, list: u64, count: u64, timeout: Option<Duration>) -> Answer {
    let count = usize::try_from(count).ok().filter(|count| *count <= MAX_DESCRIPTORS).ok_or(Errno::EINVAL)?;
    let mut polls: Vec<Poll> = process.memory().read_array(list, count)?;
    wait(process, &mut polls, timeout)?;
    let ready = polls.iter().filter(|poll| poll.found != 0).count();
    process.memory().write(list, polls.as_slice())?;
    Ok(ready as u64)
}

/// Fills in what was found.
fn wait(process: &mut Process, polls: &mut [Poll], timeout: Option<Duration>) -> Result<(), Errno> {
    let files: Vec<Option<Arc<OpenFile>>> =
        polls.iter().map(|poll| process.files.descriptors().get(poll.number).ok()).collect();
    // What the host can wait for, and for whom.
    let (mut waiting, mut indices) = (Vec::new(), Vec::new());
    let mut ready = false;
    for (index, (poll, file)) in polls.iter_mut().zip(&files).enumerate() {
        poll.found = 0;
        match file.as_deref().map(OpenFile::pollable) {
            Some(Some(fd)) => {
                waiting.push(PollFd::new(fd, PollFlags::from_bits_retain(poll.events)));
                indices.push(index);
            }
            // Files that the monitor makes up can always be read and written.
            Some(None) => poll.found = poll.events & (PollFlags::POLLIN | PollFlags::POLLOUT).bits(),
            None if poll.number < 0 => {}
            None => poll.found = PollFlags::POLLNVAL.bits(),
        }
        ready |= poll.found != 0;
    }
    let timeout = match timeout {
        _ if ready => Some(Duration::ZERO),
        Some(span) if !span.is_zero() => Some(process.remaining(span)?),
        other => other,
    };
    host_ppoll(&mut waiting, timeout.map(TimeSpec::from), None)?;
    for (poll, index) in waiting.iter().zip(indices) {
        polls[index].found = poll.revents().unwrap_or(PollFlags::empty()).bits();
    }
    Ok(())
}

pub(super) fn select(process: &mut Process, &[count, read, write, except, timeout, _]: &Arguments) -> Answer {
    let timeout = match timeout {
        0 => None,
        address => {
            let Time { seconds, fraction } = process.memory().read(address)?;
            let microseconds = fraction.checked_mul(1000).ok_or(Errno::EINVAL)?;
            Some(Time { seconds, fraction: microseconds }.duration()?)
        }
    };
    select_sets(process, count, [read, write, except], timeout)
}

/// As for [`ppoll`], the signal mask is not applied.
pub(super) fn pselect(
    process: &mut Process,
    &[count, read, write, except, timeout, _]: &Arguments,
) -> Answer {
    let timeout = read_timeout(process, timeout)?;
    select_sets(process, count, [read, write, except], timeout)
}

/// What each set asks for, and what puts a descriptor into its answer (Linux fs/select.c).
const SETS: [(PollFlags, PollFlags); 3] = [
    (PollFlags::POLLIN, PollFlags::POLLIN.union(PollFlags::POLLHUP).union(PollFlags::POLLERR)),
    (PollFlags::POLLOUT, PollFlags::POLLOUT.union(PollFlags::POLLERR)),
    (PollFlags::POLLPRI, PollFlags::POLLPRI),
];

fn select_sets(process: &mut Process, count: u64, addresses: [u64; 3], timeout: Option<Duration>) -> Answer {
    let count = usize::try_from(int(count)).map_err(|_| Errno::EINVAL)?.min(SET_WORDS * 64);
    let words = count.div_ceil(64);
    let mut sets: [Vec<u64>; 3] = Default::default();
    for (set, address) in sets.iter_mut().zip(addresses) {
        *set = if address == 0 { vec![0; words] } else { process.memory().read_array(address, words)? };
    }
    let has = |set: &[u64], number: usize| set[number / 64] & 1 << (number % 64) != 0;
    let mut polls = Vec::new();
    for number in 0..count {
        let asked = sets.iter().zip(SETS).filter(|(set, _)| has(set, number));
        let events = asked.fold(PollFlags::empty(), |sum, (_, (asks, _))| sum | asks);
        if !events.is_empty() {
            let number = i32::try_from(number).map_err(|_| Errno::EINVAL)?;
            process.files.descriptors().get(number)?;
            polls.push(Poll { number, events: events.bits(), found: 0 });
        }
    }
    wait(process, &mut polls, timeout)?;
    let mut total = 0;
    for ((set, address), (_, answers)) in sets.iter().zip(addresses).zip(SETS) {
        let mut answer = vec![0_u64; words];
        for poll in &polls {
            let number = usize::try_from(poll.number).map_err(|_| Errno::EINVAL)?;
            let found = PollFlags::from_bits_retain(poll.found).intersects(answers);
            if found && has(set, number) {
                answer[number / 64] |= 1 << (number % 64);
                total += 1;
            }
        }
        if address != 0 {
            process.memory().write(address, answer.as_slice())?;
        }
    }
    Ok(total)
}

pub(super) fn epoll_create(process: &mut Process, &[size, ..]: &Arguments) -> Answer {
    if int(size) <= 0 {
        return Err(Errno::EINVAL);
    }
    epoll_create1(process, &[0; 6])
}

pub(super) fn epoll_create1(process: &mut Process, &[flags, ..]: &Arguments) -> Answer {
    let flags = EpollCreateFlags::from_bits(int(flags)).ok_or(Errno::EINVAL)?;
    let epoll = Epoll::new(flags | EpollCreateFlags::EPOLL_CLOEXEC)?;
    let file = OpenFile::labelled(Object::Epoll(epoll), "anon_inode:[eventpoll]");
    let close_on_exec = flags.contains(EpollCreateFlags::EPOLL_CLOEXEC);
    let number = process.files.descriptors_mut().insert(Arc::new(file), close_on_exec)?;
    u64::try_from(number).map_err(|_| Errno::EMFILE)
}

/// The host's epoll watches the host's descriptor of a file. It ends when the file is closed, as on Linux;
/// two descriptors of one open file are one to it.
pub(super) fn epoll_ctl(process: &mut Process, &[epoll, operation, number, event, ..]: &Arguments) -> Answer {
    let table = process.files.descriptors();
    let (epoll, file) = (table.get(int(epoll))?, table.get(int(number))?);
    let Object::Epoll(epoll) = epoll.object() else { return Err(Errno::EINVAL) };
    let fd = file.pollable().ok_or(Errno::EPERM)?;
    let read = || -> Result<EpollEvent, Errno> {
        let event: Event = process.memory().read(event)?;
        Ok(EpollEvent::new(EpollFlags::from_bits_retain(event.events.cast_signed()), event.data))
    };
    match int(operation) {
        libc::EPOLL_CTL_ADD => epoll.add(fd, read()?)?,
        libc::EPOLL_CTL_MOD => epoll.modify(fd, &mut read()?)?,
        libc::EPOLL_CTL_DEL => epoll.delete(fd)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// Also epoll_pwait, whose signal mask is not applied.
pub(super) fn epoll_wait(process: &mut Process, &[epoll, to, count, timeout, ..]: &Arguments) -> Answer {
    let count = usize::try_from(int(count)).ok().filter(|count| *count > 0).ok_or(Errno::EINVAL)?;
    let file = process.files.descriptors().get(int(epoll))?;
    let Object::Epoll(epoll) = file.object() else { return Err(Errno::EINVAL) };
    let timeout = match u64::try_from(int(timeout)) {
        // Rounded up: an event loop that wakes up early finds nothing to do.
        Ok(span @ 1..) => {
            let rest = process.remaining(Duration::from_millis(span))?;
            i32::try_from(rest.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        }
        Ok(0) => 0,
        Err(_) => -1,
    };
    let timeout = EpollTimeout::try_from(timeout).map_err(|_| Errno::EINVAL)?;
    let mut events = vec![EpollEvent::empty(); count.min(MAX_EVENTS)];
    let found = epoll.wait(&mut events, timeout)?;
    let answer: Vec<Event> = events
        .iter()
        .take(found)
        .map(|event| Event { events: event.events().bits().cast_unsigned(), data: event.data() })
        .collect();
    process.memory().write(to, answer.as_slice())?;
    Ok(found as u64)
}

fn read_timeout(process: &Process, address: u64) -> Result<Option<Duration>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    let time: Time = process.memory().read(address)?;
    time.duration().map(Some)
}
