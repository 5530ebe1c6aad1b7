//! The standard's own cases: folders of a model with inputs and outputs, as the package `onnx`
//! ships them.
//!
//! The caller decides who runs a model, because [`run_standard`] takes a function.
//! So the oracle, one device and a whole engine are held to the same cases and the same list of
//! [`ExpectedFailures`].

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hetero_hal::{Error, Model, Result, Tensor};
use hetero_onnx::{check_operators, read, read_value};
use hetero_reference::Standard;

use hetero_examine::floats;

/// The relative and absolute tolerance of the standard's own test runner.
const TOLERANCE: (f64, f64) = (1e-3, 1e-7);

/// The outcome of one of the standard's cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandardOutcome {
    /// Every output of every data set agrees.
    Passed,
    /// The model needs operators that are not defined here; the text has their names.
    Missing(String),
    /// An input or output is a map, or cannot be read.
    NoTensor,
    /// All other outcomes: the model was turned down, the run failed or gave another result.
    Failed(String),
}

/// One case's name and outcome.
#[derive(Clone, Debug)]
pub struct StandardResult {
    /// The name of the case's folder.
    pub name: String,
    /// The outcome.
    pub outcome: StandardOutcome,
}

/// The cases that do not pass yet, with the reason.
/// A pattern is a name, or the start of names followed by `*`.
#[derive(Clone, Debug, Default)]
pub struct ExpectedFailures(Vec<(String, String)>);

impl ExpectedFailures {
    /// Returns the list for the oracle, the CPU device and the cases of `onnx` 1.22.0.
    ///
    /// # Errors
    /// `InvalidArgument` where the list itself is broken.
    pub fn onnx() -> Result<Self> {
        ExpectedFailures::parse(include_str!("../expected/onnx-1.22.0.txt"))
    }

    /// Reads a list, in which a line is a pattern, blanks and a reason, and `#` starts a comment.
    ///
    /// # Errors
    /// `InvalidArgument` for a line without a reason.
    pub fn parse(text: &str) -> Result<Self> {
        let mut list = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (pattern, reason) = line
                .split_once(char::is_whitespace)
                .ok_or_else(|| Error::invalid_argument(format!("the expected failure '{line}' has no reason")))?;
            list.push((pattern.to_owned(), reason.trim().to_owned()));
        }
        Ok(ExpectedFailures(list))
    }

    /// Returns the reason for which a case is expected to fail, if it is.
    #[must_use]
    pub fn reason(&self, name: &str) -> Option<&str> {
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        self.0.iter().find(|(pattern, _)| matches(pattern)).map(|(_, reason)| reason.as_str())
    }
}

/// The results of all cases, weighed against a list.
#[derive(Clone, Debug, Default)]
pub struct StandardReport {
    /// The number of cases.
    pub cases: usize,
    /// The number of cases that passed.
    pub passed: usize,
    /// The number of cases that do not pass, as expected, by reason.
    pub expected: BTreeMap<String, usize>,
    /// The cases that went worse or better than the list says, with what happened.
    pub wrong: Vec<String>,
}

impl StandardReport {
    /// Weighs results against a list.
    #[must_use]
    pub fn weigh(results: &[StandardResult], expected: &ExpectedFailures) -> Self {
        let mut report = StandardReport { cases: results.len(), ..StandardReport::default() };
        for StandardResult { name, outcome } in results {
            match (outcome, expected.reason(name)) {
                (StandardOutcome::Passed, None) => report.passed += 1,
                (StandardOutcome::Passed, Some(_)) => {
                    report.passed += 1;
                    report.wrong.push(format!("{name}: passes, but is listed as an expected failure"));
                }
                (_, Some(reason)) => *report.expected.entry(reason.to_owned()).or_default() += 1,
                (StandardOutcome::Missing(names), None) => report.wrong.push(format!("{name}: lacks {names}")),
                (StandardOutcome::NoTensor, None) => report.wrong.push(format!("{name}: has a value that is not read")),
                (StandardOutcome::Failed(reason), None) => report.wrong.push(format!("{name}: {reason}")),
            }
        }
        report
    }
}

/// Returns the cases under a folder, sorted by path: the folder itself, its folders, or theirs.
///
/// # Errors
/// `InvalidArgument` where the folder cannot be read, or holds no case.
pub fn standard_cases(folder: &Path) -> Result<Vec<PathBuf>> {
    fn collect(folder: &Path, depth: usize, cases: &mut Vec<PathBuf>) -> std::io::Result<()> {
        if folder.join("model.onnx").is_file() && folder.join("test_data_set_0").is_dir() {
            cases.push(folder.to_owned());
            return Ok(());
        }
        if depth > 0 {
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    collect(&path, depth - 1, cases)?;
                }
            }
        }
        Ok(())
    }
    let mut cases = Vec::new();
    let unread = |error| Error::invalid_argument(format!("cannot read {}", folder.display())).caused_by(error);
    collect(folder, 2, &mut cases).map_err(unread)?;
    if cases.is_empty() {
        return Err(Error::invalid_argument(format!("{} holds no case", folder.display()))
            .with_remedy("name a folder such as onnx/backend/test/data"));
    }
    cases.sort();
    Ok(cases)
}

/// A function that runs a model on named inputs, and returns its outputs in the model's order, or a
/// sentence that says what failed.
pub type RunModel<'a> = dyn Fn(&Model, &[(String, Tensor)]) -> Result<Vec<Tensor>, String> + Sync + 'a;

