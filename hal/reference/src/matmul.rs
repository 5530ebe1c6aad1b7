//! Matrix products: MatMul, Gemm, MatMulInteger and QLinearMatMul.

use std::num::Wrapping;

use hetero_hal::{
    DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend,
    take,
};

use crate::indexing::{broadcast_strides, strided};
use crate::numbers::{Numbers, floats, pack};
use crate::shapes::{broadcast_dims, broadcast_shapes, elements};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("MatMul", 1, (2, 2), infer_matmul, matmul).counting(matmul_flops),
    Definition::new("Gemm", 7, (2, 3), infer_gemm, gemm).counting(gemm_flops),
    Definition::new("MatMulInteger", 10, (2, 4), infer_integer, matmul_integer).counting(matmul_flops),
    Definition::new("QLinearMatMul", 10, (8, 8), infer_quantized, quantized).counting(quantized_flops),
];

fn inner(inputs: &[Option<TensorType>], transposed: bool) -> u64 {
    let dims = inputs.first().and_then(Option::as_ref).and_then(|ty| ty.dims.as_deref()).unwrap_or_default();
    let dim = if transposed { dims.first() } else { dims.last() };
    dim.and_then(Dim::bound).unwrap_or(1) as u64
}

fn matmul_flops(_: &Operator, inputs: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    outputs.first().map_or(0, elements).saturating_mul(2).saturating_mul(inner(inputs, false))
}

fn gemm_flops(operator: &Operator, inputs: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    let transposed = matches!(operator.int("transA"), Ok(Some(flag)) if flag != 0);
    outputs.first().map_or(0, elements).saturating_mul(2).saturating_mul(inner(inputs, transposed))
}

fn agree(a: &Dim, b: &Dim) -> Result<()> {
    match (a.known(), b.known()) {
        (Some(a), Some(b)) if a != b => {
            Err(Error::invalid_model(format!("inner dimensions {a} and {b} of a matrix product differ")))
        }
        _ => Ok(()),
    }
}

/// Returns the dimensions of a product as NumPy's `matmul` has them: vectors grow a dimension that
/// the result loses again.
fn product_dims(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>> {
    let (Some(a_last), Some(b_last)) = (a.last(), b.last()) else {
        return Err(Error::invalid_model("a matrix product takes no scalar"));
    };
    let b_inner = if b.len() == 1 { b_last } else { &b[b.len() - 2] };
    agree(a_last, b_inner)?;
    let mut dims = broadcast_dims(&a[..a.len().saturating_sub(2)], &b[..b.len().saturating_sub(2)])?;
    if a.len() > 1 {
        dims.push(a[a.len() - 2].clone());
    }
    if b.len() > 1 {
        dims.push(b_last.clone());
    }
    Ok(dims)
}

fn infer_matmul(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = match (inference.dims(0)?, inference.dims(1)?) {
        (Some(a), Some(b)) => Some(product_dims(a, b)?),
        _ => None,
    };
    Ok(vec![TensorType { dtype: inference.dtype(0)?, dims }])
}

fn infer_integer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let mut types = infer_matmul(inference)?;
    types[0].dtype = Some(DType::I32);
    Ok(types)
}

/// The sizes of a product of stacked matrices.
struct Product {
    shape: Vec<usize>,
    /// The positions at which each product's matrices start, counted in matrices.
    a: Vec<usize>,
    b: Vec<usize>,
    m: usize,
    n: usize,
    k: usize,
}

fn product(a: &[usize], b: &[usize]) -> Result<Product> {
    let known = |shape: &[usize]| shape.iter().map(|&size| Dim::Known(size)).collect::<Vec<_>>();
    let dims = product_dims(&known(a), &known(b))?;
    let shape = dims.iter().filter_map(Dim::known).collect();
    let (a_batch, b_batch) = (&a[..a.len().saturating_sub(2)], &b[..b.len().saturating_sub(2)]);
    let batch = broadcast_shapes([a_batch, b_batch])?;
    Ok(Product {
        shape,
        a: strided(&batch, &broadcast_strides(a_batch, &batch), 0)?,
        b: strided(&batch, &broadcast_strides(b_batch, &batch), 0)?,
        m: if a.len() > 1 { a[a.len() - 2] } else { 1 },
        n: if b.len() > 1 { b[b.len() - 1] } else { 1 },
        k: a[a.len() - 1],
    })
}

