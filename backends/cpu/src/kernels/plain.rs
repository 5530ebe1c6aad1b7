//! Why a node has no kernel and runs by the reference implementation, in a word.
//!
//! The words are what a claim says ([`Quality::Slow`](hetero_hal::Quality)), what commands print,
//! and what stands in docs/operators.md.

use hetero_hal::{DType, ProgramValue};
use hetero_reference::ml;

use super::Site;

/// The operators of the standard that are to have no kernel, by the reason.
const OPERATORS: &[(&str, &[&str])] = &[
    // Their results differ from run to run, so that nothing but a count of numbers can be compared.
    ("random", &["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]),
    ("training", &["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"]),
    // A model that has them computes them once, as a constant.
    ("constant", &["BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix"]),
    // Their time is that of reading a shape.
    ("shape", &["Shape", "Size"]),
];

/// Returns the reason why a node without a kernel has none.
pub(super) fn reason(site: Site<'_>) -> &'static str {
    let any = |is: fn(&ProgramValue) -> bool| site.values().any(is);
    if any(|value| value.dtype == DType::String) {
        return "text";
    }
    if any(|value| value.dtype.is_parts()) {
        return "sequence";
    }
    if any(|value| !value.dtype.bits().is_multiple_of(8)) {
        return "packed";
    }
    if site.node.subgraphs().next().is_some() {
        return "body";
    }
    let operator = site.operator();
    let listed = |(_, names): &&(&str, &[&str])| operator.domain.is_empty() && names.contains(&&*operator.name);
    match OPERATORS.iter().find(listed) {
        Some((reason, _)) => reason,
        None if &*operator.domain == ml::DOMAIN => "tabular",
        None if any(ProgramValue::is_dynamic) => "sizes",
        None => "missing",
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Graph, Node, Operator, Program, TensorType, Value, ValueId};
    use hetero_reference::Standard;

    use super::*;
    use crate::simd::Isa;

    /// Returns the reason for one node of one input and one output.
    fn of(operator: Operator, from: DType, to: DType) -> &'static str {
        let value = |name: &str, dtype| Value { name: name.into(), ty: TensorType::exact(dtype, &[4]), constant: None };
        let graph = Graph {
            name: "one".into(),
            values: vec![value("x", from), value("y", to)],
            nodes: vec![Node {
                name: "node".into(),
                operator,
                inputs: vec![Some(ValueId(0))],
                outputs: vec![Some(ValueId(1))],
            }],
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(1)],
            captures: vec![],
        };
        let program = Program::new(graph, vec![]).unwrap();
        reason(Site {
            program: &program,
            node: &program.nodes()[0],
            isa: Isa::available().next().unwrap(),
            weights: None,
        })
    }

    #[test]
    fn a_node_without_a_kernel_has_a_reason_in_a_word() {
        assert_eq!(of(Operator::new("StringNormalizer", 10), DType::String, DType::String), "text");
        assert_eq!(of(Operator::new("Cast", 23), DType::I4, DType::F32), "packed");
        assert_eq!(of(Operator::new("Shape", 23), DType::F32, DType::I64), "shape");
        assert_eq!(of(Operator::new("Bernoulli", 22), DType::F32, DType::F32), "random");
        assert_eq!(of(Operator::new("Hardmax", 13), DType::F32, DType::F32), "missing");
        let scaler = Operator { domain: ml::DOMAIN.into(), ..Operator::new("Scaler", 1) };
        assert_eq!(of(scaler, DType::F32, DType::F32), "tabular");
    }

    #[test]
    fn every_operator_of_the_table_is_one_of_the_standard() {
        for name in OPERATORS.iter().flat_map(|(_, names)| *names) {
            let known =
                Standard::definitions().any(|definition| definition.domain.is_empty() && definition.name == *name);
            assert!(known, "{name}");
        }
    }
}
