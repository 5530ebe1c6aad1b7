//! Runs of a model whose sizes change from run to run, for `cargo xtask bench shapes`:
//! `shapes MODEL THREADS VOCABULARY`.
//! The example obeys a command on each line of its input, and answers with a JSON object:
//!
//! - `next COUNT…` runs the next COUNT elements of a sequence, and those of each further COUNT,
//!   with the time of each run.
//! - `told COUNT` does so too, and tells what finding a plan took, and what devices took to compile
//!   for the run's sizes.
//! - `alone ROUNDS` runs what `next` ran last again, by turns on the loaded model and on a plan for
//!   exactly those sizes, and tells whether the outputs are the same to the bit.
//!   The run before it is made again first each time, so that all find the processor's caches, and
//!   a cache of the model, as the run of `next` did.
//! - `write PATH` writes the bytes of the last run's first output.
//! - `held` tells what memory the process and the loaded model hold.
//!
//! A sequence goes on where the model has a cache: inputs `past_key_values.*`, whose next content
//! is the output `present.*`.
//! Otherwise each run is a sequence of its own.
//! `xtask/python/shapes.py` gives ONNX Runtime the same inputs.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hetero::hal::{Dim, TraceEvent, TraceKind, TraceSink};
use hetero::{Binding, DeviceOptions, HeteroEngine, LoadedModel, OutputBuffer, Outputs, Plan, Tensor};

/// The time before each run that is timed, as a caller has something to do with the results of the
/// last one; runs that follow at once find threads that are still awake.
const PAUSE: Duration = Duration::from_micros(200);

type Outcome<T> = Result<T, Box<dyn Error>>;
type Named = Vec<(String, Tensor)>;

/// The time that devices took to compile, in nanoseconds, and how often they did.
#[derive(Default)]
struct Compiling {
    time: AtomicU64,
    count: AtomicU64,
}

