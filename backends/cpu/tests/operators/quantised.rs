//! Products of bytes, and the ways from real numbers to quantised ones and back.

use half::{bf16, f16};
use hetero_conformance::Network;
use hetero_hal::{Attribute, DType, Operator, Program, Result, Tensor};

use super::super::Random;
use super::{agree, case, compare, follow, int};

/// Returns random bytes of a type, often extreme ones.
pub(super) fn bytes(random: &mut Random, dtype: DType, shape: &[usize]) -> Tensor {
    let extreme = random.chance(4);
    let byte = |random: &mut Random| match extreme {
        true => random.pick(&[0u8, 127, 128, 255]),
        false => random.size(0, 255) as u8,
    };
    let values: Vec<u8> = (0..shape.iter().product()).map(|_| byte(random)).collect();
    Tensor::from_bytes(dtype, shape, values.into()).unwrap()
}

pub(super) const BYTES: [DType; 2] = [DType::U8, DType::I8];

/// Returns the shapes of two stacks of matrices of which a product can be made.
fn stacks(random: &mut Random) -> (Vec<usize>, Vec<usize>) {
    let (m, n, k) = (random.size(0, 40), random.size(0, 70), random.size(0, 50));
    let (m, n) = if random.chance(4) { (1, random.size(1, 300)) } else { (m, n) };
    let mut a = vec![m, k];
    let mut b = vec![k, n];
    for _ in 0..random.size(0, 2) {
        let size = random.size(1, 3);
        a.insert(0, if random.chance(3) { 1 } else { size });
        b.insert(0, if random.chance(2) { 1 } else { size });
    }
    if random.chance(2) {
        let longer = if random.chance(2) { &mut a } else { &mut b };
        let lead = longer.len() - 2;
        longer.drain(..random.size(0, lead));
    }
    if random.chance(8) {
        a.drain(..a.len() - 1);
    }
    if random.chance(8) {
        b = vec![k];
    }
    (a, b)
}

#[test]
fn products_of_bytes() {
    agree(41, 250, |random| {
        let (a, b) = stacks(random);
        let (first, second) = (random.pick(&BYTES), random.pick(&BYTES));
        let rows = if a.len() > 1 { a[a.len() - 2] } else { 1 };
        let columns = if b.len() > 1 { b[b.len() - 1] } else { 1 };
        let zero = |random: &mut Random, dtype: DType, lines: usize, of: &dyn Fn(usize) -> Vec<usize>| match random
            .size(0, 3)
        {
            0 => None,
            1 => Some(bytes(random, dtype, &[])),
            2 => Some(bytes(random, dtype, &[1])),
            _ => Some(bytes(random, dtype, &of(lines))),
        };
        let left = zero(random, first, rows, &|lines| vec![lines]);
        let right = zero(random, second, columns, &|lines| vec![lines]);
        let by_row = left.as_ref().is_some_and(|zero| zero.len() != 1);
        let inputs = vec![Some(bytes(random, first, &a)), Some(bytes(random, second, &b)), left, right];
        // The rows of a stack times one matrix are one product, whose rows are not one matrix's.
        let one = b[..b.len().saturating_sub(2)].iter().all(|&size| size == 1) && a.len() >= b.len();
        let stacked = a[..a.len().saturating_sub(2)].iter().product::<usize>() != 1;
        let native = !(one && stacked && by_row);
        let constants = random.pick(&[&[][..], &[1], &[1, 2, 3], &[2, 3]]);
        (case(Operator::new("MatMulInteger", 10), inputs, constants, 1), native)
    });
}

#[test]
fn deep_products_of_bytes_and_rows_that_alias() {
    agree(42, 4, |random| {
        let (m, k, n) = (random.size(30, 200), random.pick(&[2048, 4096, 1030]), random.size(60, 100));
        let (first, second) = (random.pick(&BYTES), random.pick(&BYTES));
        let inputs = vec![
            Some(bytes(random, first, &[m, k])),
            Some(bytes(random, second, &[k, n])),
            Some(bytes(random, first, &[])),
            Some(bytes(random, second, &[n])),
        ];
        (case(Operator::new("MatMulInteger", 10), inputs, random.pick(&[&[][..], &[1]]), 1), true)
    });
}

