//! Single operators of random sizes and attributes against the oracle, and that they are done by kernels of this crate where they should be.

use hetero_conformance::{Case, program, run_program};
use hetero_hal::{Attribute, DType, Operator, Quality, Tensor};

use super::{Random, devices};

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

/// Floats within a small share of their range, NaN and infinities in their places; all else exactly.
fn compare(actual: &Tensor, expected: &Tensor) -> Result<(), String> {
    if actual.dtype() != expected.dtype() || actual.shape() != expected.shape() {
        return Err(format!("{actual:?} is not {expected:?}"));
    }
    if actual.dtype() != DType::F32 {
        return if actual == expected { Ok(()) } else { Err("elements differ".to_owned()) };
    }
    let (actual, expected) = (actual.view::<f32>().unwrap(), expected.view::<f32>().unwrap());
    let range = expected.iter().filter(|x| x.is_finite()).fold(1e-3f32, |most, x| most.max(x.abs()));
    for (place, (a, b)) in actual.iter().zip(expected.iter()).enumerate() {
        let agree = if b.is_finite() { (a - b).abs() <= range * 2e-5 } else { a == b || (a.is_nan() && b.is_nan()) };
        if !agree {
            return Err(format!("element {place} is {a}, not {b}, in a range of {range}"));
        }
    }
    Ok(())
}

/// So many cases on every device.
fn agree(seed: u64, count: usize, mut make: impl FnMut(&mut Random) -> Made) {
    let mut random = Random(seed);
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
            Some(random.tensor(&x, 1.0)),
            Some(random.tensor(&[count, gates * hidden, width], 1.0)),
            Some(random.tensor(&[count, gates * hidden, hidden], 1.0)),
        ];
        inputs.push(random.chance(2).then(|| random.tensor(&[count, 2 * gates * hidden], 1.0)));
        inputs.push(None);
        inputs.push(random.chance(2).then(|| random.tensor(&state, 1.0)));
        if name == "LSTM" {
            inputs.push(random.chance(2).then(|| random.tensor(&state, 1.0)));
        }
        let constants = random.pick(&[&[][..], &[1], &[2, 3], &[1, 2, 3], &[1, 2, 3]]);
        let outputs = random.size(1, gates - 1);
        (case(operator, inputs, constants, outputs), true)
    });
}
