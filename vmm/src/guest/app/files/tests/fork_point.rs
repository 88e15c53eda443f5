//! /dev/cairn: what is asked, what is answered, and what comes back.

use std::sync::{Arc, Mutex};

use cairn_abi::{
    CheckpointId,
    fork_point::{MOST_ANSWER, MOST_REQUESTS, PATH, REQUEST},
};
use nix::{errno::Errno, fcntl::OFlag};

use super::super::{
    At, Descriptors, Files, FilesImage, GuestPath, Layout, Object, OpenFile, OpenRequest, Request,
    WholeCheckpoints, facts::NoProcess,
};
use super::image::Pages;

/// Keeps requests until somebody answers them.
#[derive(Debug, Default)]
struct Later(Mutex<Vec<Request>>);

impl WholeCheckpoints for Later {
    fn ask(&self, request: Request) {
        self.0.lock().unwrap().push(request);
    }
}

impl Later {
    fn answer(&self, outcome: Result<u64, &str>) {
        let request = self.0.lock().unwrap().remove(0);
        request.answer(outcome.map(CheckpointId));
    }
}

fn files(checkpoints: Option<Arc<dyn WholeCheckpoints>>) -> Files {
    let layout = Layout { private_bytes: 1 << 20, checkpoints, ..Layout::default() };
    let (view, _) = layout.build().unwrap();
    Files::new(view, Descriptors::empty(), &GuestPath::root()).unwrap()
}

fn asking() -> (Arc<Later>, Files) {
    let later = Arc::new(Later::default());
    let files = files(Some(Arc::<Later>::clone(&later)));
    (later, files)
}

/// Opens it without waiting, as descriptor 0 or the next.
fn open(files: &mut Files) -> Result<Arc<OpenFile>, Errno> {
    let request = OpenRequest::new((OFlag::O_RDWR | OFlag::O_NONBLOCK).bits(), 0);
    let number = files.open(&NoProcess, &At::new(GuestPath::root(), PATH.as_bytes()), request, true)?;
    files.descriptors().get(number)
}

fn write(file: &OpenFile, bytes: &[u8]) -> Result<usize, Errno> {
    let Object::Synthesized(handle) = file.object() else { panic!("{file:?}") };
    handle.write(None, bytes)
}

fn read(file: &OpenFile, length: usize) -> Result<String, Errno> {
    let Object::Synthesized(handle) = file.object() else { panic!("{file:?}") };
    handle.read(None, length).map(|bytes| String::from_utf8(bytes).unwrap())
}

fn image(files: &mut Files) -> FilesImage {
    files.image(&[], &mut Pages::default()).unwrap()
}

/// The first descriptor of a program that comes back from checkpoint 9.
fn brought_back(image: FilesImage) -> Arc<OpenFile> {
    let (_, mut files) = asking();
    files.restore(&NoProcess, image, &Pages::default(), CheckpointId(9)).unwrap();
    files.descriptors().get(0).unwrap()
}

#[test]
fn it_is_there_where_checkpoints_are_taken() {
    assert_eq!(open(&mut files(None)).unwrap_err(), Errno::ENOENT);
    let (_, mut files) = asking();
    assert_eq!(open(&mut files).unwrap().status().unwrap().kind(), libc::S_IFCHR);
}

