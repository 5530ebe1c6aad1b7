//! Binding: a [`Model`] and shapes make a [`Program`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use hetero_hal::{Allowance, Attribute, DType, Dim, Graph, Model, Node, OperatorSet, Program, Tensor, ValueId};

use crate::error::{Error, Result};
use crate::infer::{check_operators, infer_expanding};
use crate::open;

/// The shapes, sizes and contents to which a model is bound.
#[derive(Clone, Debug, Default)]
pub struct Binding {
    /// The shapes of inputs, by name; an input that is left out has the model's own shape.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// The sizes of symbolic dimensions, by name, where `shapes` decides none.
    pub symbols: BTreeMap<String, usize>,
    /// The contents of inputs that stay the same in every run, by name; they become constants.
    pub constants: BTreeMap<String, Tensor>,
    /// The dimensions of inputs, by input and axis, whose size above is only the largest that runs
    /// have; each run brings its own size.
    /// Dimensions of one symbol are open together, and have one size in a run.
    pub open: BTreeSet<(String, usize)>,
    /// The size for a dimension that nothing decides; `None` makes such a dimension an error.
    pub default_size: Option<usize>,
    /// The memory and the time that binding may take.
    pub allowance: Allowance,
}

/// A model that is bound to shapes.
#[derive(Clone, Debug)]
pub struct BoundModel {
    /// The program that the binding made.
    pub program: Program,
    /// The sizes of the symbolic dimensions.
    pub symbols: BTreeMap<String, usize>,
    /// The dimensions that nothing decided and that got [`Binding::default_size`], as `input[axis]`
    /// or the symbol's name.
    pub assumed: Vec<String>,
    /// What the program gives in another form than the file says, a sentence each.
    pub notes: Vec<String>,
}

/// Binds a model to shapes.
///
/// Symbolic dimensions get sizes.
/// Inputs that hold a default lose their port unless a shape is given for them.
/// Branches whose condition is known are taken, and values that shapes alone decide become
/// constants.
///
/// # Errors
/// `Missing` with one report of all operators that `operators` lacks.
/// `Shapes` where the shapes do not fit the model's inputs or leave a dimension open.
/// `Hal` where a node breaks a rule of the standard under these shapes, or the allowance does not
/// suffice.
pub fn bind(model: &Model, binding: &Binding, operators: &dyn OperatorSet) -> Result<BoundModel> {
    check_operators(model, operators).map_err(Error::Missing)?;
    let mut graph = model.graph.clone();
    let mut assumed = Vec::new();
    let declared = declared(&graph);
    let mut found = Symbols::default();
    bind_inputs(&mut graph, binding, &mut found, &mut assumed)?;
    let Symbols { sizes: symbols, torn } = found;
    let mut notes = tables(&model.graph);
    notes.extend(torn.iter().map(|(symbol, sizes)| {
        let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        format!("the file has one name for dimensions of the sizes {}: '{symbol}'", sizes.join(" and "))
    }));
    let allowance = &binding.allowance;
    if !binding.open.is_empty() {
        let open = open::Open::find(&graph, &declared, &binding.open)?;
        let program = open::bind(graph, &open, &symbols, operators, allowance)?;
        return Ok(BoundModel { program, symbols, assumed, notes });
    }
    for value in &mut graph.values {
        for dim in value.ty.dims.iter_mut().flatten() {
            if let Dim::Symbol(name) = dim
                && let Some(&size) = symbols.get(&**name)
            {
                *dim = Dim::Known(size);
            }
        }
    }
    let inferred = infer_expanding(&mut graph, operators, allowance)?;
    settle(&mut graph, inferred.values);
    let program = Program::new(graph, inferred.extents)?;
    Ok(BoundModel { program, symbols, assumed, notes })
}

/// The sizes that shapes of inputs give to symbolic dimensions.
#[derive(Default)]
struct Symbols {
    sizes: BTreeMap<String, usize>,
    /// The symbols that inputs give several sizes, which therefore say nothing of other values.
    ///
    /// Exporters name dimensions by the axis, and so call the widths of two inputs the same.
    torn: BTreeMap<String, BTreeSet<usize>>,
}

impl Symbols {
    /// Notes the size that an input has in a dimension of this symbol.
    fn note(&mut self, symbol: &str, size: usize) {
        if let Some(sizes) = self.torn.get_mut(symbol) {
            sizes.insert(size);
            return;
        }
        let known = *self.sizes.entry(symbol.to_owned()).or_insert(size);
        if known != size {
            self.sizes.remove(symbol);
            self.torn.insert(symbol.to_owned(), [known, size].into());
        }
    }
}

