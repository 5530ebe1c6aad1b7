//! Compiled programs: dispatches in order, recorded into one command buffer for each run.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hetero_hal::{
    BindingInfo, Buffer, BufferLayout, CompileOptions, Error, ErrorKind, Executable, Execution, KernelSignature,
    Memory, MemoryKind, Program, Result, Tensor, Weight, distinct_weights,
};
use hetero_kernels::{BufferRange, FaultWords, Place};
use hetero_kit::{ConstantNames, Held, Resident, Weights, check_bound};

use crate::context::Context;
use crate::memory::WgpuMemory;
use crate::pipelines::{Pipeline, Text};
use crate::stamps::{Names, Stamps};

/// The bytes of small constants that share a buffer.
const SHARED: usize = 16 << 20;
/// The size in bytes from which on a constant has a buffer of its own.
/// So executables that differ in their small constants share the large ones.
const LARGE: usize = 64 << 10;
/// The number of sets of bindings whose bind groups are kept.
const PREPARED: usize = 8;

/// One dispatch.
struct Step {
    pipeline: Arc<Pipeline>,
    buffers: Vec<BufferRange>,
    /// The first byte and the length of the dispatch's numbers in the buffer of numbers.
    numbers: Option<(u64, u64)>,
    groups: [u32; 3],
    /// The names of the nodes that the dispatch does; the kernel's name follows.
    nodes: Vec<Arc<str>>,
    name: String,
}

/// The buffers, scratch and constants that one run binds.
struct Bound<'a> {
    buffers: &'a [Buffer],
    scratch: Option<&'a Buffer>,
    /// The word of the run's faults, where its kernels find any.
    word: Option<&'a Buffer>,
    constants: &'a [Arc<Uploaded>],
}

impl<'a> Bound<'a> {
    /// Returns the buffers, the scratch and the word, by which prepared bind groups are found.
    fn table(&self) -> impl Iterator<Item = &'a Buffer> + use<'a> {
        self.buffers.iter().chain(self.scratch).chain(self.word)
    }
}

/// A run that the device has been given.
pub(crate) struct Submitted {
    pub(crate) index: wgpu::SubmissionIndex,
    /// The timestamps of a traced run, and the names of the dispatches that they belong to.
    pub(crate) stamps: Option<(Stamps, Vec<Names>)>,
    /// The buffers that the run uses, which live on even where the binding table changes.
    pub(crate) held: Vec<Buffer>,
    /// The word of the run's faults, where its kernels find any.
    pub(crate) word: Option<Buffer>,
}

/// The bind groups of all steps for one set of bindings.
struct Prepared {
    /// The memory and first byte of each binding and of the scratch memory.
    key: Vec<(u64, usize)>,
    /// The identities of the constants' memory, which change when constants come back after an
    /// eviction.
    constants: Vec<u64>,
    groups: Vec<wgpu::BindGroup>,
}

/// Constants in one buffer of the device.
pub(crate) struct Uploaded(WgpuMemory);

