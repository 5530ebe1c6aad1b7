//! A driver whose devices check what their callers have to do.

mod ledger;
mod memory;
mod rule;

use std::sync::Arc;
use std::time::Instant;

use hetero_hal::{
    BindingTable, Buffer, BufferLayout, Capabilities, Claim, CompileOptions, Device, DeviceInfo, Direction, Driver,
    Edge, Error, ErrorKind, Executable, Execution, ExtentId, ExternalMemory, HostSemantics, NodeId, OpenOptions,
    Operation, Point, Program, Queue, QueueOptions, Result, Source, Telemetry, Timeline, Unavailable, Work,
};

use ledger::{Access, Bound, Entry, Ledger};
use memory::Watched;
pub use rule::{Breach, Rule};

/// A driver whose devices are another driver's, and check what callers have to do.
/// It has the other driver's name.
///
/// A call that breaks a [`Rule`] fails with an error behind which [`Breach::of`] finds the rule,
/// and the work is not taken.
/// Some breaches show when no call can return them, such as a wait for a point that nobody reaches;
/// [`Validated::take_breaches`] returns these.
///
/// Two pieces of work count as ordered where points order them.
/// Waits of the host cannot be seen, so work that has ended counts as ordered before everything
/// that is submitted later.
/// Two pieces of work that are submitted while both are under way, or will be, are found, however
/// quick the device is.
/// Clones share what they know.
#[derive(Clone)]
pub struct Validated {
    inner: Arc<dyn Driver>,
    ledger: Arc<Ledger>,
}

impl Validated {
    /// Makes a layer over a driver.
    #[must_use]
    pub fn over(inner: Arc<dyn Driver>) -> Self {
        Validated { inner, ledger: Ledger::new() }
    }

    /// Makes a layer over another driver, which knows of the work on this one's devices.
    #[must_use]
    pub fn beside(&self, inner: Arc<dyn Driver>) -> Self {
        Validated { inner, ledger: self.ledger.clone() }
    }

    /// Returns the breaches that no call could return, and forgets them.
    #[must_use]
    pub fn take_breaches(&self) -> Vec<Breach> {
        self.ledger.take_noted()
    }
}

impl Driver for Validated {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn probe(&self) -> Result<Vec<DeviceInfo>, Unavailable> {
        self.inner.probe()
    }

    fn may_have_chips(&self) -> bool {
        self.inner.may_have_chips()
    }

    fn open(&self, ordinal: usize, options: &OpenOptions) -> Result<Arc<dyn Device>> {
        let inner = self.inner.open(ordinal, options)?;
        Ok(Arc::new(ValidatedDevice { inner, ledger: self.ledger.clone() }))
    }
}

struct ValidatedDevice {
    inner: Arc<dyn Device>,
    ledger: Arc<Ledger>,
}

/// Returns the address of memory that an import shares, and whether it must not be written.
fn shared(memory: &ExternalMemory, semantics: HostSemantics) -> (Option<usize>, bool) {
    match memory {
        ExternalMemory::Host(host) if semantics != HostSemantics::Copy => {
            (Some(host.as_ptr() as usize), semantics == HostSemantics::Immutable)
        }
        _ => (None, false),
    }
}

impl Device for ValidatedDevice {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn claims(&self, program: &Program) -> Vec<Claim> {
        self.inner.claims(program)
    }

    fn refusal(&self, program: &Program, node: NodeId) -> Option<String> {
        self.inner.refusal(program, node)
    }

    fn allocate(&self, layout: BufferLayout) -> Result<Buffer> {
        Ok(Watched::wrap(&self.ledger, self.inner.allocate(layout)?, None, false))
    }

    fn import(&self, memory: ExternalMemory, semantics: HostSemantics) -> Result<Buffer> {
        let (address, constant) = shared(&memory, semantics);
        Ok(Watched::wrap(&self.ledger, self.inner.import(memory, semantics)?, address, constant))
    }

    fn reimport(&self, memory: ExternalMemory, former: Buffer) -> Result<Buffer> {
        if let Some(region) = Watched::region(&former, former.len()) {
            self.ledger.check_unused(&self.info().id, region)?;
        }
        let (address, constant) = shared(&memory, HostSemantics::Immutable);
        // The inner device can use the former buffer again only where nobody else holds it.
        let inner = Watched::unwrap(&former)?;
        drop(former);
        Ok(Watched::wrap(&self.ledger, self.inner.reimport(memory, inner)?, address, constant))
    }

    fn queue(&self, options: &QueueOptions) -> Result<Arc<dyn Queue>> {
        let inner = self.inner.queue(options)?;
        let (device, number) = (self.inner.clone(), self.ledger.number());
        Ok(Arc::new(ValidatedQueue { inner, device, number, ledger: self.ledger.clone() }))
    }

    fn timeline(&self, initial: u64) -> Result<Timeline> {
        self.inner.timeline(initial)
    }

    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>> {
        let extents = if let Source::Program(program) = source { program.extents().len() } else { 0 };
        let executable = self.inner.compile(source, options)?;
        self.ledger.compiled(&executable, &self.info().id, extents);
        Ok(executable)
    }

