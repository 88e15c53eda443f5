//! Directories that look like sysfs, with devices that can and can't be used, and one that is driven to the
//! end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use cairn_abi::{CheckpointId, Reply, ReplyBody, Request};

use super::*;
use crate::client::Client;
use crate::fake::config::{config, good};
use crate::fake::serve;
use crate::registers::{Registers, common};
use crate::ring::Ring;
use crate::transport::{Patience, Transport};

/// A directory like `/sys/bus/pci/devices`, removed on drop.
struct Sysfs(PathBuf);

impl Sysfs {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("cairn-sysfs-{}-{number}", std::process::id()));
        fs::create_dir(&root).expect("a new directory");
        Self(root)
    }

    /// A function that the driver takes; its BAR is memory without behaviour.
    fn add(&self, name: &str) -> PathBuf {
        let directory = self.0.join(name);
        fs::create_dir(&directory).expect("a new directory");
        let write = |file: &str, bytes: &[u8]| fs::write(directory.join(file), bytes).expect("a new file");
        write("vendor", b"0x1af4\n");
        write("device", b"0x10f0\n");
        write("config", &config(&good()));
        write("resource", b"0x00000000fe000000 0x00000000fe003fff 0x0000000000040200\n");
        write("resource0", &bar());
        directory
    }

    fn find(&self) -> Result<Function, FindError> {
        Function::first_free(&self.0)
    }
}

impl Drop for Sysfs {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("the directory just made");
    }
}

/// Registers that need no behaviour to come up: both halves of the features read 1, of which one is
/// VERSION_1.
fn bar() -> Vec<u8> {
    let mut bytes = vec![0; 0x4000];
    bytes[common::DEVICE_FEATURE] = 1;
    bytes[common::NUM_QUEUES] = 1;
    bytes[common::QUEUE_SIZE] = 64;
    bytes[0x2000] = 1;
    bytes[0x3000..0x3002].fill(0xff);
    bytes
}

#[test]
fn a_machine_without_the_device_has_none() {
    let sysfs = Sysfs::new();
    assert!(matches!(sysfs.find(), Err(FindError::NoDevice { .. })));
    let other = sysfs.add("0000:00:01.0");
    for (vendor, device) in
        [("0x1af4\n", "0x1042\n"), ("0x8086\n", "0x10f0\n"), ("", ""), ("0x11af4\n", "1af4")]
    {
        fs::write(other.join("vendor"), vendor).expect("a file");
        fs::write(other.join("device"), device).expect("a file");
        assert!(matches!(sysfs.find(), Err(FindError::NoDevice { .. })));
    }
    fs::create_dir(sysfs.0.join("unplugged")).expect("a directory");
    assert!(matches!(sysfs.find(), Err(FindError::NoDevice { .. })));
    let error = Client::open_below(&sysfs.0.join("nothing")).expect_err("no directory at all");
    assert!(error.is_no_device());
}

#[test]
fn functions_are_taken_one_by_one_until_all_are() {
    let sysfs = Sysfs::new();
    let (second, first) = (sysfs.add("0000:00:02.0"), sysfs.add("0000:00:01.0"));
    let claims = [sysfs.find().expect("the first"), sysfs.find().expect("the second")];
    let me = std::process::id();
    let error = sysfs.find().expect_err("all are taken");
    assert!(matches!(&error, FindError::AllTaken { count: 2, owners } if *owners == [me, me]));
    let own = "taken by this program itself: use the session that it has, or CAIRN_ENGINE=user-compare";
    assert!(error.to_string().contains(own), "{error}");
    for (owners, text) in [
        (vec![me, 1], format!("taken by other sessions (of processes {me}, 1): end one")),
        (vec![me + 1], format!("taken by other sessions (of process {}): end one", me + 1)),
        (vec![], "taken by other sessions: end one".to_owned()),
    ] {
        let error = FindError::AllTaken { count: 2, owners };
        assert!(error.to_string().contains(&text), "{error}");
    }
    drop(claims);
    let function = sysfs.find().expect("free again");
    function.bar.write_u8(0x100, 0x77);
    assert_eq!(
        fs::read(first.join("resource0")).expect("the file")[0x100],
        0x77,
        "the lowest address is first"
    );
    assert_eq!(fs::read(second.join("resource0")).expect("the file")[0x100], 0);
}

#[test]
fn a_program_without_rights_finds_the_same_device() {
    let sysfs = Sysfs::new();
    let directory = sysfs.add("0000:00:01.0");
    fs::write(directory.join("config"), &config(&good())[..64]).expect("a file");
    assert_eq!(sysfs.find().expect("a device").layout, Layout::FIXED);
}

