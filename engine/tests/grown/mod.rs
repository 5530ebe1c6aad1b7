//! Models that grow: one family for each way in which a model can be large.

#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;

use hetero::Tensor;
use hetero::hal::{Attribute, Bool, Capture, DType, Dim, Graph, Model, Node, Operator, TensorType, Value, ValueId};

/// The elements of the values that pass from node to node.
const ELEMENTS: usize = 16;

/// A family of models, each with about as many nodes as it is asked for.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) model: fn(usize) -> Model,
}

/// All families.
pub(crate) const FAMILIES: &[Family] = &[
    Family { name: "chain", model: chain },
    Family { name: "ladder", model: ladder },
    Family { name: "fan-out", model: fan_out },
    Family { name: "fan-in", model: fan_in },
    Family { name: "outputs", model: outputs },
    Family { name: "inputs", model: inputs },
    Family { name: "weights", model: weights },
    Family { name: "shapes", model: shapes },
    Family { name: "one-name", model: one_name },
    Family { name: "alike", model: alike },
    Family { name: "equal-outputs", model: equal_outputs },
    Family { name: "branches", model: branches },
    Family { name: "captures", model: captures },
    Family { name: "split", model: split },
    Family { name: "images", model: images },
    Family { name: "joined", model: joined },
    Family { name: "carried", model: carried },
    Family { name: "chosen", model: chosen },
];

/// A graph to which nodes are added.
#[derive(Default)]
struct Builder(Graph);

impl Builder {
    fn value(&mut self, name: String, ty: TensorType, constant: Option<Tensor>) -> ValueId {
        self.0.values.push(Value { name: name.into(), ty, constant });
        ValueId(self.0.values.len() as u32 - 1)
    }

    fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> ValueId {
        let id = self.value(name.to_owned(), TensorType::exact(dtype, shape), None);
        self.0.inputs.push(id);
        id
    }

    fn constant(&mut self, content: Tensor) -> ValueId {
        let name = format!("c{}", self.0.values.len());
        self.value(name, TensorType::exact(content.dtype(), content.shape()), Some(content))
    }

    /// Adds a constant of its own content, so that no two nodes that read such constants are equal.
    fn weights(&mut self) -> ValueId {
        let first = self.0.values.len() as f32;
        self.constant(Tensor::from_vec(&[ELEMENTS], (0..ELEMENTS).map(|i| (first + i as f32).sin()).collect()).unwrap())
    }

    fn integers(&mut self, content: &[i64]) -> ValueId {
        self.constant(Tensor::from_vec(&[content.len()], content.to_vec()).unwrap())
    }

    fn node(&mut self, operator: Operator, inputs: &[ValueId]) -> ValueId {
        let name = format!("{}_{}", operator.name, self.0.nodes.len());
        self.named(name, operator, inputs)
    }

    fn named(&mut self, name: String, operator: Operator, inputs: &[ValueId]) -> ValueId {
        let output = self.value(format!("v{}", self.0.values.len()), TensorType::default(), None);
        let inputs = inputs.iter().copied().map(Some).collect();
        self.0.nodes.push(Node { name: name.into(), operator, inputs, outputs: vec![Some(output)] });
        output
    }

    /// Adds values up, one after the other.
    /// A tree of sums would grow unevenly: kernels join the few nodes at its top.
    fn sum(&mut self, values: Vec<ValueId>) -> ValueId {
        let sum = values.into_iter().reduce(|sum, value| self.node(operator("Add"), &[sum, value]));
        sum.unwrap_or(ValueId(0))
    }

    fn model(mut self, outputs: &[ValueId]) -> Model {
        // A file says the types of its outputs.
        for id in outputs {
            let ty = &mut self.0.values[id.index()].ty;
            if ty.dtype.is_none() {
                *ty = TensorType { dtype: Some(DType::F32), dims: None };
            }
        }
        self.0.outputs = outputs.to_vec();
        Model { graph: self.0, opsets: [("".into(), 17)].into(), ..Model::default() }
    }
}

fn operator(name: &str) -> Operator {
    Operator::new(name, 17)
}

