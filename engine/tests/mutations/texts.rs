//! Mutations of texts that people and programs write: plans, configurations and profiles.

use hetero_testkit::SplitMix64;
use serde_json::{Number, Value};

/// Returns a text with a change of its structure, or of its bytes.
pub(crate) fn mutated(text: &str, random: &mut SplitMix64) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(mut document) if random.below(4) > 0 => {
            for _ in 0..=random.below(2) {
                change(&mut document, random);
            }
            document.to_string()
        }
        _ => damaged(text, random),
    }
}

/// Changes something in a document; the walk ends at a random place.
fn change(value: &mut Value, random: &mut SplitMix64) {
    let deeper = random.below(8) > 0;
    match value {
        Value::Object(fields) if deeper && !fields.is_empty() => {
            let key = fields.keys().nth(random.below(fields.len())).cloned().unwrap_or_default();
            match random.below(12) {
                0 => drop(fields.remove(&key)),
                1 => drop(fields.insert(format!("{key}_"), Value::Null)),
                _ => change(&mut fields[&key], random),
            }
        }
        Value::Array(list) if deeper && !list.is_empty() => {
            let at = random.below(list.len());
            match random.below(8) {
                0 => drop(list.remove(at)),
                1 => {
                    let copy = list[at].clone();
                    list.push(copy);
                }
                2 => list.reverse(),
                _ => change(&mut list[at], random),
            }
        }
        _ => *value = other(random),
    }
}

fn other(random: &mut SplitMix64) -> Value {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    match random.below(14) {
        0 => Value::Null,
        1 => Value::Bool(true),
        2 => Value::from(0),
        3 => Value::from(-1),
        4 => Value::from(u64::MAX),
        5 => Value::from(i64::MIN),
        6 => Value::from(1u64 << 40),
        7 => float(1e308),
        8 => float(-1e-308),
        9 => Value::from(""),
        10 => Value::from("\u{1b}[2J\u{202e}cpu:0"),
        11 => Value::from("cpu:18446744073709551615"),
        12 => Value::Array(vec![]),
        _ => Value::Object(serde_json::Map::new()),
    }
}

/// Returns a text with some characters removed, doubled or replaced.
fn damaged(text: &str, random: &mut SplitMix64) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..=random.below(3) {
        if characters.is_empty() {
            break;
        }
        let at = random.below(characters.len());
        match random.below(5) {
            0 => drop(characters.remove(at)),
            1 => characters.truncate(at),
            2 => {
                let end = characters.len().min(at + random.below(40));
                let piece: Vec<char> = characters[at..end].to_vec();
                characters.splice(at..at, piece);
            }
            3 => {
                characters[at] = ['{', '[', '"', ':', '-', '9', '&', '*', '!', '\n', '\0', '\u{fffd}'][random.below(12)]
            }
            _ => characters.insert(at, ['9', ' ', '\t', '}', ']', '#', '%', 'e'][random.below(8)]),
        }
    }
    characters.into_iter().collect()
}
