//! The descriptor table against a simple model of it.

use std::{collections::BTreeMap, sync::Arc};

use nix::errno::Errno;
use proptest::prelude::*;

use super::World;
use crate::guest::app::files::{
    Descriptors, GuestPath, MAX_DESCRIPTORS, Object, OpenFile, PciBarHandle, facts::NoProcess,
};

fn file() -> Arc<OpenFile> {
    Arc::new(OpenFile::new(GuestPath::root(), true, Object::PciBar(PciBarHandle::default())))
}

#[derive(Clone, Debug)]
enum Step {
    Insert(bool),
    Close(i32),
    Duplicate(i32, i32),
    DuplicateTo(i32, i32),
    CloseRange(i32, i32),
    Limit(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let number = -1..12_i32;
    prop_oneof![
        any::<bool>().prop_map(Step::Insert),
        number.clone().prop_map(Step::Close),
        (number.clone(), number.clone()).prop_map(|(from, lowest)| Step::Duplicate(from, lowest)),
        (number.clone(), number.clone()).prop_map(|(from, to)| Step::DuplicateTo(from, to)),
        (0..12_i32, 0..12_i32).prop_map(|(first, last)| Step::CloseRange(first, last)),
        (4..12_u64).prop_map(Step::Limit),
    ]
}

/// What a number means, by the identity of its file.
type Model = BTreeMap<i32, (usize, bool)>;

fn lowest_free(model: &Model, lowest: i32, limit: i32) -> Option<i32> {
    (lowest..limit).find(|number| !model.contains_key(number))
}

proptest! {
    #[test]
    fn the_table_does_what_a_map_does(steps in proptest::collection::vec(step(), 1..60)) {
        let mut table = Descriptors::empty();
        let mut model = Model::new();
        let mut limit = i32::try_from(MAX_DESCRIPTORS).unwrap();
        for step in steps {
            match step {
                Step::Insert(on_exec) => {
                    let file = file();
                    let expected = lowest_free(&model, 0, limit).ok_or(Errno::EMFILE);
                    prop_assert_eq!(table.insert(Arc::clone(&file), on_exec), expected);
                    if let Ok(number) = expected {
                        model.insert(number, (Arc::as_ptr(&file).addr(), on_exec));
                    }
                }
                Step::Close(number) => {
                    let expected = model.remove(&number).map(drop).ok_or(Errno::EBADF);
                    prop_assert_eq!(table.close(number), expected);
                }
                Step::Duplicate(from, lowest) => {
                    let expected = match model.get(&from) {
                        None => Err(Errno::EBADF),
                        Some(_) if lowest < 0 || limit <= lowest => Err(Errno::EINVAL),
                        Some(_) => lowest_free(&model, lowest, limit).ok_or(Errno::EMFILE),
                    };
                    prop_assert_eq!(table.duplicate(from, lowest, false), expected);
                    if let Ok(number) = expected {
                        model.insert(number, (model[&from].0, false));
                    }
                }
                Step::DuplicateTo(from, to) => {
                    let possible = model.contains_key(&from) && (0..limit).contains(&to);
                    let expected = if possible { Ok(()) } else { Err(Errno::EBADF) };
                    prop_assert_eq!(table.duplicate_to(from, to, true), expected);
                    if possible {
                        model.insert(to, (model[&from].0, true));
                    }
                }
                Step::CloseRange(first, last) => {
                    table.close_range(first, last);
                    model.retain(|number, _| *number < first || last < *number);
                }
                Step::Limit(new) => {
                    table.set_limit(new);
                    limit = i32::try_from(new).unwrap();
                }
            }
            prop_assert!(table.numbers().eq(model.keys().copied()));
            for (number, (file, on_exec)) in &model {
                prop_assert_eq!(Arc::as_ptr(&table.get(*number).unwrap()).addr(), *file);
                prop_assert_eq!(table.close_on_exec(*number), Ok(*on_exec));
            }
        }
    }
}

#[test]
fn the_table_ends_at_its_limit() {
    let mut table = Descriptors::empty();
    table.set_limit(u64::MAX);
    for _ in 0..MAX_DESCRIPTORS {
        table.insert(file(), false).unwrap();
    }
    assert_eq!(table.insert(file(), false), Err(Errno::EMFILE));
    assert_eq!(table.get(i32::try_from(MAX_DESCRIPTORS).unwrap()).err(), Some(Errno::EBADF));
    assert_eq!(table.get(-1).err(), Some(Errno::EBADF));
    assert_eq!(table.get(i32::MAX).err(), Some(Errno::EBADF));
}

#[test]
fn copies_share_the_offset_and_opens_do_not() {
    let mut world = World::new();
    for path in ["/rw/file", "/tmp/file", "/proc/version"] {
        if path != "/proc/version" {
            world.write(path, b"0123456789").unwrap();
        }
        let first = world.open(path, libc::O_RDONLY).unwrap();
        let copy = world.files.descriptors_mut().duplicate(first, 0, false).unwrap();
        let other = world.open(path, libc::O_RDONLY).unwrap();
        let all = super::read_all(&world.file(first)).unwrap();
        assert_eq!(super::read_all(&world.file(copy)).unwrap(), b"");
        assert_eq!(super::read_all(&world.file(other)).unwrap(), all);
    }
}

/// A descriptor that the monitor opened and closed for it would take the locks of the whole process with it.
#[test]
fn cutting_a_file_by_its_path_leaves_its_locks() {
    use nix::fcntl::{FcntlArg, fcntl};
    let mut world = World::new();
    world.write("/rw/file", b"0123456789").unwrap();
    let number = world.open("/rw/file", libc::O_RDWR).unwrap();
    let file = world.file(number);
    let mut lock = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).unwrap(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file.host().unwrap(), FcntlArg::F_SETLK(&lock)).unwrap();
    let resize = |world: &World, path: &str, size| {
        world.run(path, |files, at| files.view().resize(&files.caller(&NoProcess), at, size))
    };
    assert_eq!(resize(&world, "/rw/file", 4), Ok(()));
    // A lock of an open file asks whether it meets the process's, which closing any descriptor of the file drops.
    let mut other = std::fs::File::open(world.on_host("rw/file")).unwrap();
    fcntl(&other, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    assert_eq!(i32::from(lock.l_type), libc::F_WRLCK);
    assert_eq!(std::io::read_to_string(&mut other).unwrap(), "0123");

    std::fs::write(world.on_host("ro/file"), "x").unwrap();
    for (path, expected) in [
        ("/ro/file", Errno::EROFS),
        ("/rw", Errno::EISDIR),
        ("/tmp", Errno::EISDIR),
        ("/rw/missing", Errno::ENOENT),
        ("/dev/null", Errno::EINVAL),
        ("/etc/passwd", Errno::EROFS),
    ] {
        assert_eq!(resize(&world, path, 0), Err(expected), "{path}");
    }
    assert_eq!(resize(&world, "/rw/file", -1), Err(Errno::EINVAL));
    std::os::unix::fs::symlink("file", world.on_host("rw/link")).unwrap();
    world.write("/tmp/file", b"0123").unwrap();
    for path in ["/rw/link", "/tmp/file"] {
        assert_eq!(resize(&world, path, 2), Ok(()), "{path}");
        assert_eq!(world.read(path).unwrap(), b"01");
    }
}
