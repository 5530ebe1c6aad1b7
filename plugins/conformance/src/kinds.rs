//! The comparison of a result with the oracle's, number by number and by kind: NaN, an infinity of
//! either sign, a zero of either sign, or a number.

use half::{bf16, f16};
use hetero_hal::{DType, Device, Tensor};

use crate::{Case, Outcome, results};

/// The operators whose zeros have a sign by their definition.
const SIGNED_ZEROS: &[&str] = &[
    "Abs",
    "Neg",
    "Sqrt",
    "Ceil",
    "Floor",
    "Round",
    "Sin",
    "Tan",
    "Asin",
    "Atan",
    "Sinh",
    "Asinh",
    "Atanh",
    "Tanh",
    "Erf",
    "Reciprocal",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Identity",
    "Where",
    "Gather",
    "Cast",
    "Softsign",
    "LeakyRelu",
];

/// Returns the floats of a tensor, and the share of a number by which a result may be off.
fn floats(tensor: &Tensor) -> Option<(Vec<f64>, f64)> {
    Some(match tensor.dtype() {
        DType::F32 => (tensor.view::<f32>().ok()?.iter().map(|&v| f64::from(v)).collect(), 2e-5),
        DType::F64 => (tensor.view::<f64>().ok()?.into_owned(), 1e-12),
        DType::F16 => (tensor.view::<f16>().ok()?.iter().map(|v| v.to_f64()).collect(), 2e-3),
        DType::BF16 => (tensor.view::<bf16>().ok()?.iter().map(|v| v.to_f64()).collect(), 1e-2),
        _ => return None,
    })
}

/// Tells how a result differs from the oracle's, `None` where it does not: in each element it has
/// to be of the same kind, and close.
/// The sign of a zero counts where the case's operator defines it.
#[must_use]
pub fn kinds_differ(case: &Case, actual: &Tensor, expected: &Tensor) -> Option<String> {
    if actual.dtype() != expected.dtype() || actual.shape() != expected.shape() {
        return Some(format!("{actual:?} is not {expected:?}"));
    }
    let (Some((a, share)), Some((e, _))) = (floats(actual), floats(expected)) else {
        return (actual != expected).then(|| "elements differ".to_owned());
    };
    let signed = SIGNED_ZEROS.contains(&&*case.operator.name);
    // Sums of small numbers may cancel, but a large number excuses no other.
    let range = e.iter().filter(|e| e.is_finite()).fold(1e-6f64, |most, e| most.max(e.abs())).min(8.0);
    a.iter().zip(&e).enumerate().find_map(|(place, (&a, &e))| {
        let same = match e {
            _ if e.is_nan() => a.is_nan(),
            _ if e.is_infinite() => a == e,
            _ if e == 0.0 && a == 0.0 => !signed || a.is_sign_negative() == e.is_sign_negative(),
            _ => (a - e).abs() <= e.abs().max(range) * share,
        };
        (!same).then(|| format!("element {place} is {a}, not {e}"))
    })
}

/// Runs a case of numbers at their limits on a device, and compares it by [`kinds_differ`].
#[must_use]
pub fn check_limits(device: &dyn Device, case: &Case) -> Outcome {
    let [actual, expected] = match results(device, case) {
        Ok(results) => results,
        Err(outcome) => return outcome,
    };
    let found = actual.iter().zip(&expected).find_map(|(actual, expected)| kinds_differ(case, actual, expected));
    found.map_or(Outcome::Passed(0.0), Outcome::Failed)
}
