//! Cases of the operators of `com.microsoft`, with each of their optional inputs and outputs.

use hetero_hal::{Attribute, DType, Operator, Result, Tensor};

use crate::cases::{Drawn, Suite, cast, i64s, ints, scalar, text};

/// The inputs of a case; `None` for one that is left out.
type Inputs = Vec<Option<Drawn>>;

/// Returns an operator of the domain.
fn of(name: &str) -> Operator {
    Operator { domain: "com.microsoft".into(), ..Operator::new(name, 1) }
}

fn i32s(shape: &[usize], values: &[i32]) -> Drawn {
    Tensor::from_vec(shape, values.to_vec())
}

fn int(value: i64) -> Attribute {
    Attribute::Int(value)
}

fn real(value: f32) -> Attribute {
    Attribute::Float(value)
}

/// Returns inputs of which none is left out.
fn all(inputs: Vec<Drawn>) -> Inputs {
    inputs.into_iter().map(Some).collect()
}

fn with(mut inputs: Inputs, at: usize, input: Drawn) -> Inputs {
    if inputs.len() <= at {
        inputs.resize(at + 1, None);
    }
    inputs[at] = Some(input);
    inputs
}

impl Suite {
    pub(crate) fn contributed(&mut self) {
        self.layer_norms();
        self.gelus();
        self.fused_products();
        self.fused_convolutions();
        self.attention_with_projections();
        self.attention_of_many_heads();
        self.attention_of_groups();
        self.rotations();
        self.few_bits();
        self.gathered_blocks();
        self.quantised_products();
        self.quantised_functions();
        self.quantised_lstm();
        let shift = cast(i64s(&[4]), DType::F32);
        let matrix = self.random.between(&[2, 3, 3], -1.0, 1.0);
        let eye = crate::cases::evaluate(&Operator::new("EyeLike", 9), &[self.random.between(&[3, 3], 0.0, 1.0)]);
        let eye = crate::cases::evaluate(&Operator::new("Mul", 14), &[eye, shift]);
        let matrix = crate::cases::evaluate(&Operator::new("Add", 14), &[matrix, eye]);
        self.add("of two", of("Inverse"), vec![matrix], &[], 1);
    }

    fn f(&mut self, shape: &[usize]) -> Drawn {
        self.random.between(shape, -1.0, 1.0)
    }

    /// Makes whole numbers of a type, from `low` up to `high`.
    fn whole(&mut self, dtype: DType, shape: &[usize], (low, high): (f32, f32)) -> Drawn {
        self.numbers(dtype, shape, low, high)
    }

    fn bytes(&mut self, shape: &[usize]) -> Drawn {
        self.whole(DType::U8, shape, (0.0, 255.9))
    }

    fn signed(&mut self, shape: &[usize]) -> Drawn {
        self.whole(DType::I8, shape, (-127.9, 127.9))
    }

