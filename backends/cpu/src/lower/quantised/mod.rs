//! Parts of a program in 8 bits.
//!
//! Exporters write a quantised network in one of two ways.
//! The operators of one are of bytes, such as `QLinearConv`; those of the other are the usual ones
//! on real numbers, each with `DequantizeLinear` before it and `QuantizeLinear` behind it.
//! Both become the same groups of nodes here, which compute on bytes.
//! Sums of products are exact.
//! The result of a group may differ by one step from that of its nodes one by one, where the
//! rounding of these on the way decides between two steps.
//!
//! Images have their channels last inside such a part, and layouts change at its edges only.

mod images;
mod products;

use foldhash::{HashMap, HashMapExt};
use hetero_hal::{DType, Node, Operator, Program, Result, Tensor, ValueId};

use super::{Draft, Form, Lowering, Recipe};
use crate::image::Layout;
use crate::kernels::Site;
use crate::kernels::quantised::conv::{flip, moved};
use crate::kernels::quantised::last::{Function, Quantum, Target, Turn};
use crate::kernels::recipe::Quantised;
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
        match self.consumers.get(value.index())?.as_slice() {
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
            "Add" | "Sum" => self.pair(node, Function::Add).or_else(|| self.table(node)),
            "Sub" => self.pair(node, Function::Sub).or_else(|| self.table(node)),
            "Mul" => self.pair(node, Function::Mul).or_else(|| self.table(node)),
            "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" => self.pool(node),
            "Concat" => self.concat(node),
            "Resize" | "Upsample" => self.resize(node),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity" => self.shaped(node),
            _ => self.table(node),
        }
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
            let drafts = crate::lower::lower(&program, None, isa, true).unwrap();
            let nodes: Vec<&[usize]> = drafts.iter().map(|draft| draft.nodes.as_slice()).collect();
            assert_eq!(nodes, [&[][..], &[0, 1, 2, 3, 4], &[]]);
        }
    }

    #[test]
    fn weights_of_a_convolution_that_stays_real_are_made_real_once() {
        let program = convolution(true);
        let folded = folded(&program, Isa::widest()).unwrap();
        // The sums are read as real numbers, and so have a step of their own in 8 bits.
        let drafts = crate::lower::lower(folded.as_ref().unwrap_or(&program), None, Isa::widest(), true).unwrap();
        let done: Vec<usize> = drafts.iter().flat_map(|draft| draft.nodes.iter().copied()).collect();
        assert!(done.contains(&3) && done.contains(&4), "{done:?}");
        assert!(drafts.iter().all(|draft| draft.nodes != [1]), "weights are not made real in each run");
    }
}
