//! Einsum as the steps that it is made of: copies that put axes in order, products of matrices, and
//! plain sums of products for what is none.
//!
//! On f32, operands are joined two by two from the left.
//! An axis that both have and the result has is one of the batch, an axis that both have and the
//! result has not is the depth, and the others are rows and columns.
//! An operand is copied only where its axes of one kind do not lie one behind the other.

use std::collections::BTreeMap;

use hetero_hal::{DType, Result};
use hetero_reference::NamedAxes;

use super::batched::{Batched, Sizes};
use super::numbers::Number;
use super::tile::piece;
use super::{Kernel, PLACES, Runtime, Site, keeps_table, matmul, movement};
use crate::operand::{Arguments, Operand, Shared};
use crate::simd::{Isa, Job, Simd};

/// Where a step finds an operand, or leaves its result.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slot {
    Input(usize),
    /// A part of the workspace.
    Room(usize),
    Output,
}

/// An operand: its stride along each axis that it has, without axes of size 1.
#[derive(Clone, Debug)]
struct Term {
    slot: Slot,
    strides: BTreeMap<usize, usize>,
}

struct Stage {
    kernel: Box<dyn Kernel>,
    inputs: Vec<Slot>,
    output: Slot,
}

/// The steps of an equation while they are found.
struct Steps<'a> {
    isa: Isa,
    sizes: &'a [usize],
    stages: Vec<Stage>,
    /// The elements of each room.
    rooms: Vec<usize>,
}

/// The number of multiply-adds from which on all threads pack together for one product.
const LARGE: usize = 1 << 22;

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let shapes = (0..site.node.inputs.len()).map(|index| site.shape(index)).collect::<Option<Vec<_>>>();
    let (Some(shapes), Some(output)) = (shapes, site.output(0)) else { return Ok(None) };
    if !site.all(output.dtype) || output.elements() == 0 || shapes.iter().any(|shape| shape.contains(&0)) {
        return Ok(None);
    }
    let axes = NamedAxes::of(site.operator(), &shapes)?;
    let mut terms: Vec<Term> = Vec::with_capacity(shapes.len());
    for (index, (names, shape)) in axes.inputs.iter().zip(&shapes).enumerate() {
        let (mut strides, mut step) = (BTreeMap::new(), 1);
        // An axis that occurs twice is the diagonal, and a size of 1 is repeated.
        for (&name, &size) in names.iter().zip(*shape).rev() {
            if size != 1 {
                *strides.entry(name).or_default() += step;
            }
            step *= size;
        }
        terms.push(Term { slot: Slot::Input(index), strides });
    }
    let wanted: Vec<usize> = axes.output.iter().copied().filter(|&axis| axes.sizes[axis] != 1).collect();
    let mut steps = Steps { isa: site.isa, sizes: &axes.sizes, stages: Vec::new(), rooms: Vec::new() };
    let made = match output.dtype {
        DType::F32 => steps.join_all(terms, &wanted),
        DType::F64 => steps.sums::<f64>(&terms, &wanted, Slot::Output),
        DType::I32 => steps.sums::<i32>(&terms, &wanted, Slot::Output),
        DType::I64 => steps.sums::<i64>(&terms, &wanted, Slot::Output),
        DType::I8 => steps.sums::<i8>(&terms, &wanted, Slot::Output),
        DType::U8 => steps.sums::<u8>(&terms, &wanted, Slot::Output),
        _ => None,
    };
    if made.is_none() {
        return Ok(None);
    }
    let Steps { stages, rooms, .. } = steps;
    let (mut places, mut room) = (Vec::with_capacity(rooms.len()), 0usize);
    for elements in rooms {
        places.push((room, elements));
        // Rooms begin at lines of the cache.
        room = room.saturating_add(elements.next_multiple_of(16));
    }
    Ok(Some(Box::new(Einsum { stages, places, room })))
}

