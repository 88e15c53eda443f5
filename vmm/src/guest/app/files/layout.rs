//! Which directories of the host a guest sees, and what the monitor puts beside them.

use std::{
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::errno::Errno;

use super::{
    Caller,
    backend::{Answer, Backend, Look},
    descriptors::Descriptors,
    facts::NoProcess,
    hidden::{self, Hidden, Relation},
    host::{HostTree, Readers},
    memory::{Budget, MemoryTree},
    open::{Object, OpenFile},
    path::{GuestPath, parts},
    synthetic::{DevSource, Holding, ProcSource, SharedPci, SyntheticTree, SysSource, WholeCheckpoints},
    view::{At, End, FileView, Place},
};

/// What every program may read, as far as every user of the host may: `/usr` has programs, libraries and
/// their data; the next four are links into it on merged systems and directories on others; `/etc` has
/// the loader's cache, locales, time zone, users, and the alternatives that links in `/usr/bin` go through.
/// `/home`, `/root`, `/var`, `/run`, `/boot`, `/opt` and `/srv` are no part of the system's programs and
/// must be granted.
const SYSTEM_DIRECTORIES: [&str; 8] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc"];

/// Private memory that begins empty.
const PRIVATE_DIRECTORIES: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// File system numbers of what is not the host's, as stat shows them: minor numbers of major 0, beyond
/// those that a host uses in practice.
const FIRST_DEVICE: u32 = 0xc_0000;

/// Size that sysfs shows for its text files.
const SYSFS_TEXT_BYTES: i64 = 4096;

/// A directory of the host that the user grants to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The directory on the host.
    pub host: PathBuf,
    /// Where the guest sees it: an absolute path.
    pub guest: PathBuf,
    /// Whether the guest may change it.
    pub writable: bool,
}

/// What makes up a guest's file tree.
#[derive(Debug, Default)]
pub struct Layout {
    /// Directories that the user grants; a later one covers an earlier one.
    pub grants: Vec<Grant>,
    /// The directory in which the program starts, on the host; visible read-only if no grant says more.
    pub working_directory: PathBuf,
    /// Bytes that files in private memory may take together.
    pub private_bytes: u64,
    /// PCI functions for /sys.
    pub functions: Vec<SharedPci>,
    /// Whether writable grants are overlays: what the guest changes stays in memory, beside the private files,
    /// and the host's directories are as they were until it is published.
    pub overlay: bool,
    /// Who takes the checkpoints that the program asks for by /dev/cairn, which isn't there without.
    pub checkpoints: Option<Arc<dyn WholeCheckpoints>>,
    /// The monitor's own directories on the host, which no guest may have: where a directory that is shown leads to
    /// one, an empty one is in its place.
    pub hidden: Vec<PathBuf>,
}

/// Why a file tree can't be made.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The directory in the guest isn't absolute.
    #[error("{0} is no place for a directory in the guest: give an absolute path")]
    RelativeGuestPath(PathBuf),
    /// The host's directory can't be opened.
    #[error("can't grant {}{}", host.display(), reason(*source))]
    Host {
        /// The directory.
        host: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The directory is the monitor's own, or in it.
    #[error(
        "can't show {} to a program: {} is Cairn's own, with a key or with checkpoints",
        host.display(), own.display()
    )]
    Own {
        /// The directory.
        host: PathBuf,
        /// The monitor's own.
        own: PathBuf,
    },
    /// The monitor's own directory can't be made, and the guest could make it then.
    #[error(
        "can't let a program write above {}, which is Cairn's own and can't be made", own.display()
    )]
    NoOwn {
        /// The monitor's own directory.
        own: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no directory in the guest that could hold the grant.
    #[error("can't show a directory at {guest} in the guest")]
    MountPoint {
        /// The place.
        guest: GuestPath,
        /// Why.
        #[source]
        source: Errno,
    },
}

