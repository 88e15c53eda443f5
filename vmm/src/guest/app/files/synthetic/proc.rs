//! /proc: what it tells of the machine.

use std::time::Duration;

use super::{
    super::{Caller, open::OpenFile},
    Node, Source, process, table_node,
};

/// Clock ticks a second in /proc (`USER_HZ`).
pub(super) const TICKS: u32 = 100;

type Render = fn(&Caller<'_>) -> Vec<u8>;

/// What ordinary programs read of the machine.
const FILES: &[(&str, Render)] = &[
    ("cpuinfo", cpuinfo),
    ("filesystems", |_| b"nodev\tproc\nnodev\tsysfs\nnodev\ttmpfs\n\text4\n".to_vec()),
    ("loadavg", |caller| format!("0.00 0.00 0.00 1/1 {}\n", caller.facts.id()).into_bytes()),
    ("meminfo", meminfo),
    ("stat", stat),
    ("uptime", uptime),
    ("version", |caller| format!("Linux version {}\n", caller.facts.release()).into_bytes()),
    ("sys/fs/file-max", |_| b"1024\n".to_vec()),
    ("sys/fs/nr_open", |_| b"1024\n".to_vec()),
    ("sys/fs/pipe-max-size", |_| b"1048576\n".to_vec()),
    ("sys/kernel/hostname", |_| b"cairn\n".to_vec()),
    ("sys/kernel/ngroups_max", |_| b"65536\n".to_vec()),
    ("sys/kernel/osrelease", |caller| line(caller.facts.release())),
    ("sys/kernel/ostype", |_| b"Linux\n".to_vec()),
    ("sys/kernel/pid_max", |_| b"4194304\n".to_vec()),
    ("sys/kernel/random/boot_id", |caller| line(caller.facts.boot_id())),
    ("sys/kernel/random/uuid", |_| line(super::random_uuid())),
    ("sys/kernel/threads-max", |_| b"1\n".to_vec()),
    ("sys/vm/max_map_count", |_| b"65530\n".to_vec()),
    ("sys/vm/mmap_min_addr", |_| b"65536\n".to_vec()),
    ("sys/vm/overcommit_memory", |_| b"0\n".to_vec()),
];

/// The nodes of /proc.
#[derive(Debug)]
pub(in crate::guest::app::files) struct ProcSource;

impl Source for ProcSource {
    fn node(&self, caller: &Caller<'_>, names: &[&[u8]]) -> Option<Node> {
        let id = caller.facts.id().to_string();
        match names {
            [b"self"] => Some(Node::Link(id.into_bytes())),
            [b"thread-self"] => Some(Node::Link(format!("{id}/task/{id}").into_bytes())),
            [b"mounts"] => Some(Node::Link(b"self/mounts".to_vec())),
            [] => {
                let Some(Node::Directory(mut entries)) = table_node(FILES, names, Node::Text) else {
                    return None;
                };
                entries.push((id.into_bytes(), libc::DT_DIR));
                for link in [&b"self"[..], b"thread-self", b"mounts"] {
                    entries.push((link.to_vec(), libc::DT_LNK));
                }
                Some(Node::Directory(entries))
            }
            [first, rest @ ..] if *first == id.as_bytes() => process::node(caller, rest),
            names => table_node(FILES, names, Node::Text),
        }
    }
}

/// A random version-4 UUID's text from 16 random bytes (RFC 9562).
pub(super) fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = |range: std::ops::Range<usize>| -> String {
        bytes[range].iter().map(|byte| format!("{byte:02x}")).collect()
    };
    format!("{}-{}-{}-{}-{}", hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16))
}

/// 16 random bytes; zeros where the host has no random device.
pub(super) fn random() -> [u8; 16] {
    crate::host::random::Source::open().and_then(|mut source| source.bits()).unwrap_or_else(|error| {
        tracing::warn!(%error, "the host has no random bytes: the guest's UUIDs are zeros");
        [0; 16]
    })
}

/// What a descriptor's file is called.
pub(super) fn file_path(file: &OpenFile) -> Vec<u8> {
    file.current_path().unwrap_or_else(|_| file.path().clone()).as_bytes().to_vec()
}

/// Ticks of a duration.
pub(super) fn ticks(time: Duration) -> u128 {
    time.as_millis() * u128::from(TICKS) / 1000
}

fn line(text: impl Into<String>) -> Vec<u8> {
    let mut text: String = text.into();
    text.push('\n');
    text.into_bytes()
}

/// One processor, with what every x86-64 processor has.
fn cpuinfo(_caller: &Caller<'_>) -> Vec<u8> {
    b"processor\t: 0\n\
      vendor_id\t: Cairn\n\
      model name\t: Cairn virtual CPU\n\
      physical id\t: 0\n\
      siblings\t: 1\n\
      core id\t\t: 0\n\
      cpu cores\t: 1\n\
      fpu\t\t: yes\n\
      flags\t\t: fpu tsc msr pae cx8 cmov mmx fxsr sse sse2 syscall nx lm\n\
      clflush size\t: 64\n\
      cache_alignment\t: 64\n\n"
        .to_vec()
}

fn meminfo(caller: &Caller<'_>) -> Vec<u8> {
    let usage = caller.facts.usage();
    let total = usage.memory_bytes >> 10;
    let free = usage.memory_bytes.saturating_sub(usage.resident_bytes) >> 10;
    let row = |name: &str, value: u64| format!("{:<16}{value:>8} kB\n", format!("{name}:"));
    [
        row("MemTotal", total),
        row("MemFree", free),
        row("MemAvailable", free),
        row("Buffers", 0),
        row("Cached", 0),
        row("SwapCached", 0),
        row("SwapTotal", 0),
        row("SwapFree", 0),
        row("AnonPages", usage.resident_bytes >> 10),
        row("CommitLimit", total),
        row("Committed_AS", usage.virtual_bytes >> 10),
        "HugePages_Total:       0\n".to_owned(),
        row("Hugepagesize", 2048),
    ]
    .concat()
    .into_bytes()
}

fn stat(caller: &Caller<'_>) -> Vec<u8> {
    let usage = caller.facts.usage();
    let (user, system) = (ticks(usage.user), ticks(usage.system));
    let idle = ticks(usage.up).saturating_sub(user + system);
    let now = super::Time::now().seconds;
    let started = now.saturating_sub(i64::try_from(usage.up.as_secs()).unwrap_or(0));
    let times = format!("{user} 0 {system} {idle} 0 0 0 0 0 0");
    format!(
        "cpu  {times}\ncpu0 {times}\nintr 0\nctxt 0\nbtime {started}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n"
    )
    .into_bytes()
}

fn uptime(caller: &Caller<'_>) -> Vec<u8> {
    let usage = caller.facts.usage();
    let idle = usage.up.saturating_sub(usage.user + usage.system);
    format!("{:.2} {:.2}\n", usage.up.as_secs_f64(), idle.as_secs_f64()).into_bytes()
}
