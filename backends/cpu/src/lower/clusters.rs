//! The clusters of element-wise nodes on plain values that become one kernel.

use std::collections::BinaryHeap;

use hetero_hal::{DType, Error, NodeId, Result, ValueId};

use super::{Draft, Form, Lowering, Recipe};
use crate::image::Layout;
use crate::kernels::chain::{self, Function, Operation, Source};
use crate::kernels::elementwise;
use crate::kernels::vector::{Activation, Pairwise};

/// The most nodes of a cluster.
/// A longer chain would gain little, as one value in so many goes through memory, and whether a
/// node fits is found by going through the cluster.
const MOST: usize = 32;
/// The most nodes of the program between the first and the last of a cluster.
const REACH: usize = 256;

/// A node of a cluster.
#[derive(Clone, Copy)]
pub(super) struct Member {
    node: usize,
    output: ValueId,
    function: Elementwise,
}

#[derive(Clone, Copy)]
enum Elementwise {
    One(Activation),
    Two(Pairwise),
}

impl Lowering<'_> {
    /// Returns the node as a member of a cluster, where it is element-wise on plain f32 values of
    /// exact sizes, or on such of 16 bits.
    fn elementwise(&self, node: usize) -> Result<Option<Member>> {
        let (site, Some(output)) = (self.site(node), self.only_output(node)) else { return Ok(None) };
        let exact = |id: ValueId| {
            let value = &self.program.values()[id.index()];
            value.dtype == DType::F32 && !value.is_dynamic() && !self.blocked[id.index()]
        };
        let usual = site.operator().domain.is_empty() && !self.absorbed[node] && exact(output);
        if !usual || !self.node(node).uses().all(exact) || self.program.values()[output.index()].elements() == 0 {
            return Ok(None);
        }
        let two = self.node(node).inputs.len() == 2 && self.node(node).inputs.iter().all(Option::is_some);
        let function = match elementwise::unary(site)? {
            Some(function) => Some(Elementwise::One(function)),
            None if two => elementwise::binary(site).map(Elementwise::Two),
            None => None,
        };
        Ok(function.map(|function| Member { node, output, function }))
    }

    /// Gathers the element-wise nodes that only feed this one, directly or through each other.
    pub(super) fn gather(&mut self, node: usize) -> Result<()> {
        let Some(last) = self.elementwise(node)? else { return Ok(()) };
        let shape = self.shape(last.output);
        let mut members = vec![last];
        // The makers of what members read, the latest first: whether a maker's readers are members
        // is known by the time that it is looked at.
        let mut makers = BinaryHeap::new();
        let push = |node: usize, makers: &mut BinaryHeap<usize>| {
            makers.extend(self.node(node).uses().filter_map(|id| self.producers[id.index()]));
        };
        push(node, &mut makers);
        while let Some(maker) = makers.pop() {
            if members.len() == MOST || node - maker > REACH {
                break;
            }
            while makers.peek() == Some(&maker) {
                makers.pop();
            }
            let Some(member) = self.elementwise(maker)? else { continue };
            let value = member.output;
            let is_member = |reader: &NodeId| members.iter().any(|member| member.node == reader.index());
            let inside = self.consumers[value.index()].iter().all(is_member);
            if inside && !self.is_output[value.index()] && self.shape(value) == shape {
                members.push(member);
                if self.operations(&members).is_none() {
                    members.pop();
                } else {
                    push(maker, &mut makers);
                }
            }
        }
        // A single node on 16 bits is done so too: it is read and written once.
        let halves = self.half(last.output).is_some() || self.node(node).uses().any(|id| self.half(id).is_some());
        if members.len() > 1 || halves {
            for member in &members {
                self.absorbed[member.node] = true;
            }
            self.clusters.insert(node, members);
        }
        Ok(())
    }

    /// Returns the operations and the inputs of a cluster, or `None` where registers or inputs run
    /// out.
    /// `members` has the cluster's last node first.
    fn operations(&self, members: &[Member]) -> Option<(Vec<Operation>, Vec<ValueId>)> {
        let (mut inputs, mut operations): (Vec<ValueId>, Vec<Operation>) = (vec![], vec![]);
        // The value that each register holds, and how many reads of it are to come.
        let mut registers: [Option<(ValueId, usize)>; chain::REGISTERS] = [None; chain::REGISTERS];
        for &Member { node, output, function } in members.iter().rev() {
            let first = self.input(node, 0)?;
            let mut source = |id: ValueId, registers: &[Option<(ValueId, usize)>]| {
                let held = registers.iter().position(|slot| slot.is_some_and(|(held, _)| held == id));
                held.map(Source::Register).or_else(|| {
                    let position = inputs.iter().position(|&input| input == id).unwrap_or_else(|| {
                        inputs.push(id);
                        inputs.len() - 1
                    });
                    (position < chain::INPUTS).then_some(Source::Input(position))
                })
            };
            let a = source(first, &registers)?;
            let b = match function {
                Elementwise::One(_) => None,
                Elementwise::Two(_) => Some(source(self.input(node, 1)?, &registers)?),
            };
            for read in [Some(a), b].into_iter().flatten() {
                if let Source::Register(index) = read
                    && let Some((_, left)) = &mut registers[index]
                {
                    *left -= 1;
                }
            }
            // The result goes into the first operand's register, where no other node reads that,
            // and else into a free one that is not the second operand's.
            let is_free = |index: usize| registers[index].is_none_or(|(_, left)| left == 0);
            let kept = match a {
                Source::Register(index) if is_free(index) => Some(index),
                _ => None,
            };
            let fresh = || (0..chain::REGISTERS).find(|&index| is_free(index) && b != Some(Source::Register(index)));
            let into = kept.or_else(fresh)?;
            if b == Some(Source::Register(into)) && a != Source::Register(into) {
                return None;
            }
            // All readers are members, but no member reads the cluster's result.
            let inside = node != members.first()?.node;
            let reads = if inside { self.reads[output.index()] } else { 0 };
            registers[into] = Some((output, reads));
            let function = match (function, b) {
                (Elementwise::One(function), _) => Function::One(function),
                (Elementwise::Two(function), b) => Function::Two(function, b?),
            };
            operations.push(Operation { function, first: a, into });
        }
        Some((operations, inputs))
    }

    pub(super) fn emit_cluster(&mut self, node: usize, members: &[Member]) -> Result<()> {
        let found = self.operations(members);
        let (mut operations, values) = found.ok_or_else(|| Error::internal("a cluster has no operations"))?;
        operations.shrink_to_fit();
        let output = self.only_output(node).ok_or_else(|| Error::internal("a cluster has no output"))?;
        let mut inputs = Vec::with_capacity(values.len());
        for &id in &values {
            let layout = self.either(id);
            inputs.push(Some(self.want(node, id, layout)?));
        }
        let layout = if self.is_read_narrow(output) { Layout::Plain } else { self.rows(output) };
        let form = Form { value: output, layout };
        let half = |form: &Form| self.half(form.value).filter(|_| form.layout == Layout::Plain);
        let shapes: Vec<_> = inputs.iter().flatten().map(|form| (self.shape(form.value), half(form))).collect();
        let chain = chain::Chain::new(self.isa, operations, &shapes, (self.shape(output), half(&form)));
        self.made(form);
        self.drafts.push(Draft {
            node,
            nodes: members.iter().rev().map(|member| member.node).collect(),
            recipe: Recipe::Chain(Box::new(chain)),
            inputs,
            outputs: vec![Some(form)],
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Graph, Node, Operator, Program, TensorType, Value};

    use super::*;
    use crate::simd::Isa;

    /// Makes a program of one node behind the other, each of which reads the value before it twice
    /// where `twice` says so.
    fn chain(count: u32, twice: bool) -> Program {
        let value = |number: u32| Value {
            name: format!("v{number}").into(),
            ty: TensorType::exact(DType::F32, &[8]),
            constant: None,
        };
        let node = |number: u32| Node {
            name: format!("n{number}").into(),
            operator: Operator::new(if twice { "Add" } else { "Neg" }, 14),
            inputs: vec![Some(ValueId(number)); if twice { 2 } else { 1 }],
            outputs: vec![Some(ValueId(number + 1))],
        };
        let graph = Graph {
            name: "chain".into(),
            values: (0..=count).map(value).collect(),
            nodes: (0..count).map(node).collect(),
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(count)],
            captures: vec![],
        };
        Program::new(graph, vec![]).unwrap()
    }

    #[test]
    fn a_long_chain_becomes_clusters_of_bounded_length_in_order() {
        for twice in [false, true] {
            let drafts = super::super::lower(&chain(100, twice), None, Isa::widest(), true).unwrap();
            let lengths: Vec<usize> = drafts.iter().map(|draft| draft.nodes.len()).collect();
            assert_eq!(lengths, [4, MOST, MOST, MOST]);
            assert!(drafts.iter().flat_map(|draft| &draft.nodes).copied().eq(0..100));
        }
    }
}
