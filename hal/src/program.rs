//! Programs: graphs with static shapes and single static assignment, which devices compile.

use std::fmt;
use std::sync::{Arc, OnceLock};

use foldhash::HashMap;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::fingerprint::{Digest, Fingerprint};
use crate::graph::{Dim, ExtentId, Graph, LateId, Node, NodeId, ValueId};
use crate::tensor::{Tensor, element_count};

/// A size that depends on data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The largest size that it can take, for which memory is planned.
    pub bound: usize,
}

/// The bytes up to which a value is laid out by a bound that it may stay far below.
const LARGEST_BOUND: usize = 1 << 26;

/// A value of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramValue {
    /// The name, unique in the program.
    pub name: Arc<str>,
    /// The element type.
    pub dtype: DType,
    /// The sizes of the dimensions, outermost first; a size that depends on data has its bound
    /// here.
    pub shape: Vec<usize>,
    /// The extent that holds the true size of each dimension in a run; empty where all sizes are
    /// exact.
    pub extents: Vec<Option<ExtentId>>,
    /// The place of the content in a run, where the value is late: it takes memory once it is made
    /// and not before.
    /// Such a value has elements that are no bytes, or sizes without a bound or with a very large
    /// one; where even the rank is open, `shape` is empty.
    pub late: Option<LateId>,
    /// The content of a constant; `None` for any other value.
    pub constant: Option<Tensor>,
}

impl ProgramValue {
    /// Tells whether only a run tells all about the value that memory is laid out by.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        self.late.is_some() || self.extents.iter().any(Option::is_some)
    }

    /// Returns the largest number of elements that the value can have.
    #[must_use]
    pub fn elements(&self) -> usize {
        // Program::new has checked that this does not overflow.
        self.shape.iter().product()
    }

    /// Returns the bytes that the value is laid out with: the most that it can take, or 0 where it
    /// is late.
    #[must_use]
    pub fn bytes(&self) -> usize {
        if self.late.is_some() {
            return 0;
        }
        self.dtype.bytes_for(self.elements()).unwrap_or(0)
    }
}

/// A graph of standard operators with static shapes, in single static assignment and topological
/// order.
///
/// A program is the unit that is planned, cut and compiled.
/// It is made from a [`Model`](crate::Model) by binding it to shapes, or from a larger program by
/// [`Program::extract`].
///
/// A program never changes, and clones share it: passing one on costs a counter.
/// [`Program::fingerprint`] tells programs apart.
#[derive(Clone)]
pub struct Program {
    name: Arc<str>,
    content: Arc<Content>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    values: Vec<ProgramValue>,
    nodes: Vec<Node>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    extents: Arc<[Extent]>,
    lates: usize,
    fingerprint: OnceLock<Fingerprint>,
}

