//! Paths as the guest sees them: canonical ones, and places inside one mount.

use std::fmt;

use nix::errno::Errno;

/// Longest path that a system call may give, with its terminating zero (Linux `PATH_MAX`).
pub const PATH_MAX: usize = 4096;

/// Longest name of one component (Linux `NAME_MAX`); bounds what synthesized and memory directories hold.
pub const NAME_MAX: usize = 255;

/// A canonical absolute path in the guest: `/`, or `/` and names joined by single slashes.
///
/// It has no `.` and no `..`. Whether symbolic links are left in it depends on who made it: the walk of
/// the view leaves none but the last.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPath(Vec<u8>);

impl GuestPath {
    /// The root directory.
    #[must_use]
    pub fn root() -> Self {
        Self(b"/".to_vec())
    }

    /// Reads an absolute path by its text alone: `.` and double slashes vanish and `..` takes one name away.
    ///
    /// Right only for a path without symbolic links, such as one that the kernel or the view gave.
    #[must_use]
    pub fn from_clean(text: &[u8]) -> Self {
        let mut path = Self::root();
        for part in parts(text) {
            match part {
                b"." => {}
                b".." => path.pop(),
                name => path.push(name),
            }
        }
        path
    }

    /// A path that an image claims to be a clean one; none if it isn't.
    pub(super) fn from_image(text: &[u8]) -> Option<Self> {
        let path = Self::from_clean(text);
        (path.0 == text && text.len() < PATH_MAX).then_some(path)
    }

    /// What `/proc/self/fd` shows for a file that has no path, such as `pipe:[7]`. It never resolves to
    /// anything, because it doesn't begin with `/`.
    #[must_use]
    pub(super) fn label(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }

    /// The bytes of the path, beginning with `/` unless it is the label of a file without a path.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The directory that holds this path and the name in it; none for the root.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        let slash = self.last_slash();
        let directory = if slash == 0 { Self::root() } else { Self(self.0[..slash].to_vec()) };
        Some((directory, &self.0[slash + 1..]))
    }

    /// This path with one more name, or with several joined by slashes.
    #[must_use]
    pub fn join(&self, names: &[u8]) -> Self {
        let mut path = self.clone();
        if !names.is_empty() {
            path.push(names);
        }
        path
    }

    /// What follows `ancestor` in this path, without a leading slash; none when it isn't beneath.
    #[must_use]
    pub fn inside(&self, ancestor: &Self) -> Option<&[u8]> {
        if ancestor.is_root() {
            return Some(&self.0[1..]);
        }
        match self.0.strip_prefix(ancestor.as_bytes())? {
            [] => Some(&[]),
            [b'/', rest @ ..] => Some(rest),
            _ => None,
        }
    }

    pub(super) fn push(&mut self, name: &[u8]) {
        if !self.is_root() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(name);
    }

    pub(super) fn pop(&mut self) {
        let slash = self.last_slash();
        self.0.truncate(slash.max(1));
    }

    fn last_slash(&self) -> usize {
        self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0)
    }
}

impl fmt::Debug for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// A place inside one mount: names from the mount's root, no dots, no leading slash; empty is the root.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inside<'a> {
    /// The names, joined by single slashes.
    pub path: &'a [u8],
    /// The caller wrote a slash at the end: only a directory will do.
    pub directory: bool,
}

impl<'a> Inside<'a> {
    pub(super) fn new(path: &'a [u8]) -> Self {
        Self { path, directory: false }
    }

    pub(super) fn is_root(self) -> bool {
        self.path.is_empty()
    }

    pub(super) fn names(self) -> impl Iterator<Item = &'a [u8]> {
        parts(self.path)
    }

    /// The place of the holding directory, and the last name. The root has none.
    pub(super) fn split_last(self) -> Option<(Inside<'a>, &'a [u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (Inside::new(&self.path[..slash]), &self.path[slash + 1..]),
            None => (Inside::new(b""), self.path),
        })
    }
}

/// The non-empty components of a path.
pub(super) fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

/// Whether only a directory may be meant: the path ends in `/`, `/.` or `/..`, or is `.` or `..`.
pub(super) fn names_directory(path: &[u8]) -> bool {
    matches!(path.rsplit(|byte| *byte == b'/').next(), Some(b"" | b"." | b".."))
}

/// Refuses what Linux refuses before it looks anything up.
///
/// # Errors
/// `ENOENT` for the empty path, `ENAMETOOLONG` for one of [`PATH_MAX`] bytes (the terminating zero would
/// not fit) or with a component over [`NAME_MAX`].
pub(super) fn check(path: &[u8]) -> Result<(), Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    if path.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(())
}

/// Refuses a component that is too long.
pub(super) fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.len() > NAME_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_paths_lose_dots_and_double_slashes() {
        for (text, canonical) in [
            ("/", "/"),
            ("//usr//lib/", "/usr/lib"),
            ("/usr/./lib/../bin", "/usr/bin"),
            ("/../..", "/"),
            ("relative", "/relative"),
        ] {
            assert_eq!(GuestPath::from_clean(text.as_bytes()).as_bytes(), canonical.as_bytes());
        }
    }

    #[test]
    fn inside_takes_whole_names_only() {
        let usr = GuestPath::from_clean(b"/usr");
        assert_eq!(GuestPath::from_clean(b"/usr").inside(&usr), Some(&b""[..]));
        assert_eq!(GuestPath::from_clean(b"/usr/lib/x").inside(&usr), Some(&b"lib/x"[..]));
        assert_eq!(GuestPath::from_clean(b"/usrlocal").inside(&usr), None);
        assert_eq!(GuestPath::from_clean(b"/etc").inside(&GuestPath::root()), Some(&b"etc"[..]));
    }

    #[test]
    fn the_last_name_comes_off() {
        let (directory, name) =
            GuestPath::from_clean(b"/a/b").split_last().map(|(d, n)| (d, n.to_vec())).unwrap();
        assert_eq!((directory.as_bytes(), &name[..]), (&b"/a"[..], &b"b"[..]));
        assert!(GuestPath::root().split_last().is_none());
        let (directory, name) = Inside::new(b"x").split_last().unwrap();
        assert_eq!((directory.path, name), (&b""[..], &b"x"[..]));
    }

    #[test]
    fn lengths_are_checked_at_the_limit() {
        assert_eq!(check(b""), Err(Errno::ENOENT));
        assert_eq!(check(&[b'a'; PATH_MAX - 1]), Ok(()));
        assert_eq!(check(&[b'a'; PATH_MAX]), Err(Errno::ENAMETOOLONG));
        assert_eq!(check_name(&[b'a'; NAME_MAX]), Ok(()));
        assert_eq!(check_name(&[b'a'; NAME_MAX + 1]), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn a_slash_or_dots_at_the_end_mean_a_directory() {
        for path in ["/", "a/", "a/.", "..", ".", "a/.."] {
            assert!(names_directory(path.as_bytes()), "{path}");
        }
        for path in ["a", "a/b", "a/...", "a/.b"] {
            assert!(!names_directory(path.as_bytes()), "{path}");
        }
    }
}
