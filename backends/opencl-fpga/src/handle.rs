//! OpenCL's objects, released when they are dropped, and its codes as errors.

use std::ffi::CString;
use std::sync::Arc;

use cl3::types::{cl_command_queue, cl_context, cl_device_id, cl_event, cl_int, cl_kernel, cl_mem, cl_program};
use hetero_hal::{Error, ErrorKind, Result};
use hetero_kit::Codes;

const BUILD_FAILURE: cl_int = -11;
const INVALID_BINARY: cl_int = -42;

/// The codes of the standard that mean more than that a call failed.
const CODES: Codes = Codes {
    known: &[
        // These are: allocation failure, out of resources, out of host memory, invalid buffer size.
        (&[-4, -5, -6, -61], ErrorKind::OutOfMemory, "bind smaller shapes, or free memory of the device"),
        // These are: device not found, device not available.
        (&[-1, -2], ErrorKind::DeviceLost, "see whether the device is still there"),
        (&[BUILD_FAILURE as i64, INVALID_BINARY as i64], ErrorKind::Compile, "see the build log"),
    ],
    remedy: "look the code up in the standard's CL/cl.h",
    name: |code| {
        cl_int::try_from(code).map_or_else(|_| code.to_string(), |code| cl3::error_codes::error_text(code).to_owned())
    },
};

/// Returns the error of a call that failed.
pub(crate) fn error(call: &str, code: cl_int) -> Error {
    CODES.error(call, i64::from(code))
}

/// Returns the raw handles of events, which live as long as the list.
fn raw(events: &[Arc<Event>]) -> Vec<cl_event> {
    events.iter().map(|event| event.raw()).collect()
}

/// Returns a wait list as the standard wants it: a null address where there is nothing to wait for.
fn list(events: &[cl_event]) -> (u32, *const cl_event) {
    (events.len() as u32, if events.is_empty() { std::ptr::null() } else { events.as_ptr() })
}

/// Defines an object of OpenCL whose references its driver counts.
macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $release:path) => {
        $(#[$doc])*
        pub(crate) struct $name($raw);

        // SAFETY: the standard makes every call but clSetKernelArg thread-safe, and that call is
        // made under a lock.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}

        impl $name {
            #[allow(dead_code, reason = "not every object's handle is needed")]
            pub(crate) fn raw(&self) -> $raw {
                self.0
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // A release that fails leaves nothing to do: the driver has gone, or the object.
                // SAFETY: this is the one reference that the creating call gave.
                let _ = unsafe { $release(self.0) };
            }
        }
    };
}

handle!(
    /// A context of a device, or of all devices of a platform.
    Context, cl_context, cl3::context::release_context
);
handle!(
    /// A queue whose commands run in order.
    CommandQueue, cl_command_queue, cl3::command_queue::release_command_queue
);
handle!(
    /// Memory, or a part of it.
    Mem, cl_mem, cl3::memory::release_mem_object
);
handle!(
    /// A program, which is built before its kernels are used.
    Program, cl_program, cl3::program::release_program
);
handle!(
    /// A kernel, with its arguments.
    Kernel, cl_kernel, cl3::kernel::release_kernel
);
handle!(
    /// An event, which has the state of a command.
    Event, cl_event, cl3::event::release_event
);

/// The driver's id of a device.
/// It lives as long as the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceHandle(pub(crate) cl_device_id);

// SAFETY: the id of a root device is never freed, and is only handed to calls that are thread-safe.
unsafe impl Send for DeviceHandle {}
// SAFETY: as above.
unsafe impl Sync for DeviceHandle {}

impl Context {
    pub(crate) fn new(devices: &[DeviceHandle]) -> Result<Context> {
        let devices: Vec<cl_device_id> = devices.iter().map(|device| device.0).collect();
        let context = cl3::context::create_context(&devices, std::ptr::null(), None, std::ptr::null_mut());
        context.map(Context).map_err(|code| error("clCreateContext", code))
    }
}

impl CommandQueue {
    pub(crate) fn new(context: &Context, device: DeviceHandle, profiled: bool) -> Result<CommandQueue> {
        let properties = if profiled { cl3::command_queue::CL_QUEUE_PROFILING_ENABLE } else { 0 };
        // SAFETY: both are alive, and belong together.
        let queue = unsafe { cl3::command_queue::create_command_queue(context.raw(), device.0, properties) };
        queue.map(CommandQueue).map_err(|code| error("clCreateCommandQueue", code))
    }

