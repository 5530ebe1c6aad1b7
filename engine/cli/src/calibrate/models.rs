//! The times of the nodes of whole models on each device, where devices do several of them in one
//! go and values lie wherever the session puts them.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hetero::comm::{NodeProfile, Profile, Spread, host_id};
use hetero::hal::{DeviceId, DeviceInfo, Edge, Node, NodeId, Program, Quality, TraceSink, ValueId};
use hetero::{Calibrated, CostModel, Family, Plan};
use hetero_reference::Standard;
use serde_json::{Value, json};

use super::{repeat, timed, warm_up};
use crate::arguments::{DeviceChoice, DeviceOptions};
use crate::devices;
use crate::failure::{Failure, Result};
use crate::profile::{Recorder, outer_bytes};
use crate::tensors;

/// The number of runs of each kind, at least and at most.
const RUNS: (usize, usize) = (3, 100);

/// A part of a model that a device does as one.
struct Part {
    nodes: Vec<NodeId>,
    /// The seconds of the part in one run, without the time that tracing took.
    seconds: Spread,
}

/// A model that was measured on a device.
pub(super) struct Measured {
    plan: Plan,
    /// The quality that the device claims for each node.
    qualities: Vec<Quality>,
    parts: Vec<Part>,
    /// The seconds of an untraced run.
    whole: f64,
}

/// Runs a model on one device, untraced and traced.
pub(super) fn measure(
    path: &Path,
    device: &DeviceInfo,
    options: &DeviceOptions,
    seconds: Duration,
    profile: &Profile,
) -> Result<Measured> {
    let mut engine = devices::builder(options.unexamined, &[]).build();
    devices::add(
        &mut engine,
        &DeviceOptions { devices: vec![DeviceChoice { id: device.id.clone(), policy: None }], ..options.clone() },
    )?;
    let model = hetero::read_model(path).map_err(hetero::Error::from)?;
    let plan = engine.analyze_model(&model)?;
    let session = engine.session(&plan)?;
    let inputs = tensors::inputs(&session, super::SEED)?;
    warm_up(|| timed(&session, &inputs, None))?;
    let whole =
        Spread::of(&repeat(RUNS, seconds, || timed(&session, &inputs, None))?).map_or(0.0, |spread| spread.median);
    let recorder = Arc::new(Recorder::default());
    let trace: Arc<dyn TraceSink> = recorder.clone();
    repeat(RUNS, seconds, || {
        recorder.begin();
        timed(&session, &inputs, Some(&trace))
    })?;
    let by_name: HashMap<&str, NodeId> = plan.program().node_ids().map(|(id, node)| (&*node.name, id)).collect();
    let mut parts = recorder.parts(|nodes, times| {
        let nodes: Vec<NodeId> = nodes.iter().filter_map(|name| by_name.get(&**name).copied()).collect();
        Spread::of(times).filter(|_| !nodes.is_empty()).map(|seconds| Part { nodes, seconds })
    });
    let told: f64 = parts.iter().map(|part| part.seconds.median).sum();
    if told <= 0.0 {
        return Err(Failure::failed(format!("{} does not tell what its kernels take", device.id)));
    }
    // The time between kernels is spread over all parts.
    let share = (whole - outside(profile, device, &plan)).max(whole / 20.0) / told;
    for part in &mut parts {
        part.seconds.median *= share;
        part.seconds.deviation *= share;
    }
    let mut qualities = vec![Quality::Native; plan.program().nodes().len()];
    for claim in engine.devices().iter().flat_map(|device| device.claims(plan.program())) {
        claim.nodes.iter().for_each(|id| qualities[id.index()] = claim.quality.clone());
    }
    Ok(Measured { plan, qualities, parts, whole })
}

/// Returns the seconds of a run that are of no node: a device takes them to get the inputs from the
/// host and to hand the outputs over.
/// Where that was not measured, they are the seconds of an empty submission.
fn outside(profile: &Profile, device: &DeviceInfo, plan: &Plan) -> f64 {
    let (program, host) = (plan.program(), host_id());
    let bytes = |ids: &[ValueId]| -> u64 {
        ids.iter().filter_map(|id| program.values().get(id.index())).map(|value| value.bytes() as u64).sum()
    };
    let way = |from: &DeviceId, to: &DeviceId, bytes: u64| {
        let edge = profile.edge(from, to, Edge::default());
        Some(edge.latency?.as_secs_f64() + bytes as f64 / edge.bandwidth?)
    };
    let both = way(&host, &device.id, bytes(program.inputs())).zip(way(&device.id, &host, bytes(program.outputs())));
    let submission = profile.device(&device.id).and_then(|own| own.submission).map_or(0.0, |spread| spread.median);
    both.map_or(submission, |(to, from)| to + from)
}

impl Measured {
    /// Returns a line of the profile for each node.
    /// A part's time is that of its node with the most operations; the others come along with it.
    pub(super) fn nodes(&self) -> Vec<NodeProfile> {
        let program = self.plan.program();
        let none = Spread { median: 0.0, deviation: 0.0, count: 1 };
        let signatures = hetero::signatures(program);
        let profile = |((node, quality), signature): ((&Node, &Quality), String)| NodeProfile {
            signature,
            family: Family::of(&node.operator).map_or("", Family::name).to_owned(),
            case: format!("{} {}", node.operator, shapes(program, node)),
            slow: *quality != Quality::Native,
            flops: 0,
            bytes: 0,
            seconds: none,
        };
        let mut nodes: Vec<NodeProfile> =
            program.nodes().iter().zip(&self.qualities).zip(signatures).map(profile).collect();
        for part in &self.parts {
            let flops = |id: &NodeId| hetero::flops(program, &program.nodes()[id.index()], &Standard);
            let Some(heaviest) = part.nodes.iter().max_by_key(|id| flops(id)) else { continue };
            let members: Vec<&Node> = part.nodes.iter().map(|id| &program.nodes()[id.index()]).collect();
            let node = &mut nodes[heaviest.index()];
            node.flops = part.nodes.iter().map(flops).fold(0, u64::saturating_add);
            node.bytes = outer_bytes(program, &members);
            let before = node.seconds.median;
            // A node may be done in several launches.
            node.seconds = Spread { median: before + part.seconds.median, ..part.seconds };
        }
        nodes
    }

