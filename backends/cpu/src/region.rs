//! Regions of a program, compiled for the sizes of each run.

mod simplify;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use hetero_hal::{
    Buffer, CompileOptions, DType, Error, ErrorKind, ExtentId, LateId, Node, Program, ProgramValue, Result, Tensor,
    TraceKind, element_count,
};
use hetero_reference::{ExactProgram, Standard, exact, shaping_inputs};

use crate::device::Shared;
use crate::executable::{Alias, CpuExecutable};
use crate::kernels::{Kernel, Packed, Runtime};
use crate::memory::{self, CpuMemory};
use crate::operand::{Arguments, Operand};

/// The most sizes for which a region is kept compiled; those of the last runs stay.
/// A compiled region takes some kilobytes, as weights are shared.
const KEPT: usize = 32;
/// The number of families among which that of a region is looked for.
const MOST_LOOKS: usize = 16;

/// An input or output of a region.
struct Port {
    name: Arc<str>,
    dtype: DType,
    /// The sizes, and bounds of those that only a run tells.
    shape: Vec<usize>,
    extents: Vec<Option<ExtentId>>,
    /// Whether the content decides sizes.
    shaping: bool,
    /// The place of the content, where the value is late.
    late: Option<LateId>,
}

impl Port {
    fn new(value: &ProgramValue) -> Port {
        let ProgramValue { name, dtype, shape, extents, late, .. } = value.clone();
        Port { name, dtype, shape, extents, shaping: false, late }
    }

    /// Returns the true size of a dimension in this run.
    fn size(&self, axis: usize, runtime: &Runtime<'_>) -> Result<usize> {
        match (self.extents.get(axis).copied().flatten(), runtime.extents) {
            (Some(extent), Some(extents)) => extents.get(extent),
            (Some(_), None) => Err(Error::internal(format!("the sizes of '{}' are not given", self.name))),
            (None, _) => Ok(self.shape[axis]),
        }
    }

    /// Returns the true shape in this run.
    fn sizes(&self, content: Option<&Tensor>, runtime: &Runtime<'_>) -> Result<Vec<usize>> {
        match content {
            Some(content) => Ok(content.shape().to_vec()),
            None => (0..self.shape.len()).map(|axis| self.size(axis, runtime)).collect(),
        }
    }

    /// Tells whether the value may have this shape.
    fn takes(&self, shape: &[usize]) -> bool {
        let fits = |axis: usize, size: usize| match self.extents.get(axis).copied().flatten() {
            Some(_) => size <= self.shape[axis],
            None => size == self.shape[axis],
        };
        self.late.is_some()
            || (shape.len() == self.shape.len() && shape.iter().enumerate().all(|(axis, &size)| fits(axis, size)))
    }
}

/// A region, compiled for some sizes.
struct Compiled {
    /// The sizes that only a run tells, and the contents that decide sizes.
    key: Vec<u64>,
    executable: CpuExecutable,
    /// The position in the region of each node that the executable does.
    nodes: Vec<usize>,
    /// The outputs that are known without a run.
    known: Vec<(usize, Tensor)>,
    /// The positions of the other outputs.
    made: Vec<usize>,
    /// The shapes of all outputs.
    shapes: Vec<Vec<usize>>,
}

/// The kernel of a region: it compiles the region for the sizes of a run, unless it did so before.
pub(crate) struct Region {
    program: Program,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    device: Arc<Shared>,
    /// What the caller of the device holds beside; see [`CompileOptions::reserved`].
    reserved: u64,
    family: Arc<Family>,
}

/// What regions share that are the same but for names, as those of a model's layers often are: for
/// each size, one of them is compiled for all.
struct Family {
    /// The region that was found first.
    program: Program,
    /// The region as it was compiled first, which keeps packed weights while other sizes come and
    /// go.
    first: OnceLock<Arc<Compiled>>,
    /// The region for the sizes of the last runs, the latest last.
    recent: Mutex<Vec<Arc<Compiled>>>,
    /// Memory of earlier runs, which is used again.
    rooms: Mutex<Vec<Buffer>>,
}

/// The families of a program's regions, the latest last.
#[derive(Default)]
pub(crate) struct Families(Vec<Arc<Family>>);