    /// Makes a queue whose kernels run on the thread that enqueues them
    /// (`cl_intel_exec_by_local_thread`); `None` where the driver lacks the extension.
    pub(crate) fn on_caller(context: &Context, device: DeviceHandle) -> Option<CommandQueue> {
        const EXTENSION: &str = "cl_intel_exec_by_local_thread";
        /// The value of `CL_QUEUE_THREAD_LOCAL_EXEC_ENABLE_INTEL`.
        const PROPERTY: u64 = 1 << 31;
        let extensions = cl3::device::get_device_info(device.0, cl3::device::CL_DEVICE_EXTENSIONS).map(String::from);
        if !extensions.ok()?.split_whitespace().any(|name| name == EXTENSION) {
            return None;
        }
        // SAFETY: both are alive, and belong together; the device knows the property.
        let queue = unsafe { cl3::command_queue::create_command_queue(context.raw(), device.0, PROPERTY) };
        queue.ok().map(CommandQueue)
    }

    /// Returns a number that no other living queue has.
    pub(crate) fn number(&self) -> usize {
        self.0 as usize
    }

    /// Waits for all work that was given to the queue.
    pub(crate) fn finish(&self) -> Result<()> {
        cl3::command_queue::finish(self.0).map_err(|code| error("clFinish", code))
    }

    /// Makes sure that the work that was given to the queue begins.
    pub(crate) fn flush(&self) -> Result<()> {
        cl3::command_queue::flush(self.0).map_err(|code| error("clFlush", code))
    }

    /// Launches a kernel with the arguments that it has now, behind the events.
    pub(crate) fn launch(
        &self,
        kernel: &Kernel,
        groups: [u32; 3],
        items: [u32; 3],
        events: &[Arc<Event>],
    ) -> Result<Event> {
        let global = [0, 1, 2].map(|axis| groups[axis] as usize * items[axis] as usize);
        let local = items.map(|count| count as usize);
        let events = raw(events);
        let (count, wait) = list(&events);
        // SAFETY: all arguments of the kernel are set, both lists have three elements, and the
        // events are alive.
        let event = unsafe {
            cl3::command_queue::enqueue_nd_range_kernel(
                self.0,
                kernel.raw(),
                3,
                std::ptr::null(),
                global.as_ptr(),
                local.as_ptr(),
                count,
                wait,
            )
        };
        event.map(Event).map_err(|code| error("clEnqueueNDRangeKernel", code))
    }

    /// Reads from memory, and waits until the bytes are there.
    pub(crate) fn read(&self, memory: &Mem, offset: usize, into: &mut [u8]) -> Result<()> {
        // SAFETY: the caller has checked the range, and the call returns when `into` is filled.
        let event = unsafe {
            let to = into.as_mut_ptr().cast();
            cl3::command_queue::enqueue_read_buffer(
                self.0,
                memory.raw(),
                1,
                offset,
                into.len(),
                to,
                0,
                std::ptr::null(),
            )
        };
        event.map(|event| drop(Event(event))).map_err(|code| error("clEnqueueReadBuffer", code))
    }

    /// Writes to memory, and waits until the bytes are there: a blocking write may return as soon
    /// as the driver has a copy of its own.
    pub(crate) fn write(&self, memory: &Mem, offset: usize, from: &[u8]) -> Result<()> {
        // SAFETY: the caller has checked the range, and the call returns when `from` has been read.
        let event = unsafe {
            let bytes = from.as_ptr().cast();
            let list = std::ptr::null();
            cl3::command_queue::enqueue_write_buffer(self.0, memory.raw(), 1, offset, from.len(), bytes, 0, list)
        };
        let event = event.map(Event).map_err(|code| error("clEnqueueWriteBuffer", code))?;
        cl3::event::wait_for_events(&[event.raw()]).map_err(|code| error("clWaitForEvents", code))
    }

    /// Copies between memory of the same context; the ranges were checked by the caller.
    pub(crate) fn copy(
        &self,
        source: (&Mem, usize),
        target: (&Mem, usize),
        bytes: usize,
        events: &[Arc<Event>],
    ) -> Result<Event> {
        let events = raw(events);
        let (count, wait) = list(&events);
        // SAFETY: both are alive until the command has run, as the caller's work owns them; so are
        // the events.
        let event = unsafe {
            cl3::command_queue::enqueue_copy_buffer(
                self.0,
                source.0.raw(),
                target.0.raw(),
                source.1,
                target.1,
                bytes,
                count,
                wait,
            )
        };
        event.map(Event).map_err(|code| error("clEnqueueCopyBuffer", code))
    }

