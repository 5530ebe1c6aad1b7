//! What `calibrate` prints of a profile.

use hetero::Family;
use hetero::comm::{Absent, DeviceProfile, LinkProfile, OperatorProfile};

use crate::failure::Result;
use crate::output::say;

pub(super) fn print_device(device: &DeviceProfile) -> Result<()> {
    let emulated = if device.emulated { ", emulated: its times say nothing about a chip" } else { "" };
    let submission = device.submission.map_or_else(
        || "unknown".to_owned(),
        |spread| format!("{:.1} ± {:.1} µs", spread.median * 1e6, spread.deviation * 1e6),
    );
    say!("{} ({}, driver {}{emulated})", device.id, device.name, device.driver_version)?;
    say!("    {:<20} {submission}", "submission")?;
    for family in Family::ALL {
        let of = |name: &str| name == family.name();
        let runs: Vec<&OperatorProfile> = device.operators.iter().filter(|run| of(&run.family)).collect();
        let missing: Vec<&Absent> = device.absent.iter().filter(|absent| of(&absent.family)).collect();
        let best = |work: fn(&OperatorProfile) -> u64| {
            runs.iter().map(|run| work(run) as f64 / run.seconds.median.max(1e-9) / 1e9).fold(0.0, f64::max)
        };
        let mut line = format!("    {:<20} {} cases", family.name(), runs.len());
        if !runs.is_empty() {
            line += &format!(", up to {:.1} GFLOP/s and {:.1} GB/s", best(|run| run.flops), best(|run| run.bytes));
        }
        if let Some(first) = missing.first() {
            line += &format!("; {} absent: {}", missing.len(), first.reason);
        }
        say!("{line}")?;
    }
    Ok(())
}

pub(super) fn link_line(link: &LinkProfile) -> String {
    let mut line = format!("{} -> {}  {:<10}", link.from, link.to, link.transport);
    let ends = [link.samples.first(), link.samples.get(1..).and_then(<[_]>::last)];
    for sample in ends.into_iter().flatten() {
        let (median, deviation) = (sample.seconds.median * 1e6, sample.seconds.deviation * 1e6);
        line += &format!("  {} KiB: {median:.1} ± {deviation:.1} µs", sample.bytes >> 10);
    }
    if let Some(reason) = &link.stopped {
        line += &format!("  ({reason})");
    }
    line
}