impl Resident for Uploaded {
    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl Drop for Uploaded {
    fn drop(&mut self) {
        // Bind groups that were prepared for this buffer would keep it alive.
        // The device frees it once no work under way uses it.
        self.0.buffer.destroy();
    }
}

/// A program or kernel compiled for a wgpu device.
pub(crate) struct WgpuExecutable {
    context: Arc<Context>,
    bindings: Vec<BindingInfo>,
    steps: Vec<Step>,
    /// The memories that hold the constants; for each constant, `constants` has its memory and
    /// first byte.
    memories: Vec<Arc<Held<Uploaded>>>,
    constants: Vec<(usize, usize)>,
    /// The numbers of all steps.
    numbers: Option<WgpuNumbers>,
    scratch: usize,
    /// What the kernels may find wrong in a run.
    faults: FaultWords,
    /// The prepared bind groups, the most recently used ones last.
    prepared: Mutex<Vec<Arc<Prepared>>>,
}

/// The numbers of all steps, in a uniform buffer.
struct WgpuNumbers(wgpu::Buffer);

impl WgpuExecutable {
    /// Compiles a program whose constants are among the device's weights.
    pub(crate) fn compile(
        context: &Arc<Context>,
        weights: &Weights<Uploaded>,
        program: &Program,
        options: &CompileOptions,
    ) -> Result<Self> {
        options.check()?;
        let lowered = hetero_kernels::lower(program, &context.target)?;
        let mut pipelines = Vec::with_capacity(lowered.kernels.len());
        for (number, kernel) in lowered.kernels.iter().enumerate() {
            options.check()?;
            let text = Text {
                code: kernel.code.clone(),
                entry: kernel.entry.clone(),
                buffers: kernel.buffers.len(),
                numbers: kernel.numbers > 0,
                own: true,
            };
            pipelines.push(context.pipelines.get(&context.gpu, text).map_err(|error| {
                // The error names the first node that needs the kernel, so that the engine can plan
                // without it.
                let first = lowered.launches.iter().find(|launch| launch.kernel == number);
                let id = first.and_then(|launch| launch.nodes.last().copied());
                let node = id.and_then(|id| Some((id, program.nodes().get(id.index())?)));
                node.map_or(error.clone(), |(id, node)| error.at_node(id, node.to_string()))
            })?);
        }
        let (memories, constants) = upload((context, weights), program, &lowered.constants, options)?;
        let align = context.gpu.device.limits().min_uniform_buffer_offset_alignment as usize;
        let mut content: Vec<u8> = Vec::new();
        let mut steps = Vec::with_capacity(lowered.launches.len());
        for launch in lowered.launches {
            let pipeline = pipelines[launch.kernel].clone();
            let numbers = (!launch.numbers.is_empty()).then(|| {
                content.resize(content.len().next_multiple_of(align), 0);
                let offset = content.len() as u64;
                content.extend(launch.numbers.iter().flat_map(|number| number.to_le_bytes()));
                // Some drivers want uniform data in whole vectors.
                content.resize(content.len().next_multiple_of(16), 0);
                (offset, content.len() as u64 - offset)
            });
            let nodes = launch.nodes.iter().filter_map(|id| Some(program.nodes().get(id.index())?.name.clone()));
            steps.push(Step {
                pipeline,
                buffers: launch.buffers,
                numbers,
                groups: launch.groups,
                nodes: nodes.collect(),
                name: lowered.kernels[launch.kernel].entry.clone(),
            });
        }
        let numbers = if content.is_empty() { None } else { Some(WgpuNumbers::new(context, &content)?) };
        Ok(WgpuExecutable {
            context: context.clone(),
            bindings: BindingInfo::of(program),
            steps,
            memories,
            constants,
            numbers,
            scratch: lowered.scratch,
            faults: FaultWords::new(lowered.faults),
            prepared: Mutex::default(),
        })
    }

    /// Compiles a kernel that the caller has written.
    pub(crate) fn kernel(context: &Arc<Context>, code: &[u8], signature: &KernelSignature) -> Result<Self> {
        let code = std::str::from_utf8(code).map_err(|error| {
            Error::new(ErrorKind::Compile, "the kernel is no text").at(signature.entry.clone()).caused_by(error)
        })?;
        let local = signature.local.filter(|local| local.iter().all(|&items| items > 0)).ok_or_else(|| {
            Error::invalid_argument("a WGSL kernel's work group is missing from its signature")
                .at(signature.entry.clone())
                .with_remedy("set `local` to what the text has as `@workgroup_size`")
        })?;
        let text = Text {
            code: code.to_owned(),
            entry: signature.entry.clone(),
            buffers: signature.bindings.len(),
            numbers: false,
            own: false,
        };
        let pipeline = context.pipelines.get(&context.gpu, text).map_err(|error| error.at(signature.entry.clone()))?;
        let groups = std::array::from_fn(|axis| signature.global[axis].div_ceil(local[axis]));
        let most = context.target.groups;
        if let Some(&count) = groups.iter().find(|&&count| count > most) {
            return Err(Error::invalid_argument(format!("{count} work groups along a dimension, of at most {most}"))
                .at(signature.entry.clone()));
        }
        if let Some(binding) = signature.bindings.iter().find(|info| info.bytes == 0) {
            return Err(
                Error::invalid_argument(format!("the binding '{}' is empty", binding.name)).at(signature.entry.clone())
            );
        }
        let whole = |(position, info): (usize, &BindingInfo)| BufferRange {
            place: Place::Binding(position),
            offset: 0,
            bytes: info.bytes,
        };
        let buffers = signature.bindings.iter().enumerate().map(whole).collect();
        Ok(WgpuExecutable {
            context: context.clone(),
            bindings: signature.bindings.clone(),
            steps: vec![Step {
                pipeline,
                buffers,
                numbers: None,
                groups,
                nodes: vec![],
                name: signature.entry.clone(),
            }],
            memories: vec![],
            constants: vec![],
            numbers: None,
            scratch: 0,
            faults: FaultWords::default(),
            prepared: Mutex::default(),
        })
    }