    fn layer_norms(&mut self) {
        let shape = [2, 3, 8];
        let x = self.f(&shape);
        let lists: Vec<Drawn> = (0..3).map(|_| self.f(&[8])).collect();
        let old = Operator::new("LayerNormalization", 13);
        self.add("of opset 13", old, vec![x.clone(), lists[0].clone(), lists[1].clone()], &[1, 2], 1);
        let simple = Operator::new("SimplifiedLayerNormalization", 14).with("epsilon", real(1e-3));
        for outputs in [1, 2] {
            self.add(&format!("{outputs} outputs"), simple.clone(), vec![x.clone(), lists[0].clone()], &[1], outputs);
        }
        for skip in [&[2usize, 3, 8][..], &[1, 3, 8], &[3, 8]] {
            let inputs = all(vec![x.clone(), self.f(skip), lists[0].clone()]);
            let skipping = of("SkipLayerNormalization").with("epsilon", real(1e-4));
            let detail = format!("{skip:?}");
            self.add_partial(&detail, skipping.clone(), inputs.clone(), &[2], 1);
            let full = with(with(inputs.clone(), 3, lists[1].clone()), 4, lists[2].clone());
            self.add_partial(&format!("{detail} with all inputs"), skipping.clone(), full, &[2, 3, 4], 1);
            let biased = with(inputs.clone(), 4, lists[2].clone());
            self.add_partial(&format!("{detail} with a bias alone"), skipping, biased, &[2, 4], 1);
            let simple = of("SkipSimplifiedLayerNormalization").with("epsilon", real(1e-4));
            self.add_partial(&detail, simple.clone(), inputs.clone(), &[2], 1);
            self.add_partial(&format!("{detail} with a bias"), simple, with(inputs, 3, lists[2].clone()), &[2, 3], 1);
        }
        for name in ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"] {
            let inputs = vec![x.clone(), self.f(&shape), lists[0].clone()];
            self.add("statistics and the sum", of(name), inputs, &[2], 4);
        }
        let ids = i32s(&[2, 3], &[4, 0, 2, 1, 1, 3]);
        let tables: Inputs = all(vec![self.f(&[5, 4]), self.f(&[6, 4])]);
        let lists = all(vec![self.f(&[4]), self.f(&[4])]);
        let words = [vec![Some(ids), None], tables, vec![None], lists].concat();
        let embed = of("EmbedLayerNormalization");
        self.add_partial("of words", embed.clone(), words.clone(), &[2, 3, 5, 6], 3);
        let segments = with(with(words.clone(), 1, i32s(&[2, 3], &[0, 1, 1, 1, 0, 0])), 4, self.f(&[2, 4]));
        let masked = with(segments, 7, i32s(&[2, 3], &[1, 1, 0, 1, 2, 1]));
        self.add_partial("of words, segments and a mask", embed.clone(), masked, &[2, 3, 4, 5, 6], 2);
        for (rows, positions) in [(1, &[3, 1, 0][..]), (2, &[3, 1, 0, 5, 5, 2])] {
            let placed = with(words.clone(), 8, i32s(&[rows, 3], positions));
            self.add_partial(&format!("of {rows} rows of positions"), embed.clone(), placed, &[2, 3, 5, 6], 3);
        }
    }

    fn gelus(&mut self) {
        for dtype in [DType::F32, DType::F16] {
            let x = self.numbers(dtype, &[2, 3, 8], -4.0, 4.0);
            let bias = self.numbers(dtype, &[8], -1.0, 1.0);
            for name in ["Gelu", "FastGelu", "QuickGelu"] {
                self.add(&format!("{dtype}"), of(name), vec![x.clone()], &[], 1);
            }
            let bent = of("QuickGelu").with("alpha", real(0.7));
            self.add(&format!("{dtype} alpha"), bent, vec![x.clone()], &[], 1);
            for name in ["FastGelu", "BiasGelu"] {
                self.add(&format!("{dtype} with a bias"), of(name), vec![x.clone(), bias.clone()], &[1], 1);
            }
        }
    }

    fn fused_products(&mut self) {
        for flags in 0..8 {
            let (ta, tb, batch) = (flags & 1, flags >> 1 & 1, flags >> 2);
            let turned = |batch: i64, a: [usize; 3]| if batch > 0 { [a[1], a[0], a[2]] } else { a };
            let a = turned(batch, if ta > 0 { [2, 4, 3] } else { [2, 3, 4] });
            let b = turned(batch, if tb > 0 { [2, 5, 4] } else { [2, 4, 5] });
            let mut operator = of("FusedMatMul").with("transA", int(ta)).with("transB", int(tb));
            operator = operator.with("transBatchA", int(batch)).with("transBatchB", int(batch));
            operator = operator.with("alpha", real(0.5));
            let inputs = vec![self.f(&a), self.f(&b)];
            self.add(&format!("{ta}{tb}{batch}"), operator, inputs, &[], 1);
        }
        let operator = of("TransposeMatMul").with("transB", int(1));
        let inputs = vec![self.f(&[3, 4]), self.f(&[5, 4])];
        self.add("right", operator, inputs, &[1], 1);
        let activations: [(&str, &[(&str, f32)]); 10] = [
            ("Relu", &[]),
            ("Tanh", &[]),
            ("Sigmoid", &[]),
            ("Softplus", &[]),
            ("Softsign", &[]),
            ("LeakyRelu", &[("alpha", 0.2)]),
            ("Elu", &[("alpha", 0.5)]),
            ("ThresholdedRelu", &[("alpha", 0.3)]),
            ("HardSigmoid", &[("alpha", 0.3), ("beta", 0.4)]),
            ("Selu", &[("alpha", 1.2), ("gamma", 1.1)]),
        ];
        for (name, parameters) in activations {
            let mut operator = of("FusedGemm").with("transB", int(1)).with("alpha", real(0.5)).with("beta", real(2.0));
            operator = operator.with("activation", text(name));
            for (name, value) in parameters {
                operator = operator.with(&format!("activation_{name}"), real(*value));
            }
            let inputs = vec![self.f(&[3, 4]), self.f(&[5, 4]), self.f(&[5])];
            self.add(name, operator, inputs, &[1, 2], 1);
        }
        let operator = of("FusedGemm").with("activation", text("Relu")).with("transA", int(1));
        let inputs = vec![self.f(&[4, 3]), self.f(&[4, 5])];
        self.add("without a sum", operator, inputs, &[1], 1);
    }

    fn fused_convolutions(&mut self) {
        let activations: [(&str, &[f32]); 6] = [
            ("Relu", &[]),
            ("Tanh", &[]),
            ("Sigmoid", &[]),
            ("LeakyRelu", &[0.2]),
            ("Clip", &[-0.2, 0.3]),
            ("HardSigmoid", &[0.3, 0.4]),
        ];
        for (name, parameters) in activations {
            let mut operator = of("FusedConv").with("activation", text(name)).with("pads", ints(&[1, 1, 1, 1]));
            if !parameters.is_empty() {
                operator = operator.with("activation_params", Attribute::Floats(parameters.to_vec()));
            }
            let inputs = vec![self.f(&[1, 2, 5, 5]), self.f(&[3, 2, 3, 3]), self.f(&[3])];
            self.add(name, operator, inputs, &[1, 2], 1);
        }
        let relu = of("FusedConv").with("activation", text("Relu"));
        for (detail, biased) in [("with a sum", true), ("with a sum and no bias", false)] {
            let mut inputs = all(vec![self.f(&[1, 2, 5, 5]), self.f(&[3, 2, 3, 3])]);
            inputs.push(biased.then(|| self.f(&[3])));
            inputs.push(Some(self.f(&[1, 3, 3, 3])));
            self.add_partial(detail, relu.clone(), inputs, &[1, 2], 1);
        }
        let last = of("NhwcFusedConv").with("activation", text("Relu")).with("strides", ints(&[2, 1]));
        let inputs = vec![self.f(&[1, 5, 6, 2]), self.f(&[3, 2, 3, 3]), self.f(&[3])];
        self.add("with a bias", last.clone(), inputs.clone(), &[1, 2], 1);
        let inputs = with(all(inputs), 3, self.f(&[1, 2, 4, 3]));
        self.add_partial("with a sum", last, inputs, &[1, 2], 1);
    }

    fn attention_with_projections(&mut self) {
        let (batch, steps, heads, width, inner, past) = (2, 3, 2, 4, 6, 2);
        let hidden = heads * width;
        let plain = of("Attention").with("num_heads", int(heads as i64));
        let base = all(vec![self.f(&[batch, steps, inner]), self.f(&[inner, 3 * hidden]), self.f(&[3 * hidden])]);
        let cache = self.f(&[2, batch, heads, past, width]);
        let masks: Vec<(&str, Drawn)> = vec![
            ("no", i32s(&[0], &[])),
            ("lengths", i32s(&[batch], &[2, 3])),
            ("ends and starts", i32s(&[2 * batch], &[2, 3, 1, 0])),
            ("offsets", i32s(&[3 * batch + 2], &[2, 3, 0, 3, 6, 0, 2, 5])),
            ("a matrix as", i32s(&[batch, steps], &[1, 1, 0, 1, 0, 1])),
            ("three-dimensional", i32s(&[batch, 1, 3], &[1, 0, 1, 0, 1, 1]).and_then(|mask| repeated(&mask, steps))),
        ];
        for (name, mask) in masks {
            for causal in [0, 1] {
                let operator = plain.clone().with("unidirectional", int(causal));
                let inputs = if name == "no" { base.clone() } else { with(base.clone(), 3, mask.clone()) };
                let detail = format!("{name} mask, causal {causal}");
                self.add_partial(&detail, operator, inputs, &[1, 2], 1 + causal as usize);
            }
        }
        let square = with(base.clone(), 3, i32s(&[batch, 1, 4, 4], &[1; 32]));
        self.add_partial("square mask", plain.clone(), square, &[1, 2], 1);
        let earlier = with(base.clone(), 4, cache.clone());
        let causal = plain.clone().with("unidirectional", int(1));
        self.add_partial("with a cache", causal.clone(), earlier.clone(), &[1, 2], 2);
        let mask = i32s(&[batch, past + steps], &[0, 1, 1, 1, 0, 1, 1, 1, 1, 1]);
        let operator = plain.clone().with("mask_filter_value", real(-3.0));
        self.add_partial("with a cache and a mask", operator, with(earlier.clone(), 3, mask), &[1, 2], 2);
        let biased = with(earlier, 5, self.f(&[1, heads, steps, past + steps]));
        self.add_partial("with a cache and a bias", plain.clone(), biased, &[1, 2], 2);
        for (rows, count) in [(batch, heads), (1, 1)] {
            let biased = with(base.clone(), 5, self.f(&[rows, count, steps, steps]));
            let operator = plain.clone().with("scale", real(0.3));
            self.add_partial(&format!("bias of {rows} by {count}"), operator, biased, &[1, 2], 1);
        }
        let operator = plain.clone().with("qkv_hidden_sizes", ints(&[8, 8, 6]));
        let inputs = vec![self.f(&[batch, steps, inner]), self.f(&[inner, 22]), self.f(&[22])];
        self.add("values of another width", operator, inputs, &[1, 2], 1);
        let unbiased = [base[..2].to_vec(), vec![None]].concat();
        self.add_partial("without a bias", plain, unbiased, &[1], 1);
        let plain = of("QAttention").with("num_heads", int(heads as i64));
        let x = self.bytes(&[batch, steps, inner]);
        let (w, bias) = (self.signed(&[inner, 3 * hidden]), self.f(&[3 * hidden]));
        let scales = [scalar(0.02f32), scalar(0.01f32)];
        let base = [all(vec![x, w, bias]), all(scales.to_vec())].concat();
        self.add_partial("without zero points", plain.clone(), base.clone(), &[1, 2, 3, 4], 1);
        let zeros = with(with(base.clone(), 6, scalar(120u8)), 7, scalar(3i8));
        self.add_partial("with zero points", plain.clone(), zeros.clone(), &[1, 2, 3, 4, 6, 7], 1);
        let masked = with(zeros.clone(), 5, i32s(&[batch], &[2, 3]));
        self.add_partial("with a mask", plain.clone(), masked, &[1, 2, 3, 4, 6, 7], 1);
        let causal = plain.clone().with("unidirectional", int(1));
        self.add_partial("with a cache", causal, with(zeros, 8, cache), &[1, 2, 3, 4, 6, 7], 2);
        let each = with(base, 4, self.random.between(&[3 * hidden], 0.01, 0.02));
        self.add_partial("with a scale for each column", plain, each, &[1, 2, 3, 4], 1);
    }

    fn attention_of_many_heads(&mut self) {
        let (batch, steps, keys, heads, width, past) = (2, 3, 5, 2, 4, 2);
        let hidden = heads * width;
        let plain = of("MultiHeadAttention").with("num_heads", int(heads as i64));
        let q = self.f(&[batch, steps, hidden]);
        let other = all(vec![q.clone(), self.f(&[batch, keys, hidden]), self.f(&[batch, keys, hidden])]);
        let bias = self.f(&[3 * hidden]);
        self.add_partial("of another sequence", plain.clone(), other.clone(), &[], 1);
        self.add_partial("with a bias", plain.clone(), with(other.clone(), 3, bias.clone()), &[3], 3);
        let narrow = with(other.clone(), 2, self.f(&[batch, keys, 6]));
        self.add_partial("of narrow values", plain.clone(), narrow, &[], 1);
        let masks = [
            ("lengths", i32s(&[batch], &[2, 5])),
            ("offsets", i32s(&[3 * batch + 2], &[2, 5, 0, 3, 6, 0, 2, 7])),
            ("a matrix", i32s(&[batch, keys], &[1, 1, 0, 1, 1, 1, 0, 1, 0, 1])),
            (
                "flags for each query",
                i32s(&[batch, 1, keys], &[1, 1, 0, 1, 1, 1, 0, 1, 0, 1]).and_then(|mask| repeated(&mask, steps)),
            ),
        ];
        for (name, mask) in masks {
            self.add_partial(&format!("masked by {name}"), plain.clone(), with(other.clone(), 4, mask), &[], 1);
        }
        for (rows, count) in [(batch, heads), (1, heads), (batch, 1)] {
            let inputs = with(other.clone(), 5, self.f(&[rows, count, steps, keys]));
            let operator = plain.clone().with("scale", real(0.2));
            self.add_partial(&format!("bias of {rows} by {count}"), operator, inputs, &[], 1);
        }
        self.add_partial("with scores", plain.clone(), other, &[], 4);
        let own = all(vec![q.clone(), self.f(&[batch, steps, hidden]), self.f(&[batch, steps, hidden])]);
        let caches = [self.f(&[batch, heads, past, width]), self.f(&[batch, heads, past, width])];
        let [earlier_keys, earlier_values] = caches;
        let earlier = with(with(own.clone(), 6, earlier_keys), 7, earlier_values);
        let causal = plain.clone().with("unidirectional", int(1));
        self.add_partial("causal", causal.clone(), own, &[], 1);
        self.add_partial("with a cache", plain.clone(), earlier.clone(), &[], 3);
        self.add_partial("causal with a cache", causal, with(earlier, 3, bias.clone()), &[3], 3);
        let ready = all(vec![q.clone(), self.f(&[batch, heads, keys, width]), self.f(&[batch, heads, keys, width])]);
        self.add_partial("by heads", plain.clone(), ready.clone(), &[], 1);
        self.add_partial("by heads with a bias", plain.clone(), with(ready, 3, bias.clone()), &[3], 1);
        let packed = all(vec![self.f(&[batch, steps, heads, 3, width])]);
        self.add_partial("packed", plain.clone(), packed.clone(), &[], 1);
        self.add_partial("packed with a bias", plain.clone(), with(packed, 3, bias), &[3], 1);
        let pairs = vec![q, self.f(&[batch, keys, heads, 2, width])];
        self.add("packed keys and values", plain.clone(), pairs, &[], 1);
        let half: Vec<Drawn> =
            [steps, keys, keys].iter().map(|&n| self.numbers(DType::F16, &[batch, n, hidden], -1.0, 1.0)).collect();
        self.add("float16", plain, half, &[], 1);
    }

    fn attention_of_groups(&mut self) {
        // The sizes are those of the batch, of the fresh keys and of the cache; behind them are the
        // lengths less one, and the longest length.
        type Run<'a> = (&'a str, [usize; 3], &'a [i32], i32);
        let runs: [Run<'_>; 6] = [
            ("prompt", [2, 4, 0], &[3, 3], 4),
            ("prompt with room", [2, 4, 8], &[3, 3], 4),
            ("ragged prompt", [2, 4, 0], &[3, 2], 4),
            ("token", [2, 1, 5], &[5, 3], 6),
            ("token with room", [2, 1, 8], &[5, 3], 6),
            ("tokens", [1, 3, 5], &[7], 8),
        ];
        let (heads, groups, width) = (4, 2, 16);
        let plain = of("GroupQueryAttention").with("num_heads", int(heads as i64));
        let plain = plain.with("kv_num_heads", int(groups as i64));
        for (name, [batch, steps, past], lengths, total) in runs {
            let base = |suite: &mut Suite, packed: bool| -> Inputs {
                let mut line = |count: usize| Some(suite.f(&[batch, steps, count * width]));
                let mut inputs = if packed {
                    vec![line(heads + 2 * groups), None, None]
                } else {
                    vec![line(heads), line(groups), line(groups)]
                };
                for _ in 0..2 {
                    inputs.push((past > 0).then(|| suite.f(&[batch, groups, past, width])));
                }
                inputs.extend([Some(i32s(&[batch], lengths)), Some(scalar(total))]);
                inputs
            };
            let own = base(self, false);
            self.add_partial(name, plain.clone(), own.clone(), &[6], 3);
            self.add_partial(&format!("{name} of known lengths"), plain.clone(), own.clone(), &[5, 6], 3);
            self.add_partial(&format!("{name} of a total that a run tells"), plain.clone(), own.clone(), &[], 3);
            let angles = [self.f(&[16, width / 2]), self.f(&[16, width / 2])];
            for interleaved in [0, 1] {
                let turning = plain.clone().with("do_rotary", int(1)).with("rotary_interleaved", int(interleaved));
                let packed = base(self, true);
                let inputs = with(with(packed, 7, angles[0].clone()), 8, angles[1].clone());
                self.add_partial(&format!("{name} rotated {interleaved}"), turning.clone(), inputs.clone(), &[6], 3);
                let ids: Vec<i64> = (0..batch * steps).map(|at| (at * 7 % 11) as i64).collect();
                let placed = with(inputs, 9, Tensor::from_vec(&[batch, steps], ids));
                self.add_partial(&format!("{name} placed {interleaved}"), turning, placed, &[6], 3);
            }
            for window in [1, 2, 4] {
                // A query that sees no key has no right answer.
                if window == 1 && name == "ragged prompt" {
                    continue;
                }
                let operator = plain.clone().with("local_window_size", int(window));
                self.add_partial(&format!("{name} window {window}"), operator, own.clone(), &[6], 3);
            }
            for kind in [1, 2] {
                let operator = plain.clone().with("qk_output", int(kind));
                self.add_partial(&format!("{name} scores {kind}"), operator, own.clone(), &[6], 4);
            }
            let settings = [("softcap", real(0.5)), ("scale", real(0.9)), ("smooth_softmax", int(1))];
            for (setting, value) in settings {
                let operator = plain.clone().with(setting, value);
                self.add_partial(&format!("{name} {setting}"), operator, own.clone(), &[6], 3);
            }
            let both_ways = plain.clone().with("causal", int(0));
            self.add_partial(&format!("{name} both ways"), both_ways, own.clone(), &[6], 3);
            let bias = self.f(&[1, heads, steps, total as usize]);
            let capped = plain.clone().with("softcap", real(0.7));
            self.add_partial(&format!("{name} with a bias"), capped, with(own.clone(), 10, bias), &[6], 3);
            let sink = self.f(&[heads]);
            self.add_partial(&format!("{name} with sinks"), plain.clone(), with(own.clone(), 11, sink), &[6], 3);
            let factors = [self.f(&[width]), self.f(&[width])];
            let normed = with(with(own, 14, factors[0].clone()), 15, factors[1].clone());
            self.add_partial(&format!("{name} normalised"), plain.clone(), normed, &[6, 14, 15], 3);
        }
    }

    fn rotations(&mut self) {
        for interleaved in [0, 1] {
            for part in [0, 4] {
                for by_heads in [false, true] {
                    for offset in [false, true] {
                        let columns = if part > 0 { part / 2 } else { 4 };
                        let mut operator = of("RotaryEmbedding").with("interleaved", int(interleaved));
                        if part > 0 {
                            operator = operator.with("rotary_embedding_dim", int(part as i64));
                            operator = operator.with("num_heads", int(2));
                        }
                        let x = if by_heads { self.f(&[2, 2, 3, 8]) } else { self.f(&[2, 3, 16]) };
                        let ids: (&[usize], Vec<i64>) =
                            if offset { (&[1], vec![2]) } else { (&[2, 3], vec![0, 3, 1, 2, 2, 4]) };
                        let ids = Tensor::from_vec(ids.0, ids.1);
                        let inputs = vec![x, ids, self.f(&[6, columns]), self.f(&[6, columns])];
                        let detail = format!("{interleaved} {part} by heads {by_heads} from one place {offset}");
                        self.add(&detail, operator, inputs, &[2, 3], 1);
                    }
                }
            }
        }
    }

    fn few_bits(&mut self) {
        for bits in [2usize, 4, 8] {
            for (block, depth, columns, rows) in [(16, 32, 3, 1), (32, 96, 5, 2), (16, 40, 6, 11), (64, 128, 33, 9)] {
                let blocks = usize::div_ceil(depth, block);
                let operator = of("MatMulNBits").with("K", int(depth as i64)).with("N", int(columns as i64));
                let operator = operator.with("bits", int(bits as i64)).with("block_size", int(block as i64));
                let base = all(vec![
                    self.f(&[rows, depth]),
                    self.bytes(&[columns, blocks, block * bits / 8]),
                    self.f(&[columns, blocks]),
                ]);
                let detail = format!("{bits} bits, {rows}x{depth}x{columns} by {block}");
                self.add_partial(&detail, operator.clone(), base.clone(), &[1, 2, 3, 5], 1);
                let zeros = self.bytes(&[columns, (blocks * bits).div_ceil(8)]);
                let zeros = with(base.clone(), 3, zeros);
                self.add_partial(&format!("{detail}, zeros"), operator.clone(), zeros.clone(), &[1, 2, 3], 1);
                let biased = with(zeros, 5, self.f(&[columns]));
                self.add_partial(&format!("{detail}, zeros and a bias"), operator.clone(), biased, &[1, 2, 3, 5], 1);
                let real = self.random.between(&[columns, blocks], 0.0, 3.0);
                let real = with(base.clone(), 3, real);
                self.add_partial(&format!("{detail}, real zeros"), operator.clone(), real, &[1, 2, 3], 1);
                if bits == 4 {
                    let order = self.whole(DType::I32, &[depth], (0.0, blocks as f32 - 0.1));
                    let ordered = with(base.clone(), 4, order);
                    self.add_partial(&format!("{detail}, ordered"), operator, ordered, &[1, 2, 4], 1);
                }
            }
        }
    }

    fn gathered_blocks(&mut self) {
        for bits in [2usize, 4, 8] {
            for (shape, indices) in [(&[6usize, 16][..], &[2usize][..]), (&[6, 24], &[2, 2]), (&[4, 3, 16], &[3])] {
                let (rows, bytes) = (&shape[..shape.len() - 1], shape[shape.len() - 1]);
                let blocks = (bytes * 8 / bits).div_ceil(16);
                let operator = of("GatherBlockQuantized").with("bits", int(bits as i64));
                let operator = operator.with("block_size", int(16)).with("quantize_axis", int(rows.len() as i64));
                let picked = self.whole(DType::I64, indices, (-3.9, 3.9));
                let data = self.bytes(shape);
                let scales = self.f(&[rows, &[blocks]].concat());
                let inputs = vec![data, picked, scales];
                let detail = format!("{bits} bits of {shape:?}");
                self.add(&detail, operator.clone(), inputs.clone(), &[0, 2], 1);
                let zeros = self.bytes(&[rows, &[(blocks * bits).div_ceil(8)]].concat());
                self.add_partial(&format!("{detail}, zeros"), operator, with(all(inputs), 3, zeros), &[0, 2, 3], 1);
            }
        }
        for dtype in [DType::U4, DType::I4] {
            for (axis, blocked) in [(0, 1), (1, 0), (1, 1)] {
                let shape = [18, 32];
                let mut scales = shape;
                scales[blocked] = usize::div_ceil(shape[blocked], 16);
                let operator = of("GatherBlockQuantized").with("gather_axis", int(axis)).with("block_size", int(16));
                let operator = operator.with("quantize_axis", int(blocked as i64));
                let data = self.whole(dtype, &shape, (0.0, 7.9));
                let inputs = vec![data, i64s(&[3, -1, 0]), self.f(&scales), self.whole(dtype, &scales, (0.0, 7.9))];
                let detail = format!("{dtype} along {axis} by blocks along {blocked}");
                self.add(&detail, operator.clone(), inputs[..3].to_vec(), &[0, 2], 1);
                self.add(&format!("{detail}, zeros"), operator, inputs, &[0, 2, 3], 1);
            }
        }
    }

    fn quantised_products(&mut self) {
        let plain = of("DynamicQuantizeMatMul");
        let x = self.f(&[2, 3, 8]);
        let one = all(vec![x.clone(), self.signed(&[8, 5]), scalar(0.02f32)]);
        self.add_partial("one scale", plain.clone(), one.clone(), &[1, 2], 1);
        let zero = with(with(one, 3, scalar(3i8)), 4, self.f(&[5]));
        self.add_partial("a zero and a bias", plain.clone(), zero, &[1, 2, 3, 4], 1);
        let scales = self.random.between(&[5], 0.01, 0.02);
        let each = all(vec![x, self.bytes(&[8, 5]), scales.clone(), self.bytes(&[5])]);
        self.add_partial("a scale for each column", plain.clone(), each, &[1, 2, 3], 1);
        let nothing = self.random.between(&[3, 8], 0.0, 0.0);
        let nothing = all(vec![nothing, self.signed(&[8, 5]), scalar(0.02f32), scalar(3i8), self.f(&[5])]);
        self.add_partial("zeros", plain, nothing, &[1, 2, 3, 4], 1);
        let plain = of("MatMulIntegerToFloat");
        for signed in [false, true] {
            let a = if signed { self.signed(&[2, 3, 8]) } else { self.bytes(&[2, 3, 8]) };
            let base = all(vec![a, self.signed(&[8, 5]), scalar(0.02f32), scales.clone()]);
            let detail = if signed { "int8" } else { "uint8" };
            self.add_partial(detail, plain.clone(), base.clone(), &[1, 2, 3], 1);
            let zero = if signed { scalar(7i8) } else { scalar(7u8) };
            let zeros = with(with(with(base, 4, zero), 5, self.signed(&[5])), 6, self.f(&[5]));
            self.add_partial(&format!("{detail} with all inputs"), plain.clone(), zeros, &[1, 2, 3, 4, 5, 6], 1);
        }
        let sums = self.whole(DType::I32, &[5], (-500.0, 500.0));
        for (ta, tb) in [(0, 0), (0, 1), (1, 0)] {
            let a = if ta > 0 { [8, 3] } else { [3, 8] };
            let b = if tb > 0 { [5, 8] } else { [8, 5] };
            let operator = of("QGemm").with("transA", int(ta)).with("transB", int(tb)).with("alpha", real(0.5));
            let (a, b) = (self.bytes(&a), self.signed(&b));
            let base = all(vec![a, scalar(0.02f32), scalar(120u8), b, scales.clone()]);
            let base = with(base, 5, Tensor::from_vec(&[5], vec![0i8; 5]));
            self.add_partial(&format!("{ta}{tb} to float"), operator.clone(), base.clone(), &[1, 2, 3, 4, 5], 1);
            let summed = with(base, 6, sums.clone());
            self.add_partial(&format!("{ta}{tb} with sums"), operator.clone(), summed.clone(), &[1, 2, 3, 4, 5, 6], 1);
            let whole = with(with(summed, 7, scalar(0.25f32)), 8, scalar(90u8));
            let constants = [1, 2, 3, 4, 5, 6, 7, 8];
            self.add_partial(&format!("{ta}{tb} to uint8"), operator, whole, &constants, 1);
        }
    }

    fn quantised_functions(&mut self) {
        // Scales are powers of two, so that a sum lies on a half only where that is exact.
        let step = |power: i32| scalar(2.0f32.powi(power));
        for (name, scale) in [("QLinearAdd", step(-4)), ("QLinearMul", step(-3))] {
            let both =
                [(self.bytes(&[3, 40]), self.bytes(&[40]), true), (self.signed(&[3, 1]), self.signed(&[40]), false)];
            for (a, b, unsigned) in both {
                let zero = |value: u8| if unsigned { scalar(value) } else { scalar(value as i8) };
                let inputs = vec![a, step(-5), zero(120), b, step(-5), zero(100), scale.clone(), zero(90)];
                let detail = if unsigned { "uint8" } else { "int8" };
                self.add(detail, of(name), inputs, &[1, 2, 4, 5, 6, 7], 1);
            }
        }
        for (name, scale) in [("QLinearSigmoid", scalar(0.004f32)), ("QLinearLeakyRelu", scalar(0.031f32))] {
            let x = self.bytes(&[16, 16]);
            let mut base = all(vec![x, scalar(0.02f32), scalar(120u8), scale]);
            base.push(None);
            self.add_partial("uint8", of(name), base.clone(), &[1, 2, 3], 1);
            self.add_partial("with a zero", of(name), with(base, 4, scalar(9u8)), &[1, 2, 3, 4], 1);
            let x = self.signed(&[16, 16]);
            let inputs = vec![x, scalar(0.02f32), scalar(-20i8), scalar(0.013f32), scalar(4i8)];
            self.add("int8", of(name), inputs, &[1, 2, 3, 4], 1);
        }
        let bent = of("QLinearLeakyRelu").with("alpha", real(0.3));
        let inputs = vec![self.bytes(&[16, 16]), scalar(0.02f32), scalar(120u8), scalar(0.021f32), scalar(90u8)];
        self.add("alpha", bent, inputs, &[1, 2, 3, 4], 1);
        for last in [0, 1] {
            let operator = of("QLinearGlobalAveragePool").with("channels_last", int(last));
            let inputs =
                vec![self.bytes(&[2, 5, 7, 3]), scalar(0.02f32), scalar(120u8), scalar(0.0051f32), scalar(90u8)];
            self.add(&format!("channels last {last}"), operator, inputs, &[1, 2, 3, 4], 1);
        }
        for with_padding in [0, 1] {
            let operator = of("QLinearAveragePool")
                .with("kernel_shape", ints(&[3, 2]))
                .with("pads", ints(&[1, 0, 1, 1]))
                .with("count_include_pad", int(with_padding));
            let inputs =
                vec![self.bytes(&[2, 5, 7, 3]), scalar(0.02f32), scalar(120u8), scalar(0.0151f32), scalar(90u8)];
            self.add(&format!("padding {with_padding}"), operator, inputs, &[1, 2, 3, 4], 1);
        }
        for (version, axis, shape) in [(13, -1, &[4, 10][..]), (13, 1, &[4, 5, 3]), (11, 1, &[4, 5, 2])] {
            let operator = of("QLinearSoftmax").with("axis", int(axis)).with("opset", int(version));
            let inputs = vec![self.bytes(shape), scalar(0.1f32), scalar(120u8), step(-8), scalar(0u8)];
            self.add(&format!("uint8 {version} {axis}"), operator.clone(), inputs, &[1, 2, 3, 4], 1);
            let inputs = vec![self.signed(shape), scalar(0.1f32), scalar(12i8), step(-8), scalar(-128i8)];
            self.add(&format!("int8 {version} {axis}"), operator, inputs, &[1, 2, 3, 4], 1);
        }
        let operator = of("QLinearConcat").with("axis", int(1));
        let inputs = vec![scalar(0.03f32), scalar(90u8)];
        let parts =
            [self.bytes(&[2, 3]), scalar(0.02f32), scalar(120u8), self.bytes(&[2, 5]), scalar(0.04f32), scalar(100u8)];
        self.add("of two", operator, [inputs, parts.to_vec()].concat(), &[0, 1, 3, 4, 6, 7], 1);
        for dtype in [DType::U8, DType::I8, DType::U16, DType::I16] {
            let (low, high) = if matches!(dtype, DType::U8 | DType::U16) { (0.0, 250.0) } else { (-120.0, 120.0) };
            let zero = self.whole(dtype, &[1], (0.0, 9.9));
            let zero = crate::cases::evaluate(&Operator::new("Squeeze", 13), &[zero]);
            let x = self.random.between(&[4, 5], -3.0, 3.0);
            let inputs = vec![x.clone(), scalar(0.013f32), zero.clone()];
            self.add(&format!("{dtype}"), of("QuantizeLinear"), inputs, &[1, 2], 1);
            let codes = self.whole(dtype, &[4, 5], (low, high));
            let inputs = vec![codes.clone(), scalar(0.013f32), zero];
            self.add(&format!("{dtype}"), of("DequantizeLinear"), inputs, &[1, 2], 1);
            for (axis, length) in [(0, 4), (1, 5)] {
                let scales = self.random.between(&[length], 0.011, 0.02);
                let zeros = self.whole(dtype, &[length], (0.0, 9.9));
                let detail = format!("{dtype} axis {axis}");
                for (name, x) in [("QuantizeLinear", &x), ("DequantizeLinear", &codes)] {
                    let inputs = vec![x.clone(), scales.clone(), zeros.clone()];
                    self.add(&detail, of(name).with("axis", int(axis)), inputs, &[1, 2], 1);
                }
            }
        }
        let x = self.random.between(&[4, 5], 0.0, 3.0);
        self.add("without a zero", of("QuantizeLinear"), vec![x, scalar(0.013f32)], &[1], 1);
    }

    fn quantised_lstm(&mut self) {
        let (steps, width, hidden) = (4, 6, 5);
        for (direction, count) in [("forward", 1), ("reverse", 1), ("bidirectional", 2)] {
            for (batch, each) in [(1, false), (1, true), (3, false)] {
                let operator = of("DynamicQuantizeLSTM").with("direction", text(direction));
                let operator = operator.with("hidden_size", int(hidden as i64));
                let scales = if each { vec![count, 4 * hidden] } else { vec![count] };
                let zeros = || Tensor::from_vec(&scales, vec![0i8; scales.iter().product()]);
                let mut inputs = all(vec![
                    self.f(&[steps, batch, width]),
                    self.signed(&[count, width, 4 * hidden]),
                    self.signed(&[count, hidden, 4 * hidden]),
                ]);
                inputs.resize(8, None);
                for _ in 0..2 {
                    inputs.push(Some(self.random.between(&scales, 0.005, 0.01)));
                    inputs.push(Some(zeros()));
                }
                let constants = [1, 2, 3, 7, 8, 9, 10, 11];
                let detail = format!("{direction}, batch {batch}, a scale for each row {each}");
                self.add_partial(&detail, operator.clone(), inputs.clone(), &constants, 3);
                let biased = with(inputs, 3, self.f(&[count, 8 * hidden]));
                let begun = with(biased, 5, self.f(&[count, batch, hidden]));
                let begun = with(begun, 6, self.f(&[count, batch, hidden]));
                let peeping = with(begun, 7, self.f(&[count, 3 * hidden]));
                self.add_partial(&format!("{detail}, with states"), operator, peeping, &constants, 3);
            }
        }
    }
}

/// Returns a mask that holds for all queries as one with a row for each.
fn repeated(mask: &Tensor, queries: usize) -> Result<Tensor> {
    let repeats = i64s(&[1, queries as i64, 1]);
    crate::cases::evaluate(&Operator::new("Tile", 13), &[Ok(mask.clone()), repeats])
}
