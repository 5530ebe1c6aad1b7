//! The lint of names: one name stands for one type, in all crates together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::Item;

use super::api::public_name;
use super::{Module, libraries, modules};
use crate::workspace::Result;

/// The lexicon's section that allows names.
const SECTION: &str = "## Type names in several crates";
/// Modules that a program has written, from a standard's own definition.
const GENERATED: [&str; 1] = ["proto"];

/// Compares the names of public types with the names that the lexicon allows to repeat.
pub(crate) fn check(root: &Path) -> Result<()> {
    let path = root.join("docs").join("lexicon.md");
    let lexicon = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mut crates = Vec::new();
    for (name, library) in libraries(root)? {
        crates.push((name, types(&modules(&library)?)));
    }
    let wrong = compare(&crates, &allowed(&lexicon)?);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Returns the names of types, traits and aliases that are public in modules.
fn types(modules: &[Module]) -> BTreeSet<String> {
    let generated = |module: &Module| module.path.iter().any(|part| GENERATED.contains(&part.as_str()));
    let items = modules.iter().filter(|module| !generated(module)).flat_map(|module| &module.items);
    let is_type = |item: &&Item| {
        matches!(item, Item::Struct(_) | Item::Enum(_) | Item::Union(_) | Item::Trait(_) | Item::Type(_))
    };
    items.filter(is_type).filter_map(public_name).collect()
}

/// Returns the names in the first column of the section's table.
fn allowed(lexicon: &str) -> Result<BTreeSet<String>> {
    let (_, section) = lexicon.split_once(SECTION).ok_or_else(|| format!("docs/lexicon.md has no '{SECTION}'"))?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    Ok(rows.map(|(name, _)| name.to_owned()).collect())
}

/// Returns a line for each name that stands in two crates without leave, and for each leave that no
/// name needs.
fn compare(crates: &[(String, BTreeSet<String>)], allowed: &BTreeSet<String>) -> Vec<String> {
    let mut holders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, types) in crates {
        types.iter().for_each(|of| holders.entry(of).or_default().push(name));
    }
    let several = |name: &str| holders.get(name).filter(|holders| holders.len() > 1);
    let unnamed = holders.keys().filter(|name| !allowed.contains(**name)).filter_map(|name| {
        let crates = several(name)?.join(" and ");
        Some(format!("`{name}` is a public type of {crates}: rename one, or say in docs/lexicon.md why both may be"))
    });
    let unneeded = allowed.iter().filter(|name| several(name).is_none()).map(|name| {
        format!("docs/lexicon.md lets `{name}` stand in several crates, and it no longer does: remove its row")
    });
    unnamed.chain(unneeded).collect()
}

#[cfg(test)]
mod tests {
    use super::super::modules_of;
    use super::*;

    fn crates(first: &str, second: &str) -> Vec<(String, BTreeSet<String>)> {
        let read = |source| types(&modules_of(source).unwrap());
        vec![("one".to_owned(), read(first)), ("two".to_owned(), read(second))]
    }

    fn lexicon(names: &[&str]) -> BTreeSet<String> {
        let rows: String = names.iter().map(|name| format!("| `{name}` | one, two | a reason |\n")).collect();
        allowed(&format!("# Lexicon\n| `Other` | a word |\n\n{SECTION}\n| name | crates | why |\n|---|---|---|\n{rows}\n## Next\n| `Z` |"))
            .unwrap()
    }

    #[test]
    fn a_name_that_stands_twice_needs_leave() {
        let crates = crates("pub struct Plan; pub enum Error {}", "pub trait Plan {} pub type Error = u8;");
        let wrong = compare(&crates, &lexicon(&["Error"]));
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].starts_with("`Plan` is a public type of one and two"), "{}", wrong[0]);
        assert!(compare(&crates, &lexicon(&["Error", "Plan"])).is_empty());
    }

    #[test]
    fn leave_that_nothing_needs_is_wrong_too() {
        let wrong = compare(&crates("pub struct Plan;", "pub struct Model;"), &lexicon(&["Plan"]));
        assert!(wrong.len() == 1 && wrong[0].contains("lets `Plan` stand in several crates"), "{wrong:?}");
    }

    #[test]
    fn what_is_not_public_or_no_type_may_have_any_name() {
        let second = "pub(crate) struct Plan; struct Node; pub fn plan() {} pub const PLAN: u8 = 0;";
        assert!(compare(&crates("pub struct Plan; pub struct Node;", second), &lexicon(&[])).is_empty());
    }

    #[test]
    fn generated_modules_do_not_count() {
        let read = |source| types(&modules_of(source).unwrap());
        assert!(read("pub mod proto { pub struct NodeProto; }").is_empty());
        assert!(!read("pub mod other { pub struct NodeProto; }").is_empty());
    }
}
