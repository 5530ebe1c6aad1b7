//! The conformance suite: it compares an operator on a device with the same operator on the oracle.
//!
//! A [`Case`] is one operator with inputs.
//! [`check`] compiles it for a device, runs it through the device's own queue and compares the
//! outputs with those of `hetero-reference` by normalised mean squared error.
//! [`suite`] generates cases.
//! [`run_suite`] runs them all on a device, and weighs the outcome against what the backend says
//! that it does not support.
//! [`check_network`] compares random networks in the same way.
//! [`DeviceTest`] is any test of the suite with its name, and [`DeviceTests`] makes a test binary
//! of them, in which `cargo test` lists, filters and runs each by its name.
//! [`run_weight_cases`] holds a device to the rules about weights: they are shared, evicted,
//! restored, kept by runs under way, and freed with the last owner.
//!
//! ```
//! use hetero_conformance::{Expectations, run_suite, suite};
//! use hetero_hal::{BindingTable, Driver, OpenOptions};
//!
//! let device = hetero_cpu::CpuDriver.open(0, &OpenOptions::default())?;
//! let cases: Vec<_> = suite(7)?.into_iter().filter(|case| case.name.starts_with("Relu")).collect();
//! let report = run_suite(&*device, &cases, &Expectations::default());
//! assert!(report.passed > 0 && report.wrong.is_empty());
//! # Ok::<(), hetero_hal::Error>(())
//! ```

#![forbid(unsafe_code)]

mod cases;
mod contract;
mod contributed;
mod export;
mod harness;
mod kinds;
mod limits;
mod ml;
mod model;
mod networks;
mod places;
mod programs;
mod sequences;
mod standard;
mod tests;
mod types;
mod vision;
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_examine::Prepared;
use hetero_hal::{
    Device, Executable, Graph, Node, NodeId, Operator, OperatorSet, Program, Result, Tensor, TensorType, Value, ValueId,
};

pub use cases::suite;
pub use contract::{ContractCase, check_contract, contract_cases, run_contract_cases};
pub use export::write_case;
pub use harness::DeviceTests;
pub use hetero_examine::{difference, threshold};
pub use kinds::{check_limits, kinds_differ};
pub use limits::limits;
pub use model::model_cases;
pub use networks::{Network, Random, check_network, network};
pub use programs::{ProgramCase, check_program, program_cases};
pub use standard::{
    ExpectedFailures, RunModel, StandardOutcome, StandardReport, StandardResult, close, run_standard, standard_cases,
};
pub use tests::DeviceTest;
pub use weights::{WeightCase, check_weights, run_weight_cases, weight_cases};

/// One operator with inputs for it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The name: the operator, then what is special about the case.
    pub name: String,
    /// The operator.
    pub operator: Operator,
    /// The inputs; `None` for one that is left out.
    pub inputs: Vec<Option<Tensor>>,
    /// The positions of the inputs that are constants of the program, as weights, shapes and axes
    /// are.
    pub constants: Vec<usize>,
    /// The number of outputs.
    pub outputs: usize,
}

/// A backend's statements about cases, by patterns; a pattern is the start of a name, or the whole
/// name.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    /// The cases that the backend will not do: pattern and reason.
    /// The device must not claim them.
    pub unsupported: Vec<(&'static str, &'static str)>,
    /// The cases that fail for now: pattern and reason.
    /// It counts as wrong where such a case passes.
    pub failing: Vec<(&'static str, &'static str)>,
}

/// The outcome of a case.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The outputs agree; the number is the largest normalised mean squared error.
    Passed(f64),
    /// The device does not claim the node; the text is the reason, where the device tells one.
    Unclaimed(Option<String>),
    /// The device claimed the node, and failed or gave another result.
    Failed(String),
}

/// The outcome of a suite.
#[derive(Clone, Debug, Default)]
pub struct SuiteReport {
    /// The number of cases that passed.
    pub passed: usize,
    /// The number of cases that are unsupported, as expected or for a reason that the device gives.
    pub unsupported: usize,
    /// The reasons, each behind its operator, with the number of cases.
    pub reasons: BTreeMap<String, usize>,
    /// The number of cases that failed, as expected.
    pub failing: usize,
    /// All other cases, with the reason.
    pub wrong: Vec<String>,
}