#[test]
fn products_that_are_quantised_again() {
    agree(46, 200, |random| {
        let (a, b) = stacks(random);
        let [first, second, third] = [0; 3].map(|_| random.pick(&BYTES));
        let columns = if b.len() > 1 { b[b.len() - 1] } else { 1 };
        let scales = random.pick(&[DType::F32, DType::F32, DType::F16, DType::BF16]);
        let one: &[usize] = if random.chance(2) { &[] } else { &[1] };
        // Many sums times scale are halves, which are rounded to even.
        let scale = |random: &mut Random, shape: &[usize]| {
            let scale = |random: &mut Random| random.pick(&[1.0f32, 0.5, 0.25, 0.013, 2.0]);
            Some(reals(scales, shape, (0..shape.iter().product()).map(|_| scale(random)).collect()))
        };
        let each: &[usize] = if random.chance(2) { one } else { &[columns] };
        let inputs = vec![
            Some(bytes(random, first, &a)),
            scale(random, one),
            Some(bytes(random, first, one)),
            Some(bytes(random, second, &b)),
            scale(random, each),
            Some(bytes(random, second, each)),
            Some(reals(scales, one, vec![random.pick(&[2.0, 64.0, 300.0])])),
            Some(bytes(random, third, one)),
        ];
        let constants = random.pick(&[&[][..], &[3], &[1, 2, 3, 4, 5, 6, 7]]);
        (case(Operator::new("QLinearMatMul", 21), inputs, constants, 1), true)
    });
}

/// Returns an operator of ONNX Runtime's own domain.
fn contributed(name: &str) -> Operator {
    Operator { domain: "com.microsoft".into(), ..Operator::new(name, 1) }
}

/// Returns scales for all columns or for each; they are powers of two where sums shall be exact.
fn steps(random: &mut Random, columns: usize) -> Tensor {
    let shape: &[usize] = if random.chance(2) { &[columns] } else { random.pick(&[&[][..], &[1]]) };
    let scale = |random: &mut Random| random.pick(&[0.5f32, 0.25, 0.013, 0.0371]);
    reals(DType::F32, shape, (0..shape.iter().product()).map(|_| scale(random)).collect())
}

#[test]
fn products_of_bytes_that_become_real_numbers() {
    agree(47, 250, |random| {
        let (m, n, k) = (random.size(1, 30), random.size(2, 70), random.size(1, 50));
        let (first, second) = (random.pick(&BYTES), random.pick(&BYTES));
        let lead = if random.chance(2) { vec![] } else { vec![random.size(1, 3)] };
        let a = [&lead[..], &[m, k]].concat();
        let b = if random.chance(4) { [&lead[..], &[k, n]].concat() } else { vec![k, n] };
        let (scale, scales) = (Tensor::scalar(random.pick(&[0.02f32, 0.5])), steps(random, n));
        let left_zero = random.chance(2).then(|| bytes(random, first, &[]));
        let right_zero = random.chance(2).then(|| bytes(random, second, scales.shape()));
        let bias = random.chance(2).then(|| random.tensor(&[n], 1.0).unwrap());
        let dynamic = random.chance(2);
        let (operator, inputs) = if dynamic {
            let x = random.tensor(&a, 1.0).unwrap();
            let inputs = vec![Some(x), Some(bytes(random, second, &b)), Some(scales), right_zero, bias];
            (contributed("DynamicQuantizeMatMul"), inputs)
        } else {
            let matrices = [Some(bytes(random, first, &a)), Some(bytes(random, second, &b))];
            let rest = [Some(scale), Some(scales), left_zero, right_zero, bias];
            (contributed("MatMulIntegerToFloat"), [&matrices[..], &rest].concat())
        };
        let weights: &[usize] = if dynamic { &[1, 2, 3, 4] } else { &[1, 2, 3, 4, 5, 6] };
        let constants = random.pick(&[&[][..], &[1], weights]);
        (case(operator, inputs, constants, 1), true)
    });
}

