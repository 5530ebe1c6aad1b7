//! Tests of every fast kernel against the oracle, with every instruction set that the processor
//! has.
//! They run the whole suite with weights as constants, so that they are packed, and random
//! networks, in which nodes are fused and values change their layout.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod operators;

use std::sync::Arc;

use half::{bf16, f16};
use hetero_conformance::{
    Case, Expectations, Network, Outcome, Random, check_network, network, run_program, run_suite, suite,
};
use hetero_cpu::CpuDriver;
use hetero_hal::{Allowance, Attribute, DType, Device, Driver, OpenOptions, Operator, Program, Result, Tensor};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Opens a device for every instruction set here, or for the one that `HETERO_ISA` names, with one
/// thread and with three.
fn devices() -> Vec<(String, Arc<dyn Device>)> {
    let mut devices: Vec<(String, Arc<dyn Device>)> = Vec::new();
    let only = std::env::var("HETERO_ISA").ok();
    for isa in ["portable", "avx2", "avx512", "neon"] {
        if only.as_ref().is_some_and(|only| only != isa) {
            continue;
        }
        for threads in [1, 3] {
            let extra = vec![("isa".to_owned(), isa.to_owned())];
            let options = OpenOptions { threads: Some(threads), extra, ..OpenOptions::default() };
            match CpuDriver.open(0, &options) {
                Ok(device) => devices.push((format!("{isa}, {threads} threads"), device)),
                Err(error) => println!("{isa} is not tested here: {error}"),
            }
        }
    }
    assert!(devices.len() >= 2, "the portable kernels run everywhere, and what is asked for has to be there");
    devices
}

#[test]
fn the_suite_passes_with_every_instruction_set() {
    for (number, (name, device)) in devices().into_iter().enumerate() {
        let mut cases = suite(number as u64 + 1).unwrap();
        let constant = |case: &Case| Case {
            name: format!("{} with constants", case.name),
            constants: (0..case.inputs.len()).filter(|index| *index > 0 || case.constants.contains(index)).collect(),
            ..case.clone()
        };
        let more: Vec<Case> = cases.iter().filter(|case| case.inputs.len() > 1).map(constant).collect();
        cases.extend(more);
        let report = run_suite(&*device, &cases, &Expectations::default());
        println!("{name}: {} of {} cases passed", report.passed, cases.len());
        assert!(report.wrong.is_empty(), "{name}: {} wrong:\n{}", report.wrong.len(), report.wrong.join("\n"));
        assert_eq!(report.passed, cases.len());
    }
}

/// Makes a convolution with 3×3 windows and sizes for which fewer products pay (see
/// `conv/winograd.rs`).
/// It has nodes that the convolution absorbs, and stands between two nodes that fix the layout of
/// its operands.
fn filtered(seed: u64) -> Result<(Program, Vec<Tensor>)> {
    let mut network = Network::new("filtered", seed);
    let r = &mut network.random;
    let batch = r.size(1, 3);
    let (channels, filters) = (r.size(32, 75), r.size(32, 100));
    let shape = vec![batch, channels, r.size(9, 33), r.size(9, 33)];
    let pads: Vec<i64> = (0..4).map(|_| r.size(0, 2) as i64).collect();
    let (bias, residual, wide) = (r.chance(2), r.chance(2), r.chance(2));
    let x = network.input(&shape);
    let before = network.constant(&[channels, channels, 1, 1], 0.3)?;
    let x = network.node(Operator::new("Conv", 11), &[x, before])?;
    let weights = network.constant(&[filters, channels, 3, 3], 0.1)?;
    let mut operands = vec![x, weights];
    if bias {
        operands.push(network.constant(&[filters], 1.0)?);
    }
    let operator = Operator::new("Conv", 11).with("pads", Attribute::Ints(pads));
    let mut y = network.node(operator, &operands)?;
    if network.random.chance(2) {
        y = network.per_channel(y)?;
    }
    if residual {
        let shape = network.shape(y);
        let other = network.input(&shape);
        y = network.node(Operator::new("Add", 14), &[y, other])?;
    }
    if network.random.chance(2) {
        y = network.activation(y)?;
    }
    if wide {
        // This convolution reads its input with a halo, which the kernel before has to clear.
        let after = network.constant(&[20, filters, 5, 5], 0.1)?;
        let operator = Operator::new("Conv", 11).with("pads", Attribute::Ints(vec![2; 4]));
        network.node(operator, &[y, after])?;
    }
    network.finish()
}

