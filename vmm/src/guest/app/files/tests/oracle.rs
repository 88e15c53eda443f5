//! The memory tree against a real directory: the same random calls must end the same way.

use nix::errno::Errno;
use proptest::prelude::*;

use super::super::Times;
use super::{Follow, Object, OpenFile, Removal, Renaming, World};

/// One call, on paths below the tree's root.
#[derive(Clone, Debug)]
pub(super) enum Step {
    MakeDirectory(String),
    MakeSymlink(String, String),
    Write(String, u8),
    Open(String, i32),
    Remove(String, Removal),
    Rename(String, String, Renaming),
    Link(String, String, Follow),
    ChangeMode(String, u32),
    ReadLink(String),
    /// Bytes at an offset.
    Put(String, u32, u32, u8),
    Cut(String, u32),
    ReadAt(String, u32, u32),
    Times(String, i64, Follow),
    List(String),
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

pub(super) fn step() -> impl Strategy<Value = Step> {
    let removal = prop_oneof![Just(Removal::File), Just(Removal::Directory)];
    let follow = prop_oneof![Just(Follow::Yes), Just(Follow::No)];
    let follow_times = prop_oneof![Just(Follow::Yes), Just(Follow::No)];
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
        4 => (path(), 0..30_000_u32, 1..9_000_u32, any::<u8>())
            .prop_map(|(path, at, length, byte)| Step::Put(path, at, length, byte)),
        2 => (path(), 0..30_000_u32).prop_map(|(path, size)| Step::Cut(path, size)),
        3 => (path(), 0..30_000_u32, 0..20_000_u32).prop_map(|(path, at, length)| Step::ReadAt(path, at, length)),
        1 => (path(), 0..1_000_000_i64, follow_times).prop_map(|(path, time, follow)| Step::Times(path, time, follow)),
        2 => path().prop_map(Step::List),
    ]
}

pub(super) fn apply(world: &mut World, root: &str, step: &Step) -> Result<String, Errno> {
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
        Step::Put(path, offset, length, byte) => {
            let bytes = vec![*byte; *length as usize];
            open_and(world, &at(path), libc::O_WRONLY, |file| {
                super::write_to(file, Some((*offset).into()), &bytes).map(|()| String::new())
            })
        }
        Step::Cut(path, size) => open_and(world, &at(path), libc::O_WRONLY, |file| {
            match file.object() {
                Object::Memory(handle) => handle.truncate((*size).into())?,
                _ => nix::unistd::ftruncate(file.host().ok_or(Errno::EINVAL)?, (*size).into())?,
            }
            Ok(String::new())
        }),
        Step::ReadAt(path, offset, length) => open_and(world, &at(path), libc::O_RDONLY, |file| {
            let bytes = super::read_at(file, Some((*offset).into()), *length as usize)?;
            Ok(format!("{} {:?}", file.status()?.size, runs(&bytes)))
        }),
        Step::Times(path, time, follow) => {
            let time = nix::sys::time::TimeSpec::new(*time, 5);
            let times = Times { accessed: time, modified: time };
            world.change_times(&at(path), *follow, &times).map(|()| String::new())
        }
        Step::List(path) => world.list(&at(path)).map(|names| names.join(" ")),
    }
}

fn open_and(
    world: &mut World,
    path: &str,
    flags: i32,
    act: impl FnOnce(&OpenFile) -> Result<String, Errno>,
) -> Result<String, Errno> {
    let number = world.open(path, flags)?;
    let file = world.file(number);
    world.files.descriptors_mut().close(number)?;
    act(&file)
}

/// How often each byte follows itself.
fn runs(bytes: &[u8]) -> Vec<(u8, usize)> {
    let mut runs: Vec<(u8, usize)> = Vec::new();
    for byte in bytes {
        match runs.last_mut() {
            Some((last, count)) if last == byte => *count += 1,
            _ => runs.push((*byte, 1)),
        }
    }
    runs
}

/// Names, types, modes, links and contents of all that is below a directory.
pub(super) fn picture(world: &mut World, root: &str) -> Vec<String> {
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
                _ => format!("{:?}", runs(&world.read(&path).unwrap())),
            };
            let below = &path[root.len()..];
            let size = if status.kind() == libc::S_IFDIR { 0 } else { status.size };
            lines.push(format!("{below} {:o} {} {size} {content}", status.mode, status.links));
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
