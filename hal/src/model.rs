//! Models: graphs with symbolic dimensions, as they come from a file.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Result;
use crate::graph::{Graph, Node};

/// A model as a framework exported it, before anybody has said which sizes it is to run with.
///
/// It keeps symbolic dimensions, subgraphs (`If`, `Loop`, `Scan`) and optional inputs as they
/// stand.
/// Functions that the file itself defines are expanded on import.
/// Binding it to shapes makes a [`Program`](crate::Program).
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The graph of the model.
    pub graph: Graph,
    /// The version of each operator set that the model imports, by domain; the standard's domain is
    /// the empty string.
    pub opsets: BTreeMap<Arc<str>, u32>,
    /// The version of the file format (`ModelProto.ir_version`).
    pub ir_version: i64,
    /// The tool that wrote the file.
    pub producer: String,
    /// The free text pairs of the file.
    pub metadata: BTreeMap<String, String>,
    /// Whether the constants lie in mapped files, whose memory the system can take back.
    /// Others count against the memory limit of an engine.
    pub mapped: bool,
}

impl Model {
    /// Returns every node, depth first: the nodes of subgraphs come after the node that holds them.
    pub fn all_nodes(&self) -> Vec<&Node> {
        fn walk<'a>(graph: &'a Graph, into: &mut Vec<&'a Node>) {
            for node in &graph.nodes {
                into.push(node);
                for graph in node.subgraphs() {
                    walk(graph, into);
                }
            }
        }
        let mut nodes = Vec::new();
        walk(&self.graph, &mut nodes);
        nodes
    }

    /// Checks the graph; see [`Graph::check`].
    ///
    /// # Errors
    /// `InvalidModel`, naming the value or node.
    pub fn check(&self) -> Result<()> {
        self.graph.check()
    }
}
