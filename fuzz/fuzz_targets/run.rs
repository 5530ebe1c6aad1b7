//! A fuzz target that binds, plans, compiles and runs any bytes as a model, on the CPU with bounded
//! memory: the end is a result or an error, never a panic, a wild access or a hang.

#![no_main]

use std::sync::OnceLock;
use std::time::Duration;

use hetero::{Binding, DeviceOptions, HeteroEngine, OutputBuffer, Tensor};
use libfuzzer_sys::fuzz_target;

/// The bytes that constants and intermediate values may take.
const MEMORY: u64 = 16 << 20;

/// The longest time of a run; a loop may go on for as long as its trip count says, but a run may
/// not.
const DEADLINE: Duration = Duration::from_secs(4);

/// The largest number of operations of a model that is run, because a longer run teaches nothing
/// more.
const OPERATIONS: u64 = 1 << 28;

fn engine() -> &'static HeteroEngine {
    static ENGINE: OnceLock<HeteroEngine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let mut engine = HeteroEngine::builder().memory_limit(MEMORY).deadline(DEADLINE).build();
        let options = DeviceOptions { threads: Some(2), ..DeviceOptions::default() };
        engine.add_device("cpu:0", options).expect("the CPU is always there");
        engine
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = hetero::read_model_bytes(bytes.to_vec().into()) else { return };
    let binding = Binding { default_size: Some(2), ..Binding::default() };
    let Ok(plan) = engine().analyze(&model, &binding) else { return };
    let program = plan.program();
    let values: u64 = program.values().iter().map(|value| value.elements() as u64).sum();
    if values > OPERATIONS >> 4 {
        return;
    }
    let Ok(session) = engine().session(&plan) else { return };
    let inputs = session.inputs().iter().map(|port| {
        let count = port.shape.iter().product::<usize>();
        let bytes = port.dtype.bytes_for(count).unwrap_or(0);
        Tensor::from_bytes(port.dtype, &port.shape, vec![1u8; bytes].into())
    });
    let Ok(inputs) = inputs.collect::<Result<Vec<_>, _>>() else { return };
    let mut outputs = vec![OutputBuffer::default(); session.outputs().len()];
    let _ = session.run_into(&inputs, &mut outputs);
});