/// Makes a convolution whose result is too large for a core's cache and is read by a pooling; see
/// `conv/pooled.rs`.
fn pooled(seed: u64) -> Result<(Program, Vec<Tensor>)> {
    let mut network = Network::new("pooled", seed);
    let r = &mut network.random;
    let (batch, groups) = (if r.chance(5) { 2 } else { 1 }, if r.chance(4) { 2 } else { 1 });
    let (channels, filters) =
        (r.pick(&[1, 2, 3, 4, 5, 16, 20]) * groups, if groups == 1 { r.size(33, 80) } else { 64 });
    let (window, stride) = (r.pick(&[1, 2, 3, 5]), r.pick(&[1, 2]));
    let side = |r: &mut Random| (64 + r.size(0, 20)) * stride + window;
    let shape = [batch, channels, side(r), side(r)];
    let pads: Vec<i64> = (0..4).map(|_| r.size(0, window - 1) as i64).collect();
    let x = network.input(&shape);
    let weights = network.constant(&[filters, channels / groups, window, window], 0.3)?;
    let bias = network.constant(&[filters], 1.0)?;
    let operator = Operator::new("Conv", 11)
        .with("pads", Attribute::Ints(pads))
        .with("strides", Attribute::Ints(vec![stride as i64; 2]))
        .with("group", Attribute::Int(groups as i64));
    let mut y = network.node(operator, &[x, weights, bias])?;
    if network.random.chance(3) {
        y = network.per_channel(y)?;
    }
    if !network.random.chance(3) {
        y = network.activation(y)?;
    }
    let y = network.pool(y)?;
    if network.random.chance(2) {
        let after = network.constant(&[20, filters, 3, 3], 0.1)?;
        let operator = Operator::new("Conv", 11).with("pads", Attribute::Ints(vec![1; 4]));
        network.node(operator, &[y, after])?;
    }
    network.finish()
}

/// Checks that networks of random seeds give what the oracle gives, on every device.
fn agree(make: fn(u64) -> Result<(Program, Vec<Tensor>)>, usual: u32) {
    let devices = devices();
    let cases = std::env::var("HETERO_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let outcome = runner.run(&any::<u64>(), |seed| {
        let (program, inputs) = make(seed).map_err(|error| TestCaseError::fail(error.to_string()))?;
        for (name, device) in &devices {
            let outcome = check_network(&**device, &program, &inputs);
            prop_assert!(matches!(outcome, Outcome::Passed(_)), "{name}, seed {seed}: {outcome:?}");
        }
        Ok(())
    });
    let found = outcome.err().map(|error| error.to_string());
    assert!(found.is_none(), "{}", found.unwrap_or_default());
    println!("{cases} networks on {} devices", devices.len());
}

