//! Cases of weights: the form in which a device keeps constants is shared between executables, can
//! be evicted and restored, and goes with its owners.

use std::sync::Arc;
use std::time::Instant;

use hetero_hal::{
    Attribute, CompileOptions, Device, Executable, NodeId, Operator, Program, QueueOptions, Result, Source, Tensor,
    Weight, Work, distinct_weights,
};
use hetero_reference::Standard;

use hetero_examine::Prepared;

use crate::{DEADLINE, Network, Outcome, SuiteReport, difference, soon, threshold};

/// A rule about weights, for one operator.
#[derive(Clone, Copy, Debug)]
pub struct WeightCase {
    operator: &'static str,
    rule: &'static str,
    program: Build,
    check: Check,
}

/// A program, and tensors for its inputs.
type Made = (Program, Vec<Tensor>);

/// A function that makes a program of one size from a seed, which decides its constants.
type Build = fn(u64, usize) -> Result<Made>;

/// A function that holds a device to a rule, for such programs.
type Check = fn(&dyn Device, Build) -> Checked;

/// The result of checking a rule; an error says what was wrong.
type Checked = std::result::Result<(), String>;

/// The least number of bytes of the largest constant of each program.
const LEAST: usize = 64 << 10;

/// The largest number of bytes of a tensor that the oracle makes.
const MOST: usize = 1 << 26;

impl WeightCase {
    /// Returns the operator, and the rule in words.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.operator, self.rule)
    }
}

