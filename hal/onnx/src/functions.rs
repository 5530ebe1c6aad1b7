//! Functions that a model defines itself.
//!
//! Each call is replaced by the function's body before anything else reads the graph.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::import::canonical_domain;
use crate::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};

/// The deepest nesting of calls that is expanded.
/// Functions may call functions, but the standard forbids recursion altogether.
const DEEPEST: usize = 32;
/// The largest number of nodes after expansion.
/// Functions that each call the next one twice grow exponentially; an honest model stays far below.
const MOST_NODES: usize = 1 << 20;

type Functions<'a> = HashMap<(&'a str, &'a str, &'a str), &'a FunctionProto>;

/// Replaces every call of one of the model's functions, in subgraphs too.
pub(crate) fn expand(model: &mut ModelProto) -> Result<()> {
    if model.functions.is_empty() {
        return Ok(());
    }
    let functions = std::mem::take(&mut model.functions);
    let mut imported: HashSet<String> =
        model.opset_import.iter().map(|import| canonical_domain(import.domain()).to_owned()).collect();
    for import in functions.iter().flat_map(|function| &function.opset_import) {
        // Bodies may import domains that the model does not import.
        // Where a body imports another version than the model, the model's version counts:
        // exporters write the same version.
        let domain = canonical_domain(import.domain());
        if !imported.contains(domain) {
            imported.insert(domain.to_owned());
            model.opset_import.push(import.clone());
        }
    }
    let table: Functions<'_> = functions
        .iter()
        .map(|function| ((canonical_domain(function.domain()), function.name(), function.overload()), function))
        .collect();
    let mut expansion = Expansion { table, calls: 0, nodes: 0 };
    if let Some(graph) = &mut model.graph {
        expansion.graph(graph, 0)?;
    }
    Ok(())
}

struct Expansion<'a> {
    table: Functions<'a>,
    calls: usize,
    nodes: usize,
}

impl Expansion<'_> {
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<()> {
        graph.node = self.nodes(std::mem::take(&mut graph.node), depth)?;
        Ok(())
    }

    fn nodes(&mut self, nodes: Vec<NodeProto>, depth: usize) -> Result<Vec<NodeProto>> {
        let mut expanded = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            self.nodes += 1;
            if self.nodes > MOST_NODES {
                return Err(Error::invalid(format!("its functions expand to more than {MOST_NODES} nodes")));
            }
            for attribute in &mut node.attribute {
                for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    self.graph(graph, depth)?;
                }
            }
            let key = (canonical_domain(node.domain()), node.op_type(), node.overload());
            let Some(&function) = self.table.get(&key) else {
                expanded.push(node);
                continue;
            };
            if depth >= DEEPEST {
                return Err(Error::invalid(format!(
                    "function '{}' calls itself, or calls are nested more than {DEEPEST} deep",
                    function.name()
                )));
            }
            self.calls += 1;
            let body = instantiate(function, &node, self.calls);
            expanded.extend(self.nodes(body, depth + 1)?);
        }
        Ok(expanded)
    }
}

/// Returns the function's nodes with the call's names and attributes in place of its own.
fn instantiate(function: &FunctionProto, call: &NodeProto, number: usize) -> Vec<NodeProto> {
    let mut names: HashMap<&str, String> = HashMap::new();
    for (index, formal) in function.input.iter().enumerate() {
        names.insert(formal, call.input.get(index).cloned().unwrap_or_default());
    }
    // An output that is an input too needs a node of its own to carry the name.
    let mut carried = Vec::new();
    for (formal, actual) in function.output.iter().zip(&call.output) {
        if actual.is_empty() {
            continue;
        }
        if let Some(source) = names.get(formal.as_str()) {
            carried.push(NodeProto {
                op_type: Some("Identity".into()),
                input: vec![source.clone()],
                output: vec![actual.clone()],
                ..NodeProto::default()
            });
        } else {
            names.insert(formal, actual.clone());
        }
    }
    let prefix = format!("{}#{number}", function.name());
    let mut nodes: Vec<NodeProto> =
        function.node.iter().map(|node| rewritten(node, &names, &prefix, function, call)).collect();
    nodes.extend(carried);
    nodes
}

fn rewritten(
    node: &NodeProto,
    names: &HashMap<&str, String>,
    prefix: &str,
    function: &FunctionProto,
    call: &NodeProto,
) -> NodeProto {
    let rename = |name: &str| match names.get(name) {
        _ if name.is_empty() => String::new(),
        Some(actual) => actual.clone(),
        None => format!("{prefix}/{name}"),
    };
    let mut node = node.clone();
    node.name = Some(format!("{prefix}/{}", node.name()));
    for name in node.input.iter_mut().chain(&mut node.output) {
        *name = rename(name);
    }
    node.attribute = std::mem::take(&mut node.attribute)
        .into_iter()
        .filter_map(|mut attribute| {
            if !attribute.ref_attr_name().is_empty() {
                let from = attribute.ref_attr_name();
                let set = |list: &[AttributeProto]| list.iter().find(|a| a.name() == from).cloned();
                let mut actual = set(&call.attribute).or_else(|| set(&function.attribute_proto))?;
                actual.name = attribute.name;
                return Some(actual);
            }
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                rename_graph(graph, names, prefix, function, call);
            }
            Some(attribute)
        })
        .collect();
    node
}

/// Renames everything in a body's subgraph alike, so that the values that it captures keep their
/// meaning.
fn rename_graph(
    graph: &mut GraphProto,
    names: &HashMap<&str, String>,
    prefix: &str,
    function: &FunctionProto,
    call: &NodeProto,
) {
    let rename = |name: &mut Option<String>| {
        if let Some(text) = name {
            *text = names.get(text.as_str()).cloned().unwrap_or_else(|| format!("{prefix}/{text}"));
        }
    };
    for info in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
        rename(&mut info.name);
    }
    for tensor in &mut graph.initializer {
        rename(&mut tensor.name);
    }
    graph.node = graph.node.iter().map(|node| rewritten(node, names, prefix, function, call)).collect();
}
