//! Compiled bodies against the oracle that interprets them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_hal::{
    Allowance, Attribute, BindingTable, Bool, Buffer, BufferLayout, Capture, CompileOptions, DType, Device, Dim,
    Driver, ErrorKind, Executable, Execution, Extents, Graph, Model, Node, OpenOptions, Operator, Program,
    ProgramValue, Result, Source, Tensor, TensorType, Value, ValueId,
};
use hetero_onnx::{Binding, bind};
use hetero_reference::Standard;

use super::suits;
use crate::CpuDriver;
use crate::executable::CpuExecutable;
use crate::kernels::Site;
use crate::simd::Isa;

/// A graph in the making.
#[derive(Default)]
struct Builder(Graph);

impl Builder {
    fn value(&mut self, ty: TensorType, constant: Option<Tensor>) -> ValueId {
        let name = format!("v{}", self.0.values.len()).into();
        self.0.values.push(Value { name, ty, constant });
        ValueId(self.0.values.len() as u32 - 1)
    }

    fn input(&mut self, dtype: DType, dims: &[Option<usize>]) -> ValueId {
        let dim = |size: &Option<usize>| size.map_or(Dim::Unknown, Dim::Known);
        let id = self.value(TensorType::new(dtype, dims.iter().map(dim).collect()), None);
        self.0.inputs.push(id);
        id
    }

    fn floats(&mut self, shape: &[usize]) -> ValueId {
        self.input(DType::F32, &shape.iter().copied().map(Some).collect::<Vec<_>>())
    }

    fn constant(&mut self, content: Tensor) -> ValueId {
        self.value(TensorType::exact(content.dtype(), content.shape()), Some(content))
    }

    fn ints(&mut self, values: &[i64]) -> ValueId {
        self.constant(Tensor::from_vec(&[values.len()], values.to_vec()).unwrap())
    }

    fn capture(&mut self, outer: ValueId) -> ValueId {
        let inner = self.value(TensorType::default(), None);
        self.0.captures.push(Capture { outer, inner });
        inner
    }

    fn nodes(&mut self, operator: Operator, inputs: &[ValueId], outputs: usize) -> Vec<ValueId> {
        let made: Vec<ValueId> = (0..outputs).map(|_| self.value(TensorType::default(), None)).collect();
        let name = format!("n{}", self.0.nodes.len()).into();
        let (inputs, outputs) = (inputs.iter().copied().map(Some).collect(), made.iter().copied().map(Some).collect());
        self.0.nodes.push(Node { name, operator, inputs, outputs });
        made
    }

    fn op(&mut self, name: &str, inputs: &[ValueId]) -> ValueId {
        self.nodes(Operator::new(name, 17), inputs, 1)[0]
    }

    fn concat(&mut self, inputs: &[ValueId]) -> ValueId {
        self.nodes(Operator::new("Concat", 17).with("axis", Attribute::Int(0)), inputs, 1)[0]
    }

    fn body(mut self, outputs: &[ValueId]) -> Attribute {
        self.0.name = "body".into();
        self.0.outputs = outputs.to_vec();
        Attribute::Graph(Arc::new(self.0))
    }

    fn program(mut self, outputs: &[ValueId]) -> Program {
        self.0.outputs = outputs.to_vec();
        let opsets = [("".into(), 17), ("com.microsoft".into(), 1)].into();
        let model = Model { graph: self.0, opsets, ..Model::default() };
        bind(&model, &Binding::default(), &Standard).unwrap().program
    }
}

/// Returns the builder of a loop's body that carries a value of this type: the iteration, the
/// condition and the value.
fn looped(dims: &[Option<usize>]) -> (Builder, ValueId, ValueId, ValueId) {
    let mut body = Builder::default();
    let (trip, going) = (body.input(DType::I64, &[]), body.input(DType::Bool, &[]));
    let x = body.input(DType::F32, dims);
    (body, trip, going, x)
}

fn device(threads: usize, isa: Isa) -> Arc<dyn Device> {
    let extra = vec![("isa".to_owned(), isa.to_string())];
    CpuDriver.open(0, &OpenOptions { threads: Some(threads), extra, ..OpenOptions::default() }).unwrap()
}

fn numbers(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor::from_vec(shape, (0..count).map(|i| ((i * 37 % 23) as f32 - 11.0) / 7.0).collect()).unwrap()
}

