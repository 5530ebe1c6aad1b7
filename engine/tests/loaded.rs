//! Loaded models: inputs of any shapes, by few plans, with the results of a plan for each shape.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use hetero::hal::{
    Attribute, Bool, DType, Dim, Graph, Node, Operator, TensorType, TraceEvent, TraceKind, TraceSink, Value, ValueId,
};
use hetero::{DeviceOptions, Error, HeteroEngine, LoadedModel, Model, OutputBuffer, Tensor};
use hetero_cpu as _;

/// A graph in the making.
#[derive(Default)]
struct Builder(Graph);

impl Builder {
    fn value(&mut self, name: String, ty: TensorType, constant: Option<Tensor>) -> ValueId {
        self.0.values.push(Value { name: name.into(), ty, constant });
        ValueId(self.0.values.len() as u32 - 1)
    }

    /// Adds an input, with a name for each open dimension and a number for each other.
    fn input(&mut self, name: &str, dtype: DType, dims: &[&str]) -> ValueId {
        let dim = |text: &&str| match text.parse() {
            Ok(size) => Dim::Known(size),
            Err(_) if *text == "?" => Dim::Unknown,
            Err(_) => Dim::Symbol((*text).into()),
        };
        let id = self.value(name.to_owned(), TensorType::new(dtype, dims.iter().map(dim).collect()), None);
        self.0.inputs.push(id);
        id
    }

    fn constant(&mut self, content: Tensor) -> ValueId {
        let name = format!("c{}", self.0.values.len());
        self.value(name, TensorType::exact(content.dtype(), content.shape()), Some(content))
    }

    fn weights(&mut self, shape: &[usize]) -> ValueId {
        self.constant(waves(shape, self.0.values.len()))
    }

    fn list(&mut self, content: &[i64]) -> ValueId {
        self.constant(Tensor::from_vec(&[content.len()], content.to_vec()).unwrap())
    }

    fn node(&mut self, operator: Operator, inputs: &[ValueId]) -> ValueId {
        let output = self.value(format!("v{}", self.0.values.len()), TensorType::default(), None);
        self.0.nodes.push(Node {
            name: format!("n{}_{}", self.0.nodes.len(), operator.name).into(),
            operator,
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
        });
        output
    }

    fn op(&mut self, name: &str, inputs: &[ValueId]) -> ValueId {
        self.node(Operator::new(name, 17), inputs)
    }

    fn model(mut self, outputs: &[ValueId]) -> Model {
        self.0.outputs = outputs.to_vec();
        Model { graph: self.0, opsets: [("".into(), 17)].into(), ..Model::default() }
    }
}

/// Returns floats that differ from place to place.
fn waves(shape: &[usize], phase: usize) -> Tensor {
    let count = shape.iter().product();
    Tensor::from_vec(shape, (0..count).map(|i: usize| ((i + 31 * phase) as f32 * 0.37).sin()).collect()).unwrap()
}

fn engine() -> HeteroEngine {
    let mut engine = HeteroEngine::builder().build();
    engine.add_device("cpu:0", DeviceOptions::default()).unwrap();
    engine
}

fn ints(list: &[i64]) -> Attribute {
    Attribute::Ints(list.to_vec())
}

const WIDTH: usize = 32;

/// Splits the last dimension of a value into heads, by a shape that is computed from its own, as
/// files do that were traced from a program.
fn heads(b: &mut Builder, x: ValueId) -> ValueId {
    let shape = b.op("Shape", &[x]);
    let two = b.list(&[0, 1]);
    let lead = b.node(Operator::new("Gather", 17).with("axis", Attribute::Int(0)), &[shape, two]);
    let tail = b.list(&[4, (WIDTH / 4) as i64]);
    let wanted = b.node(Operator::new("Concat", 17).with("axis", Attribute::Int(0)), &[lead, tail]);
    let split = b.op("Reshape", &[x, wanted]);
    b.node(Operator::new("Transpose", 17).with("perm", ints(&[0, 2, 1, 3])), &[split])
}

