//! Control flow, and the plain interpreter that runs graphs for it.

use std::sync::Arc;

use hetero_hal::{
    Allowance, Attribute, Bool, Definition, Dim, Error, ErrorKind, Evaluation, Graph, Inference, Node, OperatorSet,
    Program, Result, Tensor, TensorType, ValueId, empties, take,
};

use crate::indexing::{pick, strided, strides};
use crate::shapes::{axis, integers};
use crate::slicing::join;

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("If", 1, (1, 1), infer_if, branch).outputs(usize::MAX),
    Definition::new("Loop", 1, (2, usize::MAX), infer_loop, repeat).outputs(usize::MAX),
    Definition::new("Scan", 8, (2, usize::MAX), infer_batched_scan, batched_scan).outputs(usize::MAX).until(9),
    Definition::new("Scan", 9, (1, usize::MAX), infer_scan, scan).outputs(usize::MAX),
];

/// The most iterations of a loop whose own bound is larger or absent; a model that needs more does
/// not end.
const MOST_ITERATIONS: i64 = 1 << 32;

/// The bytes that a tensor has beside its elements.
const HELD: usize = 256;

/// Runs a whole program by the oracle, within an allowance.
/// Inputs and outputs are in the program's order.
///
/// # Errors
/// `InvalidArgument` where inputs do not fit, and the error of any node that fails, with its name.
pub fn run(
    program: &Program,
    inputs: &[Tensor],
    operators: &dyn OperatorSet,
    allowance: &Allowance,
) -> Result<Vec<Tensor>> {
    if inputs.len() != program.inputs().len() {
        return Err(Error::invalid_argument(format!("{} inputs for {}", inputs.len(), program.inputs().len())));
    }
    for (id, tensor) in program.inputs().iter().zip(inputs) {
        let value = program.value(*id)?;
        let fits = tensor.dtype() == value.dtype
            && (tensor.shape() == value.shape
                || value.late.is_some()
                || (value.is_dynamic() && tensor.rank() == value.shape.len()));
        if !fits {
            return Err(Error::invalid_argument(format!(
                "input '{}' is {}{:?}, not {tensor:?}",
                value.name, value.dtype, value.shape
            )));
        }
    }
    interpret(&program.to_graph(), inputs, operators, &|_| None, allowance)
}

/// Runs a graph that no shapes have been inferred for by the oracle, within an allowance.
/// Inputs and outputs are in the graph's order; inputs that are left out at the end have the
/// contents that the graph gives them.
///
/// # Errors
/// `InvalidArgument` where an input has no content, `InvalidModel` where the graph contradicts
/// itself, and the error of any node that fails, with its name.
pub fn run_graph(
    graph: &Graph,
    inputs: &[Tensor],
    operators: &dyn OperatorSet,
    allowance: &Allowance,
) -> Result<Vec<Tensor>> {
    graph.check()?;
    for (index, id) in graph.inputs.iter().enumerate() {
        let value = graph.value(*id)?;
        if inputs.get(index).or(value.constant.as_ref()).is_none() {
            return Err(Error::invalid_argument(format!("input '{}' has no content", value.name)));
        }
    }
    interpret(graph, inputs, operators, &|_| None, allowance)
}

