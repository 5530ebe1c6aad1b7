//! Passes: each takes standard ONNX and makes standard ONNX of it.
//! Each pass is one file.

pub(crate) mod batch;
mod build;
mod common;
mod dead;
mod fold;
pub(crate) mod tile;

use hetero_hal::{Allowance, Graph, OperatorSet, Program, Result};

/// A rewrite of a program that keeps what it computes.
pub trait Pass: Send + Sync {
    /// Returns a short name, for traces.
    fn name(&self) -> &str;

    /// Rewrites the graph in place.
    /// Types are known, and stay known.
    ///
    /// # Errors
    /// An error where the graph contradicts itself, or an evaluation fails.
    fn run(&self, graph: &mut Graph, context: &PassContext<'_>) -> Result<()>;
}

/// The means that passes may use.
pub struct PassContext<'a> {
    /// The definitions of operators.
    pub operators: &'a dyn OperatorSet,
    /// The bytes that new constants may take in all, and the time that passes may take.
    pub allowance: &'a Allowance,
}

/// Returns the passes that every program goes through, in order.
#[must_use]
pub fn standard() -> Vec<Box<dyn Pass>> {
    vec![Box::new(fold::ConstantFolding), Box::new(common::CommonSubexpressions), Box::new(dead::DeadCode)]
}

/// Runs passes over a program.
///
/// # Errors
/// What the first failing pass says.
pub fn run(program: Program, passes: &[Box<dyn Pass>], context: &PassContext<'_>) -> Result<Program> {
    let extents = program.extents().to_vec();
    let mut graph = program.into_graph();
    for pass in passes {
        context.allowance.check()?;
        let before = graph.nodes.len();
        pass.run(&mut graph, context)?;
        tracing::debug!(pass = pass.name(), before, after = graph.nodes.len(), "pass");
    }
    Program::new(graph, extents)
}

#[cfg(test)]
pub(crate) mod tests {
    use hetero_hal::{DType, Node, Operator, Tensor, TensorType, Value, ValueId};
    use hetero_reference::Standard;

    use super::*;

    /// Builds graphs for tests: values by name, nodes in order.
    #[derive(Default)]
    pub(crate) struct Builder(pub(crate) Graph);

    impl Builder {
        pub(crate) fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
            let id = self.value(name, shape, None);
            self.0.inputs.push(id);
            id
        }

        pub(crate) fn constant(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> ValueId {
            self.value(name, shape, Some(Tensor::from_vec(shape, values).unwrap()))
        }

        fn value(&mut self, name: &str, shape: &[usize], constant: Option<Tensor>) -> ValueId {
            let id = ValueId(self.0.values.len() as u32);
            let ty = TensorType::exact(DType::F32, shape);
            self.0.values.push(Value { name: name.into(), ty, constant });
            id
        }

        pub(crate) fn node(&mut self, name: &str, operator: Operator, inputs: &[ValueId], shape: &[usize]) -> ValueId {
            let output = self.value(name, shape, None);
            self.0.nodes.push(Node {
                name: format!("{name}_node").into(),
                operator,
                inputs: inputs.iter().copied().map(Some).collect(),
                outputs: vec![Some(output)],
            });
            output
        }

        pub(crate) fn program(mut self, outputs: &[ValueId]) -> Program {
            self.0.outputs = outputs.to_vec();
            Program::new(self.0, vec![]).unwrap()
        }
    }

    /// Runs the standard passes and checks that the oracle gives the same before and after.
    pub(crate) fn rewritten(program: &Program) -> Program {
        let context = PassContext { operators: &Standard, allowance: &Allowance::new(1 << 20) };
        let after = run(program.clone(), &standard(), &context).unwrap();
        let inputs: Vec<Tensor> = program
            .inputs()
            .iter()
            .map(|id| {
                let value = program.value(*id).unwrap();
                let values = (0..value.elements()).map(|i| (i as f32 * 0.7).sin()).collect();
                Tensor::from_vec(&value.shape, values).unwrap()
            })
            .collect();
        let run =
            |program: &Program| hetero_reference::run(program, &inputs, &Standard, &Allowance::new(1 << 20)).unwrap();
        for (a, b) in run(program).iter().zip(run(&after)) {
            for (a, b) in a.view::<f32>().unwrap().iter().zip(b.view::<f32>().unwrap().iter()) {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} became {b}");
            }
        }
        after
    }
}
