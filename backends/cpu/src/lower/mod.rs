//! The way from a program to steps: which nodes become one kernel, and how each value lies in
//! memory.
//!
//! First, functions that are written as several nodes become one node each.
//! Then there are two passes over the nodes.
//! The first pass decides which values are blocked: the result of a convolution with constant
//! weights, and the values that follow it as long as nothing needs the plain layout.
//! It also finds the chains that one kernel does: a convolution with the per-channel factors, the
//! sum and the activation behind it.
//! The second pass emits the steps in order, each chain at its last node, and a reordering wherever
//! a value is needed in a layout in which it does not exist yet.
//! So layouts change only at the edges of such regions.

mod attention;
mod clusters;
mod emit;
pub(crate) mod functions;
mod products;
pub(crate) mod quantised;
pub(crate) mod regions;
mod survey;
pub(crate) mod wide;

use foldhash::{HashMap, HashMapExt};
use hetero_hal::{DType, Error, Node, NodeId, Program, Result, ValueId};

use crate::image::{Halo, Image, Layout};
use crate::kernels::conv::{Finish, Geometry};
use crate::kernels::recipe::{self, Recipe};
use crate::kernels::{Constant, Kernel, Site};
use crate::saved::Packer;
use crate::simd::{Isa, floats};
use regions::Regions;
use wide::Wide;

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
    /// The index of the node with which the step ends, which errors and profiles name.
    pub(crate) node: usize,
    /// The indices of all nodes that the step does; empty for a reordering.
    pub(crate) nodes: Vec<usize>,
    pub(crate) recipe: Recipe,
    pub(crate) inputs: Vec<Option<Form>>,
    pub(crate) outputs: Vec<Option<Form>>,
}

/// Makes the kernel of a recipe for the node with which its step ends; packed weights are among the
/// device's.
/// A node as it stands is of the program itself, and all else of the program on f32, where there is
/// one.
pub(crate) fn make(
    (program, wide): (&Program, Option<&Wide>),
    isa: Isa,
    (node, recipe): (usize, Recipe),
    weights: Packer<'_>,
) -> Result<Box<dyn Kernel>> {
    let program = match (wide, &recipe) {
        (None, _) | (_, Recipe::Node) => program,
        (Some(wide), _) => &wide.program,
    };
    let node = program.nodes().get(node).ok_or_else(|| Error::internal("a step is of no node"))?;
    recipe::make(Site { program, node, isa, weights: Some(weights) }, recipe)
}

/// A chain of nodes that one kernel does.
struct Chain {
    /// The chain's first node.
    head: usize,
    /// All nodes of the chain.
    nodes: Vec<usize>,
    /// The value that the chain writes.
    output: ValueId,
    /// The value that is added to a convolution's sums.
    addend: Option<ValueId>,
    kind: ChainKind,
}

