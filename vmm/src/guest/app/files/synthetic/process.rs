//! /proc/self: what it tells of the guest's one process.

use super::{
    super::{Caller, facts::Usage},
    Node,
    proc::{file_path, ticks},
};

type Render = fn(&Caller<'_>) -> Vec<u8>;

/// What ordinary programs read of themselves. There is no `mem`: a program has its memory already, and
/// through that file a debugger's rights would come in.
const FILES: &[(&str, Render)] = &[
    ("cgroup", |_| b"0::/\n".to_vec()),
    ("cmdline", |caller| caller.facts.arguments()),
    ("comm", |caller| [&caller.facts.name()[..], b"\n"].concat()),
    ("environ", |caller| caller.facts.environment()),
    ("limits", limits),
    ("maps", maps),
    ("mountinfo", mountinfo),
    ("mounts", mounts),
    ("oom_score_adj", |_| b"0\n".to_vec()),
    ("stat", stat),
    ("statm", statm),
    ("status", status),
];

/// Names and units of the resource limits, in the order of their numbers.
const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

/// The node of the process's directory, or of what is in it.
pub(super) fn node(caller: &Caller<'_>, names: &[&[u8]]) -> Option<Node> {
    match names {
        [] => Some(Node::Directory(listing(true))),
        [b"task"] => {
            let id = caller.facts.id().to_string().into_bytes();
            Some(Node::Directory(vec![(id, libc::DT_DIR)]))
        }
        [b"task", id, rest @ ..] if *id == caller.facts.id().to_string().as_bytes() => match rest {
            [] => Some(Node::Directory(listing(false))),
            [b"task", ..] => None,
            rest => node(caller, rest),
        },
        [b"exe"] => Some(Node::Link(caller.facts.executable().as_bytes().to_vec())),
        [b"cwd"] => Some(Node::Link(file_path(caller.directory))),
        [b"root"] => Some(Node::Link(b"/".to_vec())),
        [b"fd"] => Some(Node::Directory(numbers(caller, libc::DT_LNK))),
        [b"fd", number] => Some(Node::Descriptor(descriptor(caller, number)?)),
        [b"fdinfo"] => Some(Node::Directory(numbers(caller, libc::DT_REG))),
        [b"fdinfo", number] => {
            descriptor(caller, number)?;
            Some(Node::Fixed(b"pos:\t0\nflags:\t0100000\nmnt_id:\t1\n".to_vec()))
        }
        [name] => {
            let file = FILES.iter().find(|(known, _)| known.as_bytes() == *name);
            file.map(|(_, render)| Node::Text(*render))
        }
        _ => None,
    }
}

fn listing(with_tasks: bool) -> Vec<(Vec<u8>, u8)> {
    let files = FILES.iter().map(|(name, _)| (name.as_bytes().to_vec(), libc::DT_REG));
    let links = ["cwd", "exe", "root"].map(|name| (name.as_bytes().to_vec(), libc::DT_LNK));
    let tasks = with_tasks.then_some("task");
    let directories = ["fd", "fdinfo"].into_iter().chain(tasks);
    let directories = directories.map(|name| (name.as_bytes().to_vec(), libc::DT_DIR));
    files.chain(links).chain(directories).collect()
}

fn numbers(caller: &Caller<'_>, kind: u8) -> Vec<(Vec<u8>, u8)> {
    caller.descriptors.numbers().map(|number| (number.to_string().into_bytes(), kind)).collect()
}

/// An open descriptor by its decimal name; other spellings of a number are no names.
fn descriptor(caller: &Caller<'_>, name: &[u8]) -> Option<i32> {
    let number: i32 = std::str::from_utf8(name).ok()?.parse().ok()?;
    let spelled = number.to_string().as_bytes() == name;
    (spelled && caller.descriptors.get(number).is_ok()).then_some(number)
}

fn limits(caller: &Caller<'_>) -> Vec<u8> {
    let value = |value: u64| if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() };
    let row = |name: &str, soft: &str, hard: &str, unit: &str| {
        format!("{name:<25} {soft:<20} {hard:<20} {unit:<10}\n")
    };
    let mut text = row("Limit", "Soft Limit", "Hard Limit", "Units");
    for (resource, (name, unit)) in (0..).zip(LIMITS) {
        let (soft, hard) = caller.facts.limit(resource);
        text.push_str(&row(name, &value(soft), &value(hard), unit));
    }
    text.into_bytes()
}

