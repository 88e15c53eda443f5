//! What things cost on this host: measured once per boot, and kept in the user's cache directory.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cairn_engine::HostCosts;

use crate::checkpoint::LogCosts;
use crate::kvm::system::System;
use crate::kvm::vm::WriteLog;
use crate::machine::engine_probe::{self, EngineProbeError};
use crate::machine::probe::{self, ProbeError};

/// The file's first line. Another version of the program measures anew.
const HEADER: &str = concat!("cairn host costs, version ", env!("CARGO_PKG_VERSION"));
/// Bytes of the file that are looked at: several times what is written.
const MOST_BYTES: u64 = 4096;
/// Nanoseconds that any of the figures can be: a tenth of a second. What says more wasn't measured here.
const MOST_NS: u32 = 100_000_000;

/// What one way of logging costs, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrackerFigures {
    /// The first write to a page after it was protected.
    pub fault_ns: u32,
    /// Protecting a page, in a call that protects many.
    pub protect_ns: u32,
    /// A call that protects one page.
    pub protect_call_ns: u32,
    /// Asking for the log of a small region.
    pub collect_ns: u32,
}

/// What was measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostFigures {
    /// A request that leaves the guest, to the host's user space and back.
    pub exit_ns: u32,
    /// Comparing a page in which nothing changed.
    pub compare_ns: u32,
    /// Comparing and taking a page that changed as a whole.
    pub copy_ns: u32,
    /// KVM's dirty bitmap.
    pub bitmap: TrackerFigures,
    /// Its dirty ring, where there is one.
    pub ring: Option<TrackerFigures>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// Not in a guest.
    #[error(transparent)]
    Guest(#[from] ProbeError),
    /// Not with the engine.
    #[error(transparent)]
    Engine(#[from] EngineProbeError),
}

impl HostFigures {
    /// Measures, which takes some tens of milliseconds on a quiet host.
    ///
    /// # Errors
    /// [`MeasureError`].
    pub fn measure(kvm: &System) -> Result<Self, MeasureError> {
        let (exit_ns, bitmap) = probe::measure_log(kvm, WriteLog::Bitmap)?;
        let ring = kvm.ring_entries().map(|entries| WriteLog::Ring { entries });
        let ring = ring.map(|log| probe::measure_log(kvm, log)).transpose()?.map(|(_, ring)| ring);
        let engine = engine_probe::measure()?;
        let figure = |nanoseconds: u64| u32::try_from(nanoseconds).unwrap_or(MOST_NS).clamp(1, MOST_NS);
        Ok(Self {
            exit_ns: figure(exit_ns),
            compare_ns: figure(engine.compare_ns),
            copy_ns: figure(engine.copy_ns),
            bitmap,
            ring,
        })
    }

    /// What was measured since the host started, if that was kept, or what is measured now. Where that fails, what
    /// is usual.
    #[must_use]
    pub fn or_usual(kvm: &System) -> Self {
        if let Some(kept) = cache_file().and_then(|file| read(&file)) {
            return kept;
        }
        match Self::measure(kvm) {
            Ok(measured) => {
                measured.keep();
                measured
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "what things cost here could not be measured");
                Self::default()
            }
        }
    }

    /// Keeps the figures for this boot, and answers where; not being able to costs the next guest's start some time.
    pub fn keep(&self) -> Option<PathBuf> {
        let file = cache_file()?;
        let kept = write(&file, &self.text());
        kept.inspect_err(|error| tracing::debug!(%error, file = %file.display(), "figures are not kept"))
            .ok()?;
        Some(file)
    }

    /// What the engine is told where `log` is used, and what the log itself costs.
    #[must_use]
    pub fn costs(&self, log: &TrackerFigures) -> (HostCosts, LogCosts) {
        let Self { exit_ns, compare_ns, copy_ns, .. } = *self;
        let TrackerFigures { fault_ns, protect_ns, protect_call_ns, collect_ns } = *log;
        let costs = HostCosts { exit_ns, fault_ns, protect_ns, compare_ns, copy_ns };
        (costs, LogCosts { collect_ns, protect_ns: protect_call_ns })
    }

    fn text(&self) -> String {
        let log = |log: &TrackerFigures| {
            format!("{} {} {} {}", log.fault_ns, log.protect_ns, log.protect_call_ns, log.collect_ns)
        };
        let ring = self.ring.as_ref().map_or("none".to_owned(), log);
        let Self { exit_ns, compare_ns, copy_ns, bitmap, .. } = self;
        format!(
            "{HEADER}\n{}\nengine {exit_ns} {compare_ns} {copy_ns}\nbitmap {}\nring {ring}\n",
            here(),
            log(bitmap)
        )
    }

    /// What the text of a file says, if all of it is as [`text`](Self::text) would write it on this host.
    fn parse(text: &str, here: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != HEADER || lines.next()? != here {
            return None;
        }
        let [exit_ns, compare_ns, copy_ns] = numbers(lines.next()?.strip_prefix("engine ")?)?;
        let bitmap = TrackerFigures::parse(lines.next()?.strip_prefix("bitmap ")?)?;
        let ring = match lines.next()?.strip_prefix("ring ")? {
            "none" => None,
            figures => Some(TrackerFigures::parse(figures)?),
        };
        lines.next().is_none().then_some(Self { exit_ns, compare_ns, copy_ns, bitmap, ring })
    }
}

