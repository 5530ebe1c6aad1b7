//! The first pass: it decides which values are blocked, and which nodes become one chain.

use hetero_hal::{Result, ValueId};

use super::{Chain, ChainKind, Lowering};
use crate::image::Halo;
use crate::kernels::conv::{self, Finish, Geometry};
use crate::kernels::vector::{Activation, Pairwise};
use crate::kernels::{self, Constant, elementwise};
use crate::simd::floats;

impl Lowering<'_> {
    /// Returns factor and shift of each channel, where the node is `x * scale + shift` of its input
    /// `value` with constants.
    fn affine(&self, node: usize, value: ValueId) -> Result<Option<(Vec<f32>, Vec<f32>)>> {
        let (site, Some(output)) = (self.site(node), self.only_output(node)) else { return Ok(None) };
        let shape = self.shape(value);
        let (&[_, channels, _, ..], true) = (shape, self.shape(output) == shape) else { return Ok(None) };
        if !self.may_be_blocked(value) || !self.may_be_blocked(output) || !site.operator().domain.is_empty() {
            return Ok(None);
        }
        let name = &*site.operator().name;
        if name == "BatchNormalization" {
            if site.operator().int("training_mode")?.unwrap_or(0) != 0 || self.input(node, 0) != Some(value) {
                return Ok(None);
            }
            let read = |index: usize| {
                let tensor = site.constant(index).filter(|tensor| tensor.shape() == [channels])?;
                floats(tensor).ok().map(|content| content.to_vec())
            };
            let (Some(scale), Some(shift), Some(mean), Some(variance)) = (read(1), read(2), read(3), read(4)) else {
                return Ok(None);
            };
            let epsilon = site.operator().float("epsilon")?.unwrap_or(1e-5);
            let factor: Vec<f32> = scale.iter().zip(&variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
            let shift = shift.iter().zip(&mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
            return Ok(Some((factor, shift)));
        }
        let [Some(a), Some(b)] = *self.node(node).inputs.as_slice() else { return Ok(None) };
        let (other, first) = if a == value { (b, true) } else { (a, false) };
        if other == value {
            return Ok(None);
        }
        let Some(constant) = self.per_channel(other, channels, shape.len()) else { return Ok(None) };
        let ones = || vec![1.0; channels];
        let zeros = || vec![0.0; channels];
        let negated = |list: &[f32]| list.iter().map(|x| -x).collect::<Vec<_>>();
        Ok(match (name, first) {
            ("Mul", _) => Some((constant, zeros())),
            ("Add" | "Sum", _) => Some((ones(), constant)),
            ("Sub", true) => Some((ones(), negated(&constant))),
            ("Sub", false) => Some((vec![-1.0; channels], constant)),
            _ => None,
        })
    }

    /// Returns the function of a node that is an element-wise function of its first input.
    fn activation(&self, node: usize, value: ValueId) -> Result<Option<Activation>> {
        let (site, Some(output)) = (self.site(node), self.only_output(node)) else { return Ok(None) };
        let usual = site.operator().domain.is_empty() && self.input(node, 0) == Some(value);
        if !usual || !self.may_be_blocked(output) || self.shape(output) != self.shape(value) {
            return Ok(None);
        }
        elementwise::unary(site)
    }

    /// Notes how a node will be done.
    pub(super) fn survey(&mut self, node: usize) -> Result<()> {
        if self.absorbed[node] {
            return Ok(());
        }
        let site = self.site(node);
        if site.operator().is("MatMulInteger") {
            return self.survey_product(node);
        }
        if site.operator().is("Softmax") {
            return self.survey_attention(node);
        }
        let (Some(input), Some(output)) = (self.input(node, 0), self.node(node).outputs.first().copied().flatten())
        else {
            return Ok(());
        };
        // What reads no blocked value begins a chain or stays plain.
        let begins = site.operator().is("Conv") || site.operator().is("BatchNormalization");
        if !begins && !self.node(node).inputs.iter().flatten().any(|id| self.blocked[id.index()]) {
            return Ok(());
        }
        if !site.operator().domain.is_empty() || !self.may_be_blocked(output) {
            return Ok(());
        }
        if site.operator().is("Conv") {
            return self.survey_conv(node, input);
        }
        // A single Add or Mul on a plain value is left to its own kernel.
        let in_blocked = self.blocked[input.index()];
        let operands = || self.node(node).inputs.iter().map(|id| id.filter(|id| self.blocked[id.index()]));
        let whole = |value: ValueId| self.image(value, Halo::NONE).is_ok_and(|image| image.is_dense());
        let is_blocked = match &*site.operator().name {
            "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" => {
                in_blocked && self.only_output(node).is_some() && kernels::pooling::fits(site)?
            }
            "Concat" => {
                let rank = self.shape(output).len() as i64;
                let axis = site.operator().int("axis")?.unwrap_or(0);
                let by_channel = axis == 1 || axis + rank == 1;
                by_channel && operands().all(|id| id.is_some_and(whole))
            }
            _ => {
                let values: Vec<ValueId> = self.node(node).inputs.iter().flatten().copied().collect();
                let varying = values.iter().find(|id| self.program.values()[id.index()].constant.is_none());
                if let Some(&varying) = varying
                    && let Some((scale, shift)) = self.affine(node, varying)?
                {
                    return self.survey_affine(node, varying, scale, shift);
                }
                if let Some(function) = self.activation(node, input)? {
                    in_blocked && (whole(output) || function.keeps_zero())
                } else if let Some(function) = elementwise::binary(site) {
                    let keeps = matches!(
                        function,
                        Pairwise::Add | Pairwise::Sub | Pairwise::Mul | Pairwise::Max | Pairwise::Min
                    );
                    let shape = self.shape(output);
                    let same = operands().all(|id| id.is_some_and(|id| self.shape(id) == shape));
                    (same && values.len() >= 2 && (keeps || whole(output)))
                        || (keeps && self.channelwise(node, output).is_some())
                } else {
                    false
                }
            }
        };
        self.blocked[output.index()] = is_blocked;
        Ok(())
    }

    /// Returns the position of the operand that is as large as the result and blocked, where the
    /// other operand has one number for each channel.
    pub(super) fn channelwise(&self, node: usize, output: ValueId) -> Option<usize> {
        let &[Some(a), Some(b)] = self.node(node).inputs.as_slice() else { return None };
        let shape = self.shape(output);
        let (position, numbers) = if self.shape(a) == shape { (0, b) } else { (1, a) };
        let elements = [a, b][position];
        let &[batch, channels, ref pixel @ ..] = self.shape(numbers) else { return None };
        let fits = shape.len() == pixel.len() + 2
            && (batch == 1 || batch == shape[0])
            && channels == shape[1]
            && pixel.iter().all(|&size| size == 1);
        let usable = self.blocked[elements.index()] && self.shape(elements) == shape && self.may_be_blocked(numbers);
        (fits && usable && self.program.values()[numbers.index()].constant.is_none()).then_some(position)
    }

    fn survey_conv(&mut self, node: usize, input: ValueId) -> Result<()> {
        let site = self.site(node);
        let weights = site
            .input(1)
            .and_then(|value| Some(Constant { name: value.name.clone(), content: value.constant.clone()? }));
        let constant_bias = site.input(2).is_none() || site.constant(2).is_some();
        let (Some(geometry), Some(weights), true) = (Geometry::of(site)?, weights, constant_bias) else {
            return Ok(());
        };
        let Some(mut output) = self.only_output(node) else { return Ok(()) };
        let filters = geometry.groups * geometry.outputs;
        let bias = match site.constant(2) {
            Some(bias) => floats(bias)?.to_vec(),
            None => vec![0.0; filters],
        };
        let unbounded = (f32::NEG_INFINITY, f32::INFINITY);
        let mut finish = Finish { scale: vec![], bias, addend: false, clamp: unbounded, activation: None };
        let fits = geometry.fits_blocks(self.isa.lanes());
        let blocks = self.may_be_blocked(input)
            && if geometry.is_depthwise() { self.blocked[input.index()] && geometry.keeps_columns() } else { fits };
        let from_plain =
            !geometry.is_depthwise() && geometry.takes_plain(self.isa.lanes()) && !self.blocked[input.index()];
        let (mut last, mut addend) = (node, None);
        let mut chain = vec![node];
        while let Some(next) = self.sole_consumer(output) {
            let Some(result) = self.only_output(next) else { break };
            if self.absorbed[next] {
                break;
            }
            if let (None, Some((factor, shift))) = (addend, self.affine(next, output)?) {
                if finish.scale.is_empty() {
                    finish.scale = vec![1.0; filters];
                }
                finish.scale.iter_mut().zip(&factor).for_each(|(scale, factor)| *scale *= factor);
                finish.bias.iter_mut().zip(&factor).zip(&shift).for_each(|((b, f), s)| *b = *b * f + s);
            } else if let (None, Some(other)) = (addend, self.residual(next, output, node, blocks)) {
                addend = Some(other);
            } else if let Some(function) = self.activation(next, output)? {
                let padded = blocks && !filters.is_multiple_of(self.isa.lanes());
                if padded && !function.keeps_zero() {
                    break;
                }
                match function {
                    Activation::Clamp(low, high) => finish.clamp = (low, high),
                    other => finish.activation = Some(other),
                }
                (last, output) = (next, result);
                chain.push(next);
                break;
            } else {
                break;
            }
            (last, output) = (next, result);
            chain.push(next);
        }
        finish.addend = addend.is_some();
        let mut pooled = None;
        if blocks
            && addend.is_none()
            && let Some((pool, result)) = self.pooling(&geometry, output)?
        {
            pooled = Some(output);
            (last, output) = (pool, result);
            chain.push(pool);
        }
        if blocks {
            self.blocked[output.index()] = true;
            if !from_plain {
                self.halos.insert(node, geometry.halo());
            }
        }
        for &node in &chain {
            self.absorbed[node] = true;
        }
        let kind = ChainKind::Conv { geometry: Box::new(geometry), weights, finish, pooled };
        self.chains.insert(last, Chain { head: node, nodes: chain, output, addend, kind });
        Ok(())
    }

    /// Returns the pooling that alone reads a convolution's result, and the pooling's result, where
    /// one kernel for both pays.
    fn pooling(&self, geometry: &Geometry, value: ValueId) -> Result<Option<(usize, ValueId)>> {
        if self.shape(value).len() != 4 || !conv::pools(geometry, self.isa.lanes(), self.filters) {
            return Ok(None);
        }
        let Some(pool) = self.sole_consumer(value).filter(|&node| !self.absorbed[node]) else { return Ok(None) };
        let (site, Some(result)) = (self.site(pool), self.only_output(pool)) else { return Ok(None) };
        let usual = site.operator().domain.is_empty() && matches!(&*site.operator().name, "MaxPool" | "AveragePool");
        let fits = usual && self.may_be_blocked(result) && kernels::pooling::fits(site)?;
        Ok(fits.then_some((pool, result)))
    }

    /// Returns the other operand, where the node adds it to `value`.
    /// It must have the same shape and layout, and be made before the convolution `conv`.
    fn residual(&self, node: usize, value: ValueId, conv: usize, blocked: bool) -> Option<ValueId> {
        let [Some(a), Some(b)] = *self.node(node).inputs.as_slice() else { return None };
        let other = if a == value { b } else { a };
        let sum = self.site(node).operator().is("Add") || self.site(node).operator().is("Sum");
        let shape = self.shape(value);
        let fits = self.shape(other) == shape && self.shape(self.only_output(node)?) == shape;
        let constant = self.program.values()[other.index()].constant.is_some();
        // Where both operands are convolutions, the later one adds, because the other's result
        // exists by then.
        let earlier = self.producers[other.index()].is_none_or(|producer| producer < conv);
        let usable = other != value && !constant && self.may_be_blocked(other);
        (sum && fits && usable && earlier && self.blocked[other.index()] == blocked).then_some(other)
    }

    fn survey_affine(&mut self, node: usize, value: ValueId, mut scale: Vec<f32>, mut shift: Vec<f32>) -> Result<()> {
        // A plain value that is not normalised is gathered with other element-wise nodes.
        let blocked = self.blocked[value.index()];
        if !blocked && !self.site(node).operator().is("BatchNormalization") {
            return Ok(());
        }
        let Some(mut output) = self.only_output(node) else { return Ok(()) };
        let (mut last, mut clamp) = (node, (f32::NEG_INFINITY, f32::INFINITY));
        let mut chain = vec![node];
        while let Some(next) = self.sole_consumer(output) {
            let Some(result) = self.only_output(next) else { break };
            if let Some((factor, more)) = self.affine(next, output)? {
                scale.iter_mut().zip(&factor).for_each(|(scale, factor)| *scale *= factor);
                shift.iter_mut().zip(&factor).zip(&more).for_each(|((b, f), s)| *b = *b * f + s);
            } else if let Some(Activation::Clamp(low, high)) = self.activation(next, output)? {
                let keeps = Activation::Clamp(low, high).keeps_zero();
                if keeps || self.image(output, Halo::NONE)?.is_dense() {
                    clamp = (low, high);
                    (last, output) = (next, result);
                    chain.push(next);
                }
                break;
            } else {
                break;
            }
            (last, output) = (next, result);
            chain.push(next);
        }
        for &node in &chain {
            self.absorbed[node] = true;
        }
        self.blocked[output.index()] = blocked;
        let kind = ChainKind::Affine { scale, shift, clamp };
        self.chains.insert(last, Chain { head: node, nodes: chain, output, addend: None, kind });
        Ok(())
    }
}
