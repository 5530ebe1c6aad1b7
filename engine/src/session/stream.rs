//! Streams: several runs under way at once, in order, up to a bounded number.

use std::collections::VecDeque;
use std::sync::Arc;

use hetero_hal::Tensor;

use super::run::Run;
use super::{Outputs, Session};
use crate::Result;

/// A pipeline of runs: while one device works on an input, another works on the one before.
/// Outputs come in the order of the inputs.
///
/// ```
/// # fn run(session: &std::sync::Arc<hetero::Session>, inputs: Vec<[hetero::Tensor; 1]>) -> hetero::Result<()> {
/// let mut stream = session.stream(0);
/// for input in &inputs {
///     // Gives the outputs of the oldest run, once as many as the stream's depth are under way.
///     if let Some(outputs) = stream.push(input)? {
///         println!("{outputs:?}");
///     }
/// }
/// while let Some(outputs) = stream.pull()? {
///     println!("{outputs:?}");
/// }
/// # Ok(())
/// # }
/// ```
///
/// The stream owns all that it needs, and may be moved to another thread.
pub struct Stream {
    session: Arc<Session>,
    depth: usize,
    /// The runs under way, the oldest first.
    runs: VecDeque<Run>,
    /// The outputs that an error kept from being handed out.
    kept: Option<Outputs>,
}

impl Session {
    /// Makes a stream with at most `depth` runs under way.
    /// A depth of 0 means one more than the session has devices, so that each may work on another
    /// input while the next is brought in.
    /// Each run under way has arenas of its own, so that the depth is never more than
    /// [`Session::max_in_flight`].
    #[must_use]
    pub fn stream(self: &Arc<Self>, depth: usize) -> Stream {
        let depth = if depth == 0 { self.devices().len() + 1 } else { depth }.min(self.max_in_flight());
        Stream { session: self.clone(), depth, runs: VecDeque::new(), kept: None }
    }
}

impl Stream {
    /// Returns the most runs under way at once.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Begins a run.
    /// Where as many runs as the depth are under way, waits for the oldest first, and returns its
    /// outputs.
    ///
    /// # Errors
    /// `Input` where an input is not the model's, and nothing has changed.
    /// `Device` where a device fails the new run or the oldest.
    /// Outputs that were ready before come with the next [`Stream::pull`].
    pub fn push(&mut self, inputs: &[Tensor]) -> Result<Option<Outputs>> {
        self.session.check(inputs, self.session.outputs().len())?;
        let ready = if self.kept.is_some() || self.runs.len() >= self.depth { self.pull()? } else { None };
        match self.session.start(inputs) {
            Ok(run) => {
                self.runs.push_back(run);
                Ok(ready)
            }
            Err(error) => {
                self.kept = ready;
                Err(error)
            }
        }
    }

    /// Waits for the oldest run, and returns its outputs, or `None` where none is under way.
    ///
    /// # Errors
    /// `Device` where a device fails the run or its deadline passes.
    /// The run is over then, and the next call is about the next run.
    pub fn pull(&mut self) -> Result<Option<Outputs>> {
        if let Some(outputs) = self.kept.take() {
            return Ok(Some(outputs));
        }
        self.runs.pop_front().map(Run::finish).transpose()
    }
}
