//! Import: a `GraphProto` becomes a [`Graph`].
//!
//! Names become ids, nodes are put in topological order, and captures are made explicit.
//! The message is consumed as the graph is made, so that a large model is not held twice.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use hetero_hal::{Attribute, Capture, DType, Dim, Graph, Node, Operator, TensorType, Value, ValueId};

use crate::early;
use crate::error::{Error, Result};
use crate::files::Files;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_shape_proto::dimension;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TypeProto, ValueInfoProto, type_proto};
use crate::tensor;

/// A reader that turns a graph and, recursively, its subgraphs into the contract's form.
pub(crate) struct Importer<'a> {
    pub(crate) opsets: &'a BTreeMap<Arc<str>, u32>,
    pub(crate) files: Files,
    /// The graphs that are being read, the outermost first.
    scopes: Vec<Scope>,
    /// The names of operators, domains and attributes, which very many nodes have in common.
    words: HashSet<Arc<str>>,
}

/// A graph in the making.
#[derive(Default)]
struct Scope {
    graph: Graph,
    ids: HashMap<Arc<str>, ValueId>,
}

impl Scope {
    fn declare(&mut self, name: &str) -> Result<(ValueId, bool)> {
        if let Some(&id) = self.ids.get(name) {
            return Ok((id, false));
        }
        let index = u32::try_from(self.graph.values.len()).map_err(|_| Error::invalid("it has too many values"))?;
        let name: Arc<str> = name.into();
        self.graph.values.push(Value { name: name.clone(), ..Value::default() });
        self.ids.insert(name, ValueId(index));
        Ok((ValueId(index), true))
    }

    fn value(&mut self, id: ValueId) -> &mut Value {
        &mut self.graph.values[id.index()]
    }
}

impl<'a> Importer<'a> {
    pub(crate) fn new(opsets: &'a BTreeMap<Arc<str>, u32>, files: Files) -> Self {
        Importer { opsets, files, scopes: Vec::new(), words: HashSet::default() }
    }

    /// Returns the one copy of a name that many nodes have.
    fn word(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.words.get(text) {
            return known.clone();
        }
        let word: Arc<str> = text.into();
        self.words.insert(word.clone());
        word
    }

    /// Reads a graph.
    /// The values of enclosing graphs that it reads become its captures.
    pub(crate) fn graph(&mut self, proto: GraphProto) -> Result<Graph> {
        self.scopes.push(Scope::default());
        let outcome = self.fill(proto);
        let scope = self.scopes.pop().ok_or_else(|| Error::invalid("scopes are unbalanced"))?;
        outcome.map(|()| scope.graph)
    }

    fn scope(&mut self) -> Result<&mut Scope> {
        self.scopes.last_mut().ok_or_else(|| Error::invalid("there is no graph"))
    }

    fn fill(&mut self, proto: GraphProto) -> Result<()> {
        let scope = self.scope()?;
        scope.graph.name = proto.name().into();
        let made: usize = proto.node.iter().map(|node| node.output.len()).sum();
        let count = proto.input.len() + proto.initializer.len() + made;
        scope.graph.values.reserve(count);
        scope.ids.reserve(count);
        for info in proto.input {
            let ty = value_type(&info)?;
            let scope = self.scope()?;
            let (id, fresh) = scope.declare(info.name())?;
            if !fresh || info.name().is_empty() {
                return Err(Error::invalid(format!("the graph input '{}' is unnamed or listed twice", info.name())));
            }
            scope.value(id).ty = ty;
            scope.graph.inputs.push(id);
        }
        for initializer in proto.initializer {
            let content = tensor::import(&initializer, &mut self.files)?;
            self.constant(initializer.name(), content)?;
        }
        for sparse in proto.sparse_initializer {
            let name = sparse.values.as_ref().map(|values| values.name().to_owned()).unwrap_or_default();
            let content = tensor::import_sparse(&sparse, &mut self.files)?;
            self.constant(&name, content)?;
        }
        // All outputs are declared before any node is read, so that the order in the file does not
        // matter.
        for node in &proto.node {
            for name in node.output.iter().filter(|name| !name.is_empty()) {
                let (_, fresh) = self.scope()?.declare(name)?;
                if !fresh {
                    return Err(Error::invalid(format!(
                        "'{name}' is produced twice, the second time by node '{}' ({})",
                        node.name(),
                        node.op_type()
                    )));
                }
            }
        }
        let claim = |scope: &mut Scope, info: &ValueInfoProto| -> Result<()> {
            let ty = value_type(info)?;
            if let Some(&id) = scope.ids.get(info.name()) {
                let known = &mut scope.value(id).ty;
                known.dtype = known.dtype.or(ty.dtype);
                if known.dims.is_none() {
                    known.dims = ty.dims;
                }
            }
            Ok(())
        };
        for info in proto.value_info {
            claim(self.scope()?, &info)?;
        }
        for info in &proto.output {
            claim(self.scope()?, info)?;
        }
        let mut names = HashMap::with_capacity_and_hasher(proto.node.len(), Default::default());
        let mut nodes = Vec::with_capacity(proto.node.len());
        for (index, node) in proto.node.into_iter().enumerate() {
            let name = unique_name(&node, index, &mut names);
            let node = self.node(node, name)?;
            self.push(node, &mut nodes)?;
        }
        for info in proto.output {
            let depth = self.scopes.len() - 1;
            let id = self
                .resolve(depth, info.name())?
                .ok_or_else(|| Error::invalid(format!("nothing produces the graph output '{}'", info.name())))?;
            self.scope()?.graph.outputs.push(id);
        }
        let scope = self.scope()?;
        scope.graph.nodes = sorted(nodes, scope.graph.values.len())?;
        Ok(())
    }

