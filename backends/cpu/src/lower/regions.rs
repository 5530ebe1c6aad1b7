//! Regions: the nodes whose sizes only a run tells, put together.
//!
//! A program has an order in which its nodes come in stages: nodes of known sizes, a region, nodes
//! of known sizes again, and so on.
//! So what has known sizes is compiled once, and a region is compiled for the sizes of a run as if
//! these had always been known.
//! A node of which only its own run tells the sizes, such as `NonZero`, is a step of its own among
//! those of known sizes, and what reads it is in a later region.

use hetero_hal::{Node, Program};
use hetero_reference::sizes_depend_on_data;

use crate::kernels::computes;

/// The most elements of a value that is taken to be a shape, an axis or a size.
const MOST_ELEMENTS: usize = 64;

/// The regions of a program, and its order of nodes.
pub(crate) struct Regions {
    /// The indices of all nodes, in an order in which the nodes of a region stand together.
    pub(crate) order: Vec<usize>,
    /// The region of each node that is in one.
    pub(crate) of: Vec<Option<usize>>,
    /// The nodes of each region, in the program's order.
    pub(crate) parts: Vec<Vec<usize>>,
}

/// Tells whether a node's sizes follow from those of its inputs, in a run, and it computes on what
/// kernels compute on.
pub(crate) fn may_be_in_a_region(program: &Program, node: &Node) -> bool {
    let values = node.uses().chain(node.outputs.iter().flatten().copied());
    !sizes_depend_on_data(node) && values.into_iter().all(|id| computes(program.values()[id.index()].dtype))
}

impl Regions {
    /// Finds the regions of a program, or `None` where it has none.
    pub(crate) fn find(program: &Program) -> Option<Regions> {
        if !program.is_open() {
            return None;
        }
        let values = program.values();
        // Whether each value holds sizes that only a run tells, as `Shape` of such a value does.
        let mut sized = vec![false; values.len()];
        // The stages of values; those of odd stages are made in regions.
        let mut made = vec![0usize; values.len()];
        let mut stages = Vec::with_capacity(program.nodes().len());
        for node in program.nodes() {
            let touched = || node.uses().chain(node.outputs.iter().flatten().copied());
            let varies = touched().any(|id| values[id.index()].is_dynamic());
            let mut given = node.uses().filter(|id| values[id.index()].constant.is_none()).peekable();
            let on_sizes = given.peek().is_some() && given.all(|id| sized[id.index()]);
            let is_inside = (varies || on_sizes) && may_be_in_a_region(program, node);
            let latest = node.uses().map(|id| made[id.index()]).max().unwrap_or(0);
            let stage = if (latest % 2 == 1) == is_inside { latest } else { latest + 1 };
            stages.push(stage);
            let shape = node.operator.is("Shape") || node.operator.is("Size");
            for id in node.outputs.iter().flatten() {
                let value = &values[id.index()];
                made[id.index()] = stage;
                sized[id.index()] =
                    is_inside && (shape || on_sizes) && !value.is_dynamic() && value.elements() <= MOST_ELEMENTS;
            }
        }
        let mut order: Vec<usize> = (0..stages.len()).collect();
        order.sort_by_key(|&node| stages[node]);
        let (mut of, mut parts): (Vec<Option<usize>>, Vec<Vec<usize>>) = (vec![None; stages.len()], Vec::new());
        let mut last = None;
        for &node in order.iter().filter(|&&node| stages[node] % 2 == 1) {
            if last != Some(stages[node]) {
                parts.push(Vec::new());
                last = Some(stages[node]);
            }
            of[node] = Some(parts.len() - 1);
            if let Some(part) = parts.last_mut() {
                part.push(node);
            }
        }
        (!parts.is_empty()).then_some(Regions { order, of, parts })
    }
}
