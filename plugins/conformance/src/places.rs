//! Cases of operators that find, move and make elements, and of control flow.

use std::sync::Arc;

use hetero_hal::{Attribute, DType, Graph, Node, Operator, Tensor, TensorType, Value, ValueId};

use crate::cases::{Drawn, Suite, cast, evaluate, i64s, ints, scalar, text};
use crate::types::{FLOATS, INTEGERS, NARROW, OPSET};

impl Suite {
    pub(crate) fn places(&mut self) {
        self.gathering();
        self.scattering();
        self.made();
        self.small_changes();
        self.likenesses();
        self.control_flow();
    }

    /// Makes whole numbers below a limit, as indexes are.
    fn below(&mut self, shape: &[usize], low: i64, limit: i64) -> Drawn {
        let floor = Operator::new("Floor", OPSET);
        let floats = self.random.between(shape, low as f32, limit as f32 - 0.01);
        cast(evaluate(&floor, &[floats]), DType::I64)
    }

    fn gathering(&mut self) {
        let types: Vec<DType> = FLOATS.into_iter().chain(INTEGERS).chain(NARROW).chain([DType::Bool]).collect();
        for dtype in types {
            let x = self.numbers(dtype, &[3, 4, 5], 0.0, 3.0);
            let name = dtype.name();
            for (axis, shape) in [(0, [2, 4, 5]), (-1, [3, 4, 2]), (1, [3, 7, 5])] {
                let places = self.below(&shape, -3, 3);
                let operator = Operator::new("GatherElements", 13).with("axis", Attribute::Int(axis));
                self.add(&format!("{name} axis {axis}"), operator, vec![x.clone(), places], &[], 1);
            }
            for (batch, shape) in [(0, &[2, 3][..]), (0, &[7, 1]), (1, &[3, 2, 2]), (2, &[3, 4, 1])] {
                let places = self.below(shape, -3, 3);
                let operator = Operator::new("GatherND", 13).with("batch_dims", Attribute::Int(batch));
                self.add(&format!("{name} {batch} {shape:?}"), operator, vec![x.clone(), places], &[], 1);
            }
            for (axis, shape) in [(0, &[][..]), (-1, &[2, 3]), (2, &[0])] {
                let places = cast(self.below(shape, -3, 3), DType::I32);
                let operator = Operator::new("Gather", 13).with("axis", Attribute::Int(axis));
                self.add(&format!("{name} axis {axis} {shape:?}"), operator, vec![x.clone(), places], &[], 1);
            }
            for (upper, offset) in [(0, 0), (1, 0), (0, 1), (1, -2), (1, 9)] {
                let operator = Operator::new("Trilu", 14).with("upper", Attribute::Int(upper));
                let inputs = vec![x.clone(), scalar::<i64>(offset)];
                self.add(&format!("{name} {upper} {offset}"), operator, inputs, &[1], 1);
            }
            self.add(name, Operator::new("Squeeze", 13), vec![self.one(dtype), i64s(&[0, -2])], &[1], 1);
            self.add(&format!("{name} all"), Operator::new("Squeeze", 13), vec![self.one(dtype)], &[], 1);
        }
    }

    /// Makes a tensor with dimensions of size one.
    fn one(&self, dtype: DType) -> Drawn {
        cast(Tensor::from_vec(&[1, 5, 1, 1], vec![0.0f32, 1.0, 2.0, 3.0, 1.0]), dtype)
    }

