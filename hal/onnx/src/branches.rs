//! Branches of `If` whose condition is known.

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