impl Program {
    /// Turns a graph of which every type is known into a program.
    /// The ids of values and nodes stay as they are.
    ///
    /// Dimensions that are [`Dim::Data`] have an extent below `extents.len()`.
    /// A value with other dimensions that are not [`Dim::Known`] becomes a late one, as does one of
    /// strings, and one whose sizes depend on data and have a very large bound.
    ///
    /// # Errors
    /// `InvalidModel` where the graph is not sound, captures something, or a type is not fully
    /// known.
    pub fn new(graph: Graph, extents: Vec<Extent>) -> Result<Program> {
        graph.check()?;
        if !graph.captures.is_empty() {
            return Err(Error::invalid_model(format!("graph '{}' captures values of another", graph.name)));
        }
        // Values that nothing refers to may stay untyped.
        // They are given an empty type and never laid out.
        let mut used = vec![false; graph.values.len()];
        let ports = graph.inputs.iter().chain(&graph.outputs).copied();
        let touched = graph.nodes.iter().flat_map(|n| n.uses().chain(n.outputs.iter().flatten().copied()));
        for id in ports.chain(touched) {
            used[id.index()] = true;
        }
        let mut lates = 0;
        let mut late = || {
            lates += 1;
            LateId(lates as u32 - 1)
        };
        let values = graph
            .values
            .into_iter()
            .zip(used)
            .map(|(value, used)| {
                let unknown = |what: &str| {
                    Error::invalid_model(format!("the {what} of value '{}' is not known: {}", value.name, value.ty))
                };
                let Some(dtype) = value.ty.dtype.filter(|_| used) else {
                    if used {
                        return Err(unknown("type"));
                    }
                    let (dtype, shape) =
                        value.constant.as_ref().map_or((DType::U8, vec![0]), |c| (c.dtype(), c.shape().to_vec()));
                    let (name, constant) = (value.name, value.constant);
                    return Ok(ProgramValue { name, dtype, shape, extents: vec![], late: None, constant });
                };
                let bounds = value.ty.dims.as_ref().and_then(|dims| dims.iter().map(Dim::bound).collect());
                let Some(shape): Option<Vec<usize>> = bounds else {
                    let (name, constant) = (value.name, None);
                    return Ok(ProgramValue {
                        name,
                        dtype,
                        shape: vec![],
                        extents: vec![],
                        late: Some(late()),
                        constant,
                    });
                };
                let mut sizes = vec![None; shape.len()];
                for (axis, dim) in value.ty.dims.iter().flatten().enumerate() {
                    if let Dim::Data { bound, extent } = dim {
                        let known = extent.and_then(|id| extents.get(id.index()));
                        if known.is_none_or(|extent| *bound > extent.bound) {
                            return Err(unknown("extent"));
                        }
                        sizes[axis] = *extent;
                    }
                }
                if sizes.iter().all(Option::is_none) {
                    sizes.clear();
                }
                let bytes = element_count(&shape).and_then(|count| dtype.bytes_for(count));
                let is_large = bytes.is_none_or(|bytes| bytes > LARGEST_BOUND);
                let is_late = value.constant.is_none() && (dtype.bits() == 0 || (is_large && !sizes.is_empty()));
                if bytes.is_none() && !is_late {
                    return Err(Error::invalid_model(format!(
                        "the size of value '{}' ({dtype}{shape:?}) overflows the address space",
                        value.name
                    )));
                }
                let late = is_late.then(&mut late);
                Ok(ProgramValue { name: value.name, dtype, shape, extents: sizes, late, constant: value.constant })
            })
            .collect::<Result<Vec<_>>>()?;
        let (name, nodes, inputs, outputs) = (graph.name, graph.nodes, graph.inputs, graph.outputs);
        let extents = extents.into();
        Ok(Content { values, nodes, inputs, outputs, extents, lates, ..Content::default() }.named(name))
    }

