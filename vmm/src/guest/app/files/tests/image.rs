//! Files into an image and back.

use std::{cell::Cell, collections::BTreeMap, os::fd::AsFd, sync::Arc};

use cairn_abi::CheckpointId;
use nix::{errno::Errno, fcntl::OFlag};
use proptest::prelude::*;

use super::super::{
    FILE_PAGE, FilePages, FilePagesSource, FilesImage, ImageError, Object, OpenFile, facts::NoProcess,
};
use super::{Follow, Removal, World, list_all, read_all, read_at, write_to};

/// The checkpoint that images are said to be of.
const FROM: CheckpointId = CheckpointId(7);

/// Pages as a store keeps them: of all images, by name.
#[derive(Default)]
pub(super) struct Pages {
    names: Vec<String>,
    pages: BTreeMap<(String, u64), [u8; FILE_PAGE]>,
    incremental: bool,
    pub given: Cell<usize>,
}

impl FilePages for Pages {
    fn incremental(&self) -> bool {
        self.incremental
    }

    fn file(&mut self, name: &str, _pages: u64) -> Result<u32, ImageError> {
        self.names.push(name.to_owned());
        Ok(u32::try_from(self.names.len() - 1).unwrap())
    }

    fn page(&mut self, file: u32, page: u64, bytes: &[u8; FILE_PAGE]) -> Result<(), ImageError> {
        let name = self.names[usize::try_from(file).unwrap()].clone();
        self.pages.insert((name, page), *bytes);
        self.given.set(self.given.get() + 1);
        Ok(())
    }
}

impl FilePagesSource for Pages {
    fn page(&self, name: &str, page: u64, bytes: &mut [u8; FILE_PAGE]) -> Result<(), ImageError> {
        *bytes = self.pages.get(&(name.to_owned(), page)).copied().unwrap_or([0; FILE_PAGE]);
        Ok(())
    }
}

impl Pages {
    /// An image, as it would be read from a store, and how many pages it took.
    pub(super) fn take(&mut self, world: &mut World) -> (FilesImage, usize) {
        let before = self.given.get();
        let image = world.files.image(&[], self).unwrap();
        self.incremental = true;
        (image, self.given.get() - before)
    }
}

/// The same host's directories, seen by a guest that starts anew from an image.
pub(super) fn restored(world: &World, image: FilesImage, pages: &Pages) -> Result<World, ImageError> {
    let mut new = world.again();
    new.files.restore(&NoProcess, image, pages, FROM)?;
    Ok(new)
}

#[test]
fn a_private_tree_comes_back_with_its_nodes_times_and_links() {
    let mut world = World::new();
    world.make_directory("/tmp/a").unwrap();
    world.make_directory("/tmp/a/b").unwrap();
    world.write("/tmp/a/b/file", &[7; 10_000]).unwrap();
    world.link("/tmp/a/b/file", "/tmp/second", Follow::No).unwrap();
    world.make_symlink("a/b", "/tmp/link").unwrap();
    world.change_mode("/tmp/a/b/file", 0o400).unwrap();
    world.change_mode("/tmp/a", 0o711).unwrap();
    let paths = ["/tmp", "/tmp/a", "/tmp/a/b", "/tmp/a/b/file", "/tmp/second", "/tmp/link"];
    let statuses =
        |world: &World| paths.map(|path| world.status(path, Follow::No).map(without_change_time).unwrap());
    let mut pages = Pages::default();
    let before = statuses(&world);
    let (image, _) = pages.take(&mut world);
    let mut new = restored(&world, image, &pages).unwrap();
    assert_eq!(statuses(&new), before);
    assert_eq!(new.read("/tmp/link/file"), Ok(vec![7; 10_000]));
    assert_eq!(new.read_link("/tmp/link").unwrap(), "a/b");
    // It goes on living: the number of a new file is new.
    new.write("/tmp/new", b"x").unwrap();
    let number = new.status("/tmp/new", Follow::No).unwrap().inode;
    assert!(before.iter().all(|status| status.inode != number));
}

