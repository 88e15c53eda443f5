//! execve: another program in the place of this one.
//!
//! All that can fail for a reason of the program's is tried before its memory goes; what fails later kills it, as on
//! Linux.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;

use crate::guest::app::elf::{Image, LoadError};
use crate::guest::app::facts::StartFacts;
use crate::guest::app::files::{At, Follow, GuestPath, Object, OpenFile, OpenRequest};
use crate::guest::app::process::{Process, Segments};
use crate::guest::app::program::{Entry, Program};
use crate::guest::app::script;
use crate::guest::app::stack::MAX_ARGUMENTS;
use crate::guest::app::syscalls::{Arguments, Flow, int};
use crate::host::random::Source;

/// Bytes of one argument with its end (Linux: MAX_ARG_STRLEN).
const MAX_ARGUMENT: usize = 128 << 10;
/// Scripts that name each other as interpreters (Linux: 5 programs in all).
const MAX_SCRIPTS: usize = 4;
/// X_OK of access(2).
const EXECUTE_ACCESS: u32 = 1;

pub(super) fn execve(process: &mut Process, &[path, arguments, environment, ..]: &Arguments) -> Flow {
    exec(process, [u64::from(libc::AT_FDCWD.cast_unsigned()), path, arguments, environment, 0])
}

pub(super) fn execveat(process: &mut Process, args: &Arguments) -> Flow {
    let [directory, path, arguments, environment, flags, _] = *args;
    exec(process, [directory, path, arguments, environment, flags])
}

fn exec(process: &mut Process, args: [u64; 5]) -> Flow {
    let (next, random) = match prepare(process, args) {
        Ok(prepared) => prepared,
        Err(errno) => return Flow::Answer(Err(errno)),
    };
    match replace(process, &next, random) {
        Ok(entry) => Flow::Began(entry),
        Err(error) => {
            tracing::warn!(error = &*error, "a program that was to replace this one couldn't be loaded");
            Flow::Killed(Signal::SIGKILL)
        }
    }
}

/// The program that is to run.
struct Next {
    program: Program,
    executable: GuestPath,
}

fn prepare(process: &Process, args: [u64; 5]) -> Result<(Next, [u8; 16]), Errno> {
    let [directory, path, arguments, environment, flags] = args;
    let (directory, flags) = (int(directory), int(flags));
    let mut path = process.memory().read_string(path)?;
    let file = named(process, directory, &path, flags)?;
    if path.is_empty() {
        path = CString::new(format!("/dev/fd/{directory}")).map_err(|_| Errno::EINVAL)?;
    }
    let mut arguments = texts(process, arguments)?;
    if arguments.is_empty() {
        // As Linux since 5.18: many programs take the first for granted.
        arguments.push(CString::default());
    }
    let environment = texts(process, environment)?;
    let next = interpreted(process, file, path, arguments, environment)?;
    if MAX_ARGUMENTS < next.program.argument_bytes() {
        return Err(Errno::E2BIG);
    }
    let random = Source::open().and_then(|mut source| source.bits()).map_err(|_| Errno::EIO)?;
    Ok((next, random))
}

/// The file that the call names.
fn named(process: &Process, directory: i32, path: &CString, flags: i32) -> Result<Arc<OpenFile>, Errno> {
    if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
        return process.files.descriptors().get(directory);
    }
    let follow = if flags & libc::AT_SYMLINK_NOFOLLOW == 0 { Follow::Yes } else { Follow::No };
    open(process, &process.files.at(directory, path.as_bytes())?, follow)
}

/// Opens what may be executed.
fn open(process: &Process, at: &At<'_>, follow: Follow) -> Result<Arc<OpenFile>, Errno> {
    let facts = process.facts();
    let (view, caller) = (process.files.view(), process.files.caller(&facts));
    let kind = view.status(&caller, at, follow)?.kind();
    match kind {
        libc::S_IFREG => {}
        libc::S_IFLNK => return Err(Errno::ELOOP),
        _ => return Err(Errno::EACCES),
    }
    view.access(&caller, at, follow, EXECUTE_ACCESS)?;
    view.open(&caller, at, &OpenRequest::new((OFlag::O_RDONLY | OFlag::O_CLOEXEC).bits(), 0))
}

