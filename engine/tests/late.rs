//! Values whose memory nobody can lay out before a run: sizes without a bound, and elements that are
//! no bytes.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use hetero::hal::{Attribute, Bool, Capture, DType, Dim, ErrorKind, Graph, Node, Operator, TensorType, Value, ValueId};
use hetero::{DeviceOptions, Error, HeteroEngine, Model, Outputs, Tensor};
use hetero_cpu as _;

/// A graph in the making.
#[derive(Default)]
struct Builder(Graph);

impl Builder {
    fn value(&mut self, ty: TensorType, constant: Option<Tensor>) -> ValueId {
        let name = format!("v{}", self.0.values.len()).into();
        self.0.values.push(Value { name, ty, constant });
        ValueId(self.0.values.len() as u32 - 1)
    }

    fn input(&mut self, dtype: DType, dims: &[usize]) -> ValueId {
        let id = self.value(TensorType::exact(dtype, dims), None);
        self.0.inputs.push(id);
        id
    }

    fn captured(&mut self, outer: ValueId) -> ValueId {
        let inner = self.value(TensorType::default(), None);
        self.0.captures.push(Capture { outer, inner });
        inner
    }

    fn constant(&mut self, content: Tensor) -> ValueId {
        self.value(TensorType::exact(content.dtype(), content.shape()), Some(content))
    }

    fn node(&mut self, operator: Operator, inputs: &[Option<ValueId>], outputs: usize) -> Vec<ValueId> {
        let made: Vec<ValueId> = (0..outputs).map(|_| self.value(TensorType::default(), None)).collect();
        self.0.nodes.push(Node {
            name: format!("n{}_{}", self.0.nodes.len(), operator.name).into(),
            operator,
            inputs: inputs.to_vec(),
            outputs: made.iter().copied().map(Some).collect(),
        });
        made
    }

    fn op(&mut self, name: &str, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.node(Operator::new(name, 17), &inputs, 1)[0]
    }

    fn graph(mut self, outputs: &[ValueId]) -> Graph {
        self.0.outputs = outputs.to_vec();
        self.0
    }

    fn model(self, outputs: &[ValueId]) -> Model {
        Model { graph: self.graph(outputs), opsets: [("".into(), 17)].into(), ..Model::default() }
    }
}

fn engine(limit: Option<u64>) -> HeteroEngine {
    let mut engine = HeteroEngine::builder().build();
    engine.add_device("cpu:0", DeviceOptions { memory_limit: limit, ..DeviceOptions::default() }).unwrap();
    engine
}

/// Runs a model whose inputs are named as the builder names them.
fn run(engine: &HeteroEngine, model: &Model, inputs: &[Tensor]) -> hetero::Result<Outputs> {
    let plan = engine.analyze_model(model)?;
    let names = model.graph.inputs.iter().map(|id| &*model.graph.values[id.index()].name);
    engine.run(&names.zip(inputs.iter().cloned()).collect::<Vec<_>>(), &plan)
}

fn all(outputs: &Outputs) -> Vec<Tensor> {
    outputs.iter().map(|(_, tensor)| tensor.clone()).collect()
}

/// e^x for all x from 0 up to an input, and their sum.
fn range() -> Model {
    let mut b = Builder::default();
    let limit = b.input(DType::F32, &[]);
    let (zero, one) = (b.constant(Tensor::scalar(0f32)), b.constant(Tensor::scalar(1f32)));
    let numbers = b.op("Range", &[zero, limit, one]);
    let scale = b.constant(Tensor::scalar(-0.5f32));
    let scaled = b.op("Mul", &[numbers, scale]);
    let y = b.op("Exp", &[scaled]);
    let sum = b.node(Operator::new("ReduceSum", 17).with("keepdims", Attribute::Int(0)), &[Some(y)], 1)[0];
    let (twice, size) = (b.op("Add", &[sum, sum]), b.op("Shape", &[y]));
    b.model(&[y, twice, size])
}

#[test]
fn a_range_of_floats_takes_memory_as_it_turns_out() {
    let engine = engine(None);
    for count in [0, 1, 5, 1000, 3, 1 << 18] {
        let outputs = all(&run(&engine, &range(), &[Tensor::scalar(count as f32)]).unwrap());
        let expected: Vec<f32> = (0..count).map(|i| (i as f32 * -0.5).exp()).collect();
        let found = outputs[0].view::<f32>().unwrap();
        assert_eq!(outputs[0].shape(), [count]);
        // Kernels may take the least numbers for 0.
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs() + f32::MIN_POSITIVE));
        let sum: f32 = outputs[1].view::<f32>().unwrap()[0];
        assert!((sum - 2.0 * expected.iter().sum::<f32>()).abs() < 1e-4);
        assert_eq!(*outputs[2].view::<i64>().unwrap(), [count as i64]);
    }
}

