//! Products in 8 bits: convolutions and products with constant weights.

use hetero_hal::{DType, Tensor, ValueId};

use super::{Form, Group, Search, image, is_byte, numbers};
use crate::image::Layout;
use crate::kernels::Constant;
use crate::kernels::conv::Geometry;
use crate::kernels::quantised::conv::{self, Convolution, Results, Scaled, Zero, flip, moved};
use crate::kernels::quantised::last::Target;
use crate::kernels::recipe::Quantised;

/// The constant right operand of a product, and what is added to the products.
struct Weights {
    constant: Constant,
    zeros: Vec<i32>,
    scales: Vec<f64>,
    nodes: Vec<usize>,
}

/// The sums' beginnings, in the products' steps, and what is added to real results.
#[derive(Default)]
struct Bias {
    whole: Vec<i32>,
    real: Vec<f64>,
    nodes: Vec<usize>,
}

impl<'a> Search<'a> {
    /// Returns the constant weights of a convolution in bytes, with one zero point for all or for
    /// each filter.
    fn filters(&self, value: ValueId, zero: Option<ValueId>) -> Option<(Constant, Vec<i32>)> {
        let content = self.constant(value).filter(|content| is_byte(content.dtype()))?;
        let name = self.program.values()[value.index()].name.clone();
        let zeros = match zero {
            Some(zero) => numbers(self.constant(zero)?)?.into_iter().map(|zero| zero as i32).collect(),
            None => vec![0],
        };
        let filters = content.shape().first().copied()?;
        (zeros.len() == 1 || zeros.len() == filters).then(|| (Constant { name, content: content.clone() }, zeros))
    }

    fn geometry(&self, node: usize, x: ValueId, w: &[usize], y: ValueId) -> Option<Geometry> {
        let geometry = Geometry::sized(self.operator(node), self.shape(x), w).ok().flatten()?;
        let is_whole =
            image(self.shape(y))?.2 == geometry.output_plane() && self.program.values()[y.index()].elements() > 0;
        (is_whole && self.shape(y)[1] == w[0] && conv::fits(&geometry)).then_some(geometry)
    }

    pub(super) fn linear(&self, node: usize) -> Option<Group> {
        let (x, w, y) = (self.input(node, 0)?, self.input(node, 3)?, self.only_output(node)?);
        let (constant, w_zeros) = self.filters(w, Some(self.input(node, 5)?))?;
        let geometry = self.geometry(node, x, constant.content.shape(), y)?;
        let number = |index: usize| self.number(self.input(node, index)?);
        let (x_scale, x_zero, y_scale, y_zero) = (number(1)?, number(2)? as i32, number(6)?, number(7)? as i32);
        let w_scales = numbers(self.constant(self.input(node, 4)?)?)?;
        let filters = constant.content.shape()[0];
        let bias = match self.input(node, 8) {
            Some(bias) => self.constant(bias).and_then(|bias| bias.view::<i32>().ok())?.to_vec(),
            None => vec![0; filters],
        };
        let fits = (w_scales.len() == 1 || w_scales.len() == filters) && bias.len() == filters;
        let is_usual =
            x_scale.is_finite() && y_scale.is_finite() && y_scale != 0.0 && w_scales.iter().all(|s| s.is_finite());
        if !fits || !is_usual || !is_byte(self.dtype(x)) || !is_byte(self.dtype(y)) {
            return None;
        }
        let scales = w_scales.iter().map(|w_scale| (x_scale * w_scale / y_scale, 0.0)).collect();
        let limits = if self.signed { (-128, 127) } else { (0, 255) };
        let results = Results::Steps(scales, moved(y_zero, self.dtype(y), self.signed), limits);
        if !conv::holds(&geometry, &bias, &results) {
            return None;
        }
        let zero = Zero::Known(moved(x_zero, self.dtype(x), self.signed));
        let recipe = Convolution { geometry, weights: constant, zero, w_zeros, bias, results };
        Some(Group {
            nodes: vec![node],
            inputs: vec![Form { value: x, layout: Layout::Last }],
            output: Form { value: y, layout: Layout::Last },
            recipe: Quantised::Conv(recipe),
        })
    }