impl Product {
    fn compute<T: Copy + std::iter::Sum<T> + std::ops::Mul<Output = T>>(&self, a: &[T], b: &[T]) -> Result<Vec<T>> {
        let (m, n, k) = (self.m, self.n, self.k);
        let count = element_count(&[self.a.len(), m, n]).unwrap_or(usize::MAX);
        take(count, size_of::<T>())?;
        let mut result = Vec::with_capacity(count);
        for (&first, &second) in self.a.iter().zip(&self.b) {
            let (a, b) = (&a[first * m * k..][..m * k], &b[second * k * n..][..k * n]);
            for row in 0..m {
                for column in 0..n {
                    spend(k + 1)?;
                    result.push((0..k).map(|i| a[row * k + i] * b[i * n + column]).sum());
                }
            }
        }
        Ok(result)
    }

    /// Computes with whole numbers.
    /// Sums of products of 64 bits may pass 128; what is kept of them wraps to 64 bits anyway.
    fn compute_wrapping(&self, a: &[i128], b: &[i128]) -> Result<Vec<i128>> {
        take(a.len() + b.len(), size_of::<i128>())?;
        let wrapping = |values: &[i128]| values.iter().copied().map(Wrapping).collect::<Vec<_>>();
        Ok(self.compute(&wrapping(a), &wrapping(b))?.into_iter().map(|Wrapping(sum)| sum).collect())
    }
}

fn matmul(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (a, b) = (evaluation.input(0)?, evaluation.input(1)?);
    let product = product(a.shape(), b.shape())?;
    evaluation.reserve(a.dtype(), &product.shape)?;
    let numbers = match (Numbers::of(a)?, Numbers::of(b)?) {
        (Numbers::Floats(a), Numbers::Floats(b)) => Numbers::Floats(product.compute(&a, &b)?),
        (Numbers::Ints(a), Numbers::Ints(b)) => Numbers::Ints(product.compute_wrapping(&a, &b)?),
        _ => return Err(Error::invalid_model("MatMul mixes floats and integers")),
    };
    Ok(vec![numbers.into_tensor(a.dtype(), &product.shape)?])
}

/// Returns integers less their zero point: a scalar, or one for each row of the first matrix and
/// each column of the second.
fn shifted(tensor: &Tensor, zero: Option<&Tensor>, per_row: bool) -> Result<Vec<i128>> {
    let (Numbers::Ints(mut values), zeros) = (Numbers::of(tensor)?, zero.map(Numbers::of).transpose()?) else {
        return Err(Error::invalid_model("a product of quantised matrices takes integers"));
    };
    let Some(Numbers::Ints(zeros)) = zeros else { return Ok(values) };
    let at = per_line(tensor.shape(), zeros.len(), per_row);
    for (index, value) in values.iter_mut().enumerate() {
        *value -= zeros.get(at(index)).ok_or_else(|| Error::invalid_model("a zero point has the wrong size"))?;
    }
    Ok(values)
}

/// Returns the number of the parameter, among `count`, that belongs to an element: the only one,
/// its row's, or its column's.
fn per_line(shape: &[usize], count: usize, per_row: bool) -> impl Fn(usize) -> usize {
    let columns = shape.last().copied().unwrap_or(1).max(1);
    move |index| match (count, per_row) {
        (1, _) => 0,
        (_, true) => (index / columns) % count.max(1),
        (_, false) => index % columns,
    }
}

fn matmul_integer(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (a, b) = (evaluation.input(0)?, evaluation.input(1)?);
    let product = product(a.shape(), b.shape())?;
    evaluation.reserve(DType::I32, &product.shape)?;
    let x = shifted(a, evaluation.optional(2), true)?;
    let y = shifted(b, evaluation.optional(3), false)?;
    Ok(vec![Numbers::Ints(product.compute_wrapping(&x, &y)?).into_tensor(DType::I32, &product.shape)?])
}