#[test]
fn products_of_bytes_with_sums() {
    agree(48, 250, |random| {
        let (m, n, k) = (random.size(1, 30), random.size(2, 70), random.size(1, 50));
        let (first, second) = (random.pick(&BYTES), random.pick(&BYTES));
        let (a_turned, b_turned) = (random.chance(3), random.chance(2));
        let alpha = random.pick(&[1.0f32, 1.0, 0.5]);
        let operator = contributed("QGemm")
            .with("transA", int(a_turned.into()))
            .with("transB", int(b_turned.into()))
            .with("alpha", Attribute::Float(alpha));
        let (a, b) = (if a_turned { [k, m] } else { [m, k] }, if b_turned { [n, k] } else { [k, n] });
        let scales = steps(random, n);
        let right_zero = bytes(random, second, scales.shape());
        let sums = (0..n).map(|_| random.size(0, 4000) as i32 - 2000).collect();
        let inputs = vec![
            Some(bytes(random, first, &a)),
            Some(Tensor::scalar(random.pick(&[0.02f32, 0.5]))),
            Some(bytes(random, first, &[])),
            Some(bytes(random, second, &b)),
            Some(scales),
            Some(right_zero),
            random.chance(2).then(|| Tensor::from_vec(&[n], sums).unwrap()),
        ];
        (case(operator, inputs, random.pick(&[&[][..], &[3], &[1, 2, 3, 4, 5, 6]]), 1), true)
    });
}

/// Returns a tensor of real numbers of a type.
fn reals(dtype: DType, shape: &[usize], values: Vec<f32>) -> Tensor {
    match dtype {
        DType::F32 => Tensor::from_vec(shape, values),
        DType::F16 => Tensor::from_vec(shape, values.into_iter().map(f16::from_f32).collect()),
        _ => Tensor::from_vec(shape, values.into_iter().map(bf16::from_f32).collect()),
    }
    .unwrap()
}

/// Returns codes of a type.
fn codes(random: &mut Random, dtype: DType, shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>() * dtype.bits() / 8;
    let byte = |random: &mut Random| -> u8 { if random.chance(2) { random.pick(&[0, 1, 127, 128, 255]) } else { 77 } };
    let bytes: Vec<u8> = (0..count).map(|_| byte(random).wrapping_add(random.size(0, 1) as u8)).collect();
    Tensor::from_bytes(dtype, shape, bytes.into()).unwrap()
}

/// Returns the shape of scales for an operand of this shape, and the operator with the attributes
/// for them.
fn spread(random: &mut Random, operator: Operator, shape: &[usize]) -> (Operator, Vec<usize>) {
    let axis = random.size(0, shape.len() - 1);
    let named = if random.chance(2) { axis as i64 } else { axis as i64 - shape.len() as i64 };
    let operator = operator.with("axis", Attribute::Int(named));
    match random.size(0, 3) {
        0 => (operator, vec![]),
        1 => (operator, vec![1]),
        2 => (operator, vec![shape[axis]]),
        _ => {
            let block = random.pick(&[1, 2, 4]);
            let mut sizes = shape.to_vec();
            sizes[axis] = shape[axis].div_ceil(block);
            (operator.with("block_size", int(block)), sizes)
        }
    }
}

/// Returns a shape whose dimensions are multiples of four.
fn shape(random: &mut Random) -> Vec<usize> {
    (0..random.size(1, 4)).map(|_| 4 * random.size(1, 4)).collect()
}

#[test]
fn quantisation() {
    agree(43, 300, |random| {
        let shape = shape(random);
        let (operator, sizes) = spread(random, Operator::new("QuantizeLinear", 21), &shape);
        let (from, to) = (
            random.pick(&[DType::F32, DType::F32, DType::F16, DType::BF16]),
            random.pick(&[DType::U8, DType::I8, DType::U16, DType::I16]),
        );
        let count = shape.iter().product();
        // Many quotients are halves, which are rounded to even.
        let reach = random.pick(&[3.0, 200.0, 70000.0, 1e12]);
        let mut x: Vec<f32> = random.floats(count, reach).into_iter().map(|x| (x * 2.0).round() / 2.0).collect();
        if random.chance(3) {
            x[0] = random.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0]);
        }
        let scales: Vec<f32> =
            (0..sizes.iter().product()).map(|_| random.pick(&[1.0f32, 0.5, 0.037, 3.0, 1e-3])).collect();
        let zero = random.chance(2).then(|| codes(random, to, &sizes));
        let named = zero.is_none() && to != DType::U8;
        let operator =
            if named { operator.with("output_dtype", Attribute::Int(to.onnx_code().into())) } else { operator };
        let inputs = vec![Some(reals(from, &shape, x)), Some(reals(from, &sizes, scales)), zero];
        (case(operator, inputs, random.pick(&[&[][..], &[1, 2]]), 1), true)
    });
}