    /// Tells whether the executable was compiled for this device.
    pub(crate) fn is_of(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.context, context)
    }

    /// Checks for a caller's mistakes.
    pub(crate) fn check(&self, execution: &Execution, buffers: &[Buffer]) -> Result<()> {
        let alignment = self.context.alignment;
        let misplaced = |buffer: &Buffer, name: &str| {
            if buffer.offset().is_multiple_of(alignment) {
                return Ok(());
            }
            let text = format!("'{name}' begins at byte {} of its memory", buffer.offset());
            Err(Error::invalid_argument(text).with_remedy(format!("place it at a multiple of {alignment}")))
        };
        for (info, buffer) in self.bindings.iter().zip(buffers).filter(|(info, _)| info.bytes > 0) {
            misplaced(buffer, &info.name)?;
        }
        execution.scratch.as_ref().map_or(Ok(()), |scratch| misplaced(scratch, "the scratch memory"))
    }

    /// Returns a word for the faults of one run, or `None` where the kernels find none.
    fn word(&self) -> Result<Option<Buffer>> {
        self.faults.take(|| {
            let kind = if self.context.mapped { MemoryKind::Shared } else { MemoryKind::Device };
            Ok(WgpuMemory::allocate(&self.context, 4)?.into_buffer(kind))
        })
    }

    /// Takes back the word of a run that is over.
    ///
    /// # Errors
    /// The fault that the kernels have found.
    pub(crate) fn examine(&self, word: Buffer) -> Result<()> {
        self.faults.examine(word)
    }

