//! Programs on numbers of 16 bits: the same program on f32, and which nodes its kernels do.
//!
//! Values keep their 16 bits in constants, in what is bound, and wherever a kernel reads them so.
//! Between kernels for f32 a value stays f32, so that it is rounded where it becomes 16 bits again
//! and not after each node.

use hetero_hal::{Attribute, DType, Graph, Node, Operator, Program, Result, TensorType, Value, ValueId};

use super::Lowering;
use crate::image::Layout;
use crate::kernels::{self, Site};
use crate::simd::Half;

/// The program on f32, with the constants as they are, and the format of each value of 16 bits.
pub(crate) struct Wide {
    pub(crate) program: Program,
    pub(super) halves: Vec<Option<Half>>,
}

impl Wide {
    /// Returns the program on f32, where some value has 16 bits.
    pub(crate) fn of(program: &Program) -> Option<Wide> {
        let halves: Vec<Option<Half>> = program.values().iter().map(|value| Half::of(value.dtype)).collect();
        if halves.iter().all(Option::is_none) {
            return None;
        }
        let mut graph = program.to_graph();
        graph.values.iter_mut().for_each(|value| widen(&mut value.ty));
        // A value that would be too large in f32 leaves the program to the kernels that there are.
        let wide = Program::new(graph, program.extents().to_vec()).ok();
        wide.map(|program| Wide { program, halves })
    }
}

fn widen(ty: &mut TensorType) {
    if ty.dtype.and_then(Half::of).is_some() {
        ty.dtype = Some(DType::F32);
    }
}

/// Tells whether an operator computes the same on f32 as on numbers of 16 bits, but for rounding.
fn may_be_wide(operator: &Operator) -> bool {
    let named = |name: &str| operator.attribute(name).is_some();
    // The element type is an attribute of some operators, or what they are about.
    let typed = ["to", "dtype", "output_dtype", "precision"].into_iter().any(named);
    let by_type = matches!(
        &*operator.name,
        "Cast"
            | "CastLike"
            | "BitCast"
            | "ConstantOfShape"
            | "EyeLike"
            | "IsNaN"
            | "IsInf"
            | "RandomNormalLike"
            | "RandomUniformLike"
            | "Bernoulli"
            | "QuantizeLinear"
            | "DequantizeLinear"
            | "DynamicQuantizeLinear"
    );
    let has_body =
        operator.attributes.values().any(|attribute| matches!(attribute, Attribute::Graph(_) | Attribute::Graphs(_)));
    !typed && !by_type && !has_body
}

/// Tells whether a node decides by its numbers, which therefore have to be rounded before.
fn decides(operator: &Operator) -> bool {
    matches!(&*operator.name, "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual")
}

/// Returns a program of this node alone, on f32, where a value of it has 16 bits and the node may
/// be done so.
pub(crate) fn alone(program: &Program, node: &Node) -> Option<Program> {
    let ids: Vec<ValueId> = node.uses().chain(node.outputs.iter().flatten().copied()).collect();
    let find = |id: &ValueId| program.values().get(id.index());
    let touches = ids.iter().filter_map(find).any(|value| Half::of(value.dtype).is_some());
    if !touches || !may_be_wide(&node.operator) {
        return None;
    }
    let mut own = ids.clone();
    own.sort_unstable();
    own.dedup();
    let mut values = Vec::with_capacity(own.len());
    for value in own.iter().map(find) {
        let value = value.filter(|value| value.late.is_none())?;
        let mut ty = TensorType::exact(value.dtype, &value.shape);
        widen(&mut ty);
        values.push(Value { name: value.name.clone(), ty, constant: value.constant.clone() });
    }
    let place = |id: &ValueId| own.binary_search(id).ok().and_then(|at| u32::try_from(at).ok()).map(ValueId);
    let list = |ids: &[Option<ValueId>]| ids.iter().map(|id| id.as_ref().and_then(place)).collect::<Vec<_>>();
    let (inputs, outputs) = (list(&node.inputs), list(&node.outputs));
    let mut given: Vec<ValueId> = inputs.iter().flatten().copied().collect();
    given.retain(|id| values.get(id.index()).is_some_and(|value| value.constant.is_none()));
    given.sort_unstable();
    given.dedup();
    let graph = Graph {
        name: "one node".into(),
        values,
        inputs: given,
        outputs: outputs.iter().flatten().copied().collect(),
        nodes: vec![Node { inputs, outputs, ..node.clone() }],
        captures: vec![],
    };
    Program::new(graph, vec![]).ok()
}

