//! The guest's file tree: a mount table, and the walk that finds a path in it.

use nix::errno::Errno;

use super::{
    Caller,
    backend::{Answer, Backend, Follow, Look},
    memory::MemoryTree,
    open::{Object, OpenFile},
    path::{self, GuestPath, Inside, PATH_MAX, check_name, names_directory, parts},
};

/// Symbolic links that one lookup follows (Linux `MAXSYMLINKS`); bounds loops.
pub const MAX_LINKS: usize = 40;

/// The file tree of a guest.
#[derive(Debug)]
pub struct FileView {
    /// Longest mount points first, so that the first match is the deepest. The last one is `/`.
    mounts: Vec<Mount>,
    /// Where files without names come from.
    unnamed: MemoryTree,
}

/// A backend and where the guest sees it.
#[derive(Debug)]
pub(super) struct Mount {
    pub point: GuestPath,
    pub backend: Box<dyn Backend>,
}

/// A path of the guest and the directory that it starts from if it is relative.
#[derive(Clone, Debug)]
pub struct At<'a> {
    base: GuestPath,
    path: &'a [u8],
}

/// What becomes of the last name of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A symbolic link there is followed.
    Follow,
    /// A symbolic link there is meant itself, unless a slash follows it.
    Link,
    /// The name is meant, whatever it is; to make, remove or rename it.
    Name,
}

/// A canonical place in the tree.
#[derive(Debug)]
pub(super) struct Place {
    pub path: GuestPath,
    /// Only a directory will do.
    pub directory: bool,
}

impl<'a> At<'a> {
    /// A path, and the directory from which a relative one starts.
    #[must_use]
    pub fn new(base: GuestPath, path: &'a [u8]) -> Self {
        Self { base, path }
    }

    /// The path as it was given.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.path
    }

    fn is_absolute(&self) -> bool {
        self.path.first() == Some(&b'/')
    }

    fn start(&self) -> GuestPath {
        if self.is_absolute() { GuestPath::root() } else { self.base.clone() }
    }
}

impl From<Follow> for End {
    fn from(follow: Follow) -> Self {
        match follow {
            Follow::Yes => Self::Follow,
            Follow::No => Self::Link,
        }
    }
}

impl FileView {
    /// A tree with only a root.
    pub(super) fn new(root: Box<dyn Backend>, unnamed: MemoryTree) -> Self {
        Self { mounts: vec![Mount { point: GuestPath::root(), backend: root }], unnamed }
    }

    /// A file in memory without a name, open for reading and writing: memfd_create. `label` is what
    /// /proc/self/fd shows for it.
    ///
    /// # Errors
    /// `ENOSPC` when the monitor has no descriptor left for it.
    pub fn memory_file(&self, label: &str) -> Answer<OpenFile> {
        let handle = self.unnamed.unnamed()?;
        Ok(OpenFile::new(GuestPath::label(label), true, Object::Memory(handle)))
    }

    /// Mounts a backend. One that is mounted at the same place vanishes.
    pub(super) fn mount(&mut self, point: GuestPath, backend: Box<dyn Backend>) {
        self.mounts.retain(|mount| mount.point != point);
        self.mounts.push(Mount { point, backend });
        self.mounts.sort_by_key(|mount| std::cmp::Reverse(mount.point.as_bytes().len()));
    }

