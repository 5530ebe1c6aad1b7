//! Operators that join more operands than one kernel binds.

use std::collections::HashMap;

use hetero_hal::DType;

use super::{Chain, ITEMS, MOST_OPERANDS, narrowed, suffixed};
use crate::draft::{Argument, Draft, Drafts, Operand, Store};
use crate::language::{Access, Scalar};
use crate::site::{Answer, Output, Site, Tail};

/// Makes several kernels of a node that joins more operands than one kernel takes: each joins some
/// operands with what the one before it has made of the operands before.
pub(crate) fn joined(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let name = &*site.node.operator.name;
    let (count, operands) = (output.value.elements(), site.node.inputs.len());
    let scalar = Scalar::of(output.value.dtype).ok_or("its type has no kernel")?;
    let unit = match scalar {
        Scalar::Float => DType::F32,
        Scalar::Int => DType::I32,
        Scalar::Uint => DType::U32,
        Scalar::Long => DType::I64,
        Scalar::Ulong => DType::U64,
        Scalar::Bool => return Err(format!("{name} on booleans")),
    };
    let join = |a: &str, b: &str| match name {
        "Max" => format!("{}({a}, {b})", suffixed("max2", scalar)),
        "Min" => format!("{}({a}, {b})", suffixed("min2", scalar)),
        _ => format!("({a} + {b})"),
    };
    if name == "Mean" && scalar != Scalar::Float {
        return Err(format!("{name} on {}", scalar.name()));
    }
    // A kernel binds what is read and what is written besides its own operands.
    let most = MOST_OPERANDS.min((site.target.buffers as usize).saturating_sub(2)).max(1);
    let mut drafts = Drafts::default();
    let bytes = unit.bytes_for(count).ok_or("its result is too large")?;
    // A kernel must not write what it reads, so the two take turns.
    let turns = [drafts.workspace(bytes), drafts.workspace(bytes)];
    let indexes: Vec<usize> = (0..operands).collect();
    let chunks: Vec<&[usize]> = indexes.chunks(most).collect();
    for (number, chunk) in chunks.iter().enumerate() {
        let store = Store { statements: String::new(), value: String::new() };
        let tail = Tail { store, arguments: vec![], numbers: vec![] };
        let mut chain = Chain {
            site,
            shape: &output.value.shape,
            statements: String::new(),
            names: HashMap::new(),
            tail,
            count: 0,
        };
        let mut text = None;
        if number > 0 {
            chain.tail.arguments.push(Argument {
                name: "before".into(),
                dtype: unit,
                access: Access::Read,
                operand: turns[number % 2].clone(),
                elements: count,
            });
            text = Some("LOAD(before, o)".to_owned());
        }
        for &index in *chunk {
            let value = site.need(index)?;
            let id = site.id(index).ok_or("an input is missing")?;
            let (operand, other) = chain.operand(id, &value.shape)?;
            if other != scalar {
                return Err(format!("{name} on operands of different types"));
            }
            text = Some(text.map_or(operand.clone(), |text| join(&text, &operand)));
        }
        let mut text = text.ok_or("it has no input")?;
        let (mut dtype, mut to) = (unit, turns[(number + 1) % 2].clone());
        if number + 1 == chunks.len() {
            if name == "Mean" {
                text = format!("{text} / {operands}.0f");
            }
            text = narrowed(&text, output.value.dtype);
            (dtype, to) = (output.value.dtype, Operand::Value(output.id));
        }
        let Chain { statements, tail, .. } = chain;
        let body = format!("const uint o = LINEAR;\nif (o < n) {{\n{statements}STORE(y, o, {text});\n}}\n");
        let mut draft = Draft::new("elementwise", body).number("n", count).line(count, ITEMS, site.target.groups);
        draft.arguments = tail.arguments;
        draft.numbers.extend(tail.numbers);
        drafts.launches.push(draft.write("y", dtype, count, to));
    }
    Ok(drafts)
}