/// How a node reads and writes values of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    /// As they are.
    Narrow,
    /// As f32.
    Wide,
}

impl Lowering<'_> {
    /// Returns the format of a value of 16 bits.
    pub(super) fn half(&self, value: ValueId) -> Option<Half> {
        self.wide.and_then(|wide| wide.halves.get(value.index()).copied().flatten())
    }

    /// Returns the layout of a value's elements row by row, in f32.
    pub(super) fn rows(&self, value: ValueId) -> Layout {
        if self.half(value).is_some() { Layout::Wide } else { Layout::Plain }
    }

    /// Returns how a node is done on plain values.
    /// A node that could be done either way follows what it reads.
    pub(super) fn width(&self, node: usize) -> Result<Width> {
        let own = self.node(node);
        let ids = || own.uses().chain(own.outputs.iter().flatten().copied());
        if !ids().any(|id| self.half(id).is_some()) || !may_be_wide(&own.operator) {
            return Ok(Width::Narrow);
        }
        let site = self.site(node);
        let is_native = |site: Site<'_>| matches!(kernels::native(site), Ok(Some(_)));
        let own_site = Site { program: self.original, ..site };
        let narrow = is_native(own_site);
        if narrow && decides(&own.operator) {
            return Ok(Width::Narrow);
        }
        let is_wide = |id: ValueId| {
            let made = self.program.values()[id.index()].constant.is_none() && self.half(id).is_some();
            made && self.there.get(&id).is_some_and(|there| !there.contains(&Layout::Plain))
        };
        if narrow && !own.uses().any(is_wide) {
            return Ok(Width::Narrow);
        }
        Ok(if is_native(site) { Width::Wide } else { Width::Narrow })
    }

    /// Tells whether a value is read with 16 bits, as far as that is known before its readers are
    /// emitted.
    pub(super) fn is_read_narrow(&self, value: ValueId) -> bool {
        let narrow = |operator: &Operator| !may_be_wide(operator) || decides(operator);
        let mut readers = self.consumers[value.index()].iter();
        self.is_output[value.index()] || readers.any(|reader| narrow(&self.node(reader.index()).operator))
    }

    /// Returns the operand layout of a value for a kernel that reads either form: the form that is
    /// there.
    pub(super) fn either(&self, value: ValueId) -> Layout {
        let there = self.there.get(&value);
        match there {
            Some(there) if !there.contains(&Layout::Plain) || there.contains(&Layout::Wide) => self.rows(value),
            _ => Layout::Plain,
        }
    }

    /// Returns a layout that a step can make another one of: what holds 16 bits becomes f32 first.
    pub(super) fn source_of(&mut self, node: usize, value: ValueId, layout: Layout) -> Result<Layout> {
        let there = self.there.get(&value).map_or(&[Layout::Plain][..], |there| there);
        let last = there.last().copied().unwrap_or(Layout::Plain);
        if self.half(value).is_none() {
            return Ok(last);
        }
        if there.contains(&Layout::Wide) {
            return Ok(Layout::Wide);
        }
        let blocked = there.iter().rev().copied().find(|layout| matches!(layout, Layout::Blocked(_)));
        Ok(match (layout, blocked) {
            // Blocks become other blocks, or rows.
            (Layout::Blocked(_) | Layout::Wide, Some(blocked)) => blocked,
            (Layout::Wide, None) => Layout::Plain,
            // These are layouts of bytes.
            (Layout::Moved | Layout::Last, _) => last,
            // Between 16 bits and blocks stand rows of f32.
            (Layout::Blocked(_), None) | (Layout::Plain, _) => self.want(node, value, Layout::Wide)?.layout,
        })
    }
}
