//! Random networks, for the things that backends do with several nodes at once.

use std::collections::HashSet;

use hetero_hal::{
    Attribute, DType, Device, Error, Graph, Node, NodeId, Operator, Program, Result, Tensor, TensorType, Value, ValueId,
};
use hetero_reference::Standard;

use crate::{Outcome, run_program};

/// A Splitmix64 generator: a network is a function of its seed alone.
pub struct Random(u64);

impl Random {
    /// Makes the generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Returns the next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number between the limits, both included.
    pub fn size(&mut self, low: usize, high: usize) -> usize {
        low + (self.number() % (high - low + 1) as u64) as usize
    }

    /// Returns `true` once in `of` times, on average.
    pub fn chance(&mut self, of: u64) -> bool {
        self.number().is_multiple_of(of)
    }

    /// Returns one element of a list, which must not be empty.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.size(0, list.len() - 1)]
    }

    /// Returns floats between minus and plus `scale`.
    pub fn floats(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| ((self.number() >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale).collect()
    }

    /// Returns a tensor of floats between minus and plus `scale`.
    ///
    /// # Errors
    /// `InvalidArgument` for a shape that no tensor can have.
    pub fn tensor(&mut self, shape: &[usize], scale: f32) -> Result<Tensor> {
        Tensor::from_vec(shape, self.floats(shape.iter().product(), scale))
    }
}

/// A network under construction, made of what its seed decides and what the caller adds.
/// Types are inferred after each node.
pub struct Network {
    graph: Graph,
    /// The source of the network's numbers.
    pub random: Random,
}

impl Network {
    /// Makes a network without nodes.
    #[must_use]
    pub fn new(name: &str, seed: u64) -> Self {
        Network { graph: Graph { name: name.into(), ..Graph::default() }, random: Random::new(seed) }
    }

    fn value(&mut self, constant: Option<Tensor>) -> ValueId {
        let id = ValueId(self.graph.values.len() as u32);
        let ty = constant.as_ref().map_or_else(TensorType::default, |t| TensorType::exact(t.dtype(), t.shape()));
        self.graph.values.push(Value { name: format!("v{}", id.0).into(), ty, constant });
        id
    }

    /// Adds an input of floats.
    pub fn input(&mut self, shape: &[usize]) -> ValueId {
        let id = self.value(None);
        self.graph.values[id.index()].ty = TensorType::exact(DType::F32, shape);
        self.graph.inputs.push(id);
        id
    }

    /// Adds a constant of floats between minus and plus `scale`.
    ///
    /// # Errors
    /// `InvalidArgument` for a shape that no tensor can have.
    pub fn constant(&mut self, shape: &[usize], scale: f32) -> Result<ValueId> {
        let tensor = self.random.tensor(shape, scale)?;
        Ok(self.value(Some(tensor)))
    }

    /// Adds a given constant.
    pub fn given(&mut self, content: Tensor) -> ValueId {
        self.value(Some(content))
    }

    /// Returns a value's shape.
    #[must_use]
    pub fn shape(&self, id: ValueId) -> Vec<usize> {
        self.graph.values[id.index()].ty.shape().unwrap_or_default()
    }

    /// Adds a node with one output.
    ///
    /// # Errors
    /// An error where the operator does not take these inputs.
    pub fn node(&mut self, operator: Operator, inputs: &[ValueId]) -> Result<ValueId> {
        let output = self.value(None);
        self.graph.nodes.push(Node {
            name: format!("n{}", self.graph.nodes.len()).into(),
            operator,
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
        });
        hetero_onnx::infer(&mut self.graph, &Standard, &hetero_hal::Allowance::default())?;
        Ok(output)
    }

    /// Adds a convolution, mostly with weights that keep the magnitude for their fan-in.
    fn conv(&mut self, x: ValueId) -> Result<ValueId> {
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
        let weights = self.constant(&w, (3.0 / fan).sqrt())?;
        let mut inputs = vec![x, weights];
        if self.random.chance(2) {
            inputs.push(self.constant(&[filters], 0.5)?);
        }
        let operator = Operator::new("Conv", 11)
            .with("group", Attribute::Int(groups as i64))
            .with("strides", Attribute::Ints(strides))
            .with("dilations", Attribute::Ints(dilations))
            .with("pads", Attribute::Ints(begin));
        self.node(operator, &inputs)
    }

