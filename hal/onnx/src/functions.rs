//! Functions that a model defines itself.
//!
//! Each call is replaced by the function's body before anything else reads the graph.

use std::collections::{HashMap, HashSet};

use hetero_hal::{Allowance, DType};

use crate::error::{Error, Result};
use crate::files::Files;
use crate::import::canonical_domain;
use crate::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto};
use crate::tensor::{export, import};
use crate::weigh;

/// The deepest nesting of calls that is expanded.
/// Functions may call functions, but the standard forbids recursion altogether.
const DEEPEST: usize = 32;
type Functions<'a> = HashMap<(&'a str, &'a str, &'a str), &'a FunctionProto>;

/// Replaces every call of one of the model's functions, in subgraphs too.
/// Functions that each call the next one twice grow exponentially, so each copy of a body is taken
/// from the allowance before it is made.
pub(crate) fn expand(model: &mut ModelProto, left: &mut Allowance) -> Result<()> {
    if model.functions.is_empty() {
        return Ok(());
    }
    let mut functions = std::mem::take(&mut model.functions);
    for node in functions.iter_mut().flat_map(|function| &mut function.node) {
        share(node);
    }
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
    let mut expansion = Expansion { table, weights: HashMap::new(), calls: 0, left };
    if let Some(graph) = &mut model.graph {
        expansion.graph(graph, 0)?;
    }
    Ok(())
}

struct Expansion<'a> {
    table: Functions<'a>,
    /// The bytes that a copy of each function's body takes, by the function's address.
    weights: HashMap<*const FunctionProto, usize>,
    calls: usize,
    left: &'a mut Allowance,
}

impl Expansion<'_> {
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<()> {
        graph.node = self.nodes(std::mem::take(&mut graph.node), depth)?;
        Ok(())
    }

    /// Takes the memory of one more copy of a function's body.
    fn pay(&mut self, function: &FunctionProto, call: &NodeProto) -> Result<()> {
        self.left.check()?;
        let body = *self.weights.entry(std::ptr::from_ref(function)).or_insert_with(|| {
            let name = function.name().len() + 32;
            function.node.iter().map(|node| weigh::node(node, name)).fold(0, usize::saturating_add)
        });
        // Names and attributes of the call may stand for many of the body's.
        let texts = call.input.iter().chain(&call.output).map(String::len).sum::<usize>();
        let set: usize = call.attribute.iter().map(weigh::attribute).fold(0, usize::saturating_add);
        let call = texts.saturating_add(set).saturating_mul(function.node.len());
        let left = self.left.less(body.saturating_add(call));
        *self.left = left.map_err(|error| error.at(format!("a call of the function '{}'", function.name())))?;
        Ok(())
    }

    fn nodes(&mut self, nodes: Vec<NodeProto>, depth: usize) -> Result<Vec<NodeProto>> {
        let mut expanded = Vec::with_capacity(nodes.len());
        for mut node in nodes {
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
            self.pay(function, &node)?;
            let body = instantiate(function, &node, self.calls);
            expanded.extend(self.nodes(body, depth + 1)?);
        }
        Ok(expanded)
    }
}

/// Makes the tensors of a node, in subgraphs too, hold their content as bytes, which copies share.
fn share(node: &mut NodeProto) {
    for attribute in &mut node.attribute {
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            share_tensor(tensor);
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            graph.initializer.iter_mut().for_each(share_tensor);
            graph.node.iter_mut().for_each(share);
        }
    }
}

/// Makes a tensor hold its content as bytes, where it is of a type that has bytes.
/// A tensor that contradicts itself stays as it is, and is an error once it is read.
fn share_tensor(tensor: &mut TensorProto) {
    if tensor.raw_data.is_some() || !tensor.external_data.is_empty() {
        return;
    }
    let Ok(content) = import(tensor, &mut Files::none(Allowance::default())) else { return };
    if content.dtype() == DType::String {
        return;
    }
    let name = tensor.name.take();
    *tensor = TensorProto { name, ..export("", &content) };
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
