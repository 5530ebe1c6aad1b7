//! Sequences and optionals: tensors whose elements are whole tensors.

use hetero_hal::{
    Bool, DType, Definition, Dim, Error, ErrorKind, Evaluation, Inference, Result, Tensor, TensorType, spend, take,
};

use crate::control::{body, run_body};
use crate::indexing::{pick, strided, strides};
use crate::shapes::axis;
use crate::slicing::join;
use crate::split::parts_of;

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("SequenceConstruct", 11, (1, usize::MAX), infer_construct, construct),
    Definition::new("SequenceEmpty", 11, (0, 0), infer_construct, construct),
    Definition::new("SequenceInsert", 11, (2, 3), infer_insert, insert),
    Definition::new("SequenceErase", 11, (1, 2), infer_erase, erase),
    Definition::new("SequenceAt", 11, (2, 2), infer_at, at),
    Definition::new("SequenceLength", 11, (1, 1), infer_length, length),
    Definition::new("SplitToSequence", 11, (1, 2), infer_split, split),
    Definition::new("ConcatFromSequence", 11, (1, 1), infer_concat, concat),
    Definition::new("SequenceMap", 17, (1, usize::MAX), infer_map, map).outputs(usize::MAX),
    Definition::new("Optional", 15, (0, 1), infer_optional, optional),
    Definition::new("OptionalHasElement", 15, (0, 1), infer_has_element, has_element),
    Definition::new("OptionalGetElement", 15, (1, 1), infer_get_element, get_element),
];

/// Returns the type of a sequence of this length.
fn sequence_type(length: Dim) -> Vec<TensorType> {
    vec![TensorType::new(DType::Sequence, vec![length])]
}

/// Returns the length of an input that is a sequence, as far as it is known.
fn length_of(inference: &Inference<'_>) -> Result<Dim> {
    check_sequence(inference, 0)?;
    Ok(inference.dims(0)?.and_then(|dims| dims.first()).cloned().unwrap_or(Dim::Unknown))
}

fn check_sequence(inference: &Inference<'_>, index: usize) -> Result<()> {
    match inference.dtype(index)? {
        Some(dtype) if dtype != DType::Sequence => {
            Err(Error::invalid_model(format!("input {index} of {} is no sequence but {dtype}", inference.operator)))
        }
        _ => Ok(()),
    }
}

/// Returns a length with a number of parts more or less.
fn changed(length: &Dim, change: isize) -> Dim {
    match length {
        Dim::Known(length) => length.checked_add_signed(change).map_or(Dim::Unknown, Dim::Known),
        Dim::Data { bound, .. } => Dim::Data { bound: bound.saturating_add_signed(change), extent: None },
        _ => Dim::Unknown,
    }
}

/// Returns the type that all parts of a known sequence have in common.
fn common_type(parts: &[Tensor]) -> TensorType {
    let Some(first) = parts.first() else { return TensorType::default() };
    let mut ty = TensorType::exact(first.dtype(), first.shape());
    for part in &parts[1..] {
        ty.dtype = ty.dtype.filter(|dtype| *dtype == part.dtype());
        ty.dims = ty.dims.filter(|dims| dims.len() == part.rank());
        for (dim, size) in ty.dims.iter_mut().flatten().zip(part.shape()) {
            if dim.known() != Some(*size) {
                *dim = Dim::Unknown;
            }
        }
    }
    ty
}

/// Returns the parts of an input that is a sequence.
fn sequence<'a>(evaluation: &Evaluation<'a>, index: usize) -> Result<&'a [Tensor]> {
    whole_sequence(evaluation, index)?.parts()
}

/// Returns an input that is a sequence.
fn whole_sequence<'a>(evaluation: &Evaluation<'a>, index: usize) -> Result<&'a Tensor> {
    let input = evaluation.input(index)?;
    if input.dtype() != DType::Sequence {
        return Err(Error::invalid_model(format!(
            "input {index} of {} is no sequence: {input:?}",
            evaluation.operator
        )));
    }
    Ok(input)
}

/// Takes the memory of a list of so many parts.
fn reserve(count: usize) -> Result<()> {
    spend(count.saturating_mul(8))?;
    // The list is copied once to where it is shared.
    take(count, 2 * size_of::<Tensor>())
}