    /// Returns a number that tells the program from others.
    /// It is computed once, in a time that grows with the number of nodes and values.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        *self.content.fingerprint.get_or_init(|| self.content.digest())
    }

    /// Tells whether this is the same program as `other`, or a clone of it, under whatever name.
    /// Equal fingerprints say that two programs are alike.
    #[must_use]
    pub fn is(&self, other: &Program) -> bool {
        Arc::ptr_eq(&self.content, &other.content)
    }

    /// Returns the program as a graph again.
    #[must_use]
    pub fn to_graph(&self) -> Graph {
        self.clone().into_graph()
    }

    /// Turns the program into a graph again, for a pass that rewrites it.
    /// Nodes and constants are copied only where a clone of the program shares them.
    #[must_use]
    pub fn into_graph(self) -> Graph {
        let name = self.name;
        let content = Arc::try_unwrap(self.content).unwrap_or_else(|shared| Content::clone(&shared));
        let values = content
            .values
            .into_iter()
            .map(|value| {
                let dims = value
                    .shape
                    .iter()
                    .enumerate()
                    .map(|(axis, &size)| match value.extents.get(axis).copied().flatten() {
                        None => Dim::Known(size),
                        extent => Dim::Data { bound: size, extent },
                    })
                    .collect();
                let is_open = value.late.is_some() && value.shape.is_empty();
                let ty = crate::graph::TensorType { dtype: Some(value.dtype), dims: (!is_open).then_some(dims) };
                crate::graph::Value { name: value.name, ty, constant: value.constant }
            })
            .collect();
        let Content { nodes, inputs, outputs, .. } = content;
        Graph { name, values, nodes, inputs, outputs, captures: vec![] }
    }

    /// Returns the name of the program.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns all values; [`ValueId`]s index them.
    #[must_use]
    pub fn values(&self) -> &[ProgramValue] {
        &self.content.values
    }

    /// Returns a value.
    /// The id comes from this program's own nodes and ports.
    ///
    /// # Errors
    /// `Internal` for an id of another program.
    pub fn value(&self, id: ValueId) -> Result<&ProgramValue> {
        self.content
            .values
            .get(id.index())
            .ok_or_else(|| Error::internal(format!("program '{}' has no value {}", self.name, id.0)))
    }

    /// Returns all nodes, in topological order; [`NodeId`]s index them.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.content.nodes
    }

    /// Returns the nodes with their ids.
    pub fn node_ids(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (0u32..).map(NodeId).zip(&self.content.nodes)
    }

    /// Returns the values that the caller supplies, in the model's order.
    #[must_use]
    pub fn inputs(&self) -> &[ValueId] {
        &self.content.inputs
    }

    /// Returns the values that the caller gets, in the model's order.
    #[must_use]
    pub fn outputs(&self) -> &[ValueId] {
        &self.content.outputs
    }

    /// Tells of each value whether the caller gets it.
    #[must_use]
    pub fn output_mask(&self) -> Vec<bool> {
        let mut mask = vec![false; self.content.values.len()];
        for id in &self.content.outputs {
            mask[id.index()] = true;
        }
        mask
    }

    /// Returns the sizes that depend on data; [`ExtentId`]s index them.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.content.extents
    }

    /// Tells whether runs need [`Extents`](crate::Extents): some size or value is known only in the
    /// run.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.content.extents.is_empty() || self.content.lates > 0
    }

    /// Returns the number of places for late values; each [`LateId`] is below it.
    #[must_use]
    pub fn lates(&self) -> usize {
        self.content.lates
    }

    /// Returns the node that produces each value; `None` for inputs and constants.
    #[must_use]
    pub fn producers(&self) -> Vec<Option<NodeId>> {
        let mut producers = vec![None; self.content.values.len()];
        for (id, node) in self.node_ids() {
            for value in node.outputs.iter().flatten() {
                producers[value.index()] = Some(id);
            }
        }
        producers
    }

    /// Returns the nodes that read each value, in order and without repeats.
    #[must_use]
    pub fn consumers(&self) -> Vec<Vec<NodeId>> {
        let mut consumers: Vec<Vec<NodeId>> = vec![Vec::new(); self.content.values.len()];
        for (id, node) in self.node_ids() {
            for value in node.uses() {
                let readers = &mut consumers[value.index()];
                if readers.last() != Some(&id) {
                    readers.push(id);
                }
            }
        }
        consumers
    }

    /// Cuts out the sub-program of `nodes`, which are taken in topological order whatever their
    /// order here.
    ///
    /// Its inputs are the values that its nodes read and that other nodes or the caller supply, in
    /// order of first use.
    /// Its outputs are the values that other nodes or the program's caller read of it, in order of
    /// production.
    /// Constants come along.
    /// Names stay, so that both sides agree on a value by name.
    /// Extents keep their ids.
    ///
    /// A cut of all nodes shares the program's content where each port belongs to some node; its
    /// ports then have the program's order.
    ///
    /// # Errors
    /// `InvalidArgument` for a node id of another program.
    pub fn extract(&self, name: &str, nodes: &[NodeId]) -> Result<Program> {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        nodes.dedup();
        let mut cuts = self.divide(&[(name.to_owned(), nodes)])?;
        cuts.pop().ok_or_else(|| Error::internal("a program was cut into nothing"))
    }

    /// Cuts out several sub-programs, as [`Program::extract`] does, in a time that grows with the
    /// program and not with the program times its parts.
    /// Each part has a name and its nodes, in ascending order; no node is of two parts.
    ///
    /// # Errors
    /// `InvalidArgument` for a node id of another program, or one that is listed twice.
    pub fn divide(&self, parts: &[(String, Vec<NodeId>)]) -> Result<Vec<Program>> {
        let Content { values, nodes, outputs, .. } = &*self.content;
        if let [(name, all)] = parts
            && all.len() == nodes.len()
            && all.iter().zip(0u32..).all(|(id, own)| id.0 == own)
            && self.content.has_only_used_ports()
        {
            return Ok(vec![Program { name: name.as_str().into(), content: self.content.clone() }]);
        }
        let mut part_of: Vec<Option<usize>> = vec![None; nodes.len()];
        for (number, (_, nodes)) in parts.iter().enumerate() {
            for id in nodes {
                match part_of.get_mut(id.index()) {
                    Some(slot @ None) => *slot = Some(number),
                    _ => {
                        let text = format!("program '{}' has no node {}, or it is in two parts", self.name, id.0);
                        return Err(Error::invalid_argument(text));
                    }
                }
            }
        }
        let producers = self.producers();
        let maker = |value: ValueId| producers[value.index()].and_then(|producer| part_of[producer.index()]);
        // The values that are read outside the part that makes them.
        let mut wanted_outside = vec![false; values.len()];
        outputs.iter().for_each(|id| wanted_outside[id.index()] = true);
        for (node, part) in nodes.iter().zip(&part_of) {
            node.uses().filter(|&value| maker(value) != *part).for_each(|value| wanted_outside[value.index()] = true);
        }
        let cut = |(number, (name, ids)): (usize, &(String, Vec<NodeId>))| -> Result<Program> {
            let (extents, lates) = (self.content.extents.clone(), self.content.lates);
            let mut cut = Content { extents, lates, ..Content::default() };
            let mut renamed: HashMap<ValueId, ValueId> = HashMap::default();
            for node in ids.iter().map(|id| &nodes[id.index()]) {
                for old in node.uses().chain(node.outputs.iter().flatten().copied()) {
                    if renamed.contains_key(&old) {
                        continue;
                    }
                    let new = ValueId(u32::try_from(cut.values.len()).map_err(|_| Error::internal("too many values"))?);
                    renamed.insert(old, new);
                    let value = &values[old.index()];
                    cut.values.push(value.clone());
                    let made_inside = maker(old) == Some(number);
                    if made_inside && wanted_outside[old.index()] {
                        cut.outputs.push(new);
                    } else if !made_inside && value.constant.is_none() {
                        cut.inputs.push(new);
                    }
                }
                cut.nodes.push(node.remapped(|old| renamed[&old]));
            }
            Ok(cut.named(name.as_str().into()))
        };
        parts.iter().enumerate().map(cut).collect()
    }
}

