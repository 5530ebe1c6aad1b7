//! Tiles: a large product of two matrices becomes products of their rows and columns in blocks,
//! which several devices can share.
//!
//! `Y = A·B` becomes slices of A along its rows and of B along its columns, one `MatMul` for each
//! pair of them, named `NAME/tile_I_J`, and concatenations.
//! All of these are standard operators, so that every device that did the product does its tiles.
//! Slices of constants are folded by the passes that come behind.

use std::collections::HashSet;
use std::sync::Arc;

use hetero_hal::{Allowance, DType, Graph, Node, Program, Result, TensorType, ValueId};

use super::build;
use crate::place::Placement;

/// The least multiply-adds of a product that is cut, as a multiple of the multiply-adds of a cube
/// of the tile's side: fewer do not pay for the copies.
const LEAST_CUBES: usize = 4;

/// A rewrite that cuts `MatMul`s of two matrices into tiles of `size` rows and columns; the last
/// tile of each row and column may be smaller.
pub(crate) struct Tiling {
    /// The number of rows and of columns of a tile.
    pub(crate) size: usize,
    /// The placement by hand: a product that is pinned stays whole, as the caller wants it on one
    /// device.
    pub(crate) placement: Placement,
}

/// The record of what became of a product: an annotation beside the program.
/// Values keep their ids while passes rewrite the nodes that compute them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TileGroup {
    /// The name of the node that was the product.
    pub(crate) product: Arc<str>,
    /// The name of the node that puts the result together.
    pub(crate) whole: Arc<str>,
    /// The values that the tiles make.
    pub(crate) tiles: Vec<ValueId>,
}

impl Tiling {
    /// Cuts the products of a graph, and returns their groups of tiles.
    ///
    /// # Errors
    /// An error where a constant cannot be made, or the allowance does not suffice.
    pub(crate) fn cut(&self, graph: &mut Graph, allowance: &Allowance) -> Result<Vec<TileGroup>> {
        let mut groups = Vec::new();
        if !graph.nodes.iter().any(|node| self.wants(graph, node).is_some()) {
            return Ok(groups);
        }
        let names = graph.nodes.iter().map(|node| &node.name).chain(graph.values.iter().map(|value| &value.name));
        // These are the parts of names in front of a slash: a product with such a name is not cut,
        // as its tiles' names might be taken.
        let heads = |name: &Arc<str>| -> Vec<Arc<str>> {
            name.match_indices('/').map(|(at, _)| Arc::from(&name[..at])).collect()
        };
        let mut taken: HashSet<Arc<str>> = names.flat_map(heads).collect();
        let mut made = 0usize;
        for node in std::mem::take(&mut graph.nodes) {
            let product = self.wants(graph, &node);
            match product.filter(|_| !node.name.is_empty() && !taken.contains(&node.name)) {
                Some(product) => {
                    made = made.saturating_add(product.nodes(self.size));
                    build::allow(allowance, made, format_args!("{node} in tiles of {} rows", self.size))?;
                    groups.push(product.cut(graph, &node, self.size)?);
                    taken.insert(node.name.clone());
                }
                None => graph.nodes.push(node),
            }
        }
        Ok(groups)
    }

    /// Tells whether a program might have products that are to be cut.
    /// It looks at the program's types only, before a graph is made of it.
    pub(crate) fn may_cut(&self, program: &Program) -> bool {
        let large = |node: &Node| {
            let result = node.outputs.first().copied().flatten().and_then(|id| program.values().get(id.index()));
            result.is_some_and(|value| value.shape.len() == 2 && value.shape.iter().all(|&side| side > self.size))
        };
        self.size > 0 && program.nodes().iter().any(|node| node.operator.is("MatMul") && large(node))
    }

    /// Returns the node as a product that is to be cut.
    fn wants(&self, graph: &Graph, node: &Node) -> Option<Product> {
        self.product(graph, node).filter(|_| self.placement.device_of(node).is_none())
    }
}

/// A product that is cut: Y, of m rows and n columns, is A times B.
struct Product {
    a: ValueId,
    b: ValueId,
    y: ValueId,
    m: usize,
    k: usize,
    n: usize,
    dtype: DType,
}