/// Checks that a sequence whose first part is `first` may hold `part` too.
fn check_alike(evaluation: &Evaluation<'_>, first: Option<&Tensor>, part: &Tensor) -> Result<()> {
    match first {
        Some(first) if first.dtype() != part.dtype() => Err(Error::invalid_model(format!(
            "{} would make a sequence of {} and {}, which has one element type",
            evaluation.operator,
            first.dtype(),
            part.dtype()
        ))),
        _ => Ok(()),
    }
}

fn whole(parts: Vec<Tensor>) -> Result<Vec<Tensor>> {
    Ok(vec![Tensor::from_parts(DType::Sequence, parts)?])
}

/// Returns the position that an optional input names in a list of `count`, from the end where it is
/// negative; `None` where the input is left out.
fn position(evaluation: &Evaluation<'_>, index: usize, count: usize) -> Result<Option<usize>> {
    let Some(input) = evaluation.optional(index) else { return Ok(None) };
    let [value] = input.to_i64_vec()?[..] else {
        return Err(Error::invalid_model(format!("{}: a position is one number, not {input:?}", evaluation.operator)));
    };
    let from_start = if value < 0 { value.saturating_add(count as i64) } else { value };
    match usize::try_from(from_start) {
        Ok(position) => Ok(Some(position)),
        Err(_) => Err(outside(evaluation, value, count)),
    }
}

fn outside(evaluation: &Evaluation<'_>, position: i64, count: usize) -> Error {
    let text = format!("{}: position {position} is outside a sequence of {count}", evaluation.operator);
    Error::new(ErrorKind::Execution, text)
}

fn infer_construct(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    Ok(sequence_type(Dim::Known(inference.inputs.len())))
}

fn construct(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    reserve(evaluation.inputs.len())?;
    let mut parts: Vec<Tensor> = Vec::with_capacity(evaluation.inputs.len());
    for index in 0..evaluation.inputs.len() {
        let part = evaluation.input(index)?;
        check_alike(evaluation, parts.first(), part)?;
        parts.push(part.clone());
    }
    whole(parts)
}

fn infer_insert(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    Ok(sequence_type(changed(&length_of(inference)?, 1)))
}

fn insert(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (old, part) = (whole_sequence(evaluation, 0)?, evaluation.input(1)?);
    check_alike(evaluation, old.part(0), part)?;
    let place = position(evaluation, 2, old.len())?.unwrap_or(old.len());
    if place > old.len() {
        return Err(outside(evaluation, place as i64, old.len()));
    }
    if place == old.len() {
        // A loop that collects parts shares them with the sequence before.
        reserve(1)?;
        return Ok(vec![old.followed_by(part.clone())?]);
    }
    let old = old.parts()?;
    reserve(old.len() + 1)?;
    let mut parts = Vec::with_capacity(old.len() + 1);
    parts.extend_from_slice(&old[..place]);
    parts.push(part.clone());
    parts.extend_from_slice(&old[place..]);
    whole(parts)
}

fn infer_erase(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    Ok(sequence_type(changed(&length_of(inference)?, -1)))
}

fn erase(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let old = sequence(evaluation, 0)?;
    let last = || old.len().checked_sub(1).ok_or_else(|| outside(evaluation, -1, 0));
    let place = position(evaluation, 1, old.len())?.map_or_else(last, Ok)?;
    if place >= old.len() {
        return Err(outside(evaluation, place as i64, old.len()));
    }
    reserve(old.len())?;
    whole([&old[..place], &old[place + 1..]].concat())
}

fn infer_at(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    check_sequence(inference, 0)?;
    let Some(parts) = inference.input(0)?.value.as_ref().and_then(|value| value.parts().ok()) else {
        return Ok(vec![TensorType::default()]);
    };
    let position = inference.input(1)?.value.as_ref().map(Tensor::to_i64_vec).transpose()?;
    let place = position.and_then(|list| {
        let value = *list.first()?;
        usize::try_from(if value < 0 { value.saturating_add(parts.len() as i64) } else { value }).ok()
    });
    let part = place.and_then(|place| parts.get(place));
    Ok(vec![common_type(part.map_or(parts, std::slice::from_ref))])
}

fn at(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let parts = whole_sequence(evaluation, 0)?;
    let place = position(evaluation, 1, parts.len())?.unwrap_or(0);
    let part = parts.part(place).ok_or_else(|| outside(evaluation, place as i64, parts.len()))?;
    Ok(vec![part.clone()])
}