impl Steps<'_> {
    fn size(&self, axes: &[usize]) -> Vec<usize> {
        axes.iter().map(|&axis| self.sizes[axis]).collect()
    }

    fn count(&self, axes: &[usize]) -> Option<usize> {
        hetero_hal::element_count(&self.size(axes))
    }

    /// Returns a contiguous operand of these axes.
    fn dense(&self, slot: Slot, axes: &[usize]) -> Term {
        let (mut strides, mut step) = (BTreeMap::new(), 1);
        for &axis in axes.iter().rev() {
            strides.insert(axis, step);
            step *= self.sizes[axis];
        }
        Term { slot, strides }
    }

    /// Returns a new contiguous operand of these axes in the workspace.
    fn room(&mut self, axes: &[usize]) -> Option<Term> {
        let slot = Slot::Room(self.rooms.len());
        self.rooms.push(self.count(axes).filter(|&count| count <= isize::MAX as usize / 64)?);
        Some(self.dense(slot, axes))
    }

    /// Joins all operands, from the left.
    fn join_all(&mut self, terms: Vec<Term>, wanted: &[usize]) -> Option<()> {
        // How many of the operands that are still to be joined have each axis.
        let mut readers = vec![0usize; self.sizes.len()];
        terms.iter().flat_map(|term| term.strides.keys()).for_each(|&axis| readers[axis] += 1);
        let mut rest = terms.into_iter();
        let mut left = rest.next()?;
        left.strides.keys().for_each(|&axis| readers[axis] -= 1);
        if rest.len() == 0 {
            return self.single(left, wanted);
        }
        while let Some(right) = rest.next() {
            right.strides.keys().for_each(|&axis| readers[axis] -= 1);
            if rest.len() == 0 {
                return self.join(left, right, wanted, Slot::Output);
            }
            let needed = |axis: &usize| wanted.contains(axis) || readers[*axis] > 0;
            let (a, b) = (&left.strides, &right.strides);
            let shared = a.keys().filter(|axis| b.contains_key(axis));
            let own = a.keys().filter(|axis| !b.contains_key(axis));
            let other = b.keys().filter(|axis| !a.contains_key(axis));
            let axes: Vec<usize> = shared.chain(own).chain(other).copied().filter(|axis| needed(axis)).collect();
            let joined = self.room(&axes)?;
            self.join(left, right, &axes, joined.slot)?;
            left = joined;
        }
        None
    }

    /// Makes the result of one operand: its axes in another order, and sums over those that are not
    /// wanted.
    fn single(&mut self, term: Term, wanted: &[usize]) -> Option<()> {
        if wanted.len() < term.strides.len() || wanted.iter().any(|axis| !term.strides.contains_key(axis)) {
            return self.sums::<f32>(&[term], wanted, Slot::Output);
        }
        self.arrange(&term, wanted, Slot::Output)
    }

    /// Copies an operand, with its axes in this order.
    fn arrange(&mut self, term: &Term, axes: &[usize], output: Slot) -> Option<()> {
        let strides = axes.iter().map(|axis| term.strides.get(axis).copied().unwrap_or(0) as isize).collect();
        let kernel = movement::strided(size_of::<f32>(), &self.size(axes), strides)?;
        self.stages.push(Stage { kernel, inputs: vec![term.slot], output });
        Some(())
    }

    /// Returns the operand with sums over the axes that nobody else has.
    fn reduce(&mut self, term: Term, kept: impl Fn(&usize) -> bool) -> Option<Term> {
        if term.strides.keys().all(&kept) {
            return Some(term);
        }
        let mut axes: Vec<usize> = term.strides.keys().copied().filter(kept).collect();
        axes.sort_by_key(|axis| std::cmp::Reverse(term.strides[axis]));
        let reduced = self.room(&axes)?;
        self.sums::<f32>(&[term], &axes, reduced.slot)?;
        Some(reduced)
    }

    /// Joins two operands.
    fn join(&mut self, a: Term, b: Term, wanted: &[usize], output: Slot) -> Option<()> {
        let (in_a, in_b) = (a.strides.clone(), b.strides.clone());
        let mut a = self.reduce(a, |axis| wanted.contains(axis) || in_b.contains_key(axis))?;
        let mut b = self.reduce(b, |axis| wanted.contains(axis) || in_a.contains_key(axis))?;
        let both = |axis: &usize| a.strides.contains_key(axis) && b.strides.contains_key(axis);
        // A product writes the columns side by side.
        if wanted.last().is_some_and(|axis| a.strides.contains_key(axis) && !both(axis)) {
            std::mem::swap(&mut a, &mut b);
        }
        let both = |axis: &usize| a.strides.contains_key(axis) && b.strides.contains_key(axis);
        let of = |axes: &[usize], fits: &dyn Fn(&usize) -> bool| -> Vec<usize> {
            axes.iter().copied().filter(fits).collect()
        };
        let batch = of(wanted, &|axis| both(axis));
        let rows = of(wanted, &|axis| a.strides.contains_key(axis) && !both(axis));
        let columns = of(wanted, &|axis| b.strides.contains_key(axis) && !both(axis));
        let mut depth: Vec<usize> =
            a.strides.keys().copied().filter(|axis| both(axis) && !wanted.contains(axis)).collect();
        if depth.is_empty() || rows.is_empty() || columns.is_empty() {
            return self.sums::<f32>(&[a, b], wanted, output);
        }
        let order = |term: &Term, axes: &mut Vec<usize>| axes.sort_by_key(|axis| std::cmp::Reverse(term.strides[axis]));
        order(&a, &mut depth);
        if self.merged(&b, &depth).is_none() {
            order(&b, &mut depth);
        }
        let depth = depth;
        let lined = |steps: &mut Self, term: Term, first: &[usize], second: &[usize]| {
            if steps.merged(&term, first).is_some() && steps.merged(&term, second).is_some() {
                return Some(term);
            }
            let axes = [&batch[..], first, second].concat();
            let room = steps.room(&axes)?;
            steps.arrange(&term, &axes, room.slot)?;
            Some(room)
        };
        let a = lined(self, a, &rows, &depth)?;
        let b = lined(self, b, &depth, &columns)?;
        let result = self.dense(output, wanted);
        let direct = self.merged(&result, &columns) == Some(1) && self.merged(&result, &rows).is_some();
        let axes = [&batch[..], &rows, &columns].concat();
        let result = if direct { result } else { self.room(&axes)? };
        let (m, n, k) = (self.count(&rows)?, self.count(&columns)?, self.count(&depth)?);
        let stride = |term: &Term, axes: &[usize]| self.merged(term, axes);
        let (a_by, b_by) = ((stride(&a, &rows)?, stride(&a, &depth)?), (stride(&b, &depth)?, stride(&b, &columns)?));
        let row = stride(&result, &rows)?;
        let shape = matmul::Shape { m, n, k, a: a_by, b: b_by };
        let fills = |rows: usize, columns: usize, by: (usize, usize)| {
            (rows - 1) * by.0 + (columns - 1) * by.1 < rows.saturating_mul(columns)
        };
        let alone = batch.is_empty() && row == n && fills(m, k, a_by) && fills(k, n, b_by);
        let kernel = if alone && m.saturating_mul(n).saturating_mul(k) >= LARGE {
            matmul::single(self.isa, shape)
        } else {
            let sizes = self.size(&batch);
            if !keeps_table(&sizes, PLACES) {
                return None;
            }
            let count: usize = sizes.iter().product();
            let place = |term: &Term, mut number: usize| {
                let mut at = 0;
                for (axis, size) in batch.iter().zip(&sizes).rev() {
                    at += number % size * term.strides[axis];
                    number /= size;
                }
                at
            };
            let places = (0..count).map(|number| [&a, &b, &result].map(|term| place(term, number))).collect();
            Box::new(Batched::new(self.isa, Sizes { m, n, k, a: a_by, b: b_by, row }, places))
        };
        self.stages.push(Stage { kernel, inputs: vec![a.slot, b.slot], output: result.slot });
        if direct { Some(()) } else { self.arrange(&result, wanted, output) }
    }

    /// Returns the stride of axes that lie one behind the other in this order, as if they were one.
    fn merged(&self, term: &Term, axes: &[usize]) -> Option<usize> {
        let (last, before) = axes.split_last()?;
        let stride = *term.strides.get(last)?;
        let mut next = stride * self.sizes[*last];
        for axis in before.iter().rev() {
            if term.strides.get(axis) != Some(&next) {
                return None;
            }
            next *= self.sizes[*axis];
        }
        Some(stride)
    }

    /// Adds the plain sums of products of all operands.
    fn sums<T: Number>(&mut self, terms: &[Term], wanted: &[usize], output: Slot) -> Option<()> {
        let mut summed: Vec<usize> = Vec::new();
        for axis in terms.iter().flat_map(|term| term.strides.keys()) {
            if !wanted.contains(axis) && !summed.contains(axis) {
                summed.push(*axis);
            }
        }
        // What lies close together is summed innermost.
        let far = |axis: &usize| terms.iter().filter_map(|term| term.strides.get(axis)).max().copied();
        summed.sort_by_key(|axis| std::cmp::Reverse(far(axis)));
        if terms.len() > OPERANDS {
            return None;
        }
        let along = |axis: &usize| {
            let mut strides = [0; OPERANDS];
            strides.iter_mut().zip(terms).for_each(|(into, term)| *into = term.strides.get(axis).copied().unwrap_or(0));
            Axis { size: self.sizes[*axis], strides }
        };
        let loops = Loops::<T> {
            isa: self.isa,
            operands: terms.len(),
            outer: merge(wanted.iter().map(along)),
            inner: merge(summed.iter().map(along)),
            element: std::marker::PhantomData,
        };
        if loops.outer.len() > AXES || loops.inner.len() > AXES {
            return None;
        }
        let inputs = terms.iter().map(|term| term.slot).collect();
        self.stages.push(Stage { kernel: Box::new(loops), inputs, output });
        Some(())
    }
}

