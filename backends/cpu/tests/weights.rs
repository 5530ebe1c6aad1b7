//! What the CPU keeps of constants: one packed form for all kernels that read it so, and copies of what is not aligned.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use hetero_conformance::{Case, Network, difference, program, run_program};
use hetero_cpu::CpuDriver;
use hetero_hal::{
    Attribute, CompileOptions, DType, Device, Driver, Executable, OpenOptions, Operator, Program, Source, Tensor,
};

fn device() -> Arc<dyn Device> {
    CpuDriver.open(0, &OpenOptions { threads: Some(2), ..OpenOptions::default() }).unwrap()
}

fn compile(device: &dyn Device, program: &Program) -> Arc<dyn Executable> {
    device.compile(Source::Program(program), &CompileOptions::default()).unwrap()
}

fn bytes(executable: &Arc<dyn Executable>) -> usize {
    executable.weights().iter().map(|weight| weight.bytes()).sum()
}

/// `x + constant`, whose bytes begin at an odd address.
fn sum(count: usize) -> (Program, Vec<Tensor>, Vec<f32>) {
    let numbers: Vec<f32> = (0..count).map(|i| i as f32 * 0.25).collect();
    let mut storage: Vec<u8> = Vec::with_capacity(4 * count + 16);
    let lead = (0..4).find(|lead| (storage.as_ptr() as usize + lead) % 4 == 1).unwrap();
    storage.resize(lead, 0);
    storage.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    let constant = Tensor::from_bytes(DType::F32, &[count], bytes::Bytes::from(storage).slice(lead..)).unwrap();
    assert!(!(constant.bytes().as_ptr() as usize).is_multiple_of(4), "the constant is aligned");
    let x = Tensor::from_vec(&[count], vec![1.0f32; count]).unwrap();
    let case = Case {
        name: "sum".into(),
        operator: Operator::new("Add", 14),
        inputs: vec![Some(x), Some(constant)],
        constants: vec![1],
        outputs: 1,
    };
    let (program, inputs) = program(&case).unwrap();
    (program, inputs, numbers.iter().map(|number| number + 1.0).collect())
}

#[test]
fn a_copy_of_an_unaligned_constant_is_a_weight() {
    let device = device();
    let (program, inputs, expected) = sum(5000);
    let one = compile(&*device, &program);
    let weights = one.weights();
    assert_eq!((weights.len(), weights[0].bytes(), weights[0].layout()), (1, 20_000, "aligned"));
    weights[0].evict();
    assert!(!weights[0].is_resident());
    // Another executable of the program shares it, and its run restores it.
    let found = run_program(&*device, &program, &inputs).unwrap();
    assert_eq!(&*found[0].view::<f32>().unwrap(), &expected[..]);
    assert!(weights[0].is_resident());
}

#[test]
fn a_small_copy_is_no_weight() {
    let device = device();
    let (program, inputs, expected) = sum(100);
    assert!(compile(&*device, &program).weights().is_empty());
    let found = run_program(&*device, &program, &inputs).unwrap();
    assert_eq!(&*found[0].view::<f32>().unwrap(), &expected[..]);
}

/// A convolution and what stands behind it, on images of a size.
fn convolution(image: usize, factors: Option<u64>) -> (Program, Vec<Tensor>) {
    let mut network = Network::new("convolution", 5);
    let weight = network.constant(&[64, 32, 3, 3], 0.1).unwrap();
    let x = network.input(&[1, 32, image, image]);
    let operator = Operator::new("Conv", 11).with("pads", Attribute::Ints(vec![1; 4]));
    let mut y = network.node(operator, &[x, weight]).unwrap();
    if let Some(seed) = factors {
        let factors = hetero_conformance::Random::new(seed).tensor(&[1, 64, 1, 1], 1.0).unwrap();
        let factors = network.given(factors);
        y = network.node(Operator::new("Mul", 14), &[y, factors]).unwrap();
    }
    network.node(Operator::new("Relu", 14), &[y]).unwrap();
    network.finish().unwrap()
}

#[test]
fn factors_that_are_folded_into_a_convolution_are_a_part_of_its_weight() {
    let device = device();
    let made: Vec<_> = [None, Some(1), Some(2), Some(1)].map(|factors| convolution(12, factors)).into();
    let executables: Vec<_> = made.iter().map(|(program, _)| compile(&*device, program)).collect();
    let weight = |number: usize| Arc::as_ptr(&executables[number].weights()[0]).cast::<()>();
    assert_eq!(weight(1), weight(3));
    assert!(weight(0) != weight(1) && weight(1) != weight(2) && weight(0) != weight(2));
    for (program, inputs) in &made {
        let expected = hetero_reference::run(program, inputs, &hetero_reference::Standard, 1 << 24).unwrap();
        let found = run_program(&*device, program, inputs).unwrap();
        assert!(difference(&found[0], &expected[0]).unwrap() < 1e-6);
    }
}

#[test]
fn images_of_any_size_share_a_convolutions_weight() {
    let direct = OpenOptions {
        threads: Some(2),
        extra: vec![("convolution".into(), "direct".into())],
        ..OpenOptions::default()
    };
    let device = CpuDriver.open(0, &direct).unwrap();
    let kept: Vec<_> = [6, 12, 31].map(|image| compile(&*device, &convolution(image, None).0)).into();
    let weights = hetero_hal::distinct_weights(kept.iter().flat_map(|executable| executable.weights()));
    assert_eq!((weights.len(), bytes(&kept[0])), (1, weights[0].bytes()));
}
