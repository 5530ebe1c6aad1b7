//! Tests of single operators of random sizes and attributes against the oracle, and tests that
//! kernels of this crate do them where they should.

#![allow(clippy::panic)]

mod attention;
mod bytes;
mod einsum;
mod networks;
mod places;
mod quantised;
mod samples;
mod spectra;

use hetero_conformance::{Case, program, run_program};
use hetero_hal::{Allowance, Attribute, DType, Driver, Operator, Program, Quality, Tensor};
use hetero_reference::Standard;

use super::{Network, Random, devices};

/// A case, and whether a kernel of this crate does it.
type Made = (Case, bool);

fn case(operator: Operator, inputs: Vec<Option<Tensor>>, constants: &[usize], outputs: usize) -> Case {
    let name = format!("{operator:?} of {inputs:?}, {constants:?} constant");
    let there = |&index: &usize| inputs.get(index).is_some_and(Option::is_some);
    let constants = constants.iter().copied().filter(there).collect();
    Case { name, operator, inputs, constants, outputs }
}

fn text(value: &str) -> Attribute {
    Attribute::String(value.as_bytes().into())
}

fn int(value: usize) -> Attribute {
    Attribute::Int(value as i64)
}

fn i64s(values: &[i64]) -> Tensor {
    Tensor::from_vec(&[values.len()], values.to_vec()).unwrap()
}

/// Checks that floats agree within a small share of their range, with NaN and infinities in the
/// same places, and that all else agrees exactly.
fn compare(actual: &Tensor, expected: &Tensor) -> Result<(), String> {
    if actual.dtype() != expected.dtype() || actual.shape() != expected.shape() {
        return Err(format!("{actual:?} is not {expected:?}"));
    }
    if actual.dtype() != DType::F32 {
        return if actual == expected { Ok(()) } else { Err("elements differ".to_owned()) };
    }
    let (actual, expected) = (actual.view::<f32>().unwrap(), expected.view::<f32>().unwrap());
    // One large element must not excuse the others.
    let range = expected.iter().filter(|x| x.is_finite()).fold(1e-3f32, |most, x| most.max(x.abs())).min(30.0);
    for (place, (a, b)) in actual.iter().zip(expected.iter()).enumerate() {
        let most = range.max(b.abs()) * 2e-5;
        let agree = if b.is_finite() { (a - b).abs() <= most } else { a == b || (a.is_nan() && b.is_nan()) };
        if !agree {
            return Err(format!("element {place} is {a}, not {b}, in a range of {range}"));
        }
    }
    Ok(())
}

/// Checks the given number of cases on every device.
fn agree(seed: u64, count: usize, mut make: impl FnMut(&mut Random) -> Made) {
    let mut random = Random::new(seed);
    let devices = devices();
    for _ in 0..count {
        let (case, native) = make(&mut random);
        let expected = hetero_reference::evaluate(&case.operator, &case.inputs, case.outputs)
            .unwrap_or_else(|error| panic!("{}: the oracle: {error}", case.name));
        let (program, inputs) = program(&case).unwrap();
        for (device, opened) in &devices {
            let claims = opened.claims(&program);
            let found = matches!(claims[0].quality, Quality::Native);
            assert_eq!(found, native, "{device}, {}: is it done by a kernel?", case.name);
            let actual = run_program(&**opened, &program, &inputs)
                .unwrap_or_else(|error| panic!("{device}, {}: {error}", case.name));
            for (number, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                if let Err(error) = compare(actual, expected) {
                    panic!("{device}, {}: output {number}: {error}", case.name);
                }
            }
        }
    }
}

/// Checks that programs of seeds give what the oracle gives, on every device.
fn follow(
    make: fn(u64) -> hetero_hal::Result<(Program, Vec<Tensor>)>,
    compare: fn(&Tensor, &Tensor) -> Result<(), String>,
) {
    let devices = devices();
    for seed in 0..150 {
        let (program, inputs) = make(seed).unwrap();
        let allowance = Allowance::default();
        let expected = hetero_reference::run(&program, &inputs, &Standard, &allowance).unwrap();
        for (name, device) in &devices {
            let actual = run_program(&**device, &program, &inputs).unwrap();
            assert_eq!(actual.len(), expected.len(), "{name}, seed {seed}");
            for (actual, expected) in actual.iter().zip(&expected) {
                let agree = compare(actual, expected);
                assert!(agree.is_ok(), "{name}, seed {seed}: {agree:?} in {program}");
            }
        }
    }
}