/// A descriptor of the host with the file's bytes.
fn bytes(file: &OpenFile) -> Result<File, Errno> {
    let cloned = match file.object() {
        Object::Host(fd) => fd.try_clone(),
        Object::Memory(handle) => handle.map(&(0..u64::MAX), false, |fd| fd.as_fd().try_clone_to_owned())?,
        _ => return Err(Errno::EACCES),
    };
    cloned.map(File::from).map_err(|_| Errno::ENFILE)
}

/// The program of `file`, or if that is a script, its interpreter with the arguments that it gets.
fn interpreted(
    process: &Process,
    mut file: Arc<OpenFile>,
    path: CString,
    mut arguments: Vec<CString>,
    environment: Vec<CString>,
) -> Result<Next, Errno> {
    let mut name = path.clone();
    for _ in 0..=MAX_SCRIPTS {
        let content = bytes(&file)?;
        let mut start = [0; script::MAX_LINE];
        let read = content.read_at(&mut start, 0).map_err(|_| Errno::EIO)?;
        let Some((interpreter, argument)) = script::parse(&start[..read]) else {
            let image = read_image(&file, content)?;
            let interpreter = image.interpreter().map(|name| linker(process, name)).transpose()?;
            let program = Program { image, interpreter, path, arguments, environment };
            return Ok(Next { program, executable: file.path().clone() });
        };
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::ENOEXEC);
        let before = [Some(text(interpreter)?), argument.map(text).transpose()?, Some(name)];
        arguments.splice(..1, before.into_iter().flatten());
        name = text(interpreter)?;
        file = open(process, &process.files.at(libc::AT_FDCWD, name.as_bytes())?, Follow::Yes)?;
    }
    Err(Errno::ELOOP)
}

fn linker(process: &Process, name: &str) -> Result<Image, Errno> {
    let file = open(process, &process.files.at(libc::AT_FDCWD, name.as_bytes())?, Follow::Yes)?;
    read_image(&file, bytes(&file)?)
}

fn read_image(file: &OpenFile, content: File) -> Result<Image, Errno> {
    let path = String::from_utf8_lossy(file.path().as_bytes());
    Image::read(&path, content).map_err(|error| match error {
        LoadError::Read { source, .. } => Errno::from_raw(source.raw_os_error().unwrap_or(libc::EIO)),
        _ => Errno::ENOEXEC,
    })
}

/// argv or envp: strings up to a null pointer. A null pointer itself is an empty list.
fn texts(process: &Process, list: u64) -> Result<Vec<CString>, Errno> {
    let (mut texts, mut total, mut at) = (Vec::new(), 0, list);
    if list == 0 {
        return Ok(texts);
    }
    loop {
        let pointer: u64 = process.memory().read(at)?;
        if pointer == 0 {
            return Ok(texts);
        }
        let text = process.memory().read_text(pointer, MAX_ARGUMENT, Errno::E2BIG)?;
        total += text.as_bytes_with_nul().len() + size_of::<u64>();
        if MAX_ARGUMENTS < total {
            return Err(Errno::E2BIG);
        }
        texts.push(text);
        at = at.checked_add(size_of::<u64>() as u64).ok_or(Errno::EFAULT)?;
    }
}

/// Puts the program in the place of this one: execve(2), "Effect on process attributes".
fn replace(
    process: &mut Process,
    next: &Next,
    random: [u8; 16],
) -> Result<Entry, Box<dyn std::error::Error>> {
    let Next { program, executable } = next;
    process.space.clear()?;
    let entry = program.load(&mut process.space, random)?;
    process.files.descriptors_mut().close_for_exec();
    process.signals.begin_program();
    process.start = StartFacts::new(executable.clone(), &program.arguments, &program.environment)
        .of_the_same_process(&process.start);
    process.set_name(program.path.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default());
    process.segments = Segments::default();
    Ok(entry)
}
