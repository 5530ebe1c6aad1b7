//! A benchmark of handing a tensor over and back: from the CPU to a device and to the CPU again,
//! with a kernel in between that does next to nothing.
//! It is for development: backends have an example that runs it beside their driver's own launch.
//!
//! Three ways are timed in turn, in the same loop, so that other load of the machine meets all of
//! them:
//!
//! - **In place**: CPU and device import the same pages.
//!   The host writes a number, [`Queue::run`] makes the device add 1 to it,
//!   and the host reads it.
//! - **Staged**: the host's bytes are written into memory of the device's own, the same kernel runs
//!   there, and all bytes are read back.
//! - **The driver's own launch**: the same kernel on the same pages, through the driver's interface
//!   alone; see [`DriverLaunch`].
//!
//! The kernel is not quite empty, as an empty one could be skipped and would prove nothing.
//! One work item adds 1 to the first word, and every round checks that it did.
//!
//! ```
//! use std::time::Duration;
//! use hetero_handover::{INCREMENT, Latency, increment_kernel};
//! use hetero_hal::KernelFormat;
//!
//! let kernel = increment_kernel(KernelFormat::OpenClC).expect("the kernel is written in OpenCL C");
//! assert!(kernel.contains(INCREMENT));
//! let mut times = [3, 1, 2].map(Duration::from_micros);
//! assert_eq!(Latency::of(&mut times).map(|latency| latency.rounds), Some(3));
//! ```

#![forbid(unsafe_code)]

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_comm::host_buffer;
use hetero_hal::{
    BindingInfo, BindingTable, Buffer, BufferLayout, CompileOptions, DType, Device, DeviceInfo, Direction, Driver,
    Error, Execution, ExternalMemory, HandleKind, HostMemory, HostSemantics, KernelFormat, KernelSignature,
    OpenOptions, Queue, QueueOptions, Result, Source, Timeline, Work,
};
use serde::{Deserialize, Serialize};

/// The name of the kernel's entry.
pub const INCREMENT: &str = "increment";
/// The number of rounds of each way at a time.
const CHUNK: usize = 50;
/// The number of rounds before each chunk whose time does not count: the other ways have left
/// caches and threads as they used them.
const WARM_UP: usize = 5;
/// The factor by which the time for one size may grow where launches wander, as a driver's own
/// threads make them do.
const LONGEST: u32 = 8;
/// The precision in microseconds to which the difference between our launch and the driver's own is
/// to be known: the standard error of the chunks' medians.
const KNOWN_TO: f64 = 1.0;
/// The time after which a device is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the source of the kernel that adds 1 to the first word of its only binding, or `None`
/// for a format that it is not written in.
#[must_use]
pub fn increment_kernel(format: KernelFormat) -> Option<&'static str> {
    match format {
        KernelFormat::OpenClC => Some("__kernel void increment(__global uint *words) { words[0] += 1u; }"),
        KernelFormat::Wgsl => Some(
            "@group(0) @binding(0) var<storage, read_write> words: array<u32>;\n\
             @compute @workgroup_size(1) fn increment() { words[0] += 1u; }",
        ),
        _ => None,
    }
}

/// The same kernel through a driver's own interface, without hetero: a hand-over cannot be quicker
/// than this launch.
pub trait DriverLaunch {
    /// Prepares all that launches on these pages need, in place where the driver imports host
    /// memory.
    ///
    /// # Errors
    /// The errors of the driver.
    fn bind(&mut self, pages: &HostMemory) -> Result<()>;

    /// Launches the kernel, and waits for its end.
    ///
    /// # Errors
    /// The errors of the driver.
    fn launch(&mut self) -> Result<()>;
}

/// The extent of the measurement.
#[derive(Clone, Copy, Debug)]
pub struct HandoverOptions {
    /// The least number of rounds in place, whatever time they take; the driver's own launches are
    /// as many.
    pub rounds: usize,
    /// The least number of staged rounds, whatever time they take.
    pub staged_rounds: usize,
    /// The time for one size, which is used up, and up to eight times of it where launches wander.
    pub time: Duration,
}

