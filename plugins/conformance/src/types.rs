//! Cases over element types: every operator that the standard defines for a type, on numbers of
//! that type.

use hetero_hal::{Attribute, DType, Operator};

use crate::cases::{Drawn, Suite, ints, scalar};

/// The newest version of the operator set to which these cases belong.
pub(crate) const OPSET: u32 = 24;

pub(crate) const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];
pub(crate) const INTEGERS: [DType; 8] =
    [DType::I8, DType::I16, DType::I32, DType::I64, DType::U8, DType::U16, DType::U32, DType::U64];
/// Types of operators that only move elements, and types that Cast and quantisation make.
pub(crate) const NARROW: [DType; 10] = [
    DType::F8E4M3FN,
    DType::F8E4M3FNUZ,
    DType::F8E5M2,
    DType::F8E5M2FNUZ,
    DType::F8E8M0,
    DType::F4E2M1,
    DType::I4,
    DType::U4,
    DType::I2,
    DType::U2,
];

/// Shapes of edge sizes: none, one, primes.
const SHAPES: [&[usize]; 5] = [&[], &[1], &[0, 3], &[7, 13], &[2, 3, 5]];

impl Suite {
    /// Makes numbers of a type between two bounds, by a Cast.
    pub(crate) fn numbers(&mut self, dtype: DType, shape: &[usize], low: f32, high: f32) -> Drawn {
        let floats = self.random.between(shape, low, high);
        crate::cases::cast(floats, dtype)
    }

    /// Makes booleans, both kinds about as often.
    pub(crate) fn flags(&mut self, shape: &[usize]) -> Drawn {
        let zero = scalar(0.0f32);
        let floats = self.random.between(shape, -1.0, 1.0);
        crate::cases::evaluate(&Operator::new("Greater", OPSET), &[floats, zero])
    }

    pub(crate) fn element_types(&mut self) {
        self.unary_types();
        self.binary_types();
        self.moving_types();
        self.reducing_types();
        self.casting_types();
        self.dense_types();
    }

    fn unary_types(&mut self) {
        let anywhere = [
            "Abs",
            "Neg",
            "Sign",
            "Ceil",
            "Floor",
            "Round",
            "Exp",
            "Sin",
            "Cos",
            "Atan",
            "Sinh",
            "Cosh",
            "Asinh",
            "Tanh",
            "Erf",
            "Sigmoid",
            "HardSigmoid",
            "HardSwish",
            "Softplus",
            "Softsign",
            "Elu",
            "Celu",
            "Selu",
            "LeakyRelu",
            "ThresholdedRelu",
            "Mish",
            "Gelu",
            "Swish",
            "Relu",
            "Shrink",
            "Tan",
            "IsNaN",
            "IsInf",
            "Identity",
        ];
        let positive = ["Sqrt", "Log", "Reciprocal"];
        let inside = ["Asin", "Acos", "Atanh"];
        for dtype in FLOATS {
            let ranges = [(&anywhere[..], -1.5, 1.5), (&positive[..], 0.5, 4.0), (&inside[..], -0.9, 0.9)];
            for (names, low, high) in ranges {
                for &name in names {
                    for shape in SHAPES {
                        let input = self.numbers(dtype, shape, low, high);
                        self.add(&format!("{dtype} {shape:?}"), Operator::new(name, OPSET), vec![input], &[], 1);
                    }
                }
            }
            let input = self.numbers(dtype, &[3, 5], 1.0, 4.0);
            self.add(dtype.name(), Operator::new("Acosh", OPSET), vec![input], &[], 1);
        }
        for dtype in INTEGERS {
            for shape in SHAPES {
                let low = if dtype.name().starts_with('u') { 0.0 } else { -100.0 };
                let names: &[&str] = if low < 0.0 {
                    &["Abs", "Neg", "Sign", "Relu", "BitwiseNot"]
                } else {
                    &["Sign", "Abs", "BitwiseNot"]
                };
                for &name in names {
                    let input = self.numbers(dtype, shape, low, 100.0);
                    self.add(&format!("{dtype} {shape:?}"), Operator::new(name, OPSET), vec![input], &[], 1);
                }
            }
        }
        for shape in SHAPES {
            let input = self.flags(shape);
            self.add(&format!("{shape:?}"), Operator::new("Not", OPSET), vec![input], &[], 1);
        }
    }

