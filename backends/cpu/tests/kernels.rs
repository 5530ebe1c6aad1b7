//! Every fast kernel against the oracle, with every instruction set that the processor has: the whole suite with weights as constants, so that
//! they are packed, and random networks, in which nodes are fused and values change their layout.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod operators;

use std::sync::Arc;

use hetero_conformance::{Case, Expectations, run_program, run_suite, suite};
use hetero_cpu::CpuDriver;
use hetero_hal::{
    Attribute, DType, Device, Driver, Graph, Node, OpenOptions, Operator, Program, Tensor, TensorType, Value, ValueId,
};
use hetero_reference::Standard;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Every instruction set here, or the one that `HETERO_ISA` names, with one thread and with three.
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
        let mut cases = suite(number as u64 + 1);
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

/// Splitmix64: a network is a function of its seed alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between the limits, both included.
    fn size(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    fn chance(&mut self, of: u64) -> bool {
        self.next().is_multiple_of(of)
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.size(0, list.len() - 1)]
    }

    fn floats(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale).collect()
    }

    fn tensor(&mut self, shape: &[usize], scale: f32) -> Tensor {
        Tensor::from_vec(shape, self.floats(shape.iter().product(), scale)).unwrap()
    }
}

/// A network under construction; types are inferred after each node.
struct Network {
    graph: Graph,
    random: Random,
}

impl Network {
    fn value(&mut self, constant: Option<Tensor>) -> ValueId {
        let id = ValueId(self.graph.values.len() as u32);
        let ty = constant.as_ref().map_or_else(TensorType::default, |t| TensorType::exact(t.dtype(), t.shape()));
        self.graph.values.push(Value { name: format!("v{}", id.0).into(), ty, constant });
        id
    }

    fn input(&mut self, shape: &[usize]) -> ValueId {
        let id = self.value(None);
        self.graph.values[id.index()].ty = TensorType::exact(DType::F32, shape);
        self.graph.inputs.push(id);
        id
    }

    fn constant(&mut self, shape: &[usize], scale: f32) -> ValueId {
        let tensor = self.random.tensor(shape, scale);
        self.value(Some(tensor))
    }

    fn shape(&self, id: ValueId) -> Vec<usize> {
        let ty = &self.graph.values[id.index()].ty;
        ty.dims.as_ref().unwrap().iter().map(|dim| dim.bound().unwrap()).collect()
    }

    fn node(&mut self, operator: Operator, inputs: &[ValueId]) -> ValueId {
        let output = self.value(None);
        self.graph.nodes.push(Node {
            name: format!("n{}", self.graph.nodes.len()).into(),
            operator,
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
        });
        hetero_onnx::infer(&mut self.graph, &Standard).unwrap();
        output
    }

    fn conv(&mut self, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        let (channels, spatial) = (shape[1], shape[2..].to_vec());
        let r = &mut self.random;
        let divisors: Vec<usize> = (1..=channels).filter(|&g| channels % g == 0).collect();
        let groups = match r.size(0, 5) {
            0 => channels,
            1 => r.pick(&divisors),
            _ => 1,
        };
        let multiple = if r.chance(3) { 2 } else { 1 };
        let filters = if groups == channels { channels * multiple } else { groups * r.size(1, 40) };
        let (mut kernel, mut strides, mut dilations) = (vec![], vec![], vec![]);
        let (mut begin, mut end) = (vec![], vec![]);
        for &size in &spatial {
            let k = r.pick(&[1, 1, 2, 3, 3, 5]).min(size);
            let d = if k > 1 && r.chance(4) && (k - 1) * 2 < size { 2 } else { 1 };
            kernel.push(k);
            dilations.push(d as i64);
            strides.push(r.pick(&[1, 1, 1, 2, 3]) as i64);
            begin.push(r.size(0, k - 1) as i64);
            end.push(r.size(0, k - 1) as i64);
        }
        begin.extend(end);
        let mut w = vec![filters, channels / groups];
        w.extend(&kernel);
        let fan = w[1..].iter().product::<usize>() as f32;
        let weights = self.constant(&w, (3.0 / fan).sqrt());
        let mut inputs = vec![x, weights];
        if self.random.chance(2) {
            inputs.push(self.constant(&[filters], 0.5));
        }
        let operator = Operator::new("Conv", 11)
            .with("group", Attribute::Int(groups as i64))
            .with("strides", Attribute::Ints(strides))
            .with("dilations", Attribute::Ints(dilations))
            .with("pads", Attribute::Ints(begin));
        self.node(operator, &inputs)
    }

