//! Bodies of nodes, bound to the types that a node gives them: what a device compiles of an `If`, a
//! `Loop` or a `Scan`.

use std::borrow::Cow;
use std::sync::Arc;

use foldhash::HashSet;
use hetero_hal::{
    Allowance, Attribute, Dim, Error, ErrorKind, Evaluation, Extent, ExtentId, Graph, OperatorSet, Program, Result,
    Tensor, TensorType, ValueId, element_count,
};

use crate::bind::settle;
use crate::infer::infer_open;

/// What is known of a value that a body reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// The type; dimensions that are [`Dim::Data`] have no extent here.
    pub ty: TensorType,
    /// The content, where it is constant.
    pub constant: Option<Tensor>,
}

/// The origin of an output of a body.
#[derive(Clone, Debug, PartialEq)]
pub enum BodyOutput {
    /// Nobody wants the output.
    Unwanted,
    /// The output is the same for all inputs.
    Constant(Tensor),
    /// The output is the value that the body is given at this position.
    Given(usize),
    /// The program makes the output, as the one at this position.
    Made(usize),
}

/// A body as a program of its own.
#[derive(Clone, Debug)]
pub struct BoundBody {
    /// The program.
    /// Its inputs are those of the given values that its nodes read, and its outputs the values
    /// that its nodes make, each once.
    pub program: Program,
    /// The position among the given values of each input of the program.
    pub inputs: Vec<usize>,
    /// The outputs of the body.
    pub outputs: Vec<BodyOutput>,
}

impl BoundBody {
    /// Binds a body; `given` tells of its inputs, then of the values that it captures.
    /// `wanted` tells of each output whether it is wanted.
    ///
    /// Operators that have bodies of other operators are expanded, branches whose condition is
    /// known are taken, and what shapes or constants decide becomes constant.
    /// What the file claims of the values inside counts for nothing, as they may change between
    /// two runs of a body.
    ///
    /// # Errors
    /// `InvalidModel` where a node breaks a rule of the standard, or a type stays unknown.
    /// `OutOfMemory`, `Timeout` and `Cancelled` where the allowance says so.
    pub fn bind(
        body: &Graph,
        given: &[Given],
        wanted: &[bool],
        operators: &dyn OperatorSet,
        allowance: &Allowance,
    ) -> Result<BoundBody> {
        let ids: Vec<ValueId> =
            body.inputs.iter().copied().chain(body.captures.iter().map(|capture| capture.inner)).collect();
        if ids.len() != given.len() || wanted.len() != body.outputs.len() {
            return Err(Error::invalid_argument(format!(
                "{} values and {} outputs for a body of {} and {}",
                given.len(),
                wanted.len(),
                ids.len(),
                body.outputs.len()
            )));
        }
        let mut graph = body.clone();
        let names = Names::of(body);
        for output in &mut graph.outputs {
            *output = names.origin(*output);
        }
        graph.trim(wanted);
        graph.captures = Vec::new();
        let mut graph = unclaimed(&graph, false).into_owned();
        let mut extents = Vec::new();
        for (id, given) in ids.iter().zip(given) {
            let value = &mut graph.values[id.index()];
            let claimed = std::mem::replace(&mut value.ty, given.ty.clone()).dtype;
            value.ty.dtype = value.ty.dtype.or(claimed);
            for dim in value.ty.dims.iter_mut().flatten() {
                if let Dim::Data { bound, extent } = dim {
                    *extent = Some(ExtentId(extents.len() as u32));
                    extents.push(Extent { bound: *bound });
                }
            }
            value.constant.clone_from(&given.constant);
        }
        let inferred = infer_open(&mut graph, operators, allowance, extents).map_err(Error::from)?;
        settle(&mut graph, inferred.values);
        fold(&mut graph, operators, allowance)?;
        let mut read = vec![false; graph.values.len()];
        graph.nodes.iter().flat_map(|node| node.uses()).for_each(|id| read[id.index()] = true);
        let (mut positions, mut known) = (vec![None; graph.values.len()], vec![None; graph.values.len()]);
        for (position, id) in ids.iter().enumerate().rev() {
            positions[id.index()] = Some(position);
        }
        let mut outputs = Vec::with_capacity(body.outputs.len());
        let mut made: Vec<ValueId> = Vec::new();
        for (id, &wanted) in graph.outputs.iter().zip(wanted) {
            let content = graph.value(*id)?.constant.clone();
            outputs.push(match (content, positions[id.index()], known[id.index()]) {
                _ if !wanted => BodyOutput::Unwanted,
                (Some(content), _, _) => BodyOutput::Constant(content),
                (None, Some(position), _) => BodyOutput::Given(position),
                (None, None, Some(known)) => BodyOutput::Made(known),
                (None, None, None) => {
                    known[id.index()] = Some(made.len());
                    made.push(*id);
                    BodyOutput::Made(made.len() - 1)
                }
            });
        }
        let is_port = |id: &ValueId| read[id.index()] && graph.values[id.index()].constant.is_none();
        let mut inputs = Vec::new();
        graph.inputs = Vec::new();
        for (position, id) in ids.iter().enumerate().filter(|(_, id)| is_port(id)) {
            // A value that is given twice is read where it was given first.
            if positions[id.index()] == Some(position) {
                graph.inputs.push(*id);
                inputs.push(position);
            }
        }
        graph.outputs = made;
        Ok(BoundBody { program: Program::new(graph, inferred.extents)?, inputs, outputs })
    }
}

