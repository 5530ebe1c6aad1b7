//! Generated cases: shapes with sizes 0, 1 and primes, broadcasting, negative axes, and strides and
//! pads that do not divide.

use std::collections::HashMap;

use hetero_hal::{Attribute, DType, Element, Error, Operator, Result, Tensor};

use crate::Case;

/// The newest version of the operator set for which cases are made.
const OPSET: u32 = 17;

/// A tensor for a case, or the reason why there is none, which is the suite's error.
pub(crate) type Drawn = Result<Tensor>;

/// A small generator of pseudo-random numbers (xorshift64*): cases are the same on every machine.
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number between -1 and 1, in steps that every float type represents well.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }

    fn floats(&mut self, shape: &[usize]) -> Drawn {
        self.between(shape, -1.0, 1.0)
    }

    pub(crate) fn between(&mut self, shape: &[usize], low: f32, high: f32) -> Drawn {
        let values = (0..shape.iter().product()).map(|_| low + (self.unit() + 1.0) / 2.0 * (high - low)).collect();
        Tensor::from_vec::<f32>(shape, values)
    }
}

pub(crate) fn scalar<T: Element>(value: T) -> Drawn {
    Ok(Tensor::scalar(value))
}

pub(crate) fn i64s(values: &[i64]) -> Drawn {
    Tensor::from_vec(&[values.len()], values.to_vec())
}

pub(crate) fn text(value: &str) -> Attribute {
    Attribute::String(value.as_bytes().into())
}

pub(crate) fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

/// Returns the oracle's first output.
///
/// # Errors
/// The error of an input, or of the oracle.
pub(crate) fn evaluate(operator: &Operator, inputs: &[Drawn]) -> Drawn {
    let inputs: Vec<_> = inputs.iter().cloned().map(|input| input.map(Some)).collect::<Result<_>>()?;
    let mut made = hetero_reference::evaluate(operator, &inputs, 1)?;
    made.pop().ok_or_else(|| Error::internal(format!("the oracle gives no output of {}", operator.name)))
}

pub(crate) fn cast(tensor: Drawn, dtype: DType) -> Drawn {
    let cast = Operator::new("Cast", crate::types::OPSET).with("to", Attribute::Int(i64::from(dtype.onnx_code())));
    evaluate(&cast, &[tensor])
}

/// The cases so far, and the source of the numbers for the next ones.
pub(crate) struct Suite {
    pub(crate) random: Random,
    cases: Vec<Case>,
    /// The first case that could not be made, with the reason.
    wrong: Option<Error>,
}

impl Suite {
    pub(crate) fn new(seed: u64) -> Self {
        Suite { random: Random(seed | 1), cases: Vec::new(), wrong: None }
    }

    /// Returns the cases, or the reason why one could not be made.
    pub(crate) fn finished(self) -> Result<Vec<Case>> {
        match self.wrong {
            None => Ok(self.cases),
            Some(error) => Err(error),
        }
    }

    pub(crate) fn add(
        &mut self,
        detail: &str,
        operator: Operator,
        inputs: Vec<Drawn>,
        constants: &[usize],
        outputs: usize,
    ) {
        self.add_partial(detail, operator, inputs.into_iter().map(Some).collect(), constants, outputs);
    }

    /// Adds a case as [`Suite::add`] does, where inputs may be left out.
    /// An input that could not be made is the suite's error: the case is neither left out nor run
    /// with another input.
    pub(crate) fn add_partial(
        &mut self,
        detail: &str,
        operator: Operator,
        inputs: Vec<Option<Drawn>>,
        constants: &[usize],
        outputs: usize,
    ) {
        let name = format!("{operator} {detail}");
        let inputs = inputs.into_iter().map(Option::transpose).collect::<Result<Vec<_>>>();
        let Some(inputs) = self.kept(&name, inputs) else { return };
        let there = |&index: &usize| inputs.get(index).is_some_and(Option::is_some);
        self.cases.push(Case {
            name,
            constants: constants.iter().copied().filter(there).collect(),
            operator,
            inputs,
            outputs,
        });
    }

