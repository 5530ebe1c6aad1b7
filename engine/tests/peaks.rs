//! What the oracle's operators allocate, compared with what they take of their allowance.
//!
//! Every definition computes cases of the conformance suite, grown so that tensors are much larger
//! than shapes and lists, under allowances from too little to enough.
//! Whatever the outcome, the bytes alive at once stay within the allowance.
//! `HETERO_PEAK_CASES` chooses how many cases of each definition are grown.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "counting/mod.rs"]
mod counting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use counting::Counting;
use hetero::Tensor;
use hetero::hal::{Allowance, Attribute, DType, Definition, Error, ErrorKind, Evaluation, Operator, OperatorSet};
use hetero_conformance::{Case, suite};
use hetero_reference::Standard;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counts are those of the whole process, so that one test counts at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// What a computation may allocate beside what it takes: shapes, lists of axes, and errors.
const OVERHEAD: usize = 16 << 10;
/// The same for a definition with a body, which is a graph of some dozens of nodes at the most.
const BODY: usize = 128 << 10;

/// Returns what a definition may allocate beside what it takes.
fn overhead(definition: &Definition) -> usize {
    if definition.expand.is_some() { BODY } else { OVERHEAD }
}
/// The elements of the largest input of a grown case.
const ELEMENTS: usize = 48 << 10;
/// The allowance under which sizes are hostile.
const SMALL: usize = 1 << 20;
/// The longest that one computation may take before its deadline ends it.
const TIME: Duration = Duration::from_secs(2);
/// The longest that it may go on after its deadline, on a busy machine.
const LATE: Duration = Duration::from_secs(20);

/// Definitions of which no case of the suite grows: they hand on what they have, have one case, or
/// take texts and sequences, of which the suite makes none.
const SMALL_ONLY: [&str; 24] = [
    "CategoryMapper 1",
    "ConcatFromSequence 11",
    "Constant 1",
    "DictVectorizer 1",
    "Expand 8",
    "If 1",
    "Optional 15",
    "OptionalGetElement 15",
    "OptionalHasElement 15",
    "QLinearGlobalAveragePool 1",
    "RegexFullMatch 20",
    "Scan 8",
    "SequenceAt 11",
    "SequenceConstruct 11",
    "SequenceEmpty 11",
    "SequenceErase 11",
    "SequenceInsert 11",
    "SequenceLength 11",
    "SequenceMap 17",
    "SplitToSequence 11",
    "StringConcat 20",
    "StringNormalizer 10",
    "StringSplit 20",
    "TfIdfVectorizer 9",
];

/// The outcome of a computation under an allowance.
struct Probe {
    outcome: Result<usize, Error>,
    /// The most bytes that were alive at once because of it.
    peak: usize,
    took: Duration,
}

impl Probe {
    /// Computes a case under an allowance of this number of bytes.
    fn of(case: &Case, bytes: usize) -> Probe {
        let began = Instant::now();
        let allowance = Allowance::new(bytes).until(began + TIME);
        let before = counting::watch_peak();
        let outcome = Evaluation::new(&case.operator, &case.inputs, case.outputs, &Standard, &allowance).compute();
        let peak = counting::peak().saturating_sub(before);
        let outcome = outcome.map(|tensors| tensors.iter().map(|tensor| tensor.bytes().len()).sum());
        Probe { outcome, peak, took: began.elapsed() }
    }

    /// Returns what is wrong with it, where something is.
    fn wrong(&self, bytes: usize, overhead: usize) -> Option<String> {
        let outcome = match &self.outcome {
            Ok(made) => format!("made {made} bytes"),
            Err(error) => error.to_string(),
        };
        if self.peak > bytes + overhead {
            return Some(format!("{} bytes were alive where {bytes} are allowed ({outcome})", self.peak));
        }
        (self.took > TIME + LATE).then(|| format!("it took {:?} ({outcome})", self.took))
    }
}

/// What is wrong, by definition; of each the first few.
#[derive(Default)]
struct Findings(BTreeMap<String, Vec<String>>);

impl Findings {
    fn note(&mut self, case: &Case, what: String) {
        let shapes: Vec<_> = case.inputs.iter().flatten().map(|input| (input.dtype(), input.shape())).collect();
        let list = self.0.entry(case.operator.name.to_string()).or_default();
        if list.len() < 3 {
            list.push(format!("{} (opset {}) of {shapes:?}: {what}", case.name, case.operator.version));
        }
    }

    fn assert_none(&self) {
        for finding in self.0.values().flatten() {
            println!("{finding}");
        }
        assert!(self.0.is_empty(), "{} operators: {:?}", self.0.len(), self.0.keys());
    }
}

