//! A BatchNormalization behind a Conv becomes part of its weights and bias.

use hetero_hal::{Graph, Result, Tensor, TensorType, Value, ValueId};

use super::{Pass, PassContext};

pub(super) struct BatchNormIntoConv;

impl Pass for BatchNormIntoConv {
    fn name(&self) -> &str {
        "batch-norm-into-conv"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<()> {
        let mut readers = vec![0usize; graph.values.len()];
        for id in graph.nodes.iter().flat_map(|node| node.uses()).chain(graph.outputs.iter().copied()) {
            readers[id.index()] += 1;
        }
        let mut producer = vec![None; graph.values.len()];
        for (index, node) in graph.nodes.iter().enumerate() {
            for id in node.outputs.iter().flatten() {
                producer[id.index()] = Some(index);
            }
        }
        let mut gone = std::collections::HashSet::new();
        for index in 0..graph.nodes.len() {
            let norm = &graph.nodes[index];
            let Some(Some(between)) = norm.inputs.first().copied() else { continue };
            let conv = producer[between.index()];
            let Some(conv) = conv.filter(|&conv| graph.nodes[conv].operator.is("Conv")) else { continue };
            if !norm.operator.is("BatchNormalization") || norm.outputs.len() != 1 || readers[between.index()] != 1 {
                continue;
            }
            let Some((weights, bias)) = folded(graph, conv, index)? else { continue };
            let output = norm.outputs[0];
            let name = norm.name.clone();
            let weights = add(graph, &format!("{name}/weights"), weights);
            let bias = add(graph, &format!("{name}/bias"), bias);
            let conv = &mut graph.nodes[conv];
            conv.inputs.resize(3, None);
            conv.inputs[1] = Some(weights);
            conv.inputs[2] = Some(bias);
            conv.outputs = vec![output];
            gone.insert(index);
        }
        let mut index = 0..;
        graph.nodes.retain(|_| index.next().is_none_or(|index| !gone.contains(&index)));
        Ok(())
    }
}

fn add(graph: &mut Graph, name: &str, content: Tensor) -> ValueId {
    let id = ValueId(graph.values.len() as u32);
    let ty = TensorType::exact(content.dtype(), content.shape());
    graph.values.push(Value { name: name.into(), ty, constant: Some(content) });
    id
}

/// Weights and bias of a convolution that does the normalisation too; `None` where something is not constant f32, or the
/// normalisation is in training mode.
fn folded(graph: &Graph, conv: usize, norm: usize) -> Result<Option<(Tensor, Tensor)>> {
    let (conv, norm) = (&graph.nodes[conv], &graph.nodes[norm]);
    if norm.operator.int("training_mode")?.unwrap_or(0) != 0 {
        return Ok(None);
    }
    let constant = |node: &hetero_hal::Node, index: usize| {
        let id = node.inputs.get(index).copied().flatten()?;
        let tensor = graph.values[id.index()].constant.clone()?;
        (tensor.dtype() == hetero_hal::DType::F32).then_some(tensor)
    };
    let Some(weights) = constant(conv, 1).filter(|weights| !weights.is_empty()) else { return Ok(None) };
    let parameters = [1, 2, 3, 4].map(|index| constant(norm, index));
    let [Some(scale), Some(shift), Some(mean), Some(variance)] = parameters else { return Ok(None) };
    let bias = match conv.inputs.get(2).copied().flatten() {
        None => None,
        Some(_) => match constant(conv, 2) {
            None => return Ok(None),
            bias => bias,
        },
    };
    let channels = weights.shape()[0];
    if [&scale, &shift, &mean, &variance].iter().any(|tensor| tensor.len() != channels) {
        return Ok(None);
    }
    let epsilon = f64::from(norm.operator.float("epsilon")?.unwrap_or(1e-5));
    let (scale, shift, mean) = (scale.view::<f32>()?, shift.view::<f32>()?, mean.view::<f32>()?);
    let variance = variance.view::<f32>()?;
    let factor = |c: usize| f64::from(scale[c]) / (f64::from(variance[c]) + epsilon).sqrt();
    let old_bias = match &bias {
        Some(bias) if bias.len() == channels => Some(bias.view::<f32>()?),
        Some(_) => return Ok(None),
        None => None,
    };
    let each = weights.len() / channels;
    let scaled = weights.view::<f32>()?;
    let scaled = scaled.iter().enumerate().map(|(i, &w)| (f64::from(w) * factor(i / each)) as f32).collect();
    let moved = (0..channels).map(|c| {
        let before = old_bias.as_ref().map_or(0.0, |bias| f64::from(bias[c]));
        ((before - f64::from(mean[c])) * factor(c) + f64::from(shift[c])) as f32
    });
    let bias = Tensor::from_vec(&[channels], moved.collect())?;
    Ok(Some((Tensor::from_vec(weights.shape(), scaled)?, bias)))
}

#[cfg(test)]
mod tests {
    use hetero_hal::Operator;

    use super::super::tests::{Builder, rewritten};

    #[test]
    fn a_norm_behind_a_conv_vanishes_with_and_without_bias() {
        for with_bias in [false, true] {
            let mut b = Builder::default();
            let x = b.input("x", &[1, 2, 4, 4]);
            let w = b.constant("w", &[3, 2, 1, 1], vec![0.1, -0.2, 0.3, 0.4, -0.5, 0.6]);
            let bias = b.constant("b", &[3], vec![0.5, 0.25, -1.0]);
            let inputs = if with_bias { vec![x, w, bias] } else { vec![x, w] };
            let conv = b.node("conv", Operator::new("Conv", 11), &inputs, &[1, 3, 4, 4]);
            let parameters: Vec<_> = [("s", 0.9), ("t", 0.1), ("m", -0.3), ("v", 1.4)]
                .iter()
                .map(|(name, value)| b.constant(name, &[3], vec![*value, value * 2.0, value.abs()]))
                .collect();
            let inputs = [&[conv], &parameters[..]].concat();
            let y = b.node("y", Operator::new("BatchNormalization", 15), &inputs, &[1, 3, 4, 4]);
            assert_eq!(rewritten(&b.program(&[y])).nodes().len(), 1);
        }
    }

    #[test]
    fn a_conv_that_others_read_stays() {
        let mut b = Builder::default();
        let x = b.input("x", &[1, 1, 2, 2]);
        let w = b.constant("w", &[1, 1, 1, 1], vec![2.0]);
        let conv = b.node("conv", Operator::new("Conv", 11), &[x, w], &[1, 1, 2, 2]);
        let parameters: Vec<_> = ["s", "t", "m", "v"].iter().map(|name| b.constant(name, &[1], vec![0.5])).collect();
        let norm = b.node(
            "norm",
            Operator::new("BatchNormalization", 15),
            &[&[conv], &parameters[..]].concat(),
            &[1, 1, 2, 2],
        );
        let y = b.node("y", Operator::new("Add", 14), &[conv, norm], &[1, 1, 2, 2]);
        assert_eq!(rewritten(&b.program(&[y])).nodes().len(), 3);
    }
}
