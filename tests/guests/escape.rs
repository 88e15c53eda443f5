//! Guest program: tries to see or change what it wasn't granted. Prints what got through: nothing, if all is well.
//! Arguments: a granted directory (with links that lead out of it), and the path of a secret outside.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

fn main() {
    let mut args = std::env::args().skip(1);
    let granted = PathBuf::from(args.next().expect("a granted directory"));
    let secret = PathBuf::from(args.next().expect("a secret's path"));
    let mut breaches = Vec::new();
    breaches.extend(reads(&granted, &secret));
    breaches.extend(writes(&granted));
    breaches.extend(process_files());
    breaches.extend(device_files());
    for breach in &breaches {
        println!("BREACH {breach}");
    }
    println!("tried everything");
}

fn reads(granted: &Path, secret: &Path) -> Vec<String> {
    let inside = secret.strip_prefix("/").expect("an absolute path");
    let up = "../".repeat(40);
    let mut paths = vec![
        secret.to_path_buf(),
        granted.join(&up).join(inside),
        granted.join("sub").join(&up).join(inside),
        Path::new("/proc/self/root").join(inside),
        Path::new("/proc/1/root").join(inside),
        Path::new("/proc/self/cwd").join(&up).join(inside),
        Path::new("/dev/fd/../../").join(inside),
        Path::new("/tmp/../").join(inside),
        PathBuf::from("/etc/shadow"),
        PathBuf::from("/etc/../etc/gshadow"),
    ];
    for link in ["absolute", "relative", "directory", "chain", "proc", "loop"] {
        paths.push(granted.join(link));
        paths.push(granted.join(link).join(secret.file_name().expect("a file name")));
        paths.push(granted.join("sub").join("..").join(link));
    }
    for descriptor in 0..64 {
        paths.push(format!("/proc/self/fd/{descriptor}/{}", inside.display()).into());
        paths.push(format!("/proc/self/fd/{descriptor}/../../../../../../{}", inside.display()).into());
    }
    let open = |path: &PathBuf| {
        File::open(path).ok().filter(|file| file.metadata().is_ok_and(|data| data.is_file()))
    };
    let mut breaches = Vec::new();
    for path in &paths {
        let mut text = Vec::new();
        if let Some(mut file) = open(path)
            && file.read_to_end(&mut text).is_ok()
        {
            breaches.push(format!("read {} ({} bytes)", path.display(), text.len()));
        }
    }
    breaches
}

fn writes(granted: &Path) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut check = |what: &str, path: &Path, done: std::io::Result<()>| {
        if done.is_ok() {
            breaches.push(format!("{what} {}", path.display()));
        }
    };
    let visible = granted.join("visible");
    for path in
        [granted.join("new"), PathBuf::from("/usr/new"), PathBuf::from("/etc/new"), PathBuf::from("/new")]
    {
        check("created", &path, fs::write(&path, b"x"));
        check("made directory", &path, fs::create_dir(&path));
        check("linked", &path, std::os::unix::fs::symlink("/etc/passwd", &path));
        check("hard-linked", &path, fs::hard_link(&visible, &path));
    }
    check("removed", &visible, fs::remove_file(&visible));
    check("renamed", &visible, fs::rename(&visible, granted.join("renamed")));
    check("opened for writing", &visible, OpenOptions::new().write(true).open(&visible).map(drop));
    check(
        "truncated",
        &visible,
        OpenOptions::new().read(true).truncate(true).write(true).open(&visible).map(drop),
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    check("changed the mode of", &visible, fs::set_permissions(&visible, mode));
    if let Ok(file) = File::open(&visible) {
        check("changed the length of", &visible, file.set_len(0));
        check("wrote to", &visible, (&file).write_all(b"x"));
        let now = std::time::SystemTime::now();
        check("changed the time of", &visible, file.set_modified(now));
    }
    breaches
}

fn process_files() -> Vec<String> {
    let mut breaches = Vec::new();
    for path in [
        "/proc/self/mem",
        "/proc/thread-self/mem",
        "/proc/1/mem",
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/self/pagemap",
    ] {
        if let Ok(mut file) = OpenOptions::new().read(true).write(true).open(path) {
            breaches.push(format!("opened {path} for writing"));
            let mut byte = [0];
            let address = std::ptr::from_ref(&breaches).addr() as u64;
            if file.seek(SeekFrom::Start(address)).is_ok() && file.read_exact(&mut byte).is_ok() {
                breaches.push(format!("read memory through {path}"));
            }
        }
        let mut byte = [0];
        if let Ok(mut file) = File::open(path)
            && file.read_exact(&mut byte).is_ok()
        {
            breaches.push(format!("read {path}"));
        }
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_ok_and(|pid| pid != std::process::id()) {
            breaches.push(format!("process {name} of the host is visible"));
        }
    }
    // The descriptors that the VMM itself has open must not be reachable by number.
    for descriptor in 3..256 {
        let path = format!("/proc/self/fd/{descriptor}");
        if let Ok(target) = fs::read_link(&path)
            && (target.starts_with("/dev") || target.to_string_lossy().contains("kvm"))
        {
            breaches.push(format!("{path} leads to {}", target.display()));
        }
    }
    breaches
}

fn device_files() -> Vec<String> {
    let names = [
        "/dev/kvm",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/vda",
        "/dev/sda",
        "/dev/fuse",
        "/dev/net/tun",
        "/dev/port",
    ];
    names.iter().filter(|name| File::open(name).is_ok()).map(|name| format!("opened {name}")).collect()
}
