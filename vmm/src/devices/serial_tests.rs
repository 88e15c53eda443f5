//! Tests of the serial console.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

/// Output that the test can look at.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Output that is gone.
struct Broken;

impl Write for Broken {
    fn write(&mut self, _data: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const ENABLE: u16 = INTERRUPT_ENABLE as u16;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
/// The bit of the line control that puts the divisor where data and interrupts are.
const DIVISOR: u8 = 1 << 7;

fn console() -> (SerialConsole, Screen, Arc<AtomicUsize>) {
    let (screen, interrupts) = (Screen::default(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&interrupts);
    let line = Box::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    (SerialConsole::new(line, Box::new(screen.clone())), screen, interrupts)
}

/// A console to which the guest listens.
fn listened() -> SerialConsole {
    let (console, ..) = console();
    console.port_write(ENABLE, &[RECEIVED]);
    console
}

fn read(console: &SerialConsole, offset: u16) -> u8 {
    let mut data = [0];
    console.port_read(offset, &mut data);
    data[0]
}

/// All that a driver finds when it reads until the line status says that there is no more.
fn drain(console: &SerialConsole) -> Vec<u8> {
    let mut found = Vec::new();
    while read(console, 5) & 1 != 0 {
        found.push(read(console, 0));
    }
    found
}

#[test]
fn what_the_guest_sends_is_written() {
    let (console, screen, _) = console();
    for byte in b"hello" {
        console.port_write(0, &[*byte]);
    }
    assert_eq!(*screen.0.lock().unwrap(), b"hello");
}

#[test]
fn input_interrupts_and_is_read_in_order() {
    let (console, _, interrupts) = console();
    assert_eq!(console.enqueue(b"ab"), 2);
    assert_eq!(interrupts.load(Ordering::Relaxed), 0, "not enabled");
    console.port_write(ENABLE, &[RECEIVED]);
    assert_eq!(interrupts.load(Ordering::Relaxed), 1, "what came before counts");
    assert_eq!(drain(&console), b"ab");
    assert_eq!(console.enqueue(b"c"), 1);
    assert_eq!(interrupts.load(Ordering::Relaxed), 2);
    assert_eq!(drain(&console), b"c");
}

#[test]
fn more_input_than_fits_waits_for_the_guest() {
    let console = listened();
    let input: Vec<u8> = (0..10_000_usize).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let mut sent = console.enqueue(&input);
    assert_eq!(sent, 64 + MAX_WAITING);
    assert_eq!(console.enqueue(&input[sent..]), 0);
    let mut found = Vec::new();
    while found.len() < input.len() {
        found.extend(drain(&console));
        assert!(console.wait_for_room());
        sent += console.enqueue(&input[sent..]);
    }
    assert_eq!(found, input);
}

#[test]
fn whoever_waits_for_room_is_woken_by_a_read_and_by_the_end() {
    let console = listened();
    console.enqueue(&[b'x'; 64 + MAX_WAITING]);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| console.wait_for_room());
        for _ in 0..64 {
            read(&console, 0);
        }
        assert!(waiter.join().unwrap());
    });
    console.enqueue(&[b'x'; MAX_WAITING]);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| console.wait_for_room());
        console.close();
        assert!(!waiter.join().unwrap());
    });
}

#[test]
fn input_in_loopback_mode_comes_later() {
    let console = listened();
    console.port_write(MODEM_CONTROL, &[LOOPBACK]);
    assert_eq!(console.enqueue(b"later"), 5);
    assert_eq!(drain(&console), b"");
    console.port_write(MODEM_CONTROL, &[0]);
    assert_eq!(drain(&console), b"later");
}

/// What Linux does with a port from finding it to opening it, with a line typed before that.
#[test]
fn what_is_typed_ahead_survives_that_the_guest_looks_for_the_port() {
    let (console, ..) = console();
    console.enqueue(b"first ");
    assert_eq!(drain(&console), b"");
    console.port_write(ENABLE, &[0x0f]);
    console.port_write(ENABLE, &[0]);
    console.enqueue(b"second");
    assert_eq!((read(&console, 5) & DATA_READY, read(&console, 0)), (0, 0), "there is nothing to empty");
    console.port_write(LINE_CONTROL, &[DIVISOR]);
    console.port_write(ENABLE, &[RECEIVED]);
    console.port_write(LINE_CONTROL, &[0]);
    assert_eq!(drain(&console), b"", "that was the divisor");
    console.port_write(ENABLE, &[RECEIVED]);
    assert_eq!(drain(&console), b"first second");
}

