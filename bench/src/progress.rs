//! How far a run is, for a person.

use std::cell::Cell as Kept;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use cairn_bench::cell::Cell;
use cairn_bench::contender::Contender;
use cairn_bench::driver::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar shows that time passes, though a step may take long.
const TICK: Duration = Duration::from_millis(500);

/// On standard error: a progress bar if that is a terminal, else a line for each cell. Dropping it clears the bar.
pub(crate) enum Bar {
    /// On a terminal.
    Drawn(ProgressBar),
    /// Elsewhere: to a file or another program.
    Told {
        /// When the run began.
        start: Instant,
        /// The last cell that was told of.
        told: Kept<Option<Cell>>,
    },
}

impl Bar {
    pub(crate) fn new(steps: u64) -> Self {
        if !io::stderr().is_terminal() {
            return Self::Told { start: Instant::now(), told: Kept::new(None) };
        }
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(
            "{wide_bar} {percent:>3} % {msg} ({elapsed} so far, about {eta} left)",
        ) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self::Drawn(bar)
    }
}

impl Progress for Bar {
    fn working(&self, cell: Cell, engine: Contender) {
        match self {
            Self::Drawn(bar) => bar.set_message(format!("{cell}: {engine}")),
            Self::Told { start, told } if told.replace(Some(cell)) != Some(cell) => {
                eprintln!("{:>5} s  {cell}", start.elapsed().as_secs());
            }
            Self::Told { .. } => {}
        }
    }

    fn advance(&self, steps: u64) {
        if let Self::Drawn(bar) = self {
            bar.inc(steps);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Self::Drawn(bar) = self {
            bar.finish_and_clear();
        }
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
