//! Tests of disk images.

use std::fs;

use imago::FormatCreateBuilder;
use imago::storage::StorageCreateOptions;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A qcow2 image of `size` bytes; `finish` may say more about it.
pub(in crate::devices::block) fn create_qcow2(
    path: &Path,
    size: u64,
    finish: impl FnOnce(Builder) -> Builder,
) {
    use imago::storage::Storage;
    let options = StorageCreateOptions::new().filename(path).overwrite(true);
    let storage = imago::file::File::create_open(options).unwrap();
    finish(Qcow2::<imago::file::File>::create_builder(storage).size(size)).create().unwrap();
}

type Builder = imago::qcow2::Qcow2CreateBuilder<imago::file::File>;

fn raw(directory: &TempDir, content: &[u8]) -> PathBuf {
    let path = directory.path().join("disk.qcow2");
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn the_content_decides_and_not_the_name() {
    let directory = TempDir::new().unwrap();
    let path = raw(&directory, &[7; 1024]);
    let image = Image::open(&path, false).unwrap();
    assert_eq!((image.format(), image.sectors(), image.is_read_only()), (ImageFormat::Raw, 2, false));
    let path = directory.path().join("disk.raw");
    create_qcow2(&path, 1 << 20, |builder| builder);
    let image = Image::open(&path, true).unwrap();
    assert_eq!((image.format(), image.sectors(), image.is_read_only()), (ImageFormat::Qcow2, 2048, true));
}

#[test]
fn bytes_are_read_and_written_in_both_formats() {
    let directory = TempDir::new().unwrap();
    let qcow2 = directory.path().join("image");
    create_qcow2(&qcow2, 1 << 20, |builder| builder);
    for path in [raw(&directory, &vec![0; 1 << 20]), qcow2] {
        let image = Image::open(&path, false).unwrap();
        image.write(70_000, b"hello").unwrap();
        image.sync().unwrap();
        drop(image);
        let image = Image::open(&path, true).unwrap();
        let mut data = [0xee; 7];
        image.read(69_999, &mut data).unwrap();
        assert_eq!(&data, b"\0hello\0");
        image.read((1 << 20) - 2, &mut data).unwrap();
        assert_eq!(data, [0; 7], "zeros behind the end");
        assert!(image.write(0, b"no").is_err(), "read-only");
    }
}

#[test]
fn a_raw_image_stays_one() {
    let directory = TempDir::new().unwrap();
    let path = raw(&directory, &[b'Q'; 512]);
    let image = Image::open(&path, false).unwrap();
    let mut sector = [0; 512];
    sector[..4].copy_from_slice(&QCOW2_MAGIC);
    assert_eq!(image.write(0, &sector).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    image.write(1, &QCOW2_MAGIC[1..3]).unwrap();
    assert_eq!(image.write(3, &QCOW2_MAGIC[3..]).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    image.write(3, b"!").unwrap();
    image.write(4, &QCOW2_MAGIC).unwrap();
    drop(image);
    assert_eq!(Image::open(&path, false).unwrap().format(), ImageFormat::Raw);
    assert_eq!(fs::read(&path).unwrap()[..8], *b"QFI!QFI\xfb");
}

#[test]
fn images_that_need_another_file_are_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("image");
    create_qcow2(&path, 1 << 20, |builder| builder.backing("/etc/passwd".into(), "raw".into()));
    for read_only in [false, true] {
        let error = Image::open(&path, read_only).unwrap_err();
        assert!(matches!(&error, ImageError::OtherFile { other, .. } if other == "/etc/passwd"), "{error:?}");
    }
    let data = raw(&directory, &[0; 4096]);
    let storage =
        imago::file::File::try_from(fs::File::options().read(true).write(true).open(&data).unwrap());
    create_qcow2(&path, 1 << 20, |builder| builder.data_file("elsewhere".into(), storage.unwrap()));
    let error = Image::open(&path, false).unwrap_err();
    assert!(matches!(&error, ImageError::OtherFile { other, .. } if other == "elsewhere"), "{error:?}");
}

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let directory = TempDir::new().unwrap();
    let path = raw(&directory, &[0; 512]);
    let writer = Image::open(&path, false).unwrap();
    for read_only in [false, true] {
        assert!(matches!(Image::open(&path, read_only), Err(ImageError::InUse(_))));
    }
    drop(writer);
    let _readers = [Image::open(&path, true).unwrap(), Image::open(&path, true).unwrap()];
    assert!(matches!(Image::open(&path, false), Err(ImageError::InUse(_))));
}

#[test]
fn only_files_that_hold_bytes_are_images() {
    let directory = TempDir::new().unwrap();
    assert!(matches!(Image::open(directory.path(), true), Err(ImageError::Kind(_))));
    assert!(matches!(Image::open(Path::new("/dev/zero"), true), Err(ImageError::Kind(_))));
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(Image::open(&pipe, true), Err(ImageError::Kind(_))));
    assert!(matches!(Image::open(&directory.path().join("none"), true), Err(ImageError::Open { .. })));
}

