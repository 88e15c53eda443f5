//! How far a run is, for a person.

use std::cell::Cell as Kept;
use std::io::{self, IsTerminal};

use cairn_bench::cell::Cell;
use cairn_bench::contender::Contender;
use cairn_bench::driver::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar on standard error, if that is a terminal. Dropping it clears it.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(steps: u64) -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent:>3} % {msg} ({eta} left)") {
            bar.set_style(style);
        }
        Self(bar)
    }
}

impl Progress for Bar {
    fn working(&self, cell: Cell, engine: Contender) {
        self.0.set_message(format!("{cell}: {engine}"));
    }

    fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A line for each cell, where a bar would be drawn over a serial port.
#[derive(Default)]
pub(crate) struct Lines(Kept<Option<Cell>>);

impl Progress for Lines {
    fn working(&self, cell: Cell, _: Contender) {
        if self.0.replace(Some(cell)) != Some(cell) {
            println!("measuring {cell}");
        }
    }

    fn advance(&self, _: u64) {}
}