    fn pool(&mut self, x: ValueId) -> ValueId {
        let spatial = self.shape(x)[2..].to_vec();
        let r = &mut self.random;
        if r.chance(6) {
            let name = r.pick(&["GlobalAveragePool", "GlobalMaxPool"]);
            return self.node(Operator::new(name, 1), &[x]);
        }
        let name = r.pick(&["MaxPool", "AveragePool"]);
        let kernel: Vec<usize> = spatial.iter().map(|&size| r.size(1, 3).min(size)).collect();
        let strides = kernel.iter().map(|_| r.size(1, 3) as i64).collect();
        let pads = kernel.iter().chain(&kernel).map(|&k| r.size(0, k - 1) as i64).collect();
        let include = i64::from(r.chance(2));
        let mut operator = Operator::new(name, 11)
            .with("kernel_shape", Attribute::Ints(kernel.iter().map(|&k| k as i64).collect()))
            .with("strides", Attribute::Ints(strides))
            .with("pads", Attribute::Ints(pads));
        if name == "AveragePool" {
            operator = operator.with("count_include_pad", Attribute::Int(include));
        }
        self.node(operator, &[x])
    }

    /// A factor or shift for each channel, or one of all.
    fn per_channel(&mut self, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        if self.random.chance(3) {
            let params: Vec<ValueId> = (0..3).map(|_| self.constant(&[shape[1]], 1.0)).collect();
            let variance = self.random.floats(shape[1], 0.5).into_iter().map(|v| v + 1.0).collect();
            let variance = self.value(Some(Tensor::from_vec(&[shape[1]], variance).unwrap()));
            return self.node(Operator::new("BatchNormalization", 15), &[x, params[0], params[1], params[2], variance]);
        }
        let name = self.random.pick(&["Mul", "Add", "Sub"]);
        let mut of = vec![1; shape.len() - self.random.size(0, 1)];
        let place = of.len() + 1 - shape.len();
        if !self.random.chance(4) {
            of[place] = shape[1];
        }
        let constant = self.constant(&of, 1.5);
        let swapped = self.random.chance(3);
        let operands = if swapped { [constant, x] } else { [x, constant] };
        self.node(Operator::new(name, 14), &operands)
    }

