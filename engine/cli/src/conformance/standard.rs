//! `hetero conformance onnx`: runs the cases that the package `onnx` ships.

use std::sync::atomic::{AtomicUsize, Ordering};

use hetero::{Binding, Model, Tensor};
use hetero_conformance::{ExpectedFailures, StandardReport, run_standard, standard_cases};
use serde_json::json;

use super::verdict;
use crate::arguments::StandardOptions;
use crate::devices;
use crate::failure::{Failure, Result};
use crate::output::{document, say};
use crate::progress::Spinner;

/// The most elements of an input that is bound as a constant because shapes depend on it.
const LARGEST_CONSTANT: usize = 64;

/// The bytes that a list of expected failures may have.
const LARGEST_LIST: u64 = 16 << 20;

/// Runs the standard's own cases, each through an engine of its own with one device.
pub(crate) fn standard(options: &StandardOptions) -> Result<()> {
    let cases =
        standard_cases(&options.folder).map_err(|error| Failure::usage(error.to_string(), "name another folder"))?;
    let expected = match &options.expected {
        Some(path) => {
            let text =
                hetero_files::read_text(path, LARGEST_LIST).map_err(|error| Failure::file("read", path, &error))?;
            ExpectedFailures::parse(&text)
        }
        None => ExpectedFailures::onnx(),
    };
    let expected = expected.map_err(|error| Failure::failed(error.to_string()))?;
    let spinner = Spinner::start("running the standard's cases");
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let folded = AtomicUsize::new(0);
    let execute = |model: &Model, inputs: &[(String, Tensor)]| execute(&options.device, model, inputs, &folded);
    let results = run_standard(&cases, threads, &execute);
    drop(spinner);
    let folded = folded.into_inner();
    let report = StandardReport::weigh(&results, &expected);
    if options.output.json {
        document(json!({
            "device": options.device,
            "cases": report.cases,
            "passed": report.passed,
            "folded": folded,
            "expected": report.expected,
            "wrong": report.wrong,
            "results": results
                .iter()
                .map(|result| (result.name.clone(), json!(format!("{:?}", result.outcome))))
                .collect::<serde_json::Map<_, _>>(),
        }))?;
    } else {
        say!("{}: {} of {} cases pass", options.device, report.passed, report.cases)?;
        if folded > 0 {
            say!("{folded:>6}  of these hold nothing that was left to run once shapes were known")?;
        }
        for (reason, count) in &report.expected {
            say!("{count:>6}  expected: {reason}")?;
        }
        report.wrong.iter().try_for_each(|line| say!("wrong   {line}"))?;
    }
    verdict(report.wrong.len())
}

/// Runs a model on one device.
/// Where shapes depend on inputs, small integer inputs are bound as constants.
fn execute(
    device: &str,
    model: &Model,
    inputs: &[(String, Tensor)],
    folded: &AtomicUsize,
) -> std::result::Result<Vec<Tensor>, String> {
    let text = |error: hetero::Error| error.to_string();
    let mut engine = devices::builder(false, &[]).build();
    let options = hetero::hal::OpenOptions { threads: Some(1), ..hetero::hal::OpenOptions::default() };
    engine.add_device(device, options).map_err(text)?;
    let shape = |(name, tensor): &(String, Tensor)| (name.clone(), tensor.shape().to_vec());
    let mut binding = Binding { shapes: inputs.iter().map(shape).collect(), ..Binding::default() };
    let plan = match engine.analyze(model, &binding) {
        Ok(plan) => plan,
        Err(first) => {
            let small = |tensor: &Tensor| {
                tensor.len() <= LARGEST_CONSTANT
                    && (tensor.dtype().is_integer() || tensor.dtype() == hetero::DType::Bool)
            };
            for (name, tensor) in inputs.iter().filter(|(_, tensor)| small(tensor)) {
                binding.shapes.remove(name);
                binding.constants.insert(name.clone(), tensor.clone());
            }
            match engine.analyze(model, &binding) {
                Ok(plan) => plan,
                // Some shapes depend on a size that is given as a float.
                Err(_) => {
                    binding.shapes.clear();
                    binding.constants = inputs.iter().filter(|(_, t)| t.len() <= LARGEST_CONSTANT).cloned().collect();
                    binding.shapes = inputs.iter().filter(|(_, t)| t.len() > LARGEST_CONSTANT).map(shape).collect();
                    engine.analyze(model, &binding).map_err(|_| text(first))?
                }
            }
        }
    };
    let elsewhere = plan.placement().into_iter().find(|(_, placed)| *placed != device);
    if let Some((node, placed)) = elsewhere {
        return Err(format!("{node} was placed on {placed}"));
    }
    let session = engine.session(&plan).map_err(text)?;
    let wanted = |name: &str| session.inputs().iter().any(|port| *port.name == *name);
    let given: Vec<(&str, Tensor)> =
        inputs.iter().filter(|(name, _)| wanted(name)).map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let outputs = session.run(&given).map_err(text)?;
    if plan.placement().is_empty() {
        folded.fetch_add(1, Ordering::Relaxed);
    }
    Ok(outputs.iter().map(|(_, tensor)| tensor.clone()).collect())
}