/// The longest time that one case may take on a device.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `is_so` holds, because a driver may let go of its objects a little later.
fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Runs every case, and weighs the outcome.
#[must_use]
pub fn run_suite(device: &dyn Device, cases: &[Case], expectations: &Expectations) -> SuiteReport {
    let mut report = SuiteReport::default();
    for case in cases {
        report.weigh(expectations, &case.name, &check(device, case));
    }
    report
}

impl SuiteReport {
    /// Weighs one case's outcome against the expectations.
    pub fn weigh(&mut self, expectations: &Expectations, name: &str, outcome: &Outcome) {
        let listed = |list: &[(&'static str, &'static str)]| {
            list.iter().find(|(start, _)| name.starts_with(start)).map(|(_, reason)| (*reason).to_owned())
        };
        let (unsupported, failing) = (listed(&expectations.unsupported), listed(&expectations.failing));
        match outcome {
            Outcome::Passed(_) if unsupported.is_some() || failing.is_some() => {
                self.wrong.push(format!("{name}: passes, but is listed"));
            }
            Outcome::Passed(_) => self.passed += 1,
            Outcome::Unclaimed(given) => match unsupported.or_else(|| given.clone()) {
                Some(reason) => {
                    self.unsupported += 1;
                    let operator = name.split(' ').next().unwrap_or_default();
                    *self.reasons.entry(format!("{operator}: {reason}")).or_default() += 1;
                }
                None => self.wrong.push(format!("{name}: is not claimed, and nobody says why")),
            },
            Outcome::Failed(_) if failing.is_some() => self.failing += 1,
            Outcome::Failed(reason) => self.wrong.push(format!("{name}: {reason}")),
        }
    }
}

/// Returns what a device and the oracle make of a case, or the outcome where there is nothing to
/// compare.
fn results(device: &dyn Device, case: &Case) -> std::result::Result<[Vec<Tensor>; 2], Outcome> {
    let failed = |what: &str, error: hetero_hal::Error| Outcome::Failed(format!("{what}{error}"));
    let expected = hetero_reference::evaluate(&case.operator, &case.inputs, case.outputs)
        .map_err(|error| failed("the oracle: ", error))?;
    let (program, inputs) = program(case).map_err(|error| failed("the program: ", error))?;
    if let Some(bare) = bare(device, &program) {
        return Err(Outcome::Unclaimed(device.refusal(&program, bare)));
    }
    let actual = run_program(device, &program, &inputs).map_err(|error| failed("", error))?;
    // The oracle may compute more outputs than the case names.
    if actual.len() != case.outputs || expected.len() < case.outputs {
        return Err(Outcome::Failed(format!("{} outputs, {} are expected", actual.len(), case.outputs)));
    }
    Ok([actual, expected])
}

/// Returns the first node that a device does not claim.
fn bare(device: &dyn Device, program: &Program) -> Option<NodeId> {
    let mut claimed = vec![false; program.nodes().len()];
    for id in device.claims(program).iter().flat_map(|claim| &claim.nodes) {
        claimed[id.index()] = true;
    }
    claimed.iter().position(|claimed| !claimed).map(|bare| NodeId(bare as u32))
}

/// Returns what a device makes of a case where only one of its outputs is wanted; `None` where it
/// leaves that to others.
fn alone(device: &dyn Device, case: &Case, index: usize) -> Result<Option<Tensor>> {
    let (program, inputs) = program(case)?;
    let extents = program.extents().to_vec();
    let mut graph = program.into_graph();
    graph.outputs = vec![graph.outputs[index]];
    graph.trim(&[true]);
    let program = Program::new(graph, extents)?;
    if bare(device, &program).is_some() {
        return Ok(None);
    }
    Ok(run_program(device, &program, &inputs)?.pop())
}

