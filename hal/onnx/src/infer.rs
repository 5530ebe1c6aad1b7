//! Shape and type inference: one walk over a graph, with rules from an [`OperatorSet`].
//!
//! Values that shapes alone decide (`Shape` of a known shape, and arithmetic on it) are computed on
//! the way, because later shapes depend on them.
//! A size that depends on data gets its bound from the operator's rule, and its extent here.

use std::cell::RefCell;

use foldhash::HashMap;
use hetero_hal::{
    Allowance, DType, Definition, Dim, Extent, ExtentId, Graph, Inference, InputFact, MOST_ELEMENTS, Node, OperatorSet,
    Tensor, TensorType, ValueId, element_count, shape_content,
};

use crate::branches::known_branch;
use crate::error::{MissingOperator, MissingOperators, Result};
use crate::parts::{self, Held};

/// Infers the types of all values of a graph, as far as the types of its inputs tell.
/// The result holds the content of each value that shapes alone decide, and the sizes that depend
/// on data.
///
/// Inferred facts replace what the file claims, and the file's claims fill what inference leaves
/// open.
///
/// # Errors
/// `Hal` with `InvalidModel` where a node breaks a rule of the standard, with the node's name.
/// `Timeout` and `Cancelled` where the allowance says so.
/// A node without a definition is no error here.
pub fn infer(graph: &mut Graph, operators: &dyn OperatorSet, allowance: &Allowance) -> Result<Inferred> {
    let mut inferred = Inferred::default();
    walk(graph, Rules { operators, allowance }, &mut inferred)?;
    Ok(inferred)
}

/// The meaning of operators, and what inference may take.
#[derive(Clone, Copy)]
struct Rules<'a> {
    operators: &'a dyn OperatorSet,
    allowance: &'a Allowance,
}

/// Infers as [`infer`] does, and puts the branch that it takes in the place of each `If` whose
/// condition is known by then, and the body in the place of each node whose operator has one.
/// What such a branch decides may be the next condition, so all of this is one walk.
///
/// # Errors
/// Those of [`infer`], and `OutOfMemory` where the bodies' constants do not fit the allowance.
pub fn infer_expanding(graph: &mut Graph, operators: &dyn OperatorSet, allowance: &Allowance) -> Result<Inferred> {
    infer_open(graph, operators, allowance, vec![])
}

/// Infers as [`infer_expanding`] does, where the graph's inputs have these extents.
pub(crate) fn infer_open(
    graph: &mut Graph,
    operators: &dyn OperatorSet,
    allowance: &Allowance,
    extents: Vec<Extent>,
) -> Result<Inferred> {
    let rules = Rules { operators, allowance };
    let mut inferred = Inferred { extents, ..Inferred::default() };
    let mut left_for_bodies = allowance.clone();
    let mut taken = foldhash::HashSet::default();
    // The nodes that are left, the next one last.
    let mut left = std::mem::take(&mut graph.nodes);
    left.reverse();
    let mut nodes = Vec::with_capacity(left.len());
    while let Some(node) = left.pop() {
        if let Some(branch) = known_branch(graph, &node, &inferred.values) {
            for (inner, outer) in branch.outputs.iter().zip(&node.outputs) {
                let Some(outer) = outer else { continue };
                // What the branch claims of its output fills the gaps of what the graph claims.
                let outer = &mut graph.values[outer.index()].ty;
                let mut ty = branch.values[inner.index()].ty.clone();
                merge(&mut ty, std::mem::take(outer));
                *outer = ty;
            }
            left.extend(graph.inline(&node, &branch, &mut taken).into_iter().rev());
            continue;
        }
        if let Some(body) =
            body(graph, &node, rules, &inferred, &mut left_for_bodies).map_err(|error| error.at(node.to_string()))?
        {
            left.extend(graph.inline(&node, &body, &mut taken).into_iter().rev());
            continue;
        }
        visit(graph, &node, rules, &mut inferred)?;
        nodes.push(node);
    }
    graph.nodes = nodes;
    Ok(inferred)
}

