//! The first root of a Linux guest that runs one program: our init, the program, its arguments, modules.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::guest::app::elf::{Image, LoadError};
use crate::guest::linux::cpio::{Archive, FILE_MAX, TooBig};

/// The init, which `build.rs` compiles from `init/`.
static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cairn-init"));

/// Bytes that a program may have: it's copied twice into the guest's memory before it runs.
pub const PROGRAM_MAX: u64 = 1 << 30;
/// Bytes that a module may have. The biggest of Debian's have a few MiB.
pub const MODULE_MAX: u64 = 64 << 20;
/// Modules that a directory may have: who means a kernel's whole tree means a tool that resolves them.
pub const MODULE_COUNT_MAX: usize = 256;
/// Bytes of the program's name and arguments, a NUL after each. The init has a buffer for one more.
pub const ARGUMENTS_MAX: usize = (128 << 10) - 1;
/// Arguments, the program's name among them; the init has a list for so many.
pub const ARGUMENT_COUNT_MAX: usize = 4096;

const _: () = assert!(PROGRAM_MAX <= FILE_MAX && MODULE_MAX <= FILE_MAX);

/// The names of modules. The kernel decompresses those that are compressed, if it was built to.
const MODULE_NAMES: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// The program is none.
    #[error(transparent)]
    Program(#[from] LoadError),
    /// The program needs files that the guest doesn't have.
    #[error(
        "{path} is linked dynamically (it needs {interpreter}), and the guest has no libraries: link it \
         statically. Rust: RUSTFLAGS='-C target-feature=+crt-static' cargo build --target \
         x86_64-unknown-linux-gnu; C: cc -static"
    )]
    Dynamic {
        /// The program.
        path: String,
        /// What it names as its dynamic linker.
        interpreter: String,
    },
    /// The program's path ends in `..` or `/`.
    #[error("{path} names no file", path = path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// A file or directory can't be read.
    #[error("{path} can't be read", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is beyond its bound.
    #[error("{path} has more than {most} bytes, which is the most that fits", path = path.display())]
    TooBig {
        /// Which.
        path: PathBuf,
        /// What it may have.
        most: u64,
    },
    /// A file is beyond what the archive's format has room for.
    #[error(transparent)]
    Format(#[from] TooBig),
    /// The arguments can't be passed on.
    #[error("the program's arguments can't be passed on: {0}")]
    Arguments(&'static str),
    /// The directory has nothing to load.
    #[error(
        "{path} has no modules: no file in it is named *.ko, *.ko.xz, *.ko.zst or *.ko.gz",
        path = path.display()
    )]
    NoModules {
        /// The directory.
        path: PathBuf,
    },
    /// The directory has too much to load.
    #[error(
        "{path} has more than {MODULE_COUNT_MAX} modules: copy those that are needed into a directory of \
         their own",
        path = path.display()
    )]
    TooManyModules {
        /// The directory.
        path: PathBuf,
    },
}

/// Makes the initramfs of a guest that runs `program` with `arguments` (those behind its name) after it has
/// loaded the modules in the directory `modules`, in the order that they need.
///
/// # Errors
/// [`InitramfsError`].
pub fn build(
    program: &Path,
    arguments: &[OsString],
    modules: Option<&Path>,
) -> Result<Vec<u8>, InitramfsError> {
    let program_name =
        program.file_name().ok_or_else(|| InitramfsError::NoName { path: program.to_owned() })?;
    let place = [b"bin/", program_name.as_bytes()].concat();
    let content = static_program(program)?;

    let mut archive = Archive::default();
    for directory in ["bin", "cairn", "dev", "root"] {
        archive.directory(directory);
    }
    // The kernel opens it for the init, before devtmpfs is there.
    archive.device("dev/console", 0o600, 5, 1);
    archive.file(b"init", 0o755, INIT)?;
    archive.file(b"cairn/arguments", 0o644, &argument_list(&place, arguments)?)?;
    archive.file(&place, 0o755, &content)?;
    if let Some(directory) = modules {
        archive.directory("modules");
        for path in module_files(directory)? {
            let name = path.file_name().unwrap_or_default().as_bytes();
            archive.file(&[b"modules/", name].concat(), 0o644, &read(&path, MODULE_MAX)?)?;
        }
    }
    Ok(archive.finish())
}

/// The program's bytes, when it's one that runs without any other file.
fn static_program(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    let fail = |source| InitramfsError::Read { path: path.to_owned(), source };
    let name = path.display().to_string();
    let image = Image::read(&name, File::open(path).map_err(fail)?)?;
    match image.interpreter() {
        Some(interpreter) => Err(InitramfsError::Dynamic { path: name, interpreter: interpreter.to_owned() }),
        None => read(path, PROGRAM_MAX),
    }
}

/// What the init reads: the program's absolute path, then its arguments, a NUL after each.
fn argument_list(place: &[u8], arguments: &[OsString]) -> Result<Vec<u8>, InitramfsError> {
    if ARGUMENT_COUNT_MAX <= arguments.len() {
        return Err(InitramfsError::Arguments("there are more than 4095"));
    }
    let mut list = [b"/", place, b"\0"].concat();
    for argument in arguments {
        if argument.as_bytes().contains(&0) {
            return Err(InitramfsError::Arguments("one contains a NUL"));
        }
        list.extend_from_slice(argument.as_bytes());
        list.push(0);
        if ARGUMENTS_MAX < list.len() {
            return Err(InitramfsError::Arguments("they have more than 128 KiB together"));
        }
    }
    Ok(list)
}