/// An encoder's layer, whose positions are a part of a table with `positions` rows.
fn encoder(positions: usize) -> Model {
    let mut b = Builder::default();
    let ids = b.input("ids", DType::I64, &["batch", "length"]);
    let table = b.weights(&[50, WIDTH]);
    let x = b.op("Gather", &[table, ids]);
    let shape = b.op("Shape", &[ids]);
    let (one, zero) = (b.list(&[1]), b.list(&[0]));
    let length = b.node(Operator::new("Gather", 17).with("axis", Attribute::Int(0)), &[shape, one]);
    let all = b.weights(&[positions, WIDTH]);
    let own = b.op("Slice", &[all, zero, length, zero]);
    let x = b.op("Add", &[x, own]);
    let part = |b: &mut Builder| {
        let w = b.weights(&[WIDTH, WIDTH]);
        let y = b.op("MatMul", &[x, w]);
        heads(b, y)
    };
    let (q, k, v) = (part(&mut b), part(&mut b), part(&mut b));
    let k = b.node(Operator::new("Transpose", 17).with("perm", ints(&[0, 1, 3, 2])), &[k]);
    let scores = b.op("MatMul", &[q, k]);
    let scores = b.node(Operator::new("Softmax", 17).with("axis", Attribute::Int(-1)), &[scores]);
    let y = b.op("MatMul", &[scores, v]);
    let y = b.node(Operator::new("Transpose", 17).with("perm", ints(&[0, 2, 1, 3])), &[y]);
    let joined = b.list(&[0, 0, WIDTH as i64]);
    let y = b.op("Reshape", &[y, joined]);
    let y = b.op("Add", &[x, y]);
    let (scale, bias) = (b.weights(&[WIDTH]), b.weights(&[WIDTH]));
    let y = b.node(Operator::new("LayerNormalization", 17), &[y, scale, bias]);
    let y = b.op("Erf", &[y]);
    b.model(&[y])
}

fn ids(batch: usize, length: usize) -> Tensor {
    Tensor::from_vec(&[batch, length], (0..batch * length).map(|i| (i * 7 % 50) as i64).collect()).unwrap()
}

/// Runs inputs by a loaded model and by a plan for their shapes alone, and checks that both give
/// the same.
fn agrees(engine: &HeteroEngine, loaded: &LoadedModel, inputs: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
    let shapes: Vec<_> = inputs.iter().map(|(_, tensor)| tensor.shape().to_vec()).collect();
    let found = loaded.run(inputs).unwrap_or_else(|error| panic!("{shapes:?}: {error}"));
    let plan = engine.analyze_with_inputs(loaded.model(), &hetero::Binding::default(), inputs).unwrap();
    let given: Vec<_> =
        inputs.iter().filter(|(name, _)| !plan.fixed().contains(&(*name).to_owned())).cloned().collect();
    let expected = engine.run(&given, &plan).unwrap();
    let all: BTreeMap<String, Tensor> = found.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    for (name, tensor) in expected.iter() {
        assert_eq!(all[name], *tensor, "{name} for {shapes:?}");
    }
    all
}

#[test]
fn an_encoder_serves_all_lengths_by_few_plans() {
    let engine = engine();
    let loaded = engine.load(&encoder(4096)).unwrap();
    for length in [5, 7, 1, 2, 30, 64, 63, 65, 100, 300, 7, 200, 299] {
        agrees(&engine, &loaded, &[("ids", ids(1, length))]);
    }
    // One for the first length, one for a length of 1, and one whenever the bound has doubled.
    assert!(loaded.plans_made() <= 6, "{}", loaded.plans_made());
    assert_eq!(loaded.notes(), None);
    let made = loaded.plans_made();
    for length in 2..128 {
        loaded.run(&[("ids", ids(1, length))]).unwrap();
    }
    assert_eq!(loaded.plans_made(), made);
    // A second dimension that varies.
    for (batch, length) in [(3, 7), (2, 9), (5, 100)] {
        agrees(&engine, &loaded, &[("ids", ids(batch, length))]);
    }
    assert!(loaded.plans_kept() <= 5, "{}", loaded.plans_kept());
}

