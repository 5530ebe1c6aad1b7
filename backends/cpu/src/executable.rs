//! Compiled programs: a list of steps over an arena.

use std::collections::HashMap;

use hetero_arena::{Request, plan};
use hetero_hal::{
    BindingInfo, Buffer, BufferLayout, CompileOptions, Error, ErrorKind, Executable, Execution, ExtentId, Node,
    OperatorSet, Program, Result, Tensor, ValueId,
};
use hetero_reference::Standard;

use crate::device::ALIGNMENT;
use crate::kernels::{self, Kernel, Runtime};
use crate::memory::CpuMemory;
use crate::operand::{Arguments, Operand};

/// Where a value lies while the program runs.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the buffer that is bound at this position.
    Binding(usize),
    /// In the scratch buffer, at an offset.
    Scratch { offset: usize, bytes: usize },
    /// Among the constants.
    Constant(usize),
}

/// One node, compiled.
struct Step {
    /// Shown in errors.
    name: String,
    kernel: Box<dyn Kernel>,
    inputs: Vec<Option<Place>>,
    outputs: Vec<Option<Place>>,
    workspace: Option<Place>,
}

/// A program compiled for the CPU.
pub(crate) struct CpuExecutable {
    bindings: Vec<BindingInfo>,
    steps: Vec<Step>,
    constants: Vec<Tensor>,
    scratch: usize,
    extents: usize,
}

impl CpuExecutable {
    pub(crate) fn compile(program: &Program, options: &CompileOptions, limit: u64) -> Result<Self> {
        let bindings = BindingInfo::of(program);
        let mut places: HashMap<ValueId, Place> = HashMap::new();
        for (position, &id) in program.inputs().iter().chain(program.outputs()).enumerate() {
            if places.insert(id, Place::Binding(position)).is_some() {
                let name = &program.value(id)?.name;
                return Err(Error::unsupported(format!("'{name}' is bound twice, as an input or output")));
            }
        }
        let mut constants = Vec::new();
        for (index, value) in (0u32..).map(ValueId).zip(program.values()) {
            if let Some(content) = &value.constant {
                if places.contains_key(&index) {
                    return Err(Error::unsupported(format!("the constant '{}' as an input or output", value.name)));
                }
                places.insert(index, Place::Constant(constants.len()));
                constants.push(aligned(content)?);
            }
        }
        let mut kernels = Vec::with_capacity(program.nodes().len());
        for node in program.nodes() {
            options.check()?;
            kernels.push(kernels::compile(program, node).map_err(|error| error.at(node.to_string()))?);
        }
        let (requests, owners) = requests(program, &kernels, &places);
        let layout =
            plan(&requests).map_err(|error| Error::internal("the arena cannot be planned").caused_by(error))?;
        if layout.bytes as u64 > limit {
            return Err(Error::new(ErrorKind::OutOfMemory, "the intermediate values do not fit the device's memory")
                .with_sizes(layout.bytes as u64, Some(limit))
                .with_remedy("bind smaller shapes, or raise the device's memory limit"));
        }
        let mut workspaces: Vec<Option<Place>> = vec![None; kernels.len()];
        for ((owner, request), &offset) in owners.into_iter().zip(&requests).zip(&layout.offsets) {
            let place = Place::Scratch { offset, bytes: request.bytes };
            match owner {
                Owner::Value(id) => {
                    places.insert(id, place);
                }
                Owner::Workspace(step) => workspaces[step] = Some(place),
            }
        }
        let mut steps = Vec::with_capacity(kernels.len());
        for ((node, kernel), workspace) in program.nodes().iter().zip(kernels).zip(workspaces) {
            // Behind the inputs stand the values that subgraphs capture; see `kernels::oracle`.
            let inputs = node.inputs.iter().map(|id| id.and_then(|id| places.get(&id).copied()));
            let captured = node.uses().skip(node.inputs.iter().flatten().count()).map(|id| places.get(&id).copied());
            let outputs = node.outputs.iter().map(|id| id.and_then(|id| places.get(&id).copied())).collect();
            let inputs = inputs.chain(captured).collect();
            steps.push(Step { name: node.to_string(), kernel, inputs, outputs, workspace });
        }
        Ok(CpuExecutable { bindings, steps, constants, scratch: layout.bytes, extents: program.extents().len() })
    }