/// The modules in a directory, by name.
fn module_files(directory: &Path) -> Result<Vec<PathBuf>, InitramfsError> {
    let fail = |source| InitramfsError::Read { path: directory.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().unwrap_or_default().as_bytes();
        if !MODULE_NAMES.iter().any(|end| name.ends_with(end.as_bytes())) {
            continue;
        }
        if found.len() == MODULE_COUNT_MAX {
            return Err(InitramfsError::TooManyModules { path: directory.to_owned() });
        }
        found.push(path);
    }
    if found.is_empty() {
        return Err(InitramfsError::NoModules { path: directory.to_owned() });
    }
    found.sort();
    Ok(found)
}

/// Reads a file of at most `most` bytes. One more is asked for, as a file may grow while it's read.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, InitramfsError> {
    let fail = |source| InitramfsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(most + 1).read_to_end(&mut bytes).map_err(fail)?;
    match u64::try_from(bytes.len()) {
        Ok(len) if len <= most => Ok(bytes),
        _ => Err(InitramfsError::TooBig { path: path.to_owned(), most }),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::guest::linux::cpio::tests::{Entry, read as entries_of};

    /// A directory with a static program in it: the init is one.
    fn with_program() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, INIT).unwrap();
        (directory, program)
    }

    fn entry<'a>(entries: &'a [Entry], path: &str) -> &'a Entry {
        entries.iter().find(|entry| entry.path == path).unwrap_or_else(|| panic!("no {path}"))
    }

    #[test]
    fn the_program_and_its_arguments_are_in_it() {
        let (_directory, program) = with_program();
        let arguments = ["--size", "", "two words"].map(OsString::from);
        let entries = entries_of(&build(&program, &arguments, None).unwrap());
        assert_eq!(entry(&entries, "init").content, INIT);
        assert_eq!(entry(&entries, "init").mode, 0o10_0755);
        assert_eq!(entry(&entries, "bin/program").content, INIT);
        assert_eq!(entry(&entries, "bin/program").mode, 0o10_0755);
        assert_eq!(entry(&entries, "cairn/arguments").content, b"/bin/program\0--size\0\0two words\0");
        assert_eq!(entry(&entries, "dev/console").device, (5, 1));
        assert!(!entries.iter().any(|entry| entry.path.starts_with("modules")));
    }

    #[test]
    fn the_same_input_makes_the_same_bytes() {
        let (_directory, program) = with_program();
        assert_eq!(build(&program, &[], None).unwrap(), build(&program, &[], None).unwrap());
    }

    #[test]
    fn modules_are_taken_by_their_names() {
        let (directory, program) = with_program();
        for name in ["b.ko.xz", "a.ko", "c.ko.zst", "modules.dep", "ko"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let entries = entries_of(&build(&program, &[], Some(directory.path())).unwrap());
        let modules: Vec<&str> =
            entries.iter().filter_map(|entry| entry.path.strip_prefix("modules/")).collect();
        assert_eq!(modules, ["a.ko", "b.ko.xz", "c.ko.zst"]);
        assert_eq!(entry(&entries, "modules/b.ko.xz").content, b"b.ko.xz");
    }

    #[test]
    fn a_directory_has_modules_but_not_too_many() {
        let (directory, program) = with_program();
        let modules = directory.path().join("modules");
        fs::create_dir(&modules).unwrap();
        let build = || build(&program, &[], Some(&modules));
        assert!(matches!(build(), Err(InitramfsError::NoModules { .. })));
        for number in 0..MODULE_COUNT_MAX {
            fs::write(modules.join(format!("{number}.ko")), "").unwrap();
        }
        assert!(build().is_ok());
        fs::write(modules.join("more.ko"), "").unwrap();
        assert!(matches!(build(), Err(InitramfsError::TooManyModules { .. })));
    }

    #[test]
    fn a_module_may_be_as_big_as_the_bound() {
        let (directory, program) = with_program();
        let module = directory.path().join("big.ko");
        let of_size = |len| {
            File::create(&module).and_then(|file| file.set_len(len)).unwrap();
            build(&program, &[], Some(directory.path()))
        };
        assert!(of_size(MODULE_MAX).is_ok());
        assert!(matches!(of_size(MODULE_MAX + 1), Err(InitramfsError::TooBig { most: MODULE_MAX, .. })));
    }

    #[test]
    fn a_dynamic_program_is_refused_with_a_way_out() {
        let test = std::env::current_exe().unwrap();
        let error = build(&test, &[], None).unwrap_err();
        assert!(matches!(error, InitramfsError::Dynamic { .. }), "{error}");
        assert!(error.to_string().contains("crt-static") && error.to_string().contains("cc -static"));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let (directory, _) = with_program();
        let script = directory.path().join("script");
        fs::write(&script, "#!/bin/sh\necho a script is no program here, however long it gets to be\n")
            .unwrap();
        assert!(matches!(build(&script, &[], None), Err(InitramfsError::Program(LoadError::NotElf { .. }))));
        assert!(matches!(build(&directory.path().join("none"), &[], None), Err(InitramfsError::Read { .. })));
        assert!(matches!(build(Path::new("/"), &[], None), Err(InitramfsError::NoName { .. })));
    }

    #[test]
    fn arguments_fit_the_buffer_of_the_init() {
        let place = b"bin/x";
        let with = |len| argument_list(place, &[OsString::from_vec(vec![b'a'; len])]);
        // "/bin/x", and two NULs.
        let most = ARGUMENTS_MAX - 8;
        assert_eq!(with(most).unwrap().len(), ARGUMENTS_MAX);
        assert!(with(most + 1).is_err());
        let many = |count| argument_list(place, &vec![OsString::new(); count]);
        assert!(many(ARGUMENT_COUNT_MAX - 1).is_ok());
        assert!(many(ARGUMENT_COUNT_MAX).is_err());
        assert!(argument_list(place, &[OsStr::from_bytes(b"a\0b").to_owned()]).is_err());
    }
}