impl Families {
    /// Returns the family of a region, and whether it is a new one.
    fn of(&mut self, program: &Program) -> (Arc<Family>, bool) {
        let known = self.0.iter().rev().take(MOST_LOOKS).find(|family| is_alike(&family.program, program));
        if let Some(family) = known {
            return (family.clone(), false);
        }
        let (recent, rooms) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let family = Arc::new(Family { program: program.clone(), first: OnceLock::new(), recent, rooms });
        self.0.push(family.clone());
        (family, true)
    }
}

/// Tells whether two regions are the same but for names, so that what is compiled for one does what
/// the other does.
fn is_alike(one: &Program, other: &Program) -> bool {
    let open = |value: &ProgramValue| value.extents.iter().map(Option::is_some).collect::<Vec<_>>();
    let same = |one: &Tensor, other: &Tensor| {
        let place = |tensor: &Tensor| (tensor.dtype(), tensor.bytes().as_ptr_range());
        (place(one) == place(other) && one.shape() == other.shape()) || one == other
    };
    let values = |(one, other): (&ProgramValue, &ProgramValue)| {
        let constants = match (&one.constant, &other.constant) {
            (Some(one), Some(other)) => same(one, other),
            (None, None) => true,
            _ => false,
        };
        let types = one.dtype == other.dtype && one.shape == other.shape && open(one) == open(other);
        types && one.late.is_some() == other.late.is_some() && constants
    };
    let nodes = |(one, other): (&Node, &Node)| {
        one.operator == other.operator && one.inputs == other.inputs && one.outputs == other.outputs
    };
    (one.inputs(), one.outputs()) == (other.inputs(), other.outputs())
        && (one.nodes().len(), one.values().len()) == (other.nodes().len(), other.values().len())
        && one.nodes().iter().zip(other.nodes()).all(nodes)
        && one.values().iter().zip(other.values()).all(values)
}

