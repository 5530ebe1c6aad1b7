//! Cases of numbers at their limits: NaN, infinities, zeros of both signs, the largest and the
//! smallest numbers of each type, and whole numbers that no `f64` holds.

use half::{bf16, f16};
use hetero_hal::{Attribute, DType, Element, Operator, Result, Tensor};

use crate::Case;
use crate::cases::{Drawn, Suite, cast, distinctly_named, i64s, ints, scalar, text};
use crate::types::{FLOATS, INTEGERS, OPSET};

/// The floats of interest to every function: where it bends, overflows or is not defined.
const FLOAT: [f64; 27] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    3.0,
    -3.0,
    6.0,
    -20.0,
    20.0,
    -60.0,
    100.0,
    -100.0,
    3e4,
    -3e4,
    1e-3,
    -1e-3,
    1e-6,
    f64::NAN,
    -1e-6,
];

/// Floats near the end of a function's range, and arguments that only many bits of pi reduce.
/// Types that are narrower than `f32` hold none of them.
const FAR: [f64; 20] = [
    88.5, -88.5, 88.9, -88.9, 89.2, -89.2, 89.4, -89.4, 104.0, -104.0, 12345.678, -54321.0, 1e5, 710.0, 1e7, -3e9,
    1e15, -3e22, 1.7e38, -3.4e38,
];

/// Lines of floats whose reductions are of interest, from the first to the last of few kinds.
const LINES: [[f64; 3]; 16] = [
    [1.0, f64::NAN, 2.0],
    [f64::NAN, 3.0, -1.0],
    [f64::INFINITY, 1.0, 0.0],
    [f64::NEG_INFINITY, 1.0, 2.0],
    [f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY],
    [f64::INFINITY, f64::INFINITY, f64::INFINITY],
    [f64::INFINITY, f64::NAN, 1.0],
    [f64::NEG_INFINITY, 1.0, f64::NAN],
    [f64::INFINITY, f64::NEG_INFINITY, 1.0],
    [0.0, -0.0, 0.0],
    [f64::NAN, f64::NAN, f64::NAN],
    [3e4, 3e4, 1.0],
    [-3e4, 1.0, 2.0],
    [1.0, 1.0, 1.0],
    [-1.0, -2.0, -3.0],
    [1e-3, 2e-3, 1e-6],
];

/// Returns floats as a type.
fn tensor(dtype: DType, shape: &[usize], values: Vec<f64>) -> Drawn {
    match dtype {
        DType::F64 => Tensor::from_vec(shape, values),
        DType::F32 => Tensor::from_vec(shape, values.into_iter().map(|v| v as f32).collect()),
        DType::F16 => Tensor::from_vec(shape, values.into_iter().map(f16::from_f64).collect()),
        DType::BF16 => Tensor::from_vec(shape, values.into_iter().map(bf16::from_f64).collect()),
        _ => cast(Tensor::from_vec(shape, values), dtype),
    }
}

/// Returns the floats of interest, each at several places: an odd number of them, more than fill
/// the widest vectors, so that each stands in whole vectors and behind them.
fn specials(dtype: DType) -> Drawn {
    let values: Vec<f64> =
        (0..3).flat_map(|turn| (0..FLOAT.len()).map(move |at| FLOAT[(at + 9 * turn) % 27])).collect();
    tensor(dtype, &[values.len()], values)
}

/// Returns whole numbers of a type, which wrap around where they do not fit.
fn whole(dtype: DType, shape: &[usize], values: &[i128]) -> Drawn {
    fn of<T: Element>(shape: &[usize], values: &[i128], narrow: impl Fn(i128) -> T) -> Drawn {
        Tensor::from_vec(shape, values.iter().map(|&value| narrow(value)).collect())
    }
    match dtype {
        DType::I8 => of(shape, values, |v| v as i8),
        DType::I16 => of(shape, values, |v| v as i16),
        DType::I32 => of(shape, values, |v| v as i32),
        DType::U8 => of(shape, values, |v| v as u8),
        DType::U16 => of(shape, values, |v| v as u16),
        DType::U32 => of(shape, values, |v| v as u32),
        DType::U64 => of(shape, values, |v| v as u64),
        _ => of(shape, values, |v| v as i64),
    }
}