/// The host sets a file's own time of change.
fn without_change_time(status: super::Status) -> super::Status {
    super::Status { changed: super::super::Time::default(), ..status }
}

#[test]
fn only_pages_that_changed_are_given_again() {
    let mut world = World::new();
    world.write("/tmp/file", &[1; 40 * FILE_PAGE]).unwrap();
    let number = world.open("/tmp/file", libc::O_RDWR).unwrap();
    let file = world.file(number);
    let mut pages = Pages::default();
    assert_eq!(pages.take(&mut world).1, 40);
    assert_eq!(pages.take(&mut world).1, 0);
    write_to(&file, Some(5 * 4096 + 4000), &[2; 200]).unwrap();
    assert_eq!(pages.take(&mut world).1, 2);
    let Object::Memory(handle) = file.object() else { panic!() };
    handle.truncate(3 * 4096 + 10).unwrap();
    handle.truncate(8 * 4096).unwrap();
    let (image, given) = pages.take(&mut world);
    assert_eq!(given, 1, "the page that was cut");
    let mut new = restored(&world, image, &pages).unwrap();
    let bytes = new.read("/tmp/file").unwrap();
    assert_eq!(bytes.len(), 8 * 4096);
    assert!(bytes[..3 * 4096 + 10].iter().all(|byte| *byte == 1));
    assert!(bytes[3 * 4096 + 10..].iter().all(|byte| *byte == 0));
    // What a mapping may change is given each time.
    handle.map(&(0..4096), true, |_| ()).unwrap();
    assert_eq!(pages.take(&mut world).1, 4);
    assert_eq!(pages.take(&mut world).1, 4);
}

#[test]
fn descriptors_come_back_with_offsets_flags_and_what_they_share() {
    let mut world = World::new();
    std::fs::write(world.on_host("ro/text"), "0123456789").unwrap();
    let table = |world: &mut World| -> Vec<i32> { world.files.descriptors().numbers().collect() };
    let text = world.open("/ro/text", libc::O_RDONLY).unwrap();
    let shared = world.files.descriptors_mut().duplicate(text, 7, true).unwrap();
    let private = world.open("/tmp/file", libc::O_RDWR | libc::O_CREAT | libc::O_APPEND).unwrap();
    write_to(&world.file(private), None, b"private").unwrap();
    world.remove("/tmp/file", Removal::File).unwrap();
    let memfd = world.files.view().memory_file("/memfd:x (deleted)").unwrap();
    let memfd = world.files.descriptors_mut().insert(Arc::new(memfd), false).unwrap();
    write_to(&world.file(memfd), None, b"without a name").unwrap();
    let null = world.open("/dev/null", libc::O_WRONLY).unwrap();
    nix::unistd::lseek(world.file(text).host().unwrap(), 4, nix::unistd::Whence::SeekSet).unwrap();
    world.make_directory("/tmp/here").unwrap();
    world.change_directory("/tmp/here").unwrap();
    world.files.set_umask(0o027);
    let numbers = table(&mut world);
    let mut pages = Pages::default();
    let (image, _) = pages.take(&mut world);
    let mut new = restored(&world, image, &pages).unwrap();
    assert_eq!(table(&mut new), numbers);
    assert!(Arc::ptr_eq(&new.file(text), &new.file(shared)));
    assert!(new.files.descriptors().close_on_exec(shared).unwrap());
    assert!(!new.files.descriptors().close_on_exec(text).unwrap());
    assert_eq!(read_all(&new.file(shared)).unwrap(), b"456789");
    assert_eq!(read_at(&new.file(private), Some(0), 100).unwrap(), b"private");
    write_to(&new.file(private), None, b" and appended").unwrap();
    assert_eq!(read_at(&new.file(private), Some(0), 100).unwrap(), b"private and appended");
    assert_eq!(new.file(private).status().unwrap().links, 0);
    write_to(&new.file(memfd), None, b" at all").unwrap();
    assert_eq!(read_at(&new.file(memfd), Some(0), 100).unwrap(), b"without a name at all");
    assert_eq!(new.file(null).status().unwrap().kind(), libc::S_IFCHR);
    assert_eq!(new.directory().unwrap(), "/tmp/here");
    assert_eq!(new.files.umask(), 0o027);
}

