//! The measurement of transfers.
//!
//! A hand-over is measured as a plan has it.
//! The sender's queue writes 64 bytes of the source and reaches a point.
//! The transport's work brings the source over, as a session's transfer does.
//! The receiver's queue reads 64 bytes of the target behind the transfer's point, or behind the
//! sender's where nothing is moved.
//! So a hand-over without a copy shows its true cost: one device's work begins behind the other's.
//! The bytes that arrive are compared with the bytes that were sent.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use hetero_hal::{
    Buffer, BufferLayout, Device, DeviceId, Error, ErrorKind, Queue, QueueOptions, Result, Timeline, Work,
};

use crate::channel::Channel;
use crate::profile::{LinkProfile, Sample, Spread};
use crate::transport::{Endpoint, Transport};

/// The number of bytes that the sender writes and the receiver reads.
const TOUCHED: usize = 64;
/// The number of hand-overs of a size, at least and at most.
const ROUNDS: (usize, usize) = (5, 200);
/// The number of hand-overs before time is taken: the first touches pages and compiles code that a
/// driver compiles lazily.
const WARM_UP: usize = 2;

/// The longest time that is waited, which clocks can represent whatever they began with.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The extent of the measurement, and how long it may take.
#[derive(Clone, Debug)]
pub struct MeasureOptions {
    /// The sizes in bytes, growing, each a multiple of 4096.
    pub sizes: Vec<usize>,
    /// The time for one transport from one endpoint to another, over all sizes.
    /// Sizes for which it does not suffice are left out.
    pub per_link: Duration,
    /// The further time that a device may stay silent before it is given up.
    pub patience: Duration,
}

impl Default for MeasureOptions {
    /// Returns 4 KiB to 64 MiB by factors of four, a second for each link, and ten seconds of
    /// patience.
    fn default() -> Self {
        MeasureOptions {
            sizes: (0..8).map(|step| 4096 << (2 * step)).collect(),
            per_link: Duration::from_secs(1),
            patience: Duration::from_secs(10),
        }
    }
}

/// Measures every transport that applies, between the host and each device and between each ordered
/// pair of devices; `heard` gets each link as it is done.
///
/// A link that fails is there without samples and with the reason; nothing else suffers.
/// A device that stays silent against the host is not tried again.
/// One call takes at most [`MeasureOptions::per_link`] and twice the patience for each link.
pub fn measure(
    devices: &[Arc<dyn Device>],
    transports: &[Arc<dyn Transport>],
    options: &MeasureOptions,
    heard: &mut dyn FnMut(&LinkProfile),
) -> Vec<LinkProfile> {
    let ends: Vec<Endpoint> = devices.iter().cloned().map(Endpoint::Device).collect();
    // The host's links come first, as they tell which devices answer.
    let with_host = ends.iter().flat_map(|end| [(Endpoint::Host, end.clone()), (end.clone(), Endpoint::Host)]);
    let between = ends.iter().enumerate().flat_map(|(index, from)| {
        let others = ends.iter().enumerate().filter(move |(other, _)| *other != index);
        others.map(|(_, to)| (from.clone(), to.clone()))
    });
    let mut silent: HashSet<DeviceId> = HashSet::new();
    let mut links = Vec::new();
    for (from, to) in with_host.chain(between) {
        for transport in transports {
            // A transport that does not serve the pair is no news.
            if transport.applies(&from, &to).is_err() {
                continue;
            }
            let (samples, stopped) = match [&from, &to].iter().find(|end| silent.contains(&end.id())) {
                Some(end) => (Vec::new(), Some(format!("{} did not answer before", end.id()))),
                None => match measure_link(&from, &to, transport, options) {
                    Ok((samples, stopped)) => (samples, stopped),
                    Err(error) => {
                        if error.kind() == ErrorKind::Timeout
                            && let (Endpoint::Host, Endpoint::Device(device))
                            | (Endpoint::Device(device), Endpoint::Host) = (&from, &to)
                        {
                            silent.insert(device.info().id.clone());
                        }
                        (Vec::new(), Some(error.to_string()))
                    }
                },
            };
            let link =
                LinkProfile { from: from.id(), to: to.id(), transport: transport.name().to_owned(), samples, stopped };
            heard(&link);
            links.push(link);
        }
    }
    links
}

/// The samples, and the reason why there are none of larger sizes.
type Samples = (Vec<Sample>, Option<String>);

/// Measures one link, on a thread of its own: a driver's call that never returns cannot be ended,
/// only left behind.
fn measure_link(
    from: &Endpoint,
    to: &Endpoint,
    transport: &Arc<dyn Transport>,
    options: &MeasureOptions,
) -> Result<Samples> {
    let name = format!("{} from {} to {}", transport.name(), from.id(), to.id());
    let (per_link, patience) = (options.per_link.min(LONGEST), options.patience.min(LONGEST));
    let options = MeasureOptions { per_link, patience, ..options.clone() };
    let (sender, receiver) = mpsc::channel();
    let task = {
        let (from, to, transport, options) = (from.clone(), to.clone(), transport.clone(), options.clone());
        move || {
            // Nobody listens any more where it took too long.
            let _ = sender.send(Link::new(&from, &to, &*transport, &options).and_then(|link| link.all()));
        }
    };
    std::thread::Builder::new().name("hetero-measure".to_owned()).spawn(task).map_err(|error| {
        Error::new(ErrorKind::OutOfMemory, "cannot start a thread to measure with").caused_by(error)
    })?;
    match receiver.recv_timeout(options.per_link + options.patience * 2) {
        Ok(outcome) => outcome,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(Error::new(ErrorKind::Timeout, format!("{name} does not come back from a call")))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(Error::internal(format!("{name} panicked"))),
    }
}

