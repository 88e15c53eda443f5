//! A person at a Linux guest's console: a shell on a terminal, disks, and every way out.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::terminal::{KEY_INTERRUPT, KEYS_QUIT, Session};
use super::{COMMAND_LINE, Place};
use crate::bed;
use crate::nested::cpio::Archive;
use crate::nested::kernels::{Kernel, Series};
use crate::process;

/// A shell with everything that it needs in one static file.
const BUSYBOX: &str = "/usr/bin/busybox";
/// What the kernel starts with it.
const SCRIPT: &str = "/init-shell";
const SCRIPT_TEXT: &str = "\
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# A module that needs another one loads once that is there.
for round in 1 2 3 4 5; do
    for module in /modules/*; do insmod $module 2>/dev/null && rm $module; done
done
exec setsid cttyhack sh
";
/// Runs until Ctrl-C reaches it. When it says that it has begun, the terminal is its own.
const UNTIL_INTERRUPTED: &str =
    r#"sh -c 'trap "echo en\"\"ded; exit" INT; echo be""gun; while :; do sleep 1; done'"#;
/// What the guests are called.
const NAME: &str = "visited";
/// What cairn says once keys reach it.
const READY: &str = "Ctrl-A x ends the guest";
/// Bytes of the unit in which the guest writes to a disk, and of the disk.
const BLOCK: usize = 64 << 10;
const QCOW2_BYTES: u64 = 64 << 20;

/// A boot to a shell.
struct Visit {
    kernel: Series,
    cpus: u32,
    /// The shell's last command, and the exit status of cairn after it.
    end: (&'static str, i32),
    /// Blocks of the second disk that were written by the visits before, each with the same bytes.
    written: &'static [usize],
    /// The block from which on this one writes.
    writes: usize,
}

const VISITS: [Visit; 2] = [
    Visit { kernel: Series::V6_1, cpus: 2, end: ("poweroff -f", 0), written: &[], writes: 0 },
    Visit { kernel: Series::V6_12, cpus: 1, end: ("reboot -f", 122), written: &[0], writes: 500 },
];

/// Files of the guests.
struct Files {
    directory: PathBuf,
    /// Of what is on the first disk, without its padding, and is written to the second.
    length: u64,
    /// SHA-256 of that, and of the whole first disk.
    digests: [String; 2],
}

/// Visits guests; true if all went as it should.
///
/// # Errors
/// Nothing could be prepared.
pub(crate) fn run(place: &Place) -> Result<bool> {
    println!("\nat the console");
    fs::create_dir_all(&place.logs).with_context(|| format!("creating {}", place.logs.display()))?;
    let files = Files::make(place).context("preparing what guests with a shell need")?;
    let mut passed = true;
    for visit in &VISITS {
        let name = format!("a shell on kernel {}, {}", visit.kernel.name(), super::cpus(visit.cpus));
        passed &= told(&name, place, &|log| visit.make(place, &files, log));
    }
    passed &= told("quitting by Ctrl-A x", place, &|log| quit(place, &files, log));
    passed &= told("ending by SIGTERM", place, &|log| terminate(place, &files, log));
    fs::remove_dir_all(&files.directory).context("removing the guests' files")?;
    Ok(passed)
}

/// Does one thing and says how it went.
fn told(name: &str, place: &Place, session: &dyn Fn(&Path) -> Result<()>) -> bool {
    let log = place.logs.join(format!("console-{}.log", name.replace(',', "").replace(' ', "-")));
    for _ in 0..bed::TRIES {
        match session(&log) {
            Ok(()) => {
                println!("  ok {name}");
                return true;
            }
            Err(_) if place.emulated && process::last_lines(&log, usize::MAX).contains(bed::BROKEN_PATCH) => {
                println!("  QEMU broke the guest's kernel while it started; once more");
            }
            Err(error) => {
                println!("  FAILED {name}: {error:#}. All that came ({}):", log.display());
                println!("{}", process::last_lines(&log, super::LOG_LINES));
                return false;
            }
        }
    }
    println!("  FAILED {name}: QEMU broke the guest's kernel {} times", bed::TRIES);
    false
}

impl Visit {
    fn make(&self, place: &Place, files: &Files, log: &Path) -> Result<()> {
        let mut command = files.boot(place, self.kernel);
        command.args(["--cpus", &self.cpus.to_string()]);
        command.arg("--disk").arg(files.raw_disk(":ro")).arg("--disk").arg(files.qcow2());
        let mut shell = Session::start(command, log)?;
        shell.expect(READY)?;
        // Typed long before there is a shell, or a kernel that listens. What a terminal echoes isn't the answer.
        shell.ask("echo ahead-$((40 + 2))", "ahead-42")?;
        shell.ask("echo cpus-$(nproc)", &format!("cpus-{}", self.cpus))?;
        shell.ask(UNTIL_INTERRUPTED, "begun")?;
        shell.press(KEY_INTERRUPT)?;
        shell.expect("ended")?;
        shell.ask("echo awake-$((1 + 1))", "awake-2")?;
        asked_from_outside(place)?;
        shell.ask("echo random-$(head -c 16 /dev/hwrng | wc -c)", "random-16")?;
        let [written, whole] = &files.digests;
        shell.ask("sha256sum /dev/vda", &format!("{whole}  /dev/vda"))?;
        shell.ask("echo x >/dev/vda || echo refused-$((1 + 1))", "refused-2")?;
        for block in self.written {
            shell.ask(&files.digest_command(*block), written)?;
        }
        let block = self.writes;
        shell.ask(
            &format!(
                "dd if=/bin/busybox of=/dev/vdb bs={BLOCK} seek={block} conv=fsync; echo wr''itten; \
                 echo 3 >/proc/sys/vm/drop_caches"
            ),
            "written",
        )?;
        shell.ask(&files.digest_command(block), written)?;
        let (last, status) = self.end;
        shell.press(&format!("{last}\r"))?;
        shell.end(status)
    }
}

/// Asks the guest that runs at its socket, as `cairn ps`, `stats` and `checkpoint` do.
fn asked_from_outside(place: &Place) -> Result<()> {
    for (arguments, status, told) in [
        (&["ps"][..], 0, &[NAME, "linux"][..]),
        (&["ps", "--json"], 0, &[NAME, "up_ns"]),
        (&["stats", NAME], 0, &[NAME]),
        (&["checkpoint", NAME], 1, &["a Linux guest has no checkpoints of the whole"]),
        (&["rollback", NAME, "1"], 1, &["a Linux guest has no checkpoints of the whole"]),
    ] {
        let output = Command::new(&place.cairn).args(arguments).output().context("asking the guest")?;
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        ensure!(
            output.status.code() == Some(status) && told.iter().all(|word| said.contains(word)),
            "cairn {} ended with {}: {said}",
            arguments.join(" "),
            output.status
        );
    }
    Ok(())
}

fn quit(place: &Place, files: &Files, log: &Path) -> Result<()> {
    let mut session = Session::start(files.boot(place, Series::V6_12), log)?;
    session.expect(READY)?;
    session.press(KEYS_QUIT)?;
    session.end(0)
}

fn terminate(place: &Place, files: &Files, log: &Path) -> Result<()> {
    let mut session = Session::start(files.boot(place, Series::V6_12), log)?;
    session.expect(READY)?;
    session.signal(Signal::SIGTERM)?;
    session.end(128 + Signal::SIGTERM as i32)
}

impl Files {
    fn make(place: &Place) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("cairn-console-{}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
        let mut bytes = fs::read(BUSYBOX).with_context(|| format!("reading {BUSYBOX}"))?;
        let length = bytes.len() as u64;
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let raw = directory.join("raw");
        fs::write(&raw, bytes).context("the first disk")?;
        let digests = [digest(Path::new(BUSYBOX))?, digest(&raw)?];
        let files = Self { directory, length, digests };
        fs::write(files.qcow2(), qcow2(QCOW2_BYTES)).context("the second disk")?;
        for series in Series::ALL {
            files.make_initrd(place, series)?;
        }
        Ok(files)
    }

    fn make_initrd(&self, place: &Place, series: Series) -> Result<()> {
        let mut archive = Archive::new(File::create(self.initrd(series))?);
        archive.copy(Path::new(BUSYBOX), Path::new("/bin/busybox"))?;
        archive.file(Path::new(SCRIPT), SCRIPT_TEXT.as_bytes())?;
        let modules = Kernel::below(&place.kernels, series).modules;
        for entry in fs::read_dir(&modules).with_context(|| format!("listing {}", modules.display()))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("virtio") {
                archive.copy(&entry.path(), &Path::new("/modules").join(entry.file_name()))?;
            }
        }
        archive.finish()?;
        Ok(())
    }

    fn initrd(&self, series: Series) -> PathBuf {
        self.directory.join(format!("initrd-{}", series.name()))
    }

    fn raw_disk(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.directory.join("raw").display())
    }

    fn qcow2(&self) -> PathBuf {
        self.directory.join("qcow2")
    }

    fn boot(&self, place: &Place, series: Series) -> Command {
        let mut command = Command::new(&place.cairn);
        command.arg("boot").arg("--kernel").arg(Kernel::below(&place.kernels, series).image);
        command.arg("--initrd").arg(self.initrd(series)).args(["--memory", "256M", "--name", NAME]);
        command.args(["--append", &format!("{COMMAND_LINE} rdinit=/bin/busybox -- sh {SCRIPT}")]);
        command
    }

    /// Has the shell tell the digest of what is on the second disk from `block` on.
    fn digest_command(&self, block: usize) -> String {
        let length = self.length;
        format!("dd if=/dev/vdb bs={BLOCK} skip={block} 2>/dev/null | head -c {length} | sha256sum")
    }
}

/// The SHA-256 of a file, as the tool of that name writes it.
fn digest(path: &Path) -> Result<String> {
    let said = process::output(Command::new("sha256sum").arg(path))?;
    let said = String::from_utf8_lossy(&said).into_owned();
    said.split_whitespace().next().map(str::to_owned).context("sha256sum said nothing")
}

/// An empty qcow2 image of version 2 for a disk of `size` bytes, at most 512 MiB: header, table of reference counts,
/// a block of them, and the table of tables, a cluster each (docs/interop/qcow2.txt of QEMU).
fn qcow2(size: u64) -> Vec<u8> {
    const CLUSTER_BITS: u32 = 16;
    const CLUSTER: usize = 1 << CLUSTER_BITS;
    let cluster = |index: u64| index << CLUSTER_BITS;
    let mut image = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &2_u32.to_be_bytes());
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &cluster(3).to_be_bytes());
    put(48, &cluster(1).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(CLUSTER, &cluster(2).to_be_bytes());
    (0..4).for_each(|used| put(2 * CLUSTER + 2 * used, &1_u16.to_be_bytes()));
    image
}
