//! Partitions, compiled: what each runs on, reads and writes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_hal::{
    BindingInfo, CompileOptions, Device, Direction, Error as HalError, Executable, NodeId, Program, Source, ValueId,
};

use crate::{Error, HeteroEngine, Result};

/// A partition on its device.
pub(super) struct Partition {
    /// Position among the session's devices.
    pub(super) device: usize,
    pub(super) executable: Arc<dyn Executable>,
    /// The value of each binding.
    pub(super) bindings: Vec<(ValueId, Direction)>,
}

/// A plan, compiled.
pub(super) struct Compiled {
    /// The devices that it uses, in the engine's order.
    pub(super) devices: Vec<Arc<dyn Device>>,
    /// In the plan's order.
    pub(super) partitions: Vec<Partition>,
}

/// Compiles a plan.
///
/// # Errors
/// `UnknownDevice` where the plan uses a device that was not added; `Device` where one cannot compile, with its id.
pub(super) fn compile(engine: &HeteroEngine, program: &Program, plan: &hetero_scheduler::Plan) -> Result<Compiled> {
    let mut used = Vec::with_capacity(plan.partitions.len());
    for partition in &plan.partitions {
        used.push(engine.position(&partition.device).ok_or_else(|| Error::UnknownDevice {
            device: partition.device.clone(),
            reason: "the plan uses it, but it was not added".to_owned(),
        })?);
    }
    let mut places = used.clone();
    places.sort_unstable();
    places.dedup();
    let devices: Vec<Arc<dyn Device>> = places.iter().map(|&place| engine.devices()[place].clone()).collect();
    let node_of: HashMap<&str, NodeId> = program.node_ids().map(|(id, node)| (&*node.name, id)).collect();
    let value_of: HashMap<&str, ValueId> =
        (0u32..).map(ValueId).zip(program.values()).map(|(id, value)| (&*value.name, id)).collect();
    let mut partitions = Vec::with_capacity(used.len());
    for (number, (partition, place)) in plan.partitions.iter().zip(used).enumerate() {
        let device = places.iter().position(|&other| other == place).unwrap_or_default();
        let nodes: Vec<NodeId> = partition.tasks.iter().filter_map(|task| node_of.get(&**task).copied()).collect();
        let part = program.extract(&format!("{}#{number}", program.name()), &nodes)?;
        let executable = compile_one(&devices[device], &part, engine.run_deadline())?;
        let binding = |info: &BindingInfo| match value_of.get(&*info.name) {
            Some(&value) => Ok((value, info.direction)),
            None => Err(HalError::internal(format!("a partition binds the unknown value '{}'", info.name))),
        };
        let bindings = executable.bindings().iter().map(binding).collect::<std::result::Result<_, _>>()?;
        partitions.push(Partition { device, executable, bindings });
    }
    Ok(Compiled { devices, partitions })
}

/// Compiles a partition. An error says which device it is of.
fn compile_one(device: &Arc<dyn Device>, program: &Program, deadline: Duration) -> Result<Arc<dyn Executable>> {
    let options = CompileOptions { deadline: Some(Instant::now() + deadline), ..CompileOptions::default() };
    let executable = device.compile(Source::Program(program), &options).map_err(|error| named(error, &**device))?;
    let expected = BindingInfo::of(program);
    if executable.bindings() != expected {
        return Err(HalError::internal("the executable's bindings are not the program's")
            .on(device.info().id.clone())
            .into());
    }
    Ok(executable)
}

/// The error with the device's id, unless it names one.
pub(super) fn named(error: HalError, device: &dyn Device) -> HalError {
    error.or_on(&device.info().id)
}
