//! Writing cpio archives of the form that Linux unpacks into its first root (`newc`).
//!
//! An entry is a header of 110 ASCII characters, the name with a NUL, zeros up to a multiple of four bytes,
//! the content, zeros again. The archive ends with an entry of a name of its own.

/// What every header begins with.
const MAGIC: &str = "070701";
/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// Headers and contents begin at multiples of this many bytes, and so must a whole archive.
const ALIGNMENT: usize = 4;

const DIRECTORY: u32 = 0o04_0000;
const CHARACTER_DEVICE: u32 = 0o02_0000;
const REGULAR: u32 = 0o10_0000;

/// The most that a file in an archive can have: its header has 32 bits for it.
pub const FILE_MAX: u64 = u32::MAX as u64;

/// An archive that is being written. Everything in it is root's and has no date, so that the same content
/// makes the same bytes.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// A file's content is beyond [`FILE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a file of {0} bytes doesn't fit into a cpio archive")]
pub struct TooBig(pub usize);

impl Archive {
    /// Adds a directory. Those above it must be there already.
    pub fn directory(&mut self, path: &str) {
        self.entry(path.as_bytes(), DIRECTORY | 0o755, 0, [0, 0]);
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.entry(path.as_bytes(), CHARACTER_DEVICE | mode, 0, [major, minor]);
    }

    /// Adds a file. `path` has no NUL: names of Linux can't.
    ///
    /// # Errors
    /// [`TooBig`].
    pub fn file(&mut self, path: &[u8], mode: u32, content: &[u8]) -> Result<(), TooBig> {
        let len = u32::try_from(content.len()).map_err(|_| TooBig(content.len()))?;
        self.entry(path, REGULAR | mode, len, [0, 0]);
        self.bytes.extend_from_slice(content);
        pad(&mut self.bytes);
        Ok(())
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        // The kernel takes no number of this entry for one of a file.
        self.entry(TRAILER.as_bytes(), 0, 0, [0, 0]);
        self.bytes
    }

    fn entry(&mut self, path: &[u8], mode: u32, len: u32, device: [u32; 2]) {
        self.entries += 1;
        let [major, minor] = device;
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let name_len = u32::try_from(path.len()).unwrap_or(u32::MAX).saturating_add(1);
        let fields = [self.entries, mode, 0, 0, links, 0, len, 0, 0, major, minor, name_len, 0];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path);
        self.bytes.push(0);
        pad(&mut self.bytes);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An entry as it's read back.
    #[derive(Debug, PartialEq, Eq)]
    pub(in crate::guest::linux) struct Entry {
        pub(in crate::guest::linux) path: String,
        pub(in crate::guest::linux) mode: u32,
        pub(in crate::guest::linux) device: (u32, u32),
        pub(in crate::guest::linux) content: Vec<u8>,
    }

    /// Reads an archive as the kernel's unpacker does: by its own lengths, all of it.
    pub(in crate::guest::linux) fn read(archive: &[u8]) -> Vec<Entry> {
        let (mut at, mut entries) = (0, Vec::new());
        while at < archive.len() {
            assert_eq!(at % ALIGNMENT, 0);
            assert_eq!(&archive[at..at + 6], MAGIC.as_bytes());
            let field = |index: usize| {
                let text = &archive[at + 6 + 8 * index..][..8];
                u32::from_str_radix(std::str::from_utf8(text).unwrap(), 16).unwrap()
            };
            let name_at = at + 110;
            let name_len = field(11) as usize;
            let name = &archive[name_at..][..name_len];
            assert_eq!(name.last(), Some(&0));
            let content_at = (name_at + name_len).next_multiple_of(ALIGNMENT);
            let len = field(6) as usize;
            let path = String::from_utf8(name[..name_len - 1].to_vec()).unwrap();
            if path == TRAILER {
                assert_eq!(content_at, archive.len());
                return entries;
            }
            entries.push(Entry {
                path,
                mode: field(1),
                device: (field(9), field(10)),
                content: archive[content_at..][..len].to_vec(),
            });
            at = (content_at + len).next_multiple_of(ALIGNMENT);
        }
        panic!("the archive has no end");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.device("dev/console", 0o600, 5, 1);
        for len in 0..9 {
            archive.file(format!("file{len}").as_bytes(), 0o644, &vec![b'x'; len]).unwrap();
        }
        let entries = read(&archive.finish());
        assert_eq!(entries.len(), 11);
        assert_eq!((entries[0].path.as_str(), entries[0].mode), ("dev", 0o04_0755));
        assert_eq!((entries[1].mode, entries[1].device), (0o02_0600, (5, 1)));
        for (len, entry) in entries[2..].iter().enumerate() {
            assert_eq!((entry.mode, entry.content.len()), (0o10_0644, len));
        }
    }

    #[test]
    fn a_header_has_the_bytes_of_the_format() {
        let mut archive = Archive::default();
        archive.file(b"ab", 0o755, b"xyz").unwrap();
        let header = "07070100000001000081ED0000000000000000000000010000000000000003\
            000000000000000000000000000000000000000300000000";
        let expected = [header.as_bytes(), b"ab\0\0\0\0xyz\0"].concat();
        assert_eq!(archive.finish()[..expected.len()], expected);
    }
}
