//! A plot as SVG: lines with marks over two logarithmic axes.

use std::fmt::Write;

use crate::contender::Contender;

use crate::html::axis::{Axis, Unit};
use crate::html::escaped;

/// The size of a plot, and of the space around its inner part.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 92.0;
/// Entries of a legend beside each other, and the space for one.
const LEGEND_COLUMNS: usize = 3;
const LEGEND_STEP: (f64, f64) = (138.0, 17.0);
/// Half the size of a mark.
const MARK: f64 = 4.0;

/// An engine's line.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Series<'r> {
    pub(crate) engine: &'r str,
    /// Values, not positions.
    pub(crate) points: Vec<(f64, f64)>,
}

/// What an axis is to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Quantity {
    pub(crate) label: &'static str,
    pub(crate) unit: Unit,
}

/// The plot; nothing if there is no point to show.
pub(crate) fn svg(title: &str, x: Quantity, y: Quantity, series: &[Series<'_>]) -> Option<String> {
    let placed = |point: &&(f64, f64)| x.unit.position(point.0).and(y.unit.position(point.1)).is_some();
    let points = || series.iter().flat_map(|line| &line.points).filter(placed);
    let x = Axis::new(x.label, x.unit, points().map(|point| point.0))?;
    let y = Axis::new(y.label, y.unit, points().map(|point| point.1))?;
    let mut text = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\">\
         <rect class=\"panel\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\
         <text class=\"title\" x=\"{LEFT}\" y=\"18\">{0}</text>",
        escaped(title)
    );
    let frame = Frame { x, y };
    frame.axes(&mut text);
    // The first engine's line is drawn last, over the others'.
    for line in series.iter().rev() {
        frame.line(&mut text, line);
    }
    legend(&mut text, series);
    text.push_str("</svg>\n");
    Some(text)
}

struct Frame {
    x: Axis,
    y: Axis,
}

impl Frame {
    fn across(&self, position: f64) -> f64 {
        LEFT + (position - self.x.min) / (self.x.max - self.x.min) * (WIDTH - LEFT - RIGHT)
    }

    fn down(&self, position: f64) -> f64 {
        HEIGHT - BOTTOM - (position - self.y.min) / (self.y.max - self.y.min) * (HEIGHT - TOP - BOTTOM)
    }

    // Writing to a String can't fail, here and below.
    fn axes(&self, text: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (position, label) in &self.x.ticks {
            let at = self.across(*position);
            let _ = write!(
                text,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                bottom + 14.0
            );
        }
        for (position, label) in &self.y.ticks {
            let at = self.down(*position);
            let _ = write!(
                text,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 5.0,
                at + 3.5
            );
        }
        let (middle, centre) = (f64::midpoint(LEFT, right), f64::midpoint(TOP, bottom));
        let _ = write!(
            text,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\
             <text class=\"label\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text class=\"label\" transform=\"translate(12 {centre}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            bottom + 30.0,
            self.x.label,
            self.y.label
        );
    }

    fn line(&self, text: &mut String, line: &Series<'_>) {
        let places: Vec<_> = (line.points.iter())
            .filter_map(|&(x, y)| {
                let place = (self.across(self.x.unit.position(x)?), self.down(self.y.unit.position(y)?));
                Some((place, x, y))
            })
            .collect();
        let style = style_of(line.engine);
        let _ = write!(text, "<g class=\"{style}\">");
        if 1 < places.len() {
            let path: Vec<_> = places.iter().map(|((x, y), ..)| format!("{x:.1},{y:.1}")).collect();
            let _ = write!(text, "<polyline class=\"line\" points=\"{}\"/>", path.join(" "));
        }
        for ((across, down), x, y) in places {
            let _ = write!(
                text,
                "<path class=\"mark\" d=\"{}\"><title>{}: {} at {}</title></path>",
                mark(line.engine, across, down),
                escaped(line.engine),
                self.y.unit.shown(y),
                self.x.unit.shown(x)
            );
        }
        text.push_str("</g>");
    }
}

