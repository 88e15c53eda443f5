//! A memory tree as plain data, and back.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    os::fd::AsFd,
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::{
        stat::{Mode, fchmod, fstat},
        uio::pread,
    },
    unistd::ftruncate,
};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        backend::{Answer, PERMISSIONS},
        image::{FILE_PAGE, FilePages, FilePagesSource, Identity, ImageError, MOST_NODES},
        path::{PATH_MAX, check_name, parts},
        status::{Status, Time},
    },
    BLOCK_BYTES, MemoryTree,
    blocks::Base,
    file::{MemoryFile, put},
    names_image::check_links,
    node::{Inode, NodeTimes},
    tree::Tree,
};

/// A file's own blocks are the pages that its image has.
const _: () = assert!(FILE_PAGE as u64 == BLOCK_BYTES);

/// A memory tree: its nodes, and the files without names that descriptors hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::guest::app::files) struct TreeImage {
    pub(super) next_inode: Inode,
    pub(super) next_cookie: i64,
    pub(super) nodes: Vec<(Inode, NodeImage)>,
    unnamed: Vec<FileImage>,
    /// Of an overlay: the host's names that it has a node for, or had.
    pub(super) taken: Vec<TakenImage>,
}

/// A name of the host in an overlay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TakenImage {
    pub path: Vec<u8>,
    pub inode: Inode,
    pub parent: Inode,
    pub status: Status,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum NodeImage {
    Directory(DirectoryImage),
    File(FileImage),
    Symlink {
        target: Vec<u8>,
        times: NodeTimes,
    },
    /// A file of the host as the host has it.
    Lower {
        path: Vec<u8>,
        status: Status,
        links: u64,
    },
}

/// A directory, its names in the order of their listing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DirectoryImage {
    pub mode: u32,
    pub times: NodeTimes,
    pub names: Vec<NameImage>,
    /// Directories in it; over a directory of the host, how many more than there.
    pub subdirectories: i64,
    pub origin: Option<OriginImage>,
}

/// The host's directory that shows through one of an overlay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct OriginImage {
    pub path: Vec<u8>,
    pub status: Status,
    pub hidden: Vec<Vec<u8>>,
    pub touched: bool,
    pub new_mode: bool,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NameImage {
    pub name: Vec<u8>,
    pub inode: Inode,
    pub cookie: i64,
    pub of_host: bool,
}

/// A file. Its bytes are beside the image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FileImage {
    inode: Inode,
    size: u64,
    mode: u32,
    accessed: Time,
    modified: Time,
    /// A mapping may change it at any time.
    mapped: bool,
    /// Its pages that aren't zeros for certain.
    data: Vec<(u64, u64)>,
    pub(super) links: u64,
    base: Option<BaseImage>,
}

/// The host's file that shows through one of an overlay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct BaseImage {
    path: Vec<u8>,
    status: Status,
    end: u64,
    own: Vec<(u64, u64)>,
    changed: bool,
}

impl MemoryTree {
    /// The tree, with what is open and has no name any more. `number` is its own among the guest's trees.
    pub(in crate::guest::app::files) fn image(
        &self,
        number: usize,
        open: &[Arc<MemoryFile>],
        pages: &mut dyn FilePages,
    ) -> Result<TreeImage, ImageError> {
        let mut tree = self.tree();
        tree.forget_untouched();
        let mut nodes = Vec::new();
        let mut named = HashSet::new();
        for (inode, node) in tree.in_order() {
            nodes.push((inode, tree.node_image(node, |file| file_image(file, number, pages))?));
            named.insert(inode);
        }
        let mut unnamed = Vec::new();
        for file in open.iter().filter(|file| file.tree() == tree.home().tree) {
            if named.insert(file.number()) {
                unnamed.push(file_image(file, number, pages)?);
            }
        }
        let taken = tree.taken.iter().map(|(path, taken)| TakenImage {
            path: path.clone(),
            inode: taken.inode,
            parent: taken.parent,
            status: taken.status,
        });
        let taken = taken.collect();
        Ok(TreeImage { next_inode: tree.next_inode, next_cookie: tree.next_cookie, nodes, unnamed, taken })
    }

