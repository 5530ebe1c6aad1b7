//! Mutations of a model's structure: attributes, sizes, edges, operators and constants.
//!
//! A change of bytes seldom gets past the decoder, and one of these always does.
//! It reaches the rule of inference and the kernel of the operator that it changes.

use std::sync::Arc;

use hetero::Tensor;
use hetero::hal::{Attribute, DType, Dim, Graph, Model, Node, ValueId};
use hetero_testkit::SplitMix64;

/// Numbers at which sizes, axes and counts break.
const NUMBERS: [i64; 22] = [
    0,
    1,
    2,
    -1,
    -2,
    3,
    7,
    64,
    1000,
    65_535,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    -(1 << 31),
    1 << 32,
    1 << 40,
    1 << 62,
    i64::MAX,
    i64::MIN,
    i64::MIN + 1,
    40_000,
    -64,
];

/// Texts that attributes of some operator have, and others.
const TEXTS: [&str; 14] = [
    "",
    "SAME_UPPER",
    "VALID",
    "linear",
    "cubic",
    "nearest",
    "bidirectional",
    "reverse",
    "add",
    "half_pixel",
    "ab,bc->ac",
    "i...j->...",
    "\u{1b}[31m",
    "x",
];

/// Operators that take a node's place, with attributes and inputs that were meant for another.
const OPERATORS: [&str; 40] = [
    "Add",
    "ArgMax",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Compress",
    "Concat",
    "Conv",
    "ConvTranspose",
    "CumSum",
    "DepthToSpace",
    "Einsum",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gemm",
    "GRU",
    "LayerNormalization",
    "LRN",
    "LSTM",
    "MatMul",
    "MaxPool",
    "NonZero",
    "OneHot",
    "Pad",
    "Range",
    "ReduceSum",
    "Reshape",
    "Resize",
    "ScatterND",
    "Slice",
    "Softmax",
    "Split",
    "Tile",
    "TopK",
    "Transpose",
    "Where",
];

fn pick<T: Copy>(random: &mut SplitMix64, list: &[T]) -> T {
    list[random.below(list.len())]
}

/// Returns a model with one to three changes.
pub(crate) fn mutated(model: &Model, random: &mut SplitMix64) -> Model {
    let mut model = model.clone();
    for _ in 0..pick(random, &[1, 1, 1, 2, 3]) {
        if random.below(20) == 0 {
            for version in model.opsets.values_mut() {
                *version = 1 + random.below(27) as u32;
            }
        }
        change(&mut model.graph, random);
    }
    model
}

/// Returns the nodes and values in which two models differ, as they are in the second.
pub(crate) fn difference(before: &Model, after: &Model) -> String {
    let mut found = Vec::new();
    if before.opsets != after.opsets {
        found.push(format!("opsets {:?}", after.opsets));
    }
    for (old, new) in before.graph.nodes.iter().zip(&after.graph.nodes) {
        let same = old.operator.name == new.operator.name && old.inputs == new.inputs && old.outputs == new.outputs;
        let (olds, news) = (&old.operator.attributes, &new.operator.attributes);
        // Attributes may hold graphs, whose words are the only way to compare them.
        let changed: Vec<String> = news
            .iter()
            .filter(|(name, content)| olds.get(*name).is_none_or(|old| format!("{old:?}") != format!("{content:?}")))
            .map(|(name, content)| format!("{name} = {content:?}").chars().take(200).collect())
            .collect();
        if !same || !changed.is_empty() || olds.len() != news.len() {
            found.push(format!("node {new} {:?} {changed:?}", new.inputs));
        }
    }
    for (old, new) in before.graph.values.iter().zip(&after.graph.values) {
        if old.ty != new.ty || old.constant != new.constant {
            found.push(format!("value '{}' {:?} from {:?}", new.name, new.ty, old.ty));
        }
    }
    found.join("; ")
}

fn change(graph: &mut Graph, random: &mut SplitMix64) {
    if graph.nodes.is_empty() || graph.values.is_empty() {
        return;
    }
    let index = random.below(graph.nodes.len());
    // Subgraphs are changed as often as what stands around them.
    let inner = graph.nodes[index].operator.attributes.values_mut().find_map(|attribute| match attribute {
        Attribute::Graph(inner) => Some(inner),
        _ => None,
    });
    if let Some(inner) = inner.filter(|_| random.below(2) == 0) {
        return change(Arc::make_mut(inner), random);
    }
    match random.below(9) {
        0..=2 => attribute(&mut graph.nodes[index], random),
        3 | 4 => constant(graph, random),
        5 => size(graph, random),
        6 => edge(graph, index, random),
        7 => graph.nodes[index].operator.name = pick(random, &OPERATORS).into(),
        _ => {
            let value = random.below(graph.values.len());
            let dtypes: Vec<DType> = DType::all().collect();
            graph.values[value].ty.dtype = Some(pick(random, &dtypes));
        }
    }
}

