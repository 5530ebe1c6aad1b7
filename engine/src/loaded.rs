//! Loaded models: a model that serves inputs of any shapes.
//!
//! A plan is for some sizes.
//! A loaded model keeps the plans that it made, with their sessions, and finds the one that serves
//! a run's shapes.
//! The first plan is for exactly the sizes of the first run.
//! Once a dimension has had a second size, it is taken to vary, and a plan serves all of its sizes
//! from 2 up to a bound.
//! Sizes of 0 and 1 stay exact, because values broadcast along such dimensions, or are empty.
//! Dimensions of one symbol have one size, until a run gives them several.
//!
//! A device whose executables take exact sizes only has a plan for each shape.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hetero_hal::{Dim, ErrorKind, Tensor, Value};
use hetero_onnx::Binding;

use crate::engine::HeteroEngine;
use crate::plan::Plan;
use crate::session::{Outputs, Session};
use crate::{Error, Model, Result};

/// The most plans that are kept where nobody says how many.
const MOST_PLANS: usize = 8;
/// The smallest bound of a size that varies.
const LEAST_BOUND: usize = 64;
/// The number of open dimensions among which sums are looked for.
const MOST_IN_SUMS: usize = 16;

/// A model that an engine runs with inputs of any shapes that the model allows.
///
/// Threads may share it, and a run of one shape does not wait for the planning of another.
/// Weights are packed once for each device, whatever the shapes.
///
/// ```no_run
/// # fn main() -> hetero::Result<()> {
/// use hetero::{DeviceOptions, HeteroEngine, Tensor};
///
/// let mut engine = HeteroEngine::builder().build();
/// engine.add_default_devices(&DeviceOptions::default())?;
/// let loaded = engine.load(&hetero::read_model("encoder.onnx")?)?;
/// for length in [7, 19, 300] {
///     let ids = Tensor::from_vec(&[1, length], vec![0i64; length])?;
///     let outputs = loaded.run(&[("input_ids", ids)])?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct LoadedModel {
    engine: HeteroEngine,
    model: Model,
    most_plans: usize,
    most_bytes: u64,
    state: Mutex<State>,
}

/// The open dimensions of a model's inputs.
#[derive(Default)]
struct OpenDims {
    dims: Vec<OpenDim>,
    /// The symbols that inputs gave several sizes in a run, which are therefore no names of one
    /// size: exporters name dimensions by the axis, and so call the widths of two inputs the same.
    torn: BTreeSet<Arc<str>>,
}

/// An open dimension: all dimensions of one symbol, or one that has no name.
struct OpenDim {
    symbol: Option<Arc<str>>,
    /// The inputs, by position, and the axes.
    at: Vec<(usize, usize)>,
}

impl OpenDims {
    fn of(model: &Model, torn: BTreeSet<Arc<str>>) -> OpenDims {
        let mut dims: Vec<OpenDim> = Vec::new();
        let mut symbols: BTreeMap<&str, usize> = BTreeMap::new();
        for (input, &id) in model.graph.inputs.iter().enumerate() {
            let value = &model.graph.values[id.index()];
            for (axis, dim) in value.ty.dims.iter().flatten().enumerate() {
                let symbol = match dim {
                    Dim::Known(_) => continue,
                    Dim::Symbol(symbol) => Some(symbol).filter(|symbol| !torn.contains(*symbol)),
                    _ => None,
                };
                let known = symbol.map(|symbol| *symbols.entry(symbol).or_insert(dims.len()));
                match known.and_then(|known| dims.get_mut(known)) {
                    Some(dim) => dim.at.push((input, axis)),
                    None => dims.push(OpenDim { symbol: symbol.cloned(), at: vec![(input, axis)] }),
                }
            }
        }
        OpenDims { dims, torn }
    }

    /// Returns the model without the names that say nothing.
    fn model<'a>(&self, model: &'a Model) -> Cow<'a, Model> {
        if self.torn.is_empty() {
            return Cow::Borrowed(model);
        }
        let mut model = model.clone();
        for dim in model.graph.values.iter_mut().flat_map(|value| value.ty.dims.iter_mut().flatten()) {
            if matches!(dim, Dim::Symbol(symbol) if self.torn.contains(symbol)) {
                *dim = Dim::Unknown;
            }
        }
        Cow::Owned(model)
    }
}

/// A dimension that is the sum of two others.
#[derive(Clone, Copy)]
struct Sum {
    whole: usize,
    parts: [usize; 2],
}