impl Content {
    fn named(self, name: Arc<str>) -> Program {
        Program { name, content: Arc::new(self) }
    }

    /// Tells whether each input is read, and each output made, by some node.
    fn has_only_used_ports(&self) -> bool {
        let (mut read, mut made) = (vec![false; self.values.len()], vec![false; self.values.len()]);
        for node in &self.nodes {
            node.uses().for_each(|id| read[id.index()] = true);
            node.outputs.iter().flatten().for_each(|id| made[id.index()] = true);
        }
        // A port that is listed twice counts once in a cut.
        let once = |ids: &[ValueId], there: &mut [bool]| ids.iter().all(|id| std::mem::take(&mut there[id.index()]));
        once(&self.inputs, &mut read) && once(&self.outputs, &mut made)
    }

    fn digest(&self) -> Fingerprint {
        let mut digest = Digest::new();
        digest.word(self.nodes.len() as u64);
        self.nodes.iter().for_each(|node| digest.node(node));
        digest.word(self.values.len() as u64);
        for value in &self.values {
            digest.bytes(value.name.as_bytes());
            digest.bytes(value.dtype.name().as_bytes());
            digest.word(value.shape.len() as u64);
            value.shape.iter().for_each(|&size| digest.word(size as u64));
            digest.word(u64::from(value.late.is_some()));
            for extent in &value.extents {
                digest.word(extent.map_or(u64::MAX, |id| u64::from(id.0)));
            }
            digest.constant(value.constant.as_ref());
        }
        for ids in [&self.inputs, &self.outputs] {
            digest.word(ids.len() as u64);
            ids.iter().for_each(|id| digest.word(u64::from(id.0)));
        }
        self.extents.iter().for_each(|extent| digest.word(extent.bound as u64));
        digest.finish()
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("name", &self.name).field("content", &self.content).finish()
    }
}