/// The steps of an equation.
struct Einsum {
    stages: Vec<Stage>,
    /// The first element and the number of elements of each room.
    places: Vec<(usize, usize)>,
    /// The elements of all rooms; behind them is the workspace of the steps.
    room: usize,
}

impl Kernel for Einsum {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Operand { address, bytes } = arguments.workspace;
        let room = self.room * size_of::<f32>();
        let output = arguments.outputs.first().copied().flatten();
        let find = |slot: Slot| match slot {
            Slot::Input(index) => arguments.inputs.get(index).copied().flatten(),
            Slot::Room(index) => self.places.get(index).map(|&(at, elements)| Operand {
                address: address.wrapping_add(at * size_of::<f32>()),
                bytes: elements * size_of::<f32>(),
            }),
            Slot::Output => output,
        };
        let workspace = Operand { address: address.wrapping_add(room), bytes: bytes.saturating_sub(room) };
        for stage in &self.stages {
            let mut inputs = [None; OPERANDS];
            inputs.iter_mut().zip(&stage.inputs).for_each(|(into, &slot)| *into = find(slot));
            let outputs = [find(stage.output)];
            stage.kernel.run(&mut Arguments { inputs: &inputs, outputs: &outputs, workspace }, runtime)?;
            runtime.check()?;
        }
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        let most = self.stages.iter().map(|stage| stage.kernel.workspace(threads)).max().unwrap_or(0);
        self.room.saturating_mul(size_of::<f32>()).saturating_add(most)
    }
}

