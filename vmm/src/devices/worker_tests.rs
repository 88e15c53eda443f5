//! Tests of the thread that serves a queue: its ends.

use std::sync::mpsc;

use super::*;
use crate::memory::ram::MIN_BYTES;
use crate::virtio::interrupts::MsiSink;

#[derive(Debug)]
struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _address: u64, _data: u32) {}
}

fn worker(server: impl Server) -> Worker {
    let ram = Arc::new(Ram::new(MIN_BYTES).unwrap());
    let interrupts = Arc::new(Interrupts::new(1, Arc::new(Nowhere)));
    Worker::spawn("test", Box::new(server), ram, interrupts, || Ok(())).unwrap()
}

/// Says when it's gone.
struct Mortal(mpsc::Sender<()>);

impl Server for Mortal {
    fn serve(&mut self, _: &GuestMemoryMmap<FrameMarks>, _: u64, _: &Buffers) -> u32 {
        0
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.0.send(()).unwrap();
    }
}

#[test]
fn dropping_the_worker_ends_the_thread_and_what_it_owns() {
    let (gone, is_gone) = mpsc::channel();
    let worker = worker(Mortal(gone));
    worker.notify();
    assert!(is_gone.try_recv().is_err());
    drop(worker);
    assert!(is_gone.try_recv().is_ok());
}

#[test]
fn without_a_queue_nothing_is_served_and_stopping_is_harmless() {
    let (gone, _is_gone) = mpsc::channel();
    let worker = worker(Mortal(gone));
    worker.notify();
    worker.stop();
    worker.stop();
    assert!(!worker.is_broken());
}
