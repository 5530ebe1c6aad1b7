//! Operators of classical machine learning, from the standard's domain `ai.onnx.ml`.

use foldhash::HashMap;
use hetero_hal::{
    Attribute, DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType,
    element_count, spend, take,
};

use crate::indexing::pick;
use crate::numbers::{floats, pack};
use crate::shapes::{infer_same, size};
use crate::text::strings;

pub(crate) static DEFINITIONS: &[Definition] = &[
    of_domain(Definition::new("ArrayFeatureExtractor", 1, (2, 2), infer_extractor, extract)),
    of_domain(Definition::new("Binarizer", 1, (1, 1), infer_same, binarize)),
    of_domain(Definition::new("LabelEncoder", 2, (1, 1), infer_encoder, encode)),
    of_domain(Definition::new("TreeEnsemble", 5, (1, 1), infer_trees, trees)),
];

const fn of_domain(mut definition: Definition) -> Definition {
    definition.domain = "ai.onnx.ml";
    definition
}

fn infer_extractor(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let count = match inference.dims(1)? {
        Some(dims) => dims.iter().map(Dim::known).collect::<Option<Vec<_>>>().and_then(|dims| element_count(&dims)),
        None => None,
    };
    let count = count.map_or(Dim::Unknown, Dim::Known);
    let dims = match ty.dims.as_deref() {
        Some([]) => return Err(Error::invalid_model(format!("{} of a scalar", inference.operator))),
        Some([_]) => Some(vec![Dim::Known(1), count]),
        Some([before @ .., _]) => Some([before, &[count]].concat()),
        None => None,
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

/// Picks columns of the last axis.
fn extract(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (input, chosen) = (evaluation.input(0)?, evaluation.input(1)?.to_i64_vec()?);
    let Some((&width, before)) = input.shape().split_last() else {
        return Err(Error::invalid_model(format!("{operator} of a scalar")));
    };
    let outside = || Error::new(hetero_hal::ErrorKind::Execution, format!("{operator} of columns outside {width}"));
    let column = |&at: &i64| usize::try_from(at).ok().filter(|&at| at < width).ok_or_else(outside);
    let columns = chosen.iter().map(column).collect::<Result<Vec<_>>>()?;
    let rows: usize = before.iter().product();
    let shape = if before.is_empty() { vec![1, columns.len()] } else { [before, &[columns.len()]].concat() };
    evaluation.reserve(input.dtype(), &shape)?;
    let positions = (0..rows).flat_map(|row| columns.iter().map(move |column| Some(row * width + column)));
    Ok(vec![pick(input, &shape, positions, None)?])
}

fn binarize(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let threshold = f64::from(evaluation.operator.float("threshold")?.unwrap_or(0.0));
    let flags = floats(input)?.into_iter().map(|value| f64::from(u8::from(value > threshold))).collect();
    Ok(vec![pack(flags, input.dtype(), input.shape())?])
}

/// Returns the list that an operator sets under one of these beginnings with an ending of a type,
/// as a tensor.
fn listed(operator: &Operator, name: &str) -> Result<Option<Tensor>> {
    let attribute = |ending: &str| operator.attribute(&format!("{name}_{ending}"));
    if let Some(texts) = strings(operator, &format!("{name}_strings"))? {
        take(texts.len(), 64)?;
        return Ok(Some(Tensor::from_strings(&[texts.len()], texts.into_iter().map(Into::into).collect())?));
    }
    match (attribute("int64s"), attribute("floats"), attribute("tensor")) {
        (Some(Attribute::Ints(values)), ..) => Ok(Some(Tensor::from_vec(&[values.len()], values.clone())?)),
        (_, Some(Attribute::Floats(values)), _) => Ok(Some(Tensor::from_vec(&[values.len()], values.clone())?)),
        (.., Some(Attribute::Tensor(tensor))) => Ok(Some(tensor.clone())),
        _ => Ok(None),
    }
}

/// Returns the values of a LabelEncoder.
fn values(operator: &Operator) -> Result<Tensor> {
    listed(operator, "values")?.ok_or_else(|| Error::invalid_model(format!("{operator} lacks its values")))
}

fn infer_encoder(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = Some(values(inference.operator)?.dtype());
    Ok(vec![TensorType { dtype, dims: inference.input(0)?.ty.dims.clone() }])
}

/// Returns the value that stands for keys that are not listed.
fn default(operator: &Operator, dtype: DType) -> Result<Tensor> {
    let default = match dtype {
        DType::String => {
            Tensor::from_strings(&[1], vec![operator.text("default_string")?.unwrap_or("_Unused").into()])?
        }
        DType::I64 => Tensor::scalar(operator.int("default_int64")?.unwrap_or(-1)),
        DType::F32 => Tensor::scalar(operator.float("default_float")?.unwrap_or(-0.0)),
        other => return Err(Error::invalid_model(format!("{operator} lacks its default, a tensor of {other}"))),
    };
    Ok(operator.tensor("default_tensor")?.cloned().unwrap_or(default))
}

/// The bits by which keys that are numbers are told apart: all NaN are one key, and both zeros are.
fn bits(tensor: &Tensor) -> Result<Vec<u64>> {
    if let Ok(whole) = tensor.to_i64_vec() {
        return Ok(whole.into_iter().map(|value| value as u64).collect());
    }
    let bits = |value: f64| if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() };
    Ok(floats(tensor)?.into_iter().map(bits).collect())
}

/// Puts listed values in the place of listed keys.
fn encode(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let keys = listed(operator, "keys")?.ok_or_else(|| Error::invalid_model(format!("{operator} lacks its keys")))?;
    let values = values(operator)?;
    if keys.len() != values.len() || keys.dtype() != input.dtype() {
        return Err(Error::invalid_model(format!("{operator} of {input:?} by the keys {keys:?} to {values:?}")));
    }
    let default = match operator.attribute("default_tensor") {
        Some(Attribute::Tensor(default)) if default.dtype() != values.dtype() || default.len() != 1 => {
            return Err(Error::invalid_model(format!("{operator} has the default {default:?}")));
        }
        Some(Attribute::Tensor(default)) => default.clone(),
        _ => self::default(operator, values.dtype())?,
    };
    take(keys.len().saturating_add(input.len()), 64)?;
    spend(8 * (keys.len() + input.len()))?;
    evaluation.reserve(values.dtype(), input.shape())?;
    let positions = match (keys.strings(), input.strings()) {
        (Ok(keys), Ok(input)) => found(keys, input),
        _ => found(&bits(&keys)?, &bits(input)?),
    };
    Ok(vec![pick(&values, input.shape(), positions, Some(&default))?])
}

/// Returns the position among the keys of each element; the first of equal keys counts.
fn found<T: std::hash::Hash + Eq>(keys: &[T], elements: &[T]) -> Vec<Option<usize>> {
    let mut places: HashMap<&T, usize> = HashMap::default();
    for (place, key) in keys.iter().enumerate() {
        places.entry(key).or_insert(place);
    }
    elements.iter().map(|element| places.get(element).copied()).collect()
}

fn targets(operator: &Operator) -> Result<usize> {
    size(operator.int("n_targets")?.unwrap_or(1))
}

fn infer_trees(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let rows = match ty.dims.as_deref() {
        Some([rows, _]) => rows.clone(),
        Some(dims) => return Err(Error::invalid_model(format!("TreeEnsemble of a tensor of rank {}", dims.len()))),
        None => Dim::Unknown,
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims: Some(vec![rows, Dim::Known(targets(inference.operator)?)]) }])
}

