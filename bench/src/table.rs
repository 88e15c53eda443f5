//! The results as tables for a terminal.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::contender::Contender;
use comfy_table::{CellAlignment, Table, presets};

use crate::pattern::Pattern;
use crate::report::{Absent, Measured, Report};

/// What stands for the figures of an engine that doesn't work here.
const UNAVAILABLE: &str = "not available";
/// And of one that should have worked.
const FAILED: &str = "FAILED";
/// The columns of [`fields`].
pub(crate) const HEADER: [&str; 11] = [
    "dirty",
    "engine",
    "cycle p50",
    "p99",
    "ratio",
    "checkpoint p50",
    "p99",
    "rollback p50",
    "overhead p50",
    "CPU",
    "extra",
];

/// All tables, one per region size and pattern, and what is missing below them.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = place(report);
    for (region_mib, pattern) in kinds(report) {
        let rows: Vec<_> = (report.cells.iter())
            .filter(|row| (row.region_mib, row.pattern) == (region_mib, pattern))
            .collect();
        let unavailable = report.unavailable.iter().map(|row| (row, UNAVAILABLE));
        let absent: Vec<_> = (unavailable.chain(report.failed.iter().map(|row| (row, FAILED))))
            .filter(|(row, _)| (row.region_mib, row.pattern) == (region_mib, pattern))
            .collect();
        // Writing to a String can't fail.
        let _ = writeln!(text, "\n{region_mib} MiB, {pattern}: {}", pattern.meaning());
        let _ = writeln!(text, "{}", one(&rows, &absent));
        for line in rows.iter().filter_map(|row| stood_still(row)) {
            let _ = writeln!(text, "{line}");
        }
    }
    for (absents, title) in [(&report.unavailable, UNAVAILABLE), (&report.failed, FAILED)] {
        for (engine, why, cells) in grouped(absents) {
            let _ = writeln!(text, "{engine}: {title}: {why} ({cells} cells)");
        }
    }
    if !report.cells.is_empty() {
        text.push_str(
            "\ncycle = writes + checkpoint. ratio = cycle p50 / that of cairn (of the fastest, without cairn). overhead = \
             tracked - untracked writes. CPU = of all threads of the engine, per cycle. extra = bytes beside the regions.\n",
        );
    }
    text
}

/// Where the engines ran, if that needs to be said.
fn place(report: &Report) -> String {
    let Some(guest) = &report.linux_guest else { return String::new() };
    format!(
        "All engines in a Linux guest: kernel {}, {} CPU{}, {} MiB. Its host: kernel {}, {}.\n",
        guest.kernel,
        guest.cores,
        if guest.cores == 1 { "" } else { "s" },
        guest.memory_mib,
        report.host.kernel,
        report.host.platform()
    )
}

/// A time, in the unit that leaves one to three digits before the point.
#[must_use]
pub fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} us", three_digits(ns, 1_000)),
        1_000_000..1_000_000_000 => format!("{} ms", three_digits(ns, 1_000_000)),
        _ => format!("{} s", three_digits(ns, 1_000_000_000)),
    }
}

fn one(rows: &[&Measured], absent: &[(&Absent, &str)]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(HEADER);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for dirty_pages in dirty_counts(rows, absent) {
        let base = base(rows, dirty_pages);
        let mut dirty = format!("{dirty_pages} pages");
        for row in rows.iter().filter(|row| row.dirty_pages == dirty_pages) {
            table.add_row(fields(row, std::mem::take(&mut dirty), base));
        }
        for (row, what) in absent.iter().filter(|(row, _)| row.dirty_pages == dirty_pages) {
            table.add_row([std::mem::take(&mut dirty), row.engine.clone(), (*what).to_owned()]);
        }
    }
    table
}

/// What a row's engine stopped, if it did.
pub(crate) fn stood_still(row: &Measured) -> Option<String> {
    let stops = row.stops?;
    Some(format!(
        "{} pages, {}: CPUs stood still {} times, {} on average (the longest in this guest so far: {}); arming took {}",
        row.dirty_pages,
        row.engine,
        stops.pauses,
        duration(stops.mean_ns),
        duration(stops.longest_so_far_ns),
        duration(stops.arming_ns)
    ))
}