impl TrackerFigures {
    fn parse(text: &str) -> Option<Self> {
        let [fault_ns, protect_ns, protect_call_ns, collect_ns] = numbers(text)?;
        Some(Self { fault_ns, protect_ns, protect_call_ns, collect_ns })
    }
}

impl Default for HostFigures {
    /// For a host that can't be measured, by the engine's defaults.
    fn default() -> Self {
        let HostCosts { exit_ns, fault_ns, protect_ns, compare_ns, copy_ns } = HostCosts::default();
        let bitmap = TrackerFigures { fault_ns, protect_ns, protect_call_ns: 2000, collect_ns: 5000 };
        Self { exit_ns, compare_ns, copy_ns, bitmap, ring: None }
    }
}

fn numbers<const COUNT: usize>(text: &str) -> Option<[u32; COUNT]> {
    let mut numbers = [0; COUNT];
    let mut words = text.split(' ');
    for number in &mut numbers {
        *number = words.next()?.parse().ok().filter(|ns| (1..=MOST_NS).contains(ns))?;
    }
    words.next().is_none().then_some(numbers)
}

/// One line that differs where the figures may: by host, kernel and boot.
fn here() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let machine = read("/etc/machine-id");
    let boot = read("/proc/sys/kernel/random/boot_id");
    format!("machine {machine} kernel {} boot {boot}", release.unwrap_or_default())
}

/// By the XDG base directory specification: relative paths don't count. Nor does a home that isn't there, as those of
/// users that are no persons: it is not this program's to make.
fn cache_file() -> Option<PathBuf> {
    let usable = |path: PathBuf| (path.is_absolute() && path.is_dir()).then_some(path);
    let variable = |name| std::env::var_os(name).map(PathBuf::from).and_then(usable);
    let directory = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(directory.join("cairn/host-costs"))
}

fn read(file: &Path) -> Option<HostFigures> {
    let mut text = String::new();
    // A fifo in its place must not stop the start.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(file).ok()?;
    file.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    HostFigures::parse(&text, &here())
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    // Another guest may start at the same time: whoever renames last has the same to say.
    let new = file.with_extension(std::process::id().to_string());
    let mut output = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = output.write_all(text.as_bytes()).and_then(|()| fs::rename(&new, file));
    written.inspect_err(|_| drop(fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(ring: bool) -> HostFigures {
        let ring = ring.then_some(TrackerFigures {
            fault_ns: 1,
            protect_ns: 2,
            protect_call_ns: 3,
            collect_ns: MOST_NS,
        });
        HostFigures { ring, ..HostFigures::default() }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("some/where/host-costs");
        assert_eq!(read(&file), None);
        for ring in [false, true] {
            write(&file, &figures(ring).text()).unwrap();
            assert_eq!(read(&file), Some(figures(ring)));
        }
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_was_not_written_here_and_now_is_not_believed() {
        let text = figures(true).text();
        assert!(HostFigures::parse(&text, &here()).is_some());
        assert!(HostFigures::parse(&text, "machine other").is_none());
        let line = |number: usize| text.lines().nth(number).unwrap();
        let changed = [
            text.replace("ring 1", "ring 0"),
            text.replace("ring 1", "ring -1"),
            text.replace(&MOST_NS.to_string(), &(MOST_NS + 1).to_string()),
            text.replace("ring 1 2", "ring 1"),
            text.replace("ring 1 2", "ring 1 2 3"),
            text.replace("ring 1 2", "ring  1 2"),
            text.replace(HEADER, "cairn host costs, version 0"),
            text.replace(line(2), ""),
            text.trim_end().to_owned(),
            format!("{text}\n"),
            format!("{text}more\n"),
            "\n".repeat(5),
            String::new(),
        ];
        for text in changed {
            assert_eq!(HostFigures::parse(&text, &here()), None, "{text}");
        }
        // Cutting the file off anywhere, and any byte that is not text.
        assert!((0..text.len()).all(|end| HostFigures::parse(&text[..end], &here()).is_none()));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [0xff; 100]).unwrap();
        assert_eq!(read(file.path()), None);
    }
}