impl Default for HandoverOptions {
    /// Returns 1000 rounds, 30 staged ones, and a second and a half.
    fn default() -> Self {
        HandoverOptions { rounds: 1000, staged_rounds: 30, time: Duration::from_millis(1500) }
    }
}

/// The time of one way, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The median: half of the rounds took no longer.
    pub p50: f64,
    /// The 99th percentile: 99 of 100 rounds took no longer.
    pub p99: f64,
    /// The number of rounds.
    pub rounds: usize,
}

impl Latency {
    /// Returns the latency of these times, by nearest rank, or `None` where there is none.
    #[must_use]
    pub fn of(times: &mut [Duration]) -> Option<Latency> {
        times.sort_unstable();
        let rank = |percent: usize| {
            let at = (times.len() * percent).div_ceil(100).checked_sub(1)?;
            times.get(at).map(|time| time.as_secs_f64() * 1e6)
        };
        Some(Latency { p50: rank(50)?, p99: rank(99)?, rounds: times.len() })
    }
}

/// The times of handing over and back, for one device and size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    /// The device's id.
    pub device: String,
    /// The bytes of the tensor.
    pub bytes: usize,
    /// The time in place; `None` where the device does not import host memory.
    pub in_place: Option<Latency>,
    /// The time of the driver's own launch.
    pub driver: Latency,
    /// The time of the staged way.
    pub staged: Latency,
    /// The bytes that each staged round copies; a round in place copies none.
    pub staged_bytes: usize,
    /// The address at which the pages begin that CPU and device both work on, and at which the host
    /// saw the device's write.
    /// `None` where nothing is in place.
    pub address: Option<usize>,
    /// The bytes that the device allocated in order to import the pages, where it counts them.
    pub import_bytes: Option<u64>,
    /// The percentage of the machine's processors that other processes used meanwhile; `None` where
    /// the system does not tell.
    pub foreign_percent: Option<f64>,
}

