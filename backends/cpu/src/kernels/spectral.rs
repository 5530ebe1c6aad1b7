//! Discrete Fourier transforms of f32 of any length: DFT and STFT.
//!
//! Lengths of factors up to 13 are divided by these (Cooley and Tukey, 1965); other lengths become
//! a convolution of a length that is a power of two (Bluestein, 1970).
//! Lines are transformed in f64, whose rounding no length makes visible in f32.

use std::f64::consts::PI;

use hetero_hal::{DType, Result};

use super::tile::piece;
use super::{Kernel, Runtime, Site, TABLE};
use crate::operand::{Arguments, Shared};

/// A complex number: its real and its imaginary part.
type Complex = [f64; 2];

/// The largest factor by which a length is divided.
const LARGEST: usize = 13;

#[inline(always)]
fn add(a: Complex, b: Complex) -> Complex {
    [a[0] + b[0], a[1] + b[1]]
}

#[inline(always)]
fn sub(a: Complex, b: Complex) -> Complex {
    [a[0] - b[0], a[1] - b[1]]
}

#[inline(always)]
fn mul(a: Complex, b: Complex) -> Complex {
    [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]]
}

/// Returns the number at `numerator / denominator` of a turn, clockwise.
fn turn(numerator: usize, denominator: usize) -> Complex {
    let angle = -2.0 * PI * numerator as f64 / denominator as f64;
    [angle.cos(), angle.sin()]
}

/// A transform of a length whose factors are small.
struct Factors {
    length: usize,
    factors: Vec<usize>,
    /// The roots of unity.
    roots: Vec<Complex>,
}

impl Factors {
    fn of(length: usize) -> Option<Factors> {
        let (mut rest, mut factors) = (length, Vec::new());
        for factor in std::iter::once(4).chain(2..=LARGEST) {
            while rest.is_multiple_of(factor) && rest > 1 {
                factors.push(factor);
                rest /= factor;
            }
        }
        (rest == 1).then(|| Factors { length, factors, roots: (0..length).map(|k| turn(k, length)).collect() })
    }

    fn run(&self, input: &[Complex], output: &mut [Complex]) {
        self.part(input, 1, &self.factors, output);
    }

    /// Transforms every `step`-th number of the input.
    fn part(&self, input: &[Complex], step: usize, factors: &[usize], output: &mut [Complex]) {
        let Some((&factor, rest)) = factors.split_first() else {
            output[0] = input[0];
            return;
        };
        let part = output.len() / factor;
        for (number, output) in output.chunks_exact_mut(part).enumerate() {
            self.part(&input[number * step..], step * factor, rest, output);
        }
        match factor {
            2 => {
                let (low, high) = output.split_at_mut(part);
                for (k, (a, b)) in low.iter_mut().zip(high).enumerate() {
                    let other = mul(*b, self.roots[k * step]);
                    (*a, *b) = (add(*a, other), sub(*a, other));
                }
            }
            4 => {
                let (first, rest) = output.split_at_mut(part);
                let (second, rest) = rest.split_at_mut(part);
                let (third, fourth) = rest.split_at_mut(part);
                for k in 0..part {
                    let a = first[k];
                    let b = mul(second[k], self.roots[k * step]);
                    let c = mul(third[k], self.roots[2 * k * step]);
                    let d = mul(fourth[k], self.roots[3 * k * step]);
                    let (even, odd, sum, difference) = (add(a, c), sub(a, c), add(b, d), sub(b, d));
                    // A quarter of a turn, clockwise.
                    let quarter = [difference[1], -difference[0]];
                    first[k] = add(even, sum);
                    second[k] = add(odd, quarter);
                    third[k] = sub(even, sum);
                    fourth[k] = sub(odd, quarter);
                }
            }
            _ => {
                let mut terms = [[0.0; 2]; LARGEST];
                for k in 0..part {
                    for (q, term) in terms[..factor].iter_mut().enumerate() {
                        *term = mul(output[k + q * part], self.roots[q * k * step]);
                    }
                    for r in 0..factor {
                        let root = |q: usize| self.roots[q * r % factor * (self.length / factor)];
                        let sum = terms[1..factor].iter().zip(1..).map(|(&term, q)| mul(term, root(q)));
                        output[k + r * part] = sum.fold(terms[0], add);
                    }
                }
            }
        }
    }
}

/// A transform of any length, as a convolution with a number that turns ever faster.
struct Convolution {
    long: Factors,
    /// The number that turns, and the transform of its conjugate.
    chirp: Vec<Complex>,
    filter: Vec<Complex>,
}