#[test]
fn a_model_that_takes_no_more_than_some_size_is_bound_to_that() {
    let engine = engine();
    let loaded = engine.load(&encoder(40)).unwrap();
    for length in [5, 7, 38, 40, 12] {
        agrees(&engine, &loaded, &[("ids", ids(1, length))]);
    }
    let error = loaded.run(&[("ids", ids(1, 41))]).unwrap_err();
    assert!(matches!(error, Error::Model(_)), "{error}");
    agrees(&engine, &loaded, &[("ids", ids(1, 39))]);
}

#[test]
fn a_cache_that_grows_takes_a_plan_when_it_has_doubled() {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &["batch", "1", "16"]);
    let past = b.input("past", DType::F32, &["batch", "past", "16"]);
    let w = b.weights(&[16, 16]);
    let key = b.op("MatMul", &[x, w]);
    let all = b.node(Operator::new("Concat", 17).with("axis", Attribute::Int(1)), &[past, key]);
    let turned = b.node(Operator::new("Transpose", 17).with("perm", ints(&[0, 2, 1])), &[all]);
    let scores = b.op("MatMul", &[x, turned]);
    let scores = b.node(Operator::new("Softmax", 17).with("axis", Attribute::Int(-1)), &[scores]);
    let y = b.op("MatMul", &[scores, all]);
    let w = b.weights(&[16, 16]);
    let y = b.op("MatMul", &[y, w]);
    let y = b.op("Tanh", &[y]);
    let model = b.model(&[y, all]);
    let (engine, names) =
        (engine(), (model.graph.values[y.index()].name.clone(), model.graph.values[all.index()].name.clone()));
    let loaded = engine.load(&model).unwrap();
    let (mut x, mut past) = (waves(&[1, 1, 16], 3), waves(&[1, 0, 16], 0));
    for step in 0..150 {
        let found = agrees(&engine, &loaded, &[("x", x), ("past", past)]);
        (x, past) = (found[&*names.0].clone(), found[&*names.1].clone());
        assert_eq!(past.shape(), [1, step + 1, 16]);
    }
    assert!(loaded.plans_made() <= 6, "{}", loaded.plans_made());
}

#[test]
fn a_mask_as_long_as_the_cache_and_what_is_new_takes_plans_as_rarely() {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &["batch", "new", "16"]);
    let past = b.input("past", DType::F32, &["batch", "past", "16"]);
    let mask = b.input("mask", DType::F32, &["batch", "total"]);
    let all = b.node(Operator::new("Concat", 17).with("axis", Attribute::Int(1)), &[past, x]);
    let turned = b.node(Operator::new("Transpose", 17).with("perm", ints(&[0, 2, 1])), &[all]);
    let scores = b.op("MatMul", &[x, turned]);
    let one = b.list(&[1]);
    let mask = b.op("Unsqueeze", &[mask, one]);
    let scores = b.op("Add", &[scores, mask]);
    let scores = b.node(Operator::new("Softmax", 17).with("axis", Attribute::Int(-1)), &[scores]);
    let y = b.op("MatMul", &[scores, all]);
    let model = b.model(&[y, all]);
    let (engine, name) = (engine(), model.graph.values[all.index()].name.clone());
    let loaded = engine.load(&model).unwrap();
    let (mut past, mut total) = (waves(&[1, 0, 16], 0), 0);
    for step in 0..150 {
        let new = if step == 0 { 9 } else { 1 };
        total += new;
        let inputs = [("x", waves(&[1, new, 16], step)), ("past", past), ("mask", waves(&[1, total], step))];
        past = agrees(&engine, &loaded, &inputs)[&*name].clone();
    }
    assert!(loaded.plans_made() <= 6, "{}", loaded.plans_made());
    assert_eq!(loaded.notes(), None);
}

/// What a run's trace tells: how often a device compiled, and the nodes that it computed.
#[derive(Default)]
struct Told(Mutex<(usize, BTreeSet<String>)>);

