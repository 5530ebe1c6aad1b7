//! Measures handing a tensor over from the CPU to a device and back, on every adapter of wgpu:
//! `handover_wgpu [BYTES…]`.
//! Prints a line of JSON for each device and size.
//! `hetero_handover::measure_handover` says what is measured, and `cargo xtask bench handover`
//! prints the table.

#![allow(clippy::print_stderr)]

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hetero_hal::{DeviceInfo, Driver, Error, ErrorKind, HostMemory, KernelFormat, OpenOptions, Result};
use hetero_handover::{DriverLaunch, INCREMENT, increment_kernel, measure_handovers};
use hetero_wgpu::WgpuDriver;

/// The time after which a device is given up.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let cpu = hetero_cpu::CpuDriver.open(0, &OpenOptions { threads: Some(1), ..OpenOptions::default() })?;
    let mut bare = |info: &DeviceInfo| Ok(Box::new(Bare::new(info)?) as Box<dyn DriverLaunch>);
    match WgpuDriver.probe() {
        Ok(devices) => measure_handovers(&cpu, &WgpuDriver, &devices, &sizes, &mut bare, &mut std::io::stdout()),
        Err(why) => {
            eprintln!("wgpu: {why}");
            Ok(())
        }
    }
}

/// The kernel by wgpu's own calls, on a device of its own: one command buffer with one dispatch is
/// recorded and submitted, then the device is polled until it is done.
/// It runs on the device's memory, because wgpu itself does not import the host's.
struct Bare {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipeline: wgpu::ComputePipeline,
    group: Option<wgpu::BindGroup>,
}

fn failed(doing: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Execution, format!("{doing} failed")).caused_by(error)
}

/// Returns the value of a future that is ready at once, as all of wgpu's are outside of browsers.
fn now<F: Future>(future: F) -> Result<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Ok(value),
        Poll::Pending => Err(Error::internal("wgpu does not answer at once")),
    }
}

impl Bare {
    fn new(info: &DeviceInfo) -> Result<Bare> {
        let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapters = now(instance.enumerate_adapters(backends))?;
        let adapter = adapters.into_iter().find(|adapter| adapter.get_info().name == info.name);
        let adapter = adapter.ok_or_else(|| Error::internal(format!("{} has gone", info.id)))?;
        let (device, queue) = now(adapter.request_device(&wgpu::DeviceDescriptor::default()))?
            .map_err(|error| failed("opening the adapter", error))?;
        let code = increment_kernel(KernelFormat::Wgsl).unwrap_or_default();
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(code.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some(INCREMENT),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Ok(Bare { device, queue, pipeline, group: None })
    }
}

impl DriverLaunch for Bare {
    fn bind(&mut self, pages: &HostMemory) -> Result<()> {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: pages.len() as u64,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let entries = [wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }];
        let layout = &self.pipeline.get_bind_group_layout(0);
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout, entries: &entries };
        self.group = Some(self.device.create_bind_group(&descriptor));
        Ok(())
    }

    fn launch(&mut self) -> Result<()> {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &self.group, &[]);
            pass.dispatch_workgroups(1, 1, 1);
        }
        let index = self.queue.submit([encoder.finish()]);
        let wait = wgpu::PollType::Wait { submission_index: Some(index), timeout: Some(PATIENCE) };
        self.device.poll(wait).map(|_| ()).map_err(|error| failed("waiting for the device", error))
    }
}
