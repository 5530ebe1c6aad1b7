//! The functions that models write as several nodes, as one node each.
//!
//! Exporters write a Gelu by five nodes, and some write a HardSwish by four.
//! Each is looked for behind the value that it is a function of: as long as nodes read nothing but
//! that value, constants of one element and each other, what they compute is a [`Term`].
//! Where all of it comes down to one value, and the term is a function for which there are
//! vectors, the last node stands for all.

use std::collections::{BTreeSet, HashSet};

use hetero_hal::{Attribute, DType, Graph, Node, NodeId, Operator, Program, ProgramValue, ValueId};

use crate::simd::{Half, floats};

/// The most nodes of a function.
const MOST: usize = 9;

/// What is computed of a number `x`: `(scale · core(x) + shift) · (x or 1)`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Term {
    core: Core,
    scale: f64,
    shift: f64,
    by_x: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Core {
    X,
    Cube,
    /// `a · x + b · x³`.
    Sum(f64, f64),
    /// `clamp(a · x + b, low, high)`.
    Clamp(f64, f64, f64, f64),
    /// Of `a · x`.
    Sigmoid(f64),
    Erf(f64),
    /// Of `a · x + b · x³`.
    Tanh(f64, f64),
    Softplus,
    TanhSoftplus,
}

impl Term {
    const X: Term = Term { core: Core::X, scale: 1.0, shift: 0.0, by_x: false };

    fn of(core: Core) -> Term {
        Term { core, ..Term::X }
    }

    /// Returns `a · self + b`.
    fn affine(self, a: f64, b: f64) -> Option<Term> {
        let term = Term { scale: self.scale * a, shift: self.shift * a + b, ..self };
        (b == 0.0 || !self.by_x).then_some(term)
    }

    /// Returns `a` and `b` of `a · x + b`.
    fn line(self) -> Option<(f64, f64)> {
        (self.core == Core::X && !self.by_x).then_some((self.scale, self.shift))
    }

    /// Returns `a` of `a · x`.
    fn multiple(self) -> Option<f64> {
        self.line().filter(|&(_, shift)| shift == 0.0).map(|(scale, _)| scale)
    }

    fn times(self, other: Term) -> Option<Term> {
        let (term, factor) = match (other.multiple(), self.multiple()) {
            (Some(factor), _) if !self.by_x => (self, factor),
            (_, Some(factor)) if !other.by_x => (other, factor),
            _ => return None,
        };
        // A square is none of the functions.
        (term.core != Core::X).then(|| Term { by_x: true, ..term }.affine(factor, 0.0)).flatten()
    }

    fn plus(self, other: Term) -> Option<Term> {
        let (line, cube) = if self.core == Core::X { (self, other) } else { (other, self) };
        let is_cube = cube.core == Core::Cube && cube.shift == 0.0 && !cube.by_x;
        Some(Term::of(Core::Sum(line.multiple()?, is_cube.then_some(cube.scale)?)))
    }

    fn tanh(self) -> Option<Term> {
        match self.core {
            _ if self.by_x || self.shift != 0.0 => None,
            Core::Sum(a, b) => Some(Term::of(Core::Tanh(a * self.scale, b * self.scale))),
            Core::Softplus if self.scale == 1.0 => Some(Term::of(Core::TanhSoftplus)),
            _ => None,
        }
    }

    /// Returns the operator that computes the term, where its numbers are those of the operator but
    /// for `error` of their size.
    fn operator(self, error: f64) -> Option<Operator> {
        let Term { core, scale: s, shift, by_x } = self;
        let is = |found: f64, wanted: f64| (found - wanted).abs() <= error * wanted.abs().max(1.0);
        let named = |name: &str, version: u32| Operator::new(name, version);
        let with = |mut operator: Operator, name: &str, value: Attribute| {
            operator.attributes.insert(name.into(), value);
            operator
        };
        let float = |value: f64| Attribute::Float(value as f32);
        let root = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
        let halves = is(s, 0.5) && is(shift, 0.5);
        match core {
            Core::Sigmoid(a) if by_x && is(s, 1.0) && shift == 0.0 => Some(with(named("Swish", 24), "alpha", float(a))),
            Core::Clamp(a, b, low, high) if by_x && shift == 0.0 && s > 0.0 => {
                let fits = is(s * a, 1.0 / 6.0) && is(s * b, 0.5) && low == 0.0 && is(s * high, 1.0);
                fits.then(|| named("HardSwish", 14))
            }
            Core::Clamp(a, b, low, high) if !by_x && s > 0.0 => {
                let fits = is(s * low + shift, 0.0) && is(s * high + shift, 1.0);
                let sigmoid = || with(named("HardSigmoid", 6), "alpha", float(s * a));
                fits.then(|| with(sigmoid(), "beta", float(s * b + shift)))
            }
            Core::Erf(a) if by_x && halves && is(a, std::f64::consts::FRAC_1_SQRT_2) => Some(named("Gelu", 20)),
            Core::Tanh(a, b) if by_x && halves && is(a, root) && is(b, 0.044_715 * root) => {
                Some(with(named("Gelu", 20), "approximate", Attribute::String(b"tanh".as_slice().into())))
            }
            Core::TanhSoftplus if by_x && is(s, 1.0) && shift == 0.0 => Some(named("Mish", 18)),
            _ => None,
        }
    }
}