/// Runs one case on a device and on the oracle, and each of several outputs alone too.
#[must_use]
pub fn check(device: &dyn Device, case: &Case) -> Outcome {
    let [mut actual, mut expected] = match results(device, case) {
        Ok(results) => results,
        Err(outcome) => return outcome,
    };
    // The oracle may compute more outputs than the case names.
    expected.truncate(case.outputs);
    if case.outputs > 1 {
        for index in 0..case.outputs {
            match alone(device, case, index) {
                Ok(Some(single)) => {
                    actual.push(single);
                    expected.push(expected[index].clone());
                }
                Ok(None) => {}
                Err(error) => return Outcome::Failed(format!("output {index} alone: {error}")),
            }
        }
    }
    let mut largest = 0.0f64;
    for (index, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
        match difference(actual, expected) {
            Ok(error) if error <= threshold(expected.dtype()) => largest = largest.max(error),
            Ok(error) => {
                let alone = if index < case.outputs { "" } else { ", one of those made alone," };
                return Outcome::Failed(format!(
                    "output {index}{alone} has a normalised mean squared error of {error:.2e}, allowed is {:.0e}",
                    threshold(expected.dtype())
                ));
            }
            Err(reason) => return Outcome::Failed(format!("output {index}: {reason}")),
        }
    }
    Outcome::Passed(largest)
}

/// Returns the case as a program for devices, and the tensors for its inputs.
/// It has one node, or those of the body of an operator that has one.
///
/// # Errors
/// An error where inference turns the case down.
pub fn program(case: &Case) -> Result<(Program, Vec<Tensor>)> {
    let (mut graph, inputs) = graph(case);
    // Other nodes stay as they are: a case of `If` is one although its condition is constant.
    if hetero_reference::Standard.find(&case.operator).is_none_or(|definition| definition.expand.is_none()) {
        return single(case);
    }
    let allowance = hetero_hal::Allowance::default();
    let inferred = hetero_onnx::infer_expanding(&mut graph, &hetero_reference::Standard, &allowance)?;
    Ok((Program::new(graph, inferred.extents)?, inputs))
}

/// Returns the case as a program of one node, whatever its operator, and tensors for its inputs.
fn single(case: &Case) -> Result<(Program, Vec<Tensor>)> {
    let (mut graph, inputs) = graph(case);
    let inferred = hetero_onnx::infer(&mut graph, &hetero_reference::Standard, &hetero_hal::Allowance::default())?;
    Ok((Program::new(graph, inferred.extents)?, inputs))
}

/// Returns the case as a graph of one node, without types, and the tensors for its inputs.
fn graph(case: &Case) -> (Graph, Vec<Tensor>) {
    let mut graph = Graph { name: case.name.as_str().into(), ..Graph::default() };
    let mut bound = Vec::new();
    let mut inputs = Vec::new();
    for (index, tensor) in case.inputs.iter().enumerate() {
        let Some(tensor) = tensor else {
            inputs.push(None);
            continue;
        };
        let id = ValueId(graph.values.len() as u32);
        let mut value = Value {
            name: format!("input_{index}").into(),
            ty: TensorType::exact(tensor.dtype(), tensor.shape()),
            constant: None,
        };
        if case.constants.contains(&index) {
            value.constant = Some(tensor.clone());
        } else {
            graph.inputs.push(id);
            bound.push(tensor.clone());
        }
        graph.values.push(value);
        inputs.push(Some(id));
    }
    let mut outputs = Vec::new();
    for index in 0..case.outputs {
        let id = ValueId(graph.values.len() as u32);
        graph.values.push(Value { name: format!("output_{index}").into(), ..Value::default() });
        graph.outputs.push(id);
        outputs.push(Some(id));
    }
    graph.nodes.push(Node { name: "node".into(), operator: case.operator.clone(), inputs, outputs });
    (graph, bound)
}

/// Runs a program on a device: compiles it, binds buffers, submits it to a queue of its own, waits,
/// and reads the outputs.
///
/// # Errors
/// Any error that the device reports, or `Timeout`.
pub fn run_program(device: &dyn Device, program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    hetero_examine::run_program(device, program, inputs, Instant::now() + DEADLINE)
}

/// Runs an executable of a program, as [`run_program`] does.
fn run_executable(
    device: &dyn Device,
    executable: &Arc<dyn Executable>,
    program: &Program,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>> {
    hetero_examine::run_executable(device, executable, program, inputs, Instant::now() + DEADLINE)
}

/// Allocates memory for a run, and writes the inputs.
fn prepare(
    device: &dyn Device,
    executable: &Arc<dyn Executable>,
    program: &Program,
    inputs: &[Tensor],
) -> Result<Prepared> {
    Prepared::new(device, executable, program, inputs, Instant::now() + DEADLINE)
}
