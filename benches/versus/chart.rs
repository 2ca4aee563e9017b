//! The chart: for each place, bars of ratios to the kernel on a logarithmic scale, whiskers from the
//! least to the greatest of all rounds. A bar above the line is more than the kernel's, one below less.

use std::fmt::Write as _;

use crate::contestants::Contestant;
use crate::measure::Better;
use crate::report::{Results, Row};
use crate::stats::Spread;

const WIDTH: f64 = 1280.0;
const TOP: f64 = 96.0;
const PANEL: f64 = 220.0;
const GAP: f64 = 96.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;

/// Ratios beyond these are cut off: two to the power of minus five, of four.
const LEAST: f64 = -5.0;
const MOST: f64 = 4.0;

const fn colour(one: Contestant) -> &'static str {
    match one {
        Contestant::Tapestry => "#1f6fb4",
        Contestant::Other => "#7a4fb0",
        Contestant::Kernel => "#666666",
        Contestant::Ovs => "#d9822b",
        Contestant::Veth => "#b8b8b8",
        Contestant::ToKernel => "#3fa66b",
        Contestant::FromKernel => "#9ccf86",
    }
}

/// The whole chart as an SVG document.
pub(crate) fn draw(results: &Results) -> String {
    let mut panels = Vec::new();
    for place in results.places() {
        for better in [Better::Higher, Better::Lower] {
            let rows = results.rows(*place);
            let rows: Vec<Row> = rows.into_iter().filter(|row| is_shown(row, better)).collect();
            if !rows.is_empty() {
                let word = if better == Better::Higher { "more" } else { "less" };
                panels.push((format!("{}: {word} is better", place.title()), rows));
            }
        }
    }
    let height = TOP + panels.len() as f64 * (PANEL + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    text(&mut svg, (LEFT, 26.0), "font-size=\"18\"", "Ratio to the kernel's bridge and VXLAN");
    text(&mut svg, (LEFT, 46.0), "fill=\"#555\"", &results.subtitle());
    legend(&mut svg, results);
    for (number, (title, rows)) in panels.iter().enumerate() {
        let top = TOP + number as f64 * (PANEL + GAP);
        text(&mut svg, (LEFT, top), "font-size=\"14\" font-weight=\"bold\"", title);
        panel(&mut svg, results, rows, top + 10.0);
    }
    svg.push_str("</svg>\n");
    svg
}

fn is_shown(row: &Row, better: Better) -> bool {
    row.figure.better == better && row.figure.metric != "p99.9"
}

fn legend(svg: &mut String, results: &Results) {
    let mut x = LEFT;
    for one in shown(results) {
        let fill = colour(one);
        // Writing to a String cannot fail.
        let _ =
            writeln!(svg, "<rect x=\"{x}\" y=\"58\" width=\"12\" height=\"12\" fill=\"{fill}\"/>");
        text(svg, (x + 17.0, 68.0), "", one.name());
        x += 45.0 + one.name().len() as f64 * 7.0;
    }
}

fn shown(results: &Results) -> impl Iterator<Item = Contestant> {
    results.contestants().iter().copied().filter(|one| *one != Contestant::Kernel)
}

/// Where a ratio lies, from the panel's top.
fn height_of(ratio: f64) -> f64 {
    let power = ratio.max(f64::MIN_POSITIVE).log2().clamp(LEAST, MOST);
    PANEL * (MOST - power) / (MOST - LEAST)
}

fn panel(svg: &mut String, results: &Results, rows: &[Row], top: f64) {
    for power in LEAST as i32..=MOST as i32 {
        let y = top + height_of(f64::from(power).exp2());
        let (stroke, label) = match power {
            0 => ("#444", "1".to_owned()),
            1.. => ("#e4e4e4", format!("{}", 1 << power)),
            _ => ("#e4e4e4", format!("1/{}", 1 << -power)),
        };
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{stroke}\"/>",
            WIDTH - RIGHT
        );
        text(svg, (LEFT - 6.0, y + 4.0), "text-anchor=\"end\" fill=\"#555\"", &label);
    }
    let group = (WIDTH - LEFT - RIGHT) / rows.len() as f64;
    for (number, row) in rows.iter().enumerate() {
        let left = LEFT + number as f64 * group;
        let bars: Vec<(Contestant, Spread)> = shown(results)
            .filter_map(|one| Some((one, results.ratio(*row, one, Contestant::Kernel)?)))
            .collect();
        let width = (group * 0.84 / bars.len().max(1) as f64).min(22.0);
        let mut x = left + (group - width * bars.len() as f64) / 2.0;
        for (one, spread) in bars {
            bar(svg, (x, top), width, one, spread);
            x += width;
        }
        let at = (left + group / 2.0, top + PANEL + 16.0);
        text(svg, at, "text-anchor=\"middle\" font-size=\"10\"", &row.measure.name());
        let below = (at.0, at.1 + 13.0);
        let style = "text-anchor=\"middle\" font-size=\"10\" fill=\"#777\"";
        text(svg, below, style, row.figure.metric);
    }
}

fn bar(svg: &mut String, (x, top): (f64, f64), width: f64, one: Contestant, spread: Spread) {
    let (one_line, end) = (top + height_of(1.0), top + height_of(spread.median));
    let (y, height) = (end.min(one_line), (end - one_line).abs().max(0.5));
    let fill = colour(one);
    let _ = writeln!(
        svg,
        "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{fill}\">\
         <title>{} {:.2} ({:.2} to {:.2})</title></rect>",
        x + 0.5,
        width - 1.0,
        one.name(),
        spread.median,
        spread.min,
        spread.max
    );
    let middle = x + width / 2.0;
    let (high, low) = (top + height_of(spread.max), top + height_of(spread.min));
    let _ = writeln!(
        svg,
        "<path d=\"M{middle:.1} {high:.1}V{low:.1}M{0:.1} {high:.1}h4M{0:.1} {low:.1}h4\" \
         stroke=\"#222\" fill=\"none\"/>",
        middle - 2.0
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{words}</text>");
}