impl Sum {
    fn holds(&self, sizes: &[usize]) -> bool {
        let [a, b] = self.parts.map(|part| sizes[part]);
        a.checked_add(b) == Some(sizes[self.whole])
    }

    /// Returns the sums that these sizes allow.
    fn of(sizes: &[usize]) -> Vec<Sum> {
        let dims = || 0..sizes.len().min(MOST_IN_SUMS);
        let parts = dims().flat_map(|a| dims().filter(move |&b| a < b).map(move |b| [a, b]));
        let sums = parts.flat_map(|parts| dims().map(move |whole| Sum { whole, parts }));
        sums.filter(|sum| !sum.parts.contains(&sum.whole) && sum.holds(sizes)).collect()
    }
}

/// The sizes of an open dimension that a plan serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Span {
    Exactly(usize),
    /// From 2 up to this bound.
    UpTo(usize),
}

impl Span {
    fn holds(self, size: usize) -> bool {
        match self {
            Span::Exactly(own) => own == size,
            Span::UpTo(bound) => (2..=bound).contains(&size),
        }
    }

    /// Returns the span whose bound is the size alone.
    fn at_least(self, size: usize) -> Span {
        match self {
            Span::UpTo(_) => Span::UpTo(size),
            exactly => exactly,
        }
    }

    /// Returns the largest size.
    fn most(self) -> usize {
        match self {
            Span::Exactly(most) | Span::UpTo(most) => most,
        }
    }
}

/// A plan, and what it serves.
struct Served {
    open: Arc<OpenDims>,
    spans: Vec<Span>,
    /// The shapes of inputs of which the model says no rank.
    shapes: Vec<(usize, Vec<usize>)>,
    /// The inputs that are constants of the plan.
    fixed: Vec<(String, Tensor)>,
    plan: Plan,
    bytes: u64,
}

#[derive(Default)]
struct State {
    open: Arc<OpenDims>,
    /// The plans for these dimensions, the one that was used last at the end.
    served: Vec<Arc<Served>>,
    /// The open dimensions that vary.
    varying: BTreeSet<usize>,
    /// The dimensions that were the sum of two others whenever a plan was made, as the length of a
    /// mask is that of a cache and of what is new; `None` before the first plan.
    sums: Option<Vec<Sum>>,
    /// Why each shape has a plan of its own, where that is so.
    exact: Option<String>,
    made: usize,
}

impl LoadedModel {
    pub(crate) fn new(engine: HeteroEngine, model: Model) -> LoadedModel {
        let open = Arc::new(OpenDims::of(&model, BTreeSet::new()));
        let state = Mutex::new(State { open, ..State::default() });
        LoadedModel { engine, model, most_plans: MOST_PLANS, most_bytes: u64::MAX, state }
    }

    /// Sets how much is kept: at most so many plans, whose intermediate values take at most so many
    /// bytes; those that were used last.
    /// At least one plan is kept.
    #[must_use]
    pub fn keeping(mut self, plans: usize, bytes: u64) -> LoadedModel {
        (self.most_plans, self.most_bytes) = (plans.max(1), bytes);
        self
    }

    /// Returns the model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns how many plans were made so far; a run that an earlier one serves makes none.
    #[must_use]
    pub fn plans_made(&self) -> usize {
        self.state().made
    }

    /// Returns how many plans are kept.
    #[must_use]
    pub fn plans_kept(&self) -> usize {
        self.state().served.len()
    }

    /// Returns why each shape has a plan of its own, where that is so: a device takes exact sizes,
    /// or a size depends on more than the shapes of inputs.
    #[must_use]
    pub fn notes(&self) -> Option<String> {
        self.state().exact.clone()
    }

    /// Runs once.
    /// Shapes that no plan serves are planned first.
    ///
    /// # Errors
    /// `Input` where the inputs are not the model's.
    /// Otherwise the errors of [`HeteroEngine::analyze`] and [`HeteroEngine::run`].
    pub fn run(&self, inputs: &[(&str, Tensor)]) -> Result<Outputs> {
        let given = self.given(inputs)?;
        let served = self.find(&given)?;
        match self.run_by(&served, inputs) {
            // The sizes of the run are others than the plan's bounds promised.
            Err(Error::Device(error)) if is_beyond(&error) && served.is_ranged() => {
                let served = self.alone(&given, error.message())?;
                self.run_by(&served, inputs)
            }
            outcome => outcome,
        }
    }