/// Returns all rules, for all operators that read a large constant.
#[must_use]
pub fn weight_cases() -> Vec<WeightCase> {
    let programs: [(&'static str, Build); 7] = [
        ("MatMul", |seed, size| product(seed, size, "MatMul")),
        ("Gemm", |seed, size| product(seed, size, "Gemm")),
        ("Conv", |seed, size| convolution(seed, size, [64, 32], 1)),
        ("Conv of each channel", |seed, size| convolution(seed, size, [2048, 1], 2048)),
        ("ConvTranspose", transposed),
        ("LSTM", |seed, size| recurrent(seed, size, "LSTM", 4)),
        ("GRU", |seed, size| recurrent(seed, size, "GRU", 3)),
    ];
    let rules: [(&'static str, Check); 4] = [
        ("weights are shared by executables of equal constants", shared),
        ("weights come back after an eviction", evicted),
        ("weights that runs under way use stay until they end", under_way),
        ("weights are freed with the last executable", freed),
    ];
    let case = |(operator, program), (rule, check)| WeightCase { operator, rule, program, check };
    programs.into_iter().flat_map(|program| rules.map(|rule| case(program, rule))).collect()
}

/// Holds a device to a rule.
/// The rules do not apply to a device that does not take the operator, or that reads constants
/// where they are.
#[must_use]
pub fn check_weights(device: &dyn Device, case: &WeightCase) -> Outcome {
    let made = match (case.program)(1, 3) {
        Ok((program, _)) => program,
        Err(error) => return Outcome::Failed(format!("the program: {error}")),
    };
    if device.claims(&made).is_empty() {
        return Outcome::Unclaimed(device.refusal(&made, NodeId(0)).or_else(|| Some("it does not take this".into())));
    }
    // Nothing of this executable may live on while the rule is checked.
    match compile(device, &made).map(|executable| executable.weights().len()) {
        Ok(0) => Outcome::Unclaimed(Some("the device keeps no weights of its own".to_owned())),
        Ok(_) => match (case.check)(device, case.program) {
            Ok(()) => Outcome::Passed(0.0),
            Err(why) => Outcome::Failed(why),
        },
        Err(why) => Outcome::Failed(why),
    }
}

/// Holds a device to all rules about weights.
#[must_use]
pub fn run_weight_cases(device: &dyn Device) -> SuiteReport {
    let mut report = SuiteReport::default();
    for case in weight_cases() {
        report.weigh(&crate::Expectations::default(), &case.name(), &check_weights(device, &case));
    }
    report
}

fn product(seed: u64, size: usize, name: &str) -> Result<Made> {
    let mut network = Network::new("product", seed);
    let weight = network.constant(&[160, 128], 0.2)?;
    let x = network.input(&[size, 160]);
    network.node(Operator::new(name, 13), &[x, weight])?;
    network.finish()
}

/// Makes a convolution, then a batch normalisation, which backends fold into the weights.
fn convolution(seed: u64, size: usize, [filters, channels]: [usize; 2], groups: usize) -> Result<Made> {
    let mut network = Network::new("convolution", seed);
    let weight = network.constant(&[filters, channels, 3, 3], 0.1)?;
    let mut statistics = Vec::new();
    for _ in 0..4 {
        statistics.push(network.constant(&[filters], 0.4)?);
    }
    let x = network.input(&[size, channels * groups, 7, 6]);
    let operator = Operator::new("Conv", 11)
        .with("pads", Attribute::Ints(vec![1, 1, 1, 1]))
        .with("group", Attribute::Int(groups as i64));
    let x = network.node(operator, &[x, weight])?;
    // A variance that is below 0 even with its epsilon has no root.
    let normalise = Operator::new("BatchNormalization", 9).with("epsilon", Attribute::Float(1.0));
    network.node(normalise, &[&[x], &statistics[..]].concat())?;
    network.finish()
}

fn transposed(seed: u64, size: usize) -> Result<Made> {
    let mut network = Network::new("transposed", seed);
    let weight = network.constant(&[32, 64, 3, 3], 0.1)?;
    let x = network.input(&[size, 32, 5, 6]);
    let operator = Operator::new("ConvTranspose", 11).with("strides", Attribute::Ints(vec![2, 2]));
    network.node(operator, &[x, weight])?;
    network.finish()
}

/// Makes a layer that returns its states of all steps.
fn recurrent(seed: u64, size: usize, name: &str, gates: usize) -> Result<Made> {
    let (width, hidden) = (128, 48);
    let mut network = Network::new("recurrent", seed);
    let input = network.constant(&[1, gates * hidden, width], 0.2)?;
    let state = network.constant(&[1, gates * hidden, hidden], 0.2)?;
    let x = network.input(&[size, 2, width]);
    let operator = Operator::new(name, 14).with("hidden_size", Attribute::Int(hidden as i64));
    network.node(operator, &[x, input, state])?;
    network.finish()
}

fn compile(device: &dyn Device, program: &Program) -> std::result::Result<Arc<dyn Executable>, String> {
    device.compile(Source::Program(program), &CompileOptions::default()).map_err(|error| error.to_string())
}

/// Compares outputs with the oracle's.
fn compare((program, inputs): &Made, actual: &[Tensor]) -> Checked {
    let expected = hetero_reference::run(program, inputs, &Standard, &hetero_hal::Allowance::new(MOST))
        .map_err(|error| error.to_string())?;
    if actual.len() != expected.len() {
        return Err(format!("{} outputs, {} are expected", actual.len(), expected.len()));
    }
    for (number, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
        let error = difference(actual, expected)?;
        if error > threshold(expected.dtype()) {
            return Err(format!("output {number} has a normalised mean squared error of {error:.2e}"));
        }
    }
    Ok(())
}

fn run(device: &dyn Device, executable: &Arc<dyn Executable>, made: &Made) -> Checked {
    let outputs = crate::run_executable(device, executable, &made.0, &made.1).map_err(|error| error.to_string())?;
    compare(made, &outputs)
}

/// Returns the bytes of the weights that two executables share.
fn common(one: &Arc<dyn Executable>, other: &Arc<dyn Executable>) -> usize {
    let (one, other) = (one.weights(), other.weights());
    let same = |a: &Arc<dyn Weight>, b: &Arc<dyn Weight>| std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b));
    let both = one.iter().filter(|weight| other.iter().any(|own| same(weight, own)));
    both.map(|weight| weight.bytes()).sum()
}

fn shared(device: &dyn Device, program: Build) -> Checked {
    let make = |seed: u64, size: usize| program(seed, size).map_err(|error| error.to_string());
    let (first, larger, unlike) = (make(1, 3)?, make(1, 4)?, make(2, 3)?);
    let one = compile(device, &first.0)?;
    let listed = one.weights();
    if distinct_weights(listed.iter().cloned()).len() != listed.len() {
        return Err("an executable lists a weight twice".to_owned());
    }
    if let Some(weight) = listed.iter().find(|weight| !weight.is_resident() || weight.bytes() == 0) {
        return Err(format!("the weight '{}' has {} bytes and is not there", weight.name(), weight.bytes()));
    }
    // These are the same constant, an equal one in a program of other sizes, and a different one.
    for (made, least, most) in [(&first, LEAST, usize::MAX), (&larger, LEAST, usize::MAX), (&unlike, 0, LEAST - 1)] {
        let other = compile(device, &made.0)?;
        let bytes = common(&one, &other);
        if bytes < least || bytes > most {
            return Err(format!("{bytes} bytes are shared, at least {least} and at most {most} should be"));
        }
        run(device, &other, made)?;
    }
    run(device, &one, &first)
}

