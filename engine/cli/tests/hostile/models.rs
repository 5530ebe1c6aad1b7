//! Models of some hundred bytes that ask for much: memory, time or depth.

use hetero::hal::{
    Attribute, Bool, DType, Dim, Element, Graph, Model, Node, Operator, Tensor, TensorType, Value, ValueId,
};
use hetero_onnx::to_bytes;
use std::sync::Arc;

/// A graph in the making.
#[derive(Default)]
pub(crate) struct Maker {
    graph: Graph,
}

impl Maker {
    fn value(&mut self, ty: TensorType, constant: Option<Tensor>) -> ValueId {
        let id = ValueId(self.graph.values.len() as u32);
        self.graph.values.push(Value { name: format!("v{}", id.0).into(), ty, constant });
        id
    }

    pub(crate) fn input(&mut self, dtype: DType, shape: &[usize]) -> ValueId {
        let id = self.value(TensorType::exact(dtype, shape), None);
        self.graph.inputs.push(id);
        id
    }

    pub(crate) fn constant<T: Element>(&mut self, shape: &[usize], content: &[T]) -> ValueId {
        let content = Tensor::from_vec(shape, content.to_vec()).unwrap();
        self.value(TensorType::exact(content.dtype(), content.shape()), Some(content))
    }

    pub(crate) fn ints(&mut self, content: &[i64]) -> ValueId {
        self.constant(&[content.len()], content)
    }

    pub(crate) fn scalar<T: Element>(&mut self, content: T) -> ValueId {
        self.constant(&[], &[content])
    }

    pub(crate) fn node(&mut self, name: &str, inputs: &[ValueId], attributes: &[(&str, Attribute)]) -> ValueId {
        self.outputs(name, &inputs.iter().copied().map(Some).collect::<Vec<_>>(), attributes, 1)[0]
    }

    pub(crate) fn outputs(
        &mut self,
        name: &str,
        inputs: &[Option<ValueId>],
        attributes: &[(&str, Attribute)],
        count: usize,
    ) -> Vec<ValueId> {
        let outputs: Vec<ValueId> = (0..count).map(|_| self.value(TensorType::default(), None)).collect();
        let operator = attributes
            .iter()
            .fold(Operator::new(name, VERSION), |operator, (key, value)| operator.with(key, value.clone()));
        self.graph.nodes.push(Node {
            name: format!("n{}", self.graph.nodes.len()).into(),
            operator,
            inputs: inputs.to_vec(),
            outputs: outputs.iter().copied().map(Some).collect(),
        });
        outputs
    }

    /// Returns a value of this shape that takes one element in the file.
    pub(crate) fn filled(&mut self, shape: &[i64]) -> ValueId {
        let shape = self.ints(shape);
        let one = Tensor::from_vec(&[1], vec![1.0f32]).unwrap();
        // The sizes are an input's in disguise, so that nothing is folded: the run makes the value.
        self.node("ConstantOfShape", &[shape], &[("value", Attribute::Tensor(one))])
    }

    pub(crate) fn graph(mut self, outputs: &[ValueId]) -> Graph {
        self.graph.outputs = outputs.to_vec();
        self.graph
    }

    fn bytes(self, output: ValueId) -> Vec<u8> {
        let model = Model { graph: self.graph(&[output]), opsets: [("".into(), VERSION)].into(), ..Model::default() };
        to_bytes(&model).unwrap()
    }
}

/// The version of the standard in which all of these operators are.
const VERSION: u32 = 24;

const HUGE: i64 = 1 << 40;

fn ints(list: &[i64]) -> Attribute {
    Attribute::Ints(list.to_vec())
}

fn text(text: &str) -> Attribute {
    Attribute::String(text.as_bytes().into())
}

/// Returns the body of a loop that carries one value, and does this with it.
fn body(rank: usize, change: impl Fn(&mut Maker, ValueId) -> ValueId) -> Attribute {
    let mut inner = Maker::default();
    let trip = inner.input(DType::I64, &[]);
    let going = inner.input(DType::Bool, &[]);
    let carried = inner.value(TensorType::new(DType::F32, vec![Dim::Unknown; rank]), None);
    inner.graph.inputs.push(carried);
    let _ = trip;
    let going = inner.node("Identity", &[going], &[]);
    let changed = change(&mut inner, carried);
    Attribute::Graph(Arc::new(inner.graph(&[going, changed])))
}