/// A row of the table.
pub(crate) fn fields(row: &Measured, dirty: String, base: u64) -> [String; 11] {
    [
        dirty,
        row.engine.clone(),
        duration(row.cycle_ns.p50),
        duration(row.cycle_ns.p99),
        ratio(row.cycle_ns.p50, base),
        duration(row.checkpoint_ns.p50),
        duration(row.checkpoint_ns.p99),
        duration(row.rollback_ns.p50),
        signed(row.overhead_ns.p50),
        duration(row.cpu_ns.p50),
        bytes(row.extra_bytes),
    ]
}

/// Numbers of dirty pages, ascending.
fn dirty_counts(rows: &[&Measured], absent: &[(&Absent, &str)]) -> BTreeSet<u32> {
    let measured = rows.iter().map(|row| row.dirty_pages);
    measured.chain(absent.iter().map(|(row, _)| row.dirty_pages)).collect()
}

/// The cycle that others of the same cell are compared with.
pub(crate) fn base(rows: &[&Measured], dirty_pages: u32) -> u64 {
    let cell: Vec<_> = rows.iter().copied().filter(|row| row.dirty_pages == dirty_pages).collect();
    base_row(&cell).map_or(0, |row| row.cycle_ns.p50)
}

/// The engine of a cell that the others are compared with: `cairn`, or else the fastest.
pub(crate) fn base_row<'r>(cell: &[&'r Measured]) -> Option<&'r Measured> {
    let cairn = cell.iter().find(|row| row.engine == Contender::Cairn.name());
    cairn.or_else(|| cell.iter().min_by_key(|row| row.cycle_ns.p50)).copied()
}

/// Region sizes and patterns that were measured, small regions first.
pub(crate) fn kinds(report: &Report) -> Vec<(u32, Pattern)> {
    let sizes: BTreeSet<_> = report.cells.iter().map(|row| row.region_mib).collect();
    let all = sizes.into_iter().flat_map(|size| Pattern::ALL.map(|pattern| (size, pattern)));
    all.filter(|kind| report.cells.iter().any(|row| (row.region_mib, row.pattern) == *kind)).collect()
}

/// Reasons with the number of cells that each holds for.
pub(crate) fn grouped(absents: &[Absent]) -> Vec<(&str, &str, usize)> {
    let mut groups: Vec<(&str, &str, usize)> = Vec::new();
    for absent in absents {
        match groups.iter_mut().find(|(engine, why, _)| *engine == absent.engine && *why == absent.why) {
            Some((_, _, cells)) => *cells += 1,
            None => groups.push((&absent.engine, &absent.why, 1)),
        }
    }
    groups
}

fn signed(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    format!("{sign}{}", duration(ns.unsigned_abs()))
}

/// How many times `base` it is.
pub(crate) fn ratio(ns: u64, base: u64) -> String {
    if base == 0 {
        return "-".to_owned();
    }
    let hundredths = u128::from(ns) * 100 / u128::from(base);
    if hundredths < 1000 {
        format!("{}.{:02} x", hundredths / 100, hundredths % 100)
    } else {
        format!("{}.{} x", hundredths / 100, hundredths % 100 / 10)
    }
}

/// An amount of memory, in the unit that leaves one to four digits before the point.
#[must_use]
pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..0x10_0000 => format!("{} KiB", three_digits(count, 1 << 10)),
        0x10_0000..0x4000_0000 => format!("{} MiB", three_digits(count, 1 << 20)),
        _ => format!("{} GiB", three_digits(count, 1 << 30)),
    }
}

