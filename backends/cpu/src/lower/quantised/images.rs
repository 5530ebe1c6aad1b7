//! What stands between products in 8 bits: functions of one operand and of two, pooling,
//! concatenation, resizing, and what only gives values another shape.

use hetero_hal::{Operator, Tensor, ValueId};
use hetero_reference::Resampling;

use super::{Form, Group, Search, image, is_byte};
use crate::image::Layout;
use crate::kernels::pooling;
use crate::kernels::quantised::conv::flip;
use crate::kernels::quantised::last::{Function, Pair, Parts, Pixels, Pool, Pooling, Table};
use crate::kernels::recipe::Quantised;

impl Search<'_> {
    /// Returns the layout in which element-wise work on these values is done.
    fn common(&self, values: &[ValueId]) -> Layout {
        let is_last = values.iter().any(|value| self.last[value.index()]);
        if is_last { Layout::Last } else { Layout::Moved }
    }

    /// Returns the form of a value in one of these layouts.
    fn form(&self, value: ValueId, layout: Layout) -> Form {
        Form { value, layout: if layout == Layout::Moved { self.rows(value) } else { layout } }
    }

    pub(super) fn pair(&self, node: usize, function: Function) -> Option<Group> {
        let &[Some(a), Some(b)] = self.program.nodes()[node].inputs.as_slice() else { return None };
        let (y, a, b) = (self.only_output(node)?, self.real(a)?, self.real(b)?);
        let tail = self.tail(y)?;
        let is_same = self.shape(a.bytes) == self.shape(y) && self.shape(b.bytes) == self.shape(y);
        if !is_same || a.bytes == b.bytes {
            return None;
        }
        let layout = self.common(&[a.bytes, b.bytes]);
        let mut nodes = vec![node, a.node, b.node];
        nodes.extend(&tail.nodes);
        let operands = [self.moved(a.bytes, a.quantum), self.moved(b.bytes, b.quantum)];
        let recipe = Pair { isa: self.isa, signed: self.signed, function, operands, target: tail.target };
        Some(Group {
            nodes,
            inputs: vec![self.form(a.bytes, layout), self.form(b.bytes, layout)],
            output: self.form(tail.output, layout),
            recipe: Quantised::Pair(recipe),
        })
    }

    /// Returns the table from bytes of the kind that products take to bytes of that kind, through
    /// nodes of one operand each; `None` where it is the identity.
    /// The outer result is `None` where the nodes cannot be computed.
    fn through(&self, from: ValueId, nodes: &[usize], to: ValueId, moved: bool) -> Option<Option<Table>> {
        let in_flip = if moved { flip(self.dtype(from), self.signed) } else { 0 };
        let out_flip = if moved { flip(self.dtype(to), self.signed) } else { 0 };
        let all: Vec<u8> = (0..=255u8).map(|byte| byte ^ in_flip).collect();
        let mut content = Tensor::from_bytes(self.dtype(from), &[256], all.into()).ok()?;
        for &node in nodes {
            // All inputs but one are constants.
            let flowing = self.flowing(node)?;
            let of = |id: ValueId| if id == flowing { Some(content.clone()) } else { self.constant(id).cloned() };
            let inputs = self.program.nodes()[node].inputs.iter().map(|id| id.map(of)).collect::<Vec<_>>();
            let inputs = inputs.into_iter().map(|input| input.map_or(Some(None), |found| found.map(Some)));
            let inputs = inputs.collect::<Option<Vec<_>>>()?;
            content = hetero_reference::evaluate(self.operator(node), &inputs, 1).ok()?.pop()?;
        }
        if content.dtype() != self.dtype(to) || content.len() != 256 {
            return None;
        }
        let table: Box<[u8; 256]> = content.bytes().to_vec().into_boxed_slice().try_into().ok()?;
        let table: Box<[u8; 256]> = Box::new(table.map(|byte| byte ^ out_flip));
        let is_same = table.iter().enumerate().all(|(index, &byte)| usize::from(byte) == index);
        Some((!is_same).then_some(Table(table)))
    }

    /// Returns the first input of a node that is no constant.
    fn flowing(&self, node: usize) -> Option<ValueId> {
        self.program.nodes()[node].inputs.iter().flatten().copied().find(|&id| self.constant(id).is_none())
    }

    /// Returns what becomes of the bytes of a value that a node only moves: the value, the result,
    /// the nodes, and the nodes that a table replaces.
    fn around(&self, node: usize) -> Option<(ValueId, ValueId, Vec<usize>, Vec<usize>)> {
        let (x, y) = (self.input(node, 0)?, self.only_output(node)?);
        if is_byte(self.dtype(x)) {
            let is_constant = self.constant(x).is_some();
            return (self.dtype(x) == self.dtype(y) && !is_constant).then(|| (x, y, vec![node], vec![]));
        }
        let (x, tail) = (self.real(x)?, self.tail(y)?);
        let mut nodes = vec![node, x.node];
        nodes.extend(&tail.nodes);
        let table = std::iter::once(x.node).chain(tail.nodes.iter().copied()).collect();
        Some((x.bytes, tail.output, nodes, table))
    }

    pub(super) fn pool(&self, node: usize) -> Option<Group> {
        let (site, operator) = (self.site(node), self.operator(node));
        let (shape, output) = (site.shape(0)?, self.only_output(node)?);
        let (batch, channels, _) = image(shape)?;
        let input = if let &[_, _, width] = shape { [1, width] } else { [shape[2], *shape.get(3)?] };
        let whole = &*operator.name == "ReduceMean";
        if whole {
            let axes = match self.input(node, 1) {
                Some(axes) => self.constant(axes)?.view::<i64>().ok()?.to_vec(),
                None => operator.ints("axes").ok()??.to_vec(),
            };
            let rank = shape.len() as i64;
            let mut axes: Vec<i64> = axes.iter().map(|&axis| if axis < 0 { axis + rank } else { axis }).collect();
            axes.sort_unstable();
            let is_spatial = axes == (2..rank).collect::<Vec<_>>();
            if !is_spatial || operator.int("keepdims").ok()?.unwrap_or(1) == 0 {
                return None;
            }
        }
        if self.program.values()[output.index()].elements() == 0 || input.contains(&0) {
            return None;
        }
        let taps = if whole {
            let global = Operator::new("GlobalAveragePool", 1);
            pooling::taps(&global, input).ok()?
        } else {
            if !pooling::fits(site).ok()? {
                return None;
            }
            pooling::taps(operator, input).ok()?
        };
        let (kind, x, y, nodes) = if operator.name.ends_with("MaxPool") {
            let (x, y, nodes, through) = self.around(node)?;
            (Pooling::Max(self.through(x, &through, y, true)?), x, y, nodes)
        } else {
            let (x, tail) = (self.real(self.input(node, 0)?)?, self.tail(output)?);
            let mut nodes = vec![node, x.node];
            nodes.extend(&tail.nodes);
            let padding = operator.int("count_include_pad").ok()?.unwrap_or(0) != 0;
            (Pooling::Average(self.moved(x.bytes, x.quantum), tail.target, padding), x.bytes, tail.output, nodes)
        };
        let recipe = Pool { isa: self.isa, signed: self.signed, batch, channels, input, taps, kind };
        Some(Group {
            nodes,
            inputs: vec![Form { value: x, layout: Layout::Last }],
            output: Form { value: y, layout: Layout::Last },
            recipe: Quantised::Pool(recipe),
        })
    }

    pub(super) fn concat(&self, node: usize) -> Option<Group> {
        let (operator, y) = (self.operator(node), self.only_output(node)?);
        let shape = self.shape(y);
        let (batch, _, plane) = image(shape)?;
        let axis = operator.int("axis").ok()??;
        if axis != 1 && axis + shape.len() as i64 != 1 {
            return None;
        }
        let values: Vec<ValueId> = self.program.nodes()[node].inputs.iter().copied().collect::<Option<_>>()?;
        let (mut nodes, mut parts, mut inputs) = (vec![node], vec![], vec![]);
        let direct = is_byte(self.dtype(y));
        let tail = if direct { None } else { Some(self.tail(y)?) };
        for value in values {
            let channels = image(self.shape(value))?.1;
            let (bytes, table) = match &tail {
                None => (value, None),
                Some(tail) => {
                    let real = self.real(value)?;
                    nodes.push(real.node);
                    let mut through = vec![real.node];
                    through.extend(&tail.nodes);
                    (real.bytes, self.through(real.bytes, &through, tail.output, true)?)
                }
            };
            if self.constant(bytes).is_some() {
                return None;
            }
            inputs.push(Form { value: bytes, layout: Layout::Last });
            parts.push((channels, table));
        }
        let output = tail.as_ref().map_or(y, |tail| tail.output);
        nodes.extend(tail.iter().flat_map(|tail| &tail.nodes));
        // Bytes that nothing else of a part reads stay as they are.
        if direct && !inputs.iter().any(|form| self.last[form.value.index()]) {
            return None;
        }
        let recipe = Quantised::Parts(Parts { rows: batch * plane, inputs: parts });
        Some(Group { nodes, inputs, output: Form { value: output, layout: Layout::Last }, recipe })
    }

    pub(super) fn resize(&self, node: usize) -> Option<Group> {
        let (operator, y) = (self.operator(node), self.only_output(node)?);
        if operator.text("mode").ok()?.unwrap_or("nearest") != "nearest" {
            return None;
        }
        let (x, output, nodes, through) = self.around(node)?;
        let shape = self.shape(x);
        let &[batch, channels, height, width] = shape else { return None };
        let content = |index: usize| self.constant(self.input(node, index)?).cloned();
        let axes = Resampling::resolve(operator, shape, content).ok()??;
        let &[_, _, to_height, to_width] = self.shape(y) else { return None };
        let mut sources = [(0..height).collect::<Vec<_>>(), (0..width).collect::<Vec<_>>()];
        for along in axes {
            let list = along.taps.iter().map(|taps| match taps[..] {
                [(position, 1.0)] => Some(position),
                _ => None,
            });
            *sources.get_mut(along.axis.checked_sub(2)?)? = list.collect::<Option<_>>()?;
        }
        let inside = |list: &[usize], size: usize| list.iter().all(|&at| at < size);
        let fits = sources[0].len() == to_height && sources[1].len() == to_width;
        if !fits || !inside(&sources[0], height) || !inside(&sources[1], width) || channels == 0 {
            return None;
        }
        let table = self.through(x, &through, output, true)?;
        let recipe = Pixels { batch, channels, input: [height, width], sources, table };
        Some(Group {
            nodes,
            inputs: vec![Form { value: x, layout: Layout::Last }],
            output: Form { value: output, layout: Layout::Last },
            recipe: Quantised::Pixels(recipe),
        })
    }

    /// Returns the group of a node that only gives its input another shape.
    pub(super) fn shaped(&self, node: usize) -> Option<Group> {
        let (x, output, nodes, through) = self.around(node)?;
        if through.is_empty() {
            return None;
        }
        let bytes = self.program.values()[x.index()].elements();
        let rest = self.program.nodes()[node].inputs.iter().skip(1).flatten();
        let is_known = rest.into_iter().all(|&id| self.constant(id).is_some());
        let table = self.through(x, &through, output, false)?;
        let recipe = Quantised::Parts(Parts { rows: 1, inputs: vec![(bytes, table)] });
        is_known.then(|| Group { nodes, inputs: vec![Form::plain(x)], output: Form::plain(output), recipe })
    }

    /// Returns the group of a function of one operand, which is a table; others are numbers.
    pub(super) fn table(&self, node: usize) -> Option<Group> {
        const OF_NUMBERS: &[&str] = &["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"];
        const FUNCTIONS: &[&str] = &[
            "Relu",
            "Clip",
            "LeakyRelu",
            "Sigmoid",
            "Tanh",
            "HardSigmoid",
            "HardSwish",
            "Elu",
            "Selu",
            "Celu",
            "Gelu",
            "Mish",
            "Softplus",
            "Softsign",
            "Swish",
            "Erf",
            "Exp",
            "Log",
            "Sqrt",
            "Neg",
            "Abs",
            "ThresholdedRelu",
        ];
        let name = &*self.operator(node).name;
        let (from, y) = (self.flowing(node)?, self.only_output(node)?);
        let is_number = |id: ValueId| id == from || self.constant(id).is_some_and(|content| content.len() == 1);
        let inputs = &self.program.nodes()[node].inputs;
        let of_numbers = OF_NUMBERS.contains(&name) && inputs.iter().flatten().all(|&id| is_number(id));
        let is_function = FUNCTIONS.contains(&name) && self.input(node, 0) == Some(from);
        if !(is_function || of_numbers) || self.shape(from) != self.shape(y) {
            return None;
        }
        let real = self.real(from)?;
        let tail = self.tail(y)?;
        let mut through = vec![real.node, node];
        through.extend(&tail.nodes);
        let table = self.through(real.bytes, &through, tail.output, true)?;
        let layout = self.common(&[real.bytes]);
        let bytes = self.program.values()[real.bytes.index()].elements();
        let rows = bytes.div_ceil(1 << 12).max(1);
        // Rows are of equal length.
        let (rows, row) = if bytes.is_multiple_of(rows) { (rows, bytes / rows) } else { (1, bytes) };
        let recipe = Quantised::Parts(Parts { rows, inputs: vec![(row, table)] });
        let (from, to) = (self.form(real.bytes, layout), self.form(tail.output, layout));
        Some(Group { nodes: through, inputs: vec![from], output: to, recipe })
    }
}