#[test]
fn what_the_memory_limit_forbids_is_an_error_and_the_next_run_is_right() {
    let engine = engine(Some(64 << 20));
    let model = range();
    let plan = engine.analyze_model(&model).unwrap();
    let name = &*model.graph.values[0].name;
    for count in [10f32, 1e9, 4e7, 100.0, 3e7, 7.0] {
        match engine.run(&[(name, Tensor::scalar(count))], &plan) {
            Ok(outputs) => assert!(count < 1e3 && all(&outputs)[0].shape() == [count as usize]),
            Err(Error::Device(error)) => {
                assert!(count > 1e3 && error.kind() == ErrorKind::OutOfMemory, "{count}: {error}");
                assert!(error.sizes().is_some() && error.operator().is_some() && error.remedy().is_some(), "{error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Halves an input until it is less than 1, and lists all values on the way.
fn halving() -> Model {
    let mut body = Builder::default();
    let (_, condition) = (body.input(DType::I64, &[]), body.input(DType::Bool, &[]));
    let x = body.input(DType::F32, &[]);
    let _ = condition;
    let (half, one) = (body.constant(Tensor::scalar(0.5f32)), body.constant(Tensor::scalar(1f32)));
    let next = body.op("Mul", &[x, half]);
    let on = body.op("GreaterOrEqual", &[next, one]);
    let listed = body.op("Identity", &[next]);
    let body = body.graph(&[on, next, listed]);
    let mut b = Builder::default();
    let x = b.input(DType::F32, &[]);
    let always = b.constant(Tensor::scalar(Bool::from(true)));
    let operator = Operator::new("Loop", 16).with("body", Attribute::Graph(Arc::new(body)));
    let made = b.node(operator, &[None, Some(always), Some(x)], 2);
    let doubled = b.op("Add", &[made[1], made[1]]);
    b.model(&[made[0], doubled])
}

#[test]
fn a_loop_without_a_trip_count_lists_what_it_makes() {
    let engine = engine(None);
    for (start, steps) in [(1.5, 1), (100.0, 7), (1e6, 20), (3.0, 2)] {
        let outputs = all(&run(&engine, &halving(), &[Tensor::scalar(start as f32)]).unwrap());
        assert_eq!(outputs[1].shape(), [steps]);
        let expected: Vec<f32> = (1..=steps).map(|step| 2.0 * start as f32 * 0.5f32.powi(step as i32)).collect();
        assert_eq!(*outputs[1].view::<f32>().unwrap(), *expected);
    }
}

#[test]
fn branches_of_different_rank_give_what_the_condition_says() {
    let mut b = Builder::default();
    let (condition, x) = (b.input(DType::Bool, &[]), b.input(DType::F32, &[2, 3]));
    let branch = |flat: bool| {
        let mut inner = Builder::default();
        let x = inner.captured(x);
        let y = if flat {
            let shape = inner.constant(Tensor::from_vec(&[1], vec![6i64]).unwrap());
            inner.op("Reshape", &[x, shape])
        } else {
            inner.op("Neg", &[x])
        };
        Attribute::Graph(Arc::new(inner.graph(&[y])))
    };
    let operator = Operator::new("If", 16).with("then_branch", branch(true)).with("else_branch", branch(false));
    let y = b.node(operator, &[Some(condition)], 1)[0];
    let z = b.op("Abs", &[y]);
    let sorted = b.node(Operator::new("ReduceMax", 17).with("keepdims", Attribute::Int(0)), &[Some(z)], 1)[0];
    let model = b.model(&[z, sorted]);
    let engine = engine(None);
    let x = Tensor::from_vec(&[2, 3], vec![1f32, -2.0, 3.0, -4.0, 5.0, -6.0]).unwrap();
    for flat in [true, false, true] {
        let outputs = all(&run(&engine, &model, &[Tensor::scalar(Bool::from(flat)), x.clone()]).unwrap());
        assert_eq!(outputs[0].shape(), if flat { &[6][..] } else { &[2, 3] });
        assert_eq!(*outputs[0].view::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(*outputs[1].view::<f32>().unwrap(), [6.0]);
    }
}

#[test]
fn strings_pass_through_a_run() {
    let mut b = Builder::default();
    let words = b.input(DType::String, &[3]);
    let own = b.constant(Tensor::from_strings(&[1], vec!["end".into()]).unwrap());
    let y = b.node(Operator::new("Concat", 17).with("axis", Attribute::Int(0)), &[Some(words), Some(own)], 1)[0];
    let z = b.op("Identity", &[words]);
    let size = b.op("Shape", &[y]);
    let model = b.model(&[y, z, size]);
    let words = Tensor::from_strings(&[3], vec!["a".into(), "".into(), "ü".into()]).unwrap();
    let outputs = all(&run(&engine(None), &model, std::slice::from_ref(&words)).unwrap());
    let text: Vec<&str> = outputs[0].strings().unwrap().iter().map(|text| &**text).collect();
    assert_eq!(text, ["a", "", "ü", "end"]);
    assert_eq!(outputs[1], words);
    assert_eq!(*outputs[2].view::<i64>().unwrap(), [4]);
    // An open size is found in the run.
    let mut model = model;
    model.graph.values[0].ty.dims = Some(vec![Dim::Symbol("n".into())]);
    let loaded = engine(None).load(&model).unwrap();
    for count in [1, 4, 2] {
        let words = Tensor::from_strings(&[count], vec!["x".into(); count]).unwrap();
        assert_eq!(all(&loaded.run(&[("v0", words)]).unwrap())[0].shape(), [count + 1]);
    }
}
