//! Element-wise operators of one input.

use hetero_hal::{Definition, Evaluation, Operator, Result, Tensor, spend};

use crate::numbers::{Numbers, max, min};
use crate::shapes::{flops_per_element, infer_same};

/// One operator, with its function on floats and, where the standard allows integers, on integers.
struct Row {
    name: &'static str,
    since: u32,
    float: fn(f64, &Parameters) -> f64,
    int: Option<fn(i128) -> i128>,
}

/// The attributes that the functions take, with the operator's defaults filled in.
struct Parameters {
    alpha: f64,
    beta: f64,
    gamma: f64,
    tanh: bool,
}

const fn float(name: &'static str, since: u32, float: fn(f64, &Parameters) -> f64) -> Row {
    Row { name, since, float, int: None }
}

const fn both(name: &'static str, float: fn(f64, &Parameters) -> f64, int: fn(i128) -> i128) -> Row {
    Row { name, since: 1, float, int: Some(int) }
}

const ROWS: [Row; 38] = [
    both("Abs", |x, _| x.abs(), i128::abs),
    both("Neg", |x, _| -x, |x| -x),
    both("Sign", |x, _| if x == 0.0 || x.is_nan() { x } else { x.signum() }, i128::signum),
    both("Relu", |x, _| if x < 0.0 { 0.0 } else { x }, |x| x.max(0)),
    float("Ceil", 1, |x, _| x.ceil()),
    float("Floor", 1, |x, _| x.floor()),
    float("Round", 11, |x, _| x.round_ties_even()),
    float("Sqrt", 1, |x, _| x.sqrt()),
    float("Reciprocal", 1, |x, _| x.recip()),
    float("Exp", 1, |x, _| x.exp()),
    float("Log", 1, |x, _| x.ln()),
    float("Sin", 7, |x, _| x.sin()),
    float("Cos", 7, |x, _| x.cos()),
    float("Tan", 7, |x, _| x.tan()),
    float("Asin", 7, |x, _| x.asin()),
    float("Acos", 7, |x, _| x.acos()),
    float("Atan", 7, |x, _| x.atan()),
    float("Sinh", 9, |x, _| x.sinh()),
    float("Cosh", 9, |x, _| x.cosh()),
    float("Asinh", 9, |x, _| x.asinh()),
    float("Acosh", 9, |x, _| x.acosh()),
    float("Atanh", 9, |x, _| x.atanh()),
    float("Tanh", 1, |x, _| x.tanh()),
    float("Erf", 9, |x, _| erf(x)),
    float("Sigmoid", 1, |x, _| sigmoid(x)),
    float("HardSigmoid", 1, |x, p| (p.alpha * x + p.beta).clamp(0.0, 1.0)),
    float("HardSwish", 14, |x, _| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
    float("Softplus", 1, |x, _| x.max(0.0) + (-x.abs()).exp().ln_1p()),
    float("Softsign", 1, |x, _| x / (1.0 + x.abs())),
    float("Elu", 1, |x, p| if x < 0.0 { p.alpha * x.exp_m1() } else { x }),
    float("Celu", 12, |x, p| max(x, 0.0) + min(p.alpha * (x / p.alpha).exp_m1(), 0.0)),
    float("Selu", 1, |x, p| p.gamma * if x > 0.0 { x } else { p.alpha * x.exp_m1() }),
    float("LeakyRelu", 1, |x, p| if x < 0.0 { p.alpha * x } else { x }),
    float("ThresholdedRelu", 10, |x, p| if x > p.alpha { x } else { 0.0 }),
    float("Mish", 18, |x, _| x * (x.max(0.0) + (-x.abs()).exp().ln_1p()).tanh()),
    float("Gelu", 20, |x, p| if p.tanh { gelu_tanh(x) } else { 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)) }),
    float("Shrink", 9, |x, p| match x {
        x if x < -p.alpha => x + p.beta,
        x if x > p.alpha => x - p.beta,
        _ => 0.0,
    }),
    float("Swish", 24, |x, p| x * sigmoid(p.alpha * x)),
];

pub(crate) static DEFINITIONS: [Definition; ROWS.len()] = {
    let mut definitions = [Definition::new("", 1, (1, 1), infer_same, evaluate); ROWS.len()];
    let mut index = 0;
    while index < ROWS.len() {
        definitions[index] = Definition::new(ROWS[index].name, ROWS[index].since, (1, 1), infer_same, evaluate)
            .counting(flops_per_element)
            .in_place(&[0]);
        index += 1;
    }
    definitions
};

