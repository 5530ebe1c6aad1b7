//! Passes over photographs: one after the other, and as a stream.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use hetero::{Outputs, Session, Tensor};

use crate::Result;
use crate::photographs::{Frame, decode};

/// The number of decoded photographs that each thread may have ready.
const READY: usize = 2;

/// A session, and how it is fed.
pub(crate) struct Pipeline {
    pub(crate) session: Arc<Session>,
    pub(crate) frame: Frame,
    /// The number of decoding threads.
    pub(crate) decoders: usize,
    /// The depth of the stream; see [`Session::stream`].
    pub(crate) depth: usize,
}

/// The times of a pass over photographs.
pub(crate) struct Pass {
    pub(crate) photographs: usize,
    pub(crate) took: Duration,
    /// The time spent decoding, summed over the threads.
    pub(crate) decoding: Duration,
    /// Each device, and how long it worked, where it tells.
    pub(crate) busy: Vec<(String, Option<Duration>)>,
}

impl Pass {
    pub(crate) fn per_second(&self) -> f64 {
        self.photographs as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// Returns a time as a share of the pass.
    pub(crate) fn share(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.took.as_secs_f64().max(1e-9)
    }
}

/// A decoded photograph, and how long the decoding took.
type Decoded = Result<(Tensor, Duration)>;

impl Pipeline {
    /// Decodes a photograph, runs it, and only then begins the next one.
    /// `each` gets the photograph's scores.
    ///
    /// # Errors
    /// An error where a file is no photograph, or a device fails.
    pub(crate) fn one_by_one(&self, photographs: &[PathBuf], mut each: impl FnMut(&Path, &[f32])) -> Result<Pass> {
        self.time(photographs.len(), || {
            let mut decoding = Duration::ZERO;
            for path in photographs {
                let (photograph, took) = timed(path, self.frame)?;
                decoding += took;
                let run = self.session.start(&[photograph])?;
                each(path, &scores(&run.finish()?)?);
            }
            Ok(decoding)
        })
    }

    /// Decodes on threads with bounded queues, while the devices work on the photographs before.
    /// `each` gets the scores in the photographs' order.
    ///
    /// # Errors
    /// An error where a file is no photograph, or a device fails; the threads have ended by then.
    pub(crate) fn stream(&self, photographs: &[PathBuf], mut each: impl FnMut(&Path, &[f32])) -> Result<Pass> {
        self.time(photographs.len(), || {
            thread::scope(|scope| {
                // Thread k of n decodes every n-th photograph from the k-th on; taken in turn, they
                // come in order.
                let queues: Vec<Receiver<Decoded>> = (0..self.decoders)
                    .map(|first| {
                        let (sender, receiver) = sync_channel(READY);
                        let own = photographs.iter().skip(first).step_by(self.decoders);
                        scope.spawn(move || feed(own, self.frame, &sender));
                        receiver
                    })
                    .collect();
                let mut stream = self.session.stream(self.depth);
                let mut decoding = Duration::ZERO;
                let mut unnamed = photographs.iter();
                let mut tell = |outputs: &Outputs| -> Result<()> {
                    let path = unnamed.next().ok_or("there are more results than photographs")?;
                    each(path, &scores(outputs)?);
                    Ok(())
                };
                for number in 0..photographs.len() {
                    let (photograph, took) = queues[number % self.decoders].recv()??;
                    decoding += took;
                    if let Some(outputs) = stream.push(&[photograph])? {
                        tell(&outputs)?;
                    }
                }
                while let Some(outputs) = stream.pull()? {
                    tell(&outputs)?;
                }
                Ok(decoding)
            })
        })
    }

    /// Times a pass, which returns the time spent decoding.
    fn time(&self, photographs: usize, pass: impl FnOnce() -> Result<Duration>) -> Result<Pass> {
        let devices = self.session.devices();
        let busy = || -> Vec<Option<Duration>> { devices.iter().map(|device| device.telemetry().busy).collect() };
        let (before, began) = (busy(), Instant::now());
        let decoding = pass()?;
        let took = began.elapsed();
        let worked = before.into_iter().zip(busy()).map(|(before, after)| Some(after?.saturating_sub(before?)));
        let busy = devices.iter().map(|device| device.info().id.to_string()).zip(worked).collect();
        Ok(Pass { photographs, took, decoding, busy })
    }
}

/// Decodes photographs into a queue until it is closed.
fn feed<'a>(photographs: impl Iterator<Item = &'a PathBuf>, frame: Frame, queue: &SyncSender<Decoded>) {
    for path in photographs {
        if queue.send(timed(path, frame)).is_err() {
            return;
        }
    }
}

fn timed(path: &Path, frame: Frame) -> Decoded {
    let began = Instant::now();
    decode(path, frame).map(|photograph| (photograph, began.elapsed()))
}

/// Returns the scores, which are the only output.
fn scores(outputs: &Outputs) -> Result<Vec<f32>> {
    let (_, tensor) = outputs.iter().next().ok_or("the network has no output")?;
    Ok(tensor.view::<f32>()?.into_owned())
}
