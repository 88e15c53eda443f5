//! The memory tree against a real directory: the same random calls must end the same way.

use nix::errno::Errno;
use proptest::prelude::*;

use super::{Follow, Removal, Renaming, World};

/// One call, on paths below the tree's root.
#[derive(Clone, Debug)]
enum Step {
    MakeDirectory(String),
    MakeSymlink(String, String),
    Write(String, u8),
    Open(String, i32),
    Remove(String, Removal),
    Rename(String, String, Renaming),
    Link(String, String, Follow),
    ChangeMode(String, u32),
    ReadLink(String),
}

/// Few names, so that calls meet; with dots, slashes and missing directories.
fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        8 => proptest::sample::select(vec!["a", "b", "c"]),
        1 => proptest::sample::select(vec![".", ".."]),
    ];
    let names = proptest::collection::vec(name, 1..4);
    (names, any::<bool>(), 0..10).prop_map(|(names, slash, chance)| {
        let slash = if slash && chance == 0 { "/" } else { "" };
        format!("{}{slash}", names.join("/"))
    })
}

fn step() -> impl Strategy<Value = Step> {
    let removal = prop_oneof![Just(Removal::File), Just(Removal::Directory)];
    let follow = prop_oneof![Just(Follow::Yes), Just(Follow::No)];
    let renaming = (0..6).prop_map(|kind| Renaming { keep_existing: kind == 1, exchange: kind == 2 });
    let flags = proptest::sample::select(vec![
        libc::O_RDONLY,
        libc::O_RDONLY | libc::O_NOFOLLOW,
        libc::O_RDONLY | libc::O_DIRECTORY,
        libc::O_RDWR,
        libc::O_RDWR | libc::O_TRUNC,
        libc::O_WRONLY | libc::O_CREAT,
        libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL,
        libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW,
        libc::O_PATH,
        libc::O_PATH | libc::O_NOFOLLOW,
    ]);
    prop_oneof![
        3 => path().prop_map(Step::MakeDirectory),
        2 => (path(), path()).prop_map(|(target, path)| Step::MakeSymlink(target, path)),
        3 => (path(), any::<u8>()).prop_map(|(path, byte)| Step::Write(path, byte)),
        3 => (path(), flags).prop_map(|(path, flags)| Step::Open(path, flags)),
        3 => (path(), removal).prop_map(|(path, what)| Step::Remove(path, what)),
        4 => (path(), path(), renaming).prop_map(|(from, to, how)| Step::Rename(from, to, how)),
        2 => (path(), path(), follow).prop_map(|(from, to, follow)| Step::Link(from, to, follow)),
        1 => (path(), 0..0o1000_u32).prop_map(|(path, mode)| Step::ChangeMode(path, mode | 0o700)),
        1 => path().prop_map(Step::ReadLink),
    ]
}

fn apply(world: &mut World, root: &str, step: &Step) -> Result<String, Errno> {
    let at = |path: &str| format!("{root}/{path}");
    match step {
        Step::MakeDirectory(path) => world.make_directory(&at(path)).map(|()| String::new()),
        Step::MakeSymlink(target, path) => world.make_symlink(target, &at(path)).map(|()| String::new()),
        Step::Write(path, byte) => world.write(&at(path), &[*byte]).map(|()| String::new()),
        Step::Open(path, flags) => {
            let number = world.open(&at(path), *flags)?;
            let mode = world.file(number).status()?.mode & libc::S_IFMT;
            world.files.descriptors_mut().close(number)?;
            Ok(format!("{mode:o}"))
        }
        Step::Remove(path, what) => world.remove(&at(path), *what).map(|()| String::new()),
        Step::Rename(from, to, how) => world.rename(&at(from), &at(to), *how).map(|()| String::new()),
        Step::Link(from, to, follow) => world.link(&at(from), &at(to), *follow).map(|()| String::new()),
        Step::ChangeMode(path, mode) => world.change_mode(&at(path), *mode).map(|()| String::new()),
        Step::ReadLink(path) => world.read_link(&at(path)),
    }
}

/// Names, types, modes, links and contents of all that is below a directory.
fn picture(world: &mut World, root: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for name in world.list(&directory).unwrap() {
            let path = format!("{directory}/{name}");
            let status = world.status(&path, Follow::No).unwrap();
            let content = match status.kind() {
                libc::S_IFDIR => {
                    pending.push(path.clone());
                    String::new()
                }
                libc::S_IFLNK => world.read_link(&path).unwrap(),
                _ => format!("{:?}", world.read(&path).unwrap()),
            };
            let below = &path[root.len()..];
            lines.push(format!("{below} {:o} {} {content}", status.mode, status.links));
        }
    }
    lines.sort();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn memory_is_like_a_disk(steps in proptest::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        // One level down, so that `..` stays comparable.
        for root in ["/rw/r", "/tmp/r", "/rw/r/a", "/tmp/r/a"] {
            world.make_directory(root).unwrap();
        }
        for step in steps {
            let disk = apply(&mut world, "/rw/r", &step);
            let memory = apply(&mut world, "/tmp/r", &step);
            prop_assert_eq!(&disk, &memory, "{:?}", step);
        }
        prop_assert_eq!(picture(&mut world, "/rw"), picture(&mut world, "/tmp"));
    }
}
