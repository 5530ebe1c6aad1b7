//! Operators on texts.

use foldhash::{HashMap, HashSet};
use hetero_hal::{
    Bool, DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count,
    spend, take,
};
use regex_automata::hybrid::dfa::{Config, DFA};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind, nfa::thompson};
use std::sync::Arc;

use crate::indexing::{broadcast_strides, strided};
use crate::shapes::{broadcast_shapes, infer_broadcast, size};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("StringConcat", 20, (2, 2), infer_broadcast, concat),
    Definition::new("StringSplit", 20, (1, 1), infer_split, split).outputs(2),
    Definition::new("StringNormalizer", 10, (1, 1), infer_normalizer, normalizer),
    Definition::new("RegexFullMatch", 20, (1, 1), infer_full_match, full_match),
    Definition::new("TfIdfVectorizer", 9, (1, 1), infer_vectorizer, vectorizer),
];

/// Takes the memory of a text in the making, and counts the steps of making it.
fn reserve(bytes: usize) -> Result<()> {
    spend(16 + bytes / 8)?;
    // A text has two counts in front of it, and is copied once to where it is shared.
    take(bytes.saturating_mul(2).saturating_add(2 * size_of::<usize>() + size_of::<Arc<str>>()), 1)
}

fn concat(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (a, b) = (evaluation.input(0)?, evaluation.input(1)?);
    let (left, right) = (a.strings()?, b.strings()?);
    let shape = broadcast_shapes([a.shape(), b.shape()])?;
    let positions = |tensor: &Tensor| strided(&shape, &broadcast_strides(tensor.shape(), &shape), 0);
    let joined = positions(a)?.into_iter().zip(positions(b)?).map(|(i, j)| {
        let (left, right) = (&*left[i], &*right[j]);
        reserve(left.len().saturating_add(right.len()))?;
        Ok([left, right].concat().into())
    });
    Ok(vec![Tensor::from_strings(&shape, joined.collect::<Result<_>>()?)?])
}

fn infer_split(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = inference.dims(0)?;
    let with_parts = dims.map(|dims| [dims, &[Dim::Unknown]].concat());
    Ok(vec![
        TensorType { dtype: Some(DType::String), dims: with_parts },
        TensorType { dtype: Some(DType::I64), dims: dims.map(<[Dim]>::to_vec) },
    ])
}

/// The parts of a text, at blanks where there is no delimiter, and at most so many.
struct Parts<'a> {
    rest: Option<&'a str>,
    delimiter: Option<&'a str>,
    cuts: usize,
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest.take()?;
        let Some(delimiter) = self.delimiter else {
            let text = rest.trim_start();
            if text.is_empty() {
                return None;
            }
            return Some(match text.find(char::is_whitespace) {
                Some(end) if self.cuts > 0 => {
                    self.cuts -= 1;
                    self.rest = Some(&text[end..]);
                    &text[..end]
                }
                // What is left of the text keeps its inner blanks.
                _ => text,
            });
        };
        match rest.split_once(delimiter) {
            Some((part, rest)) if self.cuts > 0 => {
                self.cuts -= 1;
                self.rest = Some(rest);
                Some(part)
            }
            _ => Some(rest),
        }
    }
}

fn split(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let texts = input.strings()?;
    let delimiter = operator.text("delimiter")?.filter(|delimiter| !delimiter.is_empty());
    // A negative number, as an absent one, does not limit the cuts.
    let cuts = operator.int("maxsplit")?.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let parts = |text: &'_ Arc<str>| -> Result<usize> {
        spend(16 + text.len())?;
        Ok(Parts { rest: Some(text), delimiter, cuts }.count())
    };
    take(texts.len(), 2 * size_of::<i64>())?;
    let counts = texts.iter().map(parts).collect::<Result<Vec<usize>>>()?;
    let width = counts.iter().copied().max().unwrap_or(0);
    let shape = [input.shape(), &[width]].concat();
    let count = element_count(&shape).unwrap_or(usize::MAX);
    take(count, 2 * size_of::<Arc<str>>())?;
    let nothing: Arc<str> = "".into();
    let mut all: Vec<Arc<str>> = Vec::with_capacity(count);
    for (text, &count) in texts.iter().zip(&counts) {
        for part in (Parts { rest: Some(text), delimiter, cuts }) {
            reserve(part.len())?;
            all.push(part.into());
        }
        spend(width - count)?;
        all.extend(std::iter::repeat_n(nothing.clone(), width - count));
    }
    let counts = counts.into_iter().map(|count| count as i64).collect();
    Ok(vec![Tensor::from_strings(&shape, all)?, Tensor::from_vec(input.shape(), counts)?])
}