/// Returns the body of a node whose operator has one.
fn body(
    graph: &Graph,
    node: &Node,
    rules: Rules<'_>,
    inferred: &Inferred,
    left: &mut Allowance,
) -> hetero_hal::Result<Option<Graph>> {
    match rules.operators.find(&node.operator).filter(|definition| definition.expand.is_some()) {
        Some(definition) => definition.body_of(node, &input_facts(graph, node, inferred), left),
        None => Ok(None),
    }
}

/// The findings of inference beside types.
#[derive(Debug, Default)]
pub struct Inferred {
    /// The contents that shapes alone decide.
    pub values: HashMap<ValueId, Tensor>,
    /// The most that the elements of other contents can be.
    most: HashMap<ValueId, Tensor>,
    /// The element types of what values hold that are sequences or optionals; see [`Held`].
    parts: HashMap<ValueId, Vec<DType>>,
    /// The sizes that depend on data.
    pub extents: Vec<Extent>,
}

fn walk(graph: &mut Graph, rules: Rules<'_>, inferred: &mut Inferred) -> Result<()> {
    // The nodes are taken out because they are read while values change.
    let nodes = std::mem::take(&mut graph.nodes);
    let outcome = nodes.iter().try_for_each(|node| visit(graph, node, rules, inferred));
    graph.nodes = nodes;
    outcome
}

/// Infers the types of a node's outputs.
fn visit(graph: &mut Graph, node: &Node, rules: Rules<'_>, inferred: &mut Inferred) -> Result<()> {
    rules.allowance.check().map_err(|error| error.at(node.to_string()))?;
    let Some(definition) = rules.operators.find(&node.operator) else { return Ok(()) };
    let Facts { mut types, values, most, held } =
        node_facts(graph, node, definition, rules, inferred).map_err(|error| error.at(node.to_string()))?;
    for (position, id) in node.outputs.iter().enumerate() {
        let (Some(id), Some(ty)) = (id, types.get_mut(position)) else {
            continue;
        };
        for dim in ty.dims.iter_mut().flatten() {
            if let Dim::Data { bound, extent: extent @ None } = dim {
                *extent = Some(ExtentId(inferred.extents.len() as u32));
                inferred.extents.push(Extent { bound: *bound });
            }
        }
        let mut known = std::mem::take(&mut graph.values[id.index()].ty);
        let found = std::mem::take(ty);
        let claims = known.dims.is_some() && position == 0 && found.shape().is_none();
        let alone = if claims { Some(found.clone()) } else { None };
        merge(&mut known, found);
        let input = node.inputs.first().copied().flatten().map(|input| &graph.values[input.index()].ty);
        graph.values[id.index()].ty = match (alone, input) {
            // What the file claims cannot be: it counts for nothing.
            (Some(found), Some(input)) if contradicts(node, input, &known) => found,
            _ => known,
        };
    }
    let parts = node.outputs.iter().zip(held).filter_map(|(id, held)| Some(((*id)?, held.parts)));
    inferred.parts.extend(parts.filter(|(_, parts)| !parts.is_empty()));
    inferred.most.extend(node.outputs.iter().zip(most).filter_map(|(id, most)| Some(((*id)?, most))));
    for (id, value) in node.outputs.iter().zip(values) {
        if let Some(id) = id {
            graph.values[id.index()].ty = TensorType::exact(value.dtype(), value.shape());
            inferred.values.insert(*id, value);
        }
    }
    Ok(())
}

/// Puts found facts in the place of known ones; the claims of the file fill the gaps.
fn merge(known: &mut TensorType, found: TensorType) {
    known.dtype = found.dtype.or(known.dtype);
    known.dims = match (found.dims, known.dims.take()) {
        (Some(found), Some(claimed)) if found.len() == claimed.len() => {
            Some(found.into_iter().zip(claimed).map(|(f, c)| if matches!(f, Dim::Unknown) { c } else { f }).collect())
        }
        (found, claimed) => found.or(claimed),
    };
}

