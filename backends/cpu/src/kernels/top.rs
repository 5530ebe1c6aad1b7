//! TopK: the largest or smallest elements of lines, in order, for numbers of any type.
//!
//! Elements become unsigned keys of the same order, so that one comparison serves every type, NaN
//! and both directions.
//! A line is gone over once, a block at a time, with the least key that still counts: a block
//! without a larger key is passed over.
//! Long lines are divided into parts, whose best are merged.

use hetero_hal::{DType, Result};

use super::lines::Lines;
use super::numbers::{Number, of_number};
use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

/// The elements whose keys are made, and looked at, together.
const BLOCK: usize = 64;

/// The least elements of a part of a line.
const PART: usize = 1 << 15;

/// The most parts of all lines together.
/// It does not depend on the number of threads.
const PARTS: usize = 32;

/// A number with a key: an unsigned number of the same order.
/// NaN is the largest, and both zeros are the same.
pub(super) trait Key: Number {
    fn key(self) -> u64;
}

macro_rules! keys {
    ($($type:ty: $bits:ty),*) => {
        $(
            impl Key for $type {
                #[inline(always)]
                fn key(self) -> u64 {
                    // The sum turns -0 into 0.
                    let bits = (self + 0.0).to_bits();
                    let sign = 1 << (<$bits>::BITS - 1);
                    let key = if bits & sign == 0 { bits | sign } else { !bits };
                    u64::from(if self.is_nan() { <$bits>::MAX } else { key })
                }
            }
        )*
    };
}
keys!(f32: u32, f64: u64);

macro_rules! whole_keys {
    ($($type:ty),*) => {
        $(
            impl Key for $type {
                #[inline(always)]
                fn key(self) -> u64 {
                    (self as i64 as u64) ^ (1 << 63)
                }
            }
        )*
    };
}
whole_keys!(i8, i16, i32, i64, u8, u16, u32);

impl Key for u64 {
    #[inline(always)]
    fn key(self) -> u64 {
        self
    }
}

/// An element's key, and its position with all bits turned, so that the first of equals is the
/// largest.
type Entry = [u64; 2];

struct Top<T> {
    isa: Isa,
    lines: Lines,
    k: usize,
    largest: bool,
    element: std::marker::PhantomData<fn(T)>,
}

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let (Some(input), Some(output)) = (site.input(0), site.output(0).or(site.output(1))) else { return Ok(None) };
    let axis = operator.int("axis")?.unwrap_or(-1);
    let Some(lines) = Lines::of(&input.shape, axis) else { return Ok(None) };
    let axis = if axis < 0 { axis + input.shape.len() as i64 } else { axis } as usize;
    let (largest, isa) = (operator.int("largest")?.unwrap_or(1) != 0, site.isa);
    let k = output.shape[axis];
    let positions = site.output(1).is_none_or(|positions| positions.dtype == DType::I64);
    // A length that is bound late must be what the output was made for.
    let constant = operator.int("k")?.is_some() || site.constant(1).is_some();
    if k > lines.length || !positions || !constant {
        return Ok(None);
    }
    fn make<T: Key>(isa: Isa, lines: Lines, k: usize, largest: bool) -> Option<Box<dyn Kernel>> {
        Some(Box::new(Top::<T> { isa, lines, k, largest, element: std::marker::PhantomData }))
    }
    Ok(of_number!(input.dtype, make(isa, lines, k, largest)))
}

impl<T: Key> Top<T> {
    /// Returns into how many parts each line is divided.
    fn parts(&self) -> usize {
        let lines = self.lines.outer * self.lines.inner;
        (self.lines.length / PART.max(8 * self.k)).min(PARTS / lines.clamp(1, PARTS)).max(1)
    }

    /// Returns the entries that a task has room for: after each of so many it forgets those that
    /// are not among the best.
    fn room(&self) -> usize {
        (3 * self.k + 4 * BLOCK).min(self.lines.length.div_ceil(self.parts()) + BLOCK)
    }

    fn entries(&self, threads: usize) -> [usize; 2] {
        let parts = self.parts();
        let lines = self.lines.outer * self.lines.inner;
        [threads * self.room().max(self.k * parts), if parts > 1 { lines * parts * self.k } else { 0 }]
    }

