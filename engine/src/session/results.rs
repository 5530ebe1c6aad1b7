//! Results as tensors, which devices write in place where they can.

use std::sync::atomic::Ordering;
use std::time::Instant;

use hetero_hal::{Device, HostMemory, MemoryKind, Tensor, element_count};

use super::context::Context;
use super::{OutputBuffer, OutputSource, Outputs, Session};
use crate::Result;

/// The bytes from which a result is written in place: shorter ones are copied sooner than their
/// pages are bound.
const LEAST: usize = 32 << 10;

impl Session {
    /// Runs once, with inputs in the order of [`Session::inputs`].
    ///
    /// Where the device's memory is the host's, it writes large results in place: into pages that
    /// the returned tensors hold, and that serve later runs once these are dropped.
    ///
    /// # Errors
    /// The errors of [`Session::run`].
    /// `Input` too where the number of inputs is not the model's.
    pub fn run_ordered(&self, inputs: &[Tensor]) -> Result<Outputs> {
        self.check(inputs, self.outputs.len())?;
        let mut context = self.take_context(Some(Instant::now() + self.deadline))?;
        let pages = self.place_results(&mut context)?;
        self.launch(inputs, &mut context, None, true)?;
        self.settle(&mut context)?;
        self.results(inputs, pages, context)
    }

    /// Returns the results of a run that is over, as tensors.
    pub(super) fn results(
        &self,
        inputs: &[Tensor],
        pages: Vec<Option<HostMemory>>,
        mut context: Context,
    ) -> Result<Outputs> {
        let mut buffers = vec![OutputBuffer::default(); self.outputs.len()];
        self.collect(inputs, &mut buffers, &pages, &context)?;
        context.replace()?;
        self.give_context(context);
        self.named_outputs(inputs, buffers, pages)
    }

    /// Makes the run that follows write large outputs into pages that the results will have, where
    /// the device's memory is the host's; returns these pages.
    pub(super) fn place_results(&self, context: &mut Context) -> Result<Vec<Option<HostMemory>>> {
        let mut pages = Vec::with_capacity(self.outputs.len());
        for ((port, source), told) in self.outputs.iter().zip(&self.sources).zip(&self.delivered) {
            let OutputSource::Slot(slot) = *source else {
                pages.push(None);
                continue;
            };
            let bytes = element_count(&port.shape).and_then(|count| port.dtype.bytes_for(count));
            let bytes = bytes.filter(|&bytes| bytes >= LEAST && self.late_of(slot).is_ok_and(|late| late.is_none()));
            let is_host = context.buffers[slot].as_ref().is_some_and(|own| own.kind() == MemoryKind::Host);
            // Where there is no memory for it, it is copied out as others are.
            let memory = bytes.filter(|_| is_host).and_then(|bytes| self.results.take(bytes).ok());
            let memory = match memory {
                Some(memory) => {
                    let device: &dyn Device = &*self.devices[self.frozen.layout.slots[slot].device];
                    context.place(slot, device, &memory)?.then_some(memory)
                }
                None => None,
            };
            told.store(memory.is_some(), Ordering::Relaxed);
            pages.push(memory);
        }
        Ok(pages)
    }

    /// Returns the results of a run as tensors: those in `pages`, and others in `buffers`.
    fn named_outputs(
        &self,
        inputs: &[Tensor],
        buffers: Vec<OutputBuffer>,
        pages: Vec<Option<HostMemory>>,
    ) -> Result<Outputs> {
        let outputs = self.outputs.iter().zip(&self.sources).zip(buffers.into_iter().zip(pages));
        let tensors = outputs.map(|((port, source), (buffer, memory))| {
            let tensor = match source {
                OutputSource::Constant(tensor) => tensor.clone(),
                OutputSource::Input(position) => inputs[*position].clone(),
                OutputSource::Slot(_) => match (buffer.object, memory) {
                    (Some(object), _) => object,
                    (None, Some(memory)) => {
                        let bytes = element_count(&buffer.shape).and_then(|count| port.dtype.bytes_for(count));
                        let bytes = self.results.freeze(memory, bytes.unwrap_or(0))?;
                        Tensor::from_bytes(port.dtype, &buffer.shape, bytes)?
                    }
                    (None, None) => Tensor::from_bytes(port.dtype, &buffer.shape, buffer.bytes.into())?,
                },
            };
            Ok((port.name.clone(), tensor))
        });
        Ok(Outputs(tensors.collect::<Result<Vec<_>>>()?))
    }
}