/// Computes the nodes of a graph one after the other.
/// The values that are in use at once count against the allowance.
pub(crate) fn interpret(
    graph: &Graph,
    inputs: &[Tensor],
    operators: &dyn OperatorSet,
    outer: &dyn Fn(ValueId) -> Option<Tensor>,
    allowance: &Allowance,
) -> Result<Vec<Tensor>> {
    let mut values: Vec<Option<Tensor>> = graph.values.iter().map(|value| value.constant.clone()).collect();
    for (id, tensor) in graph.inputs.iter().zip(inputs) {
        values[id.index()] = Some(tensor.clone());
    }
    for capture in &graph.captures {
        values[capture.inner.index()] = outer(capture.outer);
    }
    // Values are dropped after their last use, so that memory is bounded by the values in use and
    // not by all values.
    let mut last_use = vec![usize::MAX; values.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        for id in node.uses() {
            last_use[id.index()] = index;
        }
    }
    for id in &graph.outputs {
        last_use[id.index()] = usize::MAX;
    }
    // Inputs, constants and captured values are others' memory.
    let mut computed = vec![false; values.len()];
    let mut left = allowance.clone();
    for (index, node) in graph.nodes.iter().enumerate() {
        let mut arguments = Vec::with_capacity(node.inputs.len());
        for id in &node.inputs {
            arguments.push(match id {
                None => None,
                Some(id) => {
                    Some(values[id.index()].clone().ok_or_else(|| {
                        Error::internal(format!("'{}' has no content", graph.values[id.index()].name))
                    })?)
                }
            });
        }
        let at = |error: Error| error.at(node.to_string());
        let known = |id: ValueId| values.get(id.index()).cloned().flatten();
        let evaluation =
            Evaluation::new(&node.operator, &arguments, node.outputs.len(), operators, &left).inside(&known);
        let results = evaluation.compute().map_err(at)?;
        drop(arguments);
        for (id, tensor) in node.outputs.iter().zip(results) {
            if let Some(id) = id {
                left = left.less(tensor.footprint()).map_err(at)?;
                values[id.index()] = Some(tensor);
                computed[id.index()] = true;
            }
        }
        for id in node.uses().filter(|id| last_use[id.index()] == index) {
            let gone = values[id.index()].take().filter(|_| computed[id.index()]);
            left.bytes += gone.map_or(0, |tensor| tensor.footprint());
        }
    }
    let output = |id: &ValueId| {
        values[id.index()]
            .clone()
            .ok_or_else(|| Error::internal(format!("'{}' was not computed", graph.values[id.index()].name)))
    };
    graph.outputs.iter().map(output).collect()
}

pub(crate) fn body<'a>(evaluation: &'a Evaluation<'_>, name: &str) -> Result<&'a Arc<Graph>> {
    evaluation
        .operator
        .graph(name)?
        .ok_or_else(|| Error::invalid_model(format!("{} lacks the graph '{name}'", evaluation.operator)))
}

/// Runs a body on inputs, of which some bytes were made by the body before.
pub(crate) fn run_body(
    evaluation: &Evaluation<'_>,
    graph: &Graph,
    inputs: &[Tensor],
    made: usize,
) -> Result<Vec<Tensor>> {
    if inputs.len() != graph.inputs.len() {
        return Err(Error::invalid_model(format!(
            "{} gives its body {} inputs, which takes {}",
            evaluation.operator,
            inputs.len(),
            graph.inputs.len()
        )));
    }
    interpret(graph, inputs, evaluation.operators, evaluation.outer, &evaluation.left().less(made)?)
}

fn bytes(tensors: &[Tensor]) -> usize {
    tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.footprint()))
}

fn flag(tensor: &Tensor) -> Result<bool> {
    match *tensor.view::<Bool>()? {
        [value] => Ok(value.get()),
        _ => Err(Error::invalid_model("a condition is not one boolean")),
    }
}

/// Infers the types of an If.
/// Where the condition is known, only the branch that is taken needs to be sound: exporters guard
/// invalid branches this way.
fn infer_if(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    if let Some(condition) = &inference.input(0)?.value {
        let taken = if flag(condition)? { "then_branch" } else { "else_branch" };
        return (inference.subgraph)(taken, &[]);
    }
    let (then, other) = ((inference.subgraph)("then_branch", &[])?, (inference.subgraph)("else_branch", &[])?);
    if then.len() != other.len() {
        return Err(Error::invalid_model("the branches of If have different numbers of outputs"));
    }
    Ok(then.into_iter().zip(other).map(|(a, b)| either(a, b)).collect())
}