/// Returns whole numbers of interest: the limits of the type, small ones, and neighbours that no
/// `f64` tells apart.
fn wholes(dtype: DType) -> Vec<i128> {
    let bits = dtype.bits() as u32;
    let (least, most) = match dtype {
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => (0, (1i128 << bits) - 1),
        _ => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
    };
    let mut values = vec![least, least + 1, most, most - 1, 0, 1, 2, 3, 7, 100];
    if least < 0 {
        values.extend([-1, -2, -3, -7, -100]);
    }
    if bits >= 32 {
        values.extend([(1 << 24) + 1, 1 << 24, (1 << 30) - 1]);
    }
    if bits == 64 {
        values.extend([(1 << 53) + 1, 1 << 53, (1 << 62) + 1, 1 << 62, (1 << 62) - 1]);
    }
    values
}

impl Suite {
    fn limit(&mut self, detail: String, operator: Operator, inputs: Vec<Drawn>, constants: &[usize], outputs: usize) {
        self.add(&format!("limits {detail}"), operator, inputs, constants, outputs);
    }

    fn unary_limits(&mut self) {
        let operator = |name: &str| Operator::new(name, OPSET);
        let float = |name: &str, attributes: &[(&str, f32)]| {
            attributes.iter().fold(operator(name), |op, (key, value)| op.with(key, Attribute::Float(*value)))
        };
        let plain = "Abs Neg Sign Ceil Floor Round Exp Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Tanh Erf \
                     Sigmoid HardSigmoid HardSwish Softplus Softsign Elu Celu Selu LeakyRelu ThresholdedRelu Mish Gelu \
                     Swish Relu Shrink IsNaN IsInf Identity Sqrt Log Reciprocal";
        let mut operators: Vec<(String, Operator)> =
            plain.split_whitespace().map(|name| (String::new(), operator(name))).collect();
        operators.extend([
            ("tanh".into(), operator("Gelu").with("approximate", text("tanh"))),
            ("0".into(), float("LeakyRelu", &[("alpha", 0.0)])),
            ("-2".into(), float("LeakyRelu", &[("alpha", -2.0)])),
            ("2".into(), float("Elu", &[("alpha", 2.0)])),
            ("0".into(), float("Elu", &[("alpha", 0.0)])),
            ("2".into(), float("Celu", &[("alpha", 2.0)])),
            ("-1".into(), float("ThresholdedRelu", &[("alpha", -1.0)])),
            ("1.5".into(), float("Shrink", &[("lambd", 1.5), ("bias", 1.5)])),
            ("0".into(), float("Swish", &[("alpha", 0.0)])),
            ("2".into(), float("Swish", &[("alpha", 2.0)])),
            ("1, 0".into(), float("HardSigmoid", &[("alpha", 1.0), ("beta", 0.0)])),
            ("above".into(), operator("IsInf").with("detect_negative", Attribute::Int(0))),
            ("below".into(), operator("IsInf").with("detect_positive", Attribute::Int(0))),
        ]);
        for (detail, operator) in &operators {
            for dtype in FLOATS {
                self.limit(format!("{dtype} {detail}"), operator.clone(), vec![specials(dtype)], &[], 1);
            }
            let far = tensor(DType::F32, &[FAR.len()], FAR.to_vec());
            self.limit(format!("float32 far {detail}"), operator.clone(), vec![far], &[], 1);
        }
        for dtype in INTEGERS {
            let values = wholes(dtype);
            let names: &[&str] = if values[0] < 0 {
                &["Abs", "Neg", "Sign", "Relu", "BitwiseNot", "Identity"]
            } else {
                &["Abs", "Sign", "BitwiseNot", "Identity"]
            };
            for name in names {
                let input = whole(dtype, &[values.len()], &values);
                self.limit(dtype.to_string(), operator(name), vec![input], &[], 1);
            }
        }
    }

    fn clip_limits(&mut self) {
        let inf = f64::INFINITY;
        for dtype in FLOATS {
            for (low, high) in [(-1.0, 1.0), (5.0, 1.0), (-inf, 0.0), (0.0, inf), (f64::NAN, 1.0), (0.0, f64::NAN)] {
                let limit = |value: f64| tensor(dtype, &[], vec![value]);
                let inputs = vec![specials(dtype), limit(low), limit(high)];
                for constants in [&[][..], &[1, 2]] {
                    let detail = format!("{dtype} {low} to {high}, {constants:?} constant");
                    self.limit(detail, Operator::new("Clip", OPSET), inputs.clone(), constants, 1);
                }
            }
        }
        for dtype in INTEGERS {
            let values = wholes(dtype);
            for (low, high) in [(values[1], values[3]), (1, 100), (100, 1), (values[values.len() - 1], values[2])] {
                let inputs =
                    vec![whole(dtype, &[values.len()], &values), whole(dtype, &[], &[low]), whole(dtype, &[], &[high])];
                self.limit(format!("{dtype} {low} to {high}"), Operator::new("Clip", OPSET), inputs, &[1, 2], 1);
            }
        }
    }