    fn edge_to(&self, peer: &DeviceInfo) -> Edge {
        self.inner.edge_to(peer)
    }

    fn telemetry(&self) -> Telemetry {
        self.inner.telemetry()
    }
}

struct ValidatedQueue {
    inner: Arc<dyn Queue>,
    device: Arc<dyn Device>,
    number: u64,
    ledger: Arc<Ledger>,
}

/// Work in the form in which the inner queue takes it, and what it touches.
struct Checked {
    work: Work,
    accesses: Vec<Access>,
    bound: Option<Bound>,
}

impl ValidatedQueue {
    fn breach(&self, rule: Rule, detail: String) -> Error {
        Breach { rule, device: self.device.info().id.clone(), detail }.into_error()
    }

    /// Returns the access to a buffer's first bytes, where the buffer is watched.
    fn access(buffer: &Buffer, bytes: usize, writes: bool) -> Option<Access> {
        Watched::region(buffer, bytes).map(|region| Access { region, writes, scratch: false })
    }

    fn own(&self, buffer: &Buffer, what: &str) -> Result<()> {
        if buffer.device() == &self.device.info().id {
            return Ok(());
        }
        Err(self.breach(Rule::WrongDevice, format!("{what} is memory of {}", buffer.device())))
    }

    fn writable(&self, buffer: &Buffer, what: &str) -> Result<()> {
        if buffer.memory::<Watched>().is_some_and(|watched| watched.constant) {
            return Err(self.breach(Rule::ConstantWritten, format!("{what} was imported as immutable, and is written")));
        }
        Ok(())
    }

    fn aligned(&self, buffer: &Buffer, what: &str) -> Result<()> {
        let alignment = self.device.capabilities().alignment.max(1);
        if buffer.is_empty() || buffer.offset().is_multiple_of(alignment) {
            return Ok(());
        }
        let detail = format!("{what} begins at byte {}, which is no multiple of {alignment}", buffer.offset());
        Err(self.breach(Rule::Misaligned, detail))
    }

    /// Checks the rules about one piece of work alone.
    fn check(&self, work: &Work) -> Result<Checked> {
        let checked = match &work.operation {
            Operation::Copy { source, target } => self.check_copy(source, target)?,
            Operation::Fill { target, pattern } => {
                self.own(target, "the target of a fill")?;
                self.writable(target, "the target of a fill")?;
                let written = Self::access(target, target.len(), true);
                let work = Work::fill(Watched::unwrap(target)?, pattern.clone());
                Checked { work, accesses: written.into_iter().collect(), bound: None }
            }
            Operation::Execute(execution) => self.check_execution(execution)?,
            _ => Checked { work: work.clone(), accesses: Vec::new(), bound: None },
        };
        Ok(Checked { work: checked.work.traced(work.trace.clone()), ..checked })
    }

    fn check_copy(&self, source: &Buffer, target: &Buffer) -> Result<Checked> {
        let id = &self.device.info().id;
        if source.device() != id && target.device() != id && !target.is_empty() {
            let detail = format!("a copy from {} to {}", source.device(), target.device());
            return Err(self.breach(Rule::WrongDevice, detail));
        }
        self.writable(target, "the target of a copy")?;
        let read = Self::access(source, source.len(), false);
        let written = Self::access(target, target.len(), true);
        if let (Some(read), Some(written)) = (&read, &written)
            && read.region.overlaps(&written.region)
        {
            return Err(self.breach(Rule::Overlap, "a copy's target overlaps its source".to_owned()));
        }
        let work = Work::copy(Watched::unwrap(source)?, Watched::unwrap(target)?);
        Ok(Checked { work, accesses: read.into_iter().chain(written).collect(), bound: None })
    }