fn infer_normalizer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let kept = |dim: &Dim| match dim.bound() {
        // Where nothing is left there is one empty text.
        Some(bound) => Dim::Data { bound: bound.max(1), extent: None },
        None => Dim::Unknown,
    };
    let dims = match inference.dims(0)? {
        Some([count]) => Some(vec![kept(count)]),
        Some([_, count]) => Some(vec![Dim::Known(1), kept(count)]),
        Some(dims) => return Err(Error::invalid_model(format!("StringNormalizer of a tensor of rank {}", dims.len()))),
        None => None,
    };
    Ok(vec![TensorType { dtype: Some(DType::String), dims }])
}

/// The change of a text's letters.
#[derive(Clone, Copy, PartialEq)]
enum Case {
    Lower,
    Upper,
    Kept,
}

impl Case {
    fn of(self, text: &str) -> String {
        match self {
            Case::Lower => text.to_lowercase(),
            Case::Upper => text.to_uppercase(),
            Case::Kept => text.to_owned(),
        }
    }
}

/// Takes out the texts that the attribute lists, and changes the letters of the others.
/// Letters change as Unicode has it, whatever the attribute `locale` names.
fn normalizer(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let count = match *input.shape() {
        [count] | [1, count] => count,
        _ => return Err(Error::invalid_model(format!("{operator} takes one row of texts, not {input:?}"))),
    };
    let case = match operator.text("case_change_action")? {
        None | Some("NONE") => Case::Kept,
        Some("LOWER") => Case::Lower,
        Some("UPPER") => Case::Upper,
        Some(other) => return Err(Error::invalid_model(format!("case_change_action '{other}' is unknown"))),
    };
    let compared = if operator.int("is_case_sensitive")?.unwrap_or(0) != 0 { Case::Kept } else { Case::Lower };
    let words = strings(operator, "stopwords")?;
    // Letters that change can take three times the bytes, and a text is changed twice.
    let room = |text: &str| reserve(text.len().saturating_mul(6));
    let mut stopped: HashSet<String> = HashSet::default();
    for word in words.unwrap_or_default() {
        room(word)?;
        stopped.insert(compared.of(word));
    }
    let mut kept: Vec<Arc<str>> = Vec::new();
    take(count, 4 * size_of::<Arc<str>>())?;
    for text in input.strings()? {
        room(text)?;
        let is_stopped = !stopped.is_empty() && stopped.contains(&compared.of(text));
        if !is_stopped {
            kept.push(if case == Case::Kept { text.clone() } else { case.of(text).into() });
        }
    }
    if kept.is_empty() {
        kept.push("".into());
    }
    let shape = if input.rank() == 1 { vec![kept.len()] } else { vec![1, kept.len()] };
    Ok(vec![Tensor::from_strings(&shape, kept)?])
}

/// Returns an attribute that is a list of texts, where the node sets it.
pub(crate) fn strings<'a>(operator: &'a Operator, name: &str) -> Result<Option<Vec<&'a str>>> {
    let wrong = || Error::invalid_model(format!("attribute '{name}' of {operator} is no list of UTF-8 texts"));
    match operator.attribute(name) {
        None => Ok(None),
        Some(hetero_hal::Attribute::Strings(texts)) => {
            take(texts.len(), size_of::<&str>())?;
            let read = texts.iter().map(|text| std::str::from_utf8(text).map_err(|_| wrong()));
            Ok(Some(read.collect::<Result<_>>()?))
        }
        Some(_) => Err(wrong()),
    }
}