/// Tells whether a node cannot make an output of this type out of its first input, where contents
/// that are known only in the run decide the output's shape.
fn contradicts(node: &Node, input: &TensorType, output: &TensorType) -> bool {
    const RENAMES: [&str; 4] = ["Reshape", "Squeeze", "Unsqueeze", "Flatten"];
    let (Some(from), Some(to)) = (input.shape(), output.shape()) else { return false };
    if RENAMES.iter().any(|name| node.operator.is(name)) {
        return element_count(&from) != element_count(&to);
    }
    let grows =
        |fits: fn((&usize, &usize)) -> bool| from.len() > to.len() || !from.iter().rev().zip(to.iter().rev()).all(fits);
    if node.operator.is("Expand") {
        return grows(|(&from, &to)| from == 1 || from == to);
    }
    node.operator.is("Tile")
        && (from.len() != to.len() || grows(|(&from, &to)| to == 0 || (from > 0 && to.is_multiple_of(from))))
}

/// The facts that are inferred of a node's outputs; contents and bounds may be empty.
struct Facts {
    types: Vec<TensorType>,
    values: Vec<Tensor>,
    most: Vec<Tensor>,
    held: Vec<Held>,
}

/// Returns what is known of a value beside its dimensions.
fn held(graph: &Graph, inferred: &Inferred, id: ValueId) -> Held {
    let value = &graph.values[id.index()];
    match value.constant.as_ref().or_else(|| inferred.values.get(&id)) {
        Some(content) => Held::of(content),
        None => Held { dtype: value.ty.dtype, parts: inferred.parts.get(&id).cloned().unwrap_or_default() },
    }
}

/// Returns what is known of the inputs of a node.
fn input_facts(graph: &Graph, node: &Node, inferred: &Inferred) -> Vec<Option<InputFact>> {
    let content =
        |id: ValueId| graph.values[id.index()].constant.as_ref().or_else(|| inferred.values.get(&id)).cloned();
    let fact = |id: ValueId| InputFact {
        ty: graph.values[id.index()].ty.clone(),
        value: content(id),
        most: inferred.most.get(&id).cloned(),
    };
    node.inputs.iter().map(|id| id.map(fact)).collect()
}

fn node_facts(
    graph: &Graph,
    node: &Node,
    definition: &Definition,
    rules: Rules<'_>,
    inferred: &Inferred,
) -> hetero_hal::Result<Facts> {
    definition.check_arity(&node.operator, node.inputs.len(), node.outputs.len())?;
    let facts = input_facts(graph, node, inferred);
    let concerned = parts::concerns(node, facts.iter().flatten().map(|fact| fact.ty.dtype));
    let known = |id: &Option<ValueId>| id.map(|id| held(graph, inferred, id)).unwrap_or_default();
    let given: Vec<Held> = node.inputs.iter().filter(|_| concerned).map(known).collect();
    let made: RefCell<Vec<Held>> = RefCell::default();
    let subgraph = |name: &str, inputs: &[TensorType]| {
        let Some(body) = node.operator.graph(name)? else {
            return Err(hetero_hal::Error::invalid_model(format!("it lacks the graph '{name}'")));
        };
        let (types, outputs) = subgraph_types((graph, inferred), body, inputs, &parts::of_body(node, &given), rules)?;
        let mut made = made.borrow_mut();
        // Of the two branches of an If, one may tell what the other leaves open.
        let count = made.len().max(outputs.len());
        made.resize_with(count, Held::default);
        for (known, found) in made.iter_mut().zip(outputs) {
            known.dtype = known.dtype.or(found.dtype);
            if known.parts.len() < found.parts.len() {
                known.parts = found.parts;
            }
        }
        Ok(types)
    };
    let context =
        Inference { operator: &node.operator, inputs: &facts, outputs: node.outputs.len(), subgraph: &subgraph };
    let mut types = (definition.infer)(&context)?;
    let held = if concerned { parts::of_outputs(node, &given, &made.take()) } else { vec![] };
    for (ty, held) in types.iter_mut().zip(&held) {
        ty.dtype = ty.dtype.or(held.dtype);
    }
    let values = definition.contents(node, &facts, &types, rules.operators, rules.allowance)?;
    let most = if values.is_empty() { bounded(node, definition, rules, &facts, &types) } else { vec![] };
    Ok(Facts { types, values, most, held })
}

