//! What a process's memory costs, from /proc.

use std::fs;
use std::io;

/// Bytes of private anonymous memory of one process, and of its page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Usage {
    /// All of it.
    pub(crate) anonymous: u64,
    /// Each page divided by the number of processes that share it.
    pub(crate) proportional: u64,
    /// Pages that no other process has.
    pub(crate) private: u64,
    /// Page tables.
    pub(crate) page_tables: u64,
}

impl Usage {
    pub(crate) fn own() -> io::Result<Self> {
        Self::read("self")
    }

    pub(crate) fn of(pid: libc::pid_t) -> io::Result<Self> {
        Self::read(&pid.to_string())
    }

    /// See `filesystems/proc.rst` of the kernel's documentation.
    fn read(process: &str) -> io::Result<Self> {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        Ok(Self {
            anonymous: field(&rollup, "Anonymous:")?,
            proportional: field(&rollup, "Pss_Anon:")?,
            private: field(&rollup, "Private_Dirty:")?,
            page_tables: field(&status, "VmPTE:")?,
        })
    }
}

/// The value of a line like `VmPTE:      52 kB`, in bytes.
fn field(text: &str, name: &str) -> io::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok())
        .and_then(|kib| kib.checked_mul(1024))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no {name} line")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_in_kib() -> io::Result<()> {
        let text = "Name:\tx\nVmPTE:\t      52 kB\nVmPTEs: 1 kB\nThreads: 1\n";
        assert_eq!(field(text, "VmPTE:")?, 52 << 10);
        assert!(field(text, "Threads:").is_err() && field(text, "Pss:").is_err());
        assert!(field("VmPTE: 99999999999999999999 kB", "VmPTE:").is_err());
        assert!(Usage::own()?.anonymous > 0);
        Ok(())
    }
}
