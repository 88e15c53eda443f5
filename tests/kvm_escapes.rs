//! What a guest must not reach, and the confinement of the threads that serve it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::process::Stdio;

use cairn_tests::{cairn_run, guest, run};

#[test]
fn nothing_leaks_out_of_the_granted_directories() {
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "the secret").unwrap();
    let granted = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| granted.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("visible"), "visible").unwrap();
    symlink(&secret, at("absolute")).unwrap();
    let relative = format!("../{}/secret", outside.path().file_name().unwrap().to_str().unwrap());
    symlink(&relative, at("relative")).unwrap();
    symlink(outside.path(), at("directory")).unwrap();
    symlink("relative", at("chain")).unwrap();
    symlink(format!("/proc/self/root{}", secret.display()), at("proc")).unwrap();
    symlink("loop", at("loop")).unwrap();

    let mut command = cairn_run(&["--dir", granted.path().to_str().unwrap()]);
    command.current_dir("/usr").arg(guest("guest-escape")).args([granted.path(), &secret]);
    let output = run(&mut command, b"").unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(out, "tried everything\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success());
    assert_eq!(fs::read_to_string(at("visible")).unwrap(), "visible");
    assert_eq!(fs::read_dir(granted.path()).unwrap().count(), 8);
}

#[test]
fn a_writable_grant_is_writable_and_no_other() {
    let granted = tempfile::tempdir().unwrap();
    let path = granted.path().to_str().unwrap();
    let program = "import os,shutil\nopen('/data/in','w').write('in')\nshutil.copy('/data/in','/data/copy')\nos.remove('/data/in')\nos.mkdir('/data/sub')\ntry:\n open('/etc/out','w')\nexcept OSError as e: print(e.errno)";
    let mut command = cairn_run(&["--dir", &format!("{path}:/data:rw")]);
    let output = run(command.args(["/usr/bin/python3", "-S", "-c", program]), b"").unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{}\n", libc::EROFS),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(fs::read_to_string(granted.path().join("copy")).unwrap(), "in");
    assert!(granted.path().join("sub").is_dir() && !granted.path().join("in").exists());
}

/// /proc tells of each thread whether it may gain privileges and whether a seccomp filter is on.
#[test]
fn threads_that_serve_a_guest_are_confined() {
    let mut command = cairn_run(&[]);
    command.args(["/usr/bin/python3", "-S", "-c", "print('up', flush=True); input()"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let mut confined = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", child.id())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
        };
        // KVM adds a thread of its own, which inherits.
        if ["poller", "vcpu"].contains(&field("Name:").as_str()) {
            confined.push((field("Name:"), field("Seccomp:"), field("NoNewPrivs:")));
        }
    }
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    confined.sort();
    let expected = ["poller", "vcpu"].map(|name| (name.to_owned(), "2".to_owned(), "1".to_owned()));
    assert_eq!(confined, expected);
}

/// The working directory is shown, and is above the directory with the key in normal use.
#[test]
fn the_users_key_is_out_of_reach() {
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    let own = home.path().join(".local/state/cairn");
    let store = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = home.path().to_str().unwrap();
    let writable = format!("{path}:rw");
    let elsewhere = format!("{path}:/elsewhere:rw");
    let cairn = |options: &[&str], program: &str| {
        let mut command = cairn_run(options);
        command.current_dir(home.path()).env("HOME", home.path()).env_remove("XDG_STATE_HOME");
        run(command.args(["/usr/bin/python3", "-S", "-c", program]), b"").unwrap()
    };
    // A checkpoint makes the key.
    let stored = store.path().join("store");
    let made = cairn(&["--store", stored.to_str().unwrap(), "--every", "never"], "");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = fs::read(own.join("key")).unwrap();

    let program = "import errno,os
for top in ['.', '/elsewhere']:
 if not os.path.exists(top): continue
 own = top + '/.local/state/cairn'
 print(os.listdir(own), end=' ')
 for act in [lambda: open(own + '/key'), lambda: open(own + '/key', 'w'), lambda: open(own + '/publish-0.json', 'w'),
             lambda: os.rename(own, top + '/moved'), lambda: os.rename(top + '/.local', top + '/moved')]:
  try: act(); print('did it', end=' ')
  except OSError as e: print(errno.errorcode[e.errno], end=' ')
";
    let busy = "[] ENOENT EROFS EROFS EBUSY EBUSY ";
    for (options, expected) in [
        (&[][..], busy.to_owned()),
        (&["--dir", &writable], busy.to_owned()),
        (&["--dir", &writable, "--overlay"], busy.to_owned()),
        (&["--dir", &writable, "--dir", &elsewhere], busy.repeat(2)),
    ] {
        let output = cairn(options, program);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{options:?}: {error}");
        assert_eq!(fs::read(own.join("key")).unwrap(), key, "{options:?}");
        assert_eq!(fs::read_dir(&own).unwrap().count(), 1, "{options:?}");
    }
    let granted = cairn(&["--dir", own.to_str().unwrap()], "");
    assert!(!granted.status.success() && granted.stdout.is_empty());
    let error = String::from_utf8_lossy(&granted.stderr);
    assert!(error.contains("is Cairn's own, with a key or with checkpoints"), "{error}");

    // A store whose records it had read could be imitated in its pages.
    let store = ["--store", "ck", "--dir", &writable];
    for _ in 0..2 {
        let output = cairn(&store, "import os; print(os.listdir('ck'), os.path.exists('ck/MANIFEST'))");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "[] False\n", "{output:?}");
    }
    assert!(home.path().join("ck/MANIFEST").exists());
}
