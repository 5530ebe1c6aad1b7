//! Element types of what sequences and optionals hold.
//!
//! A type says of a sequence that it is one, and not what its parts are.
//! A walk over a graph keeps that beside the types, so that what is taken out of a sequence has an
//! element type.

use hetero_hal::{Attribute, DType, Node, Tensor};

/// The depth from which on nothing is known; no sequence lies as deep in others.
const DEEPEST: usize = 8;

/// What is known of a value beside its dimensions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Held {
    /// The element type of the value itself.
    pub(crate) dtype: Option<DType>,
    /// The element type of its parts, then that of their parts, as far as these are known.
    pub(crate) parts: Vec<DType>,
}

impl Held {
    /// Returns what is known of a content.
    pub(crate) fn of(content: &Tensor) -> Held {
        let mut parts = Vec::new();
        let mut inner = content;
        while let Some(first) = inner.parts().ok().and_then(<[Tensor]>::first) {
            parts.push(first.dtype());
            inner = first;
        }
        Held { dtype: Some(content.dtype()), parts }
    }

    /// Returns what is known of a value that holds this one.
    fn around(&self, dtype: DType) -> Held {
        let parts = self.dtype.iter().chain(&self.parts).copied().take(DEEPEST).collect();
        Held { dtype: Some(dtype), parts }
    }

    /// Returns what is known of the parts.
    pub(crate) fn inside(&self) -> Held {
        match self.parts.split_first() {
            Some((&dtype, parts)) => Held { dtype: Some(dtype), parts: parts.to_vec() },
            None => Held::default(),
        }
    }
}

/// Tells whether a node may make or take apart a value that holds others.
pub(crate) fn concerns(node: &Node, mut inputs: impl Iterator<Item = Option<DType>>) -> bool {
    let name = &*node.operator.name;
    name.contains("Sequence")
        || name.starts_with("Optional")
        || inputs.any(|dtype| dtype.is_some_and(DType::is_parts))
        || node.subgraphs().next().is_some()
}

/// Returns what is known of a body's inputs, where the node's inputs are these.
pub(crate) fn of_body(node: &Node, inputs: &[Held]) -> Vec<Held> {
    if node.operator.is("SequenceMap") {
        let of = |held: &Held| if held.dtype == Some(DType::Sequence) { held.inside() } else { held.clone() };
        return inputs.iter().map(of).collect();
    }
    // Loops and scans give their bodies what they are given, at the same positions.
    inputs.to_vec()
}