    /// Checks what a caller can get wrong.
    pub(crate) fn check(&self, execution: &Execution) -> Result<()> {
        BindingInfo::check(&self.bindings, &execution.bindings)?;
        for (info, buffer) in self.bindings.iter().zip(execution.bindings.iter()) {
            let writable = memory(buffer)?.host().as_mut_ptr().is_some();
            if info.direction == hetero_hal::Direction::Output && !writable {
                return Err(Error::invalid_argument(format!("the output '{}' is bound to constant memory", info.name)));
            }
        }
        let room = execution.scratch.as_ref().map_or(0, Buffer::len);
        if room < self.scratch {
            return Err(Error::invalid_argument("the scratch buffer is too small")
                .with_sizes(self.scratch as u64, Some(room as u64)));
        }
        if self.extents > 0
            && execution.extents.as_ref().is_none_or(|e| e.get(ExtentId(self.extents as u32 - 1)).is_err())
        {
            return Err(Error::invalid_argument("the program has sizes that depend on data, but no extents are given"));
        }
        Ok(())
    }

    /// Runs the steps one after the other; each is parallel inside.
    pub(crate) fn run(&self, execution: &Execution) -> Result<()> {
        let bound = execution.bindings.iter().map(address).collect::<Result<Vec<Operand>>>()?;
        let scratch = execution.scratch.as_ref().map(address).transpose()?;
        let resolve = |place: Place| -> Option<Operand> {
            Some(match place {
                Place::Binding(position) => {
                    // A binding may be longer than the value.
                    let bytes = self.bindings[position].bytes;
                    Operand { bytes, ..bound[position] }
                }
                // Where nothing takes memory there may be no scratch buffer at all.
                Place::Scratch { bytes: 0, .. } => NOTHING,
                Place::Scratch { offset, bytes } => Operand { address: scratch?.address.wrapping_add(offset), bytes },
                Place::Constant(index) => {
                    let bytes = self.constants[index].bytes();
                    // Only inputs are constants, and inputs are not written.
                    Operand { address: bytes.as_ptr().cast_mut(), bytes: bytes.len() }
                }
            })
        };
        let runtime = Runtime { extents: execution.extents.as_deref() };
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for step in &self.steps {
            inputs.clear();
            inputs.extend(step.inputs.iter().map(|place| place.and_then(resolve)));
            outputs.clear();
            outputs.extend(step.outputs.iter().map(|place| place.and_then(resolve)));
            let workspace = step.workspace.and_then(resolve).unwrap_or(NOTHING);
            let mut arguments = Arguments { inputs: &inputs, outputs: &outputs, workspace };
            step.kernel.run(&mut arguments, &runtime).map_err(|error| error.at(step.name.clone()))?;
        }
        Ok(())
    }
}

/// No bytes, at an address that is aligned for every element type.
const NOTHING: Operand = Operand { address: std::ptr::without_provenance_mut(ALIGNMENT), bytes: 0 };

impl Executable for CpuExecutable {
    fn bindings(&self) -> &[BindingInfo] {
        &self.bindings
    }

    fn scratch(&self) -> BufferLayout {
        BufferLayout { bytes: self.scratch, alignment: ALIGNMENT }
    }

    fn resident_bytes(&self) -> usize {
        self.constants.iter().map(|tensor| tensor.bytes().len()).sum()
    }
}

fn memory(buffer: &Buffer) -> Result<&CpuMemory> {
    buffer.memory().ok_or_else(|| Error::internal(format!("{buffer:?} is another device's memory")))
}

