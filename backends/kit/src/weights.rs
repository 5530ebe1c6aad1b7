//! Weights of a device: constants in the form in which the device keeps them, each made once and
//! shared.
//!
//! A backend asks [`Weights::get`] for a form of some constants.
//! If an executable that still lives holds the same form of the same constants, the answer is the
//! same [`Held`]; else the given function makes it.
//! Constants are the same where their element types, shapes and bytes are equal.
//! The cache looks first for bytes at the same address, which costs nothing.
//! It then compares samples of the bytes, and where those agree, all bytes; so it never takes one
//! constant for another, and never reads all bytes of a constant that it has not seen.
//!
//! The cache holds no weight itself: the last executable that drops a weight frees it.

mod held;
mod names;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hetero_hal::{DType, DeviceId, Error, ErrorKind, Result, Tensor};

pub use held::{Held, Resident};
pub use names::ConstantNames;

/// The longest time that a caller waits for another caller that makes the same weight.
const PATIENCE: Duration = Duration::from_secs(600);

/// The number of words of a constant that its sample consists of.
const SAMPLES: usize = 64;

/// The number of entries from which on dead ones are looked for.
const SWEEP: usize = 64;

/// The most weights of one sample whose bytes are compared, the newest first.
/// Constants whose samples agree are nearly always equal; of very many that are not, comparing all
/// would take time by the square of their number.
const LIKELY: usize = 16;

/// The properties of a weight that can be compared without looking at bytes: its layout, and the
/// element types and shapes of its constants.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    layout: Box<str>,
    sources: Vec<(DType, Box<[usize]>)>,
}

/// A weight that exists or is being made.
struct Entry<T: Resident> {
    kind: Arc<Kind>,
    /// The places of its constants' bytes, which are valid while the weight exists or is being
    /// made.
    places: Box<[Place]>,
    sample: u64,
    stage: Stage<T>,
}

/// The address and length of a constant's bytes.
type Place = (usize, usize);

/// What makes it likely that weights of one kind are the same.
#[derive(PartialEq, Eq, Hash)]
enum Mark {
    /// Their constants are at the same places.
    Places(Box<[Place]>),
    /// Their constants have the same sample.
    Sample(u64),
}

enum Stage<T: Resident> {
    /// A caller makes the weight now.
    Making(Arc<Making>),
    /// The weight exists while an executable holds it.
    Made(Weak<Held<T>>),
}

/// A weight that a caller is making.
struct Making {
    sources: Vec<Tensor>,
    over: Mutex<bool>,
    changed: Condvar,
}

