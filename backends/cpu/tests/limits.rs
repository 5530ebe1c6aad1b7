//! Tests of every kernel on numbers at their limits against the oracle, with every instruction set
//! that the processor has: NaN, infinities and zeros must be of the oracle's kind in each element.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::sync::Arc;

use hetero_conformance::{Case, kinds_differ, limits, program, run_program};
use hetero_cpu::CpuDriver;
use hetero_hal::{Attribute, Device, Driver, OpenOptions, Operator, Quality, Tensor};
use hetero_testkit::SplitMix64;

#[test]
fn every_kernel_gives_the_oracles_kinds_of_numbers() {
    let cases = limits().unwrap();
    let mut expected = Vec::new();
    for case in &cases {
        let made = hetero_reference::evaluate(&case.operator, &case.inputs, case.outputs);
        expected.push((made.unwrap_or_else(|error| panic!("{}: {error}", case.name)), program(case).unwrap()));
    }
    let only = std::env::var("HETERO_ISA").ok();
    let (mut native, mut wrong) = (BTreeSet::new(), Vec::new());
    for isa in ["portable", "neon", "avx2", "avx512"] {
        if only.as_ref().is_some_and(|only| only != isa) {
            continue;
        }
        let extra = vec![("isa".to_owned(), isa.to_owned())];
        let device = match CpuDriver.open(0, &OpenOptions { threads: Some(1), extra, ..OpenOptions::default() }) {
            Ok(device) => device,
            Err(error) => {
                println!("{isa} is not tested here: {error}");
                continue;
            }
        };
        for (case, (expected, (program, inputs))) in cases.iter().zip(&expected) {
            let claims = device.claims(program);
            assert!(!claims.is_empty(), "{} is not claimed", case.name);
            if !matches!(claims[0].quality, Quality::Native) {
                continue;
            }
            native.insert(case.operator.name.clone());
            match run_program(&*device, program, inputs) {
                Err(error) => wrong.push(format!("{isa}, {}: {error}", case.name)),
                Ok(actual) => wrong.extend(
                    actual
                        .iter()
                        .zip(expected)
                        .filter_map(|(actual, expected)| kinds_differ(case, actual, expected))
                        .map(|how| format!("{isa}, {}: {how}", case.name)),
                ),
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    // The kernels are what is tested, and not the oracle with itself.
    assert!(native.len() > 70, "{} operators have a kernel: {native:?}", native.len());
}

/// Returns the devices of every instruction set, with minimal filtering or without.
fn convolving(how: &str) -> Vec<(String, Arc<dyn Device>)> {
    let mut devices: Vec<(String, Arc<dyn Device>)> = Vec::new();
    for (number, isa) in ["portable", "neon", "avx2", "avx512"].into_iter().enumerate() {
        let extra = vec![("isa".to_owned(), isa.to_owned()), ("convolution".to_owned(), how.to_owned())];
        let threads = Some(1 + number % 2 * 2);
        if let Ok(device) = CpuDriver.open(0, &OpenOptions { threads, extra, ..OpenOptions::default() }) {
            devices.push((isa.to_owned(), device));
        }
    }
    assert!(!devices.is_empty());
    devices
}

/// Returns a convolution with 3×3 windows of pixels and weights, padded by the given number.
fn convolution(x: (&[usize], Vec<f32>), w: (&[usize], Vec<f32>), pad: i64) -> Case {
    let tensor = |(shape, values): (&[usize], Vec<f32>)| Some(Tensor::from_vec(shape, values).unwrap());
    let operator = Operator::new("Conv", 11).with("pads", Attribute::Ints(vec![pad; 4]));
    Case { name: "Conv".to_owned(), operator, inputs: vec![tensor(x), tensor(w)], constants: vec![1], outputs: 1 }
}

fn first_output(device: &dyn Device, case: &Case) -> Vec<f32> {
    let (program, inputs) = program(case).unwrap();
    run_program(device, &program, &inputs).unwrap()[0].view::<f32>().unwrap().into_owned()
}

fn by_the_oracle(case: &Case) -> Vec<f32> {
    let outputs = hetero_reference::evaluate(&case.operator, &case.inputs, 1).unwrap();
    outputs[0].view::<f32>().unwrap().into_owned()
}

/// What becomes of some pixels of an image.
#[derive(Clone, Copy, Debug)]
enum Spoilt {
    /// This many pixels have this value, each in one channel.
    Pixels(usize, f32),
    /// All pixels right of the middle are this many times as large.
    Half(f32),
    /// Most pixels are 0 in all channels.
    Sparse,
    /// No pixel and no weight is negative, and most pixels are 0 in all channels.
    SparsePositive,
    /// The weights of one filter are this many times as large.
    Weights(f32),
}

#[test]
fn filtering_keeps_to_what_each_output_sees() {
    let mut random = SplitMix64::new(7);
    let kinds = [
        Spoilt::Pixels(0, 0.0),
        Spoilt::Pixels(1, f32::INFINITY),
        Spoilt::Pixels(1, f32::NAN),
        Spoilt::Pixels(3, f32::NEG_INFINITY),
        Spoilt::Pixels(1, 1e8),
        Spoilt::Pixels(2, -1e30),
        Spoilt::Pixels(4, 3e5),
        Spoilt::Half(1e7),
        Spoilt::Half(1e-12),
        Spoilt::Half(0.0),
        Spoilt::Sparse,
        Spoilt::SparsePositive,
        Spoilt::Weights(f32::NAN),
        Spoilt::Weights(1e20),
    ];
    let devices = convolving("fastest");
    let mut filtered = 0;
    for (number, kind) in kinds.into_iter().chain(kinds).enumerate() {
        let sizes = [(1, 64, 64, 28, 28), (2, 40, 48, 13, 18), (1, 32, 64, 33, 9)];
        let (batch, channels, outputs, height, width) = sizes[number % 3];
        let plane = height * width;
        let mut x: Vec<f32> = (0..batch * channels * plane).map(|_| random.signed_unit()).collect();
        let mut w: Vec<f32> = (0..outputs * channels * 9).map(|_| random.signed_unit()).collect();
        let mut below = |limit: usize| random.below(limit);
        match kind {
            Spoilt::Pixels(count, value) => (0..count).for_each(|_| x[below(batch * channels * plane)] = value),
            Spoilt::Half(factor) => {
                x.iter_mut().enumerate().filter(|(at, _)| at % width > width / 2).for_each(|(_, x)| *x *= factor);
            }
            Spoilt::Sparse | Spoilt::SparsePositive => {
                let kept: Vec<bool> = (0..batch * plane).map(|_| below(12) == 0).collect();
                for (at, x) in x.iter_mut().enumerate() {
                    *x *= f32::from(u8::from(kept[at / plane / channels * plane + at % plane]));
                }
                if let Spoilt::SparsePositive = kind {
                    x.iter_mut().chain(&mut w).for_each(|value| *value = value.abs());
                }
            }
            Spoilt::Weights(factor) => w[..channels * 9].iter_mut().for_each(|weight| *weight *= factor),
        }
        let (from, by) = ([batch, channels, height, width], [outputs, channels, 3, 3]);
        let case = convolution((&from, x.clone()), (&by, w.clone()), 1);
        let expected = by_the_oracle(&case);
        // What each output's own pixels and weights amount to is what its error is measured by.
        let magnitudes = |values: &[f32]| values.iter().map(|value| value.abs()).collect();
        let amounts = by_the_oracle(&convolution((&from, magnitudes(&x)), (&by, magnitudes(&w)), 1));
        for (isa, device) in &devices {
            let actual = first_output(&**device, &case);
            for (place, ((&a, &e), &amount)) in actual.iter().zip(&expected).zip(&amounts).enumerate() {
                let same = match e {
                    _ if e.is_nan() => a.is_nan(),
                    _ if e.is_infinite() => a == e,
                    _ => (a - e).abs() <= amount * 2e-5,
                };
                assert!(
                    same,
                    "{isa}, {kind:?} in {from:?}: element {place} is {a}, not {e}; its pixels come to {amount}"
                );
                assert!(!matches!(kind, Spoilt::SparsePositive) || a >= 0.0, "{isa}: element {place} is {a}");
            }
        }
        if let Spoilt::Pixels(0, _) = kind {
            // Where no pixel is spoilt, filtering is what rounds otherwise than the direct sums.
            for ((isa, device), (other, direct)) in devices.iter().zip(convolving("direct")) {
                assert_eq!(*isa, other);
                filtered += usize::from(first_output(&**device, &case) != first_output(&*direct, &case));
            }
        }
    }
    assert!(filtered > 0, "no convolution here is filtered");
}