/// Reads the attributes, with the defaults of `alpha`, `beta` and `gamma` in the standard's text.
fn parameters(operator: &Operator) -> Result<Parameters> {
    let (alpha, beta, gamma) = match &*operator.name {
        "HardSigmoid" => (0.2, 0.5, 0.0),
        "LeakyRelu" => (0.01, 0.0, 0.0),
        "Shrink" => (0.5, 0.0, 0.0),
        "Selu" => (1.673_263_2, 0.0, 1.050_701),
        _ => (1.0f32, 0.0f32, 0.0f32),
    };
    let shrink = operator.is("Shrink");
    Ok(Parameters {
        alpha: f64::from(operator.float(if shrink { "lambd" } else { "alpha" })?.unwrap_or(alpha)),
        beta: f64::from(operator.float(if shrink { "bias" } else { "beta" })?.unwrap_or(beta)),
        gamma: f64::from(operator.float("gamma")?.unwrap_or(gamma)),
        tanh: operator.text("approximate")? == Some("tanh"),
    })
}

fn evaluate(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let unsupported = || hetero_hal::Error::unsupported(format!("{operator} on {}", input.dtype()));
    let row = ROWS.iter().find(|row| *row.name == *operator.name).ok_or_else(unsupported)?;
    let parameters = parameters(operator)?;
    spend(input.len().saturating_mul(8))?;
    let result = match (Numbers::of(input)?, row.int) {
        (Numbers::Floats(values), _) => {
            Numbers::Floats(values.into_iter().map(|x| (row.float)(x, &parameters)).collect())
        }
        (Numbers::Ints(values), Some(int)) => Numbers::Ints(values.into_iter().map(int).collect()),
        (Numbers::Ints(_), None) => return Err(unsupported()),
    };
    Ok(vec![result.into_tensor(input.dtype(), input.shape())?])
}

/// Returns the function of an element-wise operator of one input, on `f64`.
///
/// # Errors
/// Those of attributes of another type than the operator's.
pub fn unary_function(operator: &Operator) -> Result<Option<impl Fn(f64) -> f64 + Send + Sync + use<>>> {
    let Some(row) = ROWS.iter().find(|row| operator.is(row.name) && row.since <= operator.version) else {
        return Ok(None);
    };
    let parameters = parameters(operator)?;
    Ok(Some(move |x| (row.float)(x, &parameters)))
}

/// Computes the logistic function, without overflow on either side.
pub(crate) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

/// Computes the error function to about 1e-15.
/// It takes the Maclaurin series near 0, and the continued fraction of erfc beyond (Abramowitz and
/// Stegun 7.1.6 and 7.1.14).
pub(crate) fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    if magnitude.is_nan() {
        return x;
    }
    if magnitude < 3.0 {
        // erf(x) = 2/sqrt(pi) exp(-x²) Σ 2^n x^(2n+1) / (1·3·…·(2n+1)): all terms are positive, so
        // nothing cancels.
        let mut term = magnitude;
        let mut sum = term;
        let mut n = 0.0;
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * magnitude * magnitude / (2.0 * n + 1.0);
            sum += term;
        }
        return (2.0 / std::f64::consts::PI.sqrt() * (-magnitude * magnitude).exp() * sum).copysign(x);
    }
    let mut fraction = magnitude;
    for k in (1..=60).rev() {
        fraction = magnitude + f64::from(k) / 2.0 / fraction;
    }
    (1.0 - (-magnitude * magnitude).exp() / (fraction * std::f64::consts::PI.sqrt())).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_function_at_tabulated_points() {
        for (x, expected) in
            [(0.5, 0.520_499_877_813_046_5), (2.9, 0.999_958_902_121_900_5), (3.1, 0.999_988_351_342_632_8)]
        {
            assert!((erf(x) - expected).abs() < 1e-14, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!(erf(f64::INFINITY), 1.0);
    }

    #[test]
    fn each_activation_at_a_known_point() {
        let at = |name: &str, x: f32| {
            let input = Tensor::from_vec(&[1], vec![x]).unwrap();
            crate::evaluate(&Operator::new(name, 24), &[Some(input)], 1).unwrap()[0].view::<f32>().unwrap()[0]
        };
        assert_eq!(at("HardSigmoid", 1.0), 0.7);
        assert_eq!(at("HardSwish", -4.0), 0.0);
        assert_eq!(at("LeakyRelu", -2.0), -0.02);
        assert_eq!(at("Round", 2.5), 2.0);
        assert_eq!(at("Sigmoid", -1000.0), 0.0);
        assert_eq!(at("Softplus", 1000.0), 1000.0);
        assert!((at("Gelu", 1.0) - 0.841_344_7).abs() < 1e-6);
        assert!((at("Selu", -1.0) + 1.111_330_7).abs() < 1e-6);
        assert!(at("Relu", f32::NAN).is_nan());
    }
}
