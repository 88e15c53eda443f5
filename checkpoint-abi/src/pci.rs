//! How the device looks on PCI.
