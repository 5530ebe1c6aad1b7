//! A plan as a page: a chart of which device runs what at which time.

use std::fmt::Write as _;

use hetero::scheduler::{Explanation, Wait};

use super::reasons::{bytes_text, difference_text, is_critical, reason, seconds_text};
use crate::output::shown;

/// The width of the chart, its margins, and the heights of its rows, bars and axis, in pixels.
const WIDTH: f64 = 1160.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 48.0;
const ROW: f64 = 54.0;
const BAR: f64 = 30.0;
const AXIS: f64 = 34.0;
/// The width of a letter in pixels, to decide whether a label fits.
const LETTER: f64 = 7.0;
/// The largest number of rows of a table; further rows are only counted.
const MOST_ROWS: usize = 40;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5d6675; --line: #d7dce4; --page: #ffffff; --band: #f4f6f9;
  --bar: #7fa3cf; --critical: #d9822b; --on-bar: #10151f; --transfer: #8a93a3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --soft: #9aa4b4; --line: #38404d; --page: #14181f; --band: #1b212b;
  --bar: #4f7cb0; --critical: #c9752a; --on-bar: #f2f5fa; --transfer: #76808f; } }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 24px auto; max-width: 1200px; padding: 0 16px; }
h1 { font-size: 20px; margin: 0 0 4px; } h2 { font-size: 15px; margin: 26px 0 6px; }
p { margin: 2px 0; color: var(--soft); } .chart { overflow-x: auto; }
svg { display: block; min-width: 760px; width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .soft { fill: var(--soft); } svg .label { fill: var(--on-bar); }
.band { fill: var(--band); } .grid { stroke: var(--line); } .bar { fill: var(--bar); stroke: var(--page); } .critical { fill: var(--critical); }
.transfer { stroke: var(--transfer); fill: none; } .awaited { stroke: var(--critical); stroke-width: 2; fill: none; }
.table { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 3px 12px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top; } th { color: var(--soft); font-weight: 500; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 2px; vertical-align: -1px; margin: 0 4px 0 12px; }
";

/// Returns text as one line with the characters escaped that HTML reserves.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in shown(text).chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(character),
        }
    }
    out
}

/// Returns the plan as one HTML page that needs no other file: a Gantt chart of devices,
/// partitions and transfers, and tables of reasons and alternatives.
/// `title` is for people, such as the model's name.
pub(crate) fn page(explanation: &Explanation, title: &str) -> String {
    let title = escaped(title);
    let gap = if explanation.bound > 0.0 {
        format!(" (at most {:.1} % above the best possible)", (explanation.makespan / explanation.bound - 1.0) * 100.0)
    } else {
        String::new()
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n\
         <p>{} partitions by {}: {} estimated for a run{gap}, {} between inputs of a stream.</p>\n",
        explanation.partitions.len(),
        escaped(&explanation.strategy),
        seconds_text(explanation.makespan),
        seconds_text(explanation.period),
    );
    if let Some(joules) = explanation.joules {
        let _ = writeln!(page, "<p>{joules:.3} J for a run.</p>");
    }
    page.push_str(
        "<p><span class=\"key\" style=\"background:var(--critical);margin-left:0\"></span>critical path\
         <span class=\"key\" style=\"background:var(--bar)\"></span>other partitions; lines are transfers. Point at a bar for its reason.</p>\n",
    );
    chart(explanation, &mut page);
    device_table(explanation, &mut page);
    partition_table(explanation, &mut page);
    transfer_table(explanation, &mut page);
    let rows = explanation.alternatives.iter().map(|other| {
        let difference = difference_text(other.makespan - explanation.makespan);
        vec![escaped(&other.change), seconds_text(other.makespan), difference]
    });
    table(
        &mut page,
        "Other placements, quickest first",
        &[("change", false), ("run", true), ("difference", true)],
        rows,
    );
    page.push_str("</body></html>\n");
    page
}