/// A field of a protobuf message whose content is bytes.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = varint(number << 3 | 2);
    bytes.extend(varint(content.len() as u64));
    bytes.extend(content);
    bytes
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

/// Returns the file of a graph's fields, with those of functions behind it.
fn file(graph: &[u8], more: &[u8]) -> Vec<u8> {
    let opset = |domain: &str| field(8, &[field(1, domain.as_bytes()), number(2, u64::from(VERSION))].concat());
    [number(1, 10), opset(""), opset("f"), field(7, graph), more.to_vec()].concat()
}

/// A node of the domain `f`, or of the standard's.
fn raw_node(domain: &str, operator: &str, input: &str, output: &str, attributes: &[u8]) -> Vec<u8> {
    [
        field(1, input.as_bytes()),
        field(2, output.as_bytes()),
        field(4, operator.as_bytes()),
        field(7, domain.as_bytes()),
        attributes.to_vec(),
    ]
    .concat()
}

/// The graph input `x` of one float, and the output `y`.
fn ends() -> Vec<u8> {
    let shape = field(2, &field(1, &number(1, 1)));
    let ty = field(1, &[number(1, 1), shape].concat());
    let info = |name: &str| [field(1, name.as_bytes()), field(2, &ty)].concat();
    [field(11, &info("x")), field(12, &info("y"))].concat()
}

/// Functions that each call the next one twice.
fn doubling(levels: u32) -> Vec<u8> {
    let name = |level: u32| format!("F{level}");
    let function = |level: u32, nodes: &[Vec<u8>]| {
        let nodes: Vec<u8> = nodes.iter().flat_map(|node| field(7, node)).collect();
        let own = [field(1, name(level).as_bytes()), field(4, b"i"), field(5, b"o"), field(10, b"f")].concat();
        field(25, &[own, nodes].concat())
    };
    let inner = (0..levels).flat_map(|level| {
        let next = name(level + 1);
        function(level, &[raw_node("f", &next, "i", "m", &[]), raw_node("f", &next, "m", "o", &[])])
    });
    let last = function(levels, &[raw_node("", "Relu", "i", "o", &[])]);
    let functions: Vec<u8> = inner.chain(last).collect();
    file(&[field(1, &raw_node("f", "F0", "x", "y", &[])), ends()].concat(), &functions)
}

/// A function with a large list of numbers, which is called again and again.
fn copied_lists() -> Vec<u8> {
    let list = field(8, &vec![1; 4000]);
    let attribute = field(5, &[field(1, b"axes"), list, number(20, 7)].concat());
    let body = field(7, &raw_node("", "Identity", "i", "o", &attribute));
    let function = field(25, &[field(1, b"F"), field(4, b"i"), field(5, b"o"), body, field(10, b"f")].concat());
    let mut graph: Vec<u8> = Vec::new();
    for call in 0..3000 {
        let (from, to) = (format!("a{call}"), format!("a{}", call + 1));
        let from = if call == 0 { "x" } else { &from };
        let to = if call == 2999 { "y" } else { &to };
        graph.extend(field(1, &raw_node("f", "F", from, to, &[])));
    }
    graph.extend(ends());
    file(&graph, &function)
}

/// Sparse initialisers whose dense forms are large.
fn sparse(count: usize, size: u64) -> Vec<u8> {
    let mut graph = [field(1, &raw_node("", "Relu", "x", "y", &[])), ends()].concat();
    for index in 0..count {
        let name = format!("s{index}");
        let values = [number(1, 1), number(2, 1), field(8, name.as_bytes()), field(9, &1f32.to_le_bytes())].concat();
        let indices = [number(1, 1), number(2, 7), field(9, &0i64.to_le_bytes())].concat();
        graph.extend(field(15, &[field(1, &values), field(2, &indices), number(3, size)].concat()));
    }
    file(&graph, &[])
}

/// An initialiser that claims more elements than it has.
fn claimed() -> Vec<u8> {
    let tensor = [number(1, 1 << 40), number(2, 1), field(8, b"w"), field(9, &[0; 16])].concat();
    file(&[field(1, &raw_node("", "Relu", "x", "y", &[])), field(5, &tensor), ends()].concat(), &[])
}

/// Subgraphs inside subgraphs.
fn nested(depth: usize) -> Vec<u8> {
    let mut graph = [field(1, &raw_node("", "Relu", "x", "y", &[])), ends()].concat();
    for _ in 0..depth {
        let attribute = field(5, &[field(1, b"then_branch"), field(6, &graph), number(20, 5)].concat());
        graph = [field(1, &raw_node("", "If", "x", "y", &attribute)), ends()].concat();
    }
    file(&graph, &[])
}

