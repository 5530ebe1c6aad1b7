//! Graphs of standard operators: what models and programs are made of.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The position of a value in its graph's or program's list of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// The position of a node in its graph's or program's list of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// The position, in its program's list of extents, of a size that depends on data; see
/// [`Dim::Data`] and [`Extents`](crate::Extents).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtentId(pub u32);

/// The place, among those of its program, of a value that takes memory once it is made; see
/// [`ProgramValue::late`](crate::ProgramValue::late).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LateId(pub u32);

impl LateId {
    /// Returns the id as an index into the list of places.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl ValueId {
    /// Returns the id as an index into the list of values.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    /// Returns the id as an index into the list of nodes.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl ExtentId {
    /// Returns the id as an index into the list of extents.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One dimension of a shape, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A size that is known.
    Known(usize),
    /// A size that the caller chooses, by name; equal names are equal sizes.
    Symbol(Arc<str>),
    /// A size that only a run tells, at most `bound`.
    /// The node that runs writes the true size under `extent`.
    Data {
        /// The largest size that it can take.
        bound: usize,
        /// The extent that holds the true size; `None` until the program is bound.
        extent: Option<ExtentId>,
    },
    /// A size of which nothing is known.
    Unknown,
}

impl Dim {
    /// Returns the size, where it is known before a run.
    #[must_use]
    pub fn known(&self) -> Option<usize> {
        match self {
            Dim::Known(size) => Some(*size),
            _ => None,
        }
    }

    /// Returns the largest size that the dimension can take, where there is one.
    #[must_use]
    pub fn bound(&self) -> Option<usize> {
        match self {
            Dim::Known(size) => Some(*size),
            Dim::Data { bound, .. } => Some(*bound),
            _ => None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(size) => write!(f, "{size}"),
            Dim::Symbol(name) => f.write_str(name),
            Dim::Data { bound, .. } => write!(f, "≤{bound}"),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// The type of a value, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorType {
    /// The element type; `None` where it is not known.
    pub dtype: Option<DType>,
    /// The dimensions, outermost first; `None` where not even the rank is known.
    pub dims: Option<Vec<Dim>>,
}

impl TensorType {
    /// Returns a type of which everything is known.
    #[must_use]
    pub fn exact(dtype: DType, shape: &[usize]) -> Self {
        TensorType { dtype: Some(dtype), dims: Some(shape.iter().map(|&size| Dim::Known(size)).collect()) }
    }

    /// Returns a type with these dimensions.
    #[must_use]
    pub fn new(dtype: DType, dims: Vec<Dim>) -> Self {
        TensorType { dtype: Some(dtype), dims: Some(dims) }
    }

    /// Returns the sizes of all dimensions, where they are all known before a run.
    #[must_use]
    pub fn shape(&self) -> Option<Vec<usize>> {
        self.dims.as_ref()?.iter().map(Dim::known).collect()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype.map_or("?", DType::name))?;
        match &self.dims {
            None => f.write_str("[…]"),
            Some(dims) => {
                let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", dims.join(","))
            }
        }
    }
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Attribute {
    /// One integer.
    Int(i64),
    /// One float.
    Float(f32),
    /// One text; the standard allows any bytes.
    String(Arc<[u8]>),
    /// One tensor; a sparse one is made dense on import.
    Tensor(Tensor),
    /// One subgraph.
    Graph(Arc<Graph>),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A list of floats.
    Floats(Vec<f32>),
    /// A list of texts.
    Strings(Vec<Arc<[u8]>>),
    /// A list of tensors.
    Tensors(Vec<Tensor>),
    /// A list of subgraphs.
    Graphs(Vec<Arc<Graph>>),
    /// One type.
    Type(TensorType),
}

/// An operator as data: its name in the standard, its version and its attributes.
///
/// The set of operators is open: an operator is a name with a version, not a variant of a closed
/// enum.
/// So an operator of another domain passes through every layer untouched until some device claims
/// it, and adding an operator changes no type of the contract.
/// The meaning of an operator is written down in one place, its [`Definition`](crate::Definition).
#[derive(Clone, Debug, PartialEq)]
pub struct Operator {
    /// The domain; empty for the standard's own.
    pub domain: Arc<str>,
    /// The name as the standard writes it.
    pub name: Arc<str>,
    /// The version of the operator set that the model imports for this domain.
    pub version: u32,
    /// The attributes that the model sets; the definition knows the defaults of the others.
    pub attributes: BTreeMap<Arc<str>, Attribute>,
}

impl Operator {
    /// Returns an operator of the standard without attributes.
    #[must_use]
    pub fn new(name: &str, version: u32) -> Self {
        Operator { domain: "".into(), name: name.into(), version, attributes: BTreeMap::new() }
    }

    /// Returns the same operator with one more attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: Attribute) -> Self {
        self.attributes.insert(name.into(), value);
        self
    }

    /// Tells whether this is the operator `name` of the standard's own domain.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.domain.is_empty() && &*self.name == name
    }