/// The most bytes that a compiled pattern takes, and as many the states that are made of it on the
/// way.
const COMPILED_BYTES: usize = 1 << 20;
/// The most bytes of a pattern.
const LONGEST_PATTERN: usize = 1 << 14;
/// The bytes that a parsed pattern takes for each of its own; `\pL` names some hundred ranges.
const PARSED_BYTES: usize = 1 << 11;

fn infer_full_match(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = inference.dims(0)?.map(<[Dim]>::to_vec);
    Ok(vec![TensorType { dtype: Some(DType::Bool), dims }])
}

/// Returns a pattern of RE2 in this engine's words, where `\d`, `\w`, `\s` and `\b` mean more than
/// the ASCII characters that they mean there.
fn translated(pattern: &str) -> String {
    let mut result = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(at) = rest.find('\\') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(escaped) = rest.chars().next() else {
            result.push('\\');
            break;
        };
        rest = &rest[escaped.len_utf8()..];
        match escaped {
            'd' => result.push_str("[0-9]"),
            'D' => result.push_str("[^0-9]"),
            'w' => result.push_str("[0-9A-Za-z_]"),
            'W' => result.push_str("[^0-9A-Za-z_]"),
            's' => result.push_str(r"[\t\n\f\r ]"),
            'S' => result.push_str(r"[^\t\n\f\r ]"),
            'b' => result.push_str(r"(?-u:\b)"),
            'B' => result.push_str(r"(?-u:\B)"),
            // A quotation, which lasts to its end or the pattern's.
            'Q' => {
                let (quoted, after) = rest.split_once(r"\E").unwrap_or((rest, ""));
                for character in quoted.chars() {
                    if character.is_ascii_punctuation() {
                        result.push('\\');
                    }
                    result.push(character);
                }
                rest = after;
            }
            other => result.extend(['\\', other]),
        }
    }
    result.push_str(rest);
    result
}

/// Tells which texts match a pattern as a whole.
///
/// The automaton is stepped here, byte by byte, so that a deadline ends a long text.
/// It takes every way through the pattern at once, so no order of alternatives hides a match.
fn full_match(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let pattern =
        operator.text("pattern")?.ok_or_else(|| Error::invalid_model(format!("{operator} lacks a pattern")))?;
    let failed = |error: &dyn std::fmt::Display| {
        // The reason is of several lines, of which the last one says what is wrong.
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim().to_owned();
        Error::invalid_model(format!("{operator} has a pattern that is not of RE2's syntax, or too large: {reason}"))
    };
    if pattern.len() > LONGEST_PATTERN {
        return Err(failed(&format!("it has {} bytes, and {LONGEST_PATTERN} are the most", pattern.len())));
    }
    take(pattern.len(), PARSED_BYTES)?;
    take(2 * COMPILED_BYTES, 1)?;
    let config =
        Config::new().match_kind(MatchKind::All).cache_capacity(COMPILED_BYTES).skip_cache_capacity_check(true);
    let dfa = DFA::builder()
        .configure(config)
        .syntax(syntax::Config::new().nest_limit(100))
        .thompson(thompson::Config::new().nfa_size_limit(Some(COMPILED_BYTES)))
        .build(&translated(pattern))
        .map_err(|error| {
            failed(&std::error::Error::source(&error).map_or_else(|| error.to_string(), |e| e.to_string()))
        })?;
    let mut cache = dfa.create_cache();
    // A new state is made of all states of the pattern.
    let steps = 8 * dfa.get_nfa().states().len();
    let mut known = 0;
    let mut matches = |text: &str| -> Result<bool> {
        let start = Input::new(text).anchored(Anchored::Yes);
        let mut state = dfa.start_state_forward(&mut cache, &start).map_err(|error| failed(&error))?;
        for &byte in text.as_bytes() {
            spend(16)?;
            state = dfa.next_state(&mut cache, state, byte).map_err(|error| failed(&error))?;
            let made = cache.memory_usage();
            if made != known {
                known = made;
                spend(steps)?;
            }
            if state.is_dead() || state.is_quit() {
                return Ok(false);
            }
        }
        state = dfa.next_eoi_state(&mut cache, state).map_err(|error| failed(&error))?;
        Ok(state.is_match())
    };
    take(input.len(), 2)?;
    let found = input.strings()?.iter().map(|text| {
        spend(16)?;
        Ok(Bool::from(matches(text)?))
    });
    Ok(vec![Tensor::from_vec(input.shape(), found.collect::<Result<Vec<_>>>()?)?])
}