impl Tiling {
    /// Returns the node as a product of two matrices that is large enough.
    fn product(&self, graph: &Graph, node: &Node) -> Option<Product> {
        let (&[Some(a), Some(b)], &[Some(y)]) = (&node.inputs[..], &node.outputs[..]) else { return None };
        if !node.operator.is("MatMul") || self.size == 0 {
            return None;
        }
        let sizes = |id: ValueId| -> Option<[usize; 2]> {
            let dims = graph.values.get(id.index())?.ty.dims.as_ref()?;
            let known: Option<Vec<usize>> = dims.iter().map(hetero_hal::Dim::known).collect();
            known?.try_into().ok()
        };
        let ([m, k], [_, n]) = (sizes(a)?, sizes(b)?);
        let dtype = graph.values[y.index()].ty.dtype?;
        let tiles = m.div_ceil(self.size).checked_mul(n.div_ceil(self.size))?;
        let cube = self.size.checked_pow(3)?.checked_mul(LEAST_CUBES)?;
        let work = m.checked_mul(n)?.checked_mul(k)?;
        // There are at least two tiles along each side, as both sides are to become smaller.
        let large = m > self.size && n > self.size && tiles >= 4 && work >= cube && k > 0;
        large.then_some(Product { a, b, y, m, k, n, dtype })
    }
}

impl Product {
    /// Returns the number of nodes that the product is cut into.
    fn nodes(&self, size: usize) -> usize {
        let (rows, columns) = (self.m.div_ceil(size), self.n.div_ceil(size));
        rows.saturating_mul(columns).saturating_add(2 * rows + columns + 1)
    }

    fn cut(&self, graph: &mut Graph, node: &Node, size: usize) -> Result<TileGroup> {
        let name = &node.name;
        let mut group = TileGroup { product: name.clone(), whole: format!("{name}/whole").into(), tiles: vec![] };
        let add = |graph: &mut Graph, name: String, shape: &[usize]| {
            build::add(graph, name, TensorType::exact(self.dtype, shape), None)
        };
        let rows = slices(graph, &format!("{name}/rows"), self.a, 0, self.m, size, self.k)?;
        let columns = slices(graph, &format!("{name}/columns"), self.b, 1, self.n, size, self.k)?;
        let mut bands = Vec::with_capacity(rows.len());
        for (i, &(a, height)) in rows.iter().enumerate() {
            let mut tiles = Vec::with_capacity(columns.len());
            for (j, &(b, width)) in columns.iter().enumerate() {
                let name = format!("{name}/tile_{i}_{j}");
                let tile = add(graph, name.clone(), &[height, width]);
                graph.nodes.push(Node {
                    name: name.into(),
                    operator: node.operator.clone(),
                    inputs: vec![Some(a), Some(b)],
                    outputs: vec![Some(tile)],
                });
                tiles.push(Some(tile));
                group.tiles.push(tile);
            }
            let name = format!("{name}/band_{i}");
            let band = add(graph, name.clone(), &[height, self.n]);
            graph.nodes.push(build::concat(name, 1, tiles, band));
            bands.push(Some(band));
        }
        graph.nodes.push(build::concat(group.whole.to_string(), 0, bands, self.y));
        Ok(group)
    }
}

