//! Constant folding: a node whose inputs are all constant is computed once, by the oracle.

use hetero_hal::{ErrorKind, Evaluation, Graph, Result, Tensor};

use super::{Pass, PassContext};

pub(super) struct ConstantFolding;

impl Pass for ConstantFolding {
    fn name(&self) -> &str {
        "constant-folding"
    }

    fn run(&self, graph: &mut Graph, context: &PassContext<'_>) -> Result<()> {
        let mut left = context.allowance.clone();
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
            let (Some(inputs), Some(_), None) = (inputs, definition, node.subgraphs().next()) else {
                graph.nodes.push(node);
                continue;
            };
            let at = |error: hetero_hal::Error| error.at(node.to_string());
            left.check().map_err(at)?;
            // Types are known, so constants that would not fit are found before they are computed.
            let mut bytes = 0usize;
            for ty in node.outputs.iter().flatten().map(|id| &graph.values[id.index()].ty) {
                let (Some(dtype), Some(shape)) = (ty.dtype, ty.shape()) else { continue };
                bytes = bytes.saturating_add(left.tensor(dtype, &shape).map_err(at)?);
            }
            left.less(bytes).map_err(at)?;
            let evaluation = Evaluation::new(&node.operator, &inputs, node.outputs.len(), context.operators, &left);
            match evaluation.compute() {
                Ok(results) => {
                    for (id, content) in node.outputs.iter().zip(results) {
                        if let Some(id) = id {
                            left = left.less(content.bytes().len()).map_err(at)?;
                            let value = &mut graph.values[id.index()];
                            value.ty = hetero_hal::TensorType::exact(content.dtype(), content.shape());
                            value.constant = Some(content);
                        }
                    }
                }
                // An operator that the oracle does not compute may be known to a device, and one
                // that needs much memory on the way may be computed by a device with less.
                Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::OutOfMemory) => {
                    graph.nodes.push(node);
                }
                Err(error) => return Err(at(error)),
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