/// Where a tree goes on from a node.
#[derive(Clone, Copy)]
enum Next {
    Node(usize),
    Leaf(usize),
}

/// The nodes and leaves of a TreeEnsemble, all checked to be there.
struct Trees {
    features: Vec<usize>,
    modes: Vec<u8>,
    splits: Vec<f64>,
    /// Where nodes that ask for a member have their members.
    members: Vec<std::ops::Range<usize>>,
    all_members: Vec<f64>,
    missing_goes_on: Vec<bool>,
    /// Where each node goes on where its condition does not hold, and where it does.
    next: Vec<[Next; 2]>,
    leaves: Vec<(usize, f64)>,
    roots: Vec<Next>,
}

/// The number of the comparison by membership, which is the last of the seven.
const MEMBER: u8 = 6;

impl Trees {
    fn of(operator: &Operator, features: usize, targets: usize) -> Result<Trees> {
        let broken = |name: &str| Error::invalid_model(format!("{operator} lacks a valid attribute '{name}'"));
        let ints = |name: &str, below: usize| -> Result<Vec<usize>> {
            let list = operator.ints(name)?.ok_or_else(|| broken(name))?;
            take(list.len(), size_of::<usize>())?;
            let checked = list.iter().map(|&v| usize::try_from(v).ok().filter(|&v| v < below));
            checked.collect::<Option<Vec<_>>>().ok_or_else(|| broken(name))
        };
        let numbers = |name: &str| floats(operator.tensor(name)?.ok_or_else(|| broken(name))?);
        let (splits, modes, weights) = (numbers("nodes_splits")?, numbers("nodes_modes")?, numbers("leaf_weights")?);
        let (count, leaves) = (splits.len(), weights.len());
        let modes = modes.iter().map(|&mode| if mode <= f64::from(MEMBER) { mode as u8 } else { MEMBER + 1 });
        let modes: Vec<u8> = modes.collect();
        let ends = ints("leaf_targetids", targets)?;
        let feature = ints("nodes_featureids", features)?;
        let branch = |name: &str, is_leaf: &str| -> Result<Vec<Next>> {
            let (to, is_leaf) = (ints(name, count.max(leaves))?, ints(is_leaf, 2)?);
            take(count, 2 * size_of::<Next>())?;
            if to.len() != count || is_leaf.len() != count {
                return Err(broken(name));
            }
            let next = to.into_iter().zip(is_leaf).map(|(to, is_leaf)| match is_leaf {
                0 if to < count => Ok(Next::Node(to)),
                1 if to < leaves => Ok(Next::Leaf(to)),
                _ => Err(broken(name)),
            });
            next.collect()
        };
        let no = branch("nodes_falsenodeids", "nodes_falseleafs")?;
        let yes = branch("nodes_truenodeids", "nodes_trueleafs")?;
        let missing = match operator.ints("nodes_missing_value_tracks_true")? {
            Some(list) => list.iter().map(|&flag| flag != 0).collect(),
            None => vec![false; count],
        };
        let lengths = [modes.len(), feature.len(), missing.len()];
        if lengths != [count; 3] || ends.len() != leaves || modes.iter().any(|&mode| mode > MEMBER) {
            return Err(broken("nodes_modes"));
        }
        let all_members = match operator.tensor("membership_values")? {
            Some(members) => floats(members)?,
            None => vec![],
        };
        let next: Vec<[Next; 2]> = no.into_iter().zip(yes).map(|(no, yes)| [no, yes]).collect();
        // A tree that is a leaf has a root whose both branches are that leaf.
        let root = |at: usize| match next[at] {
            [Next::Leaf(a), Next::Leaf(b)] if a == b => Next::Leaf(a),
            _ => Next::Node(at),
        };
        let roots = ints("tree_roots", count)?.into_iter().map(root).collect();
        let leaves = ends.into_iter().zip(weights).collect();
        let members = vec![0..0; count];
        let mut trees = Trees {
            features: feature,
            modes,
            splits,
            members,
            all_members,
            missing_goes_on: missing,
            next,
            leaves,
            roots,
        };
        trees.hand_out_members().ok_or_else(|| broken("membership_values"))?;
        Ok(trees)
    }