    /// Takes everything from an image. Answers the files by their numbers.
    pub(in crate::guest::app::files) fn restore(
        &self,
        number: usize,
        image: TreeImage,
        pages: &dyn FilePagesSource,
    ) -> Result<HashMap<u64, Arc<MemoryFile>>, ImageError> {
        if MOST_NODES < image.nodes.len() + image.unnamed.len() {
            return Err(ImageError::Invalid("a tree has too many names"));
        }
        let mut files = HashMap::new();
        let mut tree = self.tree();
        let of_tree = image.nodes.iter().filter_map(|(_, node)| match node {
            NodeImage::File(file) => Some(file),
            _ => None,
        });
        for file in of_tree.chain(&image.unnamed) {
            let restored = Arc::new(self.restore_file(&tree, file, number, pages)?);
            if files.insert(file.inode, restored).is_some() {
                return Err(ImageError::Invalid("a file is there twice"));
            }
        }
        tree.restore(&self.mount_point, image, &files)?;
        Ok(files)
    }

    fn restore_file(
        &self,
        tree: &Tree,
        image: &FileImage,
        number: usize,
        pages: &dyn FilePagesSource,
    ) -> Result<MemoryFile, ImageError> {
        let failed = || ImageError::host("a file of the program can't be made again");
        let file = match &image.base {
            Some(base) => {
                let file = MemoryFile::over(tree.home(), image.inode, self.base(tree, base)?);
                let file = file.map_err(failed())?;
                let own = base
                    .own
                    .iter()
                    .fold(0_u64, |sum, (start, end)| sum.saturating_add(end.saturating_sub(*start)));
                let bytes = own.checked_mul(BLOCK_BYTES).ok_or(ImageError::Invalid("a file's blocks"))?;
                check_links(image.links)?;
                file.home().budget.take(bytes).map_err(failed())?;
                let mut blocks = file.blocks();
                for (start, end) in &base.own {
                    blocks.restore_own(*start..*end).ok_or(ImageError::Invalid("a file's blocks"))?;
                }
                blocks.modified = base.changed;
                drop(blocks);
                file
            }
            None => MemoryFile::new(tree.home(), image.inode).map_err(failed())?,
        };
        let size = i64::try_from(image.size).map_err(|_| ImageError::Invalid("a file's size"))?;
        file.reserve(image.size).map_err(failed())?;
        ftruncate(file.memfd(), size).map_err(failed())?;
        let mut bytes = [0; FILE_PAGE];
        for page in image.data.iter().flat_map(|(start, end)| *start..*end) {
            let at = page.checked_mul(BLOCK_BYTES).filter(|at| *at < image.size);
            let at = at.ok_or(ImageError::Invalid("bytes behind a file's end"))?;
            pages.page(&pages_name(number, image.inode), page, &mut bytes)?;
            let count = usize::try_from(image.size - at).unwrap_or(FILE_PAGE).min(FILE_PAGE);
            put(file.memfd().as_fd(), &bytes[..count], at).map_err(failed())?;
        }
        fchmod(file.memfd(), Mode::from_bits_truncate(image.mode & PERMISSIONS)).map_err(failed())?;
        file.put_times(image.accessed, image.modified).map_err(failed())?;
        file.blocks().mapped = image.mapped;
        if image.base.is_some() {
            file.set_links(image.links);
        }
        Ok(file)
    }

    /// The host's file beneath one, which must be what it was.
    fn base(&self, tree: &Tree, image: &BaseImage) -> Result<Base, ImageError> {
        let path = self.mount_point.join(&image.path);
        let gone = |source| ImageError::Gone { path: path.clone(), source };
        check_host_path(&image.path)?;
        let (fd, status) = tree.lower().and_then(|lower| lower.open(&image.path)).map_err(gone)?;
        if !Identity::from(&status).is_still(&Identity::from(&image.status)) {
            return Err(ImageError::Changed { path });
        }
        if status.size.unsigned_abs() < image.end {
            return Err(ImageError::Invalid("a file shows more than there is"));
        }
        Ok(Base { fd, path: image.path.clone(), status, end: image.end })
    }
}

