//! Nodes by their names, as plans name them.

use foldhash::{HashMap, HashMapExt};
use hetero_hal::{Node, NodeId};

/// The nodes of a program, to be found by name.
/// Plans name nodes nearly always in the program's order, so the node behind the last one found is
/// tried first, and the table of all names is made only where that fails.
pub(crate) struct NodesByName<'a> {
    nodes: &'a [Node],
    next: usize,
    all: Option<HashMap<&'a str, u32>>,
}

impl<'a> NodesByName<'a> {
    pub(crate) fn new(nodes: &'a [Node]) -> NodesByName<'a> {
        NodesByName { nodes, next: 0, all: None }
    }

    /// Returns the node of a name.
    pub(crate) fn find(&mut self, name: &str) -> Option<(NodeId, &'a Node)> {
        let nodes = self.nodes;
        if nodes.get(self.next).is_none_or(|node| &*node.name != name) {
            let all = self.all.get_or_insert_with(|| {
                let mut all = HashMap::with_capacity(nodes.len());
                all.extend((0u32..).zip(nodes).map(|(id, node)| (&*node.name, id)));
                all
            });
            self.next = *all.get(name)? as usize;
        }
        let (index, node) = (self.next, nodes.get(self.next)?);
        self.next += 1;
        Some((NodeId(index as u32), node))
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::Operator;

    use super::*;

    #[test]
    fn nodes_are_found_in_any_order() {
        let node = |name: &str| Node {
            name: name.into(),
            operator: Operator::new("Relu", 14),
            inputs: vec![],
            outputs: vec![],
        };
        let nodes = ["a", "b", "c"].map(node);
        let mut names = NodesByName::new(&nodes);
        let mut find = |name: &str| names.find(name).map(|(id, node)| (id.0, node.name.to_string()));
        for (id, name) in [(0, "a"), (1, "b"), (2, "c"), (0, "a"), (2, "c"), (1, "b")] {
            assert_eq!(find(name), Some((id, name.to_owned())));
        }
        assert_eq!(find("d"), None);
        assert_eq!(find("c"), Some((2, "c".to_owned())));
    }
}
