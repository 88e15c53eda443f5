//! The driver: one worker per engine, in turns, cell after cell.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use crate::contender::Contender;

use crate::budget::{self, Pace, ROUNDS};
use crate::cell::Cell;
use crate::clock::Rate;
use crate::cpu;
use crate::engine::Programs;
use crate::pattern::Pattern;
use crate::process::{NoAnswer, WorkerProcess};
use crate::protocol::{Answer, Figures, Order, chain};
use crate::report::{Outcome, Report};
use crate::stats::median;

/// Of the time for cycles, one part in so many is for warm-up, and one for rollbacks.
const SIDE_SHARE: u32 = 8;

/// Steps per engine and cell: preparing, each batch, finishing.
const STEPS_PER_ENGINE: u64 = ROUNDS as u64 + 2;

/// What is to be run.
#[derive(Debug)]
pub struct Plan {
    /// The cells, in order.
    pub cells: Vec<Cell>,
    /// The engines, in order.
    pub engines: Vec<Contender>,
    /// How long.
    pub pace: Pace,
    /// With what.
    pub programs: Programs,
    /// The clock.
    pub rate: Rate,
}

/// Who is told how far a run is.
pub trait Progress {
    /// A batch of `engine` in `cell` begins.
    fn working(&self, cell: Cell, engine: Contender);
    /// So many of the steps of the plan ([`Plan::steps`]) are done, more than before.
    fn advance(&self, steps: u64);
}

impl Plan {
    /// Steps that a run reports as progress.
    #[must_use]
    pub fn steps(&self) -> u64 {
        (self.cells.len() * self.engines.len()) as u64 * STEPS_PER_ENGINE
    }

    /// Runs everything and adds it to `report`.
    pub fn run(&self, report: &mut Report, progress: &impl Progress) {
        let mut unavailable = HashMap::new();
        for (index, &cell) in self.cells.iter().enumerate() {
            let time = self.pace.slice(self.cells.len() - index, self.engines.len() - unavailable.len());
            for (engine, outcome) in self.cell(cell, time, &unavailable, progress) {
                if let Outcome::Unavailable(why) = &outcome {
                    unavailable.insert(engine, why.clone());
                }
                report.add(cell, engine, outcome);
            }
        }
    }

    /// Measures one cell with every engine that is not known to be unavailable, in the order of the plan.
    fn cell(
        &self,
        cell: Cell,
        time: Duration,
        unavailable: &HashMap<Contender, String>,
        progress: &impl Progress,
    ) -> Vec<(Contender, Outcome)> {
        let mut outcomes: HashMap<_, _> =
            unavailable.iter().map(|(&engine, why)| (engine, Outcome::Unavailable(why.clone()))).collect();
        progress.advance(outcomes.len() as u64 * STEPS_PER_ENGINE);
        for &engine in self.engines.iter().filter(|_| cell.pattern == Pattern::Reset) {
            let Some(why) = engine.no_resets() else { continue };
            if outcomes.insert(engine, Outcome::NotInCell(why.to_owned())).is_none() {
                progress.advance(STEPS_PER_ENGINE);
            }
        }
        let dirty_mib = cell.dirty_pages.div_ceil(crate::PAGES_PER_MIB);
        let needs: Vec<_> = (self.engines.iter())
            .filter(|engine| !outcomes.contains_key(engine))
            .map(|&engine| (engine, budget::needed_mib(engine, cell.region_mib, dirty_mib)))
            .collect();
        let usable_mib = budget::usable_mib();
        let (groups, too_large) = budget::groups(&needs, u64::from(cell.region_mib), usable_mib);
        for (engine, needed) in too_large {
            let why = format!("it needs {needed} MiB of memory and {usable_mib} MiB can be used");
            outcomes.insert(engine, Outcome::NotInCell(why));
            progress.advance(STEPS_PER_ENGINE);
        }
        for group in groups {
            outcomes.extend(self.group(cell, time, &group, progress));
        }
        let in_order = self.engines.iter().map(|engine| (*engine, outcomes.remove(engine)));
        in_order.filter_map(|(engine, outcome)| Some((engine, outcome?))).collect()
    }