/// Measures one size, a multiple of 4 bytes, on a device beside `cpu`, which has to import host
/// memory.
/// The first rounds in place prove what they claim: the host writes through the CPU's buffer and
/// finds the device's write at the pages' own address, with every other byte as it was.
///
/// # Errors
/// `Unsupported` for a device that takes the kernel in no known format.
/// `Internal` for a device that computes something else.
/// Otherwise the errors of the devices.
pub fn measure_handover(
    cpu: &Arc<dyn Device>,
    device: &Arc<dyn Device>,
    driver: &mut dyn DriverLaunch,
    bytes: usize,
    options: &HandoverOptions,
) -> Result<Handover> {
    let runner = Runner::new(device, bytes)?;
    let pages = HostMemory::allocate(bytes)?;
    let on_cpu = cpu.import(ExternalMemory::Host(pages.clone()), HostSemantics::Shared)?;
    let at_address = host_buffer(pages.clone());
    let allocated = || device.telemetry().allocated_bytes;
    let (mut in_place, mut import_bytes) = (None, None);
    if device.capabilities().imports.contains(&HandleKind::Host) {
        let before = allocated();
        let imported = device.import(ExternalMemory::Host(pages.clone()), HostSemantics::Shared)?;
        import_bytes = allocated().zip(before).map(|(after, before)| after.saturating_sub(before));
        let work = runner.work(&imported);
        prove(&runner, &work, &on_cpu, &at_address)?;
        in_place = Some(work);
    }
    driver.bind(&pages)?;
    let own = device.allocate(BufferLayout::new(bytes))?;
    let on_own = runner.work(&own);
    let mut tensor = vec![0x5a; bytes];

    let mut number: u32 = 0;
    let mut once_in_place = |work: &Work| -> Result<Duration> {
        number = number.wrapping_add(2);
        let mut seen = [0; 4];
        let began = Instant::now();
        on_cpu.write(0, &number.to_le_bytes())?;
        runner.run(work.clone())?;
        on_cpu.read(0, &mut seen)?;
        let took = began.elapsed();
        incremented(number, seen).map(|()| took)
    };
    let mut once_staged = |number: u32| -> Result<Duration> {
        tensor[..4].copy_from_slice(&number.to_le_bytes());
        let began = Instant::now();
        own.write(0, &tensor)?;
        runner.run(on_own.clone())?;
        own.read(0, &mut tensor)?;
        let took = began.elapsed();
        incremented(number, [tensor[0], tensor[1], tensor[2], tensor[3]]).map(|()| took)
    };
    let mut once_driver = || -> Result<Duration> {
        let began = Instant::now();
        driver.launch()?;
        Ok(began.elapsed())
    };

    let (mut times, mut driver_times, mut staged_times) = (Vec::new(), Vec::new(), Vec::new());
    let mut above: Vec<f64> = Vec::new();
    let (began, processors) = (Instant::now(), Processors::now());
    while times.len().max(driver_times.len()) < options.rounds
        || staged_times.len() < options.staged_rounds
        || began.elapsed() < options.time
        || (in_place.is_some() && began.elapsed() < options.time * LONGEST && !is_known(&above))
    {
        let (first, first_driver) = (times.len(), driver_times.len());
        for round in 0..WARM_UP + CHUNK {
            // The order of the two ways changes from round to round.
            let early = if round % 2 == 1 { Some(once_driver()?) } else { None };
            let ours = in_place.as_ref().map(&mut once_in_place).transpose()?;
            let bare = early.map_or_else(&mut once_driver, Ok)?;
            if round >= WARM_UP {
                times.extend(ours);
                driver_times.push(bare);
            }
        }
        above
            .extend(median(&times[first..]).zip(median(&driver_times[first_driver..])).map(|(ours, bare)| ours - bare));
        // A large staged round takes as long as hundreds of the others, and is run as many times
        // less often.
        let chunk = Instant::now();
        once_staged(7)?;
        for round in 0..CHUNK {
            if round > 0 && chunk.elapsed() > options.time / 30 {
                break;
            }
            staged_times.push(once_staged(round as u32)?);
        }
    }
    let foreign_percent = processors.and_then(|before| before.foreign_percent(began.elapsed()));
    let missing = || Error::internal("nothing was measured");
    Ok(Handover {
        device: device.info().id.to_string(),
        bytes,
        address: in_place.is_some().then(|| pages.as_ptr() as usize),
        in_place: Latency::of(&mut times),
        driver: Latency::of(&mut driver_times).ok_or_else(missing)?,
        staged: Latency::of(&mut staged_times).ok_or_else(missing)?,
        staged_bytes: bytes * 2,
        import_bytes,
        foreign_percent,
    })
}

/// The usual sizes in bytes: 4 KiB to 64 MiB.
const USUAL_SIZES: [usize; 8] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];
/// The number of times in all that a row which others disturbed is measured.
const ATTEMPTS: usize = 3;
/// The percentage of the processors that others may use.
const FOREIGN_PERCENT: f64 = 8.0;

/// A [`Handover`] with the description of its device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandoverRow {
    /// The measurement.
    #[serde(flatten)]
    pub handover: Handover,
    /// The device's name, as its driver tells it.
    pub name: String,
    /// The vendor, who made the device.
    pub vendor: String,
    /// The driver's version.
    pub driver_version: String,
    /// Whether the device is a simulator or an emulator.
    pub emulated: bool,
    /// The number of times that it was measured, as others had used the processors; the last time
    /// counts.
    pub attempts: usize,
}

