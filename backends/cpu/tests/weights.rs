//! Tests of the forms in which the CPU keeps constants: one packed form for all kernels that read
//! this form, and copies of constants that are not aligned.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;

use hetero_conformance::{Case, Network, difference, program, run_program};
use hetero_cpu::CpuDriver;
use hetero_hal::{
    Attribute, CompileOptions, DType, Device, Driver, ErrorKind, Executable, OpenOptions, Operator, Program, Source,
    Tensor,
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

/// Makes `x + constant`, where the constant's bytes begin at an odd address.
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
    // Another executable of the program shares the weight, and its run restores it.
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

/// Makes a convolution and the nodes behind it, on images of a given size.
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
        let expected =
            hetero_reference::run(program, inputs, &hetero_reference::Standard, &hetero_hal::Allowance::new(1 << 24))
                .unwrap();
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

/// Makes layers with every packed form: products, and convolutions of each kind.
fn layers() -> (Program, Vec<Tensor>) {
    let mut network = Network::new("layers", 9);
    let x = network.input(&[1, 32, 16, 16]);
    let padded = |groups: i64, pad: i64| {
        let pads = Attribute::Ints(vec![pad; 4]);
        Operator::new("Conv", 11).with("pads", pads).with("group", Attribute::Int(groups))
    };
    let filtered = network.constant(&[64, 32, 3, 3], 0.1).unwrap();
    let y = network.node(padded(1, 1), &[x, filtered]).unwrap();
    let each = network.constant(&[64, 1, 3, 3], 0.3).unwrap();
    let y = network.node(padded(64, 1), &[y, each]).unwrap();
    let mixed = network.constant(&[32, 64, 1, 1], 0.2).unwrap();
    let y = network.node(padded(1, 0), &[y, mixed]).unwrap();
    let wider = network.constant(&[32, 16, 2, 2], 0.2).unwrap();
    let strides = Operator::new("ConvTranspose", 11).with("strides", Attribute::Ints(vec![2, 2]));
    let y = network.node(strides, &[y, wider]).unwrap();
    let matrix = network.constant(&[32, 48], 0.2).unwrap();
    network.node(Operator::new("MatMul", 13), &[y, matrix]).unwrap();
    network.finish().unwrap()
}

/// Returns the serial form and the output of what a device compiles with a given serial form.
fn with_form(
    options: &OpenOptions,
    program: &Program,
    inputs: &[Tensor],
    form: Option<bytes::Bytes>,
) -> (Vec<u8>, Tensor) {
    let device = CpuDriver.open(0, options).unwrap();
    let options = CompileOptions { cached: form, ..CompileOptions::default() };
    let executable = device.compile(Source::Program(program), &options).unwrap();
    // The next compilation shares what the first one took.
    let found = run_program(&*device, program, inputs).unwrap();
    (executable.serialize().unwrap(), found[0].clone())
}

#[test]
fn packed_forms_come_back_from_the_serial_form_bit_by_bit() {
    let (program, inputs) = layers();
    for isa in ["portable", "avx2", "avx512", "neon"] {
        let extra = vec![("isa".into(), isa.into())];
        let options = OpenOptions { threads: Some(2), extra, ..OpenOptions::default() };
        if CpuDriver.open(0, &options).is_err() {
            continue;
        }
        let (form, packed) = with_form(&options, &program, &inputs, None);
        let (again, loaded) = with_form(&options, &program, &inputs, Some(form.clone().into()));
        assert_eq!(packed, loaded, "{isa}");
        assert!(form == again, "{isa}");
    }
}

#[test]
fn a_form_for_other_instructions_is_packed_anew() {
    let (program, inputs) = layers();
    let plain = OpenOptions { extra: vec![("isa".into(), "portable".into())], ..OpenOptions::default() };
    let (form, _) = with_form(&plain, &program, &inputs, None);
    let (own, expected) = with_form(&OpenOptions::default(), &program, &inputs, None);
    let (again, found) = with_form(&OpenOptions::default(), &program, &inputs, Some(form.into()));
    assert_eq!(expected, found);
    assert!(own == again);
}

/// Prints the time that a serial form saves:
/// `cargo test --release -p hetero-cpu --test weights -- --nocapture takes`.
#[test]
fn compiling_with_a_form_takes_the_same_weights() {
    let large = if cfg!(debug_assertions) { 256 } else { 2048 };
    let mut product = Network::new("product", 3);
    let (x, weight) = (product.input(&[1, large]), product.constant(&[large, large], 0.1).unwrap());
    product.node(Operator::new("MatMul", 13), &[x, weight]).unwrap();
    let mut filters = Network::new("filters", 4);
    let mut x = filters.input(&[1, 64, 14, 14]);
    for (from, to) in [(64, large / 8), (large / 8, large / 8), (large / 8, large / 4)] {
        let weight = filters.constant(&[to, from, 3, 3], 0.05).unwrap();
        x = filters.node(Operator::new("Conv", 11).with("pads", Attribute::Ints(vec![1; 4])), &[x, weight]).unwrap();
    }
    for (name, network) in [("product", product), ("convolutions", filters)] {
        let (program, _) = network.finish().unwrap();
        let timed = |form: Option<bytes::Bytes>| {
            let device = device();
            let options = CompileOptions { cached: form, ..CompileOptions::default() };
            let began = std::time::Instant::now();
            let executable = device.compile(Source::Program(&program), &options).unwrap();
            (began.elapsed(), executable)
        };
        let form: bytes::Bytes = timed(None).1.serialize().unwrap().into();
        let (mut least, mut own) = ([std::time::Duration::MAX; 2], [0; 2]);
        for _ in 0..5 {
            for (way, form) in [None, Some(form.clone())].into_iter().enumerate() {
                let (took, executable) = timed(form);
                least[way] = least[way].min(took);
                own[way] = bytes(&executable);
            }
        }
        println!("{name}: {} bytes packed in {:?}, taken in {:?}", form.len(), least[0], least[1]);
        assert_eq!(own[0], own[1]);
    }
}

#[test]
fn a_device_with_other_kernels_has_another_version() {
    let version = |key: &str, value: &str| {
        let extra = vec![(key.into(), value.into())];
        let options = OpenOptions { threads: Some(1), extra, ..OpenOptions::default() };
        CpuDriver.open(0, &options).unwrap().info().driver_version.clone()
    };
    let usual = version("convolution", "fastest");
    assert_eq!(usual, CpuDriver.probe().unwrap()[0].driver_version);
    assert_ne!(version("convolution", "direct"), usual);
    // Where nothing else is there, the plain kernels are the usual ones.
    assert!(version("isa", "portable").starts_with(&usual));
}

fn allocated(device: &dyn Device) -> u64 {
    device.telemetry().allocated_bytes.unwrap()
}

#[test]
fn weights_draw_on_the_devices_limit_before_they_are_made() {
    let (program, _) = convolution(12, None);
    let free = device();
    let executable = compile(&*free, &program);
    let weights = bytes(&executable) as u64;
    assert!(weights > 0 && allocated(&*free) == weights);
    // A second executable shares them, and they count once.
    let second = compile(&*free, &program);
    assert_eq!(allocated(&*free), weights);
    executable.weights().iter().for_each(|weight| weight.evict());
    assert_eq!(allocated(&*free), 0);
    executable.weights()[0].restore().unwrap();
    assert!(allocated(&*free) > 0);
    drop((executable, second));
    assert_eq!(allocated(&*free), 0);

    let limited = |limit: u64| OpenOptions { threads: Some(2), memory_limit: Some(limit), ..OpenOptions::default() };
    let device = CpuDriver.open(0, &limited(weights + 1000)).unwrap();
    let with = |reserved: u64| {
        let options = CompileOptions { reserved, ..CompileOptions::default() };
        device.compile(Source::Program(&program), &options).map(drop)
    };
    with(1000).unwrap();
    let error = with(1001).unwrap_err();
    let sizes = error.sizes().unwrap();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(sizes.available.is_some_and(|left| left < sizes.requested), "{error}");
    assert!(error.node().is_some() && error.remedy().is_some(), "{error}");
    assert_eq!(allocated(&*device), 0);
}

/// The forms between a weight of 16 bits and its packed one take memory too.
#[test]
fn what_is_made_on_the_way_to_a_weight_draws_on_the_limit_too() {
    let numbers = |count: usize| (0..count).map(|i| half::f16::from_f32((i % 17) as f32)).collect::<Vec<_>>();
    let [x, weight] = [[8, 256], [256, 256]]
        .map(|[rows, columns]: [usize; 2]| Some(Tensor::from_vec(&[rows, columns], numbers(rows * columns)).unwrap()));
    let operator = Operator::new("MatMul", 13);
    let case = Case { name: "halves".into(), operator, inputs: vec![x, weight], constants: vec![1], outputs: 1 };
    let (program, _) = program(&case).unwrap();
    let weights = bytes(&compile(&*device(), &program)) as u64;
    assert_eq!(weights, 2 * 256 * 256);
    for (limit, fits) in [(weights * 2, false), (weights * 6, true)] {
        let options = OpenOptions { threads: Some(2), memory_limit: Some(limit), ..OpenOptions::default() };
        let device = CpuDriver.open(0, &options).unwrap();
        let compiled = device.compile(Source::Program(&program), &CompileOptions::default());
        assert_eq!(compiled.is_ok(), fits, "{limit}");
    }
}