    fn binary_types(&mut self) {
        let pairs: [(&[usize], &[usize]); 4] =
            [(&[7], &[7]), (&[2, 3, 5], &[3, 1]), (&[0, 3], &[1, 3]), (&[5], &[2, 1, 5])];
        for dtype in FLOATS.into_iter().chain(INTEGERS) {
            for name in [
                "Add",
                "Sub",
                "Mul",
                "Div",
                "Max",
                "Min",
                "Mod",
                "Pow",
                "Equal",
                "Greater",
                "Less",
                "GreaterOrEqual",
                "LessOrEqual",
            ] {
                for (a, b) in pairs {
                    let (x, y) = (self.numbers(dtype, a, 3.0, 9.0), self.numbers(dtype, b, 1.0, 3.0));
                    let mut operator = Operator::new(name, OPSET);
                    if name == "Mod" && dtype.is_float() {
                        operator = operator.with("fmod", Attribute::Int(1));
                    }
                    self.add(&format!("{dtype} {a:?} {b:?}"), operator, vec![x, y], &[], 1);
                }
            }
        }
        for dtype in FLOATS.into_iter().chain(INTEGERS) {
            for shape in [&[][..], &[0, 3], &[5, 11]] {
                let x = self.numbers(dtype, shape, 0.0, 9.0);
                let (low, high) = (self.numbers(dtype, &[], 2.0, 4.0), self.numbers(dtype, &[], 5.0, 7.0));
                let operator = || Operator::new("Clip", OPSET);
                let whole = vec![Some(x.clone()), Some(low.clone()), Some(high.clone())];
                self.add_partial(&format!("{dtype} {shape:?}"), operator(), whole, &[1, 2], 1);
                let above = vec![Some(x), None, Some(high)];
                self.add_partial(&format!("{dtype} {shape:?} from above"), operator(), above, &[2], 1);
            }
        }
        for dtype in INTEGERS {
            for name in ["BitwiseAnd", "BitwiseOr", "BitwiseXor"] {
                let (x, y) = (self.numbers(dtype, &[3, 5], 0.0, 100.0), self.numbers(dtype, &[5], 0.0, 100.0));
                self.add(dtype.name(), Operator::new(name, OPSET), vec![x, y], &[], 1);
            }
        }
        for dtype in [DType::U8, DType::U16, DType::U32, DType::U64] {
            for direction in ["LEFT", "RIGHT"] {
                let (x, y) = (self.numbers(dtype, &[3, 5], 0.0, 100.0), self.numbers(dtype, &[5], 0.0, 9.0));
                let operator =
                    Operator::new("BitShift", OPSET).with("direction", Attribute::String(direction.as_bytes().into()));
                self.add(&format!("{dtype} {direction}"), operator, vec![x, y], &[], 1);
            }
        }
        for (a, b) in pairs {
            for name in ["And", "Or", "Xor", "Equal"] {
                let (x, y) = (self.flags(a), self.flags(b));
                self.add(&format!("bool {a:?} {b:?}"), Operator::new(name, OPSET), vec![x, y], &[], 1);
            }
        }
    }

