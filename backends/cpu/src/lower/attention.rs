//! Attention that a model writes by its parts: two products with a softmax between them.
//!
//! ```text
//! y = MatMul(Softmax(MatMul(q, Transpose(k)) · scale + mask), v)
//! ```
//!
//! The scale may stand before the first product too, the products may be Einsums, and
//! transpositions of the operands and of the result are only other places of the rows.
//! All of it is one kernel, so that the scores never go through memory.

use hetero_hal::{DType, Result, ValueId};
use hetero_reference::NamedAxes;

use super::{Draft, Form, Lowering, Recipe};
use crate::kernels::attention::{Attention, Rows, Sizes};
use crate::kernels::strides;
use crate::simd::floats;

/// The nodes of an attention.
pub(super) struct Parts {
    nodes: Vec<usize>,
    /// The queries, the keys, the values, and the mask.
    inputs: Vec<ValueId>,
    output: ValueId,
    kernel: Attention,
}

/// A product of stacks of matrices: which dimensions of its operands and of its result are which.
struct Product {
    operands: [ValueId; 2],
    /// The dimensions over which products are repeated, of both operands and of the result.
    stack: Vec<[usize; 3]>,
    /// The dimension of each operand that the result has too, and its place there.
    kept: [(usize, usize); 2],
    /// The dimension of each operand that is summed.
    summed: [usize; 2],
}

impl Product {
    fn swapped(self) -> Product {
        let ([a, b], [m, n], [x, y]) = (self.operands, self.kept, self.summed);
        let stack = self.stack.into_iter().map(|[a, b, out]| [b, a, out]).collect();
        Product { operands: [b, a], stack, kept: [n, m], summed: [y, x] }
    }

    /// Returns the places of the stack's dimensions, and of `step`, in a value with these strides.
    fn rows(&self, of: usize, strides: &[usize], step: usize) -> Option<Rows> {
        let at = |index: usize| strides[self.stack[index][of]];
        Some(match self.stack.len() {
            0 => Rows { batch: 0, head: 0, step: strides[step] },
            1 => Rows { batch: 0, head: at(0), step: strides[step] },
            2 => Rows { batch: at(0), head: at(1), step: strides[step] },
            _ => return None,
        })
    }
}