    /// Returns the session that serves inputs of these shapes, which is planned and compiled first
    /// where there is none.
    ///
    /// # Errors
    /// The errors of [`LoadedModel::run`], but those of the run itself.
    pub fn session(&self, inputs: &[(&str, Tensor)]) -> Result<Arc<Session>> {
        let served = self.find(&self.given(inputs)?)?;
        self.engine.session(&served.plan)
    }

    fn run_by(&self, served: &Served, inputs: &[(&str, Tensor)]) -> Result<Outputs> {
        if served.fixed.is_empty() {
            return self.engine.run(inputs, &served.plan);
        }
        let is_fixed = |name: &str| served.fixed.iter().any(|(fixed, _)| fixed == name);
        let left: Vec<(&str, Tensor)> = inputs.iter().filter(|(name, _)| !is_fixed(name)).cloned().collect();
        self.engine.run(&left, &served.plan)
    }

    /// Puts inputs in the model's order; inputs that hold a default may be left out.
    fn given<'a>(&self, inputs: &'a [(&str, Tensor)]) -> Result<Vec<Option<&'a Tensor>>> {
        let graph = &self.model.graph;
        let value = |position: &usize| &graph.values[graph.inputs[*position].index()];
        let wrong = |name: &str, reason: String| Error::Input { name: name.to_owned(), reason };
        let mut given: Vec<Option<&Tensor>> = vec![None; graph.inputs.len()];
        for (name, tensor) in inputs {
            let Some(position) = self.position(name) else {
                let names: Vec<&str> = (0..given.len()).map(|position| &*value(&position).name).collect();
                return Err(wrong(name, format!("there is no such input; the model takes '{}'", names.join("', '"))));
            };
            if given[position].replace(tensor).is_some() {
                return Err(wrong(name, "it is given twice".to_owned()));
            }
        }
        for (position, tensor) in given.iter().enumerate() {
            let value = value(&position);
            let Some(tensor) = tensor else {
                if value.constant.is_none() {
                    return Err(wrong(&value.name, "it is missing".to_owned()));
                }
                continue;
            };
            let rank = value.ty.dims.as_ref().map_or(tensor.rank(), Vec::len);
            if rank != tensor.rank() || value.ty.dtype.is_some_and(|dtype| dtype != tensor.dtype()) {
                let found = format!("{}{:?}", tensor.dtype(), tensor.shape());
                return Err(wrong(&value.name, format!("it is {}, not {found}", value.ty)));
            }
        }
        Ok(given)
    }

    /// Returns the position of an input among the model's.
    fn position(&self, name: &str) -> Option<usize> {
        let graph = &self.model.graph;
        graph.inputs.iter().position(|id| *graph.values[id.index()].name == *name)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the open dimensions, and their sizes in a run.
    /// A symbol to which the run gives several sizes is a name no longer, and a sentence says so.
    fn sizes(&self, given: &[Option<&Tensor>]) -> (Arc<OpenDims>, Vec<usize>, Option<Error>) {
        let graph = &self.model.graph;
        let value = |input: usize| &graph.values[graph.inputs[input].index()];
        let size = |&(input, axis): &(usize, usize)| {
            // An input with a default that is left out has the default's sizes.
            let tensor = given[input].or(value(input).constant.as_ref());
            Some((input, tensor?.shape().get(axis).copied()?))
        };
        let mut open = self.state().open.clone();
        let mut torn = open.torn.clone();
        let mut sentence = None;
        for OpenDim { symbol, at } in &open.dims {
            let mut sizes = at.iter().filter_map(size);
            let Some((_, first)) = sizes.next() else { continue };
            let Some((input, other)) = sizes.find(|(_, other)| *other != first) else { continue };
            torn.extend(symbol.clone());
            let Value { name, ty, .. } = value(input);
            let reason = format!("it makes a dimension of {ty} {other}, but another makes it {first}");
            sentence.get_or_insert(Error::Input { name: name.to_string(), reason });
        }
        if sentence.is_some() {
            open = Arc::new(OpenDims::of(&self.model, torn));
        }
        let sizes = open.dims.iter().map(|dim| dim.at.iter().find_map(size).map_or(1, |(_, size)| size)).collect();
        (open, sizes, sentence)
    }

    /// Finds the plan for a run's inputs, or makes it.
    fn find(&self, given: &[Option<&Tensor>]) -> Result<Arc<Served>> {
        let (open, sizes, torn) = self.sizes(given);
        let exactly: Vec<Span> = sizes.iter().map(|&size| Span::Exactly(size)).collect();
        if let Some(sentence) = torn {
            // Names are given up only for a run that the model takes.
            let served = self.make(&open, &exactly, given).map_err(|error| with(sentence, &error))?;
            let mut state = self.state();
            let (exact, made) = (state.exact.take(), state.made);
            *state = State { open, exact, made, ..State::default() };
            drop(state);
            return Ok(self.keep(served));
        }
        let (mut spans, exact) = {
            let mut state = self.state();
            if !Arc::ptr_eq(&state.open, &open) {
                // Another thread's run has just shown that a name says nothing.
                drop(state);
                return self.find(given);
            }
            if let Some(position) = state.served.iter().rposition(|served| served.serves(self, &sizes, given)) {
                let served = state.served.remove(position);
                state.served.push(served.clone());
                return Ok(served);
            }
            self.note_sizes(&mut state, &sizes);
            (self.spans(&state, &sizes), state.exact.is_some())
        };
        if !exact && spans != exactly {
            let tight: Vec<Span> = spans.iter().zip(&sizes).map(|(span, size)| span.at_least(*size)).collect();
            let mut last = None;
            for _ in 0..2 {
                match self.make(&open, &spans, given) {
                    Ok(served) => return Ok(self.keep(served)),
                    Err(error @ Error::Device(_)) if is_hopeless(&error) => return Err(error),
                    Err(error) => last = Some(error),
                }
                // The model may not take sizes that are as large as the bound.
                if spans == tight {
                    break;
                }
                spans.clone_from(&tight);
            }
            let why = last.map_or_else(String::new, |error| error.to_string());
            // What cannot be planned for exact sizes either is wrong with the inputs.
            let served = self.make(&open, &exactly, given)?;
            self.state().exact.get_or_insert(format!("each shape has a plan of its own: {why}"));
            return Ok(self.keep(served));
        }
        Ok(self.keep(self.make(&open, &exactly, given)?))
    }

    /// Returns a plan for exactly the sizes of a run, because a plan for more could not serve them.
    fn alone(&self, given: &[Option<&Tensor>], why: &str) -> Result<Arc<Served>> {
        let (open, sizes, _) = self.sizes(given);
        let spans: Vec<Span> = sizes.into_iter().map(Span::Exactly).collect();
        let served = self.make(&open, &spans, given)?;
        self.state().exact.get_or_insert(format!("each shape has a plan of its own: {why}"));
        self.state().served.retain(|served| !served.is_ranged());
        Ok(self.keep(served))
    }

    /// Notes the dimensions that have another size than in the run before.
    fn note_sizes(&self, state: &mut State, sizes: &[usize]) {
        match &mut state.sums {
            Some(sums) => sums.retain(|sum| sum.holds(sizes)),
            None => state.sums = Some(Sum::of(sizes)),
        }
        let Some(last) = state.served.last().cloned() else { return };
        state.varying.extend((0..sizes.len()).filter(|&dim| !last.spans[dim].holds(sizes[dim])));
        // Devices whose executables take exact sizes have a plan for each shape.
        let exact = |device: &&Arc<dyn hetero_hal::Device>| {
            let id = device.info().id.to_string();
            !device.capabilities().extents && last.plan.partitioning().devices.contains(&id)
        };
        if let Some(device) = self.engine.devices().iter().find(exact) {
            let id = &device.info().id;
            state.exact.get_or_insert(format!("{id} takes exact sizes: each shape has a plan of its own"));
        }
    }

    /// Returns the sizes that a new plan serves.
    fn spans(&self, state: &State, sizes: &[usize]) -> Vec<Span> {
        let span = |(dim, &size): (usize, &usize)| {
            if size < 2 || !state.varying.contains(&dim) {
                return Span::Exactly(size);
            }
            let known = state.served.iter().map(|served| served.spans[dim].most());
            let most = known.chain([size]).max().unwrap_or(size);
            // A size that grows step by step takes a new plan only when it has doubled.
            let roomy = most.checked_next_power_of_two().and_then(|most| most.checked_mul(2));
            Span::UpTo(roomy.unwrap_or(most).max(LEAST_BOUND))
        };
        let mut spans: Vec<Span> = sizes.iter().enumerate().map(span).collect();
        // Bounds that do not add up as the sizes do may not fit together in the model.
        for Sum { whole, parts } in state.sums.iter().flatten().copied() {
            if let (Span::UpTo(_), [Some(a), Some(b)]) = (spans[whole], parts.map(|part| spans.get(part).copied())) {
                spans[whole] = Span::UpTo(a.most().saturating_add(b.most()));
            }
        }
        spans
    }

    /// Plans and compiles for these sizes.
    fn make(&self, open: &Arc<OpenDims>, spans: &[Span], given: &[Option<&Tensor>]) -> Result<Served> {
        let model = open.model(&self.model);
        let graph = &model.graph;
        let mut binding = Binding::default();
        let mut shapes = Vec::new();
        for (position, tensor) in given.iter().enumerate() {
            let value = &graph.values[graph.inputs[position].index()];
            let Some(tensor) = tensor else { continue };
            binding.shapes.insert(value.name.to_string(), tensor.shape().to_vec());
            if value.ty.dims.is_none() {
                shapes.push((position, tensor.shape().to_vec()));
            }
        }
        for (dim, span) in open.dims.iter().zip(spans) {
            let Span::UpTo(bound) = span else { continue };
            for &(input, axis) in &dim.at {
                let name = graph.values[graph.inputs[input].index()].name.to_string();
                let size = binding.shapes.get_mut(&name).and_then(|shape| shape.get_mut(axis));
                if let Some(size) = size {
                    *size = *bound;
                    binding.open.insert((name, axis));
                }
            }
        }
        let plan = if binding.open.is_empty() {
            let named: Vec<(&str, Tensor)> = given
                .iter()
                .zip(&graph.inputs)
                .filter_map(|(tensor, id)| Some((&*graph.values[id.index()].name, (*tensor)?.clone())))
                .collect();
            self.engine.analyze_with_inputs(&model, &Binding::default(), &named)?
        } else {
            self.engine.analyze(&model, &binding)?
        };
        let content = |name: &String| Some((name.clone(), given[self.position(name)?]?.clone()));
        let fixed = plan.fixed().iter().filter_map(content).collect();
        let bytes = self.engine.session(&plan)?.report().arena_bytes as u64;
        Ok(Served { open: open.clone(), spans: spans.to_vec(), shapes, fixed, plan, bytes })
    }

    /// Keeps a plan, and lets go of others where these are too many or serve nothing that this one
    /// does not.
    fn keep(&self, served: Served) -> Arc<Served> {
        let served = Arc::new(served);
        let mut state = self.state();
        state.made += 1;
        if !Arc::ptr_eq(&state.open, &served.open) {
            // It serves its own run alone.
            return served;
        }
        if served.fixed.is_empty() && served.shapes.is_empty() {
            state.served.retain(|other| !served.covers(other));
        }
        state.served.push(served.clone());
        let kept = |served: &[Arc<Served>]| served.iter().fold(0u64, |sum, served| sum.saturating_add(served.bytes));
        while state.served.len() > 1 && (state.served.len() > self.most_plans || kept(&state.served) > self.most_bytes)
        {
            state.served.remove(0);
        }
        served
    }
}