    fn scattering(&mut self) {
        // These places are written once, so that the order does not matter.
        let once = Tensor::from_vec(&[2, 3], vec![0i64, 3, -1, 2, 1, 0]);
        let twice = Tensor::from_vec(&[2, 3], vec![1i64, 1, 0, 2, 2, -1]);
        let rows = Tensor::from_vec(&[2, 1], vec![2i64, 0]);
        for dtype in FLOATS.into_iter().chain(INTEGERS).chain(NARROW).chain([DType::Bool]) {
            let x = self.numbers(dtype, &[3, 5], 0.0, 3.0);
            let updates = self.numbers(dtype, &[2, 3], 0.0, 3.0);
            let name = dtype.name();
            let along = |name: &str, version| Operator::new(name, version).with("axis", Attribute::Int(-1));
            let inputs = vec![x.clone(), once.clone(), updates.clone()];
            self.add(name, along("ScatterElements", 18), inputs.clone(), &[], 1);
            if !NARROW.contains(&dtype) {
                self.add(name, along("Scatter", 9), inputs, &[], 1);
            }
            let whole = self.numbers(dtype, &[2, 5], 0.0, 3.0);
            let inputs = vec![x.clone(), rows.clone(), whole.clone()];
            self.add(name, Operator::new("ScatterND", 18), inputs.clone(), &[], 1);
            if NARROW.contains(&dtype) || dtype == DType::Bool {
                continue;
            }
            for reduction in ["add", "mul", "max", "min"] {
                let reduced = |operator: Operator| operator.with("reduction", text(reduction));
                let elements = vec![x.clone(), twice.clone(), updates.clone()];
                self.add(&format!("{name} {reduction}"), reduced(along("ScatterElements", 18)), elements, &[], 1);
                let operator = reduced(Operator::new("ScatterND", 18));
                self.add(&format!("{name} {reduction}"), operator, inputs.clone(), &[], 1);
            }
        }
        for dtype in FLOATS {
            for (mode, axis) in [("linear", -2), ("circular", 1)] {
                let operator =
                    Operator::new("TensorScatter", 24).with("mode", text(mode)).with("axis", Attribute::Int(axis));
                let (shape, part) = if axis == 1 { ([2, 7, 3, 4], [2, 2, 3, 4]) } else { ([2, 3, 7, 4], [2, 3, 2, 4]) };
                let places = i64s(&[if mode == "circular" { 6 } else { 5 }, 1]);
                let inputs =
                    vec![self.numbers(dtype, &shape, -1.0, 1.0), self.numbers(dtype, &part, -1.0, 1.0), places];
                self.add(&format!("{dtype} {mode}"), operator, inputs, &[], 1);
            }
        }
    }

    fn made(&mut self) {
        let types: Vec<DType> = FLOATS.into_iter().chain(INTEGERS).collect();
        for &dtype in &types {
            let name = dtype.name();
            for shape in [&[][..], &[0, 3], &[1], &[7, 13]] {
                let value = self.numbers(dtype, &[1], 0.0, 9.0);
                let Some(value) = self.kept("ConstantOfShape", value) else { return };
                let operator = Operator::new("ConstantOfShape", 20).with("value", Attribute::Tensor(value));
                let list: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
                self.add(&format!("{name} {shape:?}"), operator, vec![i64s(&list)], &[0], 1);
                let x = self.numbers(dtype, shape, 0.0, 9.0);
                self.add(&format!("{name} {shape:?}"), Operator::new("Shape", OPSET), vec![x.clone()], &[], 1);
                self.add(&format!("{name} {shape:?}"), Operator::new("Size", OPSET), vec![x], &[], 1);
            }
            for (rows, columns, offset) in [(3, 5, 0), (5, 3, -1), (1, 7, 2)] {
                let operator = Operator::new("EyeLike", 22).with("k", Attribute::Int(offset));
                let x = self.numbers(dtype, &[rows, columns], 0.0, 9.0);
                self.add(&format!("{name} {rows} {columns} {offset}"), operator, vec![x], &[], 1);
            }
            for axis in [-1, 0, 1] {
                let values = self.numbers(dtype, &[2], 0.0, 9.0);
                let places = self.below(&[3, 2], -7, 9);
                let operator = Operator::new("OneHot", 11).with("axis", Attribute::Int(axis));
                self.add(&format!("{name} {axis}"), operator, vec![places, scalar(7i64), values], &[1, 2], 1);
            }
        }
        for dtype in [DType::F32, DType::F64, DType::I16, DType::I32, DType::I64] {
            for (start, end, step) in [(0, 7, 1), (5, -4, -2), (3, 3, 1), (-2, 11, 3)] {
                let number = |value: i64| cast(scalar(value), dtype);
                let inputs = vec![number(start), number(end), number(step)];
                let detail = format!("{dtype} {start} {end} {step}");
                self.add(&detail, Operator::new("Range", 11), inputs, &[0, 1, 2], 1);
            }
        }
        let part = Operator::new("Shape", OPSET).with("start", Attribute::Int(-3)).with("end", Attribute::Int(-1));
        let x = self.random.between(&[2, 3, 5, 7], 0.0, 1.0);
        self.add("in part", part, vec![x], &[], 1);
    }

