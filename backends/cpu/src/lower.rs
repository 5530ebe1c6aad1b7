//! From a program to steps: which nodes become one kernel, and how each value lies in memory.
//!
//! Two passes over the nodes. The first decides which values are blocked: what a convolution with constant weights gives, and what follows it
//! as long as nothing needs the plain layout. It also finds the chains that one kernel does: a convolution with the per-channel factors, the sum
//! and the activation behind it. The second emits the steps in order, each chain at its last node, and a reordering wherever a value is needed
//! in a layout in which it is not there; so layouts change at the edges of such regions only.

use std::collections::HashMap;

use hetero_hal::{DType, Error, Node, Program, Result, Tensor, ValueId};

use crate::image::{Halo, Image, Layout};
use crate::kernels::affine::Affine;
use crate::kernels::chain::{self, Function, Operation, Source};
use crate::kernels::conv::{self, Finish, Geometry};
use crate::kernels::elementwise;
use crate::kernels::reorder::Reorder;
use crate::kernels::vector::{Activation, Pairwise};
use crate::kernels::{self, Kernel, Site};
use crate::simd::Isa;

/// A value in a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    pub(crate) value: ValueId,
    pub(crate) layout: Layout,
}

impl Form {
    fn plain(value: ValueId) -> Form {
        Form { value, layout: Layout::Plain }
    }
}

/// A step before its kernel is made.
pub(crate) struct Draft {
    /// Index of the node that it ends with; what errors and profiles name.
    pub(crate) node: usize,
    /// Indices of all nodes that it does; none for a reordering.
    pub(crate) nodes: Vec<usize>,
    pub(crate) recipe: Recipe,
    pub(crate) inputs: Vec<Option<Form>>,
    pub(crate) outputs: Vec<Option<Form>>,
}

/// What a kernel is made of. Making one may take long, as weights are packed.
pub(crate) enum Recipe {
    /// The node as it stands, on plain operands.
    Node,
    Conv {
        geometry: Geometry,
        /// Halo of the input, where it is blocked.
        input: Option<Halo>,
        /// Halo of the output, where it is blocked.
        output: Option<Halo>,
        weights: Tensor,
        finish: Finish,
        /// May it be done by minimal filtering?
        filters: bool,
    },
    /// With the pooling of what lies between.
    ConvPool {
        geometry: Geometry,
        /// Halo of the input, where it is blocked.
        input: Option<Halo>,
        between: Image,
        output: Image,
        weights: Tensor,
        finish: Finish,
    },
    Affine(Affine),
    Chain(chain::Chain),
    Pool {
        input: Image,
        output: Image,
    },
    Unary(Activation),
    Pairwise(Pairwise),
    /// Bytes of each input in each of so many rows.
    Concat {
        rows: usize,
        blocks: Vec<usize>,
    },
    Reorder(Reorder),
}

/// Makes the kernel of a draft.
pub(crate) fn make(program: &Program, isa: Isa, draft: &Draft) -> Result<Box<dyn Kernel>> {
    let node = program.nodes().get(draft.node).ok_or_else(|| Error::internal("a step is of no node"))?;
    kernels::make(Site { program, node, isa, packs: true }, &draft.recipe)
}

/// A chain of nodes that one kernel does.
struct Chain {
    /// Its first node.
    head: usize,
    /// All its nodes.
    nodes: Vec<usize>,
    /// What it writes.
    output: ValueId,
    /// Added to a convolution's sums.
    addend: Option<ValueId>,
    kind: ChainKind,
}

enum ChainKind {
    /// `pooled` is what a pooling at the end reads.
    Conv {
        geometry: Box<Geometry>,
        weights: Tensor,
        finish: Finish,
        pooled: Option<ValueId>,
    },
    Affine {
        scale: Vec<f32>,
        shift: Vec<f32>,
        clamp: (f32, f32),
    },
}

struct Lowering<'a> {
    program: &'a Program,
    isa: Isa,
    filters: bool,
    consumers: Vec<Vec<usize>>,
    producers: Vec<Option<usize>>,
    is_output: Vec<bool>,
    /// Values that are blocked where they are made.
    blocked: Vec<bool>,
    /// By last node.
    chains: HashMap<usize, Chain>,
    /// Nodes that a chain does.
    absorbed: Vec<bool>,
    /// Element-wise nodes on plain values that are done together, by the last of them.
    clusters: HashMap<usize, Vec<usize>>,
    /// Convolutions that read a blocked input, with the halo that they need.
    halos: HashMap<usize, Halo>,
    /// Layouts in which each value is there.
    there: HashMap<ValueId, Vec<Layout>>,
    drafts: Vec<Draft>,
}