/// Returns the models by name.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    let mut models: Vec<(&'static str, Vec<u8>)> = vec![
        ("functions that double thirty times", doubling(30)),
        ("a list copied by calls", copied_lists()),
        ("a sparse tensor of 10 GB", sparse(1, 10 << 28)),
        ("forty sparse tensors of 1 GB", sparse(40, 1 << 28)),
        ("an initialiser of 4 TB", claimed()),
        ("subgraphs nested 90 deep", nested(90)),
        ("subgraphs nested 2000 deep", nested(2000)),
        ("200 000 empty nodes", file(&[field(1, &[]).repeat(200_000), ends()].concat(), &[])),
    ];
    let mut add = |name: &'static str, make: fn(&mut Maker) -> ValueId| {
        let mut maker = Maker::default();
        let output = make(&mut maker);
        models.push((name, maker.bytes(output)));
    };
    add("MatMulInteger 2000³", |m| {
        let (a, b) = (m.input(DType::I8, &[2000, 2000]), m.input(DType::I8, &[2000, 2000]));
        m.node("MatMulInteger", &[a, b], &[])
    });
    add("MatMul of integers 2000³", |m| {
        let (a, b) = (m.input(DType::I64, &[2000, 2000]), m.input(DType::I64, &[2000, 2000]));
        m.node("MatMul", &[a, b], &[])
    });
    add("MatMul of floats 8192³", |m| {
        let (a, b) = (m.filled(&[8192, 8192]), m.filled(&[8192, 8192]));
        let c = m.node("MatMul", &[a, b], &[]);
        m.node("MatMul", &[c, b], &[])
    });
    add("Einsum over eight summed indices", |m| {
        let a = m.input(DType::F32, &[40; 4]);
        m.node("Einsum", &[a, a], &[("equation", text("abcd,efgh->"))])
    });
    add("Einsum of a huge result", |m| {
        let a = m.input(DType::F32, &[1000]);
        m.node("Einsum", &[a, a, a, a], &[("equation", text("a,b,c,d->abcd"))])
    });
    add("Range to 2⁴⁰", |m| {
        let (from, to, step) = (m.scalar(0i64), m.scalar(HUGE), m.scalar(1i64));
        m.node("Range", &[from, to, step], &[])
    });
    add("ConstantOfShape of 4 TB", |m| m.filled(&[HUGE]));
    add("Expand to 2²⁰ × 2²⁰", |m| {
        let (x, shape) = (m.input(DType::F32, &[1]), m.ints(&[1 << 20, 1 << 20]));
        m.node("Expand", &[x, shape], &[])
    });
    add("Tile by 2⁴⁰", |m| {
        let (x, repeats) = (m.input(DType::F32, &[1]), m.ints(&[HUGE]));
        m.node("Tile", &[x, repeats], &[])
    });
    add("Pad by 2⁴⁰", |m| {
        let (x, pads) = (m.input(DType::F32, &[1]), m.ints(&[0, HUGE]));
        m.node("Pad", &[x, pads], &[])
    });
    add("Resize to 2¹⁶ × 2¹⁶", |m| {
        let (x, sizes) = (m.input(DType::F64, &[1, 1, 4, 4]), m.ints(&[1, 1, 1 << 16, 1 << 16]));
        m.outputs("Resize", &[Some(x), None, None, Some(sizes)], &[("mode", text("cubic"))], 1)[0]
    });
    add("Resize of doubles to 8192 × 8192", |m| {
        let (x, sizes) = (m.input(DType::F64, &[1, 1, 4, 4]), m.ints(&[1, 1, 8192, 8192]));
        m.outputs("Resize", &[Some(x), None, None, Some(sizes)], &[("mode", text("cubic"))], 1)[0]
    });
    add("RoiAlign of a million samples a pixel", |m| {
        let x = m.input(DType::F32, &[1, 1, 64, 64]);
        let (rois, batch) = (m.constant(&[1, 4], &[0f32, 0., 60., 60.]), m.ints(&[0]));
        let sizes = [("output_height", 512), ("output_width", 512), ("sampling_ratio", 1000)];
        let sizes = sizes.map(|(name, size)| (name, Attribute::Int(size)));
        m.node("RoiAlign", &[x, rois, batch], &sizes)
    });
    add("GridSample at 2²⁶ places", |m| {
        let x = m.input(DType::F32, &[1, 1, 8, 8]);
        let grid = m.filled(&[1, 8192, 8192, 2]);
        m.node("GridSample", &[x, grid], &[("mode", text("cubic"))])
    });
    add("ReduceSum of [2⁴⁰, 0] over the empty axis", |m| {
        let (x, axes) = (m.filled(&[HUGE, 0]), m.ints(&[1]));
        m.node("ReduceSum", &[x, axes], &[])
    });
    add("ReduceMax of [2⁴⁰, 0] over the long axis", |m| {
        let (x, axes) = (m.filled(&[HUGE, 0]), m.ints(&[0]));
        m.node("ReduceMax", &[x, axes], &[])
    });
    add("AveragePool with pads of 2³¹ - 1", |m| {
        let x = m.input(DType::F32, &[1, 1, 4, 4]);
        let pads = ints(&[(1 << 31) - 1; 4]);
        m.node("AveragePool", &[x], &[("kernel_shape", ints(&[2, 2])), ("pads", pads)])
    });
    add("AveragePool along 2³⁰ outputs", |m| {
        let x = m.input(DType::F32, &[1, 1, 4]);
        m.node("AveragePool", &[x], &[("kernel_shape", ints(&[2])), ("pads", ints(&[1 << 29; 2]))])
    });
    add("MaxPool with a window of 2³¹ - 1", |m| {
        let x = m.input(DType::F32, &[1, 1, 4, 4]);
        let window = [("kernel_shape", ints(&[(1 << 31) - 1; 2])), ("pads", ints(&[(1 << 31) - 4; 4]))];
        m.node("MaxPool", &[x], &window)
    });
    add("Conv of an empty batch", |m| {
        let x = m.input(DType::F32, &[0, 3, 8, 8]);
        let w = m.constant(&[4, 3, 3, 3], &[0.5f32; 108]);
        m.node("Conv", &[x, w], &[])
    });
    add("Conv with pads of 2²⁰", |m| {
        let x = m.input(DType::F32, &[1, 1, 8, 8]);
        let w = m.constant(&[1, 1, 3, 3], &[0.5f32; 9]);
        m.node("Conv", &[x, w], &[("pads", ints(&[1 << 20; 4]))])
    });
    add("ConvTranspose with strides of 2³⁰", |m| {
        let x = m.input(DType::F32, &[1, 1, 8, 8]);
        let w = m.constant(&[1, 1, 3, 3], &[0.5f32; 9]);
        m.node("ConvTranspose", &[x, w], &[("strides", ints(&[1 << 30; 2]))])
    });
    add("Conv of doubles of 63 × 63 taps", |m| {
        let x = m.input(DType::F64, &[1, 1, 4096, 4096]);
        let w = m.input(DType::F64, &[1, 1, 63, 63]);
        m.node("Conv", &[x, w], &[])
    });
    add("OneHot of depth 2⁴⁰", |m| {
        let (x, depth) = (m.ints(&[1, 2]), m.scalar(HUGE));
        let values = m.constant(&[2], &[0f32, 1.0]);
        m.node("OneHot", &[x, depth, values], &[])
    });
    add("EyeLike 2²⁰ × 2²⁰", |m| {
        let x = m.filled(&[1 << 20, 1 << 20]);
        m.node("EyeLike", &[x], &[])
    });
    add("RandomNormal of 4 TB", |m| m.node("RandomNormal", &[], &[("shape", ints(&[1 << 20, 1 << 20]))]));
    add("Loop that never ends", |m| {
        let (trips, going, x) = (m.scalar(i64::MAX), m.scalar(Bool::from(true)), m.input(DType::F32, &[1]));
        m.node("Loop", &[trips, going, x], &[("body", body(1, |inner, x| inner.node("Relu", &[x], &[])))])
    });
    add("Loop whose value doubles", |m| {
        let (trips, going, x) = (m.scalar(100i64), m.scalar(Bool::from(true)), m.input(DType::F32, &[1]));
        let double = body(1, |inner, x| inner.node("Concat", &[x, x], &[("axis", Attribute::Int(0))]));
        m.node("Loop", &[trips, going, x], &[("body", double)])
    });
    add("Loop of loops", |m| {
        let (trips, going, x) = (m.scalar(1i64 << 40), m.scalar(Bool::from(true)), m.input(DType::F32, &[1]));
        let outer = body(1, |inner, x| {
            let (trips, going) = (inner.scalar(1i64 << 40), inner.scalar(Bool::from(true)));
            inner.node("Loop", &[trips, going, x], &[("body", body(1, |deep, x| deep.node("Neg", &[x], &[])))])
        });
        m.node("Loop", &[trips, going, x], &[("body", outer)])
    });
    add("Split into 40 000", |m| {
        let x = m.input(DType::F32, &[40_000]);
        let count = ("num_outputs", Attribute::Int(40_000));
        *m.outputs("Split", &[Some(x)], &[count], 40_000).last().unwrap()
    });
    add("NonMaxSuppression of 2²⁰ boxes", |m| {
        let (boxes, scores) = (m.filled(&[1, 1 << 20, 4]), m.filled(&[1, 1, 1 << 20]));
        let (most, iou) = (m.scalar(HUGE), m.scalar(0.5f32));
        m.node("NonMaxSuppression", &[boxes, scores, most, iou], &[])
    });
    add("TopK of 2²⁶", |m| {
        let (x, k) = (m.filled(&[1 << 26]), m.ints(&[1 << 26]));
        m.outputs("TopK", &[Some(x), Some(k)], &[], 2)[0]
    });
    add("Unique of 2²⁶", |m| {
        let x = m.filled(&[1 << 26]);
        m.node("Unique", &[x], &[])
    });
    add("CumSum of 2²⁷", |m| {
        let (x, axis) = (m.filled(&[1 << 27]), m.scalar(0i64));
        m.node("CumSum", &[x, axis], &[])
    });
    add("DFT of a prime length", |m| {
        let x = m.filled(&[1, 999_983, 1]);
        m.node("DFT", &[x], &[])
    });
    add("STFT of long frames", |m| {
        let (x, step, length) = (m.filled(&[1, 1 << 20, 1]), m.scalar(1i64), m.scalar(65_521i64));
        m.outputs("STFT", &[Some(x), Some(step), None, Some(length)], &[], 1)[0]
    });
    add("HannWindow of 2⁴⁰", |m| {
        let size = m.scalar(HUGE);
        m.node("HannWindow", &[size], &[])
    });
    add("MelWeightMatrix of 2²⁰ bins", |m| {
        let (bins, length, rate) = (m.scalar(1i64 << 20), m.scalar(1i64 << 21), m.scalar(16_000i64));
        let (low, high) = (m.scalar(0f32), m.scalar(8000f32));
        m.node("MelWeightMatrix", &[bins, length, rate, low, high], &[])
    });
    add("Attention over 2¹⁶ positions", |m| {
        let q = m.filled(&[1, 1, 1 << 16, 8]);
        m.node("Attention", &[q, q, q], &[])
    });
    add("LSTM of 2¹⁸ steps", |m| {
        let (x, w, r) = (m.filled(&[1 << 18, 1, 8]), m.filled(&[1, 2048, 8]), m.filled(&[1, 2048, 512]));
        m.outputs("LSTM", &[Some(x), Some(w), Some(r)], &[("hidden_size", Attribute::Int(512))], 1)[0]
    });
    add("LSTM of doubles", |m| {
        let (x, w, r) = (
            m.input(DType::F64, &[256, 4, 256]),
            m.input(DType::F64, &[1, 2048, 256]),
            m.input(DType::F64, &[1, 2048, 512]),
        );
        m.outputs("LSTM", &[Some(x), Some(w), Some(r)], &[("hidden_size", Attribute::Int(512))], 1)[0]
    });
    add("Gather of 2³⁰ elements", |m| {
        let x = m.input(DType::F32, &[1 << 10, 1]);
        let zeros = m.filled(&[1 << 15, 1 << 15]);
        let indices = m.node("Cast", &[zeros], &[("to", Attribute::Int(7))]);
        m.node("Gather", &[x, indices], &[])
    });
    add("LRN over 2⁶²", |m| {
        let x = m.input(DType::F32, &[1, 4, 2, 2]);
        m.node("LRN", &[x], &[("size", Attribute::Int(1 << 62))])
    });
    add("DepthToSpace of blocks of 2³¹", |m| {
        let x = m.input(DType::F32, &[1, 4, 2, 2]);
        m.node("DepthToSpace", &[x], &[("blocksize", Attribute::Int(1 << 31))])
    });
    add("Det of 2¹² × 2¹²", |m| {
        let x = m.input(DType::F64, &[4096, 4096]);
        m.node("Det", &[x], &[])
    });
    models
}
