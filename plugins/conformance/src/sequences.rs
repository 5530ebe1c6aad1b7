//! Cases of the operators of transformers, audio and quantised models: attention, recurrence,
//! spectra, losses, integer products.

use hetero_hal::{Attribute, DType, Operator, Tensor};

use crate::cases::{Drawn, Suite, cast, evaluate, i64s, ints, scalar, text};
use crate::types::{FLOATS, OPSET};

/// The types of integer products.
const BYTES: [DType; 2] = [DType::U8, DType::I8];

impl Suite {
    pub(crate) fn sequences(&mut self) {
        self.attention();
        self.rotary();
        self.linear_attention();
        self.causal_convolutions();
        self.recurrent();
        self.sums();
        self.spectra();
        self.losses();
        self.integer_products();
        self.quantised_convolutions();
    }

    fn attention(&mut self) {
        for dtype in FLOATS {
            for (query, cached, causal, masked, softcap) in [
                (5, 0, 0, false, 0.0),
                (3, 0, 1, false, 0.0),
                (3, 4, 0, true, 0.0),
                (1, 7, 1, false, 2.0),
                (4, 7, 1, false, 0.0),
                (4, 0, 0, true, 5.0),
            ] {
                for (heads, groups) in [(2, 2), (6, 2)] {
                    let (batch, width, keys) = (2, 3, query + 2);
                    let mut number = |shape: &[usize]| Some(self.numbers(dtype, shape, -1.0, 1.0));
                    let mut inputs = vec![
                        number(&[batch, heads, query, width]),
                        number(&[batch, groups, keys, width]),
                        number(&[batch, groups, keys, width + 1]),
                    ];
                    if masked || cached > 0 {
                        inputs.push(masked.then(|| number(&[query, cached + keys])).flatten());
                    }
                    if cached > 0 {
                        inputs.push(number(&[batch, groups, cached, width]));
                        inputs.push(number(&[batch, groups, cached, width + 1]));
                    }
                    let operator = Operator::new("Attention", 23)
                        .with("is_causal", Attribute::Int(causal))
                        .with("softcap", Attribute::Float(softcap));
                    let outputs = if cached > 0 { 3 } else { 1 };
                    let detail = format!("{dtype} {query} {cached} {causal} {masked} {heads}/{groups}");
                    self.add_partial(&detail, operator, inputs, &[], outputs);
                }
            }
            // The heads are packed in the last dimension.
            let inputs = [&[2, 3, 8], &[2, 5, 4], &[2, 5, 6]].map(|shape| self.numbers(dtype, shape, -1.0, 1.0));
            let operator = Operator::new("Attention", 23)
                .with("q_num_heads", Attribute::Int(4))
                .with("kv_num_heads", Attribute::Int(2))
                .with("scale", Attribute::Float(0.3));
            self.add(&format!("{dtype} packed"), operator, inputs.to_vec(), &[], 1);
        }
        // A query that sees no key has no right answer, so all queries see the first key.
        let first = cast(i64s(&[1, 0, 0, 0, 0]), DType::Bool);
        let mask = evaluate(&Operator::new("Or", OPSET), &[self.flags(&[2, 1, 3, 5]), first]);
        let mut inputs =
            [&[2, 2, 3, 4], &[2, 2, 5, 4], &[2, 2, 5, 4]].map(|shape| self.random.between(shape, -1.0, 1.0)).to_vec();
        inputs.push(mask);
        self.add("masked by booleans", Operator::new("Attention", 23), inputs, &[], 1);
    }

