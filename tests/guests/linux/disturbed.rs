//! Random walks while the kernel, at another process's request, moves, splits, joins, merges and swaps the pages.

use std::fs;
use std::os::fd::OwnedFd;
use std::thread;

use anyhow::{Context, Result, ensure};
use cairn_guest::contract;
use cairn_tests::pages::{PAGE, Pages};

use crate::scenario::{Outcome, Scenario, not_here};
use crate::support::knobs::{self, Knob};
use crate::support::memory::{self, Advice};
use crate::support::partner::{Partner, Role, Talk};
use crate::support::walk::Walk;
use crate::support::{self, process, swap};

pub(crate) const ALL: &[Scenario] = &[
    Scenario { name: "compaction", seconds: 60, run: compaction },
    Scenario { name: "huge-pages", seconds: 60, run: huge_pages },
    Scenario { name: "merging", seconds: 60, run: merging },
    Scenario { name: "swap", seconds: 60, run: swapping },
    Scenario { name: "swap-of-everything", seconds: 60, run: swapping_everything },
];

pub(crate) const ROLES: &[Role] =
    &[("compact", compact), ("collapse", collapse), ("page-out", page_out), ("page-out-all", page_out_all)];

/// Pages of the walk's region: where huge ones are wanted, enough for two; and where the kernel takes its time.
const PAGES: usize = 512;
const HUGE_PAGES: usize = 1024;
const FEW_PAGES: usize = 160;
/// Steps of a walk, at least and at most.
const STEPS: std::ops::Range<u64> = 16..2000;
/// Steps of the contract's walk, with its many small regions, under the same disturbance.
const CONTRACT_STEPS: u32 = 80;
/// Bytes that the compactor leaves holes in.
const FRAGMENTED: usize = 8 << 20;
const THP: &str = "/sys/kernel/mm/transparent_hugepage";
const KSM: &str = "/sys/kernel/mm/ksm";
const SCANS: &str = "/sys/kernel/mm/ksm/full_scans";

/// What must have happened for a walk to have been disturbed.
struct Evidence {
    what: &'static str,
    counters: &'static [&'static str],
    least: u64,
}

/// Walks until there is evidence, with `between` after every step.
fn walk_until(
    walk: &mut Walk,
    evidence: &Evidence,
    mut between: impl FnMut(&mut Walk) -> Result<()>,
) -> Outcome {
    let before = knobs::events(evidence.counters)?;
    let mut happened = 0;
    while walk.counts.steps < STEPS.start || happened < evidence.least {
        ensure!(
            walk.counts.steps < STEPS.end,
            "in {} steps only {happened} {}: nothing was disturbed",
            STEPS.end,
            evidence.what
        );
        walk.step()?;
        between(walk)?;
        happened = knobs::events(evidence.counters)? - before;
    }
    walk.finish()?;
    contract::walk(&mut support::session()?, 3, CONTRACT_STEPS)?;
    let counts = walk.counts;
    Ok(format!(
        "{} steps, {} rollbacks, {happened} {}, {} of the region's pages moved, {} taken",
        counts.steps, counts.rollbacks, evidence.what, counts.moves.moved, counts.moves.gone
    ))
}

/// A process that does something to `walk`'s memory over and over, until it's dropped.
fn disturber(role: &str, walk: &mut Walk) -> Result<Partner> {
    let (address, len) = walk.span();
    let args = [u64::from(std::process::id()), address as u64, len as u64].map(|number| number.to_string());
    let mut partner = Partner::start(role, &args)?;
    match partner.hear()?.split_once(": ") {
        Some(("not here", why)) => Err(not_here(why)),
        _ => Ok(partner),
    }
}

fn compaction() -> Outcome {
    let mut walk = Walk::start(support::session()?, PAGES, 11)?;
    let _compactor = disturber("compact", &mut walk)?;
    let evidence = Evidence { what: "pages migrated", counters: &["pgmigrate_success"], least: 300 };
    walk_until(&mut walk, &evidence, |walk| {
        // Which pages are in the way of compaction is luck; this one is moved.
        let page = walk.some_pages(1);
        walk.change(page, memory::relocate, None)
    })
}

fn huge_pages() -> Outcome {
    let _knobs = [
        Knob::set(format!("{THP}/enabled"), "always")?,
        Knob::set(format!("{THP}/khugepaged/scan_sleep_millisecs"), "10")?,
        Knob::set(format!("{THP}/khugepaged/alloc_sleep_millisecs"), "10")?,
        Knob::set(format!("{THP}/khugepaged/pages_to_scan"), "4096")?,
    ];
    let mut walk = Walk::start(support::session()?, HUGE_PAGES, 12)?;
    let (address, len) = walk.span();
    memory::advise(address, len, Advice::HugePages).context("asking for huge pages")?;
    let _collapser = disturber("collapse", &mut walk)?;
    let counters = &["thp_collapse_alloc", "thp_split_pmd", "thp_split_page"];
    let evidence = Evidence { what: "huge pages made or split", counters, least: 20 };
    let mut turn = 0;
    walk_until(&mut walk, &evidence, |walk| {
        turn += 1;
        let pages = walk.some_pages(40);
        match turn % 3 {
            0 => walk.change(pages, memory::discard, Some(0)),
            1 => walk.change(pages, memory::forbid_and_allow_writes, None),
            _ => Ok(()),
        }
    })
}

