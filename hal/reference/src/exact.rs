//! Exact sizes: a program whose sizes only a run tells becomes the program of that run's sizes.

use std::borrow::Cow;
use std::sync::Arc;

use hetero_hal::{
    Allowance, Capture, Dim, Error, ErrorKind, Evaluation, Graph, Inference, InputFact, Node, Operator, OperatorSet,
    Program, Result, Tensor, TensorType, Value, ValueId, element_count, empties, shape_content,
};

/// The most elements of a value that is computed on the way, as shapes, axes and sizes are.
const MOST_ELEMENTS: usize = 4096;
/// The most bytes that such a computation takes on its way.
const MOST_BYTES: usize = 1 << 22;

/// Returns the positions of the inputs whose content decides the sizes of an operator's outputs,
/// beside the shapes of all inputs.
///
/// ```
/// use hetero_hal::Operator;
///
/// assert_eq!(hetero_reference::shaping_inputs(&Operator::new("Reshape", 21)), [1]);
/// assert!(hetero_reference::shaping_inputs(&Operator::new("MatMul", 13)).is_empty());
/// ```
#[must_use]
pub fn shaping_inputs(operator: &Operator) -> &'static [usize] {
    if &*operator.domain == "com.microsoft" {
        return if &*operator.name == "GroupQueryAttention" { &[5, 6] } else { &[] };
    }
    if !operator.domain.is_empty() {
        return &[];
    }
    match &*operator.name {
        "Reshape" | "Expand" | "OneHot" | "TopK" | "Squeeze" | "Unsqueeze" | "Split" | "CenterCropPad"
        | "AffineGrid" | "Upsample" => &[1],
        "Tile" | "Col2Im" => &[1, 2],
        "Slice" => &[1, 2, 3, 4],
        "Pad" | "DFT" => &[1, 2, 3],
        "Resize" => &[1, 2, 3],
        "Range" => &[0, 1, 2],
        "ConstantOfShape" | "BlackmanWindow" | "HannWindow" | "HammingWindow" => &[0],
        "MaxUnpool" => &[2],
        "MelWeightMatrix" => &[0, 1],
        "STFT" => &[1, 3],
        name if name.starts_with("Reduce") => &[1],
        _ => &[],
    }
}

/// Tells whether only computing a node tells the sizes of its outputs, whatever is known of its
/// inputs but their elements.
#[must_use]
pub fn sizes_depend_on_data(node: &Node) -> bool {
    const FINDERS: [&str; 7] =
        ["NonZero", "Compress", "Unique", "NonMaxSuppression", "StringSplit", "TfIdfVectorizer", "ImageDecoder"];
    FINDERS.iter().any(|name| node.operator.is(name)) || node.subgraphs().next().is_some()
}

/// A program of exact sizes; see [`exact`].
#[derive(Clone, Debug)]
pub struct Exact {
    /// The program: its values and inputs are those of the program that it was made from.
    /// Nodes whose results shapes alone decide are gone, and its outputs lack those that are known.
    pub program: Program,
    /// The outputs that are known without a run, each with its position among the outputs of the
    /// program that this one was made from.
    pub known: Vec<(usize, Tensor)>,
    /// The shapes of all outputs of the program that this one was made from.
    pub shapes: Vec<Vec<usize>>,
}

/// Returns the program for inputs of these shapes.
/// `contents` has the content of each input that decides sizes; see [`shaping_inputs`].
///
/// # Errors
/// `Unsupported` where a size depends on more than that.
/// `InvalidModel` where a node cannot take inputs of such sizes.
/// `InvalidArgument` where there are not as many shapes and contents as inputs.
pub fn exact(
    program: &Program,
    shapes: &[Vec<usize>],
    contents: &[Option<Tensor>],
    operators: &dyn OperatorSet,
    allowance: &Allowance,
) -> Result<Exact> {
    if shapes.len() != program.inputs().len() || contents.len() != shapes.len() {
        return Err(Error::invalid_argument(format!("{} shapes for {}", shapes.len(), program.inputs().len())));
    }
    let value = |value: &hetero_hal::ProgramValue| {
        let ty = match &value.constant {
            Some(content) => TensorType::exact(content.dtype(), content.shape()),
            None => TensorType { dtype: Some(value.dtype), dims: None },
        };
        Value { name: value.name.clone(), ty, constant: value.constant.clone() }
    };
    let (inputs, outputs) = (program.inputs().to_vec(), program.outputs());
    let values: Vec<Value> = program.values().iter().map(value).collect();
    let mut found: Vec<Option<Tensor>> = vec![None; values.len()];
    let mut graph = Graph { name: Arc::from(program.name()), values, inputs, ..Graph::default() };
    for ((id, shape), content) in program.inputs().iter().zip(shapes).zip(contents) {
        let value = &mut graph.values[id.index()];
        value.ty = TensorType::exact(program.value(*id)?.dtype, shape);
        found[id.index()].clone_from(content);
    }
    let mut given = program.nodes().iter();
    // The nodes of bodies that are left, the next one last.
    let mut bodies: Vec<Node> = Vec::new();
    let mut room = allowance.clone();
    while let Some(node) = bodies.pop().map(Cow::Owned).or_else(|| given.next().map(Cow::Borrowed)) {
        let at = |error: Error| error.at(node.to_string());
        allowance.check().map_err(at)?;
        let made = facts(&graph, &node, &found, operators, &mut room).map_err(at)?;
        let (types, contents) = match made {
            Facts::Body(body) => {
                bodies.extend(graph.inline(&node, &body).into_iter().rev());
                found.resize(graph.values.len(), None);
                continue;
            }
            Facts::Known(types, contents) => (types, contents),
        };
        let is_known = !contents.is_empty();
        let mut contents = contents.into_iter();
        for (id, ty) in node.outputs.iter().zip(types) {
            let content = contents.next();
            let Some(id) = id else { continue };
            let value = &mut graph.values[id.index()];
            if ty.dtype.is_none() || ty.shape().is_none() {
                let text = format!("the size of value '{}' ({ty}) depends on data", value.name);
                return Err(at(Error::new(ErrorKind::Unsupported, text)));
            }
            value.ty = ty;
            found[id.index()] = content;
        }
        if !is_known {
            graph.nodes.push(node.into_owned());
        }
    }
    // A node that stays makes all its outputs, so none of these is known.
    for id in graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten()) {
        found[id.index()] = None;
    }
    graph.inputs.iter().for_each(|id| found[id.index()] = None);
    let (mut known, mut shapes) = (Vec::new(), Vec::new());
    for (position, id) in outputs.iter().enumerate() {
        let shape = graph.values[id.index()].ty.shape();
        shapes.push(shape.ok_or_else(|| Error::internal("an output has no shape"))?);
        match &found[id.index()] {
            Some(content) => known.push((position, content.clone())),
            None => graph.outputs.push(*id),
        }
    }
    for (value, content) in graph.values.iter_mut().zip(found) {
        value.constant = value.constant.take().or(content);
    }
    Ok(Exact { program: Program::new(graph, vec![])?, known, shapes })
}

