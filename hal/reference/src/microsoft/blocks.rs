//! Weights of few bits, quantised in blocks along one dimension: products and gathering.

use hetero_hal::{
    DType, Definition, Dim, Error, Evaluation, Graph, Inference, Operator, Result, Tensor, TensorType, element_count,
    spend, take,
};

use super::DOMAIN;
use crate::body::{Body, has, known, misfit, shape};
use crate::numbers::{floats, pack};
use crate::shapes::{axis, elements, integers, size};

pub(super) static DEFINITIONS: &[Definition] = &[
    Definition::new("MatMulNBits", 1, (3, 6), infer_product, product).in_domain(DOMAIN).counting(product_flops),
    Definition::new("GatherBlockQuantized", 1, (3, 4), infer_gather, gather).in_domain(DOMAIN).expanding(expand_gather),
];

/// The layout of the weights of a MatMulNBits: `columns` rows of `depth` weights, in blocks.
///
/// Within a block, weights are packed into bytes, the first in the lowest bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// The number of weights that make one element of the result, `K`.
    pub depth: usize,
    /// The number of elements that a row of the result has, `N`.
    pub columns: usize,
    /// The bits of a weight: 2, 4 or 8.
    pub bits: usize,
    /// The weights that share a scale.
    pub block: usize,
}

impl Blocks {
    /// Reads the layout from the attributes of a MatMulNBits.
    ///
    /// # Errors
    /// `InvalidModel` where an attribute is missing or wrong, and `Unsupported` for weights in the
    /// layout of another device.
    pub fn of(operator: &Operator) -> Result<Blocks> {
        let positive = |name: &str| {
            let value = operator.int(name)?.unwrap_or(0);
            let value = usize::try_from(value).ok().filter(|&value| value > 0);
            value.ok_or_else(|| misfit(operator, format!("{name} is not a positive size")))
        };
        let bits = operator.int("bits")?.unwrap_or(4);
        if ![2, 4, 8].contains(&bits) {
            return Err(misfit(operator, format!("weights have {bits} bits, not 2, 4 or 8")));
        }
        let block = positive("block_size")?;
        if block < 16 || !block.is_power_of_two() {
            return Err(misfit(operator, format!("block_size {block} is no power of two from 16 on")));
        }
        if operator.int("weight_prepacked")?.unwrap_or(0) != 0 {
            return Err(Error::unsupported(format!("{operator} with weights packed for one device")));
        }
        Ok(Blocks { depth: positive("K")?, columns: positive("N")?, bits: bits as usize, block })
    }

