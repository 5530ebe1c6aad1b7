//! From a program to steps: which nodes become one kernel, and how each value lies in memory.
//!
//! Two passes over the nodes. The first decides which values are blocked: what a convolution with constant weights gives, and what follows it
//! as long as nothing needs the plain layout. It also finds the chains that one kernel does: a convolution with the per-channel factors, the sum
//! and the activation behind it. The second emits the steps in order, each chain at its last node, and a reordering wherever a value is needed
//! in a layout in which it is not there; so layouts change at the edges of such regions only.

mod clusters;
mod emit;
mod survey;

use std::collections::HashMap;

use hetero_hal::{DType, Error, Node, Program, Result, ValueId};

use crate::image::{Halo, Image, Layout};
use crate::kernels::affine::Affine;
use crate::kernels::chain;
use crate::kernels::conv::{Finish, Geometry};
use crate::kernels::reorder::Reorder;
use crate::kernels::vector::{Activation, Pairwise};
use crate::kernels::{self, Constant, Kernel, Site};
use crate::saved::Packer;
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
        weights: Constant,
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
        weights: Constant,
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

/// Makes the kernel of a draft, whose packed weights are among the device's.
pub(crate) fn make(program: &Program, isa: Isa, draft: &Draft, weights: Packer<'_>) -> Result<Box<dyn Kernel>> {
    let node = program.nodes().get(draft.node).ok_or_else(|| Error::internal("a step is of no node"))?;
    kernels::make(Site { program, node, isa, weights: Some(weights) }, &draft.recipe)
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
}
