//! What a running guest says of itself: lines of a name and a value, the sessions' indented.
//!
//! ```text
//! name sqlite3
//! program /usr/bin/sqlite3
//! kind app
//! up_ns 1200000000
//! cpu_ns 80000000
//! exits 1500
//! calls_without_exit 800
//! session 0
//!   checkpoints 7
//!   mirror_bytes 4096
//! store
//!   written 7
//! ```
//!
//! A name's end says what its value counts: `_ns` nanoseconds, `_bytes` bytes; all others are plain numbers.

use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use cairn_abi::reply::{SessionFigures, StoreFigures};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::machine::name::GuestName;
use crate::machine::storing::StoreConfig;

/// What stays the same while a guest runs.
#[derive(Clone, Debug)]
pub struct About {
    name: GuestName,
    program: String,
    kind: &'static str,
    /// Where its store is, if it has one.
    directory: Option<String>,
    started: Instant,
}

impl About {
    /// A guest of this kind that starts now. What can't be printed is left out of the program's path.
    #[must_use]
    pub fn new(name: GuestName, program: &Path, kind: &'static str) -> Self {
        Self { name, program: printable(program), kind, directory: None, started: Instant::now() }
    }

    /// Its store is there.
    #[must_use]
    pub fn with_store(mut self, store: Option<&StoreConfig>) -> Self {
        self.directory = store.map(|store| {
            printable(&std::path::absolute(&store.directory).unwrap_or_else(|_| store.directory.clone()))
        });
        self
    }

    /// All that there is to say, with what the machine has `counted`, by name, the figures of the open sessions by
    /// their devices' numbers, and those of the store.
    #[must_use]
    pub fn status(
        &self,
        counted: impl IntoIterator<Item = (&'static str, u64)>,
        sessions: impl IntoIterator<Item = (usize, SessionFigures)>,
        store: Option<StoreFigures>,
    ) -> String {
        let mut text = format!("name {}\nprogram {}\nkind {}\n", self.name, self.program, self.kind);
        // Writing to a string doesn't fail.
        if let Some(directory) = &self.directory {
            let _ = writeln!(text, "store_directory {directory}");
        }
        let up = self.started.elapsed().as_nanos();
        // The vCPUs' time in the guest is the process's too.
        let usage = getrusage(UsageWho::RUSAGE_SELF).map(|usage| usage.user_time() + usage.system_time());
        let cpu = usage.map_or(0, |usage| usage.num_nanoseconds());
        let _ = writeln!(text, "up_ns {up}\ncpu_ns {cpu}");
        for (name, count) in counted {
            let _ = writeln!(text, "{name} {count}");
        }
        for (device, figures) in sessions {
            let _ = writeln!(text, "session {device}");
            for (name, value) in named(figures) {
                let _ = writeln!(text, "  {name} {value}");
            }
        }
        if let Some(figures) = store {
            text.push_str("store\n");
            for (name, value) in of_store(figures) {
                let _ = writeln!(text, "  {name} {value}");
            }
        }
        text
    }
}

fn printable(path: &Path) -> String {
    path.to_string_lossy().chars().filter(|c| !c.is_control()).collect()
}

/// Every figure with its name. Taken apart without `..`, so that none is forgotten here.
fn named(figures: SessionFigures) -> [(&'static str, u64); 19] {
    let SessionFigures {
        regions,
        retained,
        current,
        checkpoints,
        rollbacks,
        mirror_bytes,
        history_bytes,
        table_bytes,
        pages_compared,
        pages_changed,
        pages_protected,
        pages_open,
        pauses,
        pause_ns,
        longest_pause_ns,
        arming_ns,
        faults_avoided,
        faults_taken,
        compares_wasted,
    } = figures;
    [
        ("regions", regions.into()),
        ("checkpoints", checkpoints),
        ("retained", retained.into()),
        ("current", current),
        ("rollbacks", rollbacks),
        ("mirror_bytes", mirror_bytes),
        ("history_bytes", history_bytes),
        ("table_bytes", table_bytes),
        ("pages_compared", pages_compared),
        ("pages_changed", pages_changed),
        ("pages_protected", pages_protected),
        ("pages_open", pages_open),
        ("faults_avoided", faults_avoided),
        ("faults_taken", faults_taken),
        ("compares_wasted", compares_wasted),
        ("pauses", pauses),
        ("pause_ns", pause_ns),
        ("longest_pause_ns", longest_pause_ns),
        ("arming_ns", arming_ns),
    ]
}

/// Every figure of the store with its name, likewise.
fn of_store(figures: StoreFigures) -> [(&'static str, u64); 9] {
    let StoreFigures {
        written,
        synced,
        committed,
        bytes_written,
        bytes_queued,
        queued,
        level_of_all,
        failed,
        failed_errno,
    } = figures;
    [
        ("written", written),
        ("synced", synced),
        ("committed", committed),
        ("disk_bytes", bytes_written),
        ("queued", queued.into()),
        ("queue_bytes", bytes_queued),
        ("level_of_all", level_of_all.map_or(0, |level| level.to_u32().into())),
        ("last_failed", failed),
        ("last_errno", failed_errno.into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_names_and_values() {
        let figures = SessionFigures { checkpoints: 7, mirror_bytes: 4096, ..SessionFigures::default() };
        let about = About::new("a".parse().unwrap(), Path::new("a\x1b[31m\nb c"), "app");
        let text = about.status([("exits", 5)], [(3, figures)], None);
        assert!(text.starts_with("name a\nprogram a[31mb c\nkind app\nup_ns "), "{text}");
        assert!(text.contains("\nexits 5\nsession 3\n"), "{text}");
        assert!(text.contains("\nsession 3\n  regions 0\n  checkpoints 7\n"), "{text}");
        assert!(text.contains("\n  mirror_bytes 4096\n"), "{text}");
    }
}