/// Returns a sentence for each output of which the file makes a sequence of maps.
///
/// There are no maps here: a `ZipMap`, which exporters put behind classifiers, passes on the table
/// of the probabilities, and only says what its columns are called.
fn tables(graph: &Graph) -> Vec<String> {
    const MOST: usize = 20;
    let zips = graph.nodes.iter().filter(|node| {
        let operator = &node.operator;
        (&*operator.domain, &*operator.name) == ("ai.onnx.ml", "ZipMap")
    });
    let sentence = |node: &Node| {
        let output = node.outputs.first().copied().flatten().filter(|id| graph.outputs.contains(id))?;
        let ints = node.operator.ints("classlabels_int64s").ok().flatten().unwrap_or_default();
        let mut labels: Vec<String> = ints.iter().take(MOST).map(ToString::to_string).collect();
        let mut count = ints.len();
        if let Some(Attribute::Strings(texts)) = node.operator.attribute("classlabels_strings") {
            labels.extend(texts.iter().take(MOST).map(|text| format!("'{}'", String::from_utf8_lossy(text))));
            count += texts.len();
        }
        let more = count.checked_sub(labels.len()).filter(|&more| more > 0);
        let more = more.map(|more| format!(" and {more} more")).unwrap_or_default();
        let (name, labels) = (&graph.values[output.index()].name, labels.join(", "));
        Some(format!(
            "the output '{name}' is a table with a column for each of the labels {labels}{more}; \
             in the file it is a sequence of maps, which a ZipMap makes"
        ))
    };
    zips.filter_map(sentence).collect()
}

/// Returns the dimensions that a model's file declares for each of its inputs.
fn declared(graph: &Graph) -> HashMap<ValueId, Option<Vec<Dim>>> {
    graph.inputs.iter().map(|id| (*id, graph.values[id.index()].ty.dims.clone())).collect()
}

fn bind_inputs(graph: &mut Graph, binding: &Binding, found: &mut Symbols, assumed: &mut Vec<String>) -> Result<()> {
    let names: Vec<Arc<str>> = graph.inputs.iter().map(|id| graph.values[id.index()].name.clone()).collect();
    let known: HashSet<&str> = names.iter().map(|name| &**name).collect();
    for given in binding.shapes.keys().chain(binding.constants.keys()) {
        if !known.contains(&**given) {
            return Err(Error::Shapes(format!("there is no input '{given}'; the inputs are: {}", names.join(", "))));
        }
    }
    for (name, &id) in names.iter().zip(&graph.inputs) {
        let value = &mut graph.values[id.index()];
        if let Some(content) = binding.constants.get(&**name) {
            if value.ty.dtype.is_some_and(|dtype| dtype != content.dtype()) {
                return Err(Error::Shapes(format!("input '{name}' is {}, not {}", value.ty, content.dtype())));
            }
            unify(name, value.ty.dims.as_deref(), content.shape(), found)?;
            value.ty = hetero_hal::TensorType::exact(content.dtype(), content.shape());
            value.constant = Some(content.clone());
        } else if let Some(shape) = binding.shapes.get(&**name) {
            unify(name, value.ty.dims.as_deref(), shape, found)?;
            value.ty.dims = Some(shape.iter().map(|&size| Dim::Known(size)).collect());
            value.constant = None;
        }
    }
    let Symbols { sizes: symbols, torn } = found;
    for (name, &size) in &binding.symbols {
        if torn.contains_key(name) {
            continue;
        }
        if *symbols.entry(name.clone()).or_insert(size) != size {
            return Err(Error::Shapes(format!(
                "the dimension '{name}' is said to be {size}, but the inputs make it {}",
                symbols[name]
            )));
        }
    }
    graph.inputs.retain(|id| graph.values[id.index()].constant.is_none());
    for id in graph.inputs.clone() {
        let value = &mut graph.values[id.index()];
        let name = value.name.clone();
        // How many parts there are is each run's affair.
        if value.ty.dtype.is_some_and(DType::is_parts) {
            continue;
        }
        let Some(dims) = &mut value.ty.dims else {
            return Err(Error::Shapes(format!("the model does not say the rank of input '{name}'; give its shape")));
        };
        for (axis, dim) in dims.iter_mut().enumerate() {
            let size = match dim {
                Dim::Known(size) => *size,
                Dim::Symbol(symbol) => match (symbols.get(&**symbol), binding.default_size) {
                    (Some(&size), _) => size,
                    (None, Some(size)) => {
                        assumed.push(symbol.to_string());
                        symbols.insert(symbol.to_string(), size);
                        size
                    }
                    (None, None) => {
                        return Err(Error::Shapes(format!(
                            "the dimension '{symbol}' of input '{name}' is open; give its shape"
                        )));
                    }
                },
                _ => match binding.default_size {
                    Some(size) => {
                        assumed.push(format!("{name}[{axis}]"));
                        size
                    }
                    None => {
                        return Err(Error::Shapes(format!(
                            "dimension {axis} of input '{name}' is open; give its shape"
                        )));
                    }
                },
            };
            *dim = Dim::Known(size);
        }
    }
    Ok(())
}