/// Runs a program on a device; the run tells the sizes of some outputs.
fn run_program(device: &dyn Device, program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let executable = device.compile(Source::Program(program), &CompileOptions::default())?;
    let own = executable.clone();
    let own = (&*own as &dyn std::any::Any).downcast_ref::<CpuExecutable>().unwrap();
    let mut buffers = Vec::new();
    for input in inputs {
        let buffer = device.allocate(BufferLayout::new(input.bytes().len()))?;
        buffer.write(0, input.bytes())?;
        buffers.push(buffer);
    }
    let outputs: Vec<_> = program.outputs().iter().map(|id| program.value(*id).unwrap()).collect();
    for value in &outputs {
        buffers.push(device.allocate(BufferLayout::new(value.bytes()))?);
    }
    let scratch = device.allocate(own.scratch())?;
    let extents = Arc::new(Extents::of(program));
    let execution = Execution::new(executable, BindingTable::new(buffers.clone()));
    own.run(&execution.with_scratch(Some(scratch)).with_extents(Some(extents.clone())), None)?;
    let read = |(value, buffer): (&&ProgramValue, &Buffer)| {
        if let Some(late) = value.late {
            return extents.late(late);
        }
        let size = |(axis, &size): (usize, &usize)| match value.extents.get(axis).copied().flatten() {
            Some(extent) => extents.get(extent).unwrap(),
            None => size,
        };
        let shape: Vec<usize> = value.shape.iter().enumerate().map(size).collect();
        let mut bytes = vec![0; value.dtype.bytes_for(shape.iter().product()).unwrap()];
        buffer.read(0, &mut bytes)?;
        Tensor::from_bytes(value.dtype, &shape, bytes.into())
    };
    outputs.iter().zip(&buffers[inputs.len()..]).map(read).collect()
}

/// Checks that each node with bodies is compiled, and that all results are the oracle's, with the
/// same bits for any number of threads.
fn agrees(program: &Program, inputs: &[Tensor]) {
    let expected = hetero_reference::run(program, inputs, &Standard, &Allowance::default()).unwrap();
    for isa in Isa::available() {
        let mut nodes = program.nodes().iter().filter(|node| node.subgraphs().next().is_some());
        assert!(nodes.all(|node| suits(Site { program, node, isa, weights: None })));
        let found = run_program(&*device(1, isa), program, inputs).unwrap();
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()), "output {index}, {isa}");
            if found.dtype() != DType::F32 {
                assert_eq!(found, expected, "output {index}, {isa}");
                continue;
            }
            for (found, expected) in found.view::<f32>().unwrap().iter().zip(&*expected.view::<f32>().unwrap()) {
                let most = 1e-5 * expected.abs().max(1.0);
                assert!((found - expected).abs() <= most, "output {index}, {isa}: {found} for {expected}");
            }
        }
        assert_eq!(run_program(&*device(3, isa), program, inputs).unwrap(), found, "{isa}");
    }
}

fn scalar(value: i64) -> Tensor {
    Tensor::scalar(value)
}

fn flag(value: bool) -> Tensor {
    Tensor::scalar(Bool::from(value))
}

#[test]
fn what_a_loop_carries_is_handed_over_under_any_number() {
    for trips in [0, 1, 2, 3, 8] {
        let (mut body, trip, going, a) = looped(&[Some(5)]);
        let (b, kept, number) = (body.floats(&[5]), body.floats(&[2]), body.input(DType::I64, &[]));
        let sum = body.op("Add", &[a, b]);
        let product = body.op("Mul", &[sum, b]);
        for made in [sum, product] {
            body.0.values[made.index()].ty = TensorType::exact(DType::F32, &[5]);
        }
        // The second becomes the first, the third stays, and the fourth is the iteration's number.
        let body = body.body(&[going, b, sum, kept, trip, product, a, sum, trip, number]);
        let mut graph = Builder::default();
        let (limit, start) = (graph.constant(scalar(trips)), graph.constant(flag(true)));
        let inputs = [graph.floats(&[5]), graph.floats(&[5]), graph.floats(&[2]), graph.input(DType::I64, &[])];
        let operator = Operator::new("Loop", 17).with("body", body);
        let outputs = graph.nodes(operator, &[&[limit, start][..], &inputs].concat(), 9);
        let program = graph.program(&outputs);
        agrees(&program, &[numbers(&[5]), numbers(&[5]), numbers(&[2]), scalar(77)]);
    }
}