    /// Returns what was made for a case, or notes why it could not be made as the suite's error.
    pub(crate) fn kept<T>(&mut self, name: &str, made: Result<T>) -> Option<T> {
        let noted = made.map_err(|error| {
            let why = format!("an input of the case '{name}' cannot be made: {error}");
            self.wrong.get_or_insert_with(|| Error::internal(why));
        });
        noted.ok()
    }

    fn unary(&mut self) {
        let names = [
            ("Relu", -2.0, 2.0),
            ("Sigmoid", -8.0, 8.0),
            ("Tanh", -4.0, 4.0),
            ("Exp", -4.0, 4.0),
            ("Log", 0.1, 9.0),
            ("Sqrt", 0.0, 9.0),
            ("Neg", -2.0, 2.0),
            ("Abs", -2.0, 2.0),
            ("Reciprocal", 0.5, 4.0),
            ("Floor", -9.0, 9.0),
            ("Ceil", -9.0, 9.0),
            ("LeakyRelu", -2.0, 2.0),
            ("Erf", -3.0, 3.0),
            ("Softplus", -9.0, 9.0),
            ("Elu", -3.0, 3.0),
            ("Identity", -1.0, 1.0),
            ("Softsign", -5.0, 5.0),
            ("HardSigmoid", -5.0, 5.0),
            ("Round", -5.0, 5.0),
            ("Sin", -4.0, 4.0),
            ("Cos", -4.0, 4.0),
            ("Atan", -4.0, 4.0),
            ("Sign", -1.0, 1.0),
        ];
        for (name, low, high) in names {
            for shape in [&[][..], &[1], &[0, 3], &[7, 13], &[2, 3, 5, 7], &[70_001]] {
                let input = self.random.between(shape, low, high);
                self.add(&format!("{shape:?}"), Operator::new(name, OPSET), vec![input], &[], 1);
            }
        }
        let special = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -0.0];
        for name in ["Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Sqrt"] {
            let input = Tensor::from_vec(&[5], special.clone());
            self.add("special values", Operator::new(name, OPSET), vec![input], &[], 1);
        }
        for (low, high) in [(-0.5f32, 0.5f32), (0.0, 6.0)] {
            let input = self.random.between(&[5, 11], -8.0, 8.0);
            let limits = vec![input, scalar(low), scalar(high)];
            self.add(&format!("{low} to {high}"), Operator::new("Clip", OPSET), limits, &[1, 2], 1);
        }
    }

    fn binary(&mut self) {
        let pairs: [(&[usize], &[usize]); 9] = [
            (&[], &[]),
            (&[5], &[5]),
            (&[2, 3, 5], &[5]),
            (&[5], &[2, 3, 5]),
            (&[2, 1, 5], &[3, 1]),
            (&[0, 3], &[1, 3]),
            (&[1, 8, 7, 7], &[8, 1, 1]),
            (&[3, 1], &[1, 4]),
            (&[40_009], &[1]),
        ];
        for name in ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Sum", "Mean"] {
            for (a, b) in pairs {
                // PRelu broadcasts in one direction only.
                let one_way = a.len() >= b.len() && a != [2, 1, 5] && a != [3, 1];
                if name == "PRelu" && !one_way {
                    continue;
                }
                let low = if name == "Pow" { 0.5 } else { -2.0 };
                let (x, y) = (self.random.between(a, low, 2.0), self.random.between(b, 0.5, 2.0));
                self.add(&format!("{a:?} {b:?}"), Operator::new(name, OPSET), vec![x, y], &[], 1);
            }
        }
        for name in ["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"] {
            for (a, b) in pairs {
                let (x, y) = (self.random.floats(a), self.random.floats(b));
                self.add(&format!("{a:?} {b:?}"), Operator::new(name, OPSET), vec![x, y], &[], 1);
            }
        }
        // Each special value meets each other one.
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -0.0, 1.5];
        for name in ["Add", "Sub", "Mul", "Max", "Min", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"] {
            let (x, y) = (Tensor::from_vec(&[6, 1], special.to_vec()), Tensor::from_vec(&[6], special.to_vec()));
            self.add("special values", Operator::new(name, OPSET), vec![x, y], &[], 1);
        }
        for count in [1, 3, 5] {
            let inputs = (0..count).map(|_| self.random.floats(&[3, 7])).collect();
            self.add(&format!("of {count}"), Operator::new("Sum", OPSET), inputs, &[], 1);
        }
        for dtype in [DType::I64, DType::I32, DType::U8] {
            for name in ["Add", "Mul", "Div", "Sub"] {
                let inputs = [[1, 7, 200, 3], [2, 3, 100, 1]].map(|values| cast(i64s(&values), dtype));
                self.add(dtype.name(), Operator::new(name, OPSET), inputs.to_vec(), &[], 1);
            }
        }
    }

    /// Adds operators with more operands than a kernel of any device binds, some of them repeated
    /// along an axis.
    fn many_operands(&mut self) {
        for (count, dtype) in [(40, DType::F16), (40, DType::I8), (3000, DType::F32)] {
            for name in ["Sum", "Mean", "Max", "Min", "Concat"] {
                if dtype == DType::I8 && matches!(name, "Sum" | "Mean") {
                    continue;
                }
                let shape = |at: usize| if at % 7 == 3 && name != "Concat" { [1, 5] } else { [2, 5] };
                let inputs = (0..count).map(|at| cast(self.random.between(&shape(at), -9.0, 9.0), dtype)).collect();
                let mut operator = Operator::new(name, OPSET);
                if name == "Concat" {
                    operator = operator.with("axis", Attribute::Int(1));
                }
                self.add(&format!("of {count} {dtype}"), operator, inputs, &[], 1);
            }
        }
    }

    fn convolutions(&mut self) {
        for number in 0..120 {
            let random = &mut self.random;
            let rank = if number % 6 == 5 { 3 } else { 1 + number % 2 };
            let groups = [1, 1, 2, 3][random.below(4)];
            let per_group = if number % 5 == 0 { 1 } else { 1 + random.below(4) };
            let outputs = groups * (1 + random.below(5));
            let kernel: Vec<usize> = (0..rank).map(|_| 1 + random.below(4)).collect();
            let dilations: Vec<i64> = (0..rank).map(|_| 1 + random.below(2) as i64).collect();
            let strides: Vec<i64> = (0..rank).map(|_| 1 + random.below(3) as i64).collect();
            let pads: Vec<i64> = (0..2 * rank).map(|_| random.below(3) as i64).collect();
            let mut x = vec![1 + random.below(2), groups * per_group];
            for axis in 0..rank {
                x.push((kernel[axis] - 1) * dilations[axis] as usize + 1 + random.below(9));
            }
            let w: Vec<usize> = [&[outputs, per_group], &kernel[..]].concat();
            let operator = Operator::new("Conv", OPSET)
                .with("group", Attribute::Int(groups as i64))
                .with("strides", ints(&strides))
                .with("dilations", ints(&dilations))
                .with("pads", ints(&pads));
            let mut inputs = vec![random.floats(&x), random.floats(&w)];
            if number % 3 > 0 {
                inputs.push(random.floats(&[outputs]));
            }
            let detail = format!(
                "{number}: {x:?} {w:?} groups {groups} strides {strides:?} dilations {dilations:?} pads {pads:?}"
            );
            self.add(&detail, operator, inputs, &[1, 2], 1);
        }
        for rule in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
            for name in ["Conv", "MaxPool", "AveragePool"] {
                let operator = Operator::new(name, OPSET)
                    .with("auto_pad", Attribute::String(rule.as_bytes().into()))
                    .with("strides", ints(&[2, 3]))
                    .with("kernel_shape", ints(&[3, 4]));
                let mut inputs = vec![self.random.floats(&[1, 2, 8, 11])];
                if name == "Conv" {
                    inputs.push(self.random.floats(&[3, 2, 3, 4]));
                }
                self.add(rule, operator, inputs, &[1], 1);
            }
        }
        let x = self.random.floats(&[1, 16, 14, 14]);
        let w = self.random.floats(&[24, 16, 1, 1]);
        self.add("pointwise", Operator::new("Conv", OPSET), vec![x, w], &[1], 1);
        let transposed =
            Operator::new("ConvTranspose", OPSET).with("strides", ints(&[2, 2])).with("pads", ints(&[1, 0, 1, 1]));
        let inputs = vec![self.random.floats(&[1, 3, 5, 4]), self.random.floats(&[3, 2, 3, 3])];
        self.add("strided", transposed, inputs, &[1], 1);
    }

    fn pools(&mut self) {
        for number in 0..60 {
            let random = &mut self.random;
            let rank = [2, 2, 1, 3][number % 4];
            let kernel: Vec<i64> = (0..rank).map(|_| 1 + random.below(3) as i64).collect();
            let strides: Vec<i64> = (0..rank).map(|_| 1 + random.below(3) as i64).collect();
            let pads: Vec<i64> = (0..2 * rank).map(|axis| random.below(kernel[axis % rank] as usize) as i64).collect();
            let mut x = vec![1 + random.below(2), 1 + random.below(4)];
            x.extend(kernel.iter().map(|&k| k as usize + random.below(8)));
            let name = if number % 2 == 0 { "MaxPool" } else { "AveragePool" };
            let mut operator = Operator::new(name, OPSET)
                .with("kernel_shape", ints(&kernel))
                .with("strides", ints(&strides))
                .with("pads", ints(&pads))
                .with("ceil_mode", Attribute::Int(random.below(2) as i64));
            if name == "AveragePool" {
                operator = operator.with("count_include_pad", Attribute::Int(random.below(2) as i64));
            }
            let input = random.floats(&x);
            self.add(&format!("{number}: {x:?} {kernel:?} {strides:?} {pads:?}"), operator, vec![input], &[], 1);
        }
        for name in ["GlobalAveragePool", "GlobalMaxPool"] {
            for shape in [&[1, 3, 7, 7][..], &[2, 5, 11], &[1, 2, 3, 4, 5]] {
                let input = self.random.floats(shape);
                self.add(&format!("{shape:?}"), Operator::new(name, OPSET), vec![input], &[], 1);
            }
        }
    }

    fn products(&mut self) {
        let shapes: [(&[usize], &[usize]); 9] = [
            (&[3, 5], &[5, 7]),
            (&[1, 1], &[1, 1]),
            (&[2, 3, 5], &[5, 7]),
            (&[2, 3, 5], &[2, 5, 7]),
            (&[4, 1, 3, 5], &[2, 5, 7]),
            (&[5], &[5]),
            (&[5], &[2, 5, 3]),
            (&[127, 65], &[65, 131]),
            (&[0, 5], &[5, 7]),
        ];
        for (a, b) in shapes {
            let inputs = vec![self.random.floats(a), self.random.floats(b)];
            self.add(&format!("{a:?} {b:?}"), Operator::new("MatMul", OPSET), inputs, &[1], 1);
        }
        for flags in 0..4 {
            let (ta, tb) = (flags & 1, flags >> 1);
            let a: &[usize] = if ta == 1 { &[7, 5] } else { &[5, 7] };
            let b: &[usize] = if tb == 1 { &[11, 7] } else { &[7, 11] };
            for c in [None, Some(&[][..]), Some(&[11]), Some(&[5, 1]), Some(&[1, 11]), Some(&[5, 11])] {
                let operator = Operator::new("Gemm", OPSET)
                    .with("transA", Attribute::Int(ta))
                    .with("transB", Attribute::Int(tb))
                    .with("alpha", Attribute::Float(0.5))
                    .with("beta", Attribute::Float(2.0));
                let mut inputs = vec![self.random.floats(a), self.random.floats(b)];
                inputs.extend(c.map(|c| self.random.floats(c)));
                self.add(&format!("{ta}{tb} {c:?}"), operator, inputs, &[1, 2], 1);
            }
        }
        for (direction, count) in [("forward", 1), ("reverse", 1), ("bidirectional", 2)] {
            for (steps, batch, width, hidden) in [(1, 1, 3, 5), (7, 2, 4, 3)] {
                let operator = Operator::new("LSTM", OPSET)
                    .with("direction", Attribute::String(direction.as_bytes().into()))
                    .with("hidden_size", Attribute::Int(hidden as i64));
                let mut case = vec![
                    Some(self.random.floats(&[steps, batch, width])),
                    Some(self.random.floats(&[count, 4 * hidden, width])),
                    Some(self.random.floats(&[count, 4 * hidden, hidden])),
                    Some(self.random.floats(&[count, 8 * hidden])),
                ];
                self.add(direction, operator.clone(), case.iter().flatten().cloned().collect(), &[1, 2, 3], 3);
                case.push(None);
                case.push(Some(self.random.floats(&[count, batch, hidden])));
                case.push(Some(self.random.floats(&[count, batch, hidden])));
                let detail = format!("{direction} with state, {steps} steps");
                self.add_partial(&detail, operator, case, &[1, 2, 3], 3);
            }
        }
    }

    fn normalisations(&mut self) {
        for shape in [&[2, 3, 5, 7][..], &[4, 3], &[1, 3, 11]] {
            let mut inputs = vec![self.random.floats(shape)];
            inputs.extend((0..3).map(|_| self.random.floats(&[3])));
            inputs.push(self.random.between(&[3], 0.5, 1.5));
            self.add(&format!("{shape:?}"), Operator::new("BatchNormalization", OPSET), inputs, &[1, 2, 3, 4], 1);
        }
        for size in [1, 2, 5] {
            let operator =
                Operator::new("LRN", OPSET).with("size", Attribute::Int(size)).with("alpha", Attribute::Float(0.1));
            let input = self.random.floats(&[2, 7, 3, 5]);
            self.add(&format!("size {size}"), operator, vec![input], &[], 1);
        }
        for name in ["Softmax", "LogSoftmax"] {
            for version in [11, 13] {
                for axis in [-1, 0, 1] {
                    let operator = Operator::new(name, version).with("axis", Attribute::Int(axis));
                    let input = self.random.between(&[3, 5, 7], -5.0, 5.0);
                    self.add(&format!("opset {version} axis {axis}"), operator, vec![input], &[], 1);
                }
            }
        }
        let inputs = vec![self.random.floats(&[2, 5, 7]), self.random.floats(&[7]), self.random.floats(&[7])];
        self.add("last axis", Operator::new("LayerNormalization", OPSET), inputs, &[1, 2], 1);
    }

    fn movement(&mut self) {
        for axis in [-1i64, 0, 1] {
            let mut shapes = [[2, 3, 5], [2, 3, 5], [2, 3, 5]];
            shapes[1][axis.rem_euclid(3) as usize] = 4;
            let inputs = shapes.iter().map(|shape| self.random.floats(shape)).collect();
            self.add(
                &format!("axis {axis}"),
                Operator::new("Concat", OPSET).with("axis", Attribute::Int(axis)),
                inputs,
                &[],
                1,
            );
        }
        for perm in [[0, 2, 1, 3], [3, 2, 1, 0], [1, 0, 2, 3], [0, 2, 3, 1]] {
            let input = self.random.floats(&[2, 3, 5, 7]);
            self.add(
                &format!("{perm:?}"),
                Operator::new("Transpose", OPSET).with("perm", ints(&perm)),
                vec![input],
                &[],
                1,
            );
        }
        let x = self.random.floats(&[2, 3, 5]);
        let listed: [(&str, &[i64]); 6] = [
            ("Reshape", &[0, -1]),
            ("Reshape", &[30]),
            ("Unsqueeze", &[0, -1]),
            ("Expand", &[4, 2, 3, 5]),
            ("Tile", &[1, 2, 3]),
            ("ReduceSum", &[-1, 0]),
        ];
        for (name, list) in listed {
            self.add(&format!("{list:?}"), Operator::new(name, OPSET), vec![x.clone(), i64s(list)], &[1], 1);
        }
        for (name, axes) in [("ReduceMean", &[1][..]), ("ReduceMax", &[-1]), ("ReduceMin", &[0, 2]), ("ReduceL2", &[0])]
        {
            for keep in [0, 1] {
                let operator =
                    Operator::new(name, OPSET).with("axes", ints(axes)).with("keepdims", Attribute::Int(keep));
                self.add(&format!("{axes:?} {keep}"), operator, vec![x.clone()], &[], 1);
            }
        }
        let slice = vec![x.clone(), i64s(&[-1, 0]), i64s(&[i64::MIN, 3]), i64s(&[2, 1]), i64s(&[-2, 2])];
        self.add("backwards", Operator::new("Slice", OPSET), slice, &[1, 2, 3, 4], 1);
        for mode in ["constant", "edge", "reflect"] {
            let operator = Operator::new("Pad", OPSET).with("mode", Attribute::String(mode.as_bytes().into()));
            self.add(mode, operator, vec![x.clone(), i64s(&[0, 1, 2, 1, 0, 2])], &[1], 1);
        }
        let gather = Operator::new("Gather", OPSET).with("axis", Attribute::Int(1));
        self.add("negative", gather, vec![x.clone(), i64s(&[-1, 0, 2])], &[1], 1);
        let split = Operator::new("Split", OPSET).with("axis", Attribute::Int(2));
        self.add("uneven", split, vec![x.clone(), i64s(&[1, 4])], &[1], 2);
        self.add("of floats", Operator::new("NonZero", OPSET), vec![x], &[], 1);
    }
}

