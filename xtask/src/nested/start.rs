//! One run of the bed: kernels, image, machine, and what comes back.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Options;
use super::emulator::Emulator;
use super::image::{self, Contents};
use super::kernels::{self, Kernel, Series};
use super::programs::Placed;
use super::qemu::Machine;
use crate::bed;
use crate::bed::job::Job;
use crate::bed::report::Report;
use crate::packages::Installing;
use crate::process;

/// The bed's own directory, below cargo's.
///
/// # Errors
/// It can't be made.
pub(crate) fn directory() -> Result<PathBuf> {
    let directory = process::target()?.join("nested");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    Ok(directory)
}

/// Debian's kernels of all series, unpacked: their directory, and each of them.
///
/// # Errors
/// One isn't to be had.
pub(crate) fn all_kernels(installing: Installing) -> Result<(PathBuf, Vec<Kernel>)> {
    let directory = directory()?.join("kernels");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let all = Series::ALL.iter().map(|series| kernels::get(&directory, *series, installing));
    Ok((directory.clone(), all.collect::<Result<_>>()?))
}

/// Makes the image with `programs` and `job`, starts the bed and waits for its end: the status of the job.
///
/// # Errors
/// The bed couldn't be made or started, or ended without a status.
pub(crate) fn start(
    options: &Options,
    programs: Vec<Placed>,
    job: &Job,
    limit: Duration,
    installing: Installing,
) -> Result<u8> {
    let directory = directory()?;
    let _lock = lock(&directory)?;
    let emulator = Emulator::get(options.qemu, &directory, installing)?;
    let (kernels, guests) = all_kernels(installing)?;
    let outer = Kernel::below(&kernels, options.kernel);
    let initramfs = directory.join("bed.cpio");
    image::write(&initramfs, &Contents { outer: &outer, guests: &guests, programs, job })?;
    let megabytes = fs::metadata(&initramfs).context("the image")?.len() >> 20;
    eprintln!(
        "starting the bed: kernel {}, {} CPUs, an image of {megabytes} MiB; it takes about 10 s to come up",
        options.kernel.name(),
        options.cpus
    );
    let started = Instant::now();
    let machine = Machine {
        emulator: &emulator,
        kernel: &outer,
        initramfs: &initramfs,
        cpus: options.cpus,
        memory: options.memory,
        append: &options.append,
        terminal: job.terminal,
        limit,
        directory: &directory,
    };
    let report = run(&machine)?;
    eprintln!("the bed was on for {:.1} s", started.elapsed().as_secs_f64());
    save(&directory.join("out"), &report)?;
    report.end.map_err(|error| anyhow::anyhow!("the bed could not run it: {error}"))
}

/// Runs the machine, again if it broke before its job began.
fn run(machine: &Machine<'_>) -> Result<Report> {
    for _ in 0..bed::TRIES {
        if let Some(report) = machine.run()? {
            return Ok(report);
        }
        eprintln!("QEMU broke the bed's kernel while it started (before 8.1 it does at times); once more");
    }
    bail!("QEMU broke the bed's kernel {} times while it started", bed::TRIES)
}

/// One bed at a time in a directory: they share the image's file.
fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            eprintln!("another nested run uses {}; waiting for its end", directory.display());
            file.lock().context("waiting for the lock")?;
        }
        Err(fs::TryLockError::Error(error)) => bail!("locking {}: {error}", path.display()),
    }
    Ok(file)
}

/// Keeps the files that came out of the bed.
fn save(directory: &Path, report: &Report) -> Result<()> {
    for (name, content) in &report.files {
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("from the bed: {}", path.display());
    }
    Ok(())
}