    fn binary_limits(&mut self) {
        let arithmetic = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Pow", "PRelu", "Mod"];
        let comparisons = ["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"];
        let count = FLOAT.len();
        for dtype in FLOATS {
            for name in arithmetic.into_iter().chain(comparisons) {
                let mut operator = Operator::new(name, OPSET);
                if name == "Mod" {
                    operator = operator.with("fmod", Attribute::Int(1));
                }
                // Every pair of two, as two tensors of one shape.
                let first: Vec<f64> = (0..count * count).map(|at| FLOAT[at / count]).collect();
                let second: Vec<f64> = (0..count * count).map(|at| FLOAT[at % count]).collect();
                let inputs = vec![tensor(dtype, &[count * count], first), tensor(dtype, &[count * count], second)];
                self.limit(format!("{dtype} pairs"), operator.clone(), inputs, &[], 1);
                for (at, other) in FLOAT.into_iter().enumerate().take(12) {
                    let inputs = vec![specials(dtype), tensor(dtype, &[1], vec![other])];
                    let constants = if at % 2 == 0 { &[1][..] } else { &[] };
                    self.limit(format!("{dtype} with {other}"), operator.clone(), inputs, constants, 1);
                }
            }
            for name in ["Max", "Min", "Sum", "Mean"] {
                let turned =
                    |by: usize| tensor(dtype, &[count], (0..count).map(|at| FLOAT[(at + by) % count]).collect());
                let inputs = vec![turned(0), turned(5), turned(11)];
                self.limit(format!("{dtype} of three"), Operator::new(name, OPSET), inputs, &[], 1);
            }
        }
        for dtype in INTEGERS {
            let values = wholes(dtype);
            let least = values[0];
            let names = "Add Sub Mul Div Max Min Mod fmod Pow BitwiseAnd BitwiseOr BitwiseXor BitShift Equal Greater Less \
                         GreaterOrEqual LessOrEqual";
            for name in names.split_whitespace() {
                let (mut first, mut second) = (Vec::new(), Vec::new());
                for &a in &values {
                    for &b in &values {
                        // The standard leaves division by zero open, and the quotient of the
                        // least number by -1 is none.
                        let divides = matches!(name, "Div" | "Mod" | "fmod");
                        let open = divides && (b == 0 || (b == -1 && a == least))
                            || name == "Pow" && !(0..=64).contains(&b)
                            || name == "BitShift" && b >= dtype.bits() as i128;
                        if !open {
                            first.push(a);
                            second.push(b);
                        }
                    }
                }
                let operator = match name {
                    "fmod" => Operator::new("Mod", OPSET).with("fmod", Attribute::Int(1)),
                    "BitShift" if least < 0 => continue,
                    "BitShift" => Operator::new("BitShift", OPSET).with("direction", text("LEFT")),
                    _ => Operator::new(name, OPSET),
                };
                let shape = [first.len()];
                let inputs = vec![whole(dtype, &shape, &first), whole(dtype, &shape, &second)];
                self.limit(format!("{dtype} {}", operator.version), operator, inputs, &[], 1);
            }
        }
        let bases =
            [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e20, -1e20];
        let exponents =
            [0.0, -0.0, 1.0, 2.0, 3.0, -1.0, -3.0, 0.5, -0.5, 7.0, 1e20, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        let all = |of: fn(f64, f64) -> f64| -> Vec<f64> {
            bases.iter().flat_map(|&base| exponents.iter().map(move |&exponent| of(base, exponent))).collect()
        };
        let shape = [bases.len() * exponents.len()];
        let inputs = vec![tensor(DType::F32, &shape, all(|base, _| base)), tensor(DType::F32, &shape, all(|_, by| by))];
        self.limit("float32 special powers".into(), Operator::new("Pow", OPSET), inputs, &[], 1);
        let known = |value: f64| value.abs() < 8.0;
        for exponent in exponents.into_iter().filter(|&exponent| known(exponent)) {
            let inputs =
                vec![tensor(DType::F32, &[bases.len()], bases.to_vec()), tensor(DType::F32, &[], vec![exponent])];
            let detail = format!("float32 special to {exponent:?}");
            self.limit(detail, Operator::new("Pow", OPSET), inputs, &[1], 1);
        }
        // Powers of one type to another.
        for (base, exponent) in [(DType::I64, DType::F32), (DType::F64, DType::I64), (DType::I32, DType::I64)] {
            let bases = [-3.0, -1.0, 0.0, 1.0, 2.0, 7.0].repeat(4);
            let exponents: Vec<f64> = (0..24).map(|at| f64::from(at / 6)).collect();
            let inputs = vec![tensor(base, &[24], bases), tensor(exponent, &[24], exponents)];
            self.limit(format!("{base} to {exponent}"), Operator::new("Pow", OPSET), inputs, &[], 1);
        }
        let large = whole(DType::I64, &[3], &[(1 << 53) + 1, -(1 << 53) - 1, (1 << 62) + 1]);
        let one = |dtype: DType| tensor(dtype, &[1], vec![1.0]);
        for dtype in [DType::F32, DType::I32] {
            let inputs = vec![large.clone(), one(dtype)];
            self.limit(format!("int64 to {dtype} one"), Operator::new("Pow", OPSET), inputs, &[], 1);
        }
    }

    /// Adds reductions of lines of three numbers, and of the same lines among more numbers, along
    /// the last axis and along the first.
    fn reduction_limits(&mut self) {
        let reductions: Vec<&str> = hetero_reference::Standard::definitions()
            .map(|d| d.name)
            .filter(|name| name.starts_with("Reduce"))
            .collect();
        for dtype in FLOATS {
            for (length, fill) in [(3, 0.0), (19, 0.5), (35, -4.0), (70, 0.25)] {
                // Numbers of a line repeat in the middle of a longer one.
                let line = |line: usize, at: usize| match at.checked_sub(length / 2 - 1) {
                    Some(place) if place < 3 => LINES[line][place],
                    _ if LINES[line] == [f64::NEG_INFINITY; 3] || LINES[line] == [f64::INFINITY; 3] => LINES[line][0],
                    _ => fill,
                };
                let count = LINES.len();
                let rows: Vec<f64> = (0..count * length).map(|at| line(at / length, at % length)).collect();
                let columns: Vec<f64> = (0..count * length).map(|at| line(at % count, at / count)).collect();
                for (axis, shape, values) in [(-1, [count, length], rows), (0, [length, count], columns)] {
                    let x = tensor(dtype, &shape, values);
                    let detail = format!("{dtype} {length} along {axis}");
                    for name in &reductions {
                        let inputs = vec![x.clone(), i64s(&[axis])];
                        self.limit(detail.clone(), Operator::new(name, OPSET), inputs, &[1], 1);
                    }
                    let along = |name: &str| Operator::new(name, OPSET).with("axis", Attribute::Int(axis));
                    for name in ["ArgMax", "ArgMin"] {
                        for last in [0, 1] {
                            let operator = along(name).with("select_last_index", Attribute::Int(last));
                            self.limit(format!("{detail} last {last}"), operator, vec![x.clone()], &[], 1);
                        }
                    }
                    for name in ["Softmax", "LogSoftmax", "Hardmax", "LpNormalization"] {
                        self.limit(detail.clone(), along(name), vec![x.clone()], &[], 1);
                    }
                    self.limit(
                        format!("{detail} by 1"),
                        along("LpNormalization").with("p", Attribute::Int(1)),
                        vec![x.clone()],
                        &[],
                        1,
                    );
                    for name in ["CumSum", "CumProd"] {
                        let inputs = vec![x.clone(), scalar(axis)];
                        self.limit(detail.clone(), Operator::new(name, 26), inputs, &[1], 1);
                    }
                    for largest in [0, 1] {
                        let operator = along("TopK").with("largest", Attribute::Int(largest));
                        let inputs = vec![x.clone(), i64s(&[3])];
                        self.limit(format!("{detail} largest {largest}"), operator, inputs, &[1], 2);
                    }
                }
            }
        }
        for dtype in INTEGERS {
            let values = wholes(dtype);
            let count = values.len();
            // A line for each number, which begins with it.
            let lines: Vec<i128> = (0..count * count).map(|at| values[(at / count + at % count) % count]).collect();
            let x = whole(dtype, &[count, count], &lines);
            for axis in [0, 1] {
                for name in &reductions {
                    let inputs = vec![x.clone(), i64s(&[axis])];
                    self.limit(format!("{dtype} along {axis}"), Operator::new(name, OPSET), inputs, &[1], 1);
                }
                for name in ["ArgMax", "ArgMin"] {
                    for last in [0, 1] {
                        let operator = Operator::new(name, OPSET)
                            .with("axis", Attribute::Int(axis))
                            .with("select_last_index", Attribute::Int(last));
                        self.limit(format!("{dtype} along {axis} last {last}"), operator, vec![x.clone()], &[], 1);
                    }
                }
                for name in ["CumSum", "CumProd"] {
                    let inputs = vec![x.clone(), scalar(axis)];
                    self.limit(format!("{dtype} along {axis}"), Operator::new(name, 26), inputs, &[1], 1);
                }
                for largest in [0, 1] {
                    let operator = Operator::new("TopK", OPSET)
                        .with("axis", Attribute::Int(axis))
                        .with("largest", Attribute::Int(largest));
                    let inputs = vec![x.clone(), i64s(&[5])];
                    self.limit(format!("{dtype} along {axis} largest {largest}"), operator, inputs, &[1], 2);
                }
            }
        }
    }

    fn place_limits(&mut self) {
        for dtype in FLOATS.into_iter().chain(INTEGERS) {
            let (count, x, other) = if dtype.is_float() {
                let turned = (0..27).map(|at| FLOAT[(at + 7) % 27]).collect();
                (27, tensor(dtype, &[27], FLOAT.to_vec()), tensor(dtype, &[27], turned))
            } else {
                let values = wholes(dtype);
                let turned: Vec<i128> = (0..values.len()).map(|at| values[(at + 7) % values.len()]).collect();
                let shape = [values.len()];
                (values.len(), whole(dtype, &shape, &values), whole(dtype, &shape, &turned))
            };
            for reduction in ["none", "add", "mul", "max", "min"] {
                let at: Vec<i64> = (0..count as i64).collect();
                let inputs = vec![x.clone(), i64s(&at), other.clone()];
                let operator = Operator::new("ScatterElements", 18).with("reduction", text(reduction));
                self.limit(format!("{dtype} {reduction}"), operator, inputs, &[], 1);
                let at = i64s(&at).and_then(|at| at.reshaped(&[count, 1]));
                let inputs = vec![x.clone(), at, other.clone()];
                let operator = Operator::new("ScatterND", 18).with("reduction", text(reduction));
                self.limit(format!("{dtype} {reduction}"), operator, inputs, &[], 1);
            }
            let condition =
                Tensor::from_vec(&[count], (0..count).map(|at| hetero_hal::Bool::from(at % 2 == 0)).collect());
            let inputs = vec![condition, x.clone(), other.clone()];
            self.limit(dtype.to_string(), Operator::new("Where", OPSET), inputs, &[], 1);
            let inputs = vec![x.clone(), i64s(&[-1, 0, 3])];
            self.limit(dtype.to_string(), Operator::new("Gather", OPSET), inputs, &[], 1);
            self.limit(dtype.to_string(), Operator::new("Unique", OPSET), vec![x.clone()], &[], 4);
            self.limit(dtype.to_string(), Operator::new("NonZero", OPSET), vec![x], &[], 1);
        }
        // Indexes that 32 bits would make others of.
        let at = i64s(&[(1 << 32) + 1, -(1 << 32) + 2, 3, -1, 5, -6]);
        let values = Tensor::from_vec(&[2], vec![0.0f32, 1.0]);
        self.limit("int64".into(), Operator::new("OneHot", OPSET), vec![at, scalar(5i64), values], &[1], 1);
        let start = whole(DType::I64, &[], &[(1 << 53) + 1]);
        let limit = whole(DType::I64, &[], &[(1 << 53) + 9]);
        let inputs = vec![start, limit, scalar(2i64)];
        self.limit("int64".into(), Operator::new("Range", OPSET), inputs, &[0, 1, 2], 1);
        let values = wholes(DType::I64);
        let shape = [1, 1, 4, 4];
        let x = whole(DType::I64, &shape, &values[..16]);
        let b = whole(DType::I64, &[4, 4], &values[4..20]);
        let small = whole(DType::I64, &[4, 4], &[1, 0, 2, 0, 0, 1, 0, 3, 0, 0, 1, 0, 1, 0, 0, 0]);
        self.limit("int64".into(), Operator::new("MatMul", OPSET), vec![b.clone(), small.clone()], &[], 1);
        self.limit("int64".into(), Operator::new("Gemm", OPSET), vec![b, small], &[], 1);
        let equation = Operator::new("Einsum", OPSET).with("equation", text("abij->abji"));
        self.limit("int64".into(), equation, vec![x.clone()], &[], 1);
        let resize = Operator::new("Resize", OPSET).with("mode", text("nearest"));
        let scales = Tensor::from_vec(&[4], vec![1.0f32, 1.0, 2.0, 2.0]).map(Some);
        let inputs = vec![Some(x), None, scales.transpose()];
        self.add_partial("limits int64", resize, inputs, &[2], 1);
    }

    fn window_limits(&mut self) {
        for dtype in FLOATS {
            for (number, special) in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 300.0, -0.0].into_iter().enumerate() {
                // A batch of two, sixteen channels, and one pixel of interest in some of them.
                let (channels, side) = (16, 9);
                let mut values: Vec<f64> = (0..2 * channels * side * side)
                    .map(|at| f64::from(((at as u64 * 2_654_435_761) >> 5) as u32 % 64) / 16.0 - 2.0)
                    .collect();
                for channel in [0, 3, 7, 15, 16, 29] {
                    values[channel * side * side + (channel * 7 + number * 11) % (side * side)] = special;
                }
                // A plane that is wholly of this number.
                values[5 * side * side..][..side * side].fill(special);
                let x = tensor(dtype, &[2, channels, side, side], values);
                let detail = format!("{dtype} {special}");
                let window = |name: &str| {
                    Operator::new(name, OPSET)
                        .with("kernel_shape", ints(&[3, 3]))
                        .with("strides", ints(&[2, 1]))
                        .with("pads", ints(&[1, 1, 0, 1]))
                };
                for name in ["MaxPool", "AveragePool", "LpPool"] {
                    self.limit(detail.clone(), window(name), vec![x.clone()], &[], 1);
                }
                self.limit(format!("{detail} with places"), window("MaxPool"), vec![x.clone()], &[], 2);
                for name in ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"] {
                    self.limit(detail.clone(), Operator::new(name, OPSET), vec![x.clone()], &[], 1);
                }
                let each = |value: f64| tensor(dtype, &[channels], vec![value; channels]);
                let norm = |name: &str| Operator::new(name, OPSET);
                let (scale, shift) = (each(1.5), each(0.5));
                let moments = [x.clone(), scale.clone(), shift.clone(), each(0.25), each(2.0)];
                self.limit(detail.clone(), norm("BatchNormalization"), moments.to_vec(), &[1, 2, 3, 4], 1);
                let affine = vec![x.clone(), scale.clone(), shift.clone()];
                self.limit(detail.clone(), norm("InstanceNormalization"), affine.clone(), &[1, 2], 1);
                let group = norm("GroupNormalization").with("num_groups", Attribute::Int(4));
                self.limit(detail.clone(), group, affine, &[1, 2], 1);
                self.limit(detail.clone(), norm("LRN").with("size", Attribute::Int(3)), vec![x.clone()], &[], 1);
                self.limit(detail.clone(), norm("MeanVarianceNormalization"), vec![x.clone()], &[], 1);
                let scale = tensor(dtype, &[side], vec![1.5; side]);
                for name in ["LayerNormalization", "RMSNormalization"] {
                    self.limit(detail.clone(), norm(name), vec![x.clone(), scale.clone()], &[1], 1);
                }
                for mode in ["nearest", "linear"] {
                    let sizes = Tensor::from_vec(&[4], vec![1.0f32, 1.0, 2.0, 2.0]).map(Some);
                    let inputs = vec![Some(x.clone()), None, sizes.transpose()];
                    let operator = norm("Resize").with("mode", text(mode));
                    self.add_partial(&format!("limits {detail} {mode}"), operator, inputs, &[2], 1);
                }
                // A filter for each kind of layout: few channels, one for each channel, and many.
                let filters = |shape: &[usize]| {
                    let count: usize = shape.iter().product();
                    let values =
                        (0..count).map(|at| f64::from(((at as u64 * 40_503) >> 3) as u32 % 32) / 16.0 - 0.96875);
                    tensor(dtype, shape, values.collect())
                };
                for (group, shape) in [(1, [32, channels, 3, 3]), (16, [16, 1, 3, 3]), (1, [16, channels, 1, 1])] {
                    let operator = norm("Conv").with("group", Attribute::Int(group));
                    let inputs = vec![x.clone(), filters(&shape)];
                    self.limit(format!("{detail} {shape:?}"), operator, inputs, &[1], 1);
                }
                let inputs = vec![x.clone(), filters(&[channels, 4, 3, 3])];
                self.limit(detail.clone(), norm("ConvTranspose"), inputs, &[1], 1);
                let inputs = vec![x.clone(), filters(&[side, 17])];
                self.limit(detail.clone(), norm("MatMul"), inputs, &[1], 1);
            }
        }
        for dtype in [DType::I8, DType::U8] {
            let values: Vec<i128> = (0..2 * 5 * 5).map(|at| [-128, 127, 0, -1, 1, 100, 255][at % 7]).collect();
            let x = whole(dtype, &[1, 2, 5, 5], &values);
            let operator = Operator::new("MaxPool", OPSET).with("kernel_shape", ints(&[3, 3]));
            self.limit(dtype.to_string(), operator.clone(), vec![x.clone()], &[], 1);
            self.limit(format!("{dtype} padded"), operator.with("pads", ints(&[1, 1, 1, 1])), vec![x], &[], 1);
        }
    }

    fn cast_limits(&mut self) {
        let types = || FLOATS.into_iter().chain(INTEGERS).chain([DType::Bool]);
        for from in FLOATS {
            // Ties between two neighbours of narrower types, numbers that they do not hold, and
            // what no type of whole numbers holds, which is apart, since the standard leaves it
            // open.
            let inside = vec![0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 2.5, 126.9, -127.9, 100.0, 1.0, 3.0, 17.0];
            let outside = vec![
                f64::NAN,
                f64::INFINITY,
                f64::NEG_INFINITY,
                300.0,
                -300.0,
                7e4,
                -7e4,
                3e9,
                -3e9,
                1e19,
                -1e19,
                1e38,
            ];
            let narrow = vec![
                f64::NAN,
                f64::INFINITY,
                f64::NEG_INFINITY,
                65504.0,
                65519.0,
                65520.0,
                1e5,
                -1e6,
                1.000_488_281_25,
                1.001_464_843_75,
                1.003_906_25,
                1.011_718_75,
                5.960_464e-8,
                2.980_232e-8,
                2.980_233e-8,
                6.097e-5,
                1e-40,
                3.4e38,
                -0.0,
            ];
            for to in types() {
                let operator = || Operator::new("Cast", OPSET).with("to", Attribute::Int(i64::from(to.onnx_code())));
                let mut add = |kind: &str, values: &[f64]| {
                    let input = tensor(from, &[values.len()], values.to_vec());
                    self.limit(format!("{from} to {to} {kind}"), operator(), vec![input], &[], 1);
                };
                if to.is_float() || to == DType::Bool {
                    add("rounded", &narrow);
                } else {
                    let unsigned = matches!(to, DType::U8 | DType::U16 | DType::U32 | DType::U64);
                    let fits: Vec<f64> = inside.iter().copied().filter(|&v| !unsigned || v > -1.0).collect();
                    add("inside", &fits);
                    add("outside", &outside);
                }
            }
        }
        for from in INTEGERS {
            let values = wholes(from);
            for to in types() {
                let operator = Operator::new("Cast", OPSET).with("to", Attribute::Int(i64::from(to.onnx_code())));
                let input = whole(from, &[values.len()], &values);
                self.limit(format!("{from} to {to}"), operator, vec![input], &[], 1);
            }
        }
    }
}

/// Makes cases of numbers at their limits, for every operator that computes.
/// A device is held to them by the kind of each result: NaN where the oracle has NaN, the same
/// infinity where it has one.
///
/// # Errors
/// An error where an input of a case cannot be made.
pub fn limits() -> Result<Vec<Case>> {
    let mut suite = Suite::new(1);
    suite.unary_limits();
    suite.clip_limits();
    suite.binary_limits();
    suite.reduction_limits();
    suite.place_limits();
    suite.window_limits();
    suite.cast_limits();
    suite.finished().map(distinctly_named)
}
