//! The results as one page that needs nothing beside it: no scripts, no fonts, no pictures from elsewhere.
//!
//! What it says comes from a run or from a recorded file, so every text is escaped.

mod axis;
mod plot;
mod ratios;

use std::fmt::Write;

use crate::PAGES_PER_MIB;
use crate::host::Host;
use crate::html::axis::Unit;
use crate::html::plot::{Quantity, Series, svg};
use crate::pattern::Pattern;
use crate::report::{Absent, Measured, Report};
use crate::table::{self, HEADER};

const STYLE: &str = include_str!("style.css");
/// The share of dirty pages, in parts of a thousand, whose distribution is shown of the patterns that have a choice.
const SHOWN_PER_MILLE: u64 = 10;

const DIRTY: Quantity = Quantity { label: "dirty pages of all, per cycle", unit: Unit::Share };
const CYCLE: Quantity = Quantity { label: "whole cycle, median", unit: Unit::Time };
const CPU: Quantity = Quantity { label: "CPU time per cycle, all threads", unit: Unit::Time };
const EXTRA: Quantity = Quantity { label: "memory beside the region", unit: Unit::Bytes };
const QUANTILE: Quantity = Quantity { label: "part of all cycles that took no longer", unit: Unit::Quantile };
const LATENCY: Quantity = Quantity { label: "whole cycle", unit: Unit::Time };

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let cells = ratios::cells(report);
    let engines = ratios::engines(report);
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Checkpoint cycles on {0}</title>\n<style>\n{STYLE}</style></head><body>\n\
         <h1>Checkpoint cycles, engine by engine</h1>\n<p>{0}</p>\n",
        escaped(&place(report))
    );
    text.push_str(&warnings(report));
    text.push_str(&ratios::verdict(&cells));
    text.push_str(
        "<h2>Whole cycles</h2>\n<p>A cycle is an epoch's writes and the checkpoint after them; of the pattern \
         <code>reset</code>, an input to a parser and the way back to the prepared state. The first engine of a row \
         has its median time, each other one is a multiple of it: more than 1 x is slower. Below: CPU time of all \
         threads per cycle, and memory beside the region. Bold on a darker ground: faster than the first engine.</p>\n",
    );
    text.push_str(&ratios::table(&cells, &engines, |row| row.cycle_ns));
    text.push_str(
        "<h2>Rollbacks</h2>\n<p>Going back to the newest checkpoint after an epoch's writes, with all that it takes to \
         notice later writes; CPU time is that of a cycle.</p>\n",
    );
    text.push_str(&ratios::table(&cells, &engines, |row| row.rollback_ns));
    text.push_str(
        "<h2>Calls of checkpoints</h2>\n<p>What the program waits for: of <code>fork</code> its call, of \
         <code>cairn-async</code> the call that holds writers off. What is copied afterwards is in the whole cycles, as far \
         as the next one waits for it.</p>\n",
    );
    text.push_str(&ratios::table(&cells, &engines, |row| row.checkpoint_ns));
    text.push_str(&plots(report, &engines));
    text.push_str("<h2>All figures</h2>\n");
    for (region_mib, pattern) in table::kinds(report) {
        text.push_str(&figures(report, region_mib, pattern));
    }
    text.push_str(&absent(report));
    text.push_str(&facts(report));
    text.push_str("</body></html>\n");
    text
}

/// `text` as it can stand in HTML, in an attribute too.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

/// The machine in a line.
fn place(report: &Report) -> String {
    let host = &report.host;
    let inside = if report.linux_guest.is_some() { ", all engines in a Linux guest" } else { "" };
    format!("{}, {} cores, Linux {}, {}{inside}", host.cpu, host.cores, host.kernel, host.platform())
}

