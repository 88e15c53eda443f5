//! Loading a program as Linux would: its segments, and its interpreter's.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::pod;

use crate::guest::app::mapping::{FileSource, Place, SpaceError};
use crate::guest::app::space::AddressSpace;
use crate::memory::layout::{DEVICES, LOWEST, PAGE, PROGRAM_BASE, WINDOW_SIZE, round_down, round_up};
use crate::memory::rights::Rights;

/// Program headers that a file may have: bounds the memory that reading them takes (Linux: 64 KiB).
const MAX_HEADERS: u16 = 1024;
/// Bytes that the interpreter's path may have (Linux: PATH_MAX).
const MAX_INTERPRETER: u64 = 4096;

/// Why a file can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Reading failed.
    #[error("{path} could not be read")]
    Read {
        /// The file.
        path: String,
        /// How.
        #[source]
        source: io::Error,
    },
    /// No ELF at all.
    #[error("{path} is not an ELF program")]
    NotElf {
        /// The file.
        path: String,
    },
    /// For another machine.
    #[error("{path} is an ELF file for another machine ({machine}); only 64-bit x86-64 programs run here")]
    Machine {
        /// The file.
        path: String,
        /// Which, as `e_machine` or the class.
        machine: String,
    },
    /// Broken or beyond what can be loaded.
    #[error("{path} can't be loaded: {why}")]
    Bad {
        /// The file.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The guest's memory is too small, or the mapping failed.
    #[error("{path} doesn't fit into the guest's memory")]
    Space {
        /// The file.
        path: String,
        /// How.
        #[source]
        source: SpaceError,
    },
}

/// An ELF file whose headers were read and checked.
#[derive(Debug)]
pub struct Image {
    path: String,
    file: File,
    /// Bytes of the file.
    len: u64,
    header: FileHeader64<LE>,
    segments: Vec<ProgramHeader64<LE>>,
    interpreter: Option<String>,
}

/// Where a loaded file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// Its first instruction.
    pub entry: u64,
    /// What was added to its addresses.
    pub bias: u64,
    /// The address of its program headers, 0 if they aren't loaded.
    pub headers: u64,
    /// Their number.
    pub header_count: u64,
    /// The first page after it.
    pub end: u64,
}

impl Image {
    /// Reads the headers of `file`; `path` is for messages and for /proc/self/maps.
    ///
    /// # Errors
    /// [`LoadError`], all but `Space`.
    pub fn read(path: &str, file: File) -> Result<Self, LoadError> {
        let path = path.to_owned();
        let bad = |why| LoadError::Bad { path: path.clone(), why };
        let read = |source| LoadError::Read { path: path.clone(), source };
        let len = file.metadata().map_err(read)?.len();
        let mut bytes = [0; size_of::<FileHeader64<LE>>()];
        if let Err(error) = file.read_exact_at(&mut bytes, 0) {
            let short = error.kind() == io::ErrorKind::UnexpectedEof;
            return Err(if short { LoadError::NotElf { path } } else { read(error) });
        }
        let (header, _) =
            pod::from_bytes::<FileHeader64<LE>>(&bytes).map_err(|()| bad("its header is unreadable"))?;
        let header = *header;
        check_header(&path, &header)?;
        let count = header.e_phnum.get(LE);
        if count == 0 || MAX_HEADERS < count {
            return Err(bad("it has no program headers, or too many"));
        }
        let mut table = vec![0; usize::from(count) * size_of::<ProgramHeader64<LE>>()];
        file.read_exact_at(&mut table, header.e_phoff.get(LE))
            .map_err(|_| bad("its program headers are cut off"))?;
        let (segments, _) = pod::slice_from_bytes::<ProgramHeader64<LE>>(&table, usize::from(count))
            .map_err(|()| bad("its program headers are unreadable"))?;
        let segments = segments.to_vec();
        let interpreter = match segments.iter().find(|segment| segment.p_type.get(LE) == elf::PT_INTERP) {
            Some(segment) => {
                Some(interpreter(&file, segment).ok_or_else(|| bad("its interpreter's name is unreadable"))?)
            }
            None => None,
        };
        Ok(Self { path, file, len, header, segments, interpreter })
    }