impl TraceSink for Told {
    fn event(&self, event: &TraceEvent<'_>) {
        let mut told = self.0.lock().unwrap();
        told.0 += usize::from(event.kind == TraceKind::Compile);
        told.1.extend(event.nodes.iter().map(ToString::to_string));
    }
}

#[test]
fn layers_that_are_alike_are_compiled_once_for_a_size_and_keep_their_names() {
    const LAYERS: usize = 4;
    let mut b = Builder::default();
    let mut x = b.input("x", DType::F32, &["1", "1", "16"]);
    let pasts: Vec<ValueId> =
        (0..LAYERS).map(|layer| b.input(&format!("past{layer}"), DType::F32, &["1", "past", "16"])).collect();
    for (layer, &past) in pasts.iter().enumerate() {
        let w = b.weights(&[16, 16]);
        let key = b.op("MatMul", &[x, w]);
        let all = b.node(Operator::new("Concat", 17).with("axis", Attribute::Int(1)), &[past, key]);
        let turned = b.node(Operator::new("Transpose", 17).with("perm", ints(&[0, 2, 1])), &[all]);
        let scores = b.op("MatMul", &[x, turned]);
        // The last layer is another one.
        let divisor = b.constant(Tensor::scalar(if layer + 1 == LAYERS { 3f32 } else { 4f32 }));
        let scores = b.op("Div", &[scores, divisor]);
        let scores = b.node(Operator::new("Softmax", 17).with("axis", Attribute::Int(-1)), &[scores]);
        let y = b.op("MatMul", &[scores, all]);
        let w = b.weights(&[16, 16]);
        let y = b.op("MatMul", &[y, w]);
        x = b.op("Tanh", &[y]);
    }
    let model = b.model(&[x]);
    let named = |kind: &str| {
        let nodes = model.graph.nodes.iter().filter(|node| node.operator.is(kind));
        nodes.map(|node| node.name.to_string()).collect::<BTreeSet<_>>()
    };
    let (engine, softmaxes) = (engine(), named("Softmax"));
    assert_eq!(softmaxes.len(), LAYERS);
    let loaded = engine.load(&model).unwrap();
    for (length, compiled) in [(9, 0), (12, 2), (13, 2), (12, 0), (30, 2)] {
        let names: Vec<String> = (0..LAYERS).map(|layer| format!("past{layer}")).collect();
        let mut inputs = vec![("x", waves(&[1, 1, 16], length))];
        inputs.extend((0..LAYERS).map(|layer| (&*names[layer], waves(&[1, length, 16], layer))));
        let session = loaded.session(&inputs).unwrap();
        let told = Arc::new(Told::default());
        let sink: Arc<dyn TraceSink> = told.clone();
        let ordered: Vec<Tensor> = session
            .inputs()
            .iter()
            .map(|port| inputs.iter().find(|(name, _)| *name == &*port.name).unwrap().1.clone())
            .collect();
        session.run_traced(&ordered, &mut [OutputBuffer::default()], Some(&sink)).unwrap();
        let told = told.0.lock().unwrap();
        assert_eq!(told.0, compiled, "{length}");
        assert!(softmaxes.is_subset(&told.1), "{:?}", told.1);
        drop(told);
        agrees(&engine, &loaded, &inputs);
    }
}

#[test]
fn images_of_any_size_are_convolved_as_by_a_plan_of_their_own() {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &["n", "3", "h", "w"]);
    let w = b.weights(&[24, 3, 3, 3]);
    let y = b.node(Operator::new("Conv", 17).with("pads", ints(&[1, 1, 1, 1])), &[x, w]);
    let y = b.op("Relu", &[y]);
    let w = b.weights(&[24, 24, 3, 3]);
    let z = b.node(Operator::new("Conv", 17).with("pads", ints(&[1, 1, 1, 1])), &[y, w]);
    let z = b.op("Add", &[z, y]);
    let pool = Operator::new("MaxPool", 17).with("kernel_shape", ints(&[2, 2])).with("strides", ints(&[2, 2]));
    let z = b.node(pool, &[z]);
    let mean = b.op("GlobalAveragePool", &[z]);
    let model = b.model(&[z, mean]);
    let engine = engine();
    let loaded = engine.load(&model).unwrap();
    for (n, h, w) in [(1, 32, 32), (1, 33, 40), (1, 7, 64), (2, 9, 9), (3, 64, 48), (1, 32, 32)] {
        agrees(&engine, &loaded, &[("x", waves(&[n, 3, h, w], 1))]);
    }
    assert_eq!(loaded.notes(), None);
}

