//! What a guest must not reach.

use std::fs;
use std::os::unix::fs::symlink;

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
