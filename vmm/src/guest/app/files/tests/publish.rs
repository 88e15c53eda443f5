//! Publishing an overlay, against a directory that was changed itself.

use std::{os::unix::fs::MetadataExt, path::Path};

use proptest::prelude::*;

use super::super::{
    Conflict, PublishError,
    backend::{Backend, Renaming as HostRenaming},
    host::{HostTree, Readers},
    path::{GuestPath, Inside},
    publish::{
        Left, apply,
        claim::Claim,
        record::Record,
        stage::{self, Stage},
    },
    resume,
};
use super::image::{Pages, restored};
use super::oracle::step;
use super::overlay::{compare, fill, on_host, pair};
use super::{Follow, Removal, Renaming, World};

/// What is in the host's directory when all is done: no traces of the work.
fn result(world: &World) -> Vec<String> {
    on_host(&world.on_host("rw"))
}

/// Files whose hard links were parted differ from a native directory in their links and in the other name's
/// bytes; such starts are not compared.
fn without_links(root: &Path) {
    fill(root);
    std::fs::remove_file(root.join("r/a/c")).unwrap();
}

fn pair_without_links() -> (World, World) {
    let native = World::new();
    without_links(&native.on_host("rw"));
    (World::over(without_links), native)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn what_is_published_is_what_a_native_run_leaves(
        steps in proptest::collection::vec(step(), 1..40),
        again in any::<bool>(),
    ) {
        let (mut over, mut native) = pair_without_links();
        let records = tempfile::tempdir().unwrap();
        for step in &steps {
            compare(&mut over, &mut native, step)?;
        }
        if again {
            let mut pages = Pages::default();
            let (image, _) = pages.take(&mut over);
            over = restored(&over, image, &pages).unwrap();
        }
        over.files.publish(records.path()).unwrap();
        prop_assert_eq!(result(&over), result(&native));
        prop_assert_eq!(std::fs::read_dir(records.path()).unwrap().count(), 0);
    }

    /// A kill after any step, with and without the mark that it was taken.
    #[test]
    fn a_kill_between_any_two_steps_is_made_up_for(
        steps in proptest::collection::vec(step(), 1..30),
        killed in any::<proptest::sample::Index>(),
        marked in any::<bool>(),
    ) {
        let (mut over, mut native) = pair_without_links();
        for step in &steps {
            compare(&mut over, &mut native, step)?;
        }
        let records = tempfile::tempdir().unwrap();
        let directory = over.on_host("rw").canonicalize().unwrap();
        let host = HostTree::open(&directory, GuestPath::root(), Readers::Monitor, true).unwrap();
        let plan = over.files.view().trees().find_map(|(_, tree)| tree.host_path().map(|_| tree.plan())).unwrap().unwrap();
        prop_assert_eq!(&plan.conflicts, &Vec::<Conflict>::new());
        let name = stage::new_name();
        let mut claim = Claim::take(records.path(), &directory).unwrap();
        claim.note(&name).unwrap();
        let stage = Stage::make(&host, &directory, name.clone()).unwrap();
        stage.fill(&plan).unwrap();
        drop(Record::new(&directory, &name, plan.steps.clone()).write(records.path()).unwrap());
        let killed = killed.index(plan.steps.len() + 1);
        for (number, step) in plan.steps.iter().take(killed).enumerate() {
            apply::take(&host, &name, step).unwrap();
            if number + 1 < killed || marked {
                let (from, to) = (format!("{name}/done-{number}"), format!("{name}/done-{}", number + 1));
                host.rename(Inside::new(from.as_bytes()), Inside::new(to.as_bytes()), HostRenaming::default()).unwrap();
            }
        }
        claim.die();
        prop_assert_eq!(resume(&directory, records.path()).unwrap(), Left::Changes);
        prop_assert_eq!(resume(&directory, records.path()).unwrap(), Left::Nothing);
        prop_assert_eq!(result(&over), result(&native));
        prop_assert_eq!(std::fs::read_dir(records.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_conflict_names_the_file_and_keeps_both_versions() {
    let mut world = World::over(fill);
    let records = tempfile::tempdir().unwrap();
    world.write("/rw/r/b", b"the guest's").unwrap();
    world.write("/rw/r/c/new", b"the guest's, too").unwrap();
    world.remove("/rw/r/a/b/a", Removal::File).unwrap();
    std::fs::write(world.on_host("rw/r/b"), "the host's").unwrap();
    std::fs::write(world.on_host("rw/r/c/new"), "the host's, too").unwrap();
    std::fs::remove_file(world.on_host("rw/r/a/b/a")).unwrap();
    let error = world.files.publish(records.path()).unwrap_err();
    let PublishError::Conflicts { conflicts, kept, .. } = &error else { panic!("{error}") };
    let path = |text: &str| text.as_bytes().to_vec();
    for conflict in
        [Conflict::Changed(path("r/b")), Conflict::Appeared(path("r/c/new")), Conflict::Gone(path("r/a/b/a"))]
    {
        assert!(conflicts.contains(&conflict), "{conflicts:?}");
    }
    assert!(error.to_string().contains("r/b was changed"), "{error}");
    assert_eq!(std::fs::read(world.on_host("rw/r/b")).unwrap(), b"the host's");
    assert_eq!(std::fs::read(kept.join("r/b")).unwrap(), b"the guest's");
    assert_eq!(std::fs::read(kept.join("r/c/new")).unwrap(), b"the guest's, too");
}

#[test]
fn what_the_host_put_into_a_directory_that_the_guest_removed_is_not_lost() {
    let mut world = World::over(fill);
    let records = tempfile::tempdir().unwrap();
    world.remove("/rw/r/a/b/c", Removal::Directory).unwrap();
    std::fs::write(world.on_host("rw/r/a/b/c/late"), "late").unwrap();
    let error = world.files.publish(records.path()).unwrap_err();
    assert!(matches!(&error, PublishError::Conflicts { .. }), "{error}");
    assert_eq!(std::fs::read(world.on_host("rw/r/a/b/c/late")).unwrap(), b"late");
}

#[test]
fn nothing_to_publish_leaves_nothing_behind() {
    let (mut world, native) = pair();
    let records = tempfile::tempdir().unwrap();
    world.read("/rw/r/b").unwrap();
    world.list("/rw/r/a").unwrap();
    let done = world.files.publish(records.path()).unwrap();
    assert_eq!(done, super::super::Published::default());
    assert_eq!(result(&world), result(&native));
}

#[test]
fn a_name_that_changed_places_with_another_is_published_so() {
    let (mut over, mut native) = pair();
    let records = tempfile::tempdir().unwrap();
    for world in [&mut over, &mut native] {
        let exchange = Renaming { exchange: true, keep_existing: false };
        world.rename("/rw/r/a", "/rw/r/c", exchange).unwrap();
        world.rename("/rw/r/b", "/rw/r/a/b", Renaming::default()).unwrap();
        world.make_directory("/rw/r/b").unwrap();
        world.write("/rw/r/b/x", b"x").unwrap();
        world.link("/rw/r/b/x", "/rw/r/c/y", Follow::No).unwrap();
    }
    over.files.publish(records.path()).unwrap();
    assert_eq!(result(&over), result(&native));
}

/// A world whose program wrote something, and the new files of a publishing that was killed before its record.
fn killed_early(records: &Path) -> (World, std::path::PathBuf) {
    let mut world = World::over(fill);
    world.write("/rw/r/b", b"the guest's").unwrap();
    let directory = world.on_host("rw").canonicalize().unwrap();
    let host = HostTree::open(&directory, GuestPath::root(), Readers::Monitor, true).unwrap();
    let name = stage::new_name();
    let mut claim = Claim::take(records, &directory).unwrap();
    claim.note(&name).unwrap();
    Stage::make(&host, &directory, name.clone()).unwrap();
    std::fs::write(directory.join(&name).join("new-1"), "half of it").unwrap();
    claim.die();
    (world, directory.join(name))
}

#[test]
fn what_a_kill_before_the_record_leaves_is_removed_by_the_next_run() {
    let records = tempfile::tempdir().unwrap();
    let (world, stage) = killed_early(records.path());
    let directory = world.on_host("rw");
    assert_eq!(resume(&directory, records.path()).unwrap(), Left::Remains);
    assert!(!stage.exists() && std::fs::read(directory.join("r/b")).unwrap() != b"the guest's");
    assert_eq!(std::fs::read_dir(records.path()).unwrap().count(), 0);
    assert_eq!(resume(&directory, records.path()).unwrap(), Left::Nothing);

    let (mut world, stage) = killed_early(records.path());
    world.files.publish(records.path()).unwrap();
    assert!(!stage.exists() && std::fs::read(world.on_host("rw/r/b")).unwrap() == b"the guest's");
    assert_eq!(std::fs::read_dir(records.path()).unwrap().count(), 0);
}

/// What others can write says nothing of what is to be removed or changed, and no name but that of a staging directory.
#[test]
fn only_what_the_user_alone_has_written_is_believed() {
    use std::os::unix::fs::PermissionsExt;

    for kind in ["lock", "json"] {
        let records = tempfile::tempdir().unwrap();
        let (world, stage) = killed_early(records.path());
        let entry = std::fs::read_dir(records.path()).unwrap().next().unwrap().unwrap().path();
        let path = entry.with_extension(kind);
        std::fs::write(&path, std::fs::read(&entry).unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o620)).unwrap();
        let error = resume(&world.on_host("rw"), records.path()).unwrap_err();
        assert!(matches!(&error, PublishError::Record { path: named, .. } if *named == path), "{error}");
        assert!(stage.exists());
    }
    for name in ["r", "..", "", ".cairn-", ".cairn-../../../../../../../../../../../../../x"] {
        let records = tempfile::tempdir().unwrap();
        let (world, stage) = killed_early(records.path());
        let entry = std::fs::read_dir(records.path()).unwrap().next().unwrap().unwrap().path();
        std::fs::write(&entry, name).unwrap();
        assert_eq!(resume(&world.on_host("rw"), records.path()).unwrap(), Left::Nothing);
        assert!(stage.exists() && world.on_host("rw/r/b").exists());
    }
}

/// Whether somebody waits for the lock on this file: /proc/locks has a line for whoever does (proc_locks(5)).
fn is_waited_for(lock: &Path) -> bool {
    let file = format!(":{} ", std::fs::metadata(lock).unwrap().ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    locks.lines().any(|line| line.contains(" -> ") && line.contains(&file))
}

/// Two runs that end at once take turns, and the later one sees what the earlier one did.
#[test]
fn two_that_publish_at_once_take_turns() {
    let records = tempfile::tempdir().unwrap();
    let mut world = World::over(fill);
    world.write("/rw/r/b", b"the guest's").unwrap();
    let directory = world.on_host("rw").canonicalize().unwrap();
    let first = Claim::take(records.path(), &directory).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| world.files.publish(records.path()).map(drop));
        let lock = std::fs::read_dir(records.path()).unwrap().next().unwrap().unwrap().path();
        while !is_waited_for(&lock) && !second.is_finished() {
            std::thread::yield_now();
        }
        std::fs::write(directory.join("r/b"), "the first one's").unwrap();
        drop(first);
        let error = second.join().unwrap().unwrap_err();
        assert!(matches!(error, PublishError::Conflicts { .. }), "{error}");
    });
    assert_eq!(std::fs::read(directory.join("r/b")).unwrap(), b"the first one's");
    assert_eq!(std::fs::read_dir(records.path()).unwrap().count(), 0);
}