/// Returns a graph without what its file claims of the sizes of the values that nodes make, inside
/// bodies too.
/// What loops collect keeps its claim, as nothing else tells its sizes where there is no iteration.
///
/// Bodies that claim nothing stay shared: every level of a nest would else have a copy of all
/// levels below it.
fn unclaimed(graph: &Graph, keeps_outputs: bool) -> Cow<'_, Graph> {
    let collected: HashSet<ValueId> = graph.outputs.iter().copied().filter(|_| keeps_outputs).collect();
    let mut made = Cow::Borrowed(graph);
    for (index, node) in graph.nodes.iter().enumerate() {
        for id in node.outputs.iter().flatten().filter(|id| !collected.contains(id)) {
            if graph.values[id.index()].ty.dims.is_some() {
                made.to_mut().values[id.index()].ty.dims = None;
            }
        }
        let keeps_outputs = !node.operator.is("If");
        for (name, attribute) in &node.operator.attributes {
            if let Attribute::Graph(body) = attribute
                && let Cow::Owned(body) = unclaimed(body, keeps_outputs)
            {
                let attributes = &mut made.to_mut().nodes[index].operator.attributes;
                attributes.insert(name.clone(), Attribute::Graph(Arc::new(body)));
            }
        }
    }
    made
}

/// The values of a body that are only other names of values.
struct Names(Vec<Option<ValueId>>);

impl Names {
    fn of(body: &Graph) -> Names {
        let mut names = vec![None; body.values.len()];
        for node in body.nodes.iter().filter(|node| node.operator.is("Identity")) {
            if let ([Some(source)], [Some(name)]) = (&node.inputs[..], &node.outputs[..]) {
                // Nodes come in order, so the source is known by its first name already.
                names[name.index()] = Some(names[source.index()].unwrap_or(*source));
            }
        }
        Names(names)
    }

    /// Returns the value of which a value is another name.
    fn origin(&self, id: ValueId) -> ValueId {
        self.0.get(id.index()).copied().flatten().unwrap_or(id)
    }
}

/// Tells of each value that an iteration reads and passes on unchanged under the same number:
/// `carried` are the positions of such inputs, and the outputs from `first` on belong to them.
#[must_use]
pub fn unchanged(body: &Graph, carried: std::ops::Range<usize>, first: usize) -> Vec<bool> {
    let pairs = body.inputs.get(carried).unwrap_or_default().iter().zip(body.outputs.iter().skip(first));
    let names = Names::of(body);
    pairs.map(|(input, output)| names.origin(*output) == *input).collect()
}

/// The bytes up to which a constant is computed of smaller ones.
const SMALL: usize = 1 << 16;

