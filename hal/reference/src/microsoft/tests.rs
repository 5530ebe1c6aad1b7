//! Tests of the operators of `com.microsoft`: values known by hand, inputs that do not fit, and
//! bodies that mean the same whatever is known of their inputs.

use hetero_hal::{
    Allowance, Attribute, DType, ErrorKind, Inference, InputFact, Operator, OperatorSet, Result, Tensor, TensorType,
};

use super::{DEFINITIONS, DOMAIN};
use crate::Standard;
use crate::numbers::floats;

fn of(name: &str) -> Operator {
    Operator { domain: DOMAIN.into(), ..Operator::new(name, 1) }
}

fn int(value: i64) -> Attribute {
    Attribute::Int(value)
}

fn real(shape: &[usize], values: &[f32]) -> Option<Tensor> {
    Some(Tensor::from_vec(shape, values.to_vec()).unwrap())
}

fn filled(shape: &[usize]) -> Option<Tensor> {
    let count = shape.iter().product();
    real(shape, &(0..count).map(|at| (at as f32 * 0.7).sin()).collect::<Vec<_>>())
}

fn bytes(shape: &[usize], values: &[u8]) -> Option<Tensor> {
    Some(Tensor::from_vec(shape, values.to_vec()).unwrap())
}

fn i32s(shape: &[usize], values: &[i32]) -> Option<Tensor> {
    Some(Tensor::from_vec(shape, values.to_vec()).unwrap())
}

fn first(operator: &Operator, inputs: &[Option<Tensor>]) -> Vec<f64> {
    floats(&crate::evaluate(operator, inputs, 1).unwrap()[0]).unwrap()
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0))
}

/// Infers the types of the outputs from what the inputs' types alone tell.
fn inferred(operator: &Operator, inputs: &[Option<Tensor>], outputs: usize) -> Result<Vec<TensorType>> {
    let fact =
        |tensor: &Tensor| InputFact { ty: TensorType::exact(tensor.dtype(), tensor.shape()), ..InputFact::default() };
    let facts: Vec<_> = inputs.iter().map(|input| input.as_ref().map(fact)).collect();
    let none = |_: &str, _: &[TensorType]| Ok(vec![]);
    let inference = Inference { operator, inputs: &facts, outputs, subgraph: &none };
    (Standard.find(operator).unwrap().infer)(&inference)
}

/// Asserts that inference and the computation refuse a node because of its sizes or attributes.
fn refused(operator: &Operator, inputs: &[Option<Tensor>]) {
    let error = inferred(operator, inputs, 1).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidModel | ErrorKind::OutOfMemory), "{operator}: {error}");
    assert!(error.message().contains(&*operator.name), "the message lacks the operator: {error}");
    assert!(crate::evaluate(operator, inputs, 1).is_err());
}

#[test]
fn the_domain_is_apart_from_the_standards() {
    let old = ["LayerNormalization", "SimplifiedLayerNormalization"];
    for definition in DEFINITIONS.iter().copied().flatten() {
        assert!(definition.domain == DOMAIN || old.contains(&definition.name), "{}", definition.name);
    }
    assert!(Standard.find(&Operator::new("FusedConv", 17)).is_none());
    assert!(Standard.find(&Operator::new("LayerNormalization", 13)).is_some());
}

#[test]
fn weights_are_packed_from_the_lowest_bits_on() {
    // One row of sixteen ones times one column of the codes 0 to 3, four times each.
    let operator = of("MatMulNBits").with("K", int(16)).with("N", int(1)).with("block_size", int(16));
    let x = real(&[1, 16], &[1.0; 16]);
    let four = operator.clone().with("bits", int(4));
    let codes = bytes(&[1, 1, 8], &[0x10, 0x32, 0x10, 0x32, 0x10, 0x32, 0x10, 0x32]);
    let scale = real(&[1, 1], &[0.5]);
    // The sum of the codes is 24, and each is less 8.
    assert_eq!(first(&four, &[x.clone(), codes, scale.clone()]), [0.5 * (24.0 - 16.0 * 8.0)]);
    let two = operator.with("bits", int(2));
    let codes = bytes(&[1, 1, 4], &[0b1110_0100; 4]);
    let zero = bytes(&[1, 1], &[0b01]);
    assert_eq!(first(&two, &[x, codes, scale, zero]), [0.5 * (24.0 - 16.0)]);
}

