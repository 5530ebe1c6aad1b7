//! Runs of programs on a device, without an engine.

use std::sync::Arc;
use std::time::Instant;

use hetero_hal::{
    BindingInfo, BindingTable, Buffer, BufferLayout, CompileOptions, Device, Direction, Error, Executable, Execution,
    Extents, Program, QueueOptions, Result, Source, Tensor, Work,
};

/// Runs a program on a device: compiles it, binds buffers, submits it to a queue of its own, waits,
/// and reads the outputs.
///
/// # Errors
/// Any error that the device reports, or `Timeout`.
pub fn run_program(
    device: &dyn Device,
    program: &Program,
    inputs: &[Tensor],
    deadline: Instant,
) -> Result<Vec<Tensor>> {
    let options = CompileOptions { deadline: Some(deadline), ..CompileOptions::default() };
    let executable = device.compile(Source::Program(program), &options)?;
    run_executable(device, &executable, program, inputs, deadline)
}

/// Runs an executable of a program, as [`run_program`] does.
///
/// # Errors
/// Any error that the device reports, or `Timeout`.
pub fn run_executable(
    device: &dyn Device,
    executable: &Arc<dyn Executable>,
    program: &Program,
    inputs: &[Tensor],
    deadline: Instant,
) -> Result<Vec<Tensor>> {
    let prepared = Prepared::new(device, executable, program, inputs, deadline)?;
    let queue = device.queue(&QueueOptions { name: "examination".into(), capacity: None })?;
    let done = device.timeline(0)?.at(1);
    queue.submit(&[], Work::execute(prepared.execution.clone()), std::slice::from_ref(&done))?;
    done.wait(deadline)?;
    prepared.outputs()
}

/// A run, with the memory for it.
pub struct Prepared {
    /// The run, to be submitted.
    pub execution: Execution,
    /// The buffers that [`Execution::bindings`] holds.
    pub buffers: Vec<Buffer>,
}

impl Prepared {
    /// Allocates memory for a run, and writes the inputs.
    ///
    /// # Errors
    /// Any error that the device reports, and `InvalidArgument` where the inputs are not the
    /// program's.
    pub fn new(
        device: &dyn Device,
        executable: &Arc<dyn Executable>,
        program: &Program,
        inputs: &[Tensor],
        deadline: Instant,
    ) -> Result<Prepared> {
        let extents = program.is_open().then(|| Arc::new(Extents::of(program)));
        let mut buffers = Vec::new();
        let mut given = inputs.iter();
        for info in executable.bindings() {
            let buffer = device.allocate(BufferLayout::new(info.bytes))?;
            if info.direction == Direction::Input {
                let tensor = given.next();
                let tensor = tensor.ok_or_else(|| Error::invalid_argument(format!("no input for '{}'", info.name)))?;
                if tensor.dtype() != info.dtype || tensor.shape() != info.shape {
                    return Err(Error::invalid_argument(format!(
                        "'{}' is {} of shape {:?}, and its input is {} of shape {:?}",
                        info.name,
                        info.dtype,
                        info.shape,
                        tensor.dtype(),
                        tensor.shape()
                    )));
                }
                buffer.write(0, tensor.bytes())?;
            }
            buffers.push(buffer);
        }
        if given.next().is_some() {
            return Err(Error::invalid_argument("there are more inputs than bindings for them"));
        }
        let scratch = executable.scratch();
        let scratch = if scratch.bytes > 0 { Some(device.allocate(scratch)?) } else { None };
        let execution = Execution::new(executable.clone(), BindingTable::new(buffers.clone()))
            .with_scratch(scratch)
            .with_extents(extents)
            .with_deadline(deadline);
        Ok(Prepared { execution, buffers })
    }

    /// Reads the outputs, once the run is over.
    ///
    /// # Errors
    /// Any error that the device reports, and `Internal` where it wrote a size that cannot be.
    pub fn outputs(&self) -> Result<Vec<Tensor>> {
        let bound = self.execution.executable.bindings().iter().zip(&self.buffers);
        let outputs = bound.filter(|(info, _)| info.direction == Direction::Output);
        outputs.map(|(info, buffer)| read(info, buffer, self.execution.extents.as_deref())).collect()
    }
}

/// Reads a binding's tensor, with its true size.
fn read(info: &BindingInfo, buffer: &Buffer, extents: Option<&Extents>) -> Result<Tensor> {
    let mut shape = info.shape.clone();
    for (size, extent) in shape.iter_mut().zip(&info.extents) {
        if let (Some(extent), Some(extents)) = (extent, extents) {
            *size = extents.get(*extent)?;
        }
    }
    let count: usize = shape.iter().product();
    let bytes = info.dtype.bytes_for(count).ok_or_else(|| {
        Error::internal(format!("no number of bytes is {count} elements of {}, as '{}' has", info.dtype, info.name))
    })?;
    let mut content = vec![0; bytes];
    buffer.read(0, &mut content)?;
    Tensor::from_bytes(info.dtype, &shape, content.into())
}