/// The operators that keep the order of their first input where all others are known: a larger
/// element in never makes a smaller one out.
const MONOTONE: [&str; 8] = ["Identity", "Cast", "Gather", "Squeeze", "Unsqueeze", "Reshape", "Slice", "Sub"];
/// The operators that keep the order of all their inputs.
const MONOTONE_IN_ALL: [&str; 4] = ["Add", "Concat", "Max", "Min"];

/// Returns the most that the elements of the outputs can be, where sizes that depend on data decide
/// them.
fn bounded(
    node: &Node,
    definition: &Definition,
    rules: Rules<'_>,
    facts: &[Option<InputFact>],
    types: &[TensorType],
) -> Vec<Tensor> {
    if node.operator.is("Shape") || node.operator.is("Size") {
        let dims = facts.first().and_then(Option::as_ref).and_then(|fact| fact.ty.dims.as_ref());
        let sizes: Option<Vec<usize>> = dims.and_then(|dims| dims.iter().map(Dim::bound).collect());
        return sizes.and_then(|sizes| shape_content(&node.operator, &sizes).ok()).unwrap_or_default();
    }
    let in_all = MONOTONE_IN_ALL.iter().any(|name| node.operator.is(name));
    if !in_all && !MONOTONE.iter().any(|name| node.operator.is(name)) {
        return vec![];
    }
    let bounds = facts.iter().enumerate().map(|(index, fact)| {
        let Some(fact) = fact else { return Some(None) };
        let content = if in_all || index == 0 { fact.at_most() } else { fact.value.as_ref() };
        content.filter(|content| content.len() <= MOST_ELEMENTS).cloned().map(Some)
    });
    let Some(inputs) = bounds.collect::<Option<Vec<_>>>() else { return vec![] };
    definition.evaluate_small(node, &inputs, types, rules.operators, rules.allowance).unwrap_or_default()
}

/// Returns the types of the outputs of a subgraph whose inputs have these types, and what is known
/// of these outputs besides.
fn subgraph_types(
    (outer, around): (&Graph, &Inferred),
    body: &Graph,
    inputs: &[TensorType],
    given: &[Held],
    rules: Rules<'_>,
) -> hetero_hal::Result<(Vec<TensorType>, Vec<Held>)> {
    let mut body = body.clone();
    let mut inferred = Inferred::default();
    for (position, (&id, ty)) in body.inputs.iter().zip(inputs).enumerate() {
        let claimed = std::mem::replace(&mut body.values[id.index()].ty, ty.clone()).dtype;
        let value = &mut body.values[id.index()].ty;
        let given = given.get(position).cloned().unwrap_or_default();
        value.dtype = value.dtype.or(given.dtype).or(claimed);
        inferred.parts.insert(id, given.parts);
    }
    for capture in &body.captures {
        let source = outer.value(capture.outer)?;
        let value = &mut body.values[capture.inner.index()];
        value.ty = source.ty.clone();
        value.constant = source.constant.clone();
        inferred.parts.insert(capture.inner, held(outer, around, capture.outer).parts);
    }
    walk(&mut body, rules, &mut inferred).map_err(hetero_hal::Error::from)?;
    // A subgraph's extents mean nothing outside it, so the node's outputs get extents of their own.
    let outside = |id: &ValueId| {
        let mut ty = body.values[id.index()].ty.clone();
        for dim in ty.dims.iter_mut().flatten() {
            if let Dim::Data { extent, .. } = dim {
                *extent = None;
            }
        }
        ty
    };
    let held = body.outputs.iter().map(|id| held(&body, &inferred, *id)).collect();
    Ok((body.outputs.iter().map(outside).collect(), held))
}