    /// Gives members to the nodes that ask for them, in the order in which the trees are walked: a
    /// node, what follows where its condition holds, and then the other branch.
    /// NaN ends the members of a node.
    fn hand_out_members(&mut self) -> Option<()> {
        let mut seen = vec![false; self.next.len()];
        let mut begin = 0;
        for root in self.roots.clone() {
            let mut stack = vec![root];
            while let Some(next) = stack.pop() {
                let Next::Node(node) = next else { continue };
                // A node that is met twice is no tree's.
                if std::mem::replace(&mut seen[node], true) {
                    return None;
                }
                if self.modes[node] == MEMBER {
                    let length = self.all_members.get(begin..)?.iter().position(|member| member.is_nan())?;
                    self.members[node] = begin..begin + length;
                    begin += length + 1;
                }
                stack.extend(self.next[node]);
            }
        }
        Some(())
    }

    /// Tells whether a node's condition holds for a row.
    fn holds(&self, node: usize, row: &[f64]) -> bool {
        let (value, split) = (row[self.features[node]], self.splits[node]);
        let holds = match self.modes[node] {
            0 => value <= split,
            1 => value < split,
            2 => value >= split,
            3 => value > split,
            4 => value == split,
            5 => value != split,
            _ => self.all_members[self.members[node].clone()].contains(&value),
        };
        holds || (value.is_nan() && self.missing_goes_on[node])
    }