#[test]
fn restoring() {
    agree(44, 300, |random| {
        let shape = shape(random);
        let (operator, sizes) = spread(random, Operator::new("DequantizeLinear", 21), &shape);
        let (from, to) = (
            random.pick(&[DType::U8, DType::I8, DType::U16, DType::I16, DType::I32]),
            random.pick(&[DType::F32, DType::F32, DType::F16, DType::BF16]),
        );
        let scales: Vec<f32> =
            (0..sizes.iter().product()).map(|_| random.pick(&[1.0f32, 0.5, 0.037, 3.0, 1e-3])).collect();
        let zero = random.chance(2).then(|| codes(random, from, &sizes));
        let inputs = vec![Some(codes(random, from, &shape)), Some(reals(to, &sizes, scales)), zero];
        (case(operator, inputs, random.pick(&[&[][..], &[1, 2]]), 1), true)
    });
}

#[test]
fn dynamic_quantisation() {
    agree(45, 120, |random| {
        let count = random.pick(&[0, 1, 7, 100, 70_000]);
        let reach = random.pick(&[1.0, 1e-3, 1e9]);
        let mut x = random.floats(count, reach);
        match random.size(0, 5) {
            0 => x.iter_mut().for_each(|x| *x = x.abs()),
            1 => x.iter_mut().for_each(|x| *x = -x.abs() - 1.0),
            2 => x.fill(0.0),
            3 if count > 0 => x[count / 2] = f32::NAN,
            _ => {}
        }
        let x = Tensor::from_vec(&[count], x).unwrap();
        (case(Operator::new("DynamicQuantizeLinear", 11), vec![Some(x)], &[], 3), true)
    });
}

/// Makes a product as dynamic quantisation writes it, with the nodes behind it that there may be.
fn scaled(seed: u64) -> Result<(Program, Vec<Tensor>)> {
    let mut network = Network::new("scaled", seed);
    let (m, n, k) = (network.random.size(1, 40), network.random.size(1, 80), network.random.size(1, 60));
    let shape = if network.random.chance(2) { vec![2, m, k] } else { vec![m, k] };
    let x = network.input(&shape);
    let (first, second) = (network.random.pick(&BYTES), network.random.pick(&BYTES));
    let one = |value: f32| Tensor::from_vec(&[], vec![value]);
    let (scale, zero) = (network.given(one(0.01)?), bytes(&mut network.random, first, &[]));
    let zero = network.given(zero);
    let q = network.node(Operator::new("QuantizeLinear", 13), &[x, scale, zero])?;
    let weights = bytes(&mut network.random, second, &[k, n]);
    let by_column = network.random.chance(2);
    let sizes: &[usize] = if by_column { &[n] } else { &[] };
    let zeros = bytes(&mut network.random, second, sizes);
    let (weights, zeros) = (network.given(weights), network.given(zeros));
    let sums = network.node(Operator::new("MatMulInteger", 10), &[q, weights, zero, zeros])?;
    let real = network.node(Operator::new("Cast", 13).with("to", int(1)), &[sums])?;
    let mut scale = network.constant(sizes, 0.02)?;
    if network.random.chance(2) {
        let other = network.input(&[1]);
        scale = network.node(Operator::new("Mul", 14), &[other, scale])?;
        if network.random.chance(4) {
            // Another node reads the product of the scales too.
            network.node(Operator::new("Neg", 13), &[scale])?;
        }
    }
    let operands = if network.random.chance(2) { [real, scale] } else { [scale, real] };
    let mut y = network.node(Operator::new("Mul", 14), &operands)?;
    if network.random.chance(2) {
        let sizes: &[usize] = if network.random.chance(3) { &[1, n] } else { &[n] };
        let bias = network.constant(sizes, 3.0)?;
        y = network.node(Operator::new("Add", 14), &[bias, y])?;
    }
    match network.random.size(0, 3) {
        0 => y = network.node(Operator::new("Relu", 14), &[y])?,
        1 => y = network.node(Operator::new("Tanh", 13), &[y])?,
        2 => {
            network.node(Operator::new("Sigmoid", 13), &[y])?;
        }
        _ => {}
    }
    network.node(Operator::new("Abs", 13), &[y])?;
    network.finish()
}

#[test]
fn products_whose_sums_become_real_numbers() {
    follow(scaled, compare);
}