/// One node behind the other.
fn chain(count: usize) -> Model {
    let mut b = Builder::default();
    let mut x = b.input("x", DType::F32, &[ELEMENTS]);
    for number in 0..count {
        x = b.node(operator(["Relu", "Tanh", "Neg", "Sigmoid"][number % 4]), &[x]);
    }
    b.model(&[x])
}

/// Four products with weights side by side in each step, which are joined at its end.
fn ladder(count: usize) -> Model {
    let mut b = Builder::default();
    let mut x = b.input("x", DType::F32, &[ELEMENTS]);
    for _ in 0..count / 8 {
        let rungs: Vec<ValueId> = (0..4)
            .map(|_| {
                let weights = b.weights();
                b.node(operator("Mul"), &[x, weights])
            })
            .collect();
        let sum = b.sum(rungs);
        x = b.node(operator("Tanh"), &[sum]);
    }
    b.model(&[x])
}

/// Many products with one input, each with weights of its own.
fn products(b: &mut Builder, x: ValueId, count: usize) -> Vec<ValueId> {
    (0..count)
        .map(|_| {
            let weights = b.weights();
            b.node(operator("Mul"), &[x, weights])
        })
        .collect()
}

/// One value that half of all nodes read.
fn fan_out(count: usize) -> Model {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &[ELEMENTS]);
    let all = products(&mut b, x, count / 2);
    let sum = b.sum(all);
    b.model(&[sum])
}

/// A concatenation and a sum of all other nodes.
fn fan_in(count: usize) -> Model {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &[ELEMENTS]);
    let all = products(&mut b, x, count);
    let joined = b.node(operator("Concat").with("axis", Attribute::Int(0)), &all);
    let sum = b.node(operator("Sum"), &all);
    b.model(&[joined, sum])
}

/// Each node's result is an output.
fn outputs(count: usize) -> Model {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &[ELEMENTS]);
    let all = products(&mut b, x, count);
    b.model(&all)
}

/// Each second value is an input.
fn inputs(count: usize) -> Model {
    let mut b = Builder::default();
    let all = (0..count).map(|number| b.input(&format!("x{number}"), DType::F32, &[ELEMENTS])).collect();
    let sum = b.sum(all);
    b.model(&[sum])
}

/// Small initialisers, half of which nobody reads.
fn weights(count: usize) -> Model {
    let mut b = Builder::default();
    let mut x = b.input("x", DType::F32, &[ELEMENTS]);
    for _ in 0..count {
        b.weights();
        let own = b.weights();
        x = b.node(operator("Add"), &[x, own]);
    }
    b.model(&[x])
}

/// Reshapes whose shapes are computed from the shapes before; all but the reshapes is folded.
fn shapes(count: usize) -> Model {
    let mut b = Builder::default();
    let x = b.value("x".to_owned(), TensorType::new(DType::F32, vec![Dim::Symbol("n".into()), Dim::Known(4)]), None);
    b.0.inputs.push(x);
    let mut x = x;
    for number in 0..count / 5 {
        let shape = b.node(operator("Shape"), &[x]);
        let (zero, one) = (b.integers(&[0]), b.integers(&[1]));
        let first = b.node(operator("Gather"), &[shape, zero]);
        let second = b.node(operator("Gather"), &[shape, one]);
        let swapped = b.node(operator("Concat").with("axis", Attribute::Int(0)), &[second, first]);
        x = b.node(operator("Reshape"), &[x, swapped]);
        if number % 2 == 0 {
            x = b.node(operator("Neg"), &[x]);
        }
    }
    b.model(&[x])
}

/// All nodes have the same name.
fn one_name(count: usize) -> Model {
    let mut b = Builder::default();
    let mut x = b.input("x", DType::F32, &[ELEMENTS]);
    for number in 0..count {
        x = b.named("node".to_owned(), operator(["Relu", "Neg"][number % 2]), &[x]);
    }
    b.model(&[x])
}

/// Nodes that differ only in an attribute.
fn alike(count: usize) -> Model {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &[ELEMENTS]);
    let all = (0..count / 2)
        .map(|number| {
            let alpha = Attribute::Float(number as f32 / count as f32);
            b.node(operator("LeakyRelu").with("alpha", alpha), &[x])
        })
        .collect();
    let sum = b.sum(all);
    b.model(&[sum])
}