#[test]
fn sizes_that_depend_on_data_follow_open_ones() {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &["n"]);
    let keep = b.input("keep", DType::Bool, &["n"]);
    let some = b.node(Operator::new("Compress", 17).with("axis", Attribute::Int(0)), &[x, keep]);
    let more = b.node(Operator::new("Concat", 17).with("axis", Attribute::Int(0)), &[some, x]);
    let y = b.op("Exp", &[more]);
    let sum = b.node(Operator::new("ReduceSum", 17).with("keepdims", Attribute::Int(0)), &[y]);
    let size = b.op("Shape", &[y]);
    let model = b.model(&[y, sum, size]);
    let engine = engine();
    let loaded = engine.load(&model).unwrap();
    for n in [3, 4, 9, 30, 70, 5] {
        let keep: Vec<Bool> = (0..n).map(|i| Bool::from(i % 3 == 1)).collect();
        let kept = keep.iter().filter(|keep| keep.get()).count();
        let inputs = [("x", waves(&[n], 2)), ("keep", Tensor::from_vec(&[n], keep).unwrap())];
        let found = agrees(&engine, &loaded, &inputs);
        assert!(found.values().any(|tensor| tensor.shape() == [n + kept]));
    }
    assert_eq!(loaded.notes(), None);
}

#[test]
fn a_shape_that_is_an_input_is_a_constant_of_its_plan() {
    let mut b = Builder::default();
    let x = b.input("x", DType::F32, &["n"]);
    let shape = b.input("shape", DType::I64, &["rank"]);
    let y = b.op("Reshape", &[x, shape]);
    let y = b.op("Abs", &[y]);
    let engine = engine();
    let loaded = engine.load(&b.model(&[y])).unwrap();
    for shape in [&[2i64, 6][..], &[3, 4], &[12], &[2, 2, -1], &[2, 6], &[4, 5]] {
        let n = if shape == [4, 5] { 20 } else { 12 };
        let wanted = Tensor::from_vec(&[shape.len()], shape.to_vec()).unwrap();
        agrees(&engine, &loaded, &[("x", waves(&[n], 2)), ("shape", wanted)]);
    }
}

#[test]
fn a_name_that_two_inputs_give_two_sizes_is_no_name_of_one() {
    let engine = engine();
    let mut b = Builder::default();
    // Exporters name dimensions by the axis.
    let (x, y) = (b.input("x", DType::F32, &["rows", "4"]), b.input("y", DType::F32, &["rows", "4"]));
    let transposed = b.op("Transpose", &[y]);
    let scores = b.op("MatMul", &[x, transposed]);
    let output = b.op("Softmax", &[scores]);
    let loaded = engine.load(&b.model(&[output])).unwrap();
    let inputs = |x: usize, y: usize| [("x", waves(&[x, 4], x)), ("y", waves(&[y, 4], y))];
    agrees(&engine, &loaded, &inputs(5, 5));
    for rows in 2..30 {
        agrees(&engine, &loaded, &inputs(rows, 31 - rows));
    }
    // One for the equal sizes, one for the first that are not, and one for all that follow.
    assert_eq!((loaded.plans_made(), loaded.notes()), (3, None));
    agrees(&engine, &loaded, &inputs(9, 9));
    assert_eq!(loaded.plans_made(), 3);
}