#[test]
fn a_loop_ends_by_its_condition_and_collects_without_knowing_how_often() {
    for (most, trips) in [(100.0f32, 7), (1.5, 7), (1.5, i64::MAX), (60.0, i64::MAX), (-100.0, 3)] {
        let (mut body, _, _, x) = looped(&[Some(2), Some(3)]);
        let one = body.constant(Tensor::scalar(0.25f32));
        let most = body.constant(Tensor::scalar(most));
        let next = body.op("Add", &[x, one]);
        let top = body.nodes(Operator::new("ReduceMax", 13).with("keepdims", Attribute::Int(0)), &[next], 1)[0];
        let going = body.op("Less", &[top, most]);
        let seen = body.op("Neg", &[next]);
        body.0.values[seen.index()].ty = TensorType::exact(DType::F32, &[2, 3]);
        let body = body.body(&[going, next, seen]);
        let mut graph = Builder::default();
        let (limit, start) = (graph.input(DType::I64, &[]), graph.input(DType::Bool, &[]));
        let x = graph.floats(&[2, 3]);
        let outputs = graph.nodes(Operator::new("Loop", 17).with("body", body), &[limit, start, x], 2);
        let program = graph.program(&outputs);
        for start in [true, false] {
            agrees(&program, &[scalar(trips), flag(start), numbers(&[2, 3])]);
        }
    }
}

#[test]
fn what_grows_or_shrinks_in_a_loop_is_compiled_for_each_size() {
    let (mut body, trip, going, all) = looped(&[None, Some(3)]);
    let less = body.input(DType::F32, &[None]);
    let row = body.constant(numbers(&[1, 3]));
    let as_float = body.nodes(Operator::new("Cast", 17).with("to", Attribute::Int(1)), &[trip], 1)[0];
    let row = body.op("Add", &[row, as_float]);
    let grown = body.concat(&[all, row]);
    // What a file claims of a size that changes counts for nothing.
    body.0.values[grown.index()].ty = TensorType::exact(DType::F32, &[1, 3]);
    let sum = body.nodes(Operator::new("ReduceSum", 17).with("keepdims", Attribute::Int(0)), &[grown], 1)[0];
    let (from, to) = (body.ints(&[1]), body.ints(&[i64::MAX]));
    let shrunk = body.op("Slice", &[less, from, to]);
    let body = body.body(&[going, grown, shrunk, sum]);
    let mut graph = Builder::default();
    let (limit, start) = (graph.input(DType::I64, &[]), graph.constant(flag(true)));
    let (all, less) = (graph.floats(&[2, 3]), graph.floats(&[40]));
    let outputs = graph.nodes(Operator::new("Loop", 17).with("body", body), &[limit, start, all, less], 3);
    let program = graph.program(&outputs);
    for trips in [0, 1, 5, 38, 5] {
        if trips > 0 {
            agrees(&program, &[scalar(trips), numbers(&[2, 3]), numbers(&[40])]);
        }
    }
}

#[test]
fn a_branch_makes_passes_on_or_has_its_outputs() {
    let mut graph = Builder::default();
    let (condition, x) = (graph.input(DType::Bool, &[]), graph.floats(&[3, 4]));
    let y = graph.op("Neg", &[x]);
    let mut then = Builder::default();
    let (tx, ty) = (then.capture(x), then.capture(y));
    let weight = then.constant(numbers(&[4, 4]));
    let product = then.nodes(Operator::new("MatMul", 13), &[tx, weight], 1)[0];
    let fixed = then.constant(numbers(&[3, 4]));
    let then = then.body(&[product, ty, fixed, product, ty]);
    let mut other = Builder::default();
    let (ox, oy) = (other.capture(x), other.capture(y));
    let sum = other.op("Add", &[ox, oy]);
    let twice = other.concat(&[ox, oy]);
    let other = other.body(&[oy, sum, ox, twice, sum]);
    let operator = Operator::new("If", 16).with("then_branch", then).with("else_branch", other);
    let outputs = graph.nodes(operator, &[condition], 5);
    // What reads an output whose sizes depend on the branch is in a region.
    let after = graph.op("Relu", &[outputs[3]]);
    let program = graph.program(&[&outputs[..], &[after]].concat());
    for taken in [true, false] {
        agrees(&program, &[flag(taken), numbers(&[3, 4])]);
    }
}