#[test]
fn an_image_that_does_not_count_its_own_parts_is_not_written() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("image");
    let sound = || {
        create_qcow2(&path, 1 << 24, |builder| builder);
        let image = Image::open(&path, false).unwrap();
        image.write(1 << 20, b"so that there is a second table").unwrap();
        drop(image);
        fs::read(&path).unwrap()
    };
    let long = |bytes: &[u8], at: usize| {
        usize::try_from(u64::from_be_bytes(*bytes[at..].first_chunk().unwrap()) & 0xff_ffff_ffff).unwrap()
    };
    let bytes = sound();
    let table = long(&bytes, 48);
    let block = long(&bytes, table);
    let l1 = long(&bytes, 40);
    let count = |offset: usize| (block + (offset >> 16) * 2, 2);
    let places = [
        (table, 8),
        (20, 4),
        (56, 4),
        (96, 4),
        count(0),
        count(table),
        count(block),
        count(l1),
        count(long(&bytes, l1)),
    ];
    for (place, len) in places {
        let mut bytes = sound();
        bytes[place..place + len].fill(0);
        fs::write(&path, bytes).unwrap();
        assert!(matches!(Image::open(&path, false), Err(ImageError::Content { .. })), "{place:#x}");
    }
}

#[test]
fn small_files_are_small_disks() {
    let directory = TempDir::new().unwrap();
    for (len, sectors) in [(0, 0), (3, 0), (511, 0), (513, 1)] {
        let path = raw(&directory, &vec![b'Q'; len]);
        assert_eq!(Image::open(&path, false).unwrap().sectors(), sectors);
    }
}

proptest! {
    /// An image that isn't what its first bytes promise is refused, or is a disk; it is no panic.
    #[test]
    fn hostile_qcow2_headers_are_survived(
        places in proptest::collection::vec((4_usize..112, any::<u8>()), 0..6),
        tables in proptest::collection::vec((0x1_0000_usize..0x5_0000, any::<u8>()), 0..40),
        read_only: bool,
    ) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("image");
        create_qcow2(&path, 1 << 24, |builder| builder);
        let image = Image::open(&path, false).unwrap();
        image.write(1 << 20, &[1; 4096]).unwrap();
        drop(image);
        let mut bytes = fs::read(&path).unwrap();
        for (place, value) in places.into_iter().chain(tables) {
            if let Some(byte) = bytes.get_mut(place) {
                *byte = value;
            }
        }
        fs::write(&path, bytes).unwrap();
        if let Ok(image) = Image::open(&path, read_only) {
            let mut data = vec![0; 0x2_0000];
            for offset in [0, 1 << 20, (1 << 24) - 0x2_0000] {
                let _ = image.read(offset, &mut data);
                let _ = image.write(offset, &data[..0x1000]);
            }
            let _ = image.sync();
        }
    }
}