/// One end at work, with its queue and timeline; the host has no queue.
struct End {
    queue: Option<Arc<dyn Queue>>,
    timeline: Timeline,
}

impl End {
    fn new(endpoint: &Endpoint) -> Result<End> {
        Ok(match endpoint.device() {
            None => End { queue: None, timeline: Timeline::new(0) },
            Some(device) => End {
                queue: Some(device.queue(&QueueOptions { name: "measure".to_owned(), capacity: None })?),
                timeline: device.timeline(0)?,
            },
        })
    }
}

struct Link<'a> {
    from: &'a Endpoint,
    to: &'a Endpoint,
    transport: &'a dyn Transport,
    options: &'a MeasureOptions,
    began: Instant,
    /// The number of hand-overs so far, which is the value of their points.
    rounds: Cell<u64>,
    sender: End,
    receiver: End,
    /// The timeline of the transport: the carrying device's, as in a session.
    arrivals: Timeline,
    /// The buffer into which the receiver puts the bytes that it reads.
    seen: Buffer,
}

impl<'a> Link<'a> {
    fn new(
        from: &'a Endpoint,
        to: &'a Endpoint,
        transport: &'a dyn Transport,
        options: &'a MeasureOptions,
    ) -> Result<Self> {
        let began = Instant::now();
        let (sender, receiver) = (End::new(from)?, End::new(to)?);
        let carriage = transport.applies(from, to).map_err(|why| Error::invalid_argument(why.to_string()))?;
        let arrivals = match carriage.carrier(from, to).and_then(Endpoint::device) {
            Some(device) => device.timeline(0)?,
            None => Timeline::new(0),
        };
        let seen = match to.device() {
            Some(device) => device.allocate(BufferLayout::new(TOUCHED))?,
            None => crate::host::HostBytes::buffer(TOUCHED)?,
        };
        Ok(Link { from, to, transport, options, began, rounds: Cell::new(0), sender, receiver, arrivals, seen })
    }

    /// Measures all sizes, as far as time suffices.
    /// Where a large size finds too little memory, the samples of smaller sizes stay; after any
    /// other failure they do not.
    fn all(&self) -> Result<Samples> {
        let mut samples: Vec<Sample> = Vec::new();
        for (index, &bytes) in self.options.sizes.iter().enumerate() {
            let left = self.options.per_link.saturating_sub(self.began.elapsed());
            if let Some(last) = samples.last() {
                let growth = bytes as f64 / last.bytes as f64;
                let least = last.seconds.median * growth * (ROUNDS.0 + WARM_UP) as f64;
                if least > left.as_secs_f64() * 2.0 {
                    return Ok((samples, Some(format!("no time for {bytes} bytes"))));
                }
            }
            let share = left / u32::try_from(self.options.sizes.len() - index).unwrap_or(1);
            let channel = match Channel::connect(self.transport, self.from, self.to, bytes) {
                Ok(channel) => channel,
                Err(error) if !samples.is_empty() && error.kind() != ErrorKind::DeviceLost => {
                    return Ok((samples, Some(format!("{bytes} bytes: {error}"))));
                }
                Err(error) => return Err(error),
            };
            let (source, target) = (channel.source().clone(), channel.target().clone());
            // The tag is sent from the host's side, so that the last bytes of the buffer are
            // checked too.
            let tag = [index as u8 + 1; TOUCHED];
            let tail = bytes.saturating_sub(TOUCHED);
            source.write(tail, &tag)?;
            let mut times = Vec::new();
            for _ in 0..WARM_UP {
                self.round(&channel, tag[0])?;
            }
            let mut arrived = [0; TOUCHED];
            target.read(tail, &mut arrived)?;
            let mut read = [0; TOUCHED];
            self.seen.read(0, &mut read)?;
            if (arrived, read) != (tag, tag) {
                let reason = format!("of {bytes} bytes by {}, others arrive than were sent", self.transport.name());
                return Err(Error::internal(reason).with_remedy("report this driver"));
            }
            let began = Instant::now();
            while times.len() < ROUNDS.1 && (times.len() < ROUNDS.0 || began.elapsed() < share) {
                times.push(self.round(&channel, tag[0])?);
            }
            samples.extend(Spread::of(&times).map(|seconds| Sample { bytes: bytes as u64, seconds }));
        }
        Ok((samples, None))
    }

    /// Times one hand-over.
    fn round(&self, channel: &Channel, pattern: u8) -> Result<Duration> {
        let deadline = self.began + self.options.per_link + self.options.patience;
        let value = self.rounds.get() + 1;
        self.rounds.set(value);
        let (written, arrived, read) =
            (self.sender.timeline.at(value), self.arrivals.at(value), self.receiver.timeline.at(value));
        let (head, first) = (channel.source().slice(0..TOUCHED)?, channel.target().slice(0..TOUCHED)?);
        let fill = Work::fill(head, [pattern; 4]);
        let copy = Work::copy(first, self.seen.clone());
        let began = Instant::now();
        match &self.sender.queue {
            Some(queue) => queue.submit(&[], fill, std::slice::from_ref(&written))?,
            None => {
                channel.source().write(0, &[pattern; TOUCHED])?;
                written.signal();
            }
        }
        let there = if channel.copied_bytes() > 0 {
            channel.transfer(&written, &arrived)?;
            arrived
        } else {
            written
        };
        match &self.receiver.queue {
            Some(queue) => {
                queue.submit(std::slice::from_ref(&there), copy, std::slice::from_ref(&read))?;
                read.wait(deadline)?;
            }
            None => {
                there.wait(deadline)?;
                let mut bytes = [0; TOUCHED];
                channel.target().read(0, &mut bytes)?;
                self.seen.write(0, &bytes)?;
            }
        }
        Ok(began.elapsed())
    }
}