/// Returns what is known of a node's outputs, where its inputs and its body's outputs are these.
pub(crate) fn of_outputs(node: &Node, inputs: &[Held], body: &[Held]) -> Vec<Held> {
    let operator = &node.operator;
    if !operator.domain.is_empty() {
        return vec![];
    }
    let input = |index: usize| inputs.get(index).cloned().unwrap_or_default();
    match &*operator.name {
        "SequenceConstruct" | "SplitToSequence" => vec![input(0).around(DType::Sequence)],
        "Optional" => vec![input(0).around(DType::Optional)],
        "SequenceEmpty" => {
            let code = match operator.attribute("dtype") {
                Some(Attribute::Int(code)) => i32::try_from(*code).ok().and_then(DType::from_onnx_code),
                _ => Some(DType::F32),
            };
            vec![Held { dtype: code, parts: vec![] }.around(DType::Sequence)]
        }
        "SequenceInsert" if input(0).parts.is_empty() => vec![input(1).around(DType::Sequence)],
        "SequenceInsert" | "SequenceErase" | "Identity" => vec![input(0)],
        "SequenceAt" | "ConcatFromSequence" => vec![input(0).inside()],
        "OptionalGetElement" if input(0).dtype == Some(DType::Optional) => vec![input(0).inside()],
        "OptionalGetElement" => vec![input(0)],
        "SequenceMap" => body.iter().map(|held| held.around(DType::Sequence)).collect(),
        "Loop" => body.get(1..).unwrap_or_default().to_vec(),
        "If" | "Scan" => body.to_vec(),
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hetero_hal::{Allowance, Bool, Graph, Model, Operator, TensorType, Value, ValueId};
    use hetero_reference::{Standard, run};

    use super::*;
    use crate::{Binding, bind};

    fn value(name: &str) -> Value {
        Value { name: name.into(), ..Value::default() }
    }

    fn input(name: &str, dtype: DType, shape: &[usize]) -> Value {
        Value { ty: TensorType::exact(dtype, shape), ..value(name) }
    }

    fn node(operator: Operator, inputs: &[u32], output: u32) -> Node {
        let inputs = inputs.iter().map(|&id| Some(ValueId(id))).collect();
        Node { name: format!("n{output}").into(), operator, inputs, outputs: vec![Some(ValueId(output))] }
    }

    fn op(name: &str) -> Operator {
        Operator::new(name, 17)
    }

    /// Binds a graph whose last value is its output, and runs it.
    fn computed(mut graph: Graph, inputs: &[Tensor]) -> Tensor {
        graph.outputs = vec![ValueId(graph.values.len() as u32 - 1)];
        let model = Model { graph, opsets: [("".into(), 17)].into(), ..Model::default() };
        let program = bind(&model, &Binding::default(), &Standard).unwrap().program;
        run(&program, inputs, &Standard, &Allowance::new(1 << 20)).unwrap().swap_remove(0)
    }

    #[test]
    fn what_is_taken_out_of_a_sequence_has_its_type() {
        let graph = Graph {
            values: vec![
                input("x", DType::F32, &[4]),
                input("which", DType::I64, &[]),
                value("parts"),
                value("packed"),
                value("unpacked"),
                value("part"),
                value("y"),
            ],
            nodes: vec![
                node(op("SplitToSequence"), &[0], 2),
                node(op("Optional"), &[2], 3),
                node(op("OptionalGetElement"), &[3], 4),
                node(op("SequenceAt"), &[4, 1], 5),
                node(op("Neg"), &[5], 6),
            ],
            inputs: vec![ValueId(0), ValueId(1)],
            ..Graph::default()
        };
        let x = Tensor::from_vec(&[4], vec![1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let y = computed(graph, &[x, Tensor::scalar(2i64)]);
        assert_eq!(y, Tensor::from_vec(&[1], vec![-3.0f32]).unwrap());
    }

    #[test]
    fn what_a_loop_collects_in_a_sequence_has_its_type() {
        let body = Graph {
            name: "body".into(),
            values: ["trip", "going", "before", "after", "still"].map(value).to_vec(),
            nodes: vec![node(op("SequenceInsert"), &[2, 0], 3), node(op("Identity"), &[1], 4)],
            inputs: vec![ValueId(0), ValueId(1), ValueId(2)],
            outputs: vec![ValueId(4), ValueId(3)],
            captures: vec![],
        };
        let code = i64::from(DType::I64.onnx_code());
        let stack = op("ConcatFromSequence").with("axis", Attribute::Int(0)).with("new_axis", Attribute::Int(1));
        let graph = Graph {
            values: vec![
                input("trips", DType::I64, &[]),
                input("going", DType::Bool, &[]),
                value("empty"),
                value("collected"),
                value("stacked"),
                value("y"),
            ],
            nodes: vec![
                node(op("SequenceEmpty").with("dtype", Attribute::Int(code)), &[], 2),
                node(op("Loop").with("body", Attribute::Graph(Arc::new(body))), &[0, 1, 2], 3),
                node(stack, &[3], 4),
                node(op("Neg"), &[4], 5),
            ],
            inputs: vec![ValueId(0), ValueId(1)],
            ..Graph::default()
        };
        let y = computed(graph, &[Tensor::scalar(3i64), Tensor::scalar(Bool::from(true))]);
        assert_eq!(y, Tensor::from_vec(&[3], vec![0i64, -1, -2]).unwrap());
    }
}