    /// The path of the interpreter (the dynamic linker) that the program asks for.
    #[must_use]
    pub fn interpreter(&self) -> Option<&str> {
        self.interpreter.as_deref()
    }

    /// Maps the segments: at their own addresses, or at a base if the file is position-independent
    /// (`as_interpreter` says which base).
    ///
    /// # Errors
    /// [`LoadError::Bad`] when the segments make no sense, [`LoadError::Space`] when they don't fit.
    pub fn load(&self, space: &mut AddressSpace, as_interpreter: bool) -> Result<Loaded, LoadError> {
        let loads: Vec<Segment> = self
            .segments
            .iter()
            .filter(|segment| segment.p_type.get(LE) == elf::PT_LOAD)
            .map(|segment| {
                Segment::check(segment).ok_or_else(|| self.bad("a segment's addresses make no sense"))
            })
            .collect::<Result<_, _>>()?;
        if loads.iter().any(|load| self.len < load.file_start + load.file_size) {
            return Err(self.bad("it is cut off"));
        }
        let first =
            loads.iter().map(|load| load.start).min().ok_or_else(|| self.bad("it has no segment to load"))?;
        let last = loads.iter().map(|load| load.end).max().unwrap_or(first);
        let bias = self.bias(space, first, last, as_interpreter)?;
        for load in &loads {
            self.place(space, load, bias)
                .map_err(|source| LoadError::Space { path: self.path.clone(), source })?;
        }
        let table = self.header.e_phoff.get(LE);
        let headers = loads
            .iter()
            .find(|load| load.file_start <= table && table < load.file_start + load.file_size)
            .map_or(0, |load| bias.wrapping_add(load.data_start + (table - load.file_start)));
        Ok(Loaded {
            entry: bias.wrapping_add(self.header.e_entry.get(LE)),
            bias,
            headers,
            header_count: self.segments.len() as u64,
            end: bias.wrapping_add(last),
        })
    }

    fn bias(
        &self,
        space: &mut AddressSpace,
        first: u64,
        last: u64,
        as_interpreter: bool,
    ) -> Result<u64, LoadError> {
        if self.header.e_type.get(LE) == elf::ET_EXEC {
            let fits =
                LOWEST <= first && last <= DEVICES.start || DEVICES.end <= first && last < WINDOW_SIZE / 2;
            let why =
                "it is linked at fixed addresses that the guest doesn't have; link it position-independent";
            return if fits { Ok(0) } else { Err(self.bad(why)) };
        }
        if as_interpreter {
            let fail = |source| LoadError::Space { path: self.path.clone(), source };
            let start = space.find(last - first, PAGE).ok_or_else(|| fail(SpaceError::Full))?;
            Ok(start.wrapping_sub(first))
        } else {
            Ok(PROGRAM_BASE.wrapping_sub(first))
        }
    }

    fn place(&self, space: &mut AddressSpace, load: &Segment, bias: u64) -> Result<(), SpaceError> {
        let start = bias.wrapping_add(load.start);
        let file_end = bias.wrapping_add(load.start + load.file_pages);
        let end = bias.wrapping_add(load.end);
        let source = FileSource {
            path: self.path.as_str().into(),
            offset: load.file_start - (load.data_start - load.start),
            own: None,
        };
        if start < file_end {
            // The tail of the last page is written below, so it must be writable until then.
            let tail =
                load.data_start + load.file_size < load.start + load.file_pages && load.file_size < load.size;
            let rights = if tail { Rights { read: true, write: true, ..load.rights } } else { load.rights };
            space.map_file(Place::Exactly(start..file_end), rights, false, self.file.as_fd(), source)?;
            if tail {
                let data_end = bias.wrapping_add(load.data_start + load.file_size);
                let zeros = vec![0; usize::try_from(file_end - data_end).unwrap_or(0)];
                space.memory().write_bytes(data_end, &zeros).map_err(SpaceError::Host)?;
                space.protect(&(start..file_end), load.rights)?;
            }
        }
        if file_end < end {
            space.map_anonymous(Place::Exactly(file_end..end), load.rights)?;
        }
        Ok(())
    }