    /// Returns the attribute, where the model sets it.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.get(name)
    }

    fn wrong(&self, name: &str, wanted: &str) -> Error {
        Error::invalid_model(format!("attribute '{name}' of {self} is not {wanted}"))
    }

    /// Returns an integer attribute, where the model sets it.
    ///
    /// # Errors
    /// `InvalidModel` where the attribute has another type.
    pub fn int(&self, name: &str) -> Result<Option<i64>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Int(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(name, "an integer")),
        }
    }

    /// Returns a float attribute, where the model sets it.
    ///
    /// # Errors
    /// `InvalidModel` where the attribute has another type.
    pub fn float(&self, name: &str) -> Result<Option<f32>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Float(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(name, "a float")),
        }
    }

    /// Returns a text attribute, where the model sets it.
    ///
    /// # Errors
    /// `InvalidModel` where the attribute has another type or is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::String(value)) => match std::str::from_utf8(value) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(self.wrong(name, "UTF-8 text")),
            },
            Some(_) => Err(self.wrong(name, "text")),
        }
    }

    /// Returns an attribute that is a list of integers, where the model sets it.
    ///
    /// # Errors
    /// `InvalidModel` where the attribute has another type.
    pub fn ints(&self, name: &str) -> Result<Option<&[i64]>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            Some(_) => Err(self.wrong(name, "a list of integers")),
        }
    }

    /// Returns an attribute that is a list of floats, where the model sets it.
    ///
    /// # Errors
    /// `InvalidModel` where the attribute has another type.
    pub fn floats(&self, name: &str) -> Result<Option<&[f32]>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Floats(values)) => Ok(Some(values)),
            Some(_) => Err(self.wrong(name, "a list of floats")),
        }
    }

    /// Returns a tensor attribute, where the model sets it.
    ///
    /// # Errors
    /// `InvalidModel` where the attribute has another type.
    pub fn tensor(&self, name: &str) -> Result<Option<&Tensor>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Tensor(value)) => Ok(Some(value)),
            Some(_) => Err(self.wrong(name, "a tensor")),
        }
    }

    /// Returns an attribute that is a subgraph, where the model sets it.
    ///
    /// # Errors
    /// `InvalidModel` where the attribute has another type.
    pub fn graph(&self, name: &str) -> Result<Option<&Arc<Graph>>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Graph(value)) => Ok(Some(value)),
            Some(_) => Err(self.wrong(name, "a graph")),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.domain.is_empty() {
            write!(f, "{}.", self.domain)?;
        }
        f.write_str(&self.name)
    }
}

/// One use of an operator, with its inputs and outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The name, unique in its graph.
    pub name: Arc<str>,
    /// The operator that the node computes.
    pub operator: Operator,
    /// The inputs in the standard's order; `None` for an optional input that is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// The outputs in the standard's order; `None` for an output that nobody wants.
    pub outputs: Vec<Option<ValueId>>,
}