    /// Runs `act` on the place that a path means.
    ///
    /// Most paths have no link and no `..`, so `act` is first tried on the path as it is written. The
    /// backends answer `ELOOP` where a link is in the way, before they change anything; only then is the
    /// path walked name by name, and `act` runs on what the walk found.
    pub(super) fn act<T>(
        &self,
        caller: &Caller<'_>,
        at: &At<'_>,
        end: End,
        act: impl Fn(&Mount, Inside<'_>, &Place) -> Answer<T>,
    ) -> Answer<T> {
        path::check(at.path)?;
        if let Some(place) = as_written(at) {
            let (mount, inside) = self.locate(&place)?;
            match act(mount, inside, &place) {
                Err(Errno::ELOOP) => {}
                answer => return answer,
            }
        }
        let place = self.walk(caller, at, end)?;
        let (mount, inside) = self.locate(&place)?;
        act(mount, inside, &place)
    }

    /// Finds the place of a path name by name, following links in the guest's tree. The last name need
    /// not exist.
    pub(super) fn walk(&self, caller: &Caller<'_>, at: &At<'_>, end: End) -> Answer<Place> {
        let mut found = at.start();
        let mut directory = names_directory(at.path);
        let mut links = 0;
        // What is still to be walked, the next name last.
        let mut pending: Vec<Vec<u8>> = parts(at.path).rev().map(<[u8]>::to_vec).collect();
        while let Some(name) = pending.pop() {
            match &name[..] {
                b"." => continue,
                b".." => {
                    // What was walked has no links left, so its parent is the name before.
                    found.pop();
                    continue;
                }
                name => check_name(name)?,
            }
            let last = pending.is_empty();
            let next = found.join(&name);
            let follows = match end {
                End::Follow => true,
                End::Link => directory,
                End::Name => false,
            };
            match self.look(caller, &next) {
                Ok(Look::Directory) => found = next,
                Ok(Look::Symlink(target)) if !last || follows => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP);
                    }
                    path::check(&target)?;
                    if last {
                        directory |= names_directory(&target);
                    }
                    if target.starts_with(b"/") {
                        found = GuestPath::root();
                    }
                    pending.extend(parts(&target).rev().map(<[u8]>::to_vec));
                }
                Ok(Look::Symlink(_) | Look::Other) | Err(Errno::ENOENT) if last => found = next,
                Ok(_) => return Err(Errno::ENOTDIR),
                Err(error) => return Err(error),
            }
        }
        Ok(Place { path: found, directory })
    }

    /// The mount that holds a place, and where in it.
    ///
    /// A place as long as no system call could name it doesn't exist: what is open has its path, and a program that
    /// makes and enters one directory after the other would else have paths of megabytes.
    pub(super) fn locate<'a>(&self, place: &'a Place) -> Answer<(&Mount, Inside<'a>)> {
        if PATH_MAX <= place.path.as_bytes().len() {
            return Err(Errno::ENAMETOOLONG);
        }
        for mount in &self.mounts {
            if let Some(path) = place.path.inside(&mount.point) {
                return Ok((mount, Inside { path, directory: place.directory }));
            }
        }
        // Only a path without a leading slash is outside of `/`, and no place has one.
        Err(Errno::ENOENT)
    }

    /// Names of mount points right below a directory.
    pub(super) fn mounts_in<'a>(&'a self, directory: &'a GuestPath) -> impl Iterator<Item = &'a [u8]> {
        let beneath = self.mounts.iter().filter_map(|mount| mount.point.inside(directory));
        beneath.filter(|name| !name.is_empty() && !name.contains(&b'/'))
    }

    /// Whether something is mounted at a path or below it: then its name is held fast.
    pub(super) fn holds_mounts(&self, path: &GuestPath) -> bool {
        self.mounts.iter().any(|mount| mount.point.inside(path).is_some())
    }

    pub(super) fn look(&self, caller: &Caller<'_>, path: &GuestPath) -> Answer<Look> {
        let place = Place { path: path.clone(), directory: false };
        let (mount, inside) = self.locate(&place)?;
        if inside.is_root() { Ok(Look::Directory) } else { mount.backend.look(caller, inside) }
    }

    /// The trees that belong to the guest, each with its place; the last one has files without names.
    pub(super) fn trees(&self) -> impl Iterator<Item = (&GuestPath, &MemoryTree)> {
        let mounted = self.mounts.iter().filter_map(|mount| Some((&mount.point, mount.backend.tree()?)));
        mounted.chain(std::iter::once((self.unnamed.mount_point(), &self.unnamed)))
    }

    /// The mounts, deepest first.
    pub(super) fn mounts(&self) -> &[Mount] {
        &self.mounts
    }
}

/// The place of a path if none of its names were a link; none where `..` makes that a different place.
fn as_written(at: &At<'_>) -> Option<Place> {
    let mut path = at.start();
    for part in parts(at.path) {
        match part {
            b"." => {}
            b".." => return None,
            name => path.push(name),
        }
    }
    Some(Place { path, directory: names_directory(at.path) })
}
