//! Tests that imported host memory is used in place, on every OpenCL device that is there.
//! The tests look at the memory by its own address, without a call to the device.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_hal::{
    BindingInfo, BindingTable, Buffer, BufferLayout, CompileOptions, DType, Device, Direction, ErrorKind, Execution,
    ExternalMemory, HandleKind, HostMemory, HostSemantics, KernelFormat, KernelSignature, OpenOptions, Point, Queue,
    QueueOptions, Source, Timeline, Work,
};
use hetero_handover::{INCREMENT, increment_kernel};

use common::opened;

const BYTES: usize = 1 << 16;

/// Returns every device that imports host memory.
/// Fails where drivers are required and there are none.
fn devices() -> Vec<Arc<dyn Device>> {
    let mut devices = opened(&OpenOptions::default());
    devices.retain(|device| device.capabilities().imports.contains(&HandleKind::Host));
    devices
}

fn import(device: &Arc<dyn Device>, host: &HostMemory) -> hetero_hal::Result<Buffer> {
    device.import(ExternalMemory::Host(host.clone()), HostSemantics::Shared)
}

fn word(host: &HostMemory, at: usize) -> u32 {
    assert!(at * 4 + 4 <= host.len());
    // SAFETY: the word is inside memory that `host` keeps alive, and nothing writes it now.
    // The read is volatile, because a device writes behind the compiler's back.
    u32::from_le(unsafe { host.as_ptr().cast::<u32>().add(at).read_volatile() })
}

fn set_word(host: &HostMemory, at: usize, value: u32) {
    assert!(at * 4 + 4 <= host.len());
    // SAFETY: as in `word`, and nothing reads it now.
    unsafe { host.as_mut_ptr().unwrap().cast::<u32>().add(at).write_volatile(value.to_le()) }
}

/// A queue whose work is waited for in either of two ways.
struct Runner {
    queue: Arc<dyn Queue>,
    timeline: Timeline,
}

impl Runner {
    fn new(device: &Arc<dyn Device>) -> Runner {
        Runner { queue: device.queue(&QueueOptions::default()).unwrap(), timeline: device.timeline(0).unwrap() }
    }

    fn run(&self, work: Work, submitted: bool) {
        let point: Point = self.timeline.at(self.timeline.value() + 1);
        let deadline = Instant::now() + Duration::from_secs(60);
        if submitted {
            self.queue.submit(&[], work, std::slice::from_ref(&point)).unwrap();
            point.wait(deadline).unwrap();
        } else {
            self.queue.run(&[], work, &[point], deadline).unwrap();
        }
    }
}

/// Returns the work of a kernel that adds 1 to the first word of a buffer of `bytes` bytes.
fn increment(device: &Arc<dyn Device>, bytes: usize) -> impl Fn(&Buffer) -> Work + use<> {
    let words = BindingInfo {
        name: "words".into(),
        direction: Direction::Output,
        dtype: DType::U32,
        shape: vec![bytes / 4],
        extents: vec![],
        bytes,
    };
    let signature =
        KernelSignature { entry: INCREMENT.to_owned(), bindings: vec![words], global: [1; 3], local: Some([1; 3]) };
    let code = increment_kernel(KernelFormat::OpenClC).unwrap().as_bytes();
    let source = Source::Kernel { format: KernelFormat::OpenClC, code, signature: &signature };
    let executable = device.compile(source, &CompileOptions::default()).unwrap();
    move |buffer| Work::execute(Execution::new(executable.clone(), BindingTable::new([buffer.clone()])))
}

