//! The ways from real numbers to quantised ones and back: QuantizeLinear, DequantizeLinear and
//! DynamicQuantizeLinear.
//!
//! All of them round as the standard says: quotients to the type of the division, then to whole
//! numbers with halves to even, and then they saturate.
//! What is no number becomes 0.

use std::marker::PhantomData;

use half::{bf16, f16};
use hetero_hal::{DType, Element, Result};

use crate::kernels::tile::piece;
use crate::kernels::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd, odd};

/// The most elements of a line that one task works on.
const CHUNK: usize = 8 * 1024;

/// A type of real numbers.
pub(super) trait Real: Element {
    /// Returns the number, exactly.
    fn real(self) -> f32;
    /// Rounds once.
    fn of(real: f64) -> Self;
    /// Returns the quotient, rounded to this type.
    fn quotient(self, scale: Self) -> f32;
}

impl Real for f32 {
    #[inline(always)]
    fn real(self) -> f32 {
        self
    }
    #[inline(always)]
    fn of(real: f64) -> f32 {
        real as f32
    }
    #[inline(always)]
    fn quotient(self, scale: f32) -> f32 {
        self / scale
    }
}

macro_rules! halves {
    ($($name:ident)*) => {
        $(
            impl Real for $name {
                #[inline(always)]
                fn real(self) -> f32 {
                    self.to_f32()
                }
                #[inline(always)]
                fn of(real: f64) -> $name {
                    $name::from_f32(odd(real))
                }
                #[inline(always)]
                fn quotient(self, scale: $name) -> f32 {
                    // A quotient of so few bits is the same when it is rounded twice.
                    $name::from_f32(self.to_f32() / scale.to_f32()).to_f32()
                }
            }
        )*
    };
}

halves!(f16 bf16);

/// A type of quantised numbers.
pub(super) trait Code: Element {
    fn whole(self) -> i32;
    /// Whether all differences of two numbers are exact as f32.
    const SMALL: bool = true;
}

/// A type to which real numbers are quantised, of at most 16 bits.
pub(super) trait Narrow: Code {
    /// The least and the largest number.
    const LIMITS: (f32, f32);
    /// Returns the number of these low bits.
    fn of_bits(bits: u32) -> Self;
}

macro_rules! codes {
    ($($name:ident)*) => {
        $(
            impl Code for $name {
                #[inline(always)]
                fn whole(self) -> i32 {
                    i32::from(self)
                }
            }

            impl Narrow for $name {
                const LIMITS: (f32, f32) = ($name::MIN as f32, $name::MAX as f32);
                #[inline(always)]
                fn of_bits(bits: u32) -> $name {
                    bits as $name
                }
            }
        )*
    };
}

codes!(u8 i8 u16 i16);

impl Code for i32 {
    #[inline(always)]
    fn whole(self) -> i32 {
        self
    }
    const SMALL: bool = false;
}

/// Three halves of 2^23: a sum with a smaller number has no bits for a fraction, and the whole
/// number stands in its low bits.
const SHIFT: f32 = 12_582_912.0;

/// Rounds to a whole number, halves to even, for magnitudes up to 2^22.
#[inline(always)]
fn rounded(x: f32) -> f32 {
    (x + SHIFT) - SHIFT
}

/// Returns a quotient as a quantised number.
/// The limits are whole numbers, so that it does not matter that they come before the rounding.
#[inline(always)]
fn code<Y: Narrow>(quotient: f32, zero: f32) -> Y {
    let (low, high) = Y::LIMITS;
    let number = rounded(quotient.max(low - zero).min(high - zero)) + zero;
    let number = if quotient.is_nan() || number.is_nan() { 0.0 } else { number };
    Y::of_bits((number + SHIFT).to_bits())
}

/// A line of elements with one scale, or with one for each element.
struct Quantised<'a, X, Y> {
    x: &'a [X],
    y: &'a mut [Y],
    scales: &'a [X],
    zeros: &'a [Y],
}