/// What makes figures worth less than they look.
fn warnings(report: &Report) -> String {
    let mut text = String::new();
    let guest_optimized = report.linux_guest.as_ref().is_none_or(|guest| guest.optimized);
    if !report.host.optimized || !guest_optimized {
        text.push_str(
            "<p class=\"warning\">Built without optimisation: these are no figures to compare.</p>\n",
        );
    }
    if !report.failed.is_empty() {
        // Writing to a String can't fail, here and below.
        let _ = writeln!(
            text,
            "<p class=\"warning\">{} measurements failed; see below.</p>",
            report.failed.len()
        );
    }
    text
}

/// The plots of each region size and pattern.
fn plots(report: &Report, engines: &[&str]) -> String {
    let mut text =
        "<h2>Plots</h2>\n<p>Both axes are logarithmic. A mark's value shows when the pointer is on it.</p>\n"
            .to_owned();
    for (region_mib, pattern) in table::kinds(report) {
        let rows: Vec<_> = rows_of(report, region_mib, pattern).collect();
        let by_share =
            |of: fn(&Measured) -> u64| lines(&rows, engines, |row| vec![(share(row), float(of(row)))]);
        let (shown, at) = distribution(&rows, engines);
        let plots = [
            svg(
                &format!("{pattern}, {region_mib} MiB: time"),
                DIRTY,
                CYCLE,
                &by_share(|row| row.cycle_ns.p50),
            ),
            svg(
                &format!("{pattern}, {region_mib} MiB: distribution at {at} pages"),
                QUANTILE,
                LATENCY,
                &shown,
            ),
            svg(
                &format!("{pattern}, {region_mib} MiB: CPU time"),
                DIRTY,
                CPU,
                &by_share(|row| row.cpu_ns.p50),
            ),
            svg(
                &format!("{pattern}, {region_mib} MiB: extra memory"),
                DIRTY,
                EXTRA,
                &by_share(|row| row.extra_bytes),
            ),
        ];
        let _ = write!(
            text,
            "<h3>{pattern}, {region_mib} MiB: {}</h3>\n<div class=\"plots\">\n",
            pattern.meaning()
        );
        for plot in plots.into_iter().flatten() {
            let _ = write!(text, "<figure>{plot}</figure>");
        }
        text.push_str("</div>\n");
    }
    text
}

fn rows_of(report: &Report, region_mib: u32, pattern: Pattern) -> impl Iterator<Item = &Measured> {
    report.cells.iter().filter(move |row| (row.region_mib, row.pattern) == (region_mib, pattern))
}

/// A line for each engine that has rows.
fn lines<'e>(
    rows: &[&Measured],
    engines: &[&'e str],
    points: impl Fn(&Measured) -> Vec<(f64, f64)>,
) -> Vec<Series<'e>> {
    let line = |engine: &&'e str| {
        let own = rows.iter().filter(|row| row.engine == *engine);
        let mut points: Vec<_> = own.flat_map(|row| points(row)).collect();
        points.sort_by(|left, right| left.0.total_cmp(&right.0));
        Series { engine, points }
    };
    engines.iter().map(line).filter(|line| !line.points.is_empty()).collect()
}

/// How long cycles took at the number of dirty pages nearest to 1 % of all, and that number.
fn distribution<'e>(rows: &[&Measured], engines: &[&'e str]) -> (Vec<Series<'e>>, u32) {
    let distance = |row: &&&Measured| {
        let pages = u64::from(row.region_mib) * u64::from(PAGES_PER_MIB);
        (u64::from(row.dirty_pages) * 1000).abs_diff(pages * SHOWN_PER_MILLE)
    };
    let at = rows.iter().min_by_key(distance).map_or(0, |row| row.dirty_pages);
    let shown: Vec<_> = rows.iter().copied().filter(|row| row.dirty_pages == at).collect();
    (lines(&shown, engines, quantiles), at)
}