/// The attributes of a TfIdfVectorizer.
struct Grams {
    lengths: std::ops::RangeInclusive<usize>,
    skips: usize,
    /// Where the n-grams of each length begin in the pool.
    starts: Vec<usize>,
    /// The place of each n-gram in the result.
    places: Vec<usize>,
}

/// Returns how many places the result of a TfIdfVectorizer has for each row.
fn width(operator: &Operator) -> Result<usize> {
    let last = operator.ints("ngram_indexes")?.and_then(|places| places.iter().max());
    let width = last.and_then(|&last| usize::try_from(last).ok()?.checked_add(1));
    width.ok_or_else(|| Error::invalid_model(format!("{operator} lacks valid ngram_indexes")))
}

impl Grams {
    fn of(operator: &Operator) -> Result<Grams> {
        let missing = |name: &str| Error::invalid_model(format!("{operator} lacks a valid attribute '{name}'"));
        let length = |name: &str| -> Result<usize> { size(operator.int(name)?.ok_or_else(|| missing(name))?) };
        let list = |name: &str| -> Result<Vec<usize>> {
            let list = operator.ints(name)?.ok_or_else(|| missing(name))?;
            take(list.len(), size_of::<usize>())?;
            list.iter().map(|&value| size(value)).collect()
        };
        let (shortest, longest) = (length("min_gram_length")?, length("max_gram_length")?);
        if shortest == 0 || longest < shortest {
            return Err(missing("max_gram_length"));
        }
        let places = list("ngram_indexes")?;
        let (starts, skips) = (list("ngram_counts")?, length("max_skip_count")?);
        Ok(Grams { lengths: shortest..=longest, skips, starts, places })
    }
}

fn infer_vectorizer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let width = Dim::Known(width(inference.operator)?);
    let dims = match inference.dims(0)? {
        Some([] | [_]) => Some(vec![width]),
        Some([rows, _]) => Some(vec![rows.clone(), width]),
        Some(dims) => return Err(Error::invalid_model(format!("TfIdfVectorizer of a tensor of rank {}", dims.len()))),
        None => None,
    };
    Ok(vec![TensorType { dtype: Some(DType::F32), dims }])
}

/// The n-grams as a tree: from a node, an item leads to the next node.
#[derive(Default)]
struct Tree {
    steps: HashMap<(usize, usize), usize>,
    /// The number of the n-gram that ends at each node.
    ends: Vec<Option<usize>>,
}

impl Tree {
    /// Reads the n-grams of the wanted lengths out of the pool.
    fn of(grams: &Grams, pool: &[usize], operator: &Operator) -> Result<Tree> {
        let misfit =
            || Error::invalid_model(format!("{operator}: the pool does not fit ngram_counts and ngram_indexes"));
        take(pool.len().saturating_add(1), 96)?;
        let mut tree = Tree { ends: vec![None], ..Tree::default() };
        let mut number = 0;
        for (index, &start) in grams.starts.iter().enumerate() {
            let end = grams.starts.get(index + 1).copied().unwrap_or(pool.len());
            let items = pool.get(start..end).ok_or_else(misfit)?;
            let length = index + 1;
            for gram in items.chunks_exact(length) {
                spend(32 * length)?;
                let mut node = 0;
                for &item in gram.iter().filter(|_| grams.lengths.contains(&length)) {
                    let next = tree.ends.len();
                    node = *tree.steps.entry((node, item)).or_insert(next);
                    if node == next {
                        tree.ends.push(None);
                    }
                }
                if number >= grams.places.len() {
                    return Err(misfit());
                }
                if node != 0 {
                    tree.ends[node] = Some(number);
                }
                number += 1;
            }
        }
        Ok(tree)
    }
}