    fn constant(&mut self, name: &str, content: hetero_hal::Tensor) -> Result<()> {
        let scope = self.scope()?;
        let (id, _) = scope.declare(name)?;
        let value = scope.value(id);
        if value.constant.is_some() || name.is_empty() {
            return Err(Error::invalid(format!("the initializer '{name}' is unnamed or listed twice")));
        }
        value.ty = TensorType::exact(content.dtype(), content.shape());
        value.constant = Some(content);
        Ok(())
    }

    /// Returns the id of a name as the graph at `depth` sees it.
    fn resolve(&mut self, depth: usize, name: &str) -> Result<Option<ValueId>> {
        if let Some(&id) = self.scopes[depth].ids.get(name) {
            return Ok(Some(id));
        }
        let Some(above) = depth.checked_sub(1) else {
            return Ok(None);
        };
        let Some(outer) = self.resolve(above, name)? else {
            return Ok(None);
        };
        let ty = self.scopes[above].value(outer).ty.clone();
        let scope = &mut self.scopes[depth];
        let (inner, _) = scope.declare(name)?;
        scope.value(inner).ty = ty;
        scope.graph.captures.push(Capture { outer, inner });
        Ok(Some(inner))
    }

    fn node(&mut self, mut proto: NodeProto, name: Arc<str>) -> Result<Node> {
        let depth = self.scopes.len() - 1;
        let attributes = std::mem::take(&mut proto.attribute);
        let described = || format!("node '{}' ({})", proto.name(), proto.op_type());
        let mut inputs = Vec::with_capacity(proto.input.len());
        for input in &proto.input {
            inputs.push(match input.as_str() {
                "" => None,
                input => Some(self.resolve(depth, input)?.ok_or_else(|| {
                    Error::invalid(format!("{} reads '{input}', which nothing produces", described()))
                })?),
            });
        }
        let mut outputs = Vec::with_capacity(proto.output.len());
        for output in &proto.output {
            outputs.push(self.scopes[depth].ids.get(output.as_str()).copied());
        }
        let domain = canonical_domain(proto.domain());
        let version = *self.opsets.get(domain).ok_or_else(|| {
            Error::invalid(format!("{} is of the domain '{domain}', which the model does not import", described()))
        })?;
        let mut operator = Operator {
            domain: self.word(domain),
            name: self.word(proto.op_type()),
            version,
            attributes: BTreeMap::new(),
        };
        for mut attribute in attributes {
            if let Some(content) = self.attribute(&mut attribute)? {
                let name = self.word(attribute.name());
                if operator.attributes.insert(name, content).is_some() {
                    return Err(Error::invalid(format!(
                        "{} sets the attribute '{}' twice",
                        described(),
                        attribute.name()
                    )));
                }
            }
        }
        Ok(Node { name, operator, inputs, outputs })
    }

