//! The programs that a device is examined with: small, of odd sizes, each with a known answer.

use half::f16;
use hetero_hal::{
    Allowance, Attribute, DType, Error, Graph, Node, Operator, Program, Result, Tensor, TensorType, Value, ValueId,
};
use hetero_reference::Standard;

/// The version of the operator set that the questions are of.
const OPSET: u32 = 13;

/// A program with inputs for it.
pub(crate) struct Question {
    /// The name for people, such as `Conv 3×3`.
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    pub(crate) inputs: Vec<Tensor>,
}

impl Question {
    /// Returns what the oracle computes, an output after the other.
    ///
    /// # Errors
    /// The oracle's errors.
    pub(crate) fn answer(&self) -> Result<Vec<Tensor>> {
        let mut values: Vec<Option<Tensor>> =
            self.program.values().iter().map(|value| value.constant.clone()).collect();
        for (id, tensor) in self.program.inputs().iter().zip(&self.inputs) {
            put(&mut values, *id, tensor.clone());
        }
        for node in self.program.nodes() {
            let of = |id: &Option<ValueId>| id.and_then(|id| values.get(id.index()).cloned().flatten());
            let inputs: Vec<Option<Tensor>> = node.inputs.iter().map(of).collect();
            let outputs = hetero_reference::evaluate(&node.operator, &inputs, node.outputs.len())?;
            for (id, tensor) in node.outputs.iter().zip(outputs) {
                id.iter().for_each(|id| put(&mut values, *id, tensor.clone()));
            }
        }
        let computed = |id: &ValueId| values.get(id.index()).cloned().flatten();
        let missing = || Error::internal(format!("the oracle leaves out an output of '{}'", self.name));
        self.program.outputs().iter().map(|id| computed(id).ok_or_else(missing)).collect()
    }
}

fn put(values: &mut [Option<Tensor>], id: ValueId, tensor: Tensor) {
    if let Some(place) = values.get_mut(id.index()) {
        *place = Some(tensor);
    }
}

/// A question under construction.
struct Draft {
    graph: Graph,
    inputs: Vec<Tensor>,
    /// The state of the pseudo-random numbers (SplitMix64).
    state: u64,
}

impl Draft {
    fn new(name: &str) -> Draft {
        // Each question has numbers of its own, the same in every process.
        let state = name.bytes().fold(1u64, |state, byte| state.wrapping_mul(31).wrapping_add(u64::from(byte)));
        Draft { graph: Graph { name: name.into(), ..Graph::default() }, inputs: Vec::new(), state }
    }

    fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns pseudo-random numbers of a type: floats between -1 and 1, integers from -50 to 50.
    fn numbers(&mut self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let count = shape.iter().product();
        let floats: Vec<f32> = (0..count).map(|_| (self.number() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect();
        let whole = floats.iter().map(|x| (x * 50.0) as i32);
        match dtype {
            DType::F16 => Tensor::from_vec(shape, floats.iter().copied().map(f16::from_f32).collect()),
            DType::I32 => Tensor::from_vec(shape, whole.collect()),
            DType::I64 => Tensor::from_vec(shape, whole.map(i64::from).collect()),
            _ => Tensor::from_vec(shape, floats),
        }
    }

    fn value(&mut self, ty: TensorType, constant: Option<Tensor>) -> ValueId {
        let id = ValueId(self.graph.values.len() as u32);
        self.graph.values.push(Value { name: format!("v{}", id.0).into(), ty, constant });
        id
    }

    fn input(&mut self, tensor: Tensor) -> ValueId {
        let id = self.value(TensorType::exact(tensor.dtype(), tensor.shape()), None);
        self.graph.inputs.push(id);
        self.inputs.push(tensor);
        id
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.value(TensorType::exact(tensor.dtype(), tensor.shape()), Some(tensor))
    }

    fn weights(&mut self, shape: &[usize]) -> Result<ValueId> {
        let tensor = self.numbers(F32, shape)?;
        Ok(self.constant(tensor))
    }

    fn node(&mut self, operator: Operator, inputs: &[ValueId]) -> ValueId {
        let output = self.value(TensorType::default(), None);
        let inputs = inputs.iter().copied().map(Some).collect();
        let name = format!("n{}", self.graph.nodes.len()).into();
        self.graph.nodes.push(Node { name, operator, inputs, outputs: vec![Some(output)] });
        output
    }

    fn finish(mut self, name: &'static str, output: ValueId) -> Result<Question> {
        self.graph.outputs.push(output);
        let inferred = hetero_onnx::infer(&mut self.graph, &Standard, &Allowance::default()).map_err(|error| {
            Error::internal(format!("the question '{name}' breaks a rule of the standard: {error}"))
        })?;
        Ok(Question { name, program: Program::new(self.graph, inferred.extents)?, inputs: self.inputs })
    }
}

fn operator(name: &str) -> Operator {
    Operator::new(name, OPSET)
}

fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

/// One operator on inputs of these types and shapes, of which those from `constants` on are
/// constants.
struct Single {
    name: &'static str,
    operator: Operator,
    inputs: &'static [(DType, &'static [usize])],
    constants: usize,
}