fn address(buffer: &Buffer) -> Result<Operand> {
    let host = memory(buffer)?.host();
    let address = host.as_ptr().cast_mut().wrapping_add(buffer.offset());
    Ok(Operand { address, bytes: buffer.len() })
}

/// The tensor, its bytes copied where they are not aligned for its elements.
fn aligned(tensor: &Tensor) -> Result<Tensor> {
    const WIDEST: usize = 16;
    if (tensor.bytes().as_ptr() as usize).is_multiple_of(WIDEST.min(tensor.dtype().bits().div_ceil(8).max(1))) {
        return Ok(tensor.clone());
    }
    // A vector of the widest elements is aligned for every type.
    let bytes = tensor.bytes();
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_ne_bytes(*chunk);
    }
    if let Some(last) = words.last_mut()
        && !rest.is_empty()
    {
        let mut padded = [0; 8];
        padded[..rest.len()].copy_from_slice(rest);
        *last = u64::from_ne_bytes(padded);
    }
    let count = words.len();
    let whole = Tensor::from_vec(&[count], words)?;
    Tensor::from_bytes(tensor.dtype(), tensor.shape(), whole.bytes().slice(..bytes.len()))
}

/// Whom memory in the arena is for.
enum Owner {
    Value(ValueId),
    Workspace(usize),
}

/// Everything that the arena holds: values that nobody outside sees, and the kernels' workspaces. A value lives from the step that writes it
/// to the last that reads it.
fn requests(
    program: &Program,
    kernels: &[Box<dyn Kernel>],
    places: &HashMap<ValueId, Place>,
) -> (Vec<Request>, Vec<Owner>) {
    let mut last_use = vec![0; program.values().len()];
    for (step, node) in program.nodes().iter().enumerate() {
        for id in node.uses().chain(node.outputs.iter().flatten().copied()) {
            last_use[id.index()] = step;
        }
    }
    let (mut requests, mut owners): (Vec<Request>, Vec<Owner>) = (Vec::new(), Vec::new());
    let mut request_of: HashMap<ValueId, usize> = HashMap::new();
    for (step, node) in program.nodes().iter().enumerate() {
        for (position, &id) in node.outputs.iter().enumerate() {
            let Some(id) = id.filter(|id| !places.contains_key(id)) else { continue };
            let mut request = Request::new(program.values()[id.index()].bytes(), step, last_use[id.index()]);
            request.alignment = ALIGNMENT;
            if position == 0 {
                let ends_here = |id: ValueId| last_use[id.index()] == step;
                request.in_place_of = takeovers(program, node, id, kernels[step].in_place(), ends_here, &request_of);
            }
            request_of.insert(id, requests.len());
            requests.push(request);
            owners.push(Owner::Value(id));
        }
        let bytes = kernels[step].workspace();
        if bytes > 0 {
            requests.push(Request { bytes, alignment: ALIGNMENT, first: step, last: step, in_place_of: vec![] });
            owners.push(Owner::Workspace(step));
        }
    }
    (requests, owners)
}

/// Inputs whose memory the first output may take over: those that operator and kernel allow, of the same size, read once by this node
/// and by no later one.
fn takeovers(
    program: &Program,
    node: &Node,
    output: ValueId,
    kernel_allows: &[usize],
    ends_here: impl Fn(ValueId) -> bool,
    request_of: &HashMap<ValueId, usize>,
) -> Vec<usize> {
    let allowed = Standard.find(&node.operator).map_or(&[][..], |definition| definition.in_place);
    let bytes = program.values()[output.index()].bytes();
    allowed
        .iter()
        .filter(|index| kernel_allows.contains(index))
        .filter_map(|&index| node.inputs.get(index).copied().flatten())
        .filter(|&input| ends_here(input) && node.uses().filter(|&id| id == input).count() == 1)
        .filter(|input| program.values()[input.index()].bytes() == bytes)
        .filter_map(|input| request_of.get(&input).copied())
        .collect()
}