#[test]
fn host_and_kernel_see_each_others_writes_at_the_same_address() {
    for device in devices() {
        let id = &device.info().id;
        let pages = HostMemory::allocate(BYTES).unwrap();
        let allocated = device.telemetry().allocated_bytes;
        let (buffer, again) = (import(&device, &pages).unwrap(), import(&device, &pages).unwrap());
        assert_eq!(device.telemetry().allocated_bytes, allocated, "{id}: an import is no allocation");
        let alignment = device.capabilities().alignment;
        let part = buffer.slice(alignment..alignment + 64).unwrap();
        let (whole, small) = (increment(&device, BYTES), increment(&device, 64));
        let runner = Runner::new(&device);
        for round in 0..20u32 {
            let submitted = round % 2 == 1;
            (0..BYTES / 4).for_each(|at| set_word(&pages, at, round * 1000 + at as u32));
            runner.run(whole(&buffer), submitted);
            // The second import of the same pages is the same memory, and so is a part of it.
            runner.run(whole(&again), submitted);
            runner.run(small(&part), submitted);
            let added = |at: usize| if at == 0 { 2 } else { u32::from(at == alignment / 4) };
            for at in 0..BYTES / 4 {
                assert_eq!(word(&pages, at), round * 1000 + at as u32 + added(at), "{id}: word {at}, round {round}");
            }
        }
    }
}

#[test]
fn devices_hand_pages_to_each_other_in_place() {
    let devices = devices();
    let pages = HostMemory::allocate(BYTES).unwrap();
    let runners: Vec<_> = devices
        .iter()
        .map(|device| (Runner::new(device), increment(device, BYTES)(&import(device, &pages).unwrap())))
        .collect();
    for _ in 0..10 {
        for (runner, work) in &runners {
            runner.run(work.clone(), false);
        }
    }
    assert_eq!(word(&pages, 0) as usize, 10 * runners.len());
}

#[test]
fn a_range_at_an_odd_address_works_in_place_or_is_refused() {
    for device in devices() {
        let (id, runner) = (&device.info().id, Runner::new(&device));
        let multiple = device.capabilities().import_alignment.max(1);
        let mut taken = 0;
        for (start, bytes) in
            [(0, 4096), (4, 4096), (4, 100), (12, 8), (128, 64), (4092, 8), (1, 64), (2, 6), (4095, 3), (64, 7), (0, 0)]
        {
            let pages = HostMemory::allocate(3 * 4096).unwrap();
            let range = pages.slice(start..start + bytes).unwrap();
            let buffer = match import(&device, &range) {
                Ok(buffer) => buffer,
                Err(error) => {
                    let fits = start.is_multiple_of(multiple) && bytes.is_multiple_of(multiple);
                    assert!(!fits, "{id} takes multiples of {multiple}, but not {start}+{bytes}: {error}");
                    assert_eq!((error.kind(), error.device()), (ErrorKind::InvalidArgument, Some(id)));
                    assert!(error.to_string().contains(&format!("multiples of {multiple}")), "{error}");
                    continue;
                }
            };
            taken += 1;
            // The device's writes are in the pages, and nothing around them changes; the device
            // then reads what the host writes.
            runner.run(Work::fill(buffer.clone(), [0xa5u8]), true);
            let own = device.allocate(BufferLayout::new(bytes)).unwrap();
            // SAFETY: this is the whole of the pages, which are alive and which nothing writes now.
            let seen = unsafe { std::slice::from_raw_parts(pages.as_ptr(), pages.len()) }.to_vec();
            let inside = |at: usize| at >= start && at < start + bytes;
            let wrong = (0..seen.len()).find(|&at| seen[at] != if inside(at) { 0xa5 } else { 0 });
            assert_eq!(wrong, None, "{id}: {start}+{bytes}");
            for at in 0..bytes {
                // SAFETY: the byte is inside the range, which nothing else accesses now.
                unsafe { range.as_mut_ptr().unwrap().add(at).write_volatile(at as u8 ^ 0x5a) };
            }
            runner.run(Work::copy(buffer, own.clone()), false);
            let mut arrived = vec![0; bytes];
            own.read(0, &mut arrived).unwrap();
            assert!((0..bytes).all(|at| arrived[at] == at as u8 ^ 0x5a), "{id}: {start}+{bytes}: {arrived:?}");
        }
        assert!(taken >= 2, "{id} takes whole pages and nothing");
    }
}