    pub(super) fn integer(&self, node: usize) -> Option<Group> {
        let (x, w, y) = (self.input(node, 0)?, self.input(node, 1)?, self.only_output(node)?);
        let (constant, w_zeros) = self.filters(w, self.input(node, 3))?;
        let geometry = self.geometry(node, x, constant.content.shape(), y)?;
        let mut inputs = vec![Form { value: x, layout: Layout::Last }];
        let zero = match self.input(node, 2) {
            None => Zero::Known(moved(0, self.dtype(x), self.signed)),
            Some(zero) if self.program.values()[zero.index()].elements() != 1 => return None,
            Some(zero) => match self.number(zero) {
                Some(zero) => Zero::Known(moved(zero as i32, self.dtype(x), self.signed)),
                None => {
                    inputs.push(Form::plain(zero));
                    Zero::Input(1, flip(self.dtype(x), self.signed))
                }
            },
        };
        if !is_byte(self.dtype(x)) {
            return None;
        }
        let filters = constant.content.shape()[0];
        let (mut nodes, mut output, mut results) = (vec![node], y, Results::Sums);
        if let Some((scaled, scale, more, real)) = self.scaled(y, filters, inputs.len()) {
            inputs.push(Form::plain(scale));
            nodes.extend(more);
            (output, results) = (real, Results::Scaled(scaled));
        }
        let recipe = Convolution { geometry, weights: constant, zero, w_zeros, bias: vec![0; filters], results };
        Some(Group { nodes, inputs, output: Form::plain(output), recipe: Quantised::Conv(recipe) })
    }

    /// Returns what makes sums of a convolution real numbers, as dynamic quantisation writes it: a
    /// Cast, a Mul by a scale of one element, and perhaps the Add of a bias and limits.
    /// With it come the scale, the nodes and the result.
    fn scaled(&self, sums: ValueId, filters: usize, input: usize) -> Option<(Scaled, ValueId, Vec<usize>, ValueId)> {
        let shape = self.shape(sums);
        let next = |value: ValueId, name: &str| {
            let node = self.sole_consumer(value).filter(|&node| self.is(node, name))?;
            let output = self.only_output(node)?;
            (self.shape(output) == shape && self.dtype(output) == DType::F32).then_some((node, output))
        };
        let other = |node: usize, value: ValueId| match *self.program.nodes()[node].inputs.as_slice() {
            [Some(a), Some(b)] => Some(if a == value { b } else { a }),
            _ => None,
        };
        let (cast, real) = next(sums, "Cast")?;
        let (mul, mut output) = next(real, "Mul")?;
        let scale = other(mul, real)?;
        let one = &self.program.values()[scale.index()];
        if one.elements() != 1 || one.is_dynamic() {
            return None;
        }
        let (mut nodes, mut bias) = (vec![cast, mul], None);
        if let Some((add, sum)) = next(output, "Add")
            && let Some(content) = self.constant(other(add, output)?).filter(|content| content.dtype() == DType::F32)
            // One number for each filter, along the channels.
            && content.len() == filters
            && content.shape().len() < shape.len() + 1
            && content.shape().iter().rev().nth(shape.len() - 2) == Some(&filters)
        {
            bias = Some(content.view::<f32>().ok()?.to_vec());
            nodes.push(add);
            output = sum;
        }
        let mut clamp = (f32::NEG_INFINITY, f32::INFINITY);
        if let Some(node) = self.sole_consumer(output)
            && let (Some(limits), Some(limited)) = (self.limits(node, output), self.only_output(node))
        {
            nodes.push(node);
            (clamp, output) = (limits, limited);
        }
        Some((Scaled { input, bias, clamp }, scale, nodes, output))
    }

    /// Returns constant weights that a node makes real, with scales for all or for each place along
    /// an axis.
    fn weights(&self, value: ValueId, along: usize) -> Option<Weights> {
        let node = self.producers[value.index()].filter(|&node| self.is(node, "DequantizeLinear"))?;
        let id = self.input(node, 0)?;
        let content = self.constant(id).filter(|content| is_byte(content.dtype()))?;
        let scales = numbers(self.constant(self.input(node, 1)?)?)?;
        let zeros = match self.input(node, 2) {
            Some(zero) => numbers(self.constant(zero)?)?.into_iter().map(|zero| zero as i32).collect(),
            None => vec![0],
        };
        let rank = content.shape().len() as i64;
        let axis = self.operator(node).int("axis").ok()?.unwrap_or(1);
        let is_along = (if axis < 0 { axis + rank } else { axis }) == along as i64;
        let count = *content.shape().get(along)?;
        let fits = |length: usize| length == 1 || (is_along && length == count);
        let plain = self.operator(node).int("block_size").ok()?.unwrap_or(0) == 0;
        if !fits(scales.len()) || !fits(zeros.len()) || !plain || !scales.iter().all(|scale| scale.is_finite()) {
            return None;
        }
        let constant = Constant { name: self.program.values()[id.index()].name.clone(), content: content.clone() };
        Some(Weights { constant, zeros, scales, nodes: vec![node] })
    }

