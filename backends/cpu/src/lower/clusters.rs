//! The clusters of element-wise nodes on plain values that become one kernel.

use hetero_hal::{DType, Error, Result, ValueId};

use super::{Draft, Form, Lowering, Recipe};
use crate::image::Layout;
use crate::kernels::chain::{self, Function, Operation, Source};
use crate::kernels::elementwise;

impl Lowering<'_> {
    /// Returns the output of a node, where it is element-wise on plain f32 values of exact sizes.
    fn elementwise(&self, node: usize) -> Result<Option<ValueId>> {
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
        let known = elementwise::unary(site)?.is_some() || (two && elementwise::binary(site).is_some());
        Ok(known.then_some(output))
    }

    /// Gathers the element-wise nodes that only feed this one, directly or through each other.
    pub(super) fn gather(&mut self, node: usize) -> Result<()> {
        let Some(output) = self.elementwise(node)? else { return Ok(()) };
        let shape = self.shape(output);
        let mut members = vec![node];
        for other in (0..node).rev() {
            if node - other > 256 {
                break;
            }
            let Some(result) = self.elementwise(other)? else { continue };
            let readers = &self.consumers[result.index()];
            let inside = !readers.is_empty() && readers.iter().all(|reader| members.contains(reader));
            if inside && !self.is_output[result.index()] && self.shape(result) == shape {
                members.push(other);
                if self.operations(&members)?.is_none() {
                    members.pop();
                }
            }
        }
        if members.len() > 1 {
            for &member in &members {
                self.absorbed[member] = true;
            }
            self.clusters.insert(node, members);
        }
        Ok(())
    }

    /// Returns the operations and the inputs of a cluster, or `None` where registers or inputs run
    /// out.
    /// `members` has the cluster's last node first.
    fn operations(&self, members: &[usize]) -> Result<Option<(Vec<Operation>, Vec<ValueId>)>> {
        let mut order = members.to_vec();
        order.sort_unstable();
        let (mut inputs, mut operations): (Vec<ValueId>, Vec<Operation>) = (vec![], vec![]);
        // The value that each register holds, and how many reads of it are to come.
        let mut registers: [Option<(ValueId, usize)>; chain::REGISTERS] = [None; chain::REGISTERS];
        for &member in &order {
            let site = self.site(member);
            let (Some(output), Some(first)) = (self.only_output(member), self.input(member, 0)) else {
                return Ok(None);
            };
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
            let second = match elementwise::unary(site)? {
                Some(_) => None,
                None => self.input(member, 1),
            };
            let Some(a) = source(first, &registers) else { return Ok(None) };
            let b = match second.map(|id| source(id, &registers)) {
                Some(None) => return Ok(None),
                other => other.flatten(),
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
            let Some(into) = kept.or_else(fresh) else { return Ok(None) };
            if b == Some(Source::Register(into)) && a != Source::Register(into) {
                return Ok(None);
            }
            // These are the readers in the cluster; going through all members for each reader would
            // take time by the cube of their number.
            let readers = self.consumers[output.index()].iter().filter(|reader| order.binary_search(reader).is_ok());
            let reads = readers.map(|&reader| self.node(reader).uses().filter(|&id| id == output).count()).sum();
            registers[into] = Some((output, reads));
            let function = match (elementwise::unary(site)?, elementwise::binary(site), b) {
                (Some(function), ..) => Function::One(function),
                (None, Some(function), Some(b)) => Function::Two(function, b),
                _ => return Ok(None),
            };
            operations.push(Operation { function, first: a, into });
        }
        Ok(Some((operations, inputs)))
    }

    pub(super) fn emit_cluster(&mut self, node: usize, mut members: Vec<usize>) -> Result<()> {
        let found = self.operations(&members)?;
        let (operations, values) = found.ok_or_else(|| Error::internal("a cluster has no operations"))?;
        let output = self.only_output(node).ok_or_else(|| Error::internal("a cluster has no output"))?;
        let shapes: Vec<&[usize]> = values.iter().map(|&id| self.shape(id)).collect();
        let chain = chain::Chain::new(self.isa, operations, &shapes, self.shape(output));
        let mut inputs = Vec::with_capacity(values.len());
        for id in values {
            inputs.push(Some(self.want(node, id, Layout::Plain)?));
        }
        members.sort_unstable();
        let form = Form::plain(output);
        self.made(form);
        self.drafts.push(Draft {
            node,
            nodes: members,
            recipe: Recipe::Chain(chain),
            inputs,
            outputs: vec![Some(form)],
        });
        Ok(())
    }
}