/// The most operands of a plain sum of products.
const OPERANDS: usize = 4;

/// The most axes that a plain sum goes over, in the result and in each sum.
const AXES: usize = 8;

/// The results that a task makes side by side.
const ROW: usize = 1024;

/// An axis of loops, with each operand's stride.
#[derive(Clone, Copy, Debug)]
struct Axis {
    size: usize,
    strides: [usize; OPERANDS],
}

/// Joins axes that lie one behind the other in all operands.
fn merge(axes: impl Iterator<Item = Axis>) -> Vec<Axis> {
    let mut merged: Vec<Axis> = Vec::new();
    for axis in axes {
        let follows = |last: &Axis| last.strides.iter().zip(axis.strides).all(|(far, near)| *far == near * axis.size);
        match merged.last_mut().filter(|last| follows(last)) {
            Some(last) => *last = Axis { size: last.size * axis.size, ..axis },
            None => merged.push(axis),
        }
    }
    merged
}

/// Sums of products of elements, by loops over the result and over each sum.
struct Loops<T> {
    isa: Isa,
    operands: usize,
    outer: Vec<Axis>,
    inner: Vec<Axis>,
    element: std::marker::PhantomData<fn(T)>,
}

/// Calls a function with the operands' positions for each place of some axes.
#[inline(always)]
fn walk(axes: &[Axis], mut at: [usize; OPERANDS], mut body: impl FnMut([usize; OPERANDS])) {
    let mut index = [0usize; AXES];
    loop {
        body(at);
        let mut axis = axes.len();
        loop {
            let Some(next) = axis.checked_sub(1) else { return };
            axis = next;
            index[axis] += 1;
            if index[axis] < axes[axis].size {
                at.iter_mut().zip(axes[axis].strides).for_each(|(at, stride)| *at += stride);
                break;
            }
            index[axis] = 0;
            at.iter_mut().zip(axes[axis].strides).for_each(|(at, stride)| *at -= stride * (axes[axis].size - 1));
        }
    }
}

