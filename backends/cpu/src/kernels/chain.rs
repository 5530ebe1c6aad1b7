//! Element-wise nodes that feed each other, in one pass over memory: chunk by chunk, intermediate
//! values stay in the first cache, in f32.

use hetero_hal::Result;

use super::elementwise::Broadcast;
use super::tile::piece;
use super::vector::{Activation, Pairwise, Second};
use super::{Kernel, Runtime};
use crate::operand::{Arguments, Shared};
use crate::simd::{Half, Isa};

/// The elements of a chunk, of which a few fit the first cache.
const CHUNK: usize = 2048;

/// The number of registers, each of a chunk's size.
pub(crate) const REGISTERS: usize = 6;

/// The places behind the registers for a second operand in f32, and for a result on its way to 16
/// bits.
const WIDENED: usize = REGISTERS;
const RESULT: usize = REGISTERS + 1;
/// The chunks of a thread's workspace.
const ROOM: usize = REGISTERS + 2;

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
    /// How each input repeats over the result, and its format where it has 16 bits.
    inputs: Vec<(Broadcast, Option<Half>)>,
    /// The format of the result, where it has 16 bits.
    output: Option<Half>,
    count: usize,
}

/// An input's elements.
#[derive(Clone, Copy)]
enum Elements<'a> {
    Floats(&'a [f32]),
    Halves(Half, &'a [u16]),
}

impl Chain {
    /// Makes a chain; `inputs` are the inputs' shapes, and `shape` is that of the last operation's
    /// result, each with its format where it has 16 bits.
    pub(crate) fn new(
        isa: Isa,
        operations: Vec<Operation>,
        inputs: &[(&[usize], Option<Half>)],
        (shape, output): (&[usize], Option<Half>),
    ) -> Self {
        let inputs = inputs.iter().map(|&(own, half)| (Broadcast::new(own, shape), half)).collect();
        Chain { isa, operations, inputs, output, count: shape.iter().product() }
    }

    /// Writes the elements `range` of an input, expanded to the output's shape.
    fn fetch(&self, pattern: &Broadcast, input: Elements<'_>, range: std::ops::Range<usize>, into: &mut [f32]) {
        let (half, input) = match input {
            Elements::Floats(input) => return pattern.expand(input, range, into),
            Elements::Halves(half, input) => (half, input),
        };
        if pattern.is_short() {
            let mut expanded = [0; CHUNK];
            let expanded = &mut expanded[..into.len()];
            pattern.expand(input, range, expanded);
            return half.widen(self.isa, expanded, into);
        }
        let offset = range.start;
        pattern.runs(range, |range, start| {
            let into = &mut into[range.start - offset..range.end - offset];
            match pattern.step {
                0 => into.fill(half.wide(input[start])),
                _ => half.widen(self.isa, &input[start..start + into.len()], into),
            }
        });
    }

    /// # Safety
    /// `registers` must have [`ROOM`] chunks that nobody else uses.
    unsafe fn chunk(
        &self,
        inputs: &[Elements<'_>],
        range: std::ops::Range<usize>,
        registers: Shared,
        output: &mut [f32],
    ) {
        let count = range.len();
        for (number, operation) in self.operations.iter().enumerate() {
            let last = number + 1 == self.operations.len();
            // SAFETY: the caller's promise.
            // A register is taken as a target and read as another operand only where they differ.
            let register = |index: usize| unsafe { registers.slice(index * CHUNK, count) };
            let target = if last { &mut *output } else { register(operation.into) };
            match operation.first {
                Source::Input(index) => self.fetch(&self.inputs[index].0, inputs[index], range.clone(), target),
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
                    let (pattern, input) = (&self.inputs[index].0, inputs[index]);
                    let widened = register(WIDENED);
                    if pattern.is_short() {
                        self.fetch(pattern, input, range.clone(), widened);
                        function.apply(self.isa, target, Second::Same(widened), false);
                        continue;
                    }
                    pattern.runs(range.clone(), |run, start| {
                        let into = &mut target[run.start - range.start..run.end - range.start];
                        let second = match (pattern.step, input) {
                            (0, Elements::Floats(input)) => Second::One(input[start]),
                            (0, Elements::Halves(half, input)) => Second::One(half.wide(input[start])),
                            (_, Elements::Floats(input)) => Second::Same(&input[start..start + into.len()]),
                            (_, Elements::Halves(half, input)) => {
                                let widened = &mut widened[..into.len()];
                                half.widen(self.isa, &input[start..start + into.len()], widened);
                                Second::Same(widened)
                            }
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
        let mut inputs = [Elements::Floats(&[]); INPUTS];
        for (index, (input, (_, half))) in inputs.iter_mut().zip(&self.inputs).enumerate() {
            *input = match *half {
                None => Elements::Floats(arguments.input(index)?),
                Some(half) => Elements::Halves(half, arguments.input(index)?),
            };
        }
        let output = match self.output {
            None => Target::Floats(Shared::new(arguments.output(0)?)),
            Some(half) => Target::Halves(half, Shared::new(arguments.output(0)?)),
        };
        let workspace = Shared::new(arguments.workspace::<f32>()?);
        let chunks = self.count.div_ceil(CHUNK);
        let pieces = runtime.pieces(chunks, CHUNK * self.operations.len());
        runtime.for_each(pieces, |number, thread| {
            for chunk in piece(chunks, pieces, number) {
                let range = chunk * CHUNK..((chunk + 1) * CHUNK).min(self.count);
                // SAFETY: each chunk is one task's, and each thread has registers of its own.
                unsafe {
                    let registers = Shared::new(workspace.slice(thread * ROOM * CHUNK, ROOM * CHUNK));
                    match output {
                        Target::Floats(output) => {
                            let output = output.slice(range.start, range.len());
                            self.chunk(&inputs, range, registers, output);
                        }
                        Target::Halves(half, output) => {
                            let result = registers.slice(RESULT * CHUNK, range.len());
                            self.chunk(&inputs, range.clone(), registers, result);
                            half.narrow_all(self.isa, result, output.slice(range.start, range.len()));
                        }
                    }
                }
            }
        });
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        threads * ROOM * CHUNK * size_of::<f32>()
    }
}

/// The memory of the result.
#[derive(Clone, Copy)]
enum Target {
    Floats(Shared<f32>),
    Halves(Half, Shared<u16>),
}

/// The largest number of inputs of a chain.
pub(crate) const INPUTS: usize = 12;
