//! Which directories a guest sees, and where it starts.

use std::path::Path;

use nix::errno::Errno;

use super::{Grant, World};
use crate::guest::app::files::{Descriptors, Files, Layout, LayoutError};

/// A guest that starts in a directory of the host, below a temporary one.
fn started_in(directory: &str, grants: impl FnOnce(&Path) -> Vec<Grant>) -> World {
    // Not in /tmp, whose place in the guest is taken by private memory.
    let host = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::create_dir_all(host.path().join("project/data")).unwrap();
    std::fs::write(host.path().join("project/file"), "file").unwrap();
    let working_directory = match directory {
        absolute if absolute.starts_with('/') => absolute.into(),
        relative => host.path().join(relative),
    };
    let grants = grants(host.path());
    let layout = Layout {
        grants,
        working_directory,
        private_bytes: 1 << 20,
        functions: Vec::new(),
        overlay: false,
        checkpoints: None,
        hidden: Vec::new(),
    };
    let (view, start) = layout.build().unwrap();
    let files = Files::new(view, Descriptors::empty(), &start).unwrap();
    World { host: host.into(), grants: Vec::new(), overlay: false, files }
}

fn grant(host: &Path, guest: &Path, writable: bool) -> Grant {
    Grant { host: host.to_path_buf(), guest: guest.to_path_buf(), writable }
}

#[test]
fn the_working_directory_is_seen_read_only() {
    let mut world = started_in("project", |_| Vec::new());
    assert_eq!(world.directory().unwrap(), world.on_host("project").to_str().unwrap());
    assert_eq!(world.read("file").unwrap(), b"file");
    assert_eq!(world.write("new", b""), Err(Errno::EROFS));
    assert_eq!(world.list("..").unwrap(), ["project"]);
}

#[test]
fn a_grant_around_the_working_directory_decides_for_it() {
    let mut world = started_in("project", |host| vec![grant(host, host, true)]);
    assert_eq!(world.directory().unwrap(), world.on_host("project").to_str().unwrap());
    assert_eq!(world.write("new", b"x"), Ok(()));
    assert_eq!(std::fs::read(world.on_host("project/new")).unwrap(), b"x");
}

#[test]
fn a_grant_inside_the_working_directory_adds_to_it() {
    let inner = |host: &Path| {
        let data = host.join("project/data");
        vec![grant(&data, &data, true)]
    };
    let mut world = started_in("project", inner);
    assert_eq!(world.read("file").unwrap(), b"file");
    assert_eq!(world.write("data/new", b"x"), Ok(()));
    assert_eq!(world.write("new", b"x"), Err(Errno::EROFS));
}

#[test]
fn starting_in_a_place_of_its_own_shows_nothing_of_the_host() {
    for directory in ["/", "/tmp", "/proc", "/dev/shm"] {
        let world = started_in(directory, |_| Vec::new());
        assert_eq!(world.directory().unwrap(), directory);
        let secret = world.host.path().to_str().unwrap();
        assert_eq!(world.exists(secret), Err(Errno::ENOENT), "{directory}");
    }
}

#[test]
fn a_grant_at_the_root_brings_its_own_system() {
    let mut world = started_in("/", |host| vec![grant(&host.join("project"), Path::new("/"), false)]);
    assert_eq!(world.read("/file").unwrap(), b"file");
    assert_eq!(world.exists("/usr"), Err(Errno::ENOENT));
    assert_eq!(world.list("/").unwrap(), ["data", "dev", "file", "proc", "sys", "tmp"]);
}

#[test]
fn impossible_grants_are_named() {
    let layout = Layout { working_directory: "/missing/here".into(), ..Layout::default() };
    assert!(matches!(layout.build().unwrap_err(), LayoutError::Host { source: Errno::ENOENT, .. }));
    let build = |host: &str, guest: &str| {
        let grants = vec![grant(Path::new(host), Path::new(guest), false)];
        Layout { grants, ..Layout::default() }.build().map(drop).unwrap_err()
    };
    assert!(matches!(
        build("/missing", "/x"),
        LayoutError::Host { source: Errno::ENOENT, host } if host == Path::new("/missing")
    ));
    assert!(matches!(build("/etc/passwd", "/x"), LayoutError::Host { source: Errno::ENOTDIR, .. }));
    assert!(matches!(build("/usr", "x"), LayoutError::RelativeGuestPath(_)));
    assert!(matches!(build("/usr", "/etc/passwd/x"), LayoutError::MountPoint { source: Errno::ENOTDIR, .. }));
    assert!(matches!(build("/usr", "/proc/x"), LayoutError::MountPoint { source: Errno::EPERM, .. }));
    assert!(matches!(build("/usr", "/etc/missing/x"), LayoutError::MountPoint { source: Errno::ENOENT, .. }));
}

/// /proc is a mount in every host, so that a grant of the host's root ends there, and another one can go on.
#[test]
fn a_grant_at_another_mount_of_the_host() {
    for overlay in [false, true] {
        for guest in ["/host/proc", "/host/proc/sys"] {
            let data = tempfile::tempdir_in("/var/tmp").unwrap();
            let grants = vec![
                grant(Path::new("/"), Path::new("/host"), overlay),
                grant(data.path(), Path::new(guest), true),
            ];
            let layout = Layout { grants, private_bytes: 1 << 20, overlay, ..Layout::default() };
            let (view, start) = layout.build().unwrap();
            let files = Files::new(view, Descriptors::empty(), &start).unwrap();
            let mut world = World { host: data.into(), grants: Vec::new(), overlay, files };
            world.write(&format!("{guest}/file"), b"x").unwrap();
            assert_eq!(world.read(&format!("{guest}/file")).unwrap(), b"x");
            assert_eq!(
                world.read("/host/proc/self/comm"),
                Err(if guest == "/host/proc" { Errno::ENOENT } else { Errno::EACCES })
            );
            let listed = world.list("/host").unwrap();
            assert_eq!(listed.iter().filter(|name| *name == "proc").count(), 1);
        }
    }
}
