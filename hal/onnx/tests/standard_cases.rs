//! The standard's own operator cases (Python package onnx 1.22.0), run by the oracle: every case of which all operators are here must pass.
//!
//! The folder is found through `HETERO_CACHE`, which `cargo xtask test` sets after it has installed the package.

use std::path::{Path, PathBuf};

use hetero_hal::{DType, ErrorKind, Tensor};
use hetero_onnx::{Binding, Error, bind, read, read_tensor};
use hetero_reference::{Standard, run};

/// Cases that fail for now, by the start of their name, with the reason. One that passes after all fails the test.
const EXPECTED: &[(&str, &str)] = &[(
    "test_linear_attention_",
    "the size of a value that a Loop carries through Concat and Slice is not bounded yet",
)];

fn folders() -> Option<Vec<PathBuf>> {
    let cache = std::env::var_os("HETERO_CACHE")?;
    let data = Path::new(&cache).join("onnx-1.22.0/onnx/backend/test/data");
    let mut cases = Vec::new();
    for kind in ["node", "simple", "pytorch-operator", "pytorch-converted"] {
        let entries = std::fs::read_dir(data.join(kind)).ok()?;
        cases.extend(
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.join("model.onnx").exists()),
        );
    }
    cases.sort();
    Some(cases)
}

enum Outcome {
    Passed,
    Missing,
    /// An element type or a training mode that the oracle says it does not do.
    Unsupported,
    /// Sequences, optionals and maps are no tensors.
    NoTensor,
    Failed(String),
}

fn close(actual: &Tensor, expected: &Tensor) -> Result<(), String> {
    if actual.dtype() != expected.dtype() || actual.shape() != expected.shape() {
        return Err(format!("{actual:?} is not {expected:?}"));
    }
    let widen = |tensor: &Tensor| -> Option<Vec<f64>> {
        Some(match tensor.dtype() {
            DType::F32 => tensor.view::<f32>().ok()?.iter().map(|&v| f64::from(v)).collect(),
            DType::F64 => tensor.view::<f64>().ok()?.into_owned(),
            DType::F16 => tensor.view::<half::f16>().ok()?.iter().map(|v| v.to_f64()).collect(),
            DType::BF16 => tensor.view::<half::bf16>().ok()?.iter().map(|v| v.to_f64()).collect(),
            _ => return None,
        })
    };
    let (Some(a), Some(e)) = (widen(actual), widen(expected)) else {
        return if actual == expected { Ok(()) } else { Err("elements differ".into()) };
    };
    for (position, (a, e)) in a.iter().zip(&e).enumerate() {
        let same = a == e || (a.is_nan() && e.is_nan()) || (a - e).abs() <= 1e-7 + 1e-3 * e.abs();
        if !same {
            return Err(format!("element {position} is {a}, not {e}"));
        }
    }
    Ok(())
}

fn case(folder: &Path) -> Outcome {
    let fail = |what: &str, error: &dyn std::fmt::Display| Outcome::Failed(format!("{what}: {error}"));
    let model = match read(folder.join("model.onnx")) {
        Ok(model) => model,
        Err(error) => return fail("read", &error),
    };
    for set in 0.. {
        let data = folder.join(format!("test_data_set_{set}"));
        if !data.exists() {
            break;
        }
        let load = |kind: &str, count: usize| -> Option<Vec<Tensor>> {
            (0..count).map(|i| read_tensor(data.join(format!("{kind}_{i}.pb"))).ok().map(|(_, t)| t)).collect()
        };
        let mut names: Vec<String> =
            model.graph.inputs.iter().map(|id| model.graph.values[id.index()].name.to_string()).collect();
        let given = (0..names.len()).take_while(|i| data.join(format!("input_{i}.pb")).exists()).count();
        names.truncate(given);
        let (Some(inputs), Some(expected)) = (load("input", given), load("output", model.graph.outputs.len())) else {
            return Outcome::NoTensor;
        };
        if model.graph.inputs.iter().any(|id| model.graph.values[id.index()].ty.dtype.is_none()) {
            return Outcome::NoTensor;
        }
        let binding = Binding { constants: names.into_iter().zip(inputs).collect(), ..Binding::default() };
        let bound = match bind(&model, &binding, &Standard) {
            Ok(bound) => bound,
            Err(Error::Missing(_)) => return Outcome::Missing,
            Err(error) => return fail("bind", &error),
        };
        let outputs = match run(&bound.program, &[], &Standard, 1 << 30) {
            Ok(outputs) => outputs,
            Err(error) if error.kind() == ErrorKind::Unsupported => return Outcome::Unsupported,
            Err(error) => return fail("run", &error),
        };
        for (index, (actual, expected)) in outputs.iter().zip(&expected).enumerate() {
            if let Err(reason) = close(actual, expected) {
                return fail(&format!("output {index}"), &reason);
            }
        }
    }
    Outcome::Passed
}

#[test]
fn every_case_of_known_operators_passes() {
    let Some(cases) = folders() else {
        println!("skipped: the standard's cases are not installed; run `cargo xtask models onnx` and set HETERO_CACHE");
        return;
    };
    let (mut passed, mut missing, mut unsupported, mut other) = (0, 0, 0, 0);
    let (mut expected, mut wrong) = (0, Vec::new());
    for folder in &cases {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let listed = EXPECTED.iter().any(|(start, _)| name.starts_with(start));
        match case(folder) {
            Outcome::Passed if listed && name.ends_with("_expanded") => {
                wrong.push(format!("{name}: passes, but is listed"))
            }
            Outcome::Passed => passed += 1,
            Outcome::Missing => missing += 1,
            Outcome::Unsupported => unsupported += 1,
            Outcome::NoTensor => other += 1,
            Outcome::Failed(_) if listed => expected += 1,
            Outcome::Failed(reason) => wrong.push(format!("{name}: {reason}")),
        }
    }
    println!(
        "{} cases: {passed} passed, {missing} of operators that are missing, {unsupported} of unsupported types or modes, \
         {other} not of tensors, {expected} expected failures",
        cases.len()
    );
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(passed >= 1200, "only {passed} passed");
}