    /// Records a run and gives it to the device; `None` where there is nothing to do.
    pub(crate) fn submit(&self, execution: &Execution, traced: bool) -> Result<Option<Submitted>> {
        if execution.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::new(ErrorKind::Timeout, "the run's deadline has passed")
                .with_remedy("allow the engine more time"));
        }
        if self.steps.is_empty() {
            return Ok(None);
        }
        let word = self.word()?;
        let used = execution.bindings.lock();
        let table: Vec<Buffer> = used.iter().chain(&execution.scratch).chain(&word).cloned().collect();
        drop(used);
        let buffers = table.get(..self.bindings.len()).unwrap_or_default();
        let owns = |memory: &WgpuMemory| self.context.owns(memory);
        check_bound(&self.bindings, buffers, owns, WgpuMemory::writable)?;
        // The constants are held until the work is submitted; from then on the device keeps them.
        let constants = self.memories.iter().map(|memory| memory.value()).collect::<Result<Vec<_>>>()?;
        let bound = Bound { buffers, scratch: execution.scratch.as_ref(), word: word.as_ref(), constants: &constants };
        let prepared = self.prepare(&bound)?;
        let gpu = &self.context.gpu;
        let mut memories = Vec::with_capacity(table.len());
        for buffer in &table {
            let memory = self.context.memory(buffer)?;
            // A lock that is taken twice could wait for itself.
            if !memories.iter().any(|&other: &&WgpuMemory| other.identity == memory.identity) {
                memories.push(memory);
            }
        }
        // All submissions take the locks in one order, so that none holds a lock that another waits
        // for.
        memories.sort_unstable_by_key(|memory| memory.identity);
        let stamps = if traced { Stamps::new(gpu, self.steps.len())? } else { None };
        let index = gpu.checked("running", || {
            let commands = self.record(&prepared, stamps.as_ref());
            let _unmapped: Vec<_> = memories.iter().map(|memory| memory.submitting()).collect();
            gpu.queue.submit([commands])
        })?;
        let names = |step: &Step| (step.name.clone(), step.nodes.clone());
        let stamps = stamps.map(|stamps| (stamps, self.steps.iter().map(names).collect()));
        Ok(Some(Submitted { index, stamps, held: table, word }))
    }

    /// Records all steps in one command buffer.
    fn record(&self, prepared: &Prepared, stamps: Option<&Stamps>) -> wgpu::CommandBuffer {
        let mut encoder = self.context.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let dispatch = |pass: &mut wgpu::ComputePass<'_>, step: &Step, group: &wgpu::BindGroup| {
            pass.set_bind_group(0, group, &[]);
            let [x, y, z] = step.groups;
            pass.dispatch_workgroups(x, y, z);
        };
        let steps = self.steps.iter().zip(&prepared.groups);
        if let Some(stamps) = stamps {
            for (number, (step, group)) in steps.enumerate() {
                let timestamp_writes = stamps.of(number);
                let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
                let mut pass = encoder.begin_compute_pass(&descriptor);
                pass.set_pipeline(&step.pipeline.pipeline);
                dispatch(&mut pass, step, group);
            }
            stamps.resolve(&mut encoder);
            return encoder.finish();
        }
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            let mut last: *const Pipeline = std::ptr::null();
            for (step, group) in steps {
                if !std::ptr::eq(last, Arc::as_ptr(&step.pipeline)) {
                    pass.set_pipeline(&step.pipeline.pipeline);
                    last = Arc::as_ptr(&step.pipeline);
                }
                dispatch(&mut pass, step, group);
            }
        }
        encoder.finish()
    }

    /// Returns the bind groups for the memory of a run, made anew where no run before had the same
    /// memory.
    fn prepare(&self, bound: &Bound<'_>) -> Result<Arc<Prepared>> {
        let fresh = |prepared: &Prepared| {
            prepared.constants.iter().zip(bound.constants).all(|(&identity, constant)| constant.0.identity == identity)
        };
        let matches = |Prepared { key, .. }: &Prepared| {
            key.len() == bound.table().count()
                && bound.table().zip(key).all(|(buffer, &(identity, offset))| {
                    buffer.offset() == offset
                        && buffer.memory::<WgpuMemory>().is_some_and(|memory| memory.identity == identity)
                })
        };
        let lock = || self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut known = lock();
            known.retain(|prepared| fresh(prepared));
            if let Some(index) = known.iter().rposition(|prepared| matches(prepared)) {
                let found = known.remove(index);
                known.push(found.clone());
                return Ok(found);
            }
        }
        let made = Arc::new(self.bind(bound)?);
        let mut known = lock();
        if known.len() >= PREPARED {
            known.remove(0);
        }
        known.push(made.clone());
        Ok(made)
    }

    fn bind(&self, bound: &Bound<'_>) -> Result<Prepared> {
        let mut key = Vec::with_capacity(bound.buffers.len() + 1);
        for buffer in bound.table() {
            key.push((self.context.memory(buffer)?.identity, buffer.offset()));
        }
        let gpu = &self.context.gpu;
        let mut groups = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let mut entries = Vec::with_capacity(step.buffers.len() + 1);
            for part in &step.buffers {
                let (memory, offset) = self.find(bound, part.place)?;
                let binding = wgpu::BufferBinding {
                    buffer: &memory.buffer,
                    offset: (memory.lead() + offset + part.offset) as u64,
                    // Kernels touch whole words, and buffers consist of whole words.
                    size: wgpu::BufferSize::new(part.bytes.next_multiple_of(4) as u64),
                };
                let resource = wgpu::BindingResource::Buffer(binding);
                entries.push(wgpu::BindGroupEntry { binding: entries.len() as u32, resource });
            }
            if let (Some((offset, bytes)), Some(WgpuNumbers(buffer))) = (step.numbers, &self.numbers) {
                let binding = wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(bytes) };
                let resource = wgpu::BindingResource::Buffer(binding);
                entries.push(wgpu::BindGroupEntry { binding: entries.len() as u32, resource });
            }
            let layout = &step.pipeline.layout;
            let descriptor = wgpu::BindGroupDescriptor { label: None, layout, entries: &entries };
            groups.push(gpu.checked("binding memory", || gpu.device.create_bind_group(&descriptor))?);
        }
        Ok(Prepared { key, constants: bound.constants.iter().map(|constant| constant.0.identity).collect(), groups })
    }

    /// Returns the memory of a place, and where in the memory the place begins.
    fn find<'a>(&'a self, bound: &'a Bound<'_>, place: Place) -> Result<(&'a WgpuMemory, usize)> {
        let missing = || Error::internal(format!("{place:?} has no memory"));
        let buffer = match place {
            Place::Binding(position) => bound.buffers.get(position).ok_or_else(missing)?,
            Place::Scratch => bound.scratch.ok_or_else(missing)?,
            Place::Fault => bound.word.ok_or_else(missing)?,
            Place::Constant(number) => {
                let &(memory, offset) = self.constants.get(number).ok_or_else(missing)?;
                return Ok((&bound.constants.get(memory).ok_or_else(missing)?.0, offset));
            }
        };
        Ok((self.context.memory(buffer)?, buffer.offset()))
    }
}