    fn linear_attention(&mut self) {
        for dtype in FLOATS {
            for (rule, past, q_heads) in
                [("linear", false, 2), ("gated", true, 2), ("delta", false, 4), ("gated_delta", true, 6)]
            {
                let (batch, steps, heads, k_width, width) = (2, 5, 2, 3, 4);
                let mut number = |shape: &[usize], low, high| Some(self.numbers(dtype, shape, low, high));
                let mut inputs = vec![
                    number(&[batch, steps, q_heads * k_width], -1.0, 1.0),
                    number(&[batch, steps, heads * k_width], -1.0, 1.0),
                    number(&[batch, steps, heads * width], -1.0, 1.0),
                    past.then(|| number(&[batch, heads, k_width, width], -1.0, 1.0)).flatten(),
                ];
                // One rate fades a head, or each of its rows has its own.
                let rates = if past && q_heads == 2 { heads } else { heads * k_width };
                inputs.push(rule.contains("gated").then(|| number(&[batch, steps, rates], -1.0, 0.0)).flatten());
                let shared = if past { 1 } else { heads };
                inputs.push(rule.contains("delta").then(|| number(&[batch, steps, shared], 0.0, 1.0)).flatten());
                while inputs.pop_if(|input| input.is_none()).is_some() {}
                let operator = Operator::new("LinearAttention", 27)
                    .with("update_rule", text(rule))
                    .with("q_num_heads", Attribute::Int(q_heads as i64))
                    .with("kv_num_heads", Attribute::Int(heads as i64));
                self.add_partial(&format!("{dtype} {rule} {q_heads}/{heads}"), operator, inputs, &[], 2);
            }
        }
    }

    fn causal_convolutions(&mut self) {
        for dtype in FLOATS {
            for (length, taps, biased, past, activation) in [
                (6, 3, false, false, "none"),
                (1, 4, true, true, "silu"),
                (2, 4, true, false, "swish"),
                (5, 1, false, false, "silu"),
            ] {
                let (batch, channels) = (2, 3);
                let mut number = |shape: &[usize]| Some(self.numbers(dtype, shape, -1.0, 1.0));
                let mut inputs = vec![number(&[batch, channels, length]), number(&[channels, 1, taps])];
                inputs.push(biased.then(|| number(&[channels])).flatten());
                inputs.push(past.then(|| number(&[batch, channels, taps - 1])).flatten());
                while inputs.pop_if(|input| input.is_none()).is_some() {}
                let operator = Operator::new("CausalConvWithState", 27).with("activation", text(activation));
                self.add_partial(&format!("{dtype} {length} by {taps} {activation}"), operator, inputs, &[], 2);
            }
        }
    }

    fn rotary(&mut self) {
        for dtype in FLOATS {
            for interleaved in [0, 1] {
                for part in [0, 4] {
                    let half = if part > 0 { part / 2 } else { 4 } as usize;
                    let operator = Operator::new("RotaryEmbedding", 23)
                        .with("interleaved", Attribute::Int(interleaved))
                        .with("rotary_embedding_dim", Attribute::Int(part));
                    let x = self.numbers(dtype, &[2, 3, 5, 8], -1.0, 1.0);
                    let (cos, sin) =
                        (self.numbers(dtype, &[7, half], -1.0, 1.0), self.numbers(dtype, &[7, half], -1.0, 1.0));
                    let places = evaluate(
                        &Operator::new("Reshape", OPSET),
                        &[i64s(&[0, 6, 2, 3, 1, 4, 4, 0, 5, 2]), i64s(&[2, 5])],
                    );
                    let detail = format!("{dtype} {interleaved} {part}");
                    self.add(&detail, operator.clone(), vec![x, cos, sin, places], &[], 1);
                    // The heads are packed in the last dimension, and angles are given for each
                    // place.
                    let x = self.numbers(dtype, &[2, 5, 24], -1.0, 1.0);
                    let angles = [(); 2].map(|()| self.numbers(dtype, &[2, 5, half], -1.0, 1.0));
                    let inputs = [vec![x], angles.to_vec()].concat();
                    let operator = operator.with("num_heads", Attribute::Int(3));
                    self.add(&format!("{detail} packed"), operator, inputs, &[], 1);
                }
            }
        }
    }