impl Region {
    pub(crate) fn new(
        program: Program,
        device: &Arc<Shared>,
        options: &CompileOptions,
        families: &mut Families,
    ) -> Result<Region> {
        let port = |&id| program.value(id).map(Port::new);
        let mut inputs = program.inputs().iter().map(port).collect::<Result<Vec<_>>>()?;
        let outputs = program.outputs().iter().map(port).collect::<Result<Vec<_>>>()?;
        for node in program.nodes() {
            for id in
                shaping_inputs(&node.operator).iter().filter_map(|&index| node.inputs.get(index).copied().flatten())
            {
                program.inputs().iter().zip(&mut inputs).filter(|(input, _)| **input == id).for_each(|(_, port)| {
                    port.shaping = true;
                });
            }
        }
        // The ports know the places of late values in the run; the simplified region does not.
        let program = simplify::simplified(program)?;
        let (family, is_new) = families.of(&program);
        let (device, reserved) = (device.clone(), options.reserved);
        let region = Region { program, inputs, outputs, device, reserved, family };
        // Weights are packed once, for the largest sizes, where these say enough.
        // Sizes that do not fit together there may do so in a run.
        if is_new && region.inputs.iter().all(|port| !port.shaping && port.late.is_none()) {
            let shapes: Vec<Vec<usize>> = region.inputs.iter().map(|port| port.shape.clone()).collect();
            let contents = vec![None; shapes.len()];
            match region.compile(Vec::new(), &shapes, &contents, options) {
                Ok(compiled) => drop(region.family.first.set(Arc::new(compiled))),
                Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Cancelled) => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        Ok(region)
    }

    fn compile(
        &self,
        key: Vec<u64>,
        shapes: &[Vec<usize>],
        contents: &[Option<Tensor>],
        options: &CompileOptions,
    ) -> Result<Compiled> {
        let ExactProgram { program, nodes, known, shapes } =
            exact(&self.program, shapes, contents, &Standard, &hetero_hal::Allowance::default())?;
        let executable = match self.family.first.get() {
            Some(_) => CpuExecutable::compile_again(&program, options, &self.device)?,
            None => CpuExecutable::compile(&program, options, &self.device)?,
        };
        let is_made = |position: &usize| known.iter().all(|(other, _)| other != position);
        let made = (0..self.outputs.len()).filter(is_made).collect();
        Ok(Compiled { key, executable, nodes, known, made, shapes })
    }

    /// Returns the region for the sizes of this run.
    /// `late` has the contents of late inputs.
    fn find(&self, arguments: &Arguments<'_>, late: &[Option<Tensor>], runtime: &Runtime<'_>) -> Result<Arc<Compiled>> {
        let mut key = Vec::with_capacity(self.inputs.len() * 2);
        for (index, (port, late)) in self.inputs.iter().zip(late).enumerate() {
            if let Some(content) = late {
                key.push(content.rank() as u64);
                key.extend(content.shape().iter().map(|&size| size as u64));
            } else {
                for (axis, extent) in port.extents.iter().enumerate() {
                    if extent.is_some() {
                        key.push(port.size(axis, runtime)? as u64);
                    }
                }
            }
            if port.shaping {
                let (content, _) = self.content(index, arguments, late.as_ref(), runtime)?;
                key.push(content.len() as u64);
                key.extend(content.iter().map(|&byte| u64::from(byte)));
            }
        }
        let mut recent = self.family.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = recent.iter().rposition(|compiled| compiled.key == key) {
            // Mostly it is the last one already.
            let found = recent.remove(position);
            recent.push(found.clone());
            return Ok(found);
        }
        drop(recent);
        let began = runtime.tracer.map(|_| Instant::now());
        let sizes = self.inputs.iter().zip(late).map(|(port, late)| port.sizes(late.as_ref(), runtime));
        let shapes = sizes.collect::<Result<Vec<_>>>()?;
        if let Some((port, shape)) = self.inputs.iter().zip(&shapes).find(|(port, shape)| !port.takes(shape)) {
            return Err(beyond(port, shape));
        }
        let mut contents = vec![None; self.inputs.len()];
        for (index, port) in self.inputs.iter().enumerate().filter(|(_, port)| port.shaping) {
            let (content, shape) = self.content(index, arguments, late[index].as_ref(), runtime)?;
            contents[index] = Some(Tensor::from_bytes(port.dtype, &shape, content.to_vec().into())?);
        }
        let options = CompileOptions { reserved: self.reserved, ..CompileOptions::default() };
        let compiled = Arc::new(self.compile(key, &shapes, &contents, &options)?);
        let outputs = || self.outputs.iter().zip(&compiled.shapes);
        if let Some((port, shape)) = outputs().find(|(port, shape)| !port.takes(shape)) {
            return Err(beyond(port, shape));
        }
        let _ = self.family.first.set(compiled.clone());
        let mut recent = self.family.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == KEPT {
            recent.remove(0);
        }
        recent.push(compiled.clone());
        if let (Some(tracer), Some(began)) = (runtime.tracer, began) {
            tracer.event(TraceKind::Compile, "region", &[], (began, Instant::now()), 0);
        }
        Ok(compiled)
    }

    /// Returns the bytes of an input, and its true shape.
    fn content<'a>(
        &self,
        index: usize,
        arguments: &Arguments<'a>,
        late: Option<&'a Tensor>,
        runtime: &Runtime<'_>,
    ) -> Result<(&'a [u8], Vec<usize>)> {
        if let Some(content) = late {
            return Ok((content.bytes(), content.shape().to_vec()));
        }
        let port = &self.inputs[index];
        let shape = port.sizes(None, runtime)?;
        let bytes = element_count(&shape).and_then(|count| port.dtype.bytes_for(count));
        let content = bytes.and_then(|bytes| arguments.input::<u8>(index).ok()?.get(..bytes));
        let content =
            content.ok_or_else(|| Error::internal(format!("'{}' is smaller than its sizes say", port.name)))?;
        Ok((content, shape))
    }

    /// Returns memory of at least so many bytes that no other run uses.
    fn room(&self, bytes: usize) -> Result<Buffer> {
        let mut rooms = self.family.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = rooms.iter().position(|room| room.len() >= bytes) {
            return Ok(rooms.swap_remove(position));
        }
        // One that is too small will be so again.
        rooms.pop();
        drop(rooms);
        // Sizes that grow step by step shall not take new memory at each step.
        let roomy = bytes.saturating_add(bytes / 4);
        let allocate = |bytes| CpuMemory::allocate(&self.device.id, bytes, &self.device.budget);
        allocate(roomy).or_else(|_| allocate(bytes))
    }
}