fn quantiles(row: &Measured) -> Vec<(f64, f64)> {
    let mut points = vec![(0.5, float(row.cycle_ns.p50)), (0.99, float(row.cycle_ns.p99))];
    if let Some(spread) = &row.cycle_spread_ns {
        points.extend([
            (0.0, float(spread.min)),
            (0.1, float(spread.p10)),
            (0.25, float(spread.p25)),
            (0.75, float(spread.p75)),
            (0.9, float(spread.p90)),
            (0.999, float(spread.p999)),
        ]);
    }
    points
}

/// The part of a region that an epoch writes.
fn share(row: &Measured) -> f64 {
    f64::from(row.dirty_pages) / (f64::from(row.region_mib) * f64::from(PAGES_PER_MIB))
}

/// A number as near as a plot can show it.
fn float(number: u64) -> f64 {
    number as f64
}

/// The table of a region size and pattern.
fn figures(report: &Report, region_mib: u32, pattern: Pattern) -> String {
    let rows: Vec<_> = rows_of(report, region_mib, pattern).collect();
    let mut text = format!(
        "<details><summary>{pattern}, {region_mib} MiB: {}</summary>\n<div class=\"scroll\"><table><thead><tr>",
        pattern.meaning()
    );
    for title in HEADER.iter().chain(&["cycles"]) {
        let _ = write!(text, "<th>{title}</th>");
    }
    text.push_str("</tr></thead><tbody>\n");
    for row in &rows {
        let base = table::base(&rows, row.dirty_pages);
        text.push_str("<tr>");
        let fields = table::fields(row, format!("{} pages", row.dirty_pages), base);
        for field in fields.iter().chain(&[row.cycles.to_string()]) {
            let _ = write!(text, "<td>{}</td>", escaped(field));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table></div>\n");
    for line in rows.iter().filter_map(|row| table::stood_still(row)) {
        let _ = writeln!(text, "<p>{}</p>", escaped(&line));
    }
    text.push_str("</details>\n");
    text
}

/// What has no figures, and why.
fn absent(report: &Report) -> String {
    let list = |title: &str, absents: &[Absent]| {
        if absents.is_empty() {
            return String::new();
        }
        let items = table::grouped(absents).into_iter().map(|(engine, why, cells)| {
            format!("<li><code>{}</code>: {} ({cells} cells)</li>\n", escaped(engine), escaped(why))
        });
        format!("<h2>{title}</h2>\n<ul>{}</ul>\n", items.collect::<String>())
    };
    list("Failed", &report.failed) + &list("Not measured", &report.unavailable)
}

/// Where and how it was measured.
fn facts(report: &Report) -> String {
    let mut text = "<h2>Where and how</h2>\n<div class=\"scroll\"><table><tbody>\n".to_owned();
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "<tr><th>{name}</th><td class=\"name\">{}</td></tr>", escaped(value));
    };
    machine(&mut row, &report.host);
    if let Some(guest) = &report.linux_guest {
        row("", "All engines ran in a guest:");
        machine(&mut row, guest);
    }
    row("requests without an exit (--poll)", report.poll.name());
    text.push_str("</tbody></table></div>\n");
    let command = report.command.as_deref().unwrap_or("(not recorded)");
    let _ = writeln!(text, "<p>The command:</p>\n<pre>{}</pre>", escaped(command));
    text.push_str(
        "<p>Engines took turns in eight batches, each in a process of its own; every engine's restored bytes were \
         compared with a model before its figures counted. Ratios of one run can be compared, times of different \
         machines can't.</p>\n",
    );
    text
}

