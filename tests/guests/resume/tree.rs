//! Changes a tree of files in every way, and says when it's done.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Files of the tree are `DIRECTORY/d{0..10}/f{n}`, as many as `rounds`; the directory is the third argument.
pub(super) fn run(rounds: u64) -> bool {
    let Some(directory) = std::env::args().nth(3) else { return false };
    let changed = change(Path::new(&directory), rounds);
    super::say(&format!("{changed:?}"));
    changed.is_ok()
}

fn change(directory: &Path, rounds: u64) -> io::Result<()> {
    let made = directory.join("made");
    fs::create_dir(&made)?;
    for number in 0..rounds {
        let file = directory.join(format!("d{}/f{number}", number % 10));
        // Half stay as they are.
        match number % 10 {
            0 => fs::write(&file, format!("written anew {number}\n").repeat(20))?,
            1 => fs::rename(&file, made.join(format!("moved{number}")))?,
            2 => fs::remove_file(&file)?,
            3 => fs::set_permissions(&file, fs::Permissions::from_mode(0o640))?,
            4 => fs::write(made.join(format!("new{number}")), format!("new {number}"))?,
            _ => {}
        }
    }
    fs::rename(directory.join("d9"), directory.join("was d9"))
}
