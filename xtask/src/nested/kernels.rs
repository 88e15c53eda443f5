//! Debian's stock cloud kernels: found by apt, downloaded, unpacked (not installed), and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use super::kept;
use crate::packages::{self, Installing};
use crate::process;

/// How the packages' names end. The "unsigned" ones hold the files themselves; the others only what signs them.
const SUFFIX: &str = "-cloud-amd64-unsigned";

/// What a guest needs for its devices and for swap, by their paths in the tree. Some kernels have some of them in
/// their image.
const GUEST_MODULES: &[&str] = &[
    "crypto/lzo-rle",
    "drivers/block/virtio_blk",
    "drivers/block/zram/zram",
    "drivers/char/hw_random/virtio-rng",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_ring",
    "lib/lz4/lz4_compress",
    "lib/lz4/lz4hc_compress",
    "mm/zsmalloc",
];

/// A series of kernels that Debian 12 has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Series {
    /// The release's own.
    #[value(name = "6.1")]
    V6_1,
    /// The newer one, from backports and security.
    #[value(name = "6.12")]
    V6_12,
}

impl Series {
    /// All series, oldest first.
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// As people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) series: Series,
    /// The bzImage.
    pub(crate) image: PathBuf,
    /// A directory of the modules that a guest loads: [`GUEST_MODULES`].
    pub(crate) modules: PathBuf,
    /// The tree of all its modules: what is below /lib/modules/VERSION/kernel of an installed one.
    pub(crate) tree: PathBuf,
}

impl Kernel {
    /// The kernel in a directory of kernels as [`get`] makes it, which needn't exist.
    pub(crate) fn below(kernels: &Path, series: Series) -> Self {
        Self::within(&kernels.join(series.name()), series)
    }

    fn within(directory: &Path, series: Series) -> Self {
        let [image, modules, tree] = ["vmlinuz", "modules", "tree"].map(|name| directory.join(name));
        Self { series, image, modules, tree }
    }

    /// The file of the module with this path in the tree, without extension; none if it isn't a module of this
    /// kernel, but a part of its image.
    pub(crate) fn module(&self, path: &str) -> Option<PathBuf> {
        let files = ["ko", "ko.xz"].map(|extension| self.tree.join(format!("{path}.{extension}")));
        files.into_iter().find(|file| file.exists())
    }
}

/// The newest kernel of `series`: from `kernels` if it was unpacked there before, else by apt.
///
/// # Errors
/// Apt doesn't know one or can't download it; says what to do.
pub(crate) fn get(kernels: &Path, series: Series, installing: Installing) -> Result<Kernel> {
    kept::once(&kernels.join(series.name()), |unfinished| {
        eprintln!(
            "fetching Debian's kernel {} (about 30 MB, once; it is unpacked, not installed)",
            series.name()
        );
        download(unfinished, series, installing)?;
        unpack(unfinished, &Kernel::within(unfinished, series))
    })?;
    Ok(Kernel::below(kernels, series))
}

/// Downloads the newest package into `directory`; as root with an update of apt's lists if they turn out old.
fn download(directory: &Path, series: Series, installing: Installing) -> Result<()> {
    if try_download(directory, series)? {
        return Ok(());
    }
    let package = format!("linux-image-{}.*{SUFFIX}", series.name());
    let missing = format!(
        "{package} is not to be had: apt doesn't know it, or can't download it, and it is not kept from an \
         earlier run in {}",
        directory.with_extension("").display()
    );
    if installing == Installing::Never || !packages::is_root()? {
        bail!("{missing}; update apt's lists (sudo apt-get update) and see to a network");
    }
    println!("apt-get could not download it with the package lists of this machine: updating the lists");
    if packages::update()? {
        ensure!(
            known(series)?.is_some(),
            "the package sources of this machine's release have no {package}: Debian 12's have one; --no-nested leaves \
             out what needs it"
        );
        if try_download(directory, series)? {
            return Ok(());
        }
    }
    bail!("{missing}; apt-get's output above says why. It needs Debian 12's package sources and a network")
}

/// The newest package of a series that apt's lists have.
fn known(series: Series) -> Result<Option<String>> {
    let names = process::output(Command::new("apt-cache").args(["pkgnames", "linux-image-"]))?;
    Ok(newest(String::from_utf8_lossy(&names).lines(), series).map(str::to_owned))
}

fn try_download(directory: &Path, series: Series) -> Result<bool> {
    let Some(package) = known(series)? else { return Ok(false) };
    let mut download = Command::new("apt-get");
    // Apt's own user may not write to this directory; a download for root needs no other user.
    download.args(["download", "--quiet", "-o", "APT::Sandbox::User=root", &package]);
    process::succeeds(download.current_dir(directory))
}

/// The package of the newest kernel of a series.
fn newest<'a>(packages: impl Iterator<Item = &'a str>, series: Series) -> Option<&'a str> {
    let prefix = format!("linux-image-{}.", series.name());
    packages
        .filter(|name| name.starts_with(&prefix) && name.ends_with(SUFFIX))
        .max_by_key(|name| numbers(name))
}

/// The numbers in a name, in order: "6.1.0-56" is newer than "6.1.0-9".
fn numbers(name: &str) -> Vec<u64> {
    name.split(|letter: char| !letter.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Unpacks the package in `directory`, and leaves there the kernel and nothing else.
fn unpack(directory: &Path, kernel: &Kernel) -> Result<()> {
    let package = only_entry(directory)?;
    let root = directory.join("package");
    let mut dpkg = Command::new("dpkg");
    ensure!(
        process::succeeds(dpkg.arg("-x").arg(&package).arg(&root))?,
        "{} can't be unpacked",
        package.display()
    );
    let version = only_entry(&root.join("lib/modules"))?;
    let release = version.file_name().context("a version without a name")?.to_string_lossy().into_owned();
    let image = root.join(format!("boot/vmlinuz-{release}"));
    for (from, to) in [(image, &kernel.image), (version.join("kernel"), &kernel.tree)] {
        fs::rename(&from, to).with_context(|| format!("{} has no {}", package.display(), from.display()))?;
    }
    fs::create_dir(&kernel.modules).context("creating the guest's modules")?;
    for module in GUEST_MODULES.iter().filter_map(|path| kernel.module(path)) {
        let name = module.file_name().context("a module without a name")?;
        fs::copy(&module, kernel.modules.join(name))
            .with_context(|| format!("copying {}", module.display()))?;
    }
    fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    fs::remove_file(&package).with_context(|| format!("removing {}", package.display()))?;
    fs::write(directory.join("release"), release).context("writing down which kernel it is")
}

fn only_entry(directory: &Path) -> Result<PathBuf> {
    let mut listing = fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let entry = listing.next().with_context(|| format!("{} is empty", directory.display()))??;
    ensure!(listing.next().is_none(), "{} holds more than one entry", directory.display());
    Ok(entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_series_is_found_by_number() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-60-amd64-unsigned",
            "linux-image-6.1.0-60-cloud-amd64",
            "linux-image-6.12.90+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
        ];
        assert_eq!(newest(names.into_iter(), Series::V6_1), Some(names[1]));
        assert_eq!(newest(names.into_iter(), Series::V6_12), Some(names[5]));
        assert_eq!(newest([].into_iter(), Series::V6_1), None);
    }
}
