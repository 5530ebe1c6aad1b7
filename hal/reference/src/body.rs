//! Bodies: graphs of other operators that have the meaning of one node, as functions of the
//! standard have.
//!
//! A definition with a body computes and infers by it, so its meaning is written once.

use hetero_hal::{
    Allowance, Attribute, DType, Error, Evaluation, Graph, Inference, InputFact, Node, Operator, OperatorSet, Result,
    Tensor, TensorType, Value, ValueId, element_count, take,
};

use crate::Standard;
use crate::numbers::{limits, pack};

/// The version of the standard's operator set of which the nodes of bodies are.
pub(crate) const OPSET: u32 = 23;

/// A body in the making.
pub(crate) struct Body {
    graph: Graph,
}

impl Body {
    /// Starts the body of a node.
    pub(crate) fn of(inference: &Inference<'_>) -> Self {
        let mut body = Body { graph: Graph { name: "body".into(), ..Graph::default() } };
        for _ in inference.inputs {
            let id = body.value(Value::default());
            body.graph.inputs.push(id);
        }
        body
    }

    /// Returns the value of the node's input.
    pub(crate) fn input(&self, index: usize) -> ValueId {
        ValueId(index as u32)
    }

    fn value(&mut self, value: Value) -> ValueId {
        let id = ValueId(self.graph.values.len() as u32);
        self.graph.values.push(Value { name: format!("v{}", id.0).into(), ..value });
        id
    }

    /// Adds a constant.
    pub(crate) fn constant(&mut self, content: Tensor) -> ValueId {
        let ty = TensorType::exact(content.dtype(), content.shape());
        self.value(Value { ty, constant: Some(content), ..Value::default() })
    }

    /// Adds a constant of one number.
    pub(crate) fn number(&mut self, value: f64, dtype: DType) -> Result<ValueId> {
        Ok(self.constant(pack(vec![value], dtype, &[])?))
    }

    /// Adds a constant list of whole numbers.
    pub(crate) fn list(&mut self, values: &[i64]) -> Result<ValueId> {
        Ok(self.constant(Tensor::from_vec(&[values.len()], values.to_vec())?))
    }

    /// Adds a constant of zeros, whose memory is taken first.
    pub(crate) fn zeros(&mut self, dtype: DType, shape: &[usize]) -> Result<ValueId> {
        let count = element_count(shape).unwrap_or(usize::MAX);
        take(count, 2 * size_of::<f64>())?;
        Ok(self.constant(pack(vec![0.0; count], dtype, shape)?))
    }

    /// Adds a constant of whole numbers, one for each position, whose memory is taken first.
    pub(crate) fn whole(&mut self, shape: &[usize], at: impl Fn(usize) -> i64) -> Result<ValueId> {
        let count = element_count(shape).unwrap_or(usize::MAX);
        take(count, size_of::<i64>())?;
        Ok(self.constant(Tensor::from_vec(shape, (0..count).map(at).collect())?))
    }

    /// Adds a node, and returns its outputs.
    pub(crate) fn node(&mut self, operator: Operator, inputs: &[Option<ValueId>], outputs: usize) -> Vec<ValueId> {
        let outputs: Vec<ValueId> = (0..outputs).map(|_| self.value(Value::default())).collect();
        self.graph.nodes.push(Node {
            name: format!("{}_{}", operator.name, self.graph.nodes.len()).into(),
            operator,
            inputs: inputs.to_vec(),
            outputs: outputs.iter().copied().map(Some).collect(),
        });
        outputs
    }

    /// Adds a node with one output.
    pub(crate) fn apply(&mut self, operator: Operator, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.apply_some(operator, &inputs)
    }

    /// Adds a node with one output, whose inputs may be left out.
    pub(crate) fn apply_some(&mut self, operator: Operator, inputs: &[Option<ValueId>]) -> ValueId {
        // One output was asked for, so there is one.
        self.node(operator, inputs, 1).first().copied().unwrap_or(ValueId(0))
    }