/// What is known of a node.
enum Facts {
    /// The body that takes its place.
    Body(Graph),
    /// The types of its outputs, and the contents of all of them or of none.
    Known(Vec<TensorType>, Vec<Tensor>),
}

/// Returns what is known of a node; `room` is what is left for the constants of bodies.
fn facts(
    graph: &Graph,
    node: &Node,
    found: &[Option<Tensor>],
    operators: &dyn OperatorSet,
    room: &mut Allowance,
) -> Result<Facts> {
    let operator = &node.operator;
    let definition = operators.find(operator).ok_or_else(|| Error::unsupported(format!("operator {operator}")))?;
    definition.check_arity(operator, node.inputs.len(), node.outputs.len())?;
    let fact = |id: ValueId| {
        let value = &graph.values[id.index()];
        let content = value.constant.as_ref().or(found[id.index()].as_ref());
        InputFact { ty: value.ty.clone(), value: content.cloned(), most: None }
    };
    let inputs: Vec<Option<InputFact>> = node.inputs.iter().map(|id| id.map(fact)).collect();
    let none = |_: &str, _: &[TensorType]| Err(Error::unsupported("an operator with a subgraph among exact sizes"));
    let inference = Inference { operator, inputs: &inputs, outputs: node.outputs.len(), subgraph: &none };
    if let Some(mut body) = definition.body(&inference, room)? {
        body.trim(&node.outputs.iter().map(Option::is_some).collect::<Vec<_>>());
        let constants = body.values.iter().filter_map(|value| value.constant.as_ref());
        *room = room.less(constants.map(|tensor| tensor.bytes().len()).sum())?;
        let captures = node.inputs.iter().zip(&body.inputs);
        body.captures =
            captures.filter_map(|(outer, inner)| Some(Capture { outer: (*outer)?, inner: *inner })).collect();
        return Ok(Facts::Body(body));
    }
    let mut types = (definition.infer)(&inference)?;
    types.truncate(node.outputs.len());
    let contents = contents(node, operators, room, &inputs, &types)?;
    Ok(Facts::Known(types, contents))
}

/// Returns the contents of a node's outputs, where they are small and its inputs decide them.
fn contents(
    node: &Node,
    operators: &dyn OperatorSet,
    allowance: &Allowance,
    inputs: &[Option<InputFact>],
    types: &[TensorType],
) -> Result<Vec<Tensor>> {
    if let Some(empties) = empties(types, node.outputs.len()) {
        return Ok(empties);
    }
    let operator = &node.operator;
    if operator.is("Shape") || operator.is("Size") {
        let shape = inputs.first().and_then(Option::as_ref).and_then(|fact| fact.ty.shape());
        return shape.map_or(Ok(vec![]), |shape| shape_content(operator, &shape));
    }
    let small = |count: Option<usize>| count.is_some_and(|count| count <= MOST_ELEMENTS);
    let fits = |fact: &InputFact| small(fact.value.as_ref().map(Tensor::len));
    let size =
        |ty: &TensorType| ty.dims.as_ref().and_then(|dims| dims.iter().map(Dim::known).collect::<Option<Vec<_>>>());
    let made = |ty: &TensorType| small(size(ty).and_then(|shape| element_count(&shape)));
    let deterministic = operators.find(operator).is_some_and(|definition| definition.deterministic);
    if !deterministic || !inputs.iter().flatten().all(fits) || !types.iter().all(made) || inputs.is_empty() {
        return Ok(vec![]);
    }
    let inputs: Vec<Option<Tensor>> =
        inputs.iter().map(|fact| fact.as_ref().and_then(|fact| fact.value.clone())).collect();
    let allowance = Allowance { bytes: allowance.bytes.min(MOST_BYTES), ..allowance.clone() };
    match Evaluation::new(operator, &inputs, node.outputs.len(), operators, &allowance).compute() {
        Ok(contents) => Ok(contents),
        // Sizes do not need it, so a device may compute it.
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::OutOfMemory) => Ok(vec![]),
        Err(error) => Err(error),
    }
}