/// Returns a type that covers two: sizes that differ depend on data.
fn either(a: TensorType, b: TensorType) -> TensorType {
    let dims = match (a.dims, b.dims) {
        (Some(a), Some(b)) if a.len() == b.len() => Some(a.into_iter().zip(b).map(|(a, b)| wider(a, &b)).collect()),
        _ => None,
    };
    TensorType { dtype: a.dtype.or(b.dtype), dims }
}

fn wider(a: Dim, b: &Dim) -> Dim {
    match (a.bound(), b.bound()) {
        _ if a == *b => a,
        (Some(x), Some(y)) => Dim::Data { bound: x.max(y), extent: None },
        _ => Dim::Unknown,
    }
}

fn branch(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let name = if flag(evaluation.input(0)?)? { "then_branch" } else { "else_branch" };
    run_body(evaluation, body(evaluation, name)?, &[], 0)
}

/// Infers the types of a Loop.
/// Carried values have sizes that no iteration changes, whatever it does with the others, and
/// collected values grow a dimension.
fn infer_loop(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let body = inference.operator.graph("body")?.ok_or_else(|| Error::invalid_model("it lacks the graph 'body'"))?;
    let mut carried: Vec<TensorType> =
        inference.inputs.iter().skip(2).map(|fact| fact.as_ref().map(|f| f.ty.clone()).unwrap_or_default()).collect();
    let passed = |index: usize| body.outputs.get(1 + index).is_some_and(|id| body.inputs.get(2 + index) == Some(id));
    let lead = [TensorType::exact(hetero_hal::DType::I64, &[]), TensorType::exact(hetero_hal::DType::Bool, &[])];
    let mut tries = tries(body);
    let results = loop {
        let mut results = (inference.subgraph)("body", &[&lead[..], &carried[..]].concat())?;
        let mut stays = true;
        for (index, (before, made)) in carried.iter_mut().zip(results.iter().skip(1)).enumerate() {
            if !passed(index) {
                let dims = joined_dims(before.dims.as_deref(), made.dims.as_deref());
                stays &= dims == before.dims;
                before.dims = dims;
            }
        }
        if stays {
            break results;
        }
        tries -= 1;
        if tries == 0 {
            // Whatever has changed so far may change more in the next iteration.
            let changing = carried.iter_mut().enumerate().filter(|(index, _)| !passed(*index));
            changing.for_each(|(_, ty)| ty.dims = None);
            results.iter_mut().for_each(|ty| ty.dims = None);
            break results;
        }
    };
    let trips = match inference.optional(0).and_then(|fact| fact.value.as_ref()) {
        Some(value) => value.to_i64_vec()?.first().and_then(|&trips| usize::try_from(trips).ok()),
        None => None,
    };
    let outputs = results.into_iter().skip(1).enumerate().map(|(index, ty)| match carried.get(index) {
        Some(carried) => TensorType { dtype: ty.dtype, dims: carried.dims.clone() },
        None => {
            let count = trips.map_or(Dim::Unknown, |bound| Dim::Data { bound, extent: None });
            TensorType { dtype: ty.dtype, dims: ty.dims.map(|dims| [&[count], &dims[..]].concat()) }
        }
    });
    Ok(outputs.collect())
}

/// Returns how often the body of a loop is inferred at most, until the sizes of what it carries
/// stay; loops in loops multiply the work, so the outer ones have fewer tries.
fn tries(body: &Graph) -> usize {
    match loops_within(body) {
        0 => 8,
        1 => 4,
        2 => 2,
        _ => 1,
    }
}

/// Returns how deep loops lie in each other in a graph.
fn loops_within(graph: &Graph) -> usize {
    let depth = |node: &Node| {
        let within = node.subgraphs().map(|graph| loops_within(graph)).max().unwrap_or(0);
        within + usize::from(node.operator.is("Loop"))
    };
    graph.nodes.iter().map(depth).max().unwrap_or(0)
}

