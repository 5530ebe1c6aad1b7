//! Regions without what says the same again.

use foldhash::HashMap;
use hetero_hal::{Dim, Graph, Program, Result, ValueId};
use hetero_reference::Standard;

use crate::executable::{SMALL, for_kernels};
use crate::lower::functions::gathered_open;

/// Returns the region as it is compiled for the sizes of runs, which takes time for each node and
/// each value.
///
/// A model asks many values for their shapes, and most of these are the same: each layer computes
/// from its own values the sizes that all layers have.
/// Here the first value of a type is asked, equal nodes are one, and so are the nodes of a function
/// such as Gelu.
/// Inputs and outputs are as before.
pub(super) fn simplified(program: Program) -> Result<Program> {
    let extents = program.extents().to_vec();
    let mut graph = program.into_graph();
    ask_the_first(&mut graph);
    graph.merge_equal(&Standard);
    let trim = |graph: &mut Graph| {
        let needed = graph.trim(&vec![true; graph.outputs.len()]);
        compact(graph, needed);
    };
    trim(&mut graph);
    let program = Program::new(graph, extents.clone())?;
    let mut graph = match gathered_open(&program) {
        Some(mut graph) => {
            trim(&mut graph);
            graph
        }
        None => program.into_graph(),
    };
    // A small constant that is not aligned would be copied for each size.
    // Large ones are kept by where they lie, and stay there.
    for constant in graph.values.iter_mut().filter_map(|value| value.constant.as_mut()) {
        if constant.bytes().len() <= SMALL {
            *constant = for_kernels(constant)?;
        }
    }
    Program::new(graph, extents)
}

/// Makes each `Shape` ask the first value of its type; sizes of one extent are equal in each run.
fn ask_the_first(graph: &mut Graph) {
    let Graph { values, nodes, inputs, .. } = graph;
    let mut first: HashMap<&[Dim], ValueId> = HashMap::default();
    let mut first_like = |id: ValueId| match &values[id.index()].ty.dims {
        Some(dims) => *first.entry(dims).or_insert(id),
        None => id,
    };
    for &id in inputs.iter() {
        first_like(id);
    }
    for node in nodes {
        if node.operator.is("Shape") {
            node.inputs.iter_mut().flatten().for_each(|id| *id = first_like(*id));
        }
        for &id in node.outputs.iter().flatten() {
            first_like(id);
        }
    }
}

/// Takes out the values that nothing needs; inputs stay.
fn compact(graph: &mut Graph, mut used: Vec<bool>) {
    graph.inputs.iter().for_each(|id| used[id.index()] = true);
    let mut count = 0;
    let places: Vec<ValueId> = used
        .iter()
        .map(|&used| {
            count += u32::from(used);
            ValueId(count.saturating_sub(1))
        })
        .collect();
    let mut used = used.into_iter();
    graph.values.retain(|_| used.next().unwrap_or(false));
    graph.nodes.iter_mut().for_each(|node| *node = node.remapped(|id| places[id.index()]));
    graph.inputs.iter_mut().chain(&mut graph.outputs).for_each(|id| *id = places[id.index()]);
}

#[cfg(test)]
mod tests {
    use hetero_hal::{DType, Extent, ExtentId, Node, Operator, Tensor, TensorType, Value};

    use super::*;

