//! Taking the steps. Each may be taken twice: who was killed after one begins again before it.

use nix::errno::Errno;

use super::{
    super::{
        backend::{Answer, Backend, Follow, Removal, Renaming},
        host::HostTree,
        path::Inside,
        status::Status,
    },
    Object, Step,
    stage::{host_times, link_path, object_path},
};

pub(in crate::guest::app::files) fn take(host: &HostTree, stage: &str, step: &Step) -> Answer<()> {
    match step {
        Step::MoveOut { from, id } => {
            let to = object_path(stage, Object::Moved(*id));
            // Once it was moved, the name may already mean something new.
            if exists(host, &to)? { Ok(()) } else { rename(host, from, &to) }
        }
        Step::Remove { path, directory } => {
            let what = if *directory { Removal::Directory } else { Removal::File };
            unless(host.remove(Inside::new(path), what), Errno::ENOENT)
        }
        Step::MakeDirectory { path, mode } => {
            unless(host.make_directory(Inside::new(path), *mode), Errno::EEXIST)
        }
        Step::Place { object, path } => {
            let from = object_path(stage, *object);
            if exists(host, &from)? { rename(host, &from, path) } else { Ok(()) }
        }
        Step::Link { from, to } => {
            let new = link_path(stage);
            unless(host.remove(Inside::new(&new), Removal::File), Errno::ENOENT)?;
            host.link(Inside::new(from), Inside::new(&new))?;
            rename(host, &new, to)?;
            // Renaming one name of a file over another of the same file does nothing.
            unless(host.remove(Inside::new(&new), Removal::File), Errno::ENOENT)
        }
        Step::Attributes { path, mode, times } => {
            if let Some(mode) = mode {
                host.change_mode(Inside::new(path), *mode)?;
            }
            match times {
                Some(times) => host.change_times(Inside::new(path), Follow::Yes, &host_times(times)),
                None => Ok(()),
            }
        }
    }
}

/// Whether all that steps after the first `done` need can be told from what is there.
pub(in crate::guest::app::files) fn exists(host: &HostTree, path: &[u8]) -> Answer<bool> {
    match host.name(Inside::new(path)).map(|(_, stat)| Status::from(&stat)) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn rename(host: &HostTree, from: &[u8], to: &[u8]) -> Answer<()> {
    host.rename(Inside::new(from), Inside::new(to), Renaming::default())
}

fn unless(answer: Answer<()>, done: Errno) -> Answer<()> {
    match answer {
        Err(error) if error == done => Ok(()),
        answer => answer,
    }
}