impl Node {
    /// Returns the subgraphs among the attributes.
    pub fn subgraphs(&self) -> impl Iterator<Item = &Arc<Graph>> {
        self.operator.attributes.values().flat_map(|attribute| match attribute {
            Attribute::Graph(graph) => std::slice::from_ref(graph),
            Attribute::Graphs(graphs) => graphs.as_slice(),
            _ => &[],
        })
    }

    /// Returns every value that the node reads: its inputs, then the values that its subgraphs
    /// capture.
    /// Values may repeat.
    pub fn uses(&self) -> impl Iterator<Item = ValueId> {
        let captured = self.subgraphs().flat_map(|graph| graph.captures.iter().map(|c| c.outer));
        self.inputs.iter().flatten().copied().chain(captured)
    }

    /// Keeps only the outputs that are wanted, and tells whether there are any.
    /// Those behind the last wanted one are taken off the list, except where the number of outputs
    /// says what each of them is, as that of `Split` does.
    pub fn keep_outputs(&mut self, mut wanted: impl FnMut(ValueId) -> bool) -> bool {
        for output in &mut self.outputs {
            *output = output.filter(|&id| wanted(id));
        }
        if !self.operator.is("Split") {
            while self.outputs.pop_if(|output| output.is_none()).is_some() {}
        }
        self.outputs.iter().any(Option::is_some)
    }

    /// Returns the node with every value of its graph renamed by `map`: inputs, outputs and
    /// captures.
    #[must_use]
    pub fn remapped(&self, mut map: impl FnMut(ValueId) -> ValueId) -> Node {
        let mut node = self.clone();
        for value in node.inputs.iter_mut().chain(&mut node.outputs).flatten() {
            *value = map(*value);
        }
        let mut recapture = |graph: &mut Arc<Graph>| {
            for capture in &mut Arc::make_mut(graph).captures {
                capture.outer = map(capture.outer);
            }
        };
        for attribute in node.operator.attributes.values_mut() {
            match attribute {
                Attribute::Graph(graph) => recapture(graph),
                Attribute::Graphs(graphs) => graphs.iter_mut().for_each(&mut recapture),
                _ => {}
            }
        }
        node
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.operator)
    }
}

/// A value of a graph: an input, a constant, or a node's output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Value {
    /// The name, unique in its graph.
    pub name: Arc<str>,
    /// The type of the value, as far as it is known.
    pub ty: TensorType,
    /// The content of an initialiser.
    /// Where such a value is also a graph input, the content is a default that the caller may
    /// override.
    pub constant: Option<Tensor>,
}

/// A value of an enclosing graph that a subgraph reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capture {
    /// The value in the enclosing graph.
    pub outer: ValueId,
    /// The value that stands for it in the subgraph.
    pub inner: ValueId,
}

/// A graph in single static assignment, with its nodes in topological order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// The name of the graph.
    pub name: Arc<str>,
    /// All values; [`ValueId`]s index them.
    pub values: Vec<Value>,
    /// All nodes, each after the producers of the values that it reads.
    pub nodes: Vec<Node>,
    /// The values that the caller supplies.
    pub inputs: Vec<ValueId>,
    /// The values that the caller gets.
    pub outputs: Vec<ValueId>,
    /// The values that are read from the enclosing graph; empty for a graph that no other encloses.
    pub captures: Vec<Capture>,
}

impl Graph {
    /// Returns a value.
    ///
    /// # Errors
    /// `Internal` for an id of another graph.
    pub fn value(&self, id: ValueId) -> Result<&Value> {
        self.values
            .get(id.index())
            .ok_or_else(|| Error::internal(format!("graph '{}' has no value {}", self.name, id.0)))
    }