impl Served {
    fn is_ranged(&self) -> bool {
        self.spans.iter().any(|span| matches!(span, Span::UpTo(_)))
    }

    fn serves(&self, model: &LoadedModel, sizes: &[usize], given: &[Option<&Tensor>]) -> bool {
        let content = |name: &str| model.position(name).and_then(|index| given[index]);
        self.spans.iter().zip(sizes).all(|(span, &size)| span.holds(size))
            && self.shapes.iter().all(|(index, shape)| given[*index].is_some_and(|tensor| tensor.shape() == *shape))
            && self.fixed.iter().all(|(name, tensor)| content(name) == Some(tensor))
    }

    /// Tells whether this plan serves all that another does.
    fn covers(&self, other: &Served) -> bool {
        let covers = |(own, other): (&Span, &Span)| match (own, other) {
            (Span::UpTo(own), Span::UpTo(other)) => own >= other,
            (own, Span::Exactly(size)) => own.holds(*size),
            _ => false,
        };
        other.fixed.is_empty() && other.shapes.is_empty() && self.spans.iter().zip(&other.spans).all(covers)
    }
}

/// Adds an error to what is said of an input.
fn with(sentence: Error, error: &Error) -> Error {
    match sentence {
        Error::Input { name, reason } => Error::Input { name, reason: format!("{reason}; with these sizes, {error}") },
        other => other,
    }
}

/// Tells whether a run's sizes are others than those that its program was made for.
fn is_beyond(error: &hetero_hal::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::Unsupported)
}

/// Tells whether smaller sizes would fail for the same reason.
fn is_hopeless(error: &Error) -> bool {
    let Error::Device(error) = error else { return false };
    matches!(error.kind(), ErrorKind::DeviceLost | ErrorKind::Timeout | ErrorKind::Cancelled)
}
