//! The listing of a library's public interface: a line for each item that a user can name.
//!
//! It follows the root file's `pub use`, and public modules.
//! Macros are not expanded, so a call that makes items is a line of its own.
//! An impl is taken to belong to the exported type that has the last part of its type's name.

use std::collections::BTreeMap;
use std::path::Path;

use syn::{Attribute, Fields, FnArg, ImplItem, Item, Pat, TraitItem, UseTree};

use super::tokens::text;
use super::{Module, is_public, modules};
use crate::workspace::Result;

/// The names under which items are exported, by the module and name of their definition.
type Exports = BTreeMap<(Vec<String>, String), String>;

/// Returns the listing of the library with the given root file.
pub(crate) fn listing(root: &Path) -> Result<String> {
    Ok(list(&modules(root)?))
}

fn list(modules: &[Module]) -> String {
    let exports = exports(modules);
    let mut lines = Vec::new();
    for ((path, name), exported) in &exports {
        if !modules.iter().any(|module| module.path == *path) {
            let text = format!("use {exported} = {}::{name}", path.join("::"));
            lines.push(Line { name: exported.clone(), rank: 0, text });
        }
    }
    for module in modules {
        for item in &module.items {
            let name = |ident: &syn::Ident| exports.get(&(module.path.clone(), ident.to_string())).map(String::as_str);
            item_lines(item, name, &exports, &mut lines);
        }
    }
    lines.sort();
    lines.dedup();
    lines.into_iter().map(|line| line.text + "\n").collect()
}

/// Returns the names that a listing exports, without the names of methods, fields and variants.
pub(crate) fn names(listing: &str) -> Vec<&str> {
    const KINDS: [&str; 9] = ["const fn", "struct", "enum", "union", "trait", "type", "const", "static", "fn"];
    let name = |line: &'_ str| -> Option<usize> {
        let head = line.split([' ', '(']).next()?;
        // An item inside another has the other's name before its own.
        (!head.contains("::")).then(|| head.find(['<', ':']).unwrap_or(head.len()))
    };
    let item = |line: &'_ str| -> Option<(usize, usize)> {
        let kind = KINDS.iter().find(|kind| line.strip_prefix(**kind).is_some_and(|rest| rest.starts_with(' ')))?;
        let start = kind.len() + 1;
        Some((start, start + name(&line[start..])?))
    };
    listing.lines().filter_map(|line| item(line).map(|(start, end)| &line[start..end])).collect()
}

/// Returns the lines that were removed and added between two listings, where they differ.
pub(crate) fn difference(former: &str, now: &str) -> Option<String> {
    let without = |text: &str, other: &str, mark: &str| {
        let known: std::collections::BTreeSet<&str> = other.lines().collect();
        let lines = text.lines().filter(|line| !known.contains(line)).map(|line| format!("{mark} {line}\n"));
        lines.collect::<String>()
    };
    (former != now).then(|| without(former, now, "-") + &without(now, former, "+"))
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    /// The exported name that the line belongs to.
    name: String,
    /// The order of lines of one name: the item itself, its parts, functions, traits.
    rank: u8,
    text: String,
}

/// Returns every item that the root file exports by `pub use`, or that is public in a public
/// module.
fn exports(modules: &[Module]) -> Exports {
    let mut found = Exports::new();
    for module in modules.iter().filter(|module| module.public) {
        for item in &module.items {
            match item {
                Item::Use(item) if is_public(&item.vis) && module.path.is_empty() => {
                    follow(&item.tree, vec![], modules, &mut found);
                }
                item => {
                    let name = public_name(item);
                    found.extend(name.map(|name| {
                        let shown = [&module.path[..], std::slice::from_ref(&name)].concat().join("::");
                        ((module.path.clone(), name), shown)
                    }));
                }
            }
        }
    }
    found
}

/// Adds the items that a `pub use` names.
fn follow(tree: &UseTree, path: Vec<String>, modules: &[Module], found: &mut Exports) {
    match tree {
        UseTree::Path(part) if path.is_empty() && (part.ident == "crate" || part.ident == "self") => {
            follow(&part.tree, path, modules, found);
        }
        UseTree::Path(part) => {
            follow(&part.tree, [path, vec![part.ident.to_string()]].concat(), modules, found);
        }
        UseTree::Name(name) => {
            found.insert((path, name.ident.to_string()), name.ident.to_string());
        }
        UseTree::Rename(name) => {
            found.insert((path, name.ident.to_string()), name.rename.to_string());
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| follow(tree, path.clone(), modules, found)),
        UseTree::Glob(_) => {
            let of_module = modules.iter().filter(|module| module.path == path).flat_map(|module| &module.items);
            let names = of_module.filter_map(public_name);
            found.extend(names.map(|name| ((path.clone(), name.clone()), name)));
        }
    }
}