#[test]
fn a_scan_goes_over_any_axis_in_any_direction() {
    for (axis, out_axis) in [(0i64, 0i64), (1, 2), (-1, 1), (1, -1)] {
        for way in [0, 1] {
            let shape = [4usize, 3, 5];
            let at = if axis < 0 { 2 } else { axis as usize };
            let element = [&shape[..at], &shape[at + 1..]].concat();
            let mut body = Builder::default();
            let (state, former) = (body.floats(&element), body.floats(&element));
            let (part, other) = (body.floats(&element), body.input(DType::I64, &[Some(2)]));
            let next = body.op("Add", &[state, part]);
            let seen = body.op("Neg", &[next]);
            // The second state is the element before, and one more output collects it.
            let body = body.body(&[next, part, seen, former, other]);
            let operator = Operator::new("Scan", 11)
                .with("body", body)
                .with("num_scan_inputs", Attribute::Int(2))
                .with("scan_input_axes", Attribute::Ints(vec![axis, 0]))
                .with("scan_input_directions", Attribute::Ints(vec![way, 1 - way]))
                .with("scan_output_axes", Attribute::Ints(vec![out_axis, 0, 1]))
                .with("scan_output_directions", Attribute::Ints(vec![1 - way, way, 1]));
            let mut graph = Builder::default();
            let inputs = [graph.floats(&element), graph.floats(&element), graph.floats(&shape)];
            let numbered = graph.input(DType::I64, &[Some(shape[at]), Some(2)]);
            let outputs = graph.nodes(operator, &[&inputs[..], &[numbered]].concat(), 5);
            let program = graph.program(&outputs);
            let count = shape[at] as i64 * 2;
            let list = Tensor::from_vec(&[shape[at], 2], (0..count).collect::<Vec<i64>>()).unwrap();
            agrees(&program, &[numbers(&element), numbers(&element), numbers(&shape), list]);
        }
    }
}

