//! The overlay over a granted directory, against the directory itself.

use std::path::Path;

use nix::errno::Errno;
use proptest::prelude::*;

use super::image::{Pages, restored};
use super::oracle::{Step, apply, picture, step};
use super::{Follow, Object, Removal, Renaming, World, list_all, read_at, write_to};

/// Some of all that there is on a disk.
pub(super) fn fill(root: &Path) {
    for directory in ["r", "r/a", "r/a/b", "r/a/b/c", "r/c"] {
        std::fs::create_dir(root.join(directory)).unwrap();
    }
    let bytes: Vec<u8> = (0..5_u8).flat_map(|byte| [byte + 1; 4096]).chain([9; 500]).collect();
    std::fs::write(root.join("r/a/b/a"), &bytes).unwrap();
    std::fs::write(root.join("r/b"), &bytes[..4096]).unwrap();
    std::fs::write(root.join("r/c/b"), "small").unwrap();
    std::fs::hard_link(root.join("r/c/b"), root.join("r/a/c")).unwrap();
    std::os::unix::fs::symlink("../c/b", root.join("r/a/a")).unwrap();
    std::os::unix::fs::symlink("b", root.join("r/c/c")).unwrap();
}

/// The host's directory as a whole, times too.
pub(super) fn on_host(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let content = if meta.is_dir() {
                pending.push(path.clone());
                String::new()
            } else if meta.is_symlink() {
                format!("{:?}", std::fs::read_link(&path).unwrap())
            } else {
                format!("{} {:?}", meta.len(), crc(&std::fs::read(&path).unwrap()))
            };
            let below = path.strip_prefix(root).unwrap().display();
            lines.push(format!("{below} {:o} {} {content}", meta.mode(), meta.nlink()));
        }
    }
    lines.sort();
    lines
}

