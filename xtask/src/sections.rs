//! Sections of a Markdown file between marks, which a command replaces.
//!
//! A section begins with the line `<!-- bench:NAME -->` and ends with `<!-- /bench:NAME -->`.
//! What stands outside of the marks is written by people and stays.

use crate::prose::{COLUMNS, columns, second_sentence};
use crate::workspace::Result;

/// The line that begins a section.
fn begin(name: &str) -> String {
    format!("<!-- bench:{name} -->")
}

/// The line that ends a section.
fn end(name: &str) -> String {
    format!("<!-- /bench:{name} -->")
}

/// Returns the text with another content between the marks of the named section.
///
/// # Errors
/// An error where the text has no section of that name, or its end is missing.
pub(crate) fn replace(text: &str, name: &str, content: &str) -> Result<String> {
    let lines: Vec<&str> = text.lines().collect();
    let (begin, end) = (begin(name), end(name));
    let Some(first) = lines.iter().position(|line| line.trim() == begin) else {
        let known: Vec<&str> = names(text).collect();
        return Err(format!("there is no section '{begin}'; there are: {}", known.join(", ")));
    };
    // The next section begins behind this one's end, so an end behind that is not this one's.
    let behind = &lines[first + 1..];
    let section = behind.iter().position(|line| name_in(line).is_some()).unwrap_or(behind.len());
    let Some(length) = behind[..section].iter().position(|line| line.trim() == end) else {
        return Err(format!("the section '{begin}' has no end; write '{end}' behind it"));
    };
    let (before, after) = (&lines[..=first], &behind[length..]);
    let new = content.trim().lines();
    let all: Vec<&str> = before.iter().copied().chain(new).chain(after.iter().copied()).collect();
    Ok(all.join("\n") + "\n")
}

/// Returns the name of the section that a line begins.
fn name_in(line: &str) -> Option<&str> {
    line.trim().strip_prefix("<!-- bench:")?.strip_suffix(" -->")
}

/// Returns the names of all sections.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(name_in)
}

/// Returns a benchmark's report as a section of a document: without headings of its own, one
/// sentence a line, and lines outside of tables not longer than the lint of prose allows.
pub(crate) fn as_prose(report: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in report.trim().lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with('|') || line.is_empty() {
            // A heading that was left out leaves no blank line behind.
            if !line.is_empty() || lines.last().is_some_and(|last| !last.is_empty()) {
                lines.push(line.to_owned());
            }
            continue;
        }
        let indent = if line.starts_with("- ") { "  " } else { "" };
        let mut rest = line;
        let mut first = true;
        while !rest.is_empty() {
            let (sentence, next) = rest.split_at(second_sentence(rest).unwrap_or(rest.len()));
            wrap(sentence.trim_end(), if first { "" } else { indent }, indent, &mut lines);
            (rest, first) = (next, false);
        }
    }
    lines.join("\n")
}

/// Adds a sentence to the lines, broken between words where it is longer than a line.
fn wrap(sentence: &str, first: &str, others: &str, lines: &mut Vec<String>) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in sentence.split(' ') {
        if !empty && columns(&line) + 1 + columns(word) > COLUMNS {
            lines.push(std::mem::replace(&mut line, others.to_owned()));
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines.push(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Title\n\n<!-- bench:a -->\nold\n<!-- /bench:a -->\n\nBetween.\n\n<!-- bench:b -->\n\
                        <!-- /bench:b -->\nEnd.\n";

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let expected = TEXT.replace("old\n", "| new |\n|---|\n");
        assert_eq!(replace(TEXT, "a", "\n| new |\n|---|\n\n"), Ok(expected));
        let filled = replace(TEXT, "b", "| b |").unwrap();
        assert_eq!(filled, TEXT.replace("<!-- /bench:b", "| b |\n<!-- /bench:b"));
    }

    #[test]
    fn replacing_twice_changes_nothing_more() {
        let once = replace(TEXT, "a", "| new |").unwrap();
        assert_eq!(replace(&once, "a", "| new |"), Ok(once));
    }

    #[test]
    fn an_unknown_section_is_named_beside_those_that_there_are() {
        let error = replace(TEXT, "c", "x").unwrap_err();
        assert_eq!(error, "there is no section '<!-- bench:c -->'; there are: a, b");
    }

    #[test]
    fn a_section_without_an_end_is_an_error_and_swallows_no_other_section() {
        let open = TEXT.replace("<!-- /bench:a -->\n", "");
        let error = replace(&open, "a", "x").unwrap_err();
        assert_eq!(error, "the section '<!-- bench:a -->' has no end; write '<!-- /bench:a -->' behind it");
        let late = format!("{open}<!-- /bench:a -->\n");
        assert!(replace(&late, "a", "x").is_err(), "the end stands behind another section");
        assert!(replace(&open, "b", "x").is_ok());
    }

    #[test]
    fn a_report_keeps_its_tables_and_obeys_the_lint_of_prose() {
        let long = "word ".repeat(30);
        let row = format!("| {long} |");
        let report = format!("# Title\n\nOne is. Two `is` not.\n\n{row}\n\n- {long}\n- It ends. It goes on.\n");
        let prose = as_prose(&report);
        let lines: Vec<&str> = prose.lines().collect();
        assert_eq!(lines[..4], ["One is.", "Two `is` not.", "", &row]);
        assert!(lines[5].starts_with("- word") && lines[6].starts_with("  word"), "{prose}");
        assert!(lines.iter().all(|line| line.starts_with('|') || columns(line) <= COLUMNS), "{prose}");
        assert_eq!(lines[lines.len() - 2..], ["- It ends.", "  It goes on."]);
    }
}