    /// Adds a node of the standard without attributes.
    pub(crate) fn op(&mut self, name: &str, inputs: &[ValueId]) -> ValueId {
        self.apply(Operator::new(name, OPSET), inputs)
    }

    pub(crate) fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op("Add", &[a, b])
    }

    pub(crate) fn sub(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op("Sub", &[a, b])
    }

    pub(crate) fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op("Mul", &[a, b])
    }

    pub(crate) fn div(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op("Div", &[a, b])
    }

    pub(crate) fn cast(&mut self, x: ValueId, dtype: DType) -> ValueId {
        let to = Attribute::Int(i64::from(dtype.onnx_code()));
        self.apply(Operator::new("Cast", OPSET).with("to", to), &[x])
    }

    pub(crate) fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        let sizes: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
        let sizes = self.list(&sizes)?;
        Ok(self.op("Reshape", &[x, sizes]))
    }

    pub(crate) fn transpose(&mut self, x: ValueId, perm: &[usize]) -> ValueId {
        let perm = Attribute::Ints(perm.iter().map(|&axis| axis as i64).collect());
        self.apply(Operator::new("Transpose", OPSET).with("perm", perm), &[x])
    }

    pub(crate) fn concat(&mut self, parts: &[ValueId], axis: i64) -> ValueId {
        self.apply(Operator::new("Concat", OPSET).with("axis", Attribute::Int(axis)), parts)
    }

    pub(crate) fn gather(&mut self, x: ValueId, indices: ValueId, axis: i64) -> ValueId {
        self.apply(Operator::new("Gather", OPSET).with("axis", Attribute::Int(axis)), &[x, indices])
    }

    /// Takes the part of a value along an axis.
    pub(crate) fn slice(&mut self, x: ValueId, axis: usize, (from, to): (usize, usize)) -> Result<ValueId> {
        let (from, to) = (self.list(&[from as i64])?, self.list(&[to as i64])?);
        let axis = self.list(&[axis as i64])?;
        Ok(self.op("Slice", &[x, from, to, axis]))
    }

    /// Cuts a value into parts of these sizes along an axis.
    pub(crate) fn split(&mut self, x: ValueId, axis: i64, sizes: &[usize]) -> Result<Vec<ValueId>> {
        let lengths: Vec<i64> = sizes.iter().map(|&size| size as i64).collect();
        let lengths = self.list(&lengths)?;
        let operator = Operator::new("Split", OPSET).with("axis", Attribute::Int(axis));
        Ok(self.node(operator, &[Some(x), Some(lengths)], sizes.len()))
    }

    /// Returns integers as real numbers: less their zero point, times their scale.
    /// The scale and the zero point broadcast to `x`.
    pub(crate) fn real(&mut self, x: ValueId, scale: ValueId, zero: Option<ValueId>) -> ValueId {
        let mut real = self.cast(x, DType::F32);
        if let Some(zero) = zero {
            let zero = self.cast(zero, DType::F32);
            real = self.sub(real, zero);
        }
        self.mul(real, scale)
    }

    /// Returns real numbers as integers: over their scale, rounded, and moved to their zero point.
    pub(crate) fn quantised(
        &mut self,
        x: ValueId,
        scale: ValueId,
        zero: Option<ValueId>,
        dtype: DType,
    ) -> Result<ValueId> {
        let ratio = self.div(x, scale);
        let mut whole = self.op("Round", &[ratio]);
        if let Some(zero) = zero {
            let zero = self.cast(zero, DType::F32);
            whole = self.add(whole, zero);
        }
        let (low, high) = limits(dtype);
        let (low, high) = (self.number(low as f64, DType::F32)?, self.number(high as f64, DType::F32)?);
        let whole = self.op("Clip", &[whole, low, high]);
        Ok(self.cast(whole, dtype))
    }

    /// Ends the body with its outputs.
    pub(crate) fn done(mut self, outputs: &[ValueId]) -> Result<Option<Graph>> {
        self.graph.outputs = outputs.to_vec();
        Ok(Some(self.graph))
    }
}