#[test]
fn a_listing_goes_on_where_it_stood() {
    let mut world = World::new();
    for directory in ["/tmp/d", "/rw/d"] {
        world.make_directory(directory).unwrap();
        for name in 0..50 {
            world.write(&format!("{directory}/{name}"), b"").unwrap();
        }
    }
    for directory in ["/tmp/d", "/rw/d"] {
        let number = world.open(directory, libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
        let first = super::listed(&world.file(number).directory().unwrap().read_entries(400).unwrap());
        let mut pages = Pages::default();
        let (image, _) = pages.take(&mut world);
        let new = restored(&world, image, &pages).unwrap();
        let rest = list_all(&new.file(number), 400).unwrap();
        assert_eq!(rest, list_all(&world.file(number), 400).unwrap());
        assert_eq!(first.len() + rest.len(), 52);
        world.files.descriptors_mut().close(number).unwrap();
    }
}

#[test]
fn pipes_and_counters_keep_what_is_in_them() {
    let mut world = World::new();
    let mut insert = |object, label: &str| {
        let file = Arc::new(OpenFile::labelled(object, label));
        world.files.descriptors_mut().insert(file, false).unwrap()
    };
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
    nix::unistd::write(&writer, b"in the pipe").unwrap();
    let event = nix::sys::eventfd::EventFd::from_value(5).unwrap();
    let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).unwrap();
    let wants = nix::sys::epoll::EpollEvent::new(nix::sys::epoll::EpollFlags::EPOLLIN, 77);
    epoll.add(&reader, wants).unwrap();
    let reader = insert(Object::Host(reader), "pipe:[1]");
    let writer = insert(Object::Host(writer), "pipe:[1]");
    let event = insert(Object::Host(event.into()), "anon_inode:[eventfd]");
    let epoll = insert(Object::Epoll(epoll), "anon_inode:[eventpoll]");
    let mut pages = Pages::default();
    let (image, _) = pages.take(&mut world);
    let new = restored(&world, image, &pages).unwrap();
    for world in [&world, &new] {
        let file = world.file(epoll);
        let Object::Epoll(epoll) = file.object() else { panic!() };
        let mut events = [nix::sys::epoll::EpollEvent::empty()];
        assert_eq!(epoll.wait(&mut events, 0_u8), Ok(1));
        assert_eq!(events[0].data(), 77);
        assert_eq!(read_all(&world.file(reader)).unwrap(), b"in the pipe");
        nix::unistd::write(world.file(writer).host().unwrap().as_fd(), b"more").unwrap();
        assert_eq!(read_all(&world.file(reader)).unwrap(), b"more");
        assert_eq!(read_all(&world.file(reader)), Err(Errno::EAGAIN));
        assert_eq!(read_all(&world.file(event)).unwrap(), 5_u64.to_ne_bytes());
    }
}

