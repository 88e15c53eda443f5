//! The worker: a process that carries out the driver's orders on one engine.

use std::io::{self, BufRead, Write};

use cairn_guest::Options;

use crate::contender::Contender;

use crate::clock::{Rate, ticks};
use crate::cpu;
use crate::protocol::{self, Answer, MAX_BATCH, MAX_PLANNED_PAGES, Order, Unread, chain};
use crate::resets::Stuck;
use crate::work::Work;

/// Epochs that are taken before anything is timed, however long they take: two dirty epochs settle which pages stay
/// writable, and two more fill the history.
pub const WARM_UP_MIN: u32 = 4;
/// Epochs after which warm-up would change nothing more: the predictor looks at the last eight of a page.
pub const WARM_UP_MAX: u32 = 16;
/// Checkpoints that are retained: the newest, and one to show that the way to an older one is kept.
pub const HISTORY: u32 = 2;

/// Why an order can't be carried out.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the order can't be understood")]
    Order(#[from] Unread),
    #[error("{0} Hz is no rate of a time-stamp counter")]
    Rate(u64),
    #[error("a worker measures one cell, and has one")]
    SecondCell,
    #[error("nothing is prepared")]
    NotPrepared,
    #[error("{cycles} cycles of {dirty} pages are more than a batch may have")]
    Batch { cycles: u32, dirty: u32 },
    #[error(transparent)]
    Stuck(#[from] Stuck),
    #[error("the CPU time can't be read")]
    Cpu(#[source] io::Error),
}

/// Serves orders until the input ends.
///
/// # Errors
/// The driver can't be read from or written to. What goes wrong with an engine is an answer.
pub fn serve(kind: Contender, mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut worker = match Worker::open(kind) {
        Ok(worker) => worker,
        Err(error) => return protocol::write(&mut output, &Answer::Unavailable { why: chain(&error) }),
    };
    protocol::write(&mut output, &Answer::Ready)?;
    loop {
        let answer = match protocol::read(&mut input) {
            Ok(None) => return Ok(()),
            Ok(Some(order)) => worker.obey(order),
            Err(unread) => Err(unread.into()),
        };
        match answer {
            Ok(answer) => protocol::write(&mut output, &answer)?,
            Err(refusal) => return protocol::write(&mut output, &Answer::Failed { why: chain(&refusal) }),
        }
    }
}

struct Worker {
    kind: Contender,
    /// An open session, until a cell takes it.
    session: Option<cairn_guest::Session>,
    work: Option<Work>,
}

impl Worker {
    fn open(kind: Contender) -> Result<Self, cairn_guest::Error> {
        let session = Options::new().engine(kind.kind()).history(HISTORY).open()?;
        Ok(Self { kind, session: Some(session), work: None })
    }

    fn obey(&mut self, order: Order) -> Result<Answer, Refusal> {
        match order {
            Order::Prepare { cell, ticks_per_second, warm_up_ns } => {
                let rate = Rate::new(ticks_per_second).ok_or(Refusal::Rate(ticks_per_second))?;
                let session = self.session.take().ok_or(Refusal::SecondCell)?;
                let mut work = Work::new(session, self.kind, cell, rate)?;
                let cycle_ns = warm_up(&mut work, rate, warm_up_ns)?;
                self.work = Some(work);
                Ok(Answer::Prepared { cycle_ns })
            }
            Order::Plan { cycles } => {
                let work = self.work.as_mut().ok_or(Refusal::NotPrepared)?;
                check_batch(cycles, work.dirty())?;
                work.plan(cycles);
                Ok(Answer::Planned)
            }
            Order::Run => {
                let work = self.work.as_mut().ok_or(Refusal::NotPrepared)?;
                let before = own_cpu(self.kind)?;
                let elapsed_ns = work.run()?;
                let after = own_cpu(self.kind)?;
                let cpu_ns = after.zip(before).map(|(after, before)| after.saturating_sub(before));
                Ok(Answer::Ran { elapsed_ns, cpu_ns })
            }
            Order::Finish { rollback_ns } => {
                let work = self.work.take().ok_or(Refusal::NotPrepared)?;
                Ok(Answer::Finished(work.finish(rollback_ns)?))
            }
        }
    }
}

/// Takes the warm-up epochs; returns how long the last one took.
fn warm_up(work: &mut Work, rate: Rate, budget_ns: u64) -> Result<u64, Refusal> {
    let start = ticks();
    let mut cycle_ns = 0;
    for epoch in 0..WARM_UP_MAX {
        if epoch >= WARM_UP_MIN && rate.ns(ticks() - start) > budget_ns {
            break;
        }
        work.plan(1);
        cycle_ns = work.run()?;
    }
    work.forget_samples();
    Ok(cycle_ns)
}

fn check_batch(cycles: u32, dirty: u32) -> Result<(), Refusal> {
    if cycles > MAX_BATCH || cycles.saturating_mul(dirty) > MAX_PLANNED_PAGES {
        return Err(Refusal::Batch { cycles, dirty });
    }
    Ok(())
}

/// CPU time of this process, where its clock is the engine's.
fn own_cpu(kind: Contender) -> Result<Option<u64>, Refusal> {
    if kind.needs_device() {
        return Ok(None);
    }
    cpu::own_ns().map(Some).map_err(Refusal::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Cell;
    use crate::pattern::Pattern;

    fn answers(orders: &str) -> Vec<Answer> {
        let mut output = Vec::new();
        serve(Contender::FullCopy, orders.as_bytes(), &mut output).unwrap();
        let mut output = output.as_slice();
        std::iter::from_fn(|| protocol::read(&mut output).unwrap()).collect()
    }

    fn lines(orders: &[Order]) -> String {
        orders.iter().map(|order| serde_json::to_string(order).unwrap() + "\n").collect()
    }

    fn prepare() -> Order {
        let cell = Cell::new(Pattern::Hot, 1, 100).unwrap();
        Order::Prepare { cell, ticks_per_second: 1_000_000_000, warm_up_ns: 0 }
    }

    #[test]
    fn a_cell_is_measured_by_orders() {
        let finish = Order::Finish { rollback_ns: 0 };
        let answers = answers(&lines(&[prepare(), Order::Plan { cycles: 7 }, Order::Run, finish]));
        assert_eq!(answers[0], Answer::Ready);
        assert!(matches!(answers[1], Answer::Prepared { .. }));
        assert_eq!(answers[2], Answer::Planned);
        assert!(matches!(answers[3], Answer::Ran { cpu_ns: Some(_), .. }));
        assert!(matches!(answers[4], Answer::Finished(figures) if figures.verified && figures.cycles == 7));
        assert_eq!(answers.len(), 5);
    }

    #[test]
    fn orders_that_make_no_sense_are_answered_and_end_the_work() {
        let slow = prepare();
        let Order::Prepare { cell, .. } = slow else { unreachable!() };
        let no_rate = Order::Prepare { cell, ticks_per_second: 0, warm_up_ns: 0 };
        for orders in [
            lines(&[Order::Run]),
            lines(&[Order::Plan { cycles: 1 }]),
            lines(&[Order::Finish { rollback_ns: 0 }]),
            lines(&[no_rate]),
            lines(&[prepare(), prepare()]),
            lines(&[prepare(), Order::Plan { cycles: MAX_BATCH + 1 }]),
            "nonsense\n".to_owned(),
        ] {
            assert!(matches!(answers(&orders).last(), Some(Answer::Failed { .. })), "{orders}");
        }
    }

    #[test]
    fn batches_are_checked_at_their_limits() {
        assert!(check_batch(MAX_BATCH, 0).is_ok() && check_batch(MAX_BATCH + 1, 0).is_err());
        assert!(check_batch(1, MAX_PLANNED_PAGES).is_ok() && check_batch(1, MAX_PLANNED_PAGES + 1).is_err());
        assert!(check_batch(MAX_BATCH, u32::MAX).is_err());
    }

    #[test]
    fn an_engine_that_is_not_here_says_why() {
        let mut output = Vec::new();
        // No checkpoint device outside a VM.
        serve(Contender::Cairn, &b""[..], &mut output).unwrap();
        let answer = protocol::read(&mut output.as_slice()).unwrap();
        assert!(matches!(answer, Some(Answer::Unavailable { why }) if !why.is_empty()));
    }
}
