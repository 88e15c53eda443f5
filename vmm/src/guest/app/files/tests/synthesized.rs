//! What /proc and /sys say, and memory files' budget.

use std::sync::{Arc, Mutex};

use nix::errno::Errno;

use super::{PRIVATE_BYTES, Removal, World};
use crate::guest::app::files::{
    Bar, Descriptors, Files, Layout, Object, OpenRequest, PciIds, PciSysfs, facts::NoProcess,
};

#[test]
fn proc_has_what_programs_read() {
    let mut world = World::new();
    let mut text = |path: &str| String::from_utf8(world.read(path).unwrap()).unwrap();
    assert!(text("/proc/meminfo").starts_with("MemTotal:"));
    assert_eq!(text("/proc/cpuinfo").matches("processor\t").count(), 1);
    assert_eq!(text("/proc/self/stat").split(' ').count(), 52);
    assert_eq!(text("/proc/self/statm").split(' ').count(), 7);
    assert!(text("/proc/self/status").contains("\nVmRSS:"));
    assert_eq!(text("/proc/self/limits").lines().count(), 17);
    assert!(text("/proc/mounts").contains("cairn /rw cairn rw"));
    assert!(text("/proc/self/mountinfo").contains(" /ro ro - "));
    assert_eq!(text("/proc/thread-self/comm"), text("/proc/self/comm"));
    let (one, two) = (text("/proc/sys/kernel/random/uuid"), text("/proc/sys/kernel/random/uuid"));
    assert_eq!((one.len(), one.as_bytes()[14]), (37, b'4'));
    assert_ne!(one, two);
    assert_eq!(text("/sys/devices/system/cpu/online"), "0\n");
    assert_eq!(world.list("/sys/devices/system").unwrap(), ["cpu", "node"]);
    assert_eq!(world.read("/proc/sys/kernel"), Err(Errno::EISDIR));
    assert_eq!(world.read("/proc/version/x"), Err(Errno::ENOTDIR));
}

#[test]
fn descriptors_are_listed_as_the_guest_knows_them() {
    let mut world = World::new();
    world.write("/tmp/file", b"").unwrap();
    let number = world.open("/tmp/file", libc::O_RDONLY).unwrap();
    let directory = world.open("/rw", libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
    assert_eq!(world.list("/proc/self/fd").unwrap(), [number.to_string(), directory.to_string()]);
    assert_eq!(world.read_link(&format!("/proc/self/fd/{number}")).unwrap(), "/tmp/file");
    // A directory's link is a path, and what lies behind it is found in the guest's tree.
    world.write("/rw/inside", b"in").unwrap();
    assert_eq!(world.read(&format!("/proc/self/fd/{directory}/inside")).unwrap(), b"in");
    assert_eq!(world.read(&format!("/proc/self/fd/0{number}")), Err(Errno::ENOENT));
    assert_eq!(world.read("/proc/self/fd/99999999999"), Err(Errno::ENOENT));
}

#[derive(Debug)]
struct Function(Vec<u8>);

impl PciSysfs for Function {
    fn address(&self) -> String {
        "0000:00:01.0".to_owned()
    }

    fn ids(&self) -> PciIds {
        PciIds { vendor: 0x1af4, device: 0x10f0, class: 0xff_0000, revision: 1, ..PciIds::default() }
    }

    fn bars(&self) -> Vec<Bar> {
        vec![Bar { index: 0, address: 0x1_0000, size: 0x4000, flags: 0x200 }]
    }

    fn config_read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let start = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        buffer.len()
    }

    fn config_write(&mut self, offset: u64, bytes: &[u8]) {
        let start = usize::try_from(offset).unwrap();
        self.0[start..start + bytes.len()].copy_from_slice(bytes);
    }
}

fn with_function() -> World {
    let function = Arc::new(Mutex::new(Function(vec![0; 256])));
    let layout = Layout { private_bytes: PRIVATE_BYTES, functions: vec![function], ..Layout::default() };
    let (view, start) = layout.build().unwrap();
    let files = Files::new(view, Descriptors::empty(), &start).unwrap();
    World { host: tempfile::tempdir().unwrap().into(), grants: Vec::new(), overlay: false, files }
}

#[test]
fn sysfs_shows_the_function() {
    let mut world = with_function();
    let at = "/sys/bus/pci/devices/0000:00:01.0";
    assert_eq!(world.list("/sys/bus/pci/devices").unwrap(), ["0000:00:01.0"]);
    assert_eq!(world.read(&format!("{at}/vendor")).unwrap(), b"0x1af4\n");
    let resource = String::from_utf8(world.read(&format!("{at}/resource")).unwrap()).unwrap();
    let first = resource.lines().next().unwrap();
    assert_eq!(first, "0x0000000000010000 0x0000000000013fff 0x0000000000000200");
    assert_eq!(world.read(&format!("{at}/resource1")), Err(Errno::ENOENT));
    assert_eq!(world.read(&format!("{at}/resource0")), Err(Errno::EIO));
    assert_eq!(world.status(&format!("{at}/resource0"), super::Follow::Yes).unwrap().size, 0x4000);
}