    fn small_changes(&mut self) {
        for dtype in FLOATS {
            let x = self.numbers(dtype, &[3, 5], 0.5, 1.5);
            for version in [7, 12, 22] {
                self.add(
                    &format!("{dtype} opset {version}"),
                    Operator::new("Dropout", version),
                    vec![x.clone()],
                    &[],
                    1,
                );
            }
            self.add(&format!("{dtype} with a mask"), Operator::new("Dropout", 22), vec![x.clone()], &[], 2);
            for (exclusive, reverse) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                let operator = Operator::new("CumProd", 26)
                    .with("exclusive", Attribute::Int(exclusive))
                    .with("reverse", Attribute::Int(reverse));
                let inputs = vec![x.clone(), scalar(-1i64)];
                self.add(&format!("{dtype} {exclusive}{reverse}"), operator, inputs, &[1], 1);
            }
            for shape in [&[1, 1][..], &[3, 3], &[2, 5, 5], &[2, 3, 2, 2]] {
                let x = self.numbers(dtype, shape, -1.0, 1.0);
                self.add(&format!("{dtype} {shape:?}"), Operator::new("Det", 22), vec![x], &[], 1);
            }
        }
    }

    fn likenesses(&mut self) {
        let types: Vec<DType> = FLOATS.into_iter().chain(INTEGERS).chain([DType::Bool]).collect();
        for &from in &types {
            for &to in &types {
                let inputs = vec![self.numbers(from, &[3, 5], 0.0, 3.0), self.numbers(to, &[1], 0.0, 1.0)];
                self.add(&format!("{from} to {to}"), Operator::new("CastLike", 19), inputs, &[], 1);
                let same_size = from.bytes_for(1) == to.bytes_for(1);
                if same_size && from != to && to != DType::Bool {
                    let x = self.numbers(from, &[3, 5], 0.0, 3.0);
                    let operator = Operator::new("BitCast", 26).with("to", Attribute::Int(i64::from(to.onnx_code())));
                    self.add(&format!("{from} to {to}"), operator, vec![x], &[], 1);
                }
            }
        }
    }

    fn control_flow(&mut self) {
        let x = self.random.between(&[3, 5], -1.0, 1.0);
        let Some(x) = self.kept("If", x) else { return };
        for taken in [true, false] {
            // The branches' shapes differ, so the output's shape is known only when it is computed.
            let constant = |tensor: Tensor| {
                let mut body = Body::new("branch");
                let id = body.value("branch_constant", Some(tensor));
                let out = body.node(Operator::new("Neg", 13), &[id]);
                body.finish(&[out])
            };
            let other = self.random.between(&[2, 5], -1.0, 1.0);
            let Some(other) = self.kept("If", other) else { return };
            let operator = Operator::new("If", 21)
                .with("then_branch", Attribute::Graph(constant(x.clone())))
                .with("else_branch", Attribute::Graph(constant(other)));
            let condition = scalar(hetero_hal::Bool::from(taken));
            self.add(&format!("{taken}, decided at run time"), operator.clone(), vec![condition.clone()], &[], 1);
            self.add(&format!("{taken}, known"), operator, vec![condition], &[0], 1);
        }
        for trips in [0i64, 1, 7] {
            for limit in [100.0f32, 3.0] {
                let mut body = Body::new("body");
                body.input("trip", TensorType::exact(DType::I64, &[]));
                body.input("going", TensorType::exact(DType::Bool, &[]));
                let carried = body.input("carried", TensorType::exact(DType::F32, &[3]));
                let one = body.value("one", Some(Tensor::scalar(1.0f32)));
                let most = body.value("most", Some(Tensor::scalar(limit)));
                let next = body.node(Operator::new("Add", 14), &[carried, one]);
                let top = body.node(Operator::new("ReduceMax", 13).with("keepdims", Attribute::Int(0)), &[next]);
                let going = body.node(Operator::new("Less", 13), &[top, most]);
                let seen = body.node(Operator::new("Neg", 13), &[next]);
                // A loop without an iteration has nothing else to tell the type of the values that
                // it would have collected.
                body.0.values[seen.index()].ty = TensorType::exact(DType::F32, &[3]);
                let body = body.finish(&[going, next, seen]);
                let operator = Operator::new("Loop", 21).with("body", Attribute::Graph(body));
                let yes = scalar(hetero_hal::Bool::from(true));
                let start = self.random.between(&[3], -1.0, 1.0);
                let inputs = vec![scalar(trips), yes, start];
                self.add(&format!("{trips} trips to {limit}"), operator, inputs, &[0], 2);
            }
        }
        for (backwards, axis) in [(0, 0), (1, 0), (0, 1)] {
            let mut body = Body::new("body");
            let width = if axis == 0 { 5 } else { 3 };
            let part = TensorType::exact(DType::F32, &[width]);
            let (state, part) = (body.input("state", part.clone()), body.input("part", part));
            let next = body.node(Operator::new("Add", 14), &[state, part]);
            let seen = body.node(Operator::new("Neg", 13), &[next]);
            let operator = Operator::new("Scan", 21)
                .with("body", Attribute::Graph(body.finish(&[next, seen])))
                .with("num_scan_inputs", Attribute::Int(1))
                .with("scan_input_directions", ints(&[backwards]))
                .with("scan_input_axes", ints(&[axis]))
                .with("scan_output_axes", ints(&[axis]));
            let inputs = vec![self.random.between(&[width], -1.0, 1.0), Ok(x.clone())];
            self.add(&format!("{backwards} {axis}"), operator, inputs, &[], 2);
        }
    }
}

