//! Measures handing a tensor over from the CPU to a device and back, on every OpenCL device:
//! `handover_opencl [BYTES…]`.
//! Prints a line of JSON for each device and size.
//! `hetero_handover::measure_handover` says what is measured, and `cargo xtask bench handover`
//! prints the table.

#![allow(clippy::print_stderr)]

use std::ffi::CString;

use cl3::types::{cl_command_queue, cl_context, cl_device_id, cl_int, cl_kernel, cl_mem, cl_platform_id};
use hetero_hal::{DeviceInfo, Driver, Error, ErrorKind, HostMemory, KernelFormat, OpenOptions, Result};
use hetero_handover::{DriverLaunch, INCREMENT, increment_kernel, measure_handovers};
use hetero_opencl::OpenClDriver;

fn main() -> Result<()> {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let cpu = hetero_cpu::CpuDriver.open(0, &OpenOptions { threads: Some(1), ..OpenOptions::default() })?;
    let mut bare = |info: &DeviceInfo| Ok(Box::new(Bare::new(info)?) as Box<dyn DriverLaunch>);
    for driver in [OpenClDriver::processors(), OpenClDriver::accelerators()] {
        match driver.probe() {
            Ok(devices) => {
                measure_handovers(&cpu, &driver, &devices, &sizes, &mut bare, &mut std::io::stdout())?;
            }
            Err(why) => eprintln!("{}: {why}", driver.name()),
        }
    }
    Ok(())
}

/// `CL_QUEUE_THREAD_LOCAL_EXEC_ENABLE_INTEL`: kernels run on the thread that enqueues them.
const THREAD_LOCAL: u64 = 1 << 31;

/// The kernel by OpenCL's own calls, in a context of its own: `clEnqueueNDRangeKernel`, then
/// `clFinish`, on the same kind of queue as hetero's.
struct Bare {
    context: cl_context,
    queue: cl_command_queue,
    kernel: cl_kernel,
    bound: Option<(cl_mem, HostMemory)>,
}

fn failed(call: &str) -> impl Fn(cl_int) -> Error + '_ {
    move |code| Error::new(ErrorKind::Execution, format!("{call} failed")).with_code(i64::from(code))
}

/// Returns the driver's id of a device that hetero has found.
fn handle(info: &DeviceInfo) -> Result<cl_device_id> {
    use cl3::device::{
        CL_DEVICE_NAME, CL_DEVICE_TYPE, CL_DEVICE_TYPE_ACCELERATOR, CL_DEVICE_TYPE_ALL, CL_DRIVER_VERSION,
        get_device_ids, get_device_info,
    };
    let text = |id, what| get_device_info(id, what).map(String::from).unwrap_or_default().trim().to_owned();
    let is_it = |&id: &cl_device_id| {
        let bits = get_device_info(id, CL_DEVICE_TYPE).map(u64::from).unwrap_or(0);
        (bits & CL_DEVICE_TYPE_ACCELERATOR != 0) == (info.id.driver() == "fpga")
            && text(id, CL_DEVICE_NAME) == info.name
            && text(id, CL_DRIVER_VERSION) == info.driver_version
    };
    let platforms: Vec<cl_platform_id> = cl3::platform::get_platform_ids().map_err(failed("clGetPlatformIDs"))?;
    let devices = platforms.into_iter().flat_map(|id| get_device_ids(id, CL_DEVICE_TYPE_ALL).unwrap_or_default());
    devices.into_iter().find(is_it).ok_or_else(|| Error::internal(format!("{} has gone", info.id)))
}

impl Bare {
    fn new(info: &DeviceInfo) -> Result<Bare> {
        let device = handle(info)?;
        let context = cl3::context::create_context(&[device], std::ptr::null(), None, std::ptr::null_mut());
        let context = context.map_err(failed("clCreateContext"))?;
        let extensions = cl3::device::get_device_info(device, cl3::device::CL_DEVICE_EXTENSIONS).map(String::from);
        let on_caller = extensions.is_ok_and(|names| names.contains("cl_intel_exec_by_local_thread"));
        let properties = if on_caller { THREAD_LOCAL } else { 0 };
        // SAFETY: the device is one of the context, which is alive; the queue keeps the driver's
        // order, as hetero's does.
        let queue = unsafe { cl3::command_queue::create_command_queue(context, device, properties) };
        let queue = queue.map_err(failed("clCreateCommandQueue"))?;
        let source = increment_kernel(KernelFormat::OpenClC).unwrap_or_default();
        let program = cl3::program::create_program_with_source(context, &[source]);
        let program = program.map_err(failed("clCreateProgramWithSource"))?;
        let options = CString::new("-cl-std=CL1.2").unwrap_or_default();
        cl3::program::build_program(program, &[device], &options, None, std::ptr::null_mut())
            .map_err(failed("clBuildProgram"))?;
        let kernel = cl3::kernel::create_kernel(program, &CString::new(INCREMENT).unwrap_or_default());
        Ok(Bare { context, queue, kernel: kernel.map_err(failed("clCreateKernel"))?, bound: None })
    }

    fn unbind(&mut self) {
        if let Some((memory, pages)) = self.bound.take() {
            // SAFETY: this is the one reference that `bind` made; no command is under way, as every
            // launch was waited for.
            let _ = unsafe { cl3::memory::release_mem_object(memory) };
            drop(pages);
        }
    }
}

impl DriverLaunch for Bare {
    fn bind(&mut self, pages: &HostMemory) -> Result<()> {
        self.unbind();
        let host = pages.as_mut_ptr().ok_or_else(|| Error::invalid_argument("the pages are constant"))?;
        let flags = cl3::memory::CL_MEM_READ_WRITE | cl3::memory::CL_MEM_USE_HOST_PTR;
        // SAFETY: the pages have the length that is passed, and are kept beside the object.
        let memory = unsafe { cl3::memory::create_buffer(self.context, flags, pages.len(), host.cast()) };
        let memory = memory.map_err(failed("clCreateBuffer"))?;
        self.bound = Some((memory, pages.clone()));
        // SAFETY: the kernel's only argument is a memory object, whose handle the call copies.
        let set = unsafe {
            let value = std::ptr::from_ref(&memory).cast();
            cl3::kernel::set_kernel_arg(self.kernel, 0, size_of::<cl_mem>(), value)
        };
        set.map_err(failed("clSetKernelArg"))
    }

    fn launch(&mut self) -> Result<()> {
        let one = [1usize; 3];
        // SAFETY: the kernel's argument is set, to memory that `bound` keeps, and both lists have
        // three elements.
        let event = unsafe {
            let (sizes, none, no_events) = (one.as_ptr(), std::ptr::null(), std::ptr::null());
            cl3::command_queue::enqueue_nd_range_kernel(self.queue, self.kernel, 3, none, sizes, sizes, 0, no_events)
        };
        let event = event.map_err(failed("clEnqueueNDRangeKernel"))?;
        let finished = cl3::command_queue::finish(self.queue).map_err(failed("clFinish"));
        // SAFETY: this is the one reference that the launch gave.
        let _ = unsafe { cl3::event::release_event(event) };
        finished
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.unbind();
        // SAFETY: these are the references that `new` made; the kernel keeps its program, and
        // nothing is used afterwards.
        unsafe {
            let _ = cl3::kernel::release_kernel(self.kernel);
            let _ = cl3::command_queue::release_command_queue(self.queue);
            let _ = cl3::context::release_context(self.context);
        }
    }
}
