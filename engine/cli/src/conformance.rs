//! `hetero conformance`: checks that a device computes correct results.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hetero::{Binding, HeteroEngine, Model, Tensor};
use hetero_conformance::{
    Case, DeviceTest, Expectations, ExpectedFailures, Outcome, StandardReport, model_cases, run_standard, run_suite,
    standard_cases, suite, write_case,
};
use hetero_layers::Validated;
use serde_json::json;

use crate::arguments::{ConformanceOptions, ModelCasesOptions, SaveOptions, StandardOptions};
use crate::devices;
use crate::failure::{Failure, Result};
use crate::progress::Spinner;

/// The most elements of an input that is bound as a constant because shapes depend on it.
const LARGEST_CONSTANT: usize = 64;

/// The number of random networks that run behind the cases of single operators.
const NETWORKS: u64 = 100;

/// Tells whether the caller wants a case of this name.
fn wanted(filter: Option<&str>, name: &str) -> bool {
    filter.is_none_or(|filter| name.contains(filter))
}

fn nothing_wanted() -> Failure {
    Failure::usage("no case has this filter in its name", "leave out --filter to run all")
}

/// Returns the generated cases whose names contain a text.
fn cases(seed: u64, filter: Option<&str>) -> Result<Vec<Case>> {
    let mut cases = suite(seed).map_err(hetero::Error::from)?;
    cases.retain(|case| wanted(filter, &case.name));
    Ok(cases)
}

/// Checks the operators of a model, each kind once.
pub(crate) fn model(options: &ModelCasesOptions) -> Result<()> {
    let path = &options.model.model;
    let model = hetero::read_model(path).map_err(hetero::Error::from)?;
    let binding =
        Binding { shapes: options.model.shapes.iter().cloned().collect(), default_size: Some(1), ..Binding::default() };
    let bound = hetero::bind(&model, &binding, &hetero_reference::Standard).map_err(hetero::Error::from)?;
    let mut engine = HeteroEngine::builder().build();
    engine.add_device(&options.device, hetero::hal::OpenOptions::default())?;
    let [device] = engine.devices() else {
        return Err(Failure::usage("conformance is of one device", "name it with `--device ID`"));
    };
    let spinner = Spinner::start("comparing with the reference");
    let cases = model_cases(&bound.program, options.seed).map_err(hetero::Error::from)?;
    let report = run_suite(&**device, &cases, &Expectations::default());
    drop(spinner);
    report.wrong.iter().for_each(|line| println!("{line}"));
    println!(
        "{}: {} kinds of nodes among {} of {}, {} passed, {} wrong",
        options.device,
        cases.len(),
        bound.program.nodes().len(),
        path.display(),
        report.passed,
        report.wrong.len()
    );
    verdict(report.wrong.len())
}

/// Writes generated cases as files.
pub(crate) fn save(options: &SaveOptions) -> Result<()> {
    let cases = cases(options.seed, options.filter.as_deref())?;
    if cases.is_empty() {
        return Err(nothing_wanted());
    }
    for (number, case) in cases.iter().enumerate() {
        let written = write_case(&options.folder.join(number.to_string()), case);
        written.map_err(|error| Failure::failed(format!("{}: {error}", case.name)))?;
    }
    let names: String = cases.iter().map(|case| format!("{}\n", case.name)).collect();
    let path = options.folder.join("names.txt");
    std::fs::write(&path, names).map_err(|error| Failure::file("write", &path, &error))?;
    println!("{} cases of seed {} are in {}", cases.len(), options.seed, options.folder.display());
    Ok(())
}

/// The kinds of tests, in the order in which they run.
const KINDS: [fn(&DeviceTest) -> bool; 4] = [
    |test| matches!(test, DeviceTest::Operator(_)),
    |test| matches!(test, DeviceTest::Network { .. }),
    |test| matches!(test, DeviceTest::Contract(_)),
    |test| matches!(test, DeviceTest::Weights(_)),
];

/// Returns each N-th test of each kind that the caller wants.
fn chosen(options: &ConformanceOptions) -> Result<[Vec<DeviceTest>; 4]> {
    let all = DeviceTest::all(options.seed, NETWORKS).map_err(hetero::Error::from)?;
    let wanted = |test: &&DeviceTest| wanted(options.filter.as_deref(), &test.name());
    let every = options.every as usize;
    Ok(KINDS.map(|kind| all.iter().filter(|test| kind(test)).filter(wanted).step_by(every).cloned().collect()))
}

/// Returns an engine, and with `validate` a layer over all its drivers that checks their callers.
fn engine(validate: bool) -> (HeteroEngine, Option<Validated>) {
    let mut builder = HeteroEngine::builder();
    let mut layer: Option<Validated> = None;
    if validate {
        for driver in hetero::builtin_drivers() {
            let beside = match &layer {
                Some(layer) => layer.beside(driver),
                None => Validated::over(driver),
            };
            builder = builder.driver(Arc::new(beside.clone()));
            layer = Some(beside);
        }
    }
    (builder.build(), layer)
}