/// Measures devices that a driver has found, with each of these sizes in bytes, or with 4 KiB to 64
/// MiB where there are none; see [`measure_handover`].
/// `bare` makes the [`DriverLaunch`] of a device.
/// Writes a line of JSON for each [`HandoverRow`] as soon as it is there.
///
/// # Errors
/// The errors of [`measure_handover`] and [`Driver::open`].
/// `Internal` where a line cannot be written.
pub fn measure_handovers(
    cpu: &Arc<dyn Device>,
    driver: &dyn Driver,
    devices: &[DeviceInfo],
    sizes: &[usize],
    bare: &mut dyn FnMut(&DeviceInfo) -> Result<Box<dyn DriverLaunch>>,
    out: &mut dyn Write,
) -> Result<()> {
    let sizes = if sizes.is_empty() { &USUAL_SIZES } else { sizes };
    for info in devices {
        let device = driver.open(info.id.ordinal(), &OpenOptions::default())?;
        let mut bare = bare(info)?;
        for &bytes in sizes {
            let (mut attempts, mut disturbed) = (0, true);
            let mut row = None;
            while disturbed && attempts < ATTEMPTS {
                attempts += 1;
                let handover = measure_handover(cpu, &device, &mut *bare, bytes, &HandoverOptions::default())?;
                disturbed = handover.foreign_percent.is_some_and(|percent| percent > FOREIGN_PERCENT);
                row = Some(HandoverRow {
                    handover,
                    name: info.name.clone(),
                    vendor: info.vendor.clone(),
                    driver_version: info.driver_version.clone(),
                    emulated: info.emulated,
                    attempts,
                });
            }
            if let Some(row) = row {
                let line = serde_json::to_string(&row)
                    .map_err(|error| Error::internal("a row has no JSON form").caused_by(error))?;
                writeln!(out, "{line}").map_err(|error| Error::internal("a row cannot be written").caused_by(error))?;
            }
        }
    }
    Ok(())
}

/// Returns the median of these times, in microseconds.
fn median(times: &[Duration]) -> Option<f64> {
    Latency::of(&mut times.to_vec()).map(|latency| latency.p50)
}