/// Computes what constants alone decide, such as a transposed weight, where that takes little more
/// memory than they do.
fn fold(graph: &mut Graph, operators: &dyn OperatorSet, allowance: &Allowance) -> Result<()> {
    let nodes = std::mem::take(&mut graph.nodes);
    for node in nodes {
        allowance.check()?;
        let constant = |id: &Option<ValueId>| id.map(|id| graph.values[id.index()].constant.clone());
        let inputs: Vec<Option<Option<Tensor>>> = node.inputs.iter().map(constant).collect();
        let is_constant = !inputs.is_empty() && inputs.iter().all(|input| !matches!(input, Some(None)));
        let bytes = |tensor: &Tensor| tensor.bytes().len();
        let given: usize = inputs.iter().flatten().flatten().map(bytes).sum();
        let made = |id: &ValueId| {
            let ty = &graph.values[id.index()].ty;
            let count = ty.shape().and_then(|shape| element_count(&shape));
            ty.dtype.filter(|dtype| dtype.bits() > 0)?.bytes_for(count?)
        };
        let outputs: Option<Vec<usize>> = node.outputs.iter().flatten().map(made).collect();
        let is_small = outputs.is_some_and(|outputs| outputs.into_iter().sum::<usize>() <= given.max(SMALL));
        let definition = operators.find(&node.operator).filter(|definition| definition.deterministic);
        if !is_constant || !is_small || definition.is_none() || node.subgraphs().next().is_some() {
            graph.nodes.push(node);
            continue;
        }
        let inputs: Vec<Option<Tensor>> = inputs.into_iter().map(Option::flatten).collect();
        match Evaluation::new(&node.operator, &inputs, node.outputs.len(), operators, allowance).compute() {
            Ok(results) => {
                for (id, content) in node.outputs.iter().zip(results) {
                    if let Some(id) = id {
                        let value = &mut graph.values[id.index()];
                        value.ty = TensorType::exact(content.dtype(), content.shape());
                        value.constant = Some(content);
                    }
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Cancelled) => return Err(error),
            // A run says what is wrong, where it reaches the node.
            Err(_) => graph.nodes.push(node),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hetero_hal::{DType, Node, Operator, Value};
    use hetero_reference::Standard;

    use super::*;

    #[test]
    fn outputs_of_a_body_are_constant_or_given_or_made_and_claims_count_for_nothing() {
        let value = |name: &str| Value { name: name.into(), ..Value::default() };
        let node = |name: &str, inputs: &[u32], output: u32| Node {
            name: format!("n{output}").into(),
            operator: Operator::new(name, 17),
            inputs: inputs.iter().map(|&id| Some(ValueId(id))).collect(),
            outputs: vec![Some(ValueId(output))],
        };
        let mut claimed = value("sum");
        claimed.ty = TensorType::exact(DType::F32, &[1, 7]);
        let body = Graph {
            name: "body".into(),
            values: vec![value("x"), value("outer"), claimed, value("shape"), value("unused"), value("idle")],
            nodes: vec![node("Add", &[0, 1], 2), node("Shape", &[0], 3), node("Neg", &[5], 4)],
            inputs: vec![ValueId(0), ValueId(5)],
            outputs: [2, 3, 1, 2, 4].map(ValueId).to_vec(),
            captures: vec![hetero_hal::Capture { outer: ValueId(9), inner: ValueId(1) }],
        };
        let given = |dims: Vec<Dim>| Given { ty: TensorType::new(DType::F32, dims), constant: None };
        let all = [
            given(vec![Dim::Known(2), Dim::Known(3)]),
            given(vec![Dim::Known(4)]),
            given(vec![Dim::Data { bound: 3, extent: None }]),
        ];
        let wanted = [true, true, true, true, false];
        let bound = BoundBody::bind(&body, &all, &wanted, &Standard, &Allowance::default()).unwrap();
        let shape = Tensor::from_vec(&[2], vec![2i64, 3]).unwrap();
        let made = BodyOutput::Made;
        let outputs = [made(0), BodyOutput::Constant(shape), BodyOutput::Given(2), made(0), BodyOutput::Unwanted];
        assert_eq!(bound.outputs, outputs);
        assert_eq!(
            (&bound.inputs[..], bound.program.nodes().len(), bound.program.extents().len()),
            (&[0, 2][..], 1, 1)
        );
        let sum = bound.program.value(bound.program.outputs()[0]).unwrap();
        assert_eq!((&sum.shape[..], sum.is_dynamic()), (&[2, 3][..], false));
        assert!(BoundBody::bind(&body, &all[1..], &wanted, &Standard, &Allowance::default()).is_err());
    }
    #[test]
    fn bodies_inside_are_copied_only_where_they_claim_something() {
        let nested = |claim: TensorType| {
            let made = Value { ty: claim, ..Value::default() };
            let inner = Arc::new(Graph {
                values: vec![Value { name: "x".into(), ..Value::default() }, Value { name: "y".into(), ..made }],
                nodes: vec![Node {
                    name: "inner".into(),
                    operator: Operator::new("Neg", 17),
                    inputs: vec![Some(ValueId(0))],
                    outputs: vec![Some(ValueId(1))],
                }],
                outputs: vec![ValueId(1)],
                captures: vec![hetero_hal::Capture { outer: ValueId(1), inner: ValueId(0) }],
                ..Graph::default()
            });
            let operator = ["then_branch", "else_branch"]
                .iter()
                .fold(Operator::new("If", 17), |operator, name| operator.with(name, Attribute::Graph(inner.clone())));
            let chosen =
                Node { name: "if".into(), operator, inputs: vec![Some(ValueId(0))], outputs: vec![Some(ValueId(2))] };
            let names = ["c", "x", "chosen"];
            let body = Graph {
                values: names.map(|name| Value { name: name.into(), ..Value::default() }).to_vec(),
                nodes: vec![chosen],
                inputs: vec![ValueId(0), ValueId(1)],
                outputs: vec![ValueId(2)],
                ..Graph::default()
            };
            (body, inner)
        };
        let given = |ty: TensorType| Given { ty, constant: None };
        let flag = <hetero_hal::Bool as hetero_hal::Element>::DTYPE;
        let all = [given(TensorType::exact(flag, &[])), given(TensorType::exact(DType::F32, &[2]))];
        for claim in [TensorType::default(), TensorType::exact(DType::F32, &[7])] {
            let (body, inner) = nested(claim.clone());
            let bound = BoundBody::bind(&body, &all, &[true], &Standard, &Allowance::default()).unwrap();
            let shared = bound.program.nodes()[0].subgraphs().filter(|graph| Arc::ptr_eq(graph, &inner)).count();
            assert_eq!(shared, if claim.dims.is_some() { 0 } else { 2 });
            assert_eq!(bound.program.value(bound.program.outputs()[0]).unwrap().shape, [2]);
        }
    }
}