impl WgpuNumbers {
    fn new(context: &Context, content: &[u8]) -> Result<Self> {
        let gpu = &context.gpu;
        let descriptor = wgpu::BufferDescriptor {
            label: None,
            size: content.len() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        gpu.checked("uploading numbers", || {
            let buffer = gpu.device.create_buffer(&descriptor);
            gpu.queue.write_buffer(&buffer, 0, content);
            WgpuNumbers(buffer)
        })
    }
}

/// The memories, and for each constant the index of its memory and its first byte there.
type Places = (Vec<Arc<Held<Uploaded>>>, Vec<(usize, usize)>);

/// Uploads constants into memory of the device, small ones together.
fn upload(
    (context, weights): (&Arc<Context>, &Weights<Uploaded>),
    program: &Program,
    constants: &[Tensor],
    options: &CompileOptions,
) -> Result<Places> {
    let alignment = context.alignment;
    let mut places = Vec::with_capacity(constants.len());
    let mut groups: Vec<Vec<Tensor>> = Vec::new();
    // The number of the group that small constants are added to, and its size in bytes.
    let mut open: Option<(usize, usize)> = None;
    for tensor in constants {
        let bytes = tensor.bytes().len();
        let begin = open.map(|(group, size)| (group, size.next_multiple_of(alignment)));
        match begin.filter(|(_, begin)| bytes < LARGE && begin + bytes <= SHARED) {
            Some((group, begin)) => {
                places.push((group, begin));
                groups[group].push(tensor.clone());
                open = Some((group, begin + bytes));
            }
            None => {
                places.push((groups.len(), 0));
                if bytes < LARGE {
                    open = Some((groups.len(), bytes));
                }
                groups.push(vec![tensor.clone()]);
            }
        }
    }
    let names = ConstantNames::of(program);
    let mut memories = Vec::with_capacity(groups.len());
    for sources in &groups {
        options.check()?;
        let name = sources.first().map_or("", |tensor| names.find(tensor));
        let device = context.clone();
        let make = move |sources: &[Tensor]| {
            let mut offsets = Vec::with_capacity(sources.len());
            let mut size = 0usize;
            for tensor in sources {
                offsets.push(size.next_multiple_of(alignment));
                size = size.next_multiple_of(alignment) + tensor.bytes().len();
            }
            let memory = WgpuMemory::allocate(&device, size)?;
            for (tensor, offset) in sources.iter().zip(offsets) {
                memory.write(offset, tensor.bytes())?;
            }
            Ok(Uploaded(memory))
        };
        memories.push(weights.get(name, sources, "uploaded", make)?);
    }
    Ok((memories, places))
}

impl Executable for WgpuExecutable {
    fn bindings(&self) -> &[BindingInfo] {
        &self.bindings
    }

    fn scratch(&self) -> BufferLayout {
        BufferLayout { bytes: self.scratch, alignment: self.context.alignment }
    }

    fn weights(&self) -> Vec<Arc<dyn Weight>> {
        distinct_weights(self.memories.iter().cloned().map(|weight| weight as Arc<dyn Weight>))
    }
}