enum ChainKind {
    /// A convolution; `pooled` is the value that a pooling at the end reads.
    Conv {
        geometry: Box<Geometry>,
        weights: Constant,
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
    /// The program on f32, where some value has 16 bits, and else the program itself.
    program: &'a Program,
    original: &'a Program,
    wide: Option<&'a Wide>,
    isa: Isa,
    filters: bool,
    consumers: Vec<Vec<NodeId>>,
    producers: Vec<Option<usize>>,
    /// The number of times that nodes read each value.
    reads: Vec<usize>,
    is_output: Vec<bool>,
    /// Whether each value is blocked where it is made.
    blocked: Vec<bool>,
    /// The chains, by their last node.
    chains: HashMap<usize, Chain>,
    /// Whether a chain does each node.
    absorbed: Vec<bool>,
    /// The element-wise nodes on plain values that are done together, by the last of them.
    clusters: HashMap<usize, Vec<clusters::Member>>,
    /// The products of bytes that are done together with the nodes behind them, by the last node.
    products: HashMap<usize, products::Product>,
    /// The attentions that are written by their parts, by the last node.
    attentions: HashMap<usize, attention::Parts>,
    /// The other nodes of each function that is written as several, by the last one.
    functions: HashMap<usize, Vec<usize>>,
    /// The parts in 8 bits, by their last node.
    groups: HashMap<usize, quantised::Group>,
    /// The convolutions that read a blocked input, with the halo that they need.
    halos: HashMap<usize, Halo>,
    /// The halo that all readers of a value want together, where it was asked for.
    wanted: HashMap<ValueId, Halo>,
    /// The layouts in which each value exists, where these are others than the plain one alone.
    there: HashMap<ValueId, Vec<Layout>>,
    drafts: Vec<Draft>,
}

/// Returns the steps of a program; `filters` says whether minimal filtering is allowed for
/// convolutions.
pub(crate) fn lower(original: &Program, wide: Option<&Wide>, isa: Isa, filters: bool) -> Result<Vec<Draft>> {
    let base = wide.map_or(original, |wide| &wide.program);
    let halves = |id: ValueId| wide.and_then(|wide| wide.halves.get(id.index()).copied().flatten());
    let mut consumers = base.consumers();
    let (gathered, functions) = functions::gathered(base, &consumers, &halves).unzip();
    if let Some(program) = &gathered {
        consumers = program.consumers();
    }
    let program = gathered.as_ref().unwrap_or(base);
    let is_output = program.output_mask();
    let mut reads = vec![0; program.values().len()];
    for id in program.nodes().iter().flat_map(Node::uses) {
        reads[id.index()] += 1;
    }
    let nodes = program.nodes().len();
    let mut lowering = Lowering {
        program,
        original,
        wide,
        isa,
        filters,
        consumers,
        producers: program.producers().into_iter().map(|id| id.map(|id| id.index())).collect(),
        reads,
        is_output,
        blocked: vec![false; program.values().len()],
        chains: HashMap::new(),
        absorbed: vec![false; nodes],
        clusters: HashMap::new(),
        products: HashMap::new(),
        functions: HashMap::new(),
        attentions: HashMap::new(),
        groups: HashMap::new(),
        halos: HashMap::new(),
        wanted: HashMap::new(),
        there: HashMap::new(),
        drafts: Vec::with_capacity(nodes),
    };
    for functions::Function { last, others, .. } in functions.into_iter().flatten() {
        others.iter().for_each(|&node| lowering.absorbed[node] = true);
        lowering.functions.insert(last, others);
    }
    let regions = Regions::find(original);
    if let Some(regions) = &regions {
        // What is in a region is done there.
        regions.parts.iter().flatten().for_each(|&node| lowering.absorbed[node] = true);
    }
    lowering.survey_quantised()?;
    for node in 0..nodes {
        lowering.survey(node)?;
    }
    for node in (0..nodes).rev() {
        lowering.gather(node)?;
    }
    match regions {
        Some(regions) => lowering.emit_stages(&regions)?,
        None => (0..nodes).try_for_each(|node| lowering.emit(node))?,
    }
    for &id in program.outputs() {
        let made = lowering.producers[id.index()];
        if let Some(node) = made {
            lowering.want(node, id, Layout::Plain)?;
        }
    }
    let Lowering { mut drafts, functions, .. } = lowering;
    if !functions.is_empty() {
        for draft in &mut drafts {
            let others: Vec<usize> =
                draft.nodes.iter().filter_map(|node| functions.get(node)).flatten().copied().collect();
            draft.nodes.extend(others);
            draft.nodes.sort_unstable();
        }
    }
    Ok(drafts)
}

impl<'a> Lowering<'a> {
    fn site(&self, node: usize) -> Site<'a> {
        Site { program: self.program, node: &self.program.nodes()[node], isa: self.isa, weights: None }
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

    /// Tells whether the value may be blocked: it is f32, of exact sizes, with one or two spatial
    /// dimensions.
    fn may_be_blocked(&self, value: ValueId) -> bool {
        let value = &self.program.values()[value.index()];
        let image = Image::of(&value.shape, Halo::NONE, self.isa.lanes());
        value.dtype == DType::F32 && !value.is_dynamic() && image.and_then(|image| image.elements()).is_some()
    }

    /// Returns the node's output, where it has exactly one.
    fn only_output(&self, node: usize) -> Option<ValueId> {
        match self.node(node).outputs.as_slice() {
            [Some(output)] => Some(*output),
            _ => None,
        }
    }

    fn input(&self, node: usize, index: usize) -> Option<ValueId> {
        self.node(node).inputs.get(index).copied().flatten()
    }

    /// Returns the one node that reads a value, where nothing else needs the value.
    fn sole_consumer(&self, value: ValueId) -> Option<usize> {
        match self.consumers[value.index()].as_slice() {
            [only] if !self.is_output[value.index()] && self.reads[value.index()] == 1 => Some(only.index()),
            _ => None,
        }
    }

    /// Returns a constant with one element for each channel of an image of rank `rank`, or with one
    /// element in all.
    fn per_channel(&self, value: ValueId, channels: usize, rank: usize) -> Option<Vec<f32>> {
        let constant = self.program.values()[value.index()].constant.as_ref()?;
        let shape = constant.shape();
        if shape.len() > rank {
            return None;
        }
        let content = floats(constant).ok()?;
        if let [only] = *content {
            return Some(vec![only; channels]);
        }
        // Shapes are aligned at their ends, and the channels stand second.
        let lead = rank - shape.len();
        let fits =
            shape.iter().enumerate().all(|(axis, &size)| if axis + lead == 1 { size == channels } else { size == 1 });
        (fits && content.len() == channels).then(|| content.to_vec())
    }
}