/// Checks that a shape fits the dimensions that the model gives for an input, and notes the symbols
/// that the shape decides.
fn unify(name: &str, dims: Option<&[Dim]>, shape: &[usize], symbols: &mut Symbols) -> Result<()> {
    let Some(dims) = dims else {
        return Ok(());
    };
    let declared = || dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mismatch = || Error::Shapes(format!("input '{name}' is [{}], not {shape:?}", declared()));
    if dims.len() != shape.len() {
        return Err(mismatch());
    }
    for (dim, &size) in dims.iter().zip(shape) {
        match dim {
            Dim::Known(known) if *known != size => return Err(mismatch()),
            Dim::Symbol(symbol) => symbols.note(symbol, size),
            _ => {}
        }
    }
    Ok(())
}

/// Values that shapes alone decide become constants, and nodes that compute nothing else go.
pub(crate) fn settle(graph: &mut Graph, known: HashMap<ValueId, Tensor>) {
    for (id, content) in known {
        graph.values[id.index()].constant = Some(content);
    }
    let values = &graph.values;
    graph.nodes.retain(|node| {
        let mut outputs = node.outputs.iter().flatten().peekable();
        outputs.peek().is_none() || outputs.any(|id| values[id.index()].constant.is_none())
    });
    // A node that stays because of one output writes its other outputs too, so these are no
    // constants.
    for node in &graph.nodes {
        for id in node.outputs.iter().flatten() {
            graph.values[id.index()].constant = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::{DType, Operator, TensorType, Value};

    use super::*;

    /// Returns a model that adds `x` and `y`, which both have the dimension `n`.
    fn sum() -> Model {
        let of = |name: &str| {
            let dims = Some(vec![Dim::Symbol("n".into())]);
            Value { name: name.into(), ty: TensorType { dtype: Some(DType::F32), dims }, constant: None }
        };
        let graph = Graph {
            name: "sum".into(),
            values: vec![of("x"), of("y"), of("z")],
            nodes: vec![Node {
                name: "add".into(),
                operator: Operator::new("Add", 17),
                inputs: vec![Some(ValueId(0)), Some(ValueId(1))],
                outputs: vec![Some(ValueId(2))],
            }],
            inputs: vec![ValueId(0), ValueId(1)],
            outputs: vec![ValueId(2)],
            captures: vec![],
        };
        Model { graph, opsets: [("".into(), 17)].into(), ..Model::default() }
    }

    fn bound(x: usize, y: usize) -> Result<BoundModel> {
        let shapes = [("x".to_owned(), vec![x]), ("y".to_owned(), vec![y])].into();
        bind(&sum(), &Binding { shapes, ..Binding::default() }, &hetero_reference::Standard)
    }

    #[test]
    fn a_symbol_of_two_sizes_says_nothing_and_a_note_says_so() {
        let bound = bound(1, 5).unwrap();
        assert_eq!(bound.program.value(bound.program.outputs()[0]).unwrap().shape, [5]);
        assert!(bound.symbols.is_empty());
        assert_eq!(bound.notes, ["the file has one name for dimensions of the sizes 1 and 5: 'n'"]);
    }

    #[test]
    fn sizes_that_an_operator_does_not_take_are_its_error() {
        let error = bound(4, 5).unwrap_err().to_string();
        assert!(error.contains("Add"), "{error}");
    }

    #[test]
    fn a_map_of_probabilities_is_their_table_and_a_note_says_so() {
        let zip = Operator { domain: "ai.onnx.ml".into(), ..Operator::new("ZipMap", 1) };
        let labels = ["no", "yes"].map(|label| label.as_bytes().into());
        let graph = Graph {
            name: "classifier".into(),
            values: vec![
                Value { name: "scores".into(), ty: TensorType::exact(DType::F32, &[4, 2]), constant: None },
                Value { name: "probabilities".into(), ..Value::default() },
            ],
            nodes: vec![Node {
                name: "zip".into(),
                operator: zip.with("classlabels_strings", Attribute::Strings(labels.to_vec())),
                inputs: vec![Some(ValueId(0))],
                outputs: vec![Some(ValueId(1))],
            }],
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(1)],
            captures: vec![],
        };
        let opsets = [("".into(), 17), ("ai.onnx.ml".into(), 1)].into();
        let model = Model { graph, opsets, ..Model::default() };
        let bound = bind(&model, &Binding::default(), &hetero_reference::Standard).unwrap();
        assert_eq!(bound.program.value(bound.program.outputs()[0]).unwrap().shape, [4, 2]);
        let [note] = &bound.notes[..] else { panic!("{:?}", bound.notes) };
        assert!(note.contains("'probabilities' is a table") && note.contains("'no', 'yes'"), "{note}");
    }
}
