//! Convolutions of bytes, and networks in 8 bits as exporters write them.

use hetero_conformance::{Network, run_program};
use hetero_hal::{Allowance, Attribute, DType, Operator, Program, Result, Tensor, ValueId};
use hetero_reference::Standard;

use super::super::{Random, devices};
use super::{agree, case, int};

const BYTES: [DType; 2] = [DType::U8, DType::I8];

/// Returns random bytes of a type, often extreme ones.
fn bytes(random: &mut Random, dtype: DType, shape: &[usize]) -> Tensor {
    let extreme = random.chance(4);
    let byte = |random: &mut Random| match extreme {
        true => random.pick(&[0u8, 127, 128, 255]),
        false => random.size(0, 255) as u8,
    };
    let values: Vec<u8> = (0..shape.iter().product()).map(|_| byte(random)).collect();
    Tensor::from_bytes(dtype, shape, values.into()).unwrap()
}

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

/// A network in 8 bits on its way.
struct Quantised {
    network: Network,
    dtype: DType,
    /// The scale and zero point of each value, by its bytes.
    quanta: Vec<(ValueId, [ValueId; 2], f32)>,
}

impl Quantised {
    fn quantum(&mut self) -> ([ValueId; 2], f32) {
        let random = &mut self.network.random;
        let scale = 0.02 + random.size(0, 1000) as f32 / 20_000.0;
        let zero = random.size(96, 160) as u8;
        let zero = if self.dtype == DType::U8 { Tensor::scalar(zero) } else { Tensor::scalar((zero ^ 0x80) as i8) };
        ([self.network.given(Tensor::scalar(scale)), self.network.given(zero)], scale)
    }

    /// Returns the bytes of a real value.
    fn bytes(&mut self, value: ValueId) -> Result<ValueId> {
        let (quantum, step) = self.quantum();
        let [scale, zero] = quantum;
        let bytes = self.network.node(Operator::new("QuantizeLinear", 13), &[value, scale, zero])?;
        self.quanta.push((bytes, quantum, step));
        Ok(bytes)
    }

    fn real(&mut self, bytes: ValueId) -> Result<ValueId> {
        let [scale, zero] = self.quanta.iter().find(|entry| entry.0 == bytes).unwrap().1;
        self.network.node(Operator::new("DequantizeLinear", 13), &[bytes, scale, zero])
    }

    /// Returns a real constant of bytes, with a scale for each place along the first axis.
    fn weights(&mut self, shape: &[usize], scale: f32) -> Result<(ValueId, Vec<f32>)> {
        let random = &mut self.network.random;
        let count = if random.chance(2) { shape[0] } else { 1 };
        let scales: Vec<f32> = (0..count).map(|_| scale * (1.0 + random.size(0, 100) as f32 / 100.0)).collect();
        let content = bytes(random, DType::I8, shape);
        let scale = match count {
            1 => Tensor::scalar(scales[0]),
            _ => Tensor::from_vec(&[count], scales.clone())?,
        };
        let (content, scale) = (self.network.given(content), self.network.given(scale));
        let operator = Operator::new("DequantizeLinear", 13).with("axis", Attribute::Int(0));
        Ok((self.network.node(operator, &[content, scale])?, scales))
    }

    fn convolution(&mut self, x: ValueId, filters: usize, groups: usize) -> Result<ValueId> {
        let channels = self.network.shape(x)[1];
        let kernel = self.network.random.pick(&[1, 3]);
        let shape = [filters, channels / groups, kernel, kernel];
        let depth = (channels / groups * kernel * kernel) as f32;
        let (weights, scales) = self.weights(&shape, 0.01 / depth.sqrt())?;
        let mut inputs = vec![self.real(x)?, weights];
        if self.network.random.chance(2) {
            inputs.push(self.network.constant(&[filters], 0.5)?);
        } else {
            let scale = self.quanta.iter().find(|entry| entry.0 == x).unwrap().2;
            let scales: Vec<f32> =
                (0..filters).map(|f| scales[if scales.len() == 1 { 0 } else { f }] * scale).collect();
            let whole = (0..filters).map(|_| self.network.random.size(0, 400) as i32 - 200).collect();
            let whole = self.network.given(Tensor::from_vec(&[filters], whole)?);
            let scale = self.network.given(Tensor::from_vec(&[filters], scales)?);
            let operator = Operator::new("DequantizeLinear", 13).with("axis", Attribute::Int(0));
            inputs.push(self.network.node(operator, &[whole, scale])?);
        }
        let half = kernel as i64 / 2;
        let stride = self.network.random.size(1, 2) as i64;
        let operator = Operator::new("Conv", 13)
            .with("group", int(groups))
            .with("strides", Attribute::Ints(vec![stride; 2]))
            .with("pads", Attribute::Ints(vec![half; 4]));
        let mut y = self.network.node(operator, &inputs)?;
        if self.network.random.chance(2) {
            y = self.network.node(Operator::new("Relu", 13), &[y])?;
        }
        self.bytes(y)
    }

