//! Constant folding: a node whose inputs are all constant is computed once, by the oracle.
//!
//! Large products stay: the oracle takes longer for one than a device does for many runs.
//! A model has them where an input of a run became a constant, and all that follows from it with
//! it.
//!
//! Weights of products in 8 bits stay as they are, because devices that compute in 8 bits need them
//! so.

use hetero_hal::{
    Attribute, DType, Definition, ErrorKind, Evaluation, Graph, Node, Result, Tensor, TensorType, ValueId,
    element_count,
};

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
            let definition =
                context.operators.find(&node.operator).filter(|d| d.deterministic && !is_long(d, &node, graph));
            let (Some(inputs), Some(_), None) = (inputs, definition, node.subgraphs().next()) else {
                graph.nodes.push(node);
                continue;
            };
            let at = |error: hetero_hal::Error| error.at(node.to_string());
            left.check().map_err(at)?;
            // Types are known, so constants that would not fit are found before they are computed.
            let mut bytes = 0usize;
            // The content of a `Constant` is there already.
            let outputs = if node.operator.is("Constant") { &[][..] } else { &node.outputs };
            for ty in outputs.iter().flatten().map(|id| &graph.values[id.index()].ty) {
                let (Some(dtype), Some(shape)) = (ty.dtype, ty.shape()) else { continue };
                bytes = bytes.saturating_add(left.tensor(dtype, &shape).map_err(at)?);
            }
            left.less(bytes).map_err(at)?;
            let evaluation = Evaluation::new(&node.operator, &inputs, node.outputs.len(), context.operators, &left);
            match evaluation.compute() {
                Ok(results) => {
                    for (id, content) in node.outputs.iter().zip(results) {
                        if let Some(id) = id {
                            if !is_shared(&content, &node, &inputs) {
                                left = left.less(content.bytes().len()).map_err(at)?;
                            }
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

/// Tells whether a result is an input or an attribute of its node, such as that of `Constant`, and
/// so takes no memory of its own.
fn is_shared(content: &Tensor, node: &Node, inputs: &[Option<Tensor>]) -> bool {
    let attributes = node.operator.attributes.values().filter_map(|attribute| match attribute {
        Attribute::Tensor(tensor) => Some(tensor),
        _ => None,
    });
    inputs.iter().flatten().chain(attributes).any(|source| source.place() == content.place())
}

/// The operations that the oracle does for any constant.
const SHORT: u64 = 1 << 20;

/// The operations for each element of a result from which on a node is a product or a convolution,
/// and no function of elements.
const DEEP: u64 = 64;

/// Tells whether the oracle would take long for a node, for each element of its results.
fn is_long(definition: &Definition, node: &Node, graph: &Graph) -> bool {
    let ty = |id: &ValueId| graph.values[id.index()].ty.clone();
    let inputs: Vec<Option<TensorType>> = node.inputs.iter().map(|id| id.as_ref().map(ty)).collect();
    let outputs: Vec<TensorType> = node.outputs.iter().map(|id| id.as_ref().map(ty).unwrap_or_default()).collect();
    let flops = (definition.flops)(&node.operator, &inputs, &outputs);
    let count = |ty: &TensorType| ty.shape().and_then(|shape| element_count(&shape)).unwrap_or(0) as u64;
    let results = outputs.iter().map(count).fold(0u64, u64::saturating_add);
    flops > SHORT && flops > results.saturating_mul(DEEP)
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
    let mut any = false;
    for node in &graph.nodes {
        let Some(from) = source(node) else { continue };
        any = true;
        let integers = is_byte(from) || dtype(from) == Some(DType::I32);
        for id in node.outputs.iter().flatten() {
            left[id.index()] = is_byte(from) && !is_constant(from);
            kept[id.index()] = integers && node.inputs.iter().flatten().all(|&id| is_constant(id));
        }
    }
    if !any {
        return kept;
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
    use hetero_hal::{Allowance, Operator};

    use super::super::tests::{Builder, rewritten};
    use super::*;

    /// Functions that are called very often have their constants in each call.
    #[test]
    fn contents_that_are_there_already_take_nothing() {
        let content = Tensor::from_vec(&[250], vec![0.5f32; 250]).unwrap();
        let mut b = Builder::default();
        let x = b.input("x", &[250]);
        let mut sum = x;
        for number in 0..20 {
            let operator = Operator::new("Constant", 13).with("value", Attribute::Tensor(content.clone()));
            let constant = b.node(&format!("c{number}"), operator, &[], &[250]);
            sum = b.node(&format!("s{number}"), Operator::new("Add", 14), &[sum, constant], &[250]);
        }
        let context = PassContext { operators: &hetero_reference::Standard, allowance: &Allowance::new(1500) };
        let folded = super::super::run(b.program(&[sum]), &super::super::standard(), &context).unwrap();
        assert_eq!(folded.nodes().len(), 20);
    }

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

    #[test]
    fn large_products_of_constants_stay() {
        for (size, left) in [(32, 1), (104, 2)] {
            let mut b = Builder::default();
            let x = b.input("x", &[size, size]);
            let [first, second] =
                ["first", "second"].map(|name| b.constant(name, &[size, size], vec![1.0; size * size]));
            let product = b.node("product", Operator::new("MatMul", 13), &[first, second], &[size, size]);
            let y = b.node("y", Operator::new("Add", 14), &[x, product], &[size, size]);
            let context = PassContext { operators: &hetero_reference::Standard, allowance: &Allowance::default() };
            let after = super::super::run(b.program(&[y]), &super::super::standard(), &context).unwrap();
            assert_eq!(after.nodes().len(), left);
        }
    }

    /// Adds a constant of any type.
    fn given(b: &mut Builder, name: &str, content: Tensor) -> ValueId {
        let id = b.constant(name, &[], vec![0.0]);
        let value = &mut b.0.values[id.index()];
        (value.ty, value.constant) = (TensorType::exact(content.dtype(), content.shape()), Some(content));
        id
    }

    /// Makes a product whose left operand is in 8 bits or not, of weights and a bias in integers;
    /// where `shared` says so, another node reads the weights too.
    /// Returns the nodes that are left.
    fn left_of_product(in_8_bits: bool, shared: bool) -> Vec<String> {
        let mut b = Builder::default();
        let mut x = b.input("x", &[2, 3]);
        let scale = given(&mut b, "scale", Tensor::scalar(0.5f32));
        let zero = given(&mut b, "zero", Tensor::scalar(3u8));
        let weights = given(&mut b, "weights", Tensor::from_vec(&[3, 2], vec![1i8, -2, 3, -4, 5, -6]).unwrap());
        let bias = given(&mut b, "bias", Tensor::from_vec(&[2], vec![100i32, -100]).unwrap());
        if in_8_bits {
            let bytes = b.node("bytes", Operator::new("QuantizeLinear", 13), &[x, scale, zero], &[2, 3]);
            b.0.values[bytes.index()].ty.dtype = Some(DType::U8);
            x = b.node("real", Operator::new("DequantizeLinear", 13), &[bytes, scale, zero], &[2, 3]);
        }
        let real = |b: &mut Builder, name: &str, from: ValueId, shape: &[usize]| {
            b.node(name, Operator::new("DequantizeLinear", 13), &[from, scale], shape)
        };
        let (weights, bias) = (real(&mut b, "w", weights, &[3, 2]), real(&mut b, "b", bias, &[2]));
        let mut outputs = vec![b.node("y", Operator::new("Gemm", 13), &[x, weights, bias], &[2, 2])];
        if shared {
            outputs.push(b.node("other", Operator::new("Neg", 13), &[weights], &[3, 2]));
        }
        let after = rewritten(&b.program(&outputs));
        after.nodes().iter().map(|node| node.name.to_string()).collect()
    }

    #[test]
    fn weights_and_biases_of_products_in_8_bits_stay_in_integers() {
        assert_eq!(left_of_product(true, false), ["bytes_node", "real_node", "w_node", "b_node", "y_node"]);
    }

    #[test]
    fn weights_in_8_bits_of_other_products_are_made_real_once() {
        assert_eq!(left_of_product(false, false), ["y_node"]);
        // Weights that something else reads as real numbers are real for all.
        assert_eq!(left_of_product(true, true), ["bytes_node", "real_node", "b_node", "y_node"]);
    }
}
