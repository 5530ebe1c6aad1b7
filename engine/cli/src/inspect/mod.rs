//! `hetero inspect`: shows what a model holds.

pub(crate) mod options;

use std::collections::BTreeMap;

use hetero::hal::{Graph, OpenOptions, Program, TensorType, ValueId};
use hetero::{Model, SlowNodes};
use hetero_reference::Standard;
use serde_json::json;

use crate::arguments::InspectOptions;
use crate::devices;
use crate::failure::Result;
use crate::output::{document, say};
use crate::planning::{binding, load};
use crate::report::slow_json;

/// The sums that are known once a model is bound to shapes.
struct Bound {
    flops: u64,
    activation_bytes: u64,
    assumed: Vec<String>,
}

pub(crate) fn inspect(options: &InspectOptions) -> Result<()> {
    let (model, _) = load(&options.model, None)?;
    let graph = &model.graph;
    let mut operators: BTreeMap<String, usize> = BTreeMap::new();
    for node in model.all_nodes() {
        *operators.entry(node.operator.to_string()).or_default() += 1;
    }
    let missing = hetero::check_operators(&model, &Standard).err().map(|missing| missing.0).unwrap_or_default();
    let (parameters, parameter_bytes) = parameters(&model);
    let bound = bound(&model, options);
    let slow = bound.is_ok().then(|| slow(&model, options)).flatten();
    let ports = |ids: &[ValueId]| {
        ids.iter().map(|id| (&*graph.values[id.index()].name, &graph.values[id.index()].ty)).collect::<Vec<_>>()
    };
    // An initialiser that is also an input is a weight to most readers.
    let free: Vec<ValueId> =
        graph.inputs.iter().copied().filter(|id| graph.values[id.index()].constant.is_none()).collect();
    let (inputs, outputs) = (ports(&free), ports(&graph.outputs));
    if options.output.json {
        let described = |ports: &[(&str, &TensorType)]| {
            ports.iter().map(|(name, ty)| json!({ "name": name, "type": ty.to_string() })).collect::<Vec<_>>()
        };
        let problem = bound.as_ref().err();
        let bound = bound.as_ref().ok();
        document(json!({
            "producer": model.producer,
            "ir_version": model.ir_version,
            "opsets": model.opsets.iter().map(|(domain, version)| (domain.to_string(), *version)).collect::<BTreeMap<_, _>>(),
            "inputs": described(&inputs),
            "outputs": described(&outputs),
            "operators": operators,
            "missing": missing.iter().map(|m| json!({ "node": m.node, "operator": m.operator, "opset": m.version })).collect::<Vec<_>>(),
            "parameters": parameters,
            "parameter_bytes": parameter_bytes,
            "flops": bound.map(|b| b.flops),
            "activation_bytes": bound.map(|b| b.activation_bytes),
            "assumed_one": bound.map(|b| b.assumed.clone()),
            "unbound": problem,
            "slow": slow.as_ref().map(slow_json),
        }))?;
        return Ok(());
    }
    say!(
        "{}: {} nodes, IR {}, {}",
        options.model.model.display(),
        graph.nodes.len(),
        model.ir_version,
        model.producer
    )?;
    let show = |title: &str, ports: &[(&str, &TensorType)]| -> Result<()> {
        say!("{title}")?;
        ports.iter().try_for_each(|(name, ty)| say!("    {name}: {ty}"))
    };
    show("inputs", &inputs)?;
    show("outputs", &outputs)?;
    say!("operators")?;
    operators.iter().try_for_each(|(name, count)| say!("    {count:5} {name}"))?;
    if !missing.is_empty() {
        say!("missing operators")?;
        missing.iter().try_for_each(|m| say!("    {} (opset {}) at '{}'", m.operator, m.version, m.node))?;
    }
    say!("parameters: {parameters} ({parameter_bytes} bytes)")?;
    match bound {
        Ok(Bound { flops, activation_bytes, assumed }) => {
            say!("operations: {:.3} GFLOP, a multiply-add counting as two", flops as f64 / 1e9)?;
            say!("activations: {activation_bytes} bytes in all")?;
            if !assumed.is_empty() {
                say!("taken as 1: {}", assumed.join(", "))?;
            }
        }
        Err(reason) => say!("operations: unknown; {reason}")?,
    }
    if let Some(slow) = &slow {
        say!("on {PROCESSOR}, {slow}")?;
    }
    Ok(())
}

/// The device whose slow nodes are told: it takes every operator, and is in nearly every build.
const PROCESSOR: &str = "cpu:0";

/// Returns the nodes that the processor executes slowly, where this build has a driver for it and
/// the model can be planned.
fn slow(model: &Model, options: &InspectOptions) -> Option<SlowNodes> {
    let mut engine = devices::builder(false, &[]).build();
    engine.add_device(PROCESSOR, OpenOptions::default()).ok()?;
    let plan = engine.analyze(model, &binding(&options.model)).ok()?;
    Some(engine.slow_nodes(&plan))
}

/// Returns the number of elements and of bytes of all initialisers and constants that are not
/// computed.
fn parameters(model: &Model) -> (u64, u64) {
    fn count(graph: &Graph, sum: &mut (u64, u64)) {
        for content in graph.values.iter().filter_map(|value| value.constant.as_ref()) {
            sum.0 += content.len() as u64;
            sum.1 += content.bytes().len() as u64;
        }
        for body in graph.nodes.iter().flat_map(|node| node.subgraphs()) {
            count(body, sum);
        }
    }
    let mut sum = (0, 0);
    count(&model.graph, &mut sum);
    sum
}

fn bound(model: &Model, options: &InspectOptions) -> std::result::Result<Bound, String> {
    let bound = hetero::bind(model, &binding(&options.model), &Standard).map_err(|error| error.to_string())?;
    let program: &Program = &bound.program;
    let (mut operations, mut activation_bytes) = (0u64, 0u64);
    for node in program.nodes() {
        operations = operations.saturating_add(hetero::flops(program, node, &Standard));
        let constant = node.inputs.iter().flatten().all(|id| program.values()[id.index()].constant.is_some());
        // A value that folding will turn into a weight is no activation.
        if !constant {
            let bytes = node.outputs.iter().flatten().map(|id| program.values()[id.index()].bytes() as u64);
            activation_bytes = activation_bytes.saturating_add(bytes.sum());
        }
    }
    Ok(Bound { flops: operations, activation_bytes, assumed: bound.assumed })
}
