//! `hetero conformance`: checks that a device computes correct results.

mod job;
mod junit;
pub(crate) mod operators;
pub(crate) mod options;
pub(crate) mod standard;

use hetero::Binding;
use hetero_conformance::{Expectations, Outcome, model_cases, run_suite, write_case};
use serde_json::json;

use job::{Job, cases, device, nothing_wanted};
use junit::junit;

use crate::arguments::{ConformanceOptions, ModelCasesOptions, SaveOptions};
use crate::devices;
use crate::failure::{Failure, Result};
use crate::output::{document, lines, say};
use crate::planning::load;
use crate::progress::Spinner;

/// Checks the operators of a model, each kind once.
pub(crate) fn model(options: &ModelCasesOptions) -> Result<()> {
    let path = &options.model.model;
    let (model, _) = load(&options.model, None)?;
    let binding =
        Binding { shapes: options.model.shapes.iter().cloned().collect(), default_size: Some(1), ..Binding::default() };
    let bound = hetero::bind(&model, &binding, &hetero_reference::Standard).map_err(hetero::Error::from)?;
    let mut engine = devices::builder(false, &[]).build();
    engine.add_device(&options.device, hetero::hal::OpenOptions::default())?;
    let device = device(&engine)?;
    let spinner = Spinner::start("comparing with the reference");
    let cases = model_cases(&bound.program, options.seed).map_err(hetero::Error::from)?;
    let report = run_suite(&**device, &cases, &Expectations::default());
    drop(spinner);
    report.wrong.iter().try_for_each(|line| say!("{line}"))?;
    say!(
        "{}: {} kinds of nodes among {} of {}, {} passed, {} wrong",
        options.device,
        cases.len(),
        bound.program.nodes().len(),
        path.display(),
        report.passed,
        report.wrong.len()
    )?;
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
    hetero_files::replace(&path, names).map_err(|error| Failure::unwritten(&path, error))?;
    say!("{} cases of seed {} are in {}", cases.len(), options.seed, options.folder.display())?;
    Ok(())
}

/// Checks generated cases on one device, each compared with the oracle.
pub(crate) fn generated(options: &ConformanceOptions) -> Result<()> {
    let job = Job::new(options)?;
    let [_, networks, rules, weights] = &job.tests;
    let device = device(&job.engine)?;
    let spinner = Spinner::start("comparing with the reference");
    let expectations = Expectations::default();
    let mut report = hetero_conformance::SuiteReport::default();
    let mut records = Vec::new();
    for test in job.tests.iter().flatten() {
        let mut outcome = test.run(&**device, &[]);
        // What no call could return is found after the test that it belongs to.
        if let Some(breach) = job.layer.as_ref().and_then(|layer| layer.take_breaches().into_iter().next()) {
            outcome = Outcome::Failed(format!("the suite breaks a rule for callers: {breach}"));
        }
        report.weigh(&expectations, &test.name(), &outcome);
        records.push((test.name(), outcome));
    }
    drop(spinner);
    if let Some(file) = &options.junit {
        file.write(&junit(&device.info().id.to_string(), &records))?;
    }
    if options.output.json {
        document(json!({
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
        }))?;
    } else {
        report.reasons.iter().try_for_each(|(reason, count)| say!("{count:>6}  unsupported: {reason}"))?;
        report.wrong.iter().try_for_each(|wrong| lines(format_args!("wrong   {wrong}")))?;
        say!(
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
        )?;
    }
    verdict(report.wrong.len())
}

fn verdict(wrong: usize) -> Result<()> {
    if wrong == 0 { Ok(()) } else { Err(Failure::failed(format!("{wrong} cases are wrong"))) }
}