/// The most operands of a case.
const MOST_INPUTS: usize = 100;

/// Returns the suite's cases, and those of operators that devices never see.
fn cases() -> Vec<Case> {
    let mut cases = suite(1).unwrap();
    // A list of the operands is as long as the node itself; grown, thousands would take gigabytes.
    cases.retain(|case| case.inputs.len() <= MOST_INPUTS);
    let case = |operator: Operator, inputs: Vec<Tensor>, outputs| Case {
        name: operator.name.to_string(),
        operator,
        inputs: inputs.into_iter().map(Some).collect(),
        constants: vec![],
        outputs,
    };
    let matrix = || Tensor::from_vec(&[3, 5], (0..15).map(|i| i as f32 / 15.0).collect()).unwrap();
    let value = Attribute::Tensor(Tensor::from_vec(&[3], vec![1i64, 2, 3]).unwrap());
    cases.push(case(Operator::new("Constant", 13).with("value", value), vec![], 1));
    for name in ["RandomUniform", "RandomNormal"] {
        for length in [3, 50_000] {
            let operator = Operator::new(name, 22).with("shape", Attribute::Ints(vec![length, 2]));
            cases.push(case(operator, vec![], 1));
        }
    }
    for name in ["RandomUniformLike", "RandomNormalLike", "Bernoulli", "Multinomial"] {
        cases.push(case(Operator::new(name, 22), vec![matrix()], 1));
    }
    let sizes = |values: &[i64]| Tensor::from_vec(&[values.len()], values.to_vec()).unwrap();
    for name in ["HannWindow", "HammingWindow", "BlackmanWindow"] {
        cases.push(case(Operator::new(name, 17), vec![Tensor::scalar(40_000i64)], 1));
    }
    let mel = [200i64, 2000, 16_000].map(Tensor::scalar).into_iter();
    let mel = mel.chain([0.0f32, 8000.0].map(Tensor::scalar)).collect();
    cases.push(case(Operator::new("MelWeightMatrix", 17), mel, 1));
    cases.push(case(Operator::new("ConstantOfShape", 9), vec![sizes(&[300, 200])], 1));
    cases.push(case(Operator::new("Range", 11), [0i64, 40_000, 1].map(Tensor::scalar).to_vec(), 1));
    cases.push(case(Operator::new("Expand", 13), vec![matrix(), sizes(&[5000, 3, 5])], 1));
    let theta = Tensor::from_vec(&[1, 2, 3], vec![1.0f32, 0.0, 0.0, 0.0, 1.0, 0.0]).unwrap();
    cases.push(case(Operator::new("AffineGrid", 20), vec![theta, sizes(&[1, 1, 200, 200])], 1));
    let many = Operator::new("Multinomial", 22).with("sample_size", Attribute::Int(20_000));
    cases.push(case(many, vec![matrix()], 1));
    cases
}

/// Returns a tensor whose size along each axis is multiplied; the content repeats.
fn repeated(tensor: &Tensor, times: &[usize]) -> Option<Tensor> {
    if times.iter().all(|&times| times == 1) {
        return Some(tensor.clone());
    }
    let tile = Operator::new("Tile", 13);
    let times = times.iter().map(|&times| times as i64).collect();
    let inputs = [Some(tensor.clone()), Some(Tensor::from_vec(&[tensor.rank()], times).ok()?)];
    Some(hetero_reference::evaluate(&tile, &inputs, 1).ok()?.swap_remove(0))
}

/// Returns larger cases of the same operator: one size is multiplied wherever an input has it, or
/// along one axis of one input.
fn grown(case: &Case) -> Vec<Case> {
    let shapes: Vec<Vec<usize>> =
        case.inputs.iter().map(|input| input.as_ref().map_or(vec![], |tensor| tensor.shape().to_vec())).collect();
    let largest = case.inputs.iter().flatten().map(Tensor::len).max().unwrap_or(0).max(1);
    let factor = (ELEMENTS / largest).max(2);
    let all = |size: usize| {
        let of = |shape: &[usize], factor| shape.iter().map(|&each| if each == size { factor } else { 1 }).collect();
        // Where a tensor has the size along several axes, the factor is a root.
        let most = shapes.iter().map(|shape| shape.iter().filter(|&&each| each == size).count()).max();
        let factor = (factor as f64).powf(1.0 / most.unwrap_or(1).max(1) as f64).ceil() as usize;
        shapes.iter().map(|shape| of(shape, factor)).collect()
    };
    let one = |input: usize, axis: usize| {
        let mut times: Vec<Vec<usize>> = shapes.iter().map(|shape| vec![1; shape.len()]).collect();
        times[input][axis] = factor;
        times
    };
    let mut ways: Vec<Vec<Vec<usize>>> = Vec::new();
    ways.extend(shapes.iter().flatten().copied().collect::<BTreeSet<usize>>().into_iter().map(all));
    for (input, shape) in shapes.iter().enumerate() {
        ways.extend((0..shape.len()).map(|axis| one(input, axis)));
    }
    let mut seen = BTreeSet::new();
    ways.retain(|way| seen.insert(way.clone()));
    let larger = |way: Vec<Vec<usize>>| {
        let inputs = case.inputs.iter().zip(&way).map(|(input, times)| match input {
            None => Some(None),
            Some(tensor) => {
                let count: usize = times.iter().product();
                (count.saturating_mul(tensor.len()) <= 4 * ELEMENTS).then(|| repeated(tensor, times).map(Some))?
            }
        });
        Some(Case { inputs: inputs.collect::<Option<Vec<_>>>()?, ..case.clone() })
    };
    ways.into_iter().filter_map(larger).collect()
}

