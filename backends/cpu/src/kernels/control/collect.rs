//! What a loop collects: one value of each iteration, stacked along a new axis.

use std::sync::Arc;

use hetero_hal::{Buffer, DType, Error, Result, Tensor};

use super::{Held, Operand, Outer, Runtime, along};
use crate::memory::{self, CpuMemory};
use crate::operand::Arguments;

/// The bytes with which a collection begins whose number of rows is not known.
const FIRST: usize = 1 << 16;

/// The way in which a collection is stacked.
#[derive(Clone, Copy, Default)]
pub(super) struct Stacking {
    /// The new axis, from the end where it is negative.
    pub(super) axis: i64,
    /// Whether the last iteration comes first.
    pub(super) reversed: bool,
    /// The rows, where they are known before the first iteration.
    pub(super) rows: Option<usize>,
    /// The most rows.
    pub(super) most: usize,
}

/// A collection in the making.
pub(super) struct Collection {
    /// The number of the node's output.
    output: usize,
    dtype: DType,
    stacking: Stacking,
    /// The memory of the output, where it is laid out before the run.
    laid_out: Option<Operand>,
    /// Memory of its own otherwise.
    own: Option<Buffer>,
    /// The shape of a row, once it is known.
    row: Option<Arc<[usize]>>,
    /// The bytes of a row before the axis counts them, and the number of such parts.
    part: usize,
    parts: usize,
    /// The rows that there is room for, and those that are there.
    room: usize,
    count: usize,
}

impl Collection {
    /// Begins a collection; `place` is the memory of the output, where that is known.
    pub(super) fn new(output: usize, dtype: DType, stacking: Stacking, place: Option<Operand>) -> Collection {
        let (own, row) = (None, None);
        Collection { output, dtype, stacking, laid_out: place, own, row, part: 0, parts: 0, room: 0, count: 0 }
    }

    /// Settles the shape of a row, and takes the memory of the first rows.
    fn begin(&mut self, shape: &Arc<[usize]>, runtime: &Runtime<'_>) -> Result<()> {
        if let Some(row) = &self.row {
            return if **row == **shape {
                Ok(())
            } else {
                Err(Error::invalid_model("what a loop collects changes its shape"))
            };
        }
        let axis = along(self.stacking.axis, shape.len() + 1)?;
        let overflows = || Error::internal("the size of a collection overflows");
        let count = |sizes: &[usize]| hetero_hal::element_count(sizes).ok_or_else(overflows);
        self.parts = count(&shape[..axis])?;
        self.part = self.dtype.bytes_for(count(&shape[axis..])?).ok_or_else(overflows)?;
        self.row = Some(shape.clone());
        let bytes = self.part.checked_mul(self.parts).ok_or_else(overflows)?;
        match (self.laid_out, self.stacking.rows) {
            (Some(place), rows) => {
                self.room = rows.unwrap_or_else(|| place.bytes.checked_div(bytes).unwrap_or(usize::MAX));
                if self.room.checked_mul(bytes).is_none_or(|all| all > place.bytes && bytes > 0) {
                    return Err(Error::internal(format!("output {} is smaller than what is collected", self.output)));
                }
                Ok(())
            }
            (None, Some(rows)) => self.grow(rows, runtime),
            (None, None) => {
                let first = (FIRST / bytes.max(1)).max(1);
                self.grow(first.min(self.stacking.most.max(1)), runtime)
            }
        }
    }

    /// Takes memory for this number of rows, and moves those that are there.
    fn grow(&mut self, rows: usize, runtime: &Runtime<'_>) -> Result<()> {
        let bytes = self.part.checked_mul(self.parts).and_then(|bytes| bytes.checked_mul(rows));
        let bytes = bytes.ok_or_else(|| Error::internal("the size of a collection overflows"))?;
        let buffer = CpuMemory::allocate(&runtime.shared.id, bytes, &runtime.shared.budget)?;
        if let Some(own) = &self.own {
            let there = memory::operand(own)?.part(0, self.count * self.part * self.parts);
            // SAFETY: both are memory of this collection, and nobody else has the new one.
            unsafe { memory::operand(&buffer)?.copy_from(there) };
        }
        (self.own, self.room) = (Some(buffer), rows);
        Ok(())
    }

    /// Returns the memory of the next row, where it is in one piece.
    /// What is written there is kept by [`Collection::keep`].
    pub(super) fn next(&mut self, shape: &Arc<[usize]>, runtime: &Runtime<'_>) -> Result<Option<Operand>> {
        self.begin(shape, runtime)?;
        if self.count == self.room {
            if self.laid_out.is_some() || self.stacking.rows.is_some() {
                return Err(Error::internal(format!("output {} has no room for another iteration", self.output)));
            }
            self.grow(self.room.saturating_mul(2).min(self.stacking.most.max(self.room + 1)), runtime)?;
        }
        if self.parts != 1 {
            return Ok(None);
        }
        Ok(Some(self.memory()?.part(self.position() * self.part, self.part)))
    }

    /// Keeps a value as the next row.
    pub(super) fn keep(&mut self, held: &Held, runtime: &Runtime<'_>) -> Result<()> {
        let shape: Arc<[usize]> = match held {
            Held::Bytes(_, shape) => shape.clone(),
            Held::Whole(tensor) => tensor.shape().into(),
        };
        let (next, source) = (self.next(&shape, runtime)?, held.operand());
        if let Held::Whole(tensor) = held
            && tensor.dtype() != self.dtype
        {
            return Err(Error::invalid_model(format!("a loop collects {} and {}", self.dtype, tensor.dtype())));
        }
        let (memory, position) = (self.memory()?, self.position());
        match next {
            // SAFETY: the value is not written while it is held, and the collection's memory is its
            // own.
            Some(next) => unsafe { next.copy_from(source) },
            None => {
                for number in 0..self.parts {
                    let at = (number * self.room + position) * self.part;
                    // SAFETY: as above.
                    unsafe { memory.part(at, self.part).copy_from(source.part(number * self.part, self.part)) };
                }
            }
        }
        self.count += 1;
        Ok(())
    }

    fn memory(&self) -> Result<Operand> {
        match (&self.own, self.laid_out) {
            (Some(own), _) => memory::operand(own),
            (None, Some(place)) => Ok(place),
            (None, None) => Err(Error::internal("a collection has no memory")),
        }
    }

    /// Returns the position of the next row.
    fn position(&self) -> usize {
        if self.stacking.reversed { self.room - 1 - self.count } else { self.count }
    }

    /// Makes the collection an output of its node.
    /// `declared` is the shape of a row, where there is none.
    pub(super) fn finish(
        self,
        declared: &[usize],
        outer: &Outer,
        (arguments, runtime): (&Arguments<'_>, &Runtime<'_>),
    ) -> Result<()> {
        let mut shape = self.row.as_deref().unwrap_or(declared).to_vec();
        shape.insert(along(self.stacking.axis, shape.len() + 1)?, self.count);
        let bytes = self.count * self.part * self.parts;
        let held = match (self.own, self.laid_out) {
            (Some(own), _) => Held::Whole(Tensor::from_bytes(self.dtype, &shape, memory::frozen(own).slice(..bytes))?),
            (None, Some(place)) => Held::Bytes(place.part(0, bytes), shape.into()),
            (None, None) => Held::Whole(Tensor::from_bytes(self.dtype, &shape, bytes::Bytes::new())?),
        };
        outer.give(self.output, &held, arguments, runtime)
    }
}