/// Makes an attention by its parts, as exporters write it.
fn parts_of_attention(seed: u64) -> Result<(Program, Vec<Tensor>)> {
    let mut network = Network::new("attention", seed);
    let r = &mut network.random;
    let (batch, heads, queries, keys) = (r.size(1, 2), r.size(1, 3), r.size(1, 70), r.size(1, 150));
    let (width, v_width) = (r.pick(&[1, 8, 16, 33]), r.pick(&[1, 8, 40]));
    let [flat, turned, equation, scale_first, masked, full, wide] = std::array::from_fn(|_| r.chance(2));
    let turn = |order: &[i64]| Operator::new("Transpose", 21).with("perm", Attribute::Ints(order.to_vec()));
    let scale = network.given(Tensor::scalar(0.3f32));
    let (heads, turned) = if flat { (1, false) } else { (heads, turned) };
    let operand = |network: &mut Network, steps: usize, width: usize| {
        if flat {
            return Ok(network.input(&[batch, steps, width]));
        }
        match turned {
            true => {
                let x = network.input(&[batch, steps, heads, width]);
                network.node(turn(&[0, 2, 1, 3]), &[x])
            }
            false => Ok(network.input(&[batch, heads, steps, width])),
        }
    };
    let mut q = operand(&mut network, queries, width)?;
    let (k, v) = (operand(&mut network, keys, width)?, operand(&mut network, keys, v_width)?);
    if scale_first {
        q = network.node(Operator::new("Mul", 14), &[q, scale])?;
    }
    let of = |text: &str| Operator::new("Einsum", 12).with("equation", Attribute::String(text.as_bytes().into()));
    let mut scores = if equation {
        network.node(of("...id,...jd->...ij"), &[q, k])?
    } else {
        let k = network.node(if flat { turn(&[0, 2, 1]) } else { turn(&[0, 1, 3, 2]) }, &[k])?;
        network.node(Operator::new("MatMul", 13), &[q, k])?
    };
    if !scale_first {
        let name = if wide { "Mul" } else { "Div" };
        scores = network.node(Operator::new(name, 14), &[scores, scale])?;
    }
    if masked {
        let shape = network.shape(scores);
        let mask = network.input(if full { &shape } else { &shape[shape.len() - 1..] });
        scores = network.node(Operator::new("Add", 14), &[mask, scores])?;
    }
    let weights = network.node(Operator::new("Softmax", 13).with("axis", Attribute::Int(-1)), &[scores])?;
    let y = if equation {
        match (flat, full) {
            (false, true) => network.node(of("bhjd,bhij->bihd"), &[v, weights])?,
            _ => network.node(of("...ij,...jd->...id"), &[weights, v])?,
        }
    } else {
        network.node(Operator::new("MatMul", 13), &[weights, v])?
    };
    if turned && network.random.chance(2) {
        network.node(turn(&[0, 2, 1, 3]), &[y])?;
    }
    network.finish()
}

#[test]
fn attention_by_its_parts_agrees_with_the_oracle() {
    agree(parts_of_attention, 60);
}

#[test]
fn random_networks_agree_with_the_oracle() {
    agree(network, 500);
}

#[test]
fn convolutions_with_pooling_agree_with_the_oracle() {
    agree(pooled, 16);
}

#[test]
fn minimal_filtering_agrees_with_the_oracle() {
    agree(filtered, 24);
}

/// Makes a convolution of each channel by itself, from a plane to a column, and then a convolution
/// of columns: blocked columns lie as rows, and planes do not.
fn column(width: usize, stride: i64, window: usize) -> Result<(Program, Vec<Tensor>)> {
    let mut network = Network::new("column", 5);
    let x = network.input(&[1, 4, 16, width]);
    let weights = network.constant(&[4, 4, 1, 1], 0.5)?;
    let x = network.node(Operator::new("Conv", 11), &[x, weights])?;
    let weights = network.constant(&[4, 1, 1, window], 1.0)?;
    let operator =
        Operator::new("Conv", 11).with("group", Attribute::Int(4)).with("strides", Attribute::Ints(vec![2, stride]));
    let y = network.node(operator, &[x, weights])?;
    let weights = network.constant(&[15, 4, 2, 1], 1.0)?;
    let operator = Operator::new("Conv", 11).with("pads", Attribute::Ints(vec![1, 0, 0, 0]));
    network.node(operator, &[y, weights])?;
    network.finish()
}

#[test]
fn columns_that_depthwise_convolutions_leave_agree_with_the_oracle() {
    for (width, stride, window) in [(2, 3, 1), (2, 2, 1), (4, 3, 2), (4, 3, 1), (2, 1, 1), (1, 1, 1)] {
        let (program, inputs) = column(width, stride, window).unwrap();
        for (name, device) in &devices() {
            let outcome = check_network(&**device, &program, &inputs);
            assert!(matches!(outcome, Outcome::Passed(_)), "{name}, {width} {stride} {window}: {outcome:?}");
        }
    }
}

