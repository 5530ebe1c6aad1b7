//! Tokens as text on one line, spaced as a person would write them.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use quote::ToTokens;

/// Returns a piece of syntax as text.
pub(crate) fn text(piece: &impl ToTokens) -> String {
    let mut pieces = Vec::new();
    flatten(piece.to_token_stream(), &mut pieces);
    let mut text = String::new();
    let mut before: Option<&str> = None;
    for (index, piece) in pieces.iter().enumerate() {
        let next = pieces.get(index + 1).map(String::as_str);
        // This comma ends a list over several lines.
        if piece == "," && matches!(next, Some(")" | ">" | "]")) {
            continue;
        }
        if before.is_some_and(|before| apart(before, piece)) {
            text.push(' ');
        }
        text.push_str(piece);
        before = Some(piece);
    }
    text
}

/// Splits a stream into words, operators, lifetimes and brackets, each as a whole.
fn flatten(stream: TokenStream, pieces: &mut Vec<String>) {
    const OPERATORS: [&str; 9] = ["::", "->", "=>", "..", "..=", "...", "==", "&&", "||"];
    // The last piece is a character that the next one may belong to.
    let mut joint = false;
    for tree in stream {
        let add = match &tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                pieces.extend((!open.is_empty()).then(|| open.to_owned()));
                flatten(group.stream(), pieces);
                pieces.extend((!close.is_empty()).then(|| close.to_owned()));
                joint = false;
                continue;
            }
            TokenTree::Punct(punct) => punct.as_char().to_string(),
            TokenTree::Ident(ident) => ident.to_string(),
            TokenTree::Literal(literal) => literal.to_string(),
        };
        match pieces.last_mut() {
            Some(last) if joint && (last == "'" || OPERATORS.contains(&&*format!("{last}{add}"))) => *last += &add,
            _ => pieces.push(add),
        }
        joint = matches!(&tree, TokenTree::Punct(punct) if punct.spacing() == Spacing::Joint);
    }
}

/// Tells whether a space stands between two pieces.
fn apart(before: &str, after: &str) -> bool {
    const TIGHT_AFTER: [&str; 14] = ["(", "[", "<", "&", "&&", "::", "!", "#", ".", "..", "*", "?", "'", "$"];
    const TIGHT_BEFORE: [&str; 11] = [")", "]", ">", ",", ";", ":", "::", ".", "..", "!", "?"];
    let word = |piece: &str| piece.chars().next_back().is_some_and(|last| last.is_alphanumeric() || last == '_');
    if before == "+" || before == ":" || before == "," || before == "->" || before == "=" {
        return true;
    }
    if after == "?" {
        return !word(before);
    }
    if TIGHT_AFTER.contains(&before) || TIGHT_BEFORE.contains(&after) {
        return false;
    }
    match after {
        "(" | "<" => !(word(before) || before == ">" || before == ")" || before == "]"),
        "[" => before != "#" && before != "!",
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_signatures_read_as_they_are_written() {
        for written in [
            "fn new(driver: &str, ordinal: usize) -> Self",
            "fn at<'a, T: Into<Option<&'a str>> + ?Sized>(self, f: impl Fn(&T, [u8; 4]) -> (u32, bool)) -> Result<Vec<T>>",
            "fn f(code: &'a [u8], mut x: Box<dyn FnOnce(u64) + Send>) where T: Any + 'static, U: Into<T>",
            "fn g(range: std::ops::Range<usize>, p: *const u8, a: &mut T) -> Option<Arc<dyn Queue>>",
        ] {
            let stream: TokenStream = written.parse().unwrap();
            assert_eq!(text(&stream), written);
        }
    }

    #[test]
    fn a_list_over_several_lines_reads_as_one_on_one_line() {
        let stream: TokenStream = "fn f(\n    a: u8,\n    b: u8,\n) -> u8".parse().unwrap();
        assert_eq!(text(&stream), "fn f(a: u8, b: u8) -> u8");
    }
}
