//! Exact sizes: a program whose sizes only a run tells becomes the program of that run's sizes.

use std::borrow::Cow;
use std::sync::Arc;

use hetero_hal::{
    Allowance, Error, ErrorKind, Graph, Inference, InputFact, Node, Operator, OperatorSet, Program, ProgramValue,
    Result, Tensor, TensorType, Value,
};

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
pub struct ExactProgram {
    /// The program: its values and inputs are those of the program that it was made from.
    /// Nodes whose results shapes alone decide are gone, and its outputs lack those that are known.
    pub program: Program,
    /// The positions of its nodes in the program that it was made from; a node of a body has that
    /// of the node that the body stands for.
    pub nodes: Vec<usize>,
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
) -> Result<ExactProgram> {
    if shapes.len() != program.inputs().len() || contents.len() != shapes.len() {
        return Err(Error::invalid_argument(format!("{} shapes for {}", shapes.len(), program.inputs().len())));
    }
    let known = |value: &ProgramValue| {
        let ty = match &value.constant {
            Some(content) => TensorType::exact(content.dtype(), content.shape()),
            None => TensorType { dtype: Some(value.dtype), dims: None },
        };
        InputFact { ty, value: value.constant.clone(), most: None }
    };
    let mut values: Vec<InputFact> = program.values().iter().map(known).collect();
    for ((id, shape), content) in program.inputs().iter().zip(shapes).zip(contents) {
        let value = program.value(*id)?;
        let ty = TensorType::exact(value.dtype, shape);
        values[id.index()] = InputFact { ty, value: content.clone(), most: None };
    }
    // The values of bodies stand behind the program's own.
    let mut graph: Option<Graph> = None;
    let mut taken = foldhash::HashSet::default();
    let mut given = program.nodes().iter().enumerate();
    // The nodes of bodies that are left, the next one last, each with the node that it stands for.
    let mut bodies: Vec<(usize, Node)> = Vec::new();
    let mut room = allowance.clone();
    let mut kept: Vec<(usize, Cow<'_, Node>)> = Vec::with_capacity(program.nodes().len());
    let mut inputs: Vec<Option<InputFact>> = Vec::new();
    loop {
        let body = bodies.pop().map(|(position, node)| (position, Cow::Owned(node)));
        let next = body.or_else(|| given.next().map(|(position, node)| (position, Cow::Borrowed(node))));
        let Some((position, node)) = next else { break };
        let at = |error: Error| error.at(node.to_string());
        // Facts are lent to the node, as a copy of each would take longer than most inferences.
        inputs.clear();
        for (index, id) in node.inputs.iter().enumerate() {
            let lent = node.inputs[..index].iter().position(|earlier| earlier.is_some() && earlier == id);
            inputs.push(match (id, lent) {
                (Some(_), Some(earlier)) => inputs[earlier].clone(),
                (Some(id), None) => Some(std::mem::take(&mut values[id.index()])),
                (None, _) => None,
            });
        }
        let facts = facts(&node, &inputs, operators, &mut room).map_err(at)?;
        for (id, fact) in node.inputs.iter().zip(inputs.drain(..)) {
            if let (Some(id), Some(fact)) = (id, fact) {
                values[id.index()] = fact;
            }
        }
        let facts = match facts {
            Facts::Known(facts) => facts,
            Facts::Body(body) => {
                let own = || Graph { values: vec![Value::default(); program.values().len()], ..Graph::default() };
                if graph.is_none() {
                    taken.extend(program.values().iter().map(|value| value.name.clone()));
                }
                let graph = graph.get_or_insert_with(own);
                bodies.extend(graph.inline(&node, &body, &mut taken).into_iter().rev().map(|node| (position, node)));
                let fresh = graph.values.iter().skip(values.len());
                let fact =
                    |value: &Value| InputFact { ty: value.ty.clone(), value: value.constant.clone(), most: None };
                values.extend(fresh.map(fact).collect::<Vec<_>>());
                continue;
            }
        };
        let is_known = facts.iter().all(|fact| fact.value.is_some());
        for (id, fact) in node.outputs.iter().zip(facts) {
            let Some(id) = id else { continue };
            if fact.ty.dims.as_ref().is_none_or(|dims| dims.iter().any(|dim| dim.known().is_none())) {
                let text = format!("the size of output {} ({}) depends on data", id.0, fact.ty);
                return Err(at(Error::new(ErrorKind::Unsupported, text)));
            }
            values[id.index()] = fact;
        }
        if !is_known {
            kept.push((position, node));
        }
    }
    // A node that stays makes all its outputs, so none of these is known.
    for id in kept.iter().flat_map(|(_, node)| node.outputs.iter().flatten()) {
        values[id.index()].value = None;
    }
    assemble(program, graph, values, kept)
}

fn assemble(
    program: &Program,
    bodies: Option<Graph>,
    values: Vec<InputFact>,
    kept: Vec<(usize, Cow<'_, Node>)>,
) -> Result<ExactProgram> {
    let mut is_input = vec![false; values.len()];
    program.inputs().iter().for_each(|id| is_input[id.index()] = true);
    let (mut outputs, mut known, mut shapes) = (Vec::new(), Vec::new(), Vec::new());
    for (position, id) in program.outputs().iter().enumerate() {
        let value = &values[id.index()];
        shapes.push(value.ty.shape().ok_or_else(|| Error::internal("an output has no shape"))?);
        match &value.value {
            Some(content) if !is_input[id.index()] => known.push((position, content.clone())),
            _ => outputs.push(*id),
        }
    }
    let fresh = bodies.iter().flat_map(|graph| graph.values.iter().skip(program.values().len()));
    let names = program.values().iter().map(|value| &value.name).chain(fresh.map(|value| &value.name));
    let value = |((fact, name), &is_input): ((InputFact, &Arc<str>), &bool)| Value {
        name: name.clone(),
        ty: fact.ty,
        constant: fact.value.filter(|_| !is_input),
    };
    let values = values.into_iter().zip(names).zip(&is_input).map(value).collect();
    let (positions, nodes) = kept.into_iter().map(|(position, node)| (position, node.into_owned())).unzip();
    let inputs = program.inputs().to_vec();
    let graph = Graph { name: Arc::from(program.name()), values, nodes, inputs, outputs, captures: vec![] };
    Ok(ExactProgram { program: Program::new(graph, vec![])?, nodes: positions, known, shapes })
}

/// What is known of a node.
enum Facts {
    /// The body that takes its place.
    Body(Graph),
    /// The facts of its outputs.
    Known(Vec<InputFact>),
}

/// Returns what is known of a node; `room` is what is left for the constants of bodies.
fn facts(
    node: &Node,
    inputs: &[Option<InputFact>],
    operators: &dyn OperatorSet,
    room: &mut Allowance,
) -> Result<Facts> {
    room.check()?;
    let operator = &node.operator;
    let definition = operators.find(operator).ok_or_else(|| Error::unsupported(format!("operator {operator}")))?;
    if let Some(body) = definition.body_of(node, inputs, room)? {
        return Ok(Facts::Body(body));
    }
    definition.check_arity(operator, node.inputs.len(), node.outputs.len())?;
    let none = |_: &str, _: &[TensorType]| Err(Error::unsupported("an operator with a subgraph among exact sizes"));
    let inference = Inference { operator, inputs, outputs: node.outputs.len(), subgraph: &none };
    let mut types = (definition.infer)(&inference)?;
    types.truncate(node.outputs.len());
    let mut contents = definition.contents(node, inputs, &types, operators, room)?.into_iter();
    let fact = |ty| InputFact { ty, value: contents.next(), most: None };
    Ok(Facts::Known(types.into_iter().map(fact).collect()))
}
