//! A fuzz target that reads any bytes as a model file: the result is a model or an error, never a
//! panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(model) = hetero::read_model_bytes(bytes.to_vec().into()) {
        // A model that was read must be printable and countable.
        let _ = model.all_nodes().len();
    }
});