#[test]
fn a_device_that_cannot_be_used_is_told_unless_another_can() {
    let sysfs = Sysfs::new();
    let directory = sysfs.add("0000:00:01.0");
    fs::write(directory.join("config"), config(&good()[1..])).expect("a file");
    let error = sysfs.find().expect_err("a device without common configuration");
    assert!(matches!(error, FindError::Layout { source: LayoutError::Missing(_), .. }));
    let mut off = config(&good());
    off[4] = 0;
    fs::write(directory.join("config"), &off[..64]).expect("a file");
    let error = sysfs.find().expect_err("a device without memory decoding");
    assert!(matches!(error, FindError::Layout { source: LayoutError::DecodeOff, .. }));
    fs::write(directory.join("config"), config(&good())).expect("a file");
    fs::write(directory.join("resource"), "0xfe000000 0xfe000fff 0x200\n").expect("a file");
    let error = sysfs.find().expect_err("a BAR that is too small");
    assert!(matches!(error, FindError::Layout { source: LayoutError::Outside { .. }, .. }));
    fs::remove_file(directory.join("resource")).expect("the file");
    assert!(matches!(sysfs.find(), Err(FindError::File { action: "read", .. })));
    sysfs.add("0000:00:02.0");
    assert!(sysfs.find().is_ok());
}

#[test]
fn failures_of_the_resource_file_are_told_apart() {
    let path = PathBuf::from("/sys/bus/pci/devices/0000:00:01.0/resource0");
    let denied = cannot_open(path.clone(), io::ErrorKind::PermissionDenied.into());
    let text = denied.to_string();
    assert!(text.contains("0000:00:01.0/resource0") && text.contains("ATTR{device}==\"0x10f0\""), "{text}");
    assert!(matches!(cannot_open(path.clone(), io::ErrorKind::NotFound.into()), FindError::File { .. }));
    let map = |errno, lockdown: Option<&str>| cannot_map(path.clone(), errno, lockdown.map(str::to_owned));
    let locked = map(Errno::PERM, Some("none [integrity] confidentiality\n"));
    assert!(matches!(locked, FindError::Lockdown { .. }));
    assert!(locked.to_string().contains("none [integrity] confidentiality)"), "{locked}");
    assert!(matches!(map(Errno::PERM, None), FindError::Lockdown { .. }));
    let unlocked = map(Errno::PERM, Some("[none] integrity confidentiality\n"));
    assert!(matches!(unlocked, FindError::File { action: "mapped", .. }));
    assert!(matches!(map(Errno::INVAL, None), FindError::Busy { .. }));
    assert!(matches!(map(Errno::NOMEM, None), FindError::File { action: "mapped", .. }));
    let sysfs = Sysfs::new();
    fs::remove_file(sysfs.add("0000:00:01.0").join("resource0")).expect("the file");
    assert!(matches!(sysfs.find(), Err(FindError::File { action: "opened", .. })));
}

/// From the directory to a reply: the BAR is a file, the device a thread that maps it too.
#[test]
fn a_device_is_found_started_and_asked() {
    let sysfs = Sysfs::new();
    let resource = sysfs.add("0000:00:01.0").join("resource0");
    let Function { bar, layout, claim } = sysfs.find().expect("a device");
    let device_side = Bar::map(claim.file(), 0x4000).expect("a second mapping");
    let ring = Arc::new(Ring::new().expect("a page"));
    let stop = Arc::new(AtomicBool::new(false));
    let device = std::thread::spawn({
        let (ring, stop) = (ring.clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                if device_side.read_u16(0x3000) == 0 {
                    device_side.write_u16(0x3000, 0xffff);
                    serve(&ring, &mut |_| Reply::done(ReplyBody::Checkpoint(CheckpointId(3))));
                }
                std::thread::yield_now();
            }
        }
    });
    let patience = Patience { polling: 0, notified: 0, yielding: u32::MAX, between: u32::MAX };
    let mut transport = Transport::bring_up(Box::new(bar), &layout, ring, patience, Some(claim))
        .expect("a device that starts");
    let request =
        cairn_abi::Envelope { key: cairn_abi::SessionKey([0; 16]), cursor: 0, request: Request::Checkpoint };
    for _ in 0..10 {
        let reply = transport.call(&request).expect("a reply");
        assert_eq!(reply.body, ReplyBody::Checkpoint(CheckpointId(3)));
    }
    stop.store(true, Ordering::Relaxed);
    device.join().expect("the thread ends");
    assert!(matches!(sysfs.find(), Err(FindError::AllTaken { count: 1, .. })));
    assert_eq!(fs::read(&resource).expect("the file")[common::DEVICE_STATUS], 0x0f);
}