    /// Measures engines that fit into memory together, in turns.
    fn group(
        &self,
        cell: Cell,
        time: Duration,
        engines: &[Contender],
        progress: &impl Progress,
    ) -> Vec<(Contender, Outcome)> {
        let mut turns: Vec<_> = engines
            .iter()
            .map(|&engine| {
                progress.working(cell, engine);
                let state = self.prepare(cell, engine, time);
                progress.advance(1);
                (engine, state)
            })
            .collect();
        for _ in 0..ROUNDS {
            for (engine, state) in &mut turns {
                progress.working(cell, *engine);
                if let Ok(turn) = state
                    && let Err(error) = turn.batch(time / ROUNDS)
                {
                    *state = Err(Outcome::Failed(chain(&error)));
                }
                progress.advance(1);
            }
        }
        turns
            .into_iter()
            .map(|(engine, state)| {
                progress.working(cell, engine);
                let outcome = match state {
                    Ok(turn) => {
                        turn.finish(time / SIDE_SHARE).unwrap_or_else(|error| Outcome::Failed(chain(&error)))
                    }
                    Err(outcome) => outcome,
                };
                progress.advance(1);
                (engine, outcome)
            })
            .collect()
    }

    fn prepare(&self, cell: Cell, engine: Contender, time: Duration) -> Result<Turn, Outcome> {
        let mut command = self.programs.worker(engine, cell.region_mib);
        let started = WorkerProcess::start(&mut command);
        let mut worker = started.map_err(|error| {
            let program = command.get_program().to_string_lossy().into_owned();
            Outcome::Unavailable(format!("{program} can't be started: {error}"))
        })?;
        match worker.answer() {
            Ok(Answer::Ready) => {}
            Ok(Answer::Unavailable { why }) => return Err(Outcome::Unavailable(why)),
            Ok(other) => return Err(Outcome::Failed(unexpected(&other).to_string())),
            Err(error) => return Err(Outcome::Unavailable(chain(&error))),
        }
        let order = Order::Prepare {
            cell,
            ticks_per_second: self.rate.hz(),
            warm_up_ns: nanoseconds(time / SIDE_SHARE),
        };
        match worker.order(&order) {
            Ok(Answer::Prepared { cycle_ns }) => {
                Ok(Turn { engine, cell, worker, cycle_ns, cpu_per_cycle: Vec::new() })
            }
            Ok(other) => Err(Outcome::Failed(unexpected(&other).to_string())),
            Err(error) => Err(Outcome::Failed(chain(&error))),
        }
    }
}

/// Why a batch has no result.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error(transparent)]
    Worker(#[from] NoAnswer),
    #[error("the worker does not say what CPU time it took")]
    NoCpuTime,
    #[error("the CPU time of the VM can't be read")]
    Cpu(#[source] io::Error),
}

/// A worker whose cell is prepared.
struct Turn {
    engine: Contender,
    cell: Cell,
    worker: WorkerProcess,
    /// How long a cycle took lately.
    cycle_ns: u64,
    /// CPU time per cycle of each batch, in ns.
    cpu_per_cycle: Vec<u64>,
}

impl Turn {
    /// Lets the worker run cycles for about `time`.
    fn batch(&mut self, time: Duration) -> Result<(), TurnError> {
        let cycles = budget::batch(time, self.cycle_ns, self.cell.dirty_pages);
        match self.worker.order(&Order::Plan { cycles })? {
            Answer::Planned => {}
            other => return Err(unexpected(&other).into()),
        }
        let before = self.vm_cpu()?;
        let answer = self.worker.order(&Order::Run)?;
        let after = self.vm_cpu()?;
        let Answer::Ran { elapsed_ns, cpu_ns } = answer else { return Err(unexpected(&answer).into()) };
        let seen_from_here = after.zip(before).map(|(after, before)| after.saturating_sub(before));
        let cpu_ns = seen_from_here.or(cpu_ns).ok_or(TurnError::NoCpuTime)?;
        self.cycle_ns = elapsed_ns / u64::from(cycles);
        self.cpu_per_cycle.push(cpu_ns / u64::from(cycles));
        Ok(())
    }

    fn finish(mut self, rollbacks: Duration) -> Result<Outcome, TurnError> {
        match self.worker.order(&Order::Finish { rollback_ns: nanoseconds(rollbacks) })? {
            Answer::Finished(figures) => Ok(self.outcome(figures)),
            other => Err(unexpected(&other).into()),
        }
    }

    fn outcome(self, figures: Figures) -> Outcome {
        Outcome::Measured(Box::new(figures), median(self.cpu_per_cycle))
    }

    /// CPU time of the VMM's threads so far, the one that runs the worker among them; in a Linux guest that of the
    /// worker, on whose CPU the VMM works. None for other engines' workers, which know their own and their children's.
    fn vm_cpu(&self) -> Result<Option<u64>, TurnError> {
        if !self.engine.needs_device() {
            return Ok(None);
        }
        cpu::of_process_ns(self.worker.id()).map(Some).map_err(TurnError::Cpu)
    }
}

fn unexpected(answer: &Answer) -> NoAnswer {
    NoAnswer::Refused(format!("the worker answered something else than it was asked: {answer:?}"))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