/// Equal nodes, each of which makes an output.
fn equal_outputs(count: usize) -> Model {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &[ELEMENTS]);
    let all: Vec<ValueId> = (0..count).map(|_| b.node(operator("Tanh"), &[x])).collect();
    b.model(&all)
}

/// A branch that negates what it captures.
fn branch(name: &str, outer: &[ValueId], ty: &TensorType) -> Attribute {
    let mut b = Builder::default();
    let mut inner = Vec::with_capacity(outer.len());
    for (number, &outer) in outer.iter().enumerate() {
        let id = b.value(format!("{name}_in{number}"), ty.clone(), None);
        b.0.captures.push(Capture { outer, inner: id });
        inner.push(id);
    }
    let operator = if ty.dtype == Some(DType::Bool) { operator("Not") } else { operator("Sum") };
    let output = b.value(format!("{name}_out"), ty.clone(), None);
    let inputs = inner.into_iter().map(Some).collect();
    b.0.nodes.push(Node { name: name.into(), operator, inputs, outputs: vec![Some(output)] });
    b.0.outputs.push(output);
    b.0.name = name.into();
    Attribute::Graph(Arc::new(b.0))
}

/// Conditions of which each decides the next one: half as many as nodes.
fn branches(count: usize) -> Model {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &[ELEMENTS]);
    let ty = TensorType::exact(DType::Bool, &[]);
    let mut condition = b.constant(Tensor::scalar(Bool::from(true)));
    for number in 0..count {
        let then = branch(&format!("then{number}"), &[condition], &ty);
        let otherwise = branch(&format!("else{number}"), &[condition], &ty);
        let choice = operator("If").with("then_branch", then).with("else_branch", otherwise);
        condition = b.node(choice, &[condition]);
    }
    let float = TensorType::exact(DType::F32, &[ELEMENTS]);
    let (then, otherwise) = (branch("then", &[x], &float), branch("else", &[x, x], &float));
    let last = b.node(operator("If").with("then_branch", then).with("else_branch", otherwise), &[condition]);
    b.model(&[last])
}

/// Conditions that a run decides, whose branches capture many values: a few each, and one all.
fn captures(count: usize) -> Model {
    let mut b = Builder::default();
    let (x, condition) = (b.input("x", DType::F32, &[ELEMENTS]), b.input("which", DType::Bool, &[]));
    let mut all = products(&mut b, x, count / 2);
    let float = TensorType::exact(DType::F32, &[ELEMENTS]);
    let choice = |b: &mut Builder, number: usize, read: &[ValueId]| {
        let then = branch(&format!("then{number}"), read, &float);
        let otherwise = branch(&format!("else{number}"), &read[..1], &float);
        b.node(operator("If").with("then_branch", then).with("else_branch", otherwise), &[condition])
    };
    for number in 0..count / 4 {
        let chosen = choice(&mut b, number, &[all[2 * number], all[2 * number + 1]]);
        all.push(chosen);
    }
    let last = choice(&mut b, count, &all);
    b.model(&[last])
}

/// A split with an output for each node behind it.
fn split(count: usize) -> Model {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &[4 * count]);
    let sizes = b.integers(&vec![4; count]);
    let parts: Vec<ValueId> =
        (0..count).map(|number| b.value(format!("part{number}"), TensorType::exact(DType::F32, &[4]), None)).collect();
    b.0.nodes.push(Node {
        name: "split".into(),
        operator: operator("Split").with("axis", Attribute::Int(0)),
        inputs: vec![Some(x), Some(sizes)],
        outputs: parts.iter().copied().map(Some).collect(),
    });
    let (own, rest) = parts.split_at(count / 2);
    let sum = b.sum(rest.to_vec());
    let outputs: Vec<ValueId> = own.iter().copied().chain([sum]).collect();
    b.model(&outputs)
}

