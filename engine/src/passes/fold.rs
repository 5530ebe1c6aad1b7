//! Constant folding: a node whose inputs are all constant is computed once, by the oracle.

use hetero_hal::{ErrorKind, Evaluation, Graph, Result, Tensor};

use super::{Pass, PassContext};

pub(super) struct ConstantFolding;

impl Pass for ConstantFolding {
    fn name(&self) -> &str {
        "constant-folding"
    }

    fn run(&self, graph: &mut Graph, context: &PassContext<'_>) -> Result<()> {
        let mut room = context.memory_limit;
        let nodes = std::mem::take(&mut graph.nodes);
        graph.nodes.reserve(nodes.len());
        for node in nodes {
            if node.inputs.iter().flatten().any(|id| graph.values[id.index()].constant.is_none()) {
                graph.nodes.push(node);
                continue;
            }
            let constant = |id: &hetero_hal::ValueId| graph.values[id.index()].constant.clone();
            let inputs: Option<Vec<Option<Tensor>>> =
                node.inputs.iter().map(|id| id.as_ref().map_or(Some(None), |id| constant(id).map(Some))).collect();
            let definition = context.operators.find(&node.operator).filter(|d| d.deterministic);
            let (Some(inputs), Some(definition), None) = (inputs, definition, node.subgraphs().next()) else {
                graph.nodes.push(node);
                continue;
            };
            // Types are known, so a constant that would not fit is found before it is computed.
            let typed = node.outputs.iter().flatten().map(|id| &graph.values[id.index()].ty);
            let bytes = typed.map(|ty| {
                let count = ty.shape().and_then(|shape| hetero_hal::element_count(&shape))?;
                ty.dtype?.bytes_for(count)
            });
            let bytes = bytes.sum::<Option<usize>>();
            if bytes.is_some_and(|bytes| bytes > room) {
                let bytes = bytes.unwrap_or_default() as u64;
                return Err(hetero_hal::Error::new(ErrorKind::OutOfMemory, "a constant of the model does not fit")
                    .at(node.to_string())
                    .with_sizes(bytes, Some(room as u64))
                    .with_remedy("check the model's sizes, or raise the memory limit"));
            }
            let evaluation = Evaluation {
                operator: &node.operator,
                inputs: &inputs,
                outputs: node.outputs.len(),
                operators: context.operators,
                outer: &|_| None,
                max_tensor_bytes: room,
                // Nodes with subgraphs are not folded, so nothing loops.
                deadline: None,
            };
            match (definition.evaluate)(&evaluation) {
                Ok(results) if results.len() >= node.outputs.len() => {
                    for (id, content) in node.outputs.iter().zip(results) {
                        if let Some(id) = id {
                            room = room.saturating_sub(content.bytes().len());
                            let value = &mut graph.values[id.index()];
                            value.ty = hetero_hal::TensorType::exact(content.dtype(), content.shape());
                            value.constant = Some(content);
                        }
                    }
                }
                // An operator that the oracle does not compute may be known to a device.
                Ok(_) => graph.nodes.push(node),
                Err(error) if error.kind() == ErrorKind::Unsupported => graph.nodes.push(node),
                Err(error) => return Err(error.at(node.to_string())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::Operator;

    use super::super::tests::{Builder, rewritten};

    #[test]
    fn constants_collapse_and_the_rest_stays() {
        let mut b = Builder::default();
        let x = b.input("x", &[3]);
        let (one, two) = (b.constant("one", &[3], vec![1.0; 3]), b.constant("two", &[3], vec![2.0; 3]));
        let sum = b.node("sum", Operator::new("Add", 14), &[one, two], &[3]);
        let y = b.node("y", Operator::new("Mul", 14), &[x, sum], &[3]);
        let after = rewritten(&b.program(&[y]));
        assert_eq!(after.nodes().len(), 1);
    }
}