    fn moving_types(&mut self) {
        let types: Vec<DType> = FLOATS.into_iter().chain(INTEGERS).chain(NARROW).collect();
        for dtype in types {
            let x = self.numbers(dtype, &[3, 4, 5], 0.0, 3.0);
            let y = self.numbers(dtype, &[3, 2, 5], 0.0, 3.0);
            let operator = |name: &str| Operator::new(name, OPSET);
            let name = dtype.name();
            let list = crate::cases::i64s;
            self.add(name, operator("Identity"), vec![x.clone()], &[], 1);
            self.add(name, operator("Transpose").with("perm", ints(&[2, 0, 1])), vec![x.clone()], &[], 1);
            self.add(name, operator("Reshape"), vec![x.clone(), list(&[5, -1])], &[1], 1);
            self.add(name, operator("Unsqueeze"), vec![x.clone(), list(&[-1, 0])], &[1], 1);
            self.add(name, operator("Flatten").with("axis", Attribute::Int(2)), vec![x.clone()], &[], 1);
            self.add(name, operator("Concat").with("axis", Attribute::Int(-2)), vec![x.clone(), y.clone()], &[], 1);
            self.add(
                name,
                operator("Slice"),
                vec![x.clone(), list(&[-1, 0]), list(&[-9, 4]), list(&[1, 2]), list(&[-2, 3])],
                &[1, 2, 3, 4],
                1,
            );
            self.add(
                name,
                operator("Gather").with("axis", Attribute::Int(1)),
                vec![x.clone(), list(&[3, -1, 0])],
                &[],
                1,
            );
            self.add(name, operator("Expand"), vec![y.clone(), list(&[2, 3, 2, 5])], &[1], 1);
            self.add(name, operator("Tile"), vec![y.clone(), list(&[1, 2, 2])], &[1], 1);
            self.add(
                name,
                operator("Split").with("axis", Attribute::Int(1)).with("num_outputs", Attribute::Int(3)),
                vec![x.clone()],
                &[],
                3,
            );
            self.add(name, operator("Pad"), vec![x.clone(), list(&[1, 0, 2, 0, 1, 1])], &[1], 1);
            let condition = self.flags(&[4, 1]);
            self.add(name, operator("Where"), vec![condition, x.clone(), x.clone()], &[], 1);
            let lengths = list(&[1, 4, 0]);
            let reverse =
                operator("ReverseSequence").with("time_axis", Attribute::Int(1)).with("batch_axis", Attribute::Int(0));
            self.add(name, reverse, vec![x.clone(), lengths], &[], 1);
            self.add(name, operator("CenterCropPad"), vec![x, list(&[5, 2, 5])], &[1], 1);
        }
    }