fn machine(row: &mut impl FnMut(&str, &str), host: &Host) {
    row("CPU", &host.cpu);
    row("cores", &host.cores.to_string());
    row("memory", &format!("{} MiB", host.memory_mib));
    row("kernel", &host.kernel);
    row("hypervisor", &host.platform());
    row("transparent huge pages", &host.transparent_huge_pages);
    row("time-stamp counter", &format!("{} Hz", host.ticks_per_second));
    row("cairn-bench", &host.version);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Poll, Tracker};
    use crate::report::Median;
    use crate::report::tests::records;
    use crate::stats::{Quantiles, Spread};

    fn measured(engine: &str, dirty_pages: u32, cycle: u64) -> Measured {
        let quantiles = Quantiles { p50: cycle, p99: 2 * cycle };
        Measured {
            pattern: Pattern::Hot,
            region_mib: 64,
            dirty_pages,
            engine: engine.to_owned(),
            cycles: 100,
            rollbacks: 1,
            checkpoint_ns: quantiles,
            cycle_ns: quantiles,
            cycle_spread_ns: Some(Spread { min: cycle / 2, p999: 3 * cycle, ..Spread::default() }),
            rollback_ns: quantiles,
            overhead_ns: Median { p50: -5 },
            cpu_ns: Median { p50: cycle / 2 },
            extra_bytes: 64 << 20,
            stops: None,
            verified: true,
        }
    }

    /// Two cells: one that `cairn` wins and one that it loses, and an engine that nobody knows.
    pub(crate) fn report() -> Report {
        let mut report =
            Report::new(Host { cpu: "<i>CPU</i>".to_owned(), ..Host::look(1) }, Poll::Auto, Tracker::Auto);
        report.cells = vec![
            measured("cairn", 16, 1_000),
            measured("fork", 16, 50_000),
            measured("cairn", 163, 10_000),
            measured("fork", 163, 100_000),
            measured("user-compare", 163, 5_000),
            measured("<b>magic</b>", 163, 100_000),
        ];
        report.command = Some("cairn-bench --json 'a&b'".to_owned());
        report
    }

    #[test]
    fn a_page_needs_nothing_beside_it_and_says_all() {
        let mut report = report();
        let missing = |why: &str| Absent {
            pattern: Pattern::Hot,
            region_mib: 64,
            dirty_pages: 16,
            engine: "uffd-wp".to_owned(),
            why: why.to_owned(),
        };
        report.unavailable = vec![missing("no <kernel> for it")];
        report.failed = vec![missing("it fell")];
        let text = page(&report);
        for outside in ["<script", "http", "url(", "@import", "<link", "<img", "NaN", "inf\""] {
            assert!(!text.contains(outside), "{outside}");
        }
        for part in [
            "in 1 of 2 cells",
            "no &lt;kernel&gt; for it (1 cells)",
            "1 measurements failed",
            "&lt;i&gt;CPU&lt;/i&gt;",
            "cairn-bench --json &#39;a&amp;b&#39;",
            "hot, 64 MiB: time",
            "hot, 64 MiB: distribution at 163 pages",
            "hot, 64 MiB: CPU time",
            "hot, 64 MiB: extra memory",
            "prefers-color-scheme: dark",
        ] {
            assert!(text.contains(part), "{part} is missing");
        }
        assert!(!text.contains("<i>CPU") && !text.contains("<b>magic"));
        assert_eq!(text.matches("<svg").count(), 4);
        for tag in ["table", "svg", "g", "details", "figure", "div", "ul", "tr", "td", "p"] {
            let opened =
                text.matches(&format!("<{tag}>")).count() + text.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, text.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn nonsense_in_a_record_makes_a_page_all_the_same() {
        let mut report = report();
        report.cells[0].region_mib = 0;
        report.cells[1].dirty_pages = u32::MAX;
        report.cells[2].cycle_ns = Quantiles { p50: 0, p99: u64::MAX };
        report.cells[3].extra_bytes = u64::MAX;
        report.command = None;
        let text = page(&report);
        assert!(!text.contains("NaN") && !text.contains("inf\"") && text.contains("(not recorded)"));
        report.cells.clear();
        assert!(page(&report).contains("</html>"));
    }

    #[test]
    fn recorded_runs_make_pages() {
        for path in records() {
            let report = Report::read(&path).unwrap();
            let text = page(&report);
            assert!(text.contains("cells, by the median of whole cycles") && text.contains("<polyline"));
        }
    }
}
