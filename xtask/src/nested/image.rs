//! The bed's file system: an initramfs with this machine's userland, the workspace's programs and the kernels.
//!
//! An initramfs needs no disk, no driver for one and no root to make it. It is unpacked into memory at each start,
//! so that a run always begins alike.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::kernels::Kernel;
use super::programs::Placed;
use super::userland;
use crate::bed;
use crate::bed::job::Job;

/// What a kernel without /dev/kvm lacks, in the order of loading: paths below its modules, without extension.
const KVM_MODULES: &[&str] = &["virt/lib/irqbypass", "arch/x86/kvm/kvm", "arch/x86/kvm/kvm-amd"];
/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;

/// What goes into an image.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    /// The kernel that the bed itself runs.
    pub(crate) outer: &'a Kernel,
    /// The kernels for guests.
    pub(crate) guests: &'a [Kernel],
    pub(crate) programs: Vec<Placed>,
    pub(crate) job: &'a Job,
}

/// Writes the image to `path`.
///
/// # Errors
/// A file can't be read or the image can't be written.
pub(crate) fn write(path: &Path, contents: &Contents<'_>) -> Result<()> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut archive = Archive::new(BufWriter::with_capacity(BUFFER, file));
    // Not by its path: building the workspace may have put another file there.
    let own = fs::read("/proc/self/exe").context("reading xtask itself")?;
    archive.program(Path::new(bed::INIT), &own).context("packing xtask itself")?;
    archive.file(Path::new(bed::JOB), &contents.job.encode()).context("packing the job")?;
    for (number, module) in KVM_MODULES.iter().enumerate() {
        let source = contents.outer.module(module).with_context(|| format!("the kernel has no {module}"))?;
        let name = source.file_name().context("a module without a name")?.to_string_lossy();
        archive.copy(&source, &Path::new(bed::MODULES).join(format!("{number}-{name}")))?;
    }
    for (source, target) in &contents.programs {
        archive.copy(source, target)?;
    }
    for kernel in contents.guests {
        let there = Kernel::below(Path::new(bed::KERNELS), kernel.series);
        archive.copy(&kernel.image, &there.image)?;
        let modules = fs::read_dir(&kernel.modules);
        for entry in modules.with_context(|| format!("listing {}", kernel.modules.display()))? {
            let entry = entry?;
            archive.copy(&entry.path(), &there.modules.join(entry.file_name()))?;
        }
    }
    for path in userland::paths()? {
        archive.copy(&path, &path)?;
    }
    archive.finish().with_context(|| format!("writing {}", path.display()))?;
    Ok(())
}