    /// Finds the best of a part of a line; `into` is room for entries.
    /// Returns the best entries, the best first.
    fn best<'a>(&self, input: &[T], start: usize, part: std::ops::Range<usize>, into: &'a mut [Entry]) -> &'a [Entry] {
        let mut count = 0;
        let k = self.k.min(part.len());
        if k == 0 {
            return &[];
        }
        let (mut least, mut keys) = (0u64, [0u64; BLOCK]);
        for first in part.clone().step_by(BLOCK) {
            let block = (part.end - first).min(BLOCK);
            let source = &input[start + first * self.lines.inner..];
            let job = Keys { source, step: self.lines.inner, largest: self.largest, into: &mut keys[..block] };
            // SAFETY: the job has no further conditions.
            let most = unsafe { self.isa.run(job) };
            // A key that is no larger than the least of `k` others comes behind them.
            if count >= k && most <= least {
                continue;
            }
            for (number, &key) in keys[..block].iter().enumerate() {
                if count < k || key > least {
                    into[count] = [key, !((first + number) as u64)];
                    count += 1;
                }
            }
            if count == k || count + BLOCK > into.len() || (least == 0 && count > k) {
                let found = &mut into[..count];
                if count > k {
                    found.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
                }
                count = count.min(k);
                if count == k {
                    least = into[..k].iter().map(|entry| entry[0]).min().unwrap_or(0);
                }
            }
        }
        sorted(&mut into[..count], k)
    }

    fn write(&self, input: &[T], line: usize, best: &[Entry], values: Option<Shared<T>>, places: Option<Shared<i64>>) {
        let Lines { length, inner, .. } = self.lines;
        let (outer, column) = (line / inner, line % inner);
        for (rank, entry) in best.iter().enumerate() {
            let index = !entry[1];
            let at = (outer * self.k + rank) * inner + column;
            // SAFETY: each line's results are one task's.
            unsafe {
                if let Some(values) = values {
                    *values.at(at) = input[(outer * length + index as usize) * inner + column];
                }
                if let Some(places) = places {
                    *places.at(at) = index as i64;
                }
            }
        }
    }
}

/// Sorts the first `k` of some entries, the best first, and returns them.
fn sorted(entries: &mut [Entry], k: usize) -> &[Entry] {
    if entries.len() > k && k > 0 {
        entries.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
    }
    let best = &mut entries[..k];
    best.sort_unstable_by(|a, b| b.cmp(a));
    best
}

/// The keys of some elements of a line; the job returns the largest one.
struct Keys<'a, T> {
    source: &'a [T],
    step: usize,
    largest: bool,
    into: &'a mut [u64],
}

impl<T: Key> Job for Keys<'_, T> {
    type Output = u64;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> u64 {
        let Keys { source, step, largest, into } = self;
        let turn = if largest { 0 } else { u64::MAX };
        if step == 1 {
            into.iter_mut().zip(source).for_each(|(into, x)| *into = x.key() ^ turn);
        } else {
            into.iter_mut().zip(source.iter().step_by(step)).for_each(|(into, x)| *into = x.key() ^ turn);
        }
        into.iter().fold(0, |most, &key| most.max(key))
    }
}

impl<T: Key> Kernel for Top<T> {
    fn name(&self) -> &'static str {
        "top::Top"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Lines { outer, length, inner } = self.lines;
        let input = arguments.input::<T>(0)?;
        let values = if arguments.wants(0) { Some(Shared::new(arguments.output::<T>(0)?)) } else { None };
        let places = if arguments.wants(1) { Some(Shared::new(arguments.output::<i64>(1)?)) } else { None };
        let (lines, parts) = (outer * inner, self.parts());
        let [own, _] = self.entries(runtime.pool.threads());
        let (rooms, results) = arguments.workspace::<u64>()?.split_at_mut(own * 2);
        let (rooms, results) = (Shared::new(rooms).cast::<Entry>(), Shared::new(results).cast::<Entry>());
        let room = self.room().max(self.k * parts);
        let start = |line: usize| line / inner * length * inner + line % inner;
        let pieces = runtime.pieces(lines * parts, length / parts);
        runtime.for_each(pieces, |number, thread| {
            for task in piece(lines * parts, pieces, number) {
                let (line, part) = (task / parts, piece(length, parts, task % parts));
                // SAFETY: each thread has a room of its own, and each task results of its own.
                let entries = unsafe { rooms.slice(thread * room, room) };
                let best = self.best(input, start(line), part, entries);
                if parts == 1 {
                    self.write(input, line, best, values, places);
                } else {
                    // SAFETY: as above; a part has at least `k` elements.
                    unsafe { results.slice(task * self.k, self.k) }.copy_from_slice(best);
                }
            }
        });
        if parts > 1 {
            for line in 0..lines {
                // SAFETY: no task is at work.
                let all = unsafe { results.slice(line * parts * self.k, parts * self.k) };
                self.write(input, line, sorted(all, self.k), values, places);
            }
        }
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        let entries = self.entries(threads).iter().fold(0usize, |sum, part| sum.saturating_add(*part));
        entries.saturating_mul(size_of::<Entry>())
    }
}