/// Convolutions of one image, each with a chain of factors and shifts behind it.
fn images(count: usize) -> Model {
    let mut b = Builder::default();
    let image = b.input("x", DType::F32, &[1, 2, 3, 3]);
    let mut all = Vec::new();
    for number in 0..count / 2 {
        let filter = (0..4).map(|i| ((4 * number + i) as f32).sin()).collect();
        let filter = b.constant(Tensor::from_vec(&[2, 2, 1, 1], filter).unwrap());
        all.push(b.node(operator("Conv"), &[image, filter]));
    }
    let mut x = b.node(operator("Sum"), &all);
    for number in 0..count / 2 {
        let factor = b.constant(Tensor::from_vec(&[1, 2, 1, 1], vec![number as f32, 1.0]).unwrap());
        x = b.node(operator(["Mul", "Add"][number % 2]), &[x, factor]);
    }
    b.model(&[x])
}

/// Concatenations of concatenations: each is a part of the next one, until the list is long.
fn joined(count: usize) -> Model {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &[ELEMENTS]);
    let mut all = Vec::new();
    for _ in 0..count / 256 {
        let mut joined = x;
        for part in products(&mut b, x, 128) {
            joined = b.node(operator("Concat").with("axis", Attribute::Int(0)), &[joined, part]);
        }
        all.push(joined);
    }
    let sum = b.node(operator("Sum"), &all);
    b.model(&[sum])
}

/// A body with a function of each value that it is given or captures, of which `names` says how
/// they are called.
fn body(name: &str, function: &str, ids: &[ValueId], lead: &[(&str, DType)]) -> Graph {
    let mut b = Builder::default();
    b.0.name = name.into();
    let given = lead.iter().map(|(of, dtype)| b.input(&format!("{name}_{of}"), *dtype, &[])).collect::<Vec<_>>();
    if let [_, condition] = *given {
        b.0.outputs.push(condition);
    }
    let float = TensorType::exact(DType::F32, &[ELEMENTS]);
    for (number, &outer) in ids.iter().enumerate() {
        let inner = b.value(format!("{name}_in{number}"), float.clone(), None);
        match lead {
            [] => b.0.captures.push(Capture { outer, inner }),
            _ => b.0.inputs.push(inner),
        }
        let output = b.value(format!("{name}_out{number}"), float.clone(), None);
        b.0.nodes.push(Node {
            name: format!("{name}{number}").into(),
            operator: operator(function),
            inputs: vec![Some(inner)],
            outputs: vec![Some(output)],
        });
        b.0.outputs.push(output);
    }
    b.0
}

/// Adds a node with many outputs, and one that adds them up.
fn summed(mut b: Builder, operator_with_bodies: Operator, inputs: Vec<Option<ValueId>>, count: usize) -> Model {
    let outputs: Vec<ValueId> =
        (0..count).map(|number| b.value(format!("o{number}"), TensorType::default(), None)).collect();
    let name = operator_with_bodies.name.clone();
    let made = outputs.iter().copied().map(Some).collect();
    b.0.nodes.push(Node { name, operator: operator_with_bodies, inputs, outputs: made });
    let sum = b.node(operator("Sum"), &outputs);
    b.model(&[sum])
}

/// A loop that carries a value for every other node.
fn carried(count: usize) -> Model {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &[ELEMENTS]);
    let values = products(&mut b, x, count / 2);
    let trips = b.constant(Tensor::scalar(3i64));
    let going = b.constant(Tensor::scalar(Bool::from(true)));
    let body = body("turn", "Tanh", &values, &[("number", DType::I64), ("going", DType::Bool)]);
    let inputs = [trips, going].into_iter().chain(values).map(Some).collect();
    summed(b, operator("Loop").with("body", Attribute::Graph(Arc::new(body))), inputs, count / 2)
}

/// A condition that a run decides, with an output for every other node.
fn chosen(count: usize) -> Model {
    let mut b = Builder::default();
    let (x, condition) = (b.input("x", DType::F32, &[ELEMENTS]), b.input("which", DType::Bool, &[]));
    let values = products(&mut b, x, count / 2);
    let [then, otherwise] = [("then", "Tanh"), ("else", "Neg")]
        .map(|(name, function)| Attribute::Graph(Arc::new(body(name, function, &values, &[]))));
    let choice = operator("If").with("then_branch", then).with("else_branch", otherwise);
    summed(b, choice, vec![Some(condition)], count / 2)
}