    fn recurrent(&mut self) {
        for dtype in FLOATS {
            for (name, gates) in [("GRU", 3), ("RNN", 1), ("LSTM", 4)] {
                for (direction, count) in [("forward", 1), ("reverse", 1), ("bidirectional", 2)] {
                    for full in [false, true] {
                        let (steps, batch, width, hidden) = (5, 2, 3, 4);
                        let mut operator = Operator::new(name, 14)
                            .with("direction", text(direction))
                            .with("hidden_size", Attribute::Int(hidden as i64));
                        let mut number = |shape: &[usize]| Some(self.numbers(dtype, shape, -1.0, 1.0));
                        let mut inputs = vec![
                            number(&[steps, batch, width]),
                            number(&[count, gates * hidden, width]),
                            number(&[count, gates * hidden, hidden]),
                        ];
                        if full {
                            inputs.push(number(&[count, 2 * gates * hidden]));
                            inputs.push(Some(Tensor::from_vec(&[batch], vec![5i32, 3])));
                            inputs.push(number(&[count, batch, hidden]));
                            if name == "LSTM" {
                                inputs.push(number(&[count, batch, hidden]));
                                inputs.push(number(&[count, 3 * hidden]));
                            }
                            operator = operator.with("clip", Attribute::Float(0.7));
                            if name == "GRU" {
                                operator = operator.with("linear_before_reset", Attribute::Int(1));
                            }
                        }
                        let detail = format!("{dtype} {direction}{}", if full { " with all inputs" } else { "" });
                        let outputs = if name == "LSTM" { 3 } else { 2 };
                        self.add_partial(&detail, operator, inputs, &[1, 2, 3], outputs);
                    }
                }
            }
        }
        let functions = [
            ("ThresholdedRelu", "HardSigmoid"),
            ("Affine", "Elu"),
            ("LeakyRelu", "ScaledTanh"),
            ("HardSigmoid", "Affine"),
        ];
        for (first, second) in functions {
            let operator = |name: &str, functions: &[&str]| {
                let list = functions.iter().map(|function| function.as_bytes().into()).collect();
                Operator::new(name, 14)
                    .with("hidden_size", Attribute::Int(3))
                    .with("activations", Attribute::Strings(list))
                    .with("activation_alpha", Attribute::Floats(vec![0.4, 0.3][..functions.len()].to_vec()))
                    .with("activation_beta", Attribute::Floats(vec![0.1, 0.2][..functions.len()].to_vec()))
            };
            let inputs = [&[4, 2, 3], &[1, 9, 3], &[1, 9, 3]].map(|shape| self.random.between(shape, -1.0, 1.0));
            self.add(
                &format!("of {second} and {first}"),
                operator("GRU", &[second, first]),
                inputs.to_vec(),
                &[1, 2],
                2,
            );
            let inputs = [&[4, 2, 3], &[1, 3, 3], &[1, 3, 3]].map(|shape| self.random.between(shape, -1.0, 1.0));
            self.add(&format!("of {first}"), operator("RNN", &[first]), inputs.to_vec(), &[1, 2], 2);
        }
    }

    fn sums(&mut self) {
        let equations: [(&str, &[&[usize]]); 14] = [
            ("ij->ji", &[&[3, 5]]),
            ("ij", &[&[3, 5]]),
            ("ii->i", &[&[5, 5]]),
            ("ii", &[&[5, 5]]),
            ("ij,jk->ik", &[&[3, 5], &[5, 7]]),
            ("bij,bjk", &[&[2, 3, 5], &[2, 5, 7]]),
            ("i,j->ij", &[&[3], &[5]]),
            ("...ij,...jk->...ik", &[&[2, 1, 3, 5], &[4, 5, 2]]),
            ("...->", &[&[2, 3, 5]]),
            ("ij,ij,ij->", &[&[3, 5], &[3, 5], &[3, 5]]),
            ("bhwc,hkc->bhwk", &[&[2, 3, 5, 4], &[3, 7, 4]]),
            ("a b , b c -> c a", &[&[3, 5], &[5, 2]]),
            ("ij,j->i", &[&[0, 3], &[3]]),
            ("i,i->", &[&[7], &[7]]),
        ];
        for dtype in FLOATS.into_iter().chain([DType::I32, DType::I64, DType::U8]) {
            for (equation, shapes) in equations {
                let low = if dtype == DType::U8 { 0.0 } else { -2.0 };
                let inputs = shapes.iter().map(|shape| self.numbers(dtype, shape, low, 2.0)).collect();
                let operator = Operator::new("Einsum", 12).with("equation", text(equation));
                self.add(&format!("{dtype} {equation}"), operator, inputs, &[], 1);
            }
        }
    }