/// Tells whether the mean of these differences is known well enough.
fn is_known(differences: &[f64]) -> bool {
    let count = differences.len() as f64;
    if count < 10.0 {
        return false;
    }
    let mean = differences.iter().sum::<f64>() / count;
    let variance = differences.iter().map(|difference| (difference - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (variance / count).sqrt() <= KNOWN_TO
}

fn incremented(written: u32, seen: [u8; 4]) -> Result<()> {
    let seen = u32::from_le_bytes(seen);
    if seen == written.wrapping_add(1) {
        return Ok(());
    }
    Err(Error::internal(format!("the host wrote {written}, the device was to add 1, and the host sees {seen}"))
        .with_remedy("report this driver"))
}

/// Proves that the device's memory is the pages themselves.
/// The bytes are written on the CPU's buffer, and read back by their address.
fn prove(runner: &Runner, work: &Work, on_cpu: &Buffer, at_address: &Buffer) -> Result<()> {
    let mut expected: Vec<u8> = (0..on_cpu.len()).map(|at| (at % 251) as u8).collect();
    let mut seen = vec![0; expected.len()];
    for written in [41u32, 1 << 20] {
        expected[..4].copy_from_slice(&written.to_le_bytes());
        on_cpu.write(0, &expected)?;
        runner.run(work.clone())?;
        at_address.read(0, &mut seen)?;
        incremented(written, [seen[0], seen[1], seen[2], seen[3]])?;
        if let Some(at) = (4..seen.len()).find(|&at| seen[at] != expected[at]) {
            return Err(Error::internal(format!("byte {at} was changed, which no kernel wrote")));
        }
    }
    Ok(())
}

/// The kernel on a device, with the queue that runs it.
struct Runner {
    queue: Arc<dyn Queue>,
    timeline: Timeline,
    executable: Arc<dyn hetero_hal::Executable>,
}

impl Runner {
    fn new(device: &Arc<dyn Device>, bytes: usize) -> Result<Runner> {
        if bytes < 4 || !bytes.is_multiple_of(4) {
            return Err(Error::invalid_argument(format!("{bytes} bytes are no whole number of words")));
        }
        let known = |&format: &KernelFormat| Some((format, increment_kernel(format)?));
        let found = device.capabilities().kernels.iter().find_map(known);
        let (format, code) = found.ok_or_else(|| {
            Error::unsupported("a raw kernel in a format that hand-overs are measured with")
                .on(device.info().id.clone())
        })?;
        let words = BindingInfo {
            name: "words".into(),
            direction: Direction::Output,
            dtype: DType::U32,
            shape: vec![bytes / 4],
            extents: vec![],
            bytes,
        };
        let signature = KernelSignature {
            entry: INCREMENT.to_owned(),
            bindings: vec![words],
            global: [1, 1, 1],
            local: Some([1, 1, 1]),
        };
        let source = Source::Kernel { format, code: code.as_bytes(), signature: &signature };
        Ok(Runner {
            queue: device.queue(&QueueOptions { name: "handover".to_owned(), capacity: None })?,
            timeline: device.timeline(0)?,
            executable: device.compile(source, &CompileOptions::default())?,
        })
    }

    fn work(&self, buffer: &Buffer) -> Work {
        Work::execute(Execution::new(self.executable.clone(), BindingTable::new([buffer.clone()])))
    }

    /// Runs work and waits for it, by points alone.
    fn run(&self, work: Work) -> Result<()> {
        let point = self.timeline.at(self.timeline.value() + 1);
        self.queue.run(&[], work, &[point], Instant::now() + PATIENCE)
    }
}

/// The processor time used so far, by the machine and by this process.
struct Processors {
    machine: f64,
    own: f64,
}

/// The unit in which Linux counts processor time, for every program alike: hundredths of a second.
const TICKS: f64 = 100.0;

impl Processors {
    /// Returns the time used so far, or `None` where there is no `/proc`.
    fn now() -> Option<Processors> {
        let machine = std::fs::read_to_string("/proc/stat").ok()?;
        let fields: Vec<f64> =
            machine.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        // The fields are user, nice, system, idle, waiting for input, interrupts (twice) and
        // stolen; guests are among the first two.
        let busy = [0, 1, 2, 5, 6, 7].into_iter().filter_map(|at| fields.get(at)).sum::<f64>() / TICKS;
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The fields stand behind the name, which may have blanks in it.
        let fields: Vec<&str> = own.rsplit_once(')')?.1.split_whitespace().collect();
        let own = (fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / TICKS;
        Some(Processors { machine: busy, own })
    }

    /// Returns what others have used since, in percent of all processors.
    fn foreign_percent(&self, elapsed: Duration) -> Option<f64> {
        let now = Processors::now()?;
        let foreign = (now.machine - self.machine) - (now.own - self.own);
        let count = std::thread::available_parallelism().ok()?.get() as f64;
        Some((foreign / (elapsed.as_secs_f64() * count) * 100.0).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut times: Vec<Duration> = (1..=200).rev().map(Duration::from_micros).collect();
        let latency = Latency::of(&mut times).unwrap();
        assert!((latency.p50 - 100.0).abs() < 1e-6 && (latency.p99 - 198.0).abs() < 1e-6 && latency.rounds == 200);
        let one = Latency::of(&mut [Duration::from_micros(3)]).unwrap();
        assert!((one.p50 - 3.0).abs() < 1e-6 && (one.p99 - 3.0).abs() < 1e-6);
        assert_eq!(Latency::of(&mut []), None);
    }

    #[test]
    fn differences_that_wander_take_more_rounds_to_know() {
        let wandering =
            |count: usize| (0..count).map(|at| if at % 2 == 0 { 20.0 } else { -20.0 }).collect::<Vec<f64>>();
        assert!(is_known(&[1.5; 10]) && !is_known(&[1.5; 9]));
        assert!(!is_known(&wandering(300)) && is_known(&wandering(500)));
    }

    #[test]
    fn what_a_kernel_was_to_do_is_checked() {
        assert!(incremented(41, 42u32.to_le_bytes()).is_ok() && incremented(u32::MAX, [0; 4]).is_ok());
        assert!(incremented(41, 41u32.to_le_bytes()).is_err());
    }
}