/// Changes, removes or adds an attribute.
fn attribute(node: &mut Node, random: &mut SplitMix64) {
    const NAMES: [&str; 16] = [
        "axis",
        "axes",
        "pads",
        "strides",
        "dilations",
        "kernel_shape",
        "group",
        "perm",
        "to",
        "mode",
        "keepdims",
        "size",
        "hidden_size",
        "num_outputs",
        "output_padding",
        "equation",
    ];
    let names: Vec<Arc<str>> = node.operator.attributes.keys().cloned().collect();
    if names.is_empty() || random.below(6) == 0 {
        let content = match random.below(3) {
            0 => Attribute::Int(pick(random, &NUMBERS)),
            1 => Attribute::Ints((0..random.below(9)).map(|_| pick(random, &NUMBERS)).collect()),
            _ => Attribute::String(pick(random, &TEXTS).as_bytes().into()),
        };
        node.operator.attributes.insert(pick(random, &NAMES).into(), content);
        return;
    }
    let name = &names[random.below(names.len())];
    if random.below(8) == 0 {
        node.operator.attributes.remove(name);
        return;
    }
    match node.operator.attributes.get_mut(name) {
        Some(Attribute::Int(number)) => *number = pick(random, &NUMBERS),
        Some(Attribute::Float(number)) => *number = pick(random, &[0.0, -1.0, f32::NAN, f32::INFINITY, 1e30, 1e-30]),
        Some(Attribute::Ints(numbers)) => change_list(numbers, random, |random| pick(random, &NUMBERS)),
        Some(Attribute::Floats(numbers)) => change_list(numbers, random, |random| pick(random, &[0.0, f32::NAN, 1e30])),
        Some(Attribute::String(text)) => *text = pick(random, &TEXTS).as_bytes().into(),
        Some(Attribute::Tensor(tensor)) => {
            if let Some(changed) = numbers(tensor, random) {
                *tensor = changed;
            }
        }
        _ => {}
    }
}

/// Changes an element, or the length.
fn change_list<T: Copy>(list: &mut Vec<T>, random: &mut SplitMix64, mut element: impl FnMut(&mut SplitMix64) -> T) {
    match random.below(4) {
        0 => list.push(element(random)),
        1 => drop(list.pop()),
        _ if !list.is_empty() => {
            let at = random.below(list.len());
            list[at] = element(random);
        }
        _ => {}
    }
}

/// Changes the content or the shape of a constant, small ones of integers first: they are sizes,
/// axes and indices.
fn constant(graph: &mut Graph, random: &mut SplitMix64) {
    let all = graph.values.iter().enumerate().filter_map(|(at, value)| Some((at, value.constant.as_ref()?)));
    let (sizes, others): (Vec<_>, Vec<_>) =
        all.map(|(at, tensor)| (at, tensor.dtype() == DType::I64 && tensor.len() <= 64)).partition(|(_, small)| *small);
    let from = if sizes.is_empty() || random.below(3) == 0 { &others } else { &sizes };
    if from.is_empty() {
        return;
    }
    let value = &mut graph.values[from[random.below(from.len())].0];
    let Some(tensor) = &value.constant else { return };
    let changed = if random.below(3) == 0 { reshaped(tensor, random) } else { numbers(tensor, random) };
    if let Some(changed) = changed {
        value.ty = hetero::hal::TensorType::exact(changed.dtype(), changed.shape());
        value.constant = Some(changed);
    }
}

/// Returns a tensor of integers with one element changed.
fn numbers(tensor: &Tensor, random: &mut SplitMix64) -> Option<Tensor> {
    let mut content = tensor.view::<i64>().ok()?.into_owned();
    let shape = match tensor.rank() {
        1 => {
            change_list(&mut content, random, |random| pick(random, &NUMBERS));
            vec![content.len()]
        }
        _ => {
            let at = random.below(content.len().max(1));
            *content.get_mut(at)? = pick(random, &NUMBERS);
            tensor.shape().to_vec()
        }
    };
    Tensor::from_vec(&shape, content).ok()
}

/// Returns the same elements under another shape.
fn reshaped(tensor: &Tensor, random: &mut SplitMix64) -> Option<Tensor> {
    let mut shape = tensor.shape().to_vec();
    match random.below(4) {
        0 => shape.insert(random.below(shape.len() + 1), 1),
        1 => shape = vec![tensor.len()],
        2 => shape.reverse(),
        _ => {
            let at = random.below(shape.len().max(1));
            let rest = shape.get(at + 1).copied()?;
            shape[at] *= rest;
            shape[at + 1] = 1;
        }
    }
    tensor.reshaped(&shape).ok()
}

/// Changes a size that the model claims, or the rank.
fn size(graph: &mut Graph, random: &mut SplitMix64) {
    let at = if graph.inputs.is_empty() || random.below(2) == 0 {
        random.below(graph.values.len())
    } else {
        graph.inputs[random.below(graph.inputs.len())].index()
    };
    let Some(dims) = &mut graph.values[at].ty.dims else { return };
    let number = usize::try_from(pick(random, &NUMBERS)).unwrap_or(0);
    match random.below(5) {
        0 => dims.push(Dim::Known(number.min(8))),
        1 => drop(dims.pop()),
        2 => dims.iter_mut().for_each(|dim| *dim = Dim::Unknown),
        _ if !dims.is_empty() => {
            let at = random.below(dims.len());
            dims[at] = Dim::Known(number);
        }
        _ => {}
    }
}

/// Leads an input or output of a node elsewhere, leaves it out, or adds one.
fn edge(graph: &mut Graph, index: usize, random: &mut SplitMix64) {
    let other = Some(ValueId(random.below(graph.values.len()) as u32));
    let node = &mut graph.nodes[index];
    match random.below(6) {
        0 => node.inputs.push(other),
        1 => drop(node.inputs.pop()),
        2 => node.inputs.reverse(),
        3 => drop(node.outputs.pop()),
        _ if !node.inputs.is_empty() => {
            let at = random.below(node.inputs.len());
            node.inputs[at] = if random.below(4) == 0 { None } else { other };
        }
        _ => {}
    }
}