#[test]
fn config_space_is_read_and_written_within_its_bounds() {
    let mut world = with_function();
    let number = world.open("/sys/bus/pci/devices/0000:00:01.0/config", libc::O_RDWR).unwrap();
    let file = world.file(number);
    let Object::Synthesized(config) = file.object() else { panic!("{file:?}") };
    assert_eq!(config.write(Some(254), &[1, 2, 3]), Ok(2));
    assert_eq!(config.write(Some(256), &[1]), Ok(0));
    assert_eq!(config.write(Some(u64::MAX), &[1]), Ok(0));
    assert_eq!(config.read(Some(253), 16), Ok(vec![0, 1, 2]));
    assert_eq!(config.read(Some(u64::MAX), 1), Ok(vec![]));
    assert_eq!(config.read(None, 4).map(|bytes| bytes.len()), Ok(4));
    assert_eq!(config.seek(0, libc::SEEK_CUR), Ok(4));
    assert_eq!(config.seek(-5, libc::SEEK_CUR), Err(Errno::EINVAL));
    assert_eq!(config.seek(i64::MAX, libc::SEEK_END), Err(Errno::EOVERFLOW));
    let number = world.open("/sys/bus/pci/devices/0000:00:01.0/config", libc::O_RDONLY).unwrap();
    let file = world.file(number);
    let Object::Synthesized(config) = file.object() else { panic!("{file:?}") };
    assert_eq!(config.write(Some(0), &[1]), Err(Errno::EBADF));
}

#[test]
fn memory_files_stay_within_their_budget() {
    let mut world = World::new();
    let number = world.open("/tmp/file", libc::O_RDWR | libc::O_CREAT).unwrap();
    let file = world.file(number);
    let Object::Memory(handle) = file.object() else { panic!("{file:?}") };
    // The name takes a page of its own.
    let left = PRIVATE_BYTES - 4096;
    let limit = i64::try_from(left).unwrap();
    assert_eq!(handle.truncate(limit), Ok(()));
    assert_eq!(handle.truncate(limit + 1), Err(Errno::ENOSPC));
    assert!(handle.reserve_write(Some(left - 1), 1).is_ok());
    assert_eq!(handle.reserve_write(Some(left), 1).err(), Some(Errno::ENOSPC));
    assert_eq!(handle.reserve_write(Some(u64::MAX), 1).err(), Some(Errno::EFBIG));
    assert_eq!(world.write("/dev/shm/other", b"x"), Err(Errno::ENOSPC));
    assert_eq!(world.make_directory("/tmp/directory"), Err(Errno::ENOSPC));
    assert_eq!(world.link("/tmp/file", "/tmp/second", super::Follow::No), Err(Errno::ENOSPC));
    // What is removed is given back with its last descriptor.
    world.remove("/tmp/file", Removal::File).unwrap();
    assert_eq!(world.write("/dev/shm/other", b"x"), Err(Errno::ENOSPC));
    assert_eq!(handle.status().unwrap().links, 0);
    world.files.descriptors_mut().close(number).unwrap();
    drop(file);
    assert_eq!(world.write("/dev/shm/other", b"x"), Ok(()));
}

#[test]
fn names_in_memory_stay_within_the_budget() {
    let world = World::new();
    let names = PRIVATE_BYTES / 4096;
    for number in 0..names {
        world.make_symlink("target", &format!("/tmp/{number}")).unwrap();
    }
    assert_eq!(world.make_symlink("target", "/tmp/more"), Err(Errno::ENOSPC));
    assert_eq!(world.rename("/tmp/0", "/tmp/renamed", super::Renaming::default()), Ok(()));
    world.remove("/tmp/renamed", Removal::File).unwrap();
    assert_eq!(world.make_directory("/tmp/more"), Ok(()));
}

#[test]
fn memory_files_keep_their_mode_and_flags() {
    let mut world = World::new();
    let at = world.files.at(libc::AT_FDCWD, b"/tmp/file").unwrap();
    let request = OpenRequest::new(libc::O_RDWR | libc::O_CREAT, 0o4666);
    let number = world.files.open(&NoProcess, &at, request, false).unwrap();
    assert_eq!(world.file(number).status().unwrap().mode, libc::S_IFREG | 0o644);
    let number = world.open("/tmp/file", libc::O_RDONLY).unwrap();
    assert_eq!(nix::unistd::write(world.file(number).host().unwrap(), b"x"), Err(Errno::EBADF));
    let number = world.open("/tmp", libc::O_RDWR | libc::O_TMPFILE).unwrap();
    assert_eq!(world.file(number).status().unwrap().links, 0);
    assert_eq!(world.list("/tmp").unwrap(), ["file"]);
}