impl<X: Real, Y: Narrow> Job for Quantised<'_, X, Y> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Quantised { x, y, scales, zeros } = self;
        match (scales, zeros) {
            ([scale], [zero]) => {
                let zero = zero.whole() as f32;
                y.iter_mut().zip(x).for_each(|(y, x)| *y = code(x.quotient(*scale), zero));
            }
            (_, [zero]) => {
                let zero = zero.whole() as f32;
                y.iter_mut().zip(x).zip(scales).for_each(|((y, x), scale)| *y = code(x.quotient(*scale), zero));
            }
            _ => {
                for (((y, x), scale), zero) in y.iter_mut().zip(x).zip(scales).zip(zeros) {
                    *y = code(x.quotient(*scale), zero.whole() as f32);
                }
            }
        }
    }
}

/// A line of elements with one scale, or with one for each element.
struct Restored<'a, X, Y> {
    x: &'a [X],
    y: &'a mut [Y],
    scales: &'a [Y],
    zeros: &'a [X],
}

impl<X: Code, Y: Real> Job for Restored<'_, X, Y> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Restored { x, y, scales, zeros } = self;
        let of = |x: &X, zero: &X, scale: f32| {
            if X::SMALL && Y::DTYPE == DType::F32 {
                // The difference is exact, so that only the product is rounded.
                return Y::of(f64::from((x.whole() - zero.whole()) as f32 * scale));
            }
            let difference = i64::from(x.whole()) - i64::from(zero.whole());
            Y::of(difference as f64 * f64::from(scale))
        };
        match (scales, zeros) {
            ([scale], [zero]) => {
                let scale = scale.real();
                y.iter_mut().zip(x).for_each(|(y, x)| *y = of(x, zero, scale));
            }
            (_, [zero]) => {
                y.iter_mut().zip(x).zip(scales).for_each(|((y, x), scale)| *y = of(x, zero, scale.real()));
            }
            _ => {
                for (((y, x), scale), zero) in y.iter_mut().zip(x).zip(scales).zip(zeros) {
                    *y = of(x, zero, scale.real());
                }
            }
        }
    }
}

/// The way in which scales are spread over elements: lines of elements that are contiguous, each
/// with one scale or with contiguous ones.
#[derive(Clone, Copy, Debug)]
struct Spread {
    /// The number of lines.
    lines: usize,
    /// The elements between the lines that belong to one run, and the lines of a run.
    run: usize,
    per_run: usize,
    /// The length of a line, which is less at the end of a run.
    line: usize,
    /// The lines that have the same scales, one behind the other.
    same: usize,
    /// The number of groups of scales after which they repeat.
    repeat: usize,
    /// Whether each element of a line has a scale of its own.
    each: bool,
}

impl Spread {
    /// Returns how scales of this shape are spread; `None` where they do not fit.
    fn of(site: Site<'_>, input: &[usize], scale: &[usize]) -> Result<Option<Spread>> {
        let count: usize = input.iter().product();
        let all = Spread {
            lines: count.div_ceil(CHUNK),
            run: count,
            per_run: count.div_ceil(CHUNK).max(1),
            line: CHUNK,
            same: usize::MAX,
            repeat: 1,
            each: false,
        };
        if scale.iter().product::<usize>() == 1 {
            return Ok(Some(all));
        }
        let operator = site.operator();
        let axis = operator.int("axis")?.unwrap_or(1);
        let axis = if axis < 0 { axis.saturating_add(input.len() as i64) } else { axis };
        let Some(axis) = usize::try_from(axis).ok().filter(|&axis| axis < input.len()) else { return Ok(None) };
        let (inner, length) = (input[axis + 1..].iter().product::<usize>(), input[axis]);
        let outer = input[..axis].iter().product::<usize>();
        if count == 0 {
            return Ok(Some(all));
        }
        let Ok(block) = usize::try_from(operator.int("block_size")?.unwrap_or(0)) else { return Ok(None) };
        if block == 0 {
            let rows = Spread {
                lines: outer * length,
                run: inner,
                per_run: 1,
                line: inner,
                same: 1,
                repeat: length,
                each: false,
            };
            let columns =
                Spread { lines: outer, run: length, per_run: 1, line: length, same: 1, repeat: 1, each: true };
            return Ok((scale == [length]).then_some(if inner == 1 { columns } else { rows }));
        }
        let mut expected = input.to_vec();
        expected[axis] = length.div_ceil(block);
        let blocks = expected[axis];
        let groups = outer * blocks;
        let rows =
            Spread { lines: groups, run: length, per_run: blocks, line: block, same: 1, repeat: groups, each: false };
        // Lines of a block have the same scales; the last block may be of fewer lines.
        let columns = Spread {
            lines: outer * length,
            run: inner,
            per_run: 1,
            line: inner,
            same: block,
            repeat: groups,
            each: true,
        };
        Ok((scale == expected)
            .then_some(if inner == 1 { rows } else { columns })
            .filter(|spread| inner == 1 || length.is_multiple_of(block) || spread.lines == 0 || outer == 1))
    }