/// Numbers the items of the pool and of the input, so that equal items have equal numbers.
fn numbered<T: std::hash::Hash + Eq>(
    pool: impl ExactSizeIterator<Item = T>,
    input: impl ExactSizeIterator<Item = T>,
) -> Result<(Vec<usize>, Vec<Option<usize>>)> {
    take(pool.len(), 64)?;
    take(input.len(), size_of::<Option<usize>>())?;
    spend(8 * (pool.len() + input.len()))?;
    let mut known: HashMap<T, usize> = HashMap::default();
    let mut number = |item| {
        let next = known.len();
        *known.entry(item).or_insert(next)
    };
    let pool = pool.map(&mut number).collect();
    Ok((pool, input.map(|item| known.get(&item).copied()).collect()))
}

/// Counts n-grams of items that stand beside each other, or with others between them.
fn vectorizer(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let (rows, length) = match *input.shape() {
        [] => (1, 1),
        [length] => (1, length),
        [rows, length] => (rows, length),
        _ => return Err(Error::invalid_model(format!("{operator} takes one row or several, not {input:?}"))),
    };
    let grams = Grams::of(operator)?;
    let (pool, items) = match (strings(operator, "pool_strings")?, operator.ints("pool_int64s")?) {
        (Some(pool), _) => numbered(pool.into_iter(), input.strings()?.iter().map(|text| &**text))?,
        (None, Some(pool)) => numbered(pool.iter().copied(), input.to_i64_vec()?.into_iter())?,
        (None, None) => return Err(Error::invalid_model(format!("{operator} lacks its pool"))),
    };
    let tree = Tree::of(&grams, &pool, operator)?;
    let width = width(operator)?;
    let shape = if input.rank() == 2 { vec![rows, width] } else { vec![width] };
    let count = evaluation.reserve(DType::F32, &shape)?;
    let mut found = vec![0f32; count];
    for row in 0..rows {
        count_grams(&grams, &tree, &items[row * length..][..length], &mut found[row * width..][..width])?;
    }
    weigh(operator, &mut found, width)?;
    Ok(vec![Tensor::from_vec(&shape, found)?])
}

/// Adds up how often each n-gram is among the items of one row.
fn count_grams(grams: &Grams, tree: &Tree, items: &[Option<usize>], found: &mut [f32]) -> Result<()> {
    let (mut shortest, longest) = (*grams.lengths.start(), *grams.lengths.end());
    for distance in 1..=grams.skips.saturating_add(1).min(items.len()) {
        for start in 0..items.len() {
            if distance.saturating_mul(shortest - 1).saturating_add(start) >= items.len() {
                break;
            }
            let mut node = 0;
            for (length, item) in items[start..].iter().step_by(distance).enumerate() {
                spend(16)?;
                let next = item.and_then(|item| tree.steps.get(&(node, item)));
                let Some(&next) = next.filter(|_| length < longest) else { break };
                node = next;
                if let Some(number) = tree.ends[node].filter(|_| length + 1 >= shortest) {
                    found[grams.places[number]] += 1.0;
                }
            }
        }
        // No distance lies inside a single item, so these are counted once.
        if shortest == 1 {
            shortest = 2;
            if longest < 2 {
                break;
            }
        }
    }
    Ok(())
}

