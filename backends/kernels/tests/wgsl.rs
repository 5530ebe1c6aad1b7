//! Every kernel's WGSL is read and validated by naga, which stands between wgpu and the drivers.
//! So no device is needed to see that wgpu would accept it.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use hetero_kernels::{Dialect, Target};
use naga::valid::{Capabilities, ValidationFlags, Validator};

mod programs;

fn check(target: &Target, capabilities: Capabilities) {
    let texts = programs::texts(target);
    let mut wrong: HashMap<String, (String, usize)> = HashMap::new();
    for text in &texts {
        let outcome = match naga::front::wgsl::parse_str(&text.code) {
            Ok(module) => Validator::new(ValidationFlags::all(), capabilities)
                .validate(&module)
                .map(drop)
                .map_err(|error| error.emit_to_string(&text.code)),
            Err(error) => Err(error.emit_to_string(&text.code)),
        };
        if let Err(error) = outcome {
            // One example for each message is kept.
            let message = error.lines().next().unwrap_or_default().to_owned();
            wrong.entry(message).or_insert((format!("{} ({}): {error}", text.entry, text.kind), 0)).1 += 1;
        }
    }
    let listed: Vec<String> =
        wrong.into_values().map(|(example, count)| format!("{count} such as {example}")).collect();
    assert!(listed.is_empty(), "of {} texts: {}", texts.len(), listed.join("\n"));
    assert!(texts.len() > 400, "there are only {} texts", texts.len());
}

#[test]
fn naga_takes_every_kernel_for_the_least_of_devices() {
    check(&Target::new(Dialect::Wgsl), Capabilities::empty());
}

#[test]
fn naga_takes_every_kernel_for_a_device_with_narrow_and_wide_types() {
    let target = Target { half: true, long: true, ..Target::new(Dialect::Wgsl) };
    check(&target, Capabilities::SHADER_FLOAT16 | Capabilities::SHADER_INT64);
}

#[test]
fn naga_takes_kernels_whose_buffers_are_bound_in_pieces() {
    let target = Target { buffers: 32, binding_bytes: 512, ..Target::new(Dialect::Wgsl) };
    check(&target, Capabilities::empty());
}
