//! Batches: a program that keeps the rows of its batch apart becomes several programs in one, each
//! of which does some of the rows.
//!
//! Inputs are sliced along axis 0, every node is done once for each part, and the outputs are
//! concatenated.
//! All of this is done by standard operators.
//! Element-wise operators and a short list of others are known to keep rows apart; a program with
//! any other operator is not split.

use std::collections::HashSet;
use std::sync::Arc;

use hetero_hal::{Allowance, Dim, Graph, Node, Program, ProgramValue, Result, Value, ValueId};

use super::{Pass, PassContext, build};
use crate::Family;

/// The operators that work on each row of their first input by itself, with the same weights for
/// all.
const ROWS: [&str; 10] = [
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "LpPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "BatchNormalization",
    "InstanceNormalization",
    "LRN",
];

/// The knowledge of a program while it is looked at.
struct Rows<'a> {
    program: &'a Program,
    batch: usize,
    /// For each value, whether its axis 0 is the batch.
    batched: Vec<bool>,
}

/// Returns the size of a program's batch, where the program keeps rows apart.
///
/// # Errors
/// The reason why the program is not known to keep them apart.
pub(crate) fn batch(program: &Program) -> Result<usize, String> {
    Rows::of(program).map(|rows| rows.batch)
}

impl<'a> Rows<'a> {
    fn of(program: &'a Program) -> Result<Rows<'a>, String> {
        let value = |id: &ValueId| &program.values()[id.index()];
        let first = program.inputs().first().ok_or("the model has no input")?;
        let batch = *value(first).shape.first().ok_or("an input is a single number")?;
        if !program.extents().is_empty() {
            return Err("sizes depend on data".into());
        }
        if let Some(other) = program.inputs().iter().map(value).find(|value| value.shape.first() != Some(&batch)) {
            return Err(format!("input '{}' has another axis 0", other.name));
        }
        let mut rows = Rows { program, batch, batched: vec![false; program.values().len()] };
        for id in program.inputs() {
            rows.batched[id.index()] = true;
        }
        for node in program.nodes() {
            let kept = node.outputs.iter().flatten().all(|id| value(id).shape.first() == Some(&batch));
            if !(kept && rows.keeps(node).unwrap_or(false)) {
                return Err(format!("{node} is not known to keep rows apart"));
            }
            for id in node.outputs.iter().flatten() {
                rows.batched[id.index()] = true;
            }
        }
        let made = program.producers();
        if let Some(id) = program.outputs().iter().find(|id| made[id.index()].is_none()) {
            return Err(format!("output '{}' is made by no node", value(id).name));
        }
        if let Some(value) = program.values().iter().find(|value| value.name.contains("/part_")) {
            return Err(format!("'{}' is named as a part already", value.name));
        }
        Ok(rows)
    }

    fn value(&self, node: &Node, position: usize) -> Option<(&ProgramValue, bool)> {
        let id = (*node.inputs.get(position)?)?;
        Some((self.program.values().get(id.index())?, *self.batched.get(id.index())?))
    }

    /// Tells whether only the first input has the batch.
    fn first_only(&self, node: &Node) -> bool {
        let batched = |id: &Option<ValueId>| id.is_some_and(|id| self.batched[id.index()]);
        batched(&node.inputs.first().copied().flatten()) && !node.inputs.iter().skip(1).any(batched)
    }

    /// Tells whether a node, whose outputs have the batch's size, keeps rows apart.
    /// Returns `None` where an attribute is not what it should be.
    fn keeps(&self, node: &Node) -> Option<bool> {
        let operator = &node.operator;
        let name = &*operator.name;
        if !operator.domain.is_empty() || node.subgraphs().next().is_some() {
            return Some(false);
        }
        let rank = self.value(node, 0)?.0.shape.len();
        let axis = |name: &str, default: i64| -> Option<usize> {
            let axis = operator.int(name).ok()?.unwrap_or(default);
            usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()
        };
        let single = node.outputs.iter().flatten().count() == 1;
        Some(match name {
            _ if ROWS.contains(&name) => self.first_only(node) && rank >= 2 && single,
            _ if Family::of(operator) == Some(Family::Elementwise) => {
                let out = node.outputs.iter().flatten().next()?;
                let rank = self.program.values().get(out.index())?.shape.len();
                let all: Vec<_> = (0..node.inputs.len()).filter_map(|position| self.value(node, position)).collect();
                all.iter().any(|(_, batched)| *batched)
                    && all.iter().all(|(value, batched)| match batched {
                        true => value.shape.len() == rank,
                        false => value.shape.len() < rank || value.shape.first() == Some(&1),
                    })
            }
            "Softmax" | "LogSoftmax" => {
                let default = if operator.version < 13 { 1 } else { -1 };
                self.first_only(node) && axis("axis", default)? >= 1
            }
            "LayerNormalization" => self.first_only(node) && single && axis("axis", -1)? >= 1,
            "Identity" => self.first_only(node),
            "Flatten" => self.first_only(node) && axis("axis", 1)? == 1,
            "Transpose" => self.first_only(node) && operator.ints("perm").ok()??.first() == Some(&0),
            "Concat" => {
                let all = node.inputs.iter().all(|id| id.is_some_and(|id| self.batched[id.index()]));
                all && axis("axis", 0)? >= 1
            }
            "MatMul" => {
                let (other, _) = self.value(node, 1)?;
                self.first_only(node) && rank >= 2 && other.shape.len() <= 2
            }
            "Gemm" => {
                let bias = self.value(node, 2).is_none_or(|(c, _)| c.shape.len() < 2 || c.shape[0] == 1);
                self.first_only(node) && operator.int("transA").ok()?.unwrap_or(0) == 0 && bias
            }
            "Reshape" => {
                // The number of rows is copied or found out, so that it is right for parts too.
                let shape = self.value(node, 1)?.0.constant.as_ref()?.view::<i64>().ok()?;
                let copied = shape.first() == Some(&0) && operator.int("allowzero").ok()?.unwrap_or(0) == 0;
                self.first_only(node) && (copied || shape.first() == Some(&-1))
            }
            _ => false,
        })
    }
}

/// Checks that a program may become this number of parts.
///
/// # Errors
/// `OutOfMemory` where all their nodes would take more memory than is allowed.
pub(crate) fn allow_parts(allowance: &Allowance, program: &Program, parts: usize) -> Result<()> {
    let each = program.nodes().len() + program.inputs().len();
    build::allow(allowance, parts.saturating_mul(each), format_args!("a batch in {parts} parts"))
}

/// The pass that splits the batch into parts of the given numbers of rows, which add up to the
/// batch.
pub(crate) struct BatchSplit {
    pub(crate) parts: Vec<usize>,
}

impl Pass for BatchSplit {
    fn name(&self) -> &str {
        "batch-split"
    }