impl TraceSink for Compiling {
    fn event(&self, event: &TraceEvent<'_>) {
        if event.kind == TraceKind::Compile {
            let took = event.end.duration_since(event.begin).as_nanos();
            self.time.fetch_add(u64::try_from(took).unwrap_or(u64::MAX), Ordering::Relaxed);
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A model, and the sequence that it is in.
struct Sequence {
    engine: HeteroEngine,
    loaded: LoadedModel,
    vocabulary: i64,
    /// The elements that the cache has.
    past: usize,
    cache: Named,
    /// The inputs of the run before the last.
    before: Named,
    /// The inputs and outputs of the last run.
    inputs: Named,
    outputs: Named,
}

/// Returns what the outputs of a run are to the next one: inputs of the cache.
fn cached(outputs: &Named) -> Named {
    let cached = |(name, tensor): &(String, Tensor)| {
        Some((format!("past_key_values.{}", name.strip_prefix("present.")?), tensor.clone()))
    };
    outputs.iter().filter_map(cached).collect()
}

/// Returns inputs as a run takes them.
fn named(inputs: &Named) -> Vec<(&str, Tensor)> {
    inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect()
}

fn owned(outputs: &Outputs) -> Named {
    outputs.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
}

impl Sequence {
    fn new(path: &str, threads: usize, vocabulary: i64) -> Outcome<Sequence> {
        let options = DeviceOptions { threads: Some(threads), ..DeviceOptions::default() };
        let mut engine = HeteroEngine::builder().build();
        engine.add_device("cpu:0", options)?;
        let loaded = engine.load(&hetero::read_model(path)?)?;
        let [cache, before, inputs, outputs] = [(); 4].map(|()| Vec::new());
        Ok(Sequence { engine, loaded, vocabulary, past: 0, cache, before, inputs, outputs })
    }

    /// Returns the inputs of the next elements.
    fn inputs(&self, count: usize) -> Outcome<Named> {
        let graph = &self.loaded.model().graph;
        let total = self.past + count;
        let mut inputs = Vec::with_capacity(graph.inputs.len());
        for id in &graph.inputs {
            let value = &graph.values[id.index()];
            let name = &*value.name;
            let list = |range: std::ops::Range<usize>, of: &dyn Fn(i64) -> i64| {
                Tensor::from_vec(&[1, range.len()], range.map(|index| of(index as i64)).collect())
            };
            let tensor = match name {
                "input_ids" => list(self.past..total, &|index| (index * index * 7 + index * 13 + 5) % self.vocabulary)?,
                "position_ids" => list(self.past..total, &|index| index)?,
                "attention_mask" => list(0..total, &|index| i64::from(index % 16 != 7))?,
                _ => match self.cache.iter().find(|(known, _)| known == name) {
                    Some((_, cached)) => cached.clone(),
                    None => empty(&value.ty.dims.clone().unwrap_or_default())?,
                },
            };
            inputs.push((name.to_owned(), tensor));
        }
        Ok(inputs)
    }

    /// Keeps what a run gave.
    fn keep(&mut self, count: usize, inputs: Named, outputs: Named) {
        self.cache = cached(&outputs);
        if !self.cache.is_empty() {
            self.past += count;
        }
        self.before = std::mem::replace(&mut self.inputs, inputs);
        self.outputs = outputs;
    }

    fn next(&mut self, counts: &str) -> Outcome<String> {
        let mut seconds = Vec::new();
        for count in counts.split(' ') {
            let count = count.parse()?;
            let inputs = self.inputs(count)?;
            let given = named(&inputs);
            std::thread::sleep(PAUSE);
            let began = Instant::now();
            let outputs = self.loaded.run(&given)?;
            seconds.push(began.elapsed().as_secs_f64());
            self.keep(count, inputs, owned(&outputs));
        }
        Ok(format!("{{\"seconds\":{seconds:?},\"plans_made\":{}}}", self.loaded.plans_made()))
    }

    fn told(&mut self, count: usize) -> Outcome<String> {
        let inputs = self.inputs(count)?;
        let given = named(&inputs);
        let compiling = Arc::new(Compiling::default());
        let sink: Arc<dyn TraceSink> = compiling.clone();
        let began = Instant::now();
        let session = self.loaded.session(&given)?;
        let planning = began.elapsed().as_secs_f64();
        let find = |name: &str| inputs.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor.clone());
        let ordered: Option<Vec<Tensor>> = session.inputs().iter().map(|port| find(&port.name)).collect();
        let mut buffers = vec![OutputBuffer::default(); session.outputs().len()];
        session.run_traced(&ordered.ok_or("the session has other inputs")?, &mut buffers, Some(&sink))?;
        let took = began.elapsed().as_secs_f64();
        let ports = session.outputs().iter().zip(buffers);
        let outputs: hetero::hal::Result<Named> = ports
            .map(|(port, buffer)| {
                let tensor = Tensor::from_bytes(port.dtype, &buffer.shape, buffer.bytes.into())?;
                Ok((port.name.to_string(), tensor))
            })
            .collect();
        self.keep(count, inputs, outputs?);
        let (time, compiled) = (compiling.time.load(Ordering::Relaxed), compiling.count.load(Ordering::Relaxed));
        Ok(format!(
            "{{\"seconds\":{took},\"planning\":{planning},\"compiling\":{},\"compiled\":{compiled},\"plans_made\":{}}}",
            time as f64 * 1e-9,
            self.loaded.plans_made(),
        ))
    }

    /// Makes the run before the last again, and returns the inputs of the last.
    fn staged(&self) -> Outcome<Named> {
        if self.before.is_empty() {
            return Ok(self.inputs.clone());
        }
        std::thread::sleep(PAUSE);
        let cache = cached(&owned(&self.loaded.run(&named(&self.before))?));
        let fresh = |name: &String| cache.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor.clone());
        let inputs = self.inputs.iter();
        Ok(inputs.map(|(name, tensor)| (name.clone(), fresh(name).unwrap_or_else(|| tensor.clone()))).collect())
    }

    /// Runs a plan of its own, to which some inputs are constants.
    fn run_plan(&self, plan: &Plan, inputs: &Named) -> Outcome<Outputs> {
        let mut given = named(inputs);
        given.retain(|(name, _)| !plan.fixed().iter().any(|fixed| fixed == name));
        Ok(self.engine.run(&given, plan)?)
    }

    fn alone(&self, rounds: usize) -> Outcome<String> {
        let given = named(&self.inputs);
        let plan = self.engine.analyze_with_inputs(self.loaded.model(), &Binding::default(), &given)?;
        let outputs = owned(&self.run_plan(&plan, &self.inputs)?);
        let is_same = |((name, own), (other, of)): (&(String, Tensor), &(String, Tensor))| {
            name == other && own.shape() == of.shape() && own.bytes() == of.bytes()
        };
        let same = self.outputs.len() == outputs.len() && self.outputs.iter().zip(&outputs).all(is_same);
        // As in a sequence, the results of the run before are held while a run makes its own.
        // Else each run would write to the memory that the last one has just written to.
        let mut held = [None, Some(outputs)];
        let (mut again, mut alone) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
        for _ in 0..rounds {
            let inputs = self.staged()?;
            let given = named(&inputs);
            std::thread::sleep(PAUSE);
            let began = Instant::now();
            let outputs = self.loaded.run(&given)?;
            again.push(began.elapsed().as_secs_f64());
            held[0] = Some(owned(&outputs));
            let inputs = self.staged()?;
            std::thread::sleep(PAUSE);
            let began = Instant::now();
            let outputs = self.run_plan(&plan, &inputs)?;
            alone.push(began.elapsed().as_secs_f64());
            held[1] = Some(owned(&outputs));
        }
        Ok(format!("{{\"again\":{again:?},\"alone\":{alone:?},\"same\":{same}}}"))
    }

    fn write(&self, path: &str) -> Outcome<String> {
        let (_, first) = self.outputs.first().ok_or("nothing was run")?;
        std::fs::write(path, first.bytes())?;
        Ok(format!("{{\"shape\":{:?}}}", first.shape()))
    }

    fn held(&self) -> Outcome<String> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let resident: u64 = line.split_whitespace().next().unwrap_or_default().parse()?;
        let arena = self.loaded.session(&named(&self.inputs))?.report().arena_bytes;
        let cache: usize = self.cache.iter().map(|(_, tensor)| tensor.bytes().len()).sum();
        Ok(format!(
            "{{\"resident\":{},\"arena\":{arena},\"cache\":{cache},\"plans_made\":{},\"plans_kept\":{},\"notes\":{:?}}}",
            resident * 1024,
            self.loaded.plans_made(),
            self.loaded.plans_kept(),
            self.loaded.notes().unwrap_or_default(),
        ))
    }
}

/// Returns the cache of no elements.
fn empty(dims: &[Dim]) -> Outcome<Tensor> {
    let size = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Known(size) => *size,
        _ => usize::from(axis == 0),
    };
    let shape: Vec<usize> = dims.iter().enumerate().map(size).collect();
    Ok(Tensor::from_vec(&shape, vec![0f32; shape.iter().product()])?)
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, threads, vocabulary] = &*arguments else {
        return Err("usage: shapes MODEL THREADS VOCABULARY".into());
    };
    let mut sequence = Sequence::new(path, threads.parse()?, vocabulary.parse()?)?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.split_once(' ').unwrap_or((&line, "")) {
            ("next", counts) => sequence.next(counts)?,
            ("told", count) => sequence.told(count.parse()?)?,
            ("alone", rounds) => sequence.alone(rounds.parse()?)?,
            ("write", path) => sequence.write(path)?,
            ("held", _) => sequence.held()?,
            _ => return Err(format!("no such command: {line}").into()),
        };
        println!("{answer}");
    }
    Ok(())
}
