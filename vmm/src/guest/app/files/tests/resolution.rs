//! Finding paths: links, dots, mounts, lengths.

use std::os::unix::fs::symlink;

use nix::errno::Errno;

use super::{Follow, Grant, Removal, Renaming, World, list_all};
use crate::guest::app::files::{MAX_LINKS, NAME_MAX, PATH_MAX};

/// A world with a mount inside of another and a chain of links through both.
fn nested() -> World {
    World::with_grants(|host| {
        std::fs::create_dir_all(host.join("rw/below/hidden")).unwrap();
        std::fs::create_dir(host.join("inner")).unwrap();
        std::fs::write(host.join("inner/file"), "inner").unwrap();
        let grant = |guest: &str| Grant { host: host.join("inner"), guest: guest.into(), writable: true };
        vec![grant("/rw/below"), grant("/rw/absent")]
    })
}

#[test]
fn a_mount_covers_what_is_below_it() {
    let mut world = nested();
    assert_eq!(world.read("/rw/below/file").unwrap(), b"inner");
    assert_eq!(world.exists("/rw/below/hidden"), Err(Errno::ENOENT));
    assert_eq!(world.list("/rw/below").unwrap(), ["file"]);
}

#[test]
fn dots_at_a_mounts_root_lead_to_what_holds_the_mount() {
    let mut world = nested();
    world.write("/rw/above", b"above").unwrap();
    assert_eq!(world.read("/rw/below/../above").unwrap(), b"above");
    assert_eq!(world.read("/rw/below/.././below/./file").unwrap(), b"inner");
    world.change_directory("/rw/below").unwrap();
    assert_eq!(world.read("../above").unwrap(), b"above");
    world.change_directory("..").unwrap();
    assert_eq!(world.directory().unwrap(), "/rw");
    assert_eq!(world.exists("above/.."), Err(Errno::ENOTDIR));
    assert_eq!(world.exists("missing/.."), Err(Errno::ENOENT));
}

#[test]
fn links_cross_mounts_both_ways() {
    let mut world = nested();
    symlink("below/file", world.on_host("rw/into")).unwrap();
    symlink("../target", world.on_host("inner/out")).unwrap();
    symlink("/rw/below/out", world.on_host("rw/there-and-back")).unwrap();
    std::fs::write(world.on_host("rw/target"), "target").unwrap();
    assert_eq!(world.read("/rw/into").unwrap(), b"inner");
    assert_eq!(world.read("/rw/below/out").unwrap(), b"target");
    assert_eq!(world.read("/rw/there-and-back").unwrap(), b"target");
    assert_eq!(world.open("/rw/into", libc::O_RDONLY | libc::O_NOFOLLOW), Err(Errno::ELOOP));
    assert!(world.status("/rw/into", Follow::No).unwrap().is_symlink());
    assert!(!world.status("/rw/into", Follow::Yes).unwrap().is_symlink());
}

#[test]
fn mounts_are_listed_and_held_fast() {
    let mut world = nested();
    assert_eq!(world.list("/rw").unwrap(), ["absent", "below"]);
    assert!(world.list("/").unwrap().iter().any(|name| name == "proc"));
    for path in ["/rw/below", "/rw/absent", "/rw", "/tmp", "/"] {
        assert_eq!(world.remove(path, Removal::Directory), Err(Errno::EBUSY), "{path}");
        assert_eq!(world.make_directory(path), Err(Errno::EEXIST), "{path}");
    }
    assert_eq!(world.rename("/rw/below", "/rw/x", Renaming::default()), Err(Errno::EBUSY));
    world.make_directory("/rw/x").unwrap();
    assert_eq!(world.rename("/rw/x", "/rw/absent", Renaming::default()), Err(Errno::EBUSY));
    assert_eq!(world.rename("/rw/below/file", "/rw/file", Renaming::default()), Err(Errno::EXDEV));
}

