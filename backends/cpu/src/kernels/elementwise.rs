//! Element-wise operators on f32.

use hetero_hal::{DType, Result};

use super::tile::piece;
use super::vector::{Activation, Pairwise, Second};
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, floats};

/// The elements that one task works on: enough to pay for handing the task over, and few enough to
/// stay in the first cache.
const CHUNK: usize = 4 * 1024;

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if !site.all(DType::F32) {
        return Ok(None);
    }
    if let Some(function) = unary(site)? {
        return Ok(Some(Box::new(Unary { isa: site.isa, function })));
    }
    let Some(function) = binary(site) else {
        return Ok(None);
    };
    let Some(output) = site.output(0) else { return Ok(None) };
    let others = (1..site.node.inputs.len()).map(|index| site.shape(index)).collect::<Option<Vec<_>>>();
    let (Some(first), Some(others)) = (site.shape(0), others) else {
        return Ok(None);
    };
    // In a sum of several tensors, the first one may be smaller than the result only where there
    // are two.
    if others.is_empty() || (others.len() > 1 && first != output.shape) {
        return Ok(None);
    }
    let pieces = |shape: &[usize]| Broadcast::new(shape, &output.shape);
    let (first, others) = (pieces(first), others.into_iter().map(pieces).collect());
    Ok(Some(Box::new(Binary { isa: site.isa, function, first, others })))
}

/// Returns the function of a unary operator.
pub(crate) fn unary(site: Site<'_>) -> Result<Option<Activation>> {
    let operator = site.operator();
    Ok(Some(match &*operator.name {
        "Relu" => Activation::Clamp(0.0, f32::INFINITY),
        "Sigmoid" => Activation::Sigmoid,
        "Tanh" => Activation::Tanh,
        "Exp" => Activation::Exp,
        "Erf" => Activation::Erf,
        "Log" => Activation::Log,
        "Sqrt" => Activation::Sqrt,
        "Neg" => Activation::Neg,
        "Abs" => Activation::Abs,
        "Reciprocal" => Activation::Reciprocal,
        "Floor" => Activation::Floor,
        "Ceil" => Activation::Ceil,
        "Round" => Activation::Round,
        "Sign" => Activation::Sign,
        "Softplus" => Activation::Softplus,
        "Softsign" => Activation::Softsign,
        "Mish" => Activation::Mish,
        "Elu" => Activation::Elu(operator.float("alpha")?.unwrap_or(1.0)),
        "Celu" => Activation::Celu(operator.float("alpha")?.unwrap_or(1.0)),
        "Selu" => Activation::Selu(
            operator.float("alpha")?.unwrap_or(1.673_263_2),
            operator.float("gamma")?.unwrap_or(1.050_701),
        ),
        "Swish" => Activation::Swish(operator.float("alpha")?.unwrap_or(1.0)),
        "Gelu" if operator.text("approximate")? == Some("tanh") => Activation::GeluTanh,
        "Gelu" => Activation::Gelu,
        "ThresholdedRelu" => Activation::Threshold(operator.float("alpha")?.unwrap_or(1.0)),
        "Shrink" => Activation::Shrink(operator.float("lambd")?.unwrap_or(0.5), operator.float("bias")?.unwrap_or(0.0)),
        "Sin" => Activation::Sin,
        "Cos" => Activation::Cos,
        "Tan" => Activation::Each(f32::tan),
        "Asin" => Activation::Each(f32::asin),
        "Acos" => Activation::Each(f32::acos),
        "Atan" => Activation::Each(f32::atan),
        "Sinh" => Activation::Each(f32::sinh),
        "Cosh" => Activation::Each(f32::cosh),
        // Of f32, squares of large numbers would overflow.
        "Asinh" => Activation::Each(|x| f64::from(x).asinh() as f32),
        "Acosh" => Activation::Each(|x| f64::from(x).acosh() as f32),
        "Atanh" => Activation::Each(|x| f64::from(x).atanh() as f32),
        "LeakyRelu" => Activation::Leaky(operator.float("alpha")?.unwrap_or(0.01)),
        "HardSigmoid" => {
            Activation::HardSigmoid(operator.float("alpha")?.unwrap_or(0.2), operator.float("beta")?.unwrap_or(0.5))
        }
        "HardSwish" => Activation::HardSwish,
        "Clip" => {
            let limit = |index: usize, name: &str| -> Result<Option<Option<f32>>> {
                if let Some(value) = operator.float(name)? {
                    return Ok(Some(Some(value)));
                }
                match (site.input(index), site.constant(index)) {
                    (None, _) => Ok(Some(None)),
                    (Some(_), None) => Ok(None),
                    (Some(_), Some(tensor)) => Ok(Some(floats(tensor)?.first().copied())),
                }
            };
            let (Some(low), Some(high)) = (limit(1, "min")?, limit(2, "max")?) else {
                return Ok(None);
            };
            // A bound that is NaN makes every result NaN, whereas a range leaves it out.
            if low.into_iter().chain(high).any(f32::is_nan) {
                return Ok(None);
            }
            Activation::Clamp(low.unwrap_or(f32::NEG_INFINITY), high.unwrap_or(f32::INFINITY))
        }
        _ => return Ok(None),
    }))
}

