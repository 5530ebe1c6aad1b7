//! Products of bytes together with the nodes behind them that make their sums real numbers.
//!
//! Dynamic quantisation writes a product of floats as
//!
//! ```text
//! q, s, z = DynamicQuantizeLinear(x)
//! y = Relu(Mul(Cast(MatMulInteger(q, w, z, v)), Mul(s, t)) + bias)
//! ```
//!
//! with the weights `w`, their zero point `v` and scale `t`; the bias and the function at the end
//! may be missing.
//! All of this from MatMulInteger on, the product of the scales included, is one kernel, so that
//! the sums never go through memory.

use hetero_hal::{DType, Result, ValueId};

use super::{Draft, Form, Lowering, Recipe};
use crate::image::Layout;
use crate::kernels::elementwise;
use crate::kernels::quantised::matmul::{self, Scaled};
use crate::kernels::vector::Activation;

/// A product and the nodes behind it.
pub(super) struct Product {
    nodes: Vec<usize>,
    inputs: Vec<Option<ValueId>>,
    output: ValueId,
    recipe: Scaled,
}

impl Lowering<'_> {
    /// Returns the node that alone reads a value, where that is this operator of the standard.
    fn only_reader(&self, value: ValueId, name: &str) -> Option<usize> {
        let node = self.sole_consumer(value).filter(|&node| !self.absorbed[node])?;
        self.node(node).operator.is(name).then_some(node)
    }

    /// Tells whether a value is f32 of exact size, with one element for each column of a value of
    /// shape `of`, or one element in all.
    fn by_column(&self, value: ValueId, of: &[usize]) -> bool {
        let value = &self.program.values()[value.index()];
        let columns = of.last().copied().unwrap_or(1);
        let [lead @ .., last] = value.shape.as_slice() else { return value.dtype == DType::F32 };
        let fits = value.shape.len() <= of.len() && lead.iter().all(|&size| size == 1);
        value.dtype == DType::F32 && !value.is_dynamic() && fits && (*last == columns || *last == 1)
    }

    /// Returns the output of a node of two operands that has the shape of the value `first`, and
    /// its other operand, where that is for columns.
    fn with_columns(&self, node: usize, first: ValueId) -> Option<(ValueId, ValueId)> {
        let [Some(a), Some(b)] = *self.node(node).inputs.as_slice() else { return None };
        let other = if a == first { b } else { a };
        let output = self.only_output(node)?;
        let shape = self.shape(first);
        (self.shape(output) == shape && self.by_column(other, shape)).then_some((output, other))
    }

    /// Notes a MatMulInteger that one kernel does together with what follows.
    pub(super) fn survey_product(&mut self, node: usize) -> Result<()> {
        let exact = self.node(node).uses().all(|id| !self.program.values()[id.index()].is_dynamic());
        let found = if exact { self.product(node)? } else { None };
        if let (Some(product), Some(&last)) = (&found, found.as_ref().and_then(|product| product.nodes.last())) {
            product.nodes.iter().for_each(|&node| self.absorbed[node] = true);
            self.products.extend(found.map(|product| (last, product)));
        }
        Ok(())
    }

    fn product(&self, node: usize) -> Result<Option<Product>> {
        let site = self.site(node);
        let (Some(sums), Some(stack)) = (self.only_output(node), matmul::stack(site)) else { return Ok(None) };
        if !stack.is_one() || !stack.is_possible(self.isa) {
            return Ok(None);
        }
        let Some(cast) = self.only_reader(sums, "Cast") else { return Ok(None) };
        let Some(real) = self.only_output(cast).filter(|id| self.program.values()[id.index()].dtype == DType::F32)
        else {
            return Ok(None);
        };
        let Some(scaling) = self.only_reader(real, "Mul") else { return Ok(None) };
        let Some((mut output, scale)) = self.with_columns(scaling, real) else { return Ok(None) };
        let mut nodes = vec![node, cast, scaling];
        let mut inputs: Vec<Option<ValueId>> = (0..4).map(|index| self.input(node, index)).collect();
        // The scale may be a product of two that nothing else needs.
        let factors = self.producers[scale.index()].filter(|&maker| {
            let own = self.node(maker);
            let alone = self.sole_consumer(scale) == Some(scaling) && !self.absorbed[maker];
            let usual = own.operator.is("Mul") && own.inputs.len() == 2;
            usual && alone && own.inputs.iter().all(|id| id.is_some_and(|id| self.by_column(id, self.shape(real))))
        });
        match factors {
            Some(maker) => {
                inputs.extend(self.node(maker).inputs.iter().copied());
                nodes.push(maker);
            }
            None => inputs.push(Some(scale)),
        }
        let scales = inputs.len() - 4;
        let mut last = scaling;
        let mut bias = false;
        if let Some(adding) = self.only_reader(output, "Add")
            && let Some((sum, other)) = self.with_columns(adding, output)
        {
            inputs.push(Some(other));
            nodes.push(adding);
            (bias, output, last) = (true, sum, adding);
        }
        let mut clamp = (f32::NEG_INFINITY, f32::INFINITY);
        if let Some(after) = self.sole_consumer(output).filter(|&node| !self.absorbed[node])
            && self.input(after, 0) == Some(output)
            && self.node(after).operator.domain.is_empty()
            && let Some(Activation::Clamp(low, high)) = elementwise::unary(self.site(after))?
            && let Some(limited) = self.only_output(after)
        {
            nodes.push(after);
            (clamp, output, last) = ((low, high), limited, after);
        }
        // All nodes are done where the last of them stands.
        nodes.sort_unstable();
        if nodes.last() != Some(&last) {
            return Ok(None);
        }
        let right = matmul::right_of(site, 1);
        Ok(Some(Product { nodes, inputs, output, recipe: Scaled { stack, right, scales, bias, clamp } }))
    }

    pub(super) fn emit_product(&mut self, node: usize, product: Product) -> Result<()> {
        let Product { nodes, inputs, output, recipe } = product;
        let mut forms = Vec::with_capacity(inputs.len());
        for id in inputs {
            forms.push(id.map(|id| self.want(node, id, Layout::Plain)).transpose()?);
        }
        let form = Form::plain(output);
        self.made(form);
        let recipe = Recipe::Scaled(Box::new(recipe));
        self.drafts.push(Draft { node, nodes, recipe, inputs: forms, outputs: vec![Some(form)] });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hetero_conformance::{Case, program};
    use hetero_hal::{DType, Operator, Tensor};

    use crate::kernels::recipe::Recipe;
    use crate::simd::Isa;

    #[test]
    fn products_of_bytes_of_other_domains_are_one_kernel_with_what_is_behind_them() {
        let bytes = |shape: &[usize], dtype: DType| {
            let values: Vec<u8> = (0..shape.iter().product::<usize>()).map(|value| value as u8).collect();
            Some(Tensor::from_bytes(dtype, shape, values.into()).unwrap())
        };
        let (a, w) = (bytes(&[2, 3, 8], DType::U8), bytes(&[8, 6], DType::I8));
        let reals =
            |shape: &[usize]| Some(Tensor::from_vec(shape, vec![0.5f32; shape.iter().product::<usize>()]).unwrap());
        let flat = bytes(&[6, 8], DType::U8);
        let cases = [
            ("DynamicQuantizeMatMul", vec![reals(&[2, 3, 8]), w.clone(), reals(&[6]), None, reals(&[6])], 4),
            ("MatMulIntegerToFloat", vec![a.clone(), w.clone(), reals(&[]), reals(&[6]), None, None, reals(&[6])], 3),
            ("QAttention", vec![a, w.clone(), reals(&[6]), reals(&[]), reals(&[6])], 3),
            ("QGemm", vec![flat, reals(&[]), bytes(&[], DType::U8), w, reals(&[6]), bytes(&[6], DType::I8)], 3),
        ];
        for (name, inputs, least) in cases {
            let mut operator = Operator { domain: "com.microsoft".into(), ..Operator::new(name, 1) };
            if name == "QAttention" {
                operator = operator.with("num_heads", hetero_hal::Attribute::Int(1));
            }
            let constants = (1..inputs.len()).filter(|&index| inputs[index].is_some()).collect();
            let case = Case { name: name.to_owned(), operator, inputs, constants, outputs: 1 };
            let (program, _) = program(&case).unwrap();
            for isa in Isa::available() {
                let drafts = crate::lower::lower(&program, None, isa, true).unwrap();
                let product = drafts.iter().find(|draft| matches!(draft.recipe, Recipe::Scaled(_)));
                let nodes = product.map_or(0, |draft| draft.nodes.len());
                assert!(nodes >= least, "{name}, {isa}: {nodes} nodes");
            }
        }
    }
}