    /// Returns constants that are added to the products of each of `count` columns, whose products
    /// have these steps.
    fn bias(&self, value: Option<ValueId>, steps: &[f64], count: usize) -> Option<Bias> {
        let zeros = || vec![0; count];
        let Some(value) = value else { return Some(Bias { whole: zeros(), real: vec![0.0; count], nodes: vec![] }) };
        let fits = |shape: &[usize]| shape.iter().product::<usize>() == count && shape.last() == Some(&count);
        let fits = |tensor: &&Tensor| fits(tensor.shape());
        if let Some(content) = self.constant(value) {
            let real = numbers(Some(content).filter(fits).filter(|content| content.dtype() == DType::F32)?)?;
            return Some(Bias { whole: zeros(), real, nodes: vec![] });
        }
        let node = self.producers[value.index()].filter(|&node| self.is(node, "DequantizeLinear"))?;
        let whole = numbers(self.constant(self.input(node, 0)?).filter(fits)?)?;
        let scales = numbers(self.constant(self.input(node, 1)?)?)?;
        let zero = self.input(node, 2).map(|zero| numbers(self.constant(zero)?));
        let is_moved = match zero {
            Some(zero) => zero?.iter().any(|&zero| zero != 0.0),
            None => false,
        };
        if is_moved || (scales.len() != 1 && scales.len() != count) {
            return None;
        }
        let of = |list: &[f64], index: usize| list[if list.len() == 1 { 0 } else { index }];
        // Such a scale is the product of those of the operands, rounded to f32; and where a bias is
        // very large, there must be room for the products beside it.
        let near = |index: usize| (of(&scales, index) - of(steps, index)).abs() <= 1e-7 * of(steps, index);
        let is_same = (0..count).all(near) && whole.iter().all(|x| x.abs() < f64::from(1 << 30));
        let nodes = vec![node];
        if is_same {
            return Some(Bias { whole: whole.iter().map(|&x| x as i32).collect(), real: vec![0.0; count], nodes });
        }
        let real = whole.iter().enumerate().map(|(index, x)| x * of(&scales, index)).collect();
        Some(Bias { whole: zeros(), real, nodes })
    }

    /// Returns the results of products of steps `steps`, and the value that has them.
    fn results(&self, value: ValueId, steps: &[f64], real: &[f64], nodes: &mut Vec<usize>) -> (Results, ValueId) {
        let of = |index: usize| steps[if steps.len() == 1 { 0 } else { index }];
        let list = |over: f64| real.iter().enumerate().map(|(index, real)| (of(index) / over, real / over)).collect();
        match self.tail(value) {
            Some(tail) => {
                nodes.extend(&tail.nodes);
                let Target { quantum, limits } = tail.target;
                (Results::Steps(list(f64::from(quantum.scale)), quantum.zero, limits), tail.output)
            }
            None => (Results::Real(list(1.0)), value),
        }
    }

    pub(super) fn convolution(&self, node: usize) -> Option<Group> {
        let (x, y) = (self.real(self.input(node, 0)?)?, self.only_output(node)?);
        let weights = self.weights(self.input(node, 1)?, 0)?;
        let geometry = self.geometry(node, x.bytes, weights.constant.content.shape(), y)?;
        let steps: Vec<f64> = weights.scales.iter().map(|scale| scale * f64::from(x.quantum.scale)).collect();
        let bias = self.bias(self.input(node, 2), &steps, geometry.groups * geometry.outputs)?;
        let mut nodes = vec![node, x.node];
        nodes.extend(weights.nodes.iter().chain(&bias.nodes));
        let (results, output) = self.results(y, &steps, &bias.real, &mut nodes);
        if !conv::holds(&geometry, &bias.whole, &results) {
            return None;
        }
        let layout = if matches!(results, Results::Real(_)) { Layout::Plain } else { Layout::Last };
        let zero = Zero::Known(self.moved(x.bytes, x.quantum).zero);
        let (constant, w_zeros) = (weights.constant, weights.zeros);
        let recipe = Convolution { geometry, weights: constant, zero, w_zeros, bias: bias.whole, results };
        Some(Group {
            nodes,
            inputs: vec![Form { value: x.bytes, layout: Layout::Last }],
            output: Form { value: output, layout },
            recipe: Quantised::Conv(recipe),
        })
    }