#[test]
fn recurrent_layers() {
    agree(1, 120, |random| {
        let name = random.pick(&["LSTM", "GRU"]);
        let gates = if name == "LSTM" { 4 } else { 3 };
        let (steps, batch) = (random.size(1, 6), random.size(1, 5));
        let (width, hidden) = (random.size(1, 20), random.pick(&[1, 3, 8, 17, 33, 70]));
        let (direction, count) = random.pick(&[("forward", 1), ("reverse", 1), ("bidirectional", 2)]);
        let layout = random.size(0, 1);
        let operator = Operator::new(name, 14)
            .with("direction", text(direction))
            .with("hidden_size", int(hidden))
            .with("layout", int(layout));
        let operator = match name {
            "GRU" => operator.with("linear_before_reset", int(random.size(0, 1))),
            _ => operator,
        };
        let x = if layout == 1 { [batch, steps, width] } else { [steps, batch, width] };
        let state = if layout == 1 { [batch, count, hidden] } else { [count, batch, hidden] };
        let mut inputs = vec![
            Some(random.tensor(&x, 1.0).unwrap()),
            Some(random.tensor(&[count, gates * hidden, width], 1.0).unwrap()),
            Some(random.tensor(&[count, gates * hidden, hidden], 1.0).unwrap()),
        ];
        inputs.push(random.chance(2).then(|| random.tensor(&[count, 2 * gates * hidden], 1.0).unwrap()));
        inputs.push(None);
        inputs.push(random.chance(2).then(|| random.tensor(&state, 1.0).unwrap()));
        if name == "LSTM" {
            inputs.push(random.chance(2).then(|| random.tensor(&state, 1.0).unwrap()));
        }
        let constants = random.pick(&[&[][..], &[1], &[2, 3], &[1, 2, 3], &[1, 2, 3]]);
        let outputs = random.size(1, gates - 1);
        (case(operator, inputs, constants, outputs), true)
    });
}

/// Returns sizes of the given number of dimensions, with few elements in all.
fn sizes(random: &mut Random, rank: usize) -> Vec<usize> {
    (0..rank).map(|_| random.pick(&[1, 2, 3, 5, 8, 19])).collect()
}

/// Returns numbers that have a common offset, or none.
fn numbers(random: &mut Random, shape: &[usize]) -> Tensor {
    let (scale, common) = random.pick(&[(1.0, 0.0), (3.0, 0.0), (1.0, 20.0)]);
    let mut values = random.floats(shape.iter().product(), scale);
    values.iter_mut().for_each(|value| *value += common);
    Tensor::from_vec(shape, values).unwrap()
}

#[test]
fn normalisations() {
    agree(2, 300, |random| {
        let rank = random.size(2, 5);
        let mut shape = sizes(random, rank);
        let name = random.pick(&[
            "LayerNormalization",
            "RMSNormalization",
            "InstanceNormalization",
            "GroupNormalization",
            "MeanVarianceNormalization",
            "LpNormalization",
        ]);
        let axis = random.size(0, rank - 1);
        let signed = if random.chance(2) { axis as i64 } else { axis as i64 - rank as i64 };
        let epsilon = Attribute::Float(random.pick(&[1e-5, 1e-2]));
        let constants = random.pick(&[&[][..], &[1, 2]]);
        match name {
            "LayerNormalization" | "RMSNormalization" => {
                let operator = Operator::new(name, 23).with("axis", Attribute::Int(signed)).with("epsilon", epsilon);
                let mut inputs = vec![Some(numbers(random, &shape)), Some(random.tensor(&shape[axis..], 1.0).unwrap())];
                let outputs = if name == "LayerNormalization" {
                    inputs.push(random.chance(2).then(|| random.tensor(&shape[axis..], 1.0).unwrap()));
                    random.pick(&[1, 3])
                } else {
                    1
                };
                (case(operator, inputs, constants, outputs), true)
            }
            "InstanceNormalization" | "GroupNormalization" => {
                let (groups, version) = (random.size(1, 4), random.pick(&[18, 21]));
                shape[1] = groups * random.size(1, 5);
                let mut operator = Operator::new(name, version).with("epsilon", epsilon);
                let mut parameters = shape[1];
                if name == "GroupNormalization" {
                    operator = operator.with("num_groups", int(groups));
                    parameters = if version < 21 { groups } else { parameters };
                }
                let of = |random: &mut Random| Some(random.tensor(&[parameters], 1.0).unwrap());
                let inputs = vec![Some(numbers(random, &shape)), of(random), of(random)];
                (case(operator, inputs, constants, 1), true)
            }
            "MeanVarianceNormalization" => {
                let mut operator = Operator::new(name, 13);
                let axes = match rank {
                    4 if random.chance(2) => vec![0, 2, 3],
                    _ => {
                        let axes = random.pick(&[&[0, 2][..], &[-1], &[0], &[1]]);
                        let axes = if rank == 2 && axes.len() == 2 { &[0, 1] } else { axes };
                        operator = operator.with("axes", Attribute::Ints(axes.to_vec()));
                        axes.to_vec()
                    }
                };
                // There is a kernel for dimensions that are reduced, kept, and reduced again.
                let place = |axis: i64| axis.rem_euclid(rank as i64) as usize;
                let over = (0..rank).filter(|&axis| shape[axis] != 1);
                let over: Vec<bool> = over.map(|axis| axes.iter().any(|&other| place(other) == axis)).collect();
                let first = over.iter().position(|over| !over).unwrap_or(over.len());
                let second = over[first..].iter().position(|over| *over).map_or(over.len(), |at| at + first);
                let native = over[second..].iter().all(|over| *over);
                (case(operator, vec![Some(numbers(random, &shape))], &[], 1), native)
            }
            _ => {
                let operator =
                    Operator::new(name, 22).with("axis", Attribute::Int(signed)).with("p", int(random.size(1, 2)));
                (case(operator, vec![Some(numbers(random, &shape))], &[], 1), true)
            }
        }
    });
}