    fn run(&self, graph: &mut Graph, context: &PassContext<'_>) -> Result<()> {
        // A program that depends on data is not split; the caller that asks for the split knows so
        // from [`batch`].
        let Ok(program) = Program::new(graph.clone(), vec![]) else { return Ok(()) };
        let Ok(rows) = Rows::of(&program) else { return Ok(()) };
        if self.parts.iter().sum::<usize>() != rows.batch || self.parts.len() < 2 {
            return Ok(());
        }
        allow_parts(context.allowance, &program, self.parts.len())?;
        let mut names: HashSet<Arc<str>> = HashSet::new();
        let nodes = std::mem::take(&mut graph.nodes);
        let axis = build::number(graph, "batch/part_axis".to_owned(), 0)?;
        let mut outputs = vec![Vec::with_capacity(self.parts.len()); graph.outputs.len()];
        let mut start = 0;
        for (number, &size) in self.parts.iter().enumerate() {
            let mut part_of: Vec<Option<ValueId>> = vec![None; rows.batched.len()];
            for (index, _) in rows.batched.iter().enumerate().filter(|(_, batched)| **batched) {
                let Value { name, mut ty, .. } = graph.values[index].clone();
                if let Some(first) = ty.dims.as_mut().and_then(|dims| dims.first_mut()) {
                    *first = Dim::Known(size);
                }
                part_of[index] = Some(build::add(graph, format!("{name}/part_{number}"), ty, None));
            }
            let from = build::number(graph, format!("batch/part_{number}_start"), start as i64)?;
            start += size;
            let to = build::number(graph, format!("batch/part_{number}_end"), start as i64)?;
            for input in graph.inputs.clone() {
                let Some(part) = part_of[input.index()] else { continue };
                let name = graph.values[part.index()].name.clone();
                graph.nodes.push(build::slice(&name, input, [from, to, axis], part));
                names.insert(name);
            }
            for node in &nodes {
                let mut node = node.remapped(|id| part_of[id.index()].unwrap_or(id));
                node.name = format!("{}/part_{number}", node.name).into();
                if !names.insert(node.name.clone()) {
                    node.name = format!("{}_node", node.name).into();
                }
                graph.nodes.push(node);
            }
            for (output, parts) in graph.outputs.iter().zip(&mut outputs) {
                parts.push(part_of[output.index()]);
            }
        }
        for (output, inputs) in graph.outputs.clone().into_iter().zip(outputs) {
            let name = format!("{}/parts", graph.values[output.index()].name);
            graph.nodes.push(build::concat(name, 0, inputs, output));
        }
        Ok(())
    }
}
