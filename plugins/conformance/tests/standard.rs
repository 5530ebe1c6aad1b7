//! Tests that run the standard's own cases on the oracle: the list says which of them do not pass.
//! `hetero conformance onnx` runs the same cases on a device.
//!
//! The folder is found through `HETERO_CACHE`, which `cargo xtask test` sets after it has installed
//! the package.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};

use hetero_conformance::{ExpectedFailures, RunModel, StandardReport, run_standard, standard_cases};
use hetero_hal::{Model, Program, Tensor};
use hetero_onnx::{Binding, bind};
use hetero_reference::{Standard, run, run_graph};

fn cases() -> Option<Vec<PathBuf>> {
    let cache = std::env::var_os("HETERO_CACHE")?;
    standard_cases(&Path::new(&cache).join("onnx-1.22.0/onnx/backend/test/data")).ok()
}

fn agree(runner: &str, execute: &RunModel<'_>) {
    let Some(cases) = cases() else {
        println!("skipped: the standard's cases are not installed; run `cargo xtask models onnx` and set HETERO_CACHE");
        return;
    };
    let report = StandardReport::weigh(&run_standard(&cases, 2, execute), &ExpectedFailures::onnx().unwrap());
    println!("{runner}: {} of {} cases pass", report.passed, report.cases);
    report.expected.iter().for_each(|(reason, count)| println!("{count:>6}  {reason}"));
    assert!(report.wrong.is_empty(), "{} wrong:\n{}", report.wrong.len(), report.wrong.join("\n"));
    assert!(report.passed >= 1850, "only {} pass", report.passed);
}

fn bound(model: &Model, constants: &[(String, Tensor)]) -> Result<Program, String> {
    let binding = Binding { constants: constants.iter().cloned().collect(), ..Binding::default() };
    bind(model, &binding, &Standard).map(|bound| bound.program).map_err(|error| error.to_string())
}

#[test]
fn the_oracle_agrees_with_the_standard() {
    agree("oracle", &|model, inputs| {
        let inputs: Vec<Tensor> = inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
        run_graph(&model.graph, &inputs, &Standard, &hetero_hal::Allowance::new(1 << 30))
            .map_err(|error| error.to_string())
    });
}

#[test]
fn bound_programs_agree_with_the_standard() {
    agree("oracle, bound", &|model, inputs| {
        run(&bound(model, inputs)?, &[], &Standard, &hetero_hal::Allowance::new(1 << 30))
            .map_err(|error| error.to_string())
    });
}