/// Returns slices of a matrix along an axis, each with its length there; `other` is the length of
/// the other axis.
fn slices(
    graph: &mut Graph,
    name: &str,
    matrix: ValueId,
    axis: i64,
    length: usize,
    size: usize,
    other: usize,
) -> Result<Vec<(ValueId, usize)>> {
    let dtype = graph.values[matrix.index()].ty.dtype.unwrap_or(DType::F32);
    let axes = build::number(graph, format!("{name}_axis"), axis)?;
    let mut parts = Vec::with_capacity(length.div_ceil(size));
    for (number, start) in (0..length).step_by(size).enumerate() {
        let end = length.min(start + size);
        let name = format!("{name}_{number}");
        let from = build::number(graph, format!("{name}_start"), start as i64)?;
        let to = build::number(graph, format!("{name}_end"), end as i64)?;
        let shape = if axis == 0 { [end - start, other] } else { [other, end - start] };
        let part = build::add(graph, name.clone(), TensorType::exact(dtype, &shape), None);
        graph.nodes.push(build::slice(&name, matrix, [from, to, axes], part));
        parts.push((part, end - start));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Operator, Tensor};
    use hetero_reference::Standard;
    use proptest::prelude::*;

    use super::super::PassContext;
    use super::super::tests::Builder;
    use super::*;

    fn product(m: usize, k: usize, n: usize, constant: bool) -> Program {
        let mut b = Builder::default();
        let x = b.input("x", &[m, k]);
        let w = if constant {
            b.constant("w", &[k, n], (0..k * n).map(|i| (i as f32 * 0.3).cos()).collect())
        } else {
            b.input("w", &[k, n])
        };
        let y = b.node("y", Operator::new("MatMul", 13), &[x, w], &[m, n]);
        let z = b.node("z", Operator::new("Relu", 14), &[y], &[m, n]);
        b.program(&[z])
    }

    fn cut(program: &Program, size: usize, placement: &str) -> (Program, Vec<TileGroup>) {
        let placement = if placement.is_empty() { Placement::default() } else { placement.parse().unwrap() };
        let mut graph = program.to_graph();
        let groups = Tiling { size, placement }.cut(&mut graph, &Allowance::default()).unwrap();
        let context = PassContext { operators: &Standard, allowance: &Allowance::new(1 << 20) };
        let program = Program::new(graph, vec![]).unwrap();
        (super::super::run(program, &super::super::standard(), &context).unwrap(), groups)
    }

    #[test]
    fn pinned_small_and_odd_products_stay_whole() {
        let whole = |program: &Program, size, placement: &str| cut(program, size, placement).0.nodes().len() == 2;
        let large = product(8, 8, 8, false);
        assert!(!whole(&large, 2, ""));
        assert!(whole(&large, 2, "MatMul=cpu:0"));
        assert!(whole(&large, 8, ""));
        assert!(whole(&large, 0, ""));
        assert!(whole(&product(8, 8, 2, false), 2, ""));
    }

    #[test]
    fn tiles_are_a_group_and_constants_are_sliced_at_once() {
        let (tiled, groups) = cut(&product(8, 8, 8, true), 4, "");
        assert_eq!((groups.len(), &*groups[0].product, groups[0].tiles.len()), (1, "y_node", 4));
        // The annotation still names the tiles after passes have rewritten the rest.
        let made =
            |id: &ValueId| tiled.producers()[id.index()].map(|node| tiled.nodes()[node.index()].clone()).unwrap();
        assert!(groups[0].tiles.iter().all(|id| made(id).operator.is("MatMul")));
        assert!(tiled.nodes().iter().any(|node| node.name == groups[0].whole));
        assert_eq!(tiled.nodes().iter().filter(|node| node.operator.is("Slice")).count(), 2);
    }

    /// A model may have used the names already, or names that look like those of tiles.
    #[test]
    fn names_of_the_model_decide_nothing_about_groups() {
        let mut b = Builder::default();
        let x = b.input("x", &[8, 8]);
        let y = b.node("y", Operator::new("MatMul", 13), &[x, x], &[8, 8]);
        let z = b.node("y_node/tile_0_0", Operator::new("MatMul", 13), &[y, x], &[8, 8]);
        let (tiled, groups) = cut(&b.program(&[z]), 4, "");
        assert_eq!(groups.iter().map(|group| &*group.product).collect::<Vec<_>>(), ["y_node/tile_0_0_node"]);
        assert!(tiled.nodes().iter().any(|node| &*node.name == "y_node"));
    }

    proptest! {
        #[test]
        fn tiles_compute_what_the_product_does(
            m in 1usize..20, k in 1usize..12, n in 1usize..20, size in 1usize..8, constant: bool,
        ) {
            let program = product(m, k, n, constant);
            let tiled = cut(&program, size, "").0;
            let inputs: Vec<Tensor> = program.inputs().iter().map(|id| {
                let value = program.value(*id).unwrap();
                let values = (0..value.elements()).map(|i| (i as f32 * 0.7).sin()).collect();
                Tensor::from_vec(&value.shape, values).unwrap()
            }).collect();
            let run = |program: &Program| hetero_reference::run(program, &inputs, &Standard, &Allowance::new(1 << 20)).unwrap();
            let (whole, tiles) = (run(&program), run(&tiled));
            prop_assert_eq!(whole[0].bytes(), tiles[0].bytes());
        }
    }
}