fn maps(caller: &Caller<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    for mapping in caller.facts.mappings() {
        let flag = |set: bool, letter: char| if set { letter } else { '-' };
        let line = format!(
            "{:08x}-{:08x} {}{}{}{} {:08x} 00:00 0 ",
            mapping.start,
            mapping.end,
            flag(mapping.readable, 'r'),
            flag(mapping.writable, 'w'),
            flag(mapping.executable, 'x'),
            if mapping.shared { 's' } else { 'p' },
            mapping.offset,
        );
        text.extend_from_slice(line.as_bytes());
        if !mapping.name.is_empty() {
            // Names begin in column 73, as Linux writes them.
            text.resize(text.len() + 73_usize.saturating_sub(line.len()), b' ');
            text.extend_from_slice(&mapping.name);
        }
        text.push(b'\n');
    }
    text
}

fn mounts(caller: &Caller<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    for mount in caller.view.mounts().iter().rev() {
        let mode = if mount.backend.writable() { "rw" } else { "ro" };
        text.extend_from_slice(b"cairn ");
        text.extend(escaped(mount.point.as_bytes()));
        text.extend_from_slice(format!(" cairn {mode} 0 0\n").as_bytes());
    }
    text
}

fn mountinfo(caller: &Caller<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    for (number, mount) in (1..).zip(caller.view.mounts().iter().rev()) {
        let mode = if mount.backend.writable() { "rw" } else { "ro" };
        let number: u32 = number;
        text.extend_from_slice(format!("{number} 1 0:{number} / ").as_bytes());
        text.extend(escaped(mount.point.as_bytes()));
        text.extend_from_slice(format!(" {mode} - cairn cairn {mode}\n").as_bytes());
    }
    text
}

/// A path with blanks and backslashes in octal, as mount tables have them.
fn escaped(path: &[u8]) -> Vec<u8> {
    let escape = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        other => vec![*other],
    };
    path.iter().flat_map(escape).collect()
}

/// The fields of proc_pid_stat(5), in order; those without meaning here are 0.
fn stat(caller: &Caller<'_>) -> Vec<u8> {
    let usage = caller.facts.usage();
    let id = caller.facts.id();
    let mut text = format!("{id} (").into_bytes();
    text.extend(caller.facts.name());
    // From `state` to `cmajflt`.
    text.extend_from_slice(format!(") R 0 {id} {id} 0 -1 0 0 0 0 0").as_bytes());
    let times = format!(" {} {} 0 0 20 0 1 0 0", ticks(usage.user), ticks(usage.system));
    text.extend_from_slice(times.as_bytes());
    let pages = usage.resident_bytes / PAGE_BYTES;
    let memory = format!(" {} {pages} {} 0 0 {}", usage.virtual_bytes, u64::MAX, usage.stack_start);
    text.extend_from_slice(memory.as_bytes());
    // From `kstkesp` to `exit_code`; the 38th field is the signal sent at the end, SIGCHLD.
    let rest = (29..=52).map(|field| if field == 38 { " 17" } else { " 0" });
    text.extend(rest.flat_map(str::bytes));
    text.push(b'\n');
    text
}

const PAGE_BYTES: u64 = 4096;

fn statm(caller: &Caller<'_>) -> Vec<u8> {
    let Usage { virtual_bytes, resident_bytes, .. } = caller.facts.usage();
    let (size, resident) = (virtual_bytes / PAGE_BYTES, resident_bytes / PAGE_BYTES);
    format!("{size} {resident} 0 0 0 {size} 0\n").into_bytes()
}

fn status(caller: &Caller<'_>) -> Vec<u8> {
    let usage = caller.facts.usage();
    let id = caller.facts.id();
    let (user, group) = caller.facts.owner();
    let mut text = b"Name:\t".to_vec();
    text.extend(caller.facts.name());
    text.extend_from_slice(
        format!(
            "\nUmask:\t{:04o}\nState:\tR (running)\nTgid:\t{id}\nNgid:\t0\nPid:\t{id}\nPPid:\t0\nTracerPid:\t0\n\
             Uid:\t{user}\t{user}\t{user}\t{user}\nGid:\t{group}\t{group}\t{group}\t{group}\nFDSize:\t64\n\
             Groups:\t\nVmPeak:\t{:>8} kB\nVmSize:\t{:>8} kB\nVmLck:\t       0 kB\nVmHWM:\t{:>8} kB\n\
             VmRSS:\t{:>8} kB\nVmSwap:\t       0 kB\nThreads:\t1\nSeccomp:\t0\nCpus_allowed:\t1\n\
             Cpus_allowed_list:\t0\nMems_allowed:\t1\nMems_allowed_list:\t0\n",
            caller.umask,
            usage.virtual_bytes >> 10,
            usage.virtual_bytes >> 10,
            usage.resident_bytes >> 10,
            usage.resident_bytes >> 10,
        )
        .as_bytes(),
    );
    text
}
