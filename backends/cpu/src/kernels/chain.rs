//! Element-wise nodes that feed each other, in one pass over memory: chunk by chunk, intermediate
//! values stay in the first cache.

use hetero_hal::Result;

use super::elementwise::Broadcast;
use super::tile::piece;
use super::vector::{Activation, Pairwise, Second};
use super::{Kernel, Runtime};
use crate::operand::{Arguments, Shared};
use crate::simd::Isa;

/// The elements of a chunk, of which a few fit the first cache.
const CHUNK: usize = 2048;

/// The number of registers, each of a chunk's size.
pub(crate) const REGISTERS: usize = 6;

/// An operand of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The result that an earlier operation left in this register.
    Register(usize),
    /// The step's input with this number.
    Input(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Function {
    One(Activation),
    Two(Pairwise, Source),
}

/// `into = function(first, …)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) function: Function,
    pub(crate) first: Source,
    pub(crate) into: usize,
}

#[derive(Clone)]
pub(crate) struct Chain {
    isa: Isa,
    operations: Vec<Operation>,
    inputs: Vec<Broadcast>,
    count: usize,
}

impl Chain {
    /// Makes a chain; `shapes` are the inputs' shapes, and `output` is the shape of the last
    /// operation's result.
    pub(crate) fn new(isa: Isa, operations: Vec<Operation>, shapes: &[&[usize]], output: &[usize]) -> Self {
        let inputs = shapes.iter().map(|shape| Broadcast::new(shape, output)).collect();
        Chain { isa, operations, inputs, count: output.iter().product() }
    }

    /// Writes the elements `range` of an input, expanded to the output's shape.
    fn fetch(&self, pattern: &Broadcast, input: &[f32], range: std::ops::Range<usize>, into: &mut [f32]) {
        let offset = range.start;
        pattern.runs(range, |range, start| {
            let into = &mut into[range.start - offset..range.end - offset];
            match pattern.step {
                0 => into.fill(input[start]),
                _ => into.copy_from_slice(&input[start..start + into.len()]),
            }
        });
    }

    /// # Safety
    /// `registers` must have [`REGISTERS`] chunks that nobody else uses.
    unsafe fn chunk(&self, inputs: &[&[f32]], range: std::ops::Range<usize>, registers: Shared, output: &mut [f32]) {
        let count = range.len();
        for (number, operation) in self.operations.iter().enumerate() {
            let last = number + 1 == self.operations.len();
            // SAFETY: the caller's promise.
            // A register is taken as a target and read as another operand only where they differ.
            let register = |index: usize| unsafe { registers.slice(index * CHUNK, count) };
            let target = if last { &mut *output } else { register(operation.into) };
            match operation.first {
                Source::Input(index) => self.fetch(&self.inputs[index], inputs[index], range.clone(), target),
                Source::Register(index) if last || index != operation.into => target.copy_from_slice(register(index)),
                Source::Register(_) => {}
            }
            match operation.function {
                Function::One(function) => function.apply(self.isa, target),
                Function::Two(function, Source::Register(index)) if !last && index == operation.into => {
                    // Either the same register is used twice, or it is one that the first operand
                    // was copied over; `lower` makes only the former.
                    let own = Second::Itself;
                    function.apply(self.isa, target, own, false);
                }
                Function::Two(function, Source::Register(index)) => {
                    function.apply(self.isa, target, Second::Same(register(index)), false);
                }
                Function::Two(function, Source::Input(index)) => {
                    let (pattern, input) = (&self.inputs[index], inputs[index]);
                    pattern.runs(range.clone(), |run, start| {
                        let into = &mut target[run.start - range.start..run.end - range.start];
                        let second = match pattern.step {
                            0 => Second::One(input[start]),
                            _ => Second::Same(&input[start..start + into.len()]),
                        };
                        function.apply(self.isa, into, second, false);
                    });
                }
            }
        }
    }
}

impl Kernel for Chain {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let mut inputs: [&[f32]; INPUTS] = [&[]; INPUTS];
        for (index, input) in inputs.iter_mut().enumerate().take(self.inputs.len()) {
            *input = arguments.input::<f32>(index)?;
        }
        let output = Shared::new(arguments.output::<f32>(0)?);
        let workspace = Shared::new(arguments.workspace::<f32>()?);
        let chunks = self.count.div_ceil(CHUNK);
        let pieces = runtime.pieces(chunks, CHUNK * self.operations.len());
        runtime.for_each(pieces, |number, thread| {
            for chunk in piece(chunks, pieces, number) {
                let range = chunk * CHUNK..((chunk + 1) * CHUNK).min(self.count);
                // SAFETY: each chunk is one task's, and each thread has registers of its own.
                unsafe {
                    let registers = Shared::new(workspace.slice(thread * REGISTERS * CHUNK, REGISTERS * CHUNK));
                    self.chunk(&inputs, range.clone(), registers, output.slice(range.start, range.len()));
                }
            }
        });
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        threads * REGISTERS * CHUNK * size_of::<f32>()
    }
}

/// The largest number of inputs of a chain.
pub(crate) const INPUTS: usize = 12;
