//! Programs with which kernels are tested, and the kernels' texts.
//! The programs are the conformance suite's cases, and random graphs in which nodes are fused,
//! renamed and given workspaces.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeSet, HashSet};

use hetero_conformance::suite;
use hetero_hal::{Attribute, DType, Graph, Node, Operator, Program, Tensor, TensorType, Value, ValueId};
use hetero_kernels::{Target, lower, support};
use hetero_testkit::SplitMix64;

/// The version of the operator set for random graphs.
const OPSET: u32 = 17;
/// The largest number of elements of a value in a random graph.
const MOST_ELEMENTS: usize = 1 << 16;

/// Returns the conformance suite's cases as programs, each with the case's name.
pub(crate) fn cases() -> Vec<(String, Program)> {
    suite(1)
        .unwrap()
        .iter()
        .filter_map(|case| Some((case.name.clone(), hetero_conformance::program(case).ok()?.0)))
        .collect()
}

/// One node of a random graph: its operator and the earlier values that it reads.
/// Both are numbers that are taken modulo the number of choices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft {
    /// The number of the operator.
    pub(crate) operator: usize,
    /// The values that it reads, counted back from the newest.
    pub(crate) inputs: [usize; 2],
    /// A number that decides about attributes.
    pub(crate) detail: usize,
    /// Whether the result is an output, even if other nodes read it.
    pub(crate) output: bool,
}

/// Returns drafts that are the same on every machine.
pub(crate) fn drafts(seed: u64, count: usize) -> Vec<Draft> {
    let mut random = SplitMix64::new(seed);
    let mut next = || (random.bits() >> 33) as usize;
    let mut draft =
        || Draft { operator: next(), inputs: [next(), next()], detail: next(), output: next().is_multiple_of(6) };
    (0..count).map(|_| draft()).collect()
}

/// The inputs of random graphs: an image, a matrix, a sequence and whole numbers.
const INPUTS: [(DType, &[usize]); 4] =
    [(DType::F32, &[2, 4, 6, 6]), (DType::F32, &[6, 10]), (DType::F32, &[3, 2, 5]), (DType::I64, &[2, 4, 6])];

/// A graph under construction.
struct Builder {
    graph: Graph,
    /// The values that later nodes may read.
    values: Vec<ValueId>,
}

/// Builds a program of these nodes.
/// A draft is left out where the standard's rules forbid it, where it would grow too large, or
/// where `keep` says no.
pub(crate) fn build(drafts: &[Draft], keep: impl Fn(&Program, &Node) -> bool) -> Program {
    let mut builder = Builder { graph: Graph { name: "random".into(), ..Graph::default() }, values: vec![] };
    for (number, (dtype, shape)) in INPUTS.into_iter().enumerate() {
        let id = builder.value(&format!("input_{number}"), TensorType::exact(dtype, shape), None);
        builder.graph.inputs.push(id);
        builder.values.push(id);
    }
    let mut chosen = Vec::new();
    for (number, draft) in drafts.iter().enumerate() {
        let before = builder.graph.clone();
        builder.add(number, draft);
        let fits =
            hetero_onnx::infer(&mut builder.graph, &hetero_reference::Standard, &hetero_hal::Allowance::default())
                .is_ok()
                && builder.graph.values.iter().all(|value| {
                    value.ty.shape().is_some_and(|shape| shape.iter().product::<usize>() <= MOST_ELEMENTS)
                });
        let made = builder.graph.nodes.last().map_or(vec![], |node| node.outputs.iter().flatten().copied().collect());
        let fits = fits && builder.is_of_one_type() && {
            let mut graph = builder.graph.clone();
            graph.outputs = made.clone();
            let program = Program::new(graph, vec![]).unwrap();
            program.nodes().last().is_some_and(|node| keep(&program, node))
        };
        if !fits {
            builder.graph = before;
            continue;
        }
        builder.values.extend(&made);
        if draft.output {
            chosen.push(made[0]);
        }
    }
    let Builder { mut graph, values } = builder;
    let read = |id: ValueId| graph.nodes.iter().any(|node| node.inputs.contains(&Some(id)));
    graph.outputs = values[INPUTS.len()..].iter().copied().filter(|&id| chosen.contains(&id) || !read(id)).collect();
    Program::new(graph, vec![]).unwrap()
}

impl Builder {
    fn value(&mut self, name: &str, ty: TensorType, constant: Option<Tensor>) -> ValueId {
        self.graph.values.push(Value { name: name.into(), ty, constant });
        ValueId(self.graph.values.len() as u32 - 1)
    }

    fn constant(&mut self, tensor: Tensor) -> Option<ValueId> {
        let name = format!("constant_{}", self.graph.values.len());
        Some(self.value(&name, TensorType::exact(tensor.dtype(), tensor.shape()), Some(tensor)))
    }