impl Single {
    fn question(self) -> Result<Question> {
        let mut draft = Draft::new(self.name);
        let mut inputs = Vec::new();
        for (position, (dtype, shape)) in self.inputs.iter().enumerate() {
            let tensor = draft.numbers(*dtype, shape)?;
            inputs.push(if position < self.constants { draft.input(tensor) } else { draft.constant(tensor) });
        }
        let output = draft.node(self.operator, &inputs);
        draft.finish(self.name, output)
    }
}

const F32: DType = DType::F32;
const F16: DType = DType::F16;
const I32: DType = DType::I32;

fn singles() -> Vec<Single> {
    let all = usize::MAX;
    let same = || ints(&[1, 1, 1, 1]);
    let single = |name, operator, inputs, constants| Single { name, operator, inputs, constants };
    vec![
        single("Relu", operator("Relu"), &[(F32, &[5, 77])], all),
        single("Add with broadcasting", operator("Add"), &[(F32, &[3, 1, 37]), (F32, &[5, 37])], all),
        single("Sigmoid", operator("Sigmoid"), &[(F32, &[3, 113])], all),
        single("Transpose", operator("Transpose").with("perm", ints(&[2, 0, 3, 1])), &[(F32, &[3, 5, 7, 4])], all),
        single(
            "Conv 3×3",
            operator("Conv").with("pads", same()),
            &[(F32, &[1, 5, 11, 13]), (F32, &[19, 5, 3, 3]), (F32, &[19])],
            1,
        ),
        single(
            "Conv 3×3 by channel",
            operator("Conv").with("group", Attribute::Int(7)).with("strides", ints(&[2, 2])).with("pads", same()),
            &[(F32, &[2, 7, 11, 9]), (F32, &[7, 1, 3, 3])],
            1,
        ),
        single("MatMul", operator("MatMul"), &[(F32, &[3, 17, 29]), (F32, &[3, 29, 23])], all),
        single(
            "Gemm",
            operator("Gemm").with("transB", Attribute::Int(1)),
            &[(F32, &[13, 65]), (F32, &[33, 65]), (F32, &[33])],
            1,
        ),
        single(
            "MaxPool 3×3",
            operator("MaxPool").with("kernel_shape", ints(&[3, 3])).with("strides", ints(&[2, 2])),
            &[(F32, &[1, 6, 11, 13])],
            all,
        ),
        single(
            "ReduceMean",
            operator("ReduceMean").with("axes", ints(&[-1])).with("keepdims", Attribute::Int(1)),
            &[(F32, &[4, 9, 131])],
            all,
        ),
        single("Softmax", operator("Softmax").with("axis", Attribute::Int(-1)), &[(F32, &[6, 101])], all),
        single("Mul of i32", operator("Mul"), &[(I32, &[7, 41]), (I32, &[7, 41])], all),
        single("Add of i64", operator("Add"), &[(DType::I64, &[3, 19]), (DType::I64, &[19])], all),
        single("Add of f16", operator("Add"), &[(F16, &[5, 33]), (F16, &[5, 33])], all),
        single(
            "Conv 3×3 of f16",
            operator("Conv").with("pads", same()),
            &[(F16, &[1, 3, 7, 9]), (F16, &[9, 3, 3, 3]), (F16, &[9])],
            1,
        ),
    ]
}

/// A small network, because devices do several nodes at once.
fn network() -> Result<Question> {
    let name = "network of Conv, Relu, MaxPool, Gemm and Softmax";
    let mut draft = Draft::new(name);
    let image = draft.numbers(F32, &[2, 3, 12, 10])?;
    let x = draft.input(image);
    let w = draft.weights(&[8, 3, 3, 3])?;
    let b = draft.weights(&[8])?;
    let conv = draft.node(operator("Conv").with("pads", ints(&[1, 1, 1, 1])), &[x, w, b]);
    let relu = draft.node(operator("Relu"), &[conv]);
    let pool = operator("MaxPool").with("kernel_shape", ints(&[2, 2])).with("strides", ints(&[2, 2]));
    let pooled = draft.node(pool, &[relu]);
    let flat = draft.node(operator("Flatten"), &[pooled]);
    let w = draft.weights(&[240, 11])?;
    let logits = draft.node(operator("Gemm"), &[flat, w]);
    let output = draft.node(operator("Softmax").with("axis", Attribute::Int(-1)), &[logits]);
    draft.finish(name, output)
}

/// Returns all questions, the simplest first.
///
/// # Errors
/// `Internal` where a question is no program, which is a bug.
pub(crate) fn all() -> Result<Vec<Question>> {
    let mut all = singles().into_iter().map(Single::question).collect::<Result<Vec<_>>>()?;
    all.push(network()?);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_question_has_a_name_of_its_own_and_an_answer_that_says_something() {
        let all = all().unwrap();
        let names: HashSet<&str> = all.iter().map(|question| question.name).collect();
        assert_eq!(names.len(), all.len());
        for question in &all {
            let answers = question.answer().unwrap();
            for answer in &answers {
                // An answer of one value only would be given by accident.
                let width = answer.dtype().bytes_for(1).unwrap();
                let different: HashSet<&[u8]> = answer.bytes().chunks(width).collect();
                assert!(different.len() > 10, "{}", question.name);
            }
        }
    }
}
