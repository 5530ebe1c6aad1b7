//! Small programs that are held to the oracle as wholes: chains whose values in between are rounded
//! to narrower types, which a device that fuses nodes must not leave out, and nodes that pick by
//! indexes outside of a dimension, which have to fail.

use std::time::Instant;

use hetero_hal::{
    Allowance, Attribute, CompileOptions, DType, Device, ErrorKind, Graph, Node, NodeId, Operator, Program, Result,
    Source, Tensor, TensorType, Value, ValueId,
};
use hetero_reference::Standard;

use crate::kinds::kinds_differ;
use crate::types::OPSET;
use crate::{Case, DEADLINE, Outcome, program, run_executable};

/// A small program, with inputs and what has to come of it.
#[derive(Clone, Debug)]
pub struct ProgramCase {
    name: String,
    program: Program,
    inputs: Vec<Tensor>,
    /// Inputs of a run that has to fail, before the one with `inputs`.
    failing: Option<Vec<Tensor>>,
}

impl ProgramCase {
    /// Returns the name: the operators in their order, then what is special about the program.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Makes all small programs.
///
/// # Errors
/// An error where a program cannot be made.
pub fn program_cases() -> Result<Vec<ProgramCase>> {
    let mut cases = roundings()?;
    cases.extend(indexes()?);
    Ok(cases)
}

/// Makes chains of `Cast` and other nodes.
fn roundings() -> Result<Vec<ProgramCase>> {
    // No number of them is one of 8 or 11 bits, and the sums of their products are exact in `f32`.
    let numbers = (0..64).map(|at| ((at * 37) % 61 - 30) as f32 / 8.0 + 0.0625).collect();
    let x = Tensor::from_vec::<f32>(&[8, 8], numbers)?;
    let fine = (0..64).map(|at| ((at * 7919) % 4001 - 2000) as f32 * 1.234_567e-3 + 1e-4).collect();
    let fine = Tensor::from_vec::<f32>(&[8, 8], fine)?;
    let chains: [(&[&str], &Tensor); 10] = [
        (&["bfloat16", "float"], &fine),
        (&["float16", "float"], &fine),
        (&["float16", "bfloat16", "float"], &fine),
        (&["Neg", "bfloat16", "Neg", "float", "Abs"], &fine),
        (&["float16", "Square", "float"], &fine),
        (&["bfloat16", "Square", "float"], &fine),
        (&["bfloat16", "Square", "int32"], &fine),
        (&["MatMul", "bfloat16", "float"], &x),
        (&["MatMul", "float16", "float"], &x),
        (&["int8", "Square", "int32", "float"], &x),
    ];
    chains.into_iter().map(|(names, x)| chain(names, x)).collect()
}

/// Makes a chain: a type is a `Cast` to it, and `Square` and `MatMul` multiply a value by itself.
fn chain(names: &[&str], x: &Tensor) -> Result<ProgramCase> {
    let mut graph = Graph { name: "chain".into(), ..Graph::default() };
    let ty = TensorType::exact(x.dtype(), x.shape());
    graph.values.push(Value { name: "x".into(), ty, constant: None });
    graph.inputs.push(ValueId(0));
    for (number, name) in names.iter().enumerate() {
        let (from, to) = (ValueId(number as u32), ValueId(number as u32 + 1));
        let cast = |to: DType| Operator::new("Cast", OPSET).with("to", Attribute::Int(i64::from(to.onnx_code())));
        let (operator, twice) = match *name {
            "float" => (cast(DType::F32), false),
            "float16" => (cast(DType::F16), false),
            "bfloat16" => (cast(DType::BF16), false),
            "int8" => (cast(DType::I8), false),
            "int32" => (cast(DType::I32), false),
            "Square" => (Operator::new("Mul", OPSET), true),
            name => (Operator::new(name, OPSET), name == "MatMul"),
        };
        let inputs = if twice { vec![Some(from), Some(from)] } else { vec![Some(from)] };
        graph.values.push(Value { name: format!("v{number}").into(), ..Value::default() });
        graph.nodes.push(Node { name: format!("n{number}").into(), operator, inputs, outputs: vec![Some(to)] });
    }
    graph.outputs.push(ValueId(names.len() as u32));
    let inferred = hetero_onnx::infer(&mut graph, &Standard, &Allowance::default())?;
    let program = Program::new(graph, inferred.extents)?;
    Ok(ProgramCase { name: format!("chain {}", names.join(" ")), program, inputs: vec![x.clone()], failing: None })
}

/// Makes nodes with indexes that a run of a program finds outside of their dimension.
fn indexes() -> Result<Vec<ProgramCase>> {
    let mut cases = Vec::new();
    let x = Tensor::from_vec::<f32>(&[3, 4], (0..12).map(|at| at as f32).collect())?;
    // What lies outside of three rows, one of which 32 bits would take for a row.
    for (outside, of) in
        [(3, DType::I64), (-4, DType::I64), (4_294_967_297, DType::I64), (3, DType::I32), (-4, DType::I32)]
    {
        let list = |values: &[i64], shape: &[usize]| -> Result<Tensor> {
            match of {
                DType::I32 => Tensor::from_vec(shape, values.iter().map(|&value| value as i32).collect()),
                _ => Tensor::from_vec(shape, values.to_vec()),
            }
        };
        let nodes: [(&str, &[usize], [i64; 4]); 4] = [
            ("Gather", &[4], [0, -3, 2, 1]),
            ("GatherElements", &[1, 4], [0, -3, 2, 1]),
            ("GatherND", &[4, 1], [0, -3, 2, 1]),
            ("ScatterElements", &[1, 4], [0, -3, 2, 1]),
        ];
        for (name, shape, inside) in nodes {
            // The standard has no other type of indexes for GatherND.
            if name == "GatherND" && of == DType::I32 {
                continue;
            }
            let mut wrong = inside;
            wrong[2] = outside;
            let mut inputs = vec![Some(x.clone()), Some(list(&inside, shape)?)];
            if name == "ScatterElements" {
                inputs.push(Some(Tensor::from_vec::<f32>(&[1, 4], vec![5.0; 4])?));
            }
            let operator = Operator::new(name, OPSET);
            let case = Case { name: String::new(), operator, inputs, constants: vec![], outputs: 1 };
            let (program, inputs) = program(&case)?;
            let mut failing = inputs.clone();
            failing[1] = list(&wrong, shape)?;
            let name = format!("{name} index {outside} {of} outside");
            cases.push(ProgramCase { name, program, inputs, failing: Some(failing) });
        }
    }
    Ok(cases)
}

/// Runs a small program on a device and on the oracle.
#[must_use]
pub fn check_program(device: &dyn Device, case: &ProgramCase) -> Outcome {
    let claims = device.claims(&case.program);
    let claimed = |id: NodeId| claims.iter().any(|claim| claim.nodes.contains(&id));
    if let Some((id, _)) = case.program.node_ids().find(|(id, _)| !claimed(*id)) {
        return Outcome::Unclaimed(device.refusal(&case.program, id));
    }
    checked(device, case).map_or_else(Outcome::Failed, |()| Outcome::Passed(0.0))
}

fn checked(device: &dyn Device, case: &ProgramCase) -> std::result::Result<(), String> {
    let text = |error: hetero_hal::Error| error.to_string();
    let ProgramCase { program, inputs, failing, .. } = case;
    let expected = hetero_reference::run(program, inputs, &Standard, &Allowance::default()).map_err(text)?;
    let options = CompileOptions { deadline: Some(Instant::now() + DEADLINE), ..CompileOptions::default() };
    let executable = device.compile(Source::Program(program), &options).map_err(text)?;
    // A failed run leaves nothing behind, so the same executable computes rightly afterwards.
    for inputs in failing.iter().flat_map(|failing| [failing, failing]) {
        match run_executable(device, &executable, program, inputs) {
            Ok(_) => return Err("it takes an index that lies outside".to_owned()),
            Err(error) if error.kind() == ErrorKind::Execution => {}
            Err(error) => return Err(format!("an index outside is no error of execution, but {error}")),
        }
    }
    let actual = run_executable(device, &executable, program, inputs).map_err(text)?;
    let last = program.nodes().last().map_or_else(|| Operator::new("Identity", OPSET), |node| node.operator.clone());
    let case = Case { name: String::new(), operator: last, inputs: vec![], constants: vec![], outputs: 1 };
    let found = actual.iter().zip(&expected).find_map(|(actual, expected)| kinds_differ(&case, actual, expected));
    found.map_or(Ok(()), Err)
}