    /// Adds weights that are mostly different from each other.
    fn weights(&mut self, shape: &[usize]) -> Option<ValueId> {
        let count = shape.iter().product::<usize>();
        let seed = self.graph.values.len();
        let numbers = (0..count).map(|at| ((at * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0).collect();
        self.constant(Tensor::from_vec::<f32>(shape, numbers).unwrap())
    }

    fn numbers(&mut self, numbers: &[i64]) -> Option<ValueId> {
        self.constant(Tensor::from_vec(&[numbers.len()], numbers.to_vec()).unwrap())
    }

    fn shape(&self, id: ValueId) -> Vec<usize> {
        self.graph.values[id.index()].ty.shape().unwrap_or_default()
    }

    /// Tells whether the newest node's data has one type, as the standard asks of these operators.
    /// Constants of whole numbers are axes and sizes, and do not count.
    fn is_of_one_type(&self) -> bool {
        let inputs = self.graph.nodes.last().map_or(&[][..], |node| &node.inputs);
        let values = inputs.iter().flatten().map(|id| &self.graph.values[id.index()]);
        let data = values.filter(|value| value.constant.is_none() || value.ty.dtype != Some(DType::I64));
        data.map(|value| value.ty.dtype).collect::<HashSet<_>>().len() <= 1
    }

    fn add(&mut self, number: usize, draft: &Draft) {
        let detail = draft.detail;
        // The choice is among recent values, so that the graph gets some depth.
        let pick = |seed: usize| self.values[self.values.len() - 1 - seed % self.values.len().min(5)];
        let (a, b) = (pick(draft.inputs[0]), pick(draft.inputs[1]));
        let shape = self.shape(a);
        let rank = shape.len().max(1);
        let channels = shape.get(1).copied().unwrap_or(1).max(1);
        let last = shape.last().copied().unwrap_or(1).max(1);
        let axis = detail % rank;
        let ints = |numbers: &[i64]| Attribute::Ints(numbers.to_vec());
        let plain = |name: &str| Operator::new(name, OPSET);
        let mut outputs = 1;
        let with_axis = |name: &str| plain(name).with("axis", Attribute::Int(axis as i64));
        let (operator, inputs) = match draft.operator % 38 {
            0 => (plain("Relu"), vec![Some(a)]),
            1 => (plain("Sigmoid"), vec![Some(a)]),
            2 => (plain("Neg"), vec![Some(a)]),
            3 => (plain("LeakyRelu").with("alpha", Attribute::Float(0.1)), vec![Some(a)]),
            4 => (plain("Tanh"), vec![Some(a)]),
            5 => (plain("Add"), vec![Some(a), Some(b)]),
            6 => (plain("Mul"), vec![Some(a), Some(b)]),
            7 => (plain("Sub"), vec![Some(b), Some(a)]),
            8 => (plain("Max"), vec![Some(a), Some(b), Some(a)]),
            9 => {
                let scale = self.weights(&[&[channels][..], &vec![1; rank.saturating_sub(2)]].concat());
                (plain("Mul"), vec![Some(a), scale])
            }
            10 => {
                let list: Vec<_> = (0..4).map(|_| self.weights(&[channels])).collect();
                (plain("BatchNormalization"), vec![Some(a), list[0], list[1], list[2], list[2]])
            }
            11..=13 => {
                let filters = 1 + detail % 5;
                let weights = self.weights(&[filters, channels, 3, 3]);
                let bias = if detail.is_multiple_of(2) { self.weights(&[filters]) } else { None };
                let stride = 1 + (detail / 8 % 2) as i64;
                let operator = plain("Conv").with("pads", ints(&[1, 1, 1, 1])).with("strides", ints(&[stride, stride]));
                (operator, vec![Some(a), weights, bias])
            }
            14 => {
                let weights = self.weights(&[channels, 1, 3, 3]);
                let operator =
                    plain("Conv").with("pads", ints(&[1, 1, 1, 1])).with("group", Attribute::Int(channels as i64));
                (operator, vec![Some(a), weights])
            }
            15 => (plain("MaxPool").with("kernel_shape", ints(&[2, 2])), vec![Some(a)]),
            16 => (plain("AveragePool").with("kernel_shape", ints(&[2, 2])), vec![Some(a)]),
            17 => (plain("GlobalAveragePool"), vec![Some(a)]),
            18 => {
                let weights = self.weights(&[last, 1 + detail % 9]);
                (plain("MatMul"), vec![Some(a), weights])
            }
            19 => (plain("MatMul"), vec![Some(a), Some(b)]),
            20 => {
                let (weights, bias) = (self.weights(&[1 + detail % 9, last]), self.weights(&[1 + detail % 9]));
                (plain("Gemm").with("transB", Attribute::Int(1)), vec![Some(a), weights, bias])
            }
            21 => (with_axis("Softmax"), vec![Some(a)]),
            22 => (plain("ReduceMean").with("axes", ints(&[axis as i64])), vec![Some(a)]),
            23 => (with_axis("ArgMax"), vec![Some(a)]),
            24 => {
                let (scale, bias) = (self.weights(&[last]), self.weights(&[last]));
                (plain("LayerNormalization"), vec![Some(a), scale, bias])
            }
            25 => {
                let mut order: Vec<i64> = (0..shape.len() as i64).collect();
                order.rotate_left(axis);
                (plain("Transpose").with("perm", Attribute::Ints(order)), vec![Some(a)])
            }
            26 => (with_axis("Concat"), vec![Some(a), Some(b), Some(a)]),
            27 => {
                let (starts, ends) = (self.numbers(&[1]), self.numbers(&[i64::MAX]));
                let axes = self.numbers(&[axis as i64]);
                (plain("Slice"), vec![Some(a), starts, ends, axes])
            }
            28 => {
                outputs = 2;
                let size = shape.get(axis).copied().unwrap_or(0) as i64;
                let sizes = self.numbers(&[size / 2, size - size / 2]);
                (with_axis("Split"), vec![Some(a), sizes])
            }
            29 => {
                let mut pads = vec![0; 2 * shape.len()];
                pads.iter_mut().skip(axis).take(2).for_each(|pad| *pad = 1);
                let pads = self.numbers(&pads);
                (plain("Pad"), vec![Some(a), pads])
            }
            30 => {
                let indices = self.numbers(&[0, -1, 0]);
                (with_axis("Gather"), vec![Some(a), indices])
            }
            31 => {
                let sizes = self.numbers(&[shape.iter().product::<usize>() as i64]);
                (plain("Reshape"), vec![Some(a), sizes])
            }
            32 => (with_axis("Flatten"), vec![Some(a)]),
            33 => {
                let axes = self.numbers(&[axis as i64]);
                (plain("Unsqueeze"), vec![Some(a), axes])
            }
            34 => (plain("Identity"), vec![Some(a)]),
            35 => {
                outputs = 3;
                let hidden = 3;
                let (w, r, bias) = (
                    self.weights(&[1, 4 * hidden, last]),
                    self.weights(&[1, 4 * hidden, hidden]),
                    self.weights(&[1, 8 * hidden]),
                );
                (plain("LSTM").with("hidden_size", Attribute::Int(hidden as i64)), vec![Some(a), w, r, bias])
            }
            36 => {
                let to = [DType::F32, DType::I32, DType::F16, DType::BF16, DType::Bool, DType::U8][detail % 6];
                (plain("Cast").with("to", Attribute::Int(i64::from(to.onnx_code()))), vec![Some(a)])
            }
            _ => {
                let axes = self.numbers(&[axis as i64]);
                (plain("ReduceSum").with("keepdims", Attribute::Int((detail / 4 % 2) as i64)), vec![Some(a), axes])
            }
        };
        let outputs = (0..outputs)
            .map(|place| Some(self.value(&format!("v{number}_{place}"), TensorType::default(), None)))
            .collect();
        self.graph.nodes.push(Node { name: format!("n{number}").into(), operator, inputs, outputs });
    }
}

/// The whole text of a kernel.
pub(crate) struct Text {
    /// The entry point: the family, then a number that tells texts apart.
    pub(crate) entry: String,
    /// The text that the compiler gets, with the prelude in front in a C dialect.
    pub(crate) code: String,
    /// The family, the first operator of the kernel, and the element types of all values.
    pub(crate) kind: String,
}

/// Returns the distinct kernels of all programs for a target.
pub(crate) fn texts(target: &Target) -> Vec<Text> {
    let keep = |program: &Program, node: &Node| support(program, node, target).is_ok();
    let random = (0..200).map(|seed| build(&drafts(seed, 16), keep));
    let mut known = HashSet::new();
    let mut texts = Vec::new();
    for program in cases().into_iter().map(|(_, program)| program).chain(random) {
        // A program that the device declines has no text.
        let Ok(lowered) = lower(&program, target) else { continue };
        for launch in &lowered.launches {
            let kernel = &lowered.kernels[launch.kernel];
            if !known.insert(kernel.entry.clone()) {
                continue;
            }
            let family = kernel.entry.rsplit_once('_').map_or("", |(family, _)| family);
            let nodes: Vec<&Node> = launch.nodes.iter().map(|id| &program.nodes()[id.index()]).collect();
            let touched = nodes.iter().flat_map(|node| node.uses().chain(node.outputs.iter().flatten().copied()));
            let types: BTreeSet<String> = touched.map(|id| program.values()[id.index()].dtype.to_string()).collect();
            let kind = format!("{family} {} {types:?}", nodes.first().map_or("", |node| &*node.operator.name));
            let code = lowered.prelude.clone() + &kernel.code;
            texts.push(Text { entry: kernel.entry.clone(), code, kind });
        }
    }
    texts
}
