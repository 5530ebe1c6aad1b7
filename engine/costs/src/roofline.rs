//! The roofline: costs by a node's operations and bytes, and by what drivers say of their devices.

use std::sync::Arc;

use hetero_hal::{DeviceInfo, Dim, Node, NodeId, OperatorSet, Program, ProgramValue, Quality, TensorType, ValueId};

use crate::model::CostModel;

/// The roofline as a cost model: operations over peak rate or bytes over bandwidth, whichever is
/// longer, by what drivers say of their devices.
/// It is a first guess until devices are measured.
pub struct Roofline {
    /// The definitions of operators, for their counts of operations.
    pub operators: Arc<dyn OperatorSet>,
}

/// The rates of a device of which nothing is known, in operations and in bytes per second.
const FLOPS: f64 = 1e10;
const BANDWIDTH: f64 = 1e10;
/// The time that it takes to start a kernel, in seconds.
const START: f64 = 2e-6;
/// The factor by which a kernel that its device calls slow takes longer.
const SLOW: f64 = 20.0;

/// The types of a node's values, in memory that serves one node after the other.
#[derive(Default)]
struct Types {
    inputs: Vec<Option<TensorType>>,
    outputs: Vec<TensorType>,
}

impl Types {
    /// Counts the floating-point operations of a node, a multiply-add as two.
    fn flops(&mut self, program: &Program, node: &Node, operators: &dyn OperatorSet) -> u64 {
        let Some(definition) = operators.find(&node.operator) else { return 0 };
        let value = |id: &Option<ValueId>| id.as_ref().and_then(|id| program.values().get(id.index()));
        self.inputs.resize_with(node.inputs.len(), Option::default);
        for (ty, id) in self.inputs.iter_mut().zip(&node.inputs) {
            match value(id) {
                Some(value) => become_exact(ty.get_or_insert_default(), value),
                None => *ty = None,
            }
        }
        self.outputs.resize_with(node.outputs.len(), TensorType::default);
        for (ty, id) in self.outputs.iter_mut().zip(&node.outputs) {
            match value(id) {
                Some(value) => become_exact(ty, value),
                None => *ty = TensorType::default(),
            }
        }
        (definition.flops)(&node.operator, &self.inputs, &self.outputs)
    }
}

/// Makes a type that of a value whose every dimension has its bound.
fn become_exact(ty: &mut TensorType, value: &ProgramValue) {
    ty.dtype = Some(value.dtype);
    let dims = ty.dims.get_or_insert_default();
    dims.clear();
    dims.extend(value.shape.iter().map(|&size| Dim::Known(size)));
}

/// Returns the floating-point operations of a node; a multiply-add counts as two.
#[must_use]
pub fn flops(program: &Program, node: &Node, operators: &dyn OperatorSet) -> u64 {
    Types::default().flops(program, node, operators)
}

/// Returns the bytes of a node's inputs, weights and outputs.
#[must_use]
pub fn bytes(program: &Program, node: &Node) -> u64 {
    let touched = node.uses().chain(node.outputs.iter().flatten().copied());
    let sizes = touched.filter_map(|id| program.values().get(id.index())).map(|value| value.bytes() as u64);
    sizes.fold(0, u64::saturating_add)
}

impl Roofline {
    fn seconds_of(flops: u64, bytes: u64, device: &DeviceInfo, quality: &Quality) -> f64 {
        let compute = flops as f64 / device.peak_flops.unwrap_or(FLOPS);
        let memory = bytes as f64 / device.peak_bandwidth.unwrap_or(BANDWIDTH);
        let factor = if *quality == Quality::Native { 1.0 } else { SLOW };
        START + factor * compute.max(memory)
    }
}

impl CostModel for Roofline {
    fn seconds(&self, program: &Program, node: &Node, device: &DeviceInfo, quality: &Quality) -> f64 {
        let flops = flops(program, node, &*self.operators);
        Roofline::seconds_of(flops, bytes(program, node), device, quality)
    }

    fn all(&self, program: &Program, nodes: &[(NodeId, &Quality)], device: &DeviceInfo) -> Vec<f64> {
        let mut types = Types::default();
        let mut of = |&(id, quality): &(NodeId, &Quality)| {
            let Some(node) = program.nodes().get(id.index()) else { return 0.0 };
            let flops = types.flops(program, node, &*self.operators);
            Roofline::seconds_of(flops, bytes(program, node), device, quality)
        };
        nodes.iter().map(&mut of).collect()
    }
}