impl Convolution {
    fn of(length: usize) -> Option<Convolution> {
        let padded = (2 * length - 1).next_power_of_two();
        let long = Factors::of(padded)?;
        // The angle has a period, in which it is exact.
        let place = |k: usize| (k as u128 * k as u128 % (2 * length as u128)) as usize;
        let chirp: Vec<Complex> = (0..length).map(|k| turn(place(k), 2 * length)).collect();
        let mut wrapped = vec![[0.0; 2]; padded];
        for (k, &[re, im]) in chirp.iter().enumerate() {
            wrapped[k] = [re, -im];
            wrapped[(padded - k) % padded] = [re, -im];
        }
        let mut filter = vec![[0.0; 2]; padded];
        long.run(&wrapped, &mut filter);
        Some(Convolution { long, chirp, filter })
    }

    fn run(&self, input: &[Complex], output: &mut [Complex], room: &mut [Complex]) {
        let padded = self.long.length;
        let (first, second) = room.split_at_mut(padded);
        first.fill([0.0; 2]);
        first.iter_mut().zip(input.iter().zip(&self.chirp)).for_each(|(into, (&x, &chirp))| *into = mul(x, chirp));
        self.long.run(first, second);
        // The way back is the way forth of the conjugates.
        for (into, (&x, &filter)) in first.iter_mut().zip(second.iter().zip(&self.filter)) {
            let [re, im] = mul(x, filter);
            *into = [re, -im];
        }
        self.long.run(first, second);
        let scale = 1.0 / padded as f64;
        for (into, (&[re, im], &chirp)) in output.iter_mut().zip(second.iter().zip(&self.chirp)) {
            *into = mul([re * scale, -im * scale], chirp);
        }
    }
}

enum Plan {
    Factors(Factors),
    Convolution(Box<Convolution>),
}

impl Plan {
    fn of(length: usize) -> Option<Plan> {
        if length == 0 || length > TABLE {
            return None;
        }
        match Factors::of(length) {
            Some(factors) => Some(Plan::Factors(factors)),
            None => Some(Plan::Convolution(Box::new(Convolution::of(length)?))),
        }
    }

    /// Returns the complex numbers that a transform needs beside its input and output.
    fn room(&self) -> usize {
        match self {
            Plan::Factors(_) => 0,
            Plan::Convolution(convolution) => 2 * convolution.long.length,
        }
    }

    fn run(&self, input: &[Complex], output: &mut [Complex], room: &mut [Complex]) {
        match self {
            Plan::Factors(factors) => factors.run(input, output),
            Plan::Convolution(convolution) => convolution.run(input, output, room),
        }
    }
}

/// Transforms of lines of the input, each of which may have a window.
struct Transform {
    plan: Plan,
    length: usize,
    /// The samples of a line that are there; others are 0.
    samples: usize,
    bins: usize,
    /// The lines: `outer` of them by `frames` by `inner`.
    lines: [usize; 3],
    /// The strides of the lines and of the samples of a line in the input, in samples.
    strides: [usize; 3],
    step: usize,
    /// The strides of the lines and of the bins of a line in the output, in bins.
    into: [usize; 3],
    into_step: usize,
    /// The numbers of a sample and of a bin: one where they are real, else two.
    parts: [usize; 2],
    inverse: bool,
    /// Whether the samples are half of a spectrum, whose other half follows.
    half: bool,
    /// The input that has the window.
    window: Option<usize>,
}

/// Returns an input's one whole number, where it is constant; `None` where it is not there.
fn number(site: Site<'_>, index: usize) -> Result<Option<Option<usize>>> {
    match (site.input(index), site.constant(index)) {
        (None, _) => Ok(Some(None)),
        (Some(_), Some(content)) if matches!(content.dtype(), DType::I32 | DType::I64) => {
            let first = content.to_i64_vec()?.first().copied();
            Ok(first.and_then(|value| usize::try_from(value).ok()).map(Some))
        }
        _ => Ok(None),
    }
}

pub(super) fn dft(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let (Some(input), Some(output)) = (site.input(0), site.output(0)) else { return Ok(None) };
    let (shape, rank) = (&input.shape, input.shape.len() as i64);
    let axis = match (operator.version, site.input(2), site.constant(2)) {
        (..20, ..) => operator.int("axis")?.unwrap_or(1),
        (_, None, _) => -2,
        (_, Some(_), Some(axis)) if matches!(axis.dtype(), DType::I32 | DType::I64) => {
            axis.to_i64_vec()?.first().copied().unwrap_or(-2)
        }
        _ => return Ok(None),
    };
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).unwrap_or(usize::MAX);
    let floats = input.dtype == DType::F32 && output.dtype == DType::F32;
    let (Some(given), true) = (number(site, 1)?, floats && axis < shape.len().saturating_sub(1)) else {
        return Ok(None);
    };
    let flag = |name: &str| operator.int(name).map(|flag| flag.unwrap_or(0) != 0);
    let (inverse, onesided) = (flag("inverse")?, flag("onesided")?);
    let half = inverse && onesided;
    let length = given.unwrap_or(if half { 2 * shape[axis].saturating_sub(1) } else { shape[axis] });
    let last = shape.len() - 1;
    let (bins, parts) = (output.shape[axis], [shape[last], output.shape[last]]);
    let (inner, outer) = (shape[axis + 1..last].iter().product(), shape[..axis].iter().product());
    let (Some(plan), false) = (Plan::of(length), input.elements() == 0 || bins > length) else { return Ok(None) };
    Ok(Some(Box::new(Transform {
        plan,
        length,
        samples: shape[axis],
        bins,
        lines: [outer, 1, inner],
        strides: [shape[axis] * inner, 0, 1],
        step: inner,
        into: [bins * inner, 0, 1],
        into_step: inner,
        parts,
        inverse,
        half,
        window: None,
    })))
}