impl Making {
    /// Waits until the maker has made the weight, or has failed.
    fn wait(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        while !*over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    "another thread did not finish a weight that this one needs",
                )
                .with_remedy("compile again, with fewer compilations at once"));
            }
            over = self.changed.wait_timeout(over, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    fn end(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

/// A weight that may be the wanted one.
enum Candidate<T: Resident> {
    Making(Arc<Making>),
    Made(Arc<Held<T>>),
}

impl<T: Resident> Candidate<T> {
    fn sources(&self) -> &[Tensor] {
        match self {
            Candidate::Making(making) => &making.sources,
            Candidate::Made(held) => held.sources(),
        }
    }
}

struct Entries<T: Resident> {
    /// The entries by their numbers, which grow, so that a caller sees which entries are new.
    all: HashMap<u64, Entry<T>>,
    /// The numbers of the entries of each kind and mark, in ascending order.
    marked: HashMap<(Arc<Kind>, Mark), Vec<u64>>,
    /// The count of entries from which on dead ones are looked for.
    sweep_at: usize,
    next: u64,
}

impl<T: Resident> Entries<T> {
    /// Returns the entries' marks.
    fn marks(entry: &Entry<T>) -> [(Arc<Kind>, Mark); 2] {
        [Mark::Places(entry.places.clone()), Mark::Sample(entry.sample)].map(|mark| (entry.kind.clone(), mark))
    }

    fn of(&self, kind: &Arc<Kind>, mark: Mark) -> &[u64] {
        self.marked.get(&(kind.clone(), mark)).map_or(&[], |numbers| numbers)
    }

    fn add(&mut self, entry: Entry<T>) -> u64 {
        let number = self.next;
        self.next += 1;
        for mark in Self::marks(&entry) {
            self.marked.entry(mark).or_default().push(number);
        }
        self.all.insert(number, entry);
        number
    }

    fn remove(&mut self, number: u64) {
        let Some(entry) = self.all.remove(&number) else { return };
        for mark in Self::marks(&entry) {
            if let Some(numbers) = self.marked.get_mut(&mark) {
                numbers.retain(|other| *other != number);
                if numbers.is_empty() {
                    self.marked.remove(&mark);
                }
            }
        }
    }

    /// Forgets the weights that nobody holds any more, once there may be as many of them as of the
    /// others.
    fn sweep(&mut self) {
        if self.all.len() < self.sweep_at {
            return;
        }
        self.all.retain(|_, entry| match &entry.stage {
            Stage::Making(_) => true,
            Stage::Made(held) => held.strong_count() > 0,
        });
        let all = &self.all;
        self.marked.retain(|_, numbers| {
            numbers.retain(|number| all.contains_key(number));
            !numbers.is_empty()
        });
        self.sweep_at = (self.all.len() * 2).max(SWEEP);
    }
}

/// A device's cache of weights.
///
/// `T` is the form in which the device keeps a constant.
/// Constants are the same where their element types, shapes and bytes are equal; weights are the
/// same where their constants and layouts are.
///
/// ```
/// use std::sync::Arc;
/// use hetero_hal::{DeviceId, Tensor};
/// use hetero_kit::Weights;
///
/// let weights: Weights<Vec<f32>> = Weights::new(DeviceId::new("cpu", 0));
/// let constant = Tensor::from_vec(&[3], vec![1.0f32, 2.0, 3.0])?;
/// let backwards = |sources: &[Tensor]| Ok(sources[0].view::<f32>()?.iter().rev().copied().collect());
/// let one = weights.get("w", std::slice::from_ref(&constant), "backwards", backwards)?;
/// let other = weights.get("w", &[constant], "backwards", backwards)?;
/// assert!(Arc::ptr_eq(&one, &other));
/// assert_eq!(*one.value()?, [3.0, 2.0, 1.0]);
/// # Ok::<(), hetero_hal::Error>(())
/// ```
pub struct Weights<T: Resident> {
    device: DeviceId,
    entries: Mutex<Entries<T>>,
}

impl<T: Resident> Weights<T> {
    /// Makes an empty cache for a device; errors name that device.
    #[must_use]
    pub fn new(device: DeviceId) -> Self {
        let entries = Entries { all: HashMap::new(), marked: HashMap::new(), sweep_at: SWEEP, next: 0 };
        Weights { device, entries: Mutex::new(entries) }
    }

    /// Returns the weight that `make` makes of `sources`.
    /// `layout` says everything else that the result depends on: the form, the instruction set, and
    /// the part of the constants.
    /// `name` is the first constant's name, for people to read.
    ///
    /// Where several callers want the same weight, one of them makes it and the others wait.
    /// No lock is held meanwhile.
    /// `make` must not call this function.
    /// The weight keeps `make` and `sources`, so that it can be made again after it was evicted;
    /// `make` should therefore hold nothing large itself.
    ///
    /// # Errors
    /// Any error of `make`; the next caller tries again.
    /// `Timeout` where another caller takes too long to make it.
    ///
    /// # Panics
    /// Panics where `make` does; the next caller tries again.
    pub fn get(
        &self,
        name: &str,
        sources: &[Tensor],
        layout: &str,
        make: impl Fn(&[Tensor]) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Arc<Held<T>>> {
        self.get_or(name, sources, layout, |_| None, make)
    }

    /// Returns the weight as [`Weights::get`] does, but where nobody holds it, asks `ready` first,
    /// which returns the form if it has it already.
    ///
    /// # Errors
    /// The same errors as [`Weights::get`].
    ///
    /// # Panics
    /// Panics where `ready` or `make` does; the next caller tries again.
    pub fn get_or(
        &self,
        name: &str,
        sources: &[Tensor],
        layout: &str,
        ready: impl FnOnce(&[Tensor]) -> Option<T>,
        make: impl Fn(&[Tensor]) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Arc<Held<T>>> {
        let of = |source: &Tensor| (source.dtype(), source.shape().into());
        let kind = Arc::new(Kind { layout: layout.into(), sources: sources.iter().map(of).collect() });
        let places = places(sources);
        // Strings and empty tensors have no bytes that tell them apart.
        let whole = places.iter().all(|&(_, length)| length > 0);
        // The sample is not known until bytes at other addresses have to be compared.
        let mut sample = None;
        let claim = loop {
            let (candidates, newest) = self.candidates(&kind, &places, sample);
            let identical = |other: &Candidate<T>| whole && *self::places(other.sources()) == *places;
            let same = |other: &&Candidate<T>| identical(other) || other.sources() == sources;
            match (candidates.iter().find(same), sample) {
                (Some(Candidate::Made(held)), _) => return Ok(held.clone()),
                (Some(Candidate::Making(making)), _) => {
                    making.wait(PATIENCE).map_err(|error| error.at(name).on(self.device.clone()))?;
                }
                (None, None) => sample = Some(sampled(sources)),
                (None, Some(sample)) => {
                    if let Some(claim) = self.claim(&kind, sources, sample, newest) {
                        break claim;
                    }
                }
            }
        };
        let held = Arc::new(Held::new(&self.device, name, sources, layout, (ready(sources), Box::new(make)))?);
        claim.made(&held);
        Ok(held)
    }

    fn lock(&self) -> MutexGuard<'_, Entries<T>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the weights of a kind whose constants are at these places or have this sample, and
    /// the number that the next entry will have.
    fn candidates(&self, kind: &Arc<Kind>, places: &[Place], sample: Option<u64>) -> (Vec<Candidate<T>>, u64) {
        let entries = self.lock();
        let candidate = |number: &u64| match &entries.all.get(number)?.stage {
            Stage::Making(making) => Some(Candidate::Making(making.clone())),
            Stage::Made(held) => held.upgrade().map(Candidate::Made),
        };
        let there = entries.of(kind, Mark::Places(places.into()));
        let alike = sample.map_or(&[][..], |sample| entries.of(kind, Mark::Sample(sample)));
        let likely = |numbers: &[u64]| numbers[numbers.len().saturating_sub(LIKELY)..].to_vec();
        let mut numbers: Vec<u64> = [likely(there), likely(alike)].concat();
        numbers.sort_unstable();
        numbers.dedup();
        (numbers.iter().filter_map(candidate).collect(), entries.next)
    }

    /// Notes that the caller makes a weight; `None` where another caller has begun one with the
    /// same sample since `newest` was the next number.
    fn claim(&self, kind: &Arc<Kind>, sources: &[Tensor], sample: u64, newest: u64) -> Option<Claim<'_, T>> {
        let mut entries = self.lock();
        if entries.of(kind, Mark::Sample(sample)).last().is_some_and(|&number| number >= newest) {
            return None;
        }
        entries.sweep();
        let making = Making { sources: sources.to_vec(), over: Mutex::new(false), changed: Condvar::new() };
        let making = Arc::new(making);
        let stage = Stage::Making(making.clone());
        let number = entries.add(Entry { kind: kind.clone(), places: places(sources), sample, stage });
        Some(Claim { weights: self, number, making })
    }
}

/// The right and duty to make a weight.
/// If it is dropped before the weight is made, the next caller may try.
struct Claim<'a, T: Resident> {
    weights: &'a Weights<T>,
    number: u64,
    making: Arc<Making>,
}

impl<T: Resident> Claim<'_, T> {
    fn made(self, held: &Arc<Held<T>>) {
        if let Some(entry) = self.weights.lock().all.get_mut(&self.number) {
            entry.stage = Stage::Made(Arc::downgrade(held));
        }
    }
}

impl<T: Resident> Drop for Claim<'_, T> {
    fn drop(&mut self) {
        let mut entries = self.weights.lock();
        if matches!(entries.all.get(&self.number), Some(Entry { stage: Stage::Making(_), .. })) {
            entries.remove(self.number);
        }
        drop(entries);
        self.making.end();
    }
}

/// Returns where the constants' bytes are.
fn places(sources: &[Tensor]) -> Box<[Place]> {
    sources.iter().map(Tensor::place).collect()
}

/// Returns a hash of some words of each constant, spread over all of it.
fn sampled(sources: &[Tensor]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for source in sources {
        let (words, rest) = source.bytes().as_chunks::<8>();
        rest.hash(&mut hasher);
        // Rows are often a power of two long: an odd step visits all columns.
        let step = (words.len() / SAMPLES).max(1) | 1;
        words.iter().step_by(step).for_each(|word| word.hash(&mut hasher));
        words.last().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
