//! The workspace's own source, read with `syn`, independent of the toolchain and without building
//! anything.

pub(crate) mod api;
pub(crate) mod files;
mod tokens;
pub(crate) mod words;

use std::path::{Path, PathBuf};

use crate::workspace::Result;

/// A module of a crate: the parts of its name from the crate's root on, and its items.
pub(crate) struct Module {
    pub(crate) path: Vec<String>,
    /// Whether it can be named from outside, because it and all modules around it are `pub`.
    pub(crate) public: bool,
    pub(crate) items: Vec<syn::Item>,
}

/// Returns the modules of the library with the given root file, in the order of their mention,
/// without modules that only tests have.
pub(crate) fn modules(root: &Path) -> Result<Vec<Module>> {
    let mut found = Vec::new();
    let folder = root.parent().unwrap_or(Path::new("")).to_path_buf();
    collect(parse(root)?, &folder, (vec![], true), &mut found)?;
    Ok(found)
}

/// Returns the modules of a library that is one text.
#[cfg(test)]
fn modules_of(text: &str) -> Result<Vec<Module>> {
    let mut found = Vec::new();
    collect(items(text)?, Path::new(""), (vec![], true), &mut found)?;
    Ok(found)
}

fn parse(path: &Path) -> Result<Vec<syn::Item>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    items(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Returns the items of a source text.
fn items(text: &str) -> Result<Vec<syn::Item>> {
    syn::parse_file(text).map(|file| file.items).map_err(|error| error.to_string())
}

/// Adds a module with this path, these items and this visibility, and the modules inside it, whose
/// files lie in `folder`.
fn collect(
    items: Vec<syn::Item>,
    folder: &Path,
    (path, public): (Vec<String>, bool),
    found: &mut Vec<Module>,
) -> Result<()> {
    let mut own = Vec::new();
    let mut inner = Vec::new();
    for item in items {
        match item {
            syn::Item::Mod(module) if for_tests(&module.attrs) => {}
            syn::Item::Mod(module) => inner.push(module),
            item => own.push(item),
        }
    }
    found.push(Module { path: path.clone(), public, items: own });
    for module in inner {
        let name = module.ident.to_string();
        let below = folder.join(&name);
        let path = [&path[..], std::slice::from_ref(&name)].concat();
        let public = public && is_public(&module.vis);
        match module.content {
            Some((_, items)) => collect(items, &below, (path, public), found)?,
            None => {
                let usual = [folder.join(format!("{name}.rs")), below.join("mod.rs")];
                let files = named_file(&module.attrs).map_or(usual.to_vec(), |named| vec![folder.join(named)]);
                let file = files.iter().find(|file| file.exists());
                let file = file.ok_or_else(|| format!("module {} has no file", path.join("::")))?;
                let below = if file.ends_with("mod.rs") { file.with_file_name("") } else { below };
                collect(parse(file)?, &below, (path, public), found)?;
            }
        }
    }
    Ok(())
}

/// Returns the file that a module's attribute `path` names.
fn named_file(attributes: &[syn::Attribute]) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.path().is_ident("path"))?;
    match &attribute.meta.require_name_value().ok()?.value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(file), .. }) => Some(file.value()),
        _ => None,
    }
}

/// Tells whether an item is there for tests alone.
fn for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let Ok(list) = attribute.meta.require_list() else { return false };
        let condition = tokens::text(&list.tokens);
        let all = condition.strip_prefix("all(").and_then(|list| list.strip_suffix(')'));
        all.unwrap_or(&condition).split(',').any(|part| part.trim() == "test")
    })
}

pub(crate) fn is_public(visibility: &syn::Visibility) -> bool {
    matches!(visibility, syn::Visibility::Public(_))
}

/// Returns the root files of the workspace's libraries, each with its crate's name, in the order of
/// their names.
pub(crate) fn libraries(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let manifest = |folder: &Path| {
        let path = folder.join("Cargo.toml");
        std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let workspace = manifest(root)?;
    let members = workspace.split_once("members = [").and_then(|(_, rest)| rest.split_once(']'));
    let (members, _) = members.ok_or("Cargo.toml has no list of members")?;
    let mut found = Vec::new();
    for member in members.split(',').map(|member| member.trim().trim_matches('"')).filter(|member| !member.is_empty()) {
        let folder = root.join(member);
        let library = folder.join("src").join("lib.rs");
        if library.exists() {
            let text = manifest(&folder)?;
            let name = text.lines().find_map(|line| line.strip_prefix("name = "));
            found.push((name.unwrap_or(member).trim().trim_matches('"').to_owned(), library));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_inside_modules_are_found_and_those_of_tests_are_not() {
        let text = "mod a { mod b { struct X; } } #[cfg(test)] mod tests { struct Y; } #[cfg(all(unix, test))] mod m {} \
             #[cfg(unix)] mod kept {} #[cfg(not(test))] mod too {}";
        let found = modules_of(text).unwrap();
        let paths: Vec<String> = found.iter().map(|module| module.path.join("::")).collect();
        assert_eq!(paths, ["", "a", "a::b", "kept", "too"]);
    }
}