#[test]
fn a_query_of_a_group_sees_the_cache_and_itself() {
    let operator = of("GroupQueryAttention").with("num_heads", int(2)).with("kv_num_heads", int(1));
    let (q, k) = (real(&[1, 1, 2], &[0.0, 0.0]), real(&[1, 1, 1], &[1.0]));
    let cache = real(&[1, 1, 4, 1], &[3.0, 5.0, 100.0, 100.0]);
    let inputs = [q, k.clone(), real(&[1, 1, 1], &[1.0]), cache.clone(), cache, i32s(&[1], &[2]), i32s(&[], &[3])];
    let outputs = crate::evaluate(&operator, &inputs, 3).unwrap();
    // All scores are 0, so each head gets the mean of 3, 5 and 1.
    assert!(close(&floats(&outputs[0]).unwrap(), &[3.0, 3.0]));
    // What lies behind the fresh key is not kept.
    assert_eq!(floats(&outputs[1]).unwrap(), [3.0, 5.0, 1.0, 0.0]);
}

#[test]
fn a_mask_hides_keys_and_causality_those_that_come_later() {
    let operator = of("MultiHeadAttention").with("num_heads", int(1));
    let (q, v) = (real(&[1, 2, 1], &[0.0, 0.0]), real(&[1, 2, 1], &[2.0, 4.0]));
    let inputs = [q.clone(), q.clone(), v.clone()];
    assert!(close(&first(&operator, &inputs), &[3.0, 3.0]));
    let causal = operator.clone().with("unidirectional", int(1));
    assert!(close(&first(&causal, &inputs), &[2.0, 3.0]));
    let masked = [q.clone(), q, v, None, i32s(&[1, 2], &[0, 1])];
    assert!(close(&first(&operator, &masked), &[4.0, 4.0]));
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_bound() {
    let product = of("MatMulNBits").with("K", int(16)).with("N", int(1)).with("block_size", int(16));
    let (x, codes, scale) = (filled(&[1, 16]), bytes(&[1, 1, 8], &[0; 8]), real(&[1], &[1.0]));
    let inputs = [x.clone(), codes.clone(), scale.clone()];
    assert!(inferred(&product, &inputs, 1).is_ok());
    for (name, value) in [
        ("K", 0),
        ("K", i64::MAX),
        ("N", i64::MIN),
        ("N", 1 << 62),
        ("bits", 3),
        ("block_size", 1 << 62),
        ("block_size", 0),
    ] {
        refused(&product.clone().with(name, int(value)), &inputs);
    }
    refused(&product, &[filled(&[16, 1]), codes.clone(), scale.clone()]);
    refused(&product, &[x.clone(), bytes(&[1, 1, 7], &[0; 7]), scale.clone()]);
    refused(&product, &[x.clone(), codes.clone(), filled(&[2])]);
    refused(&product, &[x.clone(), codes.clone(), scale.clone(), bytes(&[2], &[0; 2])]);

    let heads = of("MultiHeadAttention");
    let line = filled(&[1, 2, 6]);
    for count in [0, -1, 4, i64::MAX] {
        refused(&heads.clone().with("num_heads", int(count)), &[line.clone(), line.clone(), line.clone()]);
    }
    let heads = heads.with("num_heads", int(2));
    refused(&heads, std::slice::from_ref(&line));
    refused(&heads, &[line.clone(), filled(&[2, 2, 6]), line.clone()]);
    refused(&heads, &[line.clone(), line.clone(), line.clone(), filled(&[17])]);
    refused(&heads, &[line.clone(), line.clone(), line.clone(), None, i32s(&[7], &[0; 7])]);
    refused(&heads, &[line.clone(), line.clone(), line.clone(), None, None, filled(&[1, 2, 2, 3])]);

    let attention = of("Attention").with("num_heads", int(2));
    let (w, bias) = (filled(&[6, 18]), filled(&[18]));
    assert!(inferred(&attention, &[line.clone(), w.clone(), bias.clone()], 1).is_ok());
    refused(&attention, &[filled(&[2, 6]), w.clone(), bias.clone()]);
    refused(&attention, &[line.clone(), filled(&[5, 18]), bias.clone()]);
    refused(&attention, &[line.clone(), w.clone(), filled(&[17])]);
    let sizes = attention.clone().with("qkv_hidden_sizes", Attribute::Ints(vec![i64::MAX, i64::MAX, 4]));
    refused(&sizes, &[line.clone(), w.clone(), bias.clone()]);
    refused(&attention, &[line.clone(), w, bias, None, filled(&[2, 1, 2, 4, 4])]);

    let conv = of("FusedConv").with("activation", Attribute::String((*b"Nothing").into()));
    refused(&conv, &[filled(&[1, 1, 3, 3]), filled(&[1, 1, 3, 3])]);
    refused(&of("BiasGelu"), &[filled(&[2, 3]), filled(&[2])]);
    refused(&of("SkipLayerNormalization"), &[filled(&[1, 2, 3]), filled(&[1, 3, 2]), filled(&[3])]);
    refused(&of("SkipLayerNormalization"), &[filled(&[3]), filled(&[3]), filled(&[3])]);
    refused(&of("Inverse"), &[filled(&[2, 3])]);
    refused(
        &of("QLinearAdd"),
        &[bytes(&[2], &[1, 2]), filled(&[2]), None, bytes(&[2], &[1, 2]), real(&[], &[1.0]), None, real(&[], &[1.0])],
    );
    let concat = of("QLinearConcat").with("axis", int(0));
    refused(&concat, &[real(&[], &[1.0]), bytes(&[], &[1]), bytes(&[2], &[1, 2]), real(&[], &[1.0])]);
    refused(&of("RotaryEmbedding"), &[filled(&[1, 2, 6]), i32s(&[1], &[0]), filled(&[4, 2]), filled(&[4, 1])]);
    let blocks = of("GatherBlockQuantized").with("block_size", int(16));
    refused(&blocks, &[bytes(&[1, 8], &[0; 8]), i32s(&[1], &[0]), filled(&[2, 1])]);
    refused(&blocks.with("bits", int(5)), &[bytes(&[1, 8], &[0; 8]), i32s(&[1], &[0]), filled(&[1, 1])]);
}

#[test]
fn a_length_that_the_cache_cannot_have_is_refused() {
    let operator = of("GroupQueryAttention").with("num_heads", int(1)).with("kv_num_heads", int(1));
    let line = filled(&[1, 1, 2]);
    for total in [0, -1, 7, i32::MAX] {
        let cache = filled(&[1, 1, 4, 2]);
        let inputs =
            [line.clone(), line.clone(), line.clone(), cache.clone(), cache, i32s(&[1], &[4]), i32s(&[], &[total])];
        let error = crate::evaluate(&operator, &inputs, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
    }
}

#[test]
fn the_constants_of_a_body_are_taken_from_the_allowance_first() {
    // The mask of a causal attention has a number for each pair of steps.
    let steps = 1 << 20;
    let ty = |dims: &[usize]| Some(InputFact { ty: TensorType::exact(DType::F32, dims), ..InputFact::default() });
    let operator = of("MultiHeadAttention").with("num_heads", int(1)).with("unidirectional", int(1));
    let facts = [ty(&[1, steps, 4]), ty(&[1, steps, 4]), ty(&[1, steps, 4])];
    let none = |_: &str, _: &[TensorType]| Ok(vec![]);
    let inference = Inference { operator: &operator, inputs: &facts, outputs: 1, subgraph: &none };
    let definition = Standard.find(&operator).unwrap();
    let error = definition.body(&inference, &Allowance::new(1 << 30)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
}

#[test]
fn types_are_known_without_content() {
    let cases: [(Operator, Vec<Option<Tensor>>, usize); 4] = [
        (of("FusedMatMul").with("transB", int(1)), vec![filled(&[2, 3, 4]), filled(&[2, 5, 4])], 1),
        (of("SkipLayerNormalization"), vec![filled(&[2, 3, 4]), filled(&[3, 4]), filled(&[4])], 4),
        (of("MultiHeadAttention").with("num_heads", int(2)), vec![filled(&[1, 3, 4]); 3], 3),
        (of("QLinearSigmoid"), vec![bytes(&[2], &[1, 2]), real(&[], &[0.1]), None, real(&[], &[0.1])], 1),
    ];
    for (operator, inputs, outputs) in cases {
        let types = inferred(&operator, &inputs, outputs).unwrap();
        let made = crate::evaluate(&operator, &inputs, outputs).unwrap();
        for (ty, tensor) in types.iter().zip(&made) {
            assert_eq!(*ty, TensorType::exact(tensor.dtype(), tensor.shape()), "{operator}");
        }
    }
}

/// A small generator of pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

const ATTRIBUTES: [&str; 19] = [
    "num_heads",
    "kv_num_heads",
    "rotary_embedding_dim",
    "K",
    "N",
    "bits",
    "block_size",
    "axis",
    "gather_axis",
    "quantize_axis",
    "channels_last",
    "transA",
    "transBatchA",
    "unidirectional",
    "local_window_size",
    "do_rotary",
    "interleaved",
    "opset",
    "smooth_softmax",
];
const SIZES: [i64; 8] = [0, 1, 2, 3, 4, 16, -1, i64::MAX];
const TYPES: [DType; 6] = [DType::F32, DType::U8, DType::I8, DType::I32, DType::I64, DType::U4];

/// Draws an operator of a definition with attributes, and the number of its inputs and outputs.
fn drawn(random: &mut Random, definition: &hetero_hal::Definition) -> (Operator, usize, usize) {
    let mut operator = Operator { domain: definition.domain.into(), ..Operator::new(definition.name, 1) };
    for name in ATTRIBUTES {
        if random.below(3) > 0 {
            operator = operator.with(name, int(random.pick(&SIZES)));
        }
    }
    let most = definition.max_inputs.min(definition.min_inputs + 9);
    let inputs = definition.min_inputs + random.below(most - definition.min_inputs + 1);
    (operator, inputs, 1 + random.below(definition.max_outputs.min(4)))
}

/// Whatever sizes a file names, inference ends in types or an error, without overflow or memory.
#[test]
fn absurd_sizes_end_in_an_error_or_in_types() {
    const DIMS: [usize; 8] = [0, 1, 2, 3, 16, 1 << 32, 1 << 62, i64::MAX as usize];
    let (mut random, mut errors, mut found) = (Random(7), 0, 0);
    for definition in DEFINITIONS.iter().copied().flatten() {
        for _ in 0..400 {
            let (operator, inputs, outputs) = drawn(&mut random, definition);
            let common: Vec<usize> = (0..5).map(|_| random.pick(&DIMS)).collect();
            let mut fact = || {
                let rank = random.below(6);
                let dims: Vec<usize> =
                    (0..rank).map(|at| if random.below(4) > 0 { common[at] } else { random.pick(&DIMS) }).collect();
                let ty = TensorType::exact(random.pick(&TYPES), &dims);
                (random.below(8) > 0).then(|| InputFact { ty, ..InputFact::default() })
            };
            let facts: Vec<_> = (0..inputs).map(|_| fact()).collect();
            let none = |_: &str, _: &[TensorType]| Ok(vec![]);
            let inference = Inference { operator: &operator, inputs: &facts, outputs, subgraph: &none };
            let allowance = Allowance::new(1 << 20);
            match (definition.infer)(&inference).and(definition.body(&inference, &allowance)) {
                Ok(_) => found += 1,
                Err(_) => errors += 1,
            }
        }
    }
    assert!(errors > 1000 && found > 100, "{errors} errors, {found} results");
}

/// Tensors that do not fit each other end in an error or a result, and not in a panic.
#[test]
fn tensors_that_do_not_fit_end_in_an_error_or_a_result() {
    const DIMS: [usize; 6] = [0, 1, 2, 3, 4, 16];
    let (mut random, mut errors, mut found) = (Random(11), 0, 0);
    for definition in DEFINITIONS.iter().copied().flatten() {
        for _ in 0..200 {
            let (operator, inputs, outputs) = drawn(&mut random, definition);
            let common: Vec<usize> = (0..5).map(|_| random.pick(&DIMS)).collect();
            let mut tensor = || {
                let rank = random.below(5);
                let dims: Vec<usize> =
                    (0..rank).map(|at| if random.below(4) > 0 { common[at] } else { random.pick(&DIMS) }).collect();
                let count = dims.iter().product();
                let values = (0..count).map(|_| random.below(6) as f64 - 1.0).collect();
                (random.below(8) > 0).then(|| crate::numbers::pack(values, random.pick(&TYPES), &dims).unwrap())
            };
            let tensors: Vec<_> = (0..inputs).map(|_| tensor()).collect();
            let allowance = Allowance::new(1 << 22);
            let evaluation = hetero_hal::Evaluation::new(&operator, &tensors, outputs, &Standard, &allowance);
            match evaluation.compute() {
                Ok(_) => found += 1,
                Err(_) => errors += 1,
            }
        }
    }
    assert!(errors > 1000 && found > 50, "{errors} errors, {found} results");
}