    fn spectra(&mut self) {
        for dtype in FLOATS {
            for (inverse, onesided) in [(0, 0), (0, 1), (1, 0)] {
                for (length, axis) in [(None, 1), (Some(4), -2), (Some(9), 1)] {
                    let parts = if inverse == 1 { 2 } else { 1 };
                    let operator = Operator::new("DFT", 20)
                        .with("inverse", Attribute::Int(inverse))
                        .with("onesided", Attribute::Int(onesided));
                    let x = self.numbers(dtype, &[2, 7, parts], -1.0, 1.0);
                    let inputs = vec![Some(x), length.map(scalar::<i64>), Some(scalar::<i64>(axis))];
                    let detail = format!("{dtype} {inverse}{onesided} {length:?} {axis}");
                    self.add_partial(&detail, operator, inputs, &[1, 2], 1);
                }
            }
            for onesided in [0, 1] {
                for (windowed, shape) in [(false, &[2, 29, 1][..]), (true, &[2, 29, 1]), (true, &[2, 29])] {
                    let operator = Operator::new("STFT", 17).with("onesided", Attribute::Int(onesided));
                    let signal = self.numbers(dtype, shape, -1.0, 1.0);
                    let window = windowed.then(|| self.numbers(dtype, &[8], 0.1, 1.0));
                    let inputs = vec![Some(signal), Some(scalar(3i64)), window, Some(scalar(8i64))];
                    let detail = format!("{dtype} {onesided} {windowed} {shape:?}");
                    self.add_partial(&detail, operator, inputs, &[1, 3], 1);
                }
            }
        }
        for name in ["HannWindow", "HammingWindow", "BlackmanWindow"] {
            for size in [1i64, 2, 7, 16] {
                for periodic in [0, 1] {
                    // A symmetric window of one sample divides by zero, and Blackman windows this
                    // small hold only zeros, whatever the rounding.
                    if (periodic == 0 && size == 1) || (name == "BlackmanWindow" && size < 3) {
                        continue;
                    }
                    for dtype in FLOATS {
                        let operator = Operator::new(name, 17)
                            .with("periodic", Attribute::Int(periodic))
                            .with("output_datatype", Attribute::Int(i64::from(dtype.onnx_code())));
                        self.add(&format!("{dtype} {size} {periodic}"), operator, vec![scalar(size)], &[0], 1);
                    }
                }
            }
        }
        for dtype in FLOATS {
            for (bins, length, rate, low, high) in [(8, 16, 8192, 0.0, 4096.0), (13, 64, 16000, 125.0, 7600.0)] {
                let operator = Operator::new("MelWeightMatrix", 17)
                    .with("output_datatype", Attribute::Int(i64::from(dtype.onnx_code())));
                let whole = [bins, length, rate].map(scalar::<i64>).to_vec();
                let inputs = [whole, vec![scalar::<f32>(low), scalar::<f32>(high)]].concat();
                self.add(&format!("{dtype} {bins} {length}"), operator, inputs, &[0, 1, 2, 3, 4], 1);
            }
        }
    }

    fn losses(&mut self) {
        for dtype in FLOATS {
            for reduction in ["none", "sum", "mean"] {
                for (shape, ignored, weighted) in
                    [(&[3, 5][..], None, false), (&[3, 5, 2], Some(1), true), (&[2, 4, 3, 2], Some(-1), false)]
                {
                    let labels: Vec<usize> = [&shape[..1], &shape[2..]].concat();
                    let most = shape[1] as f32 - 0.01;
                    let target = self.random.between(&labels, 0.0, most);
                    let mut inputs = vec![self.numbers(dtype, shape, -3.0, 3.0), cast(target, DType::I64)];
                    if weighted {
                        inputs.push(self.numbers(dtype, &shape[1..2], 0.5, 1.5));
                    }
                    for (name, version, outputs) in
                        [("NegativeLogLikelihoodLoss", 22, 1), ("SoftmaxCrossEntropyLoss", 13, 2)]
                    {
                        let mut operator = Operator::new(name, version).with("reduction", text(reduction));
                        if let Some(class) = ignored {
                            operator = operator.with("ignore_index", Attribute::Int(class));
                        }
                        self.add(&format!("{dtype} {reduction} {shape:?}"), operator, inputs.clone(), &[], outputs);
                    }
                }
            }
        }
    }

