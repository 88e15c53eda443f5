//! Standard output in a file that goes back with the program.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Makes `path`, which begins empty, the standard output.
pub(crate) fn begin(path: &Path) -> Result<()> {
    put(path, &File::create(path).with_context(|| format!("{} can't be written", path.display()))?)
}

/// Makes `path` the standard output, cut back to `position`.
pub(crate) fn go_on(path: &Path, position: u64) -> Result<()> {
    let open = || -> std::io::Result<(File, u64)> {
        let file = OpenOptions::new().write(true).open(path)?;
        let len = file.metadata()?.len();
        Ok((file, len))
    };
    let (mut file, len) = open().with_context(|| format!("{} can't be written", path.display()))?;
    ensure!(
        position <= len,
        "{} has {len} bytes, and had {position} when the checkpoint was taken: it isn't the program's output any more",
        path.display()
    );
    let cut = file.set_len(position).and_then(|()| file.seek(SeekFrom::Start(position)));
    cut.with_context(|| format!("{} can't be cut back", path.display()))?;
    put(path, &file)
}

fn put(path: &Path, file: &File) -> Result<()> {
    nix::unistd::dup2_stdout(file).with_context(|| format!("{} can't be the standard output", path.display()))
}
