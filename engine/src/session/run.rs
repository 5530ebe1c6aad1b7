//! Runs: the frozen list of submissions, replayed.
//!
//! A run submits all steps in the plan's order, each with the points that it waits for, and then waits for the end of every device's list. Where
//! one fails, whatever stands behind it fails with the same error; the rest is waited for, so that after an error, unless it is that the
//! deadline passed, nothing of the run is under way.

use std::sync::Arc;
use std::time::Instant;

use hetero_hal::{Buffer, Error as HalError, ErrorKind, Execution, Extents, Probe, Tensor, Timeline, Work};

use super::context::{Context, part};
use super::partition::named;
use super::steps::{Step, Task};
use super::tiles::{Group, LANES, Member, Settings};
use super::{OutputBuffer, OutputSource, Outputs, Session};
use crate::Result;

impl Session {
    /// Brings the inputs in and submits all steps. With `here`, the calling thread may do the last step, as it waits for it anyway.
    pub(super) fn launch(
        &self,
        inputs: &[Tensor],
        context: &mut Context,
        probe: Option<&Arc<dyn Probe>>,
        here: bool,
    ) -> Result<()> {
        for (slot, position) in self.input_slots() {
            let device = &*self.devices[self.frozen.layout.slots[slot].device];
            if !context.inputs[slot].bring_in(device, &inputs[position], &self.arrivals[slot])? {
                context.bound.iter_mut().for_each(|bound| *bound = None);
                context.groups.iter_mut().for_each(|group| *group = None);
            }
        }
        let sizes = self.program.extents().len();
        context.extents = (sizes > 0).then(|| Arc::new(Extents::new(sizes)));
        context.deadline = Instant::now() + self.deadline;
        context.submitted.iter_mut().for_each(|count| *count = 0);
        let steps = &self.frozen.layout.steps;
        for (number, step) in steps.iter().enumerate() {
            let last = here && number + 1 == steps.len();
            if let Err(error) = self.submit(number, step, context, probe, last) {
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

    fn submit(
        &self,
        number: usize,
        step: &Step,
        context: &mut Context,
        probe: Option<&Arc<dyn Probe>>,
        here: bool,
    ) -> Result<(), HalError> {
        let device = step.device;
        for (point, &(other, at)) in context.waits[number].iter_mut().zip(&step.wait) {
            point.value = context.base[other] + at;
        }
        if let Task::Tiles { group, .. } = &step.task {
            let settings = Settings { probe: probe.cloned(), deadline: Some(context.deadline) };
            if context.groups[*group].is_none() {
                context.groups[*group] = Some(self.tiles(step, context)?);
            }
            if let Some(tiles) = &context.groups[*group] {
                tiles.start(&context.waits[number], context.base[device] + step.position, &settings);
            }
            return Ok(());
        }
        let signal = [context.timelines[device].at(context.base[device] + step.position)];
        let work = self.work(number, step, context, probe)?;
        let (queue, wait) = (&self.queues[device], &context.waits[number][..]);
        if here {
            let outcome = queue.run(wait, work, &signal, context.deadline);
            let taken =
                |error: &HalError| error.kind() == ErrorKind::Timeout || context.timelines[device].failure().is_some();
            return match outcome {
                // It was taken: whoever waits for the end of the list learns what became of it.
                Err(error) if taken(&error) => Ok(()),
                outcome => outcome,
            };
        }
        match queue.submit(wait, work, &signal) {
            // The queue is full, and these may be this run's own steps.
            Err(error) if error.is_retryable() && context.submitted[device] > 0 => {
                let own = context.base[device] + context.submitted[device];
                context.timelines[device].wait(own, context.deadline)?;
                let work = self.work(number, step, context, probe)?;
                queue.submit(&context.waits[number], work, &signal)
            }
            outcome => outcome,
        }
    }

    fn work(
        &self,
        number: usize,
        step: &Step,
        context: &mut Context,
        probe: Option<&Arc<dyn Probe>>,
    ) -> Result<Work, HalError> {
        let Task::Execute { partition, bindings, .. } = &step.task else {
            let work = context.transfers[number].clone();
            return work.ok_or_else(|| HalError::internal("a transfer has no work"));
        };
        let bound = match &context.bound[number] {
            Some(bound) => bound.clone(),
            None => {
                let made = context.bind(bindings)?;
                context.bound[number].insert(made).clone()
            }
        };
        Ok(Work::Execute(Execution {
            executable: self.frozen.partitions[*partition].executable.clone(),
            bindings: bound,
            scratch: context.scratch[number].clone(),
            extents: context.extents.clone(),
            probe: probe.cloned(),
            deadline: Some(context.deadline),
        }))
    }

    /// A group of tiles with this context's memory.
    fn tiles(&self, step: &Step, context: &Context) -> Result<Group, HalError> {
        let Task::Tiles { group, bindings, scratch } = &step.task else {
            return Err(HalError::internal("a step of tiles has none"));
        };
        let mut members = Vec::with_capacity(bindings.len());
        for ((of, bindings), places) in self.frozen.groups[*group].members.iter().zip(bindings).zip(scratch) {
            let device = &self.devices[of.device];
            let mut scratch = [const { None }; LANES];
            for (room, place) in scratch.iter_mut().zip(places) {
                *room = place.map(|place| part(&context.arenas[of.device], place)).transpose()?;
            }
            let mut timelines = [const { None }; LANES];
            for timeline in &mut timelines {
                *timeline = Some(device.timeline(0).map_err(|error| named(error, &**device))?);
            }
            members.push(Member {
                id: device.info().id.clone(),
                queue: self.queues[of.device].clone(),
                share: of.share,
                seconds: of.seconds,
                hosted: device.info().runs_on_host(),
                executables: of.executables.clone(),
                bindings: bindings.iter().map(|slots| context.bind(slots)).collect::<Result<_, _>>()?,
                scratch,
                timelines: timelines.map(|timeline| timeline.unwrap_or_else(|| Timeline::new(0))),
            });
        }
        Ok(Group::new(members, context.timelines[step.device].clone(), self.tallies[*group].clone()))
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

    /// Ends a run that has failed: waits for what was submitted, each of which ends or fails, and lets nothing begin any more. Gives the
    /// error to tell: a lost device before other failures, these before a deadline that passed because of them.
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

    /// The error with the device whose turn it was: of the steps that are not over, one that no other keeps waiting.
    fn blame(&self, context: &Context, error: HalError) -> HalError {
        let over = |device: usize, at: u64| context.timelines[device].value() >= context.base[device] + at;
        let stuck =
            self.frozen.layout.steps.iter().find(|step| {
                !over(step.device, step.position) && step.wait.iter().all(|&(device, at)| over(device, at))
            });
        let Some(step) = stuck else { return error };
        // In a group, the device that has kept a tile longest.
        let group = step.device.checked_sub(self.devices.len()).and_then(|group| context.groups.get(group)?.as_ref());
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

    /// Copies the outputs out.
    pub(super) fn collect(&self, inputs: &[Tensor], outputs: &mut [OutputBuffer], context: &Context) -> Result<()> {
        for ((port, source), into) in self.outputs.iter().zip(&self.sources).zip(outputs) {
            let OutputBuffer { bytes, shape } = into;
            shape.clear();
            let whole = |tensor: &Tensor, bytes: &mut Vec<u8>, shape: &mut Vec<usize>| {
                bytes.clear();
                bytes.extend_from_slice(tensor.bytes());
                shape.extend_from_slice(tensor.shape());
            };
            match source {
                OutputSource::Constant(tensor) => whole(tensor, bytes, shape),
                OutputSource::Input(position) => whole(&inputs[*position], bytes, shape),
                OutputSource::Slot(slot) => {
                    let slot_of = self.frozen.layout.slots[*slot];
                    let value = self.program.value(slot_of.value)?;
                    shape.extend_from_slice(&value.shape);
                    for (size, extent) in shape.iter_mut().zip(&value.extents) {
                        if let (Some(extent), Some(extents)) = (extent, &context.extents) {
                            *size = extents.get(*extent)?;
                        }
                    }
                    let count = hetero_hal::element_count(shape).and_then(|count| port.dtype.bytes_for(count));
                    bytes.resize(count.unwrap_or(0), 0);
                    if let Some(buffer) = &context.buffers[*slot] {
                        let device = &*self.devices[slot_of.device];
                        buffer.read(0, bytes).map_err(|error| named(error, device))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The outputs of a run that is over, as tensors.
    fn tensors(&self, inputs: &[Tensor], context: &Context) -> Result<Outputs> {
        let mut buffers = vec![OutputBuffer::default(); self.outputs.len()];
        self.collect(inputs, &mut buffers, context)?;
        self.named_outputs(inputs, buffers)
    }
}

impl Context {
    /// The memory of slots.
    fn bind(&self, slots: &[usize]) -> Result<Arc<[Buffer]>, HalError> {
        let buffer = |&slot: &usize| {
            let buffer = self.buffers[slot].as_ref().or(self.inputs[slot].buffer());
            buffer.cloned().ok_or_else(|| HalError::internal("a value has no memory"))
        };
        slots.iter().map(buffer).collect()
    }

    /// No tile begins any more.
    fn give_up(&self) {
        self.groups.iter().flatten().for_each(Group::give_up);
    }
}

/// Fails timelines that have not failed: whoever waits there does nothing any more.
fn fail(timelines: &[Timeline], error: &HalError) {
    timelines.iter().for_each(|timeline| timeline.fail(error.clone()));
}

/// A run under way, from [`Session::start`].
///
/// Dropping it gives it up: what has not begun is not done any more, and what is being done keeps its memory until it is over.
pub struct Run<'a> {
    session: &'a Session,
    inputs: Vec<Tensor>,
    context: Option<Context>,
}

impl Session {
    /// Begins a run and returns while the devices work, with inputs in the order of [`Session::inputs`]. Several runs may be under way; each has
    /// memory of its own. The deadline counts from here.
    ///
    /// # Errors
    /// `Input` where an input is not the model's; `Device` where a device does not take the work.
    pub fn start(&self, inputs: &[Tensor]) -> Result<Run<'_>> {
        self.check(inputs, self.outputs.len())?;
        let mut context = self.take_context()?;
        self.launch(inputs, &mut context, None, false)?;
        Ok(Run { session: self, inputs: inputs.to_vec(), context: Some(context) })
    }
}

impl Run<'_> {
    /// Waits for the run's end, and gives its outputs.
    ///
    /// # Errors
    /// `Device` where a device fails or the deadline passes.
    pub fn finish(mut self) -> Result<Outputs> {
        let Some(mut context) = self.context.take() else {
            return Err(HalError::internal("the run is over already").into());
        };
        self.session.settle(&mut context)?;
        let outputs = self.session.tensors(&self.inputs, &context)?;
        self.session.give_context(context);
        Ok(outputs)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if let Some(context) = self.context.take() {
            let error = HalError::new(ErrorKind::Cancelled, "the run was given up");
            context.give_up();
            fail(&context.timelines, &error);
        }
    }
}