/// A subgraph under construction.
struct Body(Graph);

impl Body {
    fn new(name: &str) -> Self {
        Self(Graph { name: name.into(), ..Graph::default() })
    }

    fn value(&mut self, name: &str, constant: Option<Tensor>) -> ValueId {
        let ty = constant.as_ref().map(|tensor| TensorType::exact(tensor.dtype(), tensor.shape())).unwrap_or_default();
        self.0.values.push(Value { name: name.into(), ty, constant });
        ValueId(self.0.values.len() as u32 - 1)
    }

    fn input(&mut self, name: &str, ty: TensorType) -> ValueId {
        let id = self.value(name, None);
        self.0.values[id.index()].ty = ty;
        self.0.inputs.push(id);
        id
    }

    fn node(&mut self, operator: Operator, inputs: &[ValueId]) -> ValueId {
        let name = format!("{} {}", operator.name, self.0.nodes.len());
        let out = self.value(&name, None);
        let inputs = inputs.iter().copied().map(Some).collect();
        self.0.nodes.push(Node { name: name.into(), operator, inputs, outputs: vec![Some(out)] });
        out
    }

    fn finish(mut self, outputs: &[ValueId]) -> Arc<Graph> {
        self.0.outputs = outputs.to_vec();
        Arc::new(self.0)
    }
}
