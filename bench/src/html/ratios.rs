//! The tables that say how much slower or faster each engine is, cell by cell.

use std::fmt::Write;

use crate::contender::Contender;

use crate::cell::Cell;
use crate::html::escaped;
use crate::report::{Measured, Report};
use crate::stats::Quantiles;
use crate::table::{base_row, bytes, duration, ratio};

/// Within so many percent, two engines are as fast as each other: runs repeat no better.
const ALIKE_PERCENT: u128 = 5;

/// A cell with the figures of its engines.
pub(crate) struct Rows<'r> {
    /// What the cell is called.
    pub(crate) name: String,
    pub(crate) rows: Vec<&'r Measured>,
}

/// The cells of a report, in the order in which they come in it, small regions first.
pub(crate) fn cells(report: &Report) -> Vec<Rows<'_>> {
    let mut cells: Vec<(u32, Rows<'_>)> = Vec::new();
    for row in &report.cells {
        let key = |row: &Measured| (row.pattern, row.region_mib, row.dirty_pages);
        match cells.iter_mut().find(|(_, cell)| key(cell.rows[0]) == key(row)) {
            Some((_, cell)) => cell.rows.push(row),
            None => cells.push((row.region_mib, Rows { name: name(row), rows: vec![row] })),
        }
    }
    cells.sort_by_key(|(region_mib, _)| *region_mib);
    cells.into_iter().map(|(_, cell)| cell).collect()
}

fn name(row: &Measured) -> String {
    let Measured { pattern, region_mib, dirty_pages, .. } = *row;
    Cell { pattern, region_mib, dirty_pages }.to_string()
}

/// The engines of a report: those that this program knows in their order, then others.
pub(crate) fn engines(report: &Report) -> Vec<&str> {
    let mut engines: Vec<&str> = Vec::new();
    let known = Contender::ALL.iter().map(|kind| kind.name());
    let measured = || report.cells.iter().map(|row| row.engine.as_str());
    for engine in known.filter(|name| measured().any(|measured| measured == *name)).chain(measured()) {
        if !engines.contains(&engine) {
            engines.push(engine);
        }
    }
    engines
}

/// In how many cells `cairn` is fastest, and where it isn't; nothing if it wasn't measured beside another engine.
pub(crate) fn verdict(cells: &[Rows<'_>]) -> String {
    let (mut compared, mut lost) = (0, Vec::new());
    for cell in cells {
        let Some(cairn) = cell.rows.iter().find(|row| row.engine == Contender::Cairn.name()) else {
            continue;
        };
        // Another way to use the device is no other engine.
        let is_device = |row: &Measured| row.engine.parse::<Contender>().is_ok_and(Contender::needs_device);
        let others = cell.rows.iter().filter(|row| !is_device(row));
        let Some(best) = others.min_by_key(|row| row.cycle_ns.p50) else { continue };
        compared += 1;
        if standing(best.cycle_ns.p50, cairn.cycle_ns.p50) == "worse" {
            let times = ratio(cairn.cycle_ns.p50, best.cycle_ns.p50);
            lost.push(format!("<li>{}: <code>{}</code> by {times}</li>", cell.name, escaped(&best.engine)));
        }
    }
    if compared == 0 {
        return String::new();
    }
    let mut text = format!(
        "<p><code>cairn</code> is the fastest, or within {ALIKE_PERCENT} % of it, in {} of {compared} cells, by the \
         median of whole cycles.</p>\n",
        compared - lost.len()
    );
    if !lost.is_empty() {
        let _ = writeln!(
            text,
            "<details><summary>Where another engine is faster ({} cells)</summary><ul>{}</ul></details>",
            lost.len(),
            lost.concat()
        );
    }
    text
}

/// The table of one quantity: the base engine's time, and the others' as multiples of it.
pub(crate) fn table(cells: &[Rows<'_>], engines: &[&str], of: impl Fn(&Measured) -> Quantiles) -> String {
    let mut text = "<div class=\"scroll\"><table><thead><tr><th>cell</th>".to_owned();
    for engine in engines {
        // Writing to a String can't fail, here and below.
        let _ = write!(text, "<th>{}</th>", escaped(engine));
    }
    text.push_str("</tr></thead><tbody>\n");
    for cell in cells {
        let Some(base) = base_row(&cell.rows) else { continue };
        let _ = write!(text, "<tr><td>{}</td>", cell.name);
        for engine in engines {
            match cell.rows.iter().find(|row| row.engine == *engine) {
                Some(row) => text.push_str(&field(row, base, &of)),
                None => text.push_str("<td class=\"dim\">-</td>"),
            }
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table></div>\n");
    text
}

fn field(row: &Measured, base: &Measured, of: impl Fn(&Measured) -> Quantiles) -> String {
    let (own, its) = (of(row).p50, of(base).p50);
    let beside = format!("{} CPU, {}", duration(row.cpu_ns.p50), bytes(row.extra_bytes));
    if row.engine == base.engine {
        return format!("<td><b>{}</b><small>{beside}</small></td>", duration(own));
    }
    format!(
        "<td class=\"{}\" title=\"{}\">{}<small>{beside}</small></td>",
        standing(own, its),
        duration(own),
        ratio(own, its)
    )
}

/// How the base fares against an engine that takes `own` where the base takes `its`.
fn standing(own: u64, its: u64) -> &'static str {
    let (own, its) = (u128::from(own) * 100, u128::from(its) * 100);
    if its / 100 * (100 + ALIKE_PERCENT) < own {
        "better"
    } else if own / 100 * (100 + ALIKE_PERCENT) < its {
        "worse"
    } else {
        "alike"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::html::tests::report;

    #[test]
    fn ratios_stand_beside_cpu_time_and_bytes() {
        let report = report();
        let cells = cells(&report);
        let engines = engines(&report);
        assert_eq!(engines, ["cairn", "fork", "user-compare", "<b>magic</b>"]);
        let text = table(&cells, &engines, |row| row.cycle_ns);
        assert!(
            text.contains("<td>hot 163 pages of 64 MiB</td><td><b>10.0 us</b><small>5.00 us CPU, 64.0 MiB"),
            "{text}"
        );
        assert!(text.contains("<td class=\"better\" title=\"100 us\">10.0 x<small>"), "{text}");
        assert!(text.contains("<td class=\"worse\" title=\"5.00 us\">0.50 x<small>"), "{text}");
        assert!(text.contains("&lt;b&gt;magic&lt;/b&gt;") && !text.contains("<b>magic"), "{text}");
    }

    #[test]
    fn the_verdict_names_what_is_lost() {
        let report = report();
        let text = verdict(&cells(&report));
        assert!(text.contains("in 1 of 2 cells"), "{text}");
        assert!(
            text.contains("<li>hot 163 pages of 64 MiB: <code>user-compare</code> by 2.00 x</li>"),
            "{text}"
        );
        assert_eq!(verdict(&[]), "");
    }

    #[test]
    fn what_differs_by_little_is_alike() {
        assert_eq!(
            [standing(106, 100), standing(105, 100), standing(100, 105)],
            ["better", "alike", "alike"]
        );
        assert_eq!([standing(100, 106), standing(0, 0), standing(u64::MAX, 1)], ["worse", "alike", "better"]);
    }
}
