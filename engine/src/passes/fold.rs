//! Constant folding: a node whose inputs are all constant is computed once, by the oracle.
//!
//! Weights of products in 8 bits stay as they are, because devices that compute in 8 bits need them
//! so.

use hetero_hal::{DType, ErrorKind, Evaluation, Graph, Node, Result, Tensor, ValueId};

use super::{Pass, PassContext};

pub(super) struct ConstantFolding;

impl Pass for ConstantFolding {
    fn name(&self) -> &str {
        "constant-folding"
    }

    fn run(&self, graph: &mut Graph, context: &PassContext<'_>) -> Result<()> {
        let mut left = context.allowance.clone();
        let kept = weights_in_8_bits(graph);
        let nodes = std::mem::take(&mut graph.nodes);
        graph.nodes.reserve(nodes.len());
        for node in nodes {
            let is_kept = node.outputs.iter().flatten().any(|id| kept[id.index()]);
            if is_kept || node.inputs.iter().flatten().any(|id| graph.values[id.index()].constant.is_none()) {
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

/// Returns for each value whether it is only the weights or the bias of products whose left operand
/// is in 8 bits, and made of integers itself.
fn weights_in_8_bits(graph: &Graph) -> Vec<bool> {
    let mut kept = vec![false; graph.values.len()];
    let dtype = |id: ValueId| graph.values[id.index()].ty.dtype;
    let is_constant = |id: ValueId| graph.values[id.index()].constant.is_some();
    let source = |node: &Node| node.inputs.first().copied().flatten().filter(|_| node.operator.is("DequantizeLinear"));
    let is_byte = |id: ValueId| matches!(dtype(id), Some(DType::U8 | DType::I8));
    let mut left = vec![false; graph.values.len()];
    for node in &graph.nodes {
        let Some(from) = source(node) else { continue };
        let integers = is_byte(from) || dtype(from) == Some(DType::I32);
        for id in node.outputs.iter().flatten() {
            left[id.index()] = is_byte(from) && !is_constant(from);
            kept[id.index()] = integers && node.inputs.iter().flatten().all(|&id| is_constant(id));
        }
    }
    for node in &graph.nodes {
        let name = &*node.operator.name;
        let product = node.operator.domain.is_empty() && matches!(name, "Conv" | "ConvTranspose" | "Gemm" | "MatMul");
        let in_8_bits = product && node.inputs.first().copied().flatten().is_some_and(|id| left[id.index()]);
        // Behind the inputs stand the values that subgraphs capture.
        let captured = node.uses().skip(node.inputs.iter().flatten().count());
        let places = node.inputs.iter().enumerate().filter(|(place, _)| !(in_8_bits && matches!(place, 1 | 2)));
        let others: Vec<ValueId> = places.filter_map(|(_, id)| *id).chain(captured).collect();
        others.into_iter().for_each(|id| kept[id.index()] = false);
    }
    graph.outputs.iter().for_each(|id| kept[id.index()] = false);
    kept
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
