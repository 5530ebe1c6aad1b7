//! The oracle: each ONNX operator once, plainly, in the words of the standard.
//!
//! [`Standard`] is the table of definitions for shape inference, constant folding and the tests of
//! every device.
//! Nothing here is fast: numbers are widened to `f64` or `i128`, computed, and rounded once to the
//! type that the standard asks for.
//! A family of operators is one file with its own list of definitions, and `TABLE` names each list
//! once.
//!
//! ```
//! use hetero_hal::{Operator, Tensor};
//!
//! let x = Tensor::from_vec(&[3], vec![-1.0f32, 0.0, 2.0])?;
//! let y = hetero_reference::evaluate(&Operator::new("Relu", 14), &[Some(x)], 1)?;
//! assert_eq!(&*y[0].view::<f32>()?, [0.0, 0.0, 2.0]);
//! # Ok::<(), hetero_hal::Error>(())
//! ```

#![forbid(unsafe_code)]

mod attention;
mod binary;
mod body;
mod cast;
mod control;
mod conv;
mod detection;
mod einsum;
mod exact;
mod generate;
mod grid;
mod indexing;
mod layout;
mod loss;
mod matmul;
mod microsoft;
pub mod ml;
mod normalize;
mod numbers;
mod place;
mod pool;
mod quantize;
mod random;
mod recurrent;
mod reduce;
mod resize;
mod select;
mod sequence;
mod shapes;
mod slicing;
mod small;
mod softmax;
mod spectral;
mod split;
mod stateful;
mod text;
mod unary;
mod unique;
mod window;

use std::sync::LazyLock;

use hetero_hal::{Allowance, Definition, Evaluation, Operator, OperatorSet, Result, Tensor};

pub use control::{check_state, joined_dims, run, run_graph, scan_axes};
pub use einsum::NamedAxes;
pub use exact::{ExactProgram, exact, shaping_inputs, sizes_depend_on_data};
pub use microsoft::Blocks;
pub use resize::Resampling;
pub use split::split_sizes;
pub use unary::unary_function;
pub use window::{Padding, Window};

/// Every definition, with a list for each family.
static TABLE: &[&[Definition]] = &[
    &unary::DEFINITIONS,
    &binary::DEFINITIONS,
    attention::DEFINITIONS,
    cast::DEFINITIONS,
    control::DEFINITIONS,
    conv::DEFINITIONS,
    detection::DEFINITIONS,
    einsum::DEFINITIONS,
    generate::DEFINITIONS,
    grid::DEFINITIONS,
    layout::DEFINITIONS,
    loss::DEFINITIONS,
    matmul::DEFINITIONS,
    ml::DEFINITIONS,
    normalize::DEFINITIONS,
    place::DEFINITIONS,
    pool::DEFINITIONS,
    quantize::DEFINITIONS,
    random::DEFINITIONS,
    recurrent::DEFINITIONS,
    &reduce::DEFINITIONS,
    resize::DEFINITIONS,
    select::DEFINITIONS,
    sequence::DEFINITIONS,
    slicing::DEFINITIONS,
    split::DEFINITIONS,
    softmax::DEFINITIONS,
    spectral::DEFINITIONS,
    stateful::DEFINITIONS,
    text::DEFINITIONS,
    unique::DEFINITIONS,
];

type Index = foldhash::HashMap<(&'static str, &'static str), Vec<&'static Definition>>;

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let mut index = Index::default();
    for definition in Standard::definitions() {
        index.entry((definition.domain, definition.name)).or_default().push(definition);
    }
    index
});

/// The operators of the ONNX standard, as far as they are written down here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standard;

impl Standard {
    /// Returns every definition, of other domains than the standard's too.
    pub fn definitions() -> impl Iterator<Item = &'static Definition> {
        TABLE.iter().chain(&microsoft::DEFINITIONS).copied().flatten()
    }
}

impl OperatorSet for Standard {
    fn find(&self, operator: &Operator) -> Option<&Definition> {
        let serves =
            |d: &&&Definition| d.since <= operator.version && d.until.is_none_or(|until| operator.version < until);
        INDEX
            .get(&(&*operator.domain, &*operator.name))?
            .iter()
            .filter(serves)
            .max_by_key(|definition| definition.since)
            .copied()
    }
}

/// Computes one operator of the standard.
/// All that it allocates may take 4 GiB.
///
/// # Errors
/// `Unsupported` for an operator that is not here, and the operator's own errors, with its name.
pub fn evaluate(operator: &Operator, inputs: &[Option<Tensor>], outputs: usize) -> Result<Vec<Tensor>> {
    Evaluation::new(operator, inputs, outputs, &Standard, &Allowance::default()).compute()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_definitions_serve_the_same_version() {
        for list in INDEX.values() {
            for (i, a) in list.iter().enumerate() {
                for b in &list[i + 1..] {
                    let apart = a.until.is_some_and(|until| until <= b.since)
                        || b.until.is_some_and(|until| until <= a.since)
                        || a.since != b.since;
                    assert!(apart, "{} is defined twice", a.name);
                }
            }
        }
    }

    #[test]
    fn lookup_minds_the_version() {
        assert!(Standard.find(&Operator::new("Relu", 7)).is_some());
        assert!(Standard.find(&Operator::new("Scatter", 9)).is_some());
        assert!(Standard.find(&Operator::new("Scatter", 8)).is_none());
        assert!(Standard.find(&Operator::new("NoSuchThing", 17)).is_none());
    }
}
