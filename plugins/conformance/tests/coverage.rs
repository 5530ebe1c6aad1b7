//! A test that every operator of the oracle has cases.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use hetero_conformance::suite;
use hetero_reference::Standard;

#[test]
fn every_operator_has_a_case() {
    let suite = suite(1).unwrap();
    assert!(suite.len() >= 3000, "only {} cases", suite.len());
    let covered: BTreeSet<(&str, &str)> =
        suite.iter().map(|case| (&*case.operator.domain, &*case.operator.name)).collect();
    // Random operators have no single right answer.
    // A Constant is folded before a device sees it.
    // Maps do not reach devices.
    // On texts, sequences and optionals there are the standard's own cases.
    let elsewhere = ["Constant", "CategoryMapper", "DictVectorizer", "RegexFullMatch", "TfIdfVectorizer"];
    let of_whole_tensors = |name: &str| {
        let families = ["String", "Sequence", "Optional"];
        families.iter().any(|family| name.starts_with(family))
            || name.ends_with("ToSequence")
            || name.ends_with("FromSequence")
    };
    let bare: Vec<(&str, &str)> = Standard::definitions()
        .filter(|definition| definition.deterministic && !elsewhere.contains(&definition.name))
        .filter(|definition| !of_whole_tensors(definition.name))
        .map(|definition| (definition.domain, definition.name))
        .filter(|name| !covered.contains(name))
        .collect();
    assert!(bare.is_empty(), "no case for {bare:?}");
}

#[test]
fn a_seed_makes_the_same_cases() {
    let names = |seed| suite(seed).unwrap().into_iter().map(|case| (case.name, case.inputs)).collect::<Vec<_>>();
    assert!(names(5) == names(5));
    assert!(names(5) != names(6));
}