/// The text is a listing with one line for each node.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |ids: &[Option<ValueId>]| {
            let names: Vec<&str> =
                ids.iter().map(|id| id.map_or("_", |id| &*self.content.values[id.index()].name)).collect();
            names.join(", ")
        };
        writeln!(f, "program {} {{", self.name)?;
        for node in &self.content.nodes {
            writeln!(f, "  {} = {}({})", names(&node.outputs), node.operator, names(&node.inputs))?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Operator, TensorType, Value};

    /// Makes the program x -> a -> y -> b -> z, and y -> c -> w, with outputs z and w; b also reads
    /// the constant k.
    fn forked() -> Program {
        let value = |name: &str| Value { name: name.into(), ty: TensorType::exact(DType::F32, &[4]), constant: None };
        let mut constant = value("k");
        constant.constant = Some(Tensor::from_vec(&[4], vec![1.0f32; 4]).unwrap());
        let node = |name: &str, op: &str, inputs: &[u32], output: u32| Node {
            name: name.into(),
            operator: Operator::new(op, 14),
            inputs: inputs.iter().map(|&id| Some(ValueId(id))).collect(),
            outputs: vec![Some(ValueId(output))],
        };
        let graph = Graph {
            name: "forked".into(),
            values: vec![value("x"), value("y"), value("z"), value("w"), constant],
            nodes: vec![node("a", "Relu", &[0], 1), node("b", "Add", &[1, 4], 2), node("c", "Neg", &[1], 3)],
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(2), ValueId(3)],
            captures: vec![],
        };
        Program::new(graph, vec![]).unwrap()
    }

    #[test]
    fn extraction_finds_the_boundary() {
        let program = forked();
        let names = |p: &Program, ids: &[ValueId]| -> Vec<String> {
            ids.iter().map(|id| p.value(*id).unwrap().name.to_string()).collect()
        };
        let head = program.extract("head", &[NodeId(0)]).unwrap();
        assert_eq!((names(&head, head.inputs()), names(&head, head.outputs())), (vec!["x".into()], vec!["y".into()]));
        let tail = program.extract("tail", &[NodeId(2), NodeId(1)]).unwrap();
        assert_eq!(names(&tail, tail.inputs()), ["y"]);
        assert_eq!(names(&tail, tail.outputs()), ["z", "w"]);
        assert!(tail.values().iter().any(|v| v.constant.is_some()));
        assert!(tail.to_graph().check().is_ok());
        assert!(program.extract("none", &[NodeId(9)]).is_err());
    }

    #[test]
    fn a_cut_of_all_nodes_shares_the_program_unless_a_port_is_of_no_node() {
        let program = forked();
        let all: Vec<NodeId> = program.node_ids().map(|(id, _)| id).collect();
        let whole = program.extract("whole", &all).unwrap();
        assert!(whole.is(&program));
        assert_eq!((whole.name(), program.name()), ("whole", "forked"));
        let mut graph = program.to_graph();
        graph.values.push(Value { name: "idle".into(), ..graph.values[0].clone() });
        graph.inputs.push(ValueId(5));
        let cut = Program::new(graph, vec![]).unwrap().extract("whole", &all).unwrap();
        assert_eq!(cut.inputs().len(), 1);
    }

    #[test]
    fn parts_pass_values_to_each_other_and_share_no_node() {
        let program = forked();
        let part = |name: &str, nodes: &[u32]| (name.to_owned(), nodes.iter().copied().map(NodeId).collect());
        let parts = program.divide(&[part("head", &[0]), part("left", &[1]), part("right", &[2])]).unwrap();
        let names = |part: &Program, ids: &[ValueId]| -> Vec<String> {
            ids.iter().map(|id| part.value(*id).unwrap().name.to_string()).collect()
        };
        let ports: Vec<_> = parts.iter().map(|p| (names(p, p.inputs()), names(p, p.outputs()))).collect();
        let port = |input: &str, output: &str| (vec![input.to_owned()], vec![output.to_owned()]);
        assert_eq!(ports, [port("x", "y"), port("y", "z"), port("y", "w")]);
        assert!(program.divide(&[part("one", &[0, 1]), part("other", &[1, 2])]).is_err());
        assert!(program.divide(&[part("one", &[3])]).is_err());
    }

    #[test]
    fn unknown_types_are_refused_by_name() {
        let mut graph = forked().to_graph();
        let dtype = graph.values[1].ty.dtype.take();
        let error = Program::new(graph.clone(), vec![]).unwrap_err();
        assert!(error.message().contains("'y'"), "{error}");
        graph.values[1].ty.dtype = dtype;
        for dims in [None, Some(vec![Dim::Symbol("batch".into())]), Some(vec![Dim::Unknown])] {
            graph.values[1].ty.dims = dims;
            let program = Program::new(graph.clone(), vec![]).unwrap();
            let value = program.value(ValueId(1)).unwrap();
            assert!(value.late.is_some() && value.is_dynamic() && value.bytes() == 0);
            assert!(program.is_open() && program.lates() == 1);
            assert_eq!(program.to_graph().values[1].ty.dims, None, "it can be made into a program again");
        }
        graph.values[1].ty.dims = Some(vec![Dim::Data { bound: 1 << 40, extent: Some(ExtentId(0)) }]);
        let large = Program::new(graph.clone(), vec![Extent { bound: 1 << 40 }]).unwrap();
        assert!(large.value(ValueId(1)).unwrap().late.is_some(), "its bound is too large to lay out");
        graph.values[1].ty.dims = Some(vec![Dim::Data { bound: 4, extent: Some(ExtentId(0)) }]);
        assert!(Program::new(graph.clone(), vec![]).is_err());
        let program = Program::new(graph, vec![Extent { bound: 4 }]).unwrap();
        assert!(program.value(ValueId(1)).unwrap().is_dynamic());
        assert_eq!(program.value(ValueId(1)).unwrap().bytes(), 16);
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let mut graph = forked().to_graph();
        graph.values[1].ty = TensorType::exact(DType::F32, &[1 << 40, 1 << 40]);
        assert!(Program::new(graph, vec![]).unwrap_err().message().contains("overflows"));
    }

    #[test]
    fn a_program_is_told_by_its_content_and_clones_are_the_same() {
        let (program, alike) = (forked(), forked());
        assert!(program.is(&program.clone()) && !program.is(&alike));
        assert_eq!(program.fingerprint(), alike.fingerprint());
        type Change = fn(&mut Graph);
        // An integer of the same bits as a float is another attribute.
        fn attribute(value: crate::Attribute) -> Operator {
            Operator::new("Relu", 14).with("alpha", value)
        }
        let changes: [Change; 9] = [
            |graph| graph.nodes[0].name = "other".into(),
            |graph| graph.nodes[0].operator.version = 13,
            |graph| graph.nodes[0].operator = graph.nodes[0].operator.clone().with("alpha", crate::Attribute::Int(1)),
            |graph| graph.nodes[0].operator = attribute(crate::Attribute::Int(0x3f80_0000)),
            |graph| graph.nodes[0].operator = attribute(crate::Attribute::Float(1.0)),
            |graph| graph.nodes[0].operator = attribute(crate::Attribute::Ints(vec![1])),
            |graph| graph.values[1].ty = TensorType::exact(DType::F32, &[5]),
            |graph| graph.values[4].constant = Some(Tensor::from_vec(&[4], vec![2.0f32; 4]).unwrap()),
            |graph| graph.outputs.swap(0, 1),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut graph = program.to_graph();
            change(&mut graph);
            let other = Program::new(graph, vec![]).unwrap();
            assert_ne!(program.fingerprint(), other.fingerprint(), "change {number}");
        }
    }

    #[test]
    fn readers_and_producers() {
        let program = forked();
        assert_eq!(program.consumers()[1], [NodeId(1), NodeId(2)]);
        assert_eq!(program.producers()[2], Some(NodeId(1)));
        assert_eq!(program.producers()[4], None);
    }
}