/// Returns what is known of a value that is one of two: the dimensions that both have, and unknown
/// ones elsewhere; none where the ranks differ or one is unknown.
#[must_use]
pub fn joined_dims(one: Option<&[Dim]>, other: Option<&[Dim]>) -> Option<Vec<Dim>> {
    let (one, other) = (one?, other?);
    let same = |(a, b): (&Dim, &Dim)| if a == b { a.clone() } else { Dim::Unknown };
    (one.len() == other.len()).then(|| one.iter().zip(other).map(same).collect())
}

fn repeat(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let body = body(evaluation, "body")?;
    let trips = match evaluation.optional(0) {
        Some(tensor) => integers(tensor)?.first().copied().unwrap_or(0),
        None => i64::MAX,
    };
    let mut going = evaluation.optional(1).map(flag).transpose()?.unwrap_or(true);
    let mut carried = Vec::new();
    for index in 2..evaluation.inputs.len() {
        carried.push(evaluation.input(index)?.clone());
    }
    let count = carried.len();
    let mut collected: Vec<Vec<Tensor>> = vec![Vec::new(); body.outputs.len().saturating_sub(1 + count)];
    let mut trip = 0;
    while going && trip < trips {
        if trip >= MOST_ITERATIONS {
            return Err(Error::new(ErrorKind::Execution, "Loop does not end"));
        }
        let mut inputs = vec![Tensor::scalar(trip), Tensor::scalar(Bool::from(going))];
        let made = if trip > 0 { bytes(&carried) } else { 0 };
        inputs.append(&mut carried);
        let mut results = run_body(evaluation, body, &inputs, made)?.into_iter();
        going = flag(&results.next().ok_or_else(|| Error::invalid_model("the body of Loop has no outputs"))?)?;
        carried = results.by_ref().take(count).collect();
        for (list, tensor) in collected.iter_mut().zip(results) {
            take(tensor.footprint().saturating_add(2 * HELD), 1)?;
            list.push(tensor);
        }
        trip += 1;
    }
    let mut outputs = carried;
    for (index, list) in collected.into_iter().enumerate() {
        let ty = &body.values[body.outputs[1 + count + index].index()].ty;
        outputs.push(stacked(list, ty, 0)?);
    }
    Ok(outputs)
}

/// Stacks tensors of equal shape along a new axis.
/// An empty list gives an empty tensor of the type that the body declares.
fn stacked(list: Vec<Tensor>, ty: &TensorType, along: usize) -> Result<Tensor> {
    let Some(first) = list.first() else {
        let dtype = ty.dtype.ok_or_else(|| Error::unsupported("collecting nothing of unknown type"))?;
        let mut shape = ty.shape().unwrap_or_default();
        if along > shape.len() {
            return Err(Error::invalid_model(format!("axis {along} is outside a tensor of rank {}", shape.len())));
        }
        shape.insert(along, 0);
        let nothing = empties(&[TensorType::exact(dtype, &shape)], 1).map(|mut list| list.swap_remove(0));
        return nothing.ok_or_else(|| Error::unsupported(format!("collecting no {dtype} of shape {shape:?}")));
    };
    if first.dtype().is_parts() {
        return Err(Error::invalid_model(format!("a loop collects tensors, and no {}", first.dtype())));
    }
    let mut shape = first.shape().to_vec();
    if along > shape.len() {
        return Err(Error::invalid_model(format!("axis {along} is outside a tensor of rank {}", shape.len())));
    }
    shape.insert(along, 1);
    let widened = list.iter().map(|tensor| tensor.reshaped(&shape)).collect::<Result<Vec<_>>>();
    join(&widened.map_err(|_| Error::invalid_model("what a loop collects changes its shape"))?, along)
}