fn infer_length(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    check_sequence(inference, 0)?;
    Ok(vec![TensorType::exact(DType::I64, &[])])
}

fn length(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    Ok(vec![Tensor::scalar(whole_sequence(evaluation, 0)?.len() as i64)])
}

/// The way in which a SplitToSequence cuts an axis.
enum Cut {
    /// Parts of this size; the last one may be smaller.
    Every(usize),
    /// Parts of these sizes.
    Sizes(Vec<i64>),
}

impl Cut {
    fn of(split: Option<&Tensor>) -> Result<Cut> {
        Ok(match split {
            None => Cut::Every(1),
            Some(split) if split.rank() == 0 => {
                let each = split.to_i64_vec()?.first().copied().unwrap_or(0);
                let each = usize::try_from(each).ok().filter(|&each| each > 0);
                Cut::Every(each.ok_or_else(|| Error::invalid_model("SplitToSequence into parts of no size"))?)
            }
            Some(split) => Cut::Sizes(split.to_i64_vec()?),
        })
    }

    fn count(&self, total: usize) -> usize {
        match self {
            Cut::Every(each) => total.div_ceil(*each),
            Cut::Sizes(sizes) => sizes.len(),
        }
    }
}

fn infer_split(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let split = inference.optional(1);
    let length = match (split.map(|fact| (&fact.value, &fact.ty)), inference.dims(0)?) {
        (Some((None, ty)), _) => match ty.dims.as_deref() {
            Some([parts]) => parts.clone(),
            _ => Dim::Unknown,
        },
        (known, Some(dims)) => {
            let along = axis(inference.operator.int("axis")?.unwrap_or(0), dims.len())?;
            let cut = Cut::of(known.and_then(|(value, _)| value.as_ref()))?;
            dims[along].known().map_or(Dim::Unknown, |total| Dim::Known(cut.count(total)))
        }
        _ => Dim::Unknown,
    };
    Ok(sequence_type(length))
}

fn split(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    if input.dtype().is_parts() {
        return Err(Error::invalid_model(format!("{operator} of a {}", input.dtype())));
    }
    let along = axis(operator.int("axis")?.unwrap_or(0), input.rank())?;
    let keeps = evaluation.optional(1).is_some() || operator.int("keepdims")?.unwrap_or(1) != 0;
    let total = input.shape()[along];
    let cut = Cut::of(evaluation.optional(1))?;
    let count = cut.count(total);
    reserve(count)?;
    let (each, listed) = match &cut {
        Cut::Every(each) => (*each, vec![]),
        Cut::Sizes(sizes) => (0, parts_of(total, sizes)?),
    };
    let own = strides(input.shape());
    let mut parts = Vec::with_capacity(count);
    let mut start = 0;
    for index in 0..count {
        spend(200)?;
        let size = listed.get(index).copied().unwrap_or_else(|| each.min(total - start));
        let mut shape = input.shape().to_vec();
        shape[along] = size;
        let positions = strided(&shape, &own, start * own[along])?;
        if !keeps {
            shape.remove(along);
        }
        parts.push(pick(input, &shape, positions.into_iter().map(Some), None)?);
        start += size;
    }
    whole(parts)
}

fn infer_concat(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    check_sequence(inference, 0)?;
    let operator = inference.operator;
    let Some(parts) = inference.input(0)?.value.as_ref().and_then(|value| value.parts().ok()) else {
        return Ok(vec![TensorType::default()]);
    };
    let ty = common_type(parts);
    let along = operator.int("axis")?.ok_or_else(|| Error::invalid_model(format!("{operator} lacks its axis")))?;
    let stacks = operator.int("new_axis")?.unwrap_or(0) != 0;
    let Some(mut dims) = ty.dims else { return Ok(vec![ty]) };
    if stacks {
        dims.insert(axis(along, dims.len() + 1)?, Dim::Known(parts.len()));
    } else {
        let along = axis(along, dims.len())?;
        let sum = parts.iter().try_fold(0usize, |sum, part| sum.checked_add(part.shape()[along]));
        dims[along] = sum.map_or(Dim::Unknown, Dim::Known);
    }
    Ok(vec![TensorType { dtype: ty.dtype, dims: Some(dims) }])
}