    /// Returns the group of a product with a constant matrix, which is a convolution of one pixel
    /// for each row.
    pub(super) fn product(&self, node: usize) -> Option<Group> {
        let (x, mut y) = (self.real(self.input(node, 0)?)?, self.only_output(node)?);
        let w = self.input(node, 1)?;
        let operator = self.operator(node);
        let gemm = &*operator.name == "Gemm";
        let flag = |name: &str| Some(operator.int(name).ok()?.unwrap_or(0) != 0);
        let one = |name: &str| Some(operator.float(name).ok()?.unwrap_or(1.0) == 1.0);
        let transposed = gemm && flag("transB")?;
        if gemm && (flag("transA")? || !one("alpha")? || !one("beta")?) {
            return None;
        }
        let weights = self.weights(w, if transposed { 0 } else { 1 })?;
        let &[first, second] = weights.constant.content.shape() else { return None };
        let (columns, depth) = if transposed { (first, second) } else { (second, first) };
        let rows = self.program.values()[x.bytes.index()].elements() / depth.max(1);
        if self.shape(x.bytes).last() != Some(&depth) || rows == 0 || columns == 0 || depth == 0 {
            return None;
        }
        let mut content = weights.constant.content.clone();
        if !transposed {
            let bytes = content.bytes();
            let turned: Vec<u8> = (0..columns * depth).map(|at| bytes[at % depth * columns + at / depth]).collect();
            content = Tensor::from_bytes(content.dtype(), &[columns, depth], turned.into()).ok()?;
        }
        let geometry = Geometry {
            batch: 1,
            channels: depth,
            outputs: columns,
            groups: 1,
            input: [1, rows],
            kernel: [1, 1],
            strides: [1, 1],
            dilations: [1, 1],
            begin: [0, 0],
            output: [1, rows],
        };
        if !conv::fits(&geometry) {
            return None;
        }
        let steps: Vec<f64> = weights.scales.iter().map(|scale| scale * f64::from(x.quantum.scale)).collect();
        let mut bias = self.bias(self.input(node, 2), &steps, columns)?;
        let mut nodes = vec![node, x.node];
        // What is added behind the product is another bias.
        if let Some(next) = self.sole_consumer(y).filter(|&next| self.is(next, "Add"))
            && let Some(output) = self.only_output(next).filter(|&output| self.shape(output) == self.shape(y))
            && let [Some(a), Some(b)] = *self.program.nodes()[next].inputs.as_slice()
            && let Some(more) = self.bias(Some(if a == y { b } else { a }), &steps, columns)
        {
            bias.whole.iter_mut().zip(&more.whole).for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
            bias.real.iter_mut().zip(&more.real).for_each(|(sum, more)| *sum += more);
            bias.nodes.extend(more.nodes);
            nodes.push(next);
            y = output;
        }
        nodes.extend(weights.nodes.iter().chain(&bias.nodes));
        let (results, output) = self.results(y, &steps, &bias.real, &mut nodes);
        let (results, real) = match results {
            Results::Real(list) => (Results::Rows(list), true),
            results => (results, false),
        };
        if !conv::holds(&geometry, &bias.whole, &results) {
            return None;
        }
        let zero = Zero::Known(self.moved(x.bytes, x.quantum).zero);
        let constant = Constant { name: weights.constant.name, content };
        let recipe =
            Convolution { geometry, weights: constant, zero, w_zeros: weights.zeros, bias: bias.whole, results };
        let layout = if real { Layout::Plain } else { self.rows(output) };
        Some(Group {
            nodes,
            inputs: vec![Form { value: x.bytes, layout: self.rows(x.bytes) }],
            output: Form { value: output, layout },
            recipe: Quantised::Conv(recipe),
        })
    }
}
