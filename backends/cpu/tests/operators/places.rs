//! Operators that write to, read from, order and find places, of numbers of several types.

use hetero_hal::{Attribute, Bool, DType, Element, Operator, Tensor};

use super::super::Random;
use super::{Made, agree, case, i64s, int, sizes, text};

/// Returns whole numbers of some type, among them equal ones, or any floats.
fn numbers(random: &mut Random, shape: &[usize], dtype: DType) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<i64> = (0..count).map(|_| random.size(0, 40) as i64 - 20).collect();
    fn of<T: Element>(shape: &[usize], values: Vec<i64>, to: impl Fn(i64) -> T) -> Tensor {
        Tensor::from_vec(shape, values.into_iter().map(to).collect()).unwrap()
    }
    match dtype {
        DType::F32 => of(shape, values, |x| x as f32 * 0.37),
        DType::F64 => of(shape, values, |x| x as f64 * 0.37),
        DType::I32 => of(shape, values, |x| x as i32),
        DType::I8 => of(shape, values, |x| x as i8),
        DType::U8 => of(shape, values, |x| x as u8),
        DType::I16 => of(shape, values, |x| x as i16),
        DType::Bool => of(shape, values, |x| Bool::from(x > 0)),
        _ => of(shape, values, |x| x),
    }
}

const TYPES: &[DType] =
    &[DType::F32, DType::F32, DType::F64, DType::I32, DType::I64, DType::I8, DType::U8, DType::I16, DType::Bool];

/// Returns indices into so many elements, in one of the two types and counted from either end.
fn indices(random: &mut Random, shape: &[usize], mut size: impl FnMut(usize) -> usize) -> Tensor {
    let count: usize = shape.iter().product();
    let index = |random: &mut Random, size: usize| {
        let index = random.size(0, size - 1) as i64;
        if random.chance(4) { index - size as i64 } else { index }
    };
    let values: Vec<i64> = (0..count).map(|at| index(random, size(at))).collect();
    match random.chance(3) {
        true => Tensor::from_vec(shape, values.into_iter().map(|x| x as i32).collect()).unwrap(),
        false => Tensor::from_vec(shape, values).unwrap(),
    }
}

fn reduction(random: &mut Random, dtype: DType) -> &'static str {
    if dtype == DType::Bool { "none" } else { random.pick(&["none", "none", "add", "mul", "max", "min"]) }
}

#[test]
fn elements_scattered_along_an_axis() {
    let made = |random: &mut Random| -> Made {
        let (rank, dtype) = (random.size(1, 4), random.pick(TYPES));
        let shape = sizes(random, rank);
        let axis = random.size(0, rank - 1);
        let mut own: Vec<usize> = shape.iter().map(|&size| random.size(1, size)).collect();
        own[axis] = random.size(1, 30);
        let chosen = indices(random, &own, |_| shape[axis]);
        let operator = Operator::new("ScatterElements", 18)
            .with("axis", int(axis))
            .with("reduction", text(reduction(random, dtype)));
        let inputs = vec![Some(numbers(random, &shape, dtype)), Some(chosen), Some(numbers(random, &own, dtype))];
        (case(operator, inputs, &[], 1), true)
    };
    agree(51, 250, made);
    // So many that all threads go over them.
    agree(52, 3, |random| {
        let chosen = indices(random, &[70_000], |_| 5000);
        let operator = Operator::new("ScatterElements", 18).with("reduction", text(random.pick(&["none", "add"])));
        let inputs = vec![
            Some(numbers(random, &[5000], DType::I64)),
            Some(chosen),
            Some(numbers(random, &[70_000], DType::I64)),
        ];
        (case(operator, inputs, &[], 1), true)
    });
}

