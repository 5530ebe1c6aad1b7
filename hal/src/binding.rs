//! Bindings: the buffers that a run of an executable reads and writes.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::ExtentId;
use crate::memory::Buffer;
use crate::program::Program;

/// The direction of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The run reads the buffer.
    Input,
    /// The run writes the buffer.
    Output,
}

/// The description of one buffer that a run binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingInfo {
    /// The name of the value.
    pub name: Arc<str>,
    /// The direction: whether the run reads or writes the buffer.
    pub direction: Direction,
    /// The element type of the value.
    pub dtype: DType,
    /// The sizes of the dimensions; a size that depends on data has its bound here.
    pub shape: Vec<usize>,
    /// The extent that holds the true size of each dimension; empty where all sizes are exact.
    pub extents: Vec<Option<ExtentId>>,
    /// The bytes that the buffer must have.
    /// Of an input whose sizes only a run tells, the buffer may have fewer: it holds the elements
    /// of the true sizes, which whoever submits the run has set.
    pub bytes: usize,
}

impl BindingInfo {
    /// Returns the bindings of a program: inputs, then outputs.
    #[must_use]
    pub fn of(program: &Program) -> Vec<BindingInfo> {
        let ports = |ids: &[crate::ValueId], direction| {
            ids.iter()
                .filter_map(|id| program.values().get(id.index()))
                .map(|value| BindingInfo {
                    name: value.name.clone(),
                    direction,
                    dtype: value.dtype,
                    shape: value.shape.clone(),
                    extents: value.extents.clone(),
                    bytes: value.bytes(),
                })
                .collect::<Vec<_>>()
        };
        let mut bindings = ports(program.inputs(), Direction::Input);
        bindings.extend(ports(program.outputs(), Direction::Output));
        bindings
    }

    /// Checks that there is one buffer for each binding, and that each is long enough; of inputs
    /// whose sizes only a run tells, the device checks that in the run.
    /// The device checks whose memory the buffers are, and whether outputs may be written.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the binding.
    pub fn check(bindings: &[BindingInfo], buffers: &[Buffer]) -> Result<()> {
        if bindings.len() != buffers.len() {
            return Err(Error::invalid_argument(format!(
                "{} buffers were bound to an executable that has {} bindings",
                buffers.len(),
                bindings.len()
            )));
        }
        for (info, buffer) in bindings.iter().zip(buffers) {
            let is_open = info.direction == Direction::Input && !info.extents.is_empty();
            if buffer.len() < info.bytes && !is_open {
                return Err(Error::invalid_argument(format!("the buffer bound to '{}' is too small", info.name))
                    .with_sizes(info.bytes as u64, Some(buffer.len() as u64)));
            }
        }
        Ok(())
    }
}

/// The buffers that a run of an executable binds, one for each [`BindingInfo`], in order.
///
/// Whoever submits a run keeps the table for the next one, and replaces only the buffers that
/// moved.
/// A table is not changed while a run with it is under way: it is unspecified which buffer such a
/// run uses.
///
/// ```
/// # use std::sync::Arc;
/// # use hetero_hal::{Buffer, BindingTable};
/// let table = BindingTable::new(vec![Buffer::nothing(), Buffer::nothing()]);
/// let former = table.set(1, Buffer::nothing())?;
/// assert!(former.is_empty() && table.set(2, former).is_err());
/// # Ok::<(), hetero_hal::Error>(())
/// ```
pub struct BindingTable(Mutex<Box<[Buffer]>>);

impl BindingTable {
    /// Makes a table of these buffers.
    #[must_use]
    pub fn new(buffers: impl Into<Box<[Buffer]>>) -> Arc<Self> {
        Arc::new(BindingTable(Mutex::new(buffers.into())))
    }

    /// Returns the buffers, which nobody replaces while the result lives.
    #[must_use]
    pub fn lock(&self) -> BoundBuffers<'_> {
        BoundBuffers(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the buffer at a position, and gives back the former one.
    /// Nothing is allocated.
    ///
    /// # Errors
    /// `InvalidArgument` for a position that the table does not have.
    pub fn set(&self, position: usize, buffer: Buffer) -> Result<Buffer> {
        let mut buffers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = buffers.len();
        match buffers.get_mut(position) {
            Some(slot) => Ok(std::mem::replace(slot, buffer)),
            None => {
                Err(Error::invalid_argument(format!("a table of {count} bindings has none at position {position}")))
            }
        }
    }
}

impl fmt::Debug for BindingTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&*self.lock()).finish()
    }
}

/// The buffers of a [`BindingTable`], held in place.
pub struct BoundBuffers<'a>(MutexGuard<'a, Box<[Buffer]>>);

impl Deref for BoundBuffers<'_> {
    type Target = [Buffer];

    fn deref(&self) -> &[Buffer] {
        &self.0
    }
}