    /// Returns the first element of a line, its length, and the first of its scales.
    fn line(&self, number: usize) -> (usize, usize, usize) {
        let (run, within) = (number / self.per_run, number % self.per_run);
        let start = within * self.line;
        let length = self.line.min(self.run - start);
        let group = number / self.same % self.repeat;
        (run * self.run + start, length, if self.each { group * self.line } else { group })
    }
}

/// QuantizeLinear or DequantizeLinear of one pair of types.
struct Linear<X, Y> {
    isa: Isa,
    spread: Spread,
    count: usize,
    types: PhantomData<fn(X) -> Y>,
}

/// Returns the part of scales or zero points that belongs to a line.
fn part<T>(list: &[T], start: usize, length: usize, each: bool) -> &[T] {
    match list.len() {
        1 => list,
        _ => &list[start..start + if each { length } else { 1 }],
    }
}

impl<X: Element, Y: Element> Linear<X, Y> {
    /// Does all lines, each with its part of the scales and of the zero points.
    fn run<S: Sync, Z: Sync>(
        &self,
        (x, y): (&[X], &mut [Y]),
        (scales, zeros): (&[S], &[Z]),
        runtime: &Runtime<'_>,
        line: impl Fn(&[X], &mut [Y], &[S], &[Z]) + Sync,
    ) -> Result<()> {
        check(self.count, x.len(), y.len())?;
        let (spread, output) = (self.spread, Shared::new(y));
        let pieces = runtime.pieces(spread.lines, spread.line.saturating_mul(4));
        runtime.for_each(pieces, |number, _| {
            for number in piece(spread.lines, pieces, number) {
                let (start, length, scale) = spread.line(number);
                let (scales, zeros) =
                    (part(scales, scale, length, spread.each), part(zeros, scale, length, spread.each));
                // SAFETY: each line is one task's, and lies in the output.
                let y = unsafe { output.slice(start, length) };
                line(&x[start..start + length], y, scales, zeros);
            }
        });
        Ok(())
    }
}

impl<X: Real, Y: Narrow> Kernel for (Linear<X, Y>, Y) {
    fn name(&self) -> &'static str {
        "quantised::QuantizeLinear"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (linear, none) = self;
        let (x, scales) = (arguments.input::<X>(0)?, arguments.input::<X>(1)?);
        let zeros = arguments.optional::<Y>(2)?.unwrap_or(std::slice::from_ref(none));
        let y = arguments.output::<Y>(0)?;
        linear.run((x, y), (scales, zeros), runtime, |x, y, scales, zeros| {
            // SAFETY: the job's slices are its own.
            unsafe { linear.isa.run(Quantised { x, y, scales, zeros }) };
        })
    }
}

impl<X: Code, Y: Real> Kernel for (X, Linear<X, Y>) {
    fn name(&self) -> &'static str {
        "quantised::DequantizeLinear"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (none, linear) = self;
        let (x, scales) = (arguments.input::<X>(0)?, arguments.input::<Y>(1)?);
        let zeros = arguments.optional::<X>(2)?.unwrap_or(std::slice::from_ref(none));
        let y = arguments.output::<Y>(0)?;
        linear.run((x, y), (scales, zeros), runtime, |x, y, scales, zeros| {
            // SAFETY: the job's slices are its own.
            unsafe { linear.isa.run(Restored { x, y, scales, zeros }) };
        })
    }
}

/// Checks that operands have the elements that the kernel was made for.
fn check(count: usize, input: usize, output: usize) -> Result<()> {
    if count == input && count == output {
        return Ok(());
    }
    Err(hetero_hal::Error::internal("an operand of a quantisation has another size than its shape"))
}