    fn activation(&mut self, x: ValueId) -> ValueId {
        let name =
            self.random.pick(&["Relu", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid"]);
        if name == "Clip" {
            let low = self.value(Some(Tensor::from_vec(&[], vec![0.1f32]).unwrap()));
            let high = self.value(Some(Tensor::from_vec(&[], vec![0.9f32]).unwrap()));
            return self.node(Operator::new(name, 13), &[x, low, high]);
        }
        let version = if name == "HardSwish" { 14 } else { 6 };
        self.node(Operator::new(name, version), &[x])
    }

    /// Layers over images, with residual sums and concatenations.
    fn images(&mut self, layers: usize) {
        let r = &mut self.random;
        let mut shape = vec![r.size(1, 2), r.pick(&[1, 3, 4, 7, 8, 16, 17, 24, 32, 48]), r.size(1, 19), r.size(1, 19)];
        match r.size(0, 5) {
            0 => drop(shape.remove(2)),
            1 => shape[3] = 1,
            _ => {}
        }
        let first = self.input(&shape);
        let mut values = vec![first];
        for _ in 0..layers {
            let recent = values.len().saturating_sub(4);
            let at = self.random.size(recent, values.len() - 1);
            let x = values[at];
            let shape = self.shape(x);
            let made = match self.random.size(0, 11) {
                0..=4 => self.conv(x),
                5 => self.pool(x),
                6 => self.per_channel(x),
                7 | 8 => self.activation(x),
                9 => {
                    let same: Vec<ValueId> = values.iter().copied().filter(|&v| self.shape(v) == shape).collect();
                    let other = self.random.pick(&same);
                    let name = self.random.pick(&["Add", "Sum", "Mul", "Max"]);
                    self.node(Operator::new(name, 14), &[x, other])
                }
                10 => {
                    let fits = |v: &ValueId| {
                        let other = self.shape(*v);
                        other[0] == shape[0] && other[2..] == shape[2..]
                    };
                    let same: Vec<ValueId> = values.iter().copied().filter(fits).collect();
                    let other = self.random.pick(&same);
                    self.node(Operator::new("Concat", 13).with("axis", Attribute::Int(1)), &[x, other])
                }
                _ => {
                    let mut perm: Vec<i64> = (0..shape.len() as i64).collect();
                    if shape.len() == 4 {
                        perm.swap(2, 3);
                    }
                    self.node(Operator::new("Transpose", 13).with("perm", Attribute::Ints(perm)), &[x])
                }
            };
            values.push(made);
        }
    }

    /// Products of matrices, some constant.
    fn matrices(&mut self) {
        let r = &mut self.random;
        let (m, n, k) = (r.size(1, 40), r.size(1, 70), r.pick(&[1, 3, 16, 64, 255, 256, 257, 600]));
        let (trans_a, trans_b, constant) = (r.chance(2), r.chance(2), r.chance(2));
        let scale = (3.0 / k as f32).sqrt();
        if r.chance(2) {
            let a = self.input(&if trans_a { [k, m] } else { [m, k] });
            let shape = if trans_b { [n, k] } else { [k, n] };
            let b = if constant { self.constant(&shape, scale) } else { self.input(&shape) };
            let c_shape: &[usize] =
                &[vec![], vec![1], vec![n], vec![1, n], vec![m, 1], vec![m, n]][self.random.size(0, 5)];
            let c = self.constant(c_shape, 1.0);
            let alpha = self.random.pick(&[1.0, 1.0, 0.5]);
            let beta = self.random.pick(&[1.0, 1.0, 2.0]);
            let operator = Operator::new("Gemm", 13)
                .with("transA", Attribute::Int(i64::from(trans_a)))
                .with("transB", Attribute::Int(i64::from(trans_b)))
                .with("alpha", Attribute::Float(alpha))
                .with("beta", Attribute::Float(beta));
            let y = self.node(operator, &[a, b, c]);
            self.activation(y);
        } else {
            let batch = r.size(1, 3);
            let a = self.input(&[batch, m, k]);
            let stacked = self.random.chance(2);
            let shape = if stacked { vec![batch, k, n] } else { vec![k, n] };
            let b = if constant { self.constant(&shape, scale) } else { self.input(&shape) };
            let y = self.node(Operator::new("MatMul", 13), &[a, b]);
            let bias = self.constant(&[n], 1.0);
            self.node(Operator::new("Add", 14), &[y, bias]);
        }
    }

    /// Element-wise nodes that feed each other, with operands that repeat.
    fn elements(&mut self, nodes: usize) {
        let r = &mut self.random;
        let shape = [r.size(1, 5), r.size(1, 30), r.size(1, 90)];
        let x = self.input(&shape);
        let mut values = vec![x];
        for _ in 0..nodes {
            let a = self.random.pick(&values);
            let made = match self.random.size(0, 4) {
                0 => {
                    let name = self.random.pick(&["Tanh", "Sigmoid", "Neg", "Abs", "Erf", "Relu"]);
                    self.node(Operator::new(name, 13), &[a])
                }
                1 | 2 => {
                    let b = self.random.pick(&values);
                    let name = self.random.pick(&["Add", "Sub", "Mul", "Max", "Min"]);
                    self.node(Operator::new(name, 14), &[a, b])
                }
                _ => {
                    let mut of: Vec<usize> = shape.to_vec();
                    for size in &mut of {
                        if self.random.chance(2) {
                            *size = 1;
                        }
                    }
                    let b = if self.random.chance(2) { self.constant(&of, 1.0) } else { self.input(&of) };
                    let name = self.random.pick(&["Add", "Sub", "Mul"]);
                    let operands = if self.random.chance(2) { [a, b] } else { [b, a] };
                    self.node(Operator::new(name, 14), &operands)
                }
            };
            values.push(made);
        }
    }

    /// What nobody reads is an output, and some other values too.
    fn finish(mut self) -> (Program, Vec<Tensor>) {
        let read: Vec<ValueId> =
            self.graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten().copied()).collect();
        let made: Vec<ValueId> =
            self.graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten().copied()).collect();
        for id in made {
            if !read.contains(&id) || self.random.chance(8) {
                self.graph.outputs.push(id);
            }
        }
        let inputs = self.graph.inputs.clone();
        let inputs = inputs.into_iter().map(|id| self.shape(id)).collect::<Vec<_>>();
        let inputs = inputs.iter().map(|shape| self.random.tensor(shape, 1.0)).collect();
        (Program::new(self.graph, vec![]).unwrap(), inputs)
    }
}

fn network(seed: u64) -> (Program, Vec<Tensor>) {
    let mut network = Network { graph: Graph { name: "random".into(), ..Graph::default() }, random: Random(seed) };
    match seed % 4 {
        0 => network.matrices(),
        1 => {
            let nodes = network.random.size(2, 14);
            network.elements(nodes);
        }
        _ => {
            let layers = network.random.size(1, 9);
            network.images(layers);
        }
    }
    network.finish()
}

