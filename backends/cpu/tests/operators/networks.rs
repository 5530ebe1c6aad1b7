//! Networks in 8 bits as exporters write them: the usual operators on real numbers, each with
//! `DequantizeLinear` before it and `QuantizeLinear` behind it.
//!
//! A device computes exact sums of bytes where the oracle computes in f32 and rounds after each
//! node.
//! Their results are the same, but for those that lie so near the middle between two steps that the
//! oracle's own rounding decides; there they may be one step apart.

use hetero_conformance::{Network, run_program};
use hetero_hal::{Attribute, DType, Device, Operator, Program, Result, Tensor, ValueId};

use super::super::devices;
use super::int;
use super::quantised::{BYTES, bytes};

/// A network in 8 bits on its way.
struct Quantised {
    network: Network,
    /// The scale and zero point of each value, by its bytes.
    quanta: Vec<(ValueId, [ValueId; 2], f32)>,
}

/// What is different in each network's weights.
#[derive(Clone, Copy)]
struct Style {
    by_channel: bool,
    dtype: DType,
    symmetric: bool,
    whole_bias: bool,
}

impl Quantised {
    /// Returns a scale and a zero point, of signed bytes or not.
    fn quantum(&mut self) -> ([ValueId; 2], f32) {
        let random = &mut self.network.random;
        let signed = random.chance(3);
        // Steps of powers of two make results that lie in the middle between two steps.
        let scale = if random.chance(3) { 0.03125 } else { 0.02 + random.size(0, 1000) as f32 / 20_000.0 };
        let zero = random.pick(&[0u8, 128, 96, 117, 160, 255]);
        let zero = if signed { Tensor::scalar((zero ^ 0x80) as i8) } else { Tensor::scalar(zero) };
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

    fn style(&mut self) -> Style {
        let random = &mut self.network.random;
        let [by_channel, symmetric, whole_bias] = [2, 2, 2].map(|of| random.chance(of));
        Style { by_channel, dtype: random.pick(&BYTES), symmetric, whole_bias }
    }

    /// Returns a real constant of bytes, with a scale for all or for each place along an axis, and
    /// the scales.
    fn weights(&mut self, style: Style, shape: &[usize], axis: usize, scale: f32) -> Result<(ValueId, Vec<f32>)> {
        let random = &mut self.network.random;
        let lengths = if style.by_channel { vec![shape[axis]] } else { vec![] };
        let count: usize = lengths.iter().product();
        let scales: Vec<f32> = (0..count).map(|_| scale * (1.0 + random.size(0, 100) as f32 / 100.0)).collect();
        let content = bytes(random, style.dtype, shape);
        let zero = if style.symmetric {
            let middle = if style.dtype == DType::I8 { 0 } else { 128 };
            Tensor::from_bytes(style.dtype, &lengths, vec![middle; count].into())?
        } else {
            bytes(random, style.dtype, &lengths)
        };
        let mut inputs = vec![content, Tensor::from_vec(&lengths, scales.clone())?, zero];
        if style.symmetric && style.dtype == DType::I8 && random.chance(2) {
            inputs.pop();
        }
        let inputs: Vec<ValueId> = inputs.into_iter().map(|content| self.network.given(content)).collect();
        let operator = Operator::new("DequantizeLinear", 13).with("axis", int(axis));
        Ok((self.network.node(operator, &inputs)?, scales))
    }

    /// Returns a bias for results of `x` times weights of these scales: integers in their steps, or
    /// real numbers.
    fn bias(&mut self, style: Style, x: ValueId, scales: &[f32], count: usize) -> Result<ValueId> {
        if !style.whole_bias {
            return self.network.constant(&[count], 0.5);
        }
        let step = self.quanta.iter().find(|entry| entry.0 == x).unwrap().2;
        let scales: Vec<f32> = scales.iter().map(|scale| scale * step).collect();
        let whole = (0..count).map(|_| self.network.random.size(0, 4000) as i32 - 2000).collect();
        let whole = self.network.given(Tensor::from_vec(&[count], whole)?);
        let lengths = if style.by_channel { vec![count] } else { vec![] };
        let scale = self.network.given(Tensor::from_vec(&lengths, scales)?);
        let operator = Operator::new("DequantizeLinear", 13).with("axis", int(0));
        self.network.node(operator, &[whole, scale])
    }

    /// Adds what may stand between a product and its conversion.
    fn limited(&mut self, value: ValueId) -> Result<ValueId> {
        match self.network.random.size(0, 3) {
            0 => self.network.node(Operator::new("Relu", 13), &[value]),
            1 => {
                let limits = [0.0f32, 6.0].map(|limit| self.network.given(Tensor::scalar(limit)));
                self.network.node(Operator::new("Clip", 13), &[value, limits[0], limits[1]])
            }
            _ => Ok(value),
        }
    }

    fn convolution(&mut self, x: ValueId, filters: usize, groups: usize) -> Result<ValueId> {
        let channels = self.network.shape(x)[1];
        let kernel = self.network.random.pick(&[1, 3]);
        let shape = [filters, channels / groups, kernel, kernel];
        let depth = (channels / groups * kernel * kernel) as f32;
        let style = self.style();
        let (weights, scales) = self.weights(style, &shape, 0, 0.01 / depth.sqrt())?;
        let mut inputs = vec![self.real(x)?, weights];
        if !self.network.random.chance(4) {
            inputs.push(self.bias(style, x, &scales, filters)?);
        }
        let half = kernel as i64 / 2;
        let stride = self.network.random.size(1, 2) as i64;
        let operator = Operator::new("Conv", 13)
            .with("group", int(groups))
            .with("strides", Attribute::Ints(vec![stride; 2]))
            .with("pads", Attribute::Ints(vec![half; 4]));
        let y = self.network.node(operator, &inputs)?;
        let y = self.limited(y)?;
        if self.network.random.chance(8) {
            // The sums are read as real numbers too.
            self.network.node(Operator::new("Neg", 13), &[y])?;
        }
        self.bytes(y)
    }

    /// Adds a product with a constant matrix, as a Gemm or as a MatMul with or without a bias.
    fn product(&mut self, x: ValueId, columns: usize, last: bool) -> Result<ValueId> {
        let shape = self.network.shape(x);
        let depth = shape[shape.len() - 1];
        let style = self.style();
        let (gemm, transposed) = (shape.len() == 2 && self.network.random.chance(2), self.network.random.chance(2));
        let (sizes, axis) = if gemm && transposed { ([columns, depth], 0) } else { ([depth, columns], 1) };
        let (weights, scales) = self.weights(style, &sizes, axis, 0.02 / (depth as f32).sqrt())?;
        let mut inputs = vec![self.real(x)?, weights];
        let bias = match self.network.random.chance(3) {
            true => None,
            false => Some(self.bias(style, x, &scales, columns)?),
        };
        let y = if gemm {
            inputs.extend(bias);
            self.network.node(Operator::new("Gemm", 13).with("transB", int(usize::from(transposed))), &inputs)?
        } else {
            let y = self.network.node(Operator::new("MatMul", 13), &inputs)?;
            match bias {
                Some(bias) => self.network.node(Operator::new("Add", 14), &[bias, y])?,
                None => y,
            }
        };
        // The last product of a network may stay real.
        if last && self.network.random.chance(2) {
            return Ok(y);
        }
        let y = self.limited(y)?;
        self.bytes(y)
    }

    /// Adds a step to an image.
    fn step(&mut self, x: ValueId) -> Result<ValueId> {
        let shape = self.network.shape(x);
        let channels = shape[1];
        let kind = self.network.random.size(0, 10);
        let y = match kind {
            0..=2 => {
                let filters = self.network.random.size(1, 40);
                return self.convolution(x, filters, 1);
            }
            3 => return self.convolution(x, channels, channels),
            4 | 5 => {
                let filters = if kind == 4 { channels } else { 7 };
                let other = self.convolution(x, filters, 1)?;
                if self.network.shape(other)[2..] != shape[2..] {
                    return Ok(other);
                }
                let pair = [self.real(x)?, self.real(other)?];
                let operator = match kind {
                    4 => Operator::new(self.network.random.pick(&["Add", "Mul", "Sub"]), 14),
                    _ => Operator::new("Concat", 13).with("axis", Attribute::Int(1)),
                };
                let y = self.network.node(operator, &pair)?;
                if kind == 4 { self.limited(y)? } else { y }
            }
            6 | 7 if shape[2].min(shape[3]) > 2 => {
                let name = if kind == 6 { "MaxPool" } else { "AveragePool" };
                let mut operator = Operator::new(name, 12)
                    .with("kernel_shape", Attribute::Ints(vec![2, 3]))
                    .with("pads", Attribute::Ints(vec![0, 1, 1, 1]));
                if kind == 7 {
                    operator = operator.with("count_include_pad", int(self.network.random.size(0, 1)));
                }
                let real = self.real(x)?;
                self.network.node(operator, &[real])?
            }
            8 => {
                let scales = self.network.given(Tensor::from_vec(&[4], vec![1.0f32, 1.0, 2.0, 1.5])?);
                let none = self.network.given(Tensor::from_vec(&[0], Vec::<f32>::new())?);
                let operator = Operator::new("Resize", 13)
                    .with("mode", super::text("nearest"))
                    .with("coordinate_transformation_mode", super::text("asymmetric"))
                    .with("nearest_mode", super::text("floor"));
                let real = self.real(x)?;
                self.network.node(operator, &[real, none, scales])?
            }
            9 => {
                let name = self.network.random.pick(&["Add", "Sub", "Mul", "Div", "Pow", "Max"]);
                let real = self.real(x)?;
                let sizes: &[usize] = if self.network.random.chance(2) { &[] } else { &[1, 1] };
                let number = self.network.constant(sizes, 3.0)?;
                // A number may be the first operand, and both may be one value.
                let operands = match self.network.random.size(0, 3) {
                    0 => [number, real],
                    1 => [real, real],
                    _ => [real, number],
                };
                self.network.node(Operator::new(name, 14), &operands)?
            }
            _ => {
                let name = self.network.random.pick(&["Sigmoid", "Relu", "HardSwish", "LeakyRelu", "Tanh"]);
                let real = self.real(x)?;
                self.network.node(Operator::new(name, if name == "HardSwish" { 14 } else { 6 }), &[real])?
            }
        };
        self.bytes(y)
    }

    /// Adds what stands at the end of a classifier.
    fn head(&mut self, x: ValueId) -> Result<()> {
        let real = self.real(x)?;
        let whole = self.network.node(Operator::new("GlobalAveragePool", 1), &[real])?;
        let whole = self.bytes(whole)?;
        let real = self.real(whole)?;
        let flat = self.network.node(Operator::new("Flatten", 13), &[real])?;
        let flat = self.bytes(flat)?;
        let columns = self.network.random.size(1, 40);
        self.product(flat, columns, true).map(|_| ())
    }
}

/// Makes a random network on images with this number of steps, of which all bytes are results where
/// `open` says so.
fn images(seed: u64, steps: usize, open: bool) -> Result<(Program, Vec<Tensor>)> {
    let mut network = Quantised { network: Network::new("bytes", seed), quanta: vec![] };
    let random = &mut network.network.random;
    let shape = [random.size(1, 2), random.size(1, 40), random.size(4, 11), random.size(4, 11)];
    let x = network.network.input(&shape);
    let mut x = network.bytes(x)?;
    for _ in 0..steps {
        x = network.step(x)?;
    }
    if network.network.random.chance(3) {
        network.head(x)?;
    }
    finish(network, open)
}

/// Makes a random network of products of matrices.
fn matrices(seed: u64, open: bool) -> Result<(Program, Vec<Tensor>)> {
    let mut network = Quantised { network: Network::new("bytes", seed), quanta: vec![] };
    let random = &mut network.network.random;
    let mut shape = vec![random.size(1, 20), random.size(1, 90)];
    if random.chance(2) {
        shape.insert(0, random.size(1, 3));
    }
    let x = network.network.input(&shape);
    let mut x = network.bytes(x)?;
    for number in 0..3 {
        let columns = network.network.random.size(1, 90);
        x = network.product(x, columns, number == 2)?;
    }
    finish(network, open)
}

/// Makes the program, in which all bytes are results or only those that nothing reads.
fn finish(network: Quantised, open: bool) -> Result<(Program, Vec<Tensor>)> {
    let (program, inputs) = network.network.finish()?;
    let read = program.consumers();
    let mut graph = program.to_graph();
    let made = graph.nodes.iter().map(|node| (node.operator.is("QuantizeLinear"), node.outputs[0].unwrap()));
    let wanted = |(is_bytes, id): (bool, ValueId)| ((open && is_bytes) || read[id.index()].is_empty()).then_some(id);
    graph.outputs = made.filter_map(wanted).collect();
    Ok((Program::new(graph, vec![])?, inputs))
}

/// The unit roundoff of f32.
const ROUNDOFF: f64 = 1.0 / (1 << 24) as f64;

/// A value as the oracle has it, and what is known of a real one.
#[derive(Clone)]
struct Known {
    content: Tensor,
    /// The numbers without any rounding but f64's, and by how much the oracle's rounding may have
    /// moved each of its numbers; `None` where a device computes the same steps in f32.
    exact: Option<(Vec<f64>, Vec<f64>)>,
}

/// Returns the same numbers in f64, changed by a function.
fn wide(content: &Tensor, change: fn(f64) -> f64) -> Tensor {
    match content.view::<f32>() {
        Ok(view) if content.dtype() == DType::F32 => {
            Tensor::from_vec(content.shape(), view.iter().map(|&x| change(f64::from(x))).collect()).unwrap()
        }
        _ => content.clone(),
    }
}

fn only(operator: &Operator, inputs: &[Option<Tensor>]) -> Tensor {
    hetero_reference::evaluate(operator, inputs, 1).unwrap().remove(0)
}

fn integers(content: &Tensor) -> Vec<i32> {
    match content.dtype() {
        DType::I8 => content.view::<i8>().unwrap().iter().map(|&x| i32::from(x)).collect(),
        _ => content.view::<u8>().unwrap().iter().map(|&x| i32::from(x)).collect(),
    }
}

/// Returns what is known of a node's result, from what is known of its inputs.
fn known(operator: &Operator, inputs: &[Option<Known>]) -> Known {
    let contents: Vec<Option<Tensor>> = inputs.iter().map(|known| Some(known.as_ref()?.content.clone())).collect();
    let content = only(operator, &contents);
    let sums = ["Conv", "Gemm", "MatMul", "AveragePool", "GlobalAveragePool"].contains(&&*operator.name);
    let carried = inputs.iter().flatten().any(|known| known.exact.is_some());
    if content.dtype() != DType::F32 || !(sums || carried) {
        return Known { content, exact: None };
    }
    let exactly = |change: fn(f64) -> f64| {
        let of = |known: &Known| match &known.exact {
            Some((exact, _)) => {
                let values = exact.iter().map(|&x| change(x)).collect();
                Tensor::from_vec(known.content.shape(), values).unwrap()
            }
            None => wide(&known.content, change),
        };
        let contents: Vec<Option<Tensor>> = inputs.iter().map(|known| known.as_ref().map(of)).collect();
        only(operator, &contents).view::<f64>().unwrap().to_vec()
    };
    let exact = exactly(|x| x);
    let error = match &*operator.name {
        "Relu" | "Clip" | "Neg" => inputs[0].as_ref().unwrap().exact.clone().unwrap().1,
        // Operands that were made real are rounded, and so is a sum; then a bias is rounded, added
        // and rounded with its sum.
        _ => {
            let before = inputs.iter().flatten().find_map(|known| known.exact.as_ref().map(|exact| exact.1.clone()));
            let sizes = exactly(f64::abs);
            let before = before.unwrap_or_else(|| vec![0.0; sizes.len()]);
            sizes.iter().zip(before).map(|(size, before)| before + 4.0 * ROUNDOFF * size).collect()
        }
    };
    Known { content, exact: Some((exact, error)) }
}

/// Compares the bytes that a device made of every operation with what the oracle makes of the bytes
/// before it, and returns how many differ by a step where they may.
fn check(program: &Program, inputs: &[Tensor], actual: &[Tensor], context: &str) -> usize {
    let mut values: Vec<Option<Known>> = program
        .values()
        .iter()
        .map(|value| value.constant.clone().map(|content| Known { content, exact: None }))
        .collect();
    for (id, content) in program.inputs().iter().zip(inputs) {
        values[id.index()] = Some(Known { content: content.clone(), exact: None });
    }
    let mut moved = 0;
    for node in program.nodes() {
        let inputs: Vec<Option<Known>> = node.inputs.iter().map(|id| values[(*id)?.index()].clone()).collect();
        let mut result = known(&node.operator, &inputs);
        let output = node.outputs[0].unwrap();
        if node.operator.is("QuantizeLinear") {
            let place = program.outputs().iter().position(|&id| id == output).unwrap();
            let from = inputs[0].as_ref().unwrap();
            let scale = f64::from(inputs[1].as_ref().unwrap().content.view::<f32>().unwrap()[0]);
            let pairs = integers(&actual[place]).into_iter().zip(integers(&result.content));
            for (index, (found, expected)) in pairs.enumerate().filter(|(_, (found, expected))| found != expected) {
                let (exact, error) = from.exact.as_ref().map_or((0.0, 0.0), |known| (known.0[index], known.1[index]));
                let (ratio, error) = (exact / scale, (error + exact.abs() * ROUNDOFF) / scale);
                let distance = ((ratio - ratio.floor()) - 0.5).abs();
                let may_differ = from.exact.is_some() && distance <= error;
                assert!(
                    found.abs_diff(expected) == 1 && may_differ,
                    "{context}: {found} is not {expected}, which is {ratio} ± {error}, at {index} of {:?} in {:?}",
                    node.outputs,
                    program.nodes()
                );
                moved += 1;
            }
            // What follows is computed from the device's own bytes.
            result.content = actual[place].clone();
        } else if let Some(place) = program.outputs().iter().position(|&id| id == output) {
            let (exact, error) = result.exact.as_ref().unwrap();
            let found = actual[place].view::<f32>().unwrap();
            let agree = |index: usize| (f64::from(found[index]) - exact[index]).abs() <= error[index];
            assert!((0..exact.len()).all(agree), "{context}: {:?} in {:?}", node.outputs, program.nodes());
        }
        values[output.index()] = Some(result);
    }
    moved
}

/// Runs networks on every device, with all bytes as results and with the last ones only.
fn compare(count: u64, make: impl Fn(u64, bool) -> Result<(Program, Vec<Tensor>)>) {
    let devices = devices();
    let run = |device: &dyn Device, program: &Program, inputs: &[Tensor]| run_program(device, program, inputs).unwrap();
    let (mut moved, mut all) = (0, 0);
    for seed in 0..count {
        let ((opened, inputs), (closed, _)) = (make(seed, true).unwrap(), make(seed, false).unwrap());
        for (name, device) in &devices {
            let context = format!("{name}, seed {seed}");
            let results = run(&**device, &opened, &inputs);
            moved += check(&opened, &inputs, &results, &context);
            all += results.iter().map(Tensor::len).sum::<usize>();
            let last = run(&**device, &closed, &inputs);
            let same = |(id, last): (&ValueId, &Tensor)| {
                let place = opened.outputs().iter().position(|other| other == id).unwrap();
                results[place] == *last
            };
            assert!(closed.outputs().iter().zip(&last).all(same), "{context}: reading bytes changes them");
        }
    }
    assert!(moved * 1000 < all, "{moved} of {all} results are a step away from the oracle's");
}

#[test]
fn every_operation_between_conversions_is_that_of_the_oracle() {
    compare(400, |seed, open| images(seed, 1, open));
}

#[test]
fn every_operation_in_networks_of_8_bits_is_that_of_the_oracle() {
    compare(60, |seed, open| images(10_000 + seed, 6, open));
}

#[test]
fn products_between_conversions_are_those_of_the_oracle() {
    compare(150, |seed, open| matrices(20_000 + seed, open));
}