impl Layout {
    /// Builds the tree, and tells where in it the program starts.
    ///
    /// # Errors
    /// A grant that doesn't exist, can't be opened or has no place in the guest.
    pub fn build(self) -> Result<(FileView, GuestPath), LayoutError> {
        let budget = Arc::new(Budget::new(self.private_bytes));
        let mut devices = (FIRST_DEVICE..).map(|minor| libc::makedev(0, minor));
        let mut device = move || devices.next().unwrap_or_default();

        // Only the monitor makes directories in the root.
        let unlimited = Arc::new(Budget::new(u64::MAX));
        let root = MemoryTree::new(GuestPath::root(), device(), 0o755, unlimited).read_only();
        let mut view =
            FileView::new(Box::new(root), MemoryTree::unnamed_files(device(), Arc::clone(&budget)));
        let (root_grants, grants): (Vec<Grant>, Vec<Grant>) =
            self.grants.into_iter().partition(|grant| guest_path(grant).is_ok_and(|path| path.is_root()));
        let overlay = self.overlay.then(|| Arc::clone(&budget));
        for grant in &root_grants {
            let over = overlay.clone().map(|budget| (budget, device()));
            view.grant(grant, over)?;
        }
        if root_grants.is_empty() {
            for directory in SYSTEM_DIRECTORIES {
                view.mount_system_directory(Path::new(directory))?;
            }
        }

        let at = |path: &str| GuestPath::from_clean(path.as_bytes());
        let held = Holding::default();
        let dev = SyntheticTree::new(DevSource::new(self.checkpoints), at("/dev"), device(), 0, &held);
        view.mount_at(&at("/dev"), Box::new(dev))?;
        let proc = SyntheticTree::new(ProcSource, at("/proc"), device(), 0, &held);
        view.mount_at(&at("/proc"), Box::new(proc))?;
        let source = SysSource::new(self.functions);
        let sys = SyntheticTree::new(source, at("/sys"), device(), SYSFS_TEXT_BYTES, &held);
        view.mount_at(&at("/sys"), Box::new(sys))?;
        for path in PRIVATE_DIRECTORIES {
            let tree = MemoryTree::new(at(path), device(), 0o1777, Arc::clone(&budget));
            match view.mount_at(&at(path), Box::new(tree)) {
                // A granted root without /var can't hold /var/tmp, and its programs don't expect one.
                Err(LayoutError::MountPoint { source: Errno::ENOENT, .. }) if !root_grants.is_empty() => {}
                mounted => mounted?,
            }
        }

        let directory = GuestPath::from_clean(self.working_directory.as_os_str().as_bytes());
        // Where a grant shows it, that grant says whether it can be changed.
        let holds = |grant: &Grant| guest_path(grant).is_ok_and(|point| directory.inside(&point).is_some());
        if !grants.iter().chain(&root_grants).any(holds) {
            view.mount_working_directory(&self.working_directory, &directory)?;
            if PRIVATE_DIRECTORIES.iter().any(|private| private.as_bytes() == directory.as_bytes()) {
                tracing::warn!(
                    "the program has a {directory} of its own, empty at first, and sees none of your files there: \
                     --dir {directory} shows them, --dir {directory}:rw lets it change them"
                );
            }
        }
        for grant in &grants {
            let over = overlay.clone().map(|budget| (budget, device()));
            view.grant(grant, over)?;
        }
        for own in &self.hidden {
            let empty = |point| MemoryTree::new(point, device(), 0o700, Arc::clone(&budget)).read_only();
            view.hide(&Hidden::find(own), empty)?;
        }
        let start = match view.setup_look(&directory) {
            Ok(Look::Directory) => directory,
            _ => GuestPath::root(),
        };
        Ok((view, start))
    }
}

impl FileView {
    /// Shows a granted directory; a writable one through an overlay with this budget and number, if given.
    fn grant(&mut self, grant: &Grant, over: Option<(Arc<Budget>, u64)>) -> Result<(), LayoutError> {
        let guest = guest_path(grant)?;
        let point = self.make_mount_point(&guest)?;
        let failed = |source| LayoutError::Host { host: grant.host.clone(), source };
        let over = over.filter(|_| grant.writable);
        let writable = grant.writable && over.is_none();
        let tree = HostTree::open(&grant.host, point.clone(), Readers::Monitor, writable).map_err(failed)?;
        match over {
            Some((budget, number)) => {
                let tree = MemoryTree::over(tree, point.clone(), number, budget).map_err(failed)?;
                self.mount(point, Box::new(tree));
            }
            None => self.mount(point, Box::new(tree)),
        }
        Ok(())
    }

    /// Shows a directory of the system, or the link that it is on the host. Not every host has all.
    fn mount_system_directory(&mut self, directory: &Path) -> Result<(), LayoutError> {
        let point = GuestPath::from_clean(directory.as_os_str().as_bytes());
        if let Ok(target) = std::fs::read_link(directory) {
            return self.root_link(&point, target.as_os_str().as_bytes());
        }
        match HostTree::open(directory, point.clone(), Readers::Everyone, false) {
            Ok(tree) => self.mount_at(&point, Box::new(tree)),
            Err(Errno::ENOENT) => Ok(()),
            Err(source) => Err(LayoutError::Host { host: directory.to_owned(), source }),
        }
    }

    /// Shows the working directory, read-only.
    ///
    /// Not where it would replace something: the root, which would show the whole host, and what is mounted
    /// already. Nor where it lies in one of the system's directories, which are there, or in a synthesized
    /// one, which can't hold it.
    fn mount_working_directory(&mut self, host: &Path, point: &GuestPath) -> Result<(), LayoutError> {
        let is_mounted = self.mounts().iter().any(|mount| mount.point == *point);
        if host.as_os_str().is_empty() || is_mounted || self.setup_look(point).is_ok() {
            return Ok(());
        }
        let Ok(point) = self.make_mount_point(point) else { return Ok(()) };
        let tree = HostTree::open(host, point.clone(), Readers::Monitor, false)
            .map_err(|source| LayoutError::Host { host: host.to_owned(), source })?;
        self.mount(point, Box::new(tree));
        Ok(())
    }

