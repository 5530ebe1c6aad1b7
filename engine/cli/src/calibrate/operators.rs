//! The times of single operators on a device, and of the smallest piece of work.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use hetero::Family;
use hetero::comm::{Absent, DeviceProfile, OperatorProfile, Spread};
use hetero::hal::{
    BindingTable, BufferLayout, CompileOptions, Device, Direction, Error, Execution, Extents, Quality, Queue,
    QueueOptions, Result, Source, Timeline, Work,
};
use hetero_conformance::Case;
use hetero_reference::Standard;

use super::{RUNS, repeat, warm_up};

/// The longest that a device may stay silent, or compile a case.
const PATIENCE: Duration = Duration::from_secs(30);

/// The messages of a device's thread.
enum News {
    Submission(Spread),
    Operator(OperatorProfile),
    Absent(Absent),
}

/// Measures a device.
/// It does so on a thread of its own, as a driver's call may never return.
pub(super) fn operators(device: &Arc<dyn Device>, cases: &Arc<[Case]>, seconds: Duration) -> DeviceProfile {
    let mut profile = DeviceProfile::new(device.info());
    let (sender, news) = mpsc::channel();
    let gave_up = |profile: &mut DeviceProfile, reason: String| {
        let told = profile.operators.len() + profile.absent.len();
        for case in cases.iter().skip(told) {
            profile.absent.push(absent(case, reason.clone()));
        }
    };
    let (measured, list) = (device.clone(), cases.clone());
    let task = move || tell(&*measured, &list, seconds, &sender);
    if let Err(error) = std::thread::Builder::new().name("hetero-calibrate".to_owned()).spawn(task) {
        gave_up(&mut profile, format!("no thread to measure with: {error}"));
        return profile;
    }
    loop {
        match news.recv_timeout(seconds + PATIENCE * 2) {
            Ok(News::Submission(spread)) => profile.submission = Some(spread),
            Ok(News::Operator(operator)) => profile.operators.push(operator),
            Ok(News::Absent(absent)) => profile.absent.push(absent),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                gave_up(&mut profile, "the device did not answer".to_owned());
                return profile;
            }
        }
    }
    gave_up(&mut profile, "the device's thread ended early".to_owned());
    profile
}

fn family(case: &Case) -> String {
    Family::of(&case.operator).map_or("none", Family::name).to_owned()
}

fn absent(case: &Case, reason: String) -> Absent {
    Absent { family: family(case), case: case.name.clone(), reason }
}

/// Measures everything, and sends one message for each case, in order.
/// Where nobody listens any more, the rest is not worth the time.
fn tell(device: &dyn Device, cases: &[Case], seconds: Duration, sender: &Sender<News>) {
    let began = Instant::now();
    let bench = match Bench::new(device) {
        Ok(bench) => bench,
        Err(error) => {
            cases.iter().for_each(|case| drop(sender.send(News::Absent(absent(case, error.to_string())))));
            return;
        }
    };
    if let Some(spread) = bench.submission(seconds / 100).ok().flatten() {
        let _ = sender.send(News::Submission(spread));
    }
    for (index, case) in cases.iter().enumerate() {
        // The time that one case does not need is left to the others.
        let share = seconds.saturating_sub(began.elapsed()) / u32::try_from(cases.len() - index).unwrap_or(1);
        let outcome = if share.is_zero() {
            Err(Error::new(hetero::hal::ErrorKind::Timeout, "no time was left"))
        } else {
            bench.case(case, share)
        };
        let news = match outcome {
            Ok(operator) => News::Operator(operator),
            Err(error) => News::Absent(absent(case, error.to_string())),
        };
        if sender.send(news).is_err() {
            return;
        }
    }
}

/// A device with a queue, ready to be timed.
struct Bench<'a> {
    device: &'a dyn Device,
    queue: Arc<dyn Queue>,
    timeline: Timeline,
}

impl<'a> Bench<'a> {
    fn new(device: &'a dyn Device) -> Result<Self> {
        let queue = device.queue(&QueueOptions { name: "calibrate".to_owned(), capacity: None })?;
        Ok(Bench { device, queue, timeline: device.timeline(0)? })
    }

    /// Times pieces of work, one after the other, until the time is over.
    fn times(&self, work: &Work, share: Duration) -> Result<Vec<Duration>> {
        let deadline = Instant::now() + share + PATIENCE;
        let once = || -> Result<Duration> {
            let done = self.timeline.at(self.timeline.value() + 1);
            let began = Instant::now();
            self.queue.run(&[], work.clone(), std::slice::from_ref(&done), deadline)?;
            Ok(began.elapsed())
        };
        let start = Instant::now();
        warm_up(&once)?;
        repeat(RUNS, share.saturating_sub(start.elapsed()), once)
    }

    /// Returns the time of the smallest piece of work.
    fn submission(&self, share: Duration) -> Result<Option<Spread>> {
        let target = self.device.allocate(BufferLayout::new(64))?;
        Ok(Spread::of(&self.times(&Work::fill(target, [0u8; 4]), share)?))
    }

    fn case(&self, case: &Case, share: Duration) -> Result<OperatorProfile> {
        let (program, inputs) = hetero_conformance::program(case)?;
        let claims = self.device.claims(&program);
        let Some(claim) = claims.first() else { return Err(Error::unsupported("the device does not claim it")) };
        let options = CompileOptions { deadline: Some(Instant::now() + PATIENCE), ..CompileOptions::default() };
        let executable = self.device.compile(Source::Program(&program), &options)?;
        let mut given = inputs.iter();
        let mut bindings = Vec::new();
        for info in executable.bindings() {
            let buffer = self.device.allocate(BufferLayout::new(info.bytes))?;
            if info.direction == Direction::Input {
                let tensor = given.next().ok_or_else(|| Error::internal("a case lacks an input"))?;
                buffer.write(0, tensor.bytes())?;
            }
            bindings.push(buffer);
        }
        let scratch = executable.scratch();
        let scratch = if scratch.bytes > 0 { Some(self.device.allocate(scratch)?) } else { None };
        let extents = program.is_open().then(|| Arc::new(Extents::of(&program)));
        let table = BindingTable::new(bindings);
        let execution = Execution::new(executable, table).with_scratch(scratch).with_extents(extents);
        let times = self.times(&Work::execute(execution), share)?;
        let node = program.nodes().first().ok_or_else(|| Error::internal("a case has no node"))?;
        Ok(OperatorProfile {
            family: family(case),
            case: case.name.clone(),
            slow: claim.quality != Quality::Native,
            flops: hetero::flops(&program, node, &Standard),
            bytes: hetero::bytes(&program, node),
            seconds: Spread::of(&times).ok_or_else(|| Error::internal("nothing was timed"))?,
        })
    }
}
