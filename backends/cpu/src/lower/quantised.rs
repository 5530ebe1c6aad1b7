//! Parts of a program in 8 bits.
//!
//! Exporters write a quantised network in one of two ways.
//! The operators of one are of bytes, such as `QLinearConv`; those of the other are the usual ones
//! on real numbers, each with `DequantizeLinear` before it and `QuantizeLinear` behind it.
//! Both become the same groups of nodes here, which compute on bytes.
//! Sums of products are exact.
//! The result of a group may differ by one step from that of its nodes one by one, which round on
//! the way, where it lies in the middle between two steps.
//!
//! Images have their channels last inside such a part, and layouts change at its edges only.

use foldhash::{HashMap, HashMapExt};
use hetero_hal::{DType, Node, Operator, Program, Result, Tensor, ValueId};
use hetero_reference::Resampling;

use super::{Draft, Form, Lowering, Recipe};
use crate::image::Layout;
use crate::kernels::conv::Geometry;
use crate::kernels::quantised::conv::{self, Convolution, Results, Zero, flip, moved};
use crate::kernels::quantised::last::{Function, Pair, Parts, Pixels, Pool, Pooling, Quantum, Table, Target, Turn};
use crate::kernels::recipe::Quantised;
use crate::kernels::{Constant, Site, pooling};
use crate::simd::Isa;
use crate::simd::dot::Dots;

/// A group of nodes that one kernel does in 8 bits.
pub(crate) struct Group {
    nodes: Vec<usize>,
    inputs: Vec<Form>,
    output: Form,
    recipe: Quantised,
}

/// A real value that is made of bytes: the bytes, the node that makes it, and its scale and zero
/// point as the model has them.
#[derive(Clone, Copy)]
struct Real {
    node: usize,
    bytes: ValueId,
    quantum: Quantum,
}

/// The nodes behind an operation until its result is in bytes.
struct Tail {
    nodes: Vec<usize>,
    output: ValueId,
    /// The steps, in bytes of the kind that products take.
    target: Target,
}

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

/// Returns the batch, the channels and the pixels of an image.
fn image(shape: &[usize]) -> Option<(usize, usize, usize)> {
    match *shape {
        [batch, channels, ref spatial @ ..] if (1..=2).contains(&spatial.len()) => {
            Some((batch, channels, spatial.iter().product()))
        }
        _ => None,
    }
}

fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::I8)
}

/// Returns the numbers of a small constant.
fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    Some(match tensor.dtype() {
        DType::F32 => tensor.view::<f32>().ok()?.iter().map(|&x| f64::from(x)).collect(),
        DType::U8 => tensor.view::<u8>().ok()?.iter().map(|&x| f64::from(x)).collect(),
        DType::I8 => tensor.view::<i8>().ok()?.iter().map(|&x| f64::from(x)).collect(),
        DType::I32 => tensor.view::<i32>().ok()?.iter().map(|&x| f64::from(x)).collect(),
        _ => return None,
    })
}

/// The search for groups in a program.
struct Search<'a> {
    program: &'a Program,
    isa: Isa,
    /// Whether bytes of the kind that products take are signed.
    signed: bool,
    producers: Vec<Option<usize>>,
    consumers: Vec<Vec<usize>>,
    reads: Vec<usize>,
    is_output: Vec<bool>,
    /// The nodes that may not be taken, or are taken.
    taken: Vec<bool>,
    /// Whether each value is made with its channels last.
    last: Vec<bool>,
    groups: HashMap<usize, Group>,
}

impl<'a> Search<'a> {
    fn new(program: &'a Program, isa: Isa, taken: Vec<bool>) -> Self {
        let mut reads = vec![0; program.values().len()];
        for id in program.nodes().iter().flat_map(Node::uses) {
            reads[id.index()] += 1;
        }
        let consumers = program.consumers().into_iter().map(|list| list.into_iter().map(|id| id.index()).collect());
        Search {
            program,
            isa,
            signed: Dots::best(isa).is_signed(),
            producers: program.producers().into_iter().map(|id| id.map(|id| id.index())).collect(),
            consumers: consumers.collect(),
            reads,
            is_output: program.output_mask(),
            taken,
            last: vec![false; program.values().len()],
            groups: HashMap::new(),
        }
    }