fn merging() -> Outcome {
    let _knobs = [
        Knob::set(format!("{KSM}/sleep_millisecs"), "1")?,
        Knob::set(format!("{KSM}/pages_to_scan"), "4096")?,
        Knob::set(format!("{KSM}/run"), "1")?,
    ];
    let mut walk = Walk::start(support::session()?, FEW_PAGES, 13)?;
    let (address, len) = walk.span();
    memory::advise(address, len, Advice::Mergeable).context("asking for merging")?;
    let (mut most, mut merges) = (0, 0);
    while walk.counts.steps < STEPS.start || merges < 10 {
        ensure!(walk.counts.steps < STEPS.end, "in {} steps nothing was merged", STEPS.end);
        walk.step()?;
        // The kernel merges what it found alike in two scans.
        let scans = knobs::number(SCANS)?;
        while knobs::number(SCANS)? == scans {
            thread::yield_now();
        }
        let shared = knobs::number("/sys/kernel/mm/ksm/pages_sharing")?;
        merges += u64::from(shared > 0);
        most = most.max(shared);
    }
    walk.finish()?;
    let (steps, moved) = (walk.counts.steps, walk.counts.moves.moved);
    Ok(format!("{steps} steps, up to {most} pages merged with others, {moved} times a page moved"))
}

fn swapping() -> Outcome {
    swap_with("page-out", 14)
}

/// The ring and the stack, too.
fn swapping_everything() -> Outcome {
    swap_with("page-out-all", 15)
}

fn swap_with(role: &str, seed: u64) -> Outcome {
    swap::turn_on()?;
    let mut walk = Walk::start(support::session()?, FEW_PAGES, seed)?;
    let _pager = disturber(role, &mut walk)?;
    let evidence = Evidence { what: "pages swapped in", counters: &["pswpin"], least: 500 };
    walk_until(&mut walk, &evidence, |_| Ok(()))
}

/// Leaves holes in memory and has the kernel close them.
fn compact(_: &[String], talk: &mut Talk) -> Result<()> {
    let compact = || fs::write("/proc/sys/vm/compact_memory", "1");
    if let Err(error) = compact() {
        return talk.say(&format!("not here: memory can't be compacted: {error}"));
    }
    talk.say("ready")?;
    loop {
        let memory = Pages::anonymous(FRAGMENTED / PAGE)?;
        memory.fill(1);
        let (start, len) = (usize::try_from(memory.address())?, memory.len());
        for page in (start..start + len).step_by(2 * PAGE) {
            // SAFETY: a page of this mapping, to which there are no references.
            let pages =
                unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(page), PAGE) };
            memory::discard(pages)?;
        }
        compact()?;
    }
}

fn collapse(args: &[String], talk: &mut Talk) -> Result<()> {
    disturb(args, talk, Advice::Collapse, |_, span| Ok(vec![span]))
}

fn page_out(args: &[String], talk: &mut Talk) -> Result<()> {
    let mut turn = 0;
    disturb(args, talk, Advice::PageOut, |_, span| Ok(piece(&[span], &mut turn)))
}

fn page_out_all(args: &[String], talk: &mut Talk) -> Result<()> {
    let mut turn = 0;
    disturb(args, talk, Advice::PageOut, |pid, _| Ok(piece(&memory::anonymous_spans(pid)?, &mut turn)))
}

/// Bytes that are swapped out at a time: whoever is swapped out as a whole whenever it isn't running gets nowhere, with
/// a checkpoint or without.
const PIECE: usize = 16 * PAGE;

/// One piece of the spans after the other.
fn piece(spans: &[Span], turn: &mut usize) -> Vec<Span> {
    let pieces = |&(start, len): &Span| {
        (0..len).step_by(PIECE).map(move |at| (start + at, PIECE.min(len - at))).collect::<Vec<_>>()
    };
    let all: Vec<Span> = spans.iter().flat_map(pieces).collect();
    *turn += 1;
    all.get(*turn % all.len().max(1)).copied().into_iter().collect()
}

type Span = (usize, usize);

/// Gives advice on another process's memory, over and over.
fn disturb(
    args: &[String],
    talk: &mut Talk,
    advice: Advice,
    mut spans: impl FnMut(u32, Span) -> Result<Vec<Span>>,
) -> Result<()> {
    let [pid, address, len] = args else { return talk.say("not here: no process to disturb") };
    let (pid, span) = (pid.parse()?, (address.parse()?, len.parse()?));
    let process: OwnedFd = process::descriptor(pid)?;
    if let Err(error) = memory::advise_of(&process, &spans(pid, span)?, advice)
        && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EPERM))
    {
        return talk
            .say(&format!("not here: the kernel doesn't know {advice:?} for other processes: {error}"));
    }
    talk.say("ready")?;
    loop {
        // What it can't do now (no free huge page, a mapping that went) it may do the next time.
        let _ = memory::advise_of(&process, &spans(pid, span)?, advice);
        thread::yield_now();
    }
}
