//! Compiled programs: kernels with their arguments, launched in order.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use hetero_hal::{
    BindingInfo, Buffer, BufferLayout, CompileOptions, Error, Executable, Execution, KernelSignature, Program, Result,
    Tensor, TraceKind, Weight, distinct_weights,
};
use hetero_kernels::{BufferRange, FaultWords, Place, Target};
use hetero_kit::{Command, ConstantNames, Held, check_bound};

use crate::handle::{CommandQueue, Event, Kernel, Mem};
use crate::memory::OpenClMemory;
use crate::program::Built;
use crate::shared::Shared;

/// One launch of a kernel.
struct Launch {
    kernel: Kernel,
    name: String,
    nodes: Vec<Arc<str>>,
    buffers: Vec<BufferRange>,
    /// The memory that each buffer argument is set to now.
    /// A weak reference tells memory that has gone from memory that has taken over its handle.
    set: Vec<Weak<Mem>>,
    groups: [u32; 3],
    items: [u32; 3],
}

/// A compiled program or kernel.
pub(crate) struct OpenClExecutable {
    bindings: Vec<BindingInfo>,
    /// The launches, under a lock because a kernel's arguments are its state.
    launches: Mutex<Vec<Launch>>,
    constants: Vec<Arc<Held<Buffer>>>,
    scratch: BufferLayout,
    /// What the kernels may find wrong in a run.
    faults: FaultWords,
    /// The built program that the launches' kernels belong to; `None` where there is no launch.
    built: Option<Built>,
    /// Whether no launch has more than one group.
    single: bool,
    /// Whether there is a launch.
    has_launches: bool,
    shared: Arc<Shared>,
}

/// Tells whether no launch has more than one group.
fn single(launches: &[Launch]) -> bool {
    launches.iter().all(|launch| launch.groups == [1, 1, 1])
}

impl OpenClExecutable {
    pub(crate) fn program(
        shared: &Arc<Shared>,
        program: &Program,
        target: &Target,
        options: &CompileOptions,
    ) -> Result<Self> {
        options.check()?;
        let lowered = hetero_kernels::lower(program, target)?;
        let source = lowered.source();
        let mut launches = Vec::with_capacity(lowered.launches.len());
        let mut of_source = None;
        if !lowered.launches.is_empty() {
            let built = shared.library.program(&shared.context, &source, options.cached.as_deref())?;
            options.check()?;
            for launch in &lowered.launches {
                let of =
                    lowered.kernels.get(launch.kernel).ok_or_else(|| Error::internal("a launch without a kernel"))?;
                let kernel = Kernel::new(&built.program, &of.entry)?;
                for (index, &bits) in launch.numbers.iter().enumerate() {
                    kernel.set_number(of.buffers.len() + index, bits)?;
                }
                let name = |id: &hetero_hal::NodeId| program.nodes().get(id.index()).map(|node| node.name.clone());
                launches.push(Launch {
                    kernel,
                    name: of.entry.split('_').next().unwrap_or_default().to_owned(),
                    nodes: launch.nodes.iter().filter_map(name).collect(),
                    set: launch.buffers.iter().map(|_| Weak::new()).collect(),
                    buffers: launch.buffers.clone(),
                    groups: launch.groups,
                    items: [of.items, 1, 1],
                });
            }
            of_source = Some(built);
        }
        let mut constants = Vec::with_capacity(lowered.constants.len());
        let names = ConstantNames::of(program);
        for content in &lowered.constants {
            options.check()?;
            let device = shared.clone();
            let upload = move |sources: &[Tensor]| {
                let buffer = OpenClMemory::allocate(&device, sources[0].bytes().len())?;
                buffer.write(0, sources[0].bytes())?;
                Ok(buffer)
            };
            let source = std::slice::from_ref(content);
            constants.push(shared.weights.get(names.find(content), source, "uploaded", upload)?);
        }
        Ok(OpenClExecutable {
            bindings: BindingInfo::of(program),
            single: single(&launches),
            has_launches: !launches.is_empty(),
            launches: Mutex::new(launches),
            constants,
            scratch: BufferLayout { bytes: lowered.scratch, alignment: target.alignment },
            faults: FaultWords::new(lowered.faults),
            built: of_source,
            shared: shared.clone(),
        })
    }

    /// Compiles a kernel in OpenCL C that the caller has written.
    pub(crate) fn kernel(
        shared: &Arc<Shared>,
        code: &[u8],
        signature: &KernelSignature,
        options: &CompileOptions,
    ) -> Result<Self> {
        let source =
            std::str::from_utf8(code).map_err(|_| Error::invalid_argument("the kernel's source is no text"))?;
        let local = signature.local.unwrap_or([1, 1, 1]);
        let fits = (0..3).all(|axis| local[axis] > 0 && signature.global[axis].is_multiple_of(local[axis]));
        if !fits || signature.global.contains(&0) {
            return Err(Error::invalid_argument(format!(
                "{:?} work items are no whole number of groups of {local:?}",
                signature.global
            )));
        }
        let built = shared.library.program(&shared.context, source, options.cached.as_deref())?;
        let whole = |(position, info): (usize, &BindingInfo)| BufferRange {
            place: Place::Binding(position),
            offset: 0,
            bytes: info.bytes.max(1),
        };
        let buffers: Vec<BufferRange> = signature.bindings.iter().enumerate().map(whole).collect();
        let launch = Launch {
            kernel: Kernel::new(&built.program, &signature.entry)?,
            name: signature.entry.clone(),
            nodes: vec![],
            set: buffers.iter().map(|_| Weak::new()).collect(),
            buffers,
            groups: [0, 1, 2].map(|axis| signature.global[axis] / local[axis]),
            items: local,
        };
        Ok(OpenClExecutable {
            bindings: signature.bindings.clone(),
            single: single(std::slice::from_ref(&launch)),
            has_launches: true,
            launches: Mutex::new(vec![launch]),
            constants: vec![],
            scratch: BufferLayout::default(),
            faults: FaultWords::default(),
            built: Some(built),
            shared: shared.clone(),
        })
    }

