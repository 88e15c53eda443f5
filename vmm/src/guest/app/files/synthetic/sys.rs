//! /sys: a small fixed tree, and the PCI functions that the monitor has for the guest.

use super::{
    super::Caller,
    Node, Source,
    pci::{self, SharedPci, lock},
    table_node,
};

/// What ordinary programs read: how many processors there are, and how memory pages come.
const FILES: &[(&str, &str)] = &[
    ("devices/system/cpu/online", "0\n"),
    ("devices/system/cpu/possible", "0\n"),
    ("devices/system/cpu/present", "0\n"),
    ("devices/system/node/online", "0\n"),
    ("devices/system/node/node0/cpulist", "0\n"),
    ("kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152\n"),
];

const PCI_DEVICES: [&[u8]; 3] = [b"bus", b"pci", b"devices"];

/// The nodes of /sys.
#[derive(Debug)]
pub(in crate::guest::app::files) struct SysSource {
    functions: Vec<SharedPci>,
}

impl SysSource {
    pub(in crate::guest::app::files) fn new(functions: Vec<SharedPci>) -> Self {
        Self { functions }
    }
}

impl Source for SysSource {
    fn takes_sync(&self, node: &Node) -> bool {
        !matches!(node, Node::Directory(_))
    }

    fn node(&self, _caller: &Caller<'_>, names: &[&[u8]]) -> Option<Node> {
        if let Some([address, rest @ ..]) = names.strip_prefix(&PCI_DEVICES) {
            let function = self.functions.iter().find(|f| lock(f).address().as_bytes() == *address)?;
            return pci::node(function, rest);
        }
        if names == PCI_DEVICES {
            let entry = |function: &SharedPci| (lock(function).address().into_bytes(), libc::DT_DIR);
            return Some(Node::Directory(self.functions.iter().map(entry).collect()));
        }
        if let (true, Some(next)) = (PCI_DEVICES.starts_with(names), PCI_DEVICES.get(names.len())) {
            let mut entries = match table_node(FILES, names, fixed) {
                Some(Node::Directory(entries)) => entries,
                _ => Vec::new(),
            };
            entries.push((next.to_vec(), libc::DT_DIR));
            return Some(Node::Directory(entries));
        }
        table_node(FILES, names, fixed)
    }
}

fn fixed(text: &str) -> Node {
    Node::Fixed(text.as_bytes().to_vec())
}