/// Generates all cases.
/// Equal seeds make equal cases.
///
/// # Errors
/// `Internal` with the name of a case whose inputs could not be made.
pub fn suite(seed: u64) -> Result<Vec<Case>> {
    let mut suite = Suite::new(seed);
    suite.unary();
    suite.binary();
    suite.convolutions();
    suite.pools();
    suite.products();
    suite.normalisations();
    suite.movement();
    suite.element_types();
    suite.vision();
    suite.sequences();
    suite.places();
    suite.machine_learning();
    suite.contributed();
    suite.many_operands();
    suite.finished().map(distinctly_named)
}

/// Returns the cases, each with a name of its own: the second of a name gets ` (2)`.
pub(crate) fn distinctly_named(mut cases: Vec<Case>) -> Vec<Case> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for case in &mut cases {
        let count = seen.entry(case.name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            case.name.push_str(&format!(" ({count})"));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_cannot_be_made_is_the_suites_error_and_no_other_tensor() {
        let mut suite = Suite::new(1);
        let short = Tensor::from_vec(&[2, 3], vec![0i64; 5]);
        let refused = evaluate(&Operator::new("Reshape", OPSET), &[i64s(&[1, 2]), i64s(&[3])]);
        for input in [short, refused.clone(), cast(refused, DType::F32)] {
            suite.wrong = None;
            suite.add("of nothing", Operator::new("Relu", OPSET), vec![input], &[], 1);
            let error = suite.wrong.as_ref().map(ToString::to_string).unwrap_or_default();
            assert!(error.contains("'Relu of nothing'"), "{error}");
        }
        assert!(suite.cases.is_empty());
    }
}