/// Returns the numbers of a `Scan`'s attribute, one for each scanned input or output, such as its
/// axis or direction; 0 where the attribute is not set.
///
/// # Errors
/// `InvalidModel` where there are more or fewer, or a direction is neither 0 nor 1.
pub fn scan_axes(operator: &hetero_hal::Operator, name: &str, count: usize) -> Result<Vec<i64>> {
    match operator.attribute(name) {
        None => Ok(vec![0; count]),
        Some(Attribute::Ints(values))
            if name.ends_with("directions") && values.iter().any(|way| !(0..=1).contains(way)) =>
        {
            Err(Error::invalid_model(format!("attribute '{name}' of Scan is neither 0 nor 1")))
        }
        Some(Attribute::Ints(values)) if values.len() == count => Ok(values.clone()),
        Some(_) => Err(Error::invalid_model(format!("attribute '{name}' of Scan does not fit its {count} sequences"))),
    }
}

/// Returns how many of the inputs of a Scan are sequences, and how many are states.
fn scanned(operator: &hetero_hal::Operator, inputs: usize) -> Result<(usize, usize)> {
    let scanned = crate::shapes::size(operator.int("num_scan_inputs")?.unwrap_or(0))?;
    let states = inputs.checked_sub(scanned).filter(|_| scanned > 0);
    let states = states.ok_or_else(|| Error::invalid_model("num_scan_inputs does not fit the inputs of Scan"))?;
    Ok((scanned, states))
}

/// Checks that an iteration of a `Scan` leaves the shape of a state as it is.
///
/// # Errors
/// `InvalidModel`, as the standard says so.
pub fn check_state(state: usize, before: &[usize], after: &[usize]) -> Result<()> {
    if before == after {
        return Ok(());
    }
    Err(Error::invalid_model(format!(
        "state {state} of Scan has the shape {before:?} and then {after:?}, and the standard wants one shape; \
         Loop may carry what changes its shape"
    )))
}

/// Checks what is known of the states of a `Scan` before and after an iteration.
fn check_states(before: &[TensorType], after: &[TensorType]) -> Result<()> {
    for (state, (before, after)) in before.iter().zip(after).enumerate() {
        if let (Some(before), Some(after)) = (before.shape(), after.shape()) {
            check_state(state, &before, &after)?;
        }
    }
    Ok(())
}

fn infer_scan(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let (scanned, states) = scanned(inference.operator, inference.inputs.len())?;
    let axes = scan_axes(inference.operator, "scan_input_axes", scanned)?;
    let mut inputs = Vec::new();
    let mut length = Dim::Unknown;
    for (index, fact) in inference.inputs.iter().enumerate() {
        let mut ty = fact.as_ref().map(|fact| fact.ty.clone()).unwrap_or_default();
        if index >= states
            && let Some(dims) = &mut ty.dims
        {
            length = dims.remove(axis(axes[index - states], dims.len())?);
        }
        inputs.push(ty);
    }
    let results = (inference.subgraph)("body", &inputs)?;
    check_states(&inputs[..states], &results)?;
    let out_axes = scan_axes(inference.operator, "scan_output_axes", results.len().saturating_sub(states))?;
    let outputs = results.into_iter().enumerate().map(|(index, mut ty)| {
        if index >= states
            && let Some(dims) = &mut ty.dims
        {
            let at = axis(out_axes[index - states], dims.len() + 1)?;
            dims.insert(at, length.clone());
        }
        Ok(ty)
    });
    outputs.collect()
}