    /// Repeats a pattern over memory; the pattern is copied by the call.
    pub(crate) fn fill(
        &self,
        target: &Mem,
        pattern: &[u8],
        offset: usize,
        bytes: usize,
        events: &[Arc<Event>],
    ) -> Result<Event> {
        let events = raw(events);
        let (count, wait) = list(&events);
        // SAFETY: the memory is alive until the command has run, as the caller's work owns it; so
        // are the events.
        let event = unsafe {
            let (from, length) = (pattern.as_ptr().cast(), pattern.len());
            cl3::command_queue::enqueue_fill_buffer(self.0, target.raw(), from, length, offset, bytes, count, wait)
        };
        event.map(Event).map_err(|code| error("clEnqueueFillBuffer", code))
    }
}

impl Mem {
    /// Allocates memory of the device.
    pub(crate) fn allocate(context: &Context, bytes: usize) -> Result<Mem> {
        // SAFETY: no host memory is passed.
        let memory = unsafe {
            cl3::memory::create_buffer(context.raw(), cl3::memory::CL_MEM_READ_WRITE, bytes, std::ptr::null_mut())
        };
        memory.map(Mem).map_err(|code| error("clCreateBuffer", code).with_sizes(bytes as u64, None))
    }

    /// Makes a memory object over host memory, in place.
    ///
    /// # Safety
    /// The host memory must outlive the result and every command on it.
    /// Where `constant` is set, nobody may write it.
    pub(crate) unsafe fn over(context: &Context, host: *mut u8, bytes: usize, constant: bool) -> Result<Mem> {
        let access = if constant { cl3::memory::CL_MEM_READ_ONLY } else { cl3::memory::CL_MEM_READ_WRITE };
        let flags = access | cl3::memory::CL_MEM_USE_HOST_PTR;
        // SAFETY: the caller keeps to the contract above.
        let memory = unsafe { cl3::memory::create_buffer(context.raw(), flags, bytes, host.cast()) };
        memory.map(Mem).map_err(|code| error("clCreateBuffer", code).with_sizes(bytes as u64, None))
    }

    /// Makes an object for a part, which begins at a multiple of the device's alignment.
    /// The part keeps the whole alive.
    pub(crate) fn part(&self, offset: usize, bytes: usize) -> Result<Mem> {
        let region = cl3::types::cl_buffer_region { origin: offset, size: bytes };
        // SAFETY: the region is read only during the call.
        let memory = unsafe {
            let kind = cl3::memory::CL_BUFFER_CREATE_TYPE_REGION;
            cl3::memory::create_sub_buffer(self.0, 0, kind, std::ptr::from_ref(&region).cast())
        };
        memory.map(Mem).map_err(|code| error("clCreateSubBuffer", code).with_sizes(bytes as u64, None))
    }
}

impl Program {
    pub(crate) fn from_source(context: &Context, source: &str) -> Result<Program> {
        let program = cl3::program::create_program_with_source(context.raw(), &[source]);
        program.map(Program).map_err(|code| error("clCreateProgramWithSource", code))
    }

    pub(crate) fn from_binary(context: &Context, device: DeviceHandle, binary: &[u8]) -> Result<Program> {
        // SAFETY: one device and one binary, both alive during the call.
        let program = unsafe { cl3::program::create_program_with_binary(context.raw(), &[device.0], &[binary]) };
        program.map(Program).map_err(|code| error("clCreateProgramWithBinary", code))
    }

    /// Compiles and links the program.
    /// An error has the compiler's log.
    pub(crate) fn build(&self, device: DeviceHandle, options: &str) -> Result<()> {
        let options = CString::new(options).map_err(|_| Error::invalid_argument("build options with a zero byte"))?;
        let built = cl3::program::build_program(self.0, &[device.0], &options, None, std::ptr::null_mut());
        built.map_err(|code| {
            let log = cl3::program::get_program_build_info(self.0, device.0, cl3::program::CL_PROGRAM_BUILD_LOG);
            let log = log.map(String::from).unwrap_or_default();
            let failed = error("clBuildProgram", code);
            let kind = if code == BUILD_FAILURE || code == INVALID_BINARY { ErrorKind::Compile } else { failed.kind() };
            Error::new(kind, format!("the OpenCL compiler turns the program down:\n{}", shortened(log.trim())))
                .with_code(i64::from(code))
        })
    }

    /// Returns the vendor's binary for a device.
    pub(crate) fn binary(&self, device: DeviceHandle) -> Result<Vec<u8>> {
        let info = |what| cl3::program::get_program_info(self.0, what).map_err(|code| error("clGetProgramInfo", code));
        let binaries: Vec<Vec<u8>> = info(cl3::program::CL_PROGRAM_BINARIES)?.into();
        // There is a binary for each device of the context, in the same order; it is empty where
        // the program was not built for the device.
        let devices: Vec<isize> = info(cl3::program::CL_PROGRAM_DEVICES)?.into();
        let binary = devices.into_iter().zip(binaries).find(|(id, _)| *id == device.0 as isize);
        binary.map(|(_, binary)| binary).ok_or_else(|| Error::internal("a program without a binary"))
    }
}

