//! Loading the kernel modules of the initramfs, in whatever order they need.

use core::ffi::CStr;

use crate::message::{Failure, say};
use crate::sys::{self, Errno};

/// Where the builder of the initramfs puts them.
const DIRECTORY: &CStr = c"/modules";
/// Where the name is in `struct linux_dirent64`, and where the length of the entry.
const NAME: usize = 19;
const LENGTH: usize = 16;
/// A name of Linux has at most 255 bytes.
const PATH_MAX: usize = DIRECTORY.to_bytes().len() + 1 + 255 + 1;

/// Loads all modules. One that needs symbols of another fails with ENOENT until that one is loaded; so they
/// are tried again until a round loads nothing. What is done with is removed, which also frees its memory.
pub fn load_all() {
    if sys::open(DIRECTORY, sys::READ | sys::DIRECTORY).map(sys::close) == Err(sys::ENOENT) {
        return;
    }
    while let Ok(true) = each(|path| match load(path) {
        Err(sys::ENOENT) => false,
        answer => {
            // EEXIST: it's loaded, or built in.
            if let Err(errno) = answer.or_else(|errno| if errno == sys::EEXIST { Ok(()) } else { Err(errno) })
            {
                say(&Failure::new("loading the module", path, errno));
            }
            sys::unlink(path).is_ok()
        }
    }) {}
    let left = each(|path| {
        say(&Failure::new("loading, without a module that it needs,", path, sys::ENOENT));
        true
    });
    if let Err(errno) = left {
        say(&Failure::new("reading the directory", DIRECTORY, errno));
    }
}

fn load(path: &CStr) -> sys::Result<()> {
    let file = sys::open(path, sys::READ | sys::CLOSE_ON_EXEC).map_err(not_a_symbol)?;
    let plain = path.to_bytes().ends_with(b".ko");
    let answer = sys::load_module(file, if plain { 0 } else { sys::MODULE_COMPRESSED });
    sys::close(file);
    answer
}

/// A file that isn't there must not look like a symbol that isn't.
fn not_a_symbol(errno: Errno) -> Errno {
    if errno == sys::ENOENT { sys::EIO } else { errno }
}

/// Does something with the path of each module; says whether it was successful with one at least.
fn each(mut what: impl FnMut(&CStr) -> bool) -> sys::Result<bool> {
    let directory = sys::open(DIRECTORY, sys::READ | sys::DIRECTORY | sys::CLOSE_ON_EXEC)?;
    let mut entries = [0; 4096];
    let mut any = false;
    let answer = loop {
        match sys::entries(directory, &mut entries) {
            Ok(0) => break Ok(any),
            Ok(len) => any |= each_entry(entries.get(..len).unwrap_or_default(), &mut what),
            Err(errno) => break Err(errno),
        }
    };
    sys::close(directory);
    answer
}

fn each_entry(mut entries: &[u8], what: &mut impl FnMut(&CStr) -> bool) -> bool {
    let mut any = false;
    while let Some(&[low, high]) = entries.get(LENGTH..LENGTH + 2) {
        let len = usize::from(u16::from_le_bytes([low, high]));
        let Some((entry, rest)) = entries.split_at_checked(len).filter(|(entry, _)| NAME < entry.len())
        else {
            break;
        };
        entries = rest;
        let Some(Ok(name)) = entry.get(NAME..).map(CStr::from_bytes_until_nul) else { continue };
        if name.to_bytes().starts_with(b".") {
            continue;
        }
        let mut path = [0; PATH_MAX];
        let bytes = [DIRECTORY.to_bytes(), b"/", name.to_bytes()];
        for (place, &byte) in path.iter_mut().zip(bytes.into_iter().flatten()) {
            *place = byte;
        }
        if let Ok(path) = CStr::from_bytes_until_nul(&path) {
            any |= what(path);
        }
    }
    any
}
