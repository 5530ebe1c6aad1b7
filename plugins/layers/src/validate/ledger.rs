//! The ledger: the work that is under way, what it touches, and what orders it.
//!
//! Work is under way from its submission until it has ended.
//! One piece of work comes before another where the other waits for a point that the first reaches,
//! or for a later point of the same timeline, or for work behind it.
//! Waits of the host cannot be seen, so work that has ended comes before all that is submitted
//! later.
//! Work that waits for a point that no known work reaches may still be ordered by the host, which
//! reaches the point.
//! It is looked at again when the point is reached.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hetero_hal::{BindingTable, Buffer, DeviceId, Executable, Point, Result, Timeline};

use super::memory::Region;
use super::rule::{Breach, Rule};

/// An access of a piece of work to bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) region: Region,
    pub(super) writes: bool,
    /// Whether the bytes are a run's scratch memory.
    pub(super) scratch: bool,
}

/// A binding table, and the buffers that it had when a run with it was submitted.
pub(super) struct Bound {
    pub(super) table: Arc<BindingTable>,
    pub(super) buffers: Vec<Buffer>,
}

impl Bound {
    fn is_as(&self, now: &[Buffer]) -> bool {
        let same = |(a, b): (&Buffer, &Buffer)| a.same_allocation(b) && a.offset() == b.offset() && a.len() == b.len();
        self.buffers.len() == now.len() && self.buffers.iter().zip(now).all(same)
    }
}

/// A piece of work under way.
pub(super) struct Entry {
    pub(super) device: DeviceId,
    /// The number of the queue.
    pub(super) queue: u64,
    /// The work in words.
    pub(super) what: String,
    pub(super) wait: Vec<Point>,
    pub(super) signal: Vec<Point>,
    pub(super) accesses: Vec<Access>,
    pub(super) bound: Option<Bound>,
}

impl Entry {
    fn breach(&self, rule: Rule, detail: String) -> Breach {
        Breach { rule, device: self.device.clone(), detail }
    }

    /// Tells whether the work has ended: whoever sees one of its points reached knows.
    fn has_ended(&self) -> bool {
        self.signal.iter().any(Point::is_reached)
    }

    /// Tells whether the work will not run, because a wait has failed.
    fn is_doomed(&self) -> bool {
        self.open_waits().any(|point| point.timeline.failure().is_some())
    }

    fn open_waits(&self) -> impl Iterator<Item = &Point> {
        self.wait.iter().filter(|point| !point.is_reached())
    }

    /// Returns the rule that two unordered pieces of work break, where they touch the same bytes.
    fn conflict(&self, other: &Entry) -> Option<Rule> {
        let mut found = None;
        for (a, b) in self.accesses.iter().flat_map(|a| other.accesses.iter().map(move |b| (a, b))) {
            if (a.writes || b.writes) && a.region.overlaps(&b.region) {
                if !(a.scratch && b.scratch) {
                    return Some(Rule::Unordered);
                }
                found = Some(Rule::ScratchShared);
            }
        }
        found
    }
}

/// An executable that a watched device has compiled.
struct Compiled {
    executable: Weak<dyn Executable>,
    device: DeviceId,
    extents: usize,
}

/// What is known of the work under way on all devices that share this ledger.
pub(super) struct Ledger {
    numbers: AtomicU64,
    state: Mutex<State>,
    /// The breaches that no call could return.
    noted: Mutex<Vec<Breach>>,
    compiled: Mutex<Vec<Compiled>>,
}

#[derive(Default)]
struct State {
    under_way: Vec<(u64, Entry)>,
}

impl State {
    fn get(&self, number: u64) -> Option<&Entry> {
        self.under_way.iter().find(|(other, _)| *other == number).map(|(_, entry)| entry)
    }

    /// Returns the work under way that reaches a value of a timeline, or a smaller one.
    fn up_to<'a>(&'a self, point: &'a Point) -> impl Iterator<Item = &'a (u64, Entry)> {
        self.signalling(&point.timeline, |value| value <= point.value)
    }