/// Infers the type of a QLinearMatMul.
/// Its inputs are a with its scale and zero point, b with its scale and zero point, and the
/// output's scale and zero point.
fn infer_quantized(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = match (inference.dims(0)?, inference.dims(3)?) {
        (Some(a), Some(b)) => Some(product_dims(a, b)?),
        _ => None,
    };
    Ok(vec![TensorType { dtype: inference.dtype(7)?, dims }])
}

fn quantized_flops(operator: &Operator, inputs: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    matmul_flops(operator, inputs, outputs)
}

fn quantized(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (a, b, zero) = (evaluation.input(0)?, evaluation.input(3)?, evaluation.input(7)?);
    let product = product(a.shape(), b.shape())?;
    evaluation.reserve(DType::I32, &product.shape)?;
    let x = shifted(a, Some(evaluation.input(2)?), true)?;
    let y = shifted(b, Some(evaluation.input(5)?), false)?;
    let (a_scale, b_scale) = (floats(evaluation.input(1)?)?, floats(evaluation.input(4)?)?);
    let (y_scale, y_zero) = (floats(evaluation.input(6)?)?, floats(zero)?);
    let shape = &product.shape;
    let at = |values: &[f64], index: usize, per_row: bool| -> Result<f64> {
        let position = per_line(shape, values.len(), per_row)(index);
        values.get(position).copied().ok_or_else(|| Error::invalid_model("a scale or zero point has the wrong size"))
    };
    let count = element_count(shape).unwrap_or(usize::MAX);
    take(count, 2 * size_of::<f64>())?;
    let (mut real, mut zeros) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for (index, sum) in product.compute(&x, &y)?.into_iter().enumerate() {
        let scale = at(&a_scale, index, true)? * at(&b_scale, index, false)? / at(&y_scale, index, true)?;
        real.push(sum as f64 * scale);
        zeros.push(at(&y_zero, index, true)?);
    }
    Ok(vec![crate::quantize::quantized(real, |index| zeros[index], zero.dtype(), shape)?])
}

fn flags(operator: &Operator) -> Result<(bool, bool)> {
    Ok((operator.int("transA")?.unwrap_or(0) != 0, operator.int("transB")?.unwrap_or(0) != 0))
}

fn infer_gemm(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let (trans_a, trans_b) = flags(inference.operator)?;
    let dims = match (inference.dims(0)?, inference.dims(1)?) {
        (Some([a0, a1]), Some([b0, b1])) => {
            let (m, a_inner) = if trans_a { (a1, a0) } else { (a0, a1) };
            let (n, b_inner) = if trans_b { (b0, b1) } else { (b1, b0) };
            agree(a_inner, b_inner)?;
            Some(vec![m.clone(), n.clone()])
        }
        (Some(_), Some(_)) => return Err(Error::invalid_model("Gemm takes matrices")),
        _ => None,
    };
    Ok(vec![TensorType { dtype: inference.dtype(0)?, dims }])
}