/// Tells whether an attribute names no type or this one.
fn names(site: Site<'_>, attribute: &str, dtype: DType) -> Result<bool> {
    let named = site.operator().int(attribute)?.unwrap_or(0);
    Ok(named == 0 || named == i64::from(dtype.onnx_code()))
}

pub(crate) fn quantize(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(x), Some(scale), Some(y)) = (site.input(0), site.input(1), site.output(0)) else { return Ok(None) };
    let zero = site.input(2);
    let typed = x.dtype == scale.dtype && zero.is_none_or(|zero| zero.dtype == y.dtype);
    let ones = |shape: &[usize]| shape.iter().product::<usize>() == 1;
    let fits = zero.is_none_or(|zero| zero.shape == scale.shape || ones(&zero.shape) && ones(&scale.shape));
    if !typed || !fits || x.shape != y.shape || !names(site, "precision", x.dtype)? {
        return Ok(None);
    }
    let Some(spread) = Spread::of(site, &x.shape, &scale.shape)? else { return Ok(None) };
    fn of<X: Real, Y: Narrow + Default>(isa: Isa, spread: Spread, count: usize) -> Option<Box<dyn Kernel>> {
        Some(Box::new((Linear::<X, Y> { isa, spread, count, types: PhantomData }, Y::default())))
    }
    let count = x.elements();
    macro_rules! to {
        ($from:ty) => {
            match y.dtype {
                DType::U8 => of::<$from, u8>(site.isa, spread, count),
                DType::I8 => of::<$from, i8>(site.isa, spread, count),
                DType::U16 => of::<$from, u16>(site.isa, spread, count),
                DType::I16 => of::<$from, i16>(site.isa, spread, count),
                _ => None,
            }
        };
    }
    Ok(match x.dtype {
        DType::F32 => to!(f32),
        DType::F16 => to!(f16),
        DType::BF16 => to!(bf16),
        _ => None,
    })
}

pub(crate) fn dequantize(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(x), Some(scale), Some(y)) = (site.input(0), site.input(1), site.output(0)) else { return Ok(None) };
    let zero = site.input(2);
    let typed = y.dtype == scale.dtype && zero.is_none_or(|zero| zero.dtype == x.dtype);
    let ones = |shape: &[usize]| shape.iter().product::<usize>() == 1;
    let fits = zero.is_none_or(|zero| zero.shape == scale.shape || ones(&zero.shape) && ones(&scale.shape));
    if !typed || !fits || x.shape != y.shape {
        return Ok(None);
    }
    let Some(spread) = Spread::of(site, &x.shape, &scale.shape)? else { return Ok(None) };
    fn of<X: Code + Default, Y: Real>(isa: Isa, spread: Spread, count: usize) -> Option<Box<dyn Kernel>> {
        Some(Box::new((X::default(), Linear::<X, Y> { isa, spread, count, types: PhantomData })))
    }
    let count = x.elements();
    macro_rules! to {
        ($from:ty) => {
            match y.dtype {
                DType::F32 => of::<$from, f32>(site.isa, spread, count),
                DType::F16 => of::<$from, f16>(site.isa, spread, count),
                DType::BF16 => of::<$from, bf16>(site.isa, spread, count),
                _ => None,
            }
        };
    }
    Ok(match x.dtype {
        DType::U8 => to!(u8),
        DType::I8 => to!(i8),
        DType::U16 => to!(u16),
        DType::I16 => to!(i16),
        DType::I32 => to!(i32),
        _ => None,
    })
}

pub(crate) fn dynamic(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(x) = site.input(0) else { return Ok(None) };
    if x.dtype != DType::F32 || site.node.outputs.len() > 3 {
        return Ok(None);
    }
    Ok(Some(Box::new(Dynamic { isa: site.isa, count: x.elements() })))
}

/// DynamicQuantizeLinear: the range, and then the numbers.
struct Dynamic {
    isa: Isa,
    count: usize,
}

/// The least and the largest number of a part, and of 0.
struct Range<'a>(&'a [f32]);

