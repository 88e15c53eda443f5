//! The figures for a terminal.

use std::fmt::Write;

use cairn_bench::table::{bytes, duration};
use comfy_table::{CellAlignment, Table, presets};

use super::Report;
use super::criu::Compared;

/// All tables.
pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    let mut add = |title: &str, table: Table| {
        if !table.is_empty() {
            // Writing to a String can't fail.
            let _ = writeln!(text, "\n{title}\n{table}");
        }
    };
    add("A checkpoint every 100 ms, beside the same work without", slowdown(report));
    add("From the start of cairn restore", restore(report));
    add("Killed and brought back, with a checkpoint every 200 ms", kills(report));
    if let Some(compared) = &report.criu {
        let Compared { mib, percent, criu, .. } = compared;
        add(
            &format!("CRIU ({criu}) beside cairn: {mib} MiB, {percent} % written between two"),
            beside(compared),
        );
    }
    text
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn slowdown(report: &Report) -> Table {
    let mut table = table(&[
        "writes",
        "without",
        "with",
        "slower by",
        "pages",
        "pause p50",
        "longest",
        "gap without",
        "with",
        "until stored",
        "bytes",
        "CPU",
    ]);
    for row in &report.slowdown {
        let cpu = u64::try_from(row.cpu_ns).unwrap_or(0);
        table.add_row([
            format!("{}, {} % of {} MiB", row.writes.name(), row.percent, row.mib),
            duration(row.plain_ns),
            duration(row.checkpointed_ns),
            format!("{:.1} %", row.slowdown_percent),
            row.pages.to_string(),
            duration(row.pause_ns),
            duration(row.longest_pause_ns),
            duration(row.plain_gap_ns),
            duration(row.gap_ns),
            duration(row.until_stored_ns),
            bytes(row.bytes),
            duration(cpu),
        ]);
    }
    table
}

fn restore(report: &Report) -> Table {
    let mut table = table(&["memory", "first line p50", "longest", "all memory there"]);
    for row in &report.restore {
        table.add_row([
            format!("{} MiB", row.mib),
            duration(row.first_line_ns),
            duration(row.longest_first_line_ns),
            duration(row.all_there_ns),
        ]);
    }
    table
}

fn beside(compared: &Compared) -> Table {
    let mut table = table(&["checkpoints", "number", "pause p50", "bytes", "until stored"]);
    for row in &compared.rows {
        table.add_row([
            row.kind.clone(),
            row.checkpoints.to_string(),
            duration(row.pause_ns),
            bytes(row.bytes),
            duration(row.until_stored_ns),
        ]);
    }
    table
}

fn kills(report: &Report) -> Table {
    let mut table = table(&["program", "killed", "natively", "with it all", "result"]);
    for row in &report.kills {
        table.add_row([
            format!("{}, seed {}", row.program, row.seed),
            format!("{} of {} times", row.killed, row.wanted),
            duration(row.native_ns),
            duration(row.took_ns),
            if row.is_same { "the same bytes" } else { "DIFFERENT" }.to_owned(),
        ]);
    }
    table
}