/// Returns the bytes that the device has allocated, where it tells them.
fn allocated(device: &dyn Device) -> u64 {
    device.telemetry().allocated_bytes.unwrap_or(0)
}

fn evicted(device: &dyn Device, program: Build) -> Checked {
    let made = program(1, 3).map_err(|error| error.to_string())?;
    let before = allocated(device);
    let executable = compile(device, &made.0)?;
    let with = allocated(device);
    let weights = executable.weights();
    let resident = || weights.iter().filter(|weight| weight.is_resident()).count();
    run(device, &executable, &made)?;
    for round in 0..2 {
        weights.iter().for_each(|weight| weight.evict());
        if resident() > 0 {
            return Err(format!("{} evicted weights are still there", resident()));
        }
        let bytes: u64 = weights.iter().map(|weight| weight.bytes() as u64).sum();
        // Not every device counts its weights as allocated.
        if with >= before + bytes && !soon(|| allocated(device) <= with - bytes) {
            return Err(format!("{} bytes are allocated after an eviction, {with} before", allocated(device)));
        }
        // In the first round the run brings them back, and then the caller does.
        if round == 1 {
            weights.iter().try_for_each(|weight| weight.restore()).map_err(|error| error.to_string())?;
            if resident() < weights.len() {
                return Err("a restored weight is not there".to_owned());
            }
        }
        run(device, &executable, &made)?;
        if resident() < weights.len() {
            return Err("a run has used an evicted weight and not restored it".to_owned());
        }
    }
    Ok(())
}

fn under_way(device: &dyn Device, program: Build) -> Checked {
    const RUNS: usize = 12;
    let made = program(1, 3).map_err(|error| error.to_string())?;
    let executable = compile(device, &made.0)?;
    let weights = executable.weights();
    let started = || -> Result<Vec<Vec<Tensor>>> {
        let queue = device.queue(&QueueOptions { name: "conformance".into(), capacity: None })?;
        let line = device.timeline(0)?;
        let mut runs = Vec::with_capacity(RUNS);
        for number in 1..=RUNS as u64 {
            let prepared = crate::prepare(device, &executable, &made.0, &made.1)?;
            // Each run waits for the one before, because a timeline's points are reached in order.
            // The evictions meet them under way.
            let before = line.at(number - 1);
            queue.submit(&[before], Work::execute(prepared.execution.clone()), &[line.at(number)])?;
            weights.iter().for_each(|weight| weight.evict());
            runs.push(prepared);
        }
        for number in 1..=RUNS as u64 {
            line.wait(number, Instant::now() + DEADLINE)?;
        }
        runs.iter().map(Prepared::outputs).collect()
    };
    let outputs = started().map_err(|error| error.to_string())?;
    outputs.iter().try_for_each(|outputs| compare(&made, outputs))
}

fn freed(device: &dyn Device, program: Build) -> Checked {
    let made = program(1, 3).map_err(|error| error.to_string())?;
    let before = allocated(device);
    let (one, other) = (compile(device, &made.0)?, compile(device, &made.0)?);
    let weights: Vec<_> = one.weights().iter().map(Arc::downgrade).collect();
    run(device, &one, &made)?;
    drop(one);
    if weights.iter().any(|weight| weight.strong_count() == 0) {
        return Err("a weight has gone with one of its two owners".to_owned());
    }
    run(device, &other, &made)?;
    drop(other);
    if !soon(|| weights.iter().all(|weight| weight.strong_count() == 0)) {
        return Err("a weight outlives its executables".to_owned());
    }
    if !soon(|| allocated(device) <= before) {
        return Err(format!("{} bytes are allocated at the end, {before} before", allocated(device)));
    }
    Ok(())
}