/// Returns the cases of each definition of the table; a case of a newer version also serves an
/// older one where that takes it.
fn by_definition(cases: &[Case]) -> Vec<(&'static Definition, Vec<Case>)> {
    let of = |definition: &'static Definition| {
        let named = cases
            .iter()
            .filter(|case| (&*case.operator.domain, &*case.operator.name) == (definition.domain, definition.name));
        let served = named.filter_map(|case| {
            let mut case = case.clone();
            for version in [case.operator.version, definition.since] {
                case.operator.version = version;
                let found = Standard.find(&case.operator).is_some_and(|found| std::ptr::eq(found, definition));
                if found && Probe::of(&case, 1 << 30).outcome.is_ok() {
                    return Some(case);
                }
            }
            None
        });
        (definition, served.collect())
    };
    Standard::definitions().map(of).collect()
}

/// Returns some cases from all over the list, as neighbours differ in little, and the largest one.
fn chosen(cases: &[Case], wanted: usize) -> impl Iterator<Item = &Case> {
    let apart = (cases.len() / wanted.max(1)).max(1);
    let elements = |case: &&Case| case.inputs.iter().flatten().map(Tensor::len).sum::<usize>();
    cases.iter().step_by(apart).chain(cases.iter().max_by_key(elements))
}

#[test]
fn operators_allocate_no_more_than_they_take() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = setting("HETERO_PEAK_CASES", 2);
    // The first ways to grow a case change a size of all inputs.
    let ways = 2 * wanted;
    let (mut findings, mut bare, mut computed, mut probes) = (Findings::default(), Vec::new(), 0, 0);
    for (definition, cases) in by_definition(&cases()) {
        let mut large = 0;
        for case in chosen(&cases, wanted)
            .flat_map(|case| std::iter::once(case.clone()).chain(grown(case).into_iter().take(ways)))
        {
            let inputs: usize = case.inputs.iter().flatten().map(|tensor| tensor.bytes().len()).sum();
            let mut check = |bytes| {
                probes += 1;
                let probe = Probe::of(&case, bytes);
                if let Some(what) = probe.wrong(bytes, overhead(definition)) {
                    findings.note(&case, what);
                }
                probe
            };
            // From too little to enough, and between the two.
            let (mut low, mut high) = (0, 1 << 14);
            let outcome = loop {
                match check(high).outcome {
                    Err(error) if error.kind() == ErrorKind::OutOfMemory && high < 1 << 28 => {
                        (low, high) = (high, high * 2);
                    }
                    outcome => break outcome,
                }
            };
            let Ok(made) = outcome else { continue };
            for _ in 0..4 {
                let middle = low.midpoint(high);
                if check(middle).outcome.is_ok() { high = middle } else { low = middle }
            }
            large += usize::from(inputs + made >= 4 * OVERHEAD);
            computed += 1;
        }
        if large == 0 {
            bare.push(format!("{} {}", definition.name, definition.since));
        }
    }
    println!("{computed} cases under {probes} allowances");
    findings.assert_none();
    // The others compute cases that are large enough to tell elements from shapes.
    assert!(bare.iter().all(|name| SMALL_ONLY.contains(&&**name)), "no large case of {bare:?}");
}

/// Operators that make more than they are given, as an attribute or a small input says.
const DECIDED: [&str; 21] = [
    "AffineGrid",
    "BlackmanWindow",
    "CenterCropPad",
    "ConstantOfShape",
    "Expand",
    "HammingWindow",
    "HannWindow",
    "MaxPool",
    "MaxRoiPool",
    "MaxUnpool",
    "MelWeightMatrix",
    "Multinomial",
    "OneHot",
    "Pad",
    "RandomNormal",
    "RandomUniform",
    "Range",
    "Resize",
    "RoiAlign",
    "Tile",
    "Upsample",
];

