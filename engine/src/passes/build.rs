//! Nodes that take values apart and put them together, for the passes that split.

use hetero_hal::{
    Allowance, Attribute, DType, Error, ErrorKind, Graph, Node, Operator, Result, Tensor, TensorType, Value, ValueId,
};

/// The version of the standard since which starts and ends of a slice, and axes of any rank, are as
/// they are used here.
const VERSION: u32 = 13;

/// The bytes that one more node costs until the program runs, with its values, their names, its
/// costs in planning and its step in a session; 2.8 kB were measured with a million nodes.
const NODE_BYTES: usize = 3 << 10;

/// Checks that a program may get this number of new nodes.
///
/// # Errors
/// `OutOfMemory` with what `what` names, where they would take more memory than is allowed.
/// `Timeout` where the allowance's time is over.
pub(crate) fn allow(allowance: &Allowance, nodes: usize, what: impl std::fmt::Display) -> Result<()> {
    allowance.check()?;
    let bytes = nodes.saturating_mul(NODE_BYTES);
    if bytes <= allowance.bytes {
        return Ok(());
    }
    Err(Error::new(ErrorKind::OutOfMemory, format!("{what} would make {nodes} nodes"))
        .with_sizes(bytes as u64, Some(allowance.bytes as u64))
        .with_remedy("take larger tiles or parts, or raise the memory limit"))
}

pub(super) fn add(graph: &mut Graph, name: String, ty: TensorType, constant: Option<Tensor>) -> ValueId {
    graph.values.push(Value { name: name.into(), ty, constant });
    ValueId(graph.values.len() as u32 - 1)
}

/// Adds a constant of one whole number.
pub(super) fn number(graph: &mut Graph, name: String, content: i64) -> Result<ValueId> {
    let content = Tensor::from_vec(&[1], vec![content])?;
    Ok(add(graph, name, TensorType::exact(DType::I64, &[1]), Some(content)))
}

/// Returns a node that takes the part of a value along an axis, between constants.
pub(super) fn slice(name: &str, whole: ValueId, [from, to, axis]: [ValueId; 3], part: ValueId) -> Node {
    let inputs = [whole, from, to, axis].map(Some).to_vec();
    Node { name: name.into(), operator: Operator::new("Slice", VERSION), inputs, outputs: vec![Some(part)] }
}

/// Returns a node that puts values behind each other along an axis.
pub(super) fn concat(name: String, axis: i64, inputs: Vec<Option<ValueId>>, whole: ValueId) -> Node {
    let operator = Operator::new("Concat", VERSION).with("axis", Attribute::Int(axis));
    Node { name: name.into(), operator, inputs, outputs: vec![Some(whole)] }
}
