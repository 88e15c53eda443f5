//! Ways out of the granted directories, none of which may work.

use std::os::unix::fs::symlink;

use cairn_test_host::skipped;
use nix::{
    errno::Errno,
    sys::stat::{Mode, SFlag, mknod},
    unistd::mkfifo,
};

use super::{Follow, Grant, Object, Removal, Renaming, World};
use crate::guest::app::files::{Layout, LayoutError};

/// `/rw` as a granted directory, and as an overlay over one.
fn both() -> [World; 2] {
    [World::new(), World::over(|_| ())]
}

#[test]
fn dots_end_at_the_guests_root() {
    for mut world in both() {
        for path in ["/rw/../outside/secret", "/../outside/secret", "/rw/../../../outside/secret"] {
            assert_eq!(world.read(path), Err(Errno::ENOENT), "{path}");
        }
        // From the grant's root, `..` is the guest's root and not the host's directory above.
        assert!(world.list("/rw/..").unwrap().contains(&"tmp".to_owned()));
        let directory = world.open("/rw", libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
        assert_eq!(world.open_at(directory, "../outside/secret", libc::O_RDONLY), Err(Errno::ENOENT));
        assert_eq!(world.open_at(directory, "../../../../etc/shadow", libc::O_RDONLY), Err(Errno::EACCES));
    }
}

#[test]
fn links_are_followed_in_the_guests_tree_only() {
    for mut world in both() {
        let secret = world.on_host("outside/secret");
        symlink(&secret, world.on_host("rw/absolute")).unwrap();
        symlink("../outside/secret", world.on_host("rw/relative")).unwrap();
        symlink("../outside", world.on_host("rw/directory")).unwrap();
        symlink(world.on_host("outside"), world.on_host("ro/directory")).unwrap();
        for path in ["/rw/absolute", "/rw/relative", "/rw/directory/secret", "/ro/directory/secret"] {
            assert_eq!(world.read(path), Err(Errno::ENOENT), "{path}");
            assert_eq!(world.exists(path), Err(Errno::ENOENT), "{path}");
            assert_eq!(world.access(path, 4), Err(Errno::ENOENT), "{path}");
            assert_eq!(world.change_mode(path, 0o777), Err(Errno::ENOENT), "{path}");
        }
        // Writing through a link that leads out makes nothing there.
        symlink(world.on_host("outside/new"), world.on_host("rw/dangling")).unwrap();
        assert_eq!(world.write("/rw/dangling", b"x"), Err(Errno::ENOENT));
        assert_eq!(world.write("/rw/directory/new", b"x"), Err(Errno::ENOENT));
        assert_eq!(world.remove("/rw/directory/secret", Removal::File), Err(Errno::ENOENT));
        assert_eq!(world.rename("/rw/directory/secret", "/rw/x", Renaming::default()), Err(Errno::ENOENT));
        assert!(!world.on_host("outside/new").exists());
        assert_eq!(std::fs::read(secret).unwrap(), b"secret");
    }
}

#[test]
fn a_link_to_root_shows_the_guests_root() {
    for mut world in both() {
        symlink("/", world.on_host("rw/root")).unwrap();
        let mut through = world.list("/rw/root").unwrap();
        assert!(through.contains(&"rw".to_owned()));
        through.retain(|name| name == "outside" || name == "boot" || name == "root");
        assert_eq!(through, Vec::<String>::new());
    }
}

#[test]
fn a_guest_made_link_leads_nowhere_new() {
    for mut world in both() {
        let secret = world.on_host("outside/secret").to_str().unwrap().to_owned();
        world.make_symlink(&secret, "/rw/made").unwrap();
        world.make_symlink(&secret, "/tmp/made").unwrap();
        for path in ["/rw/made", "/tmp/made"] {
            assert_eq!(world.read_link(path).unwrap(), secret);
            assert_eq!(world.read(path), Err(Errno::ENOENT));
        }
    }
}

/// What the walk found isn't believed when the file is opened: the kernel checks again.
#[test]
fn a_link_that_is_swapped_in_is_refused_by_the_kernel() {
    use crate::guest::app::files::{facts::NoProcess, view::End};
    for world in both() {
        std::fs::create_dir(world.on_host("rw/victim")).unwrap();
        std::fs::write(world.on_host("rw/victim/secret"), "mine").unwrap();
        let caller = world.files.caller(&NoProcess);
        let at = world.files.at(libc::AT_FDCWD, b"/rw/victim/secret").unwrap();
        let place = world.files.view().walk(&caller, &at, End::Follow).unwrap();
        let (mount, inside) = world.files.view().locate(&place).unwrap();
        assert!(mount.backend.status(&caller, inside, Follow::Yes).is_ok());

        std::fs::remove_dir_all(world.on_host("rw/victim")).unwrap();
        symlink(world.on_host("outside"), world.on_host("rw/victim")).unwrap();
        let request = crate::guest::app::files::OpenRequest::new(libc::O_RDONLY, 0);
        assert_eq!(mount.backend.open(&caller, inside, &request).err(), Some(Errno::ELOOP));
        assert_eq!(mount.backend.status(&caller, inside, Follow::Yes).err(), Some(Errno::ELOOP));
        assert_eq!(mount.backend.remove(inside, Removal::File).err(), Some(Errno::ELOOP));
        assert_eq!(mount.backend.change_mode(inside, 0).err(), Some(Errno::ELOOP));
        assert!(world.on_host("outside/secret").exists());
    }
}

#[test]
fn the_monitors_own_proc_is_out_of_reach() {
    let mut world = World::new();
    for path in ["/proc/self/mem", "/proc/3/root", "/proc/2", "/proc/self/task/2", "/proc/self/map_files"] {
        assert_eq!(world.read(path), Err(Errno::ENOENT), "{path}");
    }
    // The test's process is number 1 to itself; its root and directory are the guest's.
    assert_eq!(world.read_link("/proc/self/root").unwrap(), "/");
    assert_eq!(world.read_link("/proc/self/cwd").unwrap(), "/");
    assert_eq!(world.read("/proc/self/root/outside/secret"), Err(Errno::ENOENT));
    assert!(world.list("/proc/self/root/").unwrap().contains(&"rw".to_owned()));
    assert_eq!(world.read("/proc/self/cwd/../outside/secret"), Err(Errno::ENOENT));
    for number in 0..64 {
        let path = format!("/proc/self/fd/{number}");
        assert_eq!(world.read(&path), Err(Errno::ENOENT), "{path}");
        assert_eq!(world.read_link(&path), Err(Errno::ENOENT), "{path}");
    }
}

#[test]
fn links_to_proc_reach_the_guests_proc() {
    for mut world in both() {
        let own = std::process::id();
        symlink(format!("/proc/{own}/root/etc/shadow"), world.on_host("rw/process")).unwrap();
        symlink("/proc/self/fd/0", world.on_host("rw/input")).unwrap();
        symlink("/proc/self/mem", world.on_host("rw/memory")).unwrap();
        for path in ["/rw/process", "/rw/input", "/rw/memory"] {
            assert_eq!(world.read(path), Err(Errno::ENOENT), "{path}");
        }
    }
}

#[test]
fn a_descriptor_by_name_is_the_same_open_file() {
    let mut world = World::new();
    std::fs::write(world.on_host("ro/file"), "0123456789").unwrap();
    let number = world.open("/ro/file", libc::O_RDONLY).unwrap();
    // Opening it for writing gives no more than there is.
    let again = world.open(&format!("/dev/fd/{number}"), libc::O_RDWR).unwrap();
    assert!(std::sync::Arc::ptr_eq(&world.file(number), &world.file(again)));
    let fd = world.file(again);
    assert_eq!(nix::unistd::write(fd.host().unwrap(), b"x"), Err(Errno::EBADF));
    assert_eq!(world.read_link(&format!("/proc/self/fd/{number}")).unwrap(), "/ro/file");
}

#[test]
fn devices_in_granted_directories_stay_shut() {
    for mut world in both() {
        let null = libc::makedev(1, 3);
        let made = mknod(&world.on_host("rw/null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), null);
        let block = libc::makedev(7, 0);
        let made = made.and(mknod(
            &world.on_host("rw/loop"),
            SFlag::S_IFBLK,
            Mode::from_bits_truncate(0o666),
            block,
        ));
        if made == Err(Errno::EPERM) {
            // Without device nodes there is nothing to refuse. In a user namespace root can't make them either.
            skipped("this process may not make device nodes");
            return;
        }
        made.unwrap();
        for path in ["/rw/null", "/rw/loop"] {
            for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC] {
                assert_eq!(world.open(path, flags), Err(Errno::EACCES), "{path}");
            }
            assert!(world.exists(path).is_ok());
        }
    }
}

#[test]
fn pipes_and_sockets_with_names() {
    let mut world = World::new();
    mkfifo(&world.on_host("rw/pipe"), Mode::from_bits_truncate(0o666)).unwrap();
    mkfifo(&world.on_host("ro/pipe"), Mode::from_bits_truncate(0o666)).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(world.on_host("rw/socket")).unwrap();
    assert_eq!(world.open("/rw/socket", libc::O_RDWR), Err(Errno::ENXIO));
    assert!(world.open("/rw/pipe", libc::O_RDONLY | libc::O_NONBLOCK).is_ok());
    assert_eq!(world.open("/ro/pipe", libc::O_WRONLY | libc::O_NONBLOCK), Err(Errno::EROFS));
}

#[test]
fn dev_has_its_own_nodes_only() {
    let mut world = World::new();
    assert_eq!(world.read("/dev/mem"), Err(Errno::ENOENT));
    assert_eq!(world.read("/dev/kvm"), Err(Errno::ENOENT));
    assert_eq!(world.write("/dev/sda", b""), Err(Errno::EACCES));
    world.write("/dev/null", b"x").unwrap();
    assert_eq!(world.read("/dev/null").unwrap(), b"");
    assert!(world.read("/dev/zero").unwrap().iter().all(|byte| *byte == 0));
    let names = world.list("/dev").unwrap();
    assert_eq!(
        names,
        ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"]
    );
}

#[test]
fn files_that_not_every_user_may_read_are_refused() {
    let mut world = World::new();
    assert!(world.read("/etc/passwd").is_ok());
    for path in ["/etc/shadow", "/etc/gshadow", "/etc/ssl/private/key"] {
        let expected = if std::path::Path::new(path).exists() || path.contains("private") {
            [Errno::EACCES, Errno::ENOENT]
        } else {
            [Errno::ENOENT; 2]
        };
        assert!(expected.contains(&world.read(path).unwrap_err()), "{path}");
    }
    for directory in ["/root", "/home", "/boot", "/run", "/var/lib"] {
        assert_eq!(world.exists(directory), Err(Errno::ENOENT), "{directory}");
    }
}

#[test]
fn kernel_file_systems_cannot_be_granted_or_reached() {
    let grant = |host: &str| Layout {
        grants: vec![Grant { host: host.into(), guest: "/granted".into(), writable: false }],
        ..Layout::default()
    };
    for host in ["/proc", "/proc/self", "/sys"] {
        let error = grant(host).build().unwrap_err();
        assert!(matches!(error, LayoutError::Host { source: Errno::EINVAL, .. }), "{host}: {error}");
    }
    // All of the host: its mounts are not part of the grant.
    let mut world =
        World::with_grants(|_| vec![Grant { host: "/".into(), guest: "/host".into(), writable: false }]);
    for path in ["/host/proc/self/mem", "/host/proc/self/root/etc/shadow", "/host/sys/kernel", "/host/proc"] {
        assert_eq!(world.read(path), Err(Errno::EACCES), "{path}");
    }
    assert_eq!(world.exists("/host/proc/self/fd/0"), Err(Errno::EACCES));
}

#[test]
fn no_file_gets_a_set_user_id_bit() {
    use std::os::unix::fs::PermissionsExt;
    let mut world = World::new();
    let number = world.open("/rw/program", libc::O_CREAT | libc::O_RDWR).unwrap();
    assert!(matches!(world.file(number).object(), Object::Host(_)));
    world.change_mode("/rw/program", 0o6755).unwrap();
    let mode = std::fs::metadata(world.on_host("rw/program")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn an_overlay_publishes_no_set_user_id_bit_and_opens_no_pipe_of_the_host() {
    use std::os::unix::fs::PermissionsExt;
    let mut world = World::over(|root| mkfifo(&root.join("pipe"), Mode::from_bits_truncate(0o666)).unwrap());
    let records = tempfile::tempdir().unwrap();
    world.write("/rw/program", b"x").unwrap();
    world.change_mode("/rw/program", 0o6755).unwrap();
    for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY] {
        assert_eq!(world.open("/rw/pipe", flags | libc::O_NONBLOCK), Err(Errno::EACCES));
    }
    world.files.publish(records.path()).unwrap();
    let mode = std::fs::metadata(world.on_host("rw/program")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

/// A guest that gets these grants of a directory with the monitor's own in `state/cairn`, which has a key if `made`.
fn beside_a_key(
    made: bool,
    overlay: bool,
    grants: impl FnOnce(&std::path::Path) -> Vec<Grant>,
) -> Result<World, LayoutError> {
    let host = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::create_dir_all(host.path().join("state/beside")).unwrap();
    let own = host.path().join("state/cairn");
    if made {
        std::fs::create_dir_all(own.join("records")).unwrap();
        std::fs::write(own.join("key"), "key").unwrap();
    }
    let layout = Layout {
        grants: grants(host.path()),
        private_bytes: 1 << 20,
        overlay,
        hidden: vec![own],
        ..Layout::default()
    };
    let (view, start) = layout.build()?;
    let files = crate::guest::app::files::Files::new(view, super::Descriptors::empty(), &start).unwrap();
    Ok(World { host: host.into(), grants: Vec::new(), overlay, files })
}

fn grant(host: impl Into<std::path::PathBuf>, guest: &str, writable: bool) -> Grant {
    Grant { host: host.into(), guest: guest.into(), writable }
}

#[test]
fn the_monitors_own_directory_is_seen_through_no_grant() {
    for (writable, overlay) in [(false, false), (true, false), (true, true)] {
        let grants = |host: &std::path::Path| {
            symlink("state", host.join("link")).unwrap();
            vec![
                grant(host, "/all", writable),
                grant(host.join("link"), "/some", writable),
                grant(host, "/all/again", writable),
            ]
        };
        let mut world = beside_a_key(true, overlay, grants).unwrap();
        for own in [
            "/all/state/cairn",
            "/all/link/cairn",
            "/some/cairn",
            "/all/again/state/cairn",
            "/some/../some/cairn",
        ] {
            assert_eq!(world.list(own).unwrap(), [""; 0], "{own}");
            let inside = |name: &str| format!("{own}/{name}");
            assert_eq!(world.read(&inside("key")), Err(Errno::ENOENT), "{own}");
            assert_eq!(world.write(&inside("key"), b"forged"), Err(Errno::EROFS), "{own}");
            assert_eq!(world.write(&inside("publish-1.json"), b"forged"), Err(Errno::EROFS), "{own}");
            assert_eq!(world.make_directory(&inside("new")), Err(Errno::EROFS), "{own}");
            assert_eq!(world.remove(own, Removal::Directory), Err(Errno::EBUSY), "{own}");
        }
        // Nor is it moved away with what it is in, or replaced.
        let how = Renaming::default();
        assert_eq!(world.rename("/all/state", "/all/moved", how), Err(Errno::EBUSY));
        assert_eq!(world.rename("/all/state/beside", "/some/cairn", how), Err(Errno::EBUSY));
        assert_eq!(world.rename("/some/cairn", "/some/moved", how), Err(Errno::EBUSY));
        let exchange = Renaming { exchange: true, ..how };
        assert_eq!(world.rename("/some/beside", "/some/cairn", exchange), Err(Errno::EBUSY));
        assert_eq!(world.list("/some").unwrap(), ["beside", "cairn"]);
        assert_eq!(world.write("/some/beside/file", b"x").is_ok(), writable);
        assert_eq!(std::fs::read(world.on_host("state/cairn/key")).unwrap(), b"key");
    }
}

#[test]
fn the_monitors_own_directory_isnt_made_by_a_guest() {
    let mut world = beside_a_key(false, false, |host| vec![grant(host, "/all", true)]).unwrap();
    assert_eq!(world.write("/all/state/cairn/key", b"forged"), Err(Errno::EROFS));
    assert_eq!(world.make_symlink("beside", "/all/state/cairn"), Err(Errno::EEXIST));
    assert_eq!(world.rename("/all/state", "/all/moved", Renaming::default()), Err(Errno::EBUSY));
    assert_eq!(std::fs::read_dir(world.on_host("state/cairn")).unwrap().count(), 0);
    // Who may only read has no reason to make it.
    let mut world = beside_a_key(false, false, |host| vec![grant(host, "/all", false)]).unwrap();
    assert!(!world.on_host("state/cairn").exists());
    std::fs::create_dir(world.on_host("state/cairn")).unwrap();
    std::fs::write(world.on_host("state/cairn/key"), "key").unwrap();
    assert_eq!(world.read("/all/state/cairn/key"), Err(Errno::ENOENT));
}

#[test]
fn the_monitors_own_directory_cant_be_granted() {
    for own in ["state/cairn", "state/cairn/records", "link", "state/beside/../cairn/."] {
        let grants = |host: &std::path::Path| {
            symlink("state/cairn", host.join("link")).unwrap();
            vec![grant(host.join(own), "/own", false)]
        };
        let error = beside_a_key(true, false, grants).unwrap_err();
        assert!(matches!(error, LayoutError::Own { .. }), "{own}: {error}");
    }
    let elsewhere = beside_a_key(true, false, |host| vec![grant(host.join("state/beside"), "/own", true)]);
    assert_eq!(elsewhere.unwrap().write("/own/file", b"x"), Ok(()));
}