    /// Returns how far a profile's predictions are from the measurements.
    pub(super) fn check(&self, model: &Path, device: &DeviceInfo, profile: &Profile) -> Check {
        let program = self.plan.program();
        let signatures: HashSet<String> = hetero::signatures(program).into_iter().collect();
        // The profile of this device alone is kept: the others would add nothing to the fit.
        let mut known = profile.clone();
        known.devices.retain(|own| own.id == device.id);
        let mut without = known.clone();
        for own in &mut without.devices {
            own.nodes.retain(|node| !signatures.contains(&node.signature));
        }
        let outside = outside(profile, device, &self.plan);
        let [known, held_out] = [known, without].map(|profile| {
            let costs = Calibrated::new(Arc::new(profile), Arc::new(Standard));
            let nodes: Vec<(NodeId, &Quality)> = program.node_ids().map(|(id, _)| id).zip(&self.qualities).collect();
            let seconds = costs.all(program, &nodes, device);
            let off = |part: &Part| {
                let predicted: f64 = part.nodes.iter().map(|id| seconds[id.index()]).sum();
                (predicted / part.seconds.median - 1.0).abs()
            };
            let mut errors: Vec<f64> = self.parts.iter().map(off).filter(|error| error.is_finite()).collect();
            errors.sort_by(f64::total_cmp);
            Errors { errors, whole: (seconds.iter().sum::<f64>() + outside) / self.whole - 1.0 }
        });
        Check { model: name(model), device: device.id.to_string(), whole: self.whole, known, held_out }
    }
}

/// Returns the name of a model's file; models that are all called model.onnx go by their folder.
pub(super) fn name(path: &Path) -> String {
    let name = |path: Option<&std::ffi::OsStr>| path.map(|name| name.to_string_lossy().into_owned());
    let stem = name(path.file_stem()).filter(|stem| stem != "model");
    stem.or_else(|| name(path.parent().and_then(Path::file_name))).unwrap_or_default()
}

fn shapes(program: &Program, node: &Node) -> String {
    let of = |id: &hetero::hal::ValueId| program.values().get(id.index()).map(|value| format!("{:?}", value.shape));
    let inputs = node.inputs.iter().flatten().filter_map(of).collect::<Vec<_>>();
    inputs.join(" ")
}

/// The errors of a model's predictions.
struct Errors {
    /// The errors of the parts that the device does as one, as shares of the measured time,
    /// ascending.
    errors: Vec<f64>,
    /// The error of the whole run; it is positive where the prediction was too long.
    whole: f64,
}

impl Errors {
    fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.errors.len() as f64) as usize;
        self.errors.get(rank.min(self.errors.len().saturating_sub(1))).copied().unwrap_or(0.0)
    }

    fn json(&self) -> Value {
        json!({ "median": self.quantile(0.5), "p90": self.quantile(0.9), "whole": self.whole })
    }
}

/// The predictions of a model beside its measurements.
pub(super) struct Check {
    model: String,
    device: String,
    whole: f64,
    /// The errors with all that the profile knows, and below the errors without its measurements of
    /// nodes of the same signatures.
    known: Errors,
    held_out: Errors,
}

impl Check {
    pub(super) fn json(&self) -> Value {
        json!({
            "model": self.model, "device": self.device, "seconds": self.whole, "operators": self.known.errors.len(),
            "known": self.known.json(), "held_out": self.held_out.json(),
        })
    }

    pub(super) fn heading() -> String {
        format!(
            "{:<16} {:<10} {:>10} {:>5}   {:>8} {:>8} {:>8}   {:>8} {:>8} {:>8}",
            "model", "device", "run, ms", "parts", "median", "p90", "whole", "median", "p90", "whole"
        )
    }

    pub(super) fn line(&self) -> String {
        let cells = |errors: &Errors| {
            let percent = |share: f64| format!("{:>7.1}%", share * 100.0);
            format!("{} {} {}", percent(errors.quantile(0.5)), percent(errors.quantile(0.9)), percent(errors.whole))
        };
        format!(
            "{:<16} {:<10} {:>10.3} {:>5}   {}   {}",
            self.model,
            self.device,
            self.whole * 1e3,
            self.known.errors.len(),
            cells(&self.known),
            cells(&self.held_out)
        )
    }

    /// Returns the median over the operators of several models on each device.
    pub(super) fn medians(checks: &[Check]) -> Vec<(String, f64, f64)> {
        let mut devices: Vec<&str> = checks.iter().map(|check| check.device.as_str()).collect();
        devices.sort_unstable();
        devices.dedup();
        let median = |device: &str, of: fn(&Check) -> &Errors| {
            let own = checks.iter().filter(|check| check.device == device);
            let mut errors: Vec<f64> = own.flat_map(|check| of(check).errors.iter().copied()).collect();
            super::median(&mut errors).unwrap_or(0.0)
        };
        let row = |&device: &&str| {
            (device.to_owned(), median(device, |check| &check.known), median(device, |check| &check.held_out))
        };
        devices.iter().map(row).collect()
    }
}
