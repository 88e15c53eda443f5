//! Options of `cairn run` and `cairn boot` about checkpoints on disk.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;
use cairn_store::{Level, Options};
use cairn_vmm::machine::storing::StoreConfig;
use clap::{Args, ValueEnum};

use crate::number;
use crate::size::Size;

/// See the module.
#[derive(Args, Debug)]
pub(crate) struct StoreOptions {
    /// Keep checkpoints in this directory, where they survive the program and the machine: those that the program asks
    /// to be durable. The next run with the same directory can recover them. One store, one program.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Keep only the newest N checkpoints [default: all].
    #[arg(long, value_name = "N", requires = "store", value_parser = number::from_one)]
    keep: Option<NonZeroUsize>,
    /// Bytes that the store may take: the oldest checkpoints go, never the newest [default: no bound].
    #[arg(long, value_name = "SIZE", requires = "store")]
    keep_bytes: Option<Size>,
    /// Make every checkpoint of the program durable, not only those that it asks for.
    #[arg(long, value_enum, requires = "store")]
    durable: Option<Durable>,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum Durable {
    /// They survive the end of the program and of cairn, however that comes.
    Written,
    /// They survive a power failure.
    Synced,
}

impl StoreOptions {
    pub(crate) fn config(self) -> Result<Option<StoreConfig>> {
        let Self { store, keep, keep_bytes, durable } = self;
        let options = Options { keep, keep_bytes: keep_bytes.map(|size| size.0), ..Options::default() };
        let level_of_all = durable.map(|durable| match durable {
            Durable::Written => Level::Written,
            Durable::Synced => Level::Synced,
        });
        Ok(store.map(|directory| StoreConfig { directory, options, level_of_all }))
    }
}