#[test]
fn each_item_of_a_batch_is_scanned_by_itself() {
    for way in [0, 1] {
        let mut body = Builder::default();
        let (state, part) = (body.floats(&[3]), body.floats(&[3]));
        let next = body.op("Add", &[state, part]);
        let body = body.body(&[next, next]);
        let operator = Operator::new("Scan", 8)
            .with("body", body)
            .with("num_scan_inputs", Attribute::Int(1))
            .with("directions", Attribute::Ints(vec![way]));
        let mut graph = Builder::default();
        let lengths = graph.input(DType::I64, &[Some(2)]);
        let inputs = [lengths, graph.floats(&[2, 3]), graph.floats(&[2, 5, 3])];
        let outputs = graph.nodes(operator, &inputs, 2);
        let program = graph.program(&outputs);
        let list = |own: i64| Tensor::from_vec(&[2], vec![5, own]).unwrap();
        agrees(&program, &[list(5), numbers(&[2, 3]), numbers(&[2, 5, 3])]);
        let error =
            run_program(&*device(1, Isa::widest()), &program, &[list(4), numbers(&[2, 3]), numbers(&[2, 5, 3])]);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn bodies_lie_in_bodies_and_read_what_is_around_them() {
    let mut graph = Builder::default();
    let (limit, start) = (graph.input(DType::I64, &[]), graph.constant(flag(true)));
    let (x, weight) = (graph.floats(&[2, 4]), graph.constant(numbers(&[4, 4])));
    let gate = graph.input(DType::I64, &[]);
    let (mut body, trip, going, carried) = looped(&[Some(2), Some(4)]);
    let (outer_weight, outer_gate, outer_x) = (body.capture(weight), body.capture(gate), body.capture(x));
    let is_late = body.op("Less", &[outer_gate, trip]);
    let mut then = Builder::default();
    let (inner_x, inner_weight, inner_trip) = (then.capture(carried), then.capture(outer_weight), then.capture(trip));
    let (mut deep, _, deep_going, deep_x) = looped(&[Some(2), Some(4)]);
    let deep_weight = deep.capture(inner_weight);
    let product = deep.op("MatMul", &[deep_x, deep_weight]);
    let squashed = deep.op("Tanh", &[product]);
    let deep = deep.body(&[deep_going, squashed, squashed]);
    let yes = then.constant(flag(true));
    let inner = then.nodes(Operator::new("Loop", 17).with("body", deep), &[inner_trip, yes, inner_x], 2);
    let axes = then.ints(&[0]);
    let mean = then.nodes(Operator::new("ReduceSum", 17).with("keepdims", Attribute::Int(0)), &[inner[1], axes], 1)[0];
    let then = then.body(&[inner[0], mean]);
    let mut other = Builder::default();
    let (ox, again) = (other.capture(carried), other.capture(outer_x));
    let gelu = Operator { domain: "com.microsoft".into(), ..Operator::new("FastGelu", 1) };
    let gelu = other.nodes(gelu, &[ox], 1)[0];
    let other = other.body(&[gelu, again]);
    let operator = Operator::new("If", 16).with("then_branch", then).with("else_branch", other);
    let chosen = body.nodes(operator, &[is_late], 2);
    let next = body.op("Add", &[chosen[0], chosen[1]]);
    let body = body.body(&[going, next, next]);
    let outputs = graph.nodes(Operator::new("Loop", 17).with("body", body), &[limit, start, x], 2);
    let program = graph.program(&outputs);
    agrees(&program, &[scalar(5), numbers(&[2, 4]), scalar(2)]);
    agrees(&program, &[scalar(5), numbers(&[2, 4]), scalar(9)]);
}

#[test]
fn a_body_may_find_sizes_and_carry_a_sequence() {
    let mut graph = Builder::default();
    let (limit, start) = (graph.input(DType::I64, &[]), graph.constant(flag(true)));
    let x = graph.floats(&[6]);
    let empty = graph.nodes(Operator::new("SequenceEmpty", 17), &[], 1)[0];
    let (mut body, trip, going, carried) = looped(&[Some(6)]);
    let list = body.value(TensorType { dtype: Some(DType::Sequence), dims: None }, None);
    body.0.inputs.push(list);
    let found = body.op("NonZero", &[carried]);
    let longer = body.op("SequenceInsert", &[list, found]);
    let count = body.op("Size", &[found]);
    let as_float = body.nodes(Operator::new("Cast", 17).with("to", Attribute::Int(1)), &[trip], 1)[0];
    let less = body.op("Sub", &[carried, as_float]);
    let next = body.op("Relu", &[less]);
    let body = body.body(&[going, next, longer, count]);
    let outputs = graph.nodes(Operator::new("Loop", 17).with("body", body), &[limit, start, x, empty], 3);
    let all = graph.nodes(Operator::new("ConcatFromSequence", 17).with("axis", Attribute::Int(1)), &[outputs[1]], 1)[0];
    let program = graph.program(&[outputs[0], all, outputs[2]]);
    agrees(&program, &[scalar(4), numbers(&[6])]);
}

#[test]
fn a_loop_without_end_ends_by_the_deadline() {
    let (body, _, going, x) = looped(&[Some(1)]);
    let body = body.body(&[going, x]);
    let mut graph = Builder::default();
    let (limit, start) = (graph.constant(scalar(i64::MAX)), graph.constant(flag(true)));
    let x = graph.floats(&[1]);
    let outputs = graph.nodes(Operator::new("Loop", 17).with("body", body), &[limit, start, x], 1);
    let program = graph.program(&outputs);
    let device = device(1, Isa::widest());
    let executable = device.compile(Source::Program(&program), &CompileOptions::default()).unwrap();
    let own = executable.clone();
    let own = (&*own as &dyn std::any::Any).downcast_ref::<CpuExecutable>().unwrap();
    let allocate = |bytes| device.allocate(BufferLayout::new(bytes)).unwrap();
    let scratch = allocate(own.scratch().bytes);
    let execution = Execution::new(executable, BindingTable::new(vec![allocate(4), allocate(4)]));
    let deadline = Instant::now() + Duration::from_millis(20);
    let error = own.run(&execution.with_scratch(Some(scratch)).with_deadline(deadline), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

#[test]
fn a_sequence_that_grows_without_end_ends_by_the_memory_limit() {
    let (mut body, _, going, x) = looped(&[Some(8)]);
    let list = body.value(TensorType { dtype: Some(DType::Sequence), dims: None }, None);
    body.0.inputs.push(list);
    let longer = body.op("SequenceInsert", &[list, x]);
    let body = body.body(&[going, x, longer]);
    let mut graph = Builder::default();
    let (limit, start) = (graph.constant(scalar(i64::MAX)), graph.constant(flag(true)));
    let x = graph.floats(&[8]);
    let empty = graph.nodes(Operator::new("SequenceEmpty", 17), &[], 1)[0];
    let outputs = graph.nodes(Operator::new("Loop", 17).with("body", body), &[limit, start, x, empty], 2);
    let count = graph.op("SequenceLength", &[outputs[1]]);
    let program = graph.program(&[count]);
    let options = OpenOptions { threads: Some(1), memory_limit: Some(1 << 22), ..OpenOptions::default() };
    let device = CpuDriver.open(0, &options).unwrap();
    let error = run_program(&*device, &program, &[numbers(&[8])]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(device.telemetry().allocated_bytes.unwrap() < 1 << 16, "what was made is given back");
}

#[test]
fn what_a_loop_carries_unchanged_is_constant_in_its_body() {
    let (mut body, _, going, x) = looped(&[Some(2), Some(4)]);
    let weight = body.input(DType::F32, &[None, None]);
    let turned = body.op("Transpose", &[weight]);
    let product = body.op("MatMul", &[x, turned]);
    let (passed, again) = (body.op("Identity", &[weight]), body.op("Identity", &[going]));
    let body = body.body(&[again, product, passed]);
    let mut graph = Builder::default();
    let (limit, start) = (graph.constant(scalar(3)), graph.constant(flag(true)));
    let (x, weight) = (graph.floats(&[2, 4]), graph.constant(numbers(&[4, 4])));
    let outputs = graph.nodes(Operator::new("Loop", 17).with("body", body), &[limit, start, x, weight], 2);
    let program = graph.program(&outputs);
    let site = Site { program: &program, node: &program.nodes()[0], isa: Isa::widest(), weights: None };
    let planned = super::plan(site, &CompileOptions::default()).unwrap().unwrap();
    assert_eq!(planned.bodies[0].program.nodes().len(), 1, "the transposed weight is a constant");
    agrees(&program, &[numbers(&[2, 4])]);
}

#[test]
fn what_a_file_claims_of_a_branch_inside_a_body_counts_for_nothing() {
    let mut graph = Builder::default();
    let (limit, start, x) = (graph.input(DType::I64, &[]), graph.constant(flag(true)), graph.floats(&[1]));
    let shape = graph.input(DType::I64, &[Some(1)]);
    let (mut body, trip, going, carried) = looped(&[Some(1)]);
    let shape = body.capture(shape);
    let one = body.constant(scalar(1));
    let is_late = body.op("Less", &[one, trip]);
    let [then, other] = ["Neg", "Abs"].map(|name| {
        let mut branch = Builder::default();
        let (inner, shape) = (branch.capture(carried), branch.capture(shape));
        let made = branch.op(name, &[inner]);
        let made = branch.op("Expand", &[made, shape]);
        branch.0.values[made.index()].ty = TensorType::exact(DType::F32, &[7]);
        branch.body(&[made])
    });
    let operator = Operator::new("If", 16).with("then_branch", then).with("else_branch", other);
    let chosen = body.nodes(operator, &[is_late], 1)[0];
    let sum = body.nodes(Operator::new("ReduceSum", 17).with("keepdims", Attribute::Int(0)), &[chosen], 1)[0];
    let next = body.op("Add", &[carried, sum]);
    let body = body.body(&[going, next]);
    let outputs = graph.nodes(Operator::new("Loop", 17).with("body", body), &[limit, start, x], 1);
    let program = graph.program(&outputs);
    agrees(&program, &[scalar(3), numbers(&[1]), Tensor::from_vec(&[1], vec![3i64]).unwrap()]);
}

#[test]
fn what_a_loop_carries_in_turn_has_the_sizes_of_any_iteration() {
    // Each value becomes the one before it, so that after as many iterations as there are values,
    // the first is what the last became, of another size.
    for (count, trips, open) in
        [2usize, 3, 6, 9].into_iter().flat_map(|count| (0..=count).map(move |trips| (count, trips, trips % 2 == 1)))
    {
        let mut graph = Builder::default();
        let start = graph.constant(flag(true));
        let limit = if open { graph.input(DType::I64, &[]) } else { graph.constant(scalar(trips as i64)) };
        let (z, x) = (graph.floats(&[3]), graph.floats(&[4]));
        let (mut body, _, going, first) = looped(&[None]);
        let mut carried = vec![first];
        carried.extend((1..count).map(|_| body.input(DType::F32, &[None])));
        let last = body.capture(x);
        let next = [&[going], &carried[1..], &[last]].concat();
        let body = body.body(&next);
        let inputs = [&[limit, start][..], &vec![z; count]].concat();
        let outputs = graph.nodes(Operator::new("Loop", 17).with("body", body), &inputs, count);
        let (shape, negated) = (graph.op("Shape", &[outputs[0]]), graph.op("Neg", &[outputs[0]]));
        let program = graph.program(&[outputs[0], shape, negated]);
        let mut given = vec![numbers(&[3]), numbers(&[4])];
        if open {
            given.insert(0, scalar(trips as i64));
        }
        agrees(&program, &given);
        let expected = if trips < count { 3 } else { 4 };
        let found = run_program(&*device(1, Isa::widest()), &program, &given).unwrap();
        assert_eq!(found[1], Tensor::from_vec(&[1], vec![expected as i64]).unwrap(), "{count} values, {trips} trips");
        assert_eq!((found[0].shape(), found[2].shape()), (&[expected][..], &[expected][..]));
    }
}

#[test]
fn loops_in_loops_that_change_all_they_carry_are_inferred_in_time() {
    // Each level has two values that change places with others of other sizes.
    fn nest(levels: usize) -> Attribute {
        let (mut body, trip, going, a) = looped(&[None]);
        let b = body.input(DType::F32, &[None]);
        let grown = body.concat(&[a, b]);
        if levels == 0 {
            return body.body(&[going, b, grown]);
        }
        let operator = Operator::new("Loop", 17).with("body", nest(levels - 1));
        let inner = body.nodes(operator, &[trip, going, b, grown], 2);
        body.body(&[going, inner[1], inner[0]])
    }
    let mut graph = Builder::default();
    let (limit, start) = (graph.input(DType::I64, &[]), graph.constant(flag(true)));
    let (a, b) = (graph.floats(&[1]), graph.floats(&[2]));
    let outputs = graph.nodes(Operator::new("Loop", 17).with("body", nest(20)), &[limit, start, a, b], 2);
    let program = graph.program(&outputs);
    let inputs = [scalar(1), numbers(&[1]), numbers(&[2])];
    assert!(hetero_reference::run(&program, &inputs, &Standard, &Allowance::default()).is_ok());
}

#[test]
fn a_state_of_a_scan_keeps_its_shape() {
    let scan = |open: bool| {
        let mut body = Builder::default();
        let size = |size: usize| if open { None } else { Some(size) };
        let (state, element) = (body.input(DType::F32, &[size(2)]), body.floats(&[]));
        let axis = body.ints(&[0]);
        let element = body.op("Unsqueeze", &[element, axis]);
        let grown = body.concat(&[state, element]);
        let body = body.body(&[grown]);
        let mut graph = Builder::default();
        let inputs = [graph.input(DType::F32, &[size(2)]), graph.floats(&[5])];
        let operator = Operator::new("Scan", 17).with("body", body).with("num_scan_inputs", Attribute::Int(1));
        let outputs = graph.nodes(operator, &inputs, 1);
        graph.0.outputs = outputs;
        let opsets = [("".into(), 17)].into();
        let shapes = [("v0".to_owned(), vec![2])].into();
        let binding = Binding { shapes, ..Binding::default() };
        bind(&Model { graph: graph.0, opsets, ..Model::default() }, &binding, &Standard).map(|bound| bound.program)
    };
    for open in [false, true] {
        let said = scan(open).unwrap_err().to_string();
        assert!(
            said.contains("the standard wants one shape") && said.contains("[2]") && said.contains("[3]"),
            "{said}"
        );
    }
}

#[test]
fn an_empty_value_that_is_carried_takes_no_slot() {
    let (mut body, _, _, x) = looped(&[None]);
    let z = body.floats(&[3]);
    let (zero, five) = (body.constant(Tensor::scalar(0f32)), body.constant(Tensor::scalar(5f32)));
    let sum = body.nodes(Operator::new("ReduceSum", 13).with("keepdims", Attribute::Int(0)), &[z], 1)[0];
    let going = body.op("Less", &[sum, five]);
    let positive = body.op("Greater", &[x, zero]);
    let some = body.op("Compress", &[x, positive]);
    let body = body.body(&[going, some, z]);
    let mut graph = Builder::default();
    let (limit, start) = (graph.constant(scalar(3)), graph.constant(flag(true)));
    let (x, z) = (graph.floats(&[0]), graph.floats(&[3]));
    let outputs = graph.nodes(Operator::new("Loop", 17).with("body", body), &[limit, start, x, z], 2);
    agrees(&graph.program(&outputs), &[numbers(&[0]), numbers(&[3])]);
}