#[test]
fn softmax_along_any_axis() {
    agree(3, 200, |random| {
        let rank = random.size(1, 4);
        let shape = sizes(random, rank);
        let axis = random.size(0, rank - 1) as i64 - if random.chance(2) { rank as i64 } else { 0 };
        let name = random.pick(&["Softmax", "LogSoftmax"]);
        let operator = Operator::new(name, random.pick(&[11, 13])).with("axis", Attribute::Int(axis));
        let mut values = random.floats(shape.iter().product(), 9.0);
        if random.chance(4) {
            let at = random.size(0, values.len() - 1);
            values[at] = random.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        }
        (case(operator, vec![Some(Tensor::from_vec(&shape, values).unwrap())], &[], 1), true)
    });
}

#[test]
fn constant_blocks_normalise_to_zero() {
    for name in ["MeanVarianceNormalization", "LpNormalization", "LayerNormalization"] {
        agree(4, 1, |_| {
            let value = if name == "LpNormalization" { 0.0f32 } else { 1000.1 };
            let x = Tensor::from_vec(&[2, 3, 37, 5], vec![value; 1110]).unwrap();
            let scale = Tensor::from_vec(&[5], vec![1.0f32; 5]).unwrap();
            let scale = (name == "LayerNormalization").then_some(scale);
            let inputs = [Some(Some(x)), scale.map(Some)].into_iter().flatten().collect();
            (case(Operator::new(name, 23), inputs, &[], 1), true)
        });
    }
}

#[test]
fn functions_of_one_number() {
    let names = [
        ("Log", 1),
        ("Round", 1),
        ("Floor", 1),
        ("Ceil", 1),
        ("Sign", 1),
        ("Softplus", 1),
        ("Softsign", 1),
        ("Mish", 1),
        ("Elu", 2),
        ("Celu", 2),
        ("Selu", 3),
        ("Swish", 2),
        ("Gelu", 1),
        ("GeluTanh", 1),
        ("ThresholdedRelu", 2),
        ("Shrink", 1),
        ("Sin", 1),
        ("Cos", 1),
        ("Tan", 1),
        ("Asin", 1),
        ("Acos", 1),
        ("Atan", 1),
        ("Sinh", 1),
        ("Cosh", 1),
    ];
    for (name, attributes) in names {
        agree(5, 6, |random| {
            let mut operator = Operator::new(name.strip_suffix("Tanh").unwrap_or(name), 24);
            if name == "GeluTanh" {
                operator = operator.with("approximate", text("tanh"));
            }
            if attributes > 1 && random.chance(2) {
                operator = operator.with("alpha", Attribute::Float(random.pick(&[0.3, 1.7])));
            }
            if attributes > 2 && random.chance(2) {
                operator = operator.with("gamma", Attribute::Float(1.3));
            }
            if name == "Shrink" && random.chance(2) {
                operator = operator.with("lambd", Attribute::Float(0.7)).with("bias", Attribute::Float(0.2));
            }
            let scale = random.pick(&[0.9, 3.0, 10.0]);
            let count = random.size(1, 70);
            let mut values = random.floats(count, scale);
            values.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, 0.5, -0.5, 1.5, -2.5]);
            values.extend([1.0, -1.0, 1e-5, -1e-5]);
            if matches!(name, "Round" | "Floor" | "Ceil" | "Sign") {
                values.extend([4_194_304.5, -4_194_305.5, 8_388_607.5, 1e30, -0.2]);
            }
            let x = Tensor::from_vec(&[values.len()], values).unwrap();
            (case(operator, vec![Some(x)], &[], 1), true)
        });
    }
}

/// Returns numbers of a type, or booleans.
fn of_type(random: &mut Random, dtype: DType, shape: &[usize]) -> Tensor {
    let x = random.tensor(shape, if dtype == DType::Bool { 1.0 } else { 60.0 }).unwrap();
    let (operator, more) = match dtype {
        DType::F32 => return x,
        DType::Bool => (Operator::new("Greater", 13), Some(Tensor::scalar(0.0f32))),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => {
            let x = hetero_reference::evaluate(&Operator::new("Abs", 13), &[Some(x)], 1).unwrap().remove(0);
            return cast(x, dtype);
        }
        _ => return cast(x, dtype),
    };
    hetero_reference::evaluate(&operator, &[Some(x), more], 1).unwrap().remove(0)
}

fn cast(x: Tensor, dtype: DType) -> Tensor {
    let operator = Operator::new("Cast", 13).with("to", Attribute::Int(i64::from(dtype.onnx_code())));
    hetero_reference::evaluate(&operator, &[Some(x)], 1).unwrap().remove(0)
}

/// Types of each width.
const TYPES: [DType; 6] = [DType::F32, DType::I64, DType::U8, DType::Bool, DType::F16, DType::I32];

