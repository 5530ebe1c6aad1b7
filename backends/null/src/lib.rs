//! The null device: a whole backend with only the parts that every backend needs, to be cloned.
//! Its README says how to make another backend of it.
//!
//! It lives in ordinary memory behind a lock, and runs work on the thread that reaches the last
//! point that the work waits for.
//! It takes two operators, Identity and Relu on f32.
//! It has no `unsafe`, no thread and no clock.
//!
//! ```
//! use hetero_hal::{BufferLayout, Driver, OpenOptions};
//! use hetero_null::NullDriver;
//!
//! let device = NullDriver.open(0, &OpenOptions::default())?;
//! device.allocate(BufferLayout::new(4))?.write(0, &[1, 2, 3, 4])?;
//! # Ok::<(), hetero_hal::Error>(())
//! ```

#![forbid(unsafe_code)]

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use hetero_hal::{
    BindingInfo, Buffer, BufferLayout, Capabilities, Claim, CompileOptions, DType, Device, DeviceId, DeviceInfo,
    DeviceKind, Driver, Error, Executable, Execution, ExternalMemory, HostSemantics, Memory, MemoryKind, Node, NodeId,
    OpenOptions, Operation, Point, Program, Queue, QueueOptions, Result, Source, Unavailable, ValueId, Work,
};
use hetero_kit::{copy_through_host, fill_through_host, run_on_host};

/// A driver that finds and opens null devices.
pub struct NullDriver;

impl Driver for NullDriver {
    fn name(&self) -> &str {
        "null"
    }

    fn probe(&self) -> Result<Vec<DeviceInfo>, Unavailable> {
        let info = |ordinal| {
            let mut info = DeviceInfo::new(DeviceId::new("null", ordinal), DeviceKind::Other, "null").hosted();
            info.vendor = "hetero".into();
            info.driver_version = "0".into();
            info.memory_bytes = Some(1 << 20);
            info.emulated = true;
            info
        };
        Ok(vec![info(0), info(1)])
    }

    fn open(&self, ordinal: usize, _: &OpenOptions) -> Result<Arc<dyn Device>> {
        let info = self.probe().unwrap_or_default().into_iter().nth(ordinal);
        let info = info.ok_or_else(|| Error::invalid_argument(format!("there is no null:{ordinal}")))?;
        Ok(Arc::new(NullDevice { info, capabilities: Capabilities::new(vec![DType::F32]) }))
    }
}

struct NullDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
}

/// Tells whether the device takes a node.
fn takes(program: &Program, node: &Node) -> bool {
    let touched = node.uses().chain(node.outputs.iter().flatten().copied());
    let plain = |id: ValueId| program.value(id).is_ok_and(|value| value.dtype == DType::F32 && !value.is_dynamic());
    (node.operator.is("Relu") || node.operator.is("Identity")) && touched.into_iter().all(plain)
}

impl Device for NullDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn claims(&self, program: &Program) -> Vec<Claim> {
        let taken = program.node_ids().filter(|(_, node)| takes(program, node));
        taken.map(|(id, _)| Claim::native(id)).collect()
    }

    fn refusal(&self, program: &Program, node: NodeId) -> Option<String> {
        let node = program.nodes().get(node.index()).filter(|node| !takes(program, node));
        node.map(|_| "it is neither Relu nor Identity on f32 of exact sizes".into())
    }

    fn allocate(&self, layout: BufferLayout) -> Result<Buffer> {
        let memory = Arc::new(NullMemory(Mutex::new(vec![0; layout.bytes])));
        Ok(Buffer::new(self.info.id.clone(), MemoryKind::Host, layout.bytes, memory))
    }

    fn import(&self, memory: ExternalMemory, _: HostSemantics) -> Result<Buffer> {
        Err(Error::unsupported(format!("import of {memory:?}")).on(self.info.id.clone()))
    }

    fn queue(&self, _: &QueueOptions) -> Result<Arc<dyn Queue>> {
        Ok(Arc::new(NullQueue))
    }

    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>> {
        options.check()?;
        let Source::Program(program) = source else {
            return Err(Error::unsupported("raw kernels").on(self.info.id.clone()));
        };
        if let Some((id, node)) = program.node_ids().find(|(_, node)| !takes(program, node)) {
            return Err(Error::unsupported("this operator").on(self.info.id.clone()).at_node(id, node.to_string()));
        }
        Ok(Arc::new(NullExecutable { bindings: BindingInfo::of(program), program: program.clone() }))
    }
}

