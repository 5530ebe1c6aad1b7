//! Random tensors.
//!
//! A node draws the same numbers in every run: its seed decides them, and a node without a seed has
//! the seed 0.

use hetero_hal::{
    Bool, DType, Definition, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend,
    take,
};

use crate::numbers::{Numbers, floats, pack};
use crate::shapes::{named_type, size};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("RandomUniform", 1, (0, 0), infer_shaped, shaped).random(),
    Definition::new("RandomNormal", 1, (0, 0), infer_shaped, shaped).random(),
    Definition::new("RandomUniformLike", 1, (1, 1), infer_like, like).random(),
    Definition::new("RandomNormalLike", 1, (1, 1), infer_like, like).random(),
    Definition::new("Bernoulli", 15, (1, 1), infer_like, like).random(),
    Definition::new("Multinomial", 7, (1, 1), infer_multinomial, multinomial).random(),
];

/// The generator splitmix64 (Steele, Lea and Flood, 2014).
struct Source(u64);

impl Source {
    fn of(operator: &Operator) -> Result<Source> {
        let seed = operator.float("seed")?.unwrap_or(0.0);
        Ok(Source(u64::from(seed.to_bits()) ^ 0x5851_f42d_4c95_7f2d))
    }

    /// Draws a number from 0 up to, and without, 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Draws a normal number by Box and Muller's transform.
    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }
}

fn dtype(operator: &Operator, otherwise: Option<DType>) -> Result<Option<DType>> {
    Ok(named_type(operator, "dtype")?.or(otherwise))
}

fn shape(operator: &Operator) -> Result<Vec<usize>> {
    let listed = operator.ints("shape")?.ok_or_else(|| Error::invalid_model(format!("{operator} lacks its shape")))?;
    listed.iter().map(|&value| size(value)).collect()
}

fn infer_shaped(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = dtype(inference.operator, Some(DType::F32))?.unwrap_or(DType::F32);
    Ok(vec![TensorType::exact(dtype, &shape(inference.operator)?)])
}

fn infer_like(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    Ok(vec![TensorType { dtype: dtype(inference.operator, ty.dtype)?, dims: ty.dims.clone() }])
}

fn draw(operator: &Operator, count: usize) -> Result<Vec<f64>> {
    take(count, size_of::<f64>())?;
    spend(count)?;
    let mut source = Source::of(operator)?;
    let parameter =
        |name: &str, default: f32| -> Result<f64> { Ok(f64::from(operator.float(name)?.unwrap_or(default))) };
    if operator.name.starts_with("RandomUniform") {
        let (low, high) = (parameter("low", 0.0)?, parameter("high", 1.0)?);
        return Ok((0..count).map(|_| low + source.unit() * (high - low)).collect());
    }
    let (mean, deviation) = (parameter("mean", 0.0)?, parameter("scale", 1.0)?);
    Ok((0..count).map(|_| mean + deviation * source.normal()).collect())
}

fn shaped(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let shape = shape(evaluation.operator)?;
    let dtype = dtype(evaluation.operator, Some(DType::F32))?.unwrap_or(DType::F32);
    let count = evaluation.reserve(dtype, &shape)?;
    Ok(vec![pack(draw(evaluation.operator, count)?, dtype, &shape)?])
}

fn like(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let dtype = dtype(operator, Some(input.dtype()))?.unwrap_or(DType::F32);
    let count = evaluation.reserve(dtype, input.shape())?;
    if !operator.is("Bernoulli") {
        return Ok(vec![pack(draw(operator, count)?, dtype, input.shape())?]);
    }
    let mut source = Source::of(operator)?;
    take(count, size_of::<Bool>())?;
    spend(count)?;
    let flags = floats(input)?.into_iter().map(|p| Bool::from(source.unit() < p)).collect();
    let flags = Tensor::from_vec::<Bool>(input.shape(), flags)?;
    Ok(vec![Numbers::of(&flags)?.into_tensor(dtype, input.shape())?])
}

fn samples(operator: &Operator) -> Result<usize> {
    size(operator.int("sample_size")?.unwrap_or(1))
}

fn infer_multinomial(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = inference.dims(0)?.map(|dims| dims.first().cloned().unwrap_or(hetero_hal::Dim::Unknown));
    let rows = dims.unwrap_or(hetero_hal::Dim::Unknown);
    let count = hetero_hal::Dim::Known(samples(inference.operator)?);
    let dtype = dtype(inference.operator, Some(DType::I32))?;
    Ok(vec![TensorType { dtype, dims: Some(vec![rows, count]) }])
}

/// Draws classes from rows of unnormalised log-probabilities.
fn multinomial(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let &[rows, classes] = input.shape() else {
        return Err(Error::invalid_model(format!("{operator} takes a matrix, not {input:?}")));
    };
    let count = samples(operator)?;
    let dtype = dtype(operator, Some(DType::I32))?.unwrap_or(DType::I32);
    evaluation.reserve(dtype, &[rows, count])?;
    if classes == 0 {
        return Err(Error::invalid_model(format!("{operator} of no class")));
    }
    let mut source = Source::of(operator)?;
    take(element_count(&[rows, count]).unwrap_or(usize::MAX), 2 * size_of::<i128>())?;
    take(classes, size_of::<f64>())?;
    let mut drawn = Vec::new();
    for row in floats(input)?.chunks(classes) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = row.iter().map(|x| (x - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        spend(20 * classes)?;
        for _ in 0..count {
            spend(2 * classes)?;
            let mut left = source.unit() * total;
            let class = weights.iter().position(|weight| {
                left -= weight;
                left < 0.0
            });
            drawn.push(class.unwrap_or(classes - 1) as i128);
        }
    }
    Ok(vec![Numbers::Ints(drawn).into_tensor(dtype, &[rows, count])?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    #[test]
    fn the_moments_are_those_asked_for() {
        let op = |name: &str| Operator::new(name, 22).with("shape", Attribute::Ints(vec![20_000]));
        let normal = op("RandomNormal").with("mean", Attribute::Float(3.0)).with("scale", Attribute::Float(2.0));
        let x = floats(&crate::evaluate(&normal, &[], 1).unwrap()[0]).unwrap();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let spread = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!((mean - 3.0).abs() < 0.06 && (spread - 4.0).abs() < 0.2, "{mean} {spread}");
        let uniform = op("RandomUniform").with("low", Attribute::Float(-1.0));
        let x = floats(&crate::evaluate(&uniform, &[], 1).unwrap()[0]).unwrap();
        assert!(x.iter().all(|v| (-1.0..1.0).contains(v)));
        assert!(x.iter().sum::<f64>().abs() / (x.len() as f64) < 0.02);
    }

    #[test]
    fn sure_things_happen_always() {
        let p = Tensor::from_vec(&[3], vec![0.0f32, 1.0, 1.0]).unwrap();
        let y = crate::evaluate(&Operator::new("Bernoulli", 15), &[Some(p)], 1).unwrap();
        assert_eq!(&*y[0].view::<f32>().unwrap(), [0.0, 1.0, 1.0]);
        let logits = Tensor::from_vec(&[1, 2], vec![-1e9f32, 0.0]).unwrap();
        let op = Operator::new("Multinomial", 7).with("sample_size", Attribute::Int(4));
        let y = crate::evaluate(&op, &[Some(logits)], 1).unwrap();
        assert_eq!(&*y[0].view::<i32>().unwrap(), [1; 4]);
    }
}