    /// Adds a pooling.
    ///
    /// # Errors
    /// An error where `x` is no image.
    pub fn pool(&mut self, x: ValueId) -> Result<ValueId> {
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

    /// Adds a factor or shift for each channel, or one for all channels, or a batch normalization.
    ///
    /// # Errors
    /// An error where `x` has no channels.
    pub fn per_channel(&mut self, x: ValueId) -> Result<ValueId> {
        let shape = self.shape(x);
        if self.random.chance(3) {
            let params = (0..3).map(|_| self.constant(&[shape[1]], 1.0)).collect::<Result<Vec<ValueId>>>()?;
            let variance = self.random.floats(shape[1], 0.5).into_iter().map(|v| v + 1.0).collect();
            let variance = Tensor::from_vec(&[shape[1]], variance).map(|tensor| self.value(Some(tensor)))?;
            return self.node(Operator::new("BatchNormalization", 15), &[x, params[0], params[1], params[2], variance]);
        }
        let name = self.random.pick(&["Mul", "Add", "Sub"]);
        let mut of = vec![1; shape.len() - self.random.size(0, 1)];
        let place = of.len() + 1 - shape.len();
        if !self.random.chance(4) {
            of[place] = shape[1];
        }
        let constant = self.constant(&of, 1.5)?;
        let swapped = self.random.chance(3);
        let operands = if swapped { [constant, x] } else { [x, constant] };
        self.node(Operator::new(name, 14), &operands)
    }

    /// Adds an activation.
    ///
    /// # Errors
    /// An error where `x` holds no floats.
    pub fn activation(&mut self, x: ValueId) -> Result<ValueId> {
        if self.random.chance(4) {
            return self.written_out(x);
        }
        let name =
            self.random.pick(&["Relu", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid"]);
        if name == "Clip" {
            let low = self.value(Some(Tensor::scalar(0.1f32)));
            let high = self.value(Some(Tensor::scalar(0.9f32)));
            return self.node(Operator::new(name, 13), &[x, low, high]);
        }
        let version = if name == "HardSwish" { 14 } else { 6 };
        self.node(Operator::new(name, version), &[x])
    }

    /// Adds a function by several nodes, as exporters write those for which they know no operator.
    fn written_out(&mut self, x: ValueId) -> Result<ValueId> {
        let one = |network: &mut Self, name: &str, x: ValueId| network.node(Operator::new(name, 13), &[x]);
        let two = |network: &mut Self, name: &str, a: ValueId, b: ValueId| {
            let swap = matches!(name, "Add" | "Mul") && network.random.chance(2);
            network.node(Operator::new(name, 14), &if swap { [b, a] } else { [a, b] })
        };
        let with = |network: &mut Self, name: &str, x: ValueId, number: f32| {
            let number = network.value(Some(Tensor::scalar(number)));
            two(network, name, x, number)
        };
        let clamped = |network: &mut Self, x: ValueId| {
            let moved = with(network, "Add", x, 3.0)?;
            let limits = [0.0f32, 6.0].map(|limit| network.value(Some(Tensor::scalar(limit))));
            network.node(Operator::new("Clip", 13), &[moved, limits[0], limits[1]])
        };
        match self.random.size(0, 9) {
            0 => {
                let y = one(self, "Sigmoid", x)?;
                two(self, "Mul", x, y)
            }
            1 => {
                let y = with(self, "Mul", x, 1.702)?;
                let y = one(self, "Sigmoid", y)?;
                two(self, "Mul", x, y)
            }
            2 => {
                let y = clamped(self, x)?;
                let y = two(self, "Mul", y, x)?;
                with(self, "Div", y, 6.0)
            }
            3 => {
                let y = clamped(self, x)?;
                let y = with(self, "Mul", y, 1.0 / 6.0)?;
                two(self, "Mul", y, x)
            }
            4 => {
                let y = clamped(self, x)?;
                with(self, "Div", y, 6.0)
            }
            5 => {
                let sixth = Attribute::Float(1.0 / 6.0);
                let y = self.node(Operator::new("HardSigmoid", 6).with("alpha", sixth), &[x])?;
                two(self, "Mul", x, y)
            }
            6 => {
                let y = with(self, "Div", x, std::f32::consts::SQRT_2)?;
                let y = one(self, "Erf", y)?;
                let y = with(self, "Add", y, 1.0)?;
                let y = two(self, "Mul", x, y)?;
                with(self, "Mul", y, 0.5)
            }
            7 => {
                let half = with(self, "Mul", x, 0.5)?;
                let y = with(self, "Mul", x, std::f32::consts::FRAC_1_SQRT_2)?;
                let y = one(self, "Erf", y)?;
                let y = with(self, "Add", y, 1.0)?;
                two(self, "Mul", half, y)
            }
            8 => {
                let y = with(self, "Pow", x, 3.0)?;
                let y = with(self, "Mul", y, 0.044_715)?;
                let y = two(self, "Add", x, y)?;
                let y = with(self, "Mul", y, 0.797_884_6)?;
                let y = one(self, "Tanh", y)?;
                let y = with(self, "Add", y, 1.0)?;
                let half = with(self, "Mul", x, 0.5)?;
                two(self, "Mul", half, y)
            }
            _ => {
                let y = one(self, "Softplus", x)?;
                let y = one(self, "Tanh", y)?;
                two(self, "Mul", x, y)
            }
        }
    }

    /// Combines a value with numbers of its channels that are made of it, as squeeze and excitation
    /// does.
    fn by_its_channels(&mut self, x: ValueId) -> Result<ValueId> {
        let name = self.random.pick(&["GlobalAveragePool", "GlobalMaxPool"]);
        let pooled = self.node(Operator::new(name, 1), &[x])?;
        let numbers = self.activation(pooled)?;
        let name = self.random.pick(&["Mul", "Mul", "Add", "Sub", "Max", "Min"]);
        let operands = if self.random.chance(2) { [x, numbers] } else { [numbers, x] };
        self.node(Operator::new(name, if matches!(name, "Max" | "Min") { 13 } else { 14 }), &operands)
    }

    /// Adds layers over images, with residual sums and concatenations.
    fn images(&mut self, layers: usize) -> Result<()> {
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
            let made = match self.random.size(0, 12) {
                0..=4 => {
                    let y = self.conv(x)?;
                    if self.random.chance(3) { self.per_channel(y)? } else { y }
                }
                5 => self.pool(x)?,
                6 => self.per_channel(x)?,
                7 | 8 => self.activation(x)?,
                9 => {
                    let same: Vec<ValueId> = values.iter().copied().filter(|&v| self.shape(v) == shape).collect();
                    let other = self.random.pick(&same);
                    let name = self.random.pick(&["Add", "Sum", "Mul", "Max"]);
                    self.node(Operator::new(name, 14), &[x, other])?
                }
                10 => {
                    let fits = |v: &ValueId| {
                        let other = self.shape(*v);
                        other[0] == shape[0] && other[2..] == shape[2..]
                    };
                    let same: Vec<ValueId> = values.iter().copied().filter(fits).collect();
                    let other = self.random.pick(&same);
                    self.node(Operator::new("Concat", 13).with("axis", Attribute::Int(1)), &[x, other])?
                }
                11 => self.by_its_channels(x)?,
                _ => {
                    let mut perm: Vec<i64> = (0..shape.len() as i64).collect();
                    if shape.len() == 4 {
                        perm.swap(2, 3);
                    }
                    self.node(Operator::new("Transpose", 13).with("perm", Attribute::Ints(perm)), &[x])?
                }
            };
            values.push(made);
        }
        Ok(())
    }

    /// Adds products of matrices, some of which are constant.
    fn matrices(&mut self) -> Result<()> {
        let r = &mut self.random;
        let (m, n, k) = (r.size(1, 40), r.size(1, 70), r.pick(&[1, 3, 16, 64, 255, 256, 257, 600]));
        let (trans_a, trans_b, constant) = (r.chance(2), r.chance(2), r.chance(2));
        let scale = (3.0 / k as f32).sqrt();
        if r.chance(2) {
            let a = self.input(&if trans_a { [k, m] } else { [m, k] });
            let shape = if trans_b { [n, k] } else { [k, n] };
            let b = if constant { self.constant(&shape, scale)? } else { self.input(&shape) };
            let c_shape: &[usize] =
                &[vec![], vec![1], vec![n], vec![1, n], vec![m, 1], vec![m, n]][self.random.size(0, 5)];
            let c = self.constant(c_shape, 1.0)?;
            let alpha = self.random.pick(&[1.0, 1.0, 0.5]);
            let beta = self.random.pick(&[1.0, 1.0, 2.0]);
            let operator = Operator::new("Gemm", 13)
                .with("transA", Attribute::Int(i64::from(trans_a)))
                .with("transB", Attribute::Int(i64::from(trans_b)))
                .with("alpha", Attribute::Float(alpha))
                .with("beta", Attribute::Float(beta));
            let y = self.node(operator, &[a, b, c])?;
            self.activation(y)?;
        } else {
            let batch = r.size(1, 3);
            let a = self.input(&[batch, m, k]);
            let stacked = self.random.chance(2);
            let shape = if stacked { vec![batch, k, n] } else { vec![k, n] };
            let b = if constant { self.constant(&shape, scale)? } else { self.input(&shape) };
            let y = self.node(Operator::new("MatMul", 13), &[a, b])?;
            let bias = self.constant(&[n], 1.0)?;
            self.node(Operator::new("Add", 14), &[y, bias])?;
        }
        Ok(())
    }

    /// Adds element-wise nodes that feed each other, with operands that repeat.
    fn elements(&mut self, nodes: usize) -> Result<()> {
        let r = &mut self.random;
        let shape = [r.size(1, 5), r.size(1, 30), r.size(1, 90)];
        let x = self.input(&shape);
        let mut values = vec![x];
        for _ in 0..nodes {
            let a = self.random.pick(&values);
            let made = match self.random.size(0, 4) {
                0 => {
                    let name = self.random.pick(&["Tanh", "Sigmoid", "Neg", "Abs", "Erf", "Relu"]);
                    self.node(Operator::new(name, 13), &[a])?
                }
                1 | 2 => {
                    let b = self.random.pick(&values);
                    let name = self.random.pick(&["Add", "Sub", "Mul", "Max", "Min"]);
                    self.node(Operator::new(name, 14), &[a, b])?
                }
                _ => {
                    let mut of: Vec<usize> = shape.to_vec();
                    for size in &mut of {
                        if self.random.chance(2) {
                            *size = 1;
                        }
                    }
                    let b = if self.random.chance(2) { self.constant(&of, 1.0)? } else { self.input(&of) };
                    let name = self.random.pick(&["Add", "Sub", "Mul"]);
                    let operands = if self.random.chance(2) { [a, b] } else { [b, a] };
                    self.node(Operator::new(name, 14), &operands)?
                }
            };
            values.push(made);
        }
        Ok(())
    }

    /// Adds values of one spatial size that are concatenated again and again, as in dense blocks.
    fn joined(&mut self) -> Result<()> {
        let r = &mut self.random;
        let [height, width] = [r.size(1, 9), r.size(1, 9)];
        let (batch, layers) = (if r.chance(6) { 2 } else { 1 }, r.size(3, 14));
        let channels = r.pick(&[8, 16, 16, 32, 5]);
        let mut values = vec![self.input(&[batch, channels, height, width])];
        for _ in 0..layers {
            let recent = values.len().saturating_sub(5);
            let pick = |network: &mut Network| values[network.random.size(recent, values.len() - 1)];
            let x = pick(self);
            let channels = self.shape(x)[1];
            let made = match self.random.size(0, 9) {
                0..=2 => {
                    let filters = self.random.pick(&[8, 16, 16, 32, 3]);
                    let window = self.random.pick(&[1, 3]);
                    let weights = self.constant(&[filters, channels, window, window], 0.2)?;
                    let pads = Attribute::Ints(vec![window as i64 / 2; 4]);
                    self.node(Operator::new("Conv", 11).with("pads", pads), &[x, weights])?
                }
                3 => self.activation(x)?,
                4 => self.per_channel(x)?,
                5 => self.node(Operator::new("Identity", 16), &[x])?,
                _ => {
                    let mut parts = vec![x];
                    for _ in 0..self.random.size(1, 3) {
                        parts.push(pick(self));
                    }
                    parts.retain(|&part| self.shape(part)[1] <= 64);
                    if parts.is_empty() {
                        parts.push(values[0]);
                    }
                    self.node(Operator::new("Concat", 13).with("axis", Attribute::Int(1)), &parts)?
                }
            };
            values.push(made);
        }
        Ok(())
    }

    /// Returns the network as a program, with tensors for its inputs.
    /// Values that no node reads are outputs, and so are some others.
    ///
    /// # Errors
    /// An error where the network is no valid program.
    pub fn finish(mut self) -> Result<(Program, Vec<Tensor>)> {
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
        let inputs = inputs.iter().map(|shape| self.random.tensor(shape, 1.0)).collect::<Result<Vec<_>>>()?;
        Ok((Program::new(self.graph, vec![])?, inputs))
    }
}

/// Makes a random network: products of matrices, element-wise nodes that feed each other, layers
/// over images, or blocks that are concatenated again and again.
/// Such networks have what backends fuse, fold, lay out anew or write in place, and what no single
/// operator has.
///
/// # Errors
/// Any error of inference; none is known to occur.
pub fn network(seed: u64) -> Result<(Program, Vec<Tensor>)> {
    let mut network = Network::new("random", seed);
    match seed % 5 {
        0 => network.matrices()?,
        1 => {
            let nodes = network.random.size(2, 14);
            network.elements(nodes)?;
        }
        2 => network.joined()?,
        _ => {
            let layers = network.random.size(1, 9);
            network.images(layers)?;
        }
    }
    network.finish()
}

/// Returns the largest magnitude of a tensor's elements.
fn largest(tensor: &Tensor) -> Result<f32> {
    Ok(tensor.view::<f32>()?.iter().fold(0.0, |most, x| most.max(x.abs())))
}

/// Returns the largest difference between two tensors.
/// It is infinite where only one of them has a NaN, or where the shapes differ.
fn distance(actual: &Tensor, expected: &Tensor) -> Result<f32> {
    if actual.shape() != expected.shape() {
        return Ok(f32::INFINITY);
    }
    let (actual, expected) = (actual.view::<f32>()?, expected.view::<f32>()?);
    let pairs = actual.iter().zip(expected.iter());
    let far = |(a, b): (&f32, &f32)| if a.is_nan() == b.is_nan() { (a - b).abs() } else { f32::INFINITY };
    Ok(pairs.map(far).fold(0.0, f32::max))
}

/// Returns the outputs as the oracle computes them, and how far a device's output may be from each.
/// The limit is 2e-5 of the output's largest element, and two units in the last place of the
/// largest element that goes into it.
/// (A difference of nearly equal numbers is only as exact as they were.)
fn expected(program: &Program, inputs: &[Tensor]) -> Result<Vec<(Tensor, f32)>> {
    let mut graph = program.to_graph();
    graph.outputs = graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten().copied()).collect();
    let made = graph.outputs.clone();
    let all =
        hetero_reference::run(&Program::new(graph, vec![])?, inputs, &Standard, &hetero_hal::Allowance::new(1 << 28))?;
    let mut own = vec![0f32; program.values().len()];
    for (id, tensor) in program.inputs().iter().zip(inputs) {
        own[id.index()] = largest(tensor)?;
    }
    let mut reach = own.clone();
    for (id, tensor) in made.iter().zip(&all) {
        own[id.index()] = largest(tensor)?;
    }
    // Nodes come in the order of a run.
    for node in program.nodes() {
        let before = node.uses().fold(0f32, |most, id| most.max(reach[id.index()]));
        for id in node.outputs.iter().flatten() {
            reach[id.index()] = before.max(own[id.index()]);
        }
    }
    let outputs = program.outputs().iter();
    outputs
        .map(|id| {
            let at = made.iter().position(|other| other == id);
            let content =
                at.and_then(|at| all.get(at)).ok_or_else(|| Error::internal("an output that no node makes"))?;
            Ok((content.clone(), 2e-5 * own[id.index()] + 2.4e-7 * reach[id.index()]))
        })
        .collect()
}

/// Runs a network of floats on a device and on the oracle.
/// Every element of each output has to be within 2e-5 of the output's largest element, and two
/// units in the last place of the largest number that it is computed from.
/// The outcome has the largest difference, as a part of the difference that is allowed.
#[must_use]
pub fn check_network(device: &dyn Device, program: &Program, inputs: &[Tensor]) -> Outcome {
    let claimed: HashSet<NodeId> = device.claims(program).into_iter().flat_map(|claim| claim.nodes).collect();
    let all = (0..program.nodes().len() as u32).map(NodeId);
    if let Some(node) = all.into_iter().find(|node| !claimed.contains(node)) {
        return Outcome::Unclaimed(device.refusal(program, node));
    }
    let expected = match expected(program, inputs) {
        Ok(expected) => expected,
        Err(error) => return Outcome::Failed(format!("the oracle: {error}")),
    };
    let compared = run_program(device, program, inputs).and_then(|actual| {
        if actual.len() != expected.len() {
            return Ok(Err(format!("{} outputs, {} are expected", actual.len(), expected.len())));
        }
        let mut largest = 0.0f64;
        for (number, (actual, (expected, allowed))) in actual.iter().zip(&expected).enumerate() {
            let distance = distance(actual, expected)?;
            if distance > *allowed {
                return Ok(Err(format!("output {number} differs by {distance:e}, {allowed:e} is allowed")));
            }
            largest = largest.max(f64::from(distance) / f64::from(*allowed).max(f64::MIN_POSITIVE));
        }
        Ok(Ok(largest))
    });
    match compared {
        Ok(Ok(largest)) => Outcome::Passed(largest),
        Ok(Err(why)) => Outcome::Failed(format!("{why}\n{program}")),
        Err(error) => Outcome::Failed(format!("{error}\n{program}")),
    }
}