/// Returns an axis, counted from either end.
fn axis(random: &mut Random, rank: usize) -> (usize, Attribute) {
    let axis = random.size(0, rank - 1);
    (axis, Attribute::Int(if random.chance(2) { axis as i64 } else { axis as i64 - rank as i64 }))
}

/// Returns a shape that can be repeated to another shape.
fn part_of(random: &mut Random, shape: &[usize]) -> Vec<usize> {
    let lead = random.size(0, shape.len());
    shape[lead..].iter().map(|&size| if random.chance(3) { 1 } else { size }).collect()
}

#[test]
fn splits_and_views() {
    agree(6, 400, |random| {
        let dtype = random.pick(&TYPES);
        let rank = random.size(1, 4);
        let mut shape = sizes(random, rank);
        match random.size(0, 3) {
            0 => {
                let (axis, attribute) = axis(random, rank);
                let parts: Vec<usize> = (0..random.size(1, 4)).map(|_| random.size(0, 5)).collect();
                shape[axis] = parts.iter().sum();
                let list = i64s(&parts.iter().map(|&part| part as i64).collect::<Vec<_>>());
                let inputs = vec![Some(of_type(random, dtype, &shape)), Some(list)];
                (case(Operator::new("Split", 13).with("axis", attribute), inputs, &[1], parts.len()), true)
            }
            1 => {
                let (axis, attribute) = axis(random, rank);
                let count = random.size(1, 4).min(shape[axis]);
                let operator = Operator::new("Split", 18).with("axis", attribute).with("num_outputs", int(count));
                (case(operator, vec![Some(of_type(random, dtype, &shape))], &[], count), true)
            }
            2 => {
                let repeats: Vec<i64> = shape.iter().map(|_| random.pick(&[0, 1, 1, 2, 3])).collect();
                let inputs = vec![Some(of_type(random, dtype, &shape)), Some(i64s(&repeats))];
                (case(Operator::new("Tile", 13), inputs, &[1], 1), true)
            }
            _ => {
                let (name, mode) =
                    random.pick(&[("DepthToSpace", "DCR"), ("DepthToSpace", "CRD"), ("SpaceToDepth", "")]);
                let (block, mut shape) = (random.size(1, 3), sizes(random, 4));
                let mut operator = Operator::new(name, 13).with("blocksize", int(block));
                if name == "DepthToSpace" {
                    operator = operator.with("mode", text(mode));
                    shape[1] = block * block * random.size(1, 3);
                } else {
                    shape[2] *= block;
                    shape[3] *= block;
                }
                (case(operator, vec![Some(of_type(random, dtype, &shape))], &[], 1), true)
            }
        }
    });
}

#[test]
fn elements_chosen_by_others() {
    agree(7, 400, |random| {
        let dtype = random.pick(&TYPES);
        let rank = random.size(1, 4);
        let shape = sizes(random, rank);
        let constants = random.pick(&[&[][..], &[1]]);
        let name = random.pick(&["Gather", "GatherElements", "Where"]);
        if name == "Where" {
            let parts = [(); 3].map(|()| part_of(random, &shape));
            let whole = random.size(0, 2);
            let of = |at: usize| if at == whole { shape.clone() } else { parts[at].clone() };
            let inputs = vec![
                Some(of_type(random, DType::Bool, &of(0))),
                Some(of_type(random, dtype, &of(1))),
                Some(of_type(random, dtype, &of(2))),
            ];
            return (case(Operator::new(name, 16), inputs, constants, 1), true);
        }
        let (axis, attribute) = axis(random, rank);
        let wanted: Vec<usize> = if name == "Gather" {
            let rank = random.size(0, 2);
            sizes(random, rank)
        } else {
            let of = |(at, &size): (usize, &usize)| if at == axis { random.size(0, 9) } else { random.size(1, size) };
            shape.iter().enumerate().map(of).collect()
        };
        let limit = shape[axis] as i64;
        let count = wanted.iter().product::<usize>();
        let places = (0..count).map(|_| (random.number() % (2 * limit as u64)) as i64 - limit).collect();
        let places = cast(Tensor::from_vec(&wanted, places).unwrap(), random.pick(&[DType::I32, DType::I64]));
        let inputs = vec![Some(of_type(random, dtype, &shape)), Some(places)];
        (case(Operator::new(name, 13).with("axis", attribute), inputs, constants, 1), true)
    });
}

#[test]
fn an_index_outside_is_the_error_of_the_oracle() {
    for (name, dims) in [("Gather", &[2][..]), ("GatherElements", &[2, 3])] {
        for wrong in [3i64, -4, i64::MIN] {
            let mut places = vec![1i64; dims.iter().product()];
            places[1] = wrong;
            let x = Tensor::from_vec(&[3, 3], vec![0.5f32; 9]).unwrap();
            let inputs = vec![Some(x), Some(Tensor::from_vec(dims, places).unwrap())];
            let case = case(Operator::new(name, 13), inputs, &[], 1);
            let expected = hetero_reference::evaluate(&case.operator, &case.inputs, 1).unwrap_err();
            let (program, inputs) = program(&case).unwrap();
            for (device, opened) in devices() {
                let error = run_program(&*opened, &program, &inputs).unwrap_err();
                assert!(
                    error.to_string().contains(&format!("index {wrong} is outside a dimension of size 3")),
                    "{error}"
                );
                assert!(expected.to_string().contains(&format!("index {wrong} is outside")), "{device}: {expected}");
            }
        }
    }
}