/// Linux masks the interrupt while it prints.
#[test]
fn input_that_is_half_read_when_the_guest_stops_to_listen_comes_again() {
    let (console, _, interrupts) = console();
    console.port_write(ENABLE, &[RECEIVED]);
    console.enqueue(&[b'x'; 64]);
    console.enqueue(b"end");
    assert_eq!(read(&console, 0), b'x');
    let before = interrupts.load(Ordering::Relaxed);
    console.port_write(ENABLE, &[0]);
    assert_eq!(drain(&console), b"");
    console.port_write(ENABLE, &[RECEIVED]);
    assert_eq!(interrupts.load(Ordering::Relaxed), before + 1);
    assert_eq!(drain(&console), [&[b'x'; 63], &b"end"[..]].concat());
}

#[test]
fn whoever_has_input_waits_until_the_guest_listens() {
    let (console, ..) = console();
    assert_eq!(console.enqueue(&[b'x'; 2 * MAX_WAITING]), MAX_WAITING);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| console.wait_for_room());
        console.port_write(ENABLE, &[RECEIVED]);
        assert!(waiter.join().unwrap());
    });
    assert_eq!(console.enqueue(&[b'x'; MAX_WAITING]), 64);
    // What goes back into the line is more than its bound for a moment, and nothing is taken then.
    console.port_write(ENABLE, &[0]);
    assert_eq!(console.enqueue(b"x"), 0);
}

#[test]
fn what_the_guest_sends_itself_is_no_input() {
    let console = listened();
    console.port_write(MODEM_CONTROL, &[LOOPBACK]);
    console.port_write(0, b"o");
    console.port_write(ENABLE, &[0]);
    assert_eq!(drain(&console), b"o");
}

/// Its own bytes, sent in loopback mode and then taken for input that it didn't read.
#[test]
fn a_guest_can_not_make_us_keep_more_than_the_bound() {
    let (console, ..) = console();
    for _ in 0..2 * MAX_WAITING / 64 {
        console.port_write(MODEM_CONTROL, &[LOOPBACK]);
        console.port_write(ENABLE, &[RECEIVED]);
        for _ in 0..64 {
            console.port_write(0, b"x");
        }
        console.port_write(MODEM_CONTROL, &[0]);
        console.port_write(ENABLE, &[0]);
    }
    assert!(MAX_WAITING < console.lock().waiting.len(), "otherwise this test tests nothing");
    assert!(console.lock().waiting.len() <= MAX_WAITING + 64);
}

#[test]
fn output_that_fails_is_dropped() {
    let console = SerialConsole::new(Box::new(|| ()), Box::new(Broken));
    for byte in b"lost" {
        console.port_write(0, &[*byte]);
    }
    assert!(console.lock().output_failed);
    assert_eq!(read(&console, 5) & 0x20, 0x20, "the transmitter is ready");
}

proptest! {
    /// Accesses of any width to any register never panic, and other widths than a byte mean nothing.
    #[test]
    fn any_access_is_safe(
        accesses in proptest::collection::vec((0_u16..12, 0_usize..6, any::<u8>(), any::<bool>()), 0..200),
    ) {
        let (console, screen, _) = console();
        for (offset, len, value, write) in accesses {
            let before = screen.0.lock().unwrap().len();
            if write {
                console.port_write(offset, &vec![value; len]);
            } else {
                let mut data = vec![0; len];
                console.port_read(offset, &mut data);
                prop_assert!(len == 1 && offset < 8 || data.iter().all(|byte| *byte == 0xff));
            }
            prop_assert!(len == 1 || screen.0.lock().unwrap().len() == before);
            console.enqueue(&[value]);
        }
    }
}