#[test]
fn one_request_has_one_answer() {
    let (later, mut files) = asking();
    let file = open(&mut files).unwrap();
    assert_eq!(read(&file, 100).unwrap(), "");
    for garbage in [&b"checkpoint"[..], b"", b"checkpoint\n\n", &[b'x'; 5000]] {
        assert_eq!(write(&file, garbage), Err(Errno::EINVAL));
    }
    for (outcome, line) in [
        (Ok(5), "taken 5\n".to_owned()),
        (Err("the disk\nis full"), "failed the disk is full\n".to_owned()),
        (Err("é".repeat(MOST_ANSWER).as_str()), format!("failed {}\n", "é".repeat((MOST_ANSWER - 8) / 2))),
    ] {
        assert_eq!(write(&file, REQUEST), Ok(REQUEST.len()));
        assert_eq!(write(&file, REQUEST), Err(Errno::EBUSY));
        assert_eq!(read(&file, 100), Err(Errno::EAGAIN));
        later.answer(outcome);
        assert_eq!(write(&file, REQUEST), Err(Errno::EBUSY));
        assert_eq!(read(&file, 3).unwrap() + &read(&file, MOST_ANSWER).unwrap(), line);
        assert_eq!(read(&file, 100).unwrap(), "");
    }
    // Nobody answers.
    assert_eq!(write(&file, REQUEST), Ok(REQUEST.len()));
    later.0.lock().unwrap().clear();
    assert!(read(&file, MOST_ANSWER).unwrap().starts_with("failed "));
}

/// As fcntl sets it, and it comes back so.
#[test]
fn whether_it_waits_can_be_changed() {
    let (later, mut files) = asking();
    let file = open(&mut files).unwrap();
    let handle = |file: &OpenFile, act: &dyn Fn(&super::super::SynthesizedHandle)| {
        let Object::Synthesized(handle) = file.object() else { panic!("{file:?}") };
        act(handle);
    };
    write(&file, REQUEST).unwrap();
    handle(&file, &|handle| {
        handle.set_flags(OFlag::O_APPEND | OFlag::O_RDONLY | OFlag::O_TRUNC).unwrap();
        assert_eq!(handle.flags(), OFlag::O_RDWR | OFlag::O_APPEND);
    });
    let answer = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&file, 100));
        later.answer(Ok(3));
        reader.join().unwrap()
    });
    assert_eq!(answer.unwrap(), "taken 3\n");
    handle(&file, &|handle| handle.set_flags(OFlag::O_NONBLOCK).unwrap());
    let back = brought_back(image(&mut files));
    handle(&back, &|handle| assert_eq!(handle.flags(), OFlag::O_RDWR | OFlag::O_NONBLOCK));
    for file in [&file, &back] {
        write(file, REQUEST).unwrap();
        assert_eq!(read(file, 100), Err(Errno::EAGAIN));
    }
}

#[test]
fn requests_whose_file_is_closed_count() {
    let (later, mut files) = asking();
    for _ in 0..MOST_REQUESTS {
        let file = open(&mut files).unwrap();
        assert_eq!(write(&file, REQUEST), Ok(REQUEST.len()));
        files.descriptors_mut().close(0).unwrap();
    }
    let file = open(&mut files).unwrap();
    assert_eq!(write(&file, REQUEST), Err(Errno::EBUSY));
    later.answer(Ok(1));
    assert_eq!(write(&file, REQUEST), Ok(REQUEST.len()));
    assert_eq!(later.0.lock().unwrap().len(), MOST_REQUESTS);
}

#[test]
fn whoever_comes_back_before_it_was_told_is_told_so() {
    let (later, mut files) = asking();
    let file = open(&mut files).unwrap();
    let idle = brought_back(image(&mut files));
    assert_eq!(read(&idle, 100).unwrap(), "");
    assert_eq!(write(&idle, REQUEST), Ok(REQUEST.len()));

    write(&file, REQUEST).unwrap();
    let asked = image(&mut files);
    later.answer(Ok(8));
    let answered = image(&mut files);
    for image in [asked, answered] {
        let back = brought_back(image);
        assert_eq!(write(&back, REQUEST), Err(Errno::EBUSY));
        assert_eq!(read(&back, 100).unwrap(), "resumed 9\n");
        assert_eq!(write(&back, REQUEST), Ok(REQUEST.len()));
    }
    // What was begun to be told is told to its end.
    assert_eq!(read(&file, 6).unwrap(), "taken ");
    assert_eq!(read(&brought_back(image(&mut files)), 100).unwrap(), "8\n");
    assert_eq!(read(&file, 100).unwrap(), "8\n");
}
