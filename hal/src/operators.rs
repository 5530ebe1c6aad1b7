//! Definitions: the interface between graphs and a table of what operators mean.
//!
//! A [`Definition`] says how one operator infers the types of its outputs, and how it computes them
//! plainly.
//! The table of the ONNX standard's definitions is the crate `hetero-reference`.
//! An integrator can put another table in front of it for a domain of its own.

use bytes::Bytes;

use crate::allowance::{self, Allowance, Opened, exceeded, take};
use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::{Attribute, Capture, Dim, Graph, Node, Operator, TensorType, ValueId};
use crate::tensor::{Tensor, element_count};

/// A function that infers the types of the outputs of one node.
pub type InferFn = fn(&Inference<'_>) -> Result<Vec<TensorType>>;
/// A function that computes the outputs of one node.
pub type EvaluateFn = fn(&Evaluation<'_>) -> Result<Vec<Tensor>>;
/// A function that counts the floating-point operations of one node from the types of its inputs
/// and outputs; a multiply-add counts as two.
pub type FlopsFn = fn(&Operator, &[Option<TensorType>], &[TensorType]) -> u64;
/// A function that returns the body of one node: a graph of other operators with the same meaning.
/// Its inputs and outputs are the node's, in order; an input that the node leaves out is one that
/// nothing in the body reads.
/// It returns `None` where the facts do not suffice to write the body.
pub type ExpandFn = fn(&Inference<'_>) -> Result<Option<Graph>>;
/// A function that infers the output types of the subgraph under an attribute's name from the types
/// of its inputs.
pub type SubgraphFn<'a> = dyn Fn(&str, &[TensorType]) -> Result<Vec<TensorType>> + 'a;

/// A table that finds what operators mean.
pub trait OperatorSet: Send + Sync {
    /// Returns the definition in force for this operator: the one of its domain and name with the
    /// largest `since` up to its version.
    fn find(&self, operator: &Operator) -> Option<&Definition>;
}

/// The meaning of one operator from one version of its operator set on.
#[derive(Clone, Copy)]
pub struct Definition {
    /// The domain; empty for the standard's own.
    pub domain: &'static str,
    /// The name as the standard writes it.
    pub name: &'static str,
    /// The first version of the operator set that this definition serves.
    /// One definition may serve several versions of the standard where it tells them apart by
    /// [`Operator::version`].
    pub since: u32,
    /// The first version that it no longer serves, for an operator that the standard withdrew.
    pub until: Option<u32>,
    /// The least number of inputs.
    pub min_inputs: usize,
    /// The largest number of inputs; `usize::MAX` for a variadic operator.
    pub max_inputs: usize,
    /// The largest number of outputs; `usize::MAX` for a variadic operator.
    pub max_outputs: usize,
    /// The function that infers the types of the outputs.
    pub infer: InferFn,
    /// The function that computes the outputs.
    pub evaluate: EvaluateFn,
    /// The function that counts the floating-point operations of one run from the types of inputs
    /// and outputs; a multiply-add counts as two.
    pub flops: FlopsFn,
    /// The inputs whose memory the first output may take over: they have the same element type and
    /// size, and each element is read before it is written.
    pub in_place: &'static [usize],
    /// The promise that equal inputs give equal outputs.
    /// It is false for a random generator: such a node is never folded or merged.
    pub deterministic: bool,
    /// The function that returns the operator's body, for an operator that others express.
    /// Binding puts the body in the place of the node, so that devices need no kernel for it.
    pub expand: Option<ExpandFn>,
}

impl Definition {
    /// Returns the definition of an operator of the standard with one output.
    /// The operator is deterministic, never works in place, and counts no floating-point operation.
    #[must_use]
    pub const fn new(
        name: &'static str,
        since: u32,
        inputs: (usize, usize),
        infer: InferFn,
        evaluate: EvaluateFn,
    ) -> Self {
        Definition {
            domain: "",
            name,
            since,
            until: None,
            min_inputs: inputs.0,
            max_inputs: inputs.1,
            max_outputs: 1,
            infer,
            evaluate,
            flops: |_, _, _| 0,
            in_place: &[],
            deterministic: true,
            expand: None,
        }
    }

    /// Returns the same definition in another domain than the standard's.
    #[must_use]
    pub const fn in_domain(mut self, domain: &'static str) -> Self {
        self.domain = domain;
        self
    }

    /// Returns the same definition for an operator that has a body of other operators.
    #[must_use]
    pub const fn expanding(mut self, expand: ExpandFn) -> Self {
        self.expand = Some(expand);
        self
    }

    /// Returns the body of a node, where its operator has one and the facts suffice to write it.
    /// What the body's constants take is taken from the allowance before they are made.
    ///
    /// # Errors
    /// The error of a node that breaks a rule of its operator, and `OutOfMemory`.
    pub fn body(&self, inference: &Inference<'_>, allowance: &Allowance) -> Result<Option<Graph>> {
        let Some(expand) = self.expand else { return Ok(None) };
        allowance.check()?;
        let opened = Opened::new(allowance.clone());
        let body = expand(inference)?;
        drop(opened);
        if let Some(body) = &body
            && body.outputs.len() < inference.outputs
        {
            return Err(Error::unsupported(format!("output {} of {}", body.outputs.len(), inference.operator)));
        }
        Ok(body)
    }

    /// Returns the body of a node that such a definition has, to be inlined: with the node's inputs
    /// as its captures, and without what makes nothing that the node is asked for.
    /// What it takes is taken from `left`.
    ///
    /// # Errors
    /// Those of [`Definition::check_arity`] and [`Definition::body`], and `OutOfMemory`.
    pub fn body_of(&self, node: &Node, inputs: &[Option<InputFact>], left: &mut Allowance) -> Result<Option<Graph>> {
        if self.expand.is_none() {
            return Ok(None);
        }
        self.check_arity(&node.operator, node.inputs.len(), node.outputs.len())?;
        let none = |_: &str, _: &[TensorType]| Err(Error::internal("a body has no subgraph"));
        let inference = Inference { operator: &node.operator, inputs, outputs: node.outputs.len(), subgraph: &none };
        let Some(mut body) = self.body(&inference, left)? else { return Ok(None) };
        body.trim(&node.outputs.iter().map(Option::is_some).collect::<Vec<_>>());
        let constants = body.values.iter().filter_map(|value| value.constant.as_ref());
        let bytes = constants.map(|tensor| tensor.bytes().len()).fold(0, usize::saturating_add);
        *left = left.less(bytes.saturating_add(body.nodes.len().saturating_mul(NODE_BYTES)))?;
        let captures = node.inputs.iter().zip(&body.inputs);
        let capture = |(outer, inner): (&Option<ValueId>, &ValueId)| Some(Capture { outer: (*outer)?, inner: *inner });
        body.captures = captures.filter_map(capture).collect();
        Ok(Some(body))
    }

    /// Returns the contents of a node's outputs, where the contents or types of its inputs decide
    /// them and all are small, as shapes, axes and sizes are; none otherwise.
    ///
    /// # Errors
    /// The error of computing them, unless they can be left to a device.
    pub fn contents(
        &self,
        node: &Node,
        inputs: &[Option<InputFact>],
        types: &[TensorType],
        operators: &dyn OperatorSet,
        allowance: &Allowance,
    ) -> Result<Vec<Tensor>> {
        // No device and no kernel has to mind sizes such as a batch of 0.
        if let Some(empties) = empties(types, node.outputs.len()) {
            return Ok(empties);
        }
        // Shape and Size are the two operators whose value the type of their input decides.
        if node.operator.is("Shape") || node.operator.is("Size") {
            let shape = inputs.first().and_then(Option::as_ref).and_then(|fact| fact.ty.shape());
            return shape.map_or(Ok(vec![]), |shape| shape_content(&node.operator, &shape));
        }
        // Real numbers that are made of quantised ones are no sizes, and a device that computes on
        // quantised ones needs these.
        if node.operator.is("DequantizeLinear") {
            return Ok(vec![]);
        }
        let mut contents = Vec::with_capacity(inputs.len());
        for input in inputs {
            match input {
                None => contents.push(None),
                Some(InputFact { value: Some(value), .. }) if value.len() <= MOST_ELEMENTS => {
                    contents.push(Some(value.clone()));
                }
                Some(_) => return Ok(vec![]),
            }
        }
        self.evaluate_small(node, &contents, types, operators, allowance)
    }

    /// Returns the outputs of a node for these inputs, where they are small; none where the node is
    /// not to be computed before a run.
    ///
    /// # Errors
    /// The error of computing them, unless they can be left to a device.
    pub fn evaluate_small(
        &self,
        node: &Node,
        inputs: &[Option<Tensor>],
        types: &[TensorType],
        operators: &dyn OperatorSet,
        allowance: &Allowance,
    ) -> Result<Vec<Tensor>> {
        let count = |ty: &TensorType| ty.shape().and_then(|shape| element_count(&shape));
        let is_small = |ty: &TensorType| count(ty).is_some_and(|count| count <= MOST_ELEMENTS);
        let small = types.iter().take(node.outputs.len()).all(is_small);
        if !small || !self.deterministic || node.subgraphs().next().is_some() {
            return Ok(vec![]);
        }
        let allowance = Allowance { bytes: allowance.bytes.min(MOST_BYTES), ..allowance.clone() };
        match Evaluation::new(&node.operator, inputs, node.outputs.len(), operators, &allowance).compute() {
            Ok(values) => Ok(values),
            // Shapes do not need it, so a device may compute it in the run.
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::OutOfMemory) => Ok(vec![]),
            Err(error) => Err(error),
        }
    }

    /// Returns the same definition with the given largest number of outputs.
    #[must_use]
    pub const fn outputs(mut self, max_outputs: usize) -> Self {
        self.max_outputs = max_outputs;
        self
    }

    /// Returns the same definition with a count of floating-point operations.
    #[must_use]
    pub const fn counting(mut self, flops: FlopsFn) -> Self {
        self.flops = flops;
        self
    }

    /// Returns the same definition with inputs that the first output may take over.
    #[must_use]
    pub const fn in_place(mut self, inputs: &'static [usize]) -> Self {
        self.in_place = inputs;
        self
    }

    /// Returns the same definition for an operator that gives unequal outputs for equal inputs.
    #[must_use]
    pub const fn random(mut self) -> Self {
        self.deterministic = false;
        self
    }

    /// Returns the same definition for an operator that this version of the operator set withdrew.
    #[must_use]
    pub const fn until(mut self, version: u32) -> Self {
        self.until = Some(version);
        self
    }

    /// Checks the number of inputs and outputs of a node.
    ///
    /// # Errors
    /// `InvalidModel` with the numbers.
    pub fn check_arity(&self, operator: &Operator, inputs: usize, outputs: usize) -> Result<()> {
        if inputs < self.min_inputs || inputs > self.max_inputs {
            return Err(Error::invalid_model(format!("{operator} does not take {inputs} inputs")));
        }
        if outputs > self.max_outputs {
            return Err(Error::invalid_model(format!("{operator} does not have {outputs} outputs")));
        }
        Ok(())
    }
}

/// The most elements of a value that is computed before a run; shapes, axes and sizes are far
/// smaller.
pub const MOST_ELEMENTS: usize = 4096;
/// The most bytes that such a computation takes on its way.
const MOST_BYTES: usize = 1 << 22;
/// The bytes that a node of a body takes until its program is bound, with its values and names.
const NODE_BYTES: usize = 1 << 10;

/// The facts that inference knows of one input.
#[derive(Clone, Debug, Default)]
pub struct InputFact {
    /// The type of the input, as far as it is known.
    pub ty: TensorType,
    /// The content of the input, where it is known before a run.
    pub value: Option<Tensor>,
    /// The most that each element of the input can be, where that is known but not the content;
    /// sizes that depend on data have such bounds.
    pub most: Option<Tensor>,
}

impl InputFact {
    /// Returns the content, or else the most that the elements can be.
    #[must_use]
    pub fn at_most(&self) -> Option<&Tensor> {
        self.value.as_ref().or(self.most.as_ref())
    }
}

/// The facts and functions that a rule of inference may use.
pub struct Inference<'a> {
    /// The operator and its attributes.
    pub operator: &'a Operator,
    /// The facts of the inputs; `None` for an input that is left out.
    pub inputs: &'a [Option<InputFact>],
    /// The number of outputs that the node lists.
    /// A rule returns that many types, or more.
    pub outputs: usize,
    /// A function that infers the output types of a subgraph from the types of its inputs; the
    /// caller knows the captured values.
    pub subgraph: &'a SubgraphFn<'a>,
}

impl Inference<'_> {
    /// Returns the facts of a required input.
    ///
    /// # Errors
    /// `InvalidModel` where the input is left out.
    pub fn input(&self, index: usize) -> Result<&InputFact> {
        self.inputs
            .get(index)
            .and_then(Option::as_ref)
            .ok_or_else(|| Error::invalid_model(format!("{} lacks its input {index}", self.operator)))
    }

    /// Returns the facts of an optional input.
    #[must_use]
    pub fn optional(&self, index: usize) -> Option<&InputFact> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    /// Returns the element type of a required input, where known.
    ///
    /// # Errors
    /// `InvalidModel` where the input is left out.
    pub fn dtype(&self, index: usize) -> Result<Option<DType>> {
        Ok(self.input(index)?.ty.dtype)
    }

    /// Returns the dimensions of a required input, where the rank is known.
    ///
    /// # Errors
    /// `InvalidModel` where the input is left out.
    pub fn dims(&self, index: usize) -> Result<Option<&[Dim]>> {
        Ok(self.input(index)?.ty.dims.as_deref())
    }
}