    /// Brings the values of a node's body into the graph, such as those of the branch that an `If`
    /// takes, and returns the nodes that take the node's place.
    /// The body's captures are values of this graph.
    /// Names get the node's name as a prefix, and a number where that is another's name already.
    /// `taken` has the names of all values; an empty set is filled with them, and whoever inlines
    /// more keeps it.
    pub fn inline(&mut self, node: &Node, body: &Graph, taken: &mut foldhash::HashSet<Arc<str>>) -> Vec<Node> {
        if taken.is_empty() {
            taken.extend(self.values.iter().map(|value| value.name.clone()));
        }
        let mut renamed: Vec<Option<ValueId>> = vec![None; body.values.len()];
        for capture in &body.captures {
            renamed[capture.inner.index()] = Some(capture.outer);
        }
        let mut made_here = vec![false; body.values.len()];
        for id in body.nodes.iter().flat_map(|node| node.outputs.iter().flatten()) {
            made_here[id.index()] = true;
        }
        let mut carried = Vec::new();
        for (inner, outer) in body.outputs.iter().zip(&node.outputs) {
            if let Some(outer) = outer {
                match renamed[inner.index()] {
                    None if made_here[inner.index()] => renamed[inner.index()] = Some(*outer),
                    _ => carried.push((*inner, *outer)),
                }
            }
        }
        for (slot, value) in renamed.iter_mut().zip(&body.values) {
            if slot.is_none() {
                *slot = Some(ValueId(self.values.len() as u32));
                let mut value = value.clone();
                let name = format!("{}/{}", node.name, value.name);
                value.name = name.as_str().into();
                for number in 2u64.. {
                    if taken.insert(value.name.clone()) {
                        break;
                    }
                    value.name = format!("{name}-{number}").into();
                }
                self.values.push(value);
            }
        }
        let rename = |id: ValueId| renamed[id.index()].unwrap_or(id);
        let mut nodes = Vec::with_capacity(body.nodes.len() + carried.len());
        for inner in &body.nodes {
            let mut inner = inner.remapped(rename);
            inner.name = format!("{}/{}", node.name, inner.name).into();
            nodes.push(inner);
        }
        for (index, (inner, outer)) in carried.into_iter().enumerate() {
            nodes.push(Node {
                name: format!("{}/output_{index}", node.name).into(),
                operator: Operator::new("Identity", node.operator.version),
                inputs: vec![Some(rename(inner))],
                outputs: vec![Some(outer)],
            });
        }
        nodes
    }

    /// Takes out the nodes and outputs that make nothing which is wanted; `wanted` tells of each
    /// output of the graph whether it is.
    /// Tells of each value whether something that stays needs it.
    pub fn trim(&mut self, wanted: &[bool]) -> Vec<bool> {
        let mut needed = vec![false; self.values.len()];
        for (id, _) in self.outputs.iter().zip(wanted).filter(|(_, wanted)| **wanted) {
            needed[id.index()] = true;
        }
        let mut kept = Vec::with_capacity(self.nodes.len());
        for mut node in std::mem::take(&mut self.nodes).into_iter().rev() {
            if node.keep_outputs(|id| needed[id.index()]) {
                node.uses().for_each(|id| needed[id.index()] = true);
                kept.push(node);
            }
        }
        kept.reverse();
        self.nodes = kept;
        needed
    }

