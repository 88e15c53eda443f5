//! An app guest from start to end.

use std::ffi::CString;
use std::fs::File;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow};

use crate::guest::app::cpu::{self, Cpu, Event};
use crate::guest::app::elf::Image;
use crate::guest::app::process::Process;
use crate::guest::app::space::AddressSpace;
use crate::guest::app::stack::Start;
use crate::guest::app::syscalls::{self, Flow};
use crate::host::mapping::Reservation;
use crate::kvm::slots::SlotMap;
use crate::kvm::system::System;
use crate::memory::layout::{LARGE_PAGE, STACK_TOP};
use crate::memory::page_table::{PageTables, SYSTEM_SIZE, SYSTEM_BASE};
use crate::memory::program::ProgramMemory;

/// temp
pub fn run(path: &str, argv: &[String]) -> Result<i32> {
    let kvm = System::open()?;
    let vm = Arc::new(kvm.create_vm()?);
    let memory = Arc::new(ProgramMemory::new()?);
    let slots = Arc::new(Mutex::new(SlotMap::new(Arc::clone(&vm), Arc::clone(&memory))));
    let system = Arc::new(Reservation::anonymous(SYSTEM_SIZE as usize, LARGE_PAGE as usize)?);
    unsafe { vm.set_slot(0, &(SYSTEM_BASE..SYSTEM_BASE + SYSTEM_SIZE), system.pointer(&(0..SYSTEM_SIZE)).unwrap(), false)? };
    let tables = PageTables::new(Arc::clone(&system), &cpu::USER_PAGES);
    let mut space = AddressSpace::new(Arc::clone(&memory), slots, tables, 4 << 30);
    let image = Image::read(path, File::open(path).context("open")?)?;
    let loaded = image.load(&mut space, false)?;
    let mut entry = loaded.entry;
    let mut base = 0;
    if let Some(interp) = image.interpreter() {
        let i = Image::read(interp, File::open(interp)?)?.load(&mut space, true)?;
        entry = i.entry;
        base = i.bias;
    }
    space.map_stack()?;
    space.start_heap(loaded.end);
    let arguments: Vec<CString> = argv.iter().map(|a| CString::new(a.as_str()).unwrap()).collect();
    let start = Start { arguments: &arguments, environment: &[], path: &arguments[0], random: [7; 16],
        auxiliary: &[(3, loaded.headers), (4, 56), (5, loaded.header_count), (6, 4096), (7, base), (9, loaded.entry), (23, 0), (17, 100)] };
    let bytes = start.build(STACK_TOP);
    let sp = STACK_TOP - bytes.len() as u64;
    memory.write_bytes(sp, &bytes)?;
    let mut cpu = Cpu::new(&kvm, &vm, system, space.tables_mut(), entry, sp)?;
    let mut process = Process::new(space, path);
    loop {
        match cpu.run(&mut |_, bytes| bytes.fill(0xff))? {
            Event::Call(number, args) => {
                if number == 7 { cpu.answer(0, process.segments)?; continue; }
                if number == 1 || number == 20 {
                    let s = if number == 1 { let mut v = vec![0; args[2] as usize]; memory.read_bytes(args[1], &mut v)?; v } else {
                        let iov: Vec<u64> = memory.read_array(args[1], args[2] as usize * 2)?;
                        let mut out = vec![]; for p in iov.chunks(2) { let mut v = vec![0; p[1] as usize]; memory.read_bytes(p[0], &mut v)?; out.extend(v); } out };
                    use std::io::Write;
                    std::io::stdout().write_all(&s)?;
                    cpu.answer(s.len() as u64, process.segments)?;
                    continue;
                }
                match syscalls::dispatch(&mut process, number, &args) {
                    Flow::Answer(Ok(v)) => cpu.answer(v, process.segments)?,
                    Flow::Answer(Err(e)) => cpu.answer((-(e as i64)) as u64, process.segments)?,
                    Flow::Exit(code) => return Ok(code as i32),
                    Flow::Killed(s) => return Ok(128 + s as i32),
                }
            }
            Event::Nothing => {}
            Event::Exception(e) => {
                return Err(anyhow!("{e:x?} {:?}", process.space.mapping(e.address)));
            }
            other => return Err(anyhow!("{other:x?}")),
        }
    }
}
