//! The tokens of a source text.

use hetero_hal::Result;

use super::malformed;

/// A token of a source text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// An identifier or keyword.
    Word(String),
    Number(String),
    Sign(&'static str),
    /// The end of a line, kept so that the result is readable.
    Line,
}

const SIGNS: [&str; 42] = [
    "<<=", ">>=", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+=", "-=", "*=", "/=", "%=", "|=", "&=", "^=", "++",
    "--", "+", "-", "*", "/", "%", "<", ">", "=", "!", "&", "|", "^", "~", "(", ")", "[", "]", "{", "}", ",", ";", ".",
];

pub(super) fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut rest = line.split("//").next().unwrap_or_default();
        loop {
            rest = rest.trim_start();
            let Some(first) = rest.chars().next() else { break };
            let long = |part: &str, keep: fn(char) -> bool| part.find(|c| !keep(c)).unwrap_or(part.len());
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let bytes = if first.is_ascii_digit() {
                let mut bytes = long(rest, |c| c.is_ascii_alphanumeric() || c == '.');
                // The number goes on with the sign of an exponent.
                if rest[..bytes].ends_with('e') && !rest.starts_with("0x") && rest[bytes..].starts_with(['-', '+']) {
                    bytes += 1 + long(&rest[bytes + 1..], |c| c.is_ascii_alphanumeric());
                }
                found.push(Token::Number(rest[..bytes].to_owned()));
                bytes
            } else if word(first) {
                let bytes = long(rest, |c| c.is_ascii_alphanumeric() || c == '_');
                found.push(Token::Word(rest[..bytes].to_owned()));
                bytes
            } else {
                let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
                let sign = sign.ok_or_else(|| malformed(&format!("'{first}' in the line '{line}'")))?;
                found.push(Token::Sign(sign));
                sign.len()
            };
            rest = &rest[bytes..];
        }
        found.push(Token::Line);
    }
    Ok(found)
}