/// The values and limits that the plain computation of an operator may use.
///
/// The computation asks before it allocates, with [`Evaluation::reserve`] for outputs and [`take`]
/// for all else that grows with a size.
/// It tells of its steps with [`spend`](crate::spend), so that the deadline ends it in the middle.
/// What was taken counts until the evaluation ends.
pub struct Evaluation<'a> {
    /// The operator and its attributes.
    pub operator: &'a Operator,
    /// The inputs; `None` for an input that is left out.
    pub inputs: &'a [Option<Tensor>],
    /// The number of outputs that the node lists.
    /// The computation returns that many tensors, or more.
    pub outputs: usize,
    /// The definitions for the nodes of subgraphs.
    pub operators: &'a dyn OperatorSet,
    /// A function that finds the enclosing graph's values, which a subgraph captures.
    pub outer: &'a dyn Fn(ValueId) -> Option<Tensor>,
    allowance: &'a Allowance,
}

impl<'a> Evaluation<'a> {
    /// Makes an evaluation of an operator outside any graph.
    #[must_use]
    pub fn new(
        operator: &'a Operator,
        inputs: &'a [Option<Tensor>],
        outputs: usize,
        operators: &'a dyn OperatorSet,
        allowance: &'a Allowance,
    ) -> Self {
        Evaluation { operator, inputs, outputs, operators, outer: &|_| None, allowance }
    }