/// Runs cases on the given number of threads.
/// A case that panics fails, and the others go on.
#[must_use]
pub fn run_standard(cases: &[PathBuf], threads: usize, execute: &RunModel<'_>) -> Vec<StandardResult> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(cases.len()));
    let work = || {
        while let Some(folder) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let outcome = catch_unwind(AssertUnwindSafe(|| case(folder, execute)))
                .unwrap_or_else(|_| StandardOutcome::Failed("it panicked".into()));
            let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            results.push(StandardResult { name, outcome });
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by(|a, b| a.name.cmp(&b.name));
    results
}

fn case(folder: &Path, execute: &RunModel<'_>) -> StandardOutcome {
    let model = match read(folder.join("model.onnx")) {
        Ok(model) => model,
        Err(error) => return StandardOutcome::Failed(format!("read: {error}")),
    };
    if let Err(missing) = check_operators(&model, &Standard) {
        let mut names: Vec<String> = missing.0.into_iter().map(|missing| missing.operator).collect();
        names.sort();
        names.dedup();
        return StandardOutcome::Missing(names.join(", "));
    }
    let value = |id: &hetero_hal::ValueId| &model.graph.values[id.index()];
    for set in 0.. {
        let data = folder.join(format!("test_data_set_{set}"));
        if !data.exists() {
            break;
        }
        let given = (0..model.graph.inputs.len()).take_while(|i| data.join(format!("input_{i}.pb")).exists()).count();
        let load = |kind: &str, index: usize, id: &hetero_hal::ValueId| {
            Some(read_value(data.join(format!("{kind}_{index}.pb")), value(id).ty.dtype?).ok()?.1)
        };
        let inputs: Option<Vec<(String, Tensor)>> = model.graph.inputs[..given]
            .iter()
            .enumerate()
            .map(|(index, id)| Some((value(id).name.to_string(), load("input", index, id)?)))
            .collect();
        let ports = model.graph.outputs.iter().enumerate();
        let expected: Option<Vec<Tensor>> = ports.map(|(index, id)| load("output", index, id)).collect();
        let (Some(inputs), Some(expected)) = (inputs, expected) else {
            return StandardOutcome::NoTensor;
        };
        let outputs = match execute(&model, &inputs) {
            Ok(outputs) => outputs,
            Err(error) => return StandardOutcome::Failed(error),
        };
        if outputs.len() != expected.len() {
            return StandardOutcome::Failed(format!("{} outputs, not {}", outputs.len(), expected.len()));
        }
        for (index, (actual, expected)) in outputs.iter().zip(&expected).enumerate() {
            if let Err(reason) = close(actual, expected) {
                return StandardOutcome::Failed(format!("output {index}: {reason}"));
            }
        }
    }
    StandardOutcome::Passed
}

/// Checks that two tensors agree by the rule of the standard's test runner.
/// Integers, booleans, strings and narrow floats have to agree in every bit.
/// Of sequences and optionals, the parts have to agree.
///
/// # Errors
/// A sentence with the first difference.
pub fn close(actual: &Tensor, expected: &Tensor) -> Result<(), String> {
    if actual.dtype() != expected.dtype() || actual.shape() != expected.shape() {
        return Err(format!("{actual:?} is not {expected:?}"));
    }
    if let (Ok(a), Ok(e)) = (actual.parts(), expected.parts()) {
        let part = |(index, (a, e))| close(a, e).map_err(|reason| format!("part {index}: {reason}"));
        return a.iter().zip(e).enumerate().try_for_each(part);
    }
    let (Some(a), Some(e)) = (floats(actual), floats(expected)) else {
        return if actual == expected { Ok(()) } else { Err("elements differ".into()) };
    };
    for (position, (a, e)) in a.iter().zip(&e).enumerate() {
        let near = e.is_finite() && (a - e).abs() <= TOLERANCE.1 + TOLERANCE.0 * e.abs();
        let same = near || a == e || (a.is_nan() && e.is_nan());
        if !same {
            return Err(format!("element {position} is {a}, not {e}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_kept_both_ways() {
        let expected = ExpectedFailures::parse("# comment\na_* of a family\nb  alone\n").unwrap();
        let result = |name: &str, outcome| StandardResult { name: name.into(), outcome };
        let results = [
            result("a_1", StandardOutcome::NoTensor),
            result("a_2", StandardOutcome::Passed),
            result("b", StandardOutcome::Failed("so".into())),
            result("b_2", StandardOutcome::Failed("so".into())),
            result("c", StandardOutcome::Passed),
        ];
        let report = StandardReport::weigh(&results, &expected);
        assert_eq!((report.cases, report.passed, report.expected["of a family"]), (5, 2, 1));
        assert_eq!(report.wrong, ["a_2: passes, but is listed as an expected failure", "b_2: so"]);
        assert!(ExpectedFailures::parse("alone").is_err());
        assert!(ExpectedFailures::onnx().is_ok());
    }

    #[test]
    fn infinities_and_nan_agree_with_themselves_only() {
        let tensor = |v: f32| Tensor::scalar(v);
        assert!(close(&tensor(f32::NAN), &tensor(f32::NAN)).is_ok());
        assert!(close(&tensor(f32::INFINITY), &tensor(f32::INFINITY)).is_ok());
        assert!(close(&tensor(f32::INFINITY), &tensor(f32::NEG_INFINITY)).is_err());
        assert!(close(&tensor(1.0), &tensor(f32::INFINITY)).is_err());
        assert!(close(&tensor(1.0005), &tensor(1.0)).is_ok());
        assert!(close(&tensor(1.002), &tensor(1.0)).is_err());
    }
}