/// Returns the beginning of a log, because a log may be endless.
fn shortened(log: &str) -> &str {
    const MOST: usize = 4096;
    let end = log.char_indices().map(|(at, _)| at).take_while(|&at| at <= MOST).last().unwrap_or(0);
    if log.len() <= MOST { log } else { &log[..end] }
}

impl Kernel {
    pub(crate) fn new(program: &Arc<Program>, entry: &str) -> Result<Kernel> {
        let name = CString::new(entry).map_err(|_| Error::invalid_argument("a kernel's name with a zero byte"))?;
        let kernel = cl3::kernel::create_kernel(program.raw(), &name);
        kernel.map(Kernel).map_err(|code| error("clCreateKernel", code).at(entry.to_owned()))
    }

    /// Sets an argument.
    /// The caller must make sure that no other thread does so meanwhile.
    fn set<T>(&self, index: usize, value: &T) -> Result<()> {
        // SAFETY: the value is read by the call, and is as large as it is said to be.
        let set = unsafe {
            let bytes = std::ptr::from_ref(value).cast();
            cl3::kernel::set_kernel_arg(self.0, index as u32, size_of::<T>(), bytes)
        };
        set.map_err(|code| error("clSetKernelArg", code))
    }

    pub(crate) fn set_number(&self, index: usize, bits: u32) -> Result<()> {
        self.set(index, &bits)
    }

    pub(crate) fn set_memory(&self, index: usize, memory: &Mem) -> Result<()> {
        self.set(index, &memory.raw())
    }
}

impl Event {
    /// `CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST`: the command did not run, because one before
    /// it had failed.
    const WAITED_FOR_FAILED: i64 = -14;

    /// Waits until the command is over.
    pub(crate) fn wait(&self) -> Result<()> {
        match cl3::event::wait_for_events(&[self.0]) {
            Ok(()) => Ok(()),
            // The event itself tells how the command ended.
            Err(code) if i64::from(code) == Self::WAITED_FOR_FAILED => Ok(()),
            Err(code) => Err(error("clWaitForEvents", code)),
        }
    }

    /// Returns when the command began and ended, in nanoseconds of the device's clock.
    /// This works for commands of a queue that is profiled.
    pub(crate) fn span(&self) -> Result<(u64, u64)> {
        let moment = |what| {
            let told = cl3::event::get_event_profiling_info(self.0, what).map(u64::from);
            told.map_err(|code| error("clGetEventProfilingInfo", code))
        };
        let (start, end) = (cl3::event::CL_PROFILING_COMMAND_START, cl3::event::CL_PROFILING_COMMAND_END);
        Ok((moment(start)?, moment(end)?))
    }

    /// Returns how a command ended; the command must be over.
    pub(crate) fn outcome(&self) -> Result<()> {
        let status = cl3::event::get_event_info(self.0, cl3::event::CL_EVENT_COMMAND_EXECUTION_STATUS);
        match status.map(cl_int::from) {
            Ok(status) if status < 0 => Err(error("a command", status)),
            Ok(_) => Ok(()),
            Err(code) => Err(error("clGetEventInfo", code)),
        }
    }

    /// Calls `done` once when the command has run, with its failure if it has failed, on a thread
    /// of the driver.
    pub(crate) fn on_complete(&self, done: Box<dyn FnOnce(Result<()>) + Send>) -> Result<()> {
        type Done = Box<dyn FnOnce(Result<()>) + Send>;
        extern "C" fn complete(_: cl_event, status: cl_int, data: *mut std::ffi::c_void) {
            // SAFETY: the pointer is that of the box below, and the driver calls this once.
            let done = unsafe { Box::from_raw(data.cast::<Done>()) };
            let outcome = if status < 0 { Err(error("a command", status)) } else { Ok(()) };
            // A panic must not pass through the driver.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || done(outcome)));
        }
        let data = Box::into_raw(Box::new(done));
        let set = cl3::event::set_event_callback(self.0, cl3::event::CL_COMPLETE, complete, data.cast());
        set.map_err(|code| {
            // SAFETY: the driver has not taken the callback, so the box is still ours.
            drop(unsafe { Box::from_raw(data) });
            error("clSetEventCallback", code)
        })
    }
}