/// Returns the error of sizes that the region was not made for.
fn beyond(port: &Port, shape: &[usize]) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("'{}' is {shape:?} in this run, and the program was made for at most {:?}", port.name, port.shape),
    )
    .with_remedy("bind the model to larger sizes")
}

fn put(port: &Port, content: Tensor, runtime: &Runtime<'_>) -> Result<()> {
    match (port.late, runtime.extents) {
        (Some(late), Some(extents)) => extents.put(late, content),
        _ => Err(Error::internal(format!("a run has no room for the late value '{}'", port.name))),
    }
}

impl Kernel for Region {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let late = self.inputs.iter().map(|port| port.late.map(|id| runtime.late(id)).transpose());
        let late = late.collect::<Result<Vec<_>>>()?;
        let compiled = self.find(arguments, &late, runtime)?;
        let mut bound: Vec<Operand> = Vec::with_capacity(self.inputs.len() + compiled.made.len());
        let missing = || Error::internal("a region lacks an operand");
        for (index, late) in late.iter().enumerate() {
            bound.push(match late {
                Some(content) => Operand::constant(content),
                None => arguments.inputs.get(index).copied().flatten().ok_or_else(missing)?,
            });
        }
        // Late outputs take memory now, as their sizes are known.
        let mut made: Vec<(usize, Buffer)> = Vec::new();
        for &index in &compiled.made {
            let port = &self.outputs[index];
            if port.late.is_none() {
                bound.push(arguments.outputs.get(index).copied().flatten().ok_or_else(missing)?);
                continue;
            }
            let bytes = element_count(&compiled.shapes[index]).and_then(|count| port.dtype.bytes_for(count));
            let buffer = CpuMemory::allocate(&self.device.id, bytes.ok_or_else(missing)?, &self.device.budget)?;
            bound.push(memory::operand(&buffer)?);
            made.push((index, buffer));
        }
        let alias = Alias { program: &self.program, nodes: &compiled.nodes };
        let bytes = compiled.executable.scratch_bytes();
        if bytes > 0 {
            let room = self.room(bytes)?;
            let outcome = compiled.executable.run_on(&bound, Some(memory::operand(&room)?), runtime, alias);
            self.family.rooms.lock().unwrap_or_else(PoisonError::into_inner).push(room);
            outcome?;
        } else {
            compiled.executable.run_on(&bound, None, runtime, alias)?;
        }
        for (index, buffer) in made {
            let (port, shape) = (&self.outputs[index], &compiled.shapes[index]);
            let content = Tensor::from_bytes(port.dtype, shape, memory::frozen(buffer))?;
            put(port, content, runtime)?;
        }
        for (index, content) in &compiled.known {
            if self.outputs[*index].late.is_some() {
                put(&self.outputs[*index], content.clone(), runtime)?;
                continue;
            }
            let bytes = content.bytes();
            let output = arguments.output::<u8>(*index)?;
            output.get_mut(..bytes.len()).ok_or_else(missing)?.copy_from_slice(bytes);
        }
        let Some(extents) = runtime.extents else {
            return Ok(());
        };
        for (port, shape) in self.outputs.iter().zip(&compiled.shapes) {
            for (&size, extent) in shape.iter().zip(&port.extents) {
                let Some(extent) = *extent else { continue };
                let known = extents.get(extent)?;
                // Sizes that inference found equal are one extent, and each of them sets it.
                if known != 0 && known != size {
                    let text = format!("'{}' is {shape:?}, and another value makes the same size {known}", port.name);
                    return Err(Error::invalid_model(text));
                }
                extents.set(extent, size)?;
            }
        }
        Ok(())
    }

    fn weights(&self) -> Vec<&Packed> {
        self.family.first.get().map_or_else(Vec::new, |first| first.executable.packed().collect())
    }

    fn traces_inside(&self) -> bool {
        true
    }
}