/// Turns counts into what the attribute `mode` asks for.
fn weigh(operator: &Operator, found: &mut [f32], width: usize) -> Result<()> {
    let weights = operator.floats("weights")?;
    if weights.is_some_and(|weights| weights.len() < width) {
        return Err(Error::invalid_model(format!("{operator} has fewer weights than places in its result")));
    }
    let mode = operator.text("mode")?.unwrap_or_default();
    spend(found.len())?;
    for (place, value) in found.iter_mut().enumerate() {
        let weight = weights.map_or(1.0, |weights| weights[place % width]);
        *value = match mode {
            "TF" => *value,
            "IDF" if *value > 0.0 => weight,
            "IDF" => 0.0,
            "TFIDF" => *value * weight,
            other => return Err(Error::invalid_model(format!("mode '{other}' of {operator} is unknown"))),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use hetero_hal::{Allowance, Attribute, ErrorKind};

    use super::*;
    use crate::{Standard, evaluate as compute};

    fn texts(shape: &[usize], texts: &[&str]) -> Tensor {
        Tensor::from_strings(shape, texts.iter().map(|&text| text.into()).collect()).unwrap()
    }

    fn text(value: &str) -> Attribute {
        Attribute::String(value.as_bytes().into())
    }

    #[test]
    fn texts_move_as_numbers_do() {
        let ints = |shape: &[usize], values: &[i64]| Tensor::from_vec(shape, values.to_vec()).unwrap();
        let list = |values: &[i64]| ints(&[values.len()], values);
        let (digits, flags) = (ints(&[2, 3], &[3, 1, 4, 1, 5, 9]), [true, false, true].map(Bool::from).to_vec());
        let flags = Tensor::from_vec(&[3], flags).unwrap();
        let cast = |tensor: &Tensor| {
            let to = Operator::new("Cast", 21).with("to", Attribute::Int(8));
            compute(&to, &[Some(tensor.clone())], 1).unwrap().swap_remove(0)
        };
        let op = |name: &str| Operator::new(name, 17);
        let along = |name: &str, axis: i64| op(name).with("axis", Attribute::Int(axis));
        let d = || digits.clone();
        // The operators, their inputs, which of these hold what moves, and the number of outputs.
        let cases: Vec<(Operator, Vec<Tensor>, &[usize], usize)> = vec![
            (op("Identity"), vec![d()], &[0], 1),
            (op("Transpose"), vec![d()], &[0], 1),
            (op("Flatten"), vec![d()], &[0], 1),
            (op("Reshape"), vec![d(), list(&[3, -1])], &[0], 1),
            (op("Unsqueeze"), vec![d(), list(&[0])], &[0], 1),
            (op("Squeeze"), vec![ints(&[1, 2], &[7, 8]), list(&[0])], &[0], 1),
            (op("Expand"), vec![d(), list(&[2, 2, 3])], &[0], 1),
            (op("Tile"), vec![d(), list(&[2, 1])], &[0], 1),
            (along("Concat", 1), vec![d(), d()], &[0, 1], 1),
            (along("Split", 1), vec![d(), list(&[1, 2])], &[0], 2),
            (op("Slice"), vec![d(), list(&[2]), list(&[-9]), list(&[1]), list(&[-1])], &[0], 1),
            (op("Pad"), vec![d(), list(&[1, 0, 0, 2]), ints(&[], &[7])], &[0, 2], 1),
            (along("Gather", 1), vec![d(), list(&[2, 0, -1])], &[0], 1),
            (along("GatherElements", 0), vec![d(), ints(&[1, 3], &[1, 0, 1])], &[0], 1),
            (op("GatherND"), vec![d(), ints(&[2, 2], &[0, 1, 1, 2])], &[0], 1),
            (along("ScatterElements", 1), vec![d(), ints(&[1, 2], &[0, 2]), ints(&[1, 2], &[6, 7])], &[0, 2], 1),
            (op("ScatterND"), vec![d(), ints(&[1, 1], &[1]), ints(&[1, 3], &[6, 7, 8])], &[0, 2], 1),
            (along("Compress", 1), vec![d(), flags.clone()], &[0], 1),
            (op("Where"), vec![flags, d(), ints(&[], &[0])], &[1, 2], 1),
            (op("Unique"), vec![d()], &[0], 1),
            (along("OneHot", 0), vec![list(&[1, 0]), list(&[2]), list(&[4, 5])], &[2], 1),
            (op("ReverseSequence"), vec![d(), list(&[1, 2, 2])], &[0], 1),
            (op("Trilu"), vec![ints(&[1, 1], &[5])], &[0], 1),
        ];
        for (operator, inputs, moved, outputs) in cases {
            let numbers: Vec<Option<Tensor>> = inputs.iter().cloned().map(Some).collect();
            let mut texts = numbers.clone();
            for &index in moved {
                texts[index] = Some(cast(&inputs[index]));
            }
            let (expected, found) = (compute(&operator, &numbers, outputs), compute(&operator, &texts, outputs));
            for (expected, found) in expected.unwrap().iter().zip(found.unwrap()).take(outputs) {
                assert_eq!(cast(expected), found, "{operator}");
                assert_eq!(cast(expected).strings().unwrap(), found.strings().unwrap(), "{operator}");
            }
        }
        let equal = compute(&op("Equal"), &[Some(cast(&d())), Some(cast(&ints(&[3], &[3, 5, 9])))], 1).unwrap();
        let equal: Vec<bool> = equal[0].view::<Bool>().unwrap().iter().map(|flag| flag.get()).collect();
        assert_eq!(equal, [true, false, false, false, true, true]);
    }

    #[test]
    fn texts_are_joined_with_broadcasting() {
        let inputs = [Some(texts(&[2, 1], &["a", "é"])), Some(texts(&[2], &["", "x"]))];
        let y = compute(&Operator::new("StringConcat", 20), &inputs, 1).unwrap();
        assert_eq!(y[0], texts(&[2, 2], &["a", "ax", "é", "éx"]));
    }

    #[test]
    fn texts_are_split_at_blanks_or_delimiters() {
        let split = |operator: Operator, x: Tensor| compute(&operator, &[Some(x)], 2).unwrap();
        let op = Operator::new("StringSplit", 20);
        let y = split(op.clone(), texts(&[3], &["  a  b c ", "", " d"]));
        assert_eq!(y[0], texts(&[3, 3], &["a", "b", "c", "", "", "", "d", "", ""]));
        assert_eq!(*y[1].view::<i64>().unwrap(), [3, 0, 1]);
        let y = split(op.clone().with("maxsplit", Attribute::Int(1)), texts(&[1], &[" a b  c "]));
        assert_eq!(y[0], texts(&[1, 2], &["a", "b  c "]));
        let y = split(op.clone().with("delimiter", text("--")), texts(&[2], &["a--b--", ""]));
        assert_eq!(y[0], texts(&[2, 3], &["a", "b", "", "", "", ""]));
        assert_eq!(*y[1].view::<i64>().unwrap(), [3, 1]);
        let y = split(op, texts(&[0, 2], &[]));
        assert_eq!((y[0].shape(), y[1].shape()), (&[0, 2, 0][..], &[0, 2][..]));
    }

    #[test]
    fn a_table_of_split_texts_is_bounded_by_the_allowance() {
        // One text of many parts makes all rows as wide.
        let mut rows = vec!["a"; 5000];
        let long = "a ".repeat(5000);
        rows[0] = &long;
        let inputs = [Some(texts(&[5000], &rows))];
        let op = Operator::new("StringSplit", 20);
        let error = Evaluation::new(&op, &inputs, 2, &Standard, &Allowance::new(1 << 24)).compute().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    }

    #[test]
    fn words_are_dropped_and_letters_changed() {
        let op = |case: &str, sensitive: i64| {
            Operator::new("StringNormalizer", 10)
                .with("case_change_action", text(case))
                .with("is_case_sensitive", Attribute::Int(sensitive))
                .with("stopwords", Attribute::Strings(vec![b"monday"[..].into()]))
        };
        let x = texts(&[3], &["Monday", "straße", "monday"]);
        let run = |op: Operator, x: &Tensor| compute(&op, &[Some(x.clone())], 1).unwrap().swap_remove(0);
        assert_eq!(run(op("UPPER", 0), &x), texts(&[1], &["STRASSE"]));
        assert_eq!(run(op("LOWER", 1), &x), texts(&[2], &["monday", "straße"]));
        assert_eq!(run(op("NONE", 1), &texts(&[1, 1], &["monday"])), texts(&[1, 1], &[""]));
        assert_eq!(run(op("NONE", 1), &texts(&[0], &[])), texts(&[1], &[""]));
        assert!(compute(&op("NONE", 1), &[Some(texts(&[2, 1], &["a", "b"]))], 1).is_err());
    }

    fn matched(pattern: &str, text: &str) -> Result<bool> {
        let op = Operator::new("RegexFullMatch", 20).with("pattern", self::text(pattern));
        let y = compute(&op, &[Some(texts(&[1], &[text]))], 1)?;
        Ok(y[0].view::<Bool>()?[0].get())
    }

    #[test]
    fn patterns_match_whole_texts_in_the_syntax_of_re2() {
        for (pattern, text, expected) in [
            ("a|ab", "ab", true),
            ("ab|a", "a", true),
            ("a", "ab", false),
            ("b", "ab", false),
            ("", "", true),
            ("a*", "", true),
            (r"\d+", "123", true),
            // These digits are no ASCII.
            (r"\d+", "१२३", false),
            (r"[^\d]+", "१२३", true),
            (r"\w+@\w+\.(com|org)", "me@web.org", true),
            (r"\w+@\w+\.(com|org)", "me@web.net", false),
            (r"\Qa.b\E+", "a.bb", true),
            (r"\Qa.b\E", "axb", false),
            (r"a\b b", "a b", true),
            ("(?i)été", "ÉTÉ", true),
            (".", "é", true),
            (r"\p{Greek}+", "αβγ", true),
            (r"a\\", r"a\", true),
        ] {
            assert_eq!(matched(pattern, text).unwrap(), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn hostile_patterns_are_errors_and_long_texts_end_by_the_deadline() {
        for pattern in
            ["(", "a{100000}", &r"\pL".repeat(6000), "((a{100}){100}){100}", "\\", "[", r"(a)\1", &"(".repeat(100_000)]
        {
            assert!(matched(pattern, "a").is_err(), "{pattern:.20}");
        }
        let op = Operator::new("RegexFullMatch", 20).with("pattern", text("(a|b|ab)*[ab]{50}c"));
        let inputs = [Some(texts(&[1], &["ab".repeat(1 << 24).as_str()]))];
        let soon = Allowance::default().until(Instant::now() + Duration::from_millis(20));
        let error = Evaluation::new(&op, &inputs, 1, &Standard, &soon).compute().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }

    fn vectors(mode: &str) -> Operator {
        Operator::new("TfIdfVectorizer", 9)
            .with("mode", text(mode))
            .with("min_gram_length", Attribute::Int(1))
            .with("max_gram_length", Attribute::Int(2))
            .with("max_skip_count", Attribute::Int(1))
            .with("ngram_counts", Attribute::Ints(vec![0, 2]))
            .with("ngram_indexes", Attribute::Ints(vec![0, 2, 1]))
            .with("weights", Attribute::Floats(vec![2.0, 3.0, 4.0]))
            // The single items 'a' and 'b', then the pair of 'a' and 'b'.
            .with("pool_strings", Attribute::Strings([b"a", b"b", b"a", b"b"].map(|t| t[..].into()).to_vec()))
    }

    #[test]
    fn grams_are_counted_with_gaps_and_weighed() {
        // 'a' is there twice, 'b' once, and the pair once side by side and once with a gap.
        let x = texts(&[4], &["a", "a", "b", "c"]);
        let run =
            |mode: &str| compute(&vectors(mode), &[Some(x.clone())], 1).unwrap()[0].view::<f32>().unwrap().to_vec();
        assert_eq!(run("TF"), [2.0, 2.0, 1.0]);
        assert_eq!(run("IDF"), [2.0, 3.0, 4.0]);
        assert_eq!(run("TFIDF"), [4.0, 6.0, 4.0]);
        let empty = compute(&vectors("TF"), &[Some(texts(&[0], &[]))], 1).unwrap();
        assert_eq!(*empty[0].view::<f32>().unwrap(), [0.0; 3]);
    }

    #[test]
    fn broken_pools_are_errors() {
        let x = [Some(texts(&[2], &["a", "b"]))];
        for (name, value) in [
            ("ngram_counts", Attribute::Ints(vec![0, 9])),
            ("ngram_counts", Attribute::Ints(vec![2, 0])),
            ("ngram_indexes", Attribute::Ints(vec![0])),
            ("ngram_indexes", Attribute::Ints(vec![])),
            ("ngram_indexes", Attribute::Ints(vec![i64::MAX, 0, 0])),
            ("max_gram_length", Attribute::Int(0)),
            ("min_gram_length", Attribute::Int(-1)),
            ("weights", Attribute::Floats(vec![1.0])),
            ("mode", text("else")),
            ("pool_strings", Attribute::Strings(vec![b"\xff"[..].into()])),
        ] {
            assert!(compute(&vectors("TF").with(name, value), &x, 1).is_err(), "{name}");
        }
        // Gaps that are longer than the text end with it.
        let far = vectors("TF").with("max_skip_count", Attribute::Int(i64::MAX));
        assert!(compute(&far, &x, 1).is_ok());
    }
}
