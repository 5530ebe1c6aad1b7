//! Any bytes as a model file: a model or an error, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(model) = hetero::read_model_bytes(bytes.to_vec().into()) {
        // What was read must be printable and countable.
        let _ = model.all_nodes().len();
    }
});