impl Lowering<'_> {
    /// Notes a softmax that is part of an attention.
    pub(super) fn survey_attention(&mut self, node: usize) -> Result<()> {
        let Some(parts) = self.attention(node)? else { return Ok(()) };
        if let Some(&last) = parts.nodes.last() {
            parts.nodes.iter().for_each(|&node| self.absorbed[node] = true);
            self.attentions.insert(last, parts);
        }
        Ok(())
    }

    /// Returns the node that makes a value, where nothing else needs the value, and the node does
    /// one thing that no other kernel does already.
    fn own_maker(&self, value: ValueId) -> Option<usize> {
        let maker = self.producers[value.index()].filter(|&node| !self.absorbed[node])?;
        (self.sole_consumer(value).is_some() && self.only_output(maker).is_some()).then_some(maker)
    }

    /// Tells whether a value is f32 of exact sizes in the standard's layout.
    fn is_plain(&self, id: ValueId) -> bool {
        let value = &self.program.values()[id.index()];
        value.dtype == DType::F32 && !value.is_dynamic() && value.elements() > 0 && !self.blocked[id.index()]
    }

    /// Returns the other operand and the factor, where the node multiplies by a constant number.
    fn scaled(&self, node: usize) -> Option<(ValueId, f32)> {
        let [Some(a), Some(b)] = *self.node(node).inputs.as_slice() else { return None };
        let output = self.only_output(node)?;
        let number = |id: ValueId| {
            let constant =
                self.program.values()[id.index()].constant.as_ref().filter(|constant| constant.len() == 1)?;
            floats(constant).ok()?.first().copied()
        };
        let operator = &self.node(node).operator;
        let (value, factor) = match (number(a), number(b)) {
            (None, Some(factor)) if operator.is("Mul") => (a, factor),
            (Some(factor), None) if operator.is("Mul") => (b, factor),
            (None, Some(factor)) if operator.is("Div") => (a, 1.0 / factor),
            _ => return None,
        };
        (self.shape(value) == self.shape(output)).then_some((value, factor))
    }

    /// Returns a node as a product of stacks of matrices.
    fn product_of(&self, node: usize) -> Option<Product> {
        let [Some(a), Some(b)] = *self.node(node).inputs.as_slice() else { return None };
        let (a_shape, b_shape, operator) = (self.shape(a), self.shape(b), &self.node(node).operator);
        let rank = a_shape.len();
        if operator.is("MatMul") {
            let stack = (0..rank.checked_sub(2)?).map(|axis| [axis; 3]).collect();
            let fits = rank <= 4 && b_shape.len() == rank && a_shape[..rank - 2] == b_shape[..rank - 2];
            let (kept, summed) = ([(rank - 2, rank - 2), (rank - 1, rank - 1)], [rank - 1, rank - 2]);
            return fits.then_some(Product { operands: [a, b], stack, kept, summed });
        }
        if !operator.is("Einsum") {
            return None;
        }
        let axes = NamedAxes::of(operator, &[a_shape, b_shape]).ok()?;
        // The place of an axis that occurs once, and is not repeated.
        let place = |names: &[usize], shape: &[usize], axis: usize| {
            let mut places = (0..names.len()).filter(|&place| names[place] == axis);
            let place = places.next().filter(|&place| shape[place] == axes.sizes[axis])?;
            places.next().is_none().then_some(place)
        };
        let out_shape = self.shape(self.only_output(node)?);
        let (mut stack, mut kept, mut summed) = (vec![], [None; 2], None);
        for axis in 0..axes.sizes.len() {
            let [first, second] =
                [(0, a_shape), (1, b_shape)].map(|(own, shape)| place(&axes.inputs[own], shape, axis));
            match (first, second, place(&axes.output, out_shape, axis)) {
                (Some(a), Some(b), Some(out)) => stack.push([a, b, out]),
                (Some(a), None, Some(out)) if kept[0].is_none() => kept[0] = Some((a, out)),
                (None, Some(b), Some(out)) if kept[1].is_none() => kept[1] = Some((b, out)),
                (Some(a), Some(b), None) if summed.is_none() => summed = Some([a, b]),
                _ => return None,
            }
        }
        let rank = stack.len() + 2;
        let fits = [a_shape.len(), b_shape.len(), out_shape.len()] == [rank; 3];
        fits.then_some(Product { operands: [a, b], stack, kept: [kept[0]?, kept[1]?], summed: summed? })
    }

    /// Returns the places of the rows of an operand along the dimension `step`, whose elements
    /// follow each other along `lane`.
    /// Nodes that only scale or transpose the operand are added to `nodes`, and their factor is
    /// taken into account.
    fn rows_of(
        &self,
        (product, of): (&Product, usize),
        (step, lane): (usize, usize),
        nodes: &mut Vec<usize>,
        scale: &mut f32,
    ) -> Option<(ValueId, Rows)> {
        let operand = product.operands[of];
        let mut value = operand;
        if let Some(maker) = self.own_maker(value)
            && let Some((of, factor)) = self.scaled(maker).filter(|(of, _)| self.is_plain(*of))
        {
            nodes.push(maker);
            *scale *= factor;
            value = of;
        }
        let mut by_axis = strides(self.shape(value));
        if let Some(maker) = self.producers[value.index()].filter(|&node| self.node(node).operator.is("Transpose"))
            && !self.absorbed[maker]
            && let Some(of) = self.input(maker, 0).filter(|&of| self.is_plain(of))
        {
            let own = strides(self.shape(of));
            let usual: Vec<i64> = (0..own.len() as i64).rev().collect();
            let order = self.node(maker).operator.ints("perm").ok()?.map_or(usual, <[i64]>::to_vec);
            by_axis = order.iter().map(|&axis| own.get(usize::try_from(axis).ok()?).copied()).collect::<Option<_>>()?;
            if self.own_maker(value).is_some() {
                nodes.push(maker);
            }
            value = of;
        }
        let shape = self.shape(operand);
        if !self.is_plain(value) || (by_axis[lane] != 1 && shape[lane] != 1) {
            return None;
        }
        Some((value, product.rows(of, &by_axis, step)?))
    }

    /// Returns the attention whose softmax is this node.
    fn attention(&self, softmax: usize) -> Result<Option<Parts>> {
        let site = self.site(softmax);
        let (Some(scores), Some(weights)) = (self.input(softmax, 0), self.only_output(softmax)) else {
            return Ok(None);
        };
        let shape = self.shape(scores);
        let rank = shape.len();
        let usual = if site.operator().version < 13 { 1 } else { -1 };
        let axis = site.operator().int("axis")?.unwrap_or(usual);
        let last = axis == -1 || axis == rank as i64 - 1;
        if !(2..=4).contains(&rank) || !last || !self.is_plain(scores) || !self.is_plain(weights) {
            return Ok(None);
        }
        Ok(self.parts(softmax, (scores, weights), shape))
    }

    fn parts(&self, softmax: usize, (mut scores, weights): (ValueId, ValueId), shape: &[usize]) -> Option<Parts> {
        let rank = shape.len();
        let mut nodes = vec![softmax];
        // What stands between the first product and the softmax, from the softmax on.
        let (mut scale, mut mask) = (1.0f32, None);
        let first = loop {
            let maker = self.own_maker(scores)?;
            if let Some(product) = self.product_of(maker) {
                nodes.push(maker);
                break product;
            }
            if let Some((of, factor)) = self.scaled(maker) {
                scale *= factor;
                scores = of;
            } else if let ([Some(a), Some(b)], true, true, None) =
                (self.node(maker).inputs.as_slice(), self.node(maker).operator.is("Add"), scale == 1.0, mask)
            {
                let leads = |id: ValueId| {
                    let maker = self.own_maker(id).filter(|_| self.shape(id) == shape);
                    maker.is_some_and(|maker| self.product_of(maker).is_some() || self.scaled(maker).is_some())
                };
                let (of, other) = if leads(*a) { (*a, *b) } else { (*b, *a) };
                if !leads(of) || !self.is_plain(other) {
                    return None;
                }
                mask = Some(other);
                scores = of;
            } else {
                return None;
            }
            nodes.push(maker);
            if nodes.len() > 4 || !self.is_plain(scores) {
                return None;
            }
        };
        // The scores are stacks of rows, a row for each query.
        let mut first = if first.kept[0].1 + 2 == rank { first } else { first.swapped() };
        first.stack.sort_unstable_by_key(|places| places[2]);
        let in_order = first.stack.iter().map(|places| places[2]).chain(first.kept.map(|(_, out)| out)).eq(0..rank);
        let second = self.sole_consumer(weights).filter(|&node| !self.absorbed[node])?;
        nodes.push(second);
        let mut last = self.product_of(second)?;
        if last.operands[0] != weights {
            last = last.swapped();
        }
        last.stack.sort_unstable_by_key(|places| places[0]);
        let own = last.stack.iter().map(|places| places[0]).chain([last.kept[0].0, last.summed[0]]);
        if !in_order || last.operands[0] != weights || last.operands[1] == weights || !own.eq(0..rank) {
            return None;
        }
        let mut none = 1.0;
        let (q, q_rows) = self.rows_of((&first, 0), (first.kept[0].0, first.summed[0]), &mut nodes, &mut scale)?;
        let (k, k_rows) = self.rows_of((&first, 1), (first.kept[1].0, first.summed[1]), &mut nodes, &mut scale)?;
        let (v, v_rows) = self.rows_of((&last, 1), (last.summed[1], last.kept[1].0), &mut nodes, &mut none)?;
        let mut output = self.only_output(second)?;
        if none != 1.0 || !self.is_plain(output) || last.kept[1].1 + 1 != rank {
            return None;
        }
        let width = self.shape(output)[rank - 1];
        let stack = rank - 2;
        let (heads, steps) = (if stack > 0 { shape[stack - 1] } else { 1 }, shape[rank - 2]);
        let mut rows = last.rows(2, &strides(self.shape(output)), last.kept[0].1)?;
        let as_weights = last.kept[0].1 + 2 == rank && last.stack.iter().all(|places| places[0] == places[2]);
        // A transposition that brings the heads of a step side by side.
        if as_weights
            && let Some(turn) = self.sole_consumer(output).filter(|&node| !self.absorbed[node])
            && self.node(turn).operator.is("Transpose")
            && self.node(turn).operator.ints("perm").ok()? == Some(&[0, 2, 1, 3])
            && let Some(turned) = self.only_output(turn).filter(|&id| self.is_plain(id))
        {
            rows = Rows { batch: heads * steps * width, head: width, step: heads * width };
            nodes.push(turn);
            output = turned;
        }
        let sizes = Sizes {
            batch: if stack > 1 { shape[0] } else { 1 },
            heads,
            steps,
            keys: shape[rank - 1],
            width: self.shape(first.operands[0])[first.summed[0]],
            v_width: width,
        };
        let bias = mask.map(|mask: ValueId| self.shape(mask));
        let kernel = Attention::of_parts(self.isa, sizes, [q_rows, k_rows, v_rows, rows], bias, scale)?;
        nodes.sort_unstable();
        nodes.dedup();
        // All nodes are done where the last of them stands, which is the one with the result.
        let inputs = [q, k, v].into_iter().chain(mask).collect();
        (self.producers[output.index()] == nodes.last().copied()).then_some(Parts { nodes, inputs, output, kernel })
    }

    pub(super) fn emit_attention(&mut self, node: usize, parts: Parts) -> Result<()> {
        let Parts { nodes, inputs, output, kernel } = parts;
        let mut forms = Vec::with_capacity(inputs.len());
        for id in inputs {
            forms.push(Some(self.want(node, id, self.rows(id))?));
        }
        let form = Form { value: output, layout: self.rows(output) };
        self.made(form);
        let recipe = Recipe::Attention(Box::new(kernel));
        self.drafts.push(Draft { node, nodes, recipe, inputs: forms, outputs: vec![Some(form)] });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Attribute, Graph, Node, Operator, Program, Tensor, TensorType, Value};

    use crate::lower::lower;
    use crate::simd::Isa;

    use super::*;

    /// A node: the operator, its inputs by name, and the name and shape of its result.
    type Line<'a> = (Operator, &'a [&'a str], &'a str, &'a [usize]);

    /// Returns the number of steps for a program of inputs of these shapes.
    fn steps(inputs: &[(&str, &[usize])], lines: &[Line<'_>], outputs: &[&str]) -> usize {
        let mut values = vec![Value {
            name: "half".into(),
            ty: TensorType::exact(DType::F32, &[]),
            constant: Some(Tensor::scalar(0.5f32)),
        }];
        let named = inputs.iter().copied().chain(lines.iter().map(|line| (line.2, line.3)));
        for (name, shape) in named {
            values.push(Value { name: name.into(), ty: TensorType::exact(DType::F32, shape), constant: None });
        }
        let id = |name: &str| ValueId(values.iter().position(|value| &*value.name == name).unwrap() as u32);
        let node = |line: &Line<'_>| Node {
            name: line.2.into(),
            operator: line.0.clone(),
            inputs: line.1.iter().map(|name| Some(id(name))).collect(),
            outputs: vec![Some(id(line.2))],
        };
        let (name, nodes) = ("parts".into(), lines.iter().map(node).collect());
        let (inputs, outputs) =
            (inputs.iter().map(|(name, _)| id(name)).collect(), outputs.iter().map(|name| id(name)).collect());
        let graph = Graph { name, inputs, outputs, nodes, values, captures: vec![] };
        lower(&Program::new(graph, vec![]).unwrap(), None, Isa::widest(), true).unwrap().len()
    }

    fn turn(order: &[i64]) -> Operator {
        Operator::new("Transpose", 21).with("perm", Attribute::Ints(order.to_vec()))
    }

    fn op(name: &str) -> Operator {
        Operator::new(name, 13)
    }

    const INPUTS: [(&str, &[usize]); 4] =
        [("q", &[2, 9, 3, 16]), ("k", &[2, 20, 3, 16]), ("v", &[2, 20, 3, 8]), ("mask", &[2, 1, 1, 20])];

    /// The parts with transpositions all around, as exporters of encoders write them.
    fn parts<'a>() -> Vec<Line<'a>> {
        vec![
            (turn(&[0, 2, 1, 3]), &["q"], "qt", &[2, 3, 9, 16]),
            (turn(&[0, 2, 3, 1]), &["k"], "kt", &[2, 3, 16, 20]),
            (turn(&[0, 2, 1, 3]), &["v"], "vt", &[2, 3, 20, 8]),
            (op("MatMul"), &["qt", "kt"], "scores", &[2, 3, 9, 20]),
            (op("Mul"), &["scores", "half"], "scaled", &[2, 3, 9, 20]),
            (op("Add"), &["scaled", "mask"], "masked", &[2, 3, 9, 20]),
            (op("Softmax"), &["masked"], "weights", &[2, 3, 9, 20]),
            (op("MatMul"), &["weights", "vt"], "y", &[2, 3, 9, 8]),
            (turn(&[0, 2, 1, 3]), &["y"], "z", &[2, 9, 3, 8]),
        ]
    }

    #[test]
    fn an_attention_by_its_parts_is_one_step() {
        assert_eq!(steps(&INPUTS, &parts(), &["z"]), 1);
    }

    #[test]
    fn parts_that_are_read_elsewhere_stay_as_they_are() {
        assert!(steps(&INPUTS, &parts(), &["z", "weights"]) > 6);
        assert!(steps(&INPUTS, &parts(), &["z", "scores"]) > 6);
        // A transposed operand may be an output too.
        assert_eq!(steps(&INPUTS, &parts(), &["z", "kt"]), 2);
        let mut along = parts();
        along[6].0 = op("Softmax").with("axis", Attribute::Int(1));
        assert!(steps(&INPUTS, &along, &["z"]) > 6);
    }

    #[test]
    fn sums_by_an_equation_are_products_too() {
        let equation = |text: &str| op("Einsum").with("equation", Attribute::String(text.as_bytes().into()));
        let lines: [Line<'_>; 3] = [
            (equation("bihd,bjhd->bhij"), &["q", "k"], "scores", &[2, 3, 9, 20]),
            (op("Softmax"), &["scores"], "weights", &[2, 3, 9, 20]),
            (equation("bhij,bjhd->bihd"), &["weights", "v"], "y", &[2, 9, 3, 8]),
        ];
        assert_eq!(steps(&INPUTS[..3], &lines, &["y"]), 1);
        let mut other = lines.clone();
        other[2] = (equation("bjhd,bhij->bhid"), &["v", "weights"], "y", &[2, 3, 9, 8]);
        assert_eq!(steps(&INPUTS[..3], &other, &["y"]), 1);
        other[2] = (equation("bhij,bjhd->bhdi"), &["weights", "v"], "y", &[2, 3, 8, 9]);
        assert_eq!(steps(&INPUTS[..3], &other, &["y"]), 3);
    }
}
