//! The lint of prose: one sentence a line, at most 100 columns, in Markdown and in comments.
//!
//! It counts the lines in older text that break these rules, and fails nothing.

use std::collections::BTreeMap;
use std::path::Path;

use crate::workspace::{Result, Workspace};

const COLUMNS: usize = 100;
/// Words that end with a point without ending a sentence.
const ABBREVIATIONS: [&str; 8] = ["e.g.", "i.e.", "etc.", "cf.", "al.", "vs.", "approx.", "No."];
/// Files that a program has written.
const GENERATED: [&str; 2] = ["hal/onnx/src/proto.rs", "docs/operators.md"];

/// The fault of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offence {
    Long,
    Sentences,
}

/// The faults of a file: the numbers of lines, from 1, each with its fault.
type Offences = Vec<(usize, Offence)>;

/// Prints how many lines each folder has that are too long or have several sentences; for a named
/// folder, also lists these lines.
pub(crate) fn prose(workspace: &Workspace, folder: Option<&str>) -> Result<()> {
    let listed = workspace.command("git", &["ls-files", "*.md", "*.rs"]).output();
    let listed = listed.map_err(|error| format!("cannot start git: {error}"))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for path in listed.lines().filter(|path| !GENERATED.contains(path)) {
        if folder.is_some_and(|folder| !Path::new(path).starts_with(folder)) {
            continue;
        }
        // A file may be in git's list and no longer on disk.
        let Ok(text) = std::fs::read_to_string(workspace.root.join(path)) else { continue };
        let found = if path.ends_with(".md") { of_markdown(&text) } else { of_source(&text) };
        if folder.is_some() {
            found.iter().for_each(|(line, offence)| println!("{path}:{line}: {}", offence.told()));
        }
        let count = counts.entry(folder_of(path)).or_default();
        count[0] += found.iter().filter(|(_, offence)| *offence == Offence::Long).count();
        count[1] += found.iter().filter(|(_, offence)| *offence == Offence::Sentences).count();
        count[2] += usize::from(!found.is_empty());
    }
    println!("{:>9}  {:>9}  {:>5}  folder", "too long", "sentences", "files");
    for (folder, [long, sentences, files]) in counts.iter().filter(|(_, count)| count[2] > 0) {
        println!("{long:>9}  {sentences:>9}  {files:>5}  {folder}");
    }
    let sum = |index: usize| counts.values().map(|count| count[index]).sum::<usize>();
    println!("{:>9}  {:>9}  {:>5}  in all", sum(0), sum(1), sum(2));
    Ok(())
}

impl Offence {
    fn told(self) -> &'static str {
        match self {
            Offence::Long => "the line is longer than 100 columns",
            Offence::Sentences => "the line has several sentences",
        }
    }
}

/// Returns a file's folder, up to the part in front of `src`, `tests` or `examples`.
fn folder_of(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    let folders = &parts[..parts.len() - 1];
    let end = folders.iter().position(|part| ["src", "tests", "examples"].contains(part)).unwrap_or(folders.len());
    let folder = if end == 0 { &folders[..folders.len().min(2)] } else { &folders[..end] };
    if folder.is_empty() { ".".to_owned() } else { folder.join("/") }
}

/// Finds faults in Markdown; rows of tables cannot be broken, and code is not prose.
fn of_markdown(text: &str) -> Offences {
    let mut code = false;
    let prose = text.lines().enumerate().filter(|(_, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence && !line.trim_start().starts_with('|')
    });
    prose.flat_map(|(index, line)| offences(index + 1, line, line)).collect()
}

/// Finds faults in comments that have a line of their own.
fn of_source(text: &str) -> Offences {
    let mut code = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let comment = ["//!", "///", "//"].iter().find_map(|mark| line.trim_start().strip_prefix(mark));
        let Some(comment) = comment.map(str::trim) else {
            code = false;
            continue;
        };
        let fence = comment.starts_with("```");
        code ^= fence;
        if !code && !fence && !comment.starts_with('|') {
            found.extend(offences(index + 1, line, comment));
        }
    }
    found
}

fn offences(number: usize, line: &str, prose: &str) -> Offences {
    let long = (line.chars().count() > COLUMNS).then_some((number, Offence::Long));
    let several = has_several_sentences(prose).then_some((number, Offence::Sentences));
    long.into_iter().chain(several).collect()
}

/// Tells whether a sentence ends within a line and another begins.
fn has_several_sentences(line: &str) -> bool {
    let mut code = false;
    let mut words = line.split(' ').peekable();
    let mut first = true;
    while let Some(word) = words.next() {
        code ^= word.matches('`').count() % 2 == 1;
        let bare = word.trim_end_matches([')', '"', '\'', '*', '_', '`']);
        // This is the number or mark of a list.
        let mark = first && bare.trim_end_matches('.').chars().all(|c| c.is_ascii_digit() || c == '-');
        first = first && mark;
        let ends = bare.ends_with(['.', '!', '?']) && !ABBREVIATIONS.contains(&bare.trim_start_matches('('));
        // A sentence begins with a capital letter, or with code.
        let begins = words.peek().is_some_and(|next| {
            let next = next.trim_start_matches(['(', '"', '\'', '*', '_', '[']);
            next.starts_with('`') || next.chars().next().is_some_and(char::is_uppercase)
        });
        if ends && !mark && !code && !bare.ends_with("..") && begins {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_two_sentences_is_seen() {
        for two in [
            "It runs. It ends.",
            "Is it there? No.",
            "It is `done`. Then (next).",
            "It is off. `tiles` is on.",
            "It ends (here.) And goes on.",
        ] {
            assert!(has_several_sentences(two), "{two}");
        }
    }

    #[test]
    fn one_sentence_with_points_in_it_is_one() {
        for one in [
            "It runs on version 3.1 of the driver.",
            "1. The first of a list.",
            "Sinnen et al. 2008 say so, e.g. Table 2.",
            "The call `a. B` stays whole.",
            "An ellipsis... Then the same sentence.",
            "It takes `x.y`, …, as the file hal.rs says.",
        ] {
            assert!(!has_several_sentences(one), "{one}");
        }
    }

    #[test]
    fn long_lines_count_in_prose_and_not_in_code_or_tables() {
        let long = "word ".repeat(30);
        assert_eq!(of_markdown(&format!("{long}\n| {long} |\n```\n{long}\n```\n")), [(1, Offence::Long)]);
        let source =
            format!("/// {long}\nlet x = 1; // {long}\n//! | {long} |\n    // {long}\n/// ```\n/// {long}\n/// ```\n");
        assert_eq!(of_source(&source), [(1, Offence::Long), (4, Offence::Long)]);
    }

    #[test]
    fn files_belong_to_the_folder_of_their_crate() {
        let folders = ["hal/src/lib.rs", "engine/cli/src/main.rs", "README.md", "docs/a.md", "hal/onnx/tests/x/y.rs"];
        assert_eq!(folders.map(folder_of), ["hal", "engine/cli", ".", "docs", "hal/onnx"]);
    }
}
