//! Dead code: nodes and constants that no output depends on.

use hetero_hal::{Graph, Result};

use super::{Pass, PassContext};

pub(super) struct DeadCode;

impl Pass for DeadCode {
    fn name(&self) -> &str {
        "dead-code"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<()> {
        let mut wanted = vec![false; graph.values.len()];
        for id in &graph.outputs {
            wanted[id.index()] = true;
        }
        let mut kept = Vec::with_capacity(graph.nodes.len());
        for mut node in std::mem::take(&mut graph.nodes).into_iter().rev() {
            if !node.outputs.iter().flatten().any(|id| wanted[id.index()]) {
                continue;
            }
            for output in &mut node.outputs {
                *output = output.filter(|id| wanted[id.index()]);
            }
            while node.outputs.last().is_some_and(Option::is_none) {
                node.outputs.pop();
            }
            for id in node.uses() {
                wanted[id.index()] = true;
            }
            kept.push(node);
        }
        kept.reverse();
        graph.nodes = kept;
        for (value, wanted) in graph.values.iter_mut().zip(wanted) {
            if !wanted {
                value.constant = None;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::Operator;

    use super::super::tests::{Builder, rewritten};

    #[test]
    fn what_nobody_reads_goes() {
        let mut b = Builder::default();
        let x = b.input("x", &[3]);
        let unused = b.node("unused", Operator::new("Relu", 14), &[x], &[3]);
        b.node("also_unused", Operator::new("Neg", 13), &[unused], &[3]);
        let y = b.node("y", Operator::new("Neg", 13), &[x], &[3]);
        let after = rewritten(&b.program(&[y]));
        assert_eq!(after.nodes().len(), 1);
        assert_eq!(&*after.nodes()[0].name, "y_node");
    }
}