fn scan(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let body = body(evaluation, "body")?;
    let (scanned, states) = scanned(operator, evaluation.inputs.len())?;
    let in_axes = scan_axes(operator, "scan_input_axes", scanned)?;
    let backwards = scan_axes(operator, "scan_input_directions", scanned)?;
    let collects = body.outputs.len().saturating_sub(states);
    let out_axes = scan_axes(operator, "scan_output_axes", collects)?;
    let reversed = scan_axes(operator, "scan_output_directions", collects)?;
    let mut carried = Vec::new();
    for index in 0..states {
        carried.push(evaluation.input(index)?.clone());
    }
    // Each sequence is cut into its elements.
    let mut sequences: Vec<Vec<Tensor>> = Vec::new();
    for index in 0..scanned {
        let tensor = evaluation.input(states + index)?;
        let along = axis(in_axes[index], tensor.rank())?;
        let own = strides(tensor.shape());
        let without = |list: &[usize]| [&list[..along], &list[along + 1..]].concat();
        let (shape, steps) = (without(tensor.shape()), without(&own));
        take(tensor.shape()[along], size_of::<Tensor>())?;
        let mut elements = Vec::with_capacity(tensor.shape()[along]);
        for at in 0..tensor.shape()[along] {
            take(HELD, 1)?;
            let positions = strided(&shape, &steps, at * own[along])?;
            elements.push(pick(tensor, &shape, positions.into_iter().map(Some), None)?);
        }
        if backwards[index] != 0 {
            elements.reverse();
        }
        sequences.push(elements);
    }
    let length = sequences.first().map_or(0, Vec::len);
    if sequences.iter().any(|sequence| sequence.len() != length) {
        return Err(Error::invalid_model("the sequences of Scan differ in length"));
    }
    let mut collected: Vec<Vec<Tensor>> = vec![Vec::new(); collects];
    for step in 0..length {
        let made = if step > 0 { bytes(&carried) } else { 0 };
        let mut inputs = std::mem::take(&mut carried);
        inputs.extend(sequences.iter().map(|sequence| sequence[step].clone()));
        let mut results = run_body(evaluation, body, &inputs, made)?.into_iter();
        carried = results.by_ref().take(states).collect();
        for (state, (before, after)) in inputs.iter().zip(&carried).enumerate() {
            check_state(state, before.shape(), after.shape())?;
        }
        for (list, tensor) in collected.iter_mut().zip(results) {
            take(tensor.footprint().saturating_add(2 * HELD), 1)?;
            list.push(tensor);
        }
    }
    let mut outputs = carried;
    for (index, mut list) in collected.into_iter().enumerate() {
        if reversed[index] != 0 {
            list.reverse();
        }
        let ty = &body.values[body.outputs[states + index].index()].ty;
        let rank = list.first().map_or(0, Tensor::rank) + 1;
        outputs.push(stacked(list, ty, axis(out_axes[index], rank)?)?);
    }
    Ok(outputs)
}

/// Infers the types of a Scan of version 8, whose values have the batch as their first dimension,
/// and whose first input has the lengths of the sequences.
fn infer_batched_scan(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let (scanned, states) = scanned(inference.operator, inference.inputs.len() - 1)?;
    let mut inputs = Vec::with_capacity(states + scanned);
    let mut outer = [Dim::Unknown, Dim::Unknown];
    for (index, fact) in inference.inputs[1..].iter().enumerate() {
        let mut ty = fact.as_ref().map(|fact| fact.ty.clone()).unwrap_or_default();
        let own = if index < states { 1 } else { 2 };
        if let Some(dims) = &mut ty.dims {
            if dims.len() < own {
                return Err(Error::invalid_model(format!("input {} of Scan lacks its batch", index + 1)));
            }
            dims.drain(..own).enumerate().for_each(|(at, dim)| outer[at] = dim);
        }
        inputs.push(ty);
    }
    let mut results = (inference.subgraph)("body", &inputs)?;
    check_states(&inputs[..states], &results)?;
    for (index, ty) in results.iter_mut().enumerate() {
        let own = if index < states { 1 } else { 2 };
        ty.dims = ty.dims.take().map(|dims| [&outer[..own], &dims].concat());
    }
    Ok(results)
}