/// A convolution with 3×3 windows and sizes for which fewer products pay (see `conv/winograd.rs`), with what it absorbs, between two that fix the
/// layout of its operands.
fn filtered(seed: u64) -> (Program, Vec<Tensor>) {
    let mut network = Network { graph: Graph { name: "filtered".into(), ..Graph::default() }, random: Random(seed) };
    let r = &mut network.random;
    let batch = r.size(1, 3);
    let (channels, filters) = (r.size(32, 75), r.size(32, 100));
    let shape = vec![batch, channels, r.size(9, 33), r.size(9, 33)];
    let pads: Vec<i64> = (0..4).map(|_| r.size(0, 2) as i64).collect();
    let (bias, residual, wide) = (r.chance(2), r.chance(2), r.chance(2));
    let x = network.input(&shape);
    let before = network.constant(&[channels, channels, 1, 1], 0.3);
    let x = network.node(Operator::new("Conv", 11), &[x, before]);
    let weights = network.constant(&[filters, channels, 3, 3], 0.1);
    let mut operands = vec![x, weights];
    if bias {
        operands.push(network.constant(&[filters], 1.0));
    }
    let operator = Operator::new("Conv", 11).with("pads", Attribute::Ints(pads));
    let mut y = network.node(operator, &operands);
    if network.random.chance(2) {
        y = network.per_channel(y);
    }
    if residual {
        let shape = network.shape(y);
        let other = network.input(&shape);
        y = network.node(Operator::new("Add", 14), &[y, other]);
    }
    if network.random.chance(2) {
        y = network.activation(y);
    }
    if wide {
        // Reads its input with a halo, which the kernel before has to clear.
        let after = network.constant(&[20, filters, 5, 5], 0.1);
        let operator = Operator::new("Conv", 11).with("pads", Attribute::Ints(vec![2; 4]));
        network.node(operator, &[y, after]);
    }
    network.finish()
}

/// A convolution whose result is too large for a core's cache and is read by a pooling; see `conv/pooled.rs`.
fn pooled(seed: u64) -> (Program, Vec<Tensor>) {
    let mut network = Network { graph: Graph { name: "pooled".into(), ..Graph::default() }, random: Random(seed) };
    let r = &mut network.random;
    let (batch, groups) = (if r.chance(5) { 2 } else { 1 }, if r.chance(4) { 2 } else { 1 });
    let (channels, filters) =
        (r.pick(&[1, 2, 3, 4, 5, 16, 20]) * groups, if groups == 1 { r.size(33, 80) } else { 64 });
    let (window, stride) = (r.pick(&[1, 2, 3, 5]), r.pick(&[1, 2]));
    let side = |r: &mut Random| (64 + r.size(0, 20)) * stride + window;
    let shape = [batch, channels, side(r), side(r)];
    let pads: Vec<i64> = (0..4).map(|_| r.size(0, window - 1) as i64).collect();
    let x = network.input(&shape);
    let weights = network.constant(&[filters, channels / groups, window, window], 0.3);
    let bias = network.constant(&[filters], 1.0);
    let operator = Operator::new("Conv", 11)
        .with("pads", Attribute::Ints(pads))
        .with("strides", Attribute::Ints(vec![stride as i64; 2]))
        .with("group", Attribute::Int(groups as i64));
    let mut y = network.node(operator, &[x, weights, bias]);
    if network.random.chance(3) {
        y = network.per_channel(y);
    }
    if !network.random.chance(3) {
        y = network.activation(y);
    }
    let y = network.pool(y);
    if network.random.chance(2) {
        let after = network.constant(&[20, filters, 3, 3], 0.1);
        let operator = Operator::new("Conv", 11).with("pads", Attribute::Ints(vec![1; 4]));
        network.node(operator, &[y, after]);
    }
    network.finish()
}

