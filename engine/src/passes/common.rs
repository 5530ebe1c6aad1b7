//! Common subexpressions: of equal nodes, the first stays and the others' readers read it.

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::HashMap;
use foldhash::fast::RandomState;
use hetero_hal::{Attribute, Graph, Node, Result, ValueId};

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
        // The first node of each hash, which tells of nearly all that has to be equal.
        // A node is compared with that one only.
        // Going through all that differ in little would take time by the square of their number.
        let mut seen: HashMap<u64, usize> = HashMap::with_capacity_and_hasher(nodes.len(), RandomState::default());
        let hashes = RandomState::default();
        for mut node in nodes {
            if node.uses().any(|id| renamed[id.index()] != id) {
                node = node.remapped(|id| renamed[id.index()]);
            }
            let pure = context.operators.find(&node.operator).is_some_and(|d| d.deterministic);
            if pure && node.subgraphs().next().is_none() {
                let first = *seen.entry(hash(&node, &hashes)).or_insert(graph.nodes.len());
                let first = graph.nodes.get(first).filter(|first| are_equal(first, &node));
                let is_published = node.outputs.iter().flatten().any(|id| published[id.index()]);
                if let Some(first) = first.filter(|_| !is_published) {
                    for (old, new) in node.outputs.iter().zip(&first.outputs) {
                        if let (Some(old), Some(new)) = (old, new) {
                            renamed[old.index()] = *new;
                        }
                    }
                    continue;
                }
            }
            graph.nodes.push(node);
        }
        Ok(())
    }
}

/// Tells whether two nodes compute the same for the same readers.
fn are_equal(one: &Node, other: &Node) -> bool {
    let wanted = |(a, b): (&Option<ValueId>, &Option<ValueId>)| a.is_some() == b.is_some();
    other.operator == one.operator
        && other.inputs == one.inputs
        && other.outputs.len() == one.outputs.len()
        && other.outputs.iter().zip(&one.outputs).all(wanted)
}

/// The most bytes of a tensor among a node's attributes that count for its hash.
const SAMPLE: usize = 256;

/// Returns a hash of the operator, its attributes and the inputs.
fn hash(node: &Node, hashes: &RandomState) -> u64 {
    let mut state = hashes.build_hasher();
    (&node.operator.domain, &node.operator.name, node.operator.version, &node.inputs).hash(&mut state);
    let wanted = node.outputs.iter().map(Option::is_some);
    wanted.for_each(|wanted| wanted.hash(&mut state));
    for (name, value) in &node.operator.attributes {
        name.hash(&mut state);
        match value {
            Attribute::Int(value) => value.hash(&mut state),
            Attribute::Float(value) => canonical(*value).hash(&mut state),
            Attribute::String(text) => text.hash(&mut state),
            Attribute::Ints(values) => values.hash(&mut state),
            Attribute::Floats(values) => values.iter().for_each(|value| canonical(*value).hash(&mut state)),
            Attribute::Strings(texts) => texts.hash(&mut state),
            Attribute::Tensor(tensor) => {
                tensor.shape().hash(&mut state);
                state.write(&tensor.bytes()[..tensor.bytes().len().min(SAMPLE)]);
            }
            // Nodes with subgraphs are not compared, and lists of tensors and types are rare.
            _ => {}
        }
    }
    state.finish()
}

/// Returns the bits of a float, where equal floats have equal bits: the two zeros are equal.
fn canonical(value: f32) -> u32 {
    if value == 0.0 { 0 } else { value.to_bits() }
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