#[test]
fn convolutions_of_an_empty_batch_give_an_empty_output() {
    for (kernel, channels, group) in [(1, 3, 1), (3, 3, 1), (7, 4, 2), (3, 16, 1), (3, 4, 4)] {
        let mut network = Network::new("empty", 6);
        let x = network.input(&[0, channels, 9, 9]);
        let weights = network.constant(&[16, channels / group, kernel, kernel], 0.5).unwrap();
        let operator = Operator::new("Conv", 11).with("group", Attribute::Int(group as i64));
        network.node(operator, &[x, weights]).unwrap();
        let (program, inputs) = network.finish().unwrap();
        for (name, device) in &devices() {
            let outcome = check_network(&**device, &program, &inputs);
            assert!(matches!(outcome, Outcome::Passed(_)), "{name}, {kernel} {channels} {group}: {outcome:?}");
        }
    }
}

/// Returns a network of f32 with every constant and input rounded to a format of 16 bits, and the
/// same network on numbers of that format.
fn halves(made: (Program, Vec<Tensor>), half: DType) -> Result<[(Program, Vec<Tensor>); 2]> {
    let (program, inputs) = made;
    let round = |tensor: &Tensor| -> Result<[Tensor; 2]> {
        let numbers = tensor.view::<f32>()?;
        Ok(match half {
            DType::F16 => {
                let halves: Vec<f16> = numbers.iter().map(|x| f16::from_f32(*x)).collect();
                let wide = halves.iter().map(|x| x.to_f32()).collect();
                [Tensor::from_vec(tensor.shape(), wide)?, Tensor::from_vec(tensor.shape(), halves)?]
            }
            _ => {
                let halves: Vec<bf16> = numbers.iter().map(|x| bf16::from_f32(*x)).collect();
                let wide = halves.iter().map(|x| x.to_f32()).collect();
                [Tensor::from_vec(tensor.shape(), wide)?, Tensor::from_vec(tensor.shape(), halves)?]
            }
        })
    };
    let of = |narrow: usize| -> Result<(Program, Vec<Tensor>)> {
        let mut graph = program.to_graph();
        for value in &mut graph.values {
            if value.ty.dtype != Some(DType::F32) {
                continue;
            }
            value.ty.dtype = Some([DType::F32, half][narrow]);
            if let Some(content) = &value.constant {
                value.constant = Some(round(content)?[narrow].clone());
            }
        }
        let inputs = inputs.iter().map(|input| Ok(round(input)?[narrow].clone())).collect::<Result<_>>()?;
        Ok((Program::new(graph, program.extents().to_vec())?, inputs))
    };
    Ok([of(0)?, of(1)?])
}

/// Weights of 16 bits are packed so, and are widened where kernels read them.
#[test]
fn networks_of_16_bits_agree_with_the_oracle_on_f32() {
    let devices = devices();
    let mut checked = 0;
    for seed in 0..12 {
        for make in [network, filtered, pooled] {
            for half in [DType::F16, DType::BF16] {
                let [(wide, given), (narrow, inputs)] = halves(make(seed).unwrap(), half).unwrap();
                let allowance = Allowance::default();
                let expected = hetero_reference::run(&wide, &given, &hetero_reference::Standard, &allowance).unwrap();
                let large = |tensor: &Tensor| tensor.view::<f32>().unwrap().iter().any(|x| x.abs() > 60_000.0);
                if expected.iter().any(large) {
                    continue;
                }
                for (name, device) in &devices {
                    let found = run_program(&**device, &narrow, &inputs).unwrap();
                    for (found, expected) in found.iter().zip(&expected) {
                        assert_eq!(found.dtype(), half);
                        let numbers: Vec<f32> = match half {
                            DType::F16 => found.view::<f16>().unwrap().iter().map(|x| x.to_f32()).collect(),
                            _ => found.view::<bf16>().unwrap().iter().map(|x| x.to_f32()).collect(),
                        };
                        let expected = expected.view::<f32>().unwrap();
                        let square = |sum: f64, x: f32| sum + f64::from(x) * f64::from(x);
                        let error = numbers.iter().zip(&*expected).map(|(a, b)| a - b).fold(0.0, square);
                        let share = error / expected.iter().copied().fold(1e-12, square);
                        assert!(share < 1e-3, "{name}, seed {seed}, {half}: {share:e}\n{narrow}");
                    }
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 30, "only {checked} networks stay in the range of 16 bits");
}
