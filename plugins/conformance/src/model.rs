//! Cases from a model: its operators with the attributes, shapes and weights that they have there.

use std::collections::HashSet;

use hetero_hal::{DType, Program, ProgramValue, Result, Tensor};

use crate::Case;
use crate::cases::Suite;

/// Makes a case of each kind of node of a program: equal operators on equal types are one case.
/// Constants stay as they are.
/// Other inputs are random numbers of the seed; where a size depends on data, they have the size of
/// its bound.
/// Nodes with subgraphs are left out, because these read values around them.
///
/// # Errors
/// The error of an input that cannot be made.
pub fn model_cases(program: &Program, seed: u64) -> Result<Vec<Case>> {
    let mut suite = Suite::new(seed);
    let mut seen = HashSet::new();
    let mut cases = Vec::new();
    for node in program.nodes().iter().filter(|node| node.subgraphs().next().is_none() && !node.inputs.is_empty()) {
        let values: Option<Vec<Option<&ProgramValue>>> =
            node.inputs.iter().map(|id| id.map_or(Some(None), |id| program.value(id).ok().map(Some))).collect();
        let Some(values) = values else { continue };
        let kinds: Vec<_> = values.iter().flatten().map(|v| (v.dtype, &v.shape, v.constant.is_some())).collect();
        if !seen.insert(format!("{:?} {kinds:?} {}", node.operator, node.outputs.len())) {
            continue;
        }
        // A variance is not negative.
        let low = if node.operator.is("BatchNormalization") { 0.1 } else { -1.0 };
        let inputs = values.iter().map(|value| {
            let drawn = value.map(|value| match &value.constant {
                Some(constant) => Ok(constant.clone()),
                None if value.dtype == DType::Bool => suite.flags(&value.shape),
                // Whole numbers are mostly indexes, and these lie in any tensor.
                None if !value.dtype.is_float() => suite.numbers(value.dtype, &value.shape, 0.0, 1.9),
                None => suite.numbers(value.dtype, &value.shape, low, 1.0),
            });
            drawn.transpose()
        });
        let inputs = inputs.collect::<Result<Vec<Option<Tensor>>>>()?;
        cases.push(Case {
            name: format!("{} '{}' of {}", node.operator, node.name, program.name()),
            operator: node.operator.clone(),
            constants: (0..values.len()).filter(|&i| values[i].is_some_and(|v| v.constant.is_some())).collect(),
            inputs,
            outputs: node.outputs.len(),
        });
    }
    Ok(cases)
}
