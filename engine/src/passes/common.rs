//! Common subexpressions: of equal nodes, the first stays and the others' readers read it.

use hetero_hal::{Graph, Result};

use super::{Pass, PassContext};

pub(super) struct CommonSubexpressions;

impl Pass for CommonSubexpressions {
    fn name(&self) -> &str {
        "common-subexpressions"
    }

    fn run(&self, graph: &mut Graph, context: &PassContext<'_>) -> Result<()> {
        graph.merge_equal(context.operators);
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
