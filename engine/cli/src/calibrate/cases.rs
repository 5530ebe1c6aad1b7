//! The cases that are measured of each family of operators: a handful of sizes, from those that
//! cost little but their start to those of large models.

use std::collections::BTreeMap;

use hetero::hal::{Attribute, Operator, Result};
use hetero::{Family, Tensor};
use hetero_conformance::Case;

/// The version of the operator set that the cases are of.
const OPSET: u32 = 17;

/// Returns the cases of all families.
/// They come as one of each family, then another of each, so that a device for which time does not
/// suffice is measured a little of everything.
pub(crate) fn all() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    convolutions(&mut cases)?;
    products(&mut cases)?;
    pools(&mut cases)?;
    elements(&mut cases)?;
    reductions(&mut cases)?;
    movements(&mut cases)?;
    recurrent(&mut cases)?;
    let mut seen: BTreeMap<Option<Family>, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, Case)> = Vec::with_capacity(cases.len());
    for case in cases {
        let rank = seen.entry(Family::of(&case.operator)).or_default();
        ranked.push((*rank, case));
        *rank += 1;
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    Ok(ranked.into_iter().map(|(_, case)| case).collect())
}

/// Returns a tensor of numbers between -1 and 1, of little variety: no kernel's time depends on the
/// values.
fn tensor(shape: &[usize]) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    Tensor::from_vec(shape, (0..count).map(|index| (index * 37 % 64) as f32 / 32.0 - 1.0).collect())
}

fn operator(name: &str) -> Operator {
    Operator::new(name, OPSET)
}

fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

/// Returns a case of inputs of these shapes; the inputs at the positions in `constants` are
/// weights.
fn case(detail: &str, operator: Operator, shapes: &[&[usize]], constants: &[usize]) -> Result<Case> {
    let inputs = shapes.iter().map(|shape| tensor(shape).map(Some)).collect::<Result<_>>()?;
    let name = format!("{} {detail}", operator.name);
    Ok(Case { name, operator, inputs, constants: constants.to_vec(), outputs: 1 })
}

fn convolutions(cases: &mut Vec<Case>) -> Result<()> {
    // The columns are channels in and out, side of the image, side of the window, stride, and
    // groups.
    for [from, to, side, window, stride, groups] in [
        [16, 16, 14, 3, 1, 1],
        [3, 32, 112, 7, 2, 1],
        [64, 64, 56, 1, 1, 1],
        [256, 64, 28, 1, 1, 1],
        [512, 512, 7, 1, 1, 1],
        [64, 64, 56, 3, 1, 1],
        [128, 128, 14, 3, 1, 1],
        [256, 256, 7, 3, 1, 1],
        [16, 16, 7, 3, 1, 16],
        [32, 32, 112, 3, 1, 32],
        [144, 144, 56, 3, 1, 144],
        [256, 256, 28, 3, 2, 256],
        [512, 512, 14, 3, 1, 512],
    ] {
        let pad = (window / 2) as i64;
        let convolution = operator("Conv")
            .with("pads", ints(&[pad; 4]))
            .with("strides", ints(&[stride as i64; 2]))
            .with("group", Attribute::Int(groups as i64));
        let detail = format!("{from}x{side}x{side} to {to}, {window}x{window}, stride {stride}, {groups} groups");
        let shapes: [&[usize]; 3] = [&[1, from, side, side], &[to, from / groups, window, window], &[to]];
        cases.push(case(&detail, convolution, &shapes, &[1, 2])?);
    }
    Ok(())
}

fn products(cases: &mut Vec<Case>) -> Result<()> {
    for [rows, inner, columns] in [
        [1, 64, 64],
        [1, 256, 256],
        [1, 1024, 1024],
        [1, 2048, 1000],
        [64, 64, 64],
        [128, 256, 256],
        [256, 512, 512],
        [512, 512, 512],
    ] {
        let detail = format!("{rows}x{inner} by {inner}x{columns}");
        cases.push(case(&detail, operator("MatMul"), &[&[rows, inner], &[inner, columns]], &[1])?);
    }
    for [rows, inner, columns] in [[1, 512, 10], [32, 1024, 256]] {
        let detail = format!("{rows}x{inner} by {inner}x{columns}");
        cases.push(case(&detail, operator("Gemm"), &[&[rows, inner], &[inner, columns], &[columns]], &[1, 2])?);
    }
    Ok(())
}

fn pools(cases: &mut Vec<Case>) -> Result<()> {
    for (name, channels, side, window) in [
        ("MaxPool", 16, 14, 2),
        ("MaxPool", 64, 112, 3),
        ("MaxPool", 192, 28, 3),
        ("AveragePool", 32, 56, 2),
        ("AveragePool", 256, 14, 2),
    ] {
        let pool = operator(name).with("kernel_shape", ints(&[window; 2])).with("strides", ints(&[2, 2]));
        let detail = format!("{channels}x{side}x{side}, {window}x{window}");
        cases.push(case(&detail, pool, &[&[1, channels, side, side]], &[])?);
    }
    for channels in [512, 2048] {
        let detail = format!("{channels}x7x7");
        cases.push(case(&detail, operator("GlobalAveragePool"), &[&[1, channels, 7, 7]], &[])?);
    }
    Ok(())
}