fn legend(text: &mut String, series: &[Series<'_>]) {
    let mut column = 0.0;
    let mut row = HEIGHT - BOTTOM + 52.0;
    for (index, line) in series.iter().enumerate() {
        let x = 16.0 + column * LEGEND_STEP.0;
        let _ = write!(
            text,
            "<g class=\"{}\"><line class=\"line\" x1=\"{x}\" x2=\"{}\" y1=\"{row}\" y2=\"{row}\"/>\
             <path class=\"mark\" d=\"{}\"/></g><text x=\"{}\" y=\"{}\">{}</text>",
            style_of(line.engine),
            x + 26.0,
            mark(line.engine, x + 13.0, row),
            x + 32.0,
            row + 3.5,
            escaped(line.engine)
        );
        column += 1.0;
        if (index + 1).is_multiple_of(LEGEND_COLUMNS) {
            (column, row) = (0.0, row + LEGEND_STEP.1);
        }
    }
}

/// The place of an engine among all; one of another version comes after them.
fn place_of(engine: &str) -> usize {
    Contender::ALL.iter().position(|kind| kind.name() == engine).unwrap_or(Contender::ALL.len())
}

/// The class that gives an engine its colour and dashes.
pub(crate) fn style_of(engine: &str) -> String {
    format!("e{}", place_of(engine))
}

/// An engine's mark, so that lines can be told apart without colours.
fn mark(engine: &str, x: f64, y: f64) -> String {
    let (m, big) = (MARK, MARK * 1.3);
    match place_of(engine) {
        // Circle, hourglass, the same lying, square, triangle, diamond, triangle upside down, plus.
        0 => format!("M{:.1} {y:.1}a{m} {m} 0 1 0 {} 0a{m} {m} 0 1 0 -{} 0Z", x - m, 2.0 * m, 2.0 * m),
        1 => format!("M{:.1} {:.1}h{d}l-{d} {d}h{d}Z", x - m, y - m, d = 2.0 * m),
        2 => format!("M{:.1} {:.1}v{d}l{d} -{d}v{d}Z", x - m, y - m, d = 2.0 * m),
        3 => format!("M{:.1} {:.1}h{}v{}h-{}Z", x - m, y - m, 2.0 * m, 2.0 * m, 2.0 * m),
        4 => format!("M{x:.1} {:.1}l{big} {}h-{}Z", y - big, 2.0 * m, 2.0 * big),
        5 => format!("M{x:.1} {:.1}l{big} {big}l-{big} {big}l-{big} -{big}Z", y - big),
        6 => format!("M{x:.1} {:.1}l{big} -{}h-{}Z", y + big, 2.0 * m, 2.0 * big),
        _ => format!("M{:.1} {:.1}h2v3h3v2h-3v3h-2v-3h-3v-2h3Z", x - 1.0, y - m),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: Quantity = Quantity { label: "dirty pages", unit: Unit::Share };
    const Y: Quantity = Quantity { label: "cycle", unit: Unit::Time };

    #[test]
    fn a_plot_has_lines_marks_axes_and_a_legend() {
        let series = [
            Series { engine: "cairn", points: vec![(0.001, 1e4), (0.01, 1e5)] },
            Series { engine: "fork", points: vec![(0.01, 1e6)] },
        ];
        let text = svg("hot <64>", X, Y, &series).unwrap();
        assert_eq!(text.matches("<polyline").count(), 1);
        assert_eq!(text.matches("<title>").count(), 3);
        for part in [
            "hot &lt;64&gt;",
            ">dirty pages<",
            ">cycle<",
            ">1 %<",
            ">100 us<",
            ">fork</text>",
            "cairn: 10.0 us at 0.1 %",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn without_a_point_there_is_no_plot() {
        let nothing = Series { engine: "cairn", points: vec![(0.0, 5.0), (0.1, 0.0)] };
        assert_eq!(svg("idle", X, Y, &[nothing]), None);
        assert_eq!(svg("idle", X, Y, &[]), None);
    }

    #[test]
    fn every_engine_has_a_mark_of_its_own() {
        let names = Contender::ALL.map(Contender::name);
        for (index, name) in names.iter().enumerate() {
            assert!(
                names[..index].iter().all(|other| mark(other, 9.0, 9.0) != mark(name, 9.0, 9.0)),
                "{name}"
            );
            assert_eq!(style_of(name), format!("e{index}"));
        }
        assert_eq!(style_of("magic"), "e8");
    }
}