    /// Returns the number of blocks of a column.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.depth.div_ceil(self.block)
    }

    /// Returns the bytes of a block.
    /// A block that is too large to count has a size that no tensor has.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block / 8 * self.bits
    }

    /// Returns the bytes of the packed zero points of a column.
    #[must_use]
    pub fn zero_bytes(&self) -> usize {
        self.blocks().saturating_mul(self.bits).div_ceil(8)
    }

    /// Checks the sizes of the inputs, as far as they are known.
    ///
    /// # Errors
    /// `InvalidModel` with the input that does not fit.
    pub fn check(&self, operator: &Operator, inputs: [Option<(DType, &[usize])>; 6]) -> Result<()> {
        let count = |sizes: &[usize]| element_count(sizes).unwrap_or(usize::MAX);
        let scales = count(&[self.columns, self.blocks()]);
        let [a, b, scale, zero, order, bias] = inputs;
        let wrong = |index: usize, shape: &[usize], wanted: usize| {
            misfit(operator, format!("input {index} of shape {shape:?} should have {wanted} elements"))
        };
        if let Some((_, a)) = a
            && a.last() != Some(&self.depth)
        {
            return Err(misfit(operator, format!("input 0 of shape {a:?} has no rows of {}", self.depth)));
        }
        let weights = count(&[self.columns, self.blocks(), self.block_bytes()]);
        let zeros = match zero {
            Some((DType::U8, _)) => count(&[self.columns, self.zero_bytes()]),
            _ => scales,
        };
        let sizes = [(1, b, weights), (2, scale, scales), (3, zero, zeros), (5, bias, self.columns)];
        for (index, input, wanted) in sizes {
            if let Some((_, shape)) = input
                && element_count(shape) != Some(wanted)
            {
                return Err(wrong(index, shape, wanted));
            }
        }
        if let Some((dtype, _)) = b
            && dtype != DType::U8
        {
            return Err(misfit(operator, format!("the weights are {dtype}, not uint8")));
        }
        // The order may name groups for the rows that fill the last block, too.
        let whole = count(&[self.blocks(), self.block]);
        match order {
            Some((_, shape)) if ![Some(self.depth), Some(whole)].contains(&element_count(shape)) => {
                Err(wrong(4, shape, self.depth))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the code at a position of packed bytes, of 2, 4 or 8 bits each.
fn code(bytes: &[u8], bits: usize, at: usize) -> u8 {
    let each = 8 / bits;
    let byte = bytes.get(at / each).copied().unwrap_or(0);
    let mask = (1u16 << bits) - 1;
    (u16::from(byte) >> (at % each * bits) & mask) as u8
}

fn product_flops(operator: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    let depth = Blocks::of(operator).map_or(1, |blocks| blocks.depth as u64);
    outputs.first().map_or(0, elements).saturating_mul(2).saturating_mul(depth)
}

fn infer_product(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let blocks = Blocks::of(inference.operator)?;
    let fact = |index: usize| inference.optional(index).and_then(|fact| Some((fact.ty.dtype?, fact.ty.shape()?)));
    let facts = [0, 1, 2, 3, 4, 5].map(fact);
    blocks.check(inference.operator, facts.each_ref().map(|fact| fact.as_ref().map(|(ty, dims)| (*ty, &**dims))))?;
    let dims = inference.dims(0)?.map(|dims| {
        let mut dims = dims.to_vec();
        if let Some(last) = dims.last_mut() {
            *last = Dim::Known(blocks.columns);
        }
        dims
    });
    Ok(vec![TensorType { dtype: inference.dtype(0)?, dims }])
}

fn product(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let blocks = Blocks::of(operator)?;
    let fact = |index: usize| evaluation.optional(index).map(|tensor| (tensor.dtype(), tensor.shape()));
    blocks.check(operator, [0, 1, 2, 3, 4, 5].map(fact))?;
    let a = evaluation.input(0)?;
    let mut into = a.shape().to_vec();
    if let Some(last) = into.last_mut() {
        *last = blocks.columns;
    }
    let count = evaluation.reserve(a.dtype(), &into)?;
    let (x, codes, scales) = (floats(a)?, evaluation.input(1)?.bytes(), floats(evaluation.input(2)?)?);
    let packed = evaluation.optional(3).filter(|zero| zero.dtype() == DType::U8);
    let typed = evaluation.optional(3).filter(|zero| zero.dtype() != DType::U8).map(floats).transpose()?;
    let order = evaluation.optional(4).map(integers).transpose()?;
    let bias = evaluation.optional(5).map(floats).transpose()?;
    let Blocks { depth, columns, bits, block } = blocks;
    let (parts, bytes) = (blocks.blocks(), blocks.block_bytes());
    take(count, size_of::<f64>())?;
    take(depth, size_of::<f64>())?;
    let rows = count / columns;
    let mut result = vec![0.0; count];
    let mut weights = vec![0.0; depth];
    for column in 0..columns {
        spend(8 * depth)?;
        for (at, weight) in weights.iter_mut().enumerate() {
            let group = match &order {
                None => at / block,
                Some(order) => usize::try_from(order[at])
                    .ok()
                    .filter(|&group| group < parts)
                    .ok_or_else(|| misfit(operator, format!("g_idx names the group {} of {parts}", order[at])))?,
            };
            let scale = column * parts + group;
            let zero = match (&packed, &typed) {
                (Some(packed), _) => {
                    let line = &packed.bytes()[column * blocks.zero_bytes()..];
                    f64::from(code(line, bits, group))
                }
                (None, Some(typed)) => typed[scale],
                (None, None) => (1usize << (bits - 1)) as f64,
            };
            let line = &codes[(column * parts + at / block) * bytes..][..bytes];
            *weight = (f64::from(code(line, bits, at % block)) - zero) * scales[scale];
        }
        for row in 0..rows {
            spend(2 * depth)?;
            let sum: f64 = x[row * depth..][..depth].iter().zip(&weights).map(|(x, weight)| x * weight).sum();
            result[row * columns + column] = sum + bias.as_ref().map_or(0.0, |bias| bias[column]);
        }
    }
    Ok(vec![pack(result, a.dtype(), &into)?])
}

/// The sizes of a GatherBlockQuantized.
struct Gathering {
    /// The shape of the data with one element for each number.
    data: Vec<usize>,
    /// The bits of a number where several share a byte of the data, and else 0.
    bits: usize,
    along: usize,
    blocked: usize,
    block: usize,
    scales: Vec<usize>,
    zero: f64,
}

impl Gathering {
    fn of(operator: &Operator, (dtype, data): (DType, &[usize]), scales: &[usize]) -> Result<Gathering> {
        let along = axis(operator.int("gather_axis")?.unwrap_or(0), data.len())?;
        let blocked = axis(operator.int("quantize_axis")?.unwrap_or(1), data.len())?;
        let block = size(operator.int("block_size")?.unwrap_or(128))?;
        let mut data = data.to_vec();
        let (bits, zero) = match dtype {
            DType::U8 => {
                let bits = operator.int("bits")?.unwrap_or(4);
                if ![2, 4, 8].contains(&bits) || along != 0 || blocked + 1 != data.len() {
                    return Err(misfit(
                        operator,
                        format!("bytes of {bits} bits are gathered along axis {along} in blocks along axis {blocked}"),
                    ));
                }
                let last = data[blocked].checked_mul(8 / bits as usize);
                data[blocked] = last.ok_or_else(|| misfit(operator, "the data is too large"))?;
                (bits as usize, (1u64 << (bits - 1)) as f64)
            }
            DType::I4 | DType::U4 => (0, 0.0),
            ty if ty.is_float() && ty.bits() <= 8 => (0, 0.0),
            other => return Err(misfit(operator, format!("the data is {other}"))),
        };
        let block = if block == 0 && dtype.is_float() { data[blocked].max(1) } else { block };
        if block == 0 || (!dtype.is_float() && (block < 16 || !block.is_power_of_two())) {
            return Err(misfit(operator, format!("block_size {block} is no power of two from 16 on")));
        }
        let fits = scales.len() == data.len()
            && scales.iter().zip(&data).enumerate().all(|(at, (&scale, &size))| {
                let wanted = if at == blocked { size.div_ceil(block) } else { size };
                scale == wanted || (dtype.is_float() && at != blocked && scale == 1)
            });
        if !fits {
            return Err(misfit(operator, format!("the scales {scales:?} do not fit the data {data:?}")));
        }
        Ok(Gathering { data, bits, along, blocked, block, scales: scales.to_vec(), zero })
    }

    /// Returns the shape of the result.
    fn result(&self, indices: &[usize]) -> Vec<usize> {
        [&self.data[..self.along], indices, &self.data[self.along + 1..]].concat()
    }

    /// Checks the zero points, which are packed as the data is.
    fn check_zeros(&self, operator: &Operator, zeros: &[usize]) -> Result<()> {
        let mut wanted = self.scales.clone();
        if self.bits > 0 {
            wanted[self.blocked] = wanted[self.blocked].saturating_mul(self.bits).div_ceil(8);
        }
        if zeros == wanted { Ok(()) } else { Err(misfit(operator, format!("the zero points are {zeros:?}"))) }
    }
}

fn infer_gather(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = inference.dtype(2)?;
    let unknown = vec![TensorType { dtype, dims: None }];
    let (Some(data), Some(scales)) = (shape(inference, 0)?, shape(inference, 2)?) else { return Ok(unknown) };
    let (Some(ty), Some(indices)) = (inference.dtype(0)?, inference.dims(1)?) else { return Ok(unknown) };
    let gathering = Gathering::of(inference.operator, (ty, &data), &scales)?;
    if has(inference, 3)
        && let Some(zeros) = shape(inference, 3)?
    {
        gathering.check_zeros(inference.operator, &zeros)?;
    }
    let known = |sizes: &[usize]| sizes.iter().map(|&size| Dim::Known(size)).collect::<Vec<_>>();
    let along = gathering.along;
    let dims = [known(&gathering.data[..along]), indices.to_vec(), known(&gathering.data[along + 1..])].concat();
    Ok(vec![TensorType { dtype, dims: Some(dims) }])
}

fn gather(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (data, indices, scale) = (evaluation.input(0)?, evaluation.input(1)?, evaluation.input(2)?);
    let gathering = Gathering::of(operator, (data.dtype(), data.shape()), scale.shape())?;
    let into = gathering.result(indices.shape());
    let count = evaluation.reserve(scale.dtype(), &into)?;
    let Gathering { bits, along, blocked, block, .. } = gathering;
    let codes = |tensor: &Tensor, columns: usize| -> Result<Vec<f64>> {
        if bits == 0 {
            return floats(tensor);
        }
        // Each row of bytes is unpacked for itself, as the last byte of a row may be half full.
        let bytes = tensor.shape().last().copied().unwrap_or(1);
        let rows = tensor.len().checked_div(bytes).unwrap_or(0);
        let count = element_count(&[rows, columns]).unwrap_or(usize::MAX);
        take(count, size_of::<f64>())?;
        let at = |index: usize| {
            let (row, column) = (index / columns, index % columns);
            f64::from(code(&tensor.bytes()[row * bytes..(row + 1) * bytes], bits, column))
        };
        Ok((0..count).map(at).collect())
    };
    let x = codes(data, gathering.data[data.rank() - 1])?;
    let scales = floats(scale)?;
    let zeros = match evaluation.optional(3) {
        None => None,
        Some(zeros) => {
            gathering.check_zeros(operator, zeros.shape())?;
            Some(codes(zeros, gathering.scales[scale.rank() - 1])?)
        }
    };
    let picked = integers(indices)?;
    take(count, size_of::<f64>())?;
    let outer: usize = gathering.data[..along].iter().product();
    let inner: usize = gathering.data[along + 1..].iter().product();
    let length = gathering.data[along];
    let mut result = Vec::with_capacity(count);
    let mut position = vec![0; gathering.data.len()];
    for before in 0..outer {
        for &index in &picked {
            spend(16 * inner)?;
            let index = if index < 0 { index.saturating_add(length as i64) } else { index };
            let Some(index) = usize::try_from(index).ok().filter(|&index| index < length) else {
                // An index outside gives zeros.
                result.extend(std::iter::repeat_n(0.0, inner));
                continue;
            };
            for behind in 0..inner {
                let at = (before * length + index) * inner + behind;
                let mut rest = at;
                for (place, &size) in position.iter_mut().zip(&gathering.data).rev() {
                    *place = rest % size;
                    rest /= size;
                }
                let group =
                    position.iter().zip(&gathering.scales).enumerate().fold(0, |group, (axis, (&place, &size))| {
                        let place = if axis == blocked { place / block } else { place.min(size - 1) };
                        group * size + place
                    });
                let zero = zeros.as_ref().map_or(gathering.zero, |zeros| zeros[group]);
                result.push((x[at] - zero) * scales[group]);
            }
        }
    }
    Ok(vec![pack(result, scale.dtype(), &into)?])
}

/// Gathers rows of packed bytes and their scales, and unpacks them.
fn expand_gather(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    if !known(inference) || inference.dtype(0)? != Some(DType::U8) {
        return Ok(None);
    }
    let (Some(data), Some(indices), Some(scales)) = (shape(inference, 0)?, shape(inference, 1)?, shape(inference, 2)?)
    else {
        return Ok(None);
    };
    let gathering = Gathering::of(operator, (DType::U8, &data), &scales)?;
    let columns = gathering.data[gathering.blocked];
    let whole = columns.is_multiple_of(gathering.block);
    if !whole || data.len() < 2 {
        return Ok(None);
    }
    let dtype = inference.dtype(2)?.unwrap_or(DType::F32);
    let mut body = Body::of(inference);
    let (table, picked, scale) = (body.input(0), body.input(1), body.input(2));
    // An index outside gives zeros: the first row is gathered for it, and not shown.
    let ty = inference.dtype(1)?.unwrap_or(DType::I64);
    let rows = gathering.data[0] as f64;
    let (first, end, zero) = (body.number(-rows, ty)?, body.number(rows, ty)?, body.number(0.0, ty)?);
    let (low, high) = (body.op("GreaterOrEqual", &[picked, first]), body.op("Less", &[picked, end]));
    let inside = body.op("And", &[low, high]);
    let picked = body.op("Where", &[inside, picked, zero]);
    let bits = gathering.bits;
    let unpacked = |body: &mut Body, bytes: hetero_hal::ValueId, columns: usize, lines: &[usize]| {
        let shape = |last: &[usize]| [lines, last].concat();
        let packed = columns.div_ceil(8 / bits);
        let mut parts = Vec::new();
        for number in 0..8 / bits {
            let divisor = body.number((1u32 << (number * bits)) as f64, DType::U8)?;
            let mask = body.number(((1u32 << bits) - 1) as f64, DType::U8)?;
            let mut part = if number > 0 { body.div(bytes, divisor) } else { bytes };
            if bits < 8 {
                part = body.op("BitwiseAnd", &[part, mask]);
            }
            parts.push(body.reshape(part, &shape(&[packed, 1]))?);
        }
        let all = if parts.len() > 1 { body.concat(&parts, -1) } else { parts[0] };
        let mut all = body.reshape(all, &shape(&[packed * (8 / bits)]))?;
        if packed * (8 / bits) > columns {
            all = body.slice(all, lines.len(), (0, columns))?;
        }
        Ok::<_, Error>(body.cast(all, DType::F32))
    };
    let lines = [&indices[..], &gathering.data[1..gathering.blocked]].concat();
    let blocks = gathering.scales[gathering.blocked];
    let bytes = body.gather(table, picked, 0);
    let x = unpacked(&mut body, bytes, columns, &lines)?;
    let x = body.reshape(x, &[&lines[..], &[blocks, gathering.block]].concat())?;
    let zero = if has(inference, 3) {
        gathering.check_zeros(operator, &shape(inference, 3)?.unwrap_or_default())?;
        let zeros = body.input(3);
        let bytes = body.gather(zeros, picked, 0);
        let zeros = unpacked(&mut body, bytes, blocks, &lines)?;
        body.reshape(zeros, &[&lines[..], &[blocks, 1]].concat())?
    } else {
        body.number(gathering.zero, DType::F32)?
    };
    let scale = body.gather(scale, picked, 0);
    let scale = body.cast(scale, DType::F32);
    let scale = body.reshape(scale, &[&lines[..], &[blocks, 1]].concat())?;
    let x = body.sub(x, zero);
    let x = body.mul(x, scale);
    let x = body.reshape(x, &gathering.result(&indices))?;
    let inside = body.reshape(inside, &[&indices[..], &vec![1; data.len() - 1]].concat())?;
    let nothing = body.number(0.0, DType::F32)?;
    let x = body.op("Where", &[inside, x, nothing]);
    let y = body.cast(x, dtype);
    body.done(&[y])
}