#[test]
fn pads() {
    agree(8, 500, |random| {
        let dtype = random.pick(&TYPES);
        let rank = random.size(1, 4);
        let shape = sizes(random, rank);
        let mode = random.pick(&["constant", "constant", "edge", "reflect", "wrap"]);
        let mut axes: Vec<usize> = (0..rank).collect();
        let chosen = random.chance(3);
        if chosen {
            axes.retain(|_| random.chance(2));
            axes.reverse();
        }
        let (mut before, mut after) = (vec![], vec![]);
        for &axis in &axes {
            let size = shape[axis] as i64;
            let pick = |random: &mut Random| random.pick(&[0i64, 0, 0, 1, 2, 7, -1, -2]).max(-size);
            let first = pick(random);
            before.push(first);
            after.push(pick(random).max(-size - first));
        }
        before.extend(after);
        let fill = random.chance(2).then(|| of_type(random, dtype, &[]));
        let axes: Vec<i64> = axes.iter().map(|&a| a as i64 - if random.chance(2) { rank as i64 } else { 0 }).collect();
        let inputs = vec![Some(of_type(random, dtype, &shape)), Some(i64s(&before)), fill, chosen.then(|| i64s(&axes))];
        let operator = Operator::new("Pad", 19).with("mode", text(mode));
        (case(operator, inputs, random.pick(&[&[1, 3][..], &[1, 2, 3]]), 1), true)
    });
}