fn gemm(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (trans_a, trans_b) = flags(evaluation.operator)?;
    let alpha = f64::from(evaluation.operator.float("alpha")?.unwrap_or(1.0));
    let beta = f64::from(evaluation.operator.float("beta")?.unwrap_or(1.0));
    let (a, b) = (evaluation.input(0)?, evaluation.input(1)?);
    let (&[a0, a1], &[b0, b1]) = (a.shape(), b.shape()) else {
        return Err(Error::invalid_model("Gemm takes matrices"));
    };
    let (m, k) = if trans_a { (a1, a0) } else { (a0, a1) };
    let (n, inner) = if trans_b { (b0, b1) } else { (b1, b0) };
    agree(&Dim::Known(k), &Dim::Known(inner))?;
    evaluation.reserve(a.dtype(), &[m, n])?;
    if a.dtype().is_integer() && alpha.fract() == 0.0 && beta.fract() == 0.0 {
        return whole_gemm(evaluation, (trans_a, trans_b), (alpha as i128, beta as i128), (m, n, k));
    }
    let (x, y) = (floats(a)?, floats(b)?);
    let at_a = |i: usize, j: usize| x[if trans_a { j * m + i } else { i * k + j }];
    let at_b = |i: usize, j: usize| y[if trans_b { j * k + i } else { i * n + j }];
    take(m * n, size_of::<f64>())?;
    let mut result = vec![0.0; m * n];
    for row in 0..m {
        for column in 0..n {
            spend(k + 1)?;
            result[row * n + column] = alpha * (0..k).map(|i| at_a(row, i) * at_b(i, column)).sum::<f64>();
        }
    }
    if let Some(c) = evaluation.optional(2) {
        if broadcast_shapes([c.shape(), &[m, n]])? != [m, n] {
            return Err(Error::invalid_model(format!("C {:?} does not broadcast to {m}x{n}", c.shape())));
        }
        let values = floats(c)?;
        for (into, from) in result.iter_mut().zip(strided(&[m, n], &broadcast_strides(c.shape(), &[m, n]), 0)?) {
            *into += beta * values[from];
        }
    }
    Ok(vec![pack(result, a.dtype(), &[m, n])?])
}

/// Computes a Gemm of whole numbers and factors, which wraps as the other products do.
fn whole_gemm(
    evaluation: &Evaluation<'_>,
    (trans_a, trans_b): (bool, bool),
    (alpha, beta): (i128, i128),
    (m, n, k): (usize, usize, usize),
) -> Result<Vec<Tensor>> {
    let misfit = || Error::invalid_model("Gemm mixes floats and integers");
    let ints = |index: usize| match Numbers::of(evaluation.input(index)?)? {
        Numbers::Ints(values) => Ok(values),
        Numbers::Floats(_) => Err(misfit()),
    };
    let (x, y) = (ints(0)?, ints(1)?);
    take(m * n, size_of::<i128>())?;
    let mut result = Vec::with_capacity(m * n);
    for row in 0..m {
        for column in 0..n {
            spend(k + 1)?;
            let term = |i: usize| {
                let x = x[if trans_a { i * m + row } else { row * k + i }];
                x.wrapping_mul(y[if trans_b { column * k + i } else { i * n + column }])
            };
            result.push(alpha.wrapping_mul((0..k).map(term).fold(0, i128::wrapping_add)));
        }
    }
    if let Some(c) = evaluation.optional(2) {
        if broadcast_shapes([c.shape(), &[m, n]])? != [m, n] {
            return Err(Error::invalid_model(format!("C {:?} does not broadcast to {m}x{n}", c.shape())));
        }
        let values = ints(2)?;
        for (into, from) in result.iter_mut().zip(strided(&[m, n], &broadcast_strides(c.shape(), &[m, n]), 0)?) {
            *into = into.wrapping_add(beta.wrapping_mul(values[from]));
        }
    }
    Ok(vec![Numbers::Ints(result).into_tensor(evaluation.input(0)?.dtype(), &[m, n])?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    /// Products and sums of the largest numbers wrap to 64 bits, as the standard's types do.
    #[test]
    fn the_largest_whole_numbers_wrap() {
        let largest = |shape: &[usize]| Some(Tensor::from_vec(shape, vec![u64::MAX; shape.iter().product()]).unwrap());
        // The largest number is -1 of 64 bits, so that each product of two is 1.
        let two = [2u64];
        let run = |operator: Operator, inputs: &[Option<Tensor>]| {
            let result = crate::evaluate(&operator, inputs, 1).unwrap().swap_remove(0);
            result.view::<u64>().unwrap().to_vec()
        };
        assert_eq!(run(Operator::new("MatMul", 13), &[largest(&[1, 2]), largest(&[2, 1])]), two);
        let product = Operator::new("Einsum", 12).with("equation", Attribute::String((*b"i,i->").into()));
        assert_eq!(run(product, &[largest(&[2]), largest(&[2])]), two);
        assert_eq!(run(Operator::new("ReduceSumSquare", 18), &[largest(&[2])]), two);
        assert_eq!(run(Operator::new("Mul", 14), &[largest(&[1]), largest(&[1])]), [1]);
    }
}