/// `value / unit`, cut to three digits.
fn three_digits(value: u64, unit: u64) -> String {
    let whole = value / unit;
    let thousandths = u128::from(value % unit) * 1000 / u128::from(unit);
    match whole {
        0..10 => format!("{whole}.{:02}", thousandths / 10),
        10..100 => format!("{whole}.{}", thousandths / 100),
        _ => whole.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Poll, Tracker};
    use crate::host::Host;
    use crate::protocol::Stops;
    use crate::report::Median;
    use crate::stats::Quantiles;

    fn measured(engine: &str, dirty_pages: u32, cycle: u64) -> Measured {
        let quantiles = Quantiles { p50: cycle, p99: cycle };
        Measured {
            pattern: Pattern::Hot,
            region_mib: 64,
            dirty_pages,
            engine: engine.to_owned(),
            cycles: 1,
            rollbacks: 1,
            checkpoint_ns: quantiles,
            cycle_ns: quantiles,
            cycle_spread_ns: None,
            rollback_ns: quantiles,
            overhead_ns: Median { p50: -5 },
            cpu_ns: Median { p50: cycle },
            extra_bytes: 64 << 20,
            stops: None,
            verified: true,
        }
    }

    #[test]
    fn ratios_are_to_cairn_or_else_to_the_fastest_of_the_cell() {
        let (cairn, fork, copy) =
            (measured("cairn", 16, 200), measured("fork", 16, 300), measured("full-copy", 16, 100));
        assert_eq!(base(&[&cairn, &fork, &copy], 16), 200);
        assert_eq!(base(&[&fork, &copy], 16), 100);
        assert_eq!(base(&[&fork], 17), 0);
        assert_eq!([ratio(300, 200), ratio(3000, 200), ratio(1, 0)], ["1.50 x", "15.0 x", "-"]);
    }

    #[test]
    fn quantities_have_three_digits_and_a_unit() {
        assert_eq!(
            [0, 999, 1000, 12_345, 999_999, 1_500_000, 2_000_000_000].map(duration),
            ["0 ns", "999 ns", "1.00 us", "12.3 us", "999 us", "1.50 ms", "2.00 s"]
        );
        assert_eq!(
            [0, 1023, 1024, 64 << 20, 3 << 30].map(bytes),
            ["0 B", "1023 B", "1.00 KiB", "64.0 MiB", "3.00 GiB"]
        );
        assert_eq!([signed(-1500), signed(20)], ["-1.50 us", "20 ns"]);
        assert_eq!(duration(u64::MAX), "18446744073 s");
    }

    #[test]
    fn a_run_in_a_guest_says_so_and_on_what() {
        let report = Report::new(Host::look(1), Poll::Never, Tracker::Auto);
        assert!(!render(&report).contains("guest"));
        let host = Host { kernel: "9.9-host".to_owned(), ..Host::look(1) };
        let text = render(&report.of_linux_guest(host));
        assert!(
            text.contains("in a Linux guest") && text.contains("9.9-host") && text.contains("KVM"),
            "{text}"
        );
    }

    #[test]
    fn tables_name_every_engine_and_what_is_missing() {
        let mut report = Report::new(Host::look(1), Poll::Auto, Tracker::Auto);
        report.cells =
            vec![measured("cairn", 16, 100), measured("fork", 16, 1500), measured("cairn", 163, 200)];
        let absent = |engine: &str| Absent {
            pattern: Pattern::Hot,
            region_mib: 64,
            dirty_pages: 16,
            engine: engine.to_owned(),
            why: "no kernel for it".to_owned(),
        };
        report.unavailable = vec![absent("uffd-wp"), absent("uffd-wp")];
        report.failed = vec![absent("mprotect")];
        report.cells[0].stops =
            Some(Stops { pauses: 7, mean_ns: 1500, longest_so_far_ns: 2000, arming_ns: 3_000_000 });
        let text = render(&report);
        for part in [
            "64 MiB, hot",
            "| not available",
            " FAILED |",
            "mprotect: FAILED: no kernel for it (1 cells)",
            "16 pages",
            "163 pages",
            "15.0 x",
            "16 pages, cairn: CPUs stood still 7 times, 1.50 us on average",
            "arming took 3.00 ms",
            "uffd-wp: not available: no kernel for it (2 cells)",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
