//! Runs: the frozen list of submissions, replayed.
//!
//! A run submits all steps in the plan's order, each with the points that it waits for, and then
//! waits for the end of every device's list.
//! Where a step fails, every step behind it fails with the same error, and the rest is waited for.
//! So nothing of the run is under way after an error, unless the error is that the deadline passed.

use std::sync::Arc;
use std::time::Instant;

use hetero_comm::host_buffer;
use hetero_hal::{
    Error as HalError, ErrorKind, Execution, Extents, HostMemory, LateId, Tensor, Timeline, TraceSink, Work,
};
use hetero_kit::copy_through_host;

use super::context::Context;
use super::partition::named;
use super::steps::{Step, Task};
use super::tiles::{Group, Settings};
use super::{HostOutput, OutputBuffer, OutputSource, Outputs, Session};
use crate::{Error, Result};

impl Session {
    /// Brings the inputs in and submits all steps.
    /// With `here`, the calling thread may do the last step, as it waits for it anyway.
    pub(super) fn launch(
        &self,
        inputs: &[Tensor],
        context: &mut Context,
        trace: Option<&Arc<dyn TraceSink>>,
        here: bool,
    ) -> Result<()> {
        for (slot, position) in self.input_slots() {
            let device = &*self.devices[self.frozen.layout.slots[slot].device];
            context.inputs[slot].bring_in(device, &inputs[position], &self.arrivals[slot])?;
        }
        context.extents = self.program.is_open().then(|| Arc::new(Extents::of(&self.program)));
        if let Some(extents) = &context.extents {
            self.set_sizes(inputs, extents)?;
        }
        context.deadline = Instant::now() + self.deadline;
        context.submitted.iter_mut().for_each(|count| *count = 0);
        let steps = &self.frozen.layout.steps;
        for (number, step) in steps.iter().enumerate() {
            let last = here && number + 1 == steps.len();
            if let Err(error) = self.submit(number, step, context, trace, last) {
                let error = match self.devices.get(step.device) {
                    Some(device) => named(error, &**device),
                    None => error,
                };
                return Err(self.stop(context, error).into());
            }
            context.submitted[step.device] = step.position;
        }
        Ok(())
    }

    /// Sets the sizes of open dimensions to those of the inputs.
    fn set_sizes(&self, inputs: &[Tensor], extents: &Extents) -> Result<()> {
        for (((port, open), late), tensor) in self.inputs.iter().zip(&self.open).zip(&self.late).zip(inputs) {
            if let Some(late) = *late {
                extents.put(late, tensor.clone())?;
            }
            for (&extent, &size) in open.iter().zip(tensor.shape()) {
                let Some(extent) = extent else { continue };
                let known = extents.get(extent)?;
                if known != 0 && known != size {
                    let reason = format!("a size of {:?} is {known} in another input", tensor.shape());
                    return Err(Error::Input { name: port.name.to_string(), reason });
                }
                extents.set(extent, size)?;
            }
        }
        Ok(())
    }