#[test]
fn a_listing_goes_on_in_small_steps_and_from_the_start() {
    let mut world = nested();
    for name in 0..40 {
        std::fs::write(world.on_host(&format!("rw/{name}")), "").unwrap();
        world.write(&format!("/tmp/{name}"), b"").unwrap();
    }
    for (path, count) in [("/rw", 44), ("/tmp", 42), ("/proc/self", 20)] {
        let number = world.open(path, libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
        let file = world.file(number);
        for limit in [48, 4096] {
            let names = list_all(&file, limit).unwrap();
            let mut unique = names.clone();
            unique.sort();
            unique.dedup();
            assert_eq!((names.len(), unique.len()), (count, count), "{path} by {limit}");
            assert_eq!(file.directory().unwrap().seek(0, libc::SEEK_SET), Ok(0));
        }
        assert_eq!(file.directory().unwrap().read_entries(8), Err(Errno::EINVAL));
    }
}

#[test]
fn loops_end_at_the_limit() {
    let mut world = World::new();
    symlink("self", world.on_host("rw/self")).unwrap();
    symlink("b", world.on_host("rw/a")).unwrap();
    symlink("a", world.on_host("rw/b")).unwrap();
    for path in ["/rw/self", "/rw/a", "/rw/a/x", "/rw/self/."] {
        assert_eq!(world.exists(path), Err(Errno::ELOOP), "{path}");
    }
    assert_eq!(world.write("/rw/self", b""), Err(Errno::ELOOP));
    std::fs::write(world.on_host("rw/0"), "end").unwrap();
    for link in 1..=MAX_LINKS + 1 {
        symlink(format!("{}", link - 1), world.on_host(&format!("rw/{link}"))).unwrap();
    }
    assert_eq!(world.read(&format!("/rw/{MAX_LINKS}")).unwrap(), b"end");
    assert_eq!(world.read(&format!("/rw/{}", MAX_LINKS + 1)), Err(Errno::ELOOP));
    assert!(world.status("/rw/self", Follow::No).is_ok());
}

#[test]
fn lengths_are_those_of_linux() {
    let mut world = World::new();
    assert_eq!(world.exists(""), Err(Errno::ENOENT));
    for directory in ["/rw", "/tmp", "/proc"] {
        let fits = format!("{directory}/{}", "n".repeat(NAME_MAX));
        assert_eq!(world.exists(&fits), Err(Errno::ENOENT));
        assert_eq!(world.exists(&format!("{fits}n")), Err(Errno::ENAMETOOLONG), "{directory}");
    }
    world.make_directory(&format!("/tmp/{}", "n".repeat(NAME_MAX))).unwrap();
    assert_eq!(world.make_directory(&format!("/tmp/{}", "n".repeat(NAME_MAX + 1))), Err(Errno::ENAMETOOLONG));
    let slashes = |count: usize| "/".repeat(count);
    assert_eq!(world.exists(&slashes(PATH_MAX - 1)), Ok(()));
    assert_eq!(world.exists(&slashes(PATH_MAX)), Err(Errno::ENAMETOOLONG));
    assert_eq!(world.list("/rw").unwrap(), Vec::<String>::new());
}

#[test]
fn a_slash_at_the_end_wants_a_directory() {
    let mut world = World::new();
    for directory in ["/rw", "/tmp"] {
        let path = |name: &str| format!("{directory}/{name}");
        world.write(&path("file"), b"").unwrap();
        world.make_directory(&path("directory")).unwrap();
        world.make_symlink("directory", &path("to-directory")).unwrap();
        world.make_symlink("file", &path("to-file")).unwrap();
        assert_eq!(world.exists(&path("file/")), Err(Errno::ENOTDIR));
        assert_eq!(world.exists(&path("to-file/")), Err(Errno::ENOTDIR));
        assert_eq!(world.exists(&path("directory/")), Ok(()));
        assert!(world.status(&path("to-directory/"), Follow::No).unwrap().is_directory());
        assert!(world.status(&path("to-directory"), Follow::No).unwrap().is_symlink());
        assert_eq!(world.open(&path("new/"), libc::O_CREAT | libc::O_WRONLY), Err(Errno::EISDIR));
        assert_eq!(world.open(&path("file/"), libc::O_RDONLY), Err(Errno::ENOTDIR));
        assert_eq!(world.remove(&path("file/"), Removal::File), Err(Errno::ENOTDIR));
        assert_eq!(world.remove(&path("to-directory/"), Removal::Directory), Err(Errno::ENOTDIR));
        assert_eq!(world.make_directory(&path("made/")), Ok(()));
        assert_eq!(world.make_directory(&path(".")), Err(Errno::EEXIST));
        assert_eq!(world.remove(&path("made/."), Removal::Directory), Err(Errno::EINVAL));
        assert_eq!(world.remove(&path("made/.."), Removal::Directory), Err(Errno::ENOTEMPTY));
        assert_eq!(world.make_directory(&path("missing/.")), Err(Errno::ENOENT));
    }
}

#[test]
fn the_working_directory_follows_its_directory() {
    let mut world = World::new();
    for directory in ["/rw", "/tmp"] {
        let path = |name: &str| format!("{directory}/{name}");
        world.make_directory(&path("old")).unwrap();
        world.change_directory(&path("old")).unwrap();
        world.write("file", b"here").unwrap();
        world.rename(&path("old"), &path("new"), Renaming::default()).unwrap();
        assert_eq!(world.directory().unwrap(), path("new"));
        assert_eq!(world.read("file").unwrap(), b"here");
        world.remove(&path("new/file"), Removal::File).unwrap();
        world.remove(&path("new"), Removal::Directory).unwrap();
        assert_eq!(world.directory(), Err(Errno::ENOENT));
        assert_eq!(world.exists("file"), Err(Errno::ENOENT));
        world.change_directory("/").unwrap();
    }
}

#[test]
fn programs_find_the_systems_links() {
    let mut world = World::new();
    assert!(world.exists("/bin/sh").is_ok());
    assert!(world.exists("/lib64/ld-linux-x86-64.so.2").is_ok());
    assert!(world.read("/bin/sh").is_ok());
    // `/etc/alternatives` leads through two absolute links.
    assert!(world.exists("/usr/bin/awk").is_ok());
}

#[test]
fn grants_through_links_go_where_the_links_lead() {
    let mut world = World::with_grants(|host| {
        std::fs::create_dir_all(host.join("rw/real")).unwrap();
        symlink("real", host.join("rw/alias")).unwrap();
        std::fs::write(host.join("outside/granted"), "yes").unwrap();
        vec![Grant { host: host.join("outside"), guest: "/rw/alias/here".into(), writable: false }]
    });
    assert_eq!(world.read("/rw/real/here/granted").unwrap(), b"yes");
    assert_eq!(world.read("/rw/alias/here/granted").unwrap(), b"yes");
}

/// Linux has longer ones, reached by one directory after the other; here each open file has its path.
#[test]
fn no_path_is_longer_than_a_call_can_name() {
    let name = "x".repeat(NAME_MAX);
    let mut world = World::new();
    world.change_directory("/tmp").unwrap();
    let depth = (PATH_MAX - 1 - "/tmp".len()) / (1 + NAME_MAX);
    for _ in 0..depth {
        world.make_directory(&name).unwrap();
        world.change_directory(&name).unwrap();
    }
    let rest = PATH_MAX - 1 - "/tmp/".len() - depth * (1 + NAME_MAX);
    world.write(&name[..rest], b"here").unwrap();
    assert_eq!(world.write(&name[..=rest], b""), Err(Errno::ENAMETOOLONG));
    assert_eq!(world.make_directory(&name), Err(Errno::ENAMETOOLONG));
    assert_eq!(world.read(&name[..rest]).unwrap(), b"here");
    world.change_directory("..").unwrap();
}