/// The steps of a program; `filters` says whether convolutions may be done by minimal filtering.
pub(crate) fn lower(program: &Program, isa: Isa, filters: bool) -> Result<Vec<Draft>> {
    let index = |ids: Vec<hetero_hal::NodeId>| ids.into_iter().map(|id| id.index()).collect();
    let mut is_output = vec![false; program.values().len()];
    for id in program.outputs() {
        is_output[id.index()] = true;
    }
    let nodes = program.nodes().len();
    let mut lowering = Lowering {
        program,
        isa,
        filters,
        consumers: program.consumers().into_iter().map(index).collect(),
        producers: program.producers().into_iter().map(|id| id.map(|id| id.index())).collect(),
        is_output,
        blocked: vec![false; program.values().len()],
        chains: HashMap::new(),
        absorbed: vec![false; nodes],
        clusters: HashMap::new(),
        halos: HashMap::new(),
        there: HashMap::new(),
        drafts: Vec::with_capacity(nodes),
    };
    for node in 0..nodes {
        lowering.survey(node)?;
    }
    for node in (0..nodes).rev() {
        lowering.gather(node)?;
    }
    for node in 0..nodes {
        lowering.emit(node)?;
    }
    for &id in program.outputs() {
        let made = lowering.producers[id.index()];
        if let Some(node) = made {
            lowering.want(node, id, Layout::Plain)?;
        }
    }
    Ok(lowering.drafts)
}