    /// Tells whether the executable belongs to this device object.
    pub(crate) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// Tells whether there is work for the driver.
    pub(crate) fn launches(&self) -> bool {
        self.has_launches
    }

    /// Tells whether one thread would do all of the work anyway, because a group is not divided
    /// among threads.
    pub(crate) fn single(&self) -> bool {
        self.single
    }

    /// Returns a word for the faults of one run, or `None` where the kernels find none.
    pub(crate) fn word(&self) -> Result<Option<Buffer>> {
        self.faults.take(|| OpenClMemory::allocate(&self.shared, 4))
    }

    /// Takes back the word of a run that is over.
    ///
    /// # Errors
    /// The fault that the kernels have found.
    pub(crate) fn examine(&self, word: Buffer) -> Result<()> {
        self.faults.examine(word)
    }

    /// Gives all launches to a queue, the first one behind the events, and returns the last one's
    /// event, if there is a launch.
    /// `bound` holds the run's buffers, the scratch memory last, and `word` is for its faults.
    /// A weight that is evicted while launches are under way is freed after them: by the standard,
    /// commands keep the memory objects that they use.
    pub(crate) fn enqueue(
        &self,
        execution: &Execution,
        bound: &[Buffer],
        word: Option<&Buffer>,
        queue: &CommandQueue,
        events: &[Arc<Event>],
        mut trace: Option<&mut Vec<Launched>>,
    ) -> Result<Option<Arc<Event>>> {
        let buffers = bound.get(..self.bindings.len()).unwrap_or_default();
        let owns = |memory: &OpenClMemory| memory.is_of(&self.shared);
        check_bound(&self.bindings, buffers, owns, |memory| !memory.is_constant())?;
        let constants = self.constants.iter().map(|constant| constant.value()).collect::<Result<Vec<_>>>()?;
        let mut launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = None;
        let mut events = events;
        for launch in launches.iter_mut() {
            for (index, range) in launch.buffers.iter().enumerate() {
                let memory = memory(execution, (bound, word), &constants, range)?;
                if !std::ptr::eq(launch.set[index].as_ptr(), Arc::as_ptr(&memory)) {
                    // Where the call fails, nothing is known of the argument.
                    launch.set[index] = Weak::new();
                    launch.kernel.set_memory(index, &memory)?;
                    launch.set[index] = Arc::downgrade(&memory);
                }
            }
            let event = queue.launch(&launch.kernel, launch.groups, launch.items, events);
            let event = event.map_err(|error| error.at(launch.nodes.first().map_or(&*launch.name, |node| node)))?;
            // The queue orders the launches behind the first one.
            events = &[];
            let event = Arc::new(event);
            if let Some(trace) = &mut trace {
                let (name, nodes) = (launch.name.clone(), launch.nodes.clone());
                trace.push(Launched { event: event.clone(), kind: TraceKind::Kernel, name, nodes, bytes: 0 });
            }
            last = Some(event);
        }
        Ok(last)
    }
}

/// Returns the memory that a launch binds.
fn memory(
    execution: &Execution,
    (bound, word): (&[Buffer], Option<&Buffer>),
    constants: &[Arc<Buffer>],
    range: &BufferRange,
) -> Result<Arc<Mem>> {
    let buffer = match range.place {
        Place::Binding(position) => bound.get(position),
        Place::Scratch => execution.scratch.as_ref(),
        Place::Constant(number) => constants.get(number).map(|constant| &**constant),
        Place::Fault => word,
    };
    let buffer = buffer.ok_or_else(|| Error::internal("a launch binds what is not there"))?;
    let memory = buffer.memory::<OpenClMemory>().ok_or_else(|| Error::internal("foreign memory"))?;
    memory.range(buffer.offset() + range.offset, range.bytes)
}

/// A command of a traced job.
pub(crate) struct Launched {
    pub(crate) event: Arc<Event>,
    pub(crate) kind: TraceKind,
    pub(crate) name: String,
    pub(crate) nodes: Vec<Arc<str>>,
    pub(crate) bytes: u64,
}

impl Launched {
    /// Describes a command that is no kernel of an executable.
    pub(crate) fn command(event: Arc<Event>, command: &Command<OpenClExecutable>) -> Self {
        let (kind, name, bytes) = command.described();
        Launched { event, kind, name: name.to_owned(), nodes: vec![], bytes }
    }
}

impl Executable for OpenClExecutable {
    fn bindings(&self) -> &[BindingInfo] {
        &self.bindings
    }

    fn scratch(&self) -> BufferLayout {
        self.scratch
    }

    fn serialize(&self) -> Result<Vec<u8>> {
        let nothing = || Error::unsupported("this executable launches no kernel, so there is no binary");
        let built = self.built.as_ref().ok_or_else(nothing);
        built.and_then(|built| self.shared.library.serialize(built)).map_err(|error| error.or_on(&self.shared.id))
    }

    fn weights(&self) -> Vec<Arc<dyn Weight>> {
        distinct_weights(self.constants.iter().cloned().map(|weight| weight as Arc<dyn Weight>))
    }
}