    /// Puts a node behind others, in the form of the standard's later versions.
    fn push(&mut self, mut node: Node, nodes: &mut Vec<Node>) -> Result<()> {
        let scope = self.scope()?;
        let known = |index: usize| Some((*node.inputs.get(index)?)?).map(|id| (id, &scope.graph.values[id.index()].ty));
        let second = known(1).map(|(id, ty)| (id, ty.clone()));
        let first = known(0).and_then(|(_, ty)| ty.dims.clone());
        let dims = second.as_ref().and_then(|(_, ty)| ty.dims.as_deref());
        let missing = early::modernise(&mut node, first.as_deref(), dims);
        if let (Some(missing @ 1..), Some((input, ty))) = (missing, &second) {
            let operator = early::widening(ty.dims.as_ref().map_or(0, Vec::len), missing);
            let mut name = format!("{}/widened", node.name);
            while scope.ids.contains_key(&*name) {
                name.push('_');
            }
            let (wide, _) = scope.declare(&name)?;
            let dims = ty.dims.iter().flatten().cloned().chain(std::iter::repeat_n(Dim::Known(1), missing));
            scope.value(wide).ty = TensorType { dtype: ty.dtype, dims: Some(dims.collect()) };
            nodes.push(Node { name: name.into(), operator, inputs: vec![Some(*input)], outputs: vec![Some(wide)] });
            node.inputs[1] = Some(wide);
        }
        nodes.push(node);
        Ok(())
    }

    /// Returns an attribute's content, which it takes out of the message.
    fn attribute(&mut self, proto: &mut AttributeProto) -> Result<Option<Attribute>> {
        let text = |bytes: &bytes::Bytes| -> Arc<[u8]> { bytes.as_ref().into() };
        let kind = match proto.r#type() {
            AttributeType::Undefined => implied_type(proto),
            kind => kind,
        };
        Ok(Some(match kind {
            AttributeType::Float => Attribute::Float(proto.f()),
            AttributeType::Int => Attribute::Int(proto.i()),
            AttributeType::String => Attribute::String(text(proto.s.as_ref().unwrap_or(&bytes::Bytes::new()))),
            AttributeType::Tensor => {
                let content = proto.t.as_ref().ok_or_else(|| empty(proto))?;
                Attribute::Tensor(tensor::import(content, &mut self.files)?)
            }
            AttributeType::SparseTensor => {
                let content = proto.sparse_tensor.as_ref().ok_or_else(|| empty(proto))?;
                Attribute::Tensor(tensor::import_sparse(content, &mut self.files)?)
            }
            AttributeType::Graph => {
                let content = proto.g.take().ok_or_else(|| empty(proto))?;
                Attribute::Graph(Arc::new(self.graph(content)?))
            }
            AttributeType::TypeProto => Attribute::Type(tensor_type(proto.tp.as_ref().ok_or_else(|| empty(proto))?)?),
            AttributeType::Floats => Attribute::Floats(std::mem::take(&mut proto.floats)),
            AttributeType::Ints => Attribute::Ints(std::mem::take(&mut proto.ints)),
            AttributeType::Strings => Attribute::Strings(proto.strings.iter().map(text).collect()),
            AttributeType::Tensors => Attribute::Tensors(
                proto.tensors.iter().map(|t| tensor::import(t, &mut self.files)).collect::<Result<_>>()?,
            ),
            AttributeType::SparseTensors => Attribute::Tensors(
                proto
                    .sparse_tensors
                    .iter()
                    .map(|t| tensor::import_sparse(t, &mut self.files))
                    .collect::<Result<_>>()?,
            ),
            AttributeType::Graphs => {
                let graphs = std::mem::take(&mut proto.graphs);
                Attribute::Graphs(graphs.into_iter().map(|g| self.graph(g).map(Arc::new)).collect::<Result<_>>()?)
            }
            // No operator of the standard takes a list of types, and an attribute without content
            // says nothing.
            AttributeType::TypeProtos | AttributeType::Undefined => return Ok(None),
        }))
    }
}

fn empty(proto: &AttributeProto) -> Error {
    Error::invalid(format!("the attribute '{}' lacks its content", proto.name()))
}

/// Returns the type of an attribute by its content: files of the earliest format leave the type
/// out.
fn implied_type(proto: &AttributeProto) -> AttributeType {
    if proto.f.is_some() {
        AttributeType::Float
    } else if proto.i.is_some() {
        AttributeType::Int
    } else if proto.s.is_some() {
        AttributeType::String
    } else if proto.t.is_some() {
        AttributeType::Tensor
    } else if proto.g.is_some() {
        AttributeType::Graph
    } else if !proto.floats.is_empty() {
        AttributeType::Floats
    } else if !proto.ints.is_empty() {
        AttributeType::Ints
    } else if !proto.strings.is_empty() {
        AttributeType::Strings
    } else {
        AttributeType::Undefined
    }
}

