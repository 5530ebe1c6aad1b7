//! `Split`, whose number of outputs says what each of them is.

use hetero_hal::{Definition, Dim, Error, Evaluation, Inference, Node, Program, Result, Tensor, TensorType};

use crate::indexing::{pick, strided, strides};
use crate::shapes::{axis, few, integers, list, list_of, size};

pub(crate) static DEFINITIONS: &[Definition] =
    &[Definition::new("Split", 2, (1, 2), infer_split, split).outputs(usize::MAX)];

/// Returns the sizes of the outputs of a program's `Split` along its axis, also of outputs that
/// nobody wants and that have no shape for this reason.
/// It returns `None` where there are such outputs and only a run lists the sizes.
///
/// # Errors
/// `InvalidModel` where the node has no such axis, or listed sizes do not add up.
pub fn split_sizes(program: &Program, node: &Node) -> Result<Option<Vec<usize>>> {
    let value = |id: Option<&Option<_>>| id.copied().flatten().map(|id| program.value(id)).transpose();
    let Some(input) = value(node.inputs.first())? else { return Ok(None) };
    let along = axis(node.operator.int("axis")?.unwrap_or(0), input.shape.len())?;
    let mut sizes = Vec::with_capacity(node.outputs.len());
    for output in &node.outputs {
        sizes.push(value(Some(output))?.and_then(|output| output.shape.get(along).copied()));
    }
    if let Some(sizes) = sizes.iter().copied().collect() {
        return Ok(Some(sizes));
    }
    let listed = match value(node.inputs.get(1))?.map(|listed| listed.constant.as_ref()) {
        Some(None) => return Ok(None),
        Some(Some(listed)) => Some(integers(listed)?),
        None => node.operator.ints("split")?.map(<[i64]>::to_vec),
    };
    parts(input.shape[along], listed.as_deref(), sizes.len()).map(Some)
}

/// Returns the sizes of the parts: the listed sizes, or equal ones with the last part smaller.
fn parts(total: usize, listed: Option<&[i64]>, outputs: usize) -> Result<Vec<usize>> {
    match listed {
        Some(listed) => parts_of(total, listed),
        None if outputs == 0 => Err(Error::invalid_model("Split into no parts")),
        None => {
            let each = total.div_ceil(outputs);
            Ok((0..outputs).map(|i| each.min(total.saturating_sub(i * each))).collect())
        }
    }
}

/// Returns listed sizes of parts, which add up to the total.
pub(crate) fn parts_of(total: usize, listed: &[i64]) -> Result<Vec<usize>> {
    let sizes = listed.iter().map(|&part| size(part)).collect::<Result<Vec<_>>>()?;
    let sum = sizes.iter().try_fold(0usize, |sum, &part| sum.checked_add(part));
    if sum != Some(total) {
        return Err(Error::invalid_model(format!("{total} elements are not cut into parts of {}", few(listed))));
    }
    Ok(sizes)
}

fn infer_split(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let Some(dims) = &ty.dims else {
        return Ok(vec![ty.clone(); inference.outputs]);
    };
    let along = axis(inference.operator.int("axis")?.unwrap_or(0), dims.len())?;
    let sizes = match (dims[along].known(), list_of(inference, "split", 1)?) {
        (Some(_), Some(None)) | (None, _) => None,
        (Some(total), listed) => Some(parts(total, listed.flatten().as_deref(), inference.outputs)?),
    };
    let part = |index: usize| {
        let mut dims = dims.clone();
        dims[along] = match &sizes {
            Some(sizes) => sizes.get(index).map_or(Dim::Unknown, |&size| Dim::Known(size)),
            None => Dim::Unknown,
        };
        TensorType { dtype: ty.dtype, dims: Some(dims) }
    };
    Ok((0..inference.outputs).map(part).collect())
}

fn split(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let along = axis(operator.int("axis")?.unwrap_or(0), input.rank())?;
    let listed = list(evaluation, "split", 1)?;
    let sizes = parts(input.shape()[along], listed.as_deref(), evaluation.outputs)?;
    let own = strides(input.shape());
    let mut start = 0;
    let mut outputs = Vec::with_capacity(sizes.len());
    for size in sizes {
        let mut shape = input.shape().to_vec();
        shape[along] = size;
        let positions = strided(&shape, &own, start * own[along])?;
        outputs.push(pick(input, &shape, positions.into_iter().map(Some), None)?);
        start += size;
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use hetero_hal::{DType, Graph, Operator, Value, ValueId};

    use super::*;

    #[test]
    fn outputs_that_nobody_wants_have_sizes_too() {
        let sizes = |listed: Option<Vec<i64>>, late: bool| {
            let value = |name: &str, dtype, shape: &[usize]| Value {
                name: name.into(),
                ty: TensorType::exact(dtype, shape),
                constant: None,
            };
            let mut values = vec![value("x", DType::F32, &[7]), value("y", DType::F32, &[3])];
            let (mut inputs, mut given) = (vec![Some(ValueId(0))], vec![ValueId(0)]);
            if let Some(listed) = listed {
                let mut list = value("sizes", DType::I64, &[listed.len()]);
                list.constant = (!late).then(|| Tensor::from_vec(&[listed.len()], listed).unwrap());
                values.push(list);
                inputs.push(Some(ValueId(2)));
                given.extend(late.then_some(ValueId(2)));
            }
            let outputs = vec![None, Some(ValueId(1)), None];
            let nodes = vec![Node { name: "split".into(), operator: Operator::new("Split", 13), inputs, outputs }];
            let graph = Graph { values, nodes, inputs: given, outputs: vec![ValueId(1)], ..Graph::default() };
            let program = Program::new(graph, vec![]).unwrap();
            split_sizes(&program, &program.nodes()[0])
        };
        assert_eq!(sizes(None, false).unwrap(), Some(vec![3, 3, 1]));
        assert_eq!(sizes(Some(vec![2, 3, 2]), false).unwrap(), Some(vec![2, 3, 2]));
        assert_eq!(sizes(Some(vec![2, 3, 2]), true).unwrap(), None);
        assert!(sizes(Some(vec![2, 3, 9]), false).is_err());
    }
}
