//! Nothing changes what wasn't granted for writing.

use nix::{errno::Errno, sys::time::TimeSpec};

use super::{Follow, Removal, Renaming, World};
use crate::guest::app::files::{At, OpenRequest, Times, facts::NoProcess};

fn filled() -> World {
    let world = World::new();
    std::fs::create_dir_all(world.on_host("ro/directory/empty")).unwrap();
    std::fs::write(world.on_host("ro/file"), "file").unwrap();
    std::os::unix::fs::symlink("file", world.on_host("ro/link")).unwrap();
    world
}

#[test]
fn every_change_is_refused() {
    let mut world = filled();
    std::fs::write(world.on_host("rw/file"), "").unwrap();
    let read_only = Err(Errno::EROFS);
    assert_eq!(world.make_directory("/ro/new"), read_only);
    assert_eq!(world.make_symlink("x", "/ro/new"), read_only);
    assert_eq!(world.link("/ro/file", "/ro/new", Follow::No), read_only);
    assert_eq!(world.remove("/ro/file", Removal::File), read_only);
    assert_eq!(world.remove("/ro/link", Removal::File), read_only);
    assert_eq!(world.remove("/ro/directory/empty", Removal::Directory), read_only);
    assert_eq!(world.rename("/ro/file", "/ro/new", Renaming::default()), read_only);
    assert_eq!(world.change_mode("/ro/file", 0o600), read_only);
    assert_eq!(world.change_mode("/ro/link", 0o600), read_only);
    assert_eq!(world.access("/ro/file", 2), read_only);
    assert_eq!(world.rename("/ro/file", "/rw/new", Renaming::default()), Err(Errno::EXDEV));
    assert_eq!(world.rename("/rw/file", "/ro/new", Renaming::default()), Err(Errno::EXDEV));
    assert_eq!(world.link("/ro/file", "/rw/new", Follow::No), Err(Errno::EXDEV));
    for follow in [Follow::Yes, Follow::No] {
        let times = Times { accessed: TimeSpec::new(1, 0), modified: TimeSpec::new(1, 0) };
        let at = world.files.at(libc::AT_FDCWD, b"/ro/link").unwrap();
        let caller = world.files.caller(&NoProcess);
        assert_eq!(world.files.view().change_times(&caller, &at, follow, &times), read_only);
        let me = (u32::MAX, u32::MAX);
        assert_eq!(world.files.view().change_owner(&caller, &at, follow, me), read_only);
    }
    for flags in [
        libc::O_WRONLY,
        libc::O_RDWR,
        libc::O_RDONLY | libc::O_TRUNC,
        libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC,
        libc::O_RDWR | libc::O_APPEND,
    ] {
        assert_eq!(world.open("/ro/file", flags), Err(Errno::EROFS), "{flags:#o}");
    }
    assert_eq!(world.open("/ro/new", libc::O_RDONLY | libc::O_CREAT), Err(Errno::EROFS));
    assert_eq!(world.open("/ro/directory", libc::O_RDWR | libc::O_TMPFILE), Err(Errno::EROFS));
    assert_eq!(std::fs::read(world.on_host("ro/file")).unwrap(), b"file");
    assert_eq!(std::fs::read_dir(world.on_host("ro")).unwrap().count(), 3);
}

#[test]
fn a_descriptor_is_no_way_around() {
    let mut world = filled();
    let number = world.open("/ro/file", libc::O_RDONLY).unwrap();
    let file = world.file(number);
    assert_eq!(file.check_changeable(), Err(Errno::EROFS));
    let fd = file.host().unwrap();
    assert_eq!(nix::unistd::write(fd, b"x"), Err(Errno::EBADF));
    assert_eq!(nix::unistd::ftruncate(fd, 0), Err(Errno::EINVAL));
    let number = world.open("/rw", libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
    assert_eq!(world.file(number).check_changeable(), Ok(()));
}

#[test]
fn what_is_or_is_not_there_comes_first() {
    let mut world = filled();
    assert_eq!(world.make_directory("/ro/directory"), Err(Errno::EEXIST));
    assert_eq!(world.make_directory("/ro/missing/new"), Err(Errno::ENOENT));
    assert_eq!(world.make_directory("/ro/file/new"), Err(Errno::ENOTDIR));
    assert_eq!(world.remove("/ro/missing", Removal::File), Err(Errno::ENOENT));
    assert_eq!(world.rename("/ro/missing", "/ro/new", Renaming::default()), Err(Errno::ENOENT));
    assert_eq!(world.open("/ro/missing/new", libc::O_WRONLY | libc::O_CREAT), Err(Errno::ENOENT));
    assert_eq!(world.open("/ro/file", libc::O_RDONLY | libc::O_CREAT | libc::O_EXCL), Err(Errno::EEXIST));
    assert!(world.open("/ro/file", libc::O_RDONLY | libc::O_CREAT).is_ok());
}

#[test]
fn the_system_and_the_synthesized_trees_refuse_too() {
    let world = World::new();
    for directory in ["/", "/usr", "/etc", "/usr/bin"] {
        let path = format!("{directory}/cairn-test");
        assert_eq!(world.make_directory(&path), Err(Errno::EROFS), "{path}");
    }
    for path in ["/proc/new", "/sys/new", "/dev/new"] {
        assert_eq!(world.make_directory(path), Err(Errno::EROFS), "{path}");
    }
    assert_eq!(world.remove("/proc/version", Removal::File), Err(Errno::EROFS));
    assert_eq!(world.change_mode("/etc/passwd", 0o666), Err(Errno::EROFS));
    let request = OpenRequest::new(libc::O_WRONLY | libc::O_CREAT, 0o666);
    for (path, error) in
        [("/new", Errno::EROFS), ("/etc/passwd", Errno::EROFS), ("/proc/version", Errno::EACCES)]
    {
        let at = At::new(crate::guest::app::files::GuestPath::root(), path.as_bytes());
        let opened = world.files.view().open(&world.files.caller(&NoProcess), &at, &request);
        assert_eq!(opened.err(), Some(error), "{path}");
    }
}
