//! Common subexpressions: of equal nodes, the first stays and the others' readers read it.

use std::collections::HashMap;

use hetero_hal::{Graph, Node, Result, ValueId};

use super::{Pass, PassContext};

pub(super) struct CommonSubexpressions;

impl Pass for CommonSubexpressions {
    fn name(&self) -> &str {
        "common-subexpressions"
    }

    fn run(&self, graph: &mut Graph, context: &PassContext<'_>) -> Result<()> {
        let mut renamed: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
        // Candidates that agree in what is cheap to hash; the rest is compared.
        let mut seen: HashMap<(String, Vec<Option<ValueId>>), Vec<Node>> = HashMap::new();
        for node in std::mem::take(&mut graph.nodes) {
            let node = node.remapped(|id| renamed[id.index()]);
            let pure = context.operators.find(&node.operator).is_some_and(|d| d.deterministic);
            // Outputs of the graph keep their producers, and so their names.
            let published = node.outputs.iter().flatten().any(|id| graph.outputs.contains(id));
            if pure && node.subgraphs().next().is_none() {
                let candidates = seen.entry((node.operator.to_string(), node.inputs.clone())).or_default();
                let equal = |other: &&Node| {
                    other.operator == node.operator
                        && other.outputs.len() == node.outputs.len()
                        && other.outputs.iter().zip(&node.outputs).all(|(a, b)| a.is_some() == b.is_some())
                };
                match candidates.iter().find(equal) {
                    Some(other) if !published => {
                        for (old, new) in node.outputs.iter().zip(&other.outputs) {
                            if let (Some(old), Some(new)) = (old, new) {
                                renamed[old.index()] = *new;
                            }
                        }
                        continue;
                    }
                    _ => candidates.push(node.clone()),
                }
            }
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