struct NullMemory(Mutex<Vec<u8>>);

impl Memory for NullMemory {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = bytes.get(offset..offset + into.len());
        into.copy_from_slice(from.ok_or_else(|| Error::invalid_argument("outside the memory"))?);
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let into = bytes.get_mut(offset..offset + from.len());
        into.ok_or_else(|| Error::invalid_argument("outside the memory"))?.copy_from_slice(from);
        Ok(())
    }
}

struct NullExecutable {
    program: Program,
    bindings: Vec<BindingInfo>,
}

impl Executable for NullExecutable {
    fn bindings(&self) -> &[BindingInfo] {
        &self.bindings
    }

    fn scratch(&self) -> BufferLayout {
        BufferLayout::default()
    }
}

impl NullExecutable {
    fn run(&self, execution: &Execution) -> Result<()> {
        let mut values: Vec<Vec<f32>> = vec![Vec::new(); self.program.values().len()];
        for (value, content) in values.iter_mut().zip(self.program.values()) {
            if let Some(constant) = &content.constant {
                *value = constant.view::<f32>()?.into_owned();
            }
        }
        let bound = execution.bindings.lock();
        for (id, buffer) in self.program.inputs().iter().zip(bound.iter()) {
            let mut bytes = vec![0; self.program.value(*id)?.bytes()];
            buffer.read(0, &mut bytes)?;
            values[id.index()] = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        }
        for node in self.program.nodes() {
            if let (Some(Some(input)), Some(Some(output))) = (node.inputs.first(), node.outputs.first()) {
                let relu = node.operator.is("Relu");
                let result = values[input.index()].iter().map(|&x| if relu && x < 0.0 { 0.0 } else { x }).collect();
                values[output.index()] = result;
            }
        }
        let outputs = bound.iter().skip(self.program.inputs().len());
        for (id, buffer) in self.program.outputs().iter().zip(outputs) {
            let bytes: Vec<u8> = values[id.index()].iter().flat_map(|value| value.to_le_bytes()).collect();
            buffer.write(0, &bytes)?;
        }
        Ok(())
    }
}

/// A queue that runs work on the thread that reaches the last point that the work waits for.
struct NullQueue;

impl Queue for NullQueue {
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        work.check()?;
        if let Operation::Execute(execution) = &work.operation {
            let executable: &dyn Any = &*execution.executable;
            let executable = executable.downcast_ref::<NullExecutable>();
            let executable = executable.ok_or_else(|| Error::invalid_argument("another device's executable"))?;
            BindingInfo::check(executable.bindings(), &execution.bindings.lock())?;
        }
        let signal = signal.to_vec();
        let run = move |outcome: Result<()>| Point::settle(&signal, &outcome.and_then(|()| perform(&work)));
        Point::when_all(wait, Box::new(run));
        Ok(())
    }
}

fn perform(work: &Work) -> Result<()> {
    match &work.operation {
        Operation::Copy { source, target } => copy_through_host(source, target),
        Operation::Fill { target, pattern } => fill_through_host(target, pattern),
        Operation::Host(task) => run_on_host(&**task),
        Operation::Execute(execution) => {
            let executable: &dyn Any = &*execution.executable;
            match executable.downcast_ref::<NullExecutable>() {
                Some(executable) => executable.run(execution),
                None => Err(Error::internal("another device's executable")),
            }
        }
        other => Err(Error::unsupported(format!("{other:?}"))),
    }
}