pub(super) fn stft(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(output)) = (site.input(0), site.output(0)) else { return Ok(None) };
    let (Some(step), Some(given)) = (number(site, 1)?, number(site, 3)?) else { return Ok(None) };
    let (&[batch, frames, bins, 2], true) = (output.shape.as_slice(), input.dtype == DType::F32) else {
        return Ok(None);
    };
    let (samples, parts) = match *input.shape.as_slice() {
        [_, samples] => (samples, 1),
        [_, samples, parts] => (samples, parts),
        _ => return Ok(None),
    };
    let window = site.input(2);
    let (Some(step), Some(length)) = (step, given.or(window.map(|window| window.elements()))) else { return Ok(None) };
    let fits = window.is_none_or(|window| window.elements() == length && window.dtype == DType::F32)
        && output.dtype == DType::F32
        && output.elements() > 0
        && bins <= length
        && input.shape[0] == batch
        && (frames - 1).checked_mul(step).and_then(|start| start.checked_add(length)).is_some_and(|end| end <= samples);
    let (Some(plan), true) = (Plan::of(length), fits) else { return Ok(None) };
    Ok(Some(Box::new(Transform {
        plan,
        length,
        samples: length,
        bins,
        lines: [batch, frames, 1],
        strides: [samples, step, 0],
        step: 1,
        into: [frames * bins, bins, 0],
        into_step: 1,
        parts: [parts, 2],
        inverse: false,
        half: false,
        window: window.map(|_| 2),
    })))
}

impl Transform {
    /// Returns the complex numbers of a thread's room.
    fn room(&self) -> usize {
        2 * self.length + self.plan.room()
    }

    /// Reads the samples of a line that begins at a place.
    fn read(&self, input: &[f32], start: usize, window: Option<&[f32]>, line: &mut [Complex]) {
        let there = self.samples.min(self.length);
        line[there..].fill([0.0; 2]);
        for (number, into) in line[..there].iter_mut().enumerate() {
            let at = (start + number * self.step) * self.parts[0];
            let im = if self.parts[0] == 2 { f64::from(input[at + 1]) } else { 0.0 };
            *into = [f64::from(input[at]), im];
        }
        if let Some(window) = window {
            for ([re, im], &weight) in line.iter_mut().zip(window) {
                *re *= f64::from(weight);
                *im *= f64::from(weight);
            }
        }
        if self.half {
            line[0][1] = 0.0;
            if self.length.is_multiple_of(2) {
                line[self.length / 2][1] = 0.0;
            }
            for k in self.length / 2 + 1..self.length {
                let [re, im] = line[self.length - k];
                line[k] = [re, -im];
            }
        }
        if self.inverse {
            // The way back is the way forth of the conjugates.
            line.iter_mut().for_each(|x| x[1] = -x[1]);
        }
    }
}

impl Kernel for Transform {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let window = self.window.map(|index| arguments.input::<f32>(index)).transpose()?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        let rooms = Shared::new(arguments.workspace::<f64>()?).cast::<Complex>();
        let [_, frames, inner] = self.lines;
        let count: usize = self.lines.iter().product();
        let scale = if self.inverse { 1.0 / self.length as f64 } else { 1.0 };
        let pieces = runtime.pieces(count, self.length * 24);
        runtime.for_each(pieces, |number, thread| {
            // SAFETY: each thread has a room of its own.
            let room = unsafe { rooms.slice(thread * self.room(), self.room()) };
            let (line, room) = room.split_at_mut(self.length);
            let (result, room) = room.split_at_mut(self.length);
            for number in piece(count, pieces, number) {
                let index = [number / (frames * inner), number / inner % frames, number % inner];
                let place =
                    |strides: [usize; 3]| index.iter().zip(strides).map(|(at, stride)| at * stride).sum::<usize>();
                self.read(input, place(self.strides), window, line);
                self.plan.run(line, result, room);
                let start = place(self.into);
                for (bin, &[re, im]) in result[..self.bins].iter().enumerate() {
                    let at = (start + bin * self.into_step) * self.parts[1];
                    let im = if self.inverse { -im } else { im };
                    // SAFETY: each line's bins are one task's.
                    unsafe {
                        *output.at(at) = (re * scale) as f32;
                        if self.parts[1] == 2 {
                            *output.at(at + 1) = (im * scale) as f32;
                        }
                    }
                }
            }
        });
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        threads * self.room() * size_of::<Complex>()
    }
}