fn crc(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

/// A world whose `/rw` is an overlay, and one whose `/rw` is such a directory itself.
pub(super) fn pair() -> (World, World) {
    let native = World::new();
    fill(&native.on_host("rw"));
    (World::over(fill), native)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn an_overlay_is_like_its_directory(steps in proptest::collection::vec(step(), 1..40)) {
        let (mut over, mut native) = pair();
        let before = on_host(&over.on_host("rw"));
        for step in steps {
            compare(&mut over, &mut native, &step)?;
        }
        prop_assert_eq!(picture(&mut over, "/rw"), picture(&mut native, "/rw"));
        prop_assert_eq!(on_host(&over.on_host("rw")), before, "the host's directory stays as it was");
    }

    #[test]
    fn an_overlay_comes_back_at_every_step(steps in proptest::collection::vec(step(), 1..20)) {
        let (mut over, mut native) = pair();
        let mut pages = Pages::default();
        for step in steps {
            compare(&mut over, &mut native, &step)?;
            let (image, _) = pages.take(&mut over);
            over = restored(&over, image, &pages).unwrap();
        }
        prop_assert_eq!(picture(&mut over, "/rw"), picture(&mut native, "/rw"));
    }
}

pub(super) fn compare(over: &mut World, native: &mut World, step: &Step) -> Result<(), TestCaseError> {
    let overlaid = apply(over, "/rw/r", step);
    let direct = apply(native, "/rw/r", step);
    prop_assert_eq!(&overlaid, &direct, "{:?}", step);
    Ok(())
}

#[test]
fn only_blocks_that_were_written_are_copied() {
    let mut world = World::over(|root| std::fs::write(root.join("big"), vec![1; 100 * 4096]).unwrap());
    let number = world.open("/rw/big", libc::O_RDWR).unwrap();
    let file = world.file(number);
    write_to(&file, Some(10 * 4096 + 100), &[2; 5000]).unwrap();
    let mut pages = Pages::default();
    let (image, given) = pages.take(&mut world);
    assert_eq!(given, 2);
    let mut expected = vec![1; 100 * 4096];
    expected[10 * 4096 + 100..][..5000].fill(2);
    let mut new = restored(&world, image, &pages).unwrap();
    for world in [&mut world, &mut new] {
        assert_eq!(read_at(&world.file(number), Some(0), 1 << 20).unwrap(), expected);
    }
    assert_eq!(std::fs::read(world.on_host("rw/big")).unwrap(), vec![1; 100 * 4096]);
}

#[test]
fn a_listing_shows_each_name_once_while_files_are_opened_and_replaced() {
    let mut world = World::over(|root| {
        for name in 0..60 {
            std::fs::write(root.join(format!("{name:03}")), "x").unwrap();
        }
    });
    world.remove("/rw/007", Removal::File).unwrap();
    world.write("/rw/new", b"new").unwrap();
    world.write("/rw/other", b"other").unwrap();
    world.rename("/rw/other", "/rw/050", Renaming::default()).unwrap();
    let number = world.open("/rw", libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
    let file = world.file(number);
    let mut names = Vec::new();
    loop {
        let records = file.directory().unwrap().read_entries(200).unwrap();
        if records.is_empty() {
            break;
        }
        for name in super::listed(&records) {
            if name.len() == 3 {
                world.write(&format!("/rw/{name}"), b"written meanwhile").unwrap();
            }
            names.push(name);
        }
    }
    names.sort();
    let mut expected: Vec<String> =
        (0..60).filter(|name| *name != 7).map(|name| format!("{name:03}")).collect();
    expected.extend([".", "..", "new"].map(str::to_owned));
    expected.sort();
    assert_eq!(names, expected);
    let directory = file.directory().unwrap();
    directory.seek(0, libc::SEEK_SET).unwrap();
    assert_eq!(list_all(&file, 4096).unwrap().len(), expected.len());
}

#[test]
fn a_file_that_is_open_sees_what_another_descriptor_writes() {
    let mut world = World::over(|root| std::fs::write(root.join("file"), [1; 8192]).unwrap());
    let reader = world.open("/rw/file", libc::O_RDONLY).unwrap();
    let reader = world.file(reader);
    let before = reader.status().unwrap();
    let writer = world.open("/rw/file", libc::O_WRONLY).unwrap();
    write_to(&world.file(writer), Some(5000), b"news").unwrap();
    world.rename("/rw/file", "/rw/moved", Renaming::default()).unwrap();
    assert_eq!(&read_at(&reader, Some(4998), 8).unwrap(), b"\x01\x01news\x01\x01");
    assert_eq!(reader.status().unwrap().inode, before.inode);
    assert_eq!(world.status("/rw/moved", Follow::Yes).unwrap().inode, before.inode);
    let Object::Memory(handle) = reader.object() else { panic!() };
    // A mapping shows it, too: the descriptor's own bytes are complete after it was asked for.
    let mut mapped = [0; 8];
    handle.map(&(4096..8192), true, |fd| nix::sys::uio::pread(fd, &mut mapped, 4998)).unwrap().unwrap();
    assert_eq!(&mapped, b"\x01\x01news\x01\x01");
}

#[test]
fn the_overlay_stays_within_its_budget() {
    let mut world = World::over(|root| std::fs::write(root.join("big"), vec![1; 4 << 20]).unwrap());
    let number = world.open("/rw/big", libc::O_RDWR).unwrap();
    let file = world.file(number);
    let mut written = 0;
    let error = loop {
        match write_to(&file, Some(written), &[2; 4096]) {
            Ok(()) => written += 4096,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Errno::ENOSPC);
    assert_eq!(written, super::PRIVATE_BYTES - 4096, "one page for the name");
    assert_eq!(read_at(&file, Some(written - 1), 2).unwrap(), [2, 1]);
    let Object::Memory(handle) = file.object() else { panic!() };
    handle.truncate(0).unwrap();
    write_to(&file, Some(0), &[3; 4096]).unwrap();
    assert_eq!(world.write("/tmp/other", &[0; 8192]), Ok(()));
}

/// ext4 gives its last name the largest position there is. What the overlay lists itself is behind that.
#[test]
fn a_listing_goes_on_after_the_hosts_last_name() {
    let mut world = World::over(|root| std::fs::write(root.join("old"), "x").unwrap());
    world.write("/rw/new", b"x").unwrap();
    let number = world.open("/rw", libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
    let file = world.file(number);
    assert_eq!(file.directory().unwrap().seek(i64::MAX, libc::SEEK_SET), Ok(i64::MAX));
    let names = super::list_all(&file, 4096).unwrap();
    assert!(names.contains(&"new".to_owned()), "{names:?}");
}
