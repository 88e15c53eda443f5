//! What things cost where the engine runs.

/// Nanoseconds of each primitive: what the engine weighs a fault against a compare with.
///
/// Hosts differ by a factor of twenty, so whoever makes an engine measures them. They decide about speed alone, and
/// wrong ones do no other harm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostCosts {
    /// A request that leaves the guest, to the host's user space and back.
    pub exit_ns: u32,
    /// The first write to a page after it was protected.
    pub fault_ns: u32,
    /// Protecting a page, in a call that protects many.
    pub protect_ns: u32,
    /// Comparing a page with the mirror and finding no difference.
    pub compare_ns: u32,
    /// Copying a page.
    pub copy_ns: u32,
}

impl Default for HostCosts {
    /// Those of a KVM that shadows page tables in software, where faults are dear.
    fn default() -> Self {
        Self { exit_ns: 20_000, fault_ns: 6_500, protect_ns: 30, compare_ns: 300, copy_ns: 450 }
    }
}