    /// Returns the leaf in which a row ends.
    fn leaf(&self, root: Next, row: &[f64]) -> Result<(usize, f64)> {
        let mut next = root;
        loop {
            match next {
                Next::Leaf(leaf) => return Ok(self.leaves[leaf]),
                Next::Node(node) => {
                    spend(16 + self.members[node].len())?;
                    next = self.next[node][usize::from(self.holds(node, row))];
                }
            }
        }
    }
}

/// Adds up, or takes the least or largest of, the leaves in which each row ends.
fn trees(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let &[rows, features] = input.shape() else {
        return Err(Error::invalid_model(format!("{operator} of {input:?}")));
    };
    if operator.int("post_transform")?.unwrap_or(0) != 0 {
        return Err(Error::unsupported(format!("{operator} with a post_transform")));
    }
    let targets = targets(operator)?;
    let trees = Trees::of(operator, features, targets)?;
    let count = evaluation.reserve(DType::F64, &[rows, targets])?;
    let (start, join): (f64, fn(f64, f64) -> f64) = match operator.int("aggregate_function")?.unwrap_or(1) {
        0 | 1 => (0.0, |a, b| a + b),
        2 => (f64::INFINITY, f64::min),
        3 => (f64::NEG_INFINITY, f64::max),
        other => return Err(Error::invalid_model(format!("aggregate_function {other} of {operator} is unknown"))),
    };
    let x = floats(input)?;
    let mut result = vec![start; count];
    for (row, sums) in x.chunks(features.max(1)).zip(result.chunks_mut(targets.max(1))) {
        for &root in &trees.roots {
            let (target, weight) = trees.leaf(root, row)?;
            sums[target] = join(sums[target], weight);
        }
    }
    if operator.int("aggregate_function")? == Some(0) {
        result.iter_mut().for_each(|sum| *sum /= trees.roots.len() as f64);
    }
    Ok(vec![pack(result, input.dtype(), &[rows, targets])?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(name: &str, version: u32) -> Operator {
        Operator { domain: "ai.onnx.ml".into(), ..Operator::new(name, version) }
    }

    fn run(operator: &Operator, input: Tensor) -> Result<Tensor> {
        Ok(crate::evaluate(operator, &[Some(input)], 1)?.swap_remove(0))
    }

    #[test]
    fn labels_become_numbers_and_numbers_labels() {
        let words = |list: &[&'static [u8]]| Attribute::Strings(list.iter().map(|&text| text.into()).collect());
        let texts =
            |list: &[&str]| Tensor::from_strings(&[list.len()], list.iter().map(|&t| t.into()).collect()).unwrap();
        let encoder = op("LabelEncoder", 2)
            .with("keys_strings", words(&[b"a", b"b", b"a"]))
            .with("values_int64s", Attribute::Ints(vec![5, 6, 7]));
        let y = run(&encoder, texts(&["b", "a", "c"])).unwrap();
        assert_eq!(*y.view::<i64>().unwrap(), [6, 5, -1]);
        let decoder = op("LabelEncoder", 2)
            .with("keys_floats", Attribute::Floats(vec![f32::NAN, 0.0]))
            .with("values_strings", words(&[b"none", b"zero"]));
        let x = Tensor::from_vec(&[3], vec![-0.0f32, f32::NAN, 1.0]).unwrap();
        assert_eq!(run(&decoder, x.clone()).unwrap(), texts(&["zero", "none", "_Unused"]));
        assert!(run(&encoder, x).is_err(), "keys of another type");
        assert!(run(&encoder.with("values_int64s", Attribute::Ints(vec![5])), texts(&["a"])).is_err());
    }

    /// A tree that tells members of 1 and 2 from the others, and these by their size.
    fn tree() -> Operator {
        let list = |values: &[f32]| Attribute::Tensor(Tensor::from_vec(&[values.len()], values.to_vec()).unwrap());
        let ints = |values: &[i64]| Attribute::Ints(values.to_vec());
        op("TreeEnsemble", 5)
            .with("n_targets", Attribute::Int(1))
            .with("tree_roots", ints(&[0]))
            .with("nodes_splits", list(&[0.0, 5.0]))
            .with("nodes_modes", Attribute::Tensor(Tensor::from_vec(&[2], vec![6u8, 0]).unwrap()))
            .with("nodes_featureids", ints(&[0, 0]))
            .with("nodes_truenodeids", ints(&[0, 1]))
            .with("nodes_trueleafs", ints(&[1, 1]))
            .with("nodes_falsenodeids", ints(&[1, 2]))
            .with("nodes_falseleafs", ints(&[0, 1]))
            .with("leaf_targetids", ints(&[0, 0, 0]))
            .with("leaf_weights", list(&[10.0, 20.0, 30.0]))
            .with("membership_values", list(&[1.0, 2.0, f32::NAN]))
    }

    #[test]
    fn rows_end_in_the_leaves_of_their_tree() {
        let x = Tensor::from_vec(&[4, 1], vec![2.0f32, 3.0, 9.0, f32::NAN]).unwrap();
        assert_eq!(*run(&tree(), x).unwrap().view::<f32>().unwrap(), [10.0, 20.0, 30.0, 30.0]);
    }

    #[test]
    fn trees_that_are_none_are_errors() {
        let x = || Tensor::from_vec(&[1, 1], vec![9.0f32]).unwrap();
        for (name, value) in [
            // A node that leads back to itself has no end.
            ("nodes_falsenodeids", vec![0, 2]),
            ("nodes_falsenodeids", vec![7, 2]),
            ("nodes_falsenodeids", vec![1]),
            ("nodes_truenodeids", vec![-1, 1]),
            ("nodes_featureids", vec![1, 0]),
            ("leaf_targetids", vec![0, 0, 1]),
            ("tree_roots", vec![2]),
            ("tree_roots", vec![0, 0]),
        ] {
            assert!(run(&tree().with(name, Attribute::Ints(value)), x()).is_err(), "{name}");
        }
        let no_members = Attribute::Tensor(Tensor::from_vec(&[1], vec![1.0f32]).unwrap());
        assert!(run(&tree().with("membership_values", no_members), x()).is_err());
    }
}
