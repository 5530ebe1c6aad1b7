//! The times at which each dispatch of a traced run began and ended, by the device's own clock.
//!
//! As in any run, the dispatches of a traced run lie in one submission.
//! Each has a pass of its own that writes two timestamps, and the host reads them when the
//! submission is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_hal::{Error, Result, TraceKind};
use hetero_kit::Tracer;

use crate::clock::Clock;
use crate::gpu::{Gpu, PATIENCE};

/// The largest number of timestamps in one query set.
const SET: u32 = wgpu::QUERY_SET_MAX_QUERIES;
const BYTES: u64 = wgpu::QUERY_SIZE as u64;

/// The names of a dispatch's kernel and of its nodes.
pub(crate) type Names = (String, Vec<Arc<str>>);

/// The timestamps of one submission.
pub(crate) struct Stamps {
    sets: Vec<wgpu::QuerySet>,
    resolved: wgpu::Buffer,
    readable: wgpu::Buffer,
    count: u32,
}

impl Stamps {
    /// Makes room for the timestamps of the given number of dispatches; `None` where the device has
    /// no timestamps.
    pub(crate) fn new(gpu: &Gpu, dispatches: usize) -> Result<Option<Stamps>> {
        let count = u32::try_from(2 * dispatches).map_err(|_| Error::internal("too many dispatches"))?;
        if !gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) || count == 0 {
            return Ok(None);
        }
        let buffer = |usage| wgpu::BufferDescriptor {
            label: None,
            size: u64::from(count.next_multiple_of(SET)) * BYTES,
            usage,
            mapped_at_creation: false,
        };
        gpu.checked("making timestamps", || {
            let set = |first: u32| {
                let count = SET.min(count - first);
                let ty = wgpu::QueryType::Timestamp;
                gpu.device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty, count })
            };
            Some(Stamps {
                sets: (0..count).step_by(SET as usize).map(set).collect(),
                resolved: gpu
                    .device
                    .create_buffer(&buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC)),
                readable: gpu
                    .device
                    .create_buffer(&buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)),
                count,
            })
        })
    }

    /// Returns where a dispatch writes its two timestamps.
    pub(crate) fn of(&self, dispatch: usize) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let first = u32::try_from(2 * dispatch).ok()?;
        Some(wgpu::ComputePassTimestampWrites {
            query_set: self.sets.get((first / SET) as usize)?,
            beginning_of_pass_write_index: Some(first % SET),
            end_of_pass_write_index: Some(first % SET + 1),
        })
    }

    /// Records, behind the dispatches, the copies that bring the timestamps to the host.
    pub(crate) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        for (number, set) in self.sets.iter().enumerate() {
            let first = number as u32 * SET;
            let count = SET.min(self.count - first);
            encoder.resolve_query_set(set, 0..count, &self.resolved, u64::from(first) * BYTES);
        }
        let bytes = u64::from(self.count) * BYTES;
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readable, 0, bytes);
    }

    /// Reads the timestamps, once the submission is over.
    fn read(&self, gpu: &Gpu) -> Result<Vec<u64>> {
        let slice = self.readable.slice(..u64::from(self.count) * BYTES);
        gpu.map(slice, wgpu::MapMode::Read, || {
            let range = slice
                .get_mapped_range()
                .map_err(|error| Error::internal("timestamps cannot be read").caused_by(error))?;
            let (words, _) = range.as_chunks::<8>();
            Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
        })
    }

    /// Tells the trace of each dispatch, in the order in which they were recorded.
    pub(crate) fn tell(&self, gpu: &Gpu, tracer: &Tracer, names: &[Names]) -> Result<()> {
        let clock = gpu.clock(compare)?;
        for (stamps, (kernel, nodes)) in self.read(gpu)?.as_chunks::<2>().0.iter().zip(names) {
            let [begin, end] = stamps.map(|stamp| clock.host(stamp));
            tracer.event(TraceKind::Kernel, kernel, nodes, (begin, end.max(begin)), 0);
        }
        Ok(())
    }
}

/// Compares the clocks with empty submissions.
/// The timestamp of the quickest one lies between its begin and its end on the host.
fn compare(gpu: &Gpu) -> Result<Clock> {
    const ROUNDS: usize = 5;
    let missing = || Error::internal("the device has no timestamps").on(gpu.id.clone());
    let period = f64::from(gpu.queue.get_timestamp_period());
    let mut best: Option<(Duration, Clock)> = None;
    for _ in 0..ROUNDS {
        let stamps = Stamps::new(gpu, 1)?.ok_or_else(missing)?;
        let begin = Instant::now();
        let index = gpu.checked("comparing clocks", || {
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let timestamp_writes = stamps.of(0);
            drop(encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes }));
            stamps.resolve(&mut encoder);
            gpu.queue.submit([encoder.finish()])
        })?;
        gpu.wait(&index, begin + PATIENCE)?;
        let took = begin.elapsed();
        let device = stamps.read(gpu)?.first().copied().ok_or_else(missing)?;
        if best.is_none_or(|(least, _)| took < least) {
            best = Some((took, Clock { host: begin + took / 2, device, period }));
        }
    }
    best.map(|(_, clock)| clock).ok_or_else(missing)
}