/// Numbers that are hostile as sizes, counts, axes and steps.
const HOSTILE: [i64; 12] =
    [0, -1, 1 << 10, 40_000, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 40, 1 << 62, i64::MAX, i64::MIN, -40_000];

/// Returns the case with one number of an attribute or of a short list made hostile, and with all
/// numbers of one list, for each place and number.
fn hostile(case: &Case) -> Vec<Case> {
    let mut made = Vec::new();
    for (name, attribute) in &case.operator.attributes {
        let mut put = |attribute: Attribute| {
            let mut changed = case.clone();
            changed.operator.attributes.insert(name.clone(), attribute);
            made.push(changed);
        };
        match attribute {
            Attribute::Int(_) => HOSTILE.iter().for_each(|&number| put(Attribute::Int(number))),
            Attribute::Ints(list) => lists(list).into_iter().for_each(|list| put(Attribute::Ints(list))),
            _ => {}
        }
    }
    for (index, input) in case.inputs.iter().enumerate() {
        let Some(tensor) = input.as_ref().filter(|tensor| tensor.len() <= 8) else { continue };
        let changed: Vec<Tensor> = match tensor.dtype() {
            DType::I64 => {
                let all = lists(&tensor.view::<i64>().unwrap()).into_iter();
                all.filter_map(|list| Tensor::from_vec(tensor.shape(), list).ok()).collect()
            }
            DType::I32 => {
                let all = lists(&tensor.view::<i32>().unwrap().iter().map(|&x| i64::from(x)).collect::<Vec<_>>());
                let narrow = |list: Vec<i64>| list.into_iter().map(|x| x as i32).collect();
                all.into_iter().filter_map(|list| Tensor::from_vec(tensor.shape(), narrow(list)).ok()).collect()
            }
            // Scales and limits of ranges.
            DType::F32 if tensor.rank() <= 1 => {
                let content = tensor.view::<f32>().unwrap();
                let put = |at: usize, number: f32| {
                    let mut content = content.to_vec();
                    content[at] = number;
                    Tensor::from_vec(tensor.shape(), content).ok()
                };
                let numbers = [0.0, -1.0, 1e-30, 1e4, 1e9, 1e30, f32::NAN, f32::INFINITY];
                (0..content.len()).flat_map(|at| numbers.map(|number| put(at, number))).flatten().collect()
            }
            _ => continue,
        };
        made.extend(changed.into_iter().map(|tensor| {
            let mut changed = case.clone();
            changed.inputs[index] = Some(tensor);
            changed
        }));
    }
    made
}

/// The most places of a list that are made hostile one by one: the nodes of a tree are alike, and
/// a case for each of them would take gigabytes.
const PLACES: usize = 8;

/// Returns the list with one number made hostile, and with all.
fn lists(list: &[i64]) -> Vec<Vec<i64>> {
    let one = |at: usize, number| {
        let mut list = list.to_vec();
        list[at] = number;
        list
    };
    let step = list.len().div_ceil(PLACES).max(1);
    let ones = (0..list.len()).step_by(step).flat_map(|at| HOSTILE.map(|number| one(at, number)));
    ones.chain(HOSTILE.map(|number| vec![number; list.len()])).collect()
}

#[test]
fn hostile_sizes_end_within_a_small_allowance() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = setting("HETERO_PEAK_CASES", 3);
    let (mut findings, mut refused, mut probes) = (Findings::default(), BTreeSet::new(), 0);
    for (definition, cases) in by_definition(&cases()) {
        for case in chosen(&cases, wanted).flat_map(hostile) {
            probes += 1;
            let probe = Probe::of(&case, SMALL);
            if let Some(what) = probe.wrong(SMALL, overhead(definition)) {
                findings.note(&case, format!("{what}; {:?}", case.operator.attributes));
            }
            if probe.outcome.is_err_and(|error| error.kind() == ErrorKind::OutOfMemory) {
                refused.insert(definition.name);
            }
        }
    }
    println!("{probes} hostile cases; too large for {SMALL} bytes: {refused:?}");
    findings.assert_none();
    // Of the operators whose attributes or inputs decide sizes, each was asked for too much.
    let open = DECIDED.iter().filter(|name| !refused.contains(**name)).collect::<Vec<_>>();
    assert!(open.is_empty(), "never asked for too much: {open:?}");
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
