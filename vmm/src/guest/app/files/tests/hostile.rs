//! Random calls of a guest that wants out: nothing outside of the grants is read or changed.

use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::{Follow, Removal, Renaming, World};

/// One call. A path's first number says where it starts.
#[derive(Clone, Debug)]
enum Step {
    Read(String),
    Write(String),
    Remove(String, bool),
    Rename(String, String, bool),
    Link(String, String, bool),
    MakeSymlink(String, String),
    MakeDirectory(String),
    ChangeMode(String),
    ChangeDirectory(String),
    Keep(String),
}

/// Names that lead somewhere in [`trap`], in /proc, and upwards. `@` stands for the directory outside.
fn path() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(vec![
        "..",
        ".",
        "",
        "a",
        "b",
        "up",
        "out",
        "secret",
        "@",
        "up/secret",
        "out/secret",
        "@/secret",
        "../outside",
        "outside/secret",
        "root",
        "cwd",
        "fd/0",
        "proc/self",
        "rw",
        "ro",
        "tmp",
    ]);
    let start =
        proptest::sample::select(vec!["", "/", "/rw/", "/ro/", "/tmp/", "/proc/self/", "/proc/self/fd/0/"]);
    (start, proptest::collection::vec(name, 1..4))
        .prop_map(|(start, names)| format!("{start}{}", names.join("/")))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        path().prop_map(Step::Read),
        path().prop_map(Step::Write),
        (path(), any::<bool>()).prop_map(|(path, directory)| Step::Remove(path, directory)),
        (path(), path(), any::<bool>()).prop_map(|(from, to, exchange)| Step::Rename(from, to, exchange)),
        (path(), path(), any::<bool>()).prop_map(|(from, to, follow)| Step::Link(from, to, follow)),
        (path(), path()).prop_map(|(target, path)| Step::MakeSymlink(target, path)),
        path().prop_map(Step::MakeDirectory),
        path().prop_map(Step::ChangeMode),
        path().prop_map(Step::ChangeDirectory),
        path().prop_map(Step::Keep),
    ]
}

/// Links that would lead out if the host followed them.
fn trap(world: &World) {
    let outside = world.on_host("outside");
    for grant in ["rw", "ro"] {
        let at = |name: &str| world.on_host(grant).join(name);
        symlink("../outside", at("up")).unwrap();
        symlink(&outside, at("out")).unwrap();
        symlink(outside.join("secret"), at("secret")).unwrap();
        symlink("/proc/self/root", at("root")).unwrap();
        std::fs::create_dir(at("a")).unwrap();
    }
}

/// Does a step; what it read, if it did.
fn apply(world: &mut World, step: &Step) -> Option<Vec<u8>> {
    let outside = world.on_host("outside").to_str().unwrap().to_owned();
    let real = |path: &str| path.replace('@', &outside);
    match step {
        Step::Read(path) => return world.read(&real(path)).ok(),
        Step::Write(path) => {
            let _ = world.write(&real(path), b"changed");
        }
        Step::Remove(path, directory) => {
            let what = if *directory { Removal::Directory } else { Removal::File };
            let _ = world.remove(&real(path), what);
        }
        Step::Rename(from, to, exchange) => {
            let how = Renaming { exchange: *exchange, ..Renaming::default() };
            let _ = world.rename(&real(from), &real(to), how);
        }
        Step::Link(from, to, follow) => {
            let follow = if *follow { Follow::Yes } else { Follow::No };
            let _ = world.link(&real(from), &real(to), follow);
        }
        Step::MakeSymlink(target, path) => {
            let _ = world.make_symlink(&real(target), &real(path));
        }
        Step::MakeDirectory(path) => {
            let _ = world.make_directory(&real(path));
        }
        Step::ChangeMode(path) => {
            let _ = world.change_mode(&real(path), 0o777);
        }
        Step::ChangeDirectory(path) => {
            let _ = world.change_directory(&real(path));
        }
        Step::Keep(path) => {
            let _ = world.open(&real(path), libc::O_RDONLY | libc::O_NONBLOCK);
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn nothing_outside_is_read_or_changed(steps in proptest::collection::vec(step(), 1..60)) {
        use std::os::unix::fs::PermissionsExt;
        for mut world in [World::new(), World::over(|_| ())] {
        trap(&world);
        let secret = world.on_host("outside/secret");
        let mode = std::fs::metadata(&secret).unwrap().permissions().mode();
        for step in &steps {
            let read = apply(&mut world, step);
            prop_assert_ne!(read.as_deref(), Some(&b"secret"[..]), "{:?}", step);
        }
        prop_assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
        prop_assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode(), mode);
        let count = |name: &str| std::fs::read_dir(world.on_host(name)).unwrap().count();
        prop_assert_eq!((count("outside"), count("ro"), count("")), (1, 5, 3));
        if world.overlay {
            prop_assert_eq!(count("rw"), 5);
        }
        }
    }
}
