//! Tests of loading: a made-up kernel of a few bytes, and files that are none.

use std::io::Write;

use proptest::prelude::*;
use tempfile::NamedTempFile;
use vm_memory::ByteValued;

use super::*;
use crate::memory::ram::MIN_BYTES;

/// Where a bzImage has its header, and where a kernel begins that has one sector of setup.
const HEADER: usize = 0x1f1;
const START: usize = 1024;
const CODE: &[u8] = b"the kernel";

fn header() -> setup_header {
    setup_header {
        setup_sects: 1,
        header: 0x5372_6448,
        version: 0x020f,
        loadflags: 1,
        xloadflags: XLF_KERNEL_64,
        relocatable_kernel: 1,
        kernel_alignment: 0x20_0000,
        init_size: 0x10_0000,
        initrd_addr_max: 0x7fff_ffff,
        cmdline_size: 2047,
        pref_address: KERNEL,
        ..Default::default()
    }
}

fn image(header: &setup_header) -> Vec<u8> {
    let mut image = vec![0; START];
    let bytes = header.as_slice();
    image[HEADER..HEADER + bytes.len()].copy_from_slice(bytes);
    image.extend(CODE);
    image
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn boot<'a>(kernel: &'a NamedTempFile, initrd: Option<&'a [u8]>, command_line: &'a str) -> Boot<'a> {
    Boot { kernel: kernel.path(), initrd, command_line, firmware: b"firmware" }
}

fn bytes(ram: &Ram, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.memory().read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

#[test]
fn everything_is_where_the_kernel_looks_for_it() {
    let ram = Ram::new(MIN_BYTES).unwrap();
    let kernel = file(&image(&header()));
    let entry = load(&ram, &boot(&kernel, Some(b"initrd"), "console=ttyS0")).unwrap();
    assert_eq!(entry, KERNEL + 0x200);
    assert_eq!(bytes(&ram, KERNEL, CODE.len()), CODE);
    assert_eq!(bytes(&ram, FIRMWARE.start, 8), b"firmware");
    let parameters: boot_params = ram.memory().read_obj(GuestAddress(ZERO_PAGE)).unwrap();
    let (command_line, initrd, len) =
        (parameters.hdr.cmd_line_ptr, parameters.hdr.ramdisk_image, parameters.hdr.ramdisk_size);
    assert_eq!(bytes(&ram, command_line.into(), 14), b"console=ttyS0\0");
    assert_eq!(bytes(&ram, initrd.into(), 6), b"initrd");
    assert_eq!((u64::from(initrd) + PAGE, len), (MIN_BYTES, 6));
    let (root, loader) = (parameters.acpi_rsdp_addr, parameters.hdr.type_of_loader);
    assert_eq!((root, loader), (FIRMWARE.start, UNKNOWN_LOADER));
    let map: Vec<_> = parameters.e820_table[..usize::from(parameters.e820_entries)]
        .iter()
        .map(|entry| (entry.addr, entry.size, entry.r#type))
        .collect();
    let firmware = FIRMWARE.end - FIRMWARE.start;
    let expected = [
        (0, CONVENTIONAL_END, MEMORY),
        (FIRMWARE.start, firmware, RESERVED),
        (HIGH, MIN_BYTES - HIGH, MEMORY),
    ];
    assert_eq!(map, expected);
}

fn refused(bytes: &[u8]) -> String {
    let ram = Ram::new(MIN_BYTES).unwrap();
    let kernel = file(bytes);
    let error = load(&ram, &boot(&kernel, None, "")).unwrap_err();
    assert!(matches!(error, LoadError::Kernel { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(kernel.path().to_str().unwrap()), "{text}");
    text
}

#[test]
fn what_is_no_kernel_is_refused_by_name() {
    for bytes in [&b""[..], b"\x7fELF", &[0; 4096], &image(&header())[..0x210]] {
        refused(bytes);
    }
    assert!(refused(&image(&setup_header { xloadflags: 0, ..header() })).contains("64-bit"));
    assert!(refused(&image(&setup_header { version: 0x020b, ..header() })).contains("64-bit"));
    let fixed = setup_header { relocatable_kernel: 0, pref_address: 0x20_0000, ..header() };
    assert!(refused(&image(&fixed)).contains("0x200000"));
    assert!(refused(&image(&setup_header { setup_sects: 64, ..header() })).contains("cut short"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let ram = Ram::new(MIN_BYTES).unwrap();
    let room = MIN_BYTES - KERNEL;
    let size = |init_size: u64| setup_header { init_size: init_size.try_into().unwrap(), ..header() };
    let most = file(&image(&size(room)));
    load(&ram, &boot(&most, None, "")).unwrap();
    for (kernel, initrd) in [(&most, Some(&b"x"[..])), (&file(&image(&size(room + 1))), None)] {
        let error = load(&ram, &boot(kernel, initrd, "")).unwrap_err();
        assert!(matches!(error, LoadError::TooSmall { .. }), "{error:?}");
    }
}

#[test]
fn a_command_line_has_a_bound() {
    let ram = Ram::new(MIN_BYTES).unwrap();
    let kernel = file(&image(&header()));
    load(&ram, &boot(&kernel, None, &"x".repeat(2047))).unwrap();
    let error = load(&ram, &boot(&kernel, None, &"x".repeat(2048))).unwrap_err();
    assert!(matches!(error, LoadError::CommandLine { bytes: 2048, most: 2047, .. }), "{error:?}");
    let error = load(&ram, &boot(&kernel, None, "a\0b")).unwrap_err();
    assert!(matches!(error, LoadError::CommandLineZero), "{error:?}");
    let kernel = file(&image(&setup_header { cmdline_size: u32::MAX, ..header() }));
    assert!(load(&ram, &boot(&kernel, None, &"x".repeat(1 << 20))).is_err());
}

#[test]
fn a_missing_kernel_is_named() {
    let ram = Ram::new(MIN_BYTES).unwrap();
    let boot = Boot { kernel: Path::new("/nothing/here"), initrd: None, command_line: "", firmware: b"" };
    let error = load(&ram, &boot).unwrap_err();
    assert!(matches!(error, LoadError::Open { .. }) && error.to_string().contains("/nothing/here"));
}

proptest! {
    /// Whatever a header says, loading ends with a kernel or an error.
    #[test]
    fn no_header_breaks_the_loader(bytes in prop::collection::vec(any::<u8>(), 0x7b), real in any::<bool>()) {
        let mut image = image(&header());
        image[HEADER..HEADER + bytes.len()].copy_from_slice(&bytes);
        if real {
            image[0x202..0x206].copy_from_slice(b"HdrS");
            image[0x207] = 2;
        }
        let ram = Ram::new(MIN_BYTES).unwrap();
        let _ = load(&ram, &boot(&file(&image), Some(&[7; 5000]), "quiet"));
    }
}