    fn submit(
        &self,
        number: usize,
        step: &Step,
        context: &mut Context,
        trace: Option<&Arc<dyn TraceSink>>,
        here: bool,
    ) -> Result<(), HalError> {
        let device = step.device;
        for (point, &(other, at)) in context.waits[number].iter_mut().zip(&step.wait) {
            point.value = context.base[other] + at;
        }
        if let Task::Tiles { group, .. } = &step.task {
            let settings = Settings { trace: trace.cloned(), deadline: Some(context.deadline) };
            if let Some(tiles) = context.groups.get(*group) {
                tiles.start(&context.waits[number], context.base[device] + step.position, &settings);
            }
            return Ok(());
        }
        let signal = [context.timelines[device].at(context.base[device] + step.position)];
        let work = self.work(number, step, context, trace)?;
        let attempt = |work, context: &Context| {
            let wait = &context.waits[number];
            if here {
                self.queues[device].run(wait, work, &signal, context.deadline)
            } else {
                self.queues[device].submit(wait, work, &signal)
            }
        };
        let mut outcome = attempt(work, context);
        let has_failed = |context: &Context| context.timelines[device].failure().is_some();
        if let Err(error) = &outcome
            && error.is_retryable()
            && context.submitted[device] > 0
            // A step that the device took and that failed is not done twice.
            && (!here || error.kind() == ErrorKind::Execution && !has_failed(context))
        {
            // The queue is full, and the steps in it may be this run's own.
            let own = context.base[device] + context.submitted[device];
            context.timelines[device].wait(own, context.deadline)?;
            let work = self.work(number, step, context, trace)?;
            outcome = attempt(work, context);
        }
        match outcome {
            // The step was taken: the wait for the end of the list tells what became of it.
            Err(error) if here && (error.kind() == ErrorKind::Timeout || has_failed(context)) => Ok(()),
            outcome => outcome,
        }
    }

    fn work(
        &self,
        number: usize,
        step: &Step,
        context: &mut Context,
        trace: Option<&Arc<dyn TraceSink>>,
    ) -> Result<Work, HalError> {
        let work = match (&step.task, &context.tables[number]) {
            (Task::Execute { partition, .. }, Some(table)) => {
                let executable = self.frozen.partitions[*partition].executable.clone();
                let execution = Execution::new(executable, table.clone())
                    .with_scratch(context.scratch[number].clone())
                    .with_extents(context.extents.clone())
                    .with_deadline(context.deadline);
                Some(Work::execute(execution))
            }
            _ => context.transfers[number].clone(),
        };
        let work = work.ok_or_else(|| HalError::internal("a step has no work"))?;
        Ok(work.traced(trace.cloned()))
    }

    /// Waits for the run's end.
    pub(super) fn settle(&self, context: &mut Context) -> Result<()> {
        for device in 0..context.timelines.len() {
            let end = context.base[device] + context.submitted[device];
            if let Err(error) = context.timelines[device].wait(end, context.deadline) {
                return Err(self.stop(context, error).into());
            }
        }
        context.base.iter_mut().zip(&context.submitted).for_each(|(base, count)| *base += count);
        Ok(())
    }

    /// Ends a run that has failed: waits for the submitted steps, each of which ends or fails, and
    /// keeps others from beginning.
    /// Returns the error to tell: a lost device comes before other failures, and these come before
    /// a deadline that passed because of them.
    fn stop(&self, context: &Context, first: HalError) -> HalError {
        let weight = |error: &HalError| match error.kind() {
            ErrorKind::DeviceLost => 2,
            // That a group of tiles was given up is no reason.
            ErrorKind::Timeout | ErrorKind::Cancelled => 0,
            _ => 1,
        };
        let mut told = first;
        context.give_up();
        for device in 0..context.timelines.len() {
            let end = context.base[device] + context.submitted[device];
            if let Err(error) = context.timelines[device].wait(end, context.deadline)
                && weight(&error) > weight(&told)
            {
                told = error;
            }
        }
        if told.device().is_none() {
            told = self.blame(context, told);
        }
        fail(&context.timelines, &told);
        told
    }

    /// Returns the error with the device whose turn it was: that of a step that is not over and
    /// waits for no other.
    fn blame(&self, context: &Context, error: HalError) -> HalError {
        let over = |device: usize, at: u64| context.timelines[device].value() >= context.base[device] + at;
        let stuck =
            self.frozen.layout.steps.iter().find(|step| {
                !over(step.device, step.position) && step.wait.iter().all(|&(device, at)| over(device, at))
            });
        let Some(step) = stuck else { return error };
        // In a group, this is the device that has a tile under way and has done the fewest.
        let group = step.device.checked_sub(self.devices.len()).and_then(|group| context.groups.get(group));
        let device = match self.devices.get(step.device) {
            Some(device) => Some(&device.info().id),
            None => group.and_then(Group::laggard),
        };
        let Some(device) = device else { return error };
        let error = error.on(device.clone());
        if error.kind() == ErrorKind::Timeout {
            return error.with_remedy(
                "the device did not end its step before the run's deadline: it hangs, or needs more time",
            );
        }
        error
    }

