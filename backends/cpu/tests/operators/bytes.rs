//! Convolutions of bytes.

use hetero_conformance::Network;
use hetero_hal::{Attribute, DType, Operator, Program, Result, Tensor};

use super::super::Random;
use super::quantised::{BYTES, bytes};
use super::{agree, case, follow, int};

/// Returns scales of which some are powers of two, so that results lie between two steps.
fn scales(random: &mut Random, count: usize, least: i32) -> Tensor {
    let exact = random.chance(2);
    let scale = |random: &mut Random| {
        let power = (random.size(0, 5) as i32 + least) as f32;
        power.exp2() * if exact { 1.0 } else { 1.0 + random.size(0, 1000) as f32 / 1001.0 }
    };
    let values: Vec<f32> = (0..count).map(|_| scale(random)).collect();
    match count {
        1 => Tensor::scalar(values[0]),
        _ => Tensor::from_vec(&[count], values).unwrap(),
    }
}

/// A convolution's attributes, and the shapes of its input and weights.
fn convolution(random: &mut Random, name: &str) -> (Operator, Vec<usize>, Vec<usize>) {
    let flat = random.chance(4);
    let (groups, channels, filters) = match random.size(0, 5) {
        // Each channel by itself.
        0 => (random.size(1, 40), 1, 1),
        1 => (random.size(2, 4), random.size(1, 9), random.size(1, 20)),
        2 => (1, random.pick(&[1, 2, 3]), random.size(1, 40)),
        _ => (1, random.size(1, 40), random.size(1, 70)),
    };
    let rank = if flat { 1 } else { 2 };
    let kernel: Vec<usize> = (0..rank).map(|_| random.size(1, 4)).collect();
    let spatial: Vec<usize> = kernel.iter().map(|size| random.size(2 * size, 14)).collect();
    let strides: Vec<i64> = kernel.iter().map(|_| random.size(1, 2) as i64).collect();
    let dilations: Vec<i64> = kernel.iter().map(|_| random.size(1, 2) as i64).collect();
    let pads: Vec<i64> = (0..2 * rank).map(|_| random.size(0, 3) as i64).collect();
    let operator = Operator::new(name, 10)
        .with("group", int(groups))
        .with("strides", Attribute::Ints(strides))
        .with("dilations", Attribute::Ints(dilations))
        .with("pads", Attribute::Ints(pads));
    let x = [&[random.size(1, 2), groups * channels], &spatial[..]].concat();
    let w = [&[groups * filters, channels], &kernel[..]].concat();
    (operator, x, w)
}

#[test]
fn quantised_convolutions_are_exact() {
    agree(61, 300, |random| {
        let (operator, x, w) = convolution(random, "QLinearConv");
        let (left, right, result) = (random.pick(&BYTES), random.pick(&BYTES), random.pick(&BYTES));
        let filters = w[0];
        let each = if random.chance(2) { filters } else { 1 };
        let w_zero =
            if each > 1 && random.chance(2) { bytes(random, right, &[filters]) } else { bytes(random, right, &[]) };
        let bias = (0..filters).map(|_| random.size(0, 4000) as i32 - 2000).collect();
        let inputs = vec![
            Some(bytes(random, left, &x)),
            Some(scales(random, 1, -7)),
            Some(bytes(random, left, &[])),
            Some(bytes(random, right, &w)),
            Some(scales(random, each, -7)),
            Some(w_zero),
            Some(scales(random, 1, -4)),
            Some(bytes(random, result, &[])),
            random.chance(2).then(|| Tensor::from_vec(&[filters], bias).unwrap()),
        ];
        (case(operator, inputs, &[1, 2, 3, 4, 5, 6, 7, 8], 1), true)
    });
}

#[test]
fn integer_convolutions_are_exact() {
    agree(62, 200, |random| {
        let (operator, x, w) = convolution(random, "ConvInteger");
        let (left, right) = (random.pick(&BYTES), random.pick(&BYTES));
        let each = if random.chance(2) { vec![] } else { vec![w[0]] };
        let zero = random.chance(2).then(|| bytes(random, left, &[]));
        let w_zero = random.chance(2).then(|| bytes(random, right, &each));
        let inputs = vec![Some(bytes(random, left, &x)), Some(bytes(random, right, &w)), zero, w_zero];
        let constants = if random.chance(2) { &[1, 3][..] } else { &[1, 2, 3] };
        (case(operator, inputs, constants, 1), true)
    });
}

/// Makes a convolution of bytes with the nodes that make its sums real numbers, as dynamic
/// quantisation writes them.
fn scaled(seed: u64) -> Result<(Program, Vec<Tensor>)> {
    let mut network = Network::new("scaled", seed);
    let (operator, x, w) = convolution(&mut network.random, "ConvInteger");
    let x = network.input(&x);
    let (step, zero) = (network.given(Tensor::scalar(0.008f32)), network.given(Tensor::scalar(120u8)));
    let x = network.node(Operator::new("QuantizeLinear", 13), &[x, step, zero])?;
    let offset = network.input(&[]);
    let x_zero = network.node(Operator::new("QuantizeLinear", 13), &[offset, step, zero])?;
    let (weights, w_zero) = (bytes(&mut network.random, DType::U8, &w), bytes(&mut network.random, DType::U8, &[]));
    let [weights, w_zero] = [weights, w_zero].map(|content| network.given(content));
    let sums = network.node(operator, &[x, weights, x_zero, w_zero])?;
    let real = network.node(Operator::new("Cast", 13).with("to", Attribute::Int(1)), &[sums])?;
    let (scale, other) = (network.input(&[]), network.given(Tensor::scalar(0.01f32)));
    let scale = network.node(Operator::new("Mul", 14), &[scale, other])?;
    let operands = if network.random.chance(2) { [real, scale] } else { [scale, real] };
    let mut y = network.node(Operator::new("Mul", 14), &operands)?;
    if !network.random.chance(4) {
        let mut sizes = vec![1; w.len() - 1];
        sizes[0] = w[0];
        // Such a bias lies along the last axis, unless that has one place.
        if network.random.chance(8) && *network.shape(y).last().unwrap_or(&0) == w[0] {
            sizes = vec![w[0]];
        }
        let bias = network.constant(&sizes, 3.0)?;
        y = network.node(Operator::new("Add", 14), &[bias, y])?;
    }
    match network.random.size(0, 3) {
        0 => y = network.node(Operator::new("Relu", 14), &[y])?,
        1 => {
            network.node(Operator::new("Neg", 13), &[y])?;
        }
        _ => {}
    }
    network.node(Operator::new("Abs", 13), &[y])?;
    network.finish()
}

#[test]
fn convolutions_whose_sums_become_real_numbers_are_exact() {
    follow(
        scaled,
        |actual, expected| {
            if actual == expected { Ok(()) } else { Err(format!("{actual:?} is not {expected:?}")) }
        },
    );
}