fn chart(explanation: &Explanation, page: &mut String) {
    let rows: Vec<&str> = explanation.devices.iter().map(|device| device.device.as_str()).collect();
    let height = ROW * rows.len() as f64 + AXIS;
    let span = if explanation.makespan > 0.0 { explanation.makespan } else { 1.0 };
    let x = |seconds: f64| LEFT + seconds / span * (WIDTH - LEFT - RIGHT);
    let row = |device: &str| rows.iter().position(|other| *other == device).unwrap_or(0) as f64 * ROW;
    let _ = writeln!(
        page,
        "<div class=\"chart\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Gantt chart\">"
    );
    for (index, device) in explanation.devices.iter().enumerate() {
        let top = index as f64 * ROW;
        if index % 2 == 0 {
            let _ = writeln!(page, "<rect class=\"band\" x=\"0\" y=\"{top}\" width=\"{WIDTH}\" height=\"{ROW}\"/>");
        }
        let _ = writeln!(
            page,
            "<text x=\"8\" y=\"{:.1}\">{}</text><text class=\"soft\" x=\"8\" y=\"{:.1}\">{:.0} % busy</text>",
            top + 24.0,
            escaped(&device.device),
            top + 41.0,
            device.share * 100.0
        );
    }
    for tick in 0..=8 {
        let seconds = span * f64::from(tick) / 8.0;
        let at = x(seconds);
        let _ = writeln!(
            page,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{:.1}\"/><text class=\"soft\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            height - AXIS,
            height - 12.0,
            seconds_text(seconds)
        );
    }
    // Transfers are drawn first, so that they lie under the bars.
    for partition in &explanation.partitions {
        if let Wait::Value { from, transfer } = &partition.waits_for {
            let Some(source) = explanation.partitions.get(*from).filter(|source| source.device != partition.device)
            else {
                continue;
            };
            let awaited = is_critical(explanation, partition.partition) && is_critical(explanation, *from);
            let middle = ROW / 2.0;
            let _ = writeln!(
                page,
                "<path class=\"{}\" d=\"M{:.1} {:.1} L{:.1} {:.1}\"><title>{} from partition {from} to {}</title></path>",
                if awaited { "awaited" } else { "transfer" },
                x(source.finish),
                row(&source.device) + middle,
                x(partition.start),
                row(&partition.device) + middle,
                seconds_text(*transfer),
                partition.partition
            );
        }
    }
    for partition in &explanation.partitions {
        let width = (x(partition.finish) - x(partition.start)).max(1.0);
        let label = format!("{}: {} tasks", partition.partition, partition.tasks.2);
        let _ = writeln!(
            page,
            "<g><title>{}</title><rect class=\"{}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"3\"/>{}</g>",
            escaped(&reason(explanation, partition)),
            if is_critical(explanation, partition.partition) { "bar critical" } else { "bar" },
            x(partition.start),
            row(&partition.device) + (ROW - BAR) / 2.0,
            if width > label.len() as f64 * LETTER {
                format!(
                    "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                    x(partition.start) + 6.0,
                    row(&partition.device) + ROW / 2.0 + 4.0
                )
            } else {
                String::new()
            }
        );
    }
    page.push_str("</svg></div>\n");
}

fn device_table(explanation: &Explanation, page: &mut String) {
    let rows = explanation.devices.iter().map(|device| {
        let alone = device.alone.map_or_else(|| device.lacks.clone().unwrap_or_default(), seconds_text);
        let memory = match device.memory_limit {
            Some(limit) => format!("{} of {}", bytes_text(device.memory), bytes_text(limit)),
            None => bytes_text(device.memory),
        };
        vec![
            escaped(&device.device),
            device.tasks.to_string(),
            seconds_text(device.busy),
            format!("{:.1} %", device.share * 100.0),
            memory,
            escaped(&alone),
        ]
    });
    let columns = [
        ("device", false),
        ("tasks", true),
        ("busy", true),
        ("share", true),
        ("memory held", true),
        ("everything on it", false),
    ];
    table(page, "Devices", &columns, rows);
}

fn partition_table(explanation: &Explanation, page: &mut String) {
    let rows = explanation.partitions.iter().map(|partition| vec![escaped(&reason(explanation, partition))]);
    table(page, "Partitions", &[("why it is where and when it is", false)], rows);
}

fn transfer_table(explanation: &Explanation, page: &mut String) {
    let rows = explanation.transfers.iter().map(|transfer| {
        let place = |(task, device): &(String, String)| format!("{} on {}", escaped(task), escaped(device));
        vec![
            place(&transfer.from),
            place(&transfer.to),
            bytes_text(transfer.bytes),
            seconds_text(transfer.seconds),
            if transfer.critical { "yes" } else { "no" }.to_owned(),
        ]
    });
    let columns = [("from", false), ("to", false), ("bytes", true), ("takes", true), ("the run waits for it", false)];
    table(page, "Transfers, longest first", &columns, rows);
}

/// Writes a table with a heading; columns of numbers are aligned to the right.
fn table(page: &mut String, heading: &str, columns: &[(&str, bool)], rows: impl ExactSizeIterator<Item = Vec<String>>) {
    let count = rows.len();
    if count == 0 {
        return;
    }
    let class = |number: bool| if number { " class=\"number\"" } else { "" };
    let _ = write!(page, "<h2>{heading}</h2>\n<div class=\"table\"><table><tr>");
    for (name, number) in columns {
        let _ = write!(page, "<th{}>{name}</th>", class(*number));
    }
    page.push_str("</tr>\n");
    for row in rows.take(MOST_ROWS) {
        page.push_str("<tr>");
        for (cell, (_, number)) in row.iter().zip(columns) {
            let _ = write!(page, "<td{}>{cell}</td>", class(*number));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
    if count > MOST_ROWS {
        let _ = writeln!(page, "<p>and {} more</p>", count - MOST_ROWS);
    }
}
