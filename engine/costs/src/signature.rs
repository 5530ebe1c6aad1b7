//! Signatures, which tell nodes apart that may cost differently.

use std::fmt::Write as _;

use hetero_hal::{Attribute, Node, Program, ValueId};

use crate::fnv::Fnv;

/// Returns a signature for each node of a program, in order: nodes of the same signature cost the
/// same on a device.
/// A signature is made of the operator with its attributes, the types of all inputs and outputs,
/// and which of these are constants.
/// The operators that feed the node and read it are part of it too, as devices do neighbours in one
/// go.
///
/// A signature is a hash behind the operator's name; the name is for people.
#[must_use]
pub fn signatures(program: &Program) -> Vec<String> {
    let producers = program.producers();
    let consumers = program.consumers();
    let mut text = String::new();
    let of = |node: &Node| {
        text.clear();
        describe(&mut text, node);
        for id in node.inputs.iter().flatten() {
            value(&mut text, program, *id);
            if let Some(feeding) = producers.get(id.index()).copied().flatten() {
                let _ = write!(text, "<{}", operator(program, feeding.index()));
            }
        }
        for id in node.outputs.iter().flatten() {
            value(&mut text, program, *id);
            for reader in consumers.get(id.index()).into_iter().flatten() {
                let _ = write!(text, ">{}", operator(program, reader.index()));
            }
        }
        let mut hash = Fnv::new();
        hash.add(text.as_bytes());
        format!("{} {}", node.operator, hash.text())
    };
    program.nodes().iter().map(of).collect()
}

fn operator(program: &Program, node: usize) -> &str {
    program.nodes().get(node).map_or("", |node| &node.operator.name)
}

fn describe(text: &mut String, node: &Node) {
    let _ = write!(text, "{}", node.operator);
    for (name, attribute) in &node.operator.attributes {
        let _ = match attribute {
            Attribute::Int(value) => write!(text, ";{name}={value}"),
            Attribute::Float(value) => write!(text, ";{name}={value}"),
            Attribute::Ints(values) => write!(text, ";{name}={values:?}"),
            Attribute::Floats(values) => write!(text, ";{name}={values:?}"),
            Attribute::String(value) => write!(text, ";{name}={value:?}"),
            // The content of larger attributes changes nothing that can be told here.
            _ => write!(text, ";{name}"),
        };
    }
}

fn value(text: &mut String, program: &Program, id: ValueId) {
    if let Some(value) = program.values().get(id.index()) {
        let constant = if value.constant.is_some() { "!" } else { "" };
        let _ = write!(text, "|{}{:?}{constant}", value.dtype.name(), value.shape);
    }
}