/// Returns the shape of an input that the node needs, where it is known.
pub(crate) fn shape(inference: &Inference<'_>, index: usize) -> Result<Option<Vec<usize>>> {
    Ok(inference.input(index)?.ty.shape())
}

/// Tells whether the types of all inputs are known.
pub(crate) fn known(inference: &Inference<'_>) -> bool {
    inference.inputs.iter().flatten().all(|fact| fact.ty.dtype.is_some() && fact.ty.shape().is_some())
}

/// Tells whether the node has an input.
pub(crate) fn has(inference: &Inference<'_>, index: usize) -> bool {
    inference.optional(index).is_some()
}

/// Returns the error of inputs that do not fit each other.
pub(crate) fn misfit(operator: &Operator, what: impl std::fmt::Display) -> Error {
    Error::invalid_model(format!("{operator}: {what}"))
}

/// Infers the types of the outputs of a node by its body.
pub(crate) fn infer_by_body(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let definition = Standard.find(inference.operator);
    let body = definition.map(|definition| definition.body(inference, &Allowance::default())).transpose()?.flatten();
    let Some(body) = body else {
        let first = TensorType { dtype: inference.dtype(0)?, dims: None };
        let mut types = vec![first];
        types.resize(inference.outputs.max(1), TensorType::default());
        return Ok(types);
    };
    let known = |value: &Value| InputFact { ty: value.ty.clone(), value: value.constant.clone(), most: None };
    let mut facts: Vec<InputFact> = body.values.iter().map(known).collect();
    for (id, fact) in body.inputs.iter().zip(inference.inputs) {
        facts[id.index()] = fact.clone().unwrap_or_default();
    }
    for node in &body.nodes {
        let Some(definition) = Standard.find(&node.operator) else { continue };
        let inputs: Vec<Option<InputFact>> =
            node.inputs.iter().map(|id| id.map(|id| facts[id.index()].clone())).collect();
        let context = Inference {
            operator: &node.operator,
            inputs: &inputs,
            outputs: node.outputs.len(),
            subgraph: inference.subgraph,
        };
        let within = |error: Error| error.at(inference.operator.to_string());
        for (id, ty) in node.outputs.iter().zip((definition.infer)(&context).map_err(within)?) {
            if let Some(id) = id {
                facts[id.index()].ty = ty;
            }
        }
    }
    Ok(body.outputs.iter().map(|id| facts[id.index()].ty.clone()).collect())
}

/// Computes a node by its body.
pub(crate) fn evaluate_by_body(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let known = |tensor: &Tensor| InputFact {
        ty: TensorType::exact(tensor.dtype(), tensor.shape()),
        value: Some(tensor.clone()),
        most: None,
    };
    let facts: Vec<Option<InputFact>> = evaluation.inputs.iter().map(|input| input.as_ref().map(known)).collect();
    let none = |_: &str, _: &[TensorType]| Err(Error::internal("a body has no subgraph"));
    let inference = Inference { operator, inputs: &facts, outputs: evaluation.outputs, subgraph: &none };
    let left = evaluation.left();
    let definition = Standard.find(operator);
    let body = definition.map(|definition| definition.body(&inference, &left)).transpose()?.flatten();
    let mut body = body.ok_or_else(|| Error::unsupported(format!("{operator} with these inputs and attributes")))?;
    let given: Vec<(ValueId, Tensor)> =
        body.inputs.iter().zip(evaluation.inputs).filter_map(|(id, input)| Some((*id, input.clone()?))).collect();
    body.inputs = given.iter().map(|(id, _)| *id).collect();
    let inputs: Vec<Tensor> = given.into_iter().map(|(_, tensor)| tensor).collect();
    crate::control::interpret(&body, &inputs, evaluation.operators, &|_| None, &left)
}
