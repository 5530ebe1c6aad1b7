//! Binding to bounds: a program for all sizes of its inputs up to some.
//!
//! Inference with open sizes proves what holds for all of them, such as the values that are
//! constant, but often little of the rest: where a file computes shapes from shapes, the contents of
//! these decide sizes, and they differ from run to run.
//! So the graph is inferred twice more, for the bounds and for smaller sizes.
//! The first gives each value its bound, and a size that both agree on is taken as known.
//! Neither is proven for the sizes between, so whoever runs the program computes the sizes of each
//! run anew and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::HashMap;
use hetero_hal::{Allowance, Dim, Extent, ExtentId, Graph, OperatorSet, Program, TensorType, ValueId};

use crate::bind::settle;
use crate::error::{Error, Result};
use crate::infer::{infer, infer_open};

/// The open dimensions of a graph's inputs, and the extents that hold their sizes.
pub(crate) struct Open {
    /// The extent of each open dimension, by input and axis.
    dims: BTreeMap<(ValueId, usize), ExtentId>,
    /// The bounds.
    extents: Vec<Extent>,
    /// The symbols that are open.
    symbols: BTreeSet<Arc<str>>,
}

impl Open {
    /// Finds the dimensions, by the names of inputs, in a graph whose inputs have their bounds.
    pub(crate) fn find(
        graph: &Graph,
        declared: &HashMap<ValueId, Option<Vec<Dim>>>,
        open: &BTreeSet<(String, usize)>,
    ) -> Result<Open> {
        let mut found = Open { dims: BTreeMap::new(), extents: Vec::new(), symbols: BTreeSet::new() };
        let mut of_symbols: BTreeMap<Arc<str>, ExtentId> = BTreeMap::new();
        for (name, axis) in open {
            let input = graph.inputs.iter().find(|id| *graph.values[id.index()].name == **name);
            let input = *input.ok_or_else(|| Error::Shapes(format!("there is no open input '{name}'")))?;
            let bound = graph.values[input.index()].ty.dims.as_ref().and_then(|dims| dims.get(*axis)?.known());
            let bound = bound.ok_or_else(|| Error::Shapes(format!("input '{name}' has no dimension {axis}")))?;
            let mut fresh = || {
                found.extents.push(Extent { bound });
                ExtentId(found.extents.len() as u32 - 1)
            };
            let extent = match declared.get(&input).and_then(Option::as_ref).and_then(|dims| dims.get(*axis)) {
                Some(Dim::Known(size)) => {
                    return Err(Error::Shapes(format!("dimension {axis} of input '{name}' is {size}, and not open")));
                }
                Some(Dim::Symbol(symbol)) => *of_symbols.entry(symbol.clone()).or_insert_with(fresh),
                _ => fresh(),
            };
            found.dims.insert((input, *axis), extent);
        }
        found.symbols = of_symbols.into_keys().collect();
        Ok(found)
    }

    /// Sets the sizes of open dimensions.
    fn set(&self, graph: &mut Graph, dim: impl Fn(ExtentId) -> Dim) {
        for (&(input, axis), &extent) in &self.dims {
            if let Some(into) = graph.values[input.index()].ty.dims.as_mut().and_then(|dims| dims.get_mut(axis)) {
                *into = dim(extent);
            }
        }
    }

    fn bound(&self, extent: ExtentId) -> usize {
        self.extents[extent.index()].bound
    }
}

/// Binds a graph whose inputs have their bounds.
pub(crate) fn bind(
    mut graph: Graph,
    open: &Open,
    symbols: &BTreeMap<String, usize>,
    operators: &dyn OperatorSet,
    allowance: &Allowance,
) -> Result<Program> {
    let is_input: Vec<bool> = {
        let mut mask = vec![false; graph.values.len()];
        graph.inputs.iter().for_each(|id| mask[id.index()] = true);
        mask
    };
    for (value, is_input) in graph.values.iter_mut().zip(&is_input) {
        for dim in value.ty.dims.iter_mut().flatten() {
            if let Dim::Symbol(name) = dim {
                // A file's claim that some value has an open size is no proof that it does.
                let size = symbols.get(&**name).filter(|_| *is_input || !open.symbols.contains(name));
                *dim = size.map_or(Dim::Unknown, |&size| Dim::Known(size));
            }
        }
    }
    open.set(&mut graph, |extent| Dim::Data { bound: open.bound(extent), extent: Some(extent) });
    let inferred = infer_open(&mut graph, operators, allowance, open.extents.clone())?;
    let at = |size: &dyn Fn(usize) -> usize| -> Result<Graph> {
        let mut exact = graph.clone();
        for (value, is_input) in exact.values.iter_mut().zip(is_input.iter().chain(std::iter::repeat(&false))) {
            if !is_input && value.constant.is_none() {
                value.ty = TensorType { dtype: value.ty.dtype, dims: None };
            }
        }
        open.set(&mut exact, |extent| Dim::Known(size(open.bound(extent))));
        infer(&mut exact, operators, allowance)?;
        Ok(exact)
    };
    let most = at(&|bound| bound)?;
    // Smaller sizes may not fit the model, and then nothing is known of them.
    let fewer = at(&|bound| (bound / 2).max(2).min(bound)).ok();
    let mut extents = inferred.extents;
    for (index, value) in graph.values.iter_mut().enumerate() {
        if value.constant.is_some() || is_input.get(index).copied().unwrap_or(false) {
            continue;
        }
        let of = |graph: &Graph| graph.values[index].ty.clone();
        settle_type(&mut value.ty, &of(&most), fewer.as_ref().map(of).as_ref(), &mut extents);
    }
    settle(&mut graph, inferred.values);
    Ok(Program::new(graph, extents)?)
}

/// Completes what inference proves of a type by the types for the bounds and for fewer sizes.
fn settle_type(ty: &mut TensorType, most: &TensorType, fewer: Option<&TensorType>, extents: &mut Vec<Extent>) {
    ty.dtype = ty.dtype.or(most.dtype);
    let Some(bounds) = &most.dims else { return };
    let proven = match ty.dims.take() {
        Some(dims) if dims.len() == bounds.len() => dims,
        _ => vec![Dim::Unknown; bounds.len()],
    };
    let fewer = fewer.and_then(|ty| ty.dims.as_ref()).filter(|dims| dims.len() == bounds.len());
    let mut fresh = |bound: usize| {
        extents.push(Extent { bound });
        Dim::Data { bound, extent: Some(ExtentId(extents.len() as u32 - 1)) }
    };
    let dims = proven.into_iter().zip(bounds).enumerate().map(|(axis, (proven, most))| match (proven, most) {
        (Dim::Known(size), _) => Dim::Known(size),
        (Dim::Data { bound, extent: Some(extent) }, most) => {
            Dim::Data { bound: most.bound().map_or(bound, |most| most.min(bound)), extent: Some(extent) }
        }
        (_, &Dim::Known(size)) => match fewer.map(|dims| &dims[axis]) {
            Some(&Dim::Known(same)) if same == size => Dim::Known(size),
            _ => fresh(size),
        },
        (_, Dim::Data { bound, .. }) => fresh(*bound),
        (proven, _) => proven,
    });
    ty.dims = Some(dims.collect());
}
