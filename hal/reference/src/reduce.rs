//! Reductions along axes, and operators that order or accumulate along one.

use hetero_hal::{
    DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend,
    take,
};

use crate::indexing::{sort, strided, strides};
use crate::numbers::{Numbers, limits, max, min};
use crate::shapes::{axes, axis, elements, infer_same, integers, list, list_of};

const NAMES: [&str; 10] = [
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
];

/// The definitions of the reductions by name, then of the others.
pub(crate) static DEFINITIONS: [Definition; NAMES.len() + 5] = {
    let arg = Definition::new("ArgMax", 1, (1, 1), infer_arg, arg).counting(flops);
    let mut definitions = [arg; NAMES.len() + 5];
    let mut index = 0;
    while index < NAMES.len() {
        definitions[index] = Definition::new(NAMES[index], 1, (1, 2), infer, reduce).counting(flops);
        index += 1;
    }
    definitions[index + 1] = Definition::new("ArgMin", 1, (1, 1), infer_arg, self::arg).counting(flops);
    definitions[index + 2] = Definition::new("CumSum", 11, (2, 2), infer_same, cumulate).counting(flops);
    definitions[index + 4] = Definition::new("CumProd", 26, (2, 2), infer_same, cumulate).counting(flops);
    definitions[index + 3] = Definition::new("TopK", 1, (1, 2), infer_top, top).outputs(2).counting(flops);
    definitions
};

fn flops(_: &Operator, inputs: &[Option<TensorType>], _: &[TensorType]) -> u64 {
    inputs.first().and_then(Option::as_ref).map_or(0, elements)
}

fn keeps(operator: &Operator) -> Result<bool> {
    Ok(operator.int("keepdims")?.unwrap_or(1) != 0)
}

fn reduced_dims(dims: &[Dim], over: &[usize], keep: bool) -> Vec<Dim> {
    let kept = |(axis, dim): (usize, &Dim)| match over.contains(&axis) {
        false => Some(dim.clone()),
        true => keep.then_some(Dim::Known(1)),
    };
    dims.iter().enumerate().filter_map(kept).collect()
}

/// Returns the axes to reduce: where none are listed, all of them, or none where the operator says
/// so.
fn chosen(operator: &Operator, listed: Option<&[i64]>, rank: usize) -> Result<Vec<usize>> {
    match listed {
        Some(listed) if !listed.is_empty() => axes(listed, rank),
        _ if operator.int("noop_with_empty_axes")?.unwrap_or(0) != 0 => Ok(vec![]),
        _ => Ok((0..rank).collect()),
    }
}

fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match (&ty.dims, list_of(inference, "axes", 1)?) {
        (None, _) => None,
        (Some(dims), Some(None)) => keeps(inference.operator)?.then(|| vec![Dim::Unknown; dims.len()]),
        (Some(dims), listed) => {
            let over = chosen(inference.operator, listed.flatten().as_deref(), dims.len())?;
            Some(reduced_dims(dims, &over, keeps(inference.operator)?))
        }
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

fn reduce(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let listed = list(evaluation, "axes", 1)?;
    let shape = input.shape();
    let over = chosen(operator, listed.as_deref(), shape.len())?;
    let target: Vec<usize> = (0..shape.len()).map(|axis| if over.contains(&axis) { 1 } else { shape[axis] }).collect();
    let results = evaluation.reserve(input.dtype(), &target)?;
    // Each result is of elements that lie as far apart as those of every other result.
    let own = strides(shape);
    let along = |reduced: bool| -> Result<Vec<usize>> {
        let axes = (0..shape.len()).filter(|axis| over.contains(axis) == reduced);
        let (sizes, steps): (Vec<usize>, Vec<usize>) = axes.map(|axis| (shape[axis], own[axis])).unzip();
        strided(&sizes, &steps, 0)
    };
    let (starts, apart) = (along(false)?, along(true)?);
    take(results, size_of::<i128>())?;
    let kept: Vec<usize> = if keeps(operator)? {
        target
    } else {
        (0..shape.len()).filter(|axis| !over.contains(axis)).map(|axis| shape[axis]).collect()
    };
    let name = &*operator.name;
    let numbers = match Numbers::of(input)? {
        Numbers::Floats(x) => Numbers::Floats(each(&starts, &apart, |at| float(name, at.map(|p| x[p])))?),
        Numbers::Ints(x) => {
            let (low, high) = limits(input.dtype());
            Numbers::Ints(each(&starts, &apart, |at| int(name, at.map(|p| x[p]), low, high))?)
        }
    };
    Ok(vec![numbers.into_tensor(input.dtype(), &kept)?])
}

/// The positions of the elements that are reduced together.
type Together<'a> =
    std::iter::Map<std::iter::Zip<std::slice::Iter<'a, usize>, std::iter::Repeat<usize>>, fn((&usize, usize)) -> usize>;

/// Returns what a function makes of the elements at each start.
fn each<T>(starts: &[usize], apart: &[usize], reduce: impl Fn(Together<'_>) -> T) -> Result<Vec<T>> {
    let mut results = Vec::with_capacity(starts.len());
    for &start in starts {
        spend(2 * apart.len() + 4)?;
        let at: fn((&usize, usize)) -> usize = |(apart, start)| start + apart;
        results.push(reduce(apart.iter().zip(std::iter::repeat(start)).map(at)));
    }
    Ok(results)
}

/// Reduces floats; no floats reduce to the operation's neutral element.
fn float(name: &str, values: impl Iterator<Item = f64> + Clone) -> f64 {
    match name {
        "ReduceMean" => {
            let count = values.clone().count();
            values.sum::<f64>() / count as f64
        }
        "ReduceMax" => values.fold(f64::NEG_INFINITY, max),
        "ReduceMin" => values.fold(f64::INFINITY, min),
        "ReduceProd" => values.product(),
        "ReduceL1" => values.map(f64::abs).sum(),
        "ReduceL2" => values.map(|v| v * v).sum::<f64>().sqrt(),
        "ReduceLogSum" => values.sum::<f64>().ln(),
        "ReduceLogSumExp" => {
            let largest = values.clone().fold(f64::NEG_INFINITY, max);
            if !largest.is_finite() { largest } else { largest + values.map(|v| (v - largest).exp()).sum::<f64>().ln() }
        }
        "ReduceSumSquare" => values.map(|v| v * v).sum(),
        _ => values.sum(),
    }
}

fn int(name: &str, values: impl Iterator<Item = i128> + Clone, low: i128, high: i128) -> i128 {
    match name {
        "ReduceMean" => {
            let count = values.clone().count() as i128;
            values.sum::<i128>().checked_div(count).unwrap_or(0)
        }
        "ReduceMax" => values.max().unwrap_or(low),
        "ReduceMin" => values.min().unwrap_or(high),
        "ReduceProd" => values.fold(1i128, i128::wrapping_mul),
        "ReduceSum" => values.sum(),
        "ReduceL1" => values.map(i128::abs).sum(),
        "ReduceSumSquare" => values.fold(0, |sum: i128, v| sum.wrapping_add(v.wrapping_mul(v))),
        "ReduceL2" => {
            let squares =
                values.fold(0u128, |sum, v| sum.saturating_add(v.unsigned_abs().saturating_mul(v.unsigned_abs())));
            squares.isqrt() as i128
        }
        // Logarithms of integers are taken as floats and cut off.
        _ => float(name, values.map(|v| v as f64)) as i128,
    }
}

fn infer_arg(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = match &inference.input(0)?.ty.dims {
        None => None,
        Some(dims) => {
            let along = axis(inference.operator.int("axis")?.unwrap_or(0), dims.len())?;
            Some(reduced_dims(dims, &[along], keeps(inference.operator)?))
        }
    };
    Ok(vec![TensorType { dtype: Some(DType::I64), dims }])
}

/// Returns an iterator over the lines of a tensor along an axis: the positions of each one's
/// elements.
///
/// # Errors
/// `OutOfMemory` where a line does not fit the evaluation's allowance.
/// Each line fails with `Timeout` where its time is over.
fn lines(shape: &[usize], along: usize) -> Result<impl Iterator<Item = Result<Vec<usize>>>> {
    let inner: usize = shape[along + 1..].iter().product();
    let outer: usize = shape[..along].iter().product();
    let length = shape[along];
    take(length, size_of::<usize>())?;
    let line = move |o: usize, i: usize| {
        spend(4 * length + 8)?;
        Ok((0..length).map(|k| (o * length + k) * inner + i).collect())
    };
    Ok((0..outer).flat_map(move |o| (0..inner).map(move |i| line(o, i))))
}

fn arg(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let along = axis(operator.int("axis")?.unwrap_or(0), input.rank())?;
    let last = operator.int("select_last_index")?.unwrap_or(0) != 0;
    let smallest = operator.is("ArgMin");
    if input.shape()[along] == 0 {
        return Err(Error::invalid_model(format!("{operator} over an empty axis")));
    }
    let x = Numbers::of(input)?;
    // NaN is both the largest and the smallest number, as in NumPy.
    let compare = |a: usize, b: usize| {
        let order = match &x {
            Numbers::Ints(x) => x[a].cmp(&x[b]),
            Numbers::Floats(x) => match x[a].partial_cmp(&x[b]) {
                Some(order) => order,
                None => return x[a].is_nan().cmp(&x[b].is_nan()),
            },
        };
        if smallest { order.reverse() } else { order }
    };
    let chosen = lines(input.shape(), along)?.map(|line| {
        let line = line?;
        let mut best = 0;
        for k in 1..line.len() {
            let order = compare(line[k], line[best]);
            if order.is_gt() || (last && order.is_eq()) {
                best = k;
            }
        }
        Ok(best as i64)
    });
    let mut shape = input.shape().to_vec();
    if keeps(operator)? {
        shape[along] = 1;
    } else {
        shape.remove(along);
    }
    take(element_count(&shape).unwrap_or(usize::MAX), 2 * size_of::<i64>())?;
    Ok(vec![Tensor::from_vec(&shape, chosen.collect::<Result<_>>()?)?])
}

fn cumulate(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let along = integers(evaluation.input(1)?)?;
    let along = axis(along.first().copied().unwrap_or(0), input.rank())?;
    let exclusive = operator.int("exclusive")?.unwrap_or(0) != 0;
    let reverse = operator.int("reverse")?.unwrap_or(0) != 0;
    fn run<T: Copy>(x: &mut [T], line: &[usize], start: T, join: impl Fn(T, T) -> T, exclusive: bool) {
        let mut total = start;
        for &p in line {
            let next = join(total, x[p]);
            x[p] = if exclusive { total } else { next };
            total = next;
        }
    }
    let product = operator.is("CumProd");
    let mut numbers = Numbers::of(input)?;
    for line in lines(input.shape(), along)? {
        let mut line = line?;
        if reverse {
            line.reverse();
        }
        match &mut numbers {
            Numbers::Floats(x) if product => run(x, &line, 1.0, |a, b| a * b, exclusive),
            Numbers::Floats(x) => run(x, &line, 0.0, |a, b| a + b, exclusive),
            Numbers::Ints(x) if product => run(x, &line, 1, i128::wrapping_mul, exclusive),
            Numbers::Ints(x) => run(x, &line, 0, i128::wrapping_add, exclusive),
        }
    }
    Ok(vec![numbers.into_tensor(input.dtype(), input.shape())?])
}

fn infer_top(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let k = match (inference.operator.int("k")?, inference.optional(1)) {
        (Some(k), _) => Some(k),
        (None, Some(fact)) => match &fact.value {
            Some(value) => value.to_i64_vec()?.first().copied(),
            None => None,
        },
        (None, None) => return Err(Error::invalid_model("TopK lacks its k")),
    };
    let dims = match &ty.dims {
        None => None,
        Some(dims) => {
            let along = axis(inference.operator.int("axis")?.unwrap_or(-1), dims.len())?;
            let mut dims = dims.clone();
            dims[along] = match (k, dims[along].bound()) {
                (Some(k), _) => Dim::Known(crate::shapes::size(k)?),
                (None, Some(bound)) => Dim::Data { bound, extent: None },
                (None, None) => Dim::Unknown,
            };
            Some(dims)
        }
    };
    let positions = TensorType { dtype: Some(DType::I64), dims: dims.clone() };
    Ok(vec![TensorType { dtype: ty.dtype, dims }, positions])
}

fn top(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let k = match (operator.int("k")?, evaluation.optional(1)) {
        (Some(k), _) => k,
        (None, Some(tensor)) => integers(tensor)?.first().copied().unwrap_or(0),
        (None, None) => return Err(Error::invalid_model("TopK lacks its k")),
    };
    let along = axis(operator.int("axis")?.unwrap_or(-1), input.rank())?;
    let k = crate::shapes::size(k)?;
    if k > input.shape()[along] {
        return Err(Error::invalid_model(format!("TopK of {k} among {}", input.shape()[along])));
    }
    let largest = operator.int("largest")?.unwrap_or(1) != 0;
    let numbers = Numbers::of(input)?;
    let compare = |a: usize, b: usize| {
        let order = match &numbers {
            Numbers::Floats(x) => x[a].partial_cmp(&x[b]).unwrap_or_else(|| x[a].is_nan().cmp(&x[b].is_nan())),
            Numbers::Ints(x) => x[a].cmp(&x[b]),
        };
        if largest { order.reverse() } else { order }
    };
    let mut shape = input.shape().to_vec();
    shape[along] = k;
    let inner: usize = shape[along + 1..].iter().product();
    let count = evaluation.reserve(DType::I64, &shape)?;
    take(count, size_of::<usize>() + size_of::<i64>())?;
    take(input.shape()[along], size_of::<usize>())?;
    spend(count)?;
    let (mut from, mut positions) = (vec![0; count], vec![0i64; count]);
    for (number, line) in lines(input.shape(), along)?.enumerate() {
        let line = line?;
        let mut order: Vec<usize> = (0..line.len()).collect();
        // The sort takes memory for each line anew, so what it takes is counted for one line.
        if number == 0 {
            take(line.len(), 2 * size_of::<usize>())?;
        }
        sort(&mut order, |&a, &b| compare(line[a], line[b]).then(a.cmp(&b)))?;
        for (rank, &index) in order.iter().take(k).enumerate() {
            let at = (number / inner * k + rank) * inner + number % inner;
            from[at] = line[index];
            positions[at] = index as i64;
        }
    }
    let values = crate::indexing::pick(input, &shape, from.into_iter().map(Some), None)?;
    Ok(vec![values, Tensor::from_vec(&shape, positions)?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    #[test]
    fn reductions_keep_or_drop_axes() {
        let x = Tensor::from_vec(&[2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let op = |name: &str, axes: &[i64], keep: i64| {
            Operator::new(name, 11).with("axes", Attribute::Ints(axes.to_vec())).with("keepdims", Attribute::Int(keep))
        };
        let run = |op: &Operator| crate::evaluate(op, &[Some(x.clone())], 1).unwrap().remove(0);
        let mean = run(&op("ReduceMean", &[-1], 1));
        assert_eq!((mean.shape(), &*mean.view::<f32>().unwrap()), (&[2, 1][..], &[2.0, 5.0][..]));
        let max = run(&op("ReduceMax", &[0], 0));
        assert_eq!((max.shape(), &*max.view::<f32>().unwrap()), (&[3][..], &[4.0, 5.0, 6.0][..]));
        assert_eq!(run(&Operator::new("ReduceSum", 13)).shape(), [1, 1]);
    }

    #[test]
    fn ties_go_to_the_first() {
        let x = Tensor::from_vec(&[4], vec![1.0f32, 3.0, 3.0, 2.0]).unwrap();
        let k = Tensor::from_vec(&[1], vec![3i64]).unwrap();
        let top = crate::evaluate(&Operator::new("TopK", 11), &[Some(x.clone()), Some(k)], 2).unwrap();
        assert_eq!(&*top[1].view::<i64>().unwrap(), [1, 2, 3]);
        let arg = crate::evaluate(&Operator::new("ArgMax", 13), &[Some(x)], 1).unwrap();
        assert_eq!(&*arg[0].view::<i64>().unwrap(), [1]);
    }

    #[test]
    fn whole_numbers_are_told_apart_beyond_floats() {
        let x = Tensor::from_vec(&[3], vec![(1i64 << 53) + 1, 1 << 53, (1 << 53) + 2]).unwrap();
        let at = |name: &str| {
            let y = crate::evaluate(&Operator::new(name, 13), &[Some(x.clone())], 1).unwrap();
            y[0].view::<i64>().unwrap()[0]
        };
        assert_eq!((at("ArgMax"), at("ArgMin")), (2, 1));
        let x = Tensor::from_vec(&[1], vec![(1i64 << 53) + 1]).unwrap();
        let y = crate::evaluate(&Operator::new("ReduceL2", 18), &[Some(x)], 1).unwrap();
        assert_eq!(&*y[0].view::<i64>().unwrap(), [(1 << 53) + 1]);
    }

    #[test]
    fn nan_is_the_largest_and_the_smallest() {
        let x = Tensor::from_vec(&[4], vec![1.0f32, f32::NAN, f32::INFINITY, f32::NAN]).unwrap();
        for (name, last, place) in [("ArgMax", 0, 1), ("ArgMin", 0, 1), ("ArgMax", 1, 3), ("ArgMin", 1, 3)] {
            let op = Operator::new(name, 13).with("select_last_index", Attribute::Int(last));
            let y = crate::evaluate(&op, &[Some(x.clone())], 1).unwrap();
            assert_eq!(&*y[0].view::<i64>().unwrap(), [place], "{name}, last: {last}");
        }
        for (values, expected) in [
            (vec![f32::INFINITY, f32::NAN], f32::NAN),
            (vec![f32::NEG_INFINITY, f32::NEG_INFINITY], f32::NEG_INFINITY),
            (vec![f32::INFINITY, f32::NEG_INFINITY], f32::INFINITY),
        ] {
            let x = Tensor::from_vec(&[2], values).unwrap();
            let y = crate::evaluate(&Operator::new("ReduceLogSumExp", 18), &[Some(x)], 1).unwrap();
            let found = y[0].view::<f32>().unwrap()[0];
            assert!(found == expected || (found.is_nan() && expected.is_nan()), "{found} is not {expected}");
        }
    }
}