/// Checks generated cases on one device, each compared with the oracle.
pub(crate) fn generated(options: &ConformanceOptions) -> Result<()> {
    let (mut engine, layer) = engine(options.validate);
    devices::add(&mut engine, &options.devices)?;
    let [device] = engine.devices() else {
        return Err(Failure::usage("conformance is of one device", "name it with `--device ID`"));
    };
    let chosen = chosen(options)?;
    let [_, networks, rules, weights] = &chosen;
    if chosen.iter().all(Vec::is_empty) {
        return Err(nothing_wanted());
    }
    let spinner = Spinner::start("comparing with the reference");
    let expectations = Expectations::default();
    let mut report = hetero_conformance::SuiteReport::default();
    let mut records = Vec::new();
    for test in chosen.iter().flatten() {
        let mut outcome = test.run(&**device, &[]);
        // What no call could return is found after the test that it belongs to.
        if let Some(breach) = layer.as_ref().and_then(|layer| layer.take_breaches().into_iter().next()) {
            outcome = Outcome::Failed(format!("the suite breaks a rule for callers: {breach}"));
        }
        report.weigh(&expectations, &test.name(), &outcome);
        records.push((test.name(), outcome));
    }
    drop(spinner);
    if let Some(path) = &options.junit {
        let text = junit(&device.info().id.to_string(), &records);
        std::fs::write(path, text).map_err(|error| Failure::file("write", path, &error))?;
    }
    if options.output.json {
        println!(
            "{}",
            json!({
                "device": device.info().id.to_string(),
                "emulated": device.info().emulated,
                "seed": options.seed,
                "cases": records.len(),
                "networks": networks.len(),
                "contract": rules.len(),
                "weights": weights.len(),
                "passed": report.passed,
                "unsupported": report.unsupported,
                "reasons": report.reasons,
                "expected_failures": report.failing,
                "wrong": report.wrong,
            })
        );
    } else {
        report.reasons.iter().for_each(|(reason, count)| println!("{count:>6}  unsupported: {reason}"));
        report.wrong.iter().for_each(|line| println!("wrong   {line}"));
        println!(
            "{}{}: {} cases of seed {}, {} networks, {} rules of the contract and {} of weights among them, {} passed, {} unsupported, {} expected failures, {} wrong",
            device.info().id,
            if device.info().emulated { " (emulated)" } else { "" },
            records.len(),
            options.seed,
            networks.len(),
            rules.len(),
            weights.len(),
            report.passed,
            report.unsupported,
            report.failing,
            report.wrong.len()
        );
    }
    verdict(report.wrong.len())
}

fn verdict(wrong: usize) -> Result<()> {
    if wrong == 0 { Ok(()) } else { Err(Failure::failed(format!("{wrong} cases are wrong"))) }
}

/// Returns the results in the form that build servers read.
fn junit(device: &str, records: &[(String, Outcome)]) -> String {
    let escaped = |text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        text.chars().filter(|c| !c.is_control()).collect::<String>()
    };
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Unclaimed(None));
    let failures = records.iter().filter(|(_, outcome)| failed(outcome)).count();
    let skipped = records.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Unclaimed(Some(_)))).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"conformance {device}\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\">\n",
        records.len()
    );
    for (name, outcome) in records {
        let class = name.split(' ').next().unwrap_or_default();
        text.push_str(&format!("  <testcase classname=\"{}\" name=\"{}\"", escaped(class), escaped(name)));
        text.push_str(&match outcome {
            Outcome::Passed(_) => "/>\n".to_owned(),
            Outcome::Unclaimed(Some(reason)) => format!("><skipped message=\"{}\"/></testcase>\n", escaped(reason)),
            Outcome::Unclaimed(None) => {
                "><failure message=\"is not claimed, and nobody says why\"/></testcase>\n".to_owned()
            }
            Outcome::Failed(reason) => format!("><failure message=\"{}\"/></testcase>\n", escaped(reason)),
        });
    }
    text.push_str("</testsuite>\n");
    text
}

/// Runs the standard's own cases, each through an engine of its own with one device.
pub(crate) fn standard(options: &StandardOptions) -> Result<()> {
    let cases =
        standard_cases(&options.folder).map_err(|error| Failure::usage(error.to_string(), "name another folder"))?;
    let expected = match &options.expected {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
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
        println!(
            "{}",
            json!({
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
            })
        );
    } else {
        println!("{}: {} of {} cases pass", options.device, report.passed, report.cases);
        if folded > 0 {
            println!("{folded:>6}  of these hold nothing that was left to run once shapes were known");
        }
        for (reason, count) in &report.expected {
            println!("{count:>6}  expected: {reason}");
        }
        report.wrong.iter().for_each(|line| println!("wrong   {line}"));
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
    let mut engine = HeteroEngine::builder().build();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_escape_what_xml_forbids() {
        let records = [
            ("Add <1>".into(), Outcome::Failed("a & \"b\"".into())),
            ("Mul".into(), Outcome::Passed(0.0)),
            ("Div".into(), Outcome::Unclaimed(Some("no <divider>".into()))),
            ("Sub".into(), Outcome::Unclaimed(None)),
        ];
        let text = junit("cpu:0", &records);
        assert!(text.contains("tests=\"4\" failures=\"2\" skipped=\"1\""));
        assert!(text.contains("name=\"Mul\"/>"));
        assert!(text.contains("name=\"Div\"><skipped message=\"no &lt;divider&gt;\"/>"));
        assert!(text.contains("name=\"Sub\"><failure message="));
        assert!(text.contains("name=\"Add &lt;1&gt;\"><failure message=\"a &amp; &quot;b&quot;\"/>"));
    }
}