/// Applies a function over many elements, on all threads.
pub(crate) fn spread(count: usize, runtime: &Runtime<'_>, body: impl Fn(std::ops::Range<usize>) + Sync) {
    let chunks = count.div_ceil(CHUNK);
    let pieces = runtime.pieces(chunks, CHUNK);
    runtime.for_each(pieces, |number, _| {
        for chunk in piece(chunks, pieces, number) {
            body(chunk * CHUNK..((chunk + 1) * CHUNK).min(count));
        }
    });
}

pub(super) struct Unary {
    pub(super) isa: Isa,
    pub(super) function: Activation,
}

impl Kernel for Unary {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let values = arguments.start_from::<f32>(0)?;
        let (count, values) = (values.len(), Shared::new(values));
        spread(count, runtime, |range| {
            // SAFETY: each range is one task's.
            self.function.apply(self.isa, unsafe { values.slice(range.start, range.len()) });
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

pub(crate) fn binary(site: Site<'_>) -> Option<Pairwise> {
    Some(match &*site.operator().name {
        "Add" | "Sum" => Pairwise::Add,
        "Sub" => Pairwise::Sub,
        "Mul" => Pairwise::Mul,
        "Div" => Pairwise::Div,
        "Max" => Pairwise::Max,
        "Min" => Pairwise::Min,
        // Squares, roots and similar powers are the usual ones.
        "Pow" => match site.constant(1).and_then(|tensor| floats(tensor).ok()) {
            Some(exponents) if exponents.iter().all(|&exponent| exponent == exponents[0]) => power(exponents.first()),
            _ => Pairwise::Each(f32::powf),
        },
        // Without the flag, the operator is for integers.
        "Mod" if site.operator().int("fmod").ok().flatten() == Some(1) => Pairwise::Each(|a, b| a % b),
        "PRelu" => Pairwise::PRelu,
        _ => return None,
    })
}

/// Returns the function that raises `x` to a known power.
fn power(exponent: Option<&f32>) -> Pairwise {
    match exponent {
        Some(2.0) => Pairwise::Square,
        Some(3.0) => Pairwise::Cube,
        Some(-1.0) => Pairwise::Inverse,
        Some(0.5) => Pairwise::Root,
        _ => Pairwise::Each(f32::powf),
    }
}

/// The length of a row from which on it is worth a call of its own.
const SHORT: usize = 48;

/// The pattern in which a smaller tensor repeats over a larger one, row by row of the larger one's
/// last dimension.
#[derive(Clone, Debug)]
pub(super) struct Broadcast {
    /// The sizes of the larger tensor's dimensions but the last.
    outer: Box<[usize]>,
    /// The smaller tensor's stride in each of these dimensions.
    strides: Box<[usize]>,
    /// The length of a row.
    row: usize,
    /// The smaller tensor's stride within a row: 1, or 0 where it repeats.
    pub(super) step: usize,
    /// Whether nothing is repeated.
    same: bool,
}

impl Broadcast {
    pub(super) fn new(shape: &[usize], target: &[usize]) -> Self {
        let mut strides = vec![0; target.len()];
        let lead = target.len() - shape.len();
        let mut stride = 1;
        for axis in (0..shape.len()).rev() {
            if shape[axis] != 1 {
                strides[lead + axis] = stride;
            }
            stride *= shape[axis];
        }
        // Last dimensions over all of which the tensor repeats, or over none of which it does, are
        // one row.
        let mut sizes = target.to_vec();
        while sizes.len() > 1 {
            let (last, before) = (sizes.len() - 1, sizes.len() - 2);
            let merged = strides[before] == strides[last] * sizes[last] || sizes[before] == 1;
            if !merged && sizes[last] != 1 {
                break;
            }
            if sizes[last] == 1 {
                strides[last] = strides[before];
            }
            strides.remove(before);
            let size = sizes.remove(before);
            sizes[before] *= size;
        }
        let row = sizes.pop().unwrap_or(1);
        let step = strides.pop().unwrap_or(0);
        Broadcast { outer: sizes.into(), strides: strides.into(), row, step, same: shape == target }
    }

    /// Returns where the smaller tensor's elements for a row begin.
    fn start(&self, mut row: usize) -> usize {
        let mut start = 0;
        for (size, stride) in self.outer.iter().zip(self.strides.iter()).rev() {
            start += row % size * stride;
            row /= size;
        }
        start
    }

    /// Calls `body` for each run of elements of `range` over which the smaller tensor is contiguous
    /// or one number.
    pub(super) fn runs(&self, range: std::ops::Range<usize>, mut body: impl FnMut(std::ops::Range<usize>, usize)) {
        let row = self.row.max(1);
        let mut at = range.start;
        while at < range.end {
            let (number, offset) = (at / row, at % row);
            let end = (at + row - offset).min(range.end);
            body(at..end, self.start(number) + offset * self.step);
            at = end;
        }
    }

    /// Tells whether rows are so short that going through them one by one would take longer than
    /// writing out what is repeated.
    pub(super) fn is_short(&self) -> bool {
        self.row < SHORT && !self.outer.is_empty()
    }

    /// Writes the smaller tensor's elements for a range of the larger one's.
    pub(super) fn expand<T: Copy>(&self, input: &[T], range: std::ops::Range<usize>, into: &mut [T]) {
        let (row, offset) = (self.row.max(1), range.start);
        let whole = range.start.div_ceil(row)..range.end / row;
        if whole.is_empty() {
            return self.expand_runs(input, range, offset, into);
        }
        self.expand_runs(input, range.start..whole.start * row, offset, into);
        self.expand_runs(input, whole.end * row..range.end, offset, into);
        // Rows whose starts are equally far from each other.
        let (inner, stride) = (self.outer.last().copied().unwrap_or(1), self.strides.last().copied().unwrap_or(0));
        let mut number = whole.start;
        while number < whole.end {
            let count = (inner - number % inner).min(whole.end - number);
            let target = &mut into[number * row - offset..][..count * row];
            let input = &input[self.start(number)..];
            macro_rules! rows {
                ($($row:literal)*) => {
                    match row {
                        $($row => {
                            for (index, target) in target.as_chunks_mut::<$row>().0.iter_mut().enumerate() {
                                let input = &input[index * stride..];
                                *target = match self.step {
                                    0 => [input[0]; $row],
                                    _ => std::array::from_fn(|at| input[at]),
                                };
                            }
                        })*
                        _ => for (index, target) in target.chunks_exact_mut(row).enumerate() {
                            let input = &input[index * stride..];
                            match self.step {
                                0 => target.fill(input[0]),
                                _ => target.copy_from_slice(&input[..row]),
                            }
                        },
                    }
                };
            }
            rows!(1 2 3 4 5 6 7 8);
            number += count;
        }
    }

    fn expand_runs<T: Copy>(&self, input: &[T], range: std::ops::Range<usize>, offset: usize, into: &mut [T]) {
        self.runs(range, |run, start| {
            let into = &mut into[run.start - offset..run.end - offset];
            match self.step {
                0 => into.fill(input[start]),
                _ => into.copy_from_slice(&input[start..start + into.len()]),
            }
        });
    }
}

/// A function over several operands of one shape and layout.
pub(super) struct Same {
    pub(super) isa: Isa,
    pub(super) function: Pairwise,
    pub(super) inputs: usize,
}

impl Kernel for Same {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let others = (1..self.inputs).map(|index| arguments.input::<f32>(index)).collect::<Result<Vec<_>>>()?;
        let result = arguments.start_from::<f32>(0)?;
        let (count, result) = (result.len(), Shared::new(result));
        spread(count, runtime, |range| {
            for other in &others {
                // SAFETY: each range is one task's.
                let own = unsafe { result.slice(range.start, range.len()) };
                self.function.apply(self.isa, own, Second::Same(&other[range.clone()]), false);
            }
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

struct Binary {
    isa: Isa,
    function: Pairwise,
    first: Broadcast,
    others: Vec<Broadcast>,
}

impl Kernel for Binary {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let first = if self.first.same { None } else { Some(arguments.input::<f32>(0)?) };
        let others = (1..=self.others.len()).map(|index| arguments.input::<f32>(index)).collect::<Result<Vec<_>>>()?;
        let result = if self.first.same { arguments.start_from::<f32>(0)? } else { arguments.output::<f32>(0)? };
        let (count, result) = (result.len(), Shared::new(result));
        spread(count, runtime, |range| {
            // SAFETY: each range is one task's.
            let own = |range: &std::ops::Range<usize>| unsafe { result.slice(range.start, range.len()) };
            if let Some(a) = first {
                self.first.expand(a, range.clone(), own(&range));
            }
            for (pattern, b) in self.others.iter().zip(&others) {
                if pattern.is_short() {
                    let mut expanded = [0.0; 512];
                    for start in range.clone().step_by(expanded.len()) {
                        let part = start..(start + expanded.len()).min(range.end);
                        let expanded = &mut expanded[..part.len()];
                        pattern.expand(b, part.clone(), expanded);
                        self.function.apply(self.isa, own(&part), Second::Same(expanded), false);
                    }
                    continue;
                }
                pattern.runs(range.clone(), |range, start| {
                    let second = match pattern.step {
                        0 => Second::One(b[start]),
                        _ => Second::Same(&b[start..start + range.len()]),
                    };
                    self.function.apply(self.isa, own(&range), second, false);
                });
            }
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        if self.first.same { &[0] } else { &[] }
    }
}

#[cfg(test)]
mod tests {
    use hetero_testkit::SplitMix64 as Random;

    use super::*;

    #[test]
    fn what_is_repeated_is_the_same_row_by_row_and_written_out() {
        let mut random = Random::new(3);
        for _ in 0..400 {
            let target: Vec<usize> = (0..1 + random.below(4)).map(|_| 1 + random.below(9)).collect();
            let lead = random.below(target.len());
            let own = |&size: &usize| if random.below(2) == 0 { 1 } else { size };
            let shape: Vec<usize> = target[lead..].iter().map(own).collect();
            let input: Vec<usize> = (0..shape.iter().product()).collect();
            let pattern = Broadcast::new(&shape, &target);
            let count: usize = target.iter().product();
            let start = random.below(count);
            let range = start..start + 1 + random.below(count - start);
            let mut found = vec![usize::MAX; range.len()];
            pattern.expand(&input, range.clone(), &mut found);
            for (place, found) in range.zip(found) {
                // The place in each dimension, from the last on.
                let (mut rest, mut at, mut stride) = (place, 0, 1);
                for axis in (0..target.len()).rev() {
                    let own = axis.checked_sub(lead).map_or(1, |axis| shape[axis]);
                    at += if own == 1 { 0 } else { rest % target[axis] * stride };
                    stride *= own;
                    rest /= target[axis];
                }
                assert_eq!(found, at, "{shape:?} over {target:?}, {place}");
            }
        }
    }
}