impl<'a> Lowering<'a> {
    fn site(&self, node: usize) -> Site<'a> {
        Site { program: self.program, node: &self.program.nodes()[node], isa: self.isa, packs: false }
    }

    fn node(&self, node: usize) -> &'a Node {
        &self.program.nodes()[node]
    }

    fn shape(&self, value: ValueId) -> &'a [usize] {
        &self.program.values()[value.index()].shape
    }

    fn image(&self, value: ValueId, halo: Halo) -> Result<Image> {
        Image::of(self.shape(value), halo, self.isa.lanes())
            .filter(|image| image.elements().and_then(|count| count.checked_mul(size_of::<f32>())).is_some())
            .ok_or_else(|| Error::internal("a blocked value is no image"))
    }

    /// The value may be blocked: f32, of exact sizes, with one or two spatial dimensions.
    fn may_be_blocked(&self, value: ValueId) -> bool {
        let value = &self.program.values()[value.index()];
        let image = Image::of(&value.shape, Halo::NONE, self.isa.lanes());
        value.dtype == DType::F32 && !value.is_dynamic() && image.and_then(|image| image.elements()).is_some()
    }

    /// The node's output, where it has one and it is the only one.
    fn only_output(&self, node: usize) -> Option<ValueId> {
        match self.node(node).outputs.as_slice() {
            [Some(output)] => Some(*output),
            _ => None,
        }
    }

    fn input(&self, node: usize, index: usize) -> Option<ValueId> {
        self.node(node).inputs.get(index).copied().flatten()
    }

    /// The one node that reads a value, where nobody else needs it.
    fn sole_consumer(&self, value: ValueId) -> Option<usize> {
        match self.consumers[value.index()].as_slice() {
            [only]
                if !self.is_output[value.index()] && self.node(*only).uses().filter(|&id| id == value).count() == 1 =>
            {
                Some(*only)
            }
            _ => None,
        }
    }

    /// A constant with one element for each channel of an image of rank `rank`, or one in all.
    fn per_channel(&self, value: ValueId, channels: usize, rank: usize) -> Option<Vec<f32>> {
        let constant = self.program.values()[value.index()].constant.as_ref()?;
        let shape = constant.shape();
        if constant.dtype() != DType::F32 || shape.len() > rank {
            return None;
        }
        let content = constant.view::<f32>().ok()?;
        if let [only] = *content {
            return Some(vec![only; channels]);
        }
        // Aligned at the end, the channels stand second.
        let lead = rank - shape.len();
        let fits =
            shape.iter().enumerate().all(|(axis, &size)| if axis + lead == 1 { size == channels } else { size == 1 });
        (fits && content.len() == channels).then(|| content.to_vec())
    }

    /// Factor and shift of each channel, where the node is `x * scale + shift` of its input `value` with constants.
    fn affine(&self, node: usize, value: ValueId) -> Result<Option<(Vec<f32>, Vec<f32>)>> {
        let (site, Some(output)) = (self.site(node), self.only_output(node)) else { return Ok(None) };
        let shape = self.shape(value);
        let (&[_, channels, _, ..], true) = (shape, self.shape(output) == shape) else { return Ok(None) };
        if !self.may_be_blocked(value) || !self.may_be_blocked(output) || !site.operator().domain.is_empty() {
            return Ok(None);
        }
        let name = &*site.operator().name;
        if name == "BatchNormalization" {
            if site.operator().int("training_mode")?.unwrap_or(0) != 0 || self.input(node, 0) != Some(value) {
                return Ok(None);
            }
            let read = |index: usize| {
                let tensor = site.constant(index).filter(|tensor| tensor.shape() == [channels])?;
                tensor.view::<f32>().ok().map(|content| content.to_vec())
            };
            let (Some(scale), Some(shift), Some(mean), Some(variance)) = (read(1), read(2), read(3), read(4)) else {
                return Ok(None);
            };
            let epsilon = site.operator().float("epsilon")?.unwrap_or(1e-5);
            let factor: Vec<f32> = scale.iter().zip(&variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
            let shift = shift.iter().zip(&mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
            return Ok(Some((factor, shift)));
        }
        let [Some(a), Some(b)] = *self.node(node).inputs.as_slice() else { return Ok(None) };
        let (other, first) = if a == value { (b, true) } else { (a, false) };
        if other == value {
            return Ok(None);
        }
        let Some(constant) = self.per_channel(other, channels, shape.len()) else { return Ok(None) };
        let ones = || vec![1.0; channels];
        let zeros = || vec![0.0; channels];
        let negated = |list: &[f32]| list.iter().map(|x| -x).collect::<Vec<_>>();
        Ok(match (name, first) {
            ("Mul", _) => Some((constant, zeros())),
            ("Add" | "Sum", _) => Some((ones(), constant)),
            ("Sub", true) => Some((ones(), negated(&constant))),
            ("Sub", false) => Some((vec![-1.0; channels], constant)),
            _ => None,
        })
    }

    /// The limits of a node that is a clamp of its first input.
    fn activation(&self, node: usize, value: ValueId) -> Result<Option<Activation>> {
        let (site, Some(output)) = (self.site(node), self.only_output(node)) else { return Ok(None) };
        let usual = site.operator().domain.is_empty() && self.input(node, 0) == Some(value);
        if !usual || !self.may_be_blocked(output) || self.shape(output) != self.shape(value) {
            return Ok(None);
        }
        elementwise::unary(site)
    }

    /// Notes what a node will be.
    fn survey(&mut self, node: usize) -> Result<()> {
        if self.absorbed[node] {
            return Ok(());
        }
        let site = self.site(node);
        let (Some(input), Some(output)) = (self.input(node, 0), self.node(node).outputs.first().copied().flatten())
        else {
            return Ok(());
        };
        if !site.operator().domain.is_empty() || !self.may_be_blocked(output) {
            return Ok(());
        }
        if site.operator().is("Conv") {
            return self.survey_conv(node, input);
        }
        // What one Add or Mul does to a plain value is left to it.
        let in_blocked = self.blocked[input.index()];
        let operands = || self.node(node).inputs.iter().map(|id| id.filter(|id| self.blocked[id.index()]));
        let whole = |value: ValueId| self.image(value, Halo::NONE).is_ok_and(|image| image.is_dense());
        let is_blocked = match &*site.operator().name {
            "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" => {
                in_blocked && self.only_output(node).is_some() && kernels::pooling::fits(site)?
            }
            "Concat" => {
                let rank = self.shape(output).len() as i64;
                let axis = site.operator().int("axis")?.unwrap_or(0);
                let by_channel = axis == 1 || axis + rank == 1;
                by_channel && operands().all(|id| id.is_some_and(whole))
            }
            _ => {
                let values: Vec<ValueId> = self.node(node).inputs.iter().flatten().copied().collect();
                let varying = values.iter().find(|id| self.program.values()[id.index()].constant.is_none());
                if let Some(&varying) = varying
                    && let Some((scale, shift)) = self.affine(node, varying)?
                {
                    return self.survey_affine(node, varying, scale, shift);
                }
                if let Some(function) = self.activation(node, input)? {
                    in_blocked && (whole(output) || function.keeps_zero())
                } else if let Some(function) = elementwise::binary(site) {
                    let keeps = matches!(
                        function,
                        Pairwise::Add | Pairwise::Sub | Pairwise::Mul | Pairwise::Max | Pairwise::Min
                    );
                    let shape = self.shape(output);
                    let same = operands().all(|id| id.is_some_and(|id| self.shape(id) == shape));
                    same && values.len() >= 2 && (keeps || whole(output))
                } else {
                    false
                }
            }
        };
        self.blocked[output.index()] = is_blocked;
        Ok(())
    }

    fn survey_conv(&mut self, node: usize, input: ValueId) -> Result<()> {
        let site = self.site(node);
        let weights = site.constant(1).cloned();
        let constant_bias = site.input(2).is_none() || site.constant(2).is_some();
        let (Some(geometry), Some(weights), true) = (Geometry::of(site)?, weights, constant_bias) else {
            return Ok(());
        };
        let Some(mut output) = self.only_output(node) else { return Ok(()) };
        let filters = geometry.groups * geometry.outputs;
        let bias = match site.constant(2) {
            Some(bias) => bias.view::<f32>()?.to_vec(),
            None => vec![0.0; filters],
        };
        let unbounded = (f32::NEG_INFINITY, f32::INFINITY);
        let mut finish = Finish { scale: vec![], bias, addend: false, clamp: unbounded, activation: None };
        let fits = geometry.fits_blocks(self.isa.lanes());
        let blocks =
            self.may_be_blocked(input) && if geometry.is_depthwise() { self.blocked[input.index()] } else { fits };
        let from_plain =
            !geometry.is_depthwise() && geometry.takes_plain(self.isa.lanes()) && !self.blocked[input.index()];
        let (mut last, mut addend) = (node, None);
        let mut chain = vec![node];
        while let Some(next) = self.sole_consumer(output) {
            let Some(result) = self.only_output(next) else { break };
            if self.absorbed[next] {
                break;
            }
            if let (None, Some((factor, shift))) = (addend, self.affine(next, output)?) {
                if finish.scale.is_empty() {
                    finish.scale = vec![1.0; filters];
                }
                finish.scale.iter_mut().zip(&factor).for_each(|(scale, factor)| *scale *= factor);
                finish.bias.iter_mut().zip(&factor).zip(&shift).for_each(|((b, f), s)| *b = *b * f + s);
            } else if let (None, Some(other)) = (addend, self.residual(next, output, node, blocks)) {
                addend = Some(other);
            } else if let Some(function) = self.activation(next, output)? {
                let padded = blocks && !filters.is_multiple_of(self.isa.lanes());
                if padded && !function.keeps_zero() {
                    break;
                }
                match function {
                    Activation::Clamp(low, high) => finish.clamp = (low, high),
                    other => finish.activation = Some(other),
                }
                (last, output) = (next, result);
                chain.push(next);
                break;
            } else {
                break;
            }
            (last, output) = (next, result);
            chain.push(next);
        }
        finish.addend = addend.is_some();
        let mut pooled = None;
        if blocks
            && addend.is_none()
            && let Some((pool, result)) = self.pooling(&geometry, output)?
        {
            pooled = Some(output);
            (last, output) = (pool, result);
            chain.push(pool);
        }
        if blocks {
            self.blocked[output.index()] = true;
            if !from_plain {
                self.halos.insert(node, geometry.halo());
            }
        }
        for &node in &chain {
            self.absorbed[node] = true;
        }
        let kind = ChainKind::Conv { geometry: Box::new(geometry), weights, finish, pooled };
        self.chains.insert(last, Chain { head: node, nodes: chain, output, addend, kind });
        Ok(())
    }

    /// The pooling that alone reads a convolution's result, where one kernel for both pays, and what it gives.
    fn pooling(&self, geometry: &Geometry, value: ValueId) -> Result<Option<(usize, ValueId)>> {
        if self.shape(value).len() != 4 || !conv::pools(geometry, self.isa.lanes(), self.filters) {
            return Ok(None);
        }
        let Some(pool) = self.sole_consumer(value).filter(|&node| !self.absorbed[node]) else { return Ok(None) };
        let (site, Some(result)) = (self.site(pool), self.only_output(pool)) else { return Ok(None) };
        let usual = site.operator().domain.is_empty() && matches!(&*site.operator().name, "MaxPool" | "AveragePool");
        let fits = usual && self.may_be_blocked(result) && kernels::pooling::fits(site)?;
        Ok(fits.then_some((pool, result)))
    }

    /// The other operand, where the node adds one of the same shape and layout, made before the convolution `conv`, to `value`.
    fn residual(&self, node: usize, value: ValueId, conv: usize, blocked: bool) -> Option<ValueId> {
        let [Some(a), Some(b)] = *self.node(node).inputs.as_slice() else { return None };
        let other = if a == value { b } else { a };
        let sum = self.site(node).operator().is("Add") || self.site(node).operator().is("Sum");
        let shape = self.shape(value);
        let fits = self.shape(other) == shape && self.shape(self.only_output(node)?) == shape;
        let constant = self.program.values()[other.index()].constant.is_some();
        // Where both operands are convolutions, the later one adds: the other's result is there by then.
        let earlier = self.producers[other.index()].is_none_or(|producer| producer < conv);
        let usable = other != value && !constant && self.may_be_blocked(other);
        (sum && fits && usable && earlier && self.blocked[other.index()] == blocked).then_some(other)
    }

    fn survey_affine(&mut self, node: usize, value: ValueId, mut scale: Vec<f32>, mut shift: Vec<f32>) -> Result<()> {
        let Some(mut output) = self.only_output(node) else { return Ok(()) };
        let (mut last, mut clamp) = (node, (f32::NEG_INFINITY, f32::INFINITY));
        let mut chain = vec![node];
        while let Some(next) = self.sole_consumer(output) {
            let Some(result) = self.only_output(next) else { break };
            if let Some((factor, more)) = self.affine(next, output)? {
                scale.iter_mut().zip(&factor).for_each(|(scale, factor)| *scale *= factor);
                shift.iter_mut().zip(&factor).zip(&more).for_each(|((b, f), s)| *b = *b * f + s);
            } else if let Some(Activation::Clamp(low, high)) = self.activation(next, output)? {
                let keeps = Activation::Clamp(low, high).keeps_zero();
                if keeps || self.image(output, Halo::NONE)?.is_dense() {
                    clamp = (low, high);
                    (last, output) = (next, result);
                    chain.push(next);
                }
                break;
            } else {
                break;
            }
            (last, output) = (next, result);
            chain.push(next);
        }
        // What is plain and not normalised is gathered with other element-wise nodes.
        let blocked = self.blocked[value.index()];
        if !blocked && !self.site(node).operator().is("BatchNormalization") {
            return Ok(());
        }
        for &node in &chain {
            self.absorbed[node] = true;
        }
        self.blocked[output.index()] = blocked;
        let kind = ChainKind::Affine { scale, shift, clamp };
        self.chains.insert(last, Chain { head: node, nodes: chain, output, addend: None, kind });
        Ok(())
    }

    /// The output of an element-wise node on plain f32 values of exact sizes.
    fn elementwise(&self, node: usize) -> Result<Option<ValueId>> {
        let (site, Some(output)) = (self.site(node), self.only_output(node)) else { return Ok(None) };
        let exact = |id: ValueId| {
            let value = &self.program.values()[id.index()];
            value.dtype == DType::F32 && !value.is_dynamic() && !self.blocked[id.index()]
        };
        let usual = site.operator().domain.is_empty() && !self.absorbed[node] && exact(output);
        if !usual || !self.node(node).uses().all(exact) || self.program.values()[output.index()].elements() == 0 {
            return Ok(None);
        }
        let two = self.node(node).inputs.len() == 2 && self.node(node).inputs.iter().all(Option::is_some);
        let known = elementwise::unary(site)?.is_some() || (two && elementwise::binary(site).is_some());
        Ok(known.then_some(output))
    }

    /// Gathers the element-wise nodes that only feed this one, directly or through each other.
    fn gather(&mut self, node: usize) -> Result<()> {
        let Some(output) = self.elementwise(node)? else { return Ok(()) };
        let shape = self.shape(output);
        let mut members = vec![node];
        for other in (0..node).rev() {
            if node - other > 256 {
                break;
            }
            let Some(result) = self.elementwise(other)? else { continue };
            let readers = &self.consumers[result.index()];
            let inside = !readers.is_empty() && readers.iter().all(|reader| members.contains(reader));
            if inside && !self.is_output[result.index()] && self.shape(result) == shape {
                members.push(other);
                if self.operations(&members)?.is_none() {
                    members.pop();
                }
            }
        }
        if members.len() > 1 {
            for &member in &members {
                self.absorbed[member] = true;
            }
            self.clusters.insert(node, members);
        }
        Ok(())
    }

    /// The operations of a cluster, last node first, and its inputs; `None` where registers or inputs run out.
    fn operations(&self, members: &[usize]) -> Result<Option<(Vec<Operation>, Vec<ValueId>)>> {
        let mut order = members.to_vec();
        order.sort_unstable();
        let (mut inputs, mut operations): (Vec<ValueId>, Vec<Operation>) = (vec![], vec![]);
        // What each register holds, and how many reads of it are to come.
        let mut registers: [Option<(ValueId, usize)>; chain::REGISTERS] = [None; chain::REGISTERS];
        for &member in &order {
            let site = self.site(member);
            let (Some(output), Some(first)) = (self.only_output(member), self.input(member, 0)) else {
                return Ok(None);
            };
            let mut source = |id: ValueId, registers: &[Option<(ValueId, usize)>]| {
                let held = registers.iter().position(|slot| slot.is_some_and(|(held, _)| held == id));
                held.map(Source::Register).or_else(|| {
                    let position = inputs.iter().position(|&input| input == id).unwrap_or_else(|| {
                        inputs.push(id);
                        inputs.len() - 1
                    });
                    (position < chain::INPUTS).then_some(Source::Input(position))
                })
            };
            let second = match elementwise::unary(site)? {
                Some(_) => None,
                None => self.input(member, 1),
            };
            let Some(a) = source(first, &registers) else { return Ok(None) };
            let b = match second.map(|id| source(id, &registers)) {
                Some(None) => return Ok(None),
                other => other.flatten(),
            };
            for read in [Some(a), b].into_iter().flatten() {
                if let Source::Register(index) = read
                    && let Some((_, left)) = &mut registers[index]
                {
                    *left -= 1;
                }
            }
            // The first operand's register where nobody else reads it; else one that is free, and is not the second operand's.
            let is_free = |index: usize| registers[index].is_none_or(|(_, left)| left == 0);
            let kept = match a {
                Source::Register(index) if is_free(index) => Some(index),
                _ => None,
            };
            let fresh = || (0..chain::REGISTERS).find(|&index| is_free(index) && b != Some(Source::Register(index)));
            let Some(into) = kept.or_else(fresh) else { return Ok(None) };
            if b == Some(Source::Register(into)) && a != Source::Register(into) {
                return Ok(None);
            }
            let reads = order.iter().map(|&reader| self.node(reader).uses().filter(|&id| id == output).count()).sum();
            registers[into] = Some((output, reads));
            let function = match (elementwise::unary(site)?, elementwise::binary(site), b) {
                (Some(function), ..) => Function::One(function),
                (None, Some(function), Some(b)) => Function::Two(function, b),
                _ => return Ok(None),
            };
            operations.push(Operation { function, first: a, into });
        }
        Ok(Some((operations, inputs)))
    }

    fn emit_cluster(&mut self, node: usize, mut members: Vec<usize>) -> Result<()> {
        let found = self.operations(&members)?;
        let (operations, values) = found.ok_or_else(|| Error::internal("a cluster has no operations"))?;
        let output = self.only_output(node).ok_or_else(|| Error::internal("a cluster has no output"))?;
        let shapes: Vec<&[usize]> = values.iter().map(|&id| self.shape(id)).collect();
        let chain = chain::Chain::new(self.isa, operations, &shapes, self.shape(output));
        let mut inputs = Vec::with_capacity(values.len());
        for id in values {
            inputs.push(Some(self.want(node, id, Layout::Plain)?));
        }
        members.sort_unstable();
        let form = Form::plain(output);
        self.made(form);
        self.drafts.push(Draft {
            node,
            nodes: members,
            recipe: Recipe::Chain(chain),
            inputs,
            outputs: vec![Some(form)],
        });
        Ok(())
    }

    /// The halo that all readers of a value together want: none unless all are convolutions that read it blocked.
    fn halo_of(&self, value: ValueId) -> Halo {
        if self.is_output[value.index()] {
            return Halo::NONE;
        }
        let mut halo = Halo::NONE;
        for &reader in &self.consumers[value.index()] {
            match self.halos.get(&reader) {
                Some(&wanted) if self.input(reader, 0) == Some(value) => halo = halo.union(wanted),
                _ => return Halo::NONE,
            }
        }
        halo
    }

    /// The value in a layout; where it is not there, a step that makes it.
    fn want(&mut self, node: usize, value: ValueId, layout: Layout) -> Result<Form> {
        let there = self.there.entry(value).or_insert_with(|| vec![Layout::Plain]).clone();
        if there.contains(&layout) {
            return Ok(Form { value, layout });
        }
        if let Layout::Blocked(wanted) = layout {
            let wide =
                there.iter().find(|layout| matches!(layout, Layout::Blocked(halo) if halo.union(wanted) == *halo));
            if let (Some(&layout), true) = (wide, wanted != Halo::NONE) {
                return Ok(Form { value, layout });
            }
        }
        let from = there.last().copied().unwrap_or(Layout::Plain);
        let image = |layout: Layout| match layout {
            Layout::Plain => Ok((self.image(value, Halo::NONE)?, false)),
            Layout::Blocked(halo) => Ok::<_, Error>((self.image(value, halo)?, true)),
        };
        let recipe = Recipe::Reorder(Reorder::new(self.isa, image(from)?, image(layout)?));
        self.drafts.push(Draft {
            node,
            nodes: vec![],
            recipe,
            inputs: vec![Some(Form { value, layout: from })],
            outputs: vec![Some(Form { value, layout })],
        });
        self.there.entry(value).or_default().push(layout);
        Ok(Form { value, layout })
    }

    fn made(&mut self, form: Form) {
        self.there.insert(form.value, vec![form.layout]);
    }

    fn emit(&mut self, node: usize) -> Result<()> {
        if let Some(chain) = self.chains.remove(&node) {
            return self.emit_chain(node, chain);
        }
        if let Some(members) = self.clusters.remove(&node) {
            return self.emit_cluster(node, members);
        }
        if self.absorbed[node] {
            return Ok(());
        }
        let output = self.node(node).outputs.first().copied().flatten();
        if let Some(output) = output.filter(|id| self.blocked[id.index()]) {
            return self.emit_blocked(node, output);
        }
        // Behind the inputs stand the values that subgraphs capture; see `kernels::oracle`.
        let operands = self.node(node).inputs.clone();
        let captured: Vec<_> = self.node(node).uses().skip(operands.iter().flatten().count()).map(Some).collect();
        let mut inputs = Vec::with_capacity(operands.len() + captured.len());
        for id in operands.into_iter().chain(captured) {
            inputs.push(id.map(|id| self.want(node, id, Layout::Plain)).transpose()?);
        }
        let outputs: Vec<_> = self.node(node).outputs.iter().map(|id| id.map(Form::plain)).collect();
        for form in outputs.iter().flatten() {
            self.made(*form);
        }
        self.drafts.push(Draft { node, nodes: vec![node], recipe: Recipe::Node, inputs, outputs });
        Ok(())
    }

    fn emit_chain(&mut self, node: usize, chain: Chain) -> Result<()> {
        let blocked = self.blocked[chain.output.index()];
        let halo = if blocked && chain.addend.is_none() { self.halo_of(chain.output) } else { Halo::NONE };
        let layout = if blocked { Layout::Blocked(halo) } else { Layout::Plain };
        let output = Form { value: chain.output, layout };
        let source = match chain.kind {
            ChainKind::Conv { .. } => self.input(chain.head, 0),
            ChainKind::Affine { .. } => {
                let inputs = self.node(chain.head).inputs.iter().flatten().copied();
                inputs.into_iter().find(|id| self.program.values()[id.index()].constant.is_none())
            }
        };
        let source = source.ok_or_else(|| Error::internal("a chain has no input"))?;
        let (recipe, mut inputs) = match chain.kind {
            ChainKind::Conv { geometry, weights, finish, pooled } => {
                let wanted = self.halos.get(&chain.head).copied();
                let input = match wanted {
                    Some(halo) => {
                        // A plain value is reordered once for all its readers.
                        let all = self.halo_of(source);
                        let halo = if halo.union(all) == all { all } else { halo };
                        self.want(node, source, Layout::Blocked(halo))?
                    }
                    None => self.want(node, source, Layout::Plain)?,
                };
                let of = |layout: Layout| match layout {
                    Layout::Plain => None,
                    Layout::Blocked(halo) => Some(halo),
                };
                let (from, to) = (of(input.layout), of(layout));
                if let (Some(between), Some(halo)) = (pooled, to) {
                    let (between, output) = (self.image(between, Halo::NONE)?, self.image(chain.output, halo)?);
                    let geometry = *geometry;
                    (Recipe::ConvPool { geometry, input: from, between, output, weights, finish }, vec![Some(input)])
                } else {
                    let recipe = Recipe::Conv {
                        geometry: *geometry,
                        input: from,
                        output: to,
                        weights,
                        finish,
                        filters: self.filters,
                    };
                    (recipe, vec![Some(input)])
                }
            }
            ChainKind::Affine { scale, shift, clamp } => {
                let from = if blocked { Layout::Blocked(Halo::NONE) } else { Layout::Plain };
                let input = self.want(node, source, from)?;
                let halo = |layout: Layout| match layout {
                    Layout::Plain => Halo::NONE,
                    Layout::Blocked(halo) => halo,
                };
                let images = (self.image(source, halo(input.layout))?, self.image(chain.output, halo(layout))?);
                let affine = Affine::new(self.isa, images, blocked, scale, shift, clamp);
                (Recipe::Affine(affine), vec![Some(input)])
            }
        };
        if let Some(addend) = chain.addend {
            inputs.push(Some(self.want(node, addend, layout)?));
        }
        self.made(output);
        self.drafts.push(Draft { node, nodes: chain.nodes, recipe, inputs, outputs: vec![Some(output)] });
        Ok(())
    }

    fn emit_blocked(&mut self, node: usize, output: ValueId) -> Result<()> {
        let site = self.site(node);
        let flat = Layout::Blocked(Halo::NONE);
        let name = &*site.operator().name;
        let pool = matches!(name, "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool");
        let unary = if pool { None } else { elementwise::unary(site)? };
        let count = if pool || unary.is_some() { 1 } else { self.node(node).inputs.len() };
        let mut inputs = Vec::with_capacity(count);
        for id in self.node(node).inputs.iter().take(count).flatten() {
            inputs.push(Some(self.want(node, *id, flat)?));
        }
        let halo = if pool { self.halo_of(output) } else { Halo::NONE };
        let form = Form { value: output, layout: Layout::Blocked(halo) };
        let recipe = if pool {
            let source = self.input(node, 0).ok_or_else(|| Error::internal("a pooling has no input"))?;
            Recipe::Pool { input: self.image(source, Halo::NONE)?, output: self.image(output, halo)? }
        } else if let Some(function) = unary {
            Recipe::Unary(function)
        } else if name == "Concat" {
            let mut blocks = Vec::with_capacity(count);
            for form in inputs.iter().flatten() {
                let image = self.image(form.value, Halo::NONE)?;
                blocks.push(image.blocks() * image.plane() * size_of::<f32>());
            }
            let rows = self.image(output, Halo::NONE)?.batch;
            Recipe::Concat { rows, blocks }
        } else {
            let function = elementwise::binary(site).ok_or_else(|| Error::internal("no function of two operands"))?;
            Recipe::Pairwise(function)
        };
        self.made(form);
        self.drafts.push(Draft { node, nodes: vec![node], recipe, inputs, outputs: vec![Some(form)] });
        Ok(())
    }
}