    /// Returns the same evaluation inside a graph whose values this function finds.
    #[must_use]
    pub fn inside(mut self, outer: &'a dyn Fn(ValueId) -> Option<Tensor>) -> Self {
        self.outer = outer;
        self
    }

    /// Computes the outputs by the operator's definition, and checks the promises of the
    /// definition.
    /// Outputs that have no elements are not computed.
    ///
    /// # Errors
    /// `Unsupported` where there is no definition, or fewer outputs than the node lists.
    /// `OutOfMemory` and `Timeout` where the allowance does not suffice.
    /// Other errors are those of the definition.
    pub fn compute(&self) -> Result<Vec<Tensor>> {
        let operator = self.operator;
        let unknown = || Error::unsupported(format!("operator {operator} (opset {})", operator.version));
        let definition = self.operators.find(operator).ok_or_else(unknown)?;
        definition.check_arity(operator, self.inputs.len(), self.outputs)?;
        self.allowance.check()?;
        if let Some(outputs) = self.nothing(definition) {
            return Ok(outputs);
        }
        let opened = Opened::new(self.allowance.clone());
        let outputs = (definition.evaluate)(self)?;
        drop(opened);
        if outputs.len() < self.outputs {
            return Err(Error::unsupported(format!("output {} of {operator}", outputs.len())));
        }
        Ok(outputs)
    }