/// A function that several nodes compute.
pub(super) struct Function {
    /// The node with the function's result, and all other nodes.
    pub(super) last: usize,
    pub(super) others: Vec<usize>,
    input: ValueId,
    operator: Operator,
}

/// The search for functions.
struct Search<'a> {
    program: &'a Program,
    consumers: &'a [Vec<NodeId>],
    is_output: Vec<bool>,
    /// The nodes of functions that were found.
    taken: Vec<bool>,
    /// Whether functions of values are looked for whose sizes only a run knows.
    open: bool,
    /// The format of each value of 16 bits.
    halves: &'a dyn Fn(ValueId) -> Option<Half>,
}

impl Search<'_> {
    /// Returns a constant of one element, where it repeats over a value of this shape.
    fn number(&self, id: ValueId, shape: &[usize]) -> Option<f64> {
        let constant = self.program.values()[id.index()].constant.as_ref()?;
        if constant.len() != 1 || constant.rank() > shape.len() {
            return None;
        }
        floats(constant).ok()?.first().copied().map(f64::from).filter(|number| number.is_finite())
    }

    /// Returns what a node computes of the terms.
    fn term(&self, node: &Node, terms: &[(ValueId, Term)], shape: &[usize]) -> Option<Term> {
        let &[Some(first), ref rest @ ..] = node.inputs.as_slice() else { return None };
        let known = |id: ValueId| terms.iter().find(|(of, _)| *of == id).map(|(_, term)| *term);
        let name = &*node.operator.name;
        if let Some(number) = rest.first().copied().flatten().filter(|_| rest.len() == 1)
            && matches!(name, "Add" | "Sub" | "Mul" | "Div" | "Pow")
        {
            return match (known(first), known(number)) {
                (Some(a), Some(b)) => match name {
                    "Mul" => a.times(b),
                    "Add" => a.plus(b),
                    _ => None,
                },
                (Some(term), None) => {
                    let number = self.number(number, shape)?;
                    match name {
                        "Add" => term.affine(1.0, number),
                        "Sub" => term.affine(1.0, -number),
                        "Mul" => term.affine(number, 0.0),
                        "Div" if number != 0.0 => term.affine(1.0 / number, 0.0),
                        "Pow" if number == 3.0 && term == Term::X => Some(Term::of(Core::Cube)),
                        _ => None,
                    }
                }
                (None, Some(term)) => {
                    let number = self.number(first, shape)?;
                    match name {
                        "Add" => term.affine(1.0, number),
                        "Sub" => term.affine(-1.0, number),
                        "Mul" => term.affine(number, 0.0),
                        _ => None,
                    }
                }
                (None, None) => None,
            };
        }
        let term = known(first)?;
        let clamp = |low: f64, high: f64| {
            let (a, b) = term.line()?;
            Some(Term::of(Core::Clamp(a, b, low, high)))
        };
        let attribute = |name: &str, usual: f32| Some(f64::from(node.operator.float(name).ok()?.unwrap_or(usual)));
        match name {
            "Clip" => {
                let limit = |at: usize, name: &str, usual: f64| match rest.get(at).copied().flatten() {
                    Some(id) => self.number(id, shape),
                    None => Some(node.operator.float(name).ok()?.map_or(usual, f64::from)),
                };
                clamp(limit(0, "min", f64::NEG_INFINITY)?, limit(1, "max", f64::INFINITY)?)
            }
            "HardSigmoid" => {
                let ((a, b), alpha) = (term.line()?, attribute("alpha", 0.2)?);
                Some(Term::of(Core::Clamp(alpha * a, alpha * b + attribute("beta", 0.5)?, 0.0, 1.0)))
            }
            "Sigmoid" => Some(Term::of(Core::Sigmoid(term.multiple()?))),
            "Erf" => Some(Term::of(Core::Erf(term.multiple()?))),
            "Softplus" if term == Term::X => Some(Term::of(Core::Softplus)),
            "Tanh" => term.tanh(),
            _ => None,
        }
    }

    /// Returns the longest function of a value.
    fn find(&self, input: ValueId) -> Option<Function> {
        let value = &self.program.values()[input.index()];
        let readers = &self.consumers[input.index()];
        let is = |reader: &NodeId, name: &str| self.program.nodes()[reader.index()].operator.is(name);
        // But for a HardSigmoid, a function is multiplied by the value, or by a multiple of it.
        let begins = match readers.as_slice() {
            [] => false,
            [only] => is(only, "Add") || is(only, "Mul") || is(only, "Div"),
            list => list.len() < 5,
        };
        let fits = |value: &ProgramValue| if self.open { value.late.is_none() } else { !value.is_dynamic() };
        if !begins || value.dtype != DType::F32 || !fits(value) || value.elements() == 0 {
            return None;
        }
        let mut terms = vec![(input, Term::X)];
        let mut members: Vec<usize> = vec![];
        let mut open: BTreeSet<usize> = readers.iter().map(|reader| reader.index()).collect();
        let mut found = None;
        let mut error = 1e-5f64;
        while let Some(node) = open.pop_first() {
            let of = &self.program.nodes()[node];
            let &[Some(output)] = of.outputs.as_slice() else { continue };
            let result = &self.program.values()[output.index()];
            // What is computed of the value and of single numbers has the value's sizes in each
            // run, by whatever extents they are told.
            let usual = of.operator.domain.is_empty() && result.shape == value.shape && fits(result);
            if self.taken[node] || !usual || members.len() == MOST {
                continue;
            }
            let Some(term) = self.term(of, &terms, &value.shape) else { continue };
            if of.uses().any(|id| (self.halves)(id).is_some()) {
                // Numbers of 16 bits are near those that are meant.
                error = 1.0 / 256.0;
            }
            terms.push((output, term));
            members.push(node);
            let inside = |id: &ValueId| {
                let readers = self.consumers[id.index()].iter();
                !self.is_output[id.index()] && readers.clone().all(|reader| members.contains(&reader.index()))
            };
            let all_inside = terms[1..terms.len() - 1].iter().all(|(id, _)| inside(id));
            // The value itself may be read elsewhere too.
            let closed = all_inside && members.len() > 1;
            if let (true, Some(operator)) = (closed, term.operator(error)) {
                let others = members[..members.len() - 1].to_vec();
                found = Some(Function { last: node, others, input, operator });
            }
            open.extend(self.consumers[output.index()].iter().map(|reader| reader.index()));
        }
        found
    }
}