#[test]
fn resizes() {
    agree(9, 400, |random| {
        let shape = [random.size(1, 2), random.size(3, 9), random.size(3, 21), random.size(3, 40)];
        let axes = random.pick(&[&[2, 3][..], &[2, 3], &[3], &[1, 2], &[2], &[1, 2, 3]]);
        let mode = random.pick(&["nearest", "linear", "cubic"]);
        let transform =
            random.pick(&["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]);
        let mut operator = Operator::new("Resize", 19)
            .with("mode", text(mode))
            .with("coordinate_transformation_mode", text(transform));
        if mode == "nearest" {
            let rule = random.pick(&["round_prefer_floor", "floor", "ceil", "round_prefer_ceil"]);
            operator = operator.with("nearest_mode", text(rule));
        } else {
            operator = operator.with("antialias", int(random.size(0, 1)));
            operator = operator.with("exclude_outside", int(if mode == "cubic" { random.size(0, 1) } else { 0 }));
        }
        let mut values = random.floats(shape.iter().product(), 1.0);
        if random.chance(5) {
            values[0] = f32::INFINITY;
        }
        let mut inputs = vec![Some(Tensor::from_vec(&shape, values).unwrap()), None];
        if random.chance(2) {
            let mut scales = [1.0f32; 4];
            axes.iter().for_each(|&axis| scales[axis] = random.pick(&[0.4, 0.5, 1.5, 2.0, 3.0, 2.7]));
            inputs.push(Some(Tensor::from_vec(&[4], scales.to_vec()).unwrap()));
        } else {
            let mut sizes = shape.map(|size| size as i64);
            axes.iter().for_each(|&axis| sizes[axis] += random.pick(&[-2, 1, 3, 17]));
            inputs.push(None);
            inputs.push(Some(i64s(&sizes)));
        }
        (case(operator, inputs, &[2, 3], 1), axes.len() < 3)
    });
}

#[test]
fn transposed_convolutions() {
    agree(10, 300, |random| {
        let rank = random.size(1, 2);
        let groups = random.pick(&[1, 1, 2, 3]);
        let (channels, outputs) = (groups * random.size(1, 9), random.size(1, 9));
        let mut x = vec![random.size(1, 2), channels];
        let mut w = vec![channels, outputs];
        let (mut strides, mut dilations, mut extra) = (vec![], vec![], vec![]);
        let (mut begin, mut end, mut wanted) = (vec![], vec![], vec![]);
        for _ in 0..rank {
            let (kernel, stride, dilation) = (random.size(1, 4), random.size(1, 3), random.size(1, 2));
            let size = random.size(2, 17);
            let add = random.size(0, stride - 1);
            let full = (size - 1) * stride + add + (kernel - 1) * dilation + 1;
            let first = random.size(0, 2.min(full - 1));
            x.push(size);
            w.push(kernel);
            strides.push(stride as i64);
            dilations.push(dilation as i64);
            extra.push(add as i64);
            begin.push(first as i64);
            end.push(random.size(0, 2.min(full - 1 - first)) as i64);
            wanted.push(random.size(1, full + 2) as i64);
        }
        let mut operator = Operator::new("ConvTranspose", 11)
            .with("group", int(groups))
            .with("strides", Attribute::Ints(strides))
            .with("dilations", Attribute::Ints(dilations))
            .with("output_padding", Attribute::Ints(extra));
        operator = match random.size(0, 5) {
            0 => operator.with("output_shape", Attribute::Ints(wanted)),
            1 => operator.with("auto_pad", text(random.pick(&["SAME_UPPER", "SAME_LOWER", "VALID"]))),
            _ => {
                begin.extend(end);
                operator.with("pads", Attribute::Ints(begin))
            }
        };
        let bias = random.chance(2).then(|| random.tensor(&[outputs * groups], 1.0).unwrap());
        let inputs = vec![Some(random.tensor(&x, 1.0).unwrap()), Some(random.tensor(&w, 1.0).unwrap()), bias];
        (case(operator, inputs, random.pick(&[&[][..], &[1], &[1, 2]]), 1), true)
    });
}

#[test]
fn reductions() {
    let names = ["Sum", "Mean", "SumSquare", "Max", "Min", "L1", "L2", "Prod", "LogSum", "LogSumExp"]
        .map(|n| format!("Reduce{n}"));
    agree(11, 600, |random| {
        let rank = random.size(1, 5);
        let shape = sizes(random, rank);
        let name = &names[random.size(0, names.len() - 1)];
        let dtype = random.pick(&[DType::F32, DType::F32, DType::F32, DType::I32, DType::I64]);
        let axes: Vec<usize> = (0..rank).filter(|_| random.chance(2)).collect();
        let operator = Operator::new(name.as_str(), 18).with("keepdims", int(random.size(0, 1)));
        let x = match dtype {
            DType::F32 => {
                let low = if name == "ReduceLogSum" { 1.5 } else { 0.0 };
                let mut values = random.floats(shape.iter().product(), 1.4);
                values.iter_mut().for_each(|value| *value += low);
                if random.chance(6) {
                    let at = random.size(0, values.len() - 1);
                    values[at] = random.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
                }
                Tensor::from_vec(&shape, values).unwrap()
            }
            _ => of_type(random, dtype, &shape),
        };
        // There is a kernel for up to two groups of dimensions.
        let over = |at: &usize| axes.is_empty() || axes.contains(at);
        let list: Vec<bool> = (0..rank).filter(|&at| shape[at] != 1).map(|at| over(&at)).collect();
        let groups = list.iter().enumerate().filter(|&(at, &over)| over && (at == 0 || !list[at - 1])).count();
        let native = groups <= 2;
        let signed = axes.iter().map(|&a| a as i64 - if random.chance(2) { rank as i64 } else { 0 });
        let signed: Vec<i64> = signed.collect();
        let list = (!signed.is_empty()).then(|| i64s(&signed));
        (case(operator, vec![Some(x), list], &[1], 1), native)
    });
}

#[test]
fn sums_in_between_do_not_overflow() {
    for (name, values) in [
        ("ReduceL2", [1e30f32, 2e30, 3e30]),
        ("ReduceProd", [1e30, 1e30, 1e-35]),
        ("ReduceLogSum", [3e38, 3e38, 1e38]),
        ("ReduceLogSumExp", [500.0, 501.0, -500.0]),
    ] {
        for keep in [[3, 1], [1, 3]] {
            agree(12, 1, |_| {
                let x = Tensor::from_vec(&keep, values.to_vec()).unwrap();
                (case(Operator::new(name, 13), vec![Some(x)], &[], 1), true)
            });
            agree(12, 1, |_| {
                let list = values.iter().flat_map(|&value| [value; 2]).collect();
                let x = Tensor::from_vec(&[3, 2], list).unwrap();
                let operator = Operator::new(name, 13).with("axes", Attribute::Ints(vec![0]));
                (case(operator, vec![Some(x)], &[], 1), true)
            });
        }
    }
}

#[test]
fn places_of_the_largest() {
    agree(13, 300, |random| {
        let rank = random.size(1, 4);
        let shape = sizes(random, rank);
        let (_, attribute) = axis(random, rank);
        let operator = Operator::new(random.pick(&["ArgMax", "ArgMin"]), 13)
            .with("axis", attribute)
            .with("keepdims", int(random.size(0, 1)))
            .with("select_last_index", int(random.size(0, 1)));
        // There are few different values, so that many are equal.
        let values = (0..shape.iter().product::<usize>()).map(|_| {
            let value = random.size(0, 6) as f32 - 3.0;
            if random.chance(9) { random.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0]) } else { value }
        });
        let values = values.collect();
        (case(operator, vec![Some(Tensor::from_vec(&shape, values).unwrap())], &[], 1), true)
    });
}

