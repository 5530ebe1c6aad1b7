//! The distance of a device's tensor from the oracle's.

use half::{bf16, f16};
use hetero_hal::{DType, Tensor};

/// Returns the largest normalised mean squared error that a device may show, by element type.
/// Integers and booleans must be exact.
#[must_use]
pub fn threshold(dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::F64 => 1e-6,
        DType::F16 | DType::BF16 => 1e-3,
        _ => 0.0,
    }
}

/// Returns the elements of a floating-point tensor of at least 16 bits; `None` for another one.
#[must_use]
pub fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    Some(match tensor.dtype() {
        DType::F32 => tensor.view::<f32>().ok()?.iter().map(|&v| f64::from(v)).collect(),
        DType::F64 => tensor.view::<f64>().ok()?.into_owned(),
        DType::F16 => tensor.view::<f16>().ok()?.iter().map(|v| v.to_f64()).collect(),
        DType::BF16 => tensor.view::<bf16>().ok()?.iter().map(|v| v.to_f64()).collect(),
        _ => return None,
    })
}

/// Returns the normalised mean squared error: the sum of the squared differences over the sum of
/// the squared expected values.
/// NaN and infinities must stand in the same places; they are left out of the sums.
/// For types that are compared exactly, the result is 0 where all bits agree.
///
/// # Errors
/// A sentence, where the types, the shapes or the places of NaN and infinities differ, or where the
/// bits of an exact type differ.
pub fn difference(actual: &Tensor, expected: &Tensor) -> Result<f64, String> {
    if actual.dtype() != expected.dtype() || actual.shape() != expected.shape() {
        return Err(format!("{actual:?} is not {expected:?}"));
    }
    let (Some(a), Some(e)) = (floats(actual), floats(expected)) else {
        return if actual == expected { Ok(0.0) } else { Err("elements differ".into()) };
    };
    let (mut error, mut power) = (0.0, 0.0);
    for (position, (a, e)) in a.iter().zip(&e).enumerate() {
        if e.is_finite() && a.is_finite() {
            error += (a - e).powi(2);
            power += e.powi(2);
        } else if !(a == e || (a.is_nan() && e.is_nan())) {
            return Err(format!("element {position} is {a}, not {e}"));
        }
    }
    Ok(if error == 0.0 { 0.0 } else { error / power.max(f64::MIN_POSITIVE) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_values_stand_in_their_places() {
        let tensor = |values: [f32; 3]| Tensor::from_vec(&[3], values.to_vec()).unwrap();
        let expected = tensor([1.0, f32::NAN, f32::INFINITY]);
        assert_eq!(difference(&expected, &expected).unwrap(), 0.0);
        assert!(difference(&tensor([f32::NAN, 1.0, f32::INFINITY]), &expected).is_err());
        assert!(difference(&tensor([1.0, f32::NAN, f32::NEG_INFINITY]), &expected).is_err());
        let error = difference(&tensor([1.1, f32::NAN, f32::INFINITY]), &expected).unwrap();
        assert!((error - 0.01).abs() < 1e-6);
        let ints = |v: i32| Tensor::scalar(v);
        assert!(difference(&ints(1), &ints(2)).is_err());
    }
}
