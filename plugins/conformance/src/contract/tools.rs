//! The tools with which rules are checked: small programs, runs of them, and a trace that
//! remembers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hetero_hal::{
    Buffer, BufferLayout, CompileOptions, Device, Error, Executable, Operator, Point, Program, Queue, QueueOptions,
    Result, Source, Tensor, TraceEvent, TraceKind, TraceSink, Work,
};
use hetero_reference::Standard;

use super::{Checked, Fault};
use hetero_examine::Prepared;

use crate::{DEADLINE, Network, difference, threshold};

/// The largest number of bytes of a tensor that the oracle makes.
const MOST: usize = 1 << 26;

/// The number of elements of the inputs of small programs.
pub(super) const COUNT: usize = 4096;

/// A program, tensors for its inputs, and the oracle's outputs.
pub(super) struct Made {
    pub(super) program: Program,
    pub(super) inputs: Vec<Tensor>,
    pub(super) expected: Vec<Tensor>,
}

impl Made {
    fn of(network: Network) -> Result<Made> {
        let (program, inputs) = network.finish()?;
        let expected = hetero_reference::run(&program, &inputs, &Standard, &hetero_hal::Allowance::new(MOST))?;
        Ok(Made { program, inputs, expected })
    }

    /// Makes a program of two inputs, each rectified, which the simplest device can do.
    pub(super) fn rectifiers(seed: u64) -> Result<Made> {
        let mut network = Network::new("rectifiers", seed);
        for _ in 0..2 {
            let x = network.input(&[COUNT]);
            network.node(Operator::new("Relu", 14), &[x])?;
        }
        Made::of(network)
    }

    /// Makes a product with a constant, which the seed decides.
    pub(super) fn product(seed: u64) -> Result<Made> {
        let mut network = Network::new("product", seed);
        let weight = network.constant(&[160, 128], 0.2)?;
        let x = network.input(&[3, 160]);
        network.node(Operator::new("MatMul", 13), &[x, weight])?;
        Made::of(network)
    }

    pub(super) fn compile(&self, device: &dyn Device) -> Result<Arc<dyn Executable>> {
        device.compile(Source::Program(&self.program), &CompileOptions::default())
    }

    pub(super) fn prepare(&self, device: &dyn Device) -> Result<Prepared> {
        crate::prepare(device, &self.compile(device)?, &self.program, &self.inputs)
    }

    /// Tells whether the device takes the whole program.
    pub(super) fn claimed(&self, device: &dyn Device) -> bool {
        let nodes: usize = device.claims(&self.program).iter().map(|claim| claim.nodes.len()).sum();
        nodes == self.program.nodes().len()
    }

    /// Compares outputs with the oracle's.
    pub(super) fn compare(&self, actual: &[Tensor]) -> Checked {
        if actual.len() != self.expected.len() {
            return Err(Fault::Broken(format!("{} outputs, {} expected", actual.len(), self.expected.len())));
        }
        for (number, (actual, expected)) in actual.iter().zip(&self.expected).enumerate() {
            let error = difference(actual, expected)?;
            if error > threshold(expected.dtype()) {
                return Err(Fault::Broken(format!("output {number} has an error of {error:.2e}")));
            }
        }
        Ok(())
    }
}

pub(super) fn queue(device: &dyn Device) -> Result<Arc<dyn Queue>> {
    device.queue(&QueueOptions { name: "contract".into(), capacity: None })
}

pub(super) fn wait(point: &Point) -> Result<()> {
    point.wait(Instant::now() + DEADLINE)
}

/// Submits work, and waits for its end.
pub(super) fn run(device: &dyn Device, work: Work) -> Result<()> {
    let (queue, done) = (queue(device)?, device.timeline(0)?.at(1));
    queue.submit(&[], work, std::slice::from_ref(&done))?;
    wait(&done)
}

/// Makes a buffer of these bytes.
pub(super) fn buffer(device: &dyn Device, content: &[u8]) -> Result<Buffer> {
    let buffer = device.allocate(BufferLayout::new(content.len()))?;
    buffer.write(0, content)?;
    Ok(buffer)
}

pub(super) fn content(buffer: &Buffer) -> Result<Vec<u8>> {
    let mut bytes = vec![0; buffer.len()];
    buffer.read(0, &mut bytes)?;
    Ok(bytes)
}

/// Fails with `why` where a condition does not hold.
pub(super) fn ensure(holds: bool, why: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Fault::Broken(why())) }
}

/// Returns the error of something that should have failed.
pub(super) fn failure<T>(outcome: Result<T>, what: &str) -> std::result::Result<Error, Fault> {
    outcome.err().ok_or_else(|| Fault::Broken(format!("{what} is no error")))
}

/// An event that a trace was told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) kind: TraceKind,
    pub(super) nodes: Vec<String>,
    pub(super) begin: Instant,
    pub(super) end: Instant,
    pub(super) bytes: u64,
}

/// A trace that remembers.
#[derive(Default)]
pub(super) struct Memory(Mutex<Vec<Told>>);

impl TraceSink for Memory {
    fn event(&self, event: &TraceEvent<'_>) {
        let nodes = event.nodes.iter().map(ToString::to_string).collect();
        let told = Told { kind: event.kind, nodes, begin: event.begin, end: event.end, bytes: event.bytes };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }
}

impl Memory {
    /// Returns all events so far.
    ///
    /// # Errors
    /// `Unsupported` where there is none, because a device need not write traces.
    pub(super) fn told(&self) -> std::result::Result<Vec<Told>, Fault> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if told.is_empty() {
            return Err(Fault::Unsupported("the device tells nothing of traced work".to_owned()));
        }
        Ok(told)
    }
}