    fn check_execution(&self, execution: &Execution) -> Result<Checked> {
        let executable = &execution.executable;
        let origin = self.ledger.origin(executable);
        if let Some((device, _)) = &origin
            && *device != self.device.info().id
        {
            return Err(self.breach(Rule::WrongDevice, format!("the executable was compiled for {device}")));
        }
        self.check_extents(execution, origin.map_or(0, |(_, extents)| extents))?;
        let (infos, buffers) = (executable.bindings(), execution.bindings.lock().to_vec());
        if buffers.len() != infos.len() {
            let detail = format!("{} buffers are bound to {} bindings", buffers.len(), infos.len());
            return Err(self.breach(Rule::BindingTooSmall, detail));
        }
        let mut accesses = Vec::with_capacity(buffers.len() + 1);
        let mut inner = Vec::with_capacity(buffers.len());
        for (info, buffer) in infos.iter().zip(&buffers) {
            let what = format!("the buffer bound to '{}'", info.name);
            let is_open = info.direction == Direction::Input && !info.extents.is_empty();
            if buffer.len() < info.bytes && !is_open {
                let detail = format!("{what} has {} bytes, and {} are needed", buffer.len(), info.bytes);
                return Err(self.breach(Rule::BindingTooSmall, detail));
            }
            self.own(buffer, &what)?;
            self.aligned(buffer, &what)?;
            let writes = info.direction == Direction::Output;
            if writes {
                self.writable(buffer, &what)?;
            }
            self.alone(&mut accesses, Self::access(buffer, info.bytes, writes), &what)?;
            inner.push(Watched::unwrap(buffer)?);
        }
        let needed = executable.scratch().bytes;
        let room = execution.scratch.as_ref().map_or(0, Buffer::len);
        if room < needed {
            let detail = format!("a run has {room} bytes of scratch memory, and {needed} are needed");
            return Err(self.breach(Rule::ScratchTooSmall, detail));
        }
        let mut scratch = None;
        if let Some(buffer) = &execution.scratch {
            self.own(buffer, "the scratch memory")?;
            self.aligned(buffer, "the scratch memory")?;
            self.writable(buffer, "the scratch memory")?;
            let access = Self::access(buffer, needed, true).map(|access| Access { scratch: true, ..access });
            self.alone(&mut accesses, access, "the scratch memory")?;
            scratch = Some(Watched::unwrap(buffer)?);
        }
        let run = Execution::new(executable.clone(), BindingTable::new(inner))
            .with_scratch(scratch)
            .with_extents(execution.extents.clone());
        let run = match execution.deadline {
            Some(deadline) => run.with_deadline(deadline),
            None => run,
        };
        let bound = Bound { table: execution.bindings.clone(), buffers };
        Ok(Checked { work: Work::execute(run), accesses, bound: Some(bound) })
    }

    /// Adds an access of a run, which overlaps none of the others, where one of the two writes.
    fn alone(&self, accesses: &mut Vec<Access>, access: Option<Access>, what: &str) -> Result<()> {
        let Some(access) = access else { return Ok(()) };
        let meets = |other: &Access| (other.writes || access.writes) && other.region.overlaps(&access.region);
        if accesses.iter().any(meets) {
            return Err(self.breach(Rule::Overlap, format!("{what} overlaps another binding, and one is written")));
        }
        accesses.push(access);
        Ok(())
    }

    fn check_extents(&self, execution: &Execution, known: usize) -> Result<()> {
        let bound = execution.executable.bindings().iter().flat_map(|info| info.extents.iter().flatten());
        let needed = bound.map(|extent| extent.index() + 1).max().unwrap_or(0).max(known);
        let last = needed.checked_sub(1).and_then(|last| u32::try_from(last).ok());
        let there = |last| execution.extents.as_ref().is_some_and(|extents| extents.get(ExtentId(last)).is_ok());
        match last {
            Some(last) if !there(last) => {
                let detail = format!("a run has no room for the {needed} sizes that depend on data");
                Err(self.breach(Rule::ExtentsMissing, detail))
            }
            _ => Ok(()),
        }
    }

    /// Checks work, and takes it up in the ledger.
    /// Returns the inner queue's work and signals, and the number in the ledger.
    fn take(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<(Work, Vec<Point>, u64)> {
        let what = described(&work);
        let checked = self.check(&work)?;
        // The ledger hears of the end through a point that is reached before the caller's points.
        let end = Timeline::new(0).at(1);
        let entry = Entry {
            device: self.device.info().id.clone(),
            queue: self.number,
            what,
            wait: wait.to_vec(),
            signal: signal.to_vec(),
            accesses: checked.accesses,
            bound: checked.bound,
        };
        let number = self.ledger.enter(entry, &end).map_err(Breach::into_error)?;
        let mut signals = Vec::with_capacity(signal.len() + 1);
        signals.push(end);
        signals.extend_from_slice(signal);
        Ok((checked.work, signals, number))
    }
}

/// Returns work in words.
fn described(work: &Work) -> String {
    match &work.operation {
        Operation::Copy { target, .. } => format!("a copy of {} bytes", target.len()),
        Operation::Fill { target, .. } => format!("a fill of {} bytes", target.len()),
        Operation::Host(_) => "a host function".to_owned(),
        Operation::Execute(execution) => {
            let outputs = execution.executable.bindings().iter().filter(|info| info.direction == Direction::Output);
            format!("the run that computes '{}'", outputs.map(|info| &*info.name).next().unwrap_or_default())
        }
        _ => "work".to_owned(),
    }
}

impl Queue for ValidatedQueue {
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        let (work, signals, number) = self.take(wait, work, signal)?;
        self.inner.submit(wait, work, &signals).inspect_err(|_| self.ledger.withdraw(number))
    }

    fn run(&self, wait: &[Point], work: Work, signal: &[Point], deadline: Instant) -> Result<()> {
        let (work, signals, number) = self.take(wait, work, signal)?;
        self.inner.run(wait, work, &signals, deadline).map_err(|error| {
            if error.kind() != ErrorKind::Timeout {
                self.ledger.withdraw(number);
                return error;
            }
            // The work may be under way still.
            self.ledger.never_signalled(number).map_or(error, Breach::into_error)
        })
    }
}

impl Drop for ValidatedQueue {
    fn drop(&mut self) {
        self.ledger.close(self.number);
    }
}