/// Scans each element of the batch by itself.
fn batched_scan(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (_, states) = scanned(operator, evaluation.inputs.len() - 1)?;
    let missing = || Error::invalid_model("a value of Scan lacks its batch");
    let batch = *evaluation.input(1)?.shape().first().ok_or_else(missing)?;
    if batch == 0 {
        return Err(Error::unsupported("Scan of version 8 over a batch of nothing"));
    }
    if let Some(lengths) = evaluation.optional(0) {
        let length = evaluation.input(1 + states)?.shape().get(1).copied().ok_or_else(missing)?;
        if lengths.to_i64_vec()?.iter().any(|&own| usize::try_from(own) != Ok(length)) {
            return Err(Error::unsupported("Scan of version 8 over sequences of different lengths"));
        }
    }
    let mut single = hetero_hal::Operator::new("Scan", 9);
    for (name, value) in &operator.attributes {
        let name = if &**name == "directions" { "scan_input_directions" } else { name };
        single = single.with(name, value.clone());
    }
    let gather = hetero_hal::Operator::new("Gather", 13);
    let mut collected: Vec<Vec<Tensor>> = vec![Vec::new(); evaluation.outputs];
    for element in 0..batch {
        let mut inputs = Vec::with_capacity(evaluation.inputs.len());
        for index in 1..evaluation.inputs.len() {
            let of = [Some(evaluation.input(index)?.clone()), Some(Tensor::scalar(element as i64))];
            let part =
                Evaluation::new(&gather, &of, 1, evaluation.operators, &evaluation.left()).compute()?.swap_remove(0);
            take(part.footprint(), 1)?;
            inputs.push(Some(part));
        }
        let left = evaluation.left();
        let scan = Evaluation::new(&single, &inputs, evaluation.outputs, evaluation.operators, &left);
        for (list, tensor) in collected.iter_mut().zip(scan.inside(evaluation.outer).compute()?) {
            take(tensor.footprint(), 1)?;
            list.push(tensor);
        }
    }
    let body = body(evaluation, "body")?;
    let types = body.outputs.iter().map(|id| &body.values[id.index()].ty);
    collected.into_iter().zip(types).map(|(list, ty)| stacked(list, ty, 0)).collect()
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Node, Operator, Value};

    use super::*;

    #[test]
    fn each_element_of_a_batch_is_scanned_by_itself() {
        // The state is the sum of what came, and is collected.
        let value = |name: &str| Value { name: name.into(), ..Value::default() };
        let node = |name: &str, inputs: &[u32], output: u32| Node {
            name: name.into(),
            operator: Operator::new(name, 8),
            inputs: inputs.iter().map(|&id| Some(ValueId(id))).collect(),
            outputs: vec![Some(ValueId(output))],
        };
        let body = Graph {
            name: "body".into(),
            values: ["state", "x", "sum", "collected"].map(value).to_vec(),
            nodes: vec![node("Add", &[0, 1], 2), node("Identity", &[2], 3)],
            inputs: vec![ValueId(0), ValueId(1)],
            outputs: vec![ValueId(2), ValueId(3)],
            captures: vec![],
        };
        let scan = Operator::new("Scan", 8)
            .with("body", Attribute::Graph(Arc::new(body)))
            .with("num_scan_inputs", Attribute::Int(1));
        let state = Tensor::from_vec(&[2, 1], vec![0i32, 10]).unwrap();
        let x = Tensor::from_vec(&[2, 3, 1], vec![1i32, 2, 3, 4, 5, 6]).unwrap();
        let run = |scan: &Operator, lengths: Option<Tensor>| {
            crate::evaluate(scan, &[lengths, Some(state.clone()), Some(x.clone())], 2)
        };
        let y = run(&scan, None).unwrap();
        assert_eq!((y[0].shape(), &*y[0].view::<i32>().unwrap()), (&[2, 1][..], &[6, 25][..]));
        assert_eq!((y[1].shape(), &*y[1].view::<i32>().unwrap()), (&[2, 3, 1][..], &[1, 3, 6, 14, 19, 25][..]));
        let backwards = scan.clone().with("directions", Attribute::Ints(vec![1]));
        assert_eq!(&*run(&backwards, None).unwrap()[1].view::<i32>().unwrap(), [3, 5, 6, 16, 21, 25]);
        let lengths = |list: Vec<i64>| Some(Tensor::from_vec(&[2], list).unwrap());
        assert!(run(&scan, lengths(vec![3, 3])).is_ok() && run(&scan, lengths(vec![3, 2])).is_err());
    }
}
