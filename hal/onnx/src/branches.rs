//! Branches of `If` whose condition is known: their nodes take the `If`'s place.

use std::sync::Arc;

use foldhash::HashMap;
use hetero_hal::{Graph, Node, Tensor, ValueId};

/// Returns the branch that an `If` takes whose condition is known.
pub(crate) fn known_branch(graph: &Graph, node: &Node, known: &HashMap<ValueId, Tensor>) -> Option<Arc<Graph>> {
    if !node.operator.is("If") {
        return None;
    }
    let condition = (*node.inputs.first()?)?;
    let value = known.get(&condition).or(graph.values[condition.index()].constant.as_ref())?;
    let taken = value.view::<hetero_hal::Bool>().ok()?.first()?.get();
    let branch = node.operator.graph(if taken { "then_branch" } else { "else_branch" }).ok()??;
    (branch.outputs.len() == node.outputs.len()).then(|| branch.clone())
}

/// Brings the values of a branch into its `If`'s graph, and returns the nodes that take the place
/// of the `If`.
/// Names get the node's name as a prefix, so that they stay unique.
pub(crate) fn splice(graph: &mut Graph, node: &Node, branch: &Graph) -> Vec<Node> {
    let mut renamed: Vec<Option<ValueId>> = vec![None; branch.values.len()];
    for capture in &branch.captures {
        renamed[capture.inner.index()] = Some(capture.outer);
    }
    let mut made_here = vec![false; branch.values.len()];
    for id in branch.nodes.iter().flat_map(|node| node.outputs.iter().flatten()) {
        made_here[id.index()] = true;
    }
    let mut carried = Vec::new();
    for (inner, outer) in branch.outputs.iter().zip(&node.outputs) {
        if let Some(outer) = outer {
            match renamed[inner.index()] {
                None if made_here[inner.index()] => renamed[inner.index()] = Some(*outer),
                _ => carried.push((*inner, *outer)),
            }
        }
    }
    for (slot, value) in renamed.iter_mut().zip(&branch.values) {
        if slot.is_none() {
            *slot = Some(ValueId(graph.values.len() as u32));
            let mut value = value.clone();
            value.name = format!("{}/{}", node.name, value.name).into();
            graph.values.push(value);
        }
    }
    let rename = |id: ValueId| renamed[id.index()].unwrap_or(id);
    let mut nodes = Vec::with_capacity(branch.nodes.len() + carried.len());
    for inner in &branch.nodes {
        let mut inner = inner.remapped(rename);
        inner.name = format!("{}/{}", node.name, inner.name).into();
        nodes.push(inner);
    }
    for (index, (inner, outer)) in carried.into_iter().enumerate() {
        nodes.push(Node {
            name: format!("{}/output_{index}", node.name).into(),
            operator: hetero_hal::Operator::new("Identity", node.operator.version),
            inputs: vec![Some(rename(inner))],
            outputs: vec![Some(outer)],
        });
    }
    nodes
}
