//! Annotated programs, which the planner divides: passes note beside a program what they know of
//! its nodes.

use std::collections::HashMap;
use std::sync::Arc;

use hetero_hal::{NodeId, Program};

use crate::passes::tile::TileGroup;

/// A program, with the passes' knowledge of its nodes.
#[derive(Clone)]
pub(crate) struct Annotated {
    pub(crate) program: Arc<Program>,
    /// The products that were cut into tiles.
    pub(crate) tiles: Arc<[TileGroup]>,
}

impl Annotated {
    pub(crate) fn new(program: Arc<Program>, tiles: Vec<TileGroup>) -> Annotated {
        Annotated { program, tiles: tiles.into() }
    }

    /// Returns the product that each tile was cut from.
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
}
