//! Outputs as files in a folder, each in one of its own.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use hetero::Outputs;
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::outfile::Place;
use crate::output::{is_plain, say};
use crate::progress::Spinner;
use crate::tensors;

/// The most bytes of a name that a file's name keeps, so that a number and an ending find room in
/// the 255 that systems allow.
const LONGEST: usize = 200;

/// An output in its file.
pub(super) struct Written {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Whether the file is called otherwise than the output.
    pub(super) renamed: bool,
}

impl Written {
    /// Returns which file holds the output, for `--json`.
    pub(super) fn json(&self) -> Value {
        json!({ "name": self.name, "file": self.path.display().to_string() })
    }
}

/// Prints which files hold outputs that are called otherwise.
pub(super) fn print_renamed(all: &[Written]) -> Result<()> {
    let renamed = all.iter().filter(|written| written.renamed);
    renamed.into_iter().try_for_each(|written| say!("output {} is in {}", written.name, written.path.display()))
}

/// Writes each output to a folder, which is made where it is not there.
/// It is a `.npy` file, or a `.pb` file where NumPy has no type for it.
pub(super) fn write(folder: &Path, outputs: &Outputs) -> Result<Vec<Written>> {
    let _spinner = Spinner::start("writing outputs");
    std::fs::create_dir_all(folder).map_err(|error| Failure::unwritten(folder, error))?;
    hetero_files::remove_old_drafts(folder);
    let names: Vec<&str> = outputs.iter().map(|(name, _)| name).collect();
    let (stems, mut taken) = stems(&names);
    let mut places = HashSet::new();
    let mut all = Vec::with_capacity(names.len());
    for ((name, tensor), mut stem) in outputs.iter().zip(stems) {
        let ending = tensors::ending(tensor);
        let path = |stem: &str| folder.join(format!("{stem}.{ending}"));
        // Some file systems take more names for one than is known here, and links do so anywhere.
        while Place::of(&path(&stem)).is_some_and(|place| places.contains(&place)) {
            stem = taken.another(&stem);
        }
        let path = path(&stem);
        tensors::write(&path, name, tensor)?;
        places.extend(Place::of(&path));
        all.push(Written { name: name.to_owned(), path, renamed: stem != name });
    }
    Ok(all)
}

/// The names that files have, and those that are still to be had.
#[derive(Default)]
struct Taken {
    names: HashSet<String>,
    /// The next number for files of a name.
    next: HashMap<String, usize>,
}

/// Returns a name with small letters for capitals.
/// Systems that do not tell these apart go by the capitals, of which `ſ` and `s` have the same.
fn folded(stem: &str) -> String {
    stem.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

impl Taken {
    /// Takes a name, and tells whether it was free.
    fn take(&mut self, stem: &str) -> bool {
        self.names.insert(folded(stem))
    }

    /// Takes the first name of this beginning and a number that is free.
    fn another(&mut self, stem: &str) -> String {
        let mut number = self.next.get(&folded(stem)).copied().unwrap_or(2);
        let mut numbered = format!("{stem}-{number}");
        while !self.take(&numbered) {
            number += 1;
            numbered = format!("{stem}-{number}");
        }
        self.next.insert(folded(stem), number + 1);
        numbered
    }
}

/// Returns names of files, all different, for outputs of these names, in their order.
/// Outputs whose names suit a file come first; of others that would share a file, the later ones
/// get numbers.
fn stems(names: &[&str]) -> (Vec<String>, Taken) {
    let mut taken = Taken::default();
    let mut suited: Vec<String> = names.iter().map(|name| suited(name)).collect();
    let kept: Vec<bool> = names.iter().zip(&suited).map(|(name, stem)| **name == **stem && taken.take(stem)).collect();
    for stem in suited.iter_mut().zip(kept).filter(|(_, kept)| !kept).map(|(stem, _)| stem) {
        if !taken.take(stem) {
            *stem = taken.another(stem);
        }
    }
    (suited, taken)
}

/// Returns the name of an output as that of a file: `_` stands for what some system does not take
/// in names or hides, and for what is not printable.
fn suited(name: &str) -> String {
    let mut stem = String::new();
    for character in name.chars() {
        let reserved = matches!(character, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
        let hidden = character == '.' && stem.is_empty();
        let character = if reserved || hidden || !is_plain(character) { '_' } else { character };
        if stem.len() + character.len_utf8() > LONGEST {
            break;
        }
        stem.push(character);
    }
    if stem.is_empty() { "_".to_owned() } else { stem }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn outputs_of_like_names_have_files_of_their_own() {
        let long = "长".repeat(100);
        let names = ["a/b", "a_b", "A_b", "a:b", "", ".", "..", "a\x1bb", "a\nb", "a_b-2", "y", "y", &long, "输出"];
        let cut = "长".repeat(66);
        let expected =
            ["a_b-3", "a_b", "A_b-4", "a_b-5", "_", "_-2", "_.", "a_b-6", "a_b-7", "a_b-2", "y", "y-2", &cut, "输出"];
        let found = stems(&names).0;
        assert_eq!(found, expected);
    }

    proptest! {
        #[test]
        fn files_differ_and_suit_every_system(names in proptest::collection::vec("[aA./_:\u{1}-\u{3}2é-]{0,3}|.{0,300}", 0..40)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let found = stems(&names).0;
            prop_assert_eq!(found.len(), names.len());
            let folded: HashSet<String> = found.iter().map(|stem| stem.to_lowercase()).collect();
            prop_assert_eq!(folded.len(), names.len());
            for stem in &found {
                prop_assert!(stem.len() < 230 && !stem.starts_with('.') && !stem.contains(['/', '\\', ':', '\0']));
            }
        }
    }
}