/// Returns the one spelling that is used here of a domain, as the standard's domain has two.
pub(crate) fn canonical_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// Returns a node's name, with a number behind it where another node has that name.
/// `taken` holds the last number of each name, so that many nodes of one name are not counted
/// through again for each.
fn unique_name(node: &NodeProto, index: usize, taken: &mut HashMap<Arc<str>, usize>) -> Arc<str> {
    let base: Arc<str> = match node.name() {
        "" => format!("{}_{index}", node.op_type()).into(),
        name => name.into(),
    };
    let Some(&last) = taken.get(&base) else {
        taken.insert(base.clone(), 1);
        return base;
    };
    let mut number = last;
    let name: Arc<str> = loop {
        number += 1;
        let name = format!("{base}_{number}");
        if !taken.contains_key(&*name) {
            break name.into();
        }
    };
    taken.insert(base, number);
    taken.insert(name.clone(), 1);
    name
}

fn value_type(info: &ValueInfoProto) -> Result<TensorType> {
    match &info.r#type {
        None => Ok(TensorType::default()),
        Some(ty) => {
            tensor_type(ty).map_err(|error| Error::invalid(format!("the type of value '{}': {error}", info.name())))
        }
    }
}

/// Reads a type; of maps nothing is known.
/// Of sequences and optionals it is known that they are such, and a run tells how many parts of
/// which types they have.
fn tensor_type(proto: &TypeProto) -> Result<TensorType> {
    let (code, shape) = match &proto.value {
        Some(type_proto::Value::TensorType(ty)) => (ty.elem_type(), &ty.shape),
        Some(type_proto::Value::SparseTensorType(ty)) => (ty.elem_type(), &ty.shape),
        Some(type_proto::Value::SequenceType(_)) => return Ok(parts_type(DType::Sequence)),
        Some(type_proto::Value::OptionalType(_)) => return Ok(parts_type(DType::Optional)),
        Some(type_proto::Value::MapType(_)) | None => return Ok(TensorType::default()),
    };
    let dtype = match DType::from_onnx_code(code) {
        None if code != 0 => return Err(Error::invalid(format!("the unknown element type {code}"))),
        dtype => dtype,
    };
    let dims = match shape {
        None => None,
        Some(shape) => Some(
            shape
                .dim
                .iter()
                .map(|dim| match &dim.value {
                    None => Ok(Dim::Unknown),
                    Some(dimension::Value::DimParam(name)) if name.is_empty() => Ok(Dim::Unknown),
                    Some(dimension::Value::DimParam(name)) => Ok(Dim::Symbol(name.as_str().into())),
                    // Exporters write -1 for 'any size'.
                    Some(dimension::Value::DimValue(-1)) => Ok(Dim::Unknown),
                    Some(dimension::Value::DimValue(size)) => usize::try_from(*size)
                        .map(Dim::Known)
                        .map_err(|_| Error::invalid(format!("the negative dimension {size}"))),
                })
                .collect::<Result<Vec<_>>>()?,
        ),
    };
    Ok(TensorType { dtype, dims })
}

fn parts_type(dtype: DType) -> TensorType {
    TensorType::new(dtype, vec![Dim::Unknown])
}

/// Puts nodes in topological order (Kahn), and keeps the file's order where it is one.
fn sorted(nodes: Vec<Node>, values: usize) -> Result<Vec<Node>> {
    let mut producer: Vec<Option<usize>> = vec![None; values];
    for (index, node) in nodes.iter().enumerate() {
        for id in node.outputs.iter().flatten() {
            producer[id.index()] = Some(index);
        }
    }
    let is_in_order =
        |(index, node): (usize, &Node)| node.uses().all(|id| producer[id.index()].is_none_or(|p| p < index));
    if nodes.iter().enumerate().all(is_in_order) {
        return Ok(nodes);
    }
    // A node that reads a source twice waits for it twice.
    let mut waits = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for source in node.uses().filter_map(|id| producer[id.index()]) {
            waits[index] += 1;
            readers[source].push(index);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..nodes.len()).filter(|&index| waits[index] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for &reader in &readers[index] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if order.len() < nodes.len() {
        let stuck: Vec<String> =
            nodes.iter().zip(&waits).filter(|(_, waits)| **waits > 0).take(4).map(|(n, _)| n.to_string()).collect();
        return Err(Error::invalid(format!("these nodes lie on or behind a cycle: {}", stuck.join(", "))));
    }
    let mut slots: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|index| slots[index].take()).collect())
}