#[test]
fn blocks_gathered_and_scattered() {
    let made = |random: &mut Random, large: bool| -> Made {
        let (rank, dtype) = (random.size(1, 4), random.pick(TYPES));
        let mut shape = sizes(random, rank);
        let depth = random.size(1, rank);
        let gathers = random.chance(2);
        let batch = if gathers { random.size(0, depth - 1) } else { 0 };
        let mut own: Vec<usize> = shape[..batch].to_vec();
        own.extend((0..random.size(0, 2)).map(|_| random.size(1, 9)));
        if large {
            shape[rank - 1] = random.pick(&[40, 200]);
            own.push(1000);
        }
        let mut chosen = own.clone();
        chosen.push(depth - batch);
        let chosen = indices(random, &chosen, |at| shape[batch + at % (depth - batch)]);
        own.extend(&shape[depth..]);
        let data = Some(numbers(random, &shape, dtype));
        if gathers {
            let operator = Operator::new("GatherND", 13).with("batch_dims", int(batch));
            return (case(operator, vec![data, Some(chosen)], &[], 1), true);
        }
        let operator = Operator::new("ScatterND", 18).with("reduction", text(reduction(random, dtype)));
        (case(operator, vec![data, Some(chosen), Some(numbers(random, &own, dtype))], &[], 1), true)
    };
    agree(53, 250, |random| made(random, false));
    agree(54, 10, |random| made(random, true));
}

#[test]
fn an_index_outside_is_an_error() {
    for (name, data, chosen) in [
        ("ScatterElements", vec![4], i64s(&[0, 4])),
        ("GatherND", vec![4], i64s(&[-5])),
        ("ScatterND", vec![4], i64s(&[4])),
    ] {
        let data = Tensor::from_vec(&data, vec![0f32; 4]).unwrap();
        let updates = Tensor::from_vec(&[chosen.len()], vec![1f32; chosen.len()]).unwrap();
        let (chosen, updates) = match name {
            "ScatterElements" => (chosen, updates),
            _ => (chosen.reshaped(&[1, 1]).unwrap(), updates),
        };
        let mut inputs = vec![Some(data), Some(chosen)];
        if name != "GatherND" {
            inputs.push(Some(updates));
        }
        let case = case(Operator::new(name, 13), inputs.clone(), &[], 1);
        let expected = hetero_reference::evaluate(&case.operator, &inputs, 1).unwrap_err();
        let (program, inputs) = hetero_conformance::program(&case).unwrap();
        for (device, opened) in super::devices() {
            let error = hetero_conformance::run_program(&*opened, &program, &inputs).unwrap_err();
            assert_eq!(error.kind(), expected.kind(), "{device}, {name}");
            assert!(error.to_string().contains("is outside a dimension of size 4"), "{device}, {name}: {error}");
        }
    }
}

#[test]
fn the_largest_and_smallest_in_order() {
    let made = |random: &mut Random, shape: Vec<usize>, most: usize| -> Made {
        let dtype = random.pick(&TYPES[..TYPES.len() - 1]);
        let axis = random.size(0, shape.len() - 1);
        let k = random.size(0, shape[axis].min(most));
        let mut x = numbers(random, &shape, dtype);
        if dtype == DType::F32 && random.chance(2) {
            let mut values = x.view::<f32>().unwrap().to_vec();
            for value in &mut values {
                *value = match random.size(0, 30) {
                    0 => f32::NAN,
                    1 => -0.0,
                    2 => f32::INFINITY,
                    3 => f32::NEG_INFINITY,
                    _ => *value,
                };
            }
            x = Tensor::from_vec(&shape, values).unwrap();
        }
        let operator = Operator::new("TopK", 11).with("axis", int(axis)).with("largest", int(random.size(0, 1)));
        let native = !shape.contains(&0);
        (case(operator, vec![Some(x), Some(i64s(&[k as i64]))], &[1], 2), native)
    };
    agree(55, 200, |random| {
        let rank = random.size(1, 3);
        let shape = sizes(random, rank);
        made(random, shape, 19)
    });
    agree(56, 20, |random| {
        let length = random.pick(&[300, 1000, 3000]);
        let shape = if random.chance(2) { vec![2, length] } else { vec![length, 3] };
        made(random, shape, 500)
    });
    // So long that a line is divided.
    agree(57, 4, |random| {
        let shape = vec![random.pick(&[1, 2]), 150_000];
        made(random, shape, 100)
    });
}

#[test]
fn running_sums_and_products() {
    agree(58, 200, |random| {
        let (rank, dtype) = (random.size(1, 4), random.pick(&[DType::F32, DType::F64, DType::I32, DType::I64]));
        let shape = sizes(random, rank);
        let axis = random.size(0, rank - 1) as i64 - if random.chance(2) { rank as i64 } else { 0 };
        let floats = matches!(dtype, DType::F32 | DType::F64);
        let name = if floats && random.chance(3) { "CumProd" } else { "CumSum" };
        let operator =
            Operator::new(name, 26).with("exclusive", int(random.size(0, 1))).with("reverse", int(random.size(0, 1)));
        let x = match dtype {
            DType::F32 => random.tensor(&shape, 1.2).unwrap(),
            dtype => numbers(random, &shape, dtype),
        };
        (case(operator, vec![Some(x), Some(Tensor::scalar(axis))], &[1], 1), true)
    });
}