    /// Puts what `empty` makes where the guest would see a directory of the monitor's own.
    fn hide(
        &mut self,
        own: &Hidden,
        mut empty: impl FnMut(GuestPath) -> MemoryTree,
    ) -> Result<(), LayoutError> {
        let mut points = Vec::new();
        for mount in self.mounts() {
            let Some(host) = mount.backend.shows() else { continue };
            let beneath = match own.seen_from(&host) {
                Relation::Apart => continue,
                Relation::Around => return Err(LayoutError::Own { host, own: own.path().to_owned() }),
                Relation::Beneath(path) => path,
            };
            let point = hidden::point(&mount.point, &beneath);
            let place = Place { path: point, directory: true };
            // Something else may be in between, which hides it already.
            if !self.locate(&place).is_ok_and(|(found, _)| found.point == mount.point) {
                continue;
            }
            if mount.backend.writable() {
                own.make().map_err(|source| LayoutError::NoOwn { own: own.path().to_owned(), source })?;
            }
            points.push(place.path);
        }
        for point in points {
            let tree = empty(point.clone());
            self.mount(point, Box::new(tree));
        }
        Ok(())
    }

    fn mount_at(&mut self, point: &GuestPath, backend: Box<dyn Backend>) -> Result<(), LayoutError> {
        let point = self.make_mount_point(point)?;
        self.mount(point, backend);
        Ok(())
    }

    /// Makes the directories that lead to a mount point, and gives its path without links.
    ///
    /// They are made in memory only. In a host's directory the parent must be there; the name itself need
    /// not be, because listings add the names of mounts.
    fn make_mount_point(&self, guest: &GuestPath) -> Result<GuestPath, LayoutError> {
        let failed = |source| LayoutError::MountPoint { guest: guest.clone(), source };
        let mut point = GuestPath::root();
        let mut names = parts(guest.as_bytes()).peekable();
        while let Some(name) = names.next() {
            let next = point.join(name);
            point = match self.setup_look(&next) {
                Ok(Look::Directory) => next,
                Ok(Look::Symlink(_)) => self.setup_resolve(&next).map_err(failed)?,
                Ok(Look::Other) => return Err(failed(Errno::ENOTDIR)),
                // What may not be looked at may be in another mount of the host, which the backend knows.
                Err(Errno::ENOENT | Errno::EACCES) => {
                    let place = Place { path: next.clone(), directory: false };
                    let (mount, inside) = self.locate(&place).map_err(failed)?;
                    mount.backend.make_mount_point(inside, names.peek().is_none()).map_err(failed)?;
                    next
                }
                Err(error) => return Err(failed(error)),
            };
        }
        Ok(point)
    }

    fn root_link(&self, link: &GuestPath, target: &[u8]) -> Result<(), LayoutError> {
        let failed = |source| LayoutError::MountPoint { guest: link.clone(), source };
        let place = Place { path: link.clone(), directory: false };
        let (mount, inside) = self.locate(&place).map_err(failed)?;
        mount.backend.make_symlink(target, inside).map_err(failed)
    }

    fn setup_look(&self, path: &GuestPath) -> Answer<Look> {
        self.as_nobody(|caller| self.look(caller, path))
    }

    /// Follows links to a directory.
    fn setup_resolve(&self, path: &GuestPath) -> Answer<GuestPath> {
        self.as_nobody(|caller| {
            let found = self.walk(caller, &At::new(GuestPath::root(), path.as_bytes()), End::Follow)?;
            match self.look(caller, &found.path)? {
                Look::Directory => Ok(found.path),
                _ => Err(Errno::ENOTDIR),
            }
        })
    }

    /// Looks something up before there is a process.
    pub(super) fn as_nobody<T>(&self, act: impl FnOnce(&Caller<'_>) -> T) -> T {
        let descriptors = Descriptors::empty();
        let file = Object::PciBar(super::open::PciBarHandle::default());
        let directory = OpenFile::new(GuestPath::root(), false, file);
        act(&Caller {
            view: self,
            descriptors: &descriptors,
            directory: &directory,
            umask: 0,
            facts: &NoProcess,
        })
    }
}

/// Where the guest sees a grant.
fn guest_path(grant: &Grant) -> Result<GuestPath, LayoutError> {
    if !grant.guest.is_absolute() {
        return Err(LayoutError::RelativeGuestPath(grant.guest.clone()));
    }
    Ok(GuestPath::from_clean(grant.guest.as_os_str().as_bytes()))
}

/// Why a host's directory can't be granted, for a person, where its error doesn't say so.
fn reason(error: Errno) -> &'static str {
    match error {
        Errno::EINVAL => ", whose files are the kernel's own and would act on Cairn itself",
        _ => "",
    }
}
