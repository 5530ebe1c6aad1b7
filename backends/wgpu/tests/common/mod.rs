//! The device that the tests run on, and programs for it.

// Each file of tests uses only a part of this module.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_hal::{
    BindingTable, Buffer, BufferLayout, CompileOptions, DType, Device, Driver, Error, Executable, Execution, Graph,
    Node, OpenOptions, Operator, Program, Queue, Source, TensorType, Timeline, Value, ValueId, Work,
};
use hetero_wgpu::WgpuDriver;

/// Opens the first adapter; where there is none, prints the reason and returns `None`.
/// With `HETERO_REQUIRE_DRIVERS=1`, a missing adapter fails the test.
pub(crate) fn device(extra: &[(&str, &str)]) -> Option<Arc<dyn Device>> {
    if let Err(why) = WgpuDriver.probe() {
        assert!(std::env::var_os("HETERO_REQUIRE_DRIVERS").is_none_or(|value| value != "1"), "{why}");
        println!("skipped: {why}");
        return None;
    }
    let extra = extra.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    Some(WgpuDriver.open(0, &OpenOptions { extra, ..OpenOptions::default() }).unwrap())
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

/// Makes a chain of operators with one or two inputs of one shape.
/// An operator's second input is the program's second input.
pub(crate) fn program(operators: &[&str], elements: usize) -> Program {
    let value =
        |name: String| Value { name: name.into(), ty: TensorType::exact(DType::F32, &[elements]), constant: None };
    let mut values = vec![value("a".into()), value("b".into())];
    let mut nodes = Vec::new();
    for (number, operator) in operators.iter().enumerate() {
        let before = if number == 0 { ValueId(0) } else { ValueId(values.len() as u32 - 1) };
        let mut inputs = vec![Some(before)];
        if ["Add", "Mul", "Sub"].contains(operator) {
            inputs.push(Some(ValueId(1)));
        }
        values.push(value(format!("v{number}")));
        let outputs = vec![Some(ValueId(values.len() as u32 - 1))];
        nodes.push(Node { name: format!("n{number}").into(), operator: Operator::new(operator, 14), inputs, outputs });
    }
    let outputs = vec![ValueId(values.len() as u32 - 1)];
    let graph = Graph { values, nodes, inputs: vec![ValueId(0), ValueId(1)], outputs, ..Graph::default() };
    Program::new(graph, vec![]).unwrap()
}

pub(crate) fn compile(device: &dyn Device, program: &Program) -> Arc<dyn Executable> {
    device.compile(Source::Program(program), &CompileOptions::default()).unwrap()
}

pub(crate) fn execution(executable: &Arc<dyn Executable>, device: &dyn Device, bindings: &[Buffer]) -> Execution {
    let scratch = executable.scratch();
    let scratch = (scratch.bytes > 0).then(|| device.allocate(scratch).unwrap());
    let table = BindingTable::new(bindings.to_vec());
    Execution::new(executable.clone(), table).with_scratch(scratch).with_deadline(soon())
}

pub(crate) fn run(queue: &dyn Queue, work: Work) -> Result<(), Error> {
    let done = Timeline::new(0).at(1);
    queue.run(&[], work, std::slice::from_ref(&done), soon())
}

pub(crate) fn floats(buffer: &Buffer) -> Vec<f32> {
    let mut bytes = vec![0; buffer.len()];
    buffer.read(0, &mut bytes).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect()
}

pub(crate) fn bytes(floats: impl Iterator<Item = f32>) -> Vec<u8> {
    floats.flat_map(f32::to_le_bytes).collect()
}

pub(crate) fn filled(device: &dyn Device, floats: impl Iterator<Item = f32>) -> Buffer {
    let content = bytes(floats);
    let buffer = device.allocate(BufferLayout::new(content.len())).unwrap();
    buffer.write(0, &content).unwrap();
    buffer
}