    /// Copies the outputs out, but for those that `pages` has: of these, only the shapes are told.
    pub(super) fn collect(
        &self,
        inputs: &[Tensor],
        outputs: &mut [OutputBuffer],
        pages: &[Option<HostMemory>],
        context: &Context,
    ) -> Result<()> {
        for (number, ((port, source), into)) in self.outputs.iter().zip(&self.sources).zip(outputs).enumerate() {
            let OutputBuffer { bytes, shape, object } = into;
            shape.clear();
            *object = None;
            let whole = |tensor: &Tensor, bytes: &mut Vec<u8>, shape: &mut Vec<usize>| {
                bytes.clear();
                bytes.extend_from_slice(tensor.bytes());
                shape.extend_from_slice(tensor.shape());
            };
            match source {
                OutputSource::Constant(tensor) if tensor.dtype().bits() > 0 => whole(tensor, bytes, shape),
                OutputSource::Input(position) if port.dtype.bits() > 0 => whole(&inputs[*position], bytes, shape),
                OutputSource::Constant(tensor) => *object = Some(tensor.clone()),
                OutputSource::Input(position) => *object = Some(inputs[*position].clone()),
                OutputSource::Slot(slot) if self.late_of(*slot)?.is_some() => {
                    let content = self.late_content(*slot, context)?;
                    whole(&content, bytes, shape);
                    *object = (port.dtype.bits() == 0).then_some(content);
                }
                OutputSource::Slot(slot) => {
                    self.true_shape(*slot, context, shape)?;
                    let count = hetero_hal::element_count(shape).and_then(|count| port.dtype.bytes_for(count));
                    let count = count.unwrap_or(0);
                    bytes.clear();
                    match context.output(*slot) {
                        _ if pages.get(number).is_some_and(Option::is_some) => {}
                        Some(buffer) => {
                            let device = &*self.devices[self.frozen.layout.slots[*slot].device];
                            buffer.append(0..count, bytes).map_err(|error| named(error, device))?;
                        }
                        // A value without bytes has no buffer.
                        None => bytes.resize(count, 0),
                    }
                }
            }
        }
        Ok(())
    }

    /// Brings the outputs into the caller's memory, where they are not there already, and records
    /// their true sizes.
    pub(super) fn deliver(&self, inputs: &[Tensor], outputs: &mut [HostOutput], context: &Context) -> Result<()> {
        for ((port, source), output) in self.outputs.iter().zip(&self.sources).zip(outputs) {
            output.shape.clear();
            let whole = match source {
                OutputSource::Constant(tensor) => Some(tensor),
                OutputSource::Input(position) => Some(&inputs[*position]),
                OutputSource::Slot(_) => None,
            };
            let into = |bytes: usize| host_buffer(output.memory.clone()).slice(0..bytes);
            let late = match source {
                OutputSource::Slot(slot) if self.late_of(*slot)?.is_some() => Some(self.late_content(*slot, context)?),
                _ => None,
            };
            if let Some(tensor) = whole.or(late.as_ref()) {
                if tensor.dtype().bits() == 0 {
                    let what = format!("the output '{}' is {}, which has no bytes", port.name, tensor.dtype());
                    return Err(HalError::unsupported(what).with_remedy("run without memory for it").into());
                }
                output.shape.extend_from_slice(tensor.shape());
                into(tensor.bytes().len())?.write(0, tensor.bytes())?;
            } else if let OutputSource::Slot(slot) = source {
                self.true_shape(*slot, context, &mut output.shape)?;
                let count = hetero_hal::element_count(&output.shape).and_then(|count| port.dtype.bytes_for(count));
                if let (Some(buffer), false) = (context.output(*slot), output.placed) {
                    let bytes = count.unwrap_or(0);
                    let device = &*self.devices[self.frozen.layout.slots[*slot].device];
                    let copied = copy_through_host(&buffer.slice(0..bytes)?, &into(bytes)?);
                    copied.map_err(|error| named(error, device))?;
                }
            }
        }
        Ok(())
    }