/// Some results of a [`Loops`] side by side.
struct Side<'a, T> {
    loops: &'a Loops<T>,
    inputs: &'a [&'a [T]],
    /// The operands' positions of the first result, and their strides.
    at: [usize; OPERANDS],
    steps: [usize; OPERANDS],
    into: &'a mut [T],
}

impl<T: Number> Job for Side<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Side { loops, inputs, at, steps, into } = self;
        let (beside, count) = (steps.iter().all(|&step| step <= 1), into.len());
        if beside && (count >= 8 || loops.inner.is_empty()) {
            into.fill(T::ZERO);
            let first = into;
            walk(&loops.inner, at, |at| add_products(inputs, at, steps, first));
            return;
        }
        let (last, before) = match loops.inner.split_last() {
            Some((last, before)) => (*last, before),
            None => (Axis { size: 1, strides: [0; OPERANDS] }, &[][..]),
        };
        for (number, into) in into.iter_mut().enumerate() {
            let at = std::array::from_fn(|operand| at[operand] + number * steps[operand]);
            let mut sum = T::ZERO;
            walk(before, at, |at| sum = sum.add(dot(inputs, at, last)));
            *into = sum;
        }
    }
}

/// Adds products of elements that lie side by side, or are the same, to sums.
#[inline(always)]
fn add_products<T: Number>(inputs: &[&[T]], at: [usize; OPERANDS], steps: [usize; OPERANDS], sums: &mut [T]) {
    let count = sums.len();
    let line = |operand: usize| &inputs[operand][at[operand]..at[operand] + count];
    let one = |operand: usize| inputs[operand][at[operand]];
    match (inputs.len(), steps[0], steps[1]) {
        (1, 1, _) => sums.iter_mut().zip(line(0)).for_each(|(sum, &x)| *sum = sum.add(x)),
        (1, ..) => sums.iter_mut().for_each(|sum| *sum = sum.add(one(0))),
        (2, 1, 1) => {
            sums.iter_mut().zip(line(0).iter().zip(line(1))).for_each(|(sum, (&x, &y))| *sum = sum.add(x.mul(y)));
        }
        (2, 1, _) => {
            let y = one(1);
            sums.iter_mut().zip(line(0)).for_each(|(sum, &x)| *sum = sum.add(x.mul(y)));
        }
        (2, _, 1) => {
            let x = one(0);
            sums.iter_mut().zip(line(1)).for_each(|(sum, &y)| *sum = sum.add(x.mul(y)));
        }
        _ => {
            for (number, sum) in sums.iter_mut().enumerate() {
                let factor = |operand: usize| inputs[operand][at[operand] + number * steps[operand]];
                *sum = sum.add((0..inputs.len()).fold(T::ONE, |product, operand| product.mul(factor(operand))));
            }
        }
    }
}