    /// Returns a search that knows nothing of other nodes than one.
    fn of(site: Site<'a>) -> Self {
        Search {
            program: site.program,
            isa: site.isa,
            signed: Dots::best(site.isa).is_signed(),
            producers: vec![],
            consumers: vec![],
            reads: vec![],
            is_output: vec![],
            taken: vec![],
            last: vec![],
            groups: HashMap::new(),
        }
    }

    /// Finds all groups, and then the conversions that nothing else reads.
    fn run(&mut self) {
        let nodes = self.program.nodes();
        let begins = |node: &Node| !matches!(&*node.operator.name, "DequantizeLinear" | "QuantizeLinear");
        let mut grouped = vec![false; nodes.len()];
        for node in 0..nodes.len() {
            if self.taken[node] || !begins(&nodes[node]) {
                continue;
            }
            let exact = |id: ValueId| !self.program.values()[id.index()].is_dynamic();
            let values = nodes[node].uses().chain(nodes[node].outputs.iter().flatten().copied());
            if !values.into_iter().all(exact) {
                continue;
            }
            let Some(mut group) = self.group(node) else { continue };
            group.nodes.sort_unstable();
            let Some(&last) = group.nodes.last() else { continue };
            for &number in group.nodes.iter().filter(|&&number| begins(&nodes[number]) || number == last) {
                self.taken[number] = true;
                grouped[number] = true;
            }
            self.last[group.output.value.index()] = group.output.layout == Layout::Last;
            self.groups.insert(last, group);
        }
        // A conversion to real numbers is done where a node outside of all groups reads them.
        let mut owned = vec![false; nodes.len()];
        let is_real = |number: usize| nodes[number].operator.is("DequantizeLinear");
        for group in self.groups.values() {
            group.nodes.iter().filter(|&&number| is_real(number)).for_each(|&number| owned[number] = true);
        }
        for number in 0..nodes.len() {
            if !owned[number] || self.taken[number] {
                continue;
            }
            let outputs = || nodes[number].outputs.iter().flatten();
            let inside = outputs().all(|id| !self.is_output[id.index()]);
            let all_grouped = |id: &ValueId| self.consumers[id.index()].iter().all(|&reader| grouped[reader]);
            self.taken[number] = inside && outputs().all(all_grouped);
        }
        // Each of these is told of once.
        let mut told = vec![false; nodes.len()];
        let mut ends: Vec<usize> = self.groups.keys().copied().collect();
        ends.sort_unstable();
        for end in ends {
            if let Some(group) = self.groups.get_mut(&end) {
                group.nodes.retain(|&number| self.taken[number] && !std::mem::replace(&mut told[number], true));
            }
        }
    }