#[test]
fn a_file_of_the_host_must_be_what_it_was() {
    let mut world = World::new();
    let path = world.on_host("ro/text");
    std::fs::write(&path, "text").unwrap();
    world.open("/ro/text", libc::O_RDONLY).unwrap();
    let mut pages = Pages::default();
    let (image, _) = pages.take(&mut world);
    restored(&world, image.clone(), &pages).unwrap();
    // More of the same file is what a reader of a log waits for.
    std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .map(|mut file| std::io::Write::write_all(&mut file, b"s"))
        .unwrap()
        .unwrap();
    restored(&world, image.clone(), &pages).unwrap();
    std::fs::write(&path, "tex").unwrap();
    let error = restored(&world, image.clone(), &pages).unwrap_err();
    assert!(matches!(&error, ImageError::Changed { path } if path.as_bytes() == b"/ro/text"), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = restored(&world, image, &pages).unwrap_err();
    assert!(matches!(&error, ImageError::Gone { source: Errno::ENOENT, .. }), "{error}");
    assert!(error.to_string().contains("/ro/text"), "{error}");
}

#[test]
fn what_leads_to_another_process_keeps_its_number_and_nothing_else() {
    let mut world = World::new();
    nix::unistd::mkfifo(&world.on_host("rw/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let number = world.open("/rw/fifo", libc::O_RDWR).unwrap();
    let mut pages = Pages::default();
    let (image, _) = pages.take(&mut world);
    let new = restored(&world, image, &pages).unwrap();
    assert_eq!(read_all(&new.file(number)), Err(Errno::EBADF));
    assert_eq!(new.file(number).path().as_bytes(), b"/rw/fifo");
}

/// Places in an image that a damaged or hostile one could have otherwise.
fn places(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{index}"), found);
            }
        }
        serde_json::Value::Object(fields) => {
            for (name, item) in fields {
                places(item, &format!("{at}/{name}"), found);
            }
        }
        _ => {}
    }
    found.push(at.to_owned());
}

fn damage(value: &mut serde_json::Value, kind: u8, number: u64) {
    use serde_json::{Value, json};
    *value = match (kind % 8, &*value) {
        (0, _) => json!(number),
        (1, _) => json!(u64::MAX - number % 3),
        (2, _) => json!(number % 4),
        (3, _) => json!(i64::MIN + i64::try_from(number % 3).unwrap()),
        (4, Value::Array(items)) if !items.is_empty() => {
            let mut items = items.clone();
            items.remove(usize::try_from(number).unwrap_or(0) % items.len());
            Value::Array(items)
        }
        (5, Value::Array(items)) if !items.is_empty() => {
            let mut items = items.clone();
            items.push(items[usize::try_from(number).unwrap_or(0) % items.len()].clone());
            Value::Array(items)
        }
        (6, _) => Value::Null,
        (_, Value::Number(old)) => json!(old.as_u64().unwrap_or(0) ^ 1 << (number % 64)),
        (_, Value::Bool(old)) => json!(!old),
        (_, old) => old.clone(),
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Whatever an image says, the answer is an error or files that can be used.
    #[test]
    fn a_damaged_image_is_an_error_and_no_panic(
        damages in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), any::<u64>()), 1..4),
    ) {
        let mut world = World::over(|root| {
            std::fs::create_dir(root.join("d")).unwrap();
            for name in ["a", "b", "d/c"] {
                std::fs::write(root.join(name), [1; 9000]).unwrap();
            }
        });
        world.write("/rw/new", &[2; 5000]).unwrap();
        world.rename("/rw/d", "/rw/e", Default::default()).unwrap();
        world.remove("/rw/b", Removal::File).unwrap();
        world.make_symlink("a", "/rw/link").unwrap();
        let number = world.open("/rw/a", libc::O_RDWR).unwrap();
        write_to(&world.file(number), Some(4096), &[3; 10]).unwrap();
        let mut pages = Pages::default();
        let (image, _) = pages.take(&mut world);
        let mut value = serde_json::to_value(&image).unwrap();
        for (place, kind, number) in damages {
            let mut found = Vec::new();
            places(&value, "", &mut found);
            let place = place.get(&found).clone();
            damage(value.pointer_mut(&place).unwrap(), kind, number);
        }
        let Ok(image) = serde_json::from_value::<FilesImage>(value) else { return Ok(()) };
        let Ok(mut new) = restored(&world, image, &pages) else { return Ok(()) };
        for path in ["/rw", "/rw/e", "/tmp"] {
            let _ = new.list(path);
        }
        for path in ["/rw/a", "/rw/e/c", "/rw/new", "/rw/link"] {
            let _ = new.read(path);
            let _ = new.write(path, b"x");
            let _ = new.remove(path, Removal::File);
        }
        let _ = new.make_directory("/rw/other");
        let records = tempfile::tempdir().unwrap();
        let _ = new.files.publish(records.path());
        let _ = new.files.image(&[], &mut Pages::default());
    }
}