    fn reducing_types(&mut self) {
        let names =
            || hetero_reference::Standard::definitions().map(|d| d.name).filter(|name| name.starts_with("Reduce"));
        for dtype in FLOATS.into_iter().chain([DType::I32, DType::I64]) {
            for name in names() {
                for axes in [&[][..], &[0], &[-1, 1]] {
                    for keep in [0, 1] {
                        let input = self.numbers(dtype, &[2, 3, 5], 1.0, 3.9);
                        let operator = Operator::new(name, OPSET).with("keepdims", Attribute::Int(keep));
                        let mut inputs = vec![input];
                        if !axes.is_empty() {
                            inputs.push(crate::cases::i64s(axes));
                        }
                        self.add(&format!("{dtype} {axes:?} keep {keep}"), operator, inputs, &[1], 1);
                    }
                }
            }
            for name in ["ArgMax", "ArgMin"] {
                for axis in [0, -1] {
                    let input = self.numbers(dtype, &[3, 7, 5], -50.0, 50.0);
                    let operator = Operator::new(name, OPSET).with("axis", Attribute::Int(axis));
                    self.add(&format!("{dtype} axis {axis}"), operator, vec![input], &[], 1);
                }
            }
            for (exclusive, reverse) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                let input = self.numbers(dtype, &[3, 5], -5.0, 5.0);
                let operator = Operator::new("CumSum", OPSET)
                    .with("exclusive", Attribute::Int(exclusive))
                    .with("reverse", Attribute::Int(reverse));
                let inputs = vec![input, scalar(-1i64)];
                self.add(&format!("{dtype} {exclusive}{reverse}"), operator, inputs, &[1], 1);
            }
            for largest in [0, 1] {
                let input = self.numbers(dtype, &[3, 11], -50.0, 50.0);
                let operator = Operator::new("TopK", OPSET).with("largest", Attribute::Int(largest));
                let inputs = vec![input, crate::cases::i64s(&[4])];
                self.add(&format!("{dtype} largest {largest}"), operator, inputs, &[1], 2);
            }
            let input = self.numbers(dtype, &[17], -3.0, 3.0);
            self.add(dtype.name(), Operator::new("Unique", OPSET), vec![input.clone()], &[], 4);
            self.add(dtype.name(), Operator::new("NonZero", OPSET), vec![input.clone()], &[], 1);
            let flags = self.flags(&[17]);
            self.add(dtype.name(), Operator::new("Compress", OPSET), vec![input, flags], &[], 1);
        }
    }

    fn casting_types(&mut self) {
        let types: Vec<DType> = FLOATS.into_iter().chain(INTEGERS).chain(NARROW).chain([DType::Bool]).collect();
        for &from in &types {
            for &to in &types {
                let input = self.numbers(from, &[3, 7], 0.0, 3.0);
                let operator = Operator::new("Cast", OPSET).with("to", Attribute::Int(i64::from(to.onnx_code())));
                self.add(&format!("{from} to {to}"), operator, vec![input], &[], 1);
            }
        }
        for to in [DType::U8, DType::I8, DType::U16, DType::I16, DType::U4, DType::I4, DType::F8E4M3FN, DType::F8E5M2] {
            for (shape, axis) in [(&[][..], 1), (&[5][..], -1)] {
                let input = self.random.between(&[3, 5], -20.0, 20.0);
                let scale = self.random.between(shape, 0.5, 2.0);
                // An 8-bit float has no use for a zero point.
                let zero = self.numbers(to, shape, 0.0, if to.is_float() { 0.0 } else { 3.0 });
                let quantize = Operator::new("QuantizeLinear", 23).with("axis", Attribute::Int(axis));
                self.add(&format!("{to} {shape:?}"), quantize, vec![input, scale.clone(), zero.clone()], &[1, 2], 1);
                let whole = self.numbers(to, &[3, 5], 0.0, 7.0);
                let back = Operator::new("DequantizeLinear", 23).with("axis", Attribute::Int(axis));
                self.add(&format!("{to} {shape:?}"), back, vec![whole, scale, zero], &[1, 2], 1);
            }
        }
    }

    /// Adds products, convolutions, pooling and normalisation over the floating-point types.
    fn dense_types(&mut self) {
        for dtype in FLOATS {
            for (a, b) in [(&[3usize, 5][..], &[5usize, 7][..]), (&[2, 1, 4, 3], &[3, 3, 2]), (&[0, 5], &[5, 2])] {
                let inputs = vec![self.numbers(dtype, a, -1.0, 1.0), self.numbers(dtype, b, -1.0, 1.0)];
                self.add(&format!("{dtype} {a:?} {b:?}"), Operator::new("MatMul", OPSET), inputs, &[], 1);
            }
            let inputs = [&[3, 5][..], &[5, 7], &[7]].map(|shape| self.numbers(dtype, shape, -1.0, 1.0));
            self.add(dtype.name(), Operator::new("Gemm", OPSET), inputs.to_vec(), &[], 1);
            for pads in [[0, 0, 0, 0], [1, 2, 0, 1]] {
                let operator = Operator::new("Conv", OPSET).with("pads", ints(&pads)).with("strides", ints(&[2, 1]));
                let inputs =
                    vec![self.numbers(dtype, &[1, 2, 7, 5], -1.0, 1.0), self.numbers(dtype, &[3, 2, 3, 2], -1.0, 1.0)];
                self.add(&format!("{dtype} {pads:?}"), operator, inputs, &[1], 1);
                for name in ["MaxPool", "AveragePool", "LpPool"] {
                    let operator = Operator::new(name, OPSET)
                        .with("kernel_shape", ints(&[3, 3]))
                        .with("pads", ints(&pads))
                        .with("strides", ints(&[2, 1]));
                    let input = self.numbers(dtype, &[1, 2, 7, 5], -1.0, 1.0);
                    self.add(&format!("{dtype} {pads:?}"), operator, vec![input], &[], 1);
                }
            }
            for name in
                ["Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "RMSNormalization", "LayerNormalization"]
            {
                let mut inputs = vec![self.numbers(dtype, &[3, 4, 5], -2.0, 2.0)];
                if name.starts_with("RMS") || name.starts_with("Layer") {
                    inputs.push(self.numbers(dtype, &[5], 0.5, 1.5));
                }
                self.add(dtype.name(), Operator::new(name, OPSET), inputs, &[1], 1);
            }
        }
    }
}
