//! Compute pipelines, of which each text is compiled once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hetero_hal::{Error, ErrorKind, Result};

use crate::gpu::Gpu;

/// The number of pipelines that are kept though no executable uses them.
const KEPT: usize = 512;

/// A compute shader with its bindings: storage buffers, then perhaps one buffer of numbers.
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

/// The text and interface of which a pipeline is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Text {
    pub(crate) code: String,
    pub(crate) entry: String,
    /// The number of storage buffers.
    pub(crate) buffers: usize,
    /// Whether a uniform buffer stands behind them.
    pub(crate) numbers: bool,
    /// Whether the text comes from `hetero-kernels`.
    /// If so, its loops end, and it writes a group's memory before reading it.
    pub(crate) own: bool,
}

/// The pipelines of a device.
#[derive(Default)]
pub(crate) struct Pipelines {
    known: Mutex<HashMap<Text, Arc<Pipeline>>>,
}

impl Pipelines {
    /// Returns the pipeline of a text.
    ///
    /// # Errors
    /// `Compile`, with the message of wgpu or the driver.
    pub(crate) fn get(&self, gpu: &Gpu, text: Text) -> Result<Arc<Pipeline>> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = lock().get(&text) {
            return Ok(pipeline.clone());
        }
        let made = compile(gpu, &text).map_err(|error| match error.kind() {
            ErrorKind::Internal | ErrorKind::Execution => {
                Error::new(ErrorKind::Compile, format!("the kernel '{}': {}", text.entry, error.message()))
                    .on(gpu.id.clone())
            }
            _ => error,
        })?;
        let made = Arc::new(made);
        let mut known = lock();
        if known.len() >= KEPT {
            known.retain(|_, pipeline| Arc::strong_count(pipeline) > 1);
        }
        Ok(known.entry(text).or_insert(made).clone())
    }
}

fn compile(gpu: &Gpu, text: &Text) -> Result<Pipeline> {
    let device = &gpu.device;
    let uniform = text.numbers.then_some(wgpu::BufferBindingType::Uniform);
    let storage = wgpu::BufferBindingType::Storage { read_only: false };
    let kinds = std::iter::repeat_n(storage, text.buffers).chain(uniform);
    let entries: Vec<wgpu::BindGroupLayoutEntry> = (0u32..)
        .zip(kinds)
        .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        })
        .collect();
    gpu.checked("compiling", || {
        let source = wgpu::ShaderSource::Wgsl(text.code.as_str().into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(&text.entry), source };
        let module = if text.own {
            let checks =
                wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() };
            // SAFETY: indexes are still checked; only loops are not, and the loops of
            // `hetero-kernels` count up to a number.
            unsafe { device.create_shader_module_trusted(descriptor, checks) }
        } else {
            device.create_shader_module(descriptor)
        };
        let layout = device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&text.entry), entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&text.entry),
            bind_group_layouts: &[Some(&layout)],
            ..wgpu::PipelineLayoutDescriptor::default()
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&text.entry),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(&text.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: !text.own,
                ..wgpu::PipelineCompilationOptions::default()
            },
            cache: None,
        });
        Pipeline { pipeline, layout }
    })
}