#[test]
fn a_run_that_does_not_fit_leaves_names_as_they_are() {
    let engine = engine();
    let mut b = Builder::default();
    let (x, y) = (b.input("x", DType::F32, &["rows", "4"]), b.input("y", DType::F32, &["rows", "4"]));
    let sum = b.op("Add", &[x, y]);
    let loaded = engine.load(&b.model(&[sum])).unwrap();
    let inputs = |x: usize, y: usize| [("x", waves(&[x, 4], x)), ("y", waves(&[y, 4], y))];
    for rows in 2..30 {
        agrees(&engine, &loaded, &inputs(rows, rows));
        loaded.run(&inputs(rows, rows + 1)).unwrap_err();
    }
    assert_eq!((loaded.plans_made(), loaded.notes()), (2, None));
}

#[test]
fn what_is_kept_is_bounded() {
    let engine = engine();
    let loaded = engine.load(&encoder(4096)).unwrap().keeping(2, u64::MAX);
    for (batch, length) in [(1, 5), (1, 9), (2, 5), (4, 1), (3, 1), (1, 1), (7, 300)] {
        agrees(&engine, &loaded, &[("ids", ids(batch, length))]);
        assert!(loaded.plans_kept() <= 2);
    }
    let loaded = engine.load(&encoder(4096)).unwrap().keeping(100, 1);
    for length in [5, 9, 1, 700] {
        agrees(&engine, &loaded, &[("ids", ids(1, length))]);
        assert_eq!(loaded.plans_kept(), 1);
    }
}

#[test]
fn threads_run_different_shapes_at_once() {
    let engine = engine();
    let loaded = engine.load(&encoder(4096)).unwrap();
    let expected: Vec<(usize, BTreeMap<String, Tensor>)> =
        (2..20).map(|length| (length, agrees(&engine, &loaded, &[("ids", ids(1, length))]))).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (loaded, expected) = (&loaded, &expected);
            scope.spawn(move || {
                for round in 0..40 {
                    let (length, outputs) = &expected[(round * 5 + thread * 3) % expected.len()];
                    let found = loaded.run(&[("ids", ids(1, *length))]).unwrap();
                    assert!(found.iter().all(|(name, tensor)| outputs[name] == *tensor), "{length}");
                }
            });
        }
    });
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let mut b = Builder::default();
    let (x, y) = (b.input("x", DType::F32, &["n", "?"]), b.input("y", DType::F32, &["n", "?"]));
    let z = b.op("Add", &[x, y]);
    let loaded = engine().load(&b.model(&[z])).unwrap();
    let run = |inputs: &[(&str, Tensor)]| match loaded.run(inputs) {
        Err(Error::Input { name, reason }) => format!("{name}: {reason}"),
        other => panic!("{:?}", other.map(drop)),
    };
    let of = |shape: &[usize]| waves(shape, 0);
    assert!(run(&[("x", of(&[2, 3])), ("y", of(&[3, 3]))]).contains("y: it makes a dimension"));
    assert!(run(&[("x", of(&[2, 3]))]).contains("y: it is missing"));
    assert!(run(&[("x", of(&[2])), ("y", of(&[2, 3]))]).contains("x: it is"));
    assert!(run(&[("x", of(&[2, 1])), ("x", of(&[2, 1]))]).contains("twice"));
    assert!(run(&[("x", ids(2, 1)), ("y", of(&[2, 1]))]).contains("x: it is float32[n,?], not int64[2, 1]"));
    assert!(run(&[("z", of(&[2, 1]))]).contains("the model takes 'x', 'y'"));
    loaded.run(&[("x", of(&[2, 3])), ("y", of(&[2, 1]))]).unwrap();
    loaded.run(&[("x", of(&[5, 1])), ("y", of(&[5, 4]))]).unwrap();
    loaded.run(&[("x", of(&[7, 9])), ("y", of(&[7, 9]))]).unwrap();
    let error = loaded.run(&[("x", of(&[7, 9])), ("y", of(&[7, 8]))]).unwrap_err().to_string();
    assert!(error.contains("broadcast"), "{error}");
}