/// The name under which the bytes of a file are beside the image.
fn pages_name(tree: usize, inode: Inode) -> String {
    format!("file/{tree}/{inode}")
}

fn file_image(file: &MemoryFile, tree: usize, pages: &mut dyn FilePages) -> Result<FileImage, ImageError> {
    let failed = || ImageError::host("a file of the program can't be put into a checkpoint");
    let status = Status::from(&fstat(file.memfd()).map_err(failed())?);
    let size = file.size().map_err(failed())?;
    let mut blocks = file.blocks();
    let data = file.data(blocks.own(size)).map_err(failed())?;
    let news = if pages.incremental() { both(&data, &blocks.news(size)) } else { data.clone() };
    let taker = pages.file(&pages_name(tree, file.number()), size.div_ceil(FILE_PAGE as u64))?;
    let mut bytes = [0; FILE_PAGE];
    for page in news.into_iter().flatten() {
        read_page(file, page, &mut bytes).map_err(failed())?;
        pages.page(taker, page, &bytes)?;
    }
    blocks.forget_news();
    Ok(FileImage {
        inode: file.number(),
        size,
        mode: status.mode & PERMISSIONS,
        accessed: status.accessed,
        modified: status.modified,
        mapped: blocks.mapped,
        links: file.links(),
        base: blocks.base.as_ref().map(|base| BaseImage {
            path: base.path.clone(),
            status: base.status,
            end: base.end,
            own: blocks.own_of_base().map(|range| (range.start, range.end)).collect(),
            changed: blocks.modified,
        }),
        data: data.iter().map(|range| (range.start, range.end)).collect(),
    })
}

/// What is in both lists of ranges, which ascend.
fn both(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut at_a, mut at_b) = (0, 0);
    let mut found = Vec::new();
    while let (Some(one), Some(other)) = (a.get(at_a), b.get(at_b)) {
        let common = one.start.max(other.start)..one.end.min(other.end);
        if !common.is_empty() {
            found.push(common);
        }
        if one.end < other.end {
            at_a += 1;
        } else {
            at_b += 1;
        }
    }
    found
}

/// A page of a memory file, with zeros behind its end.
fn read_page(file: &MemoryFile, page: u64, bytes: &mut [u8; FILE_PAGE]) -> Answer<()> {
    let mut at = i64::try_from(page * FILE_PAGE as u64).map_err(|_| Errno::EFBIG)?;
    let mut rest = &mut bytes[..];
    while !rest.is_empty() {
        let count = pread(file.memfd(), rest, at)?;
        if count == 0 {
            rest.fill(0);
            break;
        }
        rest = &mut rest[count..];
        at += i64::try_from(count).map_err(|_| Errno::EIO)?;
    }
    Ok(())
}

/// Checks what a restored tree takes over from an image: names of directories.
pub(super) fn check_names(directory: &DirectoryImage) -> Result<(), ImageError> {
    let wrong = |name: &NameImage| {
        let name = &name.name[..];
        check_name(name).is_err() || matches!(name, b"" | b"." | b"..") || name.contains(&b'/')
    };
    if directory.names.iter().any(wrong) { Err(ImageError::Invalid("a name")) } else { Ok(()) }
}

/// Checks a path below the granted directory: names without dots.
pub(super) fn check_host_path(path: &[u8]) -> Result<(), ImageError> {
    let clean: Vec<&[u8]> = parts(path).filter(|name| !matches!(*name, b"." | b"..")).collect();
    let fits = path.len() < PATH_MAX && clean.join(&b'/') == path;
    if fits { Ok(()) } else { Err(ImageError::Invalid("a path of the host")) }
}

/// Checks a symbolic link's target.
pub(super) fn check_target(target: &[u8]) -> Result<(), ImageError> {
    let fits = !target.is_empty() && target.len() < PATH_MAX;
    if fits { Ok(()) } else { Err(ImageError::Invalid("a symbolic link")) }
}