/// Reports every node, in subgraphs too, whose operator the set does not define.
///
/// # Errors
/// One [`MissingOperators`] that names them all.
pub fn check_operators(model: &hetero_hal::Model, operators: &dyn OperatorSet) -> Result<(), MissingOperators> {
    let missing: Vec<MissingOperator> = model
        .all_nodes()
        .into_iter()
        .filter(|node| operators.find(&node.operator).is_none())
        .map(|node| MissingOperator {
            node: node.name.to_string(),
            operator: node.operator.to_string(),
            version: node.operator.version,
        })
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(MissingOperators(missing)) }
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Attribute, DType, ErrorKind, Model, Operator, Value};
    use hetero_reference::Standard;

    use super::*;
    use crate::{Binding, bind};

    /// Returns a model of one node of `com.microsoft` over inputs of these shapes.
    fn model(operator: Operator, shapes: &[&[usize]], outputs: &[bool]) -> Model {
        let mut graph = Graph { name: "g".into(), ..Graph::default() };
        let mut value = |name: String, ty: TensorType| {
            graph.values.push(Value { name: name.into(), ty, constant: None });
            ValueId(graph.values.len() as u32 - 1)
        };
        let exact = |shape: &[usize]| TensorType::exact(DType::F32, shape);
        let inputs: Vec<_> = shapes.iter().enumerate().map(|(i, dims)| value(format!("x{i}"), exact(dims))).collect();
        let outputs: Vec<_> =
            (0..outputs.len()).map(|at| outputs[at].then(|| value(format!("y{at}"), TensorType::default()))).collect();
        graph.inputs.clone_from(&inputs);
        graph.outputs = outputs.iter().flatten().copied().collect();
        let inputs = inputs.into_iter().map(Some).collect();
        let operator = Operator { domain: "com.microsoft".into(), ..operator };
        graph.nodes.push(Node { name: "n".into(), operator, inputs, outputs });
        Model { graph, opsets: [("".into(), 17), ("com.microsoft".into(), 1)].into(), ..Model::default() }
    }

    #[test]
    fn a_body_takes_the_place_of_its_node_and_holds_what_is_asked_for() {
        let skip = Operator::new("SkipLayerNormalization", 1);
        let shapes = [&[2usize, 3, 4][..], &[2, 3, 4], &[4]];
        let names = |outputs: &[bool]| -> Vec<String> {
            let bound = bind(&model(skip.clone(), &shapes, outputs), &Binding::default(), &Standard).unwrap();
            assert!(bound.program.nodes().iter().all(|node| node.name.starts_with("n/")));
            bound.program.nodes().iter().map(|node| format!("{}:{}", node.operator, node.outputs.len())).collect()
        };
        assert_eq!(names(&[true]), ["Add:1", "LayerNormalization:1"]);
        assert_eq!(names(&[true, false, false, true]), ["Add:1", "LayerNormalization:1"]);
        assert_eq!(names(&[false, false, false, true]), ["Add:1"]);
        assert_eq!(names(&[true, true]), ["Add:1", "LayerNormalization:2"]);
    }

    #[test]
    fn bodies_take_memory_of_the_binding_together() {
        let attention = Operator::new("MultiHeadAttention", 1)
            .with("num_heads", Attribute::Int(1))
            .with("unidirectional", Attribute::Int(1));
        let model = model(attention, &[&[1, 512, 2], &[1, 512, 2], &[1, 512, 2]], &[true]);
        let allowed = |bytes: usize| Binding { allowance: Allowance::new(bytes), ..Binding::default() };
        assert!(bind(&model, &allowed(64 << 20), &Standard).is_ok());
        let error = hetero_hal::Error::from(bind(&model, &allowed(1 << 20), &Standard).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert!(error.to_string().contains("MultiHeadAttention"), "{error}");
    }
}
