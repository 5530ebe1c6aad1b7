//! Dead code: nodes and constants that no output depends on.

use hetero_hal::{Graph, Result};

use super::{Pass, PassContext};

pub(super) struct DeadCode;

impl Pass for DeadCode {
    fn name(&self) -> &str {
        "dead-code"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<()> {
        let needed = graph.trim(&vec![true; graph.outputs.len()]);
        for (value, needed) in graph.values.iter_mut().zip(needed) {
            if !needed {
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

    /// A `Split` into two is another one than a `Split` into three.
    #[test]
    fn outputs_that_nobody_reads_still_count_where_their_number_decides() {
        let mut b = Builder::default();
        let x = b.input("x", &[6]);
        let first = b.node("split", Operator::new("Split", 13), &[x], &[2]);
        let rest = ["second", "third"].map(|name| b.input(name, &[2]));
        b.0.inputs.truncate(1);
        b.0.nodes[0].outputs.extend(rest.map(Some));
        let y = b.node("y", Operator::new("Neg", 13), &[first], &[2]);
        let after = rewritten(&b.program(&[y]));
        assert_eq!(after.nodes()[0].outputs.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false]);
    }
}