/// Returns the sum of products along an axis.
#[inline(always)]
fn dot<T: Number>(inputs: &[&[T]], at: [usize; OPERANDS], axis: Axis) -> T {
    const LANES: usize = 32;
    let line = |operand: usize| &inputs[operand][at[operand]..at[operand] + axis.size];
    let mut sums = [T::ZERO; LANES];
    match (inputs.len(), axis.strides[0], axis.strides[1]) {
        (1, 1, _) => {
            let chunks = line(0).chunks_exact(LANES);
            let rest = chunks.remainder().iter().fold(T::ZERO, |sum, &x| sum.add(x));
            chunks.for_each(|chunk| sums.iter_mut().zip(chunk).for_each(|(sum, &x)| *sum = sum.add(x)));
            sums.iter().fold(rest, |all, &sum| all.add(sum))
        }
        (2, 1, 1) => {
            let (x, y) = (line(0).chunks_exact(LANES), line(1).chunks_exact(LANES));
            let pairs = x.remainder().iter().zip(y.remainder());
            let rest = pairs.fold(T::ZERO, |sum, (&x, &y)| sum.add(x.mul(y)));
            for (x, y) in x.zip(y) {
                sums.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (&x, &y))| *sum = sum.add(x.mul(y)));
            }
            sums.iter().fold(rest, |all, &sum| all.add(sum))
        }
        _ => (0..axis.size).fold(T::ZERO, |sum, number| {
            let factor = |operand: usize| inputs[operand][at[operand] + number * axis.strides[operand]];
            sum.add((0..inputs.len()).fold(T::ONE, |product, operand| product.mul(factor(operand))))
        }),
    }
}

impl<T: Number> Kernel for Loops<T> {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let mut inputs: [&[T]; OPERANDS] = [&[]; OPERANDS];
        for (index, input) in inputs.iter_mut().enumerate().take(self.operands) {
            *input = arguments.input::<T>(index)?;
        }
        let inputs = &inputs[..self.operands];
        let output = Shared::new(arguments.output::<T>(0)?);
        let (last, before) = match self.outer.split_last() {
            Some((last, before)) => (*last, before),
            None => (Axis { size: 1, strides: [0; OPERANDS] }, &[][..]),
        };
        let rows: usize = before.iter().map(|axis| axis.size).product();
        let terms = self.inner.iter().fold(1usize, |count, axis| count.saturating_mul(axis.size));
        // Few rows are divided further, so that all threads have some.
        let wanted = (runtime.pool.threads() * 4).div_ceil(rows.max(1)).min(last.size.div_ceil(32));
        let shares = last.size.div_ceil(ROW).max(wanted);
        let pieces = runtime.pieces(rows * shares, terms.saturating_mul(last.size.div_ceil(shares)));
        runtime.for_each(pieces, |number, _| {
            for task in piece(rows * shares, pieces, number) {
                let (mut row, share) = (task / shares, piece(last.size, shares, task % shares));
                let start = row * last.size + share.start;
                let mut at: [usize; OPERANDS] = std::array::from_fn(|operand| share.start * last.strides[operand]);
                for axis in before.iter().rev() {
                    let index = row % axis.size;
                    at.iter_mut().zip(axis.strides).for_each(|(at, stride)| *at += index * stride);
                    row /= axis.size;
                }
                // SAFETY: each part of a row is one task's.
                let into = unsafe { output.slice(start, share.len()) };
                let side = Side { loops: self, inputs, at, steps: last.strides, into };
                // SAFETY: the job has no further conditions.
                unsafe { self.isa.run(side) };
            }
        });
        Ok(())
    }
}