    /// Returns the place of a slot's value, where it is late.
    pub(super) fn late_of(&self, slot: usize) -> Result<Option<LateId>> {
        Ok(self.program.value(self.frozen.layout.slots[slot].value)?.late)
    }

    /// Returns the content of a slot whose value is late, in a run that is over.
    fn late_content(&self, slot: usize, context: &Context) -> Result<Tensor> {
        let missing = || HalError::internal("a run left a late value out");
        let id = self.late_of(slot)?.ok_or_else(missing)?;
        Ok(context.extents.as_ref().ok_or_else(missing)?.late(id)?)
    }

    /// Fills an empty shape with the true sizes of a slot's dimensions in a run that is over.
    fn true_shape(&self, slot: usize, context: &Context, shape: &mut Vec<usize>) -> Result<()> {
        let value = self.program.value(self.frozen.layout.slots[slot].value)?;
        shape.extend_from_slice(&value.shape);
        for (size, extent) in shape.iter_mut().zip(&value.extents) {
            if let (Some(extent), Some(extents)) = (extent, &context.extents) {
                *size = extents.get(*extent)?;
            }
        }
        Ok(())
    }
}

/// Fails timelines that have not failed: nothing that waits there begins any more.
fn fail(timelines: &[Timeline], error: &HalError) {
    timelines.iter().for_each(|timeline| timeline.fail(error.clone()));
}

/// A run under way, from [`Session::start`].
///
/// The run owns all that it needs, and may be moved to another thread.
/// Dropping the run gives it up: steps that have not begun are not done any more, and steps under
/// way keep their memory until they are over.
pub struct Run {
    session: Arc<Session>,
    inputs: Vec<Tensor>,
    /// The pages of the outputs that devices write in place.
    pages: Vec<Option<HostMemory>>,
    context: Option<Context>,
}

impl Session {
    /// Returns the most runs that may be under way at once: by the configuration, or else as many
    /// as the devices' memory has room for.
    #[must_use]
    pub fn max_in_flight(&self) -> usize {
        self.contexts.most()
    }

    /// Begins a run and returns while the devices work, with inputs in the order of
    /// [`Session::inputs`].
    /// Several runs may be under way, at most [`Session::max_in_flight`]; each has memory of its
    /// own.
    /// The deadline counts from here.
    ///
    /// # Errors
    /// `Input` where an input is not the model's.
    /// `Device` where a device does not take the work.
    /// `Device`, retryable, where as many runs as may be are under way.
    pub fn start(self: &Arc<Self>, inputs: &[Tensor]) -> Result<Run> {
        self.check(inputs, self.outputs.len())?;
        let mut context = self.take_context(None)?;
        let pages = self.place_results(&mut context)?;
        self.launch(inputs, &mut context, None, false)?;
        Ok(Run { session: self.clone(), inputs: inputs.to_vec(), pages, context: Some(context) })
    }
}

impl Run {
    /// Waits for the run's end, and returns its outputs.
    ///
    /// # Errors
    /// `Device` where a device fails or the deadline passes.
    pub fn finish(mut self) -> Result<Outputs> {
        let Some(mut context) = self.context.take() else {
            return Err(HalError::internal("the run is over already").into());
        };
        self.session.settle(&mut context)?;
        self.session.results(&self.inputs, std::mem::take(&mut self.pages), context)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(context) = self.context.take() {
            let error = HalError::new(ErrorKind::Cancelled, "the run was given up");
            context.give_up();
            fail(&context.timelines, &error);
        }
    }
}