    fn step(&mut self, x: ValueId) -> Result<ValueId> {
        let shape = self.network.shape(x);
        let channels = shape[1];
        let real = self.real(x)?;
        let y = match self.network.random.size(0, 8) {
            0 | 1 => {
                let filters = self.network.random.size(1, 40);
                return self.convolution(x, filters, 1);
            }
            2 => return self.convolution(x, channels, channels),
            3 => {
                let other = self.convolution(x, channels, 1)?;
                if self.network.shape(other) != shape {
                    return Ok(other);
                }
                let other = self.real(other)?;
                let name = self.network.random.pick(&["Add", "Mul", "Sub"]);
                self.network.node(Operator::new(name, 14), &[real, other])?
            }
            4 if shape[2].min(shape[3]) > 2 => {
                let name = self.network.random.pick(&["MaxPool", "AveragePool"]);
                let operator = Operator::new(name, 12)
                    .with("kernel_shape", Attribute::Ints(vec![2, 3]))
                    .with("pads", Attribute::Ints(vec![0, 1, 1, 1]));
                self.network.node(operator, &[real])?
            }
            5 => {
                let other = self.convolution(x, 7, 1)?;
                if self.network.shape(other)[2..] != shape[2..] {
                    return Ok(other);
                }
                let other = self.real(other)?;
                self.network.node(Operator::new("Concat", 13).with("axis", Attribute::Int(1)), &[real, other])?
            }
            6 => {
                let scales = self.network.given(Tensor::from_vec(&[4], vec![1.0f32, 1.0, 2.0, 1.5])?);
                let none = self.network.given(Tensor::from_vec(&[0], Vec::<f32>::new())?);
                let operator = Operator::new("Resize", 13)
                    .with("mode", super::text("nearest"))
                    .with("coordinate_transformation_mode", super::text("asymmetric"))
                    .with("nearest_mode", super::text("floor"));
                self.network.node(operator, &[real, none, scales])?
            }
            _ => {
                let name = self.network.random.pick(&["Sigmoid", "Relu", "HardSwish", "LeakyRelu", "Tanh"]);
                self.network.node(Operator::new(name, if name == "HardSwish" { 14 } else { 6 }), &[real])?
            }
        };
        self.bytes(y)
    }
}

/// Makes a random network in 8 bits whose result is bytes, of one step or of several.
fn quantised(seed: u64, steps: usize) -> Result<(Program, Vec<Tensor>)> {
    let mut random = Random::new(seed);
    let dtype = random.pick(&BYTES);
    let mut network = Quantised { network: Network::new("bytes", seed), dtype, quanta: vec![] };
    let shape = [random.size(1, 2), random.size(1, 40), random.size(4, 11), random.size(4, 11)];
    let x = network.network.input(&shape);
    let mut x = network.bytes(x)?;
    for _ in 0..steps {
        x = network.step(x)?;
    }
    if steps > 1 && random.chance(2) {
        let real = network.real(x)?;
        let whole = network.network.node(Operator::new("GlobalAveragePool", 1), &[real])?;
        let whole = network.bytes(whole)?;
        let real = network.real(whole)?;
        let flat = network.network.node(Operator::new("Flatten", 13), &[real])?;
        let flat = network.bytes(flat)?;
        let depth = network.network.shape(flat)[1];
        let (weights, _) = network.weights(&[11, depth], 0.01)?;
        let real = network.real(flat)?;
        let operator = Operator::new("Gemm", 13).with("transB", Attribute::Int(1));
        let scores = network.network.node(operator, &[real, weights])?;
        network.bytes(scores)?;
    }
    network.network.finish()
}

/// Returns by how many steps results differ at most.
fn difference(actual: &Tensor, expected: &Tensor) -> u32 {
    assert_eq!((actual.dtype(), actual.shape()), (expected.dtype(), expected.shape()));
    // Real numbers between the parts in 8 bits follow from the bytes that are compared.
    if actual.dtype() == DType::F32 {
        return 0;
    }
    let number = |byte: u8| if actual.dtype() == DType::I8 { i32::from(byte as i8) } else { i32::from(byte) };
    let pairs = actual.bytes().iter().zip(expected.bytes().iter());
    pairs.map(|(a, b)| number(*a).abs_diff(number(*b))).max().unwrap_or(0)
}

#[test]
fn an_operation_between_conversions_differs_by_one_step_at_most() {
    let devices = devices();
    for seed in 0..250 {
        let (program, inputs) = quantised(seed, 1).unwrap();
        let expected = hetero_reference::run(&program, &inputs, &Standard, &Allowance::default()).unwrap();
        for (name, device) in &devices {
            let actual = run_program(&**device, &program, &inputs).unwrap();
            for (actual, expected) in actual.iter().zip(&expected) {
                // Where a step has two operations, the second may see a difference of the first.
                let most = if program.nodes().len() > 8 { 3 } else { 1 };
                let found = difference(actual, expected);
                assert!(found <= most, "{name}, seed {seed}: {found} steps in {:?}", program.nodes());
            }
        }
    }
}

#[test]
fn networks_in_8_bits_are_the_same_with_every_instruction_set() {
    let devices = devices();
    for seed in 1000..1060 {
        let (program, inputs) = quantised(seed, 5).unwrap();
        let mut first: Option<Vec<Tensor>> = None;
        for (name, device) in &devices {
            let actual = run_program(&**device, &program, &inputs).unwrap();
            let first = first.get_or_insert_with(|| actual.clone());
            for (actual, first) in actual.iter().zip(&*first) {
                let found = difference(actual, first);
                assert!(found <= 1, "{name}, seed {seed}: {found} steps");
            }
        }
    }
}