#[test]
fn runs_of_elements() {
    agree(59, 250, |random| {
        let (rank, dtype) = (random.size(2, 4), random.pick(TYPES));
        let shape = sizes(random, rank);
        let x = Some(numbers(random, &shape, dtype));
        match random.size(0, 3) {
            0 => {
                let operator = Operator::new("Trilu", 14).with("upper", int(random.size(0, 1)));
                let shift = random.chance(2).then(|| Tensor::scalar(random.size(0, 8) as i64 - 4));
                (case(operator, vec![x, shift], &[], 1), true)
            }
            1 => {
                let time = random.size(0, 1);
                let lengths: Vec<i64> = (0..shape[1 - time]).map(|_| random.size(0, shape[time]) as i64).collect();
                let operator =
                    Operator::new("ReverseSequence", 10).with("time_axis", int(time)).with("batch_axis", int(1 - time));
                (case(operator, vec![x, Some(i64s(&lengths))], &[], 1), true)
            }
            2 => {
                let wanted: Vec<i64> = shape.iter().map(|&size| (size + 4 - random.size(1, 5)).max(1) as i64).collect();
                (case(Operator::new("CenterCropPad", 18), vec![x, Some(i64s(&wanted))], &[1], 1), true)
            }
            _ => {
                let chosen = indices(random, &shape, |_| 7);
                let axis = random.size(0, rank) as i64;
                let operator = Operator::new("OneHot", 11).with("axis", Attribute::Int(axis - rank as i64 - 1));
                let depth = Some(Tensor::scalar(random.size(1, 9) as i64));
                (case(operator, vec![Some(chosen), depth, Some(numbers(random, &[2], dtype))], &[1], 1), true)
            }
        }
    });
}

#[test]
fn what_is_found() {
    let types = [DType::F32, DType::I32, DType::I64, DType::U8, DType::Bool];
    let made = |random: &mut Random, shape: &[usize]| -> Made {
        let dtype = random.pick(&types);
        let x = Some(numbers(random, shape, dtype));
        match random.size(0, 2) {
            0 => (case(Operator::new("NonZero", 13), vec![x], &[], 1), true),
            1 => {
                let axis = random.size(0, shape.len() - 1);
                let (operator, length) = match random.chance(2) {
                    true => (Operator::new("Compress", 11), shape.iter().product()),
                    false => (Operator::new("Compress", 11).with("axis", int(axis)), shape[axis]),
                };
                let flags = (0..random.size(1, length)).map(|_| Bool::from(random.chance(2))).collect::<Vec<_>>();
                let flags = Tensor::from_vec(&[flags.len()], flags).unwrap();
                (case(operator, vec![x, Some(flags)], &[], 1), true)
            }
            _ => {
                let operator = Operator::new("Unique", 11).with("sorted", int(random.size(0, 1)));
                (case(operator, vec![x], &[], 4), dtype != DType::Bool)
            }
        }
    };
    agree(60, 200, |random| {
        let rank = random.size(1, 3);
        let shape = sizes(random, rank);
        made(random, &shape)
    });
    agree(61, 6, |random| made(random, &[40_000]));
    agree(62, 60, |random| {
        let (batch, classes, count) = (random.size(1, 2), random.size(1, 3), random.size(1, 60));
        let values = |random: &mut Random, shape: &[usize]| {
            let count = shape.iter().product();
            Tensor::from_vec(shape, (0..count).map(|_| random.size(0, 30) as f32 * 0.1).collect()).unwrap()
        };
        let boxes = values(random, &[batch, count, 4]);
        let scores = values(random, &[batch, classes, count]);
        let mut inputs = vec![Some(boxes), Some(scores), Some(Tensor::scalar(random.size(0, 20) as i64))];
        inputs.push(random.chance(2).then(|| Tensor::scalar(random.pick(&[0.2f32, 0.5]))));
        inputs.push(random.chance(2).then(|| Tensor::scalar(0.7f32)));
        let operator = Operator::new("NonMaxSuppression", 11).with("center_point_box", int(random.size(0, 1)));
        (case(operator, inputs, &[2], 1), true)
    });
}