    /// Returns the outputs where an empty input makes all of them empty.
    /// So no definition has to mind sizes such as a batch of 0 beside others that are huge.
    fn nothing(&self, definition: &Definition) -> Option<Vec<Tensor>> {
        let graphs = self.operator.attributes.values().any(|value| matches!(value, Attribute::Graph(_)));
        if graphs || !self.inputs.iter().flatten().any(Tensor::is_empty) {
            return None;
        }
        let fact = |tensor: &Tensor| InputFact {
            ty: TensorType::exact(tensor.dtype(), tensor.shape()),
            value: Some(tensor.clone()),
            most: None,
        };
        let facts: Vec<_> = self.inputs.iter().map(|input| input.as_ref().map(fact)).collect();
        let none = |_: &str, _: &[TensorType]| Err(Error::internal("an operator without a subgraph asks for one"));
        let inference = Inference { operator: self.operator, inputs: &facts, outputs: self.outputs, subgraph: &none };
        empties(&(definition.infer)(&inference).ok()?, self.outputs)
    }

    /// Returns a required input.
    ///
    /// # Errors
    /// `InvalidModel` where the input is left out.
    pub fn input(&self, index: usize) -> Result<&'a Tensor> {
        self.optional(index).ok_or_else(|| Error::invalid_model(format!("{} lacks its input {index}", self.operator)))
    }

    /// Returns an optional input.
    #[must_use]
    pub fn optional(&self, index: usize) -> Option<&'a Tensor> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    /// Takes the memory of an output, and returns its number of elements.
    ///
    /// # Errors
    /// `OutOfMemory` where the output is larger than what is left of the allowance.
    pub fn reserve(&self, dtype: DType, shape: &[usize]) -> Result<usize> {
        let count = element_count(shape);
        let bytes = count.and_then(|count| dtype.bytes_for(count));
        match (count, bytes) {
            (Some(count), Some(bytes)) if take(bytes, 1).is_ok() => Ok(count),
            _ => {
                // A file may ask for thousands of dimensions, and a message shows the first ones.
                let (shown, rank) = (&shape[..shape.len().min(16)], shape.len());
                let what = format!("{} would make a {dtype} tensor of rank {rank}, shape {shown:?}", self.operator);
                Err(exceeded(bytes.map_or(u64::MAX, |bytes| bytes as u64), self.left().bytes, what))
            }
        }
    }

    /// Returns what is left of the allowance while the definition runs, such as for the nodes of a
    /// subgraph.
    #[must_use]
    pub fn left(&self) -> Allowance {
        allowance::left()
    }
}

