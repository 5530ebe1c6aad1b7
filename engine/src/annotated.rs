//! Programs as the planner divides them: with what passes know of their nodes beside them.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use hetero_hal::{NodeId, Program};

use crate::fnv::Fnv;
use crate::passes::tile::TileGroup;

/// A program with its fingerprint, and with what passes know of its nodes.
#[derive(Clone)]
pub(crate) struct Annotated {
    pub(crate) program: Arc<Program>,
    /// Products that were cut into tiles.
    pub(crate) tiles: Arc<[TileGroup]>,
    /// Found when it is first asked for.
    fingerprint: OnceLock<String>,
}

impl Annotated {
    pub(crate) fn new(program: Arc<Program>, tiles: Vec<TileGroup>) -> Annotated {
        Annotated { program, tiles: tiles.into(), fingerprint: OnceLock::new() }
    }

    /// The product that each tile was cut from.
    /// A tile that passes have found equal to another node is that node.
    pub(crate) fn groups(&self) -> HashMap<NodeId, &TileGroup> {
        if self.tiles.is_empty() {
            return HashMap::new();
        }
        let producers = self.program.producers();
        let made = |id: hetero_hal::ValueId| producers.get(id.index()).copied().flatten();
        let tiles = self.tiles.iter().flat_map(|group| group.tiles.iter().map(move |&tile| (tile, group)));
        tiles.filter_map(|(tile, group)| Some((made(tile)?, group))).collect()
    }

    /// What tells the program from others.
    pub(crate) fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| fingerprint(&self.program))
    }
}

/// A fingerprint of a program: its nodes with their attributes, its ports, types and, sampled at
/// both ends, its constants ([`Fnv`]).
fn fingerprint(program: &Program) -> String {
    let mut hash = Fnv::new();
    for node in program.nodes() {
        hash.add(node.name.as_bytes());
        hash.add_operator(&node.operator);
        for id in node.inputs.iter().chain(&node.outputs) {
            hash.add_word(id.map_or(u64::MAX, |id| u64::from(id.0)));
        }
    }
    for id in program.inputs().iter().chain(program.outputs()) {
        hash.add_word(u64::from(id.0));
    }
    for value in program.values() {
        hash.add(value.dtype.name().as_bytes());
        value.shape.iter().for_each(|&size| hash.add_word(size as u64));
        if let Some(content) = &value.constant {
            hash.add_sample(content.bytes());
        }
    }
    hash.text()
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Attribute, Operator};

    use super::*;
    use crate::passes::tests::Builder;

    fn fingerprint_of(alpha: f32, constant: f32, length: usize) -> String {
        let mut b = Builder::default();
        let x = b.input("x", &[length]);
        let k = b.constant("k", &[length], vec![constant; length]);
        let leaky = Operator::new("LeakyRelu", 16).with("alpha", Attribute::Float(alpha));
        let y = b.node("y", leaky, &[x], &[length]);
        let z = b.node("z", Operator::new("Add", 14), &[y, k], &[length]);
        Annotated::new(Arc::new(b.program(&[z])), vec![]).fingerprint().to_owned()
    }

    /// Devices claim by attributes too: programs that differ in these alone must not share what is
    /// remembered.
    #[test]
    fn attributes_constants_and_shapes_tell_programs_apart() {
        let first = fingerprint_of(0.1, 1.0, 3);
        assert_eq!(first, fingerprint_of(0.1, 1.0, 3));
        for other in [fingerprint_of(0.2, 1.0, 3), fingerprint_of(0.1, 2.0, 3), fingerprint_of(0.1, 1.0, 4)] {
            assert_ne!(first, other);
        }
    }
}