    /// Checks the promises of the type.
    /// Ids are in range, every value has at most one producer, nodes are in topological order, and
    /// names of values are unique.
    /// The same holds for subgraphs and their captures.
    ///
    /// # Errors
    /// `InvalidModel`, naming the value or node.
    pub fn check(&self) -> Result<()> {
        let invalid = |text: String| Err(Error::invalid_model(format!("graph '{}': {text}", self.name)));
        let mut names: foldhash::HashSet<&str> =
            foldhash::HashSet::with_capacity_and_hasher(self.values.len(), Default::default());
        for value in &self.values {
            if !names.insert(&*value.name) {
                return invalid(format!("the name '{}' is given to two values", value.name));
            }
        }
        let mut ready: Vec<bool> = self.values.iter().map(|value| value.constant.is_some()).collect();
        for &id in self.inputs.iter().chain(self.captures.iter().map(|c| &c.inner)) {
            match ready.get_mut(id.index()) {
                Some(slot) => *slot = true,
                None => return invalid(format!("an input refers to the missing value {}", id.0)),
            }
        }
        for node in &self.nodes {
            for id in node.uses() {
                match ready.get(id.index()) {
                    Some(true) => {}
                    Some(false) => {
                        let name = &self.values[id.index()].name;
                        return invalid(format!("node {node} reads '{name}' before anything produces it"));
                    }
                    None => return invalid(format!("node {node} reads the missing value {}", id.0)),
                }
            }
            for graph in node.subgraphs() {
                graph.check()?;
            }
            for &id in node.outputs.iter().flatten() {
                match ready.get_mut(id.index()) {
                    Some(slot) if !*slot => *slot = true,
                    Some(_) => {
                        let name = &self.values[id.index()].name;
                        return invalid(format!("'{name}' is produced twice, the second time by node {node}"));
                    }
                    None => return invalid(format!("node {node} writes the missing value {}", id.0)),
                }
            }
        }
        for &id in &self.outputs {
            match ready.get(id.index()) {
                Some(true) => {}
                Some(false) => {
                    let name = &self.values[id.index()].name;
                    return invalid(format!("nothing produces the output '{name}'"));
                }
                None => return invalid(format!("an output refers to the missing value {}", id.0)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Value {
        Value { name: name.into(), ..Value::default() }
    }

    fn node(name: &str, input: u32, output: u32) -> Node {
        Node {
            name: name.into(),
            operator: Operator::new("Relu", 14),
            inputs: vec![Some(ValueId(input))],
            outputs: vec![Some(ValueId(output))],
        }
    }

    fn chain() -> Graph {
        Graph {
            name: "g".into(),
            values: vec![value("x"), value("y"), value("z")],
            nodes: vec![node("a", 0, 1), node("b", 1, 2)],
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(2)],
            captures: vec![],
        }
    }

    #[test]
    fn a_chain_is_sound_and_each_break_is_named() {
        assert!(chain().check().is_ok());
        let mut reversed = chain();
        reversed.nodes.reverse();
        assert!(reversed.check().unwrap_err().message().contains("before anything produces it"));
        let mut twice = chain();
        twice.nodes[1] = node("b", 0, 1);
        assert!(twice.check().unwrap_err().message().contains("produced twice"));
        let mut dangling = chain();
        dangling.nodes[1] = node("b", 1, 7);
        assert!(dangling.check().is_err());
        let mut same = chain();
        same.values[2].name = "x".into();
        assert!(same.check().unwrap_err().message().contains("two values"));
        let mut unmade = chain();
        unmade.nodes.pop();
        assert!(unmade.check().unwrap_err().message().contains("nothing produces"));
    }

    #[test]
    fn captures_are_uses_and_are_remapped() {
        let mut inner = chain();
        inner.inputs.clear();
        inner.captures = vec![Capture { outer: ValueId(5), inner: ValueId(0) }];
        let mut branch = node("if", 3, 4);
        branch.operator = Operator::new("If", 16).with("then_branch", Attribute::Graph(Arc::new(inner)));
        assert_eq!(branch.uses().collect::<Vec<_>>(), [ValueId(3), ValueId(5)]);
        let moved = branch.remapped(|id| ValueId(id.0 + 10));
        assert_eq!(moved.uses().collect::<Vec<_>>(), [ValueId(13), ValueId(15)]);
        assert_eq!(moved.outputs, [Some(ValueId(14))]);
    }

    #[test]
    fn attributes_are_read_with_their_type() {
        let op = Operator::new("Conv", 11).with("group", Attribute::Int(2));
        assert_eq!(op.int("group").unwrap(), Some(2));
        assert_eq!(op.ints("pads").unwrap(), None);
        assert!(op.float("group").unwrap_err().message().contains("'group' of Conv"));
    }
}
