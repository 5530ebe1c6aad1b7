//! The operators of the domain `com.microsoft`, which files that ONNX Runtime's tools optimised or
//! quantised hold, and the operators that these tools write into the standard's domain.
//!
//! Most of them have a body of standard operators, whose kernels devices have.
//! The others are computed plainly here: products with weights of few bits, gathering from packed
//! rows of any layout, the LSTM with quantised weights, and the inverse of matrices.

mod attention;
mod blocks;
mod fused;
mod grouped;
mod inverse;
mod lstm;
mod normalize;
mod quantized;
#[cfg(test)]
mod tests;

use hetero_hal::{Definition, Operator, Result};

pub use blocks::Blocks;

/// The domain of the operators.
const DOMAIN: &str = "com.microsoft";

pub(crate) static DEFINITIONS: [&[Definition]; 8] = [
    attention::DEFINITIONS,
    blocks::DEFINITIONS,
    fused::DEFINITIONS,
    grouped::DEFINITIONS,
    inverse::DEFINITIONS,
    lstm::DEFINITIONS,
    normalize::DEFINITIONS,
    quantized::DEFINITIONS,
];

/// Tells whether an attribute that is a flag is set.
fn flag(operator: &Operator, name: &str) -> Result<bool> {
    Ok(operator.int(name)?.unwrap_or(0) != 0)
}

/// Returns an attribute that is a number and has this default.
fn number(operator: &Operator, name: &str, default: f32) -> Result<f64> {
    Ok(f64::from(operator.float(name)?.unwrap_or(default)))
}
