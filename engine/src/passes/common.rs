//! Common subexpressions: of equal nodes, the first stays and the others' readers read it.

use std::collections::hash_map::Entry;
use std::hash::BuildHasher;

use foldhash::HashMap;
use foldhash::fast::RandomState;
use hetero_hal::{Graph, Node, Result, ValueId};

use super::{Pass, PassContext};

pub(super) struct CommonSubexpressions;

impl Pass for CommonSubexpressions {
    fn name(&self) -> &str {
        "common-subexpressions"
    }

    fn run(&self, graph: &mut Graph, context: &PassContext<'_>) -> Result<()> {
        let mut renamed: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
        // Outputs of the graph keep their producers, and so their names.
        let mut published = vec![false; graph.values.len()];
        graph.outputs.iter().for_each(|id| published[id.index()] = true);
        let nodes = std::mem::take(&mut graph.nodes);
        graph.nodes.reserve(nodes.len());
        // Candidates agree in what is cheap to hash: of each hash the last one, and of each node
        // the one before it.
        // The rest is compared.
        let mut seen: HashMap<u64, usize> = HashMap::with_capacity_and_hasher(nodes.len(), RandomState::default());
        let hashes = RandomState::default();
        let mut before: Vec<Option<usize>> = Vec::with_capacity(nodes.len());
        for node in nodes {
            let moved = node.uses().any(|id| renamed[id.index()] != id);
            let node = if moved { node.remapped(|id| renamed[id.index()]) } else { node };
            let pure = context.operators.find(&node.operator).is_some_and(|d| d.deterministic);
            let mut last = None;
            if pure && node.subgraphs().next().is_none() {
                let equal = |other: &Node| {
                    other.operator == node.operator
                        && other.inputs == node.inputs
                        && other.outputs.len() == node.outputs.len()
                        && other.outputs.iter().zip(&node.outputs).all(|(a, b)| a.is_some() == b.is_some())
                };
                let slot = seen.entry(hashes.hash_one((&node.operator.domain, &node.operator.name, &node.inputs)));
                last = match &slot {
                    Entry::Occupied(known) => Some(*known.get()),
                    Entry::Vacant(_) => None,
                };
                let candidates = std::iter::successors(last, |&index| before[index]);
                // The first of the candidates stays.
                let first = candidates.filter(|&index| equal(&graph.nodes[index])).last();
                match first {
                    Some(first) if !node.outputs.iter().flatten().any(|id| published[id.index()]) => {
                        for (old, new) in node.outputs.iter().zip(&graph.nodes[first].outputs) {
                            if let (Some(old), Some(new)) = (old, new) {
                                renamed[old.index()] = *new;
                            }
                        }
                        continue;
                    }
                    _ => drop(slot.insert_entry(graph.nodes.len())),
                }
            }
            before.push(last);
            graph.nodes.push(node);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Attribute, Operator};

    use super::super::tests::{Builder, rewritten};

    #[test]
    fn equal_nodes_merge_and_unequal_attributes_do_not() {
        let mut b = Builder::default();
        let x = b.input("x", &[3]);
        let leaky = |alpha| Operator::new("LeakyRelu", 16).with("alpha", Attribute::Float(alpha));
        let first = b.node("first", leaky(0.1), &[x], &[3]);
        let second = b.node("second", leaky(0.1), &[x], &[3]);
        let third = b.node("third", leaky(0.2), &[x], &[3]);
        let sum = b.node("sum", Operator::new("Add", 14), &[first, second], &[3]);
        let y = b.node("y", Operator::new("Add", 14), &[sum, third], &[3]);
        assert_eq!(rewritten(&b.program(&[y])).nodes().len(), 4);
    }
}