/// Returns the program with one node for each function of several nodes, and these functions, where
/// there are some.
/// `consumers` are the program's.
/// The other nodes of a function stay, with neither inputs nor outputs, so that all have the places
/// that they had.
pub(super) fn gathered(
    program: &Program,
    consumers: &[Vec<NodeId>],
    halves: &dyn Fn(ValueId) -> Option<Half>,
) -> Option<(Program, Vec<Function>)> {
    let (graph, functions) = found(program, consumers, (halves, false))?;
    Some((Program::new(graph, program.extents().to_vec()).ok()?, functions))
}

/// Returns the graph of a program whose sizes only a run knows, with one node for each function of
/// several nodes, and without the other nodes.
/// Functions of numbers of 16 bits stay as they are.
pub(crate) fn gathered_open(program: &Program) -> Option<Graph> {
    let (mut graph, functions) = found(program, &program.consumers(), (&|_| None, true))?;
    let others: HashSet<usize> = functions.iter().flat_map(|function| function.others.iter().copied()).collect();
    let mut place = 0..;
    graph.nodes.retain(|_| place.next().is_some_and(|place| !others.contains(&place)));
    Some(graph)
}

/// Returns the graph of [`gathered`], and the functions.
fn found(
    program: &Program,
    consumers: &[Vec<NodeId>],
    (halves, open): (&dyn Fn(ValueId) -> Option<Half>, bool),
) -> Option<(Graph, Vec<Function>)> {
    let is_output = program.output_mask();
    let taken = vec![false; program.nodes().len()];
    let mut search = Search { program, consumers, is_output, taken, open, halves };
    let mut functions = vec![];
    for id in (0u32..).map(ValueId).take(program.values().len()) {
        if let Some(function) = search.find(id) {
            function.others.iter().chain([&function.last]).for_each(|&node| search.taken[node] = true);
            functions.push(function);
        }
    }
    if functions.is_empty() {
        return None;
    }
    let mut graph = program.to_graph();
    for Function { last, others, input, operator } in &functions {
        for &node in others {
            (graph.nodes[node].inputs, graph.nodes[node].outputs) = (vec![], vec![]);
            graph.nodes[node].operator = Operator::new("Identity", 14);
        }
        graph.nodes[*last].inputs = vec![Some(*input)];
        graph.nodes[*last].operator = operator.clone();
    }
    Some((graph, functions))
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Tensor, TensorType, Value};

    use super::*;
    use crate::lower::lower;
    use crate::simd::Isa;

    /// A node: the operator, and the places of its inputs among the values, where a number stands
    /// for a constant; value 0 is the input, and each node makes the next one.
    type Line<'a> = (&'a str, &'a [Result<usize, f32>]);

    fn program(lines: &[Line<'_>], outputs: &[usize]) -> Program {
        let value = |number: usize| Value {
            name: format!("v{number}").into(),
            ty: TensorType::exact(DType::F32, &[3, 40]),
            constant: None,
        };
        let mut values: Vec<Value> = (0..=lines.len()).map(value).collect();
        let mut nodes = vec![];
        for (number, (name, inputs)) in lines.iter().enumerate() {
            let mut id = |input: &Result<usize, f32>| match *input {
                Ok(value) => Some(ValueId(value as u32)),
                Err(number) => {
                    let name = format!("c{}", values.len()).into();
                    let (ty, constant) = (TensorType::exact(DType::F32, &[]), Some(Tensor::scalar(number)));
                    values.push(Value { name, ty, constant });
                    Some(ValueId(values.len() as u32 - 1))
                }
            };
            let inputs = inputs.iter().map(&mut id).collect();
            let outputs = vec![Some(ValueId(number as u32 + 1))];
            nodes.push(Node { name: format!("n{number}").into(), operator: Operator::new(name, 18), inputs, outputs });
        }
        let outputs = outputs.iter().map(|&value| ValueId(value as u32)).collect();
        let (name, inputs) = ("functions".into(), vec![ValueId(0)]);
        Program::new(Graph { name, values, nodes, inputs, outputs, captures: vec![] }, vec![]).unwrap()
    }

    fn found(lines: &[Line<'_>], outputs: &[usize]) -> Vec<(usize, String)> {
        let program = program(lines, outputs);
        let drafts = lower(&program, None, Isa::widest(), true).unwrap();
        let mut done: Vec<usize> = drafts.iter().flat_map(|draft| draft.nodes.clone()).collect();
        done.sort_unstable();
        assert!(done.into_iter().eq(0..lines.len()), "each node is done once");
        let gathered = gathered(&program, &program.consumers(), &|_| None);
        gathered.map_or(vec![], |(_, list)| list.iter().map(|f| (f.last, f.operator.name.to_string())).collect())
    }

    #[test]
    fn a_function_that_several_nodes_write_is_one_node() {
        let swish: &[Line<'_>] = &[("Sigmoid", &[Ok(0)]), ("Mul", &[Ok(0), Ok(1)])];
        assert_eq!(found(swish, &[2]), [(1, "Swish".to_owned())]);
        let head: [Line<'_>; 2] = [("Add", &[Err(3.0), Ok(0)]), ("Clip", &[Ok(1), Err(0.0), Err(6.0)])];
        let with = |rest: &[Line<'static>]| [&head[..], rest].concat();
        let hard = with(&[("Mul", &[Ok(0), Ok(2)]), ("Div", &[Ok(3), Err(6.0)])]);
        assert_eq!(found(&hard, &[4]), [(3, "HardSwish".to_owned())]);
        let sigmoid = with(&[("Div", &[Ok(2), Err(6.0)]), ("Neg", &[Ok(3)])]);
        assert_eq!(found(&sigmoid, &[4]), [(2, "HardSigmoid".to_owned())]);
        let erf: &[Line<'_>] = &[
            ("Div", &[Ok(0), Err(std::f32::consts::SQRT_2)]),
            ("Erf", &[Ok(1)]),
            ("Add", &[Ok(2), Err(1.0)]),
            ("Mul", &[Ok(0), Ok(3)]),
            ("Mul", &[Ok(4), Err(0.5)]),
        ];
        assert_eq!(found(erf, &[5]), [(4, "Gelu".to_owned())]);
    }

    #[test]
    fn what_is_read_elsewhere_or_is_another_function_stays_as_it_is() {
        let swish: &[Line<'_>] = &[("Sigmoid", &[Ok(0)]), ("Mul", &[Ok(0), Ok(1)])];
        assert_eq!(found(swish, &[1, 2]), []);
        let other: [Line<'_>; 4] = [
            ("Add", &[Ok(0), Err(3.0)]),
            ("Clip", &[Ok(1), Err(0.0), Err(6.0)]),
            ("Mul", &[Ok(0), Ok(2)]),
            ("Div", &[Ok(3), Err(5.0)]),
        ];
        assert_eq!(found(&other, &[4]), []);
        let square: &[Line<'_>] = &[("Mul", &[Ok(0), Ok(0)]), ("Mul", &[Ok(0), Ok(1)])];
        assert_eq!(found(square, &[2]), []);
    }
}