#[test]
fn integers_and_booleans() {
    agree(14, 600, |random| {
        let rank = random.size(0, 4);
        let shape = sizes(random, rank);
        let whole = random.chance(2);
        let parts = [(); 2].map(|()| part_of(random, &shape));
        let shapes = if whole { [shape.clone(), parts[0].clone()] } else { [parts[0].clone(), shape.clone()] };
        let dtype = random.pick(&[DType::I32, DType::I64, DType::U8, DType::Bool]);
        if dtype == DType::Bool {
            let name = random.pick(&["And", "Or", "Xor", "Not"]);
            let mut inputs = vec![Some(of_type(random, dtype, &shapes[0]))];
            if name != "Not" {
                inputs.push(Some(of_type(random, dtype, &shapes[1])));
            }
            return (case(Operator::new(name, 7), inputs, &[], 1), true);
        }
        let extreme = random.chance(4);
        let mut number = |shape: &[usize]| {
            let x = of_type(random, dtype, shape);
            // The results wrap around for the largest and smallest numbers.
            let most = match dtype {
                DType::I32 => Tensor::scalar(i32::MIN),
                DType::I64 => Tensor::scalar(i64::MIN),
                _ => Tensor::scalar(200u8),
            };
            let add = Operator::new("Add", 14);
            let moved = || hetero_reference::evaluate(&add, &[Some(x.clone()), Some(most)], 1).unwrap().remove(0);
            Some(if extreme { moved() } else { x })
        };
        let inputs = vec![number(&shapes[0]), number(&shapes[1])];
        let name = random.pick(&[
            "Add",
            "Sub",
            "Mul",
            "Div",
            "Mod",
            "Max",
            "Min",
            "Sum",
            "BitwiseAnd",
            "BitwiseOr",
            "BitwiseXor",
            "Neg",
            "Abs",
            "Relu",
            "BitwiseNot",
        ]);
        let one = matches!(name, "Neg" | "Abs" | "Relu" | "BitwiseNot");
        let mut operator = Operator::new(name, 18);
        if name == "Mod" {
            operator = operator.with("fmod", int(random.size(0, 1)));
        }
        let inputs = inputs.into_iter().take(if one { 1 } else { 2 }).collect();
        // The standard has these operators on signed numbers only.
        let name = if dtype == DType::U8 && matches!(name, "Neg" | "Relu") { "Abs" } else { name };
        operator.name = name.into();
        (case(operator, inputs, &[], 1), true)
    });
}

#[test]
fn division_by_zero_and_what_wraps() {
    let pairs = |name: &str, a: [i32; 6], b: [i32; 6]| {
        agree(15, 1, |_| {
            let of = |values: [i32; 6]| Some(Tensor::from_vec(&[6], values.to_vec()).unwrap());
            (case(Operator::new(name, 14), vec![of(a), of(b)], &[], 1), true)
        });
    };
    for name in ["Add", "Sub", "Mul", "Div", "Mod"] {
        let (least, most) = (i32::MIN, i32::MAX);
        pairs(name, [5, least, -7, most, 0, least], [0, -1, 2, -1, 0, most]);
    }
}

#[test]
fn which_numbers_are_special() {
    for operator in [
        Operator::new("IsNaN", 20),
        Operator::new("IsInf", 20),
        Operator::new("IsInf", 20).with("detect_positive", int(0)),
        Operator::new("IsInf", 20).with("detect_negative", int(0)),
    ] {
        agree(16, 1, |_| {
            let x = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 1e-40, f32::MAX, -1.0];
            (case(operator.clone(), vec![Some(Tensor::from_vec(&[7], x).unwrap())], &[], 1), true)
        });
    }
}

#[test]
fn remainders_of_floats() {
    agree(17, 20, |random| {
        let shape = sizes(random, 3);
        let other = part_of(random, &shape);
        let inputs = vec![Some(random.tensor(&shape, 9.0).unwrap()), Some(random.tensor(&other, 2.0).unwrap())];
        (case(Operator::new("Mod", 13).with("fmod", int(1)), inputs, &[], 1), true)
    });
}

#[test]
fn usual_powers() {
    for exponent in [2.0f32, 3.0, -1.0, 0.5, 1.7, 0.0] {
        agree(18, 3, |random| {
            let count = random.size(1, 40);
            let mut values = random.floats(count, 3.0);
            values.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-30, 1e20]);
            let inputs = vec![Some(Tensor::from_vec(&[values.len()], values).unwrap()), Some(Tensor::scalar(exponent))];
            (case(Operator::new("Pow", 15), inputs, &[1], 1), true)
        });
    }
}

#[test]
fn conversions() {
    let types = [DType::F32, DType::F64, DType::I8, DType::I32, DType::I64, DType::U8, DType::Bool];
    agree(19, 300, |random| {
        let (from, to) = (random.pick(&types), random.pick(&types));
        let scale = random.pick(&[1.0, 300.0, 1e10, 1e20]);
        let mut values = random.floats(50, scale);
        values.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 0.5, -0.5, 1e-40]);
        let x = cast(Tensor::from_vec(&[values.len()], values).unwrap(), from);
        let operator = Operator::new("Cast", 19).with("to", Attribute::Int(i64::from(to.onnx_code())));
        (case(operator, vec![Some(x)], &[], 1), true)
    });
}