impl Job for Range<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> (f32, f32) {
        // SAFETY: each vector lies in the slice; the lanes that are missing are 0.
        unsafe {
            let zero = S::splat(0.0);
            let (mut low, mut high) = ([zero; 4], [zero; 4]);
            let mut blocks = self.0.chunks_exact(4 * S::LANES);
            for block in &mut blocks {
                for (at, (low, high)) in low.iter_mut().zip(&mut high).enumerate() {
                    let x = S::load(block.as_ptr().add(at * S::LANES));
                    // What is no number is left out, as the second operand is taken then.
                    *low = S::min(x, *low);
                    *high = S::max(x, *high);
                }
            }
            for rest in blocks.remainder().chunks(S::LANES) {
                let x = S::load_first(rest.as_ptr(), rest.len());
                low[0] = S::min(x, low[0]);
                high[0] = S::max(x, high[0]);
            }
            let low = S::min(S::min(low[0], low[1]), S::min(low[2], low[3]));
            let high = S::max(S::max(high[0], high[1]), S::max(high[2], high[3]));
            (-S::largest(S::sub(zero, low)), S::largest(high))
        }
    }
}

/// Returns the range of numbers and of 0, on all threads.
/// `parts` has two numbers for each piece of the work: the least and the greatest that it finds.
pub(crate) fn range(isa: Isa, x: &[f32], parts: &mut [f32], runtime: &Runtime<'_>) -> (f32, f32) {
    let chunks = x.len().div_ceil(CHUNK);
    let pieces = runtime.pieces(chunks, CHUNK).min(parts.len() / 2);
    let found = Shared::new(parts);
    runtime.for_each(pieces, |number, _| {
        let part = piece(chunks, pieces, number);
        let part = part.start * CHUNK..(part.end * CHUNK).min(x.len());
        // SAFETY: each piece has two numbers of its own; the job has no further conditions.
        unsafe {
            let (low, high) = isa.run(Range(&x[part]));
            (*found.at(2 * number), *found.at(2 * number + 1)) = (low, high);
        }
    });
    let found = parts[..2 * pieces].as_chunks::<2>().0;
    found.iter().fold((0.0, 0.0), |(low, high): (f32, f32), part| (low.min(part[0]), high.max(part[1])))
}

/// The most pieces into which the search for a range is divided.
pub(crate) const RANGE_PARTS: usize = 256;

/// Returns the scale and the zero point of 256 steps over a range.
pub(crate) fn steps((low, high): (f32, f32)) -> (f32, f32) {
    let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
    (scale, rounded((-low / scale).clamp(0.0, 255.0)))
}

/// Quantises numbers to bytes, on all threads.
pub(crate) fn bytes(isa: Isa, x: &[f32], (scale, zero): (f32, f32), y: &mut [u8], runtime: &Runtime<'_>) {
    let chunks = x.len().div_ceil(CHUNK);
    let pieces = runtime.pieces(chunks, CHUNK * 4);
    let y = Shared::new(y);
    runtime.for_each(pieces, |number, _| {
        let part = piece(chunks, pieces, number);
        let part = part.start * CHUNK..(part.end * CHUNK).min(x.len());
        // SAFETY: each part is one task's; the job has no further conditions.
        unsafe {
            let y = y.slice(part.start, part.len());
            isa.run(Steps { x: &x[part], y, scale, zero });
        }
    });
}

/// The bytes of a line; a zero point that is no number is kept as such.
struct Steps<'a> {
    x: &'a [f32],
    y: &'a mut [u8],
    scale: f32,
    zero: f32,
}

impl Job for Steps<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Steps { x, y, scale, zero } = self;
        y.iter_mut().zip(x).for_each(|(y, x)| *y = code(x / scale, zero));
    }
}

impl Kernel for Dynamic {
    fn name(&self) -> &'static str {
        "quantised::DynamicQuantizeLinear"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let x = arguments.input::<f32>(0)?;
        let parts = arguments.workspace::<f32>()?;
        let (scale, zero) = steps(range(self.isa, x, parts, runtime));
        if arguments.wants(0) {
            let y = arguments.output::<u8>(0)?;
            check(self.count, x.len(), y.len())?;
            bytes(self.isa, x, (scale, zero), y, runtime);
        }
        if arguments.wants(1) {
            arguments.output::<f32>(1)?.fill(scale);
        }
        if arguments.wants(2) {
            arguments.output::<u8>(2)?.fill(zero as u8);
        }
        Ok(())
    }

    fn workspace(&self, _: usize) -> usize {
        2 * RANGE_PARTS * size_of::<f32>()
    }
}