/// Returns tensors without elements for the first `count` types, where all these types say that
/// there are none.
#[must_use]
pub fn empties(types: &[TensorType], count: usize) -> Option<Vec<Tensor>> {
    let empty = |ty: &TensorType| {
        let (dtype, shape) = (ty.dtype?, ty.shape()?);
        if element_count(&shape) != Some(0) {
            return None;
        }
        if dtype == DType::String {
            return Tensor::from_strings(&shape, Vec::new()).ok();
        }
        if dtype.is_parts() {
            return Tensor::from_parts(dtype, Vec::new()).ok().filter(|_| shape.len() == 1);
        }
        Tensor::from_bytes(dtype, &shape, Bytes::new()).ok()
    };
    types.get(..count)?.iter().map(empty).collect()
}

/// Returns what `Shape` or `Size` gives of a value of this shape.
///
/// # Errors
/// `InvalidModel` where an attribute has another type.
pub fn shape_content(operator: &Operator, shape: &[usize]) -> Result<Vec<Tensor>> {
    if operator.is("Size") {
        let count = element_count(shape).and_then(|count| i64::try_from(count).ok());
        return Ok(count.map(Tensor::scalar).into_iter().collect());
    }
    let rank = shape.len() as i64;
    let clamp = |position: i64| (if position < 0 { position.saturating_add(rank) } else { position }).clamp(0, rank);
    let start = clamp(operator.int("start")?.unwrap_or(0)) as usize;
    let end = clamp(operator.int("end")?.unwrap_or(rank)) as usize;
    let sizes: Vec<i64> = shape[start..end.max(start)].iter().map(|&size| size as i64).collect();
    Ok(vec![Tensor::from_vec(&[sizes.len()], sizes)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl OperatorSet for Nothing {
        fn find(&self, _: &Operator) -> Option<&Definition> {
            None
        }
    }

    /// An operator set of one operator, whose definition this function computes.
    struct One(Definition);
    impl OperatorSet for One {
        fn find(&self, _: &Operator) -> Option<&Definition> {
            Some(&self.0)
        }
    }

    fn computed(evaluate: EvaluateFn, allowance: &Allowance) -> Result<Vec<Tensor>> {
        let operators = One(Definition::new("Test", 1, (0, 1), |_| Ok(vec![]), evaluate));
        Evaluation::new(&Operator::new("Test", 1), &[], 0, &operators, allowance).compute()
    }

    #[test]
    fn a_deadline_ends_a_computation_between_its_steps() {
        let endless = |_: &Evaluation<'_>| loop {
            crate::spend(1000)?;
        };
        let soon = std::time::Instant::now() + std::time::Duration::from_millis(5);
        let error = computed(endless, &Allowance::new(0).until(soon)).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Timeout);
    }

    #[test]
    fn reservations_stop_at_the_limit_before_allocation() {
        let takes = |evaluation: &Evaluation<'_>| {
            assert_eq!(evaluation.reserve(DType::F32, &[4, 4])?, 16);
            let error = evaluation.reserve(DType::F32, &[1 << 40, 1 << 40]).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::OutOfMemory);
            assert!(evaluation.reserve(DType::F32, &[17]).is_err());
            assert!(take(10, 4).is_err(), "64 of the 100 bytes are taken");
            take(9, 4)?;
            assert_eq!(evaluation.left().bytes, 0);
            Ok(vec![])
        };
        let allowance = Allowance::new(100);
        computed(takes, &allowance).unwrap();
        computed(takes, &allowance).unwrap();
        let operator = Operator::new("Expand", 13);
        let evaluation = Evaluation::new(&operator, &[None], 1, &Nothing, &allowance);
        assert!(evaluation.input(0).unwrap_err().message().contains("Expand lacks its input 0"));
    }
}
