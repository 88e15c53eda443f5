//! Compaction: chains become short and the directory small while the store is in use.
//!
//! A step writes a checkpoint anew into a segment of its own: its newest layers in one, on what is below them. When
//! that is on the disk, the manifest is replaced, and from then on the checkpoint is there: what is older than it and
//! only it needed is gone, what is newer still leads to it. So the line between target and source that CEVM's merge
//! draws through a disk image (below the cursor in the target, above it in the source) is drawn here through the
//! chain, and moves by one rename. A death before that leaves a file that no manifest names.

pub(crate) mod merge;
pub(crate) mod plan;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use zerocopy::IntoBytes;

use crate::catalogue::layers_of;
use crate::compaction::merge::{MergeError, Target};
use crate::compaction::plan::{Goal, Step};
use crate::format::len64;
use crate::format::manifest::{Entry, Segment};
use crate::format::record::Mark;
use crate::format::segment::{SEGMENT_HEADER, SegmentHeader, file_name};
use crate::group::{QUICK, THOROUGH};
use crate::state::{Shared, lock};
use crate::{PAGE_SIZE, StoreError};

/// How far a compaction is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// Bytes of pages written anew in this step.
    pub done: u64,
    /// Bytes that the step reads at least: an estimate of `done` at its end.
    pub total: u64,
}

/// Compacts until the goal is reached or `go_on` says to stop.
pub(crate) fn run(
    shared: &Shared,
    goal: Goal,
    go_on: &mut dyn FnMut(Progress) -> bool,
) -> Result<(), StoreError> {
    let _alone = lock(&shared.compacting);
    loop {
        let (step, store) = {
            let state = shared.state();
            (plan::next(&state, &shared.options, goal, &shared.directory)?, state.manifest.store)
        };
        let Some(step) = step else { return Ok(()) };
        if !one(shared, goal, &step, store, go_on)? {
            return Ok(());
        }
    }
}

/// Does one step, and answers whether it got through.
fn one(
    shared: &Shared,
    goal: Goal,
    step: &Step,
    store: [u8; 16],
    go_on: &mut dyn FnMut(Progress) -> bool,
) -> Result<bool, StoreError> {
    if step.merges.is_empty() {
        shared.replace(|state| state.manifest.oldest_kept = step.oldest_kept)?;
        return Ok(true);
    }
    let number = shared.number();
    let name = file_name(number);
    let written = write(shared, goal, step, store, number, go_on);
    let (entries, length) = match written {
        Ok(written) => written,
        Err(error) => {
            // No manifest names it; if it can't be deleted, the next writer does.
            let _ = shared.disk.remove(&name);
            return match error {
                MergeError::Read(error) => Err(error),
                MergeError::Write(error) => {
                    Err(StoreError::io("write", &shared.directory.join(&name), error))
                }
                MergeError::Stopped => Ok(false),
            };
        }
    };
    let replaced = shared.replace(|state| {
        state.manifest.segments.push(Segment { number: number.into(), length: length.into() });
        for entry in &entries {
            state.entries.insert(entry.id.get(), *entry);
        }
        state.manifest.oldest_kept = state.manifest.oldest_kept.max(step.oldest_kept);
    });
    replaced.inspect_err(|_| drop(shared.disk.remove(&name)))?;
    Ok(true)
}

/// Writes the step's checkpoints into segment `number`, so that they are on the disk.
fn write(
    shared: &Shared,
    goal: Goal,
    step: &Step,
    store: [u8; 16],
    number: u64,
    go_on: &mut dyn FnMut(Progress) -> bool,
) -> Result<(Vec<Entry>, u64), MergeError> {
    let file = shared.disk.create(&file_name(number))?;
    file.write_at(0, SegmentHeader::new(store, number).as_bytes())?;
    let level = if goal == Goal::Tight { THOROUGH } else { QUICK };
    let mut target =
        Target { file: &*file, mark: Mark::of(store), segment: number, end: len64(SEGMENT_HEADER), level };
    let mut progress = Progress { done: 0, total: step.merges.iter().map(plan::Merge::bytes).sum() };
    let mut count = |pages: u64| {
        progress.done += pages * len64(PAGE_SIZE);
        go_on(progress)
    };
    let mut entries = Vec::new();
    for merge in &step.merges {
        let layers = layers_of(&shared.directory, store, &merge.chain)?;
        entries.push(merge::write(&mut target, merge, layers, &mut count)?);
    }
    let length = target.end;
    file.sync()?;
    shared.disk.sync_directory()?;
    Ok((entries, length))
}

/// The thread that compacts beside the writer.
#[derive(Debug)]
pub(crate) struct Compactor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Compactor {
    pub(crate) fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (own, ends) = (Arc::clone(&shared), Arc::clone(&stop));
        let thread =
            std::thread::Builder::new().name("compaction".to_owned()).spawn(move || serve(&own, &ends))?;
        Ok(Self { stop, thread: Some(thread), shared })
    }

    /// Says that there may be something to do.
    pub(crate) fn wake(&self) {
        lock(&self.shared.work).wanted = true;
        self.shared.changed.notify_all();
    }

    /// Waits until the thread has looked at all that was committed before this call.
    pub(crate) fn wait(&self) {
        let mut work = lock(&self.shared.work);
        // One round may have begun before.
        let wanted = work.rounds + 2;
        while work.rounds < wanted && !work.stop {
            work.wanted = true;
            self.shared.changed.notify_all();
            work = self.shared.changed.wait(work).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        lock(&self.shared.work).stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the compaction of {} panicked", self.shared.directory.display());
        }
    }
}

fn serve(shared: &Shared, stop: &AtomicBool) {
    // An error is told once, and again after a success.
    let mut told = false;
    loop {
        {
            let mut work = lock(&shared.work);
            while !work.wanted && !work.stop {
                work = shared.changed.wait(work).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            if work.stop {
                return;
            }
            work.wanted = false;
        }
        match run(shared, Goal::Bounded, &mut |_| !stop.load(Ordering::Relaxed)) {
            Ok(()) => told = false,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    let path = shared.directory.display();
                    tracing::warn!("{path} can't be compacted and grows meanwhile: {}", chained(&error));
                }
            }
        }
        lock(&shared.work).rounds += 1;
        shared.changed.notify_all();
    }
}

/// An error with its causes.
fn chained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