/// Values of one spatial size, concatenated again and again, as in dense blocks; see `arena.rs`.
fn joined(seed: u64) -> (Program, Vec<Tensor>) {
    let mut network = Network { graph: Graph { name: "joined".into(), ..Graph::default() }, random: Random(seed) };
    let r = &mut network.random;
    let [height, width] = [r.size(1, 9), r.size(1, 9)];
    let (batch, layers) = (if r.chance(6) { 2 } else { 1 }, r.size(3, 14));
    let channels = r.pick(&[8, 16, 16, 32, 5]);
    let mut values = vec![network.input(&[batch, channels, height, width])];
    for _ in 0..layers {
        let recent = values.len().saturating_sub(5);
        let pick = |network: &mut Network| values[network.random.size(recent, values.len() - 1)];
        let x = pick(&mut network);
        let channels = network.shape(x)[1];
        let made = match network.random.size(0, 9) {
            0..=2 => {
                let filters = network.random.pick(&[8, 16, 16, 32, 3]);
                let window = network.random.pick(&[1, 3]);
                let weights = network.constant(&[filters, channels, window, window], 0.2);
                let pads = Attribute::Ints(vec![window as i64 / 2; 4]);
                network.node(Operator::new("Conv", 11).with("pads", pads), &[x, weights])
            }
            3 => network.activation(x),
            4 => network.per_channel(x),
            5 => network.node(Operator::new("Identity", 16), &[x]),
            _ => {
                let mut parts = vec![x];
                for _ in 0..network.random.size(1, 3) {
                    parts.push(pick(&mut network));
                }
                parts.retain(|&part| network.shape(part)[1] <= 64);
                if parts.is_empty() {
                    parts.push(values[0]);
                }
                network.node(Operator::new("Concat", 13).with("axis", Attribute::Int(1)), &parts)
            }
        };
        values.push(made);
    }
    network.finish()
}

/// The largest magnitude of a tensor's elements.
fn largest(tensor: &Tensor) -> f32 {
    tensor.view::<f32>().unwrap().iter().fold(0.0, |most, x| most.max(x.abs()))
}

/// The largest difference between two tensors; infinite where one has a NaN and the other has not.
fn difference(actual: &Tensor, expected: &Tensor) -> f32 {
    let (actual, expected) = (actual.view::<f32>().unwrap(), expected.view::<f32>().unwrap());
    let pairs = actual.iter().zip(expected.iter());
    pairs.map(|(a, b)| if a.is_nan() == b.is_nan() { (a - b).abs() } else { f32::INFINITY }).fold(0.0, f32::max)
}

/// The outputs as the oracle computes them, and how far others may be from each: 2e-5 of its largest element, and two units in the last place of the
/// largest element that goes into it. (What is left of a difference of nearly equal numbers is as exact as they were.)
fn expected(program: &Program, inputs: &[Tensor]) -> Vec<(Tensor, f32)> {
    let mut graph = program.to_graph();
    graph.outputs = graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten().copied()).collect();
    let made = graph.outputs.clone();
    let all = hetero_reference::run(&Program::new(graph, vec![]).unwrap(), inputs, &Standard, 1 << 28).unwrap();
    let mut reach = vec![0f32; program.values().len()];
    for (id, tensor) in program.inputs().iter().zip(inputs) {
        reach[id.index()] = largest(tensor);
    }
    // Values come in the order of their nodes.
    let mut own = reach.clone();
    for (id, tensor) in made.iter().zip(&all) {
        own[id.index()] = largest(tensor);
    }
    for node in program.nodes() {
        let before = node.uses().fold(0f32, |most, id| most.max(reach[id.index()]));
        for id in node.outputs.iter().flatten() {
            reach[id.index()] = before.max(own[id.index()]);
        }
    }
    let content = |id: &ValueId| all[made.iter().position(|other| other == id).unwrap()].clone();
    let outputs = program.outputs().iter();
    outputs.map(|id| (content(id), 2e-5 * own[id.index()] + 2.4e-7 * reach[id.index()])).collect()
}

/// Networks of a seed give what the oracle gives, on every device.
fn agree(make: fn(u64) -> (Program, Vec<Tensor>), usual: u32) {
    let devices = devices();
    let cases = std::env::var("HETERO_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let outcome = runner.run(&any::<u64>(), |seed| {
        let (program, inputs) = make(seed);
        let expected = expected(&program, &inputs);
        for (name, device) in &devices {
            let actual = run_program(&**device, &program, &inputs)
                .map_err(|error| TestCaseError::fail(format!("{name}: {error}\n{program}")))?;
            for (number, (actual, (expected, allowed))) in actual.iter().zip(&expected).enumerate() {
                let difference = difference(actual, expected);
                prop_assert!(
                    difference <= *allowed,
                    "{name}, seed {seed}: output {number} differs by {difference:e}, {allowed:e} is allowed\n{program}"
                );
            }
        }
        Ok(())
    });
    let found = outcome.err().map(|error| error.to_string());
    assert!(found.is_none(), "{}", found.unwrap_or_default());
    println!("{cases} networks on {} devices", devices.len());
}

#[test]
fn random_networks_agree_with_the_oracle() {
    agree(network, 300);
}

#[test]
fn concatenations_agree_with_the_oracle() {
    agree(joined, 200);
}

#[test]
fn convolutions_with_pooling_agree_with_the_oracle() {
    agree(pooled, 16);
}

#[test]
fn minimal_filtering_agrees_with_the_oracle() {
    agree(filtered, 24);
}
