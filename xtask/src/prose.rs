//! The lint of prose: one sentence a line, at most 100 columns, in Markdown and in comments.

use std::collections::BTreeMap;
use std::path::Path;

use crate::workspace::{Result, Workspace};

/// The most columns of a line.
pub(crate) const COLUMNS: usize = 100;
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

/// Checks that the files of a folder, or all files, have one sentence a line and no line that is
/// too long.
///
/// # Errors
/// An error with the lines that break these rules, and their number in each folder.
pub(crate) fn prose(workspace: &Workspace, folder: Option<&str>) -> Result<()> {
    let listed = workspace.command("git", &["ls-files", "*.md", "*.rs"]).output();
    let listed = listed.map_err(|error| format!("cannot start git: {error}"))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines = String::new();
    for path in listed.lines().filter(|path| !GENERATED.contains(path)) {
        if folder.is_some_and(|folder| !Path::new(path).starts_with(folder)) {
            continue;
        }
        // A file may be in git's list and no longer on disk.
        let Ok(text) = std::fs::read_to_string(workspace.root.join(path)) else { continue };
        let found = if path.ends_with(".md") { of_markdown(&text) } else { of_source(&text) };
        for (line, offence) in &found {
            lines += &format!("{path}:{line}: {}\n", offence.told());
        }
        *counts.entry(folder_of(path)).or_default() += found.len();
    }
    verdict(&lines, &counts)?;
    println!("prose: every line is within {COLUMNS} columns and has one sentence");
    Ok(())
}

/// Returns the outcome of the lint for the lines found and their number in each folder.
fn verdict(lines: &str, counts: &BTreeMap<String, usize>) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let folders = counts.iter().filter(|(_, count)| **count > 0);
    let folders: Vec<String> = folders.map(|(folder, count)| format!("{count} in {folder}")).collect();
    Err(format!(
        "lines that are too long or have several sentences: {}\n{lines}write one sentence a line, of at most {COLUMNS} \
         columns",
        folders.join(", ")
    ))
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
    let long = (columns(line) > COLUMNS).then_some((number, Offence::Long));
    let several = has_several_sentences(prose).then_some((number, Offence::Sentences));
    long.into_iter().chain(several).collect()
}

/// Returns the columns that a text takes; a Chinese character takes two.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(|character| if character >= '\u{2e80}' { 2 } else { 1 }).sum()
}

/// Tells whether a sentence ends within a line and another begins.
fn has_several_sentences(line: &str) -> bool {
    second_sentence(line).is_some()
}

/// Returns where in a line the second sentence begins, in bytes.
pub(crate) fn second_sentence(line: &str) -> Option<usize> {
    let mut code = false;
    let mut words = line.split(' ').peekable();
    let (mut first, mut at) = (true, 0);
    while let Some(word) = words.next() {
        at += word.len() + 1;
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
            return Some(at);
        }
    }
    // Chinese has no space between sentences.
    let (end, stop) = line.char_indices().find(|(_, character)| ['。', '！', '？'].contains(character))?;
    let next = end + stop.len_utf8();
    line[next..].contains(char::is_alphanumeric).then_some(next)
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
            "它读取模型。它执行计划。",
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
            "它读取 ONNX 模型（见下文。）",
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
        assert_eq!(of_markdown(&"字".repeat(51)), [(1, Offence::Long)], "a Chinese character takes two columns");
        assert_eq!(of_markdown(&"字".repeat(50)), []);
    }

    #[test]
    fn the_second_sentence_begins_behind_the_space() {
        let line = "It runs in 3.1 s. It ends.";
        assert_eq!(second_sentence(line).map(|at| &line[at..]), Some("It ends."));
        assert_eq!(second_sentence("It ends."), None);
    }

    #[test]
    fn each_line_that_breaks_a_rule_fails_the_lint() {
        let counts = |count| [("docs".to_owned(), count), ("hal".to_owned(), 0)].into();
        assert_eq!(verdict("", &counts(0)), Ok(()));
        let error = verdict("docs/a.md:7: the line has several sentences\n", &counts(1)).unwrap_err();
        assert!(error.contains("several sentences: 1 in docs\n") && !error.contains("hal"), "{error}");
        assert!(error.contains("docs/a.md:7: the line has several sentences\n"), "{error}");
    }

    #[test]
    fn files_belong_to_the_folder_of_their_crate() {
        let folders = ["hal/src/lib.rs", "engine/cli/src/main.rs", "README.md", "docs/a.md", "hal/onnx/tests/x/y.rs"];
        assert_eq!(folders.map(folder_of), ["hal", "engine/cli", ".", "docs", "hal/onnx"]);
    }
}