fn concat(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let parts = sequence(evaluation, 0)?;
    let first = parts.first().ok_or_else(|| Error::invalid_model(format!("{operator} of an empty sequence")))?;
    if first.dtype().is_parts() {
        return Err(Error::invalid_model(format!("{operator} of a sequence of sequences")));
    }
    let along = operator.int("axis")?.ok_or_else(|| Error::invalid_model(format!("{operator} lacks its axis")))?;
    if operator.int("new_axis")?.unwrap_or(0) == 0 {
        return Ok(vec![join(parts, axis(along, first.rank())?)?]);
    }
    reserve(parts.len())?;
    let along = axis(along, first.rank() + 1)?;
    let widened = parts.iter().map(|part| {
        let mut shape = part.shape().to_vec();
        if along > shape.len() {
            return Err(Error::invalid_model(format!("{operator} of tensors of different rank")));
        }
        shape.insert(along, 1);
        part.reshaped(&shape)
    });
    Ok(vec![join(&widened.collect::<Result<Vec<_>>>()?, along)?])
}

fn infer_map(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let length = length_of(inference)?;
    // The types of parts are not known before a run.
    let types = inference.inputs.iter().map(|fact| match fact {
        Some(fact) if fact.ty.dtype.is_some_and(|dtype| dtype != DType::Sequence) => fact.ty.clone(),
        _ => TensorType::default(),
    });
    let results = (inference.subgraph)("body", &types.collect::<Vec<_>>())?;
    Ok(results.iter().flat_map(|_| sequence_type(length.clone())).collect())
}

/// Runs the body for each part of the first sequence; of the other inputs, tensors go to every
/// run as they are.
fn map(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let body = body(evaluation, "body")?;
    let count = sequence(evaluation, 0)?.len();
    let mut inputs = Vec::with_capacity(evaluation.inputs.len());
    for index in 0..evaluation.inputs.len() {
        let input = evaluation.input(index)?;
        if input.dtype() == DType::Sequence && input.len() != count {
            return Err(Error::invalid_model(format!(
                "{operator}: sequences of {count} and {} parts do not go together",
                input.len()
            )));
        }
        inputs.push(input);
    }
    let mut mapped: Vec<Vec<Tensor>> = vec![Vec::new(); body.outputs.len()];
    for at in 0..count {
        spend(100)?;
        let of = |input: &&Tensor| match input.dtype() {
            DType::Sequence => Ok(input.parts()?[at].clone()),
            _ => Ok((*input).clone()),
        };
        let results = run_body(evaluation, body, &inputs.iter().map(of).collect::<Result<Vec<_>>>()?, 0)?;
        for (list, part) in mapped.iter_mut().zip(results) {
            // Lists grow by doubling, and are copied once at the end.
            take(part.footprint().saturating_add(4 * size_of::<Tensor>()), 1)?;
            check_alike(evaluation, list.first(), &part)?;
            list.push(part);
        }
    }
    mapped.into_iter().map(|list| Tensor::from_parts(DType::Sequence, list)).collect()
}

fn infer_optional(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let parts = inference.inputs.iter().flatten().count();
    Ok(vec![TensorType::exact(DType::Optional, &[parts])])
}

fn optional(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let parts = evaluation.inputs.iter().flatten().cloned().collect();
    Ok(vec![Tensor::from_parts(DType::Optional, parts)?])
}

fn infer_has_element(_: &Inference<'_>) -> Result<Vec<TensorType>> {
    Ok(vec![TensorType::exact(DType::Bool, &[])])
}

/// Tells whether there is an element; a tensor or a sequence in the place of an optional is one.
fn has_element(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let has = evaluation.optional(0).is_some_and(|input| input.dtype() != DType::Optional || !input.is_empty());
    Ok(vec![Tensor::scalar(Bool::from(has))])
}

fn infer_get_element(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let input = inference.input(0)?;
    Ok(vec![match (input.ty.dtype, &input.value) {
        (Some(DType::Optional), Some(value)) => common_type(value.parts()?),
        (Some(DType::Optional) | None, _) => TensorType::default(),
        _ => input.ty.clone(),
    }])
}

