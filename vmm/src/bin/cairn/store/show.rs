//! `cairn store show` and `cairn store diff`: what checkpoints hold.

use std::collections::BTreeSet;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use cairn_store::{ObjectIndex, PAGE_SIZE, Snapshot};
use cairn_vmm::store::signature::{CheckedSnapshot, Unsigned};
use clap::Args;
use serde::Serialize;

use super::{Place, bar, print_json, table};
use crate::number;
use crate::size::readable;
use crate::state;

/// Options of `cairn store show`.
#[derive(Args, Debug)]
pub(super) struct Show {
    #[command(flatten)]
    place: Place,
    /// The checkpoint.
    #[arg(value_parser = number::checkpoint)]
    id: u64,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// Options of `cairn store diff`.
#[derive(Args, Debug)]
pub(super) struct Diff {
    #[command(flatten)]
    place: Place,
    /// The first checkpoint.
    #[arg(value_parser = number::checkpoint)]
    a: u64,
    /// The second checkpoint.
    #[arg(value_parser = number::checkpoint)]
    b: u64,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Shown {
    id: u64,
    /// "yes", or "no: " and why.
    signed: String,
    objects: Vec<ShownObject>,
    sections: Vec<ShownSection>,
}

#[derive(Serialize)]
struct ShownObject {
    name: String,
    tag: u64,
    address: u64,
    bytes: u64,
    present_bytes: u64,
}

#[derive(Serialize)]
struct ShownSection {
    name: String,
    bytes: u64,
}

/// How an object differs.
#[derive(Serialize)]
struct Difference {
    name: String,
    /// "changed", "only in a" or "only in b".
    what: &'static str,
    /// Spans of pages, each as first and behind the last.
    pages: Vec<(u64, u64)>,
}

impl Show {
    pub(super) fn run(self) -> Result<ExitCode> {
        let snapshot = self.place.snapshot(self.id)?;
        let snapshot = Arc::new(snapshot);
        let signed = signed(&snapshot)?;
        let shown = shown(&snapshot, signed);
        if self.json {
            print_json(&shown)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut objects = table(&["object", "tag", "address", "size", "not zero"], &[1, 2, 3, 4]);
        for object in shown.objects {
            objects.add_row([
                object.name,
                format!("{:#x}", object.tag),
                format!("{:#x}", object.address),
                readable(object.bytes),
                readable(object.present_bytes),
            ]);
        }
        say!("{}", objects.trim_fmt());
        say!("\nsigned by this user: {}", shown.signed);
        if !shown.sections.is_empty() {
            let mut sections = table(&["section", "size"], &[1]);
            for section in shown.sections {
                sections.add_row([section.name, readable(section.bytes)]);
            }
            say!("\n{}", sections.trim_fmt());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether it's signed by this user; pages are only looked at when they are read.
fn signed(snapshot: &Arc<Snapshot>) -> Result<String> {
    let no = |why: Unsigned| format!("no: {why}");
    let Some(key) = state::key() else { return Ok(no(Unsigned::NoKey)) };
    let checked = CheckedSnapshot::open(Arc::clone(snapshot), &key)?;
    Ok(checked.map_or_else(no, |_| "yes".to_owned()))
}

fn shown(snapshot: &Snapshot, signed: String) -> Shown {
    let page = PAGE_SIZE as u64;
    let objects = snapshot.objects().iter().map(|object| {
        let index = snapshot.find(object.name.as_str());
        let present =
            index.map_or(0, |index| snapshot.present(index).map(|span| span.end - span.start).sum());
        ShownObject {
            name: object.name.to_string(),
            tag: object.tag,
            address: object.address,
            bytes: object.pages * page,
            present_bytes: present * page,
        }
    });
    let sections =
        snapshot.sections().map(|(name, bytes)| ShownSection { name: name.to_owned(), bytes }).collect();
    Shown { id: snapshot.id().0, signed, objects: objects.collect(), sections }
}

impl Diff {
    pub(super) fn run(self) -> Result<ExitCode> {
        let differences = differences(&self.place.snapshot(self.a)?, &self.place.snapshot(self.b)?)?;
        if self.json {
            print_json(&differences)?;
            return Ok(ExitCode::SUCCESS);
        }
        if differences.is_empty() {
            say!("checkpoints {} and {} hold the same", self.a, self.b);
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = table(&["object", "difference", "size", "first pages"], &[2]);
        for Difference { name, what, pages } in differences {
            const SHOWN: usize = 4;
            let bytes: u64 = pages.iter().map(|(first, end)| (end - first) * PAGE_SIZE as u64).sum();
            let mut spans: Vec<String> = pages.iter().take(SHOWN).map(span).collect();
            if SHOWN < pages.len() {
                spans.push(format!("and {} more spans", pages.len() - SHOWN));
            }
            let size = if pages.is_empty() { "-".to_owned() } else { readable(bytes) };
            table.add_row([name, what.to_owned(), size, spans.join(", ")]);
        }
        say!("{}", table.trim_fmt());
        Ok(ExitCode::SUCCESS)
    }
}

fn span((first, end): &(u64, u64)) -> String {
    if first + 1 == *end { first.to_string() } else { format!("{first}-{}", end - 1) }
}

fn differences(a: &Snapshot, b: &Snapshot) -> Result<Vec<Difference>> {
    let names = |snapshot: &Snapshot| -> BTreeSet<String> {
        snapshot.objects().iter().map(|object| object.name.to_string()).collect()
    };
    let bar = bar();
    let mut found = Vec::new();
    for name in names(a).union(&names(b)) {
        let (what, pages) = match (a.find(name), b.find(name)) {
            (Some(in_a), Some(in_b)) => {
                let pages = changed((a, in_a), (b, in_b), &mut |bytes, total| {
                    bar.set_length(total);
                    bar.set_position(bytes);
                })?;
                if pages.is_empty() && a.objects()[in_a.place()] == b.objects()[in_b.place()] {
                    continue;
                }
                ("changed", pages)
            }
            (Some(_), None) => ("only in a", Vec::new()),
            _ => ("only in b", Vec::new()),
        };
        found.push(Difference { name: name.clone(), what, pages });
    }
    bar.finish_and_clear();
    Ok(found)
}

/// The pages of an object that differ; those that only the larger one has count if they aren't zero.
fn changed(
    a: (&Snapshot, ObjectIndex),
    b: (&Snapshot, ObjectIndex),
    passed: &mut dyn FnMut(u64, u64),
) -> Result<Vec<(u64, u64)>> {
    let mut spans: Vec<Range<u64>> = a.0.present(a.1).chain(b.0.present(b.1)).collect();
    spans.sort_unstable_by_key(|span| span.start);
    let total: u64 = spans.iter().map(|span| span.end - span.start).sum();
    let (mut found, mut next, mut done) = (Vec::<(u64, u64)>::new(), 0, 0);
    let (mut in_a, mut in_b) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    for span in spans {
        for page in span.start.max(next)..span.end {
            read(a, page, &mut in_a)?;
            read(b, page, &mut in_b)?;
            if in_a != in_b {
                match found.last_mut() {
                    Some((_, end)) if *end == page => *end += 1,
                    _ => found.push((page, page + 1)),
                }
            }
        }
        next = next.max(span.end);
        done += span.end - span.start;
        passed(done * PAGE_SIZE as u64, total * PAGE_SIZE as u64);
    }
    Ok(found)
}

/// Reads a page, zeros where the object ends before it.
fn read((snapshot, object): (&Snapshot, ObjectIndex), page: u64, out: &mut [u8; PAGE_SIZE]) -> Result<()> {
    if snapshot.objects()[object.place()].pages <= page {
        out.fill(0);
        return Ok(());
    }
    Ok(snapshot.read_page(object, page, out)?)
}
