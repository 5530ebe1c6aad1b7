//! Operators before version 7 of the standard's set, which broadcast by attributes: they become
//! those of version 7, which broadcast by their shapes.

use hetero_hal::{Attribute, Dim, Node, Operator};

/// The operators whose second input is broadcast where the attribute `broadcast` says so, from the
/// dimension that `axis` names on.
const ALIGNED: [&str; 11] = ["Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"];
/// The version from which on shapes alone decide.
const MODERN: u32 = 7;

/// Returns the number of dimensions of size 1 that the second input lacks at its end, and makes the
/// node one of version 7.
/// The answer is `None` where the node is of no such version, or where what is known of its inputs
/// does not tell that number; then the node stays as it is.
pub(crate) fn modernise(node: &mut Node, first: Option<&[Dim]>, second: Option<&[Dim]>) -> Option<usize> {
    let operator = &node.operator;
    if operator.version >= MODERN || !operator.domain.is_empty() {
        return None;
    }
    let int = |name: &str| operator.int(name).ok().flatten();
    let axis = match &*operator.name {
        // Its third input is broadcast, and from the last dimension on only.
        "Gemm" => None,
        // A slope for each channel stands at the second dimension.
        "PRelu" if second?.len() == 1 && second?[0] != Dim::Known(1) => Some(1),
        "PRelu" => None,
        name if ALIGNED.contains(&name) => int("axis").filter(|_| int("broadcast") == Some(1)),
        _ => return None,
    };
    let missing = match axis {
        None => 0,
        Some(axis) => {
            let (rank, own) = (first?.len(), second?.len());
            let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
            rank.checked_sub(own)?.checked_sub(usize::try_from(axis).ok()?)?
        }
    };
    node.operator.attributes.remove("broadcast");
    node.operator.attributes.remove("axis");
    node.operator.version = MODERN;
    Some(missing)
}

/// Returns the operator that puts dimensions of size 1 behind those of a tensor of this rank.
pub(crate) fn widening(rank: usize, missing: usize) -> Operator {
    let axes = (rank..rank + missing).map(|axis| axis as i64).collect();
    Operator::new("Unsqueeze", MODERN).with("axes", Attribute::Ints(axes))
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Allowance, DType, Graph, Model, Tensor, TensorType, Value, ValueId};
    use hetero_reference::{Standard, run};

    use super::*;
    use crate::{Binding, bind, read_bytes, to_bytes};

    /// Returns what an operator of version 6 makes of the numbers from 1 on in these shapes.
    fn computed(operator: Operator, shapes: [&[usize]; 2]) -> Result<Vec<f32>, String> {
        let port = |name: &str, ty: TensorType| Value { name: name.into(), ty, constant: None };
        let graph = Graph {
            name: "early".into(),
            values: vec![
                port("a", TensorType::exact(DType::F32, shapes[0])),
                port("b", TensorType::exact(DType::F32, shapes[1])),
                port("y", TensorType::default()),
            ],
            nodes: vec![Node {
                name: "n".into(),
                operator,
                inputs: vec![Some(ValueId(0)), Some(ValueId(1))],
                outputs: vec![Some(ValueId(2))],
            }],
            inputs: vec![ValueId(0), ValueId(1)],
            outputs: vec![ValueId(2)],
            captures: vec![],
        };
        let model = Model { graph, opsets: [("".into(), 6)].into(), ..Model::default() };
        let read = read_bytes(to_bytes(&model).unwrap().into()).unwrap();
        // What was read is written as an early model, and read again.
        let again = read_bytes(to_bytes(&read).unwrap().into()).unwrap();
        let program = bind(&again, &Binding::default(), &Standard).map_err(|error| error.to_string())?.program;
        let filled = shapes.map(|shape| {
            let count: usize = shape.iter().product();
            Tensor::from_vec(shape, (1..=count).map(|value| value as f32).collect()).unwrap()
        });
        let y = run(&program, &filled, &Standard, &Allowance::new(1 << 20)).map_err(|error| error.to_string())?;
        Ok(y[0].view::<f32>().unwrap().into_owned())
    }

    #[test]
    fn attributes_say_where_the_second_input_is_broadcast() {
        let add = |axis: Option<i64>| {
            let add = Operator::new("Add", 6).with("broadcast", Attribute::Int(1));
            axis.map_or(add.clone(), |axis| add.with("axis", Attribute::Int(axis)))
        };
        assert_eq!(computed(add(Some(0)), [&[2, 2], &[2]]).unwrap(), [2.0, 3.0, 5.0, 6.0]);
        assert_eq!(computed(add(Some(-1)), [&[2, 2], &[2]]).unwrap(), [2.0, 4.0, 4.0, 6.0]);
        assert_eq!(computed(add(None), [&[2, 2], &[2]]).unwrap(), [2.0, 4.0, 4.0, 6.0]);
        let rectified = computed(Operator::new("PRelu", 6), [&[1, 2, 1], &[2]]).unwrap();
        assert_eq!(rectified, [1.0, 2.0]);
        for axis in [2, -3, i64::MIN, i64::MAX] {
            assert!(computed(add(Some(axis)), [&[2, 2], &[2]]).is_err(), "{axis}");
        }
    }
}