    fn site(&self, node: usize) -> Site<'a> {
        Site { program: self.program, node: &self.program.nodes()[node], isa: self.isa, weights: None }
    }

    fn operator(&self, node: usize) -> &'a Operator {
        &self.program.nodes()[node].operator
    }

    fn input(&self, node: usize, index: usize) -> Option<ValueId> {
        self.program.nodes()[node].inputs.get(index).copied().flatten()
    }

    fn only_output(&self, node: usize) -> Option<ValueId> {
        match self.program.nodes()[node].outputs.as_slice() {
            [Some(output)] => Some(*output),
            _ => None,
        }
    }

    fn shape(&self, value: ValueId) -> &'a [usize] {
        &self.program.values()[value.index()].shape
    }

    fn dtype(&self, value: ValueId) -> DType {
        self.program.values()[value.index()].dtype
    }

    fn constant(&self, value: ValueId) -> Option<&'a Tensor> {
        self.program.values()[value.index()].constant.as_ref()
    }

    /// Returns the only element of a constant.
    fn number(&self, value: ValueId) -> Option<f64> {
        match numbers(self.constant(value).filter(|tensor| tensor.len() == 1)?)?[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Returns the scale and zero point of a conversion, of one number each.
    fn quantum(&self, node: usize) -> Option<Quantum> {
        let scale = self.number(self.input(node, 1)?)? as f32;
        let zero = match self.input(node, 2) {
            Some(zero) => self.number(zero)? as i32,
            None => 0,
        };
        // Between these, no result of a step in f32 is infinite where it is not limited after that.
        let is_usual = (1e-30..1e30).contains(&scale);
        let operator = self.operator(node);
        let plain = ["block_size", "precision"].iter().all(|name| operator.int(name).ok().flatten().unwrap_or(0) == 0);
        (is_usual && plain).then_some(Quantum { scale, zero })
    }

    /// Tells whether a node is this operator of the standard, on f32 but for bytes.
    fn is(&self, node: usize, name: &str) -> bool {
        let operator = self.operator(node);
        operator.domain.is_empty() && &*operator.name == name
    }

    /// Returns the bytes that a value is made of.
    fn real(&self, value: ValueId) -> Option<Real> {
        let node = self.producers[value.index()].filter(|&node| self.is(node, "DequantizeLinear"))?;
        let bytes = self.input(node, 0).filter(|&id| is_byte(self.dtype(id)) && self.constant(id).is_none())?;
        let exact = !self.program.values()[bytes.index()].is_dynamic();
        let quantum = self.quantum(node).filter(|_| exact && self.dtype(value) == DType::F32)?;
        Some(Real { node, bytes, quantum })
    }

    /// Returns a scale and zero point in bytes of the kind that products take.
    fn moved(&self, bytes: ValueId, quantum: Quantum) -> Quantum {
        Quantum { zero: moved(quantum.zero, self.dtype(bytes), self.signed), ..quantum }
    }

    /// Returns the one node that reads a value, where nothing else needs the value.
    fn sole_consumer(&self, value: ValueId) -> Option<usize> {
        match self.consumers[value.index()].as_slice() {
            [only] if !self.is_output[value.index()] && self.reads[value.index()] == 1 && !self.taken[*only] => {
                Some(*only)
            }
            _ => None,
        }
    }

    /// Returns the least and the largest result of a node that only limits its input.
    fn limits(&self, node: usize, value: ValueId) -> Option<(f32, f32)> {
        if self.input(node, 0) != Some(value) {
            return None;
        }
        if self.is(node, "Relu") {
            return Some((0.0, f32::INFINITY));
        }
        if !self.is(node, "Clip") {
            return None;
        }
        let bound = |index: usize, name: &str, none: f32| match self.input(node, index) {
            Some(bound) => self.number(bound).map(|bound| bound as f32),
            None => Some(self.operator(node).float(name).ok()?.unwrap_or(none)),
        };
        let (low, high) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
        (low <= high).then_some((low, high))
    }

    /// Returns the nodes that limit a value and make bytes of it.
    fn tail(&self, value: ValueId) -> Option<Tail> {
        let (mut nodes, mut value, mut bounds) = (vec![], value, (f32::NEG_INFINITY, f32::INFINITY));
        loop {
            let next = self.sole_consumer(value)?;
            let output = self.only_output(next)?;
            nodes.push(next);
            if let Some((low, high)) = self.limits(next, value) {
                bounds = (bounds.0.max(low).min(high), bounds.1.min(high).max(low));
                value = output;
                continue;
            }
            if !self.is(next, "QuantizeLinear") || self.input(next, 0) != Some(value) || !is_byte(self.dtype(output)) {
                return None;
            }
            let quantum = self.quantum(next)?;
            let target = self.target(output, quantum, bounds);
            return Some(Tail { nodes, output, target });
        }
    }

    /// Returns the steps of a value in bytes, whose real numbers lie within these bounds.
    fn target(&self, output: ValueId, quantum: Quantum, bounds: (f32, f32)) -> Target {
        let moved = self.moved(output, quantum);
        let (low, high) = if self.signed { (-128, 127) } else { (0, 255) };
        let step = |bound: f32| {
            let whole = (bound / quantum.scale).round_ties_even().clamp(-512.0, 512.0) as i32;
            (whole + moved.zero).clamp(low, high)
        };
        Target { quantum: moved, limits: (step(bounds.0), step(bounds.1)) }
    }

    /// Returns the layout of rows of a matrix in bytes of the kind that products take.
    fn rows(&self, bytes: ValueId) -> Layout {
        if flip(self.dtype(bytes), self.signed) == 0 { Layout::Plain } else { Layout::Moved }
    }

    /// Returns the group that a node begins.
    fn group(&self, node: usize) -> Option<Group> {
        let operator = self.operator(node);
        if !operator.domain.is_empty() {
            return None;
        }
        match &*operator.name {
            "QLinearConv" => self.linear(node),
            "ConvInteger" => self.integer(node),
            "Conv" => self.convolution(node),
            "Gemm" | "MatMul" => self.product(node),
            "Add" | "Sum" => self.pair(node, Function::Add),
            "Sub" => self.pair(node, Function::Sub),
            "Mul" => self.pair(node, Function::Mul),
            "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" => self.pool(node),
            "Concat" => self.concat(node),
            "Resize" | "Upsample" => self.resize(node),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity" => self.shaped(node),
            _ => self.table(node),
        }
    }

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

    fn linear(&self, node: usize) -> Option<Group> {
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

    fn integer(&self, node: usize) -> Option<Group> {
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
        let bias = vec![0; constant.content.shape()[0]];
        let recipe = Convolution { geometry, weights: constant, zero, w_zeros, bias, results: Results::Sums };
        Some(Group { nodes: vec![node], inputs, output: Form::plain(y), recipe: Quantised::Conv(recipe) })
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

    fn convolution(&self, node: usize) -> Option<Group> {
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
    fn product(&self, node: usize) -> Option<Group> {
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
        let real = matches!(results, Results::Real(_));
        // Real results are written column by column.
        if (real && rows > 1) || !conv::holds(&geometry, &bias.whole, &results) {
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

    /// Returns the layout in which element-wise work on these values is done.
    fn common(&self, values: &[ValueId]) -> Layout {
        let is_last = values.iter().any(|value| self.last[value.index()]);
        if is_last { Layout::Last } else { Layout::Moved }
    }

    /// Returns the form of a value in one of these layouts.
    fn form(&self, value: ValueId, layout: Layout) -> Form {
        Form { value, layout: if layout == Layout::Moved { self.rows(value) } else { layout } }
    }

    fn pair(&self, node: usize, function: Function) -> Option<Group> {
        let &[Some(a), Some(b)] = self.program.nodes()[node].inputs.as_slice() else { return None };
        let (y, a, b) = (self.only_output(node)?, self.real(a)?, self.real(b)?);
        let tail = self.tail(y)?;
        let is_same = self.shape(a.bytes) == self.shape(y) && self.shape(b.bytes) == self.shape(y);
        if !is_same || a.bytes == b.bytes {
            return None;
        }
        let layout = self.common(&[a.bytes, b.bytes]);
        let mut nodes = vec![node, a.node, b.node];
        nodes.extend(&tail.nodes);
        let operands = [self.moved(a.bytes, a.quantum), self.moved(b.bytes, b.quantum)];
        let recipe = Pair { isa: self.isa, signed: self.signed, function, operands, target: tail.target };
        Some(Group {
            nodes,
            inputs: vec![self.form(a.bytes, layout), self.form(b.bytes, layout)],
            output: self.form(tail.output, layout),
            recipe: Quantised::Pair(recipe),
        })
    }

    /// Returns the table from bytes of the kind that products take to bytes of that kind, through
    /// nodes of one operand each; `None` where it is the identity.
    /// The outer result is `None` where the nodes cannot be computed.
    fn through(&self, from: ValueId, nodes: &[usize], to: ValueId, moved: bool) -> Option<Option<Table>> {
        let in_flip = if moved { flip(self.dtype(from), self.signed) } else { 0 };
        let out_flip = if moved { flip(self.dtype(to), self.signed) } else { 0 };
        let all: Vec<u8> = (0..=255u8).map(|byte| byte ^ in_flip).collect();
        let mut content = Tensor::from_bytes(self.dtype(from), &[256], all.into()).ok()?;
        for &node in nodes {
            let rest = self.program.nodes()[node].inputs.iter().skip(1);
            let rest = rest.map(|id| id.map_or(Some(None), |id| self.constant(id).cloned().map(Some)));
            let mut inputs = vec![Some(content)];
            inputs.extend(rest.collect::<Option<Vec<_>>>()?);
            content = hetero_reference::evaluate(self.operator(node), &inputs, 1).ok()?.pop()?;
        }
        if content.dtype() != self.dtype(to) || content.len() != 256 {
            return None;
        }
        let table: Box<[u8; 256]> = content.bytes().to_vec().into_boxed_slice().try_into().ok()?;
        let table: Box<[u8; 256]> = Box::new(table.map(|byte| byte ^ out_flip));
        let is_same = table.iter().enumerate().all(|(index, &byte)| usize::from(byte) == index);
        Some((!is_same).then_some(Table(table)))
    }

    /// Returns what becomes of the bytes of a value that a node only moves: the value, the result,
    /// the nodes, and the nodes that a table replaces.
    fn around(&self, node: usize) -> Option<(ValueId, ValueId, Vec<usize>, Vec<usize>)> {
        let (x, y) = (self.input(node, 0)?, self.only_output(node)?);
        if is_byte(self.dtype(x)) {
            let is_constant = self.constant(x).is_some();
            return (self.dtype(x) == self.dtype(y) && !is_constant).then(|| (x, y, vec![node], vec![]));
        }
        let (x, tail) = (self.real(x)?, self.tail(y)?);
        let mut nodes = vec![node, x.node];
        nodes.extend(&tail.nodes);
        let table = std::iter::once(x.node).chain(tail.nodes.iter().copied()).collect();
        Some((x.bytes, tail.output, nodes, table))
    }

    fn pool(&self, node: usize) -> Option<Group> {
        let (site, operator) = (self.site(node), self.operator(node));
        let (shape, output) = (site.shape(0)?, self.only_output(node)?);
        let (batch, channels, _) = image(shape)?;
        let input = if let &[_, _, width] = shape { [1, width] } else { [shape[2], *shape.get(3)?] };
        let whole = &*operator.name == "ReduceMean";
        if whole {
            let axes = match self.input(node, 1) {
                Some(axes) => self.constant(axes)?.view::<i64>().ok()?.to_vec(),
                None => operator.ints("axes").ok()??.to_vec(),
            };
            let rank = shape.len() as i64;
            let mut axes: Vec<i64> = axes.iter().map(|&axis| if axis < 0 { axis + rank } else { axis }).collect();
            axes.sort_unstable();
            let is_spatial = axes == (2..rank).collect::<Vec<_>>();
            if !is_spatial || operator.int("keepdims").ok()?.unwrap_or(1) == 0 {
                return None;
            }
        }
        if self.program.values()[output.index()].elements() == 0 || input.contains(&0) {
            return None;
        }
        let taps = if whole {
            let global = Operator::new("GlobalAveragePool", 1);
            pooling::taps(&global, input).ok()?
        } else {
            if !pooling::fits(site).ok()? {
                return None;
            }
            pooling::taps(operator, input).ok()?
        };
        let (kind, x, y, nodes) = if operator.name.ends_with("MaxPool") {
            let (x, y, nodes, through) = self.around(node)?;
            (Pooling::Max(self.through(x, &through, y, true)?), x, y, nodes)
        } else {
            let (x, tail) = (self.real(self.input(node, 0)?)?, self.tail(output)?);
            let mut nodes = vec![node, x.node];
            nodes.extend(&tail.nodes);
            let padding = operator.int("count_include_pad").ok()?.unwrap_or(0) != 0;
            (Pooling::Average(self.moved(x.bytes, x.quantum), tail.target, padding), x.bytes, tail.output, nodes)
        };
        let recipe = Pool { isa: self.isa, signed: self.signed, batch, channels, input, taps, kind };
        Some(Group {
            nodes,
            inputs: vec![Form { value: x, layout: Layout::Last }],
            output: Form { value: y, layout: Layout::Last },
            recipe: Quantised::Pool(recipe),
        })
    }

    fn concat(&self, node: usize) -> Option<Group> {
        let (operator, y) = (self.operator(node), self.only_output(node)?);
        let shape = self.shape(y);
        let (batch, _, plane) = image(shape)?;
        let axis = operator.int("axis").ok()??;
        if axis != 1 && axis + shape.len() as i64 != 1 {
            return None;
        }
        let values: Vec<ValueId> = self.program.nodes()[node].inputs.iter().copied().collect::<Option<_>>()?;
        let (mut nodes, mut parts, mut inputs) = (vec![node], vec![], vec![]);
        let direct = is_byte(self.dtype(y));
        let tail = if direct { None } else { Some(self.tail(y)?) };
        for value in values {
            let channels = image(self.shape(value))?.1;
            let (bytes, table) = match &tail {
                None => (value, None),
                Some(tail) => {
                    let real = self.real(value)?;
                    nodes.push(real.node);
                    let mut through = vec![real.node];
                    through.extend(&tail.nodes);
                    (real.bytes, self.through(real.bytes, &through, tail.output, true)?)
                }
            };
            if self.constant(bytes).is_some() {
                return None;
            }
            inputs.push(Form { value: bytes, layout: Layout::Last });
            parts.push((channels, table));
        }
        let output = tail.as_ref().map_or(y, |tail| tail.output);
        nodes.extend(tail.iter().flat_map(|tail| &tail.nodes));
        // Bytes that nothing else of a part reads stay as they are.
        if direct && !inputs.iter().any(|form| self.last[form.value.index()]) {
            return None;
        }
        let recipe = Quantised::Parts(Parts { rows: batch * plane, inputs: parts });
        Some(Group { nodes, inputs, output: Form { value: output, layout: Layout::Last }, recipe })
    }

    fn resize(&self, node: usize) -> Option<Group> {
        let (operator, y) = (self.operator(node), self.only_output(node)?);
        if operator.text("mode").ok()?.unwrap_or("nearest") != "nearest" {
            return None;
        }
        let (x, output, nodes, through) = self.around(node)?;
        let shape = self.shape(x);
        let &[batch, channels, height, width] = shape else { return None };
        let content = |index: usize| self.constant(self.input(node, index)?).cloned();
        let axes = Resampling::resolve(operator, shape, content).ok()??;
        let &[_, _, to_height, to_width] = self.shape(y) else { return None };
        let mut sources = [(0..height).collect::<Vec<_>>(), (0..width).collect::<Vec<_>>()];
        for along in axes {
            let list = along.taps.iter().map(|taps| match taps[..] {
                [(position, 1.0)] => Some(position),
                _ => None,
            });
            *sources.get_mut(along.axis.checked_sub(2)?)? = list.collect::<Option<_>>()?;
        }
        let inside = |list: &[usize], size: usize| list.iter().all(|&at| at < size);
        let fits = sources[0].len() == to_height && sources[1].len() == to_width;
        if !fits || !inside(&sources[0], height) || !inside(&sources[1], width) || channels == 0 {
            return None;
        }
        let table = self.through(x, &through, output, true)?;
        let recipe = Pixels { batch, channels, input: [height, width], sources, table };
        Some(Group {
            nodes,
            inputs: vec![Form { value: x, layout: Layout::Last }],
            output: Form { value: output, layout: Layout::Last },
            recipe: Quantised::Pixels(recipe),
        })
    }

    /// Returns the group of a node that only gives its input another shape.
    fn shaped(&self, node: usize) -> Option<Group> {
        let (x, output, nodes, through) = self.around(node)?;
        if through.is_empty() {
            return None;
        }
        let bytes = self.program.values()[x.index()].elements();
        let rest = self.program.nodes()[node].inputs.iter().skip(1).flatten();
        let is_known = rest.into_iter().all(|&id| self.constant(id).is_some());
        let table = self.through(x, &through, output, false)?;
        let recipe = Quantised::Parts(Parts { rows: 1, inputs: vec![(bytes, table)] });
        is_known.then(|| Group { nodes, inputs: vec![Form::plain(x)], output: Form::plain(output), recipe })
    }

    /// Returns the group of a function of one operand, which is a table.
    fn table(&self, node: usize) -> Option<Group> {
        const FUNCTIONS: &[&str] = &[
            "Relu",
            "Clip",
            "LeakyRelu",
            "Sigmoid",
            "Tanh",
            "HardSigmoid",
            "HardSwish",
            "Elu",
            "Selu",
            "Celu",
            "Gelu",
            "Mish",
            "Softplus",
            "Softsign",
            "Swish",
            "Erf",
            "Exp",
            "Log",
            "Sqrt",
            "Neg",
            "Abs",
            "ThresholdedRelu",
        ];
        if !FUNCTIONS.contains(&&*self.operator(node).name) {
            return None;
        }
        let real = self.real(self.input(node, 0)?)?;
        let tail = self.tail(self.only_output(node)?)?;
        let mut through = vec![real.node, node];
        through.extend(&tail.nodes);
        let table = self.through(real.bytes, &through, tail.output, true)?;
        let layout = self.common(&[real.bytes]);
        let bytes = self.program.values()[real.bytes.index()].elements();
        let rows = bytes.div_ceil(1 << 12).max(1);
        // Rows are of equal length.
        let (rows, row) = if bytes.is_multiple_of(rows) { (rows, bytes / rows) } else { (1, bytes) };
        let recipe = Quantised::Parts(Parts { rows, inputs: vec![(row, table)] });
        let (from, to) = (self.form(real.bytes, layout), self.form(tail.output, layout));
        Some(Group { nodes: through, inputs: vec![from], output: to, recipe })
    }
}

/// Tells whether an operator of bytes has a kernel, as a group of its own.
pub(crate) fn takes(site: Site<'_>) -> bool {
    let search = |operator: &Operator| match &*operator.name {
        "QLinearConv" => Search::linear,
        _ => Search::integer,
    };
    let node = site.program.nodes().iter().position(|node| std::ptr::eq(node, site.node));
    let find = search(site.operator());
    node.is_some_and(|node| find(&Search::of(site), node).is_some())
}

/// Returns the program in which constants that are made real outside of all groups are real
/// already, or `None` where there are none.
///
/// # Errors
/// What the oracle says of such a conversion.
pub(crate) fn folded(program: &Program, isa: Isa) -> Result<Option<Program>> {
    let is_constant = |id: ValueId| program.values()[id.index()].constant.is_some();
    let candidate =
        |node: &Node| node.operator.is("DequantizeLinear") && node.inputs.iter().flatten().all(|&id| is_constant(id));
    let mut found: Vec<usize> =
        program.nodes().iter().enumerate().filter(|(_, node)| candidate(node)).map(|(index, _)| index).collect();
    if found.is_empty() {
        return Ok(None);
    }
    if !program.is_open() {
        let mut search = Search::new(program, isa, vec![false; program.nodes().len()]);
        search.run();
        found.retain(|&node| !search.taken[node]);
    }
    let is_output = program.output_mask();
    found.retain(|&node| !program.nodes()[node].outputs.iter().flatten().any(|id| is_output[id.index()]));
    if found.is_empty() {
        return Ok(None);
    }
    let mut graph = program.to_graph();
    for node in found {
        let Node { operator, inputs, outputs, .. } = &mut graph.nodes[node];
        let contents: Vec<Option<Tensor>> =
            inputs.iter().map(|id| graph.values[id.as_ref()?.index()].constant.clone()).collect();
        let content = hetero_reference::evaluate(operator, &contents, 1)?.pop();
        if let (&mut [Some(output)], Some(content)) = (&mut outputs[..], content) {
            graph.values[output.index()].constant = Some(content);
            // The node stays, so that others keep their places.
            outputs[0] = None;
        }
    }
    Program::new(graph, program.extents().to_vec()).map(Some)
}

impl Lowering<'_> {
    /// Finds the parts in 8 bits.
    pub(super) fn survey_quantised(&mut self) -> Result<()> {
        for (index, node) in self.program.nodes().iter().enumerate() {
            // Such a conversion was done while compiling.
            if node.operator.is("DequantizeLinear") && node.outputs.iter().all(Option::is_none) {
                self.absorbed[index] = true;
            }
        }
        let mut search = Search::new(self.program, self.isa, self.absorbed.clone());
        search.run();
        self.absorbed = search.taken;
        self.groups = search.groups;
        Ok(())
    }

    pub(super) fn emit_group(&mut self, node: usize, group: Group) -> Result<()> {
        let Group { nodes, inputs, output, recipe } = group;
        let mut forms = Vec::with_capacity(inputs.len());
        for Form { value, layout } in inputs {
            forms.push(Some(self.want(node, value, layout)?));
        }
        self.made(output);
        let recipe = Recipe::Quantised(Box::new(recipe));
        self.drafts.push(Draft { node, nodes, recipe, inputs: forms, outputs: vec![Some(output)] });
        Ok(())
    }

    /// Returns the way of bytes from one layout to another, where these are layouts of bytes.
    pub(super) fn turn(&self, value: ValueId, from: Layout, to: Layout) -> Option<Turn> {
        let is_plain = |layout: Layout| layout == Layout::Plain;
        let is_last = |layout: Layout| layout == Layout::Last;
        let dtype = self.program.values()[value.index()].dtype;
        if !is_byte(dtype) {
            return None;
        }
        let changes = is_plain(from) != is_plain(to);
        let flip = if changes { flip(dtype, Dots::best(self.isa).is_signed()) } else { 0 };
        let shape = self.shape(value);
        let (batch, channels, plane) = match image(shape) {
            Some(sizes) if is_last(from) != is_last(to) => sizes,
            _ => (1, 1, shape.iter().product()),
        };
        Some(Turn { batch, channels, plane, flip, into: is_last(to) })
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Graph, TensorType, Value};

    use super::*;

    /// Adds a value to a graph.
    fn value(graph: &mut Graph, dtype: DType, shape: &[usize], constant: Option<Tensor>) -> ValueId {
        let id = ValueId(graph.values.len() as u32);
        graph.values.push(Value { name: format!("v{}", id.0).into(), ty: TensorType::exact(dtype, shape), constant });
        id
    }

    fn node(graph: &mut Graph, operator: Operator, inputs: &[ValueId], output: ValueId) {
        graph.nodes.push(Node {
            name: format!("n{}", graph.nodes.len()).into(),
            operator,
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
        });
    }

    /// Makes a convolution with a rectifier between conversions, whose real result is an output too
    /// where `read` says so.
    fn convolution(read: bool) -> Program {
        let graph = &mut Graph::default();
        let scale = value(graph, DType::F32, &[], Some(Tensor::scalar(0.5f32)));
        let zero = value(graph, DType::U8, &[], Some(Tensor::scalar(7u8)));
        let weights = Tensor::from_vec(&[4, 8, 1, 1], (0..32).map(|i| i as i8).collect()).unwrap();
        let weights = value(graph, DType::I8, &[4, 8, 1, 1], Some(weights));
        let x = value(graph, DType::U8, &[1, 8, 3, 3], None);
        let real = value(graph, DType::F32, &[1, 8, 3, 3], None);
        let filters = value(graph, DType::F32, &[4, 8, 1, 1], None);
        let [sums, limited] = [0; 2].map(|_| value(graph, DType::F32, &[1, 4, 3, 3], None));
        let y = value(graph, DType::U8, &[1, 4, 3, 3], None);
        node(graph, Operator::new("DequantizeLinear", 13), &[x, scale, zero], real);
        node(graph, Operator::new("DequantizeLinear", 13), &[weights, scale], filters);
        node(graph, Operator::new("Conv", 13), &[real, filters], sums);
        node(graph, Operator::new("Relu", 13), &[sums], limited);
        node(graph, Operator::new("QuantizeLinear", 13), &[limited, scale, zero], y);
        (graph.inputs, graph.outputs) = (vec![x], if read { vec![y, limited] } else { vec![y] });
        Program::new(std::mem::take(graph), vec![]).unwrap()
    }

    #[test]
    fn a_convolution_between_conversions_is_one_step_in_8_bits() {
        for isa in Isa::available() {
            let program = convolution(false);
            assert!(folded(&program, isa).unwrap().is_none(), "the weights stay in 8 bits");
            let drafts = super::super::lower(&program, None, isa, true).unwrap();
            let nodes: Vec<&[usize]> = drafts.iter().map(|draft| draft.nodes.as_slice()).collect();
            assert_eq!(nodes, [&[][..], &[0, 1, 2, 3, 4], &[]]);
        }
    }

    #[test]
    fn weights_of_a_convolution_that_stays_real_are_made_real_once() {
        let program = convolution(true);
        let folded = folded(&program, Isa::widest()).unwrap();
        // The sums are read as real numbers, and so have a step of their own in 8 bits.
        let drafts = super::super::lower(folded.as_ref().unwrap_or(&program), None, Isa::widest(), true).unwrap();
        let done: Vec<usize> = drafts.iter().flat_map(|draft| draft.nodes.iter().copied()).collect();
        assert!(done.contains(&3) && done.contains(&4), "{done:?}");
        assert!(drafts.iter().all(|draft| draft.nodes != [1]), "weights are not made real in each run");
    }
}