/// Returns the name of an item, if it is public.
pub(super) fn public_name(item: &Item) -> Option<String> {
    let (visibility, name) = match item {
        Item::Struct(item) => (&item.vis, &item.ident),
        Item::Enum(item) => (&item.vis, &item.ident),
        Item::Union(item) => (&item.vis, &item.ident),
        Item::Trait(item) => (&item.vis, &item.ident),
        Item::Type(item) => (&item.vis, &item.ident),
        Item::Const(item) => (&item.vis, &item.ident),
        Item::Static(item) => (&item.vis, &item.ident),
        Item::Fn(item) => (&item.vis, &item.sig.ident),
        _ => return None,
    };
    is_public(visibility).then(|| name.to_string())
}

fn item_lines<'a>(
    item: &Item,
    exported: impl Fn(&syn::Ident) -> Option<&'a str>,
    exports: &Exports,
    lines: &mut Vec<Line>,
) {
    let mut add = |name: &str, rank: u8, text: String| lines.push(Line { name: name.to_owned(), rank, text });
    match item {
        Item::Struct(item) => {
            let Some(name) = exported(&item.ident) else { return };
            let hidden = if item.fields.iter().all(|field| is_public(&field.vis)) { "" } else { " { .. }" };
            let generics = text(&item.generics) + &clause(&item.generics);
            add(name, 0, format!("struct {name}{generics}{hidden}{}", marks(&item.attrs)));
            for (index, field) in item.fields.iter().enumerate().filter(|(_, field)| is_public(&field.vis)) {
                let field_name = field.ident.as_ref().map_or_else(|| index.to_string(), ToString::to_string);
                add(name, 1, format!("field {name}.{field_name}: {}", text(&field.ty)));
            }
            derives(name, &item.attrs, &mut add);
        }
        Item::Enum(item) => {
            let Some(name) = exported(&item.ident) else { return };
            let generics = text(&item.generics) + &clause(&item.generics);
            add(name, 0, format!("enum {name}{generics}{}", marks(&item.attrs)));
            for variant in &item.variants {
                let value = variant.discriminant.as_ref().map(|(_, value)| format!(" = {}", text(value)));
                let (value, fields) = (value.unwrap_or_default(), fields(&variant.fields));
                add(name, 1, format!("variant {name}::{}{fields}{value}{}", variant.ident, marks(&variant.attrs)));
            }
            derives(name, &item.attrs, &mut add);
        }
        Item::Union(item) => {
            let Some(name) = exported(&item.ident) else { return };
            add(name, 0, format!("union {name}{}{}", text(&item.generics), marks(&item.attrs)));
        }
        Item::Trait(item) => {
            let Some(name) = exported(&item.ident) else { return };
            let above =
                if item.supertraits.is_empty() { String::new() } else { format!(": {}", text(&item.supertraits)) };
            let safety = if item.unsafety.is_some() { " (unsafe to implement)" } else { "" };
            add(name, 0, format!("trait {name}{}{above}{}{safety}", text(&item.generics), clause(&item.generics)));
            for part in &item.items {
                if let Some((given, line)) = trait_part(part, name) {
                    add(name, 2, format!("{} {line}", if given { "provided" } else { "required" }));
                }
            }
        }
        Item::Type(item) => {
            let Some(name) = exported(&item.ident) else { return };
            add(name, 0, format!("type {name}{} = {}", text(&item.generics), text(&item.ty)));
        }
        Item::Const(item) => {
            let Some(name) = exported(&item.ident) else { return };
            add(name, 0, format!("const {name}: {}", text(&item.ty)));
        }
        Item::Static(item) => {
            let Some(name) = exported(&item.ident) else { return };
            add(name, 0, format!("static {name}: {}", text(&item.ty)));
        }
        Item::Fn(item) => {
            let Some(name) = exported(&item.sig.ident) else { return };
            add(name, 0, signature(&item.sig, name));
        }
        Item::Macro(item) if item.ident.is_none() => {
            let called = text(&item.mac.path);
            add(&called, 9, format!("macro {called}! {{ {} }}", text(&item.mac.tokens)));
        }
        Item::Impl(item) => impl_lines(item, exports, &mut add),
        _ => {}
    }
}