    /// Two layers, each of which asks its own value for the length.
    #[test]
    fn layers_that_ask_for_the_same_sizes_ask_once() {
        let length = Dim::Data { bound: 9, extent: Some(ExtentId(0)) };
        let mut graph = Graph { name: "layers".into(), ..Graph::default() };
        let mut value = |name: &str, ty: TensorType, constant: Option<Tensor>| {
            graph.values.push(Value { name: name.into(), ty, constant });
            ValueId(graph.values.len() as u32 - 1)
        };
        let rows = || TensorType::new(DType::F32, vec![length.clone(), Dim::Known(4)]);
        let (sizes, size) = (TensorType::exact(DType::I64, &[2]), TensorType::exact(DType::I64, &[1]));
        let mut last = value("x", rows(), None);
        let index = value("index", size.clone(), Some(Tensor::from_vec(&[1], vec![0i64]).unwrap()));
        let inputs = vec![last];
        let mut nodes = vec![];
        let mut node = |name: &str, inputs: Vec<ValueId>, output: ValueId| {
            let inputs = inputs.into_iter().map(Some).collect();
            nodes.push(Node {
                name: format!("{name}{}", output.0).into(),
                operator: Operator::new(name, 13),
                inputs,
                outputs: vec![Some(output)],
            });
            output
        };
        for layer in 0..2 {
            let own = node("Relu", vec![last], value(&format!("own{layer}"), rows(), None));
            let shape = node("Shape", vec![own], value(&format!("shape{layer}"), sizes.clone(), None));
            let first = node("Gather", vec![shape, index], value(&format!("first{layer}"), size.clone(), None));
            let flat = vec![length.clone(), Dim::Known(4)];
            let tiled = value(&format!("tiled{layer}"), TensorType::new(DType::F32, flat), None);
            last = node("Expand", vec![own, first], tiled);
        }
        (graph.nodes, graph.inputs, graph.outputs) = (nodes, inputs, vec![last]);
        let program = Program::new(graph, vec![Extent { bound: 9 }]).unwrap();
        let simple = simplified(program).unwrap();
        let count = |name: &str| simple.nodes().iter().filter(|node| node.operator.is(name)).count();
        assert_eq!([count("Shape"), count("Gather"), count("Relu"), count("Expand")], [1, 1, 2, 2]);
        assert_eq!(simple.values().len(), 1 + 1 + 2 + 2 + 2);
    }

    /// A Gelu of five nodes, of a value whose length only a run knows; with `other`, something else
    /// reads the sum inside of it.
    #[test]
    fn a_function_of_open_sizes_is_one_node_where_nothing_reads_its_inside() {
        // Each value has an extent of its own, as inference makes them.
        let rows = |value: u32| {
            let length = Dim::Data { bound: 9, extent: Some(ExtentId(value)) };
            TensorType::new(DType::F32, vec![length, Dim::Known(4)])
        };
        for (other, expected) in [(false, &["Gelu"][..]), (true, &["Div", "Erf", "Add", "Mul", "Mul"][..])] {
            let mut graph = Graph { name: "gelu".into(), ..Graph::default() };
            let mut value = |name: &str, constant: Option<f32>| {
                let number = graph.values.len() as u32;
                let ty = if constant.is_some() { TensorType::exact(DType::F32, &[]) } else { rows(number) };
                graph.values.push(Value { name: name.into(), ty, constant: constant.map(Tensor::scalar) });
                ValueId(graph.values.len() as u32 - 1)
            };
            let [x, a, b, c, d, y] = ["x", "a", "b", "c", "d", "y"].map(|name| value(name, None));
            let numbers = [("root", std::f32::consts::SQRT_2), ("one", 1.0), ("half", 0.5)];
            let [root, one, half] = numbers.map(|(name, number)| value(name, Some(number)));
            let lines = [
                ("Div", vec![x, root], a),
                ("Erf", vec![a], b),
                ("Add", vec![b, one], c),
                ("Mul", vec![x, c], d),
                ("Mul", vec![d, half], y),
            ];
            graph.nodes = lines
                .map(|(name, inputs, output)| Node {
                    name: format!("make {}", output.0).into(),
                    operator: Operator::new(name, 13),
                    inputs: inputs.into_iter().map(Some).collect(),
                    outputs: vec![Some(output)],
                })
                .into();
            (graph.inputs, graph.outputs) = (vec![x], if other { vec![y, c] } else { vec![y] });
            let simple = simplified(Program::new(graph, vec![Extent { bound: 9 }; 6]).unwrap()).unwrap();
            let names: Vec<&str> = simple.nodes().iter().map(|node| &*node.operator.name).collect();
            assert_eq!(names, expected);
            assert!(other || simple.values().len() == 2);
        }
    }
}