    fn signalling<'a>(
        &'a self,
        timeline: &'a Timeline,
        fits: impl Fn(u64) -> bool + 'a,
    ) -> impl Iterator<Item = &'a (u64, Entry)> {
        self.under_way
            .iter()
            .filter(move |(_, entry)| entry.signal.iter().any(|point| fits(point.value) && point.timeline.is(timeline)))
    }

    /// Calls `visit` with a piece of work and all that comes before it, until it answers `true`.
    fn any_before(&self, number: u64, visit: &mut dyn FnMut(u64, &Entry) -> bool) -> bool {
        let (mut seen, mut next) = (vec![number], vec![number]);
        while let Some(number) = next.pop() {
            let Some(entry) = self.get(number) else { continue };
            if visit(number, entry) {
                return true;
            }
            for point in entry.open_waits() {
                for (before, _) in self.up_to(point) {
                    if !seen.contains(before) {
                        seen.push(*before);
                        next.push(*before);
                    }
                }
            }
        }
        false
    }

    fn comes_before(&self, first: u64, second: u64) -> bool {
        first != second && self.any_before(second, &mut |number, _| number == first)
    }

    fn is_ordered(&self, one: u64, other: u64) -> bool {
        self.comes_before(one, other) || self.comes_before(other, one)
    }

    /// Returns a point that an entry waits for, and that no work under way will reach.
    fn unsignalled<'a>(&self, entry: &'a Entry) -> Option<&'a Point> {
        let nobody = |point: &&Point| {
            let reaches = self.signalling(&point.timeline, |value| value >= point.value).next().is_some();
            !reaches && point.timeline.failure().is_none()
        };
        entry.open_waits().find(nobody)
    }

    /// Tells whether the work, or what comes before it, waits for a point that only the host or a
    /// device that is not watched can reach.
    fn is_open(&self, number: u64) -> bool {
        self.any_before(number, &mut |_, entry| self.unsignalled(entry).is_some())
    }

    /// Returns the rule that two pieces of work break together, where nothing orders them.
    fn race(&self, one: u64, other: u64) -> Option<Rule> {
        let (a, b) = (self.get(one)?, self.get(other)?);
        let over = |entry: &Entry| entry.has_ended() || entry.is_doomed();
        let rule = if over(a) || over(b) { None } else { a.conflict(b) };
        rule.filter(|_| !self.is_ordered(one, other))
    }

    /// Checks the points that new work signals against those of all work under way.
    fn check_signals(&self, number: u64, entry: &Entry) -> Result<(), Breach> {
        for point in &entry.signal {
            let stands = point.timeline.value();
            if stands >= point.value {
                let rule = if stands == point.value { Rule::SignalledTwice } else { Rule::SignalledBackwards };
                let detail = format!("{} signals {} of a timeline that stands at {stands}", entry.what, point.value);
                return Err(entry.breach(rule, detail));
            }
            for (other, before) in self.under_way.iter().filter(|(other, _)| *other != number) {
                for signal in before.signal.iter().filter(|signal| signal.timeline.is(&point.timeline)) {
                    let (low, high) = if signal.value < point.value { (*other, number) } else { (number, *other) };
                    let (both, value) = (format!("{} and {}", before.what, entry.what), point.value);
                    if signal.value == value {
                        let detail = format!("{both} signal the same point {value}");
                        return Err(entry.breach(Rule::SignalledTwice, detail));
                    }
                    let undecided = || self.is_open(low) || self.is_open(high);
                    if !self.comes_before(low, high) && !undecided() {
                        let detail = format!(
                            "{both} signal {} and {value} of one timeline, and nothing orders them",
                            signal.value
                        );
                        return Err(entry.breach(Rule::SignalledBackwards, detail));
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks new work against all work under way.
    /// Returns the pairs that are ordered by nothing yet, and that the host may still order.
    fn check(&self, number: u64) -> Result<Vec<(u64, u64)>, Breach> {
        let Some(entry) = self.get(number) else { return Ok(Vec::new()) };
        self.check_signals(number, entry)?;
        let mut undecided = Vec::new();
        for (other, before) in self.under_way.iter().filter(|(other, _)| *other != number) {
            if let (Some(bound), Some(former)) = (&entry.bound, &before.bound)
                && Arc::ptr_eq(&bound.table, &former.table)
                && !former.is_as(&bound.buffers)
            {
                let detail = format!("the table of {} was changed while that is under way", before.what);
                return Err(entry.breach(Rule::TableChanged, detail));
            }
            let Some(rule) = self.race(*other, number) else { continue };
            if self.is_open(*other) || self.is_open(number) {
                undecided.push((*other, number));
                continue;
            }
            return Err(entry.breach(rule, unordered(entry, before)));
        }
        Ok(undecided)
    }
}

fn unordered(one: &Entry, other: &Entry) -> String {
    format!("no point orders {} and {}, which touch the same bytes", one.what, other.what)
}

impl Ledger {
    pub(super) fn new() -> Arc<Ledger> {
        Arc::new(Ledger {
            numbers: AtomicU64::new(1),
            state: Mutex::default(),
            noted: Mutex::default(),
            compiled: Mutex::default(),
        })
    }

    /// Returns a number that nothing else of this ledger has.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, breach: Breach) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).push(breach);
    }

    /// Returns the breaches that no call could return, and forgets them.
    pub(super) fn take_noted(&self) -> Vec<Breach> {
        std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Remembers an executable, with the number of its sizes that depend on data.
    pub(super) fn compiled(&self, executable: &Arc<dyn Executable>, device: &DeviceId, extents: usize) {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.retain(|compiled| compiled.executable.strong_count() > 0);
        compiled.push(Compiled { executable: Arc::downgrade(executable), device: device.clone(), extents });
    }

    /// Returns the device that has compiled an executable, and the number of its sizes that depend
    /// on data, where the executable is known.
    pub(super) fn origin(&self, executable: &Arc<dyn Executable>) -> Option<(DeviceId, usize)> {
        let compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let here = |known: &&Compiled| std::ptr::addr_eq(known.executable.as_ptr(), Arc::as_ptr(executable));
        compiled.iter().find(here).map(|known| (known.device.clone(), known.extents))
    }

    /// Takes work up, unless it breaks a rule together with other work under way.
    /// `end` is a point that only this work reaches, and that it reaches first.
    /// Returns the number of the work.
    pub(super) fn enter(self: &Arc<Self>, entry: Entry, end: &Point) -> Result<u64, Breach> {
        let number = self.number();
        let undecided = {
            let mut state = self.lock();
            state.under_way.retain(|(_, entry)| !entry.has_ended());
            state.under_way.push((number, entry));
            match state.check(number) {
                Ok(undecided) => {
                    let waits = |number| state.get(number).map(|entry| entry.wait.clone()).unwrap_or_default();
                    undecided.into_iter().map(|(a, b)| (a, b, waits(a), waits(b))).collect::<Vec<_>>()
                }
                Err(breach) => {
                    let entry = state.under_way.pop();
                    drop(state);
                    drop(entry);
                    return Err(breach);
                }
            }
        };
        let ledger = Arc::downgrade(self);
        let ended = move |outcome: Result<()>| {
            if let Some(ledger) = ledger.upgrade() {
                ledger.end(number, outcome.is_ok());
            }
        };
        end.timeline.on_reach(end.value, Box::new(ended));
        for (one, other, first, second) in undecided {
            for wait in [first, second] {
                let ledger = Arc::downgrade(self);
                let begun = move |outcome: Result<()>| {
                    if let (Some(ledger), Ok(())) = (ledger.upgrade(), outcome) {
                        ledger.decide(one, other);
                    }
                };
                Point::when_all(&wait, Box::new(begun));
            }
        }
        Ok(number)
    }

    /// Looks again at two pieces of work, one of which begins now.
    fn decide(&self, one: u64, other: u64) {
        let state = self.lock();
        let Some(rule) = state.race(one, other) else { return };
        if let (Some(a), Some(b)) = (state.get(one), state.get(other))
            && !state.is_open(one)
            && !state.is_open(other)
        {
            let breach = b.breach(rule, unordered(b, a));
            drop(state);
            self.note(breach);
        }
    }

    /// Forgets work that was not taken after all.
    pub(super) fn withdraw(&self, number: u64) {
        drop(self.remove(number));
    }

    fn remove(&self, number: u64) -> Option<Entry> {
        let mut state = self.lock();
        let place = state.under_way.iter().position(|(other, _)| *other == number)?;
        // The entry's buffers are dropped without the lock.
        Some(state.under_way.swap_remove(place).1)
    }

    /// Forgets work that has ended, just before anybody else is told.
    fn end(&self, number: u64, well: bool) {
        let Some(entry) = self.remove(number) else { return };
        if let Some(bound) = &entry.bound
            && well
            && !bound.is_as(&bound.table.lock())
        {
            let detail = format!("the table of {} was changed while that was under way", entry.what);
            self.note(entry.breach(Rule::TableChanged, detail));
        }
    }

    /// Checks an access of the host against the work that is under way and will not wait for the
    /// host.
    pub(super) fn host_access(&self, device: &DeviceId, region: Region, writes: bool) -> Result<()> {
        let state = self.lock();
        let in_the_way = |(number, entry): &&(u64, Entry)| {
            let touches = |access: &Access| (access.writes || writes) && access.region.overlaps(&region);
            let runs = || !entry.has_ended() && !entry.is_doomed() && !state.is_open(*number);
            entry.accesses.iter().any(touches) && runs()
        };
        let Some((_, entry)) = state.under_way.iter().find(in_the_way) else { return Ok(()) };
        let verb = if writes { "writes" } else { "reads" };
        let detail = format!("the host {verb} bytes of {}, which is under way", entry.what);
        Err(Breach { rule: Rule::Unordered, device: device.clone(), detail }.into_error())
    }

    /// Checks that no work under way touches bytes that are about to be given away.
    pub(super) fn check_unused(&self, device: &DeviceId, region: Region) -> Result<()> {
        let state = self.lock();
        let uses = |entry: &Entry| {
            !entry.has_ended() && !entry.is_doomed() && entry.accesses.iter().any(|a| a.region.overlaps(&region))
        };
        let Some((_, entry)) = state.under_way.iter().find(|(_, entry)| uses(entry)) else { return Ok(()) };
        let detail = format!("a buffer is given up for an import while {} uses it", entry.what);
        Err(Breach { rule: Rule::FreedInUse, device: device.clone(), detail }.into_error())
    }

    /// Returns the breach that a piece of work waits for a point that nobody will reach.
    pub(super) fn never_signalled(&self, number: u64) -> Option<Breach> {
        let state = self.lock();
        let entry = state.get(number)?;
        let point = state.unsignalled(entry)?;
        let detail = format!(
            "{} waits for {} of a timeline that stands at {}, and no work under way reaches it",
            entry.what,
            point.value,
            point.timeline.value()
        );
        Some(entry.breach(Rule::NeverSignalled, detail))
    }

    /// Notes the work of a queue that waits for points that nobody will reach.
    pub(super) fn close(&self, queue: u64) {
        let left: Vec<u64> = {
            let state = self.lock();
            state.under_way.iter().filter(|(_, entry)| entry.queue == queue).map(|(number, _)| *number).collect()
        };
        left.into_iter().filter_map(|number| self.never_signalled(number)).for_each(|breach| self.note(breach));
    }
}