fn get_element(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    if input.dtype() != DType::Optional {
        return Ok(vec![input.clone()]);
    }
    let missing = || Error::new(ErrorKind::Execution, "OptionalGetElement of an optional that has no element");
    Ok(vec![input.parts()?.first().ok_or_else(missing)?.clone()])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use hetero_hal::{Allowance, Attribute, Graph, Node, Operator, Value, ValueId};

    use super::*;
    use crate::{Standard, evaluate as compute};

    fn ints(values: &[i32]) -> Tensor {
        Tensor::from_vec(&[values.len()], values.to_vec()).unwrap()
    }

    fn list(parts: impl IntoIterator<Item = Tensor>) -> Tensor {
        Tensor::from_parts(DType::Sequence, parts.into_iter().collect()).unwrap()
    }

    fn one(operator: &Operator, inputs: impl IntoIterator<Item = Tensor>) -> Result<Tensor> {
        let inputs: Vec<Option<Tensor>> = inputs.into_iter().map(Some).collect();
        Ok(compute(operator, &inputs, 1)?.swap_remove(0))
    }

    #[test]
    fn parts_come_and_go_at_both_ends() {
        let (a, b, c) = (ints(&[1]), ints(&[2, 2]), ints(&[]));
        let op = |name: &str| Operator::new(name, 17);
        let made = one(&op("SequenceConstruct"), [a.clone(), b.clone()]).unwrap();
        assert_eq!(made, list([a.clone(), b.clone()]));
        let at = |value: i64| Tensor::scalar(value);
        let insert = |place: i64| one(&op("SequenceInsert"), [made.clone(), c.clone(), at(place)]);
        assert_eq!(insert(0).unwrap(), list([c.clone(), a.clone(), b.clone()]));
        assert_eq!(insert(-1).unwrap(), list([a.clone(), c.clone(), b.clone()]));
        assert_eq!(insert(2).unwrap(), list([a.clone(), b.clone(), c.clone()]));
        assert!(insert(3).is_err() && insert(-3).is_err() && insert(i64::MIN).is_err());
        assert_eq!(one(&op("SequenceErase"), [made.clone()]).unwrap(), list([a.clone()]));
        assert_eq!(one(&op("SequenceErase"), [made.clone(), at(-2)]).unwrap(), list([b.clone()]));
        assert_eq!(one(&op("SequenceAt"), [made.clone(), at(-1)]).unwrap(), b);
        assert!(one(&op("SequenceAt"), [made.clone(), at(2)]).is_err());
        assert_eq!(one(&op("SequenceLength"), [made.clone()]).unwrap(), at(2));
        let empty = compute(&op("SequenceEmpty"), &[], 1).unwrap().swap_remove(0);
        assert_eq!(one(&op("SequenceInsert"), [empty.clone(), a.clone()]).unwrap(), list([a.clone()]));
        assert!(one(&op("SequenceErase"), [empty]).is_err());
        let mixed = one(&op("SequenceInsert"), [made, Tensor::scalar(1.0f32)]).unwrap_err();
        assert!(mixed.message().contains("one element type"), "{mixed}");
        assert!(one(&op("SequenceLength"), [a]).unwrap_err().message().contains("no sequence"));
    }

    #[test]
    fn a_tensor_is_split_and_joined_again() {
        let x = Tensor::from_vec(&[2, 3], vec![1i32, 2, 3, 4, 5, 6]).unwrap();
        let split = Operator::new("SplitToSequence", 11).with("axis", Attribute::Int(-1));
        let join = Operator::new("ConcatFromSequence", 11).with("axis", Attribute::Int(1));
        for sizes in [None, Some(Tensor::scalar(2i64)), Some(Tensor::from_vec(&[3], vec![0i64, 1, 2]).unwrap())] {
            let parts = compute(&split, &[Some(x.clone()), sizes], 1).unwrap().swap_remove(0);
            assert_eq!(one(&join, [parts]).unwrap(), x);
        }
        let flat = split.clone().with("keepdims", Attribute::Int(0));
        let columns = one(&flat, [x.clone()]).unwrap();
        assert_eq!(columns.parts().unwrap()[2], ints(&[3, 6]));
        assert_eq!(one(&join.with("new_axis", Attribute::Int(1)), [columns]).unwrap(), x);
        for bad in [Tensor::scalar(0i64), Tensor::scalar(-1i64), Tensor::from_vec(&[1], vec![2i64]).unwrap()] {
            assert!(one(&split, [x.clone(), bad]).is_err());
        }
    }

    #[test]
    fn a_body_runs_for_each_part() {
        // The body adds the second input, which is a tensor or a sequence, to each part.
        let value = |name: &str| Value { name: name.into(), ..Value::default() };
        let graph = Graph {
            name: "body".into(),
            values: vec![value("a"), value("b"), value("sum")],
            nodes: vec![Node {
                name: "add".into(),
                operator: Operator::new("Add", 14),
                inputs: vec![Some(ValueId(0)), Some(ValueId(1))],
                outputs: vec![Some(ValueId(2))],
            }],
            inputs: vec![ValueId(0), ValueId(1)],
            outputs: vec![ValueId(2)],
            captures: vec![],
        };
        let map = Operator::new("SequenceMap", 17).with("body", Attribute::Graph(Arc::new(graph)));
        let parts = list([ints(&[1, 2]), ints(&[3])]);
        assert_eq!(one(&map, [parts.clone(), ints(&[10])]).unwrap(), list([ints(&[11, 12]), ints(&[13])]));
        let own = list([ints(&[1, 2]), ints(&[5])]);
        assert_eq!(one(&map, [parts.clone(), own]).unwrap(), list([ints(&[2, 4]), ints(&[8])]));
        assert!(one(&map, [parts, list([ints(&[1])])]).is_err());
        assert_eq!(one(&map, [list([]), ints(&[1])]).unwrap(), list([]));
    }

    #[test]
    fn optionals_say_whether_they_have_an_element() {
        let op = |name: &str| Operator::new(name, 18);
        let has = |input: Option<Tensor>| {
            compute(&op("OptionalHasElement"), &[input], 1).unwrap()[0].view::<Bool>().unwrap()[0].get()
        };
        let full = one(&op("Optional"), [list([ints(&[1])])]).unwrap();
        let empty = compute(&op("Optional"), &[], 1).unwrap().swap_remove(0);
        assert!(has(Some(full.clone())) && has(Some(ints(&[]))) && !has(Some(empty.clone())) && !has(None));
        assert_eq!(one(&op("OptionalGetElement"), [full]).unwrap(), list([ints(&[1])]));
        assert_eq!(one(&op("OptionalGetElement"), [ints(&[4])]).unwrap(), ints(&[4]));
        assert!(one(&op("OptionalGetElement"), [empty]).unwrap_err().message().contains("no element"));
    }

    #[test]
    fn many_parts_end_by_the_allowance_or_the_deadline() {
        let x = Tensor::from_vec(&[300_000], vec![7u8; 300_000]).unwrap();
        let split = Operator::new("SplitToSequence", 11);
        let inputs = [Some(x)];
        let run = |allowance: &Allowance| Evaluation::new(&split, &inputs, 1, &Standard, allowance).compute();
        assert_eq!(run(&Allowance::default()).unwrap()[0].len(), 300_000);
        assert_eq!(run(&Allowance::new(1 << 20)).unwrap_err().kind(), ErrorKind::OutOfMemory);
        let soon = Allowance::default().until(Instant::now() + Duration::from_millis(1));
        assert_eq!(run(&soon).unwrap_err().kind(), ErrorKind::Timeout);
        // A size that is huge without elements has as many parts.
        let hollow = Tensor::from_vec::<u8>(&[1 << 40, 0], vec![]).unwrap();
        assert_eq!(one(&split, [hollow]).unwrap_err().kind(), ErrorKind::OutOfMemory);
    }

    #[test]
    fn operators_on_elements_turn_sequences_down() {
        let parts = list([ints(&[1]), ints(&[2])]);
        let at = Tensor::from_vec(&[1], vec![0i64]).unwrap();
        for (name, inputs) in [
            ("Relu", vec![parts.clone()]),
            ("Add", vec![parts.clone(), parts.clone()]),
            ("Gather", vec![parts.clone(), at.clone()]),
            ("Transpose", vec![parts.clone()]),
            ("Tile", vec![parts.clone(), Tensor::from_vec(&[1], vec![2i64]).unwrap()]),
            ("SplitToSequence", vec![parts.clone()]),
            ("Unsqueeze", vec![parts.clone(), at]),
        ] {
            assert!(one(&Operator::new(name, 13), inputs).is_err(), "{name}");
        }
    }
}
