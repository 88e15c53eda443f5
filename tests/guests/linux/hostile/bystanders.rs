//! Those whom an attack must not reach: another process's memory, files that the attacker may only read, and a program
//! with a session of its own.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use cairn_tests::pages::{FileView, PAGE, Pages};

use crate::support::partner::{Partner, Talk};
use crate::support::{self, walk::Walk};

/// Pages of the file, and of the memory that the canary keeps.
const FILE_PAGES: usize = 8;
const KEPT_PAGES: usize = 64;
/// Pages that the canary takes, fills, looks at and gives back, so that what the attacker's memory leaves behind is
/// soon part of somebody else.
const CHURNED_PAGES: usize = 128;
const FEATHERS: u64 = 0xca4a_27ca_4a27_ca4a;

/// All of them.
#[derive(Debug)]
pub(crate) struct Bystanders {
    canary: Partner,
    file: ReadOnly,
}

impl Bystanders {
    pub(crate) fn invite() -> Result<Self> {
        let mut canary = Partner::start("canary", &[])?;
        canary.expect("singing")?;
        Ok(Self { canary, file: ReadOnly::new()? })
    }

    /// A file that this process may only read.
    pub(crate) fn file(&self) -> &ReadOnly {
        &self.file
    }

    /// Checks that none of them noticed, while the attacker still has its function.
    pub(crate) fn check(mut self) -> Result<()> {
        let said = self.canary.ask("look")?;
        ensure!(said == "whole", "the canary says {said:?}");
        self.canary.finish()?;
        self.file.check()?;
        Partner::start("honest", &[])?.finish()
    }
}

/// A file with two mappings, neither of which may be written.
#[derive(Debug)]
pub(crate) struct ReadOnly {
    file: File,
    shared: Pages,
    private: Pages,
}

impl ReadOnly {
    fn new() -> Result<Self> {
        // SAFETY: a name that ends with 0.
        let descriptor = unsafe { libc::memfd_create(c"read-only".as_ptr(), 0) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error()).context("making a file in memory");
        }
        // SAFETY: new, and nobody else's.
        let file = unsafe { File::from_raw_fd(descriptor) };
        write(&file, 1)?;
        let shared = Pages::of_file(&file, FILE_PAGES, FileView::SharedRead)?;
        let private = Pages::of_file(&file, FILE_PAGES, FileView::PrivateRead)?;
        let file = Self { file, shared, private };
        file.check()?;
        Ok(file)
    }

    /// Where its two mappings are.
    pub(crate) fn addresses(&self) -> [u64; 2] {
        [self.shared.address(), self.private.address()]
    }

    /// Changes it by write(2), which this process may.
    pub(crate) fn change(&self, version: u64) -> Result<()> {
        write(&self.file, version)
    }

    /// Checks that the file, and what is mapped of it, is what was written last.
    pub(crate) fn check(&self) -> Result<()> {
        let mut first = [0; 8];
        self.file.read_exact_at(&mut first, 0)?;
        let version = u64::from_le_bytes(first) & 0xff;
        for page in 0..FILE_PAGES {
            let mut words = [0; PAGE];
            self.file.read_exact_at(&mut words, (page * PAGE) as u64)?;
            let expected = content(page, version).to_le_bytes();
            ensure!(
                words.as_chunks().0.iter().all(|word| *word == expected),
                "page {page} of the file changed"
            );
            for view in [&self.shared, &self.private] {
                let found = view.get::<u64>(page * PAGE);
                ensure!(
                    found == content(page, version),
                    "page {page} of a mapping of the file is {found:#x}"
                );
            }
        }
        Ok(())
    }
}

fn content(page: usize, version: u64) -> u64 {
    0xf11e << 32 | (page as u64) << 8 | version
}

fn write(file: &File, version: u64) -> Result<()> {
    for page in 0..FILE_PAGES {
        let word = content(page, version).to_le_bytes();
        file.write_all_at(&word.repeat(PAGE / 8), (page * PAGE) as u64).context("writing to the file")?;
    }
    Ok(())
}

/// Takes memory and gives it back, and keeps some; sees whether anybody else writes to it.
pub(crate) fn canary(_: &[String], talk: &mut Talk) -> Result<()> {
    let kept = Pages::anonymous(KEPT_PAGES)?;
    kept.fill(FEATHERS);
    talk.say("singing")?;
    let asked = std::thread::scope(|scope| {
        let ear = scope.spawn(|| talk.hear());
        while !ear.is_finished() {
            let taken = Pages::anonymous(CHURNED_PAGES)?;
            taken.fill(FEATHERS);
            std::thread::yield_now();
            ensure!(taken.is_filled(FEATHERS), "somebody wrote to memory that was just taken");
        }
        ear.join().ok().context("listening")?
    })?;
    ensure!(kept.is_filled(FEATHERS), "somebody wrote to memory that was kept");
    match asked.as_deref() {
        Some("look") => talk.say("whole"),
        _ => bail!("nobody is there"),
    }
}

/// A program that uses its session as it should.
pub(crate) fn honest(_: &[String], _: &mut Talk) -> Result<()> {
    let mut walk = Walk::start(support::session()?, 64, 31)?;
    for _ in 0..12 {
        walk.step()?;
    }
    walk.finish()
}