/// Checks kernels in place, because a kernel inside a program may write where it reads.
#[test]
fn in_the_memory_of_the_input() {
    let devices = devices();
    for seed in 0..60 {
        let mut network = Network::new("lines", seed);
        let shape = sizes(&mut network.random, 3);
        let x = network.input(&shape);
        let perm = Attribute::Ints(vec![0, 2, 1]);
        let mut x = network.node(Operator::new("Transpose", 13).with("perm", perm), &[x]).unwrap();
        for _ in 0..2 {
            let name = network.random.pick(&[
                "LayerNormalization",
                "RMSNormalization",
                "InstanceNormalization",
                "Softmax",
                "LogSoftmax",
                "LpNormalization",
                "MeanVarianceNormalization",
            ]);
            let shape = network.shape(x);
            let (at, attribute) = axis(&mut network.random, 3);
            let operator = Operator::new(name, 23);
            x = match name {
                "InstanceNormalization" => {
                    let (scale, shift) = [(); 2].map(|()| network.constant(&shape[1..2], 1.0).unwrap()).into();
                    network.node(operator, &[x, scale, shift])
                }
                "MeanVarianceNormalization" => network.node(operator.with("axes", Attribute::Ints(vec![0, 2])), &[x]),
                "LayerNormalization" | "RMSNormalization" => {
                    let scale = network.constant(&shape[at..], 1.0).unwrap();
                    network.node(operator.with("axis", attribute), &[x, scale])
                }
                _ => network.node(operator.with("axis", attribute), &[x]),
            }
            .unwrap();
        }
        let (program, inputs) = network.finish().unwrap();
        let expected =
            hetero_reference::run(&program, &inputs, &Standard, &hetero_hal::Allowance::new(1 << 28)).unwrap();
        for (device, opened) in &devices {
            let actual = run_program(&**opened, &program, &inputs).unwrap();
            for (actual, expected) in actual.iter().zip(&expected) {
                if let Err(error) = compare(actual, expected) {
                    panic!("{device}, seed {seed}: {error}\n{program}");
                }
            }
        }
    }
}

/// Returns an operator of the domain `com.microsoft`.
fn contributed(name: &str) -> Operator {
    Operator { domain: "com.microsoft".into(), ..Operator::new(name, 1) }
}

#[test]
fn products_with_weights_of_few_bits() {
    agree(31, 120, |random| {
        let bits = random.pick(&[2usize, 4, 8]);
        let block = random.pick(&[16usize, 32, 128]);
        let (depth, columns) = (random.size(1, 300), random.size(1, 40));
        let rows = random.pick(&[&[1][..], &[3], &[8], &[2, 9], &[37]]);
        let blocks = depth.div_ceil(block);
        let operator = contributed("MatMulNBits")
            .with("K", int(depth))
            .with("N", int(columns))
            .with("bits", int(bits))
            .with("block_size", int(block));
        let zeros = match random.size(0, 2) {
            0 => None,
            1 => Some(of_type(random, DType::U8, &[columns, (blocks * bits).div_ceil(8)])),
            _ => Some(random.tensor(&[columns, blocks], 2.0).unwrap()),
        };
        let inputs = vec![
            Some(random.tensor(&[rows, &[depth]].concat(), 1.0).unwrap()),
            Some(of_type(random, DType::U8, &[columns, blocks, block * bits / 8])),
            Some(random.tensor(&[columns, blocks], 0.1).unwrap()),
            zeros,
            None,
            random.chance(2).then(|| numbers(random, &[columns])),
        ];
        let name = format!("{bits} bits, {rows:?} by {depth} by {columns}, blocks of {block}");
        let constants = if random.chance(2) { vec![1, 2] } else { vec![] };
        (Case { name, operator, inputs, constants, outputs: 1 }, true)
    });
}

/// Operators of `com.microsoft` that files hold run by kernels, node by node of their bodies.
#[test]
fn only_these_operators_of_the_domain_are_computed_plainly() {
    let device = hetero_cpu::CpuDriver.open(0, &hetero_hal::OpenOptions::default()).unwrap();
    let mut plain = std::collections::BTreeSet::new();
    for case in hetero_conformance::suite(1).unwrap() {
        let half = case.inputs.iter().flatten().any(|input| input.dtype() == DType::F16);
        if &*case.operator.domain != "com.microsoft" || half {
            continue;
        }
        let (program, _) = program(&case).unwrap();
        let claims = device.claims(&program);
        for claim in claims.iter().filter(|claim| claim.quality != Quality::Native) {
            let nodes = claim.nodes.iter().map(|id| program.nodes()[id.index()].operator.to_string());
            plain.extend(nodes.map(|node| format!("{} by {node}", case.operator)));
        }
    }
    let known = [
        // Data of four bits in types of their own.
        "com.microsoft.GatherBlockQuantized by com.microsoft.GatherBlockQuantized",
        // The size of a cache that only a run tells.
        "com.microsoft.GroupQueryAttention by com.microsoft.GroupQueryAttention",
        "com.microsoft.Inverse by com.microsoft.Inverse",
        // An order of the weights, which is deprecated.
        "com.microsoft.MatMulNBits by com.microsoft.MatMulNBits",
    ];
    assert_eq!(plain.iter().map(String::as_str).collect::<Vec<_>>(), known);
}
