//! Equal nodes of a graph become one.

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::HashMap;
use foldhash::fast::RandomState;

use crate::graph::{Attribute, Graph, Node, ValueId};
use crate::operators::OperatorSet;

impl Graph {
    /// Keeps only the first of nodes that compute the same, and lets the others' readers read it.
    /// Values keep their ids, and outputs of the graph their producers.
    /// Nodes with subgraphs, of unknown operators and of those that are not deterministic stay.
    pub fn merge_equal(&mut self, operators: &dyn OperatorSet) {
        let mut renamed: Vec<ValueId> = (0..self.values.len() as u32).map(ValueId).collect();
        // Outputs of the graph keep their producers, and so their names.
        let mut published = vec![false; self.values.len()];
        self.outputs.iter().for_each(|id| published[id.index()] = true);
        let nodes = std::mem::take(&mut self.nodes);
        self.nodes.reserve(nodes.len());
        // The first node of each hash, which tells of nearly all that has to be equal.
        // A node is compared with that one only.
        // Going through all that differ in little would take time by the square of their number.
        let mut seen: HashMap<u64, usize> = HashMap::with_capacity_and_hasher(nodes.len(), RandomState::default());
        let hashes = RandomState::default();
        for mut node in nodes {
            if node.uses().any(|id| renamed[id.index()] != id) {
                node = node.remapped(|id| renamed[id.index()]);
            }
            let pure = operators.find(&node.operator).is_some_and(|definition| definition.deterministic);
            if pure && node.subgraphs().next().is_none() {
                let first = *seen.entry(hash(&node, &hashes)).or_insert(self.nodes.len());
                let first = self.nodes.get(first).filter(|first| are_equal(first, &node));
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
            self.nodes.push(node);
        }
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