    fn bad(&self, why: &'static str) -> LoadError {
        LoadError::Bad { path: self.path.clone(), why }
    }
}

/// A PT_LOAD header whose numbers were checked. Addresses are before the bias.
#[derive(Debug)]
struct Segment {
    /// The first page.
    start: u64,
    /// The first byte.
    data_start: u64,
    /// The page after the last.
    end: u64,
    /// Where the first byte is in the file.
    file_start: u64,
    /// Bytes from the file.
    file_size: u64,
    /// Bytes in memory.
    size: u64,
    /// Bytes of the pages that the file fills, the first page's head included.
    file_pages: u64,
    rights: Rights,
}

impl Segment {
    fn check(header: &ProgramHeader64<LE>) -> Option<Self> {
        let (data_start, size) = (header.p_vaddr.get(LE), header.p_memsz.get(LE));
        let (file_start, file_size) = (header.p_offset.get(LE), header.p_filesz.get(LE));
        let last = data_start.checked_add(size)?;
        let congruent = data_start % PAGE == file_start % PAGE;
        if WINDOW_SIZE < last
            || size < file_size
            || !congruent
            || file_start.checked_add(file_size)? > i64::MAX as u64
        {
            return None;
        }
        let start = round_down(data_start, PAGE);
        let file_pages =
            if file_size == 0 { 0 } else { round_up(data_start + file_size, PAGE)?.checked_sub(start)? };
        let flags = header.p_flags.get(LE).0;
        let (write, execute) = (flags & elf::PF_W.0 != 0, flags & elf::PF_X.0 != 0);
        let rights = Rights { read: flags != 0, write, execute };
        Some(Self {
            start,
            data_start,
            end: round_up(last, PAGE)?,
            file_start,
            file_size,
            size,
            file_pages,
            rights,
        })
    }
}

fn check_header(path: &str, header: &FileHeader64<LE>) -> Result<(), LoadError> {
    let path = || path.to_owned();
    let ident = &header.e_ident;
    if ident.magic != elf::ELFMAG {
        return Err(LoadError::NotElf { path: path() });
    }
    let machine = header.e_machine.get(LE);
    if ident.class != elf::ELFCLASS64 || ident.data != elf::ELFDATA2LSB {
        return Err(LoadError::Machine { path: path(), machine: "32-bit or big-endian".to_owned() });
    }
    if machine != elf::EM_X86_64 {
        return Err(LoadError::Machine { path: path(), machine: format!("machine number {machine}") });
    }
    let kind = header.e_type.get(LE);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Err(LoadError::Bad {
            path: path(),
            why: "it is no executable (an object file or a core dump?)",
        });
    }
    if usize::from(header.e_phentsize.get(LE)) != size_of::<ProgramHeader64<LE>>() {
        return Err(LoadError::Bad { path: path(), why: "its program headers have an unknown size" });
    }
    Ok(())
}

fn interpreter(file: &File, segment: &ProgramHeader64<LE>) -> Option<String> {
    let len = segment.p_filesz.get(LE);
    if MAX_INTERPRETER < len {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    file.read_exact_at(&mut bytes, segment.p_offset.get(LE)).ok()?;
    let text = bytes.strip_suffix(&[0])?;
    if text.is_empty() || text.contains(&0) {
        return None;
    }
    String::from_utf8(text.to_vec()).ok()
}

impl From<Errno> for SpaceError {
    fn from(errno: Errno) -> Self {
        Self::Host(errno)
    }
}
