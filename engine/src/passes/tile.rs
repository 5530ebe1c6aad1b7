//! Tiles: a large product of two matrices becomes products of their rows and columns in blocks, which several devices can share.
//!
//! `Y = A·B` becomes slices of A along its rows and of B along its columns, one `MatMul` for each pair of them, named `NAME/tile_I_J`, and
//! concatenations: standard operators all, so that every device that did the product does its tiles. Slices of constants are folded by the
//! passes that come behind.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hetero_hal::{DType, Graph, Node, NodeId, Program, Result, TensorType, ValueId};

use super::{Pass, PassContext, build};
use crate::place::Placement;

/// Least multiply-adds of a product that is cut, as a multiple of those of a cube of the tile's side: fewer do not pay for the copies.
const LEAST_CUBES: usize = 4;

/// Cuts `MatMul`s of two matrices into tiles of `size` rows and columns; the last of each may be smaller.
pub(crate) struct Tiling {
    /// Rows and columns of a tile.
    pub(crate) size: usize,
    /// What is pinned stays whole: the caller wants it on one device.
    pub(crate) placement: Placement,
}

impl Pass for Tiling {
    fn name(&self) -> &str {
        "tiling"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<()> {
        let names = graph.nodes.iter().map(|node| node.name.clone());
        let mut taken: HashSet<Arc<str>> = names.chain(graph.values.iter().map(|value| value.name.clone())).collect();
        for node in std::mem::take(&mut graph.nodes) {
            let product = self.product(graph, &node).filter(|_| self.placement.device_of(&node).is_none());
            // A model may have used the names already.
            let base = format!("{}/", node.name);
            let free = || !taken.iter().any(|name| name.starts_with(&base));
            match product.filter(|_| !node.name.is_empty() && free()) {
                Some(product) => {
                    product.cut(graph, &node, self.size)?;
                    taken.extend(graph.nodes.iter().map(|node| node.name.clone()));
                }
                None => graph.nodes.push(node),
            }
        }
        Ok(())
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
    /// The node as a product of two matrices that is large enough.
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
        // At least two on each side, as both are to become smaller.
        let large = m > self.size && n > self.size && tiles >= 4 && work >= cube && k > 0;
        large.then_some(Product { a, b, y, m, k, n, dtype })
    }
}

impl Product {
    fn cut(&self, graph: &mut Graph, node: &Node, size: usize) -> Result<()> {
        let name = &node.name;
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
            }
            let name = format!("{name}/band_{i}");
            let band = add(graph, name.clone(), &[height, self.n]);
            graph.nodes.push(build::concat(name, 1, tiles, band));
            bands.push(Some(band));
        }
        graph.nodes.push(build::concat(last_of(name), 0, bands, self.y));
        Ok(())
    }
}

/// Slices of a matrix along an axis, each with its length there; `other` is the length of the other axis.
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

/// The groups of tiles of a program, by the name of the product that each was cut from: of the nodes that are named as tiles are, those that
/// wait for none of their own group.
pub(crate) fn groups(program: &Program) -> HashMap<NodeId, String> {
    let mut names: Vec<&str> = Vec::new();
    let mut of = Vec::with_capacity(program.nodes().len());
    for node in program.nodes() {
        let name = node.operator.is("MatMul").then(|| product_of(&node.name)).flatten();
        of.push(name.map(|name| {
            names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            })
        }));
    }
    if names.is_empty() {
        return HashMap::new();
    }
    let producers = program.producers();
    let feeds = |node: &Node| node.uses().filter_map(|id| producers[id.index()]).collect::<Vec<_>>();
    let edges: Vec<(usize, usize)> = program
        .node_ids()
        .flat_map(|(id, node)| feeds(node).into_iter().map(move |from| (from.index(), id.index())))
        .collect();
    if hetero_scheduler::levels(&edges, &of).is_none() {
        // Names of the model's own that happen to look like tiles.
        return HashMap::new();
    }
    let grouped = (0u32..).map(NodeId).zip(of);
    grouped.filter_map(|(id, group)| Some((id, names[group?].to_owned()))).collect()
}

/// The name of the node that makes a product's result of its tiles.
pub(crate) fn last_of(product: &str) -> String {
    format!("{product}/whole")
}

/// The product that a tile of this name was cut from.
fn product_of(name: &str) -> Option<&str> {
    let (product, tile) = name.rsplit_once("/tile_")?;
    let (i, j) = tile.split_once('_')?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (number(i) && number(j)).then_some(product)
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Operator, Tensor};
    use hetero_reference::Standard;
    use proptest::prelude::*;

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

    fn cut(program: &Program, size: usize, placement: &str) -> Program {
        let placement = if placement.is_empty() { Placement::default() } else { placement.parse().unwrap() };
        let mut passes = super::super::standard();
        passes.insert(0, Box::new(Tiling { size, placement }));
        super::super::run(program, &passes, &PassContext { operators: &Standard, memory_limit: 1 << 20 }).unwrap()
    }

    #[test]
    fn pinned_small_and_odd_products_stay_whole() {
        let whole = |program: &Program, size, placement: &str| cut(program, size, placement).nodes().len() == 2;
        let large = product(8, 8, 8, false);
        assert!(!whole(&large, 2, ""));
        assert!(whole(&large, 2, "MatMul=cpu:0"));
        assert!(whole(&large, 8, ""));
        assert!(whole(&large, 0, ""));
        assert!(whole(&product(8, 8, 2, false), 2, ""));
        assert_eq!(product_of("a/tile_0_1"), Some("a"));
        assert_eq!([product_of("a/tile_0"), product_of("a/tile_x_1"), product_of("tile_0_1")], [None; 3]);
    }

    #[test]
    fn tiles_are_a_group_and_constants_are_sliced_at_once() {
        let tiled = cut(&product(8, 8, 8, true), 4, "");
        let groups = groups(&tiled);
        assert_eq!((groups.len(), groups.values().all(|name| name == "y_node")), (4, true));
        assert_eq!(tiled.nodes().iter().filter(|node| node.operator.is("Slice")).count(), 2);
    }

    proptest! {
        #[test]
        fn tiles_compute_what_the_product_does(
            m in 1usize..20, k in 1usize..12, n in 1usize..20, size in 1usize..8, constant: bool,
        ) {
            let program = product(m, k, n, constant);
            let tiled = cut(&program, size, "");
            let inputs: Vec<Tensor> = program.inputs().iter().map(|id| {
                let value = program.value(*id).unwrap();
                let values = (0..value.elements()).map(|i| (i as f32 * 0.7).sin()).collect();
                Tensor::from_vec(&value.shape, values).unwrap()
            }).collect();
            let run = |program: &Program| hetero_reference::run(program, &inputs, &Standard, 1 << 20).unwrap();
            let (whole, tiles) = (run(&program), run(&tiled));
            prop_assert_eq!(whole[0].bytes(), tiles[0].bytes());
        }
    }
}