    fn integer_products(&mut self) {
        for (a, b) in BYTES.into_iter().flat_map(|a| BYTES.map(|b| (a, b))) {
            let detail = format!("{a} by {b}");
            let zeros = |suite: &mut Self, rows: usize, columns: usize| {
                (suite.numbers(a, &[rows], 0.0, 9.0), suite.numbers(b, &[columns], 0.0, 9.0))
            };
            for (shape, other) in [(&[3, 5][..], &[5, 7][..]), (&[2, 3, 5], &[5, 1]), (&[1, 0], &[0, 3])] {
                let (x, y) = (self.numbers(a, shape, 0.0, 120.0), self.numbers(b, other, 0.0, 120.0));
                let operator = Operator::new("MatMulInteger", 10);
                self.add(&format!("{detail} {shape:?}"), operator.clone(), vec![x.clone(), y.clone()], &[], 1);
                let (one, two) = (self.numbers(a, &[], 0.0, 9.0), self.numbers(b, &[other[1]], 0.0, 9.0));
                self.add(&format!("{detail} {shape:?} with zeros"), operator, vec![x, y, one, two], &[2, 3], 1);
            }
            let (zero, other) = zeros(self, 1, 1);
            let first = |tensor: Drawn| evaluate(&Operator::new("Reshape", OPSET), &[tensor, i64s(&[])]);
            let operator =
                Operator::new("ConvInteger", 10).with("pads", ints(&[1, 0, 1, 1])).with("strides", ints(&[2, 1]));
            let inputs = vec![
                self.numbers(a, &[2, 2, 5, 4], 0.0, 120.0),
                self.numbers(b, &[3, 2, 3, 2], 0.0, 120.0),
                first(zero),
                first(other),
            ];
            self.add(&detail, operator, inputs, &[1, 2, 3], 1);
        }
        for kind in BYTES {
            for (shape, other) in [(&[3, 5][..], &[5, 7][..]), (&[2, 3, 5], &[2, 5, 2])] {
                let number = |suite: &mut Self, shape: &[usize]| suite.numbers(kind, shape, 0.0, 120.0);
                let scale = |suite: &mut Self| suite.random.between(&[], 0.01, 0.05);
                let zero = |suite: &mut Self| suite.numbers(kind, &[], 0.0, 99.0);
                let inputs = vec![
                    number(self, shape),
                    scale(self),
                    zero(self),
                    number(self, other),
                    scale(self),
                    zero(self),
                    scale(self),
                    zero(self),
                ];
                self.add(
                    &format!("{kind} {shape:?}"),
                    Operator::new("QLinearMatMul", 10),
                    inputs,
                    &[1, 2, 4, 5, 6, 7],
                    1,
                );
            }
        }
        for (low, high) in [(-3.0, 5.0), (0.5, 2.0), (-4.0, -1.0)] {
            for shape in [&[7, 13][..], &[1], &[2, 3, 5]] {
                let x = self.random.between(shape, low, high);
                let operator = Operator::new("DynamicQuantizeLinear", 11);
                self.add(&format!("{low} to {high} {shape:?}"), operator, vec![x], &[], 3);
            }
        }
    }

    fn quantised_convolutions(&mut self) {
        for kind in BYTES {
            for (groups, strides, per_channel) in [(1, 1, false), (1, 2, true), (2, 2, false), (4, 1, true)] {
                let channels = if per_channel { &[8][..] } else { &[] };
                let number = |suite: &mut Self, shape: &[usize]| suite.numbers(kind, shape, 0.0, 120.0);
                let mut inputs = vec![
                    number(self, &[2, 4, 7, 5]),
                    self.random.between(&[], 0.01, 0.05),
                    number(self, &[]),
                    number(self, &[8, 4 / groups, 3, 2]),
                    self.random.between(channels, 0.01, 0.05),
                    number(self, &[]),
                    self.random.between(&[], 0.05, 0.1),
                    number(self, &[]),
                ];
                // There are as many zero points of weights as scales.
                inputs[5] = self.numbers(kind, channels, 0.0, 9.0);
                if strides == 2 {
                    inputs.push(self.numbers(DType::I32, &[8], -500.0, 500.0));
                }
                let operator = Operator::new("QLinearConv", 10)
                    .with("group", Attribute::Int(groups as i64))
                    .with("strides", ints(&[strides, 1]))
                    .with("pads", ints(&[1, 1, 0, 1]));
                let detail = format!("{kind} groups {groups}{}", if per_channel { " per channel" } else { "" });
                self.add(&detail, operator, inputs, &[1, 2, 3, 4, 5, 6, 7, 8], 1);
            }
        }
    }
}