fn impl_lines(item: &syn::ItemImpl, exports: &Exports, add: &mut impl FnMut(&str, u8, String)) {
    let of = last_name(&item.self_ty);
    let exported = |name: &str| exports.iter().find(|((_, defined), _)| defined == name).map(|(_, name)| name.clone());
    let own = of.as_deref().and_then(exported);
    match (&item.trait_, own) {
        (Some((negative, path, _)), own) => {
            let interface = path.segments.last().map(|part| part.ident.to_string()).and_then(|name| exported(&name));
            if let Some(name) = own.or(interface) {
                let (not, path) = (if negative.is_some() { "!" } else { "" }, text(path));
                let (generics, of) = (text(&item.generics), text(&item.self_ty));
                add(&name, 4, format!("impl{generics} {not}{path} for {of}{}", clause(&item.generics)));
            }
        }
        (None, Some(name)) => {
            let shown = shown_type(&item.self_ty, &name);
            for part in &item.items {
                match part {
                    ImplItem::Fn(part) if is_public(&part.vis) => {
                        let generics = text(&item.generics);
                        let under = if generics.is_empty() { String::new() } else { format!("impl{generics} ") };
                        let path = format!("{shown}::{}", part.sig.ident);
                        add(&name, 3, under + &signature(&part.sig, &path) + &clause(&item.generics));
                    }
                    ImplItem::Const(part) if is_public(&part.vis) => {
                        add(&name, 3, format!("const {shown}::{}: {}", part.ident, text(&part.ty)));
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// Returns a type as it stands in an impl, by its exported name.
fn shown_type(of: &syn::Type, name: &str) -> String {
    let arguments = match of {
        syn::Type::Path(path) => path.path.segments.last().map(|part| text(&part.arguments)).unwrap_or_default(),
        _ => String::new(),
    };
    format!("{name}{arguments}")
}

/// Returns the last part of a type's path, through references and `dyn`.
fn last_name(of: &syn::Type) -> Option<String> {
    match of {
        syn::Type::Path(path) => path.path.segments.last().map(|part| part.ident.to_string()),
        syn::Type::Reference(reference) => last_name(&reference.elem),
        syn::Type::TraitObject(object) => object.bounds.iter().find_map(|bound| match bound {
            syn::TypeParamBound::Trait(bound) => bound.path.segments.last().map(|part| part.ident.to_string()),
            _ => None,
        }),
        _ => None,
    }
}

/// Returns whether the trait gives a default for a part, and the part's line; `None` for a part
/// that cannot be named.
fn trait_part(part: &TraitItem, name: &str) -> Option<(bool, String)> {
    match part {
        TraitItem::Fn(part) => {
            Some((part.default.is_some(), signature(&part.sig, &format!("{name}::{}", part.sig.ident))))
        }
        TraitItem::Const(part) => {
            Some((part.default.is_some(), format!("const {name}::{}: {}", part.ident, text(&part.ty))))
        }
        TraitItem::Type(part) => {
            let bounds = if part.bounds.is_empty() { String::new() } else { format!(": {}", text(&part.bounds)) };
            Some((part.default.is_some(), format!("type {name}::{}{bounds}", part.ident)))
        }
        _ => None,
    }
}

/// Returns a function's signature with its path in the place of its name, and without the parts
/// that only its body needs.
fn signature(signature: &syn::Signature, path: &str) -> String {
    let mut signature = signature.clone();
    for input in &mut signature.inputs {
        match input {
            FnArg::Receiver(receiver) if receiver.reference.is_none() => receiver.mutability = None,
            FnArg::Typed(typed) => {
                if let Pat::Ident(name) = &mut *typed.pat {
                    name.mutability = None;
                }
            }
            FnArg::Receiver(_) => {}
        }
    }
    text(&signature).replacen(&format!("fn {}", signature.ident), &format!("fn {path}"), 1)
}

fn clause(generics: &syn::Generics) -> String {
    generics.where_clause.as_ref().map(|clause| format!(" {}", text(clause).trim_end_matches(','))).unwrap_or_default()
}

fn fields(fields: &Fields) -> String {
    let named = |field: &syn::Field| match &field.ident {
        Some(name) => format!("{name}: {}", text(&field.ty)),
        None => text(&field.ty),
    };
    let list = fields.iter().map(named).collect::<Vec<_>>().join(", ");
    match fields {
        Fields::Named(_) => format!(" {{ {list} }}"),
        Fields::Unnamed(_) => format!("({list})"),
        Fields::Unit => String::new(),
    }
}

/// Returns the attributes that a user of an item has to know.
fn marks(attributes: &[Attribute]) -> String {
    let known = ["non_exhaustive", "repr", "deprecated"];
    let marks = attributes.iter().filter(|attribute| known.iter().any(|name| attribute.path().is_ident(name)));
    marks.map(|attribute| format!(" {}", text(attribute))).collect()
}

fn derives(name: &str, attributes: &[Attribute], add: &mut impl FnMut(&str, u8, String)) {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("derive")) {
        let Ok(list) = attribute.meta.require_list() else { continue };
        for derived in text(&list.tokens).split(',') {
            add(name, 4, format!("derive {} for {name}", derived.trim()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::modules_of;
    use super::*;

    const SOURCE: &str = "
        pub use bytes::Bytes;
        pub use parts::{Kind, Part as Piece, measure};
        pub type Name = String;
        mod parts {
            /// A part.
            #[derive(Clone, Debug)]
            #[non_exhaustive]
            pub struct Part<T> { pub name: Name, pub(crate) inner: T }
            impl<T: Copy> Part<T> {
                pub const fn new(name: &str, mut inner: T) -> Self { todo!() }
                fn hidden(&self) {}
            }
            impl<T> std::fmt::Display for Part<T> where T: Copy, { }
            pub trait Kind: Send {
                const LIMIT: usize = 1;
                fn name(&self) -> &str;
                fn size(&self) -> usize { 0 }
            }
            impl Kind for u8 { }
            pub struct NotExported;
            impl NotExported { pub fn f() {} }
            pub fn measure(parts: &[Part<u8>]) -> Option<f64> { None }
        }
        #[derive(Debug)]
        pub enum Work { Idle, Copy { from: u8, to: Vec<u8> }, Fill(u8) }
        pub mod open { pub struct Seen; mod shut { pub struct Unseen; } }
        #[cfg(test)]
        mod tests { pub struct Never; }
    ";

    const LISTED: &str = "\
use Bytes = bytes::Bytes
trait Kind: Send
provided const Kind::LIMIT: usize
provided fn Kind::size(&self) -> usize
required fn Kind::name(&self) -> &str
impl Kind for u8
type Name = String
struct Piece<T> { .. } #[non_exhaustive]
field Piece.name: Name
impl<T: Copy> const fn Piece<T>::new(name: &str, inner: T) -> Self
derive Clone for Piece
derive Debug for Piece
impl<T> std::fmt::Display for Part<T> where T: Copy
enum Work
variant Work::Copy { from: u8, to: Vec<u8> }
variant Work::Fill(u8)
variant Work::Idle
derive Debug for Work
fn measure(parts: &[Part<u8>]) -> Option<f64>
struct open::Seen
";

    fn listing_of(source: &str) -> String {
        list(&modules_of(source).unwrap())
    }

    #[test]
    fn every_exported_item_is_a_line_and_nothing_else_is() {
        assert_eq!(listing_of(SOURCE), LISTED);
    }

    #[test]
    fn the_order_of_the_source_does_not_matter() {
        let turned = "pub struct B; pub struct A { pub y: u8, pub x: u8 }";
        let straight = "pub struct A { pub x: u8, pub y: u8 } pub struct B;";
        assert_eq!(listing_of(turned), listing_of(straight));
    }

    #[test]
    fn names_are_those_of_items_and_not_of_their_parts() {
        assert_eq!(names(LISTED), ["Kind", "Name", "Piece", "Work", "measure"]);
    }

    #[test]
    fn a_difference_has_the_lines_that_went_and_those_that_came() {
        assert_eq!(difference("a\nb\n", "b\nc\n").unwrap(), "- a\n+ c\n");
        assert_eq!(difference("a\n", "a\n"), None);
    }
}