fn elements(cases: &mut Vec<Case>) -> Result<()> {
    for (name, inputs, count) in [
        ("Relu", 1, 1 << 10),
        ("Relu", 1, 1 << 16),
        ("Relu", 1, 1 << 22),
        ("Sigmoid", 1, 1 << 14),
        ("Sigmoid", 1, 1 << 18),
        ("Add", 2, 1 << 12),
        ("Add", 2, 1 << 16),
        ("Mul", 2, 1 << 20),
    ] {
        let shape: &[usize] = &[count];
        let shapes = vec![shape; inputs];
        cases.push(case(&format!("{count}"), operator(name), &shapes, &[])?);
    }
    Ok(())
}

fn reductions(cases: &mut Vec<Case>) -> Result<()> {
    for [rows, columns] in [[1, 1000], [64, 1000], [1024, 512]] {
        let detail = format!("{rows}x{columns}");
        cases.push(case(&detail, operator("Softmax").with("axis", Attribute::Int(-1)), &[&[rows, columns]], &[])?);
        let mean = operator("ReduceMean").with("axes", ints(&[-1]));
        cases.push(case(&detail, mean, &[&[rows, columns]], &[])?);
        let shapes: [&[usize]; 3] = [&[rows, columns], &[columns], &[columns]];
        cases.push(case(&detail, operator("LayerNormalization"), &shapes, &[1, 2])?);
    }
    for [channels, side] in [[16, 14], [64, 56], [256, 28]] {
        let detail = format!("{channels}x{side}x{side}");
        let shapes: [&[usize]; 5] = [&[1, channels, side, side], &[channels], &[channels], &[channels], &[channels]];
        let mut normal = case(&detail, operator("BatchNormalization"), &shapes, &[1, 2, 3, 4])?;
        // A variance is positive.
        normal.inputs[4] = Some(Tensor::from_vec(&[channels], vec![1.0f32; channels])?);
        cases.push(normal);
    }
    Ok(())
}

fn movements(cases: &mut Vec<Case>) -> Result<()> {
    for side in [32, 256, 1024] {
        let transpose = operator("Transpose").with("perm", ints(&[1, 0]));
        cases.push(case(&format!("{side}x{side}"), transpose, &[&[side, side]], &[])?);
    }
    for [channels, side] in [[64, 14], [256, 56]] {
        let shape: &[usize] = &[1, channels, side, side];
        let concat = operator("Concat").with("axis", Attribute::Int(1));
        cases.push(case(&format!("two of {channels}x{side}x{side}"), concat, &[shape, shape], &[])?);
        let half = (channels / 2) as i64;
        let mut slice = case(&format!("half of {channels}x{side}x{side}"), operator("Slice"), &[shape], &[1, 2, 3])?;
        let bounds = [0, half, 1].map(|value| Tensor::from_vec(&[1], vec![value]).map(Some));
        for bound in bounds {
            slice.inputs.push(bound?);
        }
        cases.push(slice);
    }
    Ok(())
}

fn recurrent(cases: &mut Vec<Case>) -> Result<()> {
    for [steps, batch, inputs, hidden] in
        [[1, 1, 64, 64], [1, 1, 128, 128], [1, 1, 256, 256], [16, 1, 64, 64], [16, 4, 128, 128]]
    {
        let lstm = operator("LSTM").with("hidden_size", Attribute::Int(hidden as i64));
        let detail = format!("{steps} steps, batch {batch}, {inputs} to {hidden}");
        let shapes: [&[usize]; 4] =
            [&[steps, batch, inputs], &[1, 4 * hidden, inputs], &[1, 4 * hidden, hidden], &[1, 8 * hidden]];
        cases.push(case(&detail, lstm, &shapes, &[1, 2, 3])?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_cases_that_a_fit_can_be_made_of() {
        let mut counts: BTreeMap<Family, usize> = BTreeMap::new();
        for case in all().unwrap() {
            let (program, _) = hetero_conformance::program(&case).unwrap();
            assert!(hetero::bytes(&program, &program.nodes()[0]) > 0, "{}", case.name);
            *counts.entry(Family::of(&case.operator).unwrap()).or_default() += 1;
        }
        let first: Vec<_> = all().unwrap().iter().take(9).filter_map(|case| Family::of(&case.operator)).collect();
        for family in Family::ALL {
            assert!(first.contains(&family), "{}", family.name());
            assert!(counts.get(&family).is_some_and(|&count| count >= 5), "{}", family.name());
        }
    }
}
